//! A claim belongs to one worker: who gets into a claimed message, and who is told that it is busy.

use std::fs::{self, File};
use std::path::Path;

use crate::common::*;
use crate::extra::*;

const BUSY: &str = "Device or resource busy";

fn put(m: &Mount, body: &str) -> (std::path::PathBuf, std::path::PathBuf) {
    let q = m.queue("q");
    let a = m.message(&q, "a", body);
    (q, a)
}

/// "A claim belongs to one worker [...] and a second worker's open fails with EBUSY", and counts no delivery.
#[test]
fn a_second_worker_is_told_busy() {
    let m = Mount::new();
    let (q, a) = put(&m, "body");
    let _holder = m.holder(&a);
    let path = a.display();
    m.worker(&format!("cat '{path}'")).fails(BUSY);
    m.worker(&format!("exec 3< '{path}'")).fails(BUSY);
    m.worker(&format!("mv '{path}' $T/stolen")).fails(BUSY);
    m.worker(&format!("cp '{path}' $T/stolen")).fails(BUSY);
    m.worker(&format!("cat '{}'", &path.to_string()[..path.to_string().len() - 2])).fails(BUSY);
    assert_eq!(deliveries(&q, &a), 1);
    assert_eq!(state(&q, &a).as_deref(), Some("claimed"));
}

/// The claim outlives the process that made it: a stranger stays out until the lease ends.
#[test]
fn a_second_worker_is_told_busy_after_the_claimer_has_exited() {
    let m = Mount::new();
    let (q, a) = put(&m, "body");
    assert_eq!(m.worker("cat q/*; true").ok(), "body");
    m.worker(&format!("cat '{}'; exit $?", a.display())).fails(BUSY);
    assert_eq!(File::open(&a).unwrap_err().raw_os_error(), Some(libc::EBUSY), "the claimer's grandparent");
    assert_eq!(deliveries(&q, &a), 1);
}

