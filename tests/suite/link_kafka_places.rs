//! `mqfs link` from Apache Kafka: where in a topic it begins and goes on, and what is told of what is missing.

use std::path::Path;

use crate::common::*;
use crate::kafka::{Kafka, shared};
use crate::linking::{SOON, run, start, state};

/// The mark of the link `name`, and the id of the topic in it.
pub fn mark(q: &Path, name: &str) -> (String, String) {
    let mark = xattr(q, &format!("user.mark.link-{name}")).unwrap_or_default();
    let topic = mark.split(' ').nth(2).unwrap_or_default().to_owned();
    (mark, topic)
}

/// Has all records of a topic deleted that are older than a second.
fn expire(kafka: &Kafka, topic: &str) {
    kafka.python(&format!(
        "all_of(admin.alter_configs([ConfigResource('topic', {topic:?}, set_config={{'retention.ms': '1000'}})]))\n\
         t = time.time()\nwhile any(low < high for low, high in ends({topic:?})):\n    time.sleep(0.1)\n    assert time.time() < t + 60"
    ));
}

/// "store restored from an older backup: read again from there, nothing missing", although the group is further; and a mark that somebody
/// moves while the link runs is heeded (ESTALE).
#[test]
fn the_mark_counts_and_not_what_the_group_was_told() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = m.queue("q");
    kafka.topic("mark", 1);
    kafka.publish("mark", 5);
    let url = kafka.url("mark");
    let arguments = [&SOON[..], &["-o", "name=mark", &url, "q"]].concat();
    run(&m, &[&["--until-empty"], &arguments[..]].concat()).ok();
    let (_, topic) = mark(&q, "mark");
    set_xattr(&q, "user.mark.link-mark", format!("v1 kafka {topic} 0:3")).unwrap();
    run(&m, &[&["--until-empty"], &arguments[..]].concat()).ok();
    assert_eq!(m.bodies(&q), ["m0", "m1", "m2", "m3", "m4", "m3", "m4"]);
    let link = start(&m, &arguments);
    wait_until(|| state(&m) == "running");
    set_xattr(&q, "user.mark.link-mark", format!("v1 kafka {topic} 0:4")).unwrap();
    kafka.python("put('mark', [dict(value='m5')])");
    wait_until(|| m.bodies(&q).len() == 9);
    link.signal(libc::SIGTERM);
    let ran = link.finish();
    assert!(ran.status.success() && ran.stderr.contains("was moved by somebody else"), "{ran:?}");
    assert_eq!(m.bodies(&q)[7..], ["m4", "m5"]);
}

/// "seek to max(mark, committed)": another host of the group goes on where the first was.
#[test]
fn another_host_goes_on_where_the_first_was() {
    let Some(kafka) = shared() else { return };
    let (m, other) = (Mount::new(), Mount::new());
    let (q, _) = (m.queue("q"), other.queue("q"));
    kafka.topic("hosts", 1);
    kafka.publish("hosts", 3);
    let url = kafka.url("hosts?group=hosts");
    run(&m, &["--until-empty", &url, "q"]).ok();
    kafka.python("put('hosts', [dict(value='m3')])");
    run(&other, &["--until-empty", &url, "q"]).ok();
    assert_eq!((m.bodies(&q).len(), other.bodies("q")), (3, vec!["m3".to_owned()]));
    kafka.python("put('hosts', [dict(value='m4')])");
    run(&m, &["--until-empty", &url, "q"]).ok();
    assert_eq!(m.bodies(&q), ["m0", "m1", "m2", "m4"]);
}

