//! "`rename(draft, name)` publishes; `link(draft, name)` publishes and leaves the draft. A draft that is still open for writing
//! when it is renamed is enqueued when its last writer closes."

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::common::{Mount, listing, only, producers, wait_until, xattr};

/// "`rename(draft, name)` publishes": atomically, with bytes, mode, owner and times, and the draft is gone.
#[test]
fn renaming_a_draft_publishes_it() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo body > q/.d; chmod 600 q/.d; chown 12:34 q/.d; touch -d '2001-02-03 04:05:06 UTC' q/.d; mv q/.d q/x")
        .ok();
    assert_eq!(producers(&q), ["x"]);
    let meta = fs::metadata(only(&q)).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime()), (0o600, 12, 34, 981_173_106));
    assert_eq!(m.bodies(&q), ["body\n"]);
    assert_eq!(m.stats(&q)["drafts"], 0);
    assert_eq!(m.sh("cat q/x").ok(), "body\n", "the bare name works for the session that published");
}

/// The place in the queue is that of the rename, not of the draft's creation.
#[test]
fn the_order_is_that_of_the_renames() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo a > q/.a; echo b > q/.b; echo c > q/c; mv q/.b q/b; mv q/.a q/a").ok();
    assert_eq!(producers(&q), ["c", "b", "a"]);
}

/// Publishing under a name that the session has written already makes a second message, as every write does.
#[test]
fn publishing_one_name_again_makes_a_second_message() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("for i in 1 2 3; do echo $i > q/.d; mv q/.d q/x; done").ok();
    m.python("import os\nopen('q/.d', 'w').write('4\\n')\nos.replace('q/.d', 'q/x')").ok();
    assert_eq!(m.bodies(&q), ["1\n", "2\n", "3\n", "4\n"]);
    assert_eq!(producers(&q), ["x"; 4]);
}

/// "In a `sequence` queue a rename onto an existing message fails with EEXIST", and the draft stays.
#[test]
fn a_rename_onto_an_existing_message_fails_with_eexist() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo old > q/x; echo new > q/.d").ok();
    let message = only_message(&q);
    let error = fs::rename(q.join(".d"), q.join(&message)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
    assert_eq!(m.bodies(&q), ["old\n"]);
    assert_eq!(fs::read_to_string(q.join(".d")).unwrap(), "new\n");
}

fn only_message(q: &std::path::Path) -> String {
    let mut all = listing(q);
    all.retain(|name| !name.starts_with('.'));
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// "`link(draft, name)` publishes and leaves the draft."
#[test]
fn linking_a_draft_publishes_and_leaves_it() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo one > q/.d; ln q/.d q/x; echo two >> q/.d; ln q/.d q/y; cat q/.d").ok();
    assert_eq!(m.bodies(&q), ["one\n", "one\ntwo\n"], "a message does not change when its draft does");
    assert!(listing(&q).contains(&".d".to_owned()));
    m.sh("rm q/.d").ok();
    assert_eq!(m.bodies(&q), ["one\n", "one\ntwo\n"]);
    m.sh("head -c 100000 /dev/zero > q/.large; ln q/.large q/z; rm q/.large").ok();
    assert_eq!(m.bodies(&q)[2].len(), 100_000);
    assert_eq!(producers(&q), ["x", "y", "z"]);
}

/// Only a draft can be linked: a message has one place.
#[test]
fn messages_and_foreign_files_cannot_be_linked() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo x > q/x; echo d > q/.d").ok();
    m.sh("ln q/0* q/y").fails("Operation not permitted");
    m.sh("ln q/0* q/.copy").fails("Operation not permitted");
    m.sh("echo f > $T/f; ln $T/f q/f").fails("Invalid cross-device link");
    assert_eq!(listing(&q).len(), 2);
}

/// A draft may be published straight into another queue.
#[test]
fn a_draft_can_be_published_into_another_queue() {
    let m = Mount::new();
    let (q, r) = (m.queue("q"), m.queue("r"));
    m.sh("echo x > q/.x; mv q/.x r/x; echo y > q/.y; ln q/.y r/y").ok();
    assert_eq!(m.bodies(&r), ["x\n", "y\n"]);
    assert_eq!(listing(&q), [".y"]);
}

/// "A draft that is still open for writing when it is renamed is enqueued when its last writer closes."
#[test]
fn a_draft_renamed_while_open_is_enqueued_at_its_last_close() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        exec 3> q/.d 4>> q/.d
        echo before >&3
        mv q/.d q/x
        echo "listed: [$(ls -A q)] peek: [$(ls q/.mq/peek)]"
        echo after >&4
        exec 3>&-
        echo "one closed: [$(ls -A q)]"
        exec 4>&-
        ls q | wc -l
    "#;
    assert_eq!(m.sh(script).ok(), "listed: [] peek: []\none closed: []\n1\n");
    assert_eq!(producers(&q), ["x"]);
    assert_eq!(m.bodies(&q), ["before\nafter\n"]);
}

