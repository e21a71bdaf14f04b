//! Many workers on one queue: every message is processed, once when nobody dies.

use std::collections::HashMap;
use std::fs;

use crate::common::*;
use crate::extra::*;

/// The names `m0`, `m1`..., each on a line, in the order of `sort -V`.
fn all_lines(count: usize) -> String {
    (0..count).map(|i| format!("m{i}\n")).collect()
}

fn drained(m: &Mount, queue: &str) {
    let q = m.path().join(queue);
    assert_eq!(listing(&q), Vec::<String>::new());
    assert_eq!(m.messages(queue).len(), 0);
    let stats = m.stats(queue);
    let left: Vec<_> = ["ready", "claimed", "dead"].iter().map(|key| stats[*key].as_u64()).collect();
    assert_eq!(left, [Some(0); 3], "{stats}");
}

/// "A claim belongs to one worker": four workers take 2,000 messages apart, and each message is processed once.
#[test]
fn four_workers_process_each_message_once() {
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    m.fill(&q, 2_000);
    let worker = r#"
import os, random, sys
random.seed(sys.argv[1])
names = os.listdir("q")
random.shuffle(names)
busy = 0
with open(os.environ["T"] + "/done" + sys.argv[1], "w") as done:
    for name in names:
        try:
            with open("q/" + name) as f: print(f.read(), file=done)
            os.unlink("q/" + name)
        except FileNotFoundError: pass
        except OSError as error:
            if error.errno != 16: raise
            busy += 1
"#;
    fs::write(m.scratch().join("worker"), worker).unwrap();
    // Each worker has a shell of its own as its parent; all start together.
    m.sh(r#"for w in 1 2 3 4; do sh -c "python3 $T/worker $w; exit \$?" & done; wait"#).ok();
    assert_eq!(m.sh("sort -V $T/done*").ok(), all_lines(2_000));
    drained(&m, "q");
    let stats = m.stats("q");
    assert_eq!((stats["claims_total"].as_u64(), stats["acked_total"].as_u64()), (Some(2_000), Some(2_000)), "{stats}");
}

/// The loop that everybody writes, in eight shells at once, of three kinds: bash, dash and busybox sh.
#[test]
fn eight_shells_process_each_message_once() {
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    m.fill(&q, 300);
    let worker = r#"handle() { cat && echo; }; for f in q/*; do handle < "$f" && rm "$f"; done 2> $T/err$$"#;
    fs::write(m.scratch().join("worker"), worker).unwrap();
    let shells = "bash dash busybox_sh bash dash busybox_sh bash dash";
    let script = format!(
        r#"n=0; for shell in {shells}; do n=$((n+1)); ${{shell/_/ }} $T/worker > $T/done$n & done; wait; sort -V $T/done*"#
    );
    assert_eq!(m.sh(&script).ok(), all_lines(300));
    drained(&m, "q");
    assert_eq!(m.stats("q")["claims_total"].as_u64(), Some(300));
    // The losers were told that somebody else has it, or that it is gone; nothing else went wrong.
    let errors = m.sh("cat $T/err*").ok().to_owned();
    let expected = |line: &str| {
        let line = line.to_lowercase();
        line.contains("busy") || line.contains("no such file")
    };
    assert!(errors.lines().all(expected), "{errors}");
}

/// The same with a program for the handler: the redirection is opened by a child of the shell.
#[test]
fn eight_shells_with_programs_process_each_message_once() {
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    m.fill(&q, 200);
    let worker =
        r#"for f in q/*; do sed s/m/m/ < "$f" >> $T/done$$ && echo >> $T/done$$ && rm "$f"; done 2> /dev/null; true"#;
    fs::write(m.scratch().join("worker"), worker).unwrap();
    let script =
        "for shell in bash dash bash dash bash dash bash dash; do $shell $T/worker & done; wait; sort -V $T/done*";
    assert_eq!(m.sh(script).ok(), all_lines(200));
    drained(&m, "q");
}

/// Each shell alone drains a queue in order, whatever the way it reads.
#[test]
fn every_shell_drains_a_queue_in_order() {
    for shell in ["bash", "dash", "busybox sh"] {
        let m = Mount::new();
        let q = m.queue_with("q", &["durability=async"]);
        let loops = [
            r#"for f in q/*; do cat "$f" && echo && rm "$f"; done"#,
            r#"for f in q/*; do cat < "$f" && echo && rm "$f"; done"#,
            r#"for f in q/*; do x=$(cat "$f"); echo "$x"; rm "$f"; done"#,
            r#"for f in q/*; do read -r x < "$f" || true; echo "$x"; rm "$f"; done"#,
            r#"ls q | while read -r n; do cat "q/$n"; echo; rm "q/$n"; done"#,
            r#"find q -type f | sort | while read -r f; do cat "$f"; echo; rm "$f"; done"#,
            r#"for f in q/*; do n=${f##*/}; mv "$f" q/.mq/claimed/ && cat "q/.mq/claimed/$n" && echo && rm "q/.mq/claimed/$n"; done"#,
            r#"while f=$(ls q | head -n 1) && [ -n "$f" ]; do cat "q/$f"; echo; rm "q/$f"; done"#,
        ];
        for script in loops {
            m.fill(&q, 25);
            assert_eq!(m.shell(shell, script).ok(), all_lines(25), "{shell}: {script}");
            drained(&m, "q");
        }
    }
}

/// "A lease that expires returns the message to ready": workers that are killed at random lose nothing, and each
/// message's delivery count is the number of times that it was claimed.
#[test]
fn killed_workers_lose_nothing() {
    let mut random = Random::new();
    let m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=1s", "max_deliveries=0", "durability=async"]);
    let messages = 150;
    m.fill(&q, messages);
    // A line before each open and one after it: between the two, the worker may be killed with or without the claim.
    let worker = r#"
import errno, os, random, sys, time
log = os.open(os.environ["T"] + "/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
say = lambda *words: os.write(log, (" ".join(map(str, words)) + "\n").encode())
while True:
    names = os.listdir("q")
    random.shuffle(names)
    for name in names:
        say("try", name)
        try:
            with open("q/" + name) as f:
                body = f.read()
                say("got", name, os.getxattr("q/.mq/claimed/" + name, "user.mq.deliveries").decode(), body)
                time.sleep(random.choice([0, 0, 0.01, 0.03]))
                say("ack", name)
                os.unlink("q/" + name)
        except FileNotFoundError: pass
        except OSError as error:
            if error.errno != errno.EBUSY: raise
    if not names and not os.listdir("q/.mq/claimed"): break
    time.sleep(0.01)
"#;
    fs::write(m.scratch().join("worker"), worker).unwrap();
    // In a shell of its own, so that the workers are no siblings; the kill is for the worker, not for the shell.
    let start = || m.spawn("(python3 $T/worker & echo $!; wait $!); true");
    let mut workers: Vec<Running> = (0..4).map(|_| start()).collect();
    let mut killed = 0;
    let log = || fs::read_to_string(m.scratch().join("log")).unwrap_or_default();
    while killed < 25 && m.stats("q")["acked_total"].as_u64() < Some(messages as u64 * 9 / 10) {
        let lines = log().lines().count() + 1 + random.below(12) as usize;
        wait_until(|| log().lines().count() >= lines || m.stats("q")["ready"].as_u64() == Some(0));
        let victim = random.below(4) as usize;
        wait_until(|| !workers[victim].output().trim().is_empty());
        if let Ok(pid) = workers[victim].output().trim().parse::<i32>() {
            // SAFETY: the shell that started it waits for it, so the number is not another's before `finish`.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            let done = std::mem::replace(&mut workers[victim], start());
            done.finish();
            killed += 1;
        }
    }
    for worker in workers {
        worker.finish();
    }
    assert!(killed >= 5, "{killed} kills");
    drained(&m, "q");

    let mut tries: HashMap<String, u32> = HashMap::new();
    let mut counts: HashMap<String, Vec<u32>> = HashMap::new();
    for line in log().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["try", name] => *tries.entry(name.into()).or_default() += 1,
            ["got", name, count, body] => {
                assert!(name.ends_with(&format!("-{body}")), "{line}");
                counts.entry(name.into()).or_default().push(count.parse().unwrap());
            }
            ["ack", _] => {}
            _ => panic!("{line}"),
        }
    }
    assert_eq!(counts.len(), messages, "every message was processed");
    for (name, counts) in &counts {
        assert!(counts.windows(2).all(|pair| pair[0] < pair[1]), "{name}: {counts:?}");
        let last = *counts.last().unwrap();
        assert!(last as usize >= counts.len() && last <= tries[name], "{name}: {counts:?} of {} tries", tries[name]);
    }
    let claims: u32 = counts.values().map(|counts| *counts.last().unwrap()).sum();
    let stats = m.stats("q");
    // A worker that was killed after its unlink and before its line would make one more.
    assert_eq!(stats["acked_total"].as_u64(), Some(messages as u64), "{stats}");
    assert!(stats["claims_total"].as_u64().unwrap() >= u64::from(claims), "{stats}");
    println!("{killed} kills, {claims} deliveries of {messages} messages");
}