/// "Mark below the log's start, or beyond its end, or another topic id: the link stops and says what was missed; `start=` decides".
#[test]
fn what_was_missed_stops_the_link() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = m.queue("q");
    kafka.topic("missed", 1);
    kafka.publish("missed", 3);
    let link = |more: &str, how: &[&str]| {
        let url = kafka.url(&format!("missed{more}"));
        run(&m, &[how, &["--until-empty", "-o", "name=missed", &url, "q"]].concat())
    };
    link("", &[]).ok();
    kafka.publish("missed", 4);
    expire(kafka, "missed");
    for more in ["", "?start=stop"] {
        let ran = link(more, &[]);
        assert_eq!(ran.code(), Some(16), "{ran:?}");
        ran.fails("topic missed, partition 0: 4 messages were removed before they were taken in: from 3 to 6");
    }
    assert!(link("?start=earliest", &[]).succeeds().is_empty());
    kafka.publish("missed", 1);
    link("", &[]).ok();
    assert_eq!(m.bodies(&q).len(), 4);
    let (_, topic) = mark(&q, "missed");
    set_xattr(&q, "user.mark.link-missed", format!("v1 kafka {topic} 0:99")).unwrap();
    link("", &[]).fails("the log ends at 8, before 99");
    set_xattr(&q, "user.mark.link-missed", format!("v1 kafka {topic} 0:8")).unwrap();
    kafka.python("drop('missed')\ntopic('missed')");
    kafka.publish("missed", 9);
    let ran = link("", &[]);
    assert_eq!(ran.code(), Some(16), "{ran:?}");
    ran.fails("is not the one that was read before");
    link("?start=earliest", &[]).succeeds();
    assert_eq!(m.bodies(&q).len(), 13);
    assert_ne!(mark(&q, "missed").1, topic);
}

/// "`start=` decides" also where there was no position; a position that was found stays, although nothing has come yet.
#[test]
fn where_to_begin_may_be_said() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = m.queue("q");
    kafka.topic("begin", 1);
    kafka.publish("begin", 3);
    let link = |start: &str| run(&m, &["--until-empty", "-o", "name=begin", &kafka.url(start), "q"]);
    link("begin?start=latest").ok();
    assert_eq!((m.bodies(&q).len(), mark(&q, "begin").0.ends_with(" 0:3")), (0, true));
    kafka.python("put('begin', [dict(value='new')])");
    link("begin?start=latest").ok();
    assert_eq!(m.bodies(&q), ["new"]);
    // Nothing was missed of a partition that is added.
    kafka.python(
        "all_of(admin.create_partitions([NewPartitions('begin', 2)]))\nwhile len(ends('begin')) < 2: time.sleep(0.1)",
    );
    kafka.python("put('begin', [dict(value='added', partition=1)])");
    link("begin?start=latest").ok();
    assert_eq!(m.bodies(&q), ["new", "added"]);
}

/// "compaction gaps and transaction markers are not gaps"; what was aborted never comes.
#[test]
fn gaps_where_nothing_is_missing_are_no_gaps() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = m.queue("q");
    kafka.python(
        "topic('gaps', 1)\np = Producer({**b, 'transactional.id': 'gaps'})\np.init_transactions(60)\n\
         for i in range(4):\n    p.begin_transaction()\n    p.produce('gaps', f't{i}')\n    p.flush(60)\n    (p.abort_transaction if i == 1 else p.commit_transaction)(60)",
    );
    let link = |more: &str| run(&m, &["--until-empty", "-o", "name=gaps", &kafka.url(more), "q"]);
    link("gaps").ok();
    assert_eq!(m.bodies(&q), ["t0", "t2", "t3"]);
    assert!(
        ["7", "8"].map(|at| format!(" 0:{at}")).iter().any(|end| mark(&q, "gaps").0.ends_with(end)),
        "{:?}",
        mark(&q, "gaps")
    );
    assert_eq!(kafka.lag("gaps", "gaps"), 0, "the last marker is known to be none of ours");
    // The log begins after that marker now, and the mark is before it; nothing was missed.
    expire(kafka, "gaps");
    link("gaps").ok();
    kafka.python("put('gaps', [dict(value='after')])");
    link("gaps").ok();
    assert_eq!(m.bodies(&q), ["t0", "t2", "t3", "after"]);
    kafka.python(
        "topic('compact', 1, cleanup_policy='compact', segment_ms='100', min_cleanable_dirty_ratio='0.01')\n\
         put('compact', [dict(key='a', value='c0'), dict(key='b', value='c1')])",
    );
    let into = m.queue("compacted");
    let link = || run(&m, &["--until-empty", "-o", "name=compact", &kafka.url("compact"), "compacted"]);
    link().ok();
    kafka.python(
        "for i in range(2, 6): put('compact', [dict(key='a', value=f'c{i}')]); time.sleep(0.15)\n\
         t = time.time()\nwhile len(get('compact')) > 3:\n    put('compact', [dict(key='z', value=None)]); time.sleep(0.3)\n    assert time.time() < t + 60",
    );
    link().ok();
    let bodies = m.bodies(&into);
    assert_eq!(bodies[..2], ["c0", "c1"]);
    assert!(bodies.contains(&"c5".to_owned()) && !bodies.contains(&"c2".to_owned()), "{bodies:?}");
}
