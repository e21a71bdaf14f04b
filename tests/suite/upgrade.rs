//! A store that an earlier version of mqfs wrote opens with everything that is in it, and one of a later version is refused.
//!
//! The stores are fixtures: see `tests/fixtures/README.md`.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::*;
use crate::extra::*;
use tempfile::TempDir;

/// A fixture, unpacked: the directory that holds `store`.
fn unpacked(format: u32) -> TempDir {
    let dir = tempfile::Builder::new().prefix("mqfs-test-fixture-").tempdir().unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/store-format-{format}.tar.gz"));
    let tar = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(dir.path()).status().unwrap();
    assert!(tar.success());
    assert_eq!(format_of(dir.path()), format, "what the fixture is");
    dir
}

fn format_of(dir: &Path) -> u32 {
    fs::read_to_string(dir.join("store/format")).unwrap().trim().parse().unwrap()
}

/// The numbers of a queue's statistics, in the order of the keys.
fn numbers(m: &Mount, queue: &str, keys: &str) -> Vec<u64> {
    let stats = m.stats(queue);
    keys.split(' ').map(|key| stats[key].as_u64().unwrap_or_else(|| panic!("{key} in {stats}"))).collect()
}

/// The bodies of the messages that the directory lists, by their producers' names.
fn contents(dir: &Path) -> Vec<(String, String)> {
    let read = |name: String| (producer(&name).to_owned(), fs::read_to_string(dir.join(&name)).unwrap());
    listing(dir).into_iter().filter(|name| !name.starts_with('.') && name.contains('-')).map(read).collect()
}

fn in_state(q: &Path, state: &str) -> Vec<(String, String)> {
    contents(&control(q, state))
}

fn of(names: &[&str]) -> Vec<(String, String)> {
    names.iter().map(|name| (name.to_string(), name.to_string())).collect()
}

/// Bodies as `yes LINE | head -c LENGTH` makes them.
fn repeated(line: &str, length: usize) -> String {
    line.chars().chain(['\n']).cycle().take(length).collect()
}

/// What every fixture holds; see `tests/fixtures/make-store`.
fn assert_all_there(m: &Mount) {
    let q = m.path().join("orders");
    let ready = listing(&q);
    let names = ["0000000000000002-nacked", "0000000000000003-ready", "0000000000000006-redriven"];
    assert_eq!(ready[..3], names);
    assert_eq!(ready.iter().filter(|name| name.starts_with('0')).count(), 6);
    assert_eq!(in_state(&q, "claimed"), of(&["claimed"]));
    assert_eq!(in_state(&q, "dead"), of(&["dead"]));
    let mut all = of(&["nacked", "ready", "claimed", "dead", "redriven"]);
    all.push(("empty".into(), String::new()));
    all.push(("large".into(), repeated("a large body", 300_000)));
    all.push(("headed".into(), "with headers".into()));
    assert_eq!(in_state(&q, "peek"), all);

    assert_eq!(numbers(m, "orders", "ready claimed delayed dead drafts queues"), [6, 1, 0, 1, 2, 1]);
    assert_eq!(numbers(m, "orders", "ready_bytes claimed_bytes dead_bytes"), [300_031, 7, 4]);
    let totals =
        "enqueued_total acked_total nacked_total dead_lettered_total redriven_total expired_total claims_total";
    assert_eq!(numbers(m, "orders", totals), [9, 1, 1, 2, 1, 0, 2]);

    let peek = |name: &str| control(&q, "peek").join(ready.iter().find(|ready| ready.ends_with(name)).unwrap());
    assert_eq!(deliveries(&q, &peek("nacked")), 1);
    assert_eq!(deliveries(&q, &peek("redriven")), 0);
    let headed = peek("headed");
    assert_eq!(xattr(&headed, "user.color").as_deref(), Some("red"));
    assert_eq!(xattr(&headed, "user.mq.correlation_id").as_deref(), Some("17"));
    assert_eq!(
        m.sh(&format!("TZ=UTC stat -c '%a %y' '{}'", headed.display())).ok().split('.').next(),
        Some("640 2001-02-03 04:05:06")
    );
    assert_eq!(fs::read_to_string(q.join(".draft")).unwrap(), "a draft");
    assert_eq!(xattr(q.join(".draft"), "user.shade").as_deref(), Some("dark"));
    assert_eq!(fs::read_to_string(q.join(".large-draft")).unwrap(), repeated("a large draft", 100_000));

    let config = fs::read_to_string(control(&q, "config")).unwrap();
    for line in
        ["visibility_timeout = 36500d", "max_deliveries = 3", "durability = async", "abort_on = never", "claim = read"]
    {
        assert!(config.lines().any(|other| other == line), "{line} in {config}");
    }
    assert_eq!(xattr(&q, "user.purpose").as_deref(), Some("fixture"));
    assert_eq!(m.sh("stat -c %a box").ok(), "1733\n");
    assert_eq!(in_state(&q.join("eu/north"), "peek"), of(&["nested"]));
}

