//! "store damaged | EIO for what is damaged, everything else goes on": body files. No reader ever gets wrong bytes.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::common::*;
use crate::extra::*;

const MIB: usize = 1 << 20;

/// Bytes that differ from place to place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// The only body file.
#[track_caller]
fn body_file(m: &Mount) -> PathBuf {
    let files = m.body_files();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].0.clone()
}

fn flip(file: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// What was enqueued in whatever way, damaged while the store was not mounted: EIO, told in the log with queue, name and
/// file, and what is not damaged of it is read.
#[track_caller]
fn assert_flip_is_told(enqueue: impl FnOnce(&mut Mount, &Path)) {
    let mut m = Mount::new();
    let q = m.queue("orders");
    enqueue(&mut m, &q);
    wait_until(|| listing(control(&q, "peek")).len() == 1);
    let whole = m.messages("orders").remove(0).1;
    let file = body_file(&m);
    let at = Random::new().below(whole.len() as u64);
    m.stop();
    flip(&file, at);
    m.start();
    let path = only(control(&q, "peek"));
    assert_eq!(errno(fs::read(&path)), libc::EIO, "the byte {at} of {}", whole.len());
    let log = m.log();
    let line = log.lines().find(|line| line.contains("ERROR") && line.contains("unreadable message"));
    let line = line.unwrap_or_else(|| panic!("the log says nothing: {log}"));
    let name = file.file_name().unwrap().to_str().unwrap();
    for words in ["orders", "big", "wrong checksum", name] {
        assert!(line.contains(words), "{words} is not in: {line}");
    }
    // Every page is as it was enqueued or cannot be had, in whatever order.
    let opened = File::open(&path).unwrap();
    let mut refused = 0;
    let pages: Vec<usize> = (0..whole.len()).step_by(4096).collect();
    for start in pages.iter().copied().rev() {
        let end = whole.len().min(start + 4096);
        let mut bytes = vec![0; end - start];
        match opened.read_exact_at(&mut bytes, start as u64) {
            Ok(()) => assert!(bytes == whole[start..end], "wrong bytes at {start}"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO));
                assert!(at.abs_diff(start as u64) < MIB as u64, "{start} is far from {at}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    // It can be thrown away, and the queue goes on.
    fs::remove_file(path).unwrap();
    m.sh("echo new > orders/new && cat orders/*-new").ok();
    wait_until(|| m.body_files().is_empty());
}

#[test]
fn written_from_its_beginning_to_its_end() {
    assert_flip_is_told(|_, q| fs::write(q.join("big"), pattern(3 * MIB + 77)).unwrap());
}

#[test]
fn just_too_large_for_the_database() {
    assert_flip_is_told(|_, q| fs::write(q.join("big"), pattern(32 * 1024 + 1)).unwrap());
}

/// Written here and there, over again, cut and extended: as rsync --inplace, dd conv=notrunc and databases do.
#[test]
fn written_in_any_order() {
    assert_flip_is_told(|_, q| {
        let mut random = Random::new();
        let bytes = pattern(2 * MIB);
        let file = File::create(q.join("big")).unwrap();
        file.set_len(MIB as u64).unwrap();
        for _ in 0..100 {
            let (at, length) = (random.below(MIB as u64 * 3 / 2) as usize, 1 + random.below(300_000) as usize);
            file.write_all_at(&bytes[at..(at + length).min(bytes.len())], at as u64).unwrap();
        }
        file.set_len(MIB as u64 * 5 / 4).unwrap();
        file.write_all_at(&bytes[..100], 2 * MIB as u64 + 5).unwrap();
    });
}

/// Not synced at the close: the checksums are there all the same.
#[test]
fn written_to_an_asynchronous_queue() {
    assert_flip_is_told(|m, q| {
        m.set("orders", "durability = async");
        fs::write(q.join("big"), pattern(MIB)).unwrap();
    });
}

#[test]
fn published_from_a_draft() {
    assert_flip_is_told(|m, q| {
        fs::write(q.join(".draft"), pattern(MIB + 5)).unwrap();
        m.sh("mv orders/.draft orders/big").ok();
    });
}

#[test]
fn enqueued_in_a_batch() {
    assert_flip_is_told(|m, q| {
        fs::create_dir(q.join(".mq/batch/b")).unwrap();
        fs::write(q.join(".mq/batch/b/big"), pattern(MIB + 5)).unwrap();
        m.sh("mv orders/.mq/batch/b orders/").ok();
    });
}

/// Under a kept name, a link of a message into another queue is a copy of it: of damaged bytes, a damaged one.
#[test]
fn a_copy_of_a_damaged_message_is_damaged() {
    let mut m = Mount::new();
    for queue in ["tmp", "new"] {
        m.queue_with(queue, &["names = keep", "claim = rename"]);
    }
    m.put(m.path().join("tmp/mail"), pattern(MIB));
    let file = body_file(&m);
    m.stop();
    flip(&file, MIB as u64 / 2);
    m.start();
    m.sh("ln tmp/mail new/mail").ok();
    assert_eq!(errno(fs::read(m.path().join("new/mail"))), libc::EIO);
}

/// A damaged message at the head does not hold up those behind it, whoever reads: it is passed over until its lease ends, again
/// and again, and in the end it is a dead letter.
#[test]
fn a_damaged_message_goes_to_dead_and_holds_up_nobody() {
    for flipped in [true, false] {
        let mut m = Mount::with_clock("+0");
        let q = m.queue_with("q", &["visibility_timeout = 1h", "max_deliveries = 2"]);
        let mut large = pattern(MIB);
        large.push(b'\n');
        m.put(q.join("damaged"), &large);
        for word in ["one", "two", "three"] {
            m.put(q.join(word), format!("{word}\n"));
        }
        let file = body_file(&m);
        m.stop();
        if flipped {
            flip(&file, 5)
        } else {
            fs::remove_file(&file).unwrap()
        }
        m.start();
        m.sh("cat q/.mq/pop").fails("Input/output error");
        assert_eq!(m.sh("cat q/.mq/pop").ok(), "one\n");
        // Its lease ends, and it is claimed once more.
        m.set_clock("+2h");
        wait_until(|| producers(&q).contains(&"damaged".to_owned()));
        m.sh("f=$(cat q/.mq/claim) && cat q/$f").fails("Input/output error");
        assert_eq!(m.sh("f=$(cat q/.mq/claim) && cat q/$f && rm q/$f").ok(), "two\n");
        m.set_clock("+4h");
        wait_until(|| producers(control(&q, "dead")) == ["damaged"]);
        assert_eq!(m.sh("cat q/.mq/pop").ok(), "three\n");
        // Redriven, it is met by a reader of lines.
        m.sh("mv q/.mq/dead/*-damaged q/ && echo behind > q/behind").ok();
        let read = || m.sh("read -r line < q/.mq/lines; echo \"$line\"").stdout;
        let behind = Some(read()).filter(|line| line != "\n").unwrap_or_else(read);
        assert_eq!(behind, "behind\n");
    }
}

/// Bodies that a version without checksums has enqueued are served as they are; those that are cut are told by their length.
#[test]
fn a_body_without_checksums_is_served_and_checked_by_its_length() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store-format-2.tar.gz");
    let unpacked = std::process::Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(dir.path()).status();
    assert!(unpacked.unwrap().success());
    let mut m = Mount::with_store_in(dir.path(), &[]);
    let large = m.sh("cat orders/.mq/peek/*-large").ok().to_owned();
    assert!(large.len() == 300_000 && large.starts_with("a large body\n"), "{}", large.len());
    let length = |path: &Path| fs::metadata(path).unwrap().len();
    let file = files_below(dir.path().join("store/bodies")).into_iter().find(|(path, _)| length(path) == 300_000);
    m.stop();
    OpenOptions::new().write(true).open(file.unwrap().0).unwrap().set_len(299_999).unwrap();
    m.start();
    m.sh("cat orders/.mq/peek/*-large").fails("Input/output error");
}
