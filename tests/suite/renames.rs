//! "Every other rename gets a clear errno": renames that are no transition.

use std::fs;
use std::path::Path;

use crate::common::*;
use crate::extra::*;

fn is(queue: &Path, message: &Path, expected: &str) {
    assert_eq!(state(queue, message).as_deref(), Some(expected), "{}", message.display());
}

/// "Every other rename gets a clear errno", and changes nothing.
#[test]
fn every_other_rename_has_an_errno_and_changes_nothing() {
    let m = Mount::new();
    let (q, other) = (m.queue("q"), m.queue("other"));
    let ready = m.message(&q, "ready", "ready");
    let second = m.message(&q, "second", "second");
    let claimed = transition(&q, "claimed", &m.message(&q, "claimed", "claimed"));
    let dead = transition(&q, "dead", &m.message(&q, "dead", "dead"));
    let foreign = m.message(&other, "foreign", "foreign");
    fs::write(q.join(".draft"), "draft").unwrap();
    let draft = q.join(".draft");
    let name = |path: &Path| path.file_name().unwrap().to_owned();

    let cases = [
        (&ready, m.path().join("x"), libc::EPERM, "a message to the root"),
        (&ready, m.path().join(name(&ready)), libc::EPERM, "a message to the root, keeping its name"),
        (&claimed, m.path().join("x"), libc::EPERM, "a claimed message to the root"),
        (&draft, m.path().join("x"), libc::EPERM, "a draft to the root"),
        (&ready, q.join(".hidden"), libc::EPERM, "a message to a draft's name"),
        (&ready, other.join(".hidden"), libc::EPERM, "a message to a draft's name elsewhere"),
        (&claimed, q.join(".hidden"), libc::EPERM, "a claimed message to a draft's name"),
        (&ready, within(&other, "claimed", &ready), libc::EPERM, "claimed of another queue"),
        (&ready, within(&other, "dead", &ready), libc::EPERM, "dead of another queue"),
        (&claimed, within(&other, "claimed", &claimed), libc::EPERM, "claimed to another queue's claimed"),
        (&claimed, within(&other, "dead", &claimed), libc::EPERM, "claimed to another queue's dead"),
        (&dead, within(&q, "claimed", &dead), libc::EPERM, "dead to claimed"),
        (&ready, q.join("renamed"), libc::EPERM, "another name within the queue"),
        (&ready, q.join("0000000000000001-other"), libc::EPERM, "another name in sequence form within the queue"),
        (&ready, control(&q, "claimed").join("renamed"), libc::EPERM, "another name when it is claimed"),
        (&claimed, q.join("renamed"), libc::EPERM, "another name when it is given back"),
        (&ready, control(&q, "peek").join("renamed"), libc::EPERM, "into peek"),
        (&within(&q, "peek", &ready), other.join("x"), libc::EPERM, "out of peek"),
        (&ready, control(&q, "x"), libc::EPERM, "into the control directory"),
        (&control(&q, "stats"), q.join("stats"), libc::EPERM, "a control file"),
        (&ready, second.clone(), libc::EEXIST, "onto a message"),
        (&ready, foreign.clone(), libc::EEXIST, "onto a message of another queue"),
        (&claimed, second.clone(), libc::EEXIST, "a claimed message onto a ready one"),
        (&draft, second.clone(), libc::EEXIST, "a draft onto a message"),
        (&ready, m.scratch().join("out"), libc::EXDEV, "out of the mount"),
        (&claimed, m.scratch().join("out"), libc::EXDEV, "out of the mount, claimed"),
        (&draft, m.scratch().join("out"), libc::EXDEV, "out of the mount, a draft"),
        (&q.join("nothing"), other.join("x"), libc::ENOENT, "nothing"),
        (&q.join("0000000000009999-nothing"), other.join("x"), libc::ENOENT, "no such message"),
        (&within(&q, "claimed", &ready), q.join(name(&ready)), libc::ENOENT, "claimed, which it is not"),
        (&within(&q, "dead", &ready), q.join(name(&ready)), libc::ENOENT, "dead, which it is not"),
        (&claimed, m.path().join("none/x"), libc::ENOENT, "to no queue"),
    ];
    let before = (m.messages("q"), m.messages("other"), listing(&q), listing(&other), listing(m.path()));
    for (from, to, expected, what) in &cases {
        for (call, result) in [("rename", fs::rename(from, to)), ("renameat2", rename_noreplace(from, to))] {
            let error = result.expect_err(what);
            assert_eq!(error.raw_os_error(), Some(*expected), "{call} {what}: {error}");
        }
    }
    assert_eq!((m.messages("q"), m.messages("other"), listing(&q), listing(&other), listing(m.path())), before);
    is(&q, &ready, "ready");
    is(&q, &claimed, "claimed");
    is(&q, &dead, "dead");
    assert_eq!(fs::read_to_string(&draft).unwrap(), "draft");
}

/// Exchanging two messages or leaving a whiteout is no transition, and says so without ENOSYS.
#[test]
fn exchange_and_whiteout_are_refused() {
    let m = Mount::new();
    let q = m.queue("q");
    let (a, b) = (m.message(&q, "a", "a"), m.message(&q, "b", "b"));
    for flags in [libc::RENAME_EXCHANGE, libc::RENAME_WHITEOUT] {
        let code = errno(rename_flags(&a, &b, flags));
        assert!([libc::EINVAL, libc::EPERM, libc::EEXIST].contains(&code), "{flags}: {code}");
    }
    assert_eq!(m.bodies("q"), ["a", "b"]);
    rename_noreplace(&a, &within(&q, "claimed", &a)).expect("renameat2 still arrives");
}

/// A message cannot take the place of a queue, nor a queue that of a message.
#[test]
fn messages_and_queues_do_not_replace_each_other() {
    let m = Mount::new();
    let (q, inner) = (m.queue("q"), m.queue("q/inner"));
    let x = m.message(&q, "x", "body");
    assert_eq!(errno(fs::rename(&x, &inner)), libc::EISDIR);
    assert_eq!(errno(fs::rename(&inner, &x)), libc::ENOTDIR);
    assert_eq!(m.bodies("q"), ["body"]);
    assert!(inner.is_dir());
}
