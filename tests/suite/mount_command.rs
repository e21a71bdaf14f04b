//! `mqfs mount`: it works when it returns, or says in one line why it does not; what its options do.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use crate::place::{Place, binary, is_mounted, run};

#[test]
fn it_returns_when_the_mount_works_and_leaves_a_process_in_the_background() {
    let place = Place::new();
    // `output` of the helper waits for the end of the pipes too: a daemon that held them would hang it.
    let daemon = place.mounted(&[]);
    assert!(is_mounted(&place.mnt()));
    fs::create_dir(place.at("q")).unwrap();
    assert_eq!(fs::read_link(daemon.proc("cwd")).unwrap().to_str(), Some("/"));
    let null = |number| fs::read_link(daemon.proc(&format!("fd/{number}"))).unwrap().to_str() == Some("/dev/null");
    assert!(null(0) && null(1) && null(2));
    let session = run(Command::new("ps").args(["-o", "sid=", "-p", &daemon.0.to_string()])).stdout;
    assert_eq!(session.trim(), daemon.0.to_string(), "a session of its own");
}

#[test]
fn the_daemon_holds_nothing_of_the_callers() {
    let place = Place::new();
    place.sh("exec 7> lockfile; $MQFS mount store mnt").succeeded();
    let descriptors = place.daemon().descriptors();
    assert!(!descriptors.contains(&place.dir().join("lockfile")), "{descriptors:?}");
}

#[test]
fn it_works_without_standard_streams() {
    let place = Place::new();
    place.sh("$MQFS mount store mnt <&- >&- 2>&-").succeeded();
    fs::create_dir(place.at("q")).unwrap();
}

