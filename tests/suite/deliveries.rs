//! "A delivery has an identity": what comes late to settle one does not touch the next.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::common::*;
use crate::extra::*;
use crate::users::{GONE, ann, bob, chmod};

/// Claims the next message of `q` by `.mq/claim`; gives the path below the queue that it answers.
#[track_caller]
fn claim(m: &Mount, queue: &str) -> String {
    m.sh(&format!("cat {queue}/.mq/claim")).ok().trim_end().to_owned()
}

/// Gives back whatever is claimed, as somebody would who takes the messages from a worker that does not answer.
#[track_caller]
fn take_back(m: &Mount, queue: &str) {
    m.sh(&format!("mv {queue}/.mq/claimed/* {queue}/")).ok();
}

/// "`.mq/claim` answers a path that names this delivery", and only within `.mq/claimed`; listings show plain names.
#[test]
fn the_path_names_the_delivery() {
    let m = Mount::new();
    let q = m.queue("q");
    let a = m.message(&q, "a.csv", "body");
    let listed = a.file_name().unwrap().to_str().unwrap().to_owned();
    let first = claim(&m, "q");
    let key = first.strip_prefix(&format!(".mq/claimed/{}.", &listed[..16])).unwrap().strip_suffix("-a.csv").unwrap();
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    assert!(key.len() == 10 && key.bytes().all(known), "{first}");
    assert_eq!(fs::read_to_string(q.join(&first)).unwrap(), "body");
    assert_eq!(xattr(q.join(&first), "user.mq.delivery").as_deref(), Some(first.as_str()));
    assert_eq!(listing(control(&q, "claimed")), [listed.as_str()]);
    let name = first.rsplit('/').next().unwrap();
    for elsewhere in ["", ".mq/peek", ".mq/dead", ".mq/delayed"] {
        assert_eq!(errno(fs::metadata(q.join(elsewhere).join(name))), libc::ENOENT, "{elsewhere}");
    }
    // The digits and the delivery are enough; another delivery, or another name, is none.
    assert_eq!(fs::read_to_string(q.join(&first[..first.len() - "-a.csv".len()])).unwrap(), "body");
    assert_eq!(errno(fs::metadata(q.join(format!("{first}x")))), libc::ENOENT);
    let node = fs::metadata(q.join(&first)).unwrap().ino();
    assert_eq!(fs::metadata(q.join(&first)).unwrap().ino(), node, "programs compare it");
    take_back(&m, "q");
    let second = claim(&m, "q");
    assert_ne!(first, second);
    assert_eq!(plain(&first), plain(&second));
    assert_ne!(fs::metadata(q.join(&second)).unwrap().ino(), node);
    m.sh(&format!("rm q/{second}")).ok();
    assert_eq!(m.stats("q")["acked_total"], 1);
}

/// "a late `touch -c`, read, `rm` (ack) or `mv` (nack and the rest) is ENOENT"
#[test]
fn what_comes_late_finds_nothing() {
    let m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=1h"]);
    m.queue("other");
    let a = m.message(&q, "a", "body");
    let late = claim(&m, "q");
    let open = File::open(q.join(&late)).unwrap();
    let size = open.metadata().unwrap().len();
    take_back(&m, "q");
    let now = claim(&m, "q");
    let before = deadline(&q, &a);
    for script in [
        format!("cat q/{late}"),
        format!("rm q/{late}"),
        format!("mv q/{late} q/"),
        format!("mv q/{late} q/.mq/delayed/"),
        format!("mv q/{late} q/.mq/dead/"),
        format!("mv q/{late} other/"),
        format!("stat q/{late}"),
        format!("getfattr -n user.mq.seq q/{late}"),
        format!("setfattr -n user.mq.last_error -v late q/{late}"),
    ] {
        m.sh(&script).fails(GONE);
    }
    m.sh(&format!("touch -c q/{late}")).ok();
    // By a descriptor that was opened in time, bytes are read, and nothing else happens.
    assert_eq!((std::io::read_to_string(&open).unwrap(), open.metadata().unwrap().len()), ("body".into(), size));
    assert!(open.set_times(fs::FileTimes::new().set_modified(std::time::SystemTime::now())).is_err());
    drop(open);
    assert_eq!((deadline(&q, &a), deliveries(&q, &a)), (before, 2));
    assert_eq!(state(&q, &a).as_deref(), Some("claimed"));
    assert_eq!(xattr(q.join(&now), "user.mq.last_error"), None);
    // Whoever is in time does all of that.
    m.sh(&format!("touch -c q/{now} && cat q/{now}")).ok();
    assert!(deadline(&q, &a) > before);
    m.sh(&format!("mv q/{now} q/")).ok();
    assert_eq!(state(&q, &a).as_deref(), Some("ready"));
    for (to, state_after) in [(".mq/delayed/", "delayed"), (".mq/dead/", "dead")] {
        let path = claim(&m, "q");
        m.sh(&format!("mv q/{path} q/{to}")).ok();
        assert_eq!(state(&q, &a).as_deref(), Some(state_after));
        let name = a.file_name().unwrap().to_str().unwrap();
        m.sh(&format!("mv q/{to}{name} q/")).ok();
    }
    let path = claim(&m, "q");
    m.sh(&format!("rm q/{path}")).ok();
    m.sh(&format!("rm q/{path}")).fails(GONE);
}

