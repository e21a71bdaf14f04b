//! `mqfs put`, before what it puts is a message: nobody else's, under a name that nobody can guess, and not for ever.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::common::{Mount, Running, listing, only, wait_until};
use crate::users::*;

/// The ways to put something; each waits for a line from `$T/go` before it is done.
const WAYS: [&str; 3] = [
    "exec $T/mqfs put -n m q < <(echo half; read -r l < $T/go)",
    "exec $T/mqfs put -n m q -- sh -c 'echo half; read -r l < $T/go'",
    "exec $T/mqfs put --batch -n m q < <(echo half; read -r l < $T/go)",
];

fn mounted(mode: u32) -> (Mount, PathBuf) {
    let (m, q) = mount(mode);
    // The program may lie where others cannot go.
    fs::copy(env!("CARGO_BIN_EXE_mqfs"), m.scratch().join("mqfs")).unwrap();
    m.sh("mkfifo $T/go; chmod 666 $T/go").ok();
    (m, q)
}

/// The file that is being written, when something is in it.
fn staged(q: &Path) -> Option<PathBuf> {
    let below = |dir: &Path| fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).next();
    let batch = below(&q.join(".mq/batch"));
    let file = batch.and_then(|batch| below(&batch)).or_else(|| below(q))?;
    (fs::metadata(&file).ok()?.len() > 0).then_some(file)
}

#[track_caller]
fn wait_for_staged(q: &Path, running: &mut Running) -> PathBuf {
    wait_until(|| staged(q).is_some() || !running.is_running());
    staged(q).unwrap_or_else(|| panic!("{}", running.errors()))
}

/// "Staged names unguessable, 0600 until published, published with the mode that the umask gives."
#[test]
fn what_is_not_a_message_yet_is_nobody_elses() {
    for queue_mode in [0o777, 0o1733] {
        let (m, q) = mounted(queue_mode);
        let mut seen = Vec::new();
        for way in WAYS {
            for (umask, mode) in [("022", 0o644), ("027", 0o640)] {
                let mut running = m.spawn_as(ANN, ANN, &format!("umask {umask}; {way}"));
                let file = wait_for_staged(&q, &mut running);
                let stat = fs::metadata(&file).unwrap();
                assert_eq!((stat.uid(), stat.mode() & 0o7777), (ANN, 0o600), "{way}");
                assert!(!bob(&m, &format!("cat '{}'", file.display())).status.success(), "{way}");
                let name = file.iter().map(|part| part.to_str().unwrap()).find(|part| part.contains("put-")).unwrap();
                let random = name.trim_start_matches('.').strip_prefix("put-").unwrap().to_owned();
                assert!(random.len() == 32 && random.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
                assert!(!random.contains(&running.pid().to_string()) && !seen.contains(&random), "{name}");
                seen.push(random);
                m.sh("echo > $T/go").ok();
                running.finish().ok();
                let message = only(&q);
                assert_eq!(crate::users::mode(&message), mode, "{way} {umask}");
                fs::remove_file(message).unwrap();
            }
        }
    }
}

/// A message has its file's mode, without what the umask takes.
#[test]
fn a_message_has_the_mode_of_its_file() {
    let (m, _q) = mounted(0o777);
    m.sh("cd $T; echo x > a; echo y > b; chmod 755 a; chmod 400 b; umask 027; ./mqfs put $M/q a b; ./mqfs put --batch $M/q a b")
        .ok();
    assert_eq!(m.sh("stat -c %a q/*").ok(), "750\n400\n750\n400\n");
}

/// A message that has to wait for room in the queue is nobody else's meanwhile, either.
#[test]
fn what_waits_for_room_is_nobody_elses() {
    let (m, q) = mounted(0o777);
    m.set(&q, "max_messages=1\noverflow=block");
    let first = m.sh("echo first > q/first; ls q").ok().trim().to_owned();
    let mut running = m.spawn_as(ANN, ANN, "umask 022; echo second | $T/mqfs put q");
    let draft = || listing(&q).into_iter().find(|name| name.starts_with('.'));
    let refused = || m.stats("q")["rejected_total"].as_u64().unwrap();
    wait_until(|| refused() >= 3 || !running.is_running());
    // It is another mode only while a try is under way.
    let secret =
        || draft().is_some_and(|name| fs::metadata(q.join(name)).is_ok_and(|stat| stat.mode() & 0o777 == 0o600));
    wait_until(|| secret() || !running.is_running());
    fs::remove_file(q.join(first)).unwrap();
    running.finish().ok();
    assert_eq!(mode(only(&q)), 0o644);
}

/// "What is left by a killed put [...] expires as documented": with `draft_ttl`.
#[test]
fn what_a_killed_put_leaves_expires() {
    let (m, q) = mounted(0o777);
    m.set(&q, "draft_ttl=1s");
    for way in WAYS {
        let mut running = m.spawn_as(ANN, ANN, way);
        wait_for_staged(&q, &mut running);
        running.signal(libc::SIGKILL);
        wait_until(|| !running.is_running());
        wait_until(|| staged(&q).is_none());
        m.sh("echo > $T/go").ok();
    }
    assert_eq!(m.stats("q")["enqueued_total"], 0);
}
