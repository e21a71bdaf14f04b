//! Batches: directories in `.mq/batch` whose files are enqueued together, all or none.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Mount, errno, listing, producers, set_xattr, wait_until, xattr};
use crate::extra::rename_noreplace;

/// `mkdir q/.mq/batch/b1` prepares a batch, and the rename of it to the queue's directory, under whatever name, enqueues its
/// files in the order of their names.
#[test]
fn the_files_of_a_batch_are_enqueued_in_the_order_of_their_names() {
    let m = Mount::new();
    for shell in ["bash", "dash", "busybox sh"] {
        for target in ["q/", "q/anything", "q/.hidden"] {
            let q = m.queue("q");
            let script = format!(
                "mkdir q/.mq/batch/b1 && cd q/.mq/batch/b1 && echo 2 > b && echo 3 > c && echo 1 > a && echo 0 > B \
                 && cd ../../../.. && ls q && ls q/.mq/batch && mv q/.mq/batch/b1 {target} && ls q/.mq/batch"
            );
            assert_eq!(m.shell(shell, &script).ok(), "b1\n", "{shell} {target}");
            assert_eq!(producers(&q), ["B", "a", "b", "c"], "{shell} {target}");
            assert_eq!(m.bodies(&q), ["0\n", "1\n", "2\n", "3\n"]);
            let stats = m.stats(&q);
            assert_eq!(
                (&stats["batches"], &stats["drafts"], &stats["enqueued_total"]),
                (&0.into(), &0.into(), &4.into())
            );
            m.sh("rm q/*; rmdir q").ok();
        }
    }
}

/// "files written into it (any names, dots too; created, re-opened, overwritten, truncated, renamed within, removed, xattrs set as
/// on drafts) wait there".
#[test]
fn files_of_a_batch_are_ordinary_files_until_then() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        cd q/.mq/batch && mkdir b && cd b
        echo one > f; echo two >> f; cat f; printf XY | dd of=f bs=1 seek=1 conv=notrunc status=none; cat f
        truncate -s 3 f; cat f; echo
        echo g > g; mv g h; ls; mv h f; ls; cat f
        echo x > .hidden; cat .hidden; mv .hidden seen; rm seen; touch t; chmod 600 t; touch -d @1000000000 t
        stat -c '%a %Y %s' t; setfattr -n user.colour -v red t; getfattr --only-values -n user.colour t; echo
    "#;
    let expected = "one\ntwo\noXY\ntwo\noXY\nf\nh\nf\ng\nx\n600 1000000000 0\nred\n";
    assert_eq!(m.sh(script).ok(), expected);
    assert_eq!((listing(&q), m.bodies(&q)), (vec![], vec![]));
    let stats = m.stats(&q);
    assert_eq!((&stats["batches"], &stats["drafts"]), (&1.into(), &0.into()));
    assert_eq!(m.stats("")["drafts"], 0, "the files of a batch are no drafts of a queue");
    m.sh("mv q/.mq/batch/b q").ok();
    assert_eq!(m.bodies(&q), ["g\n", ""]);
    assert_eq!(m.sh("stat -c '%a %Y' q/*-t; getfattr --only-values -n user.colour q/*-t").ok(), "600 1000000000\nred");
}

/// What the files' attributes ask for is heeded, and what a name in `.mq/with` says holds for the whole batch.
#[test]
fn properties_of_the_files_are_heeded() {
    let m = Mount::new();
    let q = m.queue_with("q", &["priorities=10", "dedup_window=1h"]);
    let script = r#"
        mkdir q/.mq/batch/b; cd q/.mq/batch/b; for f in a b c d e; do echo $f > $f; done
        setfattr -n user.mq.priority -v 9 d
        setfattr -n user.mq.delay -v 1h a
        setfattr -n user.mq.dedup_id -v same b
        setfattr -n user.mq.dedup_id -v same c
        cd ../../../..; mv q/.mq/batch/b q/
    "#;
    m.sh(script).ok();
    let names = |dir: &str| listing(q.join(dir)).iter().map(|name| name[18..].to_owned()).collect::<Vec<_>>();
    assert_eq!((names("."), names(".mq/delayed")), (vec!["d".into(), "b".into(), "e".into()], vec!["a".to_owned()]));
    let stats = m.stats(&q);
    assert_eq!((&stats["enqueued_total"], &stats["duplicates_total"]), (&4.into(), &1.into()));
    m.sh("mkdir q/.mq/batch/b; echo f > q/.mq/batch/b/f; mv q/.mq/batch/b q/.mq/with/priority=9,header.x=y/").ok();
    assert_eq!(m.sh("getfattr --only-values -n user.x q/0*-f").ok(), "y");
}

