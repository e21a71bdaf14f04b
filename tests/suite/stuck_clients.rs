//! Clients that are stopped, slow, or very many hold up nobody but themselves, and cost a bounded amount of memory.

use std::fs;
use std::time::Duration;

use crate::common::*;
use crate::extra::*;

/// Whether a process is stopped by a signal.
fn is_stopped(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && line.contains('T'))
}

/// Each is stopped in the middle of what it does; then everybody else does everything.
#[test]
fn a_stopped_client_holds_up_nobody() {
    let mut m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=4s", "max_lease=36500d"]);
    let waits = m.queue("waits");
    let large = m.message(&q, "large", vec![b'l'; 4 << 20]);
    m.message(&q, "lines", "first\nsecond\n");

    let writer = m.spawn("{ head -c 300000 /dev/zero; kill -STOP $BASHPID; echo end; } > q/unfinished");
    wait_until(|| m.stats("")["writers"] == 1);
    let script = format!("exec 3< '{}'; head -c 4096 <&3 > /dev/null; kill -STOP $$; cat <&3 | wc -c", large.display());
    let reader = m.spawn(&script);
    let draft = m.spawn("exec 3> q/.draft; printf begun >&3; kill -STOP $$; printf ' and done' >&3");
    let liner = m.spawn("exec 3>> q/.mq/lines; printf 'half a ' >&3; kill -STOP $$; echo line >&3");
    let config = m.spawn("exec 3> q/.mq/config; kill -STOP $$; echo max_deliveries=7 >&3");
    let claimer = m.waiter(&waits, "cat waits/.mq/claim");
    claimer.signal(libc::SIGSTOP);
    wait_until(|| m.waiting(&waits) == 0);
    let popper = m.waiter(&waits, "cat waits/.mq/pop");
    popper.signal(libc::SIGSTOP);
    for running in [&reader, &draft, &liner, &config, &claimer, &popper] {
        let stops = poll(LIMIT, || is_stopped(running.pid()));
        let status = || fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap_or_default();
        assert!(stops, "{} {}", running.errors(), status());
    }

    // Everybody else.
    m.sh(
        "for i in 1 2 3 4 5; do echo $i > q/m$i; done; printf 'a\nb\n' > q/.mq/lines; mkdir -p other/nested r; mv r s",
    )
    .ok();
    let listed = listing(&q);
    assert!(!listed.iter().any(|name| name.ends_with("-large")) && listed.iter().any(|name| name.ends_with("-m5")));
    m.sh("set -e; f=$(cat q/.mq/claim); cat q/$f; rm q/$f; mv q/*-m1 other/; mv q/*-m2 q/.mq/dead/; rm q/*-m3").ok();
    m.sh("echo visibility_timeout=5s > q/.mq/config; cat q/.mq/pop; ls -lR . q/.mq > /dev/null; sync .").ok();
    m.sh("echo x > q/.d && mv q/.d q/d; mkdir q/.mq/batch/b && echo y > q/.mq/batch/b/y && mv q/.mq/batch/b q/").ok();
    assert_eq!(m.stats(&q)["claimed"], 1);
    // Who is stopped while it waits has left the line.
    for n in 1..=3 {
        fs::write(waits.join(format!("w{n}")), format!("w{n}")).unwrap();
    }
    assert_eq!(m.sh("timeout 10 cat waits/.mq/pop").ok(), "w1");
    // The claims of those who are stopped are theirs.
    let claimed = within(&q, "claimed", &large);
    let first = deadline(&q, &claimed);
    wait_until(|| deadline(&q, &claimed) > first + Duration::from_secs(2));
    assert_eq!(deliveries(&q, &claimed), 1);

    // They go on as if nothing had been.
    for running in [&writer, &reader, &draft, &liner, &config, &claimer, &popper] {
        running.signal(libc::SIGCONT);
    }
    // The subshell that writes is a child of the one that was started.
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", writer.pid())).unwrap_or_default();
    for pid in children.split_whitespace() {
        // SAFETY: a call with numbers; a child of our child.
        unsafe { libc::kill(pid.parse().unwrap(), libc::SIGCONT) };
    }
    assert_eq!(reader.finish().ok().trim(), (4 * (1 << 20) - 4096).to_string());
    assert!(claimer.finish().ok().starts_with(".mq/claimed/"));
    assert!(["w2", "w3"].contains(&popper.finish().ok()));
    for running in [writer, draft, liner, config] {
        running.finish().ok();
    }
    wait_until(|| listing(control(&q, "peek")).iter().any(|name| name.ends_with("-unfinished")));
    let unfinished = m.messages(&q).into_iter().find(|(name, _)| name.ends_with("-unfinished")).unwrap();
    assert_eq!((unfinished.1.len(), &unfinished.1[300_000..]), (300_004, &b"end\n"[..]));
    assert_eq!(fs::read_to_string(q.join(".draft")).unwrap(), "begun and done");
    assert!(m.bodies(&q).contains(&"half a line\n".to_owned()));
    assert_eq!(xattr(&q, "user.mq.max_deliveries").as_deref(), Some("7"));
    m.remount();
}