/// A lease that ended while nobody had the store mounted: the message is a dead letter, as the queue delivers once.
fn assert_leases_ended(m: &Mount) {
    let q = m.path().join("leases");
    wait_until(|| numbers(m, "leases", "ready claimed dead expired_total dead_lettered_total") == [0, 0, 1, 1, 1]);
    assert_eq!(in_state(&q, "dead"), of(&["expires"]));
}

/// What the fixtures from format 2 on hold besides.
fn assert_all_of_format_2_there(m: &Mount) {
    let q = m.path().join("kept");
    assert_eq!(
        (listing(&q), fs::read_to_string(q.join(".mq/peek/under-its-name")).unwrap()),
        (vec!["under-its-name".into()], "under-its-name".into())
    );
    let q = m.path().join("waiting");
    // A digit of the priority, then the number.
    let ready: Vec<String> = listing(&q).iter().map(|name| format!("{} {}", &name[..1], &name[18..])).collect();
    assert_eq!(ready, ["0 high", "2 low", "2 once"]);
    assert_eq!(numbers(m, "waiting", "ready delayed batches enqueued_total"), [3, 1, 1, 4]);
    let delayed = only(control(&q, "delayed"));
    let due = humantime::parse_rfc3339(&xattr(&delayed, "user.mq.due").unwrap()).unwrap();
    assert!(due > std::time::SystemTime::now() + std::time::Duration::from_secs(35_000 * 24 * 60 * 60));
    assert!(xattr(delayed, "user.mq.expires").is_some());
    let batch = q.join(".mq/batch/prepared");
    assert_eq!(listing(&batch), ["one", "two"]);
    assert_eq!(m.sh("cat waiting/.mq/batch/prepared/*").ok(), "onetwo");
    let duplicates = numbers(m, "waiting", "duplicates_total")[0];
    m.sh("echo again > waiting/.mq/with/id=order-42/again").ok();
    assert_eq!(numbers(m, "waiting", "ready duplicates_total"), [3, duplicates + 1], "the id is remembered");
    assert_eq!(in_state(&m.path().join("purged"), "peek"), of(&["stays"]));
    assert_eq!(numbers(m, "purged", "ready dead purged_total"), [0, 1, 1]);
}

/// What the fixtures from format 3 on hold besides.
fn assert_all_of_format_3_there(m: &Mount) {
    assert_eq!(in_state(&m.path().join("retries"), "delayed"), of(&["waits"]));
    // Why it is delayed was not written down.
    assert_eq!(numbers(m, "retries", "delayed retrying claims_total dead_lettered_total"), [1, 0, 3, 1]);
    let dead = only(m.path().join("given-up"));
    let told = ["reason", "source", "deliveries"].map(|what| xattr(&dead, &format!("user.mq.dead_{what}")).unwrap());
    assert_eq!(told, ["max_deliveries", "retries", "2"]);
}