/// "visible at once": whoever looks sees none of it or all.
#[test]
fn a_batch_becomes_visible_at_once() {
    const FILES: u64 = 300;
    let m = Mount::new();
    let q = m.queue("q");
    let (looks, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    for round in 0..10 {
        let batch = q.join(".mq/batch/b");
        fs::create_dir(&batch).unwrap();
        for n in 0..FILES {
            fs::write(batch.join(format!("{n:03}")), "x").unwrap();
        }
        let seen = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut seen = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    seen.push(m.stats(&q)["ready"].as_u64().unwrap());
                    seen.push(listing(&q).len() as u64);
                    looks.store(true, Ordering::Relaxed);
                }
                seen
            });
            wait_until(|| looks.swap(false, Ordering::Relaxed));
            fs::rename(&batch, q.join("b")).unwrap();
            assert_eq!(listing(&q).len() as u64, FILES, "all is there when rename has returned");
            stop.store(true, Ordering::Relaxed);
            watcher.join().unwrap()
        });
        assert!(seen.iter().all(|count| [0, FILES].contains(count)), "round {round}: {seen:?}");
        stop.store(false, Ordering::Relaxed);
        m.sh("rm q/*").ok();
    }
}

/// Small, empty and large files, more small ones than go into the database with one batch, and nothing left behind.
#[test]
fn bodies_of_every_size_arrive_whole() {
    let m = Mount::new();
    let q = m.queue("q");
    let batch = q.join(".mq/batch/b");
    fs::create_dir(&batch).unwrap();
    let body = |n: usize| vec![b'a' + (n % 26) as u8; [0, 1, 30_000, 32 * 1024, 32 * 1024 + 1, 200_000][n % 6]];
    let count = 1200; // some 12 MiB small ones, beside those of 32 KiB
    for n in 0..count {
        fs::write(batch.join(format!("{n:04}")), body(n)).unwrap();
    }
    fs::rename(&batch, q.join("b")).unwrap();
    for (n, (name, bytes)) in m.messages(&q).into_iter().enumerate() {
        assert!(name.ends_with(&format!("-{n:04}")) && bytes == body(n), "{n}: {name}, {} bytes", bytes.len());
    }
    assert_eq!(m.stats(&q)["ready"], count);
    m.sh("find q -type f -delete").ok();
    wait_until(|| m.body_files().is_empty());
}

/// "`rm -r q/.mq/batch/b1` drops it"; and the queue can be removed when it has no batch any more.
#[test]
fn removing_a_batch_drops_it() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("mkdir q/.mq/batch/b1 q/.mq/batch/empty; for i in $(seq 50); do echo $i > q/.mq/batch/b1/$i; done").ok();
    m.sh("rmdir q/.mq/batch/empty").ok();
    m.sh("rmdir q/.mq/batch/b1").fails("Directory not empty");
    m.sh("rmdir q").fails("Directory not empty");
    m.sh("rm -r q/.mq/batch/b1; ls -A q/.mq/batch; rmdir q").ok();
    wait_until(|| m.body_files().is_empty());
    assert!(!q.exists());
    m.sh("mkdir q; mkdir q/.mq/batch/empty; mv q/.mq/batch/empty q/; ls -A q; rmdir q").ok();
}

