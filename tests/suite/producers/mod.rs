//! Every everyday program that writes a file enqueues exactly one message, with the right bytes and without a complaint.
//!
//! Each case runs three times: twice in one session, where the bare name still resolves to the message before ("rewriting
//! the name makes a second message"), and once in a session of its own. The body differs each time (`$B`), so a repeated,
//! lost or stale message shows.

mod languages;
mod shells;
mod tools;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Mount, producer, producers};

/// Which of the three runs share a session.
#[derive(Clone, Copy, PartialEq)]
enum Sessions {
    /// The first two.
    Shared,
    /// The first two, by a program that reads what it finds under the name: that claims the message before.
    SharedAndRead,
    /// None: the program first asks whether the name exists and refuses, as on any filesystem, to make what its own session
    /// sees.
    Apart,
}

/// Runs `script` three times by `shell`: `$q` is the queue, `$B` the body, `$T/x` a file with that body. Each run must
/// succeed in silence and enqueue exactly `expected`: producer's name and body, in which `{B}` stands for `$B`.
#[track_caller]
fn check(m: &Mount, shell: &str, sessions: Sessions, script: &str, expected: &[(&str, &str)]) {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let queue = format!("q{}", NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let q = m.queue(&queue);
    let mut all = Vec::new();
    for (run, body) in ["one", "second", "the third"].into_iter().enumerate() {
        fs::write(m.scratch().join("x"), body).unwrap();
        let own_session = run == 2 || sessions == Sessions::Apart;
        let words = if own_session { format!("setsid -w {shell}") } else { shell.to_owned() };
        let mut words = words.split(' ');
        let mut command = Command::new(words.next().unwrap());
        let script = format!("export B='{body}' q={queue}; {script}");
        m.run(command.args(words).arg("-c").arg(&script)).ok();
        all.extend(expected.iter().map(|(name, text)| (name.to_string(), text.replace("{B}", body))));
        assert_eq!(state(m, &q), all, "run {run} of {shell}: {script}");
        if sessions != Sessions::SharedAndRead {
            let ready: Vec<_> = all.iter().map(|(name, _)| name.clone()).collect();
            assert_eq!(producers(&q), ready, "run {run} of {shell}: {script}: not all are ready");
        }
    }
}

/// The producers' names and the bodies of all messages.
fn state(m: &Mount, q: &Path) -> Vec<(String, String)> {
    let plain = |(name, body): (String, Vec<u8>)| (producer(&name).to_owned(), String::from_utf8(body).unwrap());
    m.messages(q).into_iter().map(plain).collect()
}

/// Scripts that each enqueue one message `x`, with its body.
fn each_makes_x(shell: &str, cases: &[(&str, &str)]) {
    let m = Mount::new();
    for (script, body) in cases {
        check(&m, shell, Sessions::Shared, script, &[("x", body)]);
    }
}

fn own((name, body): (&str, &str)) -> (String, String) {
    (name.to_owned(), body.to_owned())
}
