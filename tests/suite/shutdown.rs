//! The mount goes away while producers and workers are busy: whatever was acknowledged is there afterwards, everybody is
//! told in clear words, and nobody hangs.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::common::*;
use crate::extra::*;

/// Enqueues, or works, until it is told to stop or gets an error, and writes down what it was told is done.
const BUSY: &str = r#"
import errno, os, sys
what, me, scratch = sys.argv[1], sys.argv[2], os.environ["T"]
done = os.open(scratch + "/" + what + "-" + me, os.O_WRONLY | os.O_CREAT)
n = 0
def produce(name):
    large = n % 10 == 9
    if n % 3 == 0:
        path = "q/." + name
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    else:
        fd = os.open("q/" + name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try: os.write(fd, name.encode() * (5000 if large else 1))
    finally: os.close(fd)
    if n % 3 == 0: os.rename(path, "q/" + name)
    return name
def work():
    fd = os.open("q/.mq/claim", os.O_RDONLY)
    try: path = os.read(fd, 300).decode().strip()
    finally: os.close(fd)
    fd = os.open("q/" + path, os.O_RDONLY)
    try: os.read(fd, 100)
    finally: os.close(fd)
    os.unlink("q/" + path)
    return path.split("/")[-1][28:] # behind the number and the delivery
try:
    while not os.path.exists(scratch + "/stop"):
        name = produce("%s-%d" % (me, n)) if what == "enqueued" else work()
        os.write(done, (name + "\n").encode())
        n += 1
    print("stopped")
except OSError as error:
    print(errno.errorcode[error.errno])
"#;

struct Crowd {
    all: Vec<Running>,
    scratch: PathBuf,
}

impl Crowd {
    /// Four producers and two workers, at work.
    fn new(m: &Mount) -> Crowd {
        let start =
            |what: &str, me: usize| m.start_command(Command::new("python3").args(["-c", BUSY, what, &me.to_string()]));
        let all = (0..4).map(|n| start("enqueued", n)).chain((0..2).map(|n| start("acked", n))).collect();
        let crowd = Crowd { all, scratch: m.scratch() };
        crowd.goes_on(m);
        crowd
    }

    /// Waits until some more was done.
    fn goes_on(&self, m: &Mount) {
        let (enqueued, acked) = (self.done("enqueued").len(), self.done("acked").len());
        wait_until(|| self.done("enqueued").len() > enqueued + 100 && self.done("acked").len() > acked + 30);
        assert!(is_mounted(m.path()));
    }

    /// What was told to be done.
    fn done(&self, what: &str) -> BTreeSet<String> {
        let entries = fs::read_dir(&self.scratch).unwrap().map(|entry| entry.unwrap().path());
        let files = entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(what));
        files
            .flat_map(|path| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    fn stop(&self) {
        fs::write(self.scratch.join("stop"), "").unwrap();
    }

    /// Waits until all have ended by themselves; what each said last.
    fn ends(&mut self) -> BTreeSet<String> {
        self.all.drain(..).map(|running| running.finish().ok().trim().to_owned()).collect()
    }

    /// Whatever was enqueued and not acknowledged is there, and nothing twice.
    fn assert_kept(&self, m: &Mount) {
        let mut there = BTreeSet::new();
        for (listed, body) in m.messages("q") {
            let name = producer(&listed).to_owned();
            let times = if name.ends_with('9') { 5000 } else { 1 };
            assert_eq!(body, name.repeat(times).into_bytes(), "{name} is whole");
            assert!(there.insert(name.clone()), "{name} is there twice");
        }
        let (enqueued, acked) = (self.done("enqueued"), self.done("acked"));
        let lost: Vec<_> = enqueued.difference(&acked).filter(|name| !there.contains(*name)).collect();
        // A worker may have removed one and been told so too late to write it down.
        assert!(
            lost.len() <= 2 && lost.iter().all(|_| m.stats("q")["acked_total"].as_u64().unwrap() > acked.len() as u64),
            "{lost:?}"
        );
        assert!(there.is_disjoint(&acked), "{:?}", there.intersection(&acked).collect::<Vec<_>>());
    }
}

fn busy() -> (Mount, Crowd) {
    let m = Mount::new();
    m.queue("q");
    let crowd = Crowd::new(&m);
    (m, crowd)
}

/// What a program can be told when the mount goes away: "no such device" by mqfs while it ends, "not connected" or "connection
/// aborted" by the kernel when it has.
fn assert_clear(words: &BTreeSet<String>) {
    for word in words {
        assert!(["ENODEV", "ENOTCONN", "ECONNABORTED", "ECANCELED", "stopped"].contains(&word.as_str()), "{words:?}");
    }
}

#[test]
fn sigterm_under_load_keeps_its_promises() {
    let (mut m, mut crowd) = busy();
    m.stop(); // with exit code 0
    assert_clear(&crowd.ends());
    m.start();
    crowd.assert_kept(&m);
    m.sh("echo x > q/x; cat q/.mq/pop > /dev/null").ok();
}

#[test]
fn mqfs_umount_under_load_keeps_its_promises() {
    let (mut m, mut crowd) = busy();
    let status = Command::new(env!("CARGO_BIN_EXE_mqfs")).arg("umount").arg(m.path()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(m.wait_for_exit().code(), Some(0));
    assert_clear(&crowd.ends());
    m.start();
    crowd.assert_kept(&m);
}

/// The second signal comes while open writers are waited for.
#[test]
fn a_second_sigterm_under_load_keeps_what_was_acknowledged() {
    let (mut m, mut crowd) = busy();
    let unfinished = fs::File::create(m.path().join("q/unfinished")).unwrap();
    m.signal(libc::SIGTERM);
    wait_until(|| !is_mounted(m.path()));
    m.signal(libc::SIGTERM);
    assert_eq!(m.wait_for_exit().code(), Some(8));
    assert_clear(&crowd.ends());
    drop(unfinished);
    m.start();
    crowd.assert_kept(&m);
}

/// `umount` and `fusermount3 -u` are refused while programs are busy, and harm nobody; `umount -l` lets them finish.
#[test]
fn unmounting_by_others_under_load() {
    let (mut m, mut crowd) = busy();
    for words in [&["umount"][..], &["fusermount3", "-u"]] {
        let ran = Command::new(words[0]).args(&words[1..]).arg(m.path()).output().unwrap();
        assert!(!ran.status.success() && String::from_utf8_lossy(&ran.stderr).contains("busy"), "{words:?} {ran:?}");
        crowd.goes_on(&m);
    }
    let lazy = Command::new("umount").arg("-l").arg(m.path()).status().unwrap();
    assert!(lazy.success() && !is_mounted(m.path()));
    let enqueued = crowd.done("enqueued").len();
    wait_until(|| crowd.done("enqueued").len() > enqueued + 20);
    crowd.stop();
    // A worker that waits for a message is not told to stop by anybody but a signal.
    assert_eq!(crowd.all.drain(..4).map(|running| running.finish().ok().to_owned()).collect::<BTreeSet<_>>().len(), 1);
    for worker in &crowd.all {
        worker.signal(libc::SIGTERM);
    }
    crowd.all.clear();
    assert_eq!(m.wait_for_exit().code(), Some(0), "when the last of them is gone");
    m.start();
    crowd.assert_kept(&m);
}

/// Who keeps a message open for reading, for the hours that its work takes, does not keep mqfs from ending: the message is
/// delivered again.
#[test]
fn a_reader_that_does_not_read_is_not_waited_for() {
    let mut m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=2s"]);
    let message = m.message(&q, "a", "a");
    let holder = m.holder(&message);
    m.stop();
    assert!(m.log().contains("nobody reads or writes them"), "{}", m.log());
    drop(holder);
    m.start();
    wait_until(|| state(&q, &message).as_deref() == Some("ready"));
}
