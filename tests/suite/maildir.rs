//! Maildir over queues that keep names: delivery by `link` or `rename` from `tmp` to `new`, readers that rename to `cur` and
//! set flags in the name.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::common::*;

/// A Maildir whose three directories are queues.
fn maildir(m: &Mount) -> PathBuf {
    let script = "mkdir mail && echo 'names = keep
claim = rename' > mail/.mq/config && mkdir mail/tmp mail/new mail/cur";
    m.sh(script).ok();
    m.path().join("mail")
}

fn count(m: &Mount, queue: &str) -> usize {
    listing(m.path().join("mail").join(queue)).len()
}

/// "`mkdir` copies its parent queue's configuration."
#[test]
fn the_queues_of_a_maildir_are_made_like_their_parent() {
    let m = Mount::new();
    let mail = maildir(&m);
    for queue in ["tmp", "new", "cur"] {
        assert_eq!(xattr(mail.join(queue), "user.mq.names").as_deref(), Some("keep"));
        assert_eq!(xattr(mail.join(queue), "user.mq.claim").as_deref(), Some("rename"));
    }
}

/// Python's `mailbox.Maildir` delivers and reads, sets flags, moves and removes; a second one sees it all.
#[test]
fn python_mailbox_delivers_and_reads() {
    let m = Mount::new();
    maildir(&m);
    let program = r#"
import mailbox, os
box = mailbox.Maildir('mail', factory=None, create=False)
keys = [box.add(f'From: a@b\nSubject: {i}\n\nbody {i}\n') for i in range(20)]
assert len(box) == 20 and len(os.listdir('mail/new')) == 20 and not os.listdir('mail/tmp')
large = box.add('Subject: large\n\n' + 'x' * 200_000 + '\n')
assert len(box.get_string(large)) > 200_000

reader = mailbox.Maildir('mail', create=False)
assert sorted(message['Subject'] for message in reader) == sorted([str(i) for i in range(20)] + ['large'])
for key in keys[:10]:
    message = reader[key]
    message.set_subdir('cur')
    message.add_flag('S')
    reader[key] = message
assert len(os.listdir('mail/cur')) == 10 and len(os.listdir('mail/new')) == 11
assert all(name.endswith(':2,S') for name in os.listdir('mail/cur'))

box = mailbox.Maildir('mail', create=False)
for key in keys[:10]:
    message = box[key]
    assert message.get_subdir() == 'cur' and message.get_flags() == 'S', key
    message.add_flag('F')
    box[key] = message
assert all(name.endswith(':2,FS') for name in os.listdir('mail/cur'))
message = mailbox.MaildirMessage('Subject: dated\n\nbody\n')
message.set_date(981173106)
message.set_subdir('cur')
message.set_flags('R')
dated = box.add(message)
assert box[dated].get_date() == 981173106
for key in keys:
    box.remove(key)
box.discard(large)
box.discard(dated)
assert len(box) == 0 and not any(os.listdir(f'mail/{q}') for q in ('tmp', 'new', 'cur'))
"#;
    m.python(program).ok();
    for queue in ["tmp", "new", "cur"] {
        assert_eq!(m.stats(format!("mail/{queue}"))["claims_total"], 0, "reading a Maildir claims nothing");
    }
    m.sh("rmdir mail/tmp mail/new mail/cur && rmdir mail").ok();
}

/// Many deliverers and readers at once, each message read once by the reader that moves it to `cur`.
#[test]
fn deliverers_and_readers_at_once() {
    let m = Mount::new();
    maildir(&m);
    let deliver = "
import mailbox, sys
box = mailbox.Maildir('mail', create=False)
for i in range(25):
    box.add(f'Subject: NUMBER.{i}\\n\\nbody\\n')
";
    let read = "
import os
taken = 0
while os.path.exists('mail/new/more') or os.listdir('mail/new'):
    for name in os.listdir('mail/new'):
        if name == 'more': continue
        try:
            os.rename(f'mail/new/{name}', f'mail/cur/{name}:2,')
        except FileNotFoundError:
            continue
        taken += 1
print(taken)
";
    m.sh(": > mail/new/more").ok();
    let readers: Vec<_> = (0..2).map(|_| m.spawn_python(read)).collect();
    let deliverers: Vec<_> = (0..3).map(|n| m.spawn_python(&deliver.replace("NUMBER", &n.to_string()))).collect();
    for deliverer in deliverers {
        deliverer.finish().ok();
    }
    wait_until(|| count(&m, "cur") >= 2);
    m.sh("rm mail/new/more").ok();
    let taken: usize = readers.into_iter().map(|reader| reader.finish().ok().trim().parse::<usize>().unwrap()).sum();
    assert_eq!((taken, count(&m, "cur"), count(&m, "new"), count(&m, "tmp")), (75, 75, 0, 0));
}

