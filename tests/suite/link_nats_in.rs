//! `mqfs link` from NATS JetStream: each message of a stream is in the queue once and in order, by its place in the stream; what the
//! stream has not any more is told.

use std::fs;

use crate::common::*;
use crate::extra::*;
use crate::linking::{SOON, run, start, state};
use crate::nats::Nats;

const MARK: &str = "user.mark.link-in";

fn numbers(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|i| format!("m{i}")).collect()
}

/// The place that the mark says is next.
fn next(q: &std::path::Path) -> u64 {
    xattr(q, MARK).unwrap().rsplit(':').next().unwrap().parse().unwrap()
}

/// "A message that went mqfs -> broker -> mqfs has the same body, name, headers, priority, correlation id, content type, group."
#[test]
fn what_went_out_and_came_in_is_the_same() {
    let (here, there, nats) = (Mount::new(), Mount::new(), Nats::start());
    let (out, into) = (here.queue("out"), there.queue("into"));
    let before = crate::link_stomp_in::enqueue_all(&out);
    nats.stream("BACK");
    run(&here, &["--until-empty", "out", &nats.url("/back")]).ok();
    run(&there, &["--until-empty", &nats.url("/back?durable=mine"), "into"]).ok();
    crate::link_stomp_in::assert_all(&into, &before);
    let path = control(&into, "peek").join(&names(&into)[0]);
    for (name, value) in [("subject", "back"), ("stream", "BACK"), ("sequence", "1")] {
        assert_eq!(xattr(&path, &format!("user.link.{name}")).as_deref(), Some(value), "{name}");
    }
    assert_eq!(nats.python("print(api('CONSUMER.INFO.BACK.mine')['num_pending'])"), "0\n");
}

/// "`Nats-TTL`", and what is left of a time to live when it has been in the stream for a while.
#[test]
fn a_time_to_live_goes_on_in_the_stream() {
    let (m, nats) = (Mount::new(), Nats::start());
    let (out, into) = (m.queue("out"), m.queue("into"));
    nats.stream("TTL");
    fs::write(out.join(".mq/with/ttl=1h/ours"), "ours").unwrap();
    run(&m, &["--until-empty", "out", &nats.url("/ttl")]).ok();
    nats.python("publish('ttl', 'theirs', headers=lambda b: [('Nats-TTL', '1h')])");
    run(&m, &["--until-empty", &nats.url("/ttl"), "into"]).ok();
    for message in names(&into) {
        let ttl = xattr(control(&into, "peek").join(&message), "user.mq.ttl").unwrap();
        let left = humantime::parse_duration(&ttl).unwrap().as_millis();
        assert!((1..3_600_000).contains(&left), "{message:?}: {ttl}");
    }
    assert_eq!(names(&into).len(), 2);
}

/// Whatever happens to the link, each is in the queue once and in order.
#[test]
fn a_killed_link_doubles_and_loses_nothing() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = m.queue_with("q", &["durability=async"]);
    nats.stream("KILLED");
    nats.publish("killed", 0, 1500);
    let url = nats.url("/killed");
    for _ in 0..5 {
        let link = start(&m, &["-o", "name=in", "-o", "batch=40", "-o", "linger=5ms", &url, "q"]);
        let before = m.stats(&q)["enqueued_total"].as_u64().unwrap();
        wait_until(|| m.stats(&q)["enqueued_total"].as_u64().unwrap() > before + 60);
        link.signal(libc::SIGKILL);
        link.finish();
    }
    run(&m, &["--until-empty", "-o", "name=in", &url, "q"]).succeeds();
    assert_eq!((m.bodies(&q), &m.stats(&q)["batches"], next(&q)), (numbers(0, 1500), &0.into(), 1501));
}