/// A lease that has expired is over, also when nobody has the message since, and after a remount a path is as good as before.
#[test]
fn an_expired_delivery_is_over_and_a_remount_is_no_end() {
    let mut m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=300ms"]);
    let a = m.message(&q, "a", "body");
    let late = claim(&m, "q");
    wait_until(|| state(&q, &a).as_deref() == Some("ready"));
    m.sh(&format!("rm q/{late}")).fails(GONE);
    m.set("q", "visibility_timeout=1h");
    let path = claim(&m, "q");
    m.kill9_and_remount();
    m.sh(&format!("test \"$(cat q/{path})\" = body && rm q/{path}")).ok();
    assert_eq!(m.stats("q")["acked_total"], 1);
}

/// "As the target of a rename or creation it counts as sequence form": the next queue's name has no trace of it.
#[test]
fn no_queue_gets_the_delivery_into_a_name() {
    let m = Mount::new();
    let q = m.queue_with("q", &["priorities=3"]);
    let other = m.queue("other");
    let kept = m.queue_with("kept", &["names=keep"]);
    m.fill(&q, 4);
    m.sh("f=$(cat q/.mq/claim) && cp \"q/$f\" other/ && mv \"q/$f\" other/").ok();
    assert_listed(&other, &["m0", "m0"]);
    m.sh("f=$(cat q/.mq/claim) && mv \"q/$f\" kept/").ok();
    assert_eq!(listing(&kept), ["m1"]);
    // Where names are kept, the digits and the delivery stand alone.
    let path = claim(&m, "kept");
    assert_eq!(path.len(), ".mq/claimed/".len() + 27, "{path}");
    m.sh(&format!("mv kept/{path} other/")).ok();
    assert_listed(&other, &["m0", "m0", "m1"]);
    // Several at once: mv looks at each when it has moved it.
    m.sh("f=$(cat q/.mq/claim) && g=$(cat q/.mq/claim) && mv \"q/$f\" \"q/$g\" kept/").ok();
    assert_eq!(listing(&kept), ["m2", "m3"]);
    let long = "n".repeat(237);
    m.message(&q, &long, "long");
    let path = claim(&m, "q");
    assert_eq!((path.len(), path.ends_with('n')), (".mq/claimed/".len() + 28, false), "{path}");
    m.sh(&format!("mv q/{path} other/")).ok();
    assert_listed(&other, &["m0", "m0", "m1", &long]);
    // A name that only looks like one is a producer's.
    m.sh("echo x > other/0000000000000042.000000000i-x").ok();
    assert!(listing(&other).iter().any(|name| name.ends_with("-0000000000000042.000000000i-x")));
}

/// Two workers, each a script of its own: the first claims `message`, prints, waits to be told, and does `then`.
fn slow_worker(m: &Mount, message: &Path, then: &str) -> Running {
    let script = format!("cat '{}' > /dev/null; echo open; read -r x < $T/go; {then}", message.display());
    m.sh("mkfifo $T/go").ok();
    let running = m.spawn(&script);
    wait_until(|| running.output() == "open\n");
    running
}

fn go(m: &Mount) {
    fs::write(m.scratch().join("go"), "\n").unwrap();
}

/// "a worker that held one of the last 8 deliveries and lost it gets ENOENT from `rm` and `mv` while another holds the message"
#[test]
fn a_worker_that_lost_its_claim_settles_nothing_by_the_name_of_the_message() {
    for (names, settle) in [("sequence", "rm"), ("keep", "rm"), ("keep", "mv-dead"), ("keep", "mv-other")] {
        let m = Mount::new();
        let q = m.queue_with("q", &[&format!("names={names}")]);
        m.queue("other");
        let a = m.message(&q, "a", "body");
        let path = a.display();
        let then = match settle {
            "rm" => format!("rm '{path}'"),
            "mv-dead" => format!("mv '{path}' q/.mq/dead/"),
            _ => format!("mv '{path}' other/"),
        };
        let worker = slow_worker(&m, &a, &then);
        take_back(&m, "q");
        let holder = m.holder(&a);
        go(&m);
        worker.finish().fails(GONE);
        assert_eq!(state(&q, &a).as_deref(), Some("claimed"), "{names} {settle}");
        assert!(m.log().contains("settles late"), "{}", m.log());
        drop(holder);
        // Everybody else's is final.
        m.worker(&format!("rm '{path}'")).ok();
        assert_eq!(m.stats("q")["acked_total"], 1);
    }
}

