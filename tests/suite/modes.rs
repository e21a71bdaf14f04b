//! Every way to put something into a queue, to look at it, to take it out and to configure it, tried by its owner, by members
//! of its group and by others, in queues of many modes. What each may do follows from the rules of section "Who may do what".

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use crate::common::*;
use crate::extra::*;
use crate::users::*;

/// Somebody else.
const EVE: u32 = 23456;

const MODES: &[u32] =
    &[0o700, 0o750, 0o770, 0o755, 0o777, 0o733, 0o1733, 0o1777, 0o771, 0o2775, 0o1770, 0o300, 0o500, 0o057, 0o074];

/// What a caller's class gives, with the sticky bit.
#[derive(Clone, Copy, Debug)]
struct Rights {
    read: bool,
    write: bool,
    enter: bool,
    owner: bool,
    sticky: bool,
}

impl Rights {
    fn of(mode: u32, shift: u32) -> Rights {
        let bits = mode >> shift;
        let (read, write, enter) = (bits & 4 != 0, bits & 2 != 0, bits & 1 != 0);
        Rights { read, write, enter, owner: shift == 6, sticky: mode & 0o1000 != 0 }
    }

    fn consumes(self) -> bool {
        self.read && self.write && self.enter && (!self.sticky || self.owner)
    }

    /// Whether a route is open to the caller, for messages of root's that `open` says everybody may read.
    fn allow(self, route: &str, open: bool) -> bool {
        let Rights { read, write, enter, owner, .. } = self;
        match route {
            "enqueue" | "draft" | "publish" | "link" | "with" | "lines in" | "batch" | "mkdir" => write && enter,
            "list" => read,
            "list peek" | "stats" | "config" | "metrics" => read && enter,
            "peek" | "header" | "read" | "read claimed" => read && enter && (open || self.consumes()),
            "claim" | "pop" | "lines out" | "to claimed" | "to dead" | "nack" | "nack later" | "redrive"
            | "deliver" | "move" => self.consumes(),
            // In a sticky directory the owner of a file or of the directory removes it.
            "remove" | "remove claimed" | "remove dead" => read && write && enter && (!self.sticky || owner),
            "configure" | "purge" => owner && enter,
            "configure by attribute" => owner && write,
            "chmod" => owner,
            "chmod a message" | "renew" => false,
            _ => panic!("no rule for {route}"),
        }
    }
}

/// Tries every route; says which succeeded. Its arguments: the names of messages by what is to be done with them.
const TRY: &str = r#"
import json, os, re, sys, time
names = json.load(open(sys.argv[1]))
q, mq = "q/", "q/.mq/"
def write(path, text="x"):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_NONBLOCK, 0o600)
    try: os.write(fd, text.encode())
    finally: os.close(fd)
def take(path):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try: assert os.read(fd, 4096)
    finally: os.close(fd)
def draft(name): write(q + name)
def publish(): draft(".p"); os.rename(q + ".p", q + "p")
def link(): draft(".l"); os.link(q + ".l", q + "l")
def batch():
    os.mkdir(mq + "batch/b"); write(mq + "batch/b/1"); os.rename(mq + "batch/b", q + "b")
def overwrite(path, text):
    fd = os.open(path, os.O_WRONLY)
    try: os.write(fd, text.encode())
    finally: os.close(fd)
def mv(name, here, there): os.rename(q + here + names[name], q + there + names[name])
def body(path):
    with open(path) as file: assert file.read().startswith("root's")
def metrics():
    # They are put together at most once a second: what is older than the queue's mode does not count.
    begun, told = time.time(), 0
    while told <= begun:
        text = open(".mq/metrics").read()
        told = float(re.search("^mqfs_timestamp_seconds.* (.*)$", text, re.M).group(1))
    assert re.search('^mqfs_messages{.*queue="q"', text, re.M)
