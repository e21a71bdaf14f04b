//! What a link has claimed and never heard of, as it was killed, or its mount, is not forgotten until its lease is over, and does not come
//! behind others.

use std::fs;
use std::process::{Command, Stdio};

use crate::common::*;
use crate::linking::{SOON, is_empty, many, of, run, start};
use crate::nats::Nats;

fn bodies(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("m{i}")).collect()
}

/// Mqfs is killed when it has given the third message to the link, and before the link could look at it.
#[test]
fn what_was_claimed_when_the_mount_went_is_sent_in_order() {
    let (mut m, nats) = (Mount::new(), Nats::start());
    nats.stream("STRAYS");
    let q = many(&m, 6);
    let mut link = Command::new("strace");
    let status = format!("XDG_RUNTIME_DIR={}", m.scratch().display());
    let claimed = q.join(".mq/claimed").display().to_string();
    link.args(["-f", "-qq", "-E", &status, "-o", "/dev/null", "-P", &claimed, "-e", "trace=openat", "-e"]);
    link.args(["inject=openat:delay_enter=4000000:when=4", env!("CARGO_BIN_EXE_mqfs"), "link", "--until-empty"]);
    link.args(SOON).args(["q", &nats.url("/strays")]);
    let link = m.start_command(&mut link);
    wait_until(|| m.stats(&q)["claimed"] == 3);
    m.kill9_and_remount();
    let ran = link.finish();
    assert_eq!((ran.code(), nats.bodies("STRAYS")), (Some(0), bodies(6)), "{ran:?}");
    assert!(is_empty(&m, &q));
}

/// The mount goes while a link acknowledges: what the broker did not take yet is claimed anew, as the leases of what was open in the mount
/// before do not renew themselves.
#[test]
fn what_waits_for_the_broker_is_claimed_anew() {
    let (m, nats) = (Mount::new(), Nats::start());
    nats.python("stream('ANEW', max_msgs=1, discard='new')");
    let q = many(&m, 3);
    let mut link = Command::new("strace");
    let status = format!("XDG_RUNTIME_DIR={}", m.scratch().display());
    let claimed = q.join(".mq/claimed").display().to_string();
    link.args(["-f", "-qq", "-E", &status, "-o", "/dev/null", "-P", &claimed, "-e", "trace=unlinkat", "-e"]);
    link.args(["inject=unlinkat:error=ENOTCONN:when=1", env!("CARGO_BIN_EXE_mqfs"), "link", "--until-empty"]);
    let link = m.start_command(link.args(SOON).args(["q", &nats.url("/anew")]));
    wait_until(|| m.stats(&q)["claims_total"] == 5);
    nats.python("api('STREAM.UPDATE.ANEW', name='ANEW', subjects=['anew'], retention='limits', storage='file', num_replicas=1, max_msgs=9, discard='new')");
    let ran = link.finish();
    assert_eq!((ran.code(), nats.bodies("ANEW")), (Some(0), bodies(3)), "{ran:?}");
    assert!(is_empty(&m, &q));
}

/// The mount goes while a link looks what the one before it had claimed: it looks again when the mount is back, and does not take the
/// queue for removed.
#[test]
fn a_mount_that_goes_while_strays_are_looked_for_hides_none() {
    let (mut m, nats) = (Mount::new(), Nats::start());
    nats.python("stream('HIDDEN', max_msgs=1, discard='new')\npublish('hidden', 'x')");
    let q = many(&m, 3);
    let url = nats.url("/hidden");
    let arguments = [&SOON[..], &["-o", "name=strays", "q", &url]].concat();
    let first = start(&m, &arguments);
    wait_until(|| m.stats(&q)["claimed"] == 3);
    first.signal(libc::SIGKILL);
    drop(first);
    nats.python("api('STREAM.PURGE.HIDDEN')\napi('STREAM.UPDATE.HIDDEN', name='HIDDEN', subjects=['hidden'], retention='limits', storage='file', num_replicas=1, max_msgs=9, discard='new')");
    m.fill(&q, 1);
    let mut second = Command::new("strace");
    let (status, calls) = (format!("XDG_RUNTIME_DIR={}", m.scratch().display()), m.scratch().join("calls"));
    let claimed = q.join(".mq/claimed").display().to_string();
    // It stops when it has read the names, before it asks for anything about them.
    second.args(["-f", "-qq", "-E", &status, "-o"]).arg(&calls).args(["-P", &claimed, "-e", "trace=getdents64", "-e"]);
    second.args(["inject=getdents64:signal=SIGSTOP:when=2", env!("CARGO_BIN_EXE_mqfs"), "link"]);
    second.args(&arguments);
    let second = m.start_command(&mut second);
    let told = || fs::read_to_string(&calls).unwrap_or_default();
    wait_until(|| told().contains("stopped by SIGSTOP"));
    m.stop();
    let pid = told().split_whitespace().next().unwrap().to_owned();
    assert!(Command::new("kill").args(["-CONT", &pid]).status().unwrap().success());
    wait_until(|| of(&m, "strays", "state") == "holding");
    m.start();
    wait_until(|| is_empty(&m, &q));
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(second.finish().code(), Some(0));
    assert_eq!(nats.bodies("HIDDEN")[..3], bodies(3));
}