/// Until then those who gave it its name find it by that, as any message that they are writing: it can be looked at, read and
/// given a mode, opening it to write makes another message where names are given by mqfs, and unlinking it drops it.
#[test]
fn a_draft_renamed_while_open_is_found_by_its_new_name() {
    for names in ["sequence", "keep"] {
        let m = Mount::new();
        let q = m.queue_with("q", &[&format!("names={names}")]);
        let script = r#"
            exec 3> q/.d
            printf one >&3
            mv q/.d q/x
            stat -c %s q/x
            chmod 640 q/x && setfattr -n user.color -v red q/x && cat q/x && echo
            setsid -w cat q/x 2>&1 | grep -o 'No such file'
            mv q/x q/y 2>&1 | grep -o 'busy'
            mkdir q/x 2>&1 | grep -o 'File exists'
            printf two >&3
            touch -d 2001-02-03T04:05:06Z q/x
            (exec 3>&-; rm q/x 2>&1 | grep -o 'No such file')
            exec 3>&-
        "#;
        assert_eq!(m.session(script).ok(), "3\none\nNo such file\nbusy\nFile exists\nNo such file\n", "{names}");
        let x = only(&q);
        assert_eq!(
            (fs::metadata(&x).unwrap().mode() & 0o777, xattr(&x, "user.color").as_deref()),
            (0o640, Some("red"))
        );
        assert_eq!(fs::metadata(&x).unwrap().mtime(), 981_173_106);
        assert_eq!(m.bodies(&q), ["onetwo"], "{names}");
        m.sh("echo all > q/.mq/purge").ok();
        // The one who has it open unlinks it, and goes on with what is an unlinked file.
        m.session(
            "exec 3> q/.d; printf one >&3; mv q/.d q/x; rm q/x; printf two >&3; ls -A q; stat -L -c %s /dev/fd/3",
        )
        .ok();
        assert_eq!((m.stats("q")["aborted_total"].as_u64(), m.bodies(&q).len()), (Some(1), 0), "{names}");
        assert_eq!(m.stats("q")["drafts"], 0);
        let again = m.session("exec 3> q/.d; printf one >&3; mv q/.d q/x; echo more > q/x; exec 3>&-");
        match names {
            "keep" => assert!(again.stderr.contains("File exists") && m.bodies(&q) == ["one"], "{again:?}"),
            _ => assert_eq!((again.ok(), m.bodies(&q)), ("", vec!["more\n".into(), "one".into()])),
        }
        assert!(!m.log().contains("could not be enqueued"), "{}", m.log());
    }
}

/// What is too large is told at the rename, or at a close: nobody would hear of it after the last one.
#[test]
fn a_draft_that_is_too_large_is_refused_though_it_is_still_open() {
    let m = Mount::new();
    let q = m.queue("q");
    let r = m.queue_with("r", &["max_message_bytes=50"]);
    m.sh("exec 3> q/.d; head -c 60 /dev/zero >&3; mv q/.d r/x").fails("File too large");
    m.sh("exec 3> q/.e; echo fits >&3; mv q/.e r/e; head -c 60 /dev/zero >&3").fails("File too large");
    assert_eq!(m.bodies(&r), [""; 0]);
    wait_until(|| m.log().contains("could not be enqueued at its last close"));
    let drafts: Vec<_> = listing(&q).iter().map(|name| fs::metadata(q.join(name)).unwrap().len()).collect();
    assert_eq!(drafts, [60, 65]);
}

/// The name of a draft that was renamed while open is free again, and a new draft under it is another file.
#[test]
fn the_name_of_a_renamed_open_draft_is_free() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("exec 3> q/.d; echo one >&3; mv q/.d q/x; echo two > q/.d; mv q/.d q/y; echo end >&3; exec 3>&-").ok();
    assert_eq!(producers(&q), ["y", "x"]);
    assert_eq!(m.bodies(&q), ["two\n", "one\nend\n"]);
}

/// A reader that has the draft open does not hold up its publication, and goes on reading.
#[test]
fn an_open_reader_does_not_delay_publication() {
    let m = Mount::new();
    let q = m.queue("q");
    assert_eq!(m.sh("echo body > q/.d; exec 3< q/.d; mv q/.d q/x; ls q | wc -l; cat <&3").ok(), "1\nbody\n");
    assert_eq!(m.bodies(&q), ["body\n"]);
}

/// What must never happen: a message whose bytes change, through a descriptor that was open before the publication.
#[test]
fn a_published_message_does_not_change_through_old_descriptors() {
    let m = Mount::new();
    let q = m.queue("q");
    let program = r#"
import os
for size in (10, 100_000):
    name = f"q/.d{size}"
    with open(name, "wb") as f:
        f.write(b"x" * size)
    readonly = os.open(name, os.O_RDONLY)
    os.rename(name, f"q/m{size}")
    # Neither opening what the descriptor means again, nor cutting it, must lead to the committed bytes.
    try:
        fd = os.open(f"/proc/self/fd/{readonly}", os.O_WRONLY)
        os.write(fd, b"changed")
        os.close(fd)
    except OSError:
        pass
    # This one was open beside the writer.
    name = f"q/.e{size}"
    with open(name, "wb") as f:
        f.write(b"y" * size)
        f.flush()
        beside = os.open(name, os.O_RDONLY)
    os.rename(name, f"q/n{size}")
    for fd in (readonly, beside):
        for length in (0, size + 1):
            try:
                os.truncate(f"/proc/self/fd/{fd}", length)
            except PermissionError:
                pass
"#;
    m.python(program).ok();
    assert_eq!(m.bodies(&q), ["x".repeat(10), "y".repeat(10), "x".repeat(100_000), "y".repeat(100_000)]);
}

/// A published large draft survives a crash right after the rename: "when [...] the `rename()` that publishes a draft,
/// returns 0, the message survives".
#[test]
fn a_published_draft_survives_a_crash() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.sh("head -c 300000 /dev/zero | tr '\\0' x > q/.l; mv q/.l q/l; echo s > q/.s; mv q/.s q/s").ok();
    m.kill9_and_remount();
    assert_eq!(m.bodies(&q), ["x".repeat(300_000), "s\n".into()]);
    assert_eq!(producers(&q), ["l", "s"]);
}
