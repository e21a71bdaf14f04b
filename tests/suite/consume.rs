//! Consuming: reading a message claims it, unlinking it acknowledges it.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};

use crate::common::*;
use crate::extra::*;

/// "Opening a ready message for reading, by somebody who may consume, claims it for `visibility_timeout`: it leaves the
/// listing and its delivery count goes up by one."
#[test]
fn reading_claims() {
    let m = Mount::new();
    let q = m.queue("q");
    let a = m.message(&q, "a", "first");
    m.message(&q, "b", "second");
    assert_eq!(state(&q, &a).as_deref(), Some("ready"));
    assert_eq!(deliveries(&q, &a), 0);

    assert_eq!(m.sh(&format!("cat '{}'", a.display())).ok(), "first");

    assert_listed(&q, &["b"]);
    assert_listed(&control(&q, "claimed"), &["a"]);
    assert_eq!(state(&q, &a).as_deref(), Some("claimed"));
    assert_eq!(deliveries(&q, &a), 1);
    let stats = m.stats(&q);
    assert_eq!((stats["ready"].as_u64(), stats["claimed"].as_u64()), (Some(1), Some(1)), "{stats}");
    assert_eq!(xattr(&a, "user.mq.state").as_deref(), Some("claimed"), "the listed name still resolves");
    assert!(xattr(&a, "user.mq.claimed_by").is_some_and(|by| !by.is_empty()));
    assert_eq!(xattr(within(&q, "claimed", &a), "user.mq.deliveries").as_deref(), Some("1"));
}

/// "Opening a ready message for reading [...] claims it": the shell's redirection, and every way a program opens.
#[test]
fn every_open_for_reading_claims() {
    let m = Mount::new();
    let q = m.queue("q");
    let ways = [
        r#"read -r line < "$f"; echo "$line""#,
        r#"exec 5<"$f"; cat <&5"#,
        r#"tail -n 1 "$f""#,
        r#"dd status=none if="$f""#,
        r#"sort "$f""#,
        r#"mapfile lines < "$f"; printf %s "${lines[@]}""#,
        r#"python3 -c 'import sys; print(open(sys.argv[1]).read(), end="")' "$f""#,
        r#"python3 -c 'import mmap, sys; f = open(sys.argv[1], "rb"); print(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[:].decode(), end="")' "$f""#,
        r#"perl -ne print "$f""#,
        r#"cp "$f" "$T/copy"; cat "$T/copy""#,
    ];
    for way in ways {
        m.message(&q, "job", "payload\n");
        assert_eq!(m.sh(&format!("for f in q/*; do {way}; done")).ok(), "payload\n", "{way}");
        assert_listed(&q, &[]);
        let claimed = only(control(&q, "claimed"));
        assert_eq!(deliveries(&q, &claimed), 1, "{way}");
        fs::remove_file(claimed).unwrap();
    }
}

/// Only opening for reading claims: looking at names, sizes and attributes does not.
#[test]
fn looking_claims_nothing() {
    let m = Mount::new();
    let q = m.queue("q");
    let a = m.message(&q, "a.csv", "payload");
    let looks = "ls -l q; stat q/*; test -s q/*.csv; [ -r q/*.csv ]; find q -type f -size +0 -name '*.csv' -newermt 2020-01-01; \
        du -a q; getfattr -d -m - q/*; realpath q/*; ls -i q; find q -printf '%p %s %m %u\\n'";
    m.sh(looks).ok();
    m.python("import glob, os\nfor f in glob.glob('q/*'): os.close(os.open(f, os.O_PATH)); os.stat(f); os.access(f, os.R_OK)").ok();
    assert_eq!(state(&q, &a).as_deref(), Some("ready"));
    assert_eq!(deliveries(&q, &a), 0);
    assert_listed(&q, &["a.csv"]);
}

