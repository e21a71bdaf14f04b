//! Names: the listing is the order of delivery, the producer's name is kept, and numbers stand for messages for ever.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::SystemTime;

use crate::common::{Mount, errno, listing, names, only, producer, producers};

/// "the listing, the shell's `*` and `ls` are in delivery order", whatever the producers' names.
#[test]
fn ls_and_the_shells_star_are_in_delivery_order() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("for n in z y x 9 10 A _ b a; do echo $n > q/$n; done").ok();
    let expected = ["z", "y", "x", "9", "10", "A", "_", "b", "a"];
    assert_eq!(producers(&q), expected, "readdir");
    let lines = expected.join("\n") + "\n";
    assert_eq!(m.sh("ls q | cut -c18-").ok(), lines);
    assert_eq!(m.sh("ls -U q | cut -c18-").ok(), lines);
    assert_eq!(m.sh("cd q; for f in *; do echo ${f#*-}; done").ok(), lines);
    assert_eq!(m.sh("cat q/*").ok(), lines, "delivered");
}

/// "Sequence numbers are unique in the store and grow; a queue's own have gaps."
#[test]
fn sequence_numbers_are_unique_in_the_store_and_grow() {
    let mut m = Mount::new();
    let (q, r) = (m.queue("q"), m.queue("r"));
    let mut seen = Vec::new();
    for round in 0..3 {
        m.sh("for i in 1 2 3; do echo > q/x; echo > r/x; echo > q/.d; mv q/.d q/x; done").ok();
        let mut now: Vec<u64> = [&q, &r].iter().flat_map(|dir| listing(dir)).map(|name| number(&name)).collect();
        now.sort();
        assert_eq!(now.len(), 9);
        let before = seen.last().copied().unwrap_or(0);
        assert!(now[0] > before, "round {round}: {now:?} after {before}");
        assert!(now.windows(2).all(|pair| pair[0] < pair[1]), "{now:?}");
        seen.extend(now);
        m.sh("rm q/* r/*").ok();
        // Neither the acks nor a restart or a crash bring a number back.
        if round == 0 { m.remount() } else { m.kill9_and_remount() }
    }
}

fn number(name: &str) -> u64 {
    name[..16].parse().unwrap()
}

/// "The producer's name is kept after the dash, so `*.csv` works."
#[test]
fn patterns_on_the_producers_name_work() {
    let m = Mount::new();
    m.queue("q");
    m.sh("for n in a.csv b.txt c.csv; do echo $n > q/$n; done").ok();
    assert_eq!(m.sh("cat q/*.csv").ok(), "a.csv\nc.csv\n");
    assert_eq!(m.sh("find q -name '*.txt' -exec cat {} +").ok(), "b.txt\n");
}

/// The producer's name is any that a file can have: bytes, not text.
#[test]
fn any_name_that_a_file_can_have_is_kept() {
    let m = Mount::new();
    let q = m.queue("q");
    let odd: &[&[u8]] = &[
        b"two words",
        b" leading and trailing ",
        b"new\nline",
        b"\n",
        b"'single' \"double\" `back` $HOME \\",
        b"-rf",
        b"--help",
        b"*",
        b"a?[b]{c}",
        "h\u{e9}llo w\u{f6}rld \u{1f600}".as_bytes(),
        "e\u{301}".as_bytes(),
        b"\xff\xfe invalid \x80",
        b"\x01\x7f\t\r",
        b"42-a",
        b"a.",
        b"~",
        b"mq",
        b"con.csv:x|y<z>",
    ];
    for name in odd {
        m.put(q.join(OsStr::from_bytes(name)), name);
    }
    let listed = names(&q);
    let stripped: Vec<_> = listed.iter().map(|name| &name.as_bytes()[17..]).collect();
    assert_eq!(stripped, odd);
    for (name, body) in listed.iter().zip(odd) {
        assert_eq!(crate::common::try_xattr(q.join(name), "user.mq.name").unwrap(), *body);
        assert_eq!(fs::read(q.join(name)).unwrap(), *body, "{name:?}");
        fs::remove_file(q.join(name)).unwrap();
    }
    assert_eq!(listing(&q), [""; 0]);
}

