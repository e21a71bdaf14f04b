//! "A message of any size streams through bounded memory."

use std::fs;
use std::os::unix::fs::FileExt;

use crate::common::{Mount, listing, only, producers, wait_until};

const MIB: usize = 1024 * 1024;

/// What mqfs may ever use while messages much larger than this stream through it.
const MEMORY_LIMIT_KIB: u64 = 200 * 1024;

/// Bytes without a period that could hide a block in the wrong place.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Bytes on disk of all bodies.
fn disk_usage(m: &Mount) -> u64 {
    m.body_files().iter().map(|(_, bytes)| bytes).sum()
}

/// Every length around the sizes at which a message changes its place (memory, RocksDB, a file) keeps its bytes: as it is
/// peeked at, read, and after a restart.
#[test]
fn messages_of_every_size_keep_their_bytes() {
    let mut m = Mount::new();
    let q = m.queue("q");
    let kib32 = 32 * 1024;
    let sizes = [
        0,
        1,
        2,
        4095,
        4096,
        4097,
        kib32 - 1,
        kib32,
        kib32 + 1,
        2 * kib32 - 1,
        2 * kib32,
        2 * kib32 + 1,
        MIB - 1,
        MIB,
        MIB + 1,
        5 * MIB + 12345,
    ];
    for size in sizes {
        m.put(q.join(format!("s{size}")), pattern(size));
    }
    for restarted in [false, true] {
        if restarted {
            m.remount();
        }
        let messages = m.messages(&q);
        assert_eq!(messages.len(), sizes.len());
        for ((name, body), size) in messages.iter().zip(sizes) {
            assert!(name.ends_with(&format!("-s{size}")), "{name}");
            assert!(*body == pattern(size), "{name}: wrong bytes, restarted: {restarted}");
            assert_eq!(fs::metadata(q.join(name)).unwrap().len(), size as u64);
        }
    }
    for (name, size) in listing(&q).iter().zip(sizes) {
        assert!(fs::read(q.join(name)).unwrap() == pattern(size), "{name}: wrong bytes read by the claimer");
        fs::remove_file(q.join(name)).unwrap();
    }
    assert_eq!(listing(&q), [""; 0]);
    wait_until(|| m.body_files().is_empty());
}

/// 300 MiB in by a pipe, out by a pipe: the same bytes, bounded memory, and the disk space comes back with the ack.
#[test]
fn a_huge_message_streams_through_bounded_memory() {
    let m = Mount::new();
    m.queue("q");
    let count = 37_000_000; // 321 MB of digits
    let script = format!("seq 1 {count} > q/huge; stat -c %s q/huge");
    let size: u64 = m.sh(&script).ok().trim().parse().unwrap();
    assert!(size > 300 * MIB as u64, "{size}");
    assert!(disk_usage(&m) > 300 * MIB as u64);
    let sums = m.sh(&format!("seq 1 {count} | sha256sum; cat q/huge | sha256sum")).ok().to_owned();
    let (written, read) = sums.trim().split_once('\n').unwrap();
    assert_eq!(written, read);
    let peak = m.peak_rss_kib();
    assert!(peak < MEMORY_LIMIT_KIB, "mqfs used {peak} KiB");
    m.sh("rm q/huge").ok();
    wait_until(|| disk_usage(&m) == 0);
}

/// Many messages of some size in flight at once do not add up in memory either.
#[test]
fn many_open_writers_share_bounded_memory() {
    let m = Mount::new();
    let q = m.queue("q");
    let program = r#"
import os
block = os.urandom(1 << 20)
files = [os.open(f"q/f{i}", os.O_CREAT | os.O_WRONLY) for i in range(16)]
for n in range(16):
    for fd in files:
        os.write(fd, block)
for fd in files:
    os.close(fd)
"#;
    m.python(program).ok();
    assert_eq!(listing(&q).len(), 16);
    assert!(listing(&q).iter().all(|name| fs::metadata(q.join(name)).unwrap().len() == 16 << 20));
    let peak = m.peak_rss_kib();
    assert!(peak < MEMORY_LIMIT_KIB, "mqfs used {peak} KiB");
}