/// And to the server.
#[test]
fn a_killed_server_doubles_and_loses_nothing() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = m.queue_with("q", &["durability=async"]);
    nats.stream("SERVER");
    nats.publish("server", 0, 1500);
    let link = start(&m, &[&SOON[..], &["-o", "batch=40", &nats.url("/server"), "q"]].concat());
    for kills in 1..=2 {
        wait_until(|| m.stats(&q)["enqueued_total"].as_u64().unwrap() > 300 * kills);
        nats.kill9();
        wait_until(|| state(&m) == "connecting");
        nats.start_again();
    }
    wait_until(|| m.stats(&q)["enqueued_total"].as_u64().unwrap() >= 1500);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert_eq!(m.bodies(&q), numbers(0, 1500));
}

/// And to mqfs.
#[test]
fn a_killed_mount_doubles_and_loses_nothing() {
    let (mut m, nats) = (Mount::new(), Nats::start());
    let q = m.queue_with("q", &["durability=sync"]);
    nats.stream("MOUNT");
    nats.publish("mount", 0, 600);
    let link = start(&m, &[&SOON[..], &["-o", "batch=40", &nats.url("/mount"), "q"]].concat());
    wait_until(|| m.bodies(&q).len() > 80);
    m.kill9();
    wait_until(|| state(&m) == "holding");
    m.start();
    wait_until(|| m.bodies(&q).len() >= 600);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert_eq!(m.bodies(&q), numbers(0, 600));
}

/// "store restored from an older backup: read again from there, nothing missing", though all of it was acknowledged.
#[test]
fn an_older_mark_reads_again_from_there() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = m.queue("q");
    nats.stream("OLDER");
    nats.publish("older", 0, 10);
    let arguments = ["--until-empty", "-o", "name=in", &nats.url("/older"), "q"];
    run(&m, &arguments).ok();
    let mark = xattr(&q, MARK).unwrap();
    assert!(mark.starts_with("v1 nats OLDER@") && mark.ends_with(" 0:11"), "{mark}");
    m.sh("rm q/*").ok();
    set_xattr(&q, MARK, mark.replace(" 0:11", " 0:7").as_bytes()).unwrap();
    run(&m, &arguments).ok();
    assert_eq!((m.bodies(&q), next(&q)), (numbers(6, 10), 11));
    // A link that runs heeds that somebody has moved it, too.
    let link = start(&m, &[&SOON[..], &arguments[1..]].concat());
    wait_until(|| state(&m) == "running");
    set_xattr(&q, MARK, mark.replace(" 0:11", " 0:10").as_bytes()).unwrap();
    nats.publish("older", 10, 11);
    wait_until(|| m.bodies(&q).len() == 6);
    link.signal(libc::SIGTERM);
    assert!(link.finish().stderr.contains("was moved by somebody else"));
    assert_eq!(m.bodies(&q)[4..], numbers(9, 11));
}

/// "Mark below the log's start: the link stops and says what was missed; `start=` decides, by hand."
#[test]
fn what_was_removed_is_told() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = m.queue("q");
    nats.stream("GAP");
    nats.publish("gap", 0, 3);
    let arguments = ["--until-empty", "-o", "name=in", &nats.url("/gap"), "q"];
    run(&m, &arguments).ok();
    nats.publish("gap", 3, 8);
    nats.python("api('STREAM.PURGE.GAP', seq=6)");
    for _ in 0..2 {
        let ran = run(&m, &arguments);
        assert_eq!((ran.code(), m.bodies(&q).len(), next(&q)), (Some(16), 3, 4), "{ran:?}");
        ran.fails("2 messages were removed before they were taken in: from 4 to 5");
    }
    assert!(run(&m, &["--status", "in"]).stdout.contains("from 4 to 5"));
    let ran = run(&m, &["--until-empty", "-o", "name=in", &nats.url("/gap?start=earliest"), "q"]);
    assert!(ran.code() == Some(0) && ran.stderr.contains("from 4 to 5"), "{ran:?}");
    assert_eq!(m.bodies(&q), ["m0", "m1", "m2", "m5", "m6", "m7"]);
    run(&m, &arguments).ok();
}

