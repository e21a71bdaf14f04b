//! `mqfs consume`: claims that are over before the work is.

use std::fs;
use std::path::PathBuf;

use crate::common::*;
use crate::consuming::*;
use crate::extra::*;

fn job() -> &'static str {
    "echo $$ >> $T/pids; touch $T/began-$MQFS_DELIVERIES; until [ -e $T/go ]; do sleep 0.01; done; exit 3"
}

/// "The second worker exits 0, and its message is in dead/": a late settlement is not that of another delivery, and a command
/// whose message was taken from it is ended.
#[test]
fn a_claim_that_others_took_ends_the_command() {
    type Take = fn(&Mount, PathBuf);
    let takes: [(&str, Take); 3] = [
        ("given back", |m, claimed| fs::rename(claimed, m.path().join("q/0000000000000001-x")).unwrap()),
        ("removed", |_, claimed| fs::remove_file(claimed).unwrap()),
        ("moved", |m, claimed| fs::rename(claimed, m.path().join("other/x")).unwrap()),
    ];
    for (what, take) in takes {
        let m = Mount::new();
        let q = m.queue("q");
        m.queue("other");
        m.message(&q, "x", "");
        let late = start(&m, &["--max-messages=1", "--dead-letter-exit=3"], job());
        wait_until(|| exists(&m, "began-1"));
        take(&m, only(control(&q, "claimed")));
        let ran = late.finish();
        assert!(ran.stderr.contains("its claim was over before"), "{what}: {ran:?}");
        assert_eq!(ran.code(), Some(1), "{what}");
        assert!(!lives(noted(&m)[0]), "{what}");
        assert_eq!(m.stats("q")["dead"], 0, "{what}");
        let left = usize::from(what == "given back");
        assert_eq!((m.bodies("q").len(), m.bodies("other").len()), (left, usize::from(what == "moved")), "{what}");
    }
}

/// A settlement that comes too late, before the worker has noticed, does nothing to the delivery that others have by now.
#[test]
fn a_late_settlement_is_told_and_does_nothing() {
    let m = Mount::new();
    let q = m.queue("q");
    m.message(&q, "x", "");
    let script = "touch $T/began; until [ -e $T/go ]; do sleep 0.001; done; exit 3";
    let late = start(&m, &["--max-messages=1", "--dead-letter-exit=3"], script);
    wait_until(|| exists(&m, "began"));
    let claimed = only(control(&q, "claimed"));
    let back = q.join(claimed.file_name().unwrap());
    fs::rename(&claimed, &back).unwrap();
    let holder = m.holder(&back);
    touch(&m, "go");
    let ran = late.finish();
    assert!(ran.stderr.contains("its claim was over before"), "{ran:?}");
    assert_eq!(ran.code(), Some(1));
    assert_eq!(state(&q, &back).as_deref(), Some("claimed"), "the other worker's");
    drop(holder);
}

/// "when expiry [...] took one [...] the command is ended"
#[test]
fn a_lease_that_cannot_be_renewed_any_more_ends_the_command() {
    let m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=100ms", "max_lease=3s", "retry_delay=1h"]);
    let x = m.message(&q, "x", "");
    let ran = start(&m, &["--max-messages=1"], job()).finish();
    assert!(ran.stderr.contains("its claim was over before"), "{ran:?}");
    assert!(!lives(noted(&m)[0]));
    assert_eq!(state(&q, &x).as_deref(), Some("delayed"));
}