/// Goes on with the store as if nothing had happened.
fn go_on(m: &mut Mount) {
    let q = m.path().join("orders");
    m.sh("echo new > orders/new; mv orders/.draft orders/published; mkdir orders/eu/south").ok();
    let names: Vec<String> = in_state(&q, "peek").into_iter().map(|(name, _)| name).collect();
    assert_eq!(names[names.len() - 2..], ["new", "published"], "newer than all that was there");
    m.sh("mv orders/.mq/dead/*-dead orders/ && mv orders/.mq/claimed/*-claimed orders/").ok();
    m.remount();
    assert_eq!(numbers(m, "orders", "ready claimed dead drafts queues"), [10, 0, 0, 1, 1]);
    m.sh("for f in orders/*-*; do cat $f > /dev/null && rm $f; done; rm orders/.large-draft").ok();
    assert_eq!(numbers(m, "orders", "ready claimed dead drafts"), [0, 0, 0, 0]);
    // Of the files of bodies only those of small drafts are left.
    wait_until(|| m.body_files().iter().all(|(_, bytes)| *bytes < 50_000));
}

/// Format 1: the first.
#[test]
fn a_store_of_format_1_is_upgraded_with_all_that_is_in_it() {
    let dir = unpacked(1);
    let mut m = Mount::with_store_in(dir.path(), &[]);
    assert!(format_of(dir.path()) > 1, "from now on an older mqfs must not open it");
    assert!(m.log().contains("store upgraded"), "{}", m.log());
    for round in 0..3 {
        assert_all_there(&m);
        assert_leases_ended(&m);
        if round == 0 { m.kill9_and_remount() } else { m.remount() }
    }
    go_on(&mut m);
}

/// Format 2: priorities, delays, times to live, purges, batches and kept names.
#[test]
fn a_store_of_format_2_opens_with_all_that_is_in_it() {
    let dir = unpacked(2);
    let mut m = Mount::with_store_in(dir.path(), &[]);
    for round in 0..3 {
        assert_all_there(&m);
        assert_leases_ended(&m);
        assert_all_of_format_2_there(&m);
        if round == 0 { m.kill9_and_remount() } else { m.remount() }
    }
    go_on(&mut m);
    m.sh("mv waiting/.mq/batch/prepared waiting/").ok();
    assert_eq!(numbers(&m, "waiting", "ready batches"), [5, 0]);
}

/// Format 3: checksums of bodies, and how far the database is durable.
#[test]
fn a_store_of_format_3_opens_with_all_that_is_in_it() {
    let dir = unpacked(3);
    let mut m = Mount::with_store_in(dir.path(), &[]);
    assert!(format_of(dir.path()) > 3 && m.log().contains("store upgraded"), "{}", m.log());
    for round in 0..3 {
        assert_all_there(&m);
        assert_leases_ended(&m);
        assert_all_of_format_2_there(&m);
        assert_all_of_format_3_there(&m);
        if round == 0 { m.kill9_and_remount() } else { m.remount() }
    }
    go_on(&mut m);
    m.sh("mv retries/.mq/delayed/*-waits retries/ && cat retries/*-waits").ok();
    assert_eq!(numbers(&m, "retries", "claimed retrying redelivered_total"), [1, 0, 1]);
    m.sh("mv retries/.mq/claimed/*-waits retries/").ok();
    assert_eq!(listing(m.path().join("given-up")).len(), 2);
}

/// What an older mqfs says of a store that this one has written, as this one says it of a newer one: nothing is touched.
#[test]
fn a_store_of_a_newer_format_is_refused() {
    let place = crate::place::Place::new();
    place.mounted(&[]);
    place.sh("mkdir mnt/q && echo kept > mnt/q/a").succeeded();
    place.mqfs(&["umount", "mnt"]).succeeded();
    let format = place.store().join("format");
    let own = fs::read_to_string(&format).unwrap();
    fs::write(&format, "99\n").unwrap();
    let files = |place: &crate::place::Place| place.sh("find store -type f | sort | xargs md5sum").stdout;
    let before = files(&place);
    let words = format!("the store has format 99, this mqfs knows formats up to {}: use a newer mqfs", own.trim());
    place.mount(&[]).failed(4, &words);
    place.mount(&["--foreground"]).failed(4, &words);
    assert_eq!(files(&place), before, "it is not touched");
    fs::write(&format, own).unwrap();
    place.mounted(&[]);
    assert_eq!(place.sh("cat mnt/q/*-a").succeeded().stdout, "kept\n");
}