/// Producers and consumers at once, for a while: what went in comes out, once.
#[test]
fn producers_and_consumers_at_once() {
    let m = Mount::new();
    m.queue_with("q", &["durability=async"]);
    let produce = "import sys\nfor i in range(400):\n  with open('q/p', 'w') as f: f.write('%s-%d' % (sys.argv[1], i))";
    let consume = r#"
import os
seen = 0
while not os.path.exists(os.environ["T"] + "/stop") or os.listdir("q"):
    for name in os.listdir("q")[:20]:
        try:
            with open("q/" + name) as f: print(f.read())
            os.unlink("q/" + name)
        except (FileNotFoundError, OSError) as error:
            if error.errno not in (2, 16): raise
"#;
    fs::write(m.scratch().join("produce"), produce).unwrap();
    fs::write(m.scratch().join("consume"), consume).unwrap();
    let script = r#"
        for w in 1 2 3; do sh -c "python3 $T/consume; exit \$?" > $T/out$w & done
        for p in a b c; do python3 $T/produce $p & pids="$pids $!"; done
        wait $pids; touch $T/stop; wait; sort -V $T/out1 $T/out2 $T/out3"#;
    let ran = m.sh(script);
    let mut expected: Vec<String> =
        ["a", "b", "c"].iter().flat_map(|p| (0..400).map(move |i| format!("{p}-{i}"))).collect();
    let mut got: Vec<&str> = ran.ok().lines().collect();
    got.sort();
    expected.sort();
    assert_eq!(got, expected);
    drained(&m, "q");
}