/// The same while the link runs and the queue takes nothing.
#[test]
fn what_is_removed_meanwhile_is_told() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = m.queue_with("q", &["paused=in"]);
    nats.stream("MEANWHILE");
    nats.publish("meanwhile", 0, 2);
    let link = start(&m, &[&SOON[..], &["-o", "name=in", &nats.url("/meanwhile"), "q"]].concat());
    wait_until(|| state(&m) == "holding");
    m.set(&q, "paused=no");
    wait_until(|| m.bodies(&q).len() == 2);
    m.set(&q, "paused=in");
    // Of these it gets as many as two batches have, and of the rest nobody has the first ones any more.
    nats.publish("meanwhile", 2, 4);
    wait_until(|| state(&m) == "holding");
    link.signal(libc::SIGKILL);
    link.finish();
    nats.publish("meanwhile", 4, 6);
    nats.python("api('STREAM.PURGE.MEANWHILE', seq=5)");
    m.set(&q, "paused=no");
    let ran = run(&m, &["--until-empty", "-o", "name=in", &nats.url("/meanwhile"), "q"]);
    assert_eq!(ran.code(), Some(16), "{ran:?}");
    ran.fails("2 messages were removed");
}

/// "or another topic id": a stream that was made anew counts anew, and none of its messages is taken for an old one.
#[test]
fn a_stream_that_was_made_anew_is_told() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = m.queue("q");
    nats.stream("ANEW");
    nats.publish("anew", 0, 5);
    let arguments = ["--until-empty", "-o", "name=in", &nats.url("/anew"), "q"];
    run(&m, &arguments).ok();
    nats.python("api('STREAM.DELETE.ANEW')\nstream('ANEW')");
    nats.publish("anew", 10, 12);
    let ran = run(&m, &arguments);
    assert_eq!((ran.code(), m.bodies(&q).len()), (Some(16), 5), "{ran:?}");
    ran.fails("the mark is of another stream");
    run(&m, &["--until-empty", "-o", "name=in", &nats.url("/anew?start=earliest"), "q"]).succeeds();
    assert_eq!(m.bodies(&q)[5..], numbers(10, 12));
    run(&m, &arguments).ok();
}

/// "start=latest": what was there before is left; where it began is remembered before the first message comes.
#[test]
fn a_link_may_begin_with_what_comes_next() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = m.queue("q");
    nats.stream("LATEST");
    nats.publish("latest", 0, 5);
    let arguments = ["--until-empty", "-o", "name=in", &nats.url("/latest?start=latest"), "q"];
    run(&m, &arguments).ok();
    assert_eq!((m.bodies(&q).len(), next(&q)), (0, 6));
    nats.publish("latest", 5, 7);
    run(&m, &arguments).ok();
    assert_eq!(m.bodies(&q), numbers(5, 7));
}

/// "EDQUOT: the batch stays, the link reads no more"; after `hold` it reads again from where the mark is.
#[test]
fn a_queue_that_takes_nothing_is_waited_for() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = m.queue_with("q", &["max_messages=5"]);
    nats.stream("HOLD");
    nats.publish("hold", 0, 8);
    let link = start(&m, &[&SOON[..], &["-o", "batch=4", "-o", "hold=200ms", &nats.url("/hold"), "q"]].concat());
    // Its batch is removed then.
    wait_until(|| state(&m) == "holding" && m.stats(&q)["batches"] == 0);
    assert_eq!(m.bodies(&q).len(), 5);
    m.set(&q, "max_messages=0");
    wait_until(|| m.bodies(&q).len() == 8);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert_eq!(m.bodies(&q), numbers(0, 8));
}