#[test]
fn the_daemon_may_open_many_files_and_keeps_its_own_private() {
    let place = Place::new();
    let daemon = place.mounted(&[]);
    let limits = fs::read_to_string(daemon.proc("limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let fields: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(fields[3], fields[4], "soft and hard limit: {line}");

    fs::create_dir(place.at("q")).unwrap();
    fs::write(place.at("q/m"), vec![0; 200_000]).unwrap();
    let listing = run(Command::new("find").arg(place.store()).args(["-perm", "/077"]));
    assert_eq!(listing.stdout, "", "readable for others");
}

#[test]
fn in_the_foreground_it_stays_and_logs_to_standard_error() {
    let place = Place::new();
    let mut child = place.foreground(&[]);
    assert_eq!(place.daemon().0, child.id());
    crate::place::until(|| place.errors().contains("mounted"));
    place.mqfs(&["umount", "mnt"]).succeeded();
    assert_eq!(crate::place::end_of(&mut child).code(), Some(0));
}

#[test]
fn what_is_wrong_with_the_arguments_is_exit_code_2() {
    let place = Place::new();
    place.mqfs(&[]).failed(2, "--help");
    place.mqfs(&["mount"]).failed(2, "<STORE> <MOUNTPOINT>");
    place.mqfs(&["frobnicate", "store", "mnt"]).failed(2, "frobnicate");
    place.mount(&["--frobnicate"]).failed(2, "--frobnicate");
    place.mount(&["-o", "ro,frobnicate"]).failed(2, "unknown mount option `frobnicate`");
    place.mount(&["-o", "frobnicate=1"]).failed(2, "unknown mount option `frobnicate`");
    place.mount(&["-o", "max_deliveries=many"]).failed(2, "max_deliveries");
    place.mount(&["-o", "visibility_timeout=soon"]).failed(2, "visibility_timeout");
    place.mount(&["-o", "claim"]).failed(2, "`claim` needs a value");
    place.mount(&["-o", "uid=me"]).failed(2, "uid=me");
    place.mount(&["-o", "umask=999"]).failed(2, "umask=999");
    assert!(!place.store().exists() && !is_mounted(&place.mnt()));
}

#[test]
fn a_mount_point_that_cannot_be_used_is_exit_code_5() {
    let place = Place::new();
    let mount = |mnt| place.mqfs(&["mount", "store", mnt]);
    mount("missing").failed(5, "No such file or directory");
    fs::write(place.dir().join("file"), "").unwrap();
    mount("file").failed(5, "not a directory");
    mount("file/x").failed(5, "Not a directory");
    fs::create_dir_all(place.dir().join("full/x")).unwrap();
    mount("full").failed(5, "not empty");
    mount("/").failed(5, "mount point /");
    place.mqfs(&["mount", "mnt/store", "mnt"]).failed(5, "within each other");
    fs::create_dir_all(place.dir().join("outer/mnt")).unwrap();
    place.mqfs(&["mount", "outer", "outer/mnt"]).failed(5, "within each other");
    assert!(!place.store().exists(), "nothing is made for a mount that cannot be");
}

#[test]
fn nonempty_mounts_over_what_is_there() {
    let place = Place::new();
    fs::write(place.at("hidden"), "").unwrap();
    place.mount(&[]).failed(5, "not empty");
    let daemon = place.mounted(&["-o", "nonempty"]);
    assert!(!place.at("hidden").exists());
    place.mqfs(&["umount", "mnt"]).succeeded();
    assert!(place.at("hidden").exists() && !daemon.runs());
}

#[test]
fn a_second_mount_on_the_same_place_is_refused() {
    let place = Place::new();
    place.mounted(&[]);
    place.mqfs(&["mount", "other", "mnt"]).failed(5, "mounted there already");
}

#[test]
fn a_store_in_use_is_exit_code_3() {
    let place = Place::new();
    place.mounted(&[]);
    fs::create_dir(place.dir().join("mnt2")).unwrap();
    place.mqfs(&["mount", "store", "mnt2"]).failed(3, "in use");
    place.mqfs(&["mount", "store", "mnt2", "--foreground"]).failed(3, "in use");
    assert!(!is_mounted(&place.dir().join("mnt2")));
}

#[test]
fn a_store_that_cannot_be_opened_is_exit_code_4() {
    let place = Place::new();
    fs::create_dir(place.store()).unwrap();
    fs::write(place.store().join("thesis.tex"), "").unwrap();
    place.mount(&[]).failed(4, "not an mqfs store");
    fs::write(place.store().join("format"), "9999\n").unwrap();
    place.mount(&[]).failed(4, "9999");
    place.mqfs(&["mount", "missing/store", "mnt"]).failed(4, "No such file or directory");
    fs::write(place.dir().join("file"), "").unwrap();
    place.mqfs(&["mount", "file", "mnt"]).failed(4, "file");
    assert!(!is_mounted(&place.mnt()));
    assert_eq!(fs::read_to_string(place.store().join("thesis.tex")).unwrap(), "");
}

#[test]
fn without_fuse_the_exit_code_is_6() {
    let place = Place::new();
    // A machine without the device, as far as this script can see.
    let script = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && $MQFS mount store mnt";
    place.sh_in_namespace(script).failed(6, "/dev/fuse");
    assert!(!place.store().exists());
}

#[test]
fn whoever_gives_up_waiting_gets_no_mount() {
    let place = Place::new();
    // A log that nobody reads holds the daemon before it reports: the line about the mount does not fit any more.
    let script = "mkfifo log; exec 8<>log; dd if=/dev/zero of=log bs=4096 count=16 status=none
        $MQFS mount store mnt --log-file log 8<&- & caller=$!
        until findmnt mnt >/dev/null; do :; done
        kill $caller; wait $caller; cat <&8 >/dev/null & reader=$!
        while findmnt mnt >/dev/null; do :; done; kill $reader; true";
    place.sh(script).succeeded();
    assert!(!is_mounted(&place.mnt()));
}

#[test]
fn read_only_writes_nothing_and_claims_nothing() {
    let place = Place::new();
    place.mounted(&[]);
    fs::create_dir(place.at("q")).unwrap();
    fs::write(place.at("q/m"), "hello").unwrap();
    place.mqfs(&["umount", "mnt"]).succeeded();

    place.mounted(&["-o", "ro"]);
    assert!(place.findmnt("OPTIONS").starts_with("ro,"));
    let names = || -> Vec<_> { fs::read_dir(place.at("q")).unwrap().map(|entry| entry.unwrap().file_name()).collect() };
    let before = names();
    assert_eq!(before.len(), 1);
    let message = place.at("q").join(&before[0]);
    assert_eq!(fs::read_to_string(&message).unwrap(), "hello");
    assert_eq!(names(), before, "reading claimed the message");
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    assert_eq!(errno(fs::write(place.at("q/n"), "")), Some(libc::EROFS));
    assert_eq!(errno(fs::remove_file(&message)), Some(libc::EROFS));
    assert_eq!(errno(fs::create_dir(place.at("r"))), Some(libc::EROFS));
}

#[test]
fn configuration_keys_are_defaults_of_new_queues() {
    let place = Place::new();
    place.mounted(&["-o", "max_deliveries=7,visibility_timeout=5m", "-omax_deliveries=8"]);
    fs::create_dir(place.at("q")).unwrap();
    let config = fs::read_to_string(place.at("q/.mq/config")).unwrap();
    let value = |key: &str| {
        let line = config.lines().find(|line| line.split('=').next().unwrap().trim() == key);
        line.unwrap_or_else(|| panic!("no {key} in {config}")).split_once('=').unwrap().1.trim().to_owned()
    };
    assert_eq!((value("max_deliveries").as_str(), value("visibility_timeout").as_str()), ("8", "5m"));
}

#[test]
fn owner_group_and_umask_of_everything_can_be_set() {
    let place = Place::new();
    place.mounted(&["-o", "uid=1234,gid=2345,umask=027"]);
    fs::create_dir(place.at("q")).unwrap();
    fs::set_permissions(place.at("q"), fs::Permissions::from_mode(0o777)).unwrap();
    let status = fs::metadata(place.at("q")).unwrap();
    assert_eq!((status.uid(), status.gid(), status.mode() & 0o7777), (1234, 2345, 0o750));
}

#[test]
fn options_of_other_filesystems_and_of_fstab_are_taken() {
    let place = Place::new();
    let list = "rw,defaults,noauto,nofail,_netdev,users,x-systemd.automount,comment=a b,noexec,noatime,dirsync,async,\
                default_permissions,allow_other,subtype=jobs,fsname=the\\,jobs";
    place.mounted(&["-o", list]);
    assert_eq!((place.findmnt("FSTYPE").as_str(), place.findmnt("SOURCE").as_str()), ("fuse.jobs", "the,jobs"));
    let options = place.findmnt("OPTIONS");
    for word in ["rw", "nosuid", "nodev", "noexec", "noatime", "dirsync", "default_permissions", "allow_other"] {
        assert!(options.split(',').any(|option| option == word), "{word} in {options}");
    }
}

#[test]
fn without_allow_other_only_the_owner_gets_in() {
    let place = Place::new();
    place.mounted(&[]);
    assert!(!place.findmnt("OPTIONS").contains("allow_other"));
    let look = "setpriv --reuid=65534 --regid=65534 --clear-groups ls mnt";
    assert!(place.sh(look).stderr.contains("Permission denied"));
    place.mqfs(&["umount", "mnt"]).succeeded();
    place.mounted(&["-o", "allow_other"]);
    place.sh(look).succeeded();
    place.mqfs(&["umount", "mnt"]).succeeded();
    place.mounted(&["-o", "allow_root"]);
    assert!(place.sh(look).stderr.contains("Permission denied"));
}

#[test]
fn log_lines_go_to_a_file_as_text_or_json() {
    let place = Place::new();
    let log = || fs::read_to_string(place.dir().join("log")).unwrap();
    place.mounted(&["--log-file", "log"]);
    place.mqfs(&["umount", "mnt"]).succeeded();
    let text = log();
    assert!(text.contains(" INFO ") && text.contains("mounted"), "{text}");

    place.mounted(&["-o", "log_file=log,log_format=json"]);
    place.mqfs(&["umount", "mnt"]).succeeded();
    let both = log();
    let added = both.strip_prefix(&text).expect("the file is appended to");
    assert!(!added.is_empty());
    for line in added.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["level"].is_string() && line["fields"]["message"].is_string(), "{line}");
    }
}

