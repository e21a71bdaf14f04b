//! Queues are directories: making, listing, renaming and removing them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use crate::common::*;
use crate::extra::*;

fn config(queue: &Path) -> String {
    fs::read_to_string(control(queue, "config")).unwrap()
}

/// The value of a key in `.mq/config`.
fn key(queue: &Path, name: &str) -> String {
    let text = config(queue);
    let pairs = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    let mut found = pairs.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned());
    let value = found.next().unwrap_or_else(|| panic!("no {name} in {text:?}"));
    assert_eq!(found.next(), None, "{name} twice");
    value
}

/// "mkdir makes a queue (names that begin with '.' too); queues nest (orders/eu is another queue)"
#[test]
fn mkdir_makes_queues_that_nest() {
    let m = Mount::new();
    m.sh("mkdir -p orders/eu/de .spool 'with space' -- -dash $'new\\nline'").ok();
    let mut top = listing(m.path());
    top.sort();
    assert_eq!(top, ["-dash", ".spool", "new\nline", "orders", "with space"]);
    for queue in ["orders", "orders/eu", "orders/eu/de", ".spool", "with space", "./-dash", "new\nline"] {
        m.put(m.path().join(queue).join("a"), queue);
        assert_eq!(m.bodies(queue), [queue], "each is a queue of its own");
        assert_eq!(m.stats(queue)["ready"].as_u64(), Some(1), "{queue}");
    }
    let mut eu = listing(m.path().join("orders/eu"));
    eu.retain(|name| name != "de");
    assert_eq!(eu.len(), 1, "{eu:?}");
    assert_eq!(errno(fs::create_dir(m.path().join("orders"))), libc::EEXIST);
    assert_eq!(errno(fs::create_dir(m.path().join("none/x"))), libc::ENOENT);
}

