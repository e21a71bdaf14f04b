//! While a broker has one part of a link's window, the link claims the next one: whatever becomes of mount, broker or connection then,
//! messages are sent in the order of the queue, and no more often than has to be.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::*;
use crate::extra::*;
use crate::linking::{SOON, is_empty, of, start};
use crate::rabbit::{Rabbit, rough, shared};

/// Two are sent at a time.
const FOUR: [&str; 2] = ["-o", "window=4"];

fn bodies(numbers: impl Iterator<Item = usize>) -> Vec<String> {
    numbers.map(|i| format!("m{i}")).collect()
}

/// Ten messages, all of them there at once.
fn fill(q: &Path) {
    let batch = q.join(".mq/batch/ten");
    fs::create_dir(&batch).unwrap();
    (0..10).for_each(|i| fs::write(batch.join(format!("m{i}")), format!("m{i}")).unwrap());
    fs::rename(batch, q.join("ten")).unwrap();
}

fn came(rabbit: &Rabbit, queue: &str) -> Vec<String> {
    rabbit.drain(queue).into_iter().map(|(_, body)| body).collect()
}

/// Mqfs is killed when the broker has two messages and has not answered, and two more are claimed, of the last of which the link has
/// not heard. What is with the broker is not claimed anew: the answer would be taken for that of others, such as an urgent one that came
/// meanwhile. All else is, before anything is claimed.
#[test]
fn a_mount_that_goes_while_something_is_under_way_changes_no_order() {
    let (mut m, rabbit) = (Mount::new(), rough());
    rabbit.queue("window-mount");
    let q = m.queue_with("q", &["durability=async", "visibility_timeout=1h", "priorities=2"]);
    let (status, claimed) = (m.scratch().display().to_string(), q.join(".mq/claimed").display().to_string());
    let mut link = Command::new("strace");
    link.args(["-f", "-qq", "-E", &format!("XDG_RUNTIME_DIR={status}"), "-o", "/dev/null", "-P", &claimed]);
    // The first one is that of all names.
    link.args(["-e", "trace=openat", "-e", "inject=openat:delay_enter=5000000:when=5"]);
    link.args([env!("CARGO_BIN_EXE_mqfs"), "link", "-o", "name=w"]).args(SOON).args(FOUR);
    let link = m.start_command(link.args(["q", &rabbit.url("?queue=window-mount")]));
    wait_until(|| of(&m, "w", "state") == "running");
    rabbit.pause();
    fill(&q);
    wait_until(|| m.stats(&q)["claimed"] == 4);
    m.kill9_and_remount();
    fs::write(q.join(".urgent"), "urgent").unwrap();
    set_xattr(q.join(".urgent"), "user.mq.priority", "1").unwrap();
    fs::rename(q.join(".urgent"), q.join("urgent")).unwrap();
    rabbit.resume();
    wait_until(|| is_empty(&m, &q));
    let expected = [bodies(0..2), vec!["urgent".to_owned()], bodies(2..10)].concat();
    assert_eq!(came(&rabbit, "window-mount"), expected);
    let pid = of(&m, "w", "pid");
    assert!(Command::new("kill").args(["-TERM", &pid.to_string()]).status().unwrap().success());
    assert_eq!(link.finish().code(), Some(0));
    assert_eq!(of(&m, "w", "duplicates"), 0);
}

/// The broker is killed when it has two messages and has not answered, and two more are claimed: all are sent in order, and none of
/// them is claimed twice.
#[test]
fn what_is_claimed_meanwhile_stays_behind_what_the_broker_had() {
    let (m, rabbit) = (Mount::new(), rough());
    rabbit.queue("window-broker");
    let q = m.queue_with("q", &["durability=async", "visibility_timeout=1h"]);
    let link = start(&m, &[&SOON[..], &FOUR, &["-o", "name=w", "q", &rabbit.url("?queue=window-broker")]].concat());
    wait_until(|| of(&m, "w", "state") == "running");
    rabbit.pause();
    fill(&q);
    wait_until(|| m.stats(&q)["claimed"] == 4);
    holds_for(Duration::from_millis(300), || m.stats(&q)["claimed"] == 4);
    rabbit.kill9();
    rabbit.start_again();
    wait_until(|| is_empty(&m, &q));
    let mut all = came(&rabbit, "window-broker");
    // The two may have been with the broker's disk.
    let doubled = all.len().saturating_sub(10);
    assert!(doubled <= 2, "{all:?}");
    assert_eq!(all.split_off(doubled), bodies(0..10));
    assert_eq!(m.stats(&q)["claims_total"], 10);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
}

/// A link that is asked to end gives back what is not with the broker, and waits for what is.
#[test]
fn what_is_claimed_and_not_sent_is_given_back() {
    let (m, rabbit) = (Mount::new(), rough());
    rabbit.queue("window-end");
    let q = m.queue_with("q", &["durability=async", "visibility_timeout=1h"]);
    let link = start(&m, &[&SOON[..], &FOUR, &["-o", "name=w", "q", &rabbit.url("?queue=window-end")]].concat());
    wait_until(|| of(&m, "w", "state") == "running");
    rabbit.pause();
    fill(&q);
    wait_until(|| m.stats(&q)["claimed"] == 4);
    link.signal(libc::SIGTERM);
    rabbit.resume();
    assert_eq!(link.finish().code(), Some(0));
    let sent = came(&rabbit, "window-end");
    let (ready, claimed) = (m.stats(&q)["ready"].as_u64().unwrap(), m.stats(&q)["claimed"].as_u64().unwrap());
    assert_eq!((sent.len() as u64 + ready, claimed), (10, 0));
    assert_eq!(sent, bodies(0..sent.len()));
    assert_eq!(sent.len(), 2, "nothing is sent after that");
}

/// A link with nothing to do asks nothing: it is told when there is something, and looks by itself every ten seconds.
#[test]
fn a_link_with_nothing_to_do_waits_to_be_told() {
    let (m, rabbit) = (Mount::new(), shared());
    rabbit.queue("window-idle");
    let q = m.queue("q");
    let (status, calls) = (m.scratch().display().to_string(), m.scratch().join("calls"));
    let mut link = Command::new("strace");
    link.args(["-f", "-qq", "-E", &format!("XDG_RUNTIME_DIR={status}"), "-o"]).arg(&calls);
    link.arg("-P").arg(q.join(".mq/claim")).args(["-e", "trace=read", env!("CARGO_BIN_EXE_mqfs"), "link"]);
    let link = m.start_command(link.args(["-o", "name=w", "q", &rabbit.url("?queue=window-idle")]));
    let reads = || fs::read_to_string(&calls).unwrap_or_default().lines().count();
    wait_until(|| of(&m, "w", "state") == "running" && reads() > 0);
    let before = reads();
    // Once a second it was.
    holds_for(Duration::from_secs(5), || reads() <= before + 2);
    m.put(q.join("a"), "m0");
    wait_until(|| is_empty(&m, &q));
    assert_eq!(came(rabbit, "window-idle"), ["m0"]);
    let pid = of(&m, "w", "pid");
    assert!(Command::new("kill").args(["-TERM", &pid.to_string()]).status().unwrap().success());
    assert_eq!(link.finish().code(), Some(0));
}
