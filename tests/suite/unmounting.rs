//! How a mount goes away: asked to by a signal, by `mqfs umount` or by umount(8), or by dying.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

use crate::place::{Place, Process, end_of, is_mounted, run, until};

#[test]
fn sigterm_and_sigint_end_it_with_exit_code_0() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let place = Place::new();
        let mut child = place.foreground(&[]);
        Process(child.id()).kill(signal);
        assert_eq!(end_of(&mut child).code(), Some(0), "signal {signal}: {}", place.errors());
        assert!(!is_mounted(&place.mnt()), "signal {signal}");
    }
}

#[test]
fn a_daemon_in_the_background_obeys_the_same_signals() {
    let place = Place::new();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let daemon = place.mounted(&[]);
        daemon.kill(signal);
        daemon.ends();
        assert!(!is_mounted(&place.mnt()), "signal {signal}");
    }
}

#[test]
fn umount_is_refused_while_a_file_is_open() {
    let place = Place::new();
    let daemon = place.mounted(&[]);
    fs::create_dir(place.at("q")).unwrap();
    let file = File::create(place.at("q/.draft")).unwrap();
    let busy = run(Command::new("umount").arg(place.mnt()));
    assert!(busy.code == Some(32) && busy.stderr.contains("busy"), "{busy:?}");
    assert!(daemon.runs() && is_mounted(&place.mnt()));
    drop(file);
    run(Command::new("umount").arg(place.mnt())).succeeded();
    daemon.ends();
}

#[test]
fn an_open_writer_is_served_to_its_close() {
    let place = Place::new();
    let mut child = place.foreground(&[]);
    fs::create_dir(place.at("q")).unwrap();
    let mut file = File::create(place.at("q/m")).unwrap();
    file.write_all(b"first,").unwrap();
    Process(child.id()).kill(libc::SIGTERM);
    until(|| !is_mounted(&place.mnt()));
    file.write_all(b"second").unwrap();
    assert!(child.try_wait().unwrap().is_none(), "it left while a writer was open");
    drop(file);
    assert_eq!(end_of(&mut child).code(), Some(0));

    place.mounted(&[]);
    let names: Vec<_> = fs::read_dir(place.at("q")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names.len(), 1);
    assert_eq!(fs::read_to_string(&names[0]).unwrap(), "first,second");
}