/// One that cannot be looked at may be a predecessor's all the same: it is told, and is given back when it can be.
#[test]
fn what_cannot_be_looked_at_is_not_forgotten() {
    let (m, nats) = (Mount::new(), Nats::start());
    nats.python("stream('UNSEEN', max_msgs=1, discard='new')\npublish('unseen', 'x')");
    let q = many(&m, 3);
    let url = nats.url("/unseen");
    let arguments = [&SOON[..], &["-o", "name=strays", "q", &url]].concat();
    let first = start(&m, &arguments);
    wait_until(|| m.stats(&q)["claimed"] == 3);
    first.signal(libc::SIGKILL);
    drop(first);
    nats.python("api('STREAM.PURGE.UNSEEN')\napi('STREAM.UPDATE.UNSEEN', name='UNSEEN', subjects=['unseen'], retention='limits', storage='file', num_replicas=1, max_msgs=9, discard='new')");
    let mut second = Command::new("strace");
    let status = format!("XDG_RUNTIME_DIR={}", m.scratch().display());
    second.args(["-f", "-qq", "-E", &status, "-o", "/dev/null", "-e", "trace=lgetxattr", "-e"]);
    second.args(["inject=lgetxattr:error=EIO:when=1", env!("CARGO_BIN_EXE_mqfs"), "link", "--until-empty"]);
    let ran = m.run(second.args(&arguments));
    assert_eq!((ran.code(), &m.stats(&q)["claimed"]), (Some(0), &1.into()), "{ran:?}");
    assert!(ran.stderr.contains("-m0: cannot be given back: Input/output error"), "{ran:?}");
    run(&m, &[&["--until-empty"], &arguments[..]].concat()).succeeds();
    assert_eq!(nats.bodies("UNSEEN"), ["m1", "m2", "m0"]);
    assert!(is_empty(&m, &q));
}

/// The second process of the link is killed before it has given back what the first one had.
#[test]
fn what_the_process_before_the_last_had_claimed_is_sent() {
    let (m, nats) = (Mount::new(), Nats::start());
    // Nothing is taken for now.
    nats.python("stream('FULL', max_msgs=1, discard='new')\npublish('full', 'x')");
    let q = many(&m, 3);
    let url = nats.url("/full");
    let arguments = [&SOON[..], &["-o", "name=strays", "q", &url]].concat();
    let first = start(&m, &arguments);
    wait_until(|| m.stats(&q)["claimed"] == 3);
    first.signal(libc::SIGKILL);
    drop(first);
    let status = m.scratch().join("mqfs-link/strays.json");
    let pid = || serde_json::from_slice::<serde_json::Value>(&fs::read(&status).unwrap()).unwrap()["pid"].clone();
    // It cannot even look at its queue.
    m.signal(libc::SIGSTOP);
    let mut second = Command::new(env!("CARGO_BIN_EXE_mqfs"));
    second.args(["link", "-o", "name=strays"]).arg(&q).arg(&url).env("XDG_RUNTIME_DIR", m.scratch());
    let mut second = second.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let told = poll(LIMIT, || pid() == second.id());
    second.kill().unwrap();
    m.signal(libc::SIGCONT);
    second.wait().unwrap();
    assert!(told && m.stats(&q)["claimed"] == 3);
    nats.python("api('STREAM.PURGE.FULL')\napi('STREAM.UPDATE.FULL', name='FULL', subjects=['full'], retention='limits', storage='file', num_replicas=1, max_msgs=9, discard='new')");
    run(&m, &[&["--until-empty"], &arguments[..]].concat()).succeeds();
    assert_eq!(nats.bodies("FULL"), bodies(3));
    assert!(is_empty(&m, &q));
}
