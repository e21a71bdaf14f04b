//! The recipes of mqfs(7) and examples of mqfs(1) that mount and unmount, or need the whole machine's paths, run as they stand
//! on the page.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command};

use crate::common::*;
use crate::disk::Disk;
use crate::manual::{HANDLE, program, recipe};

/// A mount that the recipes make, at `srv/mq`, with its store at `lib/mqfs`, and programs on the path.
struct Served {
    dir: tempfile::TempDir,
}

impl Served {
    fn new() -> Served {
        let served = Served { dir: tempfile::Builder::new().prefix("mqfs-test-").tempdir().unwrap() };
        served.run("mkdir -p srv/mq srv/web lib backups bin");
        program(&served.dir.path().join("bin/handle"), HANDLE);
        served
    }

    /// The same with `mqfs`, mounted.
    fn mounted() -> Served {
        let served = Served::new();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mqfs"), served.dir.path().join("bin/mqfs")).unwrap();
        served.run("mqfs mount lib/mqfs srv/mq");
        served
    }

    /// A bash script with the paths of this place instead of those of the page.
    fn script(&self, code: &str) -> Command {
        let here = self.dir.path().display().to_string();
        let paths = [
            ("/tmp/", "srv/"),
            ("/srv/", "srv/"),
            ("/var/lib/", "lib/"),
            ("/var/backups/", "backups/"),
            ("/usr/local/", ""),
        ];
        // Not those of this place, which may be in one of them.
        let there = |code: String, (path, own): (&str, &str)| code.replace(path, &format!("\x01{own}"));
        let code = paths.into_iter().fold(code.to_owned(), there).replace('\x01', &format!("{here}/"));
        let mut command = Command::new("bash");
        command.args(["-e", "-c", &code]).current_dir(&self.dir).env("T", self.dir.path()).env("HOME", self.dir.path());
        command.env("PATH", format!("{here}/bin:{}", std::env::var("PATH").unwrap()));
        command
    }

    /// Its standard output.
    #[track_caller]
    fn run(&self, code: &str) -> String {
        let ran = self.script(code).output().unwrap();
        assert!(ran.status.success() && ran.stderr.is_empty(), "{code}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    fn spawn(&self, code: &str) -> Ended {
        Ended(self.script(code).spawn().unwrap())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let mnt = self.dir.path().join("srv/mq");
        if is_mounted(&mnt) {
            let _ = Command::new(env!("CARGO_BIN_EXE_mqfs")).arg("umount").arg(&mnt).status();
        }
        if is_mounted(&mnt) {
            let _ = Command::new("fusermount3").arg("-uz").arg(&mnt).status();
        }
    }
}

/// A program that is ended with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // SAFETY: the child has not been waited for, so the process id is still its own.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        let _ = self.0.wait();
    }
}