/// "`.mq` is the only reserved name."
#[test]
fn mq_is_the_only_reserved_name() {
    let m = Mount::new();
    let q = m.queue("q");
    assert_eq!(errno(fs::create_dir(q.join(".mq"))), libc::EEXIST);
    assert_eq!(errno(fs::create_dir(m.path().join(".mq"))), libc::EEXIST);
    assert!([libc::EPERM, libc::EBUSY, libc::ENOTEMPTY].contains(&errno(fs::remove_dir(q.join(".mq")))));
    assert_eq!(errno(fs::create_dir(control(&q, "x"))), libc::EPERM);
    assert_eq!(errno(fs::create_dir(control(&q, "claimed/x"))), libc::EPERM);
    assert!([libc::EPERM, libc::EEXIST].contains(&errno(fs::rename(&q, m.path().join(".mq")))));
    for name in [".mqx", ".m", "mq", "claimed", "dead", "config", "stats"] {
        fs::create_dir(q.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    assert_eq!(listing(&q).len(), 7);
}

/// "`.mq/` the queue's control directory (resolvable, never listed by its parent)": "As it is never listed, `rm -r`,
/// `cp -r`, `find`, `grep -r` do not walk into it."
#[test]
fn mq_is_never_listed_but_resolves() {
    let m = Mount::new();
    let q = m.queue("q");
    m.queue("q/inner");
    let a = m.message(&q, "a", "needle\n");
    let b = m.message(&q, "b", "needle\n");
    transition(&q, "claimed", &b);
    for path in [q.clone(), q.join("inner"), m.path().into()] {
        assert!(!listing(&path).contains(&".mq".to_owned()));
        assert!(path.join(".mq").is_dir(), "{}", path.display());
        assert!(path.join(".mq/stats").is_file(), "{}", path.display());
    }
    for part in ["config", "stats", "claimed", "dead", "peek"] {
        assert!(control(&q, part).exists(), "{part}");
    }
    let name = a.file_name().unwrap().to_str().unwrap();
    assert_eq!(m.sh("find q | sort").ok(), format!("q\nq/{name}\nq/inner\n"));
    assert_eq!(m.sh("ls -A q; ls -a q | head -n 2").ok(), format!("{name}\ninner\n.\n..\n"));
    assert_eq!(m.worker("grep -r needle q; true").ok(), format!("q/{name}:needle\n"), "the claimed one is not read");
    transition_back(&q, &a);
    assert_eq!(m.sh("cd q/.mq; ls -d claimed; cd ..; basename \"$PWD\"").ok(), "claimed\nq\n");
    m.sh("cp -r q $T/copy").ok();
    assert_eq!(m.sh("find $T/copy -mindepth 1 -printf '%P\\n' | sort").ok(), format!("{name}\ninner\n"));
}

fn transition_back(queue: &Path, message: &Path) {
    fs::rename(within(queue, "claimed", message), message).unwrap();
}

/// "ENOTEMPTY | rmdir of a queue that still holds anything": in any state, drafts and nested queues too.
#[test]
fn rmdir_refuses_while_anything_is_there() {
    let m = Mount::new();
    let q = m.queue("q");
    let refused = |what: &str| {
        assert_eq!(errno(fs::remove_dir(&q)), libc::ENOTEMPTY, "{what}");
        m.sh("rmdir q").fails("Directory not empty");
    };
    let a = m.message(&q, "a", "body");
    refused("ready");
    let claimed = transition(&q, "claimed", &a);
    refused("claimed");
    let dead = transition(&q, "dead", &claimed);
    refused("dead");
    fs::remove_file(dead).unwrap();
    fs::write(q.join(".draft"), "").unwrap();
    refused("a draft");
    fs::remove_file(q.join(".draft")).unwrap();
    m.queue("q/inner");
    refused("a nested queue");
    fs::remove_dir(q.join("inner")).unwrap();
    let open = fs::File::create(q.join("b")).unwrap();
    let removed = fs::remove_dir(&q);
    drop(open);
    match removed {
        Ok(()) => panic!("removed under an open writer"),
        Err(error) => assert!([libc::ENOTEMPTY, libc::EBUSY].contains(&error.raw_os_error().unwrap()), "{error}"),
    }
    wait_until(|| listing(&q).len() == 1);
    fs::remove_file(only(&q)).unwrap();
    fs::remove_dir(&q).unwrap();
    assert_eq!(listing(m.path()), Vec::<String>::new());
    assert_eq!(errno(fs::metadata(control(&q, "config"))), libc::ENOENT);
}

/// "`rm -r q` acks what is ready and then fails with ENOTEMPTY while `.mq` still holds something"
#[test]
fn rm_r_acks_what_is_ready() {
    let m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 3);
    let kept = transition(&q, "claimed", &q.join(&listing(&q)[1]));
    m.queue("q/inner");
    m.message(&q.join("inner"), "x", "x");
    m.sh("rm -r q").fails("Directory not empty");
    assert_eq!(listing(&q), Vec::<String>::new());
    assert_eq!(m.bodies("q"), ["m1"], "what is claimed stays");
    fs::remove_file(kept).unwrap();
    m.sh("rm -r q").ok();
    assert!(!q.exists());
}

/// A queue that was made again under the name of one that was removed is a new one.
#[test]
fn a_queue_made_again_is_new() {
    let m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=7s"]);
    let a = m.message(&q, "a", "body");
    fs::remove_file(&a).unwrap();
    fs::remove_dir(&q).unwrap();
    m.queue("q");
    assert_eq!(key(&q, "visibility_timeout"), "30s");
    assert_eq!(m.stats("q")["enqueued_total"].as_u64(), Some(0));
    let b = m.message(&q, "a", "body");
    assert!(b > a, "sequence numbers are the store's and grow: {} {}", a.display(), b.display());
}

/// A queue with all that is in it is renamed in one step: messages, states, drafts, configuration, nested queues.
#[test]
fn renaming_a_queue_takes_everything_along() {
    let mut m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=77s"]);
    m.fill(&q, 4);
    let all = listing(&q);
    transition(&q, "claimed", &q.join(&all[1]));
    transition(&q, "dead", &q.join(&all[2]));
    fs::write(q.join(".draft"), "draft").unwrap();
    m.queue("q/inner");
    m.message(&q.join("inner"), "x", "x");
    m.queue("box");

    m.sh("mv q renamed").ok();
    let check = |m: &Mount, path: &str| {
        let q = m.path().join(path);
        assert_eq!(m.bodies(path), ["m0", "m1", "m2", "m3"]);
        assert_eq!(state(&q, &q.join(&all[1])).as_deref(), Some("claimed"));
        assert_eq!(state(&q, &q.join(&all[2])).as_deref(), Some("dead"));
        assert_eq!(fs::read_to_string(q.join(".draft")).unwrap(), "draft");
        assert_eq!(m.bodies(q.join("inner")), ["x"]);
        assert_eq!(key(&q, "visibility_timeout"), "77s");
    };
    assert!(!q.exists());
    check(&m, "renamed");
    m.sh("mv renamed box/").ok();
    check(&m, "box/renamed");
    assert_eq!(listing(m.path()), ["box"]);
    m.remount();
    check(&m, "box/renamed");
    m.sh("mv box/renamed .").ok();
    check(&m, "renamed");
    fs::remove_dir(m.path().join("box")).unwrap();
    assert_eq!(m.sh("cat renamed/*-m0").ok(), "m0");
}

/// As in every filesystem, rename(2) replaces an empty directory and refuses one that is not empty or lies below.
#[test]
fn renaming_onto_and_into() {
    let m = Mount::new();
    let (q, empty, full) = (m.queue("q"), m.queue("empty"), m.queue("full"));
    m.message(&q, "a", "body");
    let x = m.message(&full, "x", "other");
    transition(&full, "dead", &x);
    assert_eq!(errno(fs::rename(&q, &full)), libc::ENOTEMPTY, "full only in .mq");
    assert_eq!(errno(rename_noreplace(&q, &empty)), libc::EEXIST);
    fs::rename(&q, &empty).unwrap();
    assert_eq!(m.bodies("empty"), ["body"]);
    assert!(!q.exists());
    m.queue("empty/inner");
    assert_eq!(errno(fs::rename(&empty, empty.join("inner/deeper"))), libc::EINVAL);
    assert_eq!(errno(fs::rename(&empty, empty.join("inner"))), libc::EINVAL);
    m.sh("mv empty empty/inner").fails("subdirectory of itself");
    assert_eq!(errno(fs::rename(empty.join("inner"), &full)), libc::ENOTEMPTY);
    assert_eq!(errno(fs::rename(&full, m.scratch().join("out"))), libc::EXDEV);
    assert_eq!(m.bodies("full"), ["other"]);
}

/// Messages of a renamed queue that are being read go on unharmed.
#[test]
fn renaming_a_queue_under_a_reader_and_a_writer() {
    use std::io::{Read, Write};
    let m = Mount::new();
    let q = m.queue("q");
    let a = m.message(&q, "a", "x".repeat(200_000));
    let mut reader = fs::File::open(&a).unwrap();
    let mut writer = fs::File::create(q.join("b")).unwrap();
    writer.write_all(b"first ").unwrap();
    fs::rename(&q, m.path().join("p")).unwrap();
    writer.write_all(b"second").unwrap();
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text.len(), 200_000);
    drop(reader);
    assert_eq!(m.bodies("p")[1], "first second");
    m.sh("rm p/.mq/claimed/* p/*-b; rmdir p").ok();
}

