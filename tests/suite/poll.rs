//! "`.mq/claim` and `.mq/pop` [...] answer `poll`/`select`/`epoll`."

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::common::*;
use crate::extra::*;

/// What the programs share: `ready(fd, seconds)` by one of three system calls.
const PRELUDE: &str = r#"
import os, select, sys, time
how = sys.argv[1]
def ready(fds, seconds):
    if how == 'select':
        return select.select(fds, [], [], seconds)[0]
    if how == 'poll':
        p = select.poll()
        for fd in fds: p.register(fd, select.POLLIN)
        return [fd for fd, _ in p.poll(seconds * 1000)]
    p = select.epoll()
    for fd in fds: p.register(fd, select.EPOLLIN)
    try: return [fd for fd, _ in p.poll(seconds)]
    finally: p.close()
def open_(path): return os.open(path, os.O_RDONLY | os.O_NONBLOCK)
"#;

fn python(how: &str, program: &str) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", &format!("{PRELUDE}\n{program}"), how]);
    command
}

const HOWS: [&str; 3] = ["select", "poll", "epoll"];

#[test]
fn what_is_there_is_told_at_once_and_nothing_is_claimed_by_asking() {
    let m = Mount::new();
    let q = m.queue("q");
    for how in HOWS {
        let empty = "fd = open_('q/.mq/claim'); print(ready([fd], 0))";
        assert_eq!(m.run(&mut python(how, empty)).ok(), "[]\n", "{how}");
    }
    m.message(&q, "a", "body");
    for how in HOWS {
        let program = "fd = open_('q/.mq/pop'); print(len(ready([fd], 0)), len(ready([fd], 60)))";
        assert_eq!(m.run(&mut python(how, program)).ok(), "1 1\n", "{how}");
    }
    assert_eq!(m.stats("q")["claims_total"].as_u64(), Some(0));
}

#[test]
fn who_polls_is_told_of_what_comes() {
    let m = Mount::new();
    let q = m.queue("q");
    for how in HOWS {
        for file in ["claim", "pop"] {
            let program = format!(
                "fd = open_('q/.mq/{file}')
print('polls', flush=True)
assert ready([fd], 60) == [fd]
print(os.read(fd, 100).decode().strip())"
            );
            let mut running = m.start_command(&mut python(how, &program));
            wait_until(|| running.output() == "polls\n");
            // It may not be in the call yet; that must not matter.
            fs::write(q.join("a"), "body").unwrap();
            wait_until(|| !running.is_running());
            let ran = running.finish();
            let answer = ran.ok().lines().nth(1).unwrap().to_owned();
            if file == "pop" {
                assert_eq!(answer, "body", "{how}");
            } else {
                fs::remove_file(q.join(answer)).unwrap();
            }
        }
    }
    wait_until(|| m.bodies("q").is_empty());
}

/// Each message of many is told, with edges as with levels, and one program serves many queues.
#[test]
fn one_program_serves_many_queues() {
    let m = Mount::new();
    for i in 0..5 {
        m.queue(&format!("q{i}"));
    }
    for edge in ["0", "select.EPOLLET"] {
        let program = format!(
            "p = select.epoll()
fds = {{}}
def again(path):
    fd = open_(path)
    fds[fd] = path
    p.register(fd, select.EPOLLIN | {edge})
for i in range(5): again(f'q{{i}}/.mq/pop')
print('polls', flush=True)
got = []
while len(got) < 50:
    events = p.poll(60)
    assert events, got
    for fd, _ in events:
        try: body = os.read(fd, 100).decode()
        except BlockingIOError: continue
        got.append(body)
        path = fds.pop(fd)
        os.close(fd)
        again(path)
print(len(set(got)))"
        );
        let running = m.start_command(&mut python("epoll", &program));
        wait_until(|| running.output() == "polls\n");
        for i in 0..50 {
            fs::write(m.path().join(format!("q{}/m", i % 5)), format!("m{i}")).unwrap();
        }
        assert_eq!(running.finish().ok(), "polls\n50\n", "{edge}");
        for i in 0..5 {
            wait_until(|| m.bodies(format!("q{i}")).is_empty());
        }
    }
}

/// A poller is told whatever makes a message ready, and not while the queue is paused.
#[test]
fn who_polls_is_told_of_what_comes_back() {
    let m = Mount::new();
    let q = m.queue_with("q", &["paused=out"]);
    let program = "fd = open_('q/.mq/claim')
assert ready([fd], 0) == []
print('polls', flush=True)
assert ready([fd], 60) == [fd]";
    let x = m.message(&q, "x", "body");
    let poller = |change: &mut dyn FnMut()| {
        let running = m.start_command(&mut python("poll", program));
        wait_until(|| running.output() == "polls\n");
        change();
        running.finish().ok();
    };
    poller(&mut || m.set("q", "paused=no"));
    let claimed = transition(&q, "claimed", &x);
    poller(&mut || fs::rename(&claimed, &x).unwrap());
    let dead = transition(&q, "dead", &x);
    poller(&mut || fs::rename(&dead, &x).unwrap());
}

/// Ordinary files are always ready, as everywhere.
#[test]
fn other_files_are_always_ready() {
    let m = Mount::new();
    let q = m.queue("q");
    let x = m.message(&q, "x", "body");
    let program = format!(
        "fds = [os.open(path, os.O_RDONLY) for path in ['{}', 'q/.mq/stats', 'q/.mq/config']]
print(len(select.select(fds, [], [], 0)[0]))
fd = os.open('q/new', os.O_WRONLY | os.O_CREAT)
print(len(select.select([], [fd], [], 0)[1]))",
        within(&q, "peek", &x).display()
    );
    assert_eq!(m.run(&mut python("select", &program)).ok(), "3\n1\n");
}

/// When the mount goes away, whoever polls is told, and reads why.
#[test]
fn the_end_is_told() {
    let mut m = Mount::new();
    m.queue("q");
    let program = "import errno
fd = open_('q/.mq/claim')
print('polls', flush=True)
assert ready([fd], 60) == [fd]
try: os.read(fd, 9)
except OSError as error: print(errno.errorcode[error.errno])";
    let running: Vec<_> = HOWS.iter().map(|how| m.start_command(&mut python(how, program))).collect();
    wait_until(|| running.iter().all(|one| one.output() == "polls\n"));
    // All of them are in the call when they sleep.
    wait_until(|| running.iter().all(|one| sleeps(one.pid())));
    m.stop();
    for one in running {
        assert_eq!(one.finish_after(LIMIT), "polls\nENODEV\n");
    }
}

fn sleeps(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S'))
}

trait FinishAfter {
    fn finish_after(self, limit: Duration) -> String;
}

impl FinishAfter for Running {
    fn finish_after(mut self, limit: Duration) -> String {
        assert!(poll(limit, || !self.is_running()), "still polls: {}", self.output());
        self.finish().ok().to_owned()
    }
}