#[test]
fn upgrading_under_load() {
    let served = Served::new();
    fs::copy(env!("CARGO_BIN_EXE_mqfs"), served.dir.path().join("bin/mqfs")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mqfs"), served.dir.path().join("mqfs")).unwrap();
    served.run("mqfs mount -o allow_other lib/mqfs srv/mq && mkdir srv/mq/jobs");
    let handled = || fs::read_to_string(served.dir.path().join("handled")).unwrap_or_default();
    let _worker = served.spawn("exec mqfs consume -q srv/mq/jobs -- handle 2> worker");
    let sends = recipe("Upgrading under load 2").replace("sleep 1", "sleep 0.05");
    let _producer = served.spawn(&format!(
        "for n in $(seq 300); do echo $n > report.csv; {{ {}; }} 2> producer; done",
        sends.trim_end().replace('\n', "; ")
    ));
    wait_until(|| handled().lines().count() > 20);
    served.run(&recipe("Upgrading under load"));
    let all = || handled().lines().map(|line| line.parse::<u32>().unwrap()).collect::<BTreeSet<_>>();
    wait_until(|| all().into_iter().eq(1..=300));
}

#[test]
fn when_nothing_is_mounted() {
    let disk = Disk::new(&["mkfs.ext4", "-q", "-F"]);
    let served = Served { dir: tempfile::Builder::new().prefix("mqfs-test-").tempdir_in(disk.path()).unwrap() };
    served.run("mkdir -p srv lib bin");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mqfs"), served.dir.path().join("bin/mqfs")).unwrap();
    served.run(&recipe("When nothing is mounted"));
    let writes = "mkdir srv/mq/q && echo one > srv/mq/q/a";
    assert!(!served.script(writes).output().unwrap().status.success());
    served.run(&format!("mqfs mount lib/mqfs srv/mq && {writes} && mqfs umount srv/mq"));
    let refused = served.script(writes).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Operation not permitted"), "{refused:?}");
    served.run("mqfs mount lib/mqfs srv/mq && test -s srv/mq/q/.mq/peek/*a && mqfs umount srv/mq && chattr -i srv/mq");
}

#[test]
fn mount_use_and_unmount() {
    let served = Served::new();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mqfs"), served.dir.path().join("bin/mqfs")).unwrap();
    served.run(&recipe("Mount a store, use a queue"));
    assert_eq!(served.run("mqfs export queues | grep -c '\"type\":\"message\"'"), "1\n");
}

#[test]
fn pictures_are_resized() {
    let served = Served::mounted();
    program(&served.dir.path().join("bin/convert"), "#!/bin/sh\ncat > \"$4\"; echo \"$2 $3\" >> \"$4\"\n");
    served.run("mkdir srv/mq/pictures");
    let _worker = served.spawn(&format!("exec {}", recipe("Resize the pictures")));
    served.run("for i in 1 2 3; do echo picture $i > srv/mq/pictures/$i.jpg; done");
    let resized = || fs::read_to_string(served.dir.path().join("srv/web/3.jpg")).unwrap_or_default();
    wait_until(|| resized() == "picture 3\n-resize 800\n");
}

#[test]
fn queues_in_which_messages_have_been_given_up() {
    let served = Served::mounted();
    served.run("mkdir srv/mq/a srv/mq/b && echo x > srv/mq/b/x && mv srv/mq/b/* srv/mq/b/.mq/dead/");
    // Of this mount, and not of all that are there.
    let code = recipe("The queues in which").replace("mqfs ls", "mqfs ls /srv/mq");
    assert_eq!(served.run(&code), "b\n");
}

#[test]
fn what_a_program_says() {
    let served = Served::mounted();
    program(&served.dir.path().join("bin/report"), "#!/bin/sh\necho report\n");
    served.run("mkdir srv/mq/orders && echo 'priorities = 10' > srv/mq/orders/.mq/config && touch a.csv b.csv");
    served.run(&recipe("Enqueue what a program says"));
    let names = served.run("ls srv/mq/orders");
    let names: Vec<&str> = names.lines().map(|name| name.rsplit('-').next().unwrap()).collect();
    assert_eq!(names, ["today.csv", "a.csv", "b.csv"]);
}

/// Taken, and restored; the page's backup has another hour than the one that is restored.
#[test]
fn a_backup_every_hour() {
    let served = Served::mounted();
    served.run("mkdir srv/mq/q && echo one > srv/mq/q/x");
    let code = recipe("A backup every hour");
    let (backup, restore) = code.trim_end().split_once('\n').unwrap();
    served.run(backup);
    let made = served.run("ls backups");
    served.run(&format!("mv backups/{} backups/mqfs-2026-01-31T08", made.trim()));
    served.script(restore).status().unwrap();
    assert_eq!(served.run("mqfs export lib/mqfs-again | grep -c '\"type\":\"message\"'"), "1\n");
}

#[test]
fn bodies_of_dead_letters() {
    let served = Served::mounted();
    served.run("mkdir srv/mq/orders && cd srv/mq/orders && echo one > x && echo two > y && mv *-x .mq/dead/");
    let code = recipe("The bodies of the dead letters");
    let (bodies, copies) = code.split_once('\n').unwrap();
    assert_eq!(served.run(bodies).trim_end(), "one");
    served.script(copies).status().unwrap();
    assert_eq!(served.run("mqfs export lib/mqfs-again | grep -c '\"type\":\"message\"'"), "2\n");
}

#[test]
fn a_worker_of_cron() {
    let served = Served::mounted();
    let deliver = "#!/bin/sh\nread -r to\ncase $to in wrong) exit 65;; away) exit 75;; esac\n";
    program(&served.dir.path().join("bin/deliver"), deliver);
    served.run("cd srv/mq && mkdir urgent bulk && for to in wrong away there; do echo $to > bulk/$to; done");
    served.run("echo there > srv/mq/urgent/there");
    let ran = served.script(&format!("cd srv/mq\n{}", recipe("From .Xr cron 8"))).output().unwrap();
    assert_eq!(ran.status.code(), Some(1), "it failed, so that cron mails what is said: {ran:?}");
    assert_eq!(String::from_utf8_lossy(&ran.stderr).lines().count(), 2, "{ran:?}");
    let left = served.run("cd srv/mq && ls urgent bulk bulk/.mq/delayed bulk/.mq/dead");
    let left: Vec<&str> = left.lines().filter_map(|line| line.split_once('-').map(|(_, name)| name)).collect();
    assert_eq!(left, ["wrong", "away"]);
}
