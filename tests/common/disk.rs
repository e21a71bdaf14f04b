//! A disk of a test's own, of which the power can be cut.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::common::wait_until;

/// A file system of its own in an image file.
pub struct Disk {
    dir: tempfile::TempDir,
}

fn command(words: &[&str]) {
    let out = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
}

impl Disk {
    /// Made by these words of a mkfs command, and mounted.
    pub fn new(mkfs: &[&str]) -> Disk {
        let dir = tempfile::Builder::new().prefix("mqfs-test-disk-").tempdir().unwrap();
        let disk = Disk { dir };
        fs::File::create(disk.image()).unwrap().set_len(512 << 20).unwrap();
        fs::create_dir(disk.path()).unwrap();
        command(&[mkfs, &[disk.image().to_str().unwrap()]].concat());
        disk.mount();
        disk
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn mount(&self) {
        command(&["mount", "-o", "loop", self.image().to_str().unwrap(), self.path().to_str().unwrap()]);
    }

    /// From now on nothing reaches the disk, and what has not reached it is lost.
    pub fn cut_the_power(&self) {
        command(&["xfs_io", "-x", "-c", "shutdown", self.path().to_str().unwrap()]);
    }

    /// The machine starts again.
    pub fn start_again(&self) {
        wait_until(|| Command::new("umount").arg(self.path()).status().unwrap().success());
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}