/// A batch with a file that is not finished, because somebody writes to it or because its name begins with a dot, is not
/// enqueued: EBUSY, and everything stays.
#[test]
fn an_unfinished_batch_is_busy() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        mkdir q/.mq/batch/b; echo a > q/.mq/batch/b/a; exec 3> q/.mq/batch/b/z; echo begun >&3
        mv q/.mq/batch/b q/
    "#;
    m.sh(script).fails("Device or resource busy");
    assert_eq!((listing(&q), listing(q.join(".mq/batch/b"))), (vec![], vec!["a".to_owned(), "z".to_owned()]));
    m.sh("cd q/.mq/batch/b; touch .z.swp; mv ../b ../../..").fails("Device or resource busy");
    assert_eq!(listing(&q), [""; 0]);
    m.sh("rm q/.mq/batch/b/.z.swp; exec 3< q/.mq/batch/b/z; mv q/.mq/batch/b q/; cat <&3").ok();
    assert_eq!(m.bodies(&q), ["a\n", "begun\n"]);
}

/// What cannot be: two batches of one name, directories in a batch, messages moved into one, names that no message can have.
#[test]
fn what_is_refused() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("mkdir q/.mq/batch/b q/nested; echo f > q/.mq/batch/b/f; echo m > q/m").ok();
    m.sh("mkdir q/.mq/batch/b").fails("File exists");
    m.sh("mkdir q/.mq/batch/b/c").fails("Operation not permitted");
    m.sh("mkdir q/.mq/batch/.mq").fails("File exists");
    m.sh("echo x > q/.mq/batch/x").fails("Operation not permitted");
    m.sh("ln -s x q/.mq/batch/b/x").fails("Operation not permitted");
    m.sh("mv q/*-m q/.mq/batch/b/").fails("Operation not permitted");
    m.sh("echo x > q/.mq/batch/b/.mq").fails("Operation not permitted");
    m.sh("echo x > q/.mq/batch/b/0000000000000001-.x").fails("Operation not permitted");
    m.sh(&format!("echo x > q/.mq/batch/b/{}", "n".repeat(239))).fails("File name too long");
    m.sh(&format!("echo x > q/.mq/batch/b/.{}", "n".repeat(255))).fails("File name too long");
    m.sh("mv q/.mq/batch q/x").fails("Operation not permitted");
    let batch = q.join(".mq/batch/b");
    for (target, expected) in [
        ("b", libc::EPERM),
        ("q/nested", libc::EEXIST),
        ("q/.mq/b", libc::EPERM),
        ("q/.mq/claimed/b", libc::EPERM),
        ("q/.mq/dead/b", libc::EPERM),
        ("q/0000000000000099-b", libc::EINVAL),
    ] {
        assert_eq!(errno(rename_noreplace(&batch, &m.path().join(target))), expected, "{target}");
    }
    assert_eq!(errno(set_xattr(batch.join("f"), "user.mq.priority", "high")), libc::EINVAL);
    assert_eq!((listing(&batch), listing(&q).len()), (vec!["f".to_owned()], 2), "all is as it was");
    m.sh("mv q/.mq/batch/b q/.mq/batch/c; mkdir q/.mq/batch/b; mv -T q/.mq/batch/c q/.mq/batch/b; ls q/.mq/batch/*")
        .ok();
}

/// Names in sequence form lose their numbers, as everywhere.
#[test]
fn numbers_in_names_give_way_to_new_ones() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        mkdir q/.mq/batch/b; cd q/.mq/batch/b
        echo 2 > 0000000000000002-x; echo 1 > 0000000000000001-x; echo 3 > 0000000000000003-0000000000000009-y
        mv ../b ../../..
    "#;
    m.sh(script).ok();
    assert_eq!(producers(&q), ["x", "x", "y"]);
    assert_eq!(m.bodies(&q), ["1\n", "2\n", "3\n"]);
}