/// "its delivery count goes up by one", once for a claim, however often its worker opens the message.
#[test]
fn a_claim_counts_once_for_its_worker() {
    let m = Mount::new();
    let q = m.queue("q");
    let a = m.message(&q, "a", "body\n");
    m.sh(r#"for f in q/*; do cat "$f"; cat "$f"; wc -c < "$f"; done"#).ok();
    assert_eq!(deliveries(&q, &a), 1);
    fs::rename(within(&q, "claimed", &a), &a).unwrap();
    m.sh("cat q/*").ok();
    assert_eq!(deliveries(&q, &a), 2, "given back and claimed again");
}

/// "Unlinking acks, whoever does it and whatever the state." "`rm` in any of them is final."
#[test]
fn unlinking_acks_in_every_state() {
    let m = Mount::new();
    let q = m.queue("q");
    for way in ["ready", "claimed by name", "claimed", "dead", "peek"] {
        let a = m.message(&q, "a", "body");
        let path = match way {
            "ready" => a.clone(),
            "peek" => within(&q, "peek", &a),
            "claimed by name" => {
                transition(&q, "claimed", &a);
                a.clone()
            }
            _ => transition(&q, way, &a),
        };
        m.worker(&format!("rm '{}'", path.display())).ok();
        assert_eq!(m.bodies("q"), Vec::<String>::new(), "{way}");
        assert_eq!(state(&q, &a), None, "{way}");
        assert_eq!(errno(fs::symlink_metadata(&a)), libc::ENOENT, "{way}");
        assert_eq!(errno(fs::remove_file(&path)), libc::ENOENT, "{way}: once");
    }
    let stats = m.stats(&q);
    assert_eq!(stats["acked_total"].as_u64(), Some(5), "{stats}");
}

/// "Unlinking acks, whoever does it": also while somebody else works on the message.
#[test]
fn anybody_may_ack_a_message_that_is_being_read() {
    let m = Mount::new();
    let q = m.queue("q");
    let a = m.message(&q, "a", "body");
    let mut holder = m.holder(&a);
    m.worker(&format!("rm '{}'", a.display())).ok();
    assert_eq!(m.bodies("q"), Vec::<String>::new());
    assert!(holder.is_running());
}

/// "Open descriptors stay readable after it", for bodies small and large, read before or not.
#[test]
fn open_descriptors_stay_readable_after_the_ack() {
    let m = Mount::new();
    let q = m.queue("q");
    for length in [1, 4000, 40_000, 5 << 20] {
        let body: Vec<u8> = (0..length).map(|i: usize| (i * 31 % 251) as u8).collect();
        for read_first in [0, 1] {
            let path = m.message(&q, "a", &body);
            let mut file = File::open(&path).unwrap();
            let mut got = vec![0; read_first];
            file.read_exact(&mut got).unwrap();
            fs::remove_file(&path).unwrap();
            file.read_to_end(&mut got).unwrap();
            assert!(got == body, "{length} bytes, {read_first} read before the ack: {} bytes", got.len());
            file.seek(SeekFrom::Start(length as u64 / 2)).unwrap();
            got.clear();
            file.read_to_end(&mut got).unwrap();
            assert!(got == body[length / 2..], "{length} bytes, read again");
            assert_eq!(file.metadata().unwrap().len(), length as u64);
        }
    }
    m.message(&q, "b", "shell\n");
    assert_eq!(m.sh(r#"for f in q/*; do exec 3<"$f"; rm "$f"; cat <&3; done"#).ok(), "shell\n");
    assert_eq!(m.bodies("q"), Vec::<String>::new());
}

/// A descriptor whose lease ended stays readable too, even when another worker has processed the message since.
#[test]
fn a_descriptor_outlives_its_lease() {
    let m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=1s", "max_lease=1s"]);
    let body: Vec<u8> = (0..300_000).map(|i: usize| (i % 241) as u8).collect();
    let path = m.message(&q, "a", &body);
    let mut file = File::open(&path).unwrap();
    let mut got = vec![0; 10];
    file.read_exact(&mut got).unwrap();
    wait_until(|| !listing(&q).is_empty());
    m.worker(r#"for f in q/*; do cat "$f" > /dev/null && rm "$f"; done"#).ok();
    assert_eq!(m.bodies("q"), Vec::<String>::new());
    file.read_to_end(&mut got).unwrap();
    assert!(got == body);
}

/// "rename out of the mount | EXDEV (so `mv` copies, then unlinks: claim, then ack)", and `mv` back in enqueues it again.
#[test]
fn mv_out_of_the_mount_acks_and_mv_back_enqueues() {
    let m = Mount::new();
    let q = m.queue("q");
    let body: Vec<u8> = (0..200_000).map(|i: usize| (i * 7 % 253) as u8).collect();
    for from in ["ready", "claimed", "dead"] {
        let path = m.message(&q, "a.bin", &body);
        let path = if from == "ready" { path } else { transition(&q, from, &path) };
        m.sh(&format!("mv '{}' $T/out", path.display())).ok();
        assert!(fs::read(m.scratch().join("out")).unwrap() == body, "from {from}");
        assert_eq!(m.bodies("q").len(), 0, "from {from}");
    }
    m.sh("mv $T/out q/back.bin").ok();
    assert!(!m.scratch().join("out").exists());
    assert_listed(&q, &["back.bin"]);
    let (name, stored) = &m.messages("q")[0];
    assert!(*stored == body);
    assert_eq!(deliveries(&q, &q.join(name)), 0);
}

/// "Setting a read-only one on an open new file or a draft is accepted and ignored, so that `mv` out of the mount and
/// back works": the headers travel, and what the server says of the message is said anew.
#[test]
fn mv_out_and_back_keeps_headers() {
    let m = Mount::new();
    let q = m.queue("q");
    fs::write(q.join(".draft"), "body").unwrap();
    set_xattr(q.join(".draft"), "user.color", "red").unwrap();
    set_xattr(q.join(".draft"), "user.mq.content_type", "text/plain").unwrap();
    fs::rename(q.join(".draft"), q.join("a")).unwrap();
    let first = only(&q);
    let seq = xattr(&first, "user.mq.seq").unwrap();
    m.sh("mv q/* $T/kept").ok();
    assert_eq!(xattr(m.scratch().join("kept"), "user.color").as_deref(), Some("red"), "copied by mv");
    m.sh("mv $T/kept q/").ok();
    let second = only(&q);
    assert_eq!(producer(second.file_name().unwrap().to_str().unwrap()), "kept");
    assert_eq!(xattr(&second, "user.color").as_deref(), Some("red"));
    assert_eq!(xattr(&second, "user.mq.content_type").as_deref(), Some("text/plain"));
    assert_eq!(xattr(&second, "user.mq.state").as_deref(), Some("ready"));
    assert_eq!(xattr(&second, "user.mq.deliveries").as_deref(), Some("0"));
    assert_ne!(xattr(&second, "user.mq.seq").unwrap(), seq);
}

/// "rename out of the mount [...] (so `mv` copies, then unlinks: claim, then ack)": so do other programs that move files away.
#[test]
fn programs_that_move_files_away_drain_a_queue() {
    let m = Mount::new();
    let q = m.queue("q");
    let programs = [
        "mv q/* $T/out/",
        "find q -type f -exec mv -t $T/out {} +",
        "rsync -a --remove-source-files q/ $T/out/",
        "tar -C q --remove-files -cf - $(ls q) | tar -C $T/out -xf -",
        "for f in q/*; do cp \"$f\" $T/out/ && rm \"$f\"; done",
        "python3 -c 'import glob, os, shutil\nfor f in glob.glob(\"q/*\"): shutil.move(f, os.environ[\"T\"] + \"/out\")'",
        "perl -MFile::Copy -e 'for (glob \"q/*\") { move($_, \"$ENV{T}/out/\") or die $! }'",
        "busybox mv q/* $T/out/",
    ];
    for program in programs {
        m.fill(&q, 12);
        m.message(&q, "large", "L".repeat(300_000));
        m.sh(&format!("mkdir $T/out && {program}")).ok();
        assert_eq!(m.messages("q").len(), 0, "{program}");
        let mut bodies: Vec<usize> = listing(m.scratch().join("out"))
            .iter()
            .map(|name| fs::read(m.scratch().join("out").join(name)).unwrap().len())
            .collect();
        bodies.sort();
        assert_eq!(bodies, [[2; 10].as_slice(), &[3, 3, 300_000]].concat(), "{program}");
        m.sh("rm -r $T/out").ok();
    }
}

/// Claims leave the order of the rest alone, and the listing is what is left.
#[test]
fn claims_take_from_anywhere_in_the_queue() {
    let m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 6);
    assert_eq!(m.sh("cat q/*-m3 q/*-m0 q/*-m5").ok(), "m3m0m5");
    assert_listed(&q, &["m1", "m2", "m4"]);
    assert_listed(&control(&q, "claimed"), &["m0", "m3", "m5"]);
    assert_eq!(m.bodies("q"), ["m0", "m1", "m2", "m3", "m4", "m5"]);
}

/// "An empty file is a message", to the consumer too.
#[test]
fn an_empty_message_is_claimed_and_acked() {
    let m = Mount::new();
    let q = m.queue("q");
    let a = m.message(&q, "a", "");
    assert_eq!(m.sh("cat q/*").ok(), "");
    assert_eq!(state(&q, &a).as_deref(), Some("claimed"));
    m.sh("rm q/.mq/claimed/*").ok();
    assert_eq!(m.bodies("q").len(), 0);
}

/// "The 16 digits alone resolve too": they read, claim and ack.
#[test]
fn the_digits_alone_are_enough() {
    let m = Mount::new();
    let q = m.queue("q");
    let a = m.message(&q, "a name.csv", "body");
    let digits = q.join(&a.file_name().unwrap().to_str().unwrap()[..16]);
    assert_eq!(fs::read_to_string(&digits).unwrap(), "body");
    assert_eq!(state(&q, &a).as_deref(), Some("claimed"));
    assert_eq!(fs::read_to_string(within(&q, "claimed", &digits)).unwrap(), "body");
    assert_eq!(fs::read_to_string(within(&q, "peek", &digits)).unwrap(), "body");
    fs::remove_file(&digits).unwrap();
    assert_eq!(m.bodies("q").len(), 0);
}
