//! Hot folders: programs that are told of a name, or look for one, and take the file. "`names = keep`: for programs that must
//! find the name that another program wrote (hot folders, Maildir, inotify watchers)."

use std::path::PathBuf;

use crate::common::*;
use crate::extra::*;

fn hot(m: &Mount) -> PathBuf {
    m.queue_with("in", &["names=keep"])
}

/// Watches `in` and opens at once what it is told of: prints the names and what they hold, and removes them.
const WATCHER: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
CLOSE_WRITE, MOVED_TO = 0x8, 0x80
fd = libc.inotify_init()
assert libc.inotify_add_watch(fd, b'in', CLOSE_WRITE | MOVED_TO) >= 0
print('watching', flush=True)
left = int(COUNT)
while left:
    events = os.read(fd, 65536)
    while events:
        _, mask, _, length = struct.unpack_from('iIII', events)
        name, events = events[16:16 + length].rstrip(b'\0'), events[16 + length:]
        if name.startswith(b'.'):
            continue
        with open(b'in/' + name, 'rb') as f:
            print(name.decode(), f.read().decode(), flush=True)
        os.unlink(b'in/' + name)
        left -= 1
"#;

fn watcher(m: &Mount, count: usize) -> Running {
    let mut watcher = m.spawn_python(&WATCHER.replace("COUNT", &count.to_string()));
    wait_until(|| watcher.output().starts_with("watching\n") || !watcher.is_running());
    watcher
}

/// "inotify's close_write is raised after FLUSH and before RELEASE: a watcher can ask for the name a moment before it is visible":
/// it finds it all the same, whoever writes, large or small or empty, again and again.
#[test]
fn a_watcher_finds_every_name_that_it_is_told() {
    let m = Mount::new();
    hot(&m);
    let seen = watcher(&m, 160);
    let mut expected: Vec<String> = (0..150).map(|i| format!("f{i} {i}")).collect();
    let script = "for i in $(seq 0 49); do printf $i > in/f$i; done; for i in $(seq 50 99); do printf $i > $T/f$i; cp $T/f$i in/; done";
    m.sh(script).ok();
    m.python("for i in range(100, 150):\n  with open(f'in/f{i}', 'w') as f: f.write(str(i))").ok();
    m.sh("for i in 1 2 3 4 5; do : > in/e$i; printf draft > in/.d; mv in/.d in/d$i; done").ok();
    expected.extend((1..=5).flat_map(|i| [format!("e{i} "), format!("d{i} draft")]));
    let told = seen.finish();
    let mut told: Vec<_> = told.ok().lines().skip(1).map(str::to_owned).collect();
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
    assert_eq!(m.stats("in")["acked_total"], 160);
}

/// The same for messages of more than 32 KiB, whose close takes longer.
#[test]
fn a_watcher_finds_large_files() {
    let m = Mount::new();
    hot(&m);
    let seen = watcher(&m, 10);
    m.sh("for i in 0 1 2 3 4 5 6 7 8 9; do head -c 200000 /dev/zero | tr '\\0' $i > in/f$i; done").ok();
    let told = seen.finish();
    let lengths: Vec<usize> = told.ok().lines().skip(1).map(str::len).collect();
    assert_eq!(lengths, [200_003; 10]);
}

/// A shell's watcher: inotifywait tells, a loop takes.
#[test]
fn inotifywait_and_a_loop() {
    let m = Mount::new();
    hot(&m);
    let script = "inotifywait -q -m -e close_write,moved_to --format %f in 2> $T/err |
        while read -r name; do case $name in .*) continue;; esac; cat in/$name && rm in/$name; done";
    let watching = m.spawn(script);
    // inotifywait says nothing when it is ready: written again until it has seen one.
    let mut probes = 0;
    wait_until(|| {
        probes += 1;
        m.sh(&format!("echo probe > in/probe{probes}")).ok();
        !watching.output().is_empty()
    });
    m.sh("for i in $(seq 30); do echo job $i > in/job$i; done; echo last > $T/last; rsync $T/last in/; mv in/nothing in/x 2> /dev/null; true").ok();
    wait_until(|| watching.output().ends_with("last\n"));
    let output = watching.output();
    let jobs: Vec<_> = output.lines().filter(|line| line.starts_with("job")).collect();
    assert_eq!(jobs, (1..=30).map(|i| format!("job {i}")).collect::<Vec<_>>(), "{}", watching.errors());
}

