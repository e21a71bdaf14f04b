//! Read-only from now on: `mount -o remount,ro` of a mount in use, and bind mounts that are read-only.

use std::path::PathBuf;
use std::process::Command;

use crate::common::{Mount, listing, wait_until};
use crate::extra::deliveries;
use crate::users::*;

const READ_ONLY: &str = "Read-only file system";

/// Remounts, and waits until mqfs has noticed.
#[track_caller]
fn remount(m: &Mount, how: &str) {
    let noticed = || m.log().matches("remounted").count();
    let before = noticed();
    let status = Command::new("mount").args(["-i", "-o", &format!("remount,{how}")]).arg(m.path()).status();
    assert!(status.unwrap().success());
    wait_until(|| noticed() > before);
}

/// "`pop`, `claim`, ack by reading `lines` are refused there", and plain reading claims nothing; until it is writable again.
#[test]
fn a_mount_that_becomes_read_only_claims_nothing() {
    let m = Mount::new();
    let q = m.queue("q");
    for body in ["1\n", "2\n", "3\n"] {
        m.message(&q, "m", body);
    }
    m.sh("mkfifo $T/go").ok();
    let lines = m.spawn(
        "exec 3< q/.mq/lines; read -r l <&3; echo got $l; read -r go < $T/go; read -r l <&3 || echo refused; exec sleep 1000",
    );
    wait_until(|| lines.output().contains("got 1"));
    let ready = listing(&q);
    remount(&m, "ro");
    for read in ["cat q/.mq/pop", "cat q/.mq/claim", "read -r l < q/.mq/lines"] {
        m.sh(read).fails(READ_ONLY);
    }
    assert_eq!(m.sh("cat q/*").ok(), "2\n3\n");
    m.sh("rm q/*").fails(READ_ONLY);
    assert_eq!(listing(&q), ready);
    assert_eq!(deliveries(&q, &q.join(&ready[0])), 0);
    m.sh("echo > $T/go").ok();
    wait_until(|| lines.output().contains("refused"));
    assert_eq!(m.bodies("q"), ["1\n", "2\n", "3\n"], "what was read before is not acknowledged by reading on");

    remount(&m, "rw");
    assert_eq!(m.sh("cat q/.mq/pop").ok(), "2\n");
    assert_eq!(m.sh("f=$(cat q/.mq/claim); cat q/$f; rm q/$f").ok(), "3\n");
    assert_eq!(m.bodies("q"), ["1\n"]);
}

/// One that was mounted so stays so: nothing there keeps deadlines.
#[test]
fn a_mount_that_was_read_only_from_the_beginning_stays_so() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.message(&q, "m", "1");
    m.set_args(&["-o", "ro"]);
    m.remount();
    Command::new("mount").args(["-i", "-o", "remount,rw"]).arg(m.path()).status().unwrap();
    m.sh("echo x > q/x").fails(READ_ONLY);
    m.sh("cat q/.mq/pop").fails(READ_ONLY);
    assert_eq!(m.bodies("q"), ["1"]);
}

/// A bind mount, unmounted at its end.
struct Bind(PathBuf);

impl Bind {
    fn read_only(m: &Mount) -> Self {
        let at = m.scratch().join("bind");
        std::fs::create_dir(&at).unwrap();
        m.sh("mount --bind . $T/bind && mount -o remount,bind,ro $T/bind").ok();
        Self(at)
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// What an administrator does who shows a queue through a read-only bind mount to those who are not to consume: takes w on the
/// queue from them, or has reading not claim.
#[test]
fn through_a_read_only_bind_mount_modes_decide() {
    let (m, q) = mount(0o755);
    let first = m.message(&q, "m", "body");
    chmod(m.scratch(), 0o755);
    let bind = Bind::read_only(&m);
    for (script, said) in [
        ("cat q/.mq/pop", DENIED),
        ("cat q/.mq/claim", DENIED),
        ("read -r l < q/.mq/lines", DENIED),
        ("rm q/*", READ_ONLY),
        ("mv q/* q/.mq/claimed/", READ_ONLY),
        ("echo x > q/x", READ_ONLY),
    ] {
        ann(&m, &format!("cd $T/bind; {script}")).fails(said);
    }
    assert_eq!(ann(&m, "cat $T/bind/q/*").ok(), "body");
    chmod(&q, 0o777);
    m.set(&q, "claim=rename");
    assert_eq!(ann(&m, "cat $T/bind/q/*").ok(), "body");
    ann(&m, "cd $T/bind; mv q/* q/.mq/claimed/").fails(READ_ONLY);
    assert_eq!((listing(&q).len(), deliveries(&q, &first)), (1, 0));
    drop(bind);
}
