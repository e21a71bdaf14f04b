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

const MQFS: &str = env!("CARGO_BIN_EXE_mqfs");

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

/// What a killed put has staged goes with it, and nothing is enqueued: while it writes, and while it waits for room.
#[test]
fn what_a_killed_put_has_staged_goes_with_it() {
    let (m, q) = mounted(0o777);
    let left = || ["drafts", "batches"].map(|what| m.stats(&q)[what].as_u64().unwrap());
    for way in WAYS {
        let mut running = m.spawn_as(ANN, ANN, way);
        wait_for_staged(&q, &mut running);
        running.signal(libc::SIGKILL);
        wait_until(|| !running.is_running());
        wait_until(|| left() == [0, 0]);
        m.sh("echo > $T/go").ok();
    }
    m.set(&q, "max_messages=1\noverflow=block");
    m.sh("echo first > q/first").ok();
    for batch in ["", "--batch"] {
        let refused = || m.stats("q")["rejected_total"].as_u64().unwrap();
        let before = refused();
        let mut running = m.spawn_as(ANN, ANN, &format!("exec $T/mqfs put {batch} q /etc/passwd"));
        wait_until(|| refused() >= before + 2 || !running.is_running());
        running.signal(libc::SIGKILL);
        wait_until(|| !running.is_running());
        wait_until(|| left() == [0, 0]);
    }
    assert_eq!(m.stats("q")["enqueued_total"], 1);
    assert_eq!(m.body_files().len(), 0);
}

/// The calls of put that change something, or after which something is open. Those that this system has not got are left out.
const CALLS: [&str; 11] = [
    "openat",
    "close",
    "write",
    "?mkdir",
    "mkdirat",
    "fchmod",
    "?fchmodat",
    "?fchmodat2",
    "?rename",
    "?renameat",
    "renameat2",
];

/// However far it had come: all is enqueued, or nothing, and no file is left of it.
#[test]
fn put_may_be_killed_at_any_call() {
    let m = Mount::with_clock("+0");
    let q = m.queue("q");
    m.sh("echo one > $T/1; head -c 100000 /dev/zero > $T/2").ok();
    let (mut killed, mut ahead) = (0, 0);
    for (batch, files) in [("", 1), ("--batch", 2)] {
        for call in CALLS {
            for when in 1.. {
                let trace =
                    format!("strace -f -qq -o /dev/null -e trace={call} -e inject={call}:signal=KILL:when={when}");
                let ran = m.sh(&format!("cd $T; {trace} {} put {batch} $M/q {}", MQFS, &"1 2"[..2 * files - 1]));
                let all = m.stats("q")["ready"].as_u64().unwrap();
                assert!(all == 0 || all == files as u64, "{batch} {call} {when}: {all} of {files}");
                m.sh("rm -f q/[0-9]*").ok();
                if ran.status.success() {
                    break;
                }
                killed += 1;
                // A batch without files waits for its deadline.
                ahead += 61;
                m.set_clock(&format!("+{ahead}s"));
                wait_until(|| ["drafts", "batches"].iter().all(|what| m.stats("q")[*what] == 0));
            }
        }
    }
    assert!(killed > 30, "{killed}");
    assert_eq!(listing(&q), [""; 0]);
    // Those of the last messages go when that is durable.
    wait_until(|| m.body_files().is_empty());
}

/// What nobody is there to see closed, because the mount went away before, has a minute.
#[test]
fn what_was_staged_when_the_mount_went_away_goes() {
    let mut m = Mount::with_clock("+0");
    m.queue("q");
    m.sh("mkfifo $T/go").ok();
    let producers: Vec<Running> = ["", "--batch"]
        .map(|batch| m.spawn(&format!("exec {MQFS} put {batch} -n m q < <(echo half; read -r l < $T/go)")))
        .into();
    wait_until(|| ["drafts", "batches"].iter().all(|what| m.stats("q")[*what] == 1));
    m.kill9();
    drop(producers);
    m.start();
    assert_eq!((m.stats("q")["drafts"].as_u64(), m.stats("q")["batches"].as_u64()), (Some(1), Some(1)));
    m.set_clock("+2m");
    wait_until(|| ["drafts", "batches"].iter().all(|what| m.stats("q")[*what] == 0));
}

/// Whoever looks at it does not make it go, nor does a purge of drafts.
#[test]
fn what_is_staged_stays_while_it_is_used() {
    let (m, q) = mounted(0o777);
    for way in WAYS {
        let mut running = m.spawn_as(ANN, ANN, way);
        let file = wait_for_staged(&q, &mut running);
        m.sh(&format!(
            "cat '{0}' > /dev/null; ls \"$(dirname '{0}')\" > /dev/null; echo drafts > q/.mq/purge",
            file.display()
        ))
        .ok();
        m.sh("echo > $T/go").ok();
        running.finish().ok();
        fs::remove_file(only(&q)).unwrap();
    }
}