/// The moment itself, drawn out: the file was closed by its writer, and is not released, as a child still holds the descriptor.
/// Whoever asks for the name then waits, and finds it.
#[test]
fn a_lookup_waits_for_a_message_that_is_about_to_arrive() {
    let m = Mount::new();
    hot(&m);
    let program = r#"
import os, select, signal, traceback
def child(does):
    pid = os.fork()
    if pid:
        return pid
    try:
        does()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
def attempt(name):
    fd = os.open(name, os.O_CREAT | os.O_WRONLY)
    os.write(fd, b'body')
    holder = child(signal.pause)
    # Another process, as its creator finds what it is writing at once, and not one that holds the descriptor, too.
    answer, answers = os.pipe()
    go, goes = os.pipe()
    def look():
        os.close(fd)
        os.write(answers, b'ready')
        os.read(go, 1)
        try:
            found = os.stat(name).st_size
        except FileNotFoundError:
            found = 'nothing'
        os.write(answers, f'{found}'.encode())
    looker = child(look)
    assert os.read(answer, 5) == b'ready'
    os.close(fd)
    os.write(goes, b'g')
    # A lookup that does not wait is answered in less than half of the second that one waits.
    select.select([answer], [], [], 0.5)
    os.kill(holder, signal.SIGKILL)
    for pid in holder, looker:
        os.waitpid(pid, 0)
    return os.read(answer, 100).decode()
# A machine may be too slow for the moment that is waited.
outcomes = []
while '4' not in outcomes and len(outcomes) < 5:
    outcomes.append(attempt(f'in/x{len(outcomes)}'))
assert '4' in outcomes, outcomes
print(len(outcomes))
"#;
    let attempts: usize = m.python(program).ok().trim().parse().unwrap();
    assert_eq!(listing(m.path().join("in")), ["x0", "x1", "x2", "x3", "x4"][..attempts]);
}

/// A lookup that waits for a file that is not closed after all is answered when the moment is over; nobody else waits.
#[test]
fn nobody_waits_for_long() {
    let m = Mount::new();
    hot(&m);
    let script = "exec 3> in/slow; echo part >&3; (exec 3>&-); echo open; read -r line; echo end >&3";
    m.sh("mkfifo $T/go").ok();
    let slow = m.spawn(&format!("{{ {script}; }} < $T/go"));
    let go = m.spawn("exec 4> $T/go; echo ready; exec sleep 1000");
    wait_until(|| slow.output() == "open\n" && go.output() == "ready\n");
    m.session("cat in/slow").fails("No such file");
    assert_eq!(m.sh("cat in/slow").ok(), "part\n", "its session sees what there is so far");
    m.sh("echo other > in/other; cat in/other").ok();
    assert_eq!(listing(m.path().join("in")), [""; 0], "claimed by its reader");
    drop(go);
    wait_until(|| m.stats("in")["ready"] == 1);
    assert_eq!(m.sh("cat in/slow").ok(), "part\nend\n");
}

/// A hot folder's worker in the manner of many: look for the oldest, open it, work, move it to `done`. Three of them share
/// the work, and each file is done once.
#[test]
fn workers_that_move_what_they_have_done() {
    let m = Mount::new();
    let folder = hot(&m);
    let done = m.queue_with("done", &["names=keep"]);
    m.sh("for i in $(seq 40); do echo $i > in/job$i.txt; done").ok();
    let worker = "
import os, sys
while True:
    names = os.listdir('in')
    if not names:
        break
    for name in names:
        try:
            with open('in/' + name) as f:
                job = f.read()
        except (FileNotFoundError, OSError):
            continue
        os.rename('in/' + name, 'done/' + name)
        print(job.strip(), flush=True)
";
    let workers: Vec<_> = (0..3).map(|_| m.start_command(&mut apart(worker))).collect();
    let mut worked: Vec<u32> = workers
        .into_iter()
        .flat_map(|worker| worker.finish().ok().lines().map(|n| n.parse().unwrap()).collect::<Vec<_>>())
        .collect();
    worked.sort_unstable();
    assert_eq!(worked, (1..=40).collect::<Vec<_>>());
    assert_eq!((listing(&folder).len(), listing(&done).len()), (0, 40));
    assert_eq!(listing(control(&folder, "claimed")), [""; 0]);
}

/// A Python program that shares no claim with the test or another one.
fn apart(program: &str) -> std::process::Command {
    let mut command = std::process::Command::new("bash");
    command.args(["-c", r#"python3 -c "$1"; exit $?"#, "worker", program]);
    command
}

/// What the producer does next finds the name, however fast it is.
#[test]
fn a_producer_finds_what_it_has_just_written() {
    let m = Mount::new();
    let folder = hot(&m);
    m.sh("for i in $(seq 200); do echo $i > in/f$i; test -s in/f$i || exit 1; done").ok();
    m.python("import os\nfor i in range(300):\n  with open(f'in/p{i}', 'w') as f: f.write('x')\n  assert os.stat(f'in/p{i}').st_size == 1").ok();
    assert_eq!(listing(&folder).len(), 500);
}