/// "name too long (238 bytes of the producer's [...]): ENAMETOOLONG".
#[test]
fn a_name_may_have_238_bytes() {
    let m = Mount::new();
    let q = m.queue("q");
    let longest = "n".repeat(238);
    m.put(q.join(&longest), "fits");
    assert_eq!(producers(&q), std::slice::from_ref(&longest));
    assert_eq!(listing(&q)[0].len(), 255);
    for length in [239, 255, 256, 1000] {
        let path = q.join("n".repeat(length));
        assert_eq!(errno(fs::File::create(path)), libc::ENAMETOOLONG, "{length}");
    }
    // What counts is what is kept: the prefix of a message that is copied or moved in is not.
    m.put(q.join(format!("0000000000009999-{longest}")), "again");
    assert_eq!(producers(&q), [longest.clone(), longest.clone()]);
    // A draft is listed as it is, so it may be as long as any file's name; published, it must fit.
    let draft = q.join(format!(".{}", "d".repeat(254)));
    m.put(&draft, "draft");
    assert_eq!(errno(fs::rename(&draft, q.join("n".repeat(239)))), libc::ENAMETOOLONG);
    fs::rename(&draft, q.join(&longest)).unwrap();
    assert_eq!(m.bodies(&q), ["fits", "again", "draft"]);
}

/// touch of a message that is there changes its time, under either name, and makes no second message.
#[test]
fn touch_of_a_message_makes_no_second_one() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo x > q/a; touch -d '2001-02-03 04:05:06 UTC' q/0*").ok();
    assert_eq!(listing(&q).len(), 1);
    let modified = fs::metadata(only(&q)).unwrap().modified().unwrap();
    assert_eq!(modified.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(), 981_173_106);
    m.sh("touch q/a").ok();
    assert_eq!(m.bodies(&q), ["x\n"], "by its bare name");
}

/// "opening such a name with plain O_CREAT (as `touch` does) when its message is gone answers ENOENT."
#[test]
fn touch_of_a_gone_sequence_name_is_enoent() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo x > q/a; cd q; f=$(echo 0*); rm $f; touch $f").fails("No such file or directory");
    m.sh("touch q/0000000000000042-a").fails("No such file or directory");
    m.sh("touch q/0000000000000042").fails("No such file or directory");
    assert_eq!(m.bodies(&q), [""; 0]);
}

/// "Names of 16 digits whose number was never given out are ordinary names": those of programs that name files by the time.
#[test]
fn digits_that_are_no_messages_number_are_an_ordinary_name() {
    let m = Mount::new();
    let (q, r) = (m.queue("q"), m.queue("r"));
    let script = "now=$(date +%s%6N)
        touch q/$now; echo $now >> q/${now}1; echo y > q/$((now + 1)); touch q/$now-a; echo d > q/.d; mv q/.d q/$((now + 2))
        stat -c %s q/$((now + 1)); echo $now";
    let out = m.session(script).ok().to_owned();
    let now: u64 = out.lines().last().unwrap().parse().unwrap();
    assert_eq!(out.lines().next(), Some("2"), "by the name that it was given");
    let expected = [now.to_string(), format!("{now}1"), (now + 1).to_string(), "a".into(), (now + 2).to_string()];
    assert_eq!(producers(&q), expected);
    assert_eq!(m.bodies(&q), ["", &format!("{now}\n"), "y\n", "", "d\n"]);
    // They stay what they are in other queues, copied or moved.
    m.sh("mv q/* r/").ok();
    assert_eq!(producers(&r), expected);
    fs::write(m.scratch().join(now.to_string()), "put").unwrap();
    m.sh(&format!("{} put r $T/{now}", env!("CARGO_BIN_EXE_mqfs"))).ok();
    assert_eq!(producers(&r).last(), Some(&now.to_string()));
    assert_eq!(errno(fs::create_dir(q.join(now.to_string()))), libc::EINVAL, "of no queue, which a message may hide");
}

/// "A component longer than 255 bytes is ENAMETOOLONG in every call", as on other filesystems.
#[test]
fn a_component_has_at_most_255_bytes_in_every_call() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo x > q/x; echo d > q/.d").ok();
    let message = only_message(&q);
    for name in ["n".repeat(256), format!(".{}", "d".repeat(1000))] {
        for dir in [m.path(), &q, &q.join(".mq"), &q.join(".mq/claimed"), &q.join(".mq/with"), &q.join(".mq/batch")] {
            let long = dir.join(&name);
            let long = long.as_path();
            let calls: [(&str, std::io::Result<()>); 9] = [
                ("stat", fs::symlink_metadata(long).map(drop)),
                ("open", fs::File::open(long).map(drop)),
                ("create", fs::File::create(long).map(drop)),
                ("mkdir", fs::create_dir(long)),
                ("unlink", fs::remove_file(long)),
                ("rmdir", fs::remove_dir(long)),
                ("rename from", fs::rename(long, q.join("x"))),
                ("rename to", fs::rename(&message, long)),
                ("link", fs::hard_link(q.join(".d"), long)),
            ];
            for (call, result) in calls {
                assert_eq!(errno(result), libc::ENAMETOOLONG, "{call} {}", long.display());
            }
        }
    }
    assert_eq!(m.bodies(&q), ["x\n"]);
}

