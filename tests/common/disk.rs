//! A disk of a test's own: its power can be cut, it can be filled, and made read-only.

#![allow(dead_code)]

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
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
        Disk::sized(mkfs, 512)
    }

    /// The same, of so many MiB.
    pub fn sized(mkfs: &[&str], size: u64) -> Disk {
        let dir = tempfile::Builder::new().prefix("mqfs-test-disk-").tempdir().unwrap();
        let disk = Disk { dir };
        fs::File::create(disk.image()).unwrap().set_len(size << 20).unwrap();
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

    /// Another program takes all the room there is, to the last byte; with what it took before, if anything.
    pub fn fill(&self) {
        let mut hog = fs::File::options().create(true).append(true).open(self.hog()).unwrap();
        let mut end = hog.metadata().unwrap().len() as i64;
        // What the file system takes for itself cannot be known: ever smaller pieces, until nothing fits.
        for piece in [64 << 20, 8 << 20, 1 << 20, 64 << 10] {
            // SAFETY: a call with a descriptor and numbers.
            while unsafe { libc::fallocate(hog.as_raw_fd(), 0, end, piece) } == 0 {
                end += piece;
            }
        }
        hog.set_len(end as u64).unwrap();
        let block = [0; 512];
        while hog.write_all(&block).is_ok() {}
    }

    /// And gives it back.
    pub fn give_back(&self) {
        fs::remove_file(self.hog()).unwrap();
    }

    fn hog(&self) -> PathBuf {
        self.path().join("hog")
    }

    /// Mounts it again with these options, where it is.
    pub fn remount(&self, options: &str) {
        command(&["mount", "-o", &format!("remount,{options}"), self.path().to_str().unwrap()]);
    }

    /// The file system meets an error that makes it read-only.
    pub fn fail(&self) {
        let device = Command::new("findmnt").args(["-n", "-o", "SOURCE", "-M"]).arg(self.path()).output().unwrap();
        let device = String::from_utf8(device.stdout).unwrap();
        let name = device.trim().rsplit('/').next().unwrap();
        self.remount("errors=remount-ro");
        fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "test").unwrap();
    }

    /// From now on nothing reaches the disk, and what has not reached it is lost.
    pub fn cut_the_power(&self) {
        command(&["xfs_io", "-x", "-c", "shutdown", self.path().to_str().unwrap()]);
    }

    /// The machine starts again.
    pub fn start_again(&self) {
        wait_until(|| Command::new("umount").arg(self.path()).status().unwrap().success());
        // A mount namespace that somebody has made meanwhile has a copy of the mount, and while it lives the file system is still
        // the one that was shut down.
        wait_until(|| Command::new("losetup").arg("-j").arg(self.image()).output().unwrap().stdout.is_empty());
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}