routes = {
    "list": lambda: os.listdir(q), "list peek": lambda: os.listdir(mq + "peek"),
    "stats": lambda: open(mq + "stats").read(), "config": lambda: open(mq + "config").read(), "metrics": metrics,
    "enqueue": lambda: write(q + "new"), "draft": lambda: draft(".d"), "publish": publish, "link": link,
    "with": lambda: write(mq + "with/priority=1/w"), "lines in": lambda: overwrite(mq + "lines", "line\n"), "batch": batch,
    "mkdir": lambda: os.mkdir(q + "inner"),
    "peek": lambda: body(mq + "peek/" + names["peek"]), "read": lambda: body(q + names["read"]),
    "header": lambda: os.getxattr(mq + "peek/" + names["peek"], "user.h"),
    "read claimed": lambda: body(mq + "claimed/" + names["read claimed"]),
    "to claimed": lambda: mv("to claimed", "", ".mq/claimed/"), "to dead": lambda: mv("to dead", "", ".mq/dead/"),
    "nack": lambda: mv("nack", ".mq/claimed/", ""), "nack later": lambda: mv("nack later", ".mq/claimed/", ".mq/delayed/"),
    "redrive": lambda: mv("redrive", ".mq/dead/", ""), "deliver": lambda: mv("deliver", ".mq/delayed/", ""),
    "move": lambda: os.rename(q + names["move"], "own/x"),
    "remove": lambda: os.unlink(q + names["remove"]), "remove claimed": lambda: os.unlink(mq + "claimed/" + names["remove claimed"]),
    "remove dead": lambda: os.unlink(mq + "dead/" + names["remove dead"]),
    "renew": lambda: os.utime(mq + "claimed/" + names["read claimed"]),
    "chmod a message": lambda: os.chmod(mq + "peek/" + names["peek"], 0o777),
    "claim": lambda: take(mq + "claim"), "pop": lambda: take(mq + "pop"), "lines out": lambda: take(mq + "lines"),
    "configure": lambda: overwrite(mq + "config", "max_deliveries=9\n"),
    "configure by attribute": lambda: os.setxattr(q, "user.mq.max_deliveries", b"8"),
    "purge": lambda: overwrite(mq + "purge", "drafts\n"), "chmod": lambda: os.chmod(q, int(sys.argv[2], 8)),
}
done = {}
for route, attempt in routes.items():
    try: attempt(); done[route] = ""
    except OSError as error: done[route] = os.strerror(error.errno)
    except AssertionError: done[route] = "nothing there"
print(json.dumps(done))
"#;

/// Where a message is put before somebody tries what its name says.
const PLACED: &[(&str, &str)] = &[
    ("peek", ""),
    ("read", ""),
    ("read claimed", "claimed"),
    ("to claimed", ""),
    ("to dead", ""),
    ("nack", "claimed"),
    ("nack later", "claimed"),
    ("redrive", "dead"),
    ("deliver", "delayed"),
    ("move", ""),
    ("remove", ""),
    ("remove claimed", "claimed"),
    ("remove dead", "dead"),
];

/// Root's messages, one for each route that needs one, and some for those that take the next; their names by route.
fn prepare(m: &Mount, q: &Path, bits: u32) -> BTreeMap<&'static str, String> {
    let mut made = BTreeMap::new();
    for (route, place) in PLACED.iter().chain(&[("first", ""), ("second", ""), ("third", "")]) {
        let draft = q.join(".root");
        fs::write(&draft, format!("root's {route}")).unwrap();
        chmod(&draft, bits);
        set_xattr(&draft, "user.h", b"header").unwrap();
        if *place == "delayed" {
            set_xattr(&draft, "user.mq.delay", b"1h").unwrap();
        }
        fs::rename(&draft, q.join("m")).unwrap();
        let newest = names(control(q, "peek")).into_iter().max().unwrap().into_string().unwrap();
        if matches!(*place, "claimed" | "dead") {
            transition(q, place, &q.join(&newest));
        }
        made.insert(*route, newest);
    }
    fs::write(m.scratch().join("names"), serde_json::to_string(&made).unwrap()).unwrap();
    made
}

#[test]
fn every_route_is_open_to_whom_the_rules_say_and_to_nobody_else() {
    let m = Mount::with(&["-o", "allow_other"]);
    let script = m.scratch().join("try");
    fs::write(&script, TRY).unwrap();
    let staff = STAFF.to_string();
    for (at, bits) in MODES.iter().enumerate() {
        for (who, uid, gid, groups, shift) in [
            ("owner", ANN, ANN, "", 6),
            ("member", BOB, STAFF, "", 3),
            ("supplementary member", EVE, EVE, staff.as_str(), 3),
            ("other", EVE, EVE, "", 0),
        ] {
            let (q, own) = (m.queue_with("q", &["visibility_timeout=1h"]), m.queue("own"));
            let open = at % 2 == 0;
            let placed = prepare(&m, &q, if open { 0o644 } else { 0o600 });
            chown(&q, Some(ANN), Some(STAFF)).unwrap();
            chmod(&q, *bits);
            chown(&own, Some(uid), None).unwrap();
            let run = format!("python3 $T/try $T/names {bits:o}");
            let groups = if groups.is_empty() { gid.to_string() } else { groups.to_owned() };
            let ran = m.run_as_with_groups(uid, gid, &groups, &run);
            let done: BTreeMap<String, String> = serde_json::from_str(ran.ok()).unwrap();
            let rights = Rights::of(*bits, shift);
            for (route, error) in &done {
                let expected = rights.allow(route, open);
                assert_eq!(error.is_empty(), expected, "{who}, {bits:o}, {open}: {route}: {error:?}");
            }
            assert!(done.len() > PLACED.len());
            let claimed = state(&q, &q.join(&placed["read"])).as_deref() == Some("claimed");
            assert_eq!(claimed, rights.consumes(), "{who}, {bits:o}: reading claims for consumers only");
            chmod(&q, 0o700);
            m.sh("echo all > q/.mq/purge; rm -rf q/inner; rm -f own/*; rmdir q own").ok();
        }
    }
}