/// A file can leave a batch, as a message or a draft, and a draft can join one.
#[test]
fn files_move_into_and_out_of_a_batch() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        b=q/.mq/batch/b; mkdir $b $b"2"; echo 1 > $b/one; echo 2 > $b/two; echo 3 > q/.three; echo 4 > $b/four
        mv $b/one q/; mv $b/two q/.two; mv q/.three $b/three; mv $b/four $b"2"/
        ls $b $b"2"
    "#;
    assert_eq!(m.sh(script).ok(), "q/.mq/batch/b:\nthree\n\nq/.mq/batch/b2:\nfour\n");
    assert_eq!((listing(&q).len(), m.bodies(&q)), (2, vec!["1\n".to_owned()]));
    m.sh("mv q/.mq/batch/b q; mv q/.mq/batch/b2 q/").ok();
    assert_eq!(m.bodies(&q), ["1\n", "3\n", "4\n"]);
    assert_eq!(m.sh("cat q/.two").ok(), "2\n");
}

/// "Rename of a batch to another queue's directory: enqueue there"; and a batch moves along with its queue.
#[test]
fn a_batch_can_be_enqueued_elsewhere_and_moves_with_its_queue() {
    let m = Mount::new();
    m.queue_with("small", &["max_message_bytes=2"]);
    let other = m.queue("other");
    m.queue("q");
    m.sh("mkdir q/.mq/batch/b; echo 1 > q/.mq/batch/b/f; echo 22 > q/.mq/batch/b/g").ok();
    m.sh("mv q/.mq/batch/b small/").fails("File too large");
    assert_eq!(m.bodies("small"), [""; 0]);
    m.sh("mv q r; ls r/.mq/batch/b; mv r/.mq/batch/b other/.mq/batch/c; ls r/.mq/batch; rmdir r").ok();
    m.sh("echo 333 > other/.mq/batch/c/h; mv other/.mq/batch/c other/").ok();
    assert_eq!(m.bodies(&other), ["1\n", "22\n", "333\n"]);
    m.sh("mkdir small/.mq/batch/b; echo 333 > small/.mq/batch/b/h").fails("File too large");
}

/// "`cp -r` / tar / rsync into a batch directory work".
#[test]
fn copying_programs_fill_a_batch() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        mkdir $T/src; cd $T/src; for i in 1 2 3 4 5; do echo $i > file$i; done; head -c 100000 /dev/zero > large
        chmod 640 file1; touch -d @1000000000 file2; cd $M/q/.mq/batch
        cp -r $T/src one; cp -a $T/src two
        mkdir three; tar -C $T/src -cf - . | tar -C three -xf -
        rsync -a $T/src/ four; rsync -a --inplace $T/src/ five; rsync -r $T/src/ five
        cmp $T/src/large three/large; stat -c %a four/file1; stat -c %Y two/file2
        for b in *; do ls -A $b | wc -l; mv $b $M/q/; done
    "#;
    assert_eq!(m.sh(script).ok(), "640\n1000000000\n6\n6\n6\n6\n6\n");
    let names: Vec<String> =
        (0..5).flat_map(|_| [1, 2, 3, 4, 5].map(|i| format!("file{i}")).into_iter().chain(["large".into()])).collect();
    assert_eq!(producers(&q), names);
}

/// Batches survive restarts and crashes.
#[test]
fn batches_survive_restart_and_crash() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.sh("mkdir -m 750 q/.mq/batch/b; echo 1 > q/.mq/batch/b/f; head -c 100000 /dev/zero > q/.mq/batch/b/g").ok();
    m.sh("setfattr -n user.mq.content_type -v text/plain q/.mq/batch/b/f").ok();
    for crash in [false, true] {
        if crash {
            m.kill9_and_remount()
        } else {
            m.remount()
        }
        assert_eq!(m.sh("ls q/.mq/batch/b; stat -c %a q/.mq/batch/b; cat q/.mq/batch/b/f").ok(), "f\ng\n750\n1\n");
        assert_eq!((m.stats(&q)["batches"].as_u64(), listing(&q).len()), (Some(1), 0));
    }
    m.sh("mv q/.mq/batch/b q/").ok();
    assert_eq!(m.bodies(&q).iter().map(String::len).collect::<Vec<_>>(), [2, 100_000]);
    assert_eq!(xattr(q.join(&listing(&q)[0]), "user.mq.content_type").as_deref(), Some("text/plain"));
}

