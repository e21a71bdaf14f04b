//! Every operation is one change: whichever write to the log of the database mqfs is killed at, it was done or it was not.
//!
//! A kill at random hardly ever comes between two writes, which are microseconds apart. Here it comes at each write in turn.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::*;

/// Kills mqfs when one of its threads is about to write into its log for the `nth` time from now on. Waits until it watches.
fn kill_at_write(m: &Mount, nth: usize) -> Child {
    let files = std::fs::read_dir(m.store().join("db")).unwrap().map(|entry| entry.unwrap().path());
    let log = files.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=write", "-e"]);
    strace.arg(format!("inject=write:signal=SIGKILL:when={nth}")).arg("-P").arg(log);
    strace.arg("-p").arg(m.pid().to_string()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = strace.spawn().expect("strace");
    let tasks = format!("/proc/{}/task", m.pid());
    let traced = |task: std::io::Result<std::fs::DirEntry>| {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
        !status.contains("TracerPid:\t0\n")
    };
    wait_until(|| std::fs::read_dir(&tasks).unwrap().all(traced));
    child
}

/// Does `operation`, killed at its first write, at its second, and so on until it gets through; calls `check` after each.
#[track_caller]
fn at_each_write(setup: &str, operation: &str, check: impl Fn(&Mount)) {
    for nth in 1.. {
        assert!(nth < 100, "it writes without end");
        let mut m = Mount::new();
        m.queue_with("p", &[]);
        m.queue_with("q", &["max_deliveries=1", "dead_letter=p"]);
        m.queue_with("k", &["names=keep"]);
        m.sh(setup).ok();
        let mut strace = kill_at_write(&m, nth);
        let failed = !m.sh(operation).status.success();
        let killed = poll(Duration::from_millis(300), || strace.try_wait().unwrap().is_some()) || failed;
        let _ = strace.kill();
        strace.wait().unwrap();
        m.cut_short();
        m.start();
        println!("{operation}: killed at write {nth}: {killed}");
        for queue in ["p", "q", "k"] {
            let states = [("ready", m.path().join(queue)), ("claimed", m.path().join(queue).join(".mq/claimed"))];
            for (state, dir) in states {
                let listed = listing(&dir).iter().filter(|name| !name.starts_with('.')).count();
                assert_eq!(m.stats(queue)[state], listed, "{queue}: {state}");
            }
        }
        check(&m);
        m.stop();
        if !killed {
            return;
        }
    }
}

/// The bodies of all messages of all queues.
fn bodies(m: &Mount) -> Vec<String> {
    let all = ["p", "q", "k"].into_iter().flat_map(|queue| m.messages(queue));
    all.map(|(_, body)| String::from_utf8(body).unwrap()).collect()
}

#[test]
fn an_ack_is_one_change() {
    at_each_write("echo a > q/a", "rm q/*-a", |m| assert!(bodies(m).len() <= 1));
}

#[test]
fn a_move_and_a_dead_letter_are_one_change() {
    let one = |m: &Mount| assert_eq!(bodies(m), ["a\n"]);
    at_each_write("echo a > q/a", "mv q/*-a p/", one);
    at_each_write("echo a > q/a", "f=$(cat q/.mq/claim); mv q/$f q/", one);
}

#[test]
fn a_batch_is_one_change() {
    let setup = "mkdir q/.mq/batch/b; for n in 1 2 3 4; do echo $n > q/.mq/batch/b/$n; done";
    at_each_write(setup, "mv q/.mq/batch/b q/b", |m| {
        let waiting = m.path().join("q/.mq/batch/b");
        let waiting = if waiting.exists() { listing(waiting).len() } else { 0 };
        assert!(matches!((bodies(m).len(), waiting), (0, 4) | (4, 0)), "{:?} and {waiting}", bodies(m));
    });
}

#[test]
fn a_replacement_is_one_change() {
    at_each_write("echo old > k/a; echo new > k/.b", "mv k/.b k/a", |m| {
        assert!(matches!(&bodies(m)[..], [one] if one == "old\n" || one == "new\n"), "{:?}", bodies(m));
    });
}

/// A batch, its mark, and what it acknowledges, of another queue: all of it or nothing.
#[test]
fn a_batch_with_a_mark_and_a_settlement_is_one_change() {
    let setup = "echo old > p/old; setfattr -n user.mark.at -v 1 q; f=$(cat p/.mq/claim); b=q/.mq/batch/b; mkdir $b
        for n in 1 2 3; do echo $n > $b/$n; done; setfattr -n user.mark.at -v 2 $b; setfattr -n user.mark-was.at -v 1 $b
        setfattr -n user.mq.settles -v \"$f\" $b";
    at_each_write(setup, "mv q/.mq/batch/b q/b", |m| {
        let waiting = m.path().join("q/.mq/batch/b");
        let mark = |of: &Path| of.exists().then(|| xattr(of, "user.mark.at")).flatten();
        let marks = [mark(&m.path().join("q")), mark(&waiting)];
        let marks = (marks[0].as_deref(), marks[1].as_deref());
        match &bodies(m)[..] {
            [old] => {
                assert_eq!((old.as_str(), marks), ("old\n", (Some("1"), Some("2"))));
                assert_eq!(xattr(&waiting, "user.mark-was.at").as_deref(), Some("1"));
                assert_eq!(listing(&waiting).len(), 3);
            }
            all => assert_eq!((all.len(), marks, waiting.exists()), (3, (Some("2"), None), false)),
        }
    });
}

#[test]
fn a_draft_with_a_settlement_is_one_change() {
    let setup =
        "echo old > p/old; f=$(cat p/.mq/claim); echo new > q/.new; setfattr -n user.mq.settles -v \"$f\" q/.new";
    at_each_write(setup, "mv q/.new q/new", |m| {
        let (drafts, all) =
            (listing(m.path().join("q")).iter().filter(|name| name.starts_with('.')).count(), bodies(m));
        assert!(matches!((all[0].as_str(), all.len(), drafts), ("old\n", 1, 1) | ("new\n", 1, 0)), "{all:?} {drafts}");
    });
}

/// Each close of a small draft, and its becoming a file, is one change: all its bytes are those of before, or those of after.
#[test]
fn what_a_close_leaves_of_a_draft_is_one_change() {
    let draft = |m: &Mount| {
        assert_eq!(m.stats("q")["drafts"], 1);
        std::fs::read(m.path().join("q/.d")).unwrap()
    };
    at_each_write("echo old > q/.d", "echo more >> q/.d", |m| {
        assert!([&b"old\n"[..], b"old\nmore\n"].contains(&&draft(m)[..]), "{:?}", draft(m));
    });
    // What is written to a file is there with each write.
    at_each_write("echo old > q/.d", "head -c 40000 /dev/zero >> q/.d", |m| {
        let found = draft(m);
        assert!(found.starts_with(b"old\n") && found[4..].iter().all(|byte| *byte == 0), "{} bytes", found.len());
        assert!(found.len() == 4 || (32 * 1024..=40_004).contains(&found.len()), "{} bytes", found.len());
    });
}

/// A draft that replaces another, and one that is removed.
#[test]
fn a_draft_over_a_draft_is_one_change() {
    let of = |m: &Mount, name: &str| std::fs::read_to_string(m.path().join("q").join(name)).ok();
    at_each_write("echo a > q/.a; echo b > q/.b", "mv q/.a q/.b", |m| {
        let found = (of(m, ".a"), of(m, ".b"));
        let found = (found.0.as_deref(), found.1.as_deref());
        assert!(matches!(found, (Some("a\n"), Some("b\n")) | (None, Some("a\n"))), "{found:?}");
    });
    at_each_write("echo a > q/.a", "mv q/.a q/a", |m| {
        assert_eq!(of(m, ".a").into_iter().chain(bodies(m)).collect::<Vec<_>>(), ["a\n"]);
    });
}