fn only_message(q: &std::path::Path) -> std::path::PathBuf {
    q.join(listing(q).into_iter().find(|name| !name.starts_with('.')).unwrap())
}

/// "The 16 digits alone resolve too."
#[test]
fn the_sixteen_digits_alone_resolve() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("printf body > q/a").ok();
    let digits = listing(&q)[0][..16].to_owned();
    assert_eq!(m.session(&format!("stat -c %s q/{digits}; cat q/{digits}; rm q/{digits}")).ok(), "4\nbody");
    assert_eq!(m.bodies(&q), [""; 0]);
}

/// A sequence name resolves as a whole: not with another producer's name, another length, or in another queue.
#[test]
fn only_the_right_sequence_name_resolves() {
    let m = Mount::new();
    let (q, r) = (m.queue("q"), m.queue("r"));
    m.sh("echo x > q/a").ok();
    let name = listing(&q).remove(0);
    let digits = &name[..16];
    for wrong in [format!("{digits}-b"), format!("{digits}-"), format!("{digits}a"), digits[1..].to_owned() + "-a"] {
        assert_eq!(errno(fs::metadata(q.join(&wrong))), libc::ENOENT, "{wrong}");
    }
    assert_eq!(errno(fs::metadata(r.join(&name))), libc::ENOENT);
    assert_eq!(errno(fs::metadata(m.path().join(&name))), libc::ENOENT);
    fs::metadata(q.join(&name)).unwrap();
}

/// "A name in sequence form loses its prefix when it is created or moved into a queue and gets a new one".
#[test]
fn copies_and_moves_lose_the_old_sequence_number() {
    let m = Mount::new();
    let (q, r) = (m.queue("q"), m.queue("r"));
    m.sh("echo x > q/a.csv").ok();
    let first = listing(&q).remove(0);
    m.sh("cp q/0* r/; mv q/.mq/claimed/0* q/; mv q/0* r/").ok();
    let copies = listing(&r);
    assert_eq!(producers(&r), ["a.csv", "a.csv"]);
    assert!(copies.iter().all(|name| number(name) > number(&first)), "{copies:?} after {first}");
    // Out of the mount and back, as an operator does with a dead letter.
    m.sh("mv r/0* $T/ && ls $T && mv $T/0* q/").ok();
    assert_eq!(producers(&q), ["a.csv", "a.csv"]);
    assert_eq!(m.bodies(&q), ["x\n", "x\n"]);
    // Prefixes do not pile up, and digits alone leave no name.
    m.put(q.join("0000000000000001-0000000000000002-b"), "");
    m.put(q.join("0000000000000003"), "");
    assert_eq!(producer(&listing(&q)[2]), "b");
    assert_eq!(listing(&q)[3].len(), 16);
}

/// "`.mq` is the only reserved name": it is never listed, and nothing can take its place.
#[test]
fn mq_is_the_only_reserved_name() {
    let m = Mount::new();
    let q = m.queue("q");
    for dir in [m.path(), &q] {
        assert!(!listing(dir).contains(&".mq".to_owned()), "{}", dir.display());
        assert!(dir.join(".mq").is_dir());
        assert_eq!(errno(fs::create_dir(dir.join(".mq"))), libc::EEXIST);
        assert_eq!(errno(fs::write(dir.join(".mq"), "x")), libc::EISDIR);
    }
    m.sh("echo d > q/.d; mv -T q/.d q/.mq").fails("");
    m.sh("rmdir q/.mq").fails("");
    m.sh("mv q/.mq q/x").fails("");
    m.sh("rm q/.d; mkdir q/.mqx; echo x > q/mq").ok();
    assert_eq!(listing(&q).len(), 2);
    assert_eq!(m.sh("find . -name .mq; grep -r x . | wc -l").ok(), "1\n");
}

/// A queue's name and a message's do not collide: where a queue is, a file of that name is EISDIR.
#[test]
fn a_nested_queue_hides_no_message_and_takes_no_bytes() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo message > q/a; mkdir q/b").ok();
    m.sh("echo x > q/b").fails("Is a directory");
    m.sh("echo d > q/.d; mv -T q/.d q/b").fails("");
    m.sh("rm q/.d").ok();
    m.session("mkdir q/a; echo inside > q/a/x").ok();
    assert_eq!(m.bodies("q/a"), ["inside\n"]);
    assert_eq!(m.bodies(&q), ["message\n"]);
}

/// Names compare by bytes: case and normal forms are told apart.
#[test]
fn names_compare_by_bytes() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo lower > q/a; echo upper > q/A").ok();
    assert_eq!(m.sh("cat q/A q/a").ok(), "upper\nlower\n");
    let raw: Vec<OsString> = names(&q);
    assert!(raw.iter().all(|name| name.clone().into_vec().len() == 18));
}