/// "`draft_ttl`": a batch goes as a whole, never some of its files, and not while one of them is open.
#[test]
fn an_untouched_batch_goes_as_a_whole_after_draft_ttl() {
    let m = Mount::with_clock("+0");
    let q = m.queue_with("q", &["draft_ttl=1h"]);
    let holder = m.spawn(
        "mkdir q/.mq/batch/b q/.mq/batch/kept; echo 1 > q/.mq/batch/b/f; echo 2 > q/.mq/batch/b/g
         echo 3 > q/.mq/batch/kept/h; exec 3>> q/.mq/batch/kept/i; echo ready; exec sleep 1000",
    );
    wait_until(|| holder.output() == "ready\n");
    m.set_clock("+2h");
    wait_until(|| listing(q.join(".mq/batch")) == ["kept"]);
    wait_until(|| m.log().matches("draft_ttl: batch removed").count() == 1);
    assert_eq!(listing(q.join(".mq/batch/kept")), ["h", "i"]);
    drop(holder);
    assert_eq!(listing(q.join(".mq/batch")), ["kept"]); // mqfs has heard of the close when this is answered
    m.set_clock("+4h");
    wait_until(|| listing(q.join(".mq/batch")).is_empty());
    assert_eq!((m.stats(&q)["batches"].as_u64(), m.bodies(&q).len()), (Some(0), 0));
    wait_until(|| m.body_files().is_empty());
}

/// A read-only mount shows batches and changes none.
#[test]
fn a_read_only_mount_changes_no_batch() {
    let mut m = Mount::new();
    m.queue("q");
    m.sh("mkdir q/.mq/batch/b; echo 1 > q/.mq/batch/b/f").ok();
    m.set_args(&["-o", "ro"]);
    m.remount();
    assert_eq!(m.sh("cat q/.mq/batch/b/f").ok(), "1\n");
    m.sh("mv q/.mq/batch/b q/").fails("Read-only file system");
}

/// A purge of the drafts, or of all, drops batches, except those of which a file is open.
#[test]
fn a_purge_drops_batches_that_nobody_uses() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("mkdir q/.mq/batch/a q/.mq/batch/b; echo 1 > q/.mq/batch/a/f; exec 3> q/.mq/batch/b/f; echo drafts > q/.mq/purge")
        .ok();
    assert_eq!(listing(q.join(".mq/batch")), ["b"]);
    m.sh("echo all > q/.mq/purge; rmdir q").ok();
    wait_until(|| m.body_files().is_empty());
}

/// In a queue with `names = keep` files keep their names, and one that is taken makes the whole batch fail.
#[test]
fn names_that_are_taken_refuse_the_whole_batch() {
    let m = Mount::new();
    let q = m.queue_with("q", &["names=keep"]);
    let long = "n".repeat(250);
    let script = format!(
        "mkdir q/.mq/batch/b; cd q/.mq/batch/b; echo 1 > a; echo 2 > 0000000000000007-x; echo 3 > x; echo 4 > {long}; mv ../b ../../.."
    );
    m.sh(&script).ok();
    let mut names = listing(&q);
    names.sort();
    assert_eq!(names, ["0000000000000007-x", "a", &long, "x"]);
    m.sh("mkdir q/.mq/batch/b; echo new > q/.mq/batch/b/new; echo 5 > q/.mq/batch/b/x").ok();
    assert_eq!(errno(fs::rename(q.join(".mq/batch/b"), q.join("b"))), libc::EEXIST);
    assert_eq!((listing(&q).len(), listing(q.join(".mq/batch/b")).len()), (4, 2));
    m.sh("rm q/x; mv q/.mq/batch/b q/; cat q/new q/x").ok();
}

/// Whoever waits for a message is served by a batch too.
#[test]
fn a_batch_wakes_those_who_wait() {
    let m = Mount::new();
    m.queue("q");
    let waiting: Vec<_> = (0..3).map(|_| m.spawn("cat q/.mq/pop")).collect();
    wait_until(|| m.stats("q")["waiting"] == 3);
    m.sh("mkdir q/.mq/batch/b; for i in 1 2 3; do echo $i > q/.mq/batch/b/$i; done; mv q/.mq/batch/b q/").ok();
    let mut served: Vec<String> = waiting.into_iter().map(|worker| worker.finish().ok().to_owned()).collect();
    served.sort();
    assert_eq!(served, ["1\n", "2\n", "3\n"]);
}

