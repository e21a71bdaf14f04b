//! "exactly one of any number of racing callers wins": transitions are atomic.

use std::collections::HashMap;
use std::fs;

use crate::common::*;
use crate::extra::*;

/// "exactly one of any number of racing callers wins (the losers get ENOENT)": rename(2) from many processes.
#[test]
fn one_of_many_racing_claims_wins() {
    race("rename", "claimed", None);
}

/// The same for every other transition: each message goes one way once.
#[test]
fn one_of_many_racing_moves_wins() {
    race("rename", "dead", None);
    race("rename", "other", None);
}

/// The same from claimed: give back, dead-letter and move away race, and each message takes one of the ways.
#[test]
fn one_of_many_racing_nacks_wins() {
    race("rename", "back", Some("claimed"));
}

/// Acking races like every other transition: a message is unlinked by one.
#[test]
fn one_of_many_racing_acks_wins() {
    race("unlink", "", None);
    race("unlink", "", Some("claimed"));
}

/// Lets 12 processes carry out the same call on each of 40 messages and asserts that one of them succeeds and that the
/// others get ENOENT.
fn race(call: &str, to: &str, from: Option<&str>) {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_deliveries=0"]);
    let other = m.queue("other");
    m.fill(&q, 40);
    if from.is_some() {
        for name in listing(&q) {
            transition(&q, "claimed", &q.join(name));
        }
    }
    let source = if from.is_some() { "q/.mq/claimed" } else { "q" };
    let target = match to {
        "back" => "q",
        "other" => "other",
        "" => "",
        state => &format!("q/.mq/{state}"),
    };
    let program = format!(
        r#"
import os, time
names = sorted(os.listdir("{source}"))
def calls():
    for name in names:
        try:
            if "{call}" == "unlink": os.unlink("{source}/" + name)
            else: os.rename("{source}/" + name, "{target}/" + name)
            yield name, 0
        except OSError as error: yield name, error.errno
children = []
for worker in range(12):
    r, w = os.pipe()
    if os.fork() == 0:
        while not os.path.exists(os.environ["T"] + "/go"): pass
        with os.fdopen(w, "w") as out:
            for name, code in calls(): print(name, code, file=out)
        os._exit(0)
    os.close(w)
    children.append(r)
open(os.environ["T"] + "/go", "w").close()
for r in children: print(os.fdopen(r).read(), end="")
"#
    );
    let ran = m.python(&program);
    let mut codes: HashMap<&str, Vec<i32>> = HashMap::new();
    for line in ran.ok().lines() {
        let (name, code) = line.split_once(' ').unwrap();
        codes.entry(name).or_default().push(code.parse().unwrap());
    }
    assert_eq!(codes.len(), 40);
    for (name, codes) in &codes {
        assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{call} {from:?} {to}: {name}: {codes:?}");
        let others = codes.iter().filter(|code| **code != 0);
        assert!(others.clone().all(|code| *code == libc::ENOENT), "{call} {from:?} {to}: {name}: {codes:?}");
    }
    let (here, there) = (m.messages("q").len(), m.messages("other").len());
    assert_eq!(
        (here, there),
        if call == "unlink" {
            (0, 0)
        } else if to == "other" {
            (0, 40)
        } else {
            (40, 0)
        }
    );
    if to == "claimed" {
        assert_eq!(m.stats("q")["claims_total"].as_u64(), Some(40));
        assert!(listing(control(&q, "claimed")).iter().all(|name| deliveries(&q, &q.join(name)) == 1));
    }
    assert_eq!(listing(&other).len(), there);
}

/// The same with the program itself: of many `mv` one wins, and each of the others says that there is no such file.
#[test]
fn one_of_many_mv_wins() {
    let m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 20);
    let worker = r#"for f in q/*; do mv "$f" q/.mq/claimed/ 2>> $T/err$w && echo "${f##*/}"; done"#;
    let script = format!(
        "for w in 1 2 3 4 5 6 7 8; do ({worker}) > $T/won$w & done; wait; cat $T/won* | sort; cat $T/won* | wc -l"
    );
    let mut expected: String = listing(&q).iter().map(|name| format!("{name}\n")).collect();
    expected.push_str("20\n");
    assert_eq!(m.sh(&script).ok(), expected);
    // A file for each: what several write to one file at a time is mixed within its lines.
    let errors: String = (1..=8).map(|w| fs::read_to_string(m.scratch().join(format!("err{w}"))).unwrap()).collect();
    assert!(errors.lines().all(|line| line.ends_with("No such file or directory")), "{errors}");
    assert!(listing(control(&q, "claimed")).iter().all(|name| deliveries(&q, &q.join(name)) == 1));
}

/// A reader and a `mv` race for one message: it is one's or the other's.
#[test]
fn reading_and_mv_race_for_a_claim() {
    let m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 30);
    // Each stays until all have been through: what a worker left behind when it ended goes on with its script.
    let stay = "echo >> $T/through; until [ $(wc -l < $T/through) = 6 ]; do sleep 0.01; done";
    let reader = r#"for f in q/*; do cat "$f" 2>> $T/err && echo; done"#;
    let mover = r#"for f in q/*; do mv "$f" q/.mq/claimed/ 2>> $T/err && echo m${f##*-m}; done"#;
    let script = format!(
        "for w in 1 2 3; do ({reader}; {stay}) > $T/won-r$w & ({mover}; {stay}) > $T/won-m$w & done; wait; sort -V $T/won-*"
    );
    let expected: String = (0..30).map(|i| format!("m{i}\n")).collect();
    assert_eq!(m.sh(&script).ok(), expected);
    assert!(listing(control(&q, "claimed")).iter().all(|name| deliveries(&q, &q.join(name)) == 1));
}

/// A transition is the same for whoever looks: the names of all states always show each message once.
#[test]
fn transitions_are_atomic_to_watchers() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_deliveries=0", "durability=async"]);
    m.fill(&q, 30);
    let program = r#"
import os, random, time
names = sorted(os.listdir("q"))
end = time.time() + 5
while time.time() < end:
    name = random.choice(names)
    for path in ("q/.mq/claimed", "q", "q/.mq/dead", "q"):
        here = "q/" + name if path != "q" else at + "/" + name
        os.rename(here, path + "/" + name)
        at = path
"#;
    let mut mover = m.spawn_python(program);
    let mut looks = 0;
    while mover.is_running() {
        assert_eq!(listing(control(&q, "peek")).len(), 30, "peek shows each message once, whatever its state");
        let stats = m.stats("q");
        let sum: u64 = ["ready", "claimed", "dead"].iter().map(|key| stats[key].as_u64().unwrap()).sum();
        assert_eq!(sum, 30, "{stats}");
        looks += 1;
    }
    mover.finish().ok();
    assert!(looks > 20, "{looks} looks");
    assert_eq!(listing(&q).len(), 30);
}
