//! `mqfs export` and `mqfs import`: all of a store as lines of JSON, and back.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::place::{Place, Ran, binary, run};
use serde_json::Value;

/// A store with all that a message and a queue can have.
const FILL: &str = r#"cd mnt && mkdir a a/b kept urgent && chmod 2750 a && chown 1:2 kept
    echo 'names = keep' > kept/.mq/config
    printf 'priorities = 5\ndedup_window = 1h\nvisibility_timeout = 2h\nmessage_ttl = 3h\n' > urgent/.mq/config
    setfattr -n user.mark.at -v 4711 a; setfattr -n user.mark.bytes -v 0xff00 a; setfattr -n user.mark.none kept
    setfattr -n user.note -v 'a "note"' a; setfattr -n user.bytes -v 0xff00 a
    echo 1 > a/one; : > a/empty; printf 'x' > $'a/with a "quote" and \xff and \n'; head -c 3000000 /dev/urandom > a/b/large
    head -c 32768 /dev/urandom > a/b/edge; head -c 32769 /dev/urandom > a/b/over
    echo dead > a/dead && mv a/*-dead a/.mq/dead/; echo claimed > a/claimed && mv a/*-claimed a/.mq/claimed/
    echo 5 > a/.mq/with/delay=1h,header.colour=red,correlation_id=c/delayed
    for p in 0 4 2; do echo $p > urgent/.mq/with/priority=$p,id=id-$p,ttl=2h/p$p; done
    cat "urgent/$(cat urgent/.mq/claim)" > /dev/null; rm urgent/.mq/claimed/*
    printf 'no name\nnor this\n' > kept/.mq/lines; echo 7 > kept/0000000000000077-seven
    head -c 100000 /dev/urandom > kept/page.pdf; echo 2 > kept/zwei; chmod 600 kept/zwei; touch -d '2001-02-03 04:05:06.789' kept/zwei
    mv a/*-one a/.mq/claimed/ && mv a/.mq/claimed/*-one a/"#;

/// What a mount shows of every message.
const LOOK: &str = r#"cd mnt && for q in a a/b kept urgent; do cat $q/.mq/config; stat -c '%n %a %u %g' $q; ls -R $q $q/.mq/claimed $q/.mq/dead
    getfattr -d -m 'user\.([nb]|mark)' $q
    (cd $q/.mq/peek && ls -ln --time-style=full-iso && sha256sum -- * && getfattr -e hex -d -m - -- *); done 2>&1"#;

impl Place {
    /// A script that must work; what it says.
    #[track_caller]
    fn works(&self, script: &str) -> String {
        self.sh(script).succeeded().stdout.clone()
    }

    /// `mqfs import` of lines into `store`.
    fn import(&self, store: &str, lines: &str) -> Ran {
        let input = self.dir().join("input");
        fs::File::create(&input).unwrap().write_all(lines.as_bytes()).unwrap();
        let mut command = Command::new(binary());
        command.args(["import", store]).current_dir(self.dir());
        let output = command.stdin(fs::File::open(input).unwrap()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn lines(&self, source: &[&str]) -> Vec<Value> {
        let ran = self.mqfs(&[&["export"], source].concat());
        ran.succeeded().stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Bodies of a queue by the producers' names, from an export of the store.
    fn bodies(&self, store: &str, queue: &str) -> BTreeMap<String, String> {
        let of = |line: &Value| (line["type"] == "message" && line["queue"] == queue).then(|| text(line));
        self.lines(&[store]).iter().filter_map(of).collect()
    }
}

/// The name and the body of a message.
fn text(line: &Value) -> (String, String) {
    (line["name"].as_str().unwrap().to_owned(), line["body"].as_str().unwrap().to_owned())
}

#[test]
fn everything_makes_the_round_trip() {
    let place = Place::new();
    place.mounted(&["-o", "visibility_timeout=5h"]);
    place.works(FILL);
    let before = place.works(LOOK);
    // All three see the same.
    place.works(
        "$MQFS export mnt > mounted && $MQFS backup -q mnt saved && $MQFS export saved > backup && $MQFS umount mnt",
    );
    place.works("$MQFS export store > first && cmp mounted first && cmp backup first");
    assert!(place.works("$MQFS import other < first").contains("16 messages and 4 queues imported"));
    place.works("$MQFS export other > second && cmp first second");
    // A program that writes the members in another order, and more bytes for each character.
    place.works(
        "python3 -c 'import json, sys
for line in sys.stdin: print(json.dumps(json.loads(line), sort_keys=True))' < first | $MQFS import -q sorted
         $MQFS export sorted > third && cmp first third",
    );
    place.works("$MQFS mount other mnt");
    let after = place.works(LOOK);
    assert_eq!(before, after);
    // It goes on: an id is remembered, a lease can be ended, names are kept, numbers are not given twice.
    place.works(
        "cd mnt && echo again > urgent/.mq/with/id=id-4/again && test $(ls urgent | wc -l) = 2 && mv a/.mq/claimed/* a/
         ! echo x 2> /dev/null > kept/zwei && echo new > a/new && cat a/*-new && mv a/.mq/dead/* a/",
    );
}

#[test]
fn queues_can_be_chosen_and_those_around_them_come_without_messages() {
    let place = Place::new();
    place.mounted(&[]);
    place.works("cd mnt && mkdir -p a/b/c other && for q in a a/b a/b/c other; do echo $q > $q/m; done");
    let told = |lines: Vec<Value>| {
        let of = |kind: &str, key: &str| -> Vec<String> {
            let lines = lines.iter().filter(|line| line["type"] == kind);
            lines.map(|line| line[key].as_str().unwrap().to_owned()).collect()
        };
        (of("queue", "path"), of("message", "queue"))
    };
    let both =
        |names: [&str; 3], messages: [&str; 2]| (names.map(String::from).to_vec(), messages.map(String::from).to_vec());
    assert_eq!(told(place.lines(&["mnt", "a/b/"])), both(["a", "a/b", "a/b/c"], ["a/b", "a/b/c"]));
    assert_eq!(told(place.lines(&["mnt", "/a/b/c", "other"])).1, ["a/b/c", "other"]);
    place.mqfs(&["export", "mnt", "a", "b"]).failed(9, "no queue b");
    place.mqfs(&["umount", "mnt"]).succeeded();
    place.works("$MQFS export store a/b | $MQFS import -q new");
    assert_eq!(place.bodies("new", "a/b").len(), 1);
    assert_eq!(place.bodies("new", "a").len(), 0);
}

#[test]
fn lines_that_cannot_be_used_are_told_with_their_numbers_and_the_others_are_imported() {
    let place = Place::new();
    // This process, which is not that user's.
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let start = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap();
    let own = format!("[{},{start}]", std::process::id());
    let ran = place.import(
        "new",
        r#"{"type":"queue","path":"q"}
{"type":"queue","path":"kept","config":{"names":"keep"}}
{"type":"message","queue":"q","name":"good","body":"aGVsbG8="}
{"type":"message","queue":"q","name":"bad","body":"aGVs!"}
not JSON

{"type":"message","queue":"nowhere","name":"m","body":""}
{"type":"message","queue":"q","name":"a/b","body":""}
{"type":"message","queue":"q","state":"lost","body":""}
{"type":"message","queue":"q","state":"claimed","body":""}
{"type":"message","queue":"q","size":3,"body":"aGVsbG8="}
{"type":"message","queue":"q","colour":"red","body":""}
{"type":"message","queue":"kept","name":"one","body":"MQ=="}
{"type":"message","queue":"kept","name":"one","body":"Mg=="}
{"type":"queue","path":"q/0000000000000001-x"}
{"type":"queue","path":"no/parent"}
{"type":"queue","path":"bad","config":{"colour":"red"}}
{"type":"queue","path":"bad","mode":"9"}
{"type":"message","queue":"q","enqueued_at":"yesterday","body":""}
{"type":"message","queue":"q","attributes":{"security.x":"y"},"body":""}
{"type":"message","queue":"q","attributes":{"user.mq.priority":"99"},"body":""}
{"type":"message","queue":"q","attributes":{"user.mq.claimed_by":"me"},"body":""}
{"type":"message","queue":"q","uid":4294967295,"body":""}
{"type":"message","queue":"q","state":"claimed","deliveries":1,"claim":{"at":"2026-01-01T00:00:00Z","deadline":"2036-01-01T00:00:00Z","uid":0},"body":""}
{"type":"message","queue":"q","state":"claimed","claim":{"at":"2026-01-01T00:00:00Z","deadline":"2026-01-01T00:00:30Z","uid":0},"body":""}
{"type":"message","queue":"q","state":"claimed","deliveries":1,"claim":{"at":"2026-01-01T00:00:00Z","deadline":"2026-01-01T00:00:30Z","uid":0,"process":[5000000,1]},"body":""}
{"type":"message","queue":"q","state":"claimed","deliveries":1,"claim":{"at":"2026-01-01T00:00:00Z","deadline":"2026-01-01T00:00:30Z","uid":12345,"process":OWN},"body":""}
{"type":"queue","path":"own","attributes":{"user.mq.paused":"both"}}
{"type":"message","queue":"q","name":"last","body":"aGk="}"#
            .replace("OWN", &own)
            .as_str(),
    );
    assert_eq!(ran.code, Some(13), "{ran:?}");
    let expected = [
        (4, "base64"),
        (5, "expected"),
        (7, "no queue `nowhere`"),
        (8, "not a name"),
        (9, "unknown state `lost`"),
        (10, "without a `claim`"),
        (11, "a body of 5 bytes where 3 should be"),
        (12, "unknown field `colour`"),
        (14, "name taken"),
        (15, "a queue's name"),
        (16, "nested in is missing"),
        (17, "colour"),
        (18, "mode `9`"),
        (19, "yesterday"),
        (20, "security.x"),
        (21, "priority `99`"),
        (22, "`user.mq.claimed_by` is no property"),
        (23, "no user"),
        (24, "later than the queue allows"),
        (25, "never delivered"),
        (26, "5000000 is no process"),
        (27, "has not claimed this"),
        (28, "`user.mq.paused` is no property"),
    ];
    let told: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(told.len(), expected.len() + 1, "{ran:?}");
    for (line, (number, words)) in told.iter().zip(expected) {
        assert!(line.starts_with(&format!("mqfs: line {number}: ")) && line.contains(words), "{line} {words}");
    }
    assert!(told.last().unwrap().contains("23 lines could not be used; 3 messages and 2 queues imported"), "{ran:?}");
    assert_eq!(
        place.bodies("new", "q").into_iter().collect::<Vec<_>>(),
        [("good".into(), "aGVsbG8=".into()), ("last".into(), "aGk=".into())]
    );
    assert_eq!(place.bodies("new", "kept")["one"], "MQ==");
    // Nothing is left of the bodies that were refused.
    let ran = place.import(
        "new",
        &format!("{{\"type\":\"message\",\"queue\":\"kept\",\"name\":\"one\",\"body\":\"{}\"}}", "A".repeat(200_000)),
    );
    assert_eq!(ran.code, Some(13));
    assert_eq!(place.works("find new/bodies -type f | wc -l").trim(), "0");
}

/// Names have 16 digits: nobody makes a store in which the next message would have more.
#[test]
fn numbers_leave_room_for_those_that_come() {
    let place = Place::new();
    let line =
        |numbers: &str| format!("{{\"type\":\"message\",\"queue\":\"q\",\"name\":\"m\",{numbers},\"body\":\"\"}}\n");
    let head = "{\"type\":\"mqfs-export\",\"version\":1}\n{\"type\":\"queue\",\"path\":\"q\"}\n";
    let wrong = ["\"seq\":9999999999999999", "\"seq\":0", "\"id\":\"ffffffffffffffff\"", "\"id\":\"0\""].map(line);
    let ran = place.import("store", &[head, &wrong.concat(), &line("\"seq\":8999999999999999")].concat());
    assert_eq!(ran.code, Some(13), "{ran:?}");
    assert_eq!(ran.stderr.matches("is no number of a store").count(), 4, "{ran:?}");
    place.mounted(&[]);
    let told = place.works("cd mnt/q && echo next > x && ls && cat 9000000000000000-x && rm 9000000000000000-x");
    assert_eq!(told, "8999999999999999-m\n9000000000000000-x\nnext\n");
    place.mqfs(&["umount", "mnt"]).succeeded();
    place.mqfs(&["check", "store"]).succeeded();
}

#[test]
fn what_is_there_stays_and_what_comes_gets_new_numbers() {
    let place = Place::new();
    place.mounted(&[]);
    place.works(
        "cd mnt && mkdir q && echo 'max_deliveries = 3' > q/.mq/config && for i in 1 2 3; do echo $i > q/m$i; done",
    );
    place.mqfs(&["export", "mnt"]).succeeded();
    place.works(
        "$MQFS export mnt > saved && echo 'max_deliveries = 4' > mnt/q/.mq/config && rm mnt/q/*-m2 && $MQFS umount mnt",
    );
    assert!(place.works("cat saved saved | $MQFS import store").contains("6 messages and 0 queues"));
    let lines = place.lines(&["store"]);
    let messages: Vec<&Value> = lines.iter().filter(|line| line["type"] == "message").collect();
    let names: Vec<&str> = messages.iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["m1", "m3", "m1", "m2", "m3", "m1", "m2", "m3"]);
    let mut ids: Vec<&str> = messages.iter().map(|line| line["id"].as_str().unwrap()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 8);
    let queue = lines.iter().find(|line| line["path"] == "q").unwrap();
    assert_eq!(queue["config"]["max_deliveries"], "4");
    place.works(
        "$MQFS mount store mnt && test $(ls mnt/q | wc -l) = 8 && cat mnt/q/* > /dev/null && rm mnt/q/.mq/claimed/*",
    );
}

#[test]
fn a_store_that_is_mounted_or_is_none_is_refused() {
    let place = Place::new();
    place.mounted(&[]);
    place.works("mkdir mnt/q full && touch full/x");
    place.mqfs(&["export", "store"]).failed(3, "in use");
    place.mqfs(&["export", "full"]).failed(4, "no `format` file");
    place.mqfs(&["export", "missing"]).failed(4, "No such file");
    place.mqfs(&["export", "/proc"]).failed(4, "");
    assert_eq!(place.import("store", "").code, Some(3));
    let on_mount = place.import("mnt/q", "");
    assert!(on_mount.code == Some(12) && on_mount.stderr.contains("unmount it"), "{on_mount:?}");
    let newer = place.import("new", r#"{"type":"mqfs-export","version":99}"#);
    assert!(newer.code == Some(13) && newer.stderr.contains("line 1: version 99"), "{newer:?}");
    assert_eq!(place.import("full", "").code, Some(4));
}

#[test]
fn damaged_messages_and_drafts_are_told_and_left_out() {
    let place = Place::new();
    place.mounted(&[]);
    place.works("cd mnt && mkdir q && head -c 100000 /dev/urandom > q/a && echo b > q/b && echo d > q/.draft && cd .. && $MQFS umount mnt
                 file=$(find store/bodies -type f -size +40k) && printf x | dd of=$file bs=1 seek=70000 conv=notrunc 2> /dev/null");
    let ran = place.mqfs(&["export", "store"]);
    assert_eq!(ran.code, Some(13), "{ran:?}");
    let told: Vec<&str> = ran.stderr.lines().collect();
    assert!(told.len() == 3 && told[0].contains("damaged") && told[1].contains("1 drafts"), "{ran:?}");
    assert_eq!(ran.stdout.lines().filter(|line| line.contains("\"message\"")).count(), 1);
}

#[test]
fn an_import_whose_disk_is_full_says_how_far_it_came_and_what_is_there_is_whole() {
    let place = Place::new();
    place.works("mkdir disk && mount -t tmpfs -o size=48m none disk");
    let mut lines = String::from("{\"type\":\"queue\",\"path\":\"q\"}\n");
    for number in 0..600 {
        let body = "QUJD".repeat(33_000);
        lines += &format!("{{\"type\":\"message\",\"queue\":\"q\",\"name\":\"m{number}\",\"body\":\"{body}\"}}\n");
    }
    let ran = place.import("disk/store", &lines);
    let exported =
        run(Command::new(binary()).args(["export", "disk/store"]).current_dir(place.dir()).stderr(Stdio::piped()));
    place.works("umount disk");
    assert!(ran.code == Some(10) && ran.stderr.contains("no space left"), "{ran:?}");
    let messages = exported.succeeded().stdout.lines().filter(|line| line.contains("\"type\":\"message\"")).count();
    assert!(
        messages > 100 && ran.stderr.contains(&format!("{messages} messages and 1 queues imported")),
        "{} {messages}",
        ran.stderr
    );
}

#[test]
fn an_import_that_is_killed_leaves_whole_messages_and_a_store_that_works() {
    let place = Place::new();
    let mut import = Command::new(binary());
    import.args(["import", "store"]).current_dir(place.dir()).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut import = import.spawn().unwrap();
    let body = "QUJD".repeat(33_000);
    let line = |name: &str| format!("{{\"type\":\"message\",\"queue\":\"q\",\"name\":\"{name}\",\"body\":\"{body}");
    let mut input = import.stdin.take().unwrap();
    input.write_all(b"{\"type\":\"mqfs-export\",\"version\":1}\n{\"type\":\"queue\",\"path\":\"q\"}\n").unwrap();
    for name in ["a", "b", "c"] {
        input.write_all((line(name) + "\"}\n").as_bytes()).unwrap();
    }
    input.write_all(line("half").as_bytes()).unwrap();
    let incoming = place.store().join("bodies/incoming");
    crate::place::until(|| {
        fs::metadata(&incoming).is_ok_and(|file| file.len() > 50_000)
            && place.works("find store/bodies/?? -type f").lines().count() == 3
    });
    import.kill().unwrap();
    import.wait().unwrap();
    drop(input);
    assert!(place.bodies("store", "q").into_iter().eq(["a", "b", "c"].map(|name| (name.to_owned(), body.clone()))));
    place.mounted(&[]);
    assert!(!incoming.exists(), "removed when the store is opened");
    place.works("cd mnt/q && test $(ls | wc -l) = 3 && echo d > d && cat *-d && rm .mq/claimed/*");
}

#[test]
fn only_who_may_make_a_backup_may_export_a_mount() {
    let place = Place::new();
    place.mounted(&["-o", "allow_other"]);
    place.works("mkdir mnt/q && echo m > mnt/q/m");
    let ran = place.sh("setpriv --reuid=65534 --regid=65534 --clear-groups $MQFS export mnt");
    ran.failed(6, "only root");
    // What is left of it when its reader has seen enough.
    let ran = place
        .sh("for i in $(seq 300); do head -c 30000 /dev/zero > mnt/q/$i; done; $MQFS export mnt | head -n 1 | wc -l");
    assert_eq!(ran.stdout.trim(), "1");
    assert!(ran.stderr.contains("Broken pipe"), "{ran:?}");
    crate::place::until(|| !place.store().join("snapshot").exists());
}

/// "kept by rename, export, backup": a mark that a queue has stays as it is, as its configuration does.
#[test]
fn a_mark_is_imported_where_there_is_none_and_only_as_one() {
    let place = Place::new();
    let queue = r#"{"type":"queue","path":"q"}"#;
    let mark = |name: &str, value: &str| format!(r#"{{"type":"mark","queue":"q","mark":"{name}","value":"{value}"}}"#);
    let longest = "x".repeat(65_536);
    place.import("new", &[queue, &mark("a", "1"), &mark("long", &longest)].map(str::to_owned).join("\n")).succeeded();
    let again =
        [mark("a", "2"), mark("b", "3"), mark("", "4"), mark("c", &format!("{longest}y")), mark(&"n".repeat(250), "5")];
    let ran = place.import("new", &again.join("\n"));
    assert_eq!(ran.code, Some(13), "{}", ran.stderr);
    for words in ["line 3: ", "line 4: mark c: longer than 65536", "line 5: `user.mark.nnn"] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    let marks = place.lines(&["new"]).into_iter().filter(|line| line["type"] == "mark");
    let marks: Vec<_> = marks.map(|line| (line["mark"].clone(), line["value"].as_str().unwrap().len())).collect();
    assert_eq!(marks, [("a".into(), 1), ("b".into(), 1), ("long".into(), 65_536)]);
    let more: Vec<String> = (0..62).map(|n| mark(&n.to_string(), "x")).collect();
    let ran = place.import("new", &more.join("\n"));
    assert!(
        ran.code == Some(13) && ran.stderr.contains("line 62: a queue has no more than 64 marks"),
        "{}",
        ran.stderr
    );
}