/// chmod and chown are those of a directory, and last.
#[test]
fn chmod_and_chown_last() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.sh("chmod 6750 q; chown 12345:54321 q").ok();
    for _ in 0..2 {
        let meta = fs::metadata(&q).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (12345, 54321));
        assert!(meta.is_dir());
        assert_eq!(meta.permissions().mode() & 0o7777, 0o2750, "no set-user-ID bit");
        m.remount();
    }
    fs::set_permissions(&q, fs::Permissions::from_mode(0o1733)).unwrap();
    assert_eq!(fs::metadata(&q).unwrap().permissions().mode() & 0o7777, 0o1733);
    m.sh("chmod u-x,o=r q").ok();
    assert_eq!(m.sh("stat -c %a q").ok(), "634\n");
    chown(&q, Some(0), None).unwrap();
    assert_eq!(fs::metadata(&q).unwrap().gid(), 54321);
}

/// `df` and statfs(2) answer with what the store has room for.
#[test]
fn statfs_answers() {
    let m = Mount::new();
    let q = m.queue("q");
    for path in [m.path(), &q, &control(&q, "claimed")] {
        let script = format!("stat -f -c '%s %b %f %a %l' '{}'; df '{}' | wc -l", path.display(), path.display());
        let ran = m.sh(&script);
        let (numbers, lines) = ran.ok().split_once('\n').unwrap();
        let numbers: Vec<u64> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
        let [block, blocks, free, available, name] = numbers[..] else { panic!("{numbers:?}") };
        assert!(block > 0 && blocks > 0 && free <= blocks && available <= free && available > 0, "{numbers:?}");
        assert!(name >= 238, "room for the longest name: {name}");
        assert_eq!(lines, "2\n");
    }
    let store = m.sh("stat -f -c '%a %S' $T");
    let (available, block) = store.ok().trim().split_once(' ').unwrap();
    let store = available.parse::<u64>().unwrap() * block.parse::<u64>().unwrap();
    let mount = m.sh("stat -f -c '%a %S' .");
    let (available, block) = mount.ok().trim().split_once(' ').unwrap();
    let mount = available.parse::<u64>().unwrap() * block.parse::<u64>().unwrap();
    assert!(mount <= store + store / 10 && mount > store / 2, "{mount} of {store} bytes");
}
