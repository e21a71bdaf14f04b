//! A panic in a thread that works in the background ends the mount in order: nothing goes on without it in silence.
//!
//! No input makes one panic, as far as is known. So this program mounts a store by itself, in a process of its own, and
//! begins another thread in the way in which all of them are begun.

#[path = "common/place.rs"]
mod place;

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use mqfs::fuse::options::MountOptions;
use mqfs::fuse::serve::{self, Control};
use mqfs::fuse::signals::{Hangup, Signals};
use mqfs::queue::config::QueueConfig;
use mqfs::store::Store;
use place::{Place, is_mounted, run};

/// Where the process that serves finds its store and mount point.
const PLACE: &str = "MQFS_TEST_PLACE";

#[test]
fn a_panic_in_the_background_ends_the_mount_and_costs_nothing_that_was_promised() {
    let place = Place::new();
    let mut victim = Command::new(std::env::current_exe().unwrap());
    victim.args(["--exact", "serves_until_a_thread_panics", "--ignored", "--nocapture"]);
    let ended = run(victim.env(PLACE, place.dir()));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("mounted") && !is_mounted(&place.mnt()), "{ended:?}");
    place.mounted(&[]);
    assert_eq!(place.sh("cat mnt/q/.mq/peek/*").succeeded().stdout, "kept");
}

/// Not a test: what the one above runs.
#[test]
#[ignore = "only the other test runs it, in a process of its own"]
fn serves_until_a_thread_panics() {
    let dir = PathBuf::from(std::env::var_os(PLACE).expect("run by the other test"));
    let control = Control::new(Signals::block(Hangup::Ends).unwrap(), 8).unwrap();
    let store = Store::open(&dir.join("store"), QueueConfig::default()).unwrap();
    let alarm = store.alarm().clone();
    let options = MountOptions::parse::<&str>(&[]).unwrap();
    let server = serve::start(control, store, &dir.join("mnt"), OsStr::new("test"), &options, None).unwrap();
    fs::create_dir(dir.join("mnt/q")).unwrap();
    fs::write(dir.join("mnt/q/m"), "kept").unwrap();
    println!("mounted");
    alarm.spawn("mqfs-deadlines", || panic!("as the test wants it")).unwrap();
    // With no file open it leaves at once, with an exit code of its own.
    std::process::exit(if server.run().is_err() { 1 } else { 0 });
}
