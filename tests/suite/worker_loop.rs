//! "The worker loop is `while f=$(cat q/.mq/claim); do handle < "q/$f" && rm "q/$f"; done`."

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use crate::common::*;
use crate::extra::*;

/// A worker that writes what it has handled into a file of its own, line by line.
fn worker(shell: &str, out: &str) -> Command {
    let mut command = Command::new(shell);
    let script = r#"handle() { read -r body; echo "$body" >> "$1"; }
while f=$(cat q/.mq/claim); do handle "$1" < "q/$f" && rm "q/$f"; done 2>> "$T/errors""#;
    command.args(["-c", script, "worker", out]);
    command
}

fn handled(m: &Mount) -> Vec<String> {
    let files = fs::read_dir(m.scratch()).unwrap().map(|entry| entry.unwrap().path());
    let outputs = files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("out"));
    outputs.flat_map(|path| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Everything that was enqueued has been acknowledged.
fn drained(m: &Mount) -> bool {
    let stats = m.stats("q");
    stats["ready"].as_u64() == Some(0) && stats["claimed"].as_u64() == Some(0)
}

/// Several workers, of two shells, share the work; each message is handled once.
#[test]
fn workers_share_the_work() {
    let m = Mount::new();
    let q = m.queue("q");
    let out = m.scratch().join("out");
    let start = |i: usize, shell| m.start_command(&mut worker(shell, &format!("{}{i}", out.display())));
    let workers: Vec<Running> =
        ["bash", "dash", "bash", "dash"].into_iter().enumerate().map(|(i, s)| start(i, s)).collect();
    for i in 0..100 {
        fs::write(q.join("m"), format!("m{i}\n")).unwrap();
    }
    wait_until(|| drained(&m));
    wait_until(|| m.waiting("q") == 4);
    let all = handled(&m);
    assert_eq!(all.len(), 100);
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), 100);
    assert_eq!(m.stats("q")["claims_total"].as_u64(), Some(100));
    // Their shells end when the mount goes away.
    let mut m = m;
    m.stop();
    for worker in workers {
        assert_eq!(worker.finish().code(), Some(0));
    }
    let errors = fs::read_to_string(m.scratch().join("errors")).unwrap();
    assert_eq!(errors.matches("No such device").count(), 4, "{errors}");
}

/// Workers that are killed at random lose nothing.
#[test]
fn killed_workers_lose_nothing() {
    const MESSAGES: usize = 120;
    let m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=1s", "max_deliveries=0"]);
    let mut random = Random::new();
    let mut started = 0;
    let mut start = |m: &Mount| {
        started += 1;
        let shell = ["bash", "dash"][started % 2];
        let mut command = worker(shell, &format!("{}/out{started}", m.scratch().display()));
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        m.start_command(&mut command)
    };
    let mut workers: Vec<Running> = (0..4).map(|_| start(&m)).collect();
    for i in 0..MESSAGES {
        fs::write(q.join("m"), format!("m{i}\n")).unwrap();
        if i % 3 == 0 {
            let at = random.below(workers.len() as u64) as usize;
            let mut victim = std::mem::replace(&mut workers[at], start(&m));
            // The whole job, as Ctrl-C does, or the shell alone.
            let pid = victim.pid() as i32;
            let target = if random.below(2) == 0 { -pid } else { pid };
            let signal = [libc::SIGKILL, libc::SIGTERM, libc::SIGINT][random.below(3) as usize];
            // SAFETY: a call without pointers; the process has not been waited for.
            unsafe { libc::kill(target, signal) };
            if target > 0 {
                // A shell whose command runs on hears of it later, and its command must not go on waiting for ever.
                unsafe { libc::kill(-pid, libc::SIGKILL) };
            }
            // bash goes on with its loop when the command that it waits for ends by itself in spite of SIGINT.
            if !poll(Duration::from_secs(1), || !victim.is_running()) {
                // SAFETY: as above.
                unsafe { libc::kill(-pid, libc::SIGKILL) };
            }
            wait_until(|| !victim.is_running());
        }
    }
    wait_until(|| drained(&m));
    let got: BTreeSet<String> = handled(&m).into_iter().collect();
    let missing: Vec<String> = (0..MESSAGES).map(|i| format!("m{i}")).filter(|body| !got.contains(body)).collect();
    assert!(missing.is_empty(), "lost: {missing:?}");
}

/// Ctrl-C at a terminal ends the loop; and a script that catches the signal runs its trap.
#[test]
fn control_c_ends_the_loop_and_runs_traps() {
    let m = Mount::new();
    let q = m.queue("q");
    for (shell, script, ends) in [
        ("bash", "while f=$(cat q/.mq/claim); do :; done; echo over", "signal"),
        ("dash", "while f=$(cat q/.mq/claim); do :; done; echo over", "signal"),
        ("bash", "trap 'echo trapped; exit 7' INT; while f=$(cat q/.mq/claim); do :; done", "trapped"),
        ("dash", "trap 'echo trapped; exit 7' INT; while f=$(cat q/.mq/claim); do :; done", "trapped"),
        // A builtin that reads, in a shell that goes on after its trap: it reads again.
        ("bash", "trap 'echo trapped; exit 7' INT; read -r f < q/.mq/claim", "trapped"),
    ] {
        let program = format!(
            "import os, pty, sys, time
pid, fd = pty.fork()
if pid == 0:
    os.execvp('{shell}', ['{shell}', '-c', sys.argv[1]])
print(pid, flush=True)
sys.stdin.readline()
os.write(fd, b'\\x03')
got = b''
while True:
    try: piece = os.read(fd, 1000)
    except OSError: break
    if not piece: break
    got += piece
_, status = os.waitpid(pid, 0)
print(got, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 'exit %d' % os.WEXITSTATUS(status))"
        );
        // The program is told to go on by a line of a FIFO.
        let fifo = m.scratch().join("go");
        m.sh("rm -f $T/go; mkfifo $T/go").ok();
        let mut python = Command::new("bash");
        python.args(["-c", r#"exec python3 -c "$1" "$2" < "$3""#, "python", &program, script]).arg(&fifo);
        let running = m.one_waits(&q, || {
            let running = m.start_command(&mut python);
            // Opening it waits for the reader, and stays open until the end of the test.
            std::mem::forget(fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap());
            running
        });
        fs::write(&fifo, "go\n").unwrap();
        let ran = running.finish();
        let said = ran.ok();
        match ends {
            "signal" => assert!(said.contains(" 2\n") && !said.contains("over"), "{shell}: {said}"),
            _ => assert!(said.contains("trapped") && said.contains("exit 7"), "{shell}: {said}"),
        }
        wait_until(|| m.waiting("q") == 0);
    }
}

/// Stopped and continued, `cat` goes on waiting.
#[test]
fn a_stopped_reader_goes_on() {
    let m = Mount::new();
    let q = m.queue("q");
    let reader = m.waiter(&q, "exec cat q/.mq/pop");
    reader.signal(libc::SIGSTOP);
    wait_until(|| m.waiting("q") == 0);
    reader.signal(libc::SIGCONT);
    wait_until(|| m.waiting("q") == 1);
    fs::write(q.join("x"), "body").unwrap();
    assert_eq!(reader.finish().ok(), "body");
    let reader = m.waiter(&q, "exec cat q/.mq/pop");
    reader.signal(libc::SIGTERM);
    assert_eq!(reader.finish().status.signal(), Some(libc::SIGTERM));
}
