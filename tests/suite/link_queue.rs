//! `mqfs link` and what becomes of its queue: what all systems share, with RabbitMQ at the other end.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use crate::common::*;
use crate::disk::Disk;
use crate::extra::*;
use crate::linking::{SOON, is_empty, many, of, run, secret, start, state, status};
use crate::rabbit::{publish, shared};

/// "removed queue": the link ends, and says so; what the broker has stays there.
#[test]
fn a_queue_that_is_removed_ends_its_links() {
    let (m, rabbit) = (Mount::new(), shared());
    m.queue("out");
    m.queue("into");
    rabbit.queue("removed");
    let url = rabbit.url("?queue=removed");
    let out = start(&m, &["-o", "name=out", "out", &url]);
    let into = start(&m, &["-o", "name=in", &url, "into"]);
    wait_until(|| ["out", "in"].iter().all(|name| of(&m, name, "state") == "running"));
    m.sh("rmdir out into").ok();
    publish(rabbit, "removed", 1);
    for link in [out, into] {
        let ran = link.finish();
        assert_eq!(ran.code(), Some(9), "{ran:?}");
        ran.fails("No such file or directory");
    }
    wait_until(|| rabbit.waiting("removed") == 1);
}

/// "batch removed by hand meanwhile: nothing lost: it was never acknowledged".
#[test]
fn a_batch_that_is_removed_comes_again() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue("q");
    rabbit.queue("batch-removed");
    let url = rabbit.url("?queue=batch-removed");
    let link = start(&m, &[&SOON[..], &["-o", "batch=2", "-o", "linger=1h", &url, "q"]].concat());
    publish(rabbit, "batch-removed", 1);
    wait_until(|| status(&m)["in_flight"] == 1);
    m.sh("rm -r q/.mq/batch/link+*").ok();
    rabbit.python("ch.basic_publish('', 'batch-removed', 'm1', P(message_id='id-1'))");
    wait_until(|| m.bodies(&q) == ["m0", "m1"]);
    link.signal(libc::SIGTERM);
    let ran = link.finish();
    assert!(ran.status.success() && ran.stderr.contains("the batch was removed by somebody else"), "{ran:?}");
    assert_eq!(rabbit.waiting("batch-removed"), 0);
}

/// A queue with limits takes a batch as a whole: a batch is only a part of what it holds, or it would never be taken, and each return
/// to the broker would spend a delivery there.
#[test]
fn a_batch_is_smaller_than_its_queue() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue_with("q", &["max_messages=10", "durability=async"]);
    rabbit.queue("small");
    publish(rabbit, "small", 60);
    let link = start(&m, &[&SOON[..], &[&rabbit.url("?queue=small"), "q"]].concat());
    let mut came = Vec::new();
    wait_until(|| {
        for (name, body) in m.messages(&q) {
            came.push(String::from_utf8(body).unwrap());
            fs::remove_file(q.join(name)).unwrap();
        }
        came.len() >= 60
    });
    assert_eq!(came, (0..60).map(|i| format!("m{i}")).collect::<Vec<_>>());
    assert_eq!((&status(&m)["reconnects"], &status(&m)["duplicates"]), (&0.into(), &0.into()));
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
}

/// "reconnects when `.mq/stats` shows room: once, since every return spends a delivery": for the message that found none, that is.
#[test]
fn the_broker_is_asked_again_when_there_is_room() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue_with("q", &["max_bytes=100"]);
    rabbit.queue("room");
    fs::write(q.join("large"), "x".repeat(60)).unwrap();
    rabbit.python("ch.basic_publish('', 'room', 'y' * 50)");
    let link = start(&m, &[&SOON[..], &["-o", "hold=200ms", &rabbit.url("?queue=room"), "q"]].concat());
    wait_until(|| state(&m) == "holding" && rabbit.waiting("room") == 1);
    holds_for(Duration::from_secs(1), || state(&m) == "holding" && rabbit.waiting("room") == 1);
    assert_eq!(status(&m)["reconnects"], 0);
    m.sh("rm q/*").ok();
    wait_until(|| m.bodies(&q) == ["y".repeat(50)]);
    assert_eq!(xattr(q.join(&names(&q)[0]), "user.link.redelivered").as_deref(), Some("1"));
    wait_until(|| state(&m) == "running");
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
}

