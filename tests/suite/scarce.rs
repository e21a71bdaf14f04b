//! mqfs is short of descriptors or of memory.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};

use crate::common::*;
use crate::extra::*;

fn set_limit(m: &Mount, limit: &str) {
    m.sh(&format!("prlimit --pid $MQFS_PID --{limit}")).ok();
}

/// Out of descriptors: large bodies, of which each needs one, are refused in words; all else goes on, nothing is lost, nothing is
/// held by somebody who cannot read it; and it passes.
#[test]
fn out_of_descriptors() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 5);
    let body = vec![b'x'; 40_000];
    for n in 0..80 {
        fs::write(q.join(format!("large{n}")), &body).unwrap();
    }
    set_limit(&m, "nofile=64:");
    let peek = control(&q, "peek");
    let opened: Vec<_> = names(&peek).into_iter().map(|name| File::open(peek.join(name))).collect();
    let (open, refused): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
    assert!(open.len() > 5 && refused.len() > 10, "{} opened, {} refused", open.len(), refused.len());
    assert!(refused.into_iter().all(|file| errno(file) == libc::ENFILE));

    let first = q.join(&listing(&q)[5]);
    assert!(first.to_str().unwrap().ends_with("-large0"));
    m.sh(&format!("cat '{}'", first.display())).fails("Too many open files");
    assert_eq!((state(&q, &first).as_deref(), deliveries(&q, &first)), (Some("ready"), 0), "nobody got it");
    m.sh("head -c 40000 /dev/zero > q/more").fails("Too many open files");
    m.sh("head -c 40000 /dev/zero > q/.draft").fails("Too many open files");
    // Small ones need none.
    m.sh("echo draft > q/.draft; cat q/.draft; rm q/.draft").ok();
    m.sh("echo small > q/small; f=$(echo q/*-m0); cat $f && rm $f q/*-m1; cat q/.mq/pop; mkdir r; mv q/*-m3 r/").ok();
    m.sh("rm q/*-m4; timeout 5 cat q/.mq/pop").fails("Too many open files");
    wait_until(|| m.stats(&q)["claimed"] == 0);
    // The database makes new files.
    m.sh("echo ready > r/.mq/purge").ok();
    wait_until(|| m.stats("r")["ready"] == 0);

    drop(open);
    wait_until(|| fs::read(&first).is_ok_and(|read| read == body));
    set_limit(&m, "nofile=4096:");
    m.sh("head -c 40000 /dev/zero > q/more; echo draft > q/.draft; for f in q/*-large*; do cat $f > $T/one || exit; done").ok();
    m.remount();
    assert_eq!(m.messages(&q).len(), 80 + 2, "{:?}", listing(&peek));
}

/// Out of memory: mqfs ends, as from any failed allocation, and that is a crash, which loses nothing that was acknowledged.
#[test]
fn out_of_memory_is_a_crash() {
    let mut m = Mount::new();
    let q = m.queue("q");
    let mut acknowledged = BTreeSet::new();
    for n in 0..50 {
        fs::write(q.join(format!("before{n}")), "x").unwrap();
        acknowledged.insert(format!("before{n}"));
    }
    let size = fs::read_to_string(format!("/proc/{}/statm", m.pid())).unwrap();
    let pages: u64 = size.split(' ').next().unwrap().parse().unwrap();
    set_limit(&m, &format!("as={}", pages * 4096 + (8 << 20)));
    let mut open = Vec::new();
    for n in 0..5000 {
        let Ok(mut file) = File::create(q.join(format!("open{n}"))) else { break };
        if file.write_all(&[b'x'; 30_000]).is_err() {
            break;
        }
        open.push(file);
    }
    assert!(open.len() < 5000, "there was memory for all");
    let status = m.wait_for_exit();
    assert!(!status.success(), "{status}");
    drop(open);
    m.detach();
    m.start();
    let there: BTreeSet<String> = m.messages(&q).iter().map(|(name, _)| producer(name).to_owned()).collect();
    assert_eq!(there, acknowledged, "what was not finished is not there");
    let mut text = String::new();
    File::open(q.join(&listing(&q)[0])).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "x");
}
