//! "`max_claimed = N`: beyond it, opening is EAGAIN and `.mq/claim` waits."

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::common::*;
use crate::extra::*;

const AGAIN: &str = "Resource temporarily unavailable";

/// Claims the next message; its path.
fn claim(queue: &Path) -> PathBuf {
    queue.join(fs::read_to_string(control(queue, "claim")).unwrap().trim_end())
}

#[test]
fn what_is_beyond_the_limit_is_not_claimed() {
    let mut m = Mount::new();
    let q = m.queue_with("q", &["max_claimed=2"]);
    m.fill(&q, 4);
    let held = [claim(&q), claim(&q)];
    let left = q.join(&listing(&q)[0]);
    m.sh(&format!("cat '{}'", left.display())).fails(AGAIN);
    m.sh(&format!("mv '{}' q/.mq/claimed/", left.display())).fails(AGAIN);
    for file in ["claim", "pop", "lines"] {
        m.sh(&format!("dd if=q/.mq/{file} iflag=nonblock")).fails(AGAIN);
    }
    assert_eq!((deliveries(&q, &left), m.stats("q")["claims_total"].as_u64()), (0, Some(2)));
    // All else goes on: those that are claimed, and the others' ways that claim nothing.
    fs::read(&held[0]).unwrap();
    assert_eq!(m.sh("cat q/.mq/peek/*").ok(), "m0m1m2m3");
    m.kill9_and_remount();
    assert_eq!(errno(File::open(&left)), libc::EAGAIN);
    // It is the number that counts, and not whose they are.
    fs::remove_file(&held[1]).unwrap();
    let third = claim(&q);
    m.sh("dd if=q/.mq/claim iflag=nonblock").fails(AGAIN);
    m.set("q", "max_claimed=3");
    drop(claim(&q));
    m.set("q", "max_claimed=1");
    fs::remove_file(third).unwrap();
    m.sh("dd if=q/.mq/claim iflag=nonblock").fails(AGAIN);
    assert_eq!(m.stats("q")["claimed"].as_u64(), Some(2));
}

/// What ends a claim, and how.
type End<'a> = (&'a str, &'a dyn Fn(&Path));

/// Whatever ends a claim lets the next one in who waits.
#[test]
fn who_waits_is_served_when_a_claim_ends() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_claimed=1"]);
    let other = m.queue("other");
    m.fill(&q, 12);
    let ends: [End<'_>; 6] = [
        ("rm", &|held| fs::remove_file(held).unwrap()),
        ("given up", &|held| fs::rename(held, within(&q, "dead", held)).unwrap()),
        ("moved", &|held| fs::rename(held, other.join("moved")).unwrap()),
        ("settled", &|held| {
            let draft = other.join(".new");
            fs::write(&draft, "new").unwrap();
            set_xattr(&draft, "user.mq.settles", held.to_str().unwrap()).unwrap();
            fs::rename(draft, other.join("new")).unwrap();
        }),
        ("purged", &|_| fs::write(control(&q, "purge"), "claimed").unwrap()),
        ("no limit any more", &|_| m.set("q", "max_claimed=0")),
    ];
    let mut held = claim(&q);
    for (what, end) in ends {
        let waiter = m.waiter(&q, "cat q/.mq/claim");
        end(&held);
        let ran = waiter.finish();
        println!("{what}: {}", ran.ok());
        held = q.join(ran.ok().trim_end());
    }
}

/// What is given back is claimed again by whoever waits, and `poll` tells of a claim that has ended.
#[test]
fn a_claim_that_comes_back_lets_the_next_in() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_claimed=1"]);
    m.fill(&q, 2);
    let held = claim(&q);
    let waiter = m.waiter(&q, "cat q/.mq/claim");
    fs::rename(&held, transition_back(&q, &held)).unwrap();
    let held = q.join(waiter.finish().ok().trim_end());
    let poll = "import os, select
fd = os.open('q/.mq/claim', os.O_RDONLY | os.O_NONBLOCK)
p = select.poll(); p.register(fd, select.POLLIN)
print(p.poll(0), flush=True)
print(len(p.poll()))";
    let polls = m.spawn_python(poll);
    wait_until(|| polls.output() == "[]\n");
    fs::remove_file(held).unwrap();
    assert_eq!(polls.finish().ok(), "[]\n1\n");
}

/// Where a claimed message is given back.
fn transition_back(queue: &Path, held: &Path) -> PathBuf {
    queue.join(plain(&held.file_name().unwrap().to_string_lossy()))
}