/// The kernel takes the mount away at the last close, and may not tell of that close any more. Of an empty message nothing
/// else has told that it is whole.
#[test]
fn an_empty_message_that_is_closed_last_is_enqueued() {
    let place = Place::new();
    for round in 1..=10 {
        let mut child = place.foreground(&[]);
        let _ = fs::create_dir(place.at("q"));
        let file = File::create(place.at("q/m")).unwrap();
        Process(child.id()).kill(libc::SIGTERM);
        until(|| !is_mounted(&place.mnt()));
        drop(file);
        assert_eq!(end_of(&mut child).code(), Some(0));
        let daemon = place.mounted(&[]);
        assert_eq!(fs::read_dir(place.at("q")).unwrap().count(), round, "{}", place.errors());
        run(Command::new("umount").arg(place.mnt())).succeeded();
        daemon.ends();
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let place = Place::new();
    let mut child = place.foreground(&[]);
    fs::create_dir(place.at("q")).unwrap();
    let mut file = File::create(place.at("q/m")).unwrap();
    file.write_all(b"never committed").unwrap();
    Process(child.id()).kill(libc::SIGTERM);
    until(|| !is_mounted(&place.mnt()));
    Process(child.id()).kill(libc::SIGTERM);
    assert_eq!(end_of(&mut child).code(), Some(8));
}

#[test]
fn mqfs_umount_waits_until_the_process_is_gone() {
    let place = Place::new();
    for _ in 0..3 {
        let daemon = place.mounted(&[]);
        place.mqfs(&["umount", "mnt"]).succeeded();
        assert!(!daemon.runs() && !is_mounted(&place.mnt()));
    }
}

#[test]
fn mqfs_umount_refuses_what_is_not_an_mqfs_mount() {
    let place = Place::new();
    place.mqfs(&["umount", "missing"]).failed(5, "No such file or directory");
    place.mqfs(&["umount", "mnt"]).failed(5, "nothing is mounted");
    place.mqfs(&["umount", "/"]).failed(5, "not an mqfs mount");
    place.mqfs(&["umount", "/proc"]).failed(5, "not an mqfs mount");
    place.mounted(&[]);
    fs::create_dir(place.at("q")).unwrap();
    place.mqfs(&["umount", "mnt/q"]).failed(5, "nothing is mounted");
    assert!(is_mounted(&place.mnt()));
}

#[test]
fn umount_by_anybody_ends_the_process() {
    let place = Place::new();
    for force in ["--", "-l", "-f"] {
        let mut child = place.foreground(&[]);
        run(Command::new("umount").arg(force).arg(place.mnt())).succeeded();
        assert_eq!(end_of(&mut child).code(), Some(0), "umount {force}: {}", place.errors());
        assert!(!is_mounted(&place.mnt()));
    }
}

#[test]
fn a_mount_right_after_umount_waits_for_the_store() {
    let place = Place::new();
    for _ in 0..5 {
        place.mounted(&[]);
        run(Command::new("umount").arg(place.mnt())).succeeded();
    }
    place.mounted(&[]);
}

#[test]
fn a_dead_mount_is_recovered_by_the_next_one() {
    let place = Place::new();
    let daemon = place.mounted(&[]);
    fs::create_dir(place.at("q")).unwrap();
    daemon.kill(libc::SIGKILL);
    daemon.ends();
    let errno = fs::read_dir(place.at("q")).unwrap_err().raw_os_error();
    // The second is what the kernel answers while it still closes the killed process's files, and the third by io_uring.
    assert!(matches!(errno, Some(libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED)), "{errno:?}");
    place.mounted(&[]);
    assert!(place.at("q").is_dir());
    place.mqfs(&["umount", "mnt"]).succeeded();
    assert!(!is_mounted(&place.mnt()), "the dead mount lay under the new one");
}

#[test]
fn mqfs_umount_takes_a_dead_mount_off() {
    let place = Place::new();
    let daemon = place.mounted(&[]);
    daemon.kill(libc::SIGKILL);
    daemon.ends();
    place.mqfs(&["umount", "mnt"]).succeeded();
    assert!(!is_mounted(&place.mnt()));
}

#[test]
fn auto_unmount_takes_the_mount_of_a_killed_process_off() {
    let place = Place::new();
    let daemon = place.mounted(&["-o", "auto_unmount"]);
    daemon.kill(libc::SIGKILL);
    until(|| !is_mounted(&place.mnt()));
    fs::create_dir(place.at("an ordinary directory again")).unwrap();
}

#[test]
fn the_watcher_of_auto_unmount_ends_with_the_mount() {
    let place = Place::new();
    let mut child = place.foreground(&["-o", "auto_unmount"]);
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
    let watcher = Process(children.trim().parse().expect("one watcher"));
    // Nothing of ours: /dev/null three times, and the pipe.
    until(|| {
        let descriptors = watcher.descriptors();
        descriptors.len() == 4 && descriptors[..3].iter().all(|target| target.to_str() == Some("/dev/null"))
    });
    place.mqfs(&["umount", "mnt"]).succeeded();
    assert_eq!(end_of(&mut child).code(), Some(0));
    watcher.ends();
}

/// Kills the server of a mount that does not answer, lest whoever tidies up waits for an answer.
struct Silent(Process);

impl Drop for Silent {
    fn drop(&mut self) {
        self.0.kill(libc::SIGKILL);
        self.0.ends();
    }
}

/// Lets a server read what it is asked and never answer: its serving thread stops as it is about to.
fn hold_answers(daemon: Process) -> std::thread::JoinHandle<()> {
    let tasks = fs::read_dir(daemon.proc("task")).unwrap().map(|task| task.unwrap().path());
    let serving: Vec<_> = tasks
        .filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("session")))
        .collect();
    let [task] = &serving[..] else { panic!("{serving:?}") };
    let tid: i32 = task.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let (attached, told) = std::sync::mpsc::channel();
    let call = task.join("syscall");
    let hold = move || {
        let wait = || {
            let mut status = 0;
            // SAFETY: a call with numbers and a valid pointer.
            let ended =
                unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL) } != tid || !libc::WIFSTOPPED(status);
            !ended
        };
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: of a thread of another process, which this one may trace; nothing is read or written here.
        let ptrace = |request| unsafe { libc::ptrace(request, tid, none, none) };
        assert!(ptrace(libc::PTRACE_SEIZE) == 0 && ptrace(libc::PTRACE_INTERRUPT) == 0 && wait());
        attached.send(()).unwrap();
        // By io_uring, answers are what is handed in.
        let answers = |call: String| {
            let mut words = call.split(' ');
            match words.next().and_then(|number| number.parse().ok()) {
                Some(libc::SYS_writev) => true,
                Some(libc::SYS_io_uring_enter) => words.nth(1).is_some_and(|count| count != "0x0"),
                _ => false,
            }
        };
        while !fs::read_to_string(&call).is_ok_and(answers) {
            if ptrace(libc::PTRACE_SYSCALL) != 0 || !wait() {
                return;
            }
        }
        while wait() {}
    };
    let tracer = std::thread::spawn(hold);
    told.recv().unwrap();
    tracer
}

/// The server was stopped, or is stuck with a question that it has read: whoever asked cannot even be killed then.
#[test]
fn ls_and_umount_end_in_time_and_by_force_when_nothing_is_answered() {
    for stuck in [false, true] {
        let place = Place::new();
        let daemon = place.mounted(&[]);
        place.sh("mkdir mnt/q && echo kept > mnt/q/m").succeeded();
        let _silent = Silent(daemon);
        let tracer = stuck.then(|| hold_answers(daemon));
        if !stuck {
            daemon.kill(libc::SIGSTOP);
            until(|| fs::read_to_string(daemon.proc("status")).unwrap().contains("State:\tT"));
        }
        let told = place
            .sh("timeout -k 1 100 $MQFS ls mnt & ls=$!; timeout -k 1 100 $MQFS umount mnt; echo $?; wait $ls; echo $?");
        assert_eq!(told.stdout, "7\n7\n", "{told:?}");
        assert_eq!(told.stderr.matches("no answer within 15 s").count(), 2, "{told:?}");
        assert!(daemon.runs() && is_mounted(&place.mnt()));
        place.sh("timeout -k 1 100 $MQFS umount --force mnt").succeeded();
        assert!(!daemon.runs() && !is_mounted(&place.mnt()));
        if let Some(tracer) = tracer {
            tracer.join().unwrap();
        }
        place.mounted(&[]);
        assert_eq!(place.sh("cat mnt/q/.mq/peek/*").succeeded().stdout, "kept\n");
    }
}
