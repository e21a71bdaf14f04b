//! A full disk and a damaged store: what is refused, and that everything else goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::common::*;
use crate::extra::*;

/// "store's disk full | ENOSPC, and all goes on when there is room again"
#[test]
fn enospc() {
    let disk = tempfile::Builder::new().prefix("mqfs-test-disk-").tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=96m", "mqfs-test"])
        .arg(disk.path())
        .status()
        .unwrap();
    assert!(mounted.success());
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("-l").arg(self.0).status();
        }
    }
    let _unmount = Unmount(disk.path());
    let mut m = Mount::with_store_in(disk.path(), &[]);
    let q = m.queue_with("q", &["visibility_timeout=1h"]);
    let small = m.message(&q, "small", "small");
    let block = vec![7; 4 << 20];
    let mut whole = 0;
    let error = loop {
        assert!(whole < 30, "more than the disk holds");
        let mut file = match File::create(q.join("large")) {
            Ok(file) => file,
            Err(error) => break error,
        };
        // A failed write says so; only what cannot be known before is left to the close.
        match file.write_all(&block) {
            Ok(()) => whole += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    assert!(whole > 5, "{whole} messages of 4 MiB in 96 MiB");
    wait_until(|| m.messages("q").len() == whole + 1);
    m.sh("head -c 9000000 /dev/zero > q/more").fails("No space left on device");
    m.sh("head -c 9000000 /dev/zero > q/.draft").fails("No space left on device");
    let _ = fs::remove_file(q.join(".draft"));
    assert_eq!(m.messages("q").len(), whole + 1, "nothing by halves");

    // Consuming works on a full disk, and makes room.
    let names = listing(&q);
    assert_eq!(fs::read_to_string(&small).unwrap(), "small");
    for name in &names[1..4] {
        assert!(fs::read(q.join(name)).unwrap() == block);
        fs::remove_file(q.join(name)).unwrap();
    }
    wait_until(|| fs::write(q.join("again"), &block).is_ok());
    wait_until(|| producers(&q).last().is_some_and(|name| name == "again"));
    m.remount();
    assert_eq!(m.messages("q").last().unwrap().1, block);
    assert_eq!(state(&q, &small).as_deref(), Some("claimed"));
}

/// "store damaged | EIO for what is damaged, everything else goes on"
#[test]
fn eio_for_what_is_damaged() {
    let mut m = Mount::new();
    let q = m.queue("q");
    let bodies = m.store().join("bodies");
    let files = || -> Vec<PathBuf> { walk(&bodies) };
    let mut body = vec![b'a'; 2 << 20];
    let damaged = m.message(&q, "damaged", &body);
    wait_until(|| files().len() == 1);
    let victim = files().remove(0);
    body.fill(b'b');
    let whole = m.message(&q, "whole", &body);
    let small = m.message(&q, "small", "small");
    m.stop();
    fs::remove_file(victim).unwrap();
    m.start();
    assert_eq!(listing(&q).len(), 3);
    let read = File::open(&damaged).and_then(|mut file| {
        let mut text = Vec::new();
        file.read_to_end(&mut text)
    });
    assert_eq!(errno(read), libc::EIO);
    assert!(fs::read(&whole).unwrap() == body);
    assert_eq!(fs::read_to_string(&small).unwrap(), "small");
    assert!(m.log().contains("damaged"), "the log says so: {}", m.log());
    m.message(&q, "new", "goes on");
    // What is damaged can be thrown away.
    let path = if damaged.exists() { damaged } else { within(&q, "dead", &damaged) };
    fs::remove_file(path).unwrap();
    assert_eq!(m.messages("q").len(), 3);
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

/// A cut-off body file is damage too: no reader gets a part of a message as if it were all of it.
#[test]
fn a_cut_off_body_is_not_a_short_message() {
    let mut m = Mount::new();
    let q = m.queue("q");
    let a = m.message(&q, "a", vec![b'a'; 2 << 20]);
    let bodies = m.store().join("bodies");
    wait_until(|| walk(&bodies).len() == 1);
    m.stop();
    OpenOptions::new().write(true).open(&walk(&bodies)[0]).unwrap().set_len(1 << 20).unwrap();
    m.start();
    let read = File::open(&a).and_then(|mut file| {
        let mut text = Vec::new();
        file.read_to_end(&mut text)
    });
    assert_eq!(errno(read), libc::EIO);
}
