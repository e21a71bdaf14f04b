//! Small drafts are kept in the database and not in files: nobody can tell, but by the inodes of the store's disk.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::common::*;
use crate::disk::Disk;
use crate::extra::*;

/// More than is kept in the database.
const LARGE: usize = 40_000;

/// The same file twice: as a draft, and on an ordinary file system.
struct Twins {
    at: [PathBuf; 2],
    open: Vec<([File; 2], bool)>,
    random: Random,
}

impl Twins {
    /// Small, or now and then too large for the database.
    fn length(&mut self) -> u64 {
        let most = [10, 3_000, 20_000, 33_000, 45_000][self.random.below(5) as usize];
        self.random.below(most)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let (length, byte) = (self.length().min(9_000), b'a' + self.random.below(26) as u8);
        vec![byte; length as usize]
    }

    fn open(&mut self, truncate: bool, append: bool) {
        let open = |path: &PathBuf| {
            let mut options = OpenOptions::new();
            options.read(true).create(true);
            if append {
                options.append(true)
            } else {
                options.write(true).truncate(truncate)
            };
            options.open(path).unwrap()
        };
        self.open.push((self.at.each_ref().map(open), append));
    }

    fn exists(&self) -> bool {
        self.at[1].exists()
    }

    fn step(&mut self) {
        let one = if self.open.is_empty() { 0 } else { self.random.below(self.open.len() as u64) as usize };
        match (self.random.below(16), self.open.get(one)) {
            (0..=1, _) if self.open.len() < 4 => self.open(false, false),
            (2, _) if self.open.len() < 4 => self.open(true, false),
            (3, _) if self.open.len() < 4 => self.open(false, true),
            (4..=5, Some(_)) => drop(self.open.swap_remove(one)),
            (6..=9, Some(_)) => {
                let (bytes, at) = (self.bytes(), self.length());
                let (files, append) = &self.open[one];
                for mut file in files {
                    if *append { file.write_all(&bytes) } else { file.write_all_at(&bytes, at) }.unwrap();
                }
            }
            (10, Some(_)) => {
                let size = self.length();
                self.open[one].0.iter().for_each(|file| file.set_len(size).unwrap());
            }
            (11, Some(_)) => self.open[one].0.iter().for_each(|file| file.sync_all().unwrap()),
            (12, _) if self.exists() => {
                let size = self.length();
                for path in &self.at {
                    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
                    // SAFETY: it is a string that ends with a zero.
                    assert_eq!(unsafe { libc::truncate(path.as_ptr(), size as i64) }, 0);
                }
            }
            (13, _) if self.exists() => {
                for path in &self.at {
                    let other = path.with_file_name(".other");
                    fs::rename(path, &other).unwrap();
                    fs::rename(&other, path).unwrap();
                }
            }
            (14, _) if self.exists() => self.at.iter().for_each(|path| fs::remove_file(path).unwrap()),
            (15, _) => {
                let bytes = self.bytes();
                for path in &self.at {
                    let new = path.with_file_name(".new");
                    fs::write(&new, &bytes).unwrap();
                    fs::rename(new, path).unwrap();
                }
            }
            _ => {}
        }
    }

    /// Nobody can tell the one from the other.
    #[track_caller]
    fn compare(&self, step: usize) {
        assert_eq!(self.at[0].exists(), self.at[1].exists(), "step {step}");
        if self.exists() {
            let [draft, file] = self.at.each_ref().map(|path| fs::read(path).unwrap());
            assert!(draft == file, "step {step}: {} and {} bytes", draft.len(), file.len());
            assert_eq!(fs::metadata(&self.at[0]).unwrap().len(), file.len() as u64, "step {step}");
        }
        for (files, _) in &self.open {
            let [draft, file] = files.each_ref().map(|file| {
                let mut bytes = vec![0; file.metadata().unwrap().len() as usize + 9];
                let length = file.read_at(&mut bytes, 0).unwrap();
                bytes.truncate(length);
                bytes
            });
            assert!(draft == file, "step {step}, open: {} and {} bytes", draft.len(), file.len());
        }
    }
}