/// "the holder of the present claim is checked first": one that lost the message and has it again is its worker. And a message
/// that nobody has is anybody's to remove.
#[test]
fn who_has_it_again_or_finds_it_ready_settles_it() {
    let m = Mount::new();
    let q = m.queue("q");
    let a = m.message(&q, "a", "body");
    let worker = slow_worker(&m, &a, &format!("cat '{0}' && rm '{0}'", a.display()));
    take_back(&m, "q");
    drop(m.holder(&a));
    take_back(&m, "q");
    go(&m);
    assert_eq!(worker.finish().ok(), "open\nbody");
    let b = m.message(&q, "b", "body");
    m.sh("rm $T/go").ok();
    let worker = slow_worker(&m, &b, &format!("rm '{}'", b.display()));
    take_back(&m, "q");
    go(&m);
    worker.finish().ok();
    assert_eq!(m.stats("q")["acked_total"], 2);
}

/// "A worker whose claim is gone is told", and the server counts it: once for each delivery, whichever way it comes.
#[test]
fn who_comes_late_is_counted_once_for_each_delivery() {
    let m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=1h"]);
    let graves = m.queue("graves");
    let late = || m.stats("q")["late_settlements_total"].as_u64().unwrap();
    let a = m.message(&q, "a", "body");
    let first = claim(&m, "q");
    take_back(&m, "q");
    let second = claim(&m, "q");
    assert_eq!(late(), 0, "nobody has come yet");
    m.sh(&format!("rm q/{first}")).fails(GONE);
    m.sh(&format!("mv q/{first} q/")).fails(GONE);
    m.sh(&format!("touch -c q/{first}")).ok();
    assert_eq!(late(), 1);
    // Who ends it by its own path may look once more, or renew what is over.
    m.sh(&format!("mv q/{second} q/ && touch -c q/{second}")).ok();
    let third = claim(&m, "q");
    m.sh(&format!("rm q/{third} && touch -c q/{third}")).ok();
    m.message(&q, "b", "body");
    let fourth = claim(&m, "q");
    m.sh(&format!("echo later {fourth} > q/.mq/nack && touch -c q/{fourth} && rm q/.mq/delayed/*")).ok();
    assert_eq!(late(), 1);
    // The message may be another worker's, in another queue, or gone.
    m.set("q", "dead_letter=graves\nmax_deliveries=1");
    m.message(&q, "c", "body");
    let fifth = claim(&m, "q");
    take_back(&m, "q");
    assert_eq!(listing(&graves).len(), 1);
    m.sh(&format!("rm graves/*; echo now {fifth} > q/.mq/nack")).fails(GONE);
    assert_eq!(late(), 2);
    // With a publication that was to acknowledge it.
    m.set("q", "max_deliveries=0");
    m.message(&q, "e", "body");
    let sixth = claim(&m, "q");
    take_back(&m, "q");
    m.sh(&format!("rm q/*-e; echo x > graves/.x; setfattr -n user.mq.settles -v {sixth} graves/.x")).ok();
    m.sh("mv graves/.x graves/x").fails(GONE);
    assert_eq!(late(), 3);
    // By the name in the queue.
    let d = m.message(&q, "d", "body");
    let worker = slow_worker(&m, &d, &format!("rm '{0}'; rm '{0}'", d.display()));
    take_back(&m, "q");
    let holder = m.holder(&d);
    go(&m);
    worker.finish().fails(GONE);
    assert_eq!(late(), 4);
    drop(holder);
    assert_eq!(xattr(&q, "user.mq.late_settlements_total").as_deref(), Some("4"));
    assert_eq!(m.stats("")["late_settlements_total"], 4);
    assert!(m.log().contains("comes late"), "{}", m.log());
    assert_eq!(state(&q, &a), None);
}