#[test]
fn rust_log_says_how_much_is_logged() {
    let place = Place::new();
    let mount = |filter: &str| {
        let mut command = Command::new(binary());
        command.args(["mount", "store", "mnt", "--log-file", "log"]).current_dir(place.dir());
        run(command.env("RUST_LOG", filter).stdout(Stdio::null()))
    };
    mount("error").succeeded();
    place.mqfs(&["umount", "mnt"]).succeeded();
    assert_eq!(fs::read_to_string(place.dir().join("log")).unwrap(), "");
    mount("mqfs=no=such=level").failed(2, "RUST_LOG");
    assert!(!is_mounted(&place.mnt()));
}

#[test]
fn help_and_version_are_no_failures() {
    let place = Place::new();
    let version = place.mqfs(&["--version"]);
    assert_eq!(version.succeeded().stdout, format!("mqfs {}\n", env!("CARGO_PKG_VERSION")));
    assert!(place.mqfs(&["--help"]).succeeded().stdout.contains("umount"));
    assert!(place.mqfs(&["mount", "--help"]).succeeded().stdout.contains("--foreground"));
}

/// The log's disk may be full, or its reader gone: that is no reason to end.
#[test]
fn a_log_that_cannot_be_written_to_does_no_harm() {
    let place = Place::new();
    let mut child = std::process::Command::new(crate::place::binary())
        .args(["mount", "store", "mnt", "--foreground"])
        .current_dir(place.dir())
        .stderr(fs::File::options().write(true).open("/dev/full").unwrap())
        .spawn()
        .unwrap();
    crate::place::until(|| crate::place::is_mounted(&place.mnt()) || child.try_wait().unwrap().is_some());
    let script = "mkdir mnt/q && echo claim=rename > mnt/q/.mq/config && echo x > mnt/q/a && cat mnt/q/*-a";
    assert_eq!(place.sh(script).succeeded().stdout, "x\n");
    place.mqfs(&["umount", "mnt"]).succeeded();
    assert_eq!(crate::place::end_of(&mut child).code(), Some(0));
}