/// "Drafts [...] behave as on any filesystem", whatever is done to them, by whomever, and across mounts and crashes.
#[test]
fn a_draft_is_as_any_file_whatever_is_done_to_it() {
    let mut m = Mount::new();
    let q = m.queue("q");
    let elsewhere = tempfile::tempdir().unwrap();
    let at = [q.join(".d"), elsewhere.path().join(".d")];
    let mut twins = Twins { at, open: Vec::new(), random: Random::new() };
    for step in 0..1500 {
        twins.step();
        twins.compare(step);
        if twins.open.is_empty() && twins.random.below(8) == 0 {
            if twins.random.below(2) == 0 {
                m.remount()
            } else {
                m.kill9_and_remount()
            }
            twins.compare(step);
        }
    }
    twins.open.clear();
    m.sh("echo all > q/.mq/purge").ok();
    wait_until(|| m.body_files().is_empty());
    m.stop();
    m.sh(&format!("{} check {}", env!("CARGO_BIN_EXE_mqfs"), m.store().display())).ok();
}

/// What is small is in the database until it grows; after that, it is a file for good.
#[test]
fn a_draft_becomes_a_file_when_it_grows_and_stays_one() {
    let m = Mount::new();
    let q = m.queue("q");
    fs::write(q.join(".d"), vec![b'x'; 32 * 1024]).unwrap();
    assert_eq!(m.body_files().len(), 0);
    m.sh("setfattr -n user.colour -v red q/.d; chmod 640 q/.d; printf y >> q/.d").ok();
    assert_eq!(m.body_files().len(), 1);
    let meta = fs::metadata(q.join(".d")).unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o777), (32 * 1024 + 1, 0o640));
    assert_eq!(xattr(q.join(".d"), "user.colour").as_deref(), Some("red"));
    m.sh("echo small > q/.d").ok();
    assert_eq!(m.body_files().len(), 1);
    m.sh("mv q/.d q/d").ok();
    assert_eq!(m.bodies(&q), ["small\n"]);
    wait_until(|| m.body_files().is_empty());
}

/// Publishing, alone, as a copy or in a batch, makes no file of what has none.
#[test]
fn small_drafts_are_published_without_a_file() {
    let mut m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        echo one > q/.1; mv q/.1 q/1
        echo two > q/.2; ln q/.2 q/2; echo more >> q/.2
        : > q/.3; mv q/.3 q/3
        exec 5> q/.4; mv q/.4 q/4; echo four >&5; exec 5>&-
        mkdir q/.mq/batch/b; for n in 1 2 3; do echo "b$n" > q/.mq/batch/b/b$n; done; : > q/.mq/batch/b/b4
        mv q/.mq/batch/b q/
    "#;
    m.sh(script).ok();
    let all = ["one\n", "two\n", "", "four\n", "b1\n", "b2\n", "b3\n", ""];
    wait_until(|| m.stats(&q)["ready"] == all.len());
    for _ in 0..2 {
        assert_eq!(m.bodies(&q), all);
        assert_eq!(fs::read_to_string(q.join(".2")).unwrap(), "two\nmore\n");
        assert_eq!(m.body_files().len(), 0);
        m.kill9_and_remount();
    }
    m.sh("rm q/0*; echo drafts > q/.mq/purge").ok();
    m.stop();
    m.sh(&format!("{} check {}", env!("CARGO_BIN_EXE_mqfs"), m.store().display())).ok();
}

/// Whoever has a draft open reads it to the end, when it was published and its message is gone as well.
#[test]
fn what_is_open_stays_readable_when_it_is_a_message_no_more() {
    let m = Mount::new();
    m.queue("q");
    let script = r#"
        echo a > q/.a; exec 3< q/.a; mv q/.a q/a; rm q/0*
        echo b > q/.b; exec 4< q/.b; rm q/.b
        echo c > q/.c; exec 5< q/.c; echo d > q/.d; mv q/.d q/.c
        b=q/.mq/batch/b; mkdir $b; echo e > $b/e; exec 6< $b/e; mv $b q/; rm q/0*
        cat <&5; cat <&3; cat <&4; cat <&6; cat q/.c
    "#;
    assert_eq!(m.sh(script).ok(), "c\na\nb\ne\nd\n");
}