/// pwrite in any order, overlapping, across the size at which the bytes move to a file.
#[test]
fn blocks_written_in_random_order_land_where_they_belong() {
    let m = Mount::new();
    let q = m.queue("q");
    let program = r#"
import os, random
random.seed(7)
for size in (20_000, 40_000, 3_000_000):
    model = bytearray(size)
    fd = os.open("q/x", os.O_CREAT | os.O_WRONLY)
    blocks = [(at, min(size, at + 4000)) for at in range(0, size, 3700)]
    random.shuffle(blocks)
    for start, end in blocks:
        data = random.randbytes(end - start)
        assert os.pwrite(fd, data, start) == len(data)
        model[start:end] = data
    os.close(fd)
    with open(f"{os.environ['T']}/model{size}", "wb") as f:
        f.write(model)
"#;
    m.python(program).ok();
    let messages = m.messages(&q);
    assert_eq!(messages.len(), 3);
    for ((_, body), size) in messages.iter().zip([20_000, 40_000, 3_000_000]) {
        assert!(*body == fs::read(m.scratch().join(format!("model{size}"))).unwrap(), "{size}: wrong bytes");
    }
}

/// Truncating across that size, in both directions, loses and invents nothing.
#[test]
fn truncation_across_the_inline_limit_keeps_the_rest() {
    let m = Mount::new();
    m.queue("q");
    let program = r#"
import os
fd = os.open("q/x", os.O_CREAT | os.O_WRONLY)
os.write(fd, b"a" * 50_000)
os.ftruncate(fd, 10)
os.ftruncate(fd, 40_000)
os.pwrite(fd, b"end", 40_000)
os.close(fd)
fd = os.open("q/y", os.O_CREAT | os.O_WRONLY)
os.write(fd, b"b" * 10)
os.ftruncate(fd, 100_000)
os.ftruncate(fd, 20)
os.close(fd)
"#;
    m.python(program).ok();
    let expected = ["a".repeat(10) + &"\0".repeat(39_990) + "end", "b".repeat(10) + &"\0".repeat(10)];
    assert_eq!(m.bodies("q"), expected);
}

/// "a hole in a file takes room as bytes do", on the disk; not in memory.
#[test]
fn a_hole_takes_room_as_bytes_do() {
    let m = Mount::new();
    let q = m.queue("q");
    let program = r#"
import os
fd = os.open("q/x", os.O_CREAT | os.O_WRONLY)
os.pwrite(fd, b"middle", 500 << 20)
os.ftruncate(fd, 1 << 30)
os.close(fd)
"#;
    m.python(program).ok();
    let peek = only(q.join(".mq/peek"));
    assert_eq!(fs::metadata(&peek).unwrap().len(), 1 << 30);
    let file = fs::File::open(&peek).unwrap();
    for (offset, expected) in [(0, &b"\0\0\0\0\0\0"[..]), (500 << 20, b"middle"), ((1 << 30) - 6, b"\0\0\0\0\0\0")] {
        let mut bytes = [1; 6];
        file.read_exact_at(&mut bytes, offset).unwrap();
        assert_eq!(bytes, expected, "at {offset}");
    }
    assert!(disk_usage(&m) >= 1 << 30);
    assert!(m.peak_rss_kib() < MEMORY_LIMIT_KIB);
}

/// A large message is read by offset and by several readers at once, as tail, dd and parallel tools do.
#[test]
fn a_large_message_is_read_at_any_offset() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("seq 1 1000000 > $T/f; cp $T/f q/f").ok();
    let script = r#"
        tail -n 1 q/f
        tail -c 8 q/f
        dd if=q/f bs=1000 skip=3000 count=2 status=none | cmp - <(dd if=$T/f bs=1000 skip=3000 count=2 status=none)
        for i in 1 2 3 4; do cmp q/.mq/peek/0* $T/f & done; wait
        cmp q/f $T/f && rm q/f
    "#;
    assert_eq!(m.sh(script).ok(), "1000000\n1000000\n");
    assert_eq!(m.bodies(&q), [""; 0]);
}

/// The bytes of a large message are durable before its name is: a crash right after the close leaves all of it.
#[test]
fn a_large_message_survives_a_crash_whole() {
    let mut m = Mount::new();
    let q = m.queue("q");
    let body = pattern(20 * MIB);
    m.put(q.join("x"), &body);
    m.kill9_and_remount();
    assert_eq!(producers(&q), ["x"]);
    assert!(m.messages(&q)[0].1 == body, "wrong bytes");
}