/// `--until-empty` ends where it would have to wait for long: the queue takes nothing, the broker takes nothing. Nothing is lost.
#[test]
fn who_is_to_end_does_not_wait_for_ever() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue_with("q", &["max_messages=1"]);
    rabbit.queue("ends");
    publish(rabbit, "ends", 2);
    let into = ["--until-empty", "-o", "hold=300ms", &rabbit.url("?queue=ends"), "q"];
    for (set, told) in [("max_messages=1", "the queue is full"), ("max_messages=0\npaused=in", "the queue is paused")] {
        m.set(&q, set);
        let ran = run(&m, &into);
        assert_eq!(ran.code(), Some(9), "{ran:?}");
        ran.fails(told);
        assert_eq!(m.bodies(&q), ["m0"]);
    }
    m.set(&q, "paused=no");
    run(&m, &into).ok();
    assert_eq!(m.bodies(&q), ["m0", "m1"]);
    rabbit.python(
        "ch.queue_declare('ends-full', durable=True, arguments={'x-max-length': 0, 'x-overflow': 'reject-publish'})",
    );
    for (how, url, told) in [
        ("order=kept", "?queue=ends-full", "basic.nack"),
        ("order=strict", "?exchange=amq.direct&key=nowhere", "312 NO_ROUTE"),
    ] {
        let how = [&SOON[..], &["--until-empty", "-o", "confirm_timeout=300ms", "-o", how, "-o", "name=out"]].concat();
        let ran = run(&m, &[&how[..], &["q", &rabbit.url(url)]].concat());
        assert_eq!((ran.code(), &m.stats(&q)["ready"]), (Some(16), &2.into()), "{ran:?}");
        ran.fails(told);
    }
}

/// What is paused is left where it is.
#[test]
fn a_paused_queue_is_not_sent_from() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = many(&m, 2);
    rabbit.queue("paused-out");
    m.set(&q, "paused=out");
    let link = start(&m, &["q", &rabbit.url("?queue=paused-out")]);
    wait_until(|| state(&m) == "running");
    holds_for(Duration::from_millis(300), || m.stats(&q)["ready"] == 2);
    m.set(&q, "paused=no");
    wait_until(|| is_empty(&m, &q));
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert_eq!(rabbit.waiting("paused-out"), 2);
}

/// "Poison (EFBIG, attributes that do not fit)": whatever makes a message one that the queue never takes, the next ones come.
#[test]
fn whatever_never_fits_is_saved() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue_with("q", &["max_bytes=1000", "max_message_bytes=500"]);
    rabbit.queue("never");
    rabbit.python(
        "for b, h in [('a' * 501, {}), ('b' * 1001, {}), ('c', {'long': 'x' * 62000}), ('fits', {})]: \
         ch.basic_publish('', 'never', b, P(headers=h))",
    );
    let saved = m.scratch().join("saved");
    fs::create_dir(&saved).unwrap();
    let save = format!("poison=save:{}", saved.display());
    run(&m, &["--until-empty", "-o", &save, &rabbit.url("?queue=never"), "q"]).succeeds();
    assert_eq!((m.bodies(&q), rabbit.waiting("never")), (vec!["fits".to_owned()], 0));
    let read = |name: &String| fs::read_to_string(saved.join(name)).unwrap();
    let files = listing(&saved);
    let bodies: BTreeSet<usize> =
        files.iter().filter(|name| name.ends_with(".body")).map(|name| read(name).len()).collect();
    assert_eq!(bodies, [501, 1001, 1].into());
    for why in ["File too large", "more than the queue's max_bytes", "its headers have more than"] {
        assert!(files.iter().any(|name| name.ends_with(".json") && read(name).contains(why)), "{why}");
    }
}

/// "several hosts in a URL": the first that lets the link in; and what is wrong is said of the one that said it.
#[test]
fn another_host_is_as_good() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = many(&m, 3);
    m.queue("into");
    rabbit.queue("hosts");
    let url = |rest: &str| rabbit.url(rest).replace("amqp://", "amqp://127.0.0.1:1,");
    run(&m, &["--until-empty", "q", &url("?queue=hosts")]).ok();
    run(&m, &["--until-empty", &url("?queue=hosts"), "into"]).ok();
    assert!(is_empty(&m, &q) && m.bodies("into").len() == 3);
    let host = rabbit.url("").replace("amqp://", "");
    run(&m, &["--until-empty", "q", &url("?queue=no-such")]).fails(&format!("{host}: NOT_FOUND"));
    // The channel is closed when something is published, long after the host was found.
}