/// The lease of a worker that is stopped ends with `max_lease`, and its message is another's.
#[test]
fn a_stopped_worker_loses_its_claim_after_max_lease() {
    let m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=2s", "max_lease=6s"]);
    let message = m.message(&q, "a", "a");
    let holder = m.holder(&message);
    holder.signal(libc::SIGSTOP);
    let first = deadline(&q, &message);
    wait_until(|| state(&q, &message).as_deref() == Some("ready"));
    assert!(std::time::SystemTime::now() > first + Duration::from_secs(1), "it was renewed before");
    assert_eq!(m.worker("f=$(echo q/*-a); cat $f && rm $f").ok(), "a");
    holder.signal(libc::SIGCONT);
}

/// How many descriptors mqfs and a test may have.
fn limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a call with a valid pointer.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    limit.rlim_max
}

/// Thousands of half-written messages and open readers.
#[test]
fn thousands_of_open_files_cost_little() {
    let mut m = Mount::new();
    let q = m.queue_with("q", &["claim=rename", "durability=async"]);
    let count = 5000.min(limit().saturating_sub(600));
    m.sh("echo before > q/before").ok();
    let program = r#"
import os, resource, sys, time
count = int(sys.argv[1])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
def wait(name):
    open(os.environ["T"] + "/at-" + name, "w").close()
    while not os.path.exists(os.environ["T"] + "/go-" + name): time.sleep(0.01)
fds = [os.open("q/w%d" % i, os.O_WRONLY | os.O_CREAT) for i in range(count)]
for i, fd in enumerate(fds):
    # Half of them are in memory, as far as they go; the others are a mebibyte with a hole in it.
    os.write(fd, b"x" * 16000) if i % 2 else os.pwrite(fd, b"x", 1 << 20)
wait("written")
for fd in fds: os.write(fd, b"end")
for fd in fds: os.close(fd)
wait("closed")
fds = [os.open("q/" + name, os.O_RDONLY) for name in os.listdir("q")]
for fd in fds: os.read(fd, 10)
wait("read")
"#;
    let run = m.start_command(std::process::Command::new("python3").args(["-c", program, &count.to_string()]));
    let go = |name: &str| fs::write(m.scratch().join(format!("go-{name}")), "").unwrap();
    let others = |m: &Mount, n: u64| {
        m.sh("echo x > q/x; f=$(cat q/.mq/claim); cat q/$f > /dev/null; rm q/$f; ls q | head -n 3 > /dev/null").ok();
        assert_eq!(m.stats(&q)["acked_total"], n, "others go on");
    };
    let at = |name: &str| {
        let reached = || m.scratch().join(format!("at-{name}")).exists();
        assert!(poll(LIMIT * 3, reached), "{name}: {}", run.errors());
    };
    at("written");
    assert_eq!(m.stats("")["writers"], count);
    others(&m, 1);
    // 40 MB are the bytes of the small ones; the buffers of the database take up to 48.
    let written = m.peak_rss_kib();
    assert!(written < 256 << 10, "{written} KiB with {count} open writers");
    go("written");
    at("closed");
    wait_until(|| m.stats("")["writers"] == 0);
    go("closed");
    at("read");
    others(&m, 2);
    // A reader holds the body of a small message, so that it stays readable.
    let read = m.peak_rss_kib();
    assert!(read < 640 << 10, "{read} KiB with {count} open readers");
    println!("VmHWM with {count} open: writers {written} KiB, readers {read} KiB");
    go("read");
    run.finish().ok();
    assert_eq!(m.stats(&q)["ready"], count + 1);
    wait_until(|| m.stats("")["open_files"] == 0 || m.stats("")["open_files"] == 1);
    m.stop();
}