/// Delivery by hand, as deliverers in C do it: write and sync in `tmp`, link to `new`, unlink from `tmp`; and by rename.
#[test]
fn delivery_by_link_and_by_rename() {
    let m = Mount::new();
    let mail = maildir(&m);
    let program = "
import os
for i in range(10):
    fd = os.open(f'mail/tmp/m{i}', os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    os.write(fd, f'mail {i}'.encode() * (1 if i % 2 else 20_000))
    os.fsync(fd)
    os.close(fd)
    if i < 5:
        os.link(f'mail/tmp/m{i}', f'mail/new/m{i}')
        os.unlink(f'mail/tmp/m{i}')
    else:
        os.rename(f'mail/tmp/m{i}', f'mail/new/m{i}')
";
    m.python(program).ok();
    assert_eq!(listing(mail.join("new")), (0..10).map(|i| format!("m{i}")).collect::<Vec<_>>());
    for i in 0..10 {
        let meta = fs::metadata(mail.join(format!("new/m{i}"))).unwrap();
        assert_eq!((meta.mode() & 0o777, meta.len()), (0o600, if i % 2 == 1 { 6 } else { 120_000 }));
    }
    assert_eq!(count(&m, "tmp"), 0);
}

/// Real delivery agents deliver: procmail (which runs with the group `mail` and so needs `allow_other`) and maildrop, small mail
/// and large, several at once.
#[test]
fn delivery_agents_deliver() {
    let m = Mount::with(&["-o", "allow_other"]);
    let mail = maildir(&m);
    let script = r#"
        printf 'to "%s"\n' "$M/mail" > $T/filter; chmod 600 $T/filter; export HOME=$T
        mail() { printf 'From: a@b\nSubject: %s\n\n' "$1"; head -c "$2" /dev/zero | tr '\0' x; }
        for i in 1 2 3 4 5; do
            mail "p$i" $((i * i * 6000)) | procmail -m DEFAULT="$M/mail/" LOGFILE=$T/log /dev/null || echo "procmail: $?" &
            mail "m$i" $((i * i * 6000)) | maildrop $T/filter || echo "maildrop: $?" &
        done
        wait
    "#;
    m.sh(script).ok();
    assert_eq!((count(&m, "new"), count(&m, "tmp")), (10, 0));
    let mut got: Vec<(String, usize)> = fs::read_dir(mail.join("new"))
        .unwrap()
        .map(|entry| {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            let subject = text.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap().to_owned();
            (subject, text.bytes().filter(|byte| *byte == b'x').count())
        })
        .collect();
    got.sort();
    let expected = ["m", "p"].iter().flat_map(|by| (1..=5).map(move |i| (format!("{by}{i}"), i * i * 6000)));
    assert_eq!(got, expected.collect::<Vec<_>>());
}

/// A mail reader's move keeps the time of delivery, as on other filesystems.
#[test]
fn a_move_keeps_the_time() {
    let m = Mount::new();
    let mail = maildir(&m);
    m.sh("echo a > mail/tmp/a; mv mail/tmp/a mail/new/a").ok();
    let before = fs::metadata(mail.join("new/a")).unwrap();
    m.sh("mv mail/new/a mail/cur/a:2,S; mv mail/cur/a:2,S mail/cur/a:2,RS").ok();
    let after = fs::metadata(mail.join("cur/a:2,RS")).unwrap();
    assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
}

/// Mail survives a crash right after its delivery.
#[test]
fn delivered_mail_survives_a_crash() {
    let mut m = Mount::new();
    maildir(&m);
    m.python("import mailbox\nbox = mailbox.Maildir('mail', create=False)\nfor i in range(5): box.add(f'Subject: {i}\\n\\n' + 'x' * i * 20000)").ok();
    m.kill9_and_remount();
    let program = "
import mailbox
box = mailbox.Maildir('mail', create=False)
assert sorted(message['Subject'] for message in box) == ['0', '1', '2', '3', '4']
assert sorted(len(message.get_payload()) for message in box) == [0, 20000, 40000, 60000, 80000]
";
    m.python(program).ok();
}