/// The last delivery of eight is remembered, the one before is not, and nothing is after a remount.
#[test]
fn eight_deliveries_are_remembered_and_not_across_mounts() {
    let mut m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=1h"]);
    let a = m.message(&q, "a", "body");
    // By workers that have nothing to do with each other, nor with the one that comes late.
    let claimed = |m: &Mount, message: &Path| m.worker(&format!("cat '{}'; true", message.display())).ok().to_owned();
    let worker = slow_worker(&m, &a, &format!("rm '{0}'; echo done; read -r x < $T/go; rm '{0}'", a.display()));
    for _ in 0..7 {
        take_back(&m, "q");
        assert_eq!(claimed(&m, &a), "body");
    }
    go(&m);
    wait_until(|| worker.output().ends_with("done\n"));
    assert_eq!(state(&q, &a).as_deref(), Some("claimed"));
    for _ in 0..2 {
        take_back(&m, "q");
        assert_eq!(claimed(&m, &a), "body");
    }
    go(&m);
    assert!(worker.finish().stderr.matches(GONE).count() == 1, "its delivery is not among the last eight any more");
    assert_eq!(m.stats("q")["acked_total"], 1);
    let b = m.message(&q, "b", "body");
    m.sh("rm $T/go").ok();
    let worker = slow_worker(&m, &b, &format!("cd $T; rm '{}'", b.display()));
    take_back(&m, "q");
    m.remount();
    assert_eq!(claimed(&m, &b), "body");
    go(&m);
    worker.finish().ok();
    assert_eq!(m.stats("q")["acked_total"], 2);
}

fn last_error(path: &Path) -> Option<String> {
    xattr(path, "user.mq.last_error")
}

/// "`user.mq.last_error` (what a worker said, 1 KiB)": whoever may consume says it of any message, by the path of the delivery;
/// it stays with the message wherever it goes.
#[test]
fn a_worker_says_why_it_failed() {
    let (mut m, q) = crate::users::mount(0o777);
    m.set("q", "max_deliveries=1\ndead_letter=graves");
    let graves = m.queue("graves");
    ann(&m, "echo body > q/a").ok();
    let a = only(&q);
    assert_eq!(fs::metadata(&a).unwrap().mode() & 0o777, 0o644);
    let path = bob(&m, "cat q/.mq/claim").ok().trim_end().to_owned();
    bob(&m, &format!("setfattr -n user.mq.last_error -v 'no such customer' q/{path}")).ok();
    assert_eq!(last_error(&q.join(&path)).as_deref(), Some("no such customer"));
    // Of more the end is kept.
    bob(&m, &format!("setfattr -n user.mq.last_error -v \"$(printf %2000s end)\" q/{path}")).ok();
    let kept = last_error(&q.join(&path)).unwrap();
    assert!(kept.len() == 1024 && kept.ends_with(" end"), "{kept}");
    bob(&m, &format!("test -w q/{path} && echo x >> q/{path}")).fails("Operation not permitted");
    bob(&m, &format!("touch -c q/{path} && setfattr -n user.mq.last_error -v again q/{path} && mv q/{path} q/")).ok();
    let dead = only(&graves);
    assert_eq!(last_error(&dead).as_deref(), Some("again"));
    m.remount();
    m.sh("mv graves/* q/").ok();
    assert_eq!(last_error(&only(&q)).as_deref(), Some("again"));
    // Who may not consume says nothing, of their own messages either.
    chmod(&q, 0o755);
    ann(&m, "setfattr -n user.mq.last_error -v mine q/*-a").fails(crate::users::DENIED);
    m.sh("setfattr -n user.mq.last_error -v '' q/*-a").ok();
    assert_eq!(last_error(&only(&q)), None);
    m.sh("setfattr -n user.mq.deaths -v x q/*-a").fails("not permitted");
}

/// By the path of its delivery a message is given up as by any other: `mv` is literal, and `.mq/nack` goes where the queue's dead
/// letters go.
#[test]
fn a_worker_gives_up_by_the_path_of_the_delivery() {
    let m = Mount::new();
    let q = m.queue_with("q", &["dead_letter=graves"]);
    let graves: PathBuf = m.queue("graves");
    m.fill(&q, 3);
    let (first, second) = (claim(&m, "q"), claim(&m, "q"));
    m.sh(&format!("mv q/{first} q/.mq/dead/")).ok();
    assert_eq!(xattr(only(control(&q, "dead")), "user.mq.dead_reason").as_deref(), Some("moved"));
    m.sh(&format!("env printf 'dead {second}\\nno use' > q/.mq/nack")).ok();
    assert_listed(&graves, &["m1"]);
    assert_eq!(xattr(only(&graves), "user.mq.dead_reason").as_deref(), Some("rejected"));
    assert_eq!(last_error(&only(&graves)).as_deref(), Some("no use"));
    let late = claim(&m, "q");
    take_back(&m, "q");
    claim(&m, "q");
    m.sh(&format!("env printf 'now {late}' > q/.mq/nack")).fails(GONE);
}
