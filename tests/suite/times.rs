//! Times: those that programs set are what `stat` shows, of messages, drafts and queues.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::common::{Mount, listing, only};

/// Seconds of access and of modification.
fn times(path: impl AsRef<Path>) -> (i64, i64) {
    let shown = fs::metadata(path).unwrap();
    (shown.atime(), shown.mtime())
}

/// "atime is kept where a program sets it", as mtime is, on every way into a queue; and it stays with the message.
#[test]
fn times_that_programs_set_are_the_messages() {
    let mut m = Mount::new();
    let q = m.queue("q");
    let kept = m.queue_with("kept", &["names=keep"]);
    let program = "
import os, time
def at(path, a, m): os.utime(path, (a, m))
for queue in ('q', 'kept'):
    with open(f'{queue}/open', 'w') as f:
        f.write('x')
        f.flush()
        at(f.fileno(), 11, 12)
    open(f'{queue}/.d', 'w').close()
    at(f'{queue}/.d', 21, 22)
    os.rename(f'{queue}/.d', f'{queue}/draft')
    os.mkdir(f'{queue}/.mq/batch/b')
    open(f'{queue}/.mq/batch/b/batch', 'w').close()
    at(f'{queue}/.mq/batch/b/batch', 31, 32)
    os.rename(f'{queue}/.mq/batch/b', f'{queue}/b')
    open(f'{queue}/late', 'w').close()
    at(next(f'{queue}/{name}' for name in os.listdir(queue) if name.endswith('late')), 41, 42)
os.link('kept/draft', 'kept/linked')
";
    m.python(program).ok();
    let expected = |name: &str| match name {
        "open" => (11, 12),
        "draft" | "linked" => (21, 22),
        "batch" => (31, 32),
        _ => (41, 42),
    };
    m.kill9_and_remount();
    for (queue, count) in [(&q, 4), (&kept, 5)] {
        let all = listing(queue);
        assert_eq!(all.len(), count);
        for name in all {
            assert_eq!(times(queue.join(&name)), expected(name.get(17..).unwrap_or(&name)), "{name}");
        }
    }
    m.sh("mkdir r; mv q/*-open r/").ok();
    assert_eq!(times(only(m.path().join("r"))), (11, 12), "moved");
}

/// Either of the times is set without the other, as everywhere.
#[test]
fn each_time_is_set_without_the_other() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo x > q/a; touch -d @1000000000 q/0*").ok();
    let message = only(&q);
    m.sh("touch -c -a -d @1100000000 q/0*").ok();
    assert_eq!(times(&message), (1_100_000_000, 1_000_000_000));
    m.sh("touch -c -m -d @1200000000 q/0*").ok();
    assert_eq!(times(&message), (1_100_000_000, 1_200_000_000));
    // Where none was set, the time of access is that of the enqueue.
    m.sh("rm q/0*; exec 3> q/b; echo x >&3; touch -m -d @1000000000 /proc/self/fd/3; exec 3>&-").ok();
    let (accessed, modified) = times(only(&q));
    assert_eq!(modified, 1_000_000_000);
    assert!(accessed > 1_700_000_000, "{accessed}");
    m.sh("rm q/0*; echo x > q/c; touch -c -m -d @1000000000 q/0*").ok();
    let (accessed, modified) = times(only(&q));
    assert_eq!(modified, 1_000_000_000);
    assert!(accessed > 1_700_000_000, "{accessed}");
    m.sh("touch -d @1000000000 q; chmod 700 q; touch -a -d @1100000000 q").ok();
    assert_eq!(times(&q), (1_100_000_000, 1_000_000_000));
}

/// "`utimes` on a queue's directory takes effect", until the queue changes; and the time of access for good.
#[test]
fn the_times_of_a_queue_can_be_set() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.sh("touch -a -d @1000000000 q; touch -m -d @1100000000 q; chmod 750 q; chown 12:34 q; setfattr -n user.x -v 1 q")
        .ok();
    assert_eq!(times(&q), (1_000_000_000, 1_100_000_000));
    m.kill9_and_remount();
    assert_eq!(times(&q), (1_000_000_000, 1_100_000_000));
    m.sh("echo x > q/a").ok();
    let (accessed, modified) = times(&q);
    assert_eq!(accessed, 1_000_000_000);
    assert!(modified > 1_700_000_000, "{modified}");
    // Programs that copy directories set their times last, and look at them to see what changed.
    m.sh("mkdir $T/d; echo y > $T/d/y; touch -d @1200000000 $T/d; cp -a $T/d copied; rsync -a $T/d/ synced/").ok();
    for queue in ["copied", "synced"] {
        assert_eq!(fs::metadata(m.path().join(queue)).unwrap().mtime(), 1_200_000_000, "{queue}");
        assert_eq!(listing(m.path().join(queue)).len(), 1);
    }
    m.sh("touch q; test q -nt copied").ok();
}

/// The locks of Python's `dirq` are directories, which it touches to renew them, and breaks when they are old.
#[test]
fn locks_of_dirq_are_renewed() {
    let m = Mount::new();
    m.queue_with("q", &["names=keep", "claim=rename"]);
    let program = r#"
import os, time, warnings
from dirq.queue import Queue
queue = Queue('q', schema={'body': 'string'})
name = queue.add({'body': 'hello'})
assert queue.lock(name)
old = time.time() - 3600
os.utime(f'q/{name}', (old, old))
queue.touch(name)
queue.purge(maxlock=600)
assert os.path.isdir(f'q/{name}/locked'), 'a renewed lock is kept'
os.utime(f'q/{name}', (old, old))
queue.purge(maxlock=600)
assert not os.path.isdir(f'q/{name}/locked'), 'an old lock is broken'
assert queue.lock(name) and queue.get(name) == {'body': 'hello'}
queue.remove(name)
assert queue.count() == 0
"#;
    m.run(std::process::Command::new("/usr/bin/python3").arg("-c").arg(program)).succeeds();
}

/// Maildir readers remove what has not been read for 36 hours from `tmp`; what a program dates back is not old for that.
#[test]
fn a_maildir_is_cleaned_by_the_time_of_access() {
    let m = Mount::new();
    m.sh("mkdir mail && printf 'names = keep\nclaim = rename\n' > mail/.mq/config && mkdir mail/tmp mail/new mail/cur")
        .ok();
    let program = "
import mailbox, os, time
box = mailbox.Maildir('mail', create=False)
mail = mailbox.MaildirMessage('Subject: x\\n\\nbody\\n')
mail.set_date(1_000_000_000)
key = box.add(mail)
assert box.get_message(key).get_date() == 1_000_000_000
assert os.path.getatime('mail/new/' + os.listdir('mail/new')[0]) > time.time() - 3600
old, now = time.time() - 200_000, time.time()
for name, times in (('dated-back', (now, old)), ('left', (old, now))):
    open(f'mail/tmp/{name}', 'w').close()
    os.utime(f'mail/tmp/{name}', times)
box.clean()
assert os.listdir('mail/tmp') == ['dated-back'], os.listdir('mail/tmp')
";
    m.python(program).ok();
}