/// "Opening through `.mq/claimed/NAME` never fails with EBUSY: whoever was handed the name, by `.mq/claim` or by `mv`,
/// uses that path."
#[test]
fn the_claimed_path_is_never_busy() {
    let m = Mount::new();
    let (q, a) = put(&m, "body");
    let _holder = m.holder(&a);
    let path = within(&q, "claimed", &a);
    assert_eq!(m.worker(&format!("cat '{0}'; wc -c < '{0}'", path.display())).ok(), "body4\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "body");
    assert_eq!(deliveries(&q, &a), 1);
    m.worker(&format!("cat '{}'", a.display())).fails(BUSY);

    let b = m.message(&q, "b", "moved");
    m.worker(&format!("mv '{}' q/.mq/claimed/; true", b.display())).ok();
    assert_eq!(m.worker(&format!("cat '{}'; true", within(&q, "claimed", &b).display())).ok(), "moved");
    assert_eq!(deliveries(&q, &b), 1);
}

/// "Others get in only if they are its parent": and not the parent's parent.
#[test]
fn the_parent_of_the_claimer_gets_in() {
    let m = Mount::new();
    let (q, a) = put(&m, "body");
    let holder = m.holder(&a);
    assert_eq!(fs::read_to_string(&a).unwrap(), "body", "this test is the holder's parent");
    drop(holder);
    assert_eq!(fs::read_to_string(&a).unwrap(), "body", "also when it has exited");
    assert_eq!(deliveries(&q, &a), 1);

    let b = m.message(&q, "b", "deeper");
    let script =
        format!("bash -c 'exec 3< \"$1\"; echo open; read -r x < $T/go' x '{0}' & wait; cat '{0}'", b.display());
    m.sh("mkfifo $T/go").ok();
    let running = m.spawn(&script);
    wait_until(|| running.output() == "open\n");
    assert_eq!(errno(File::open(&b)), libc::EBUSY, "the grandparent");
    fs::write(m.scratch().join("go"), "\n").unwrap();
    assert_eq!(running.finish().ok(), "open\ndeeper", "the parent, after its child");
}

/// "or it has exited and they are children of the same parent": a zombie has exited.
#[test]
fn a_sibling_gets_in_once_the_claimer_has_exited() {
    let m = Mount::new();
    let (q, a) = put(&m, "body");
    let holder = m.holder(&a);
    let sibling = format!("exec cat '{}'", a.display());
    m.sh(&sibling).fails(BUSY);
    holder.signal(libc::SIGKILL);
    wait_until(|| is_zombie(holder.pid()));
    assert_eq!(m.sh(&sibling).ok(), "body", "the claimer is a zombie");
    drop(holder);
    assert_eq!(m.sh(&sibling).ok(), "body", "the claimer is gone");
    assert_eq!(deliveries(&q, &a), 1);
}

/// "children of the same parent, which is neither pid 1 nor a subreaper": two orphans are two workers.
#[test]
fn orphans_are_not_siblings() {
    let m = Mount::new();
    let (q, a) = put(&m, "body");
    // `start` leaves a process whose parent is pid 1 or the nearest subreaper, in a session of its own.
    let start = |out: &str| {
        let program = format!(
            r#"
import os, time
first = os.getpid()
if os.fork() == 0:
    os.setsid()
    middle = os.getpid()
    if os.fork() == 0:
        while os.getppid() in (first, middle): time.sleep(0.005)
        try: text = open("{}").read()
        except OSError as error: text = str(error.errno)
        with open("{out}.tmp", "w") as out: out.write(text)
        os.rename("{out}.tmp", "{out}")
    os._exit(0)
os.wait()
"#,
            a.display()
        );
        m.python(&program).ok();
        wait_until(|| Path::new(out).exists());
        fs::read_to_string(out).unwrap()
    };
    let out = |name: &str| m.scratch().join(name).display().to_string();
    assert_eq!(start(&out("first")), "body");
    assert_eq!(start(&out("second")), libc::EBUSY.to_string());
    assert_eq!(deliveries(&q, &a), 1);
}

/// The same below a subreaper that is not pid 1, such as a service manager's.
#[test]
fn orphans_of_a_subreaper_are_not_siblings() {
    let m = Mount::new();
    let (q, a) = put(&m, "body");
    let program = format!(
        r#"
import ctypes, os, time
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
me = os.getpid()
def orphan():
    r, w = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while os.getppid() != me: time.sleep(0.005)
            try: text = open("{}").read()
            except OSError as error: text = str(error.errno)
            os.write(w, text.encode())
        os._exit(0)
    os.wait(); os.wait()
    return os.read(r, 100).decode()
print(orphan(), orphan())
"#,
        a.display()
    );
    assert_eq!(m.python(&program).ok(), format!("body {}\n", libc::EBUSY));
    assert_eq!(deliveries(&q, &a), 1);
}

/// Threads of one process are one worker.
#[test]
fn threads_share_their_process_s_claim() {
    let m = Mount::new();
    let (q, a) = put(&m, "body");
    let program = r#"
import glob
from multiprocessing.pool import ThreadPool
[path] = glob.glob("q/*")
print(set(ThreadPool(8).map(lambda _: open(path).read(), range(64), 1)))
"#;
    assert_eq!(m.python(program).ok(), "{'body'}\n");
    assert_eq!(deliveries(&q, &a), 1);
}

/// The workers of a process pool are workers: each message is one worker's while that lives, and their parent's.
#[test]
fn the_workers_of_a_process_pool_are_workers() {
    let m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 40);
    let program = r#"
import errno, glob, multiprocessing, os
paths = sorted(glob.glob("q/*"))
def work(path):
    try: return path, os.getpid(), open(path).read()
    except OSError as error: return path, os.getpid(), error.errno
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(4) as pool:
        seen = pool.map(work, paths * 6, 1)
        for path in paths:
            readers = {pid for p, pid, text in seen if p == path and text == path.split("-")[1]}
            refused = {(pid, text) for p, pid, text in seen if p == path and pid not in readers}
            assert len(readers) == 1, (path, readers)
            assert all(code == errno.EBUSY for _, code in refused), refused
        assert len({pid for _, pid, _ in seen}) > 1
        assert any(text == errno.EBUSY for _, _, text in seen)
        for path in paths: assert open(path).read() == path.split("-")[1], "the parent of the pool"
"#;
    m.python(program).ok();
    assert!(m.messages("q").iter().all(|(name, _)| deliveries(&q, &q.join(name)) == 1));
}

/// `xargs -P`: each script that it starts is a worker, and of those that are handed one message one gets it.
#[test]
fn scripts_under_xargs_are_workers() {
    let m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 60);
    let one = r#"wc -c < "q/$0" > /dev/null && x=$(cat "q/$0") && echo $x && rm "q/$0""#;
    fs::write(m.scratch().join("one"), one).unwrap();
    let ran = m.sh(r#"ls q | xargs -P 8 -n 1 sh -c "$(cat $T/one)" > $T/done; sort -V $T/done"#);
    let expected: String = (0..60).map(|i| format!("m{i}\n")).collect();
    assert_eq!(ran.ok(), expected);
    assert_eq!(m.bodies("q").len(), 0);

    // Whoever got it works on it until all the others have tried.
    let one = r#"cat "$0" 2>> $T/lost && until [ $(wc -l < $T/lost) = 15 ]; do sleep 0.01; done; exit 0"#;
    fs::write(m.scratch().join("one"), one).unwrap();
    for _ in 0..10 {
        let a = m.message(&q, "same", "won\n");
        let script = format!(
            r#": > $T/lost; yes '{}' | head -n 16 | xargs -P 16 -n 1 sh -c "$(cat $T/one)" > $T/won; cat $T/won"#,
            a.display()
        );
        assert_eq!(m.sh(&script).ok(), "won\n");
        let lost = fs::read_to_string(m.scratch().join("lost")).unwrap();
        assert_eq!(lost.matches(BUSY).count(), 15, "{lost}");
        assert_eq!(deliveries(&q, &a), 1);
        fs::remove_file(&a).unwrap();
    }
}