/// A password goes unencrypted to another machine only where somebody has said so.
#[test]
fn a_password_may_go_unencrypted_when_told() {
    let m = Mount::new();
    m.queue("q");
    let secret = secret(&m, "anna", "sesame");
    let arguments = ["--until-empty", "-o", &secret, "q", "amqp://0.0.0.0:1?queue=q"];
    let ran = run(&m, &arguments);
    assert_eq!(ran.code(), Some(2), "{ran:?}");
    let ran = run(&m, &[&["-o", "plaintext=yes"], &arguments[..]].concat());
    assert_eq!(ran.code(), Some(16), "{ran:?}");
}

/// A mount that is taken away in peace and comes back, with another server behind it: both directions go on.
#[test]
fn a_mount_may_be_taken_away_and_put_back() {
    let (mut m, rabbit) = (Mount::new(), shared());
    let (out, into) = (m.queue("out"), m.queue("into"));
    rabbit.queue("remounted");
    let url = rabbit.url("?queue=remounted");
    let sends = start(&m, &[&SOON[..], &["-o", "name=out", "out", &url]].concat());
    let takes = start(&m, &[&SOON[..], &["-o", "name=in", &url, "into"]].concat());
    for round in 0..2 {
        m.fill(&out, 5);
        wait_until(|| m.bodies(&into).len() == 5 * (round + 1));
        m.stop();
        wait_until(|| of(&m, "out", "state") == "holding");
        m.start();
    }
    m.fill(&out, 5);
    wait_until(|| m.bodies(&into).len() == 15);
    for link in [sends, takes] {
        link.signal(libc::SIGTERM);
        assert_eq!(link.finish().code(), Some(0));
    }
    assert_eq!((is_empty(&m, &out), rabbit.waiting("remounted")), (true, 0));
}

/// A link that is asked to end while its mount is away ends well when that is there again by then.
#[test]
fn who_is_asked_to_end_looks_for_the_mount_once_more() {
    let (mut m, rabbit) = (Mount::new(), shared());
    m.queue("out");
    rabbit.queue("once-more");
    let link = start(&m, &[&SOON[..], &["-o", "name=out", "out", &rabbit.url("?queue=once-more")]].concat());
    wait_until(|| of(&m, "out", "state") == "running");
    m.stop();
    wait_until(|| of(&m, "out", "state") == "holding");
    link.signal(libc::SIGSTOP);
    let status = format!("/proc/{}/status", link.pid());
    wait_until(|| fs::read_to_string(&status).unwrap().contains("State:\tT"));
    m.start();
    link.signal(libc::SIGTERM);
    link.signal(libc::SIGCONT);
    let ran = link.finish();
    assert_eq!(ran.code(), Some(0), "{ran:?}");
}

/// "ENOSPC: the batch stays": a full disk is waited for, and nothing is acknowledged before.
#[test]
fn a_full_disk_is_waited_for() {
    let disk = Disk::sized(&["mkfs.ext4", "-q"], 256);
    let (m, rabbit) = (Mount::with_store_in(&disk.path(), &[]), shared());
    let q = m.queue("q");
    rabbit.queue("disk");
    let link = start(&m, &[&SOON[..], &[&rabbit.url("?queue=disk"), "q"]].concat());
    wait_until(|| state(&m) == "running");
    disk.fill();
    rabbit.python("for i in range(3): ch.basic_publish('', 'disk', str(i) * 90000, P(message_id=f'id-{i}'))");
    wait_until(|| state(&m) == "holding");
    assert!(status(&m)["why"].as_str().unwrap().contains("No space left"), "{}", status(&m));
    disk.give_back();
    wait_until(|| m.bodies(&q).len() == 3 && state(&m) == "running");
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert_eq!((&status(&m)["duplicates"], rabbit.waiting("disk")), (&0.into(), 0));
}