/// The attributes of a batch's files are bounded, too: they are enqueued in one step, for which all others wait.
#[test]
fn a_batch_with_too_many_attributes_is_refused() {
    let m = Mount::new();
    let q = m.queue("q");
    m.python(
        "import os\nos.mkdir('q/.mq/batch/b')\nfor n in range(1100):\n with open(f'q/.mq/batch/b/{n}', 'w') as file: os.setxattr(file.fileno(), 'user.x', b'x' * 63000)",
    )
    .ok();
    m.sh("mv q/.mq/batch/b q/").fails("No space left on device");
    assert!(m.log().contains("attributes are too long"), "{}", m.log());
    assert_eq!((listing(&q).len(), listing(q.join(".mq/batch/b")).len()), (0, 1100));
    m.sh("rm q/.mq/batch/b/1??; mv q/.mq/batch/b q/").ok();
    assert_eq!(listing(&q).len(), 1000);
}

/// The files of a batch are bounded, as all others wait while they are enqueued: by 10,000, unless the mount says another number.
/// One that was made when it might have more is not enqueued, and loses nothing.
#[test]
fn a_batch_has_no_more_files_than_the_mount_says() {
    const FULL: &str = "No space left on device";
    let mut m = Mount::with(&["-o", "batch_files=3"]);
    let q = m.queue("q");
    let lines = |m: &Mount| m.log().matches("more files than the mount option batch_files allows").count();
    m.sh("mkdir q/.mq/batch/b; touch q/.mq/batch/b/1 q/.mq/batch/b/2 q/.mq/batch/b/3 q/.d").ok();
    m.sh("touch q/.mq/batch/b/4").fails(FULL);
    assert_eq!(errno(fs::rename(q.join(".d"), q.join(".mq/batch/b/4"))), libc::ENOSPC);
    assert_eq!(lines(&m), 2, "{}", m.log());
    m.sh("mv q/.mq/batch/b/1 q/.mq/batch/b/0; mv q/.d q/.mq/batch/b/0").ok();
    m.stop();
    m.set_args(&["-o", "batch_files=2"]);
    m.start();
    m.sh("mv q/.mq/batch/b q/").fails(FULL);
    assert_eq!((listing(&q).len(), listing(q.join(".mq/batch/b")).len(), lines(&m)), (0, 3, 3), "{}", m.log());
    m.sh("touch q/.mq/batch/b/4").fails(FULL);
    m.sh("rm q/.mq/batch/b/0; mv q/.mq/batch/b q/").ok();
    assert_eq!(producers(&q), ["2", "3"]);
}

/// A queue that is full or paused says so to who enqueues a batch, as to anybody else, and all of it stays in the batch.
#[test]
fn a_full_or_paused_queue_refuses_a_batch() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("mkdir q/.mq/batch/b && touch q/.mq/batch/b/1 q/.mq/batch/b/2 && echo one > q/one").ok();
    for (config, words) in [
        ("max_messages=2", "Disk quota exceeded"),
        ("max_messages=0\nmax_bytes=3", "Disk quota exceeded"),
        ("max_bytes=0\npaused=in", "Resource temporarily unavailable"),
    ] {
        m.set("q", config);
        let rejected = m.stats(&q)["rejected_total"].as_u64().unwrap();
        m.sh("mv q/.mq/batch/b q/").fails(words);
        assert_eq!(listing(q.join(".mq/batch/b")), ["1", "2"]);
        assert_eq!(producers(&q), ["one"]);
        assert!(m.stats(&q)["rejected_total"].as_u64().unwrap() > rejected, "{config}");
    }
    m.set("q", "paused=no");
    m.sh("mv q/.mq/batch/b q/").ok();
    assert_eq!(producers(&q), ["one", "1", "2"]);
}