/// "Poison: stop (nothing is dropped unless told), save:DIR, reject": in a log the link goes on behind it.
#[test]
fn what_does_not_fit_is_left_saved_or_rejected() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = m.queue_with("q", &["max_message_bytes=10"]);
    nats.stream("POISON");
    nats.python("publish('poison', '1', 'much too large', '2')");
    let url = nats.url("/poison");
    let arguments = |poison: &'static str| ["--until-empty", "-o", "name=in", "-o", poison, &url, "q"];
    let ran = run(&m, &arguments("poison=stop"));
    assert_eq!((ran.code(), m.bodies(&q).len(), next(&q)), (Some(16), 1, 2), "{ran:?}");
    let saved = m.scratch().join("saved");
    fs::create_dir(&saved).unwrap();
    let save = format!("poison=save:{}", saved.display());
    let ran = run(&m, &["--until-empty", "-o", "name=in", "-o", &save, &url, "q"]);
    assert_eq!((ran.code(), m.bodies(&q).len(), next(&q), listing(&saved).len()), (Some(0), 2, 4, 2), "{ran:?}");
    nats.python("publish('poison', 'again too large')");
    let ran = run(&m, &arguments("poison=reject"));
    assert_eq!((ran.code(), next(&q)), (Some(0), 5), "{ran:?}");
    run(&m, &arguments("poison=stop")).ok();
}

/// A work queue forgets what is acknowledged; a stream that goes by interest is refused, since it would lose messages.
#[test]
fn each_retention_is_minded() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = m.queue("q");
    nats.python("stream('WORK', retention='workqueue')\nstream('INTEREST', retention='interest')");
    nats.publish("work", 0, 5);
    let url = nats.url("/work");
    run(&m, &["--until-empty", &url, "q"]).ok();
    nats.publish("work", 5, 7);
    run(&m, &["--until-empty", &url, "q"]).ok();
    assert_eq!((m.bodies(&q), nats.messages("WORK")), (numbers(0, 7), 0));
    for how in ["--until-empty", "--check"] {
        let ran = run(&m, &[how, &nats.url("/interest"), "q"]);
        assert_eq!(ran.code(), Some(16), "{ran:?}");
        ran.fails("its retention is interest");
    }
}

/// One subject of several; numbers that are others' are no gap.
#[test]
fn a_subject_is_a_part_of_a_stream() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = m.queue("q");
    nats.python("stream('PARTS', subjects=['parts.>'])\npublish('parts.a', '1')\npublish('parts.b', 'no')\npublish('parts.a', '2')");
    let arguments = ["--until-empty", "-o", "name=in", &nats.url("/parts.a"), "q"];
    run(&m, &arguments).ok();
    assert_eq!(m.bodies(&q), ["1", "2"]);
    nats.python("publish('parts.b', 'no', 'no')\npublish('parts.a', '3')\napi('STREAM.PURGE.PARTS', seq=6)");
    let ran = run(&m, &arguments);
    assert!(ran.code() == Some(0) && ran.stderr.contains("perhaps some for here"), "{ran:?}");
    assert_eq!(m.bodies(&q), ["1", "2", "3"]);
}

/// `--show` and `--check` leave everything where it is.
#[test]
fn looking_changes_nothing() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = m.queue("q");
    nats.stream("LOOK");
    nats.publish("look", 0, 3);
    let text = run(&m, &["--check", "-o", "name=in", &nats.url("/look"), "q"]).ok().to_owned();
    assert!(text.contains("exactly once, by the place in the stream") && text.contains("with 3 messages"), "{text}");
    let shown = run(&m, &["--show", "2", "-o", "name=in", &nats.url("/look"), "q"]).ok().to_owned();
    assert_eq!(shown.lines().count(), 2);
    assert!(shown.contains(r#""body":"m0""#) && shown.contains(r#""user.link.id":"id-m0""#), "{shown}");
    assert_eq!((m.bodies(&q).len(), xattr(&q, MARK)), (0, None));
    run(&m, &["--until-empty", "-o", "name=in", &nats.url("/look"), "q"]).ok();
    assert_eq!(m.bodies(&q), numbers(0, 3));
}