/// The times are those of the last write, or those that were set since.
#[test]
fn the_times_of_a_small_draft_are_those_of_a_file() {
    let mut m = Mount::new();
    m.queue("q");
    let old = "2001-02-03 04:05:06.123456789 UTC";
    let shown = "TZ=UTC stat -c '%y %x' q/.d | sed 's/ +0000//g'";
    let stamp = "2001-02-03 04:05:06.123456789";
    m.sh(&format!("echo a > q/.d; touch -d '{old}' q/.d")).ok();
    m.remount();
    assert_eq!(m.sh(shown).ok(), format!("{stamp} {stamp}\n"));
    m.sh("exec 3>> q/.d; exec 3>&-").ok();
    assert_eq!(m.sh(shown).ok(), format!("{stamp} {stamp}\n"), "nothing was written");
    assert_eq!(
        m.sh(&format!("echo b >> q/.d; {shown} | cut -c -4; touch -m -d '{old}' q/.d; {shown}")).ok().lines().last(),
        Some(&*format!("{stamp} {stamp}"))
    );
    m.sh("echo c >> q/.d").ok();
    let age = fs::metadata(m.path().join("q/.d")).unwrap().modified().unwrap().elapsed().unwrap();
    assert!(age.as_secs() < 1000, "{age:?}");
    // By a program that sets them before it closes.
    m.sh("cp -p --no-preserve=ownership /etc/hostname q/.e").ok();
    let [copied, original] = ["q/.e", "/etc/hostname"].map(|path| fs::metadata(m.path().join(path)).unwrap().mtime());
    assert_eq!(copied, original);
}

/// A crash of mqfs takes what was written since the last close, and nothing else: no half of it is there.
#[test]
fn a_crash_leaves_a_draft_as_it_was_closed_last() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.sh("echo old > q/.d").ok();
    let mut open = OpenOptions::new().append(true).open(q.join(".d")).unwrap();
    open.write_all(b"kept\n").unwrap();
    open.sync_all().unwrap();
    open.write_all(b"closed\n").unwrap();
    // One of its descriptors.
    drop(open.try_clone().unwrap());
    open.write_all(b"lost\n").unwrap();
    m.kill9();
    drop(open);
    m.start();
    assert_eq!(fs::read_to_string(q.join(".d")).unwrap(), "old\nkept\nclosed\n");
    assert_eq!(m.body_files().len(), 0);
}

/// At the end of the mount, what somebody has written to a draft and not closed is there, as it is in any file.
#[test]
fn what_is_open_at_the_end_of_the_mount_is_kept() {
    let mut m = Mount::new();
    let q = m.queue("q");
    let mut file = OpenOptions::new().create(true).append(true).open(q.join(".d")).unwrap();
    file.write_all(b"begun\n").unwrap();
    m.stop_anyway();
    drop(file);
    m.start();
    assert_eq!(fs::read_to_string(q.join(".d")).unwrap(), "begun\n");
}

/// "Like any file's, its bytes survive a power cut from fsync on", also when it has become a file since.
#[test]
fn what_was_synced_survives_a_power_cut() {
    let disk = Disk::new(&["mkfs.ext4", "-q", "-F"]);
    let mut m = Mount::with_store_in(&disk.path(), &[]);
    let q = m.queue("q");
    let write = |path: &Path, bytes: &[u8], sync: bool| {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(bytes).unwrap();
        if sync {
            file.sync_all().unwrap();
        }
    };
    write(&q.join(".small"), b"small", true);
    write(&q.join(".large"), &[b'x'; LARGE], true);
    write(&q.join(".grown"), b"promised", true);
    write(&q.join(".grown"), &[b'x'; LARGE], false);
    write(&q.join(".again"), b"promised", true);
    write(&q.join(".again"), b" more", false);
    // Its record is durable with this at the latest.
    write(&q.join(".last"), b"last", true);
    disk.cut_the_power();
    m.kill9();
    disk.start_again();
    m.start();
    let read = |name: &str| fs::read(q.join(name)).unwrap();
    assert_eq!((read(".small"), read(".last")), (b"small".to_vec(), b"last".to_vec()));
    assert!(read(".large") == [b'x'; LARGE]);
    assert!(read(".grown").starts_with(b"promised"), "{:?} bytes", read(".grown").len());
    assert!(read(".again").starts_with(b"promised"), "{:?}", read(".again"));
    m.stop();
}