/// "the process (thread group and start time) that opened it": a later process with the same number is another worker.
#[test]
fn a_reused_process_id_is_another_worker() {
    let m = Mount::new();
    let (q, a) = put(&m, "body");
    let program = format!(
        r#"
import os, subprocess, sys, time
path = "{}"
# The claimer's parents are shells of their own, so that the processes below go on with nothing of theirs.
claim = 'sh -c \'read -r x < "$0"; echo $$\' "$0"; true'
pid = int(subprocess.check_output(["sh", "-c", 'sh -c "$1" "$0"; true', path, claim]))
time.sleep(0.05)
end = time.time() + 60
while time.time() < end:
    with open("/proc/sys/kernel/ns_last_pid", "w") as last: last.write(str(pid - 1))
    child = os.fork()
    if child == 0:
        if os.getpid() != pid: os._exit(99)
        try: open(path).read()
        except OSError as error: os._exit(error.errno)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 99: break
print(code)
"#,
        a.display()
    );
    assert_eq!(m.python(&program).ok(), format!("{}\n", libc::EBUSY));
    assert_eq!(deliveries(&q, &a), 1);
}

/// The claim is kept with its owner: after a restart its parent gets in as before, and nobody else does.
#[test]
fn the_owner_survives_a_restart() {
    let mut m = Mount::new();
    let (q, a) = put(&m, "body");
    m.worker("cat q/*; true").ok();
    m.remount();
    m.worker(&format!("cat '{}'", a.display())).fails(BUSY);
    assert_eq!(errno(File::open(&a)), libc::EBUSY);

    let b = m.message(&q, "b", "killed");
    let _holder = m.holder(&b);
    m.kill9_and_remount();
    assert_eq!(fs::read_to_string(&b).unwrap(), "killed", "this test is the holder's parent");
    for message in [&a, &b] {
        m.worker(&format!("cat '{}'", message.display())).fails(BUSY);
        assert_eq!(deliveries(&q, message), 1);
    }
}

/// "a second worker's open fails with EBUSY": also when mqfs runs in a pid namespace of its own, as in a container, and
/// cannot see who the workers are. What is safe for them is `mv`, and the path that is never busy.
#[test]
fn workers_that_cannot_be_told_apart_do_not_share() {
    struct Unmount<'a>(&'a Mount);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            self.0.sh("umount -l $T/mnt");
        }
    }
    let m = Mount::new();
    let mnt = m.scratch().join("mnt");
    fs::create_dir(&mnt).unwrap();
    let script =
        format!("exec unshare -pf --kill-child '{}' mount $T/store $T/mnt --foreground", env!("CARGO_BIN_EXE_mqfs"));
    let mut hidden = m.spawn(&script);
    wait_until(|| is_mounted(&mnt) || !hidden.is_running());
    let _unmount = Unmount(&m);
    let q = mnt.join("q");
    fs::create_dir(&q).unwrap_or_else(|error| panic!("{error}: {}", hidden.errors()));
    let a = m.message(&q, "a", "body");
    let _holder = m.holder(&a);
    assert_eq!(state(&q, &a).as_deref(), Some("claimed"));
    m.worker(&format!("cat '{}'", a.display())).fails(BUSY);
    assert_eq!(m.worker(&format!("cat '{}'", within(&q, "claimed", &a).display())).ok(), "body");
    let b = m.message(&q, "b", "moved");
    let path = within(&q, "claimed", &b);
    let script = format!("mv '{}' '{}' && cat '{1}' && rm '{1}'", b.display(), path.display());
    assert_eq!(m.worker(&script).ok(), "moved");
    assert_eq!(deliveries(&q, &a), 1);
}

/// Busy is the answer of an open only: looking, and acking, go on.
#[test]
fn a_busy_message_can_be_looked_at() {
    let m = Mount::new();
    let (q, a) = put(&m, "body");
    let _holder = m.holder(&a);
    let script = format!(
        "stat '{0}'; getfattr --absolute-names -d '{0}'; ls -l q/.mq/claimed; cat q/.mq/peek/*; ls -l '{0}'",
        a.display()
    );
    m.worker(&script).ok();
    assert_eq!(deliveries(&q, &a), 1);
}
