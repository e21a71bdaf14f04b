//! `user.mq.properties`: all attributes of a message by one request, in the words of `.mq/with`; and nothing that cannot be done to
//! each by itself.

use std::fs;

use crate::common::*;
use crate::users::{ann, chmod, mount};

const ALL: &str = "user.mq.properties";

/// The words that one of the project's attributes, or a header, has.
fn words(text: &str) -> Vec<(String, String)> {
    text.split(',').map(|word| word.split_once('=').unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// What is read of a message at once is what is read one by one, in whatever state it is; and it is not listed, so that nothing is
/// copied twice.
#[test]
fn all_are_read_at_once() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo body > 'q/.mq/with/priority=7,id=a-1,content_type=text%2fcsv,header.colour=dark red/a,b.csv'").ok();
    let check = |path: &std::path::Path| {
        let all = words(&xattr(path, ALL).unwrap());
        let listed = xattrs(path);
        assert!(!listed.contains(&ALL.to_owned()), "{listed:?}");
        let named = |name: &str| match name {
            "user.mq.priority" | "user.mq.content_type" => name["user.mq.".len()..].to_owned(),
            "user.mq.dedup_id" => "id".to_owned(),
            own if own.starts_with("user.mq.") => own["user.".len()..].to_owned(),
            header => header.replacen("user.", "header.", 1),
        };
        let decoded =
            |value: &str| value.replace("%2F", "/").replace("%20", " ").replace("%2C", ",").replace("%3D", "=");
        let at_once: Vec<_> = all.iter().map(|(name, value)| (name.clone(), decoded(value))).collect();
        let each: Vec<_> = listed.iter().map(|name| (named(name), xattr(path, name).unwrap())).collect();
        assert_eq!(at_once, each);
        all
    };
    let ready = check(&only(&q));
    for (word, value) in [
        ("priority", "7"),
        ("id", "a-1"),
        ("content_type", "text%2Fcsv"),
        ("header.colour", "dark%20red"),
        ("mq.name", "a%2Cb.csv"),
        ("mq.state", "ready"),
    ] {
        assert!(ready.contains(&(word.to_owned(), value.to_owned())), "{word}: {ready:?}");
    }
    let delivery = m.sh("cat q/.mq/claim").succeeds().trim_end().to_owned();
    let claimed = check(&q.join(delivery));
    assert!(claimed.contains(&("mq.deliveries".to_owned(), "1".to_owned())), "{claimed:?}");
    assert_eq!(errno(try_xattr(&q, ALL)), libc::ENODATA);
}

/// What is set at once is what would be set one by one: all of it or nothing, and only where each could be set.
#[test]
fn all_are_set_at_once() {
    let m = Mount::new();
    let q = m.queue_with("q", &["priorities=10"]);
    m.sh("echo low > q/low; echo high > q/.d; setfattr -n user.old -v kept q/.d").ok();
    let draft = q.join(".d");
    assert_eq!(xattr(&draft, ALL).as_deref(), Some("header.old=kept"));
    let set = |words: &str| set_xattr(&draft, ALL, words);
    let too_many: Vec<String> = (0..257).map(|n| format!("header.h{n}=")).collect();
    for refused in [
        "header.colour=red,priority=10",
        "header.colour=red,mq.nonsense=1",
        "header.colour=red,nonsense=1",
        "header.colour=red,mq.properties=header.x%3D1",
        "header.colour=red,header.mq.priority=9",
        "header.colour=red,priority=1,mq.priority=2",
        "header.colour=red,mq.settles=elsewhere",
        "header.colour=red,",
        "",
        &too_many.join(","),
    ] {
        assert_eq!(errno(set(refused)), libc::EINVAL, "{refused}");
        assert_eq!(xattr(&draft, ALL).as_deref(), Some("header.old=kept"), "nothing of {refused}");
    }
    set("priority=9,header.colour=r%C3%B6t,mq.state=dead,mq.id=1,content_type=text/plain").unwrap();
    assert_eq!(xattr(&draft, "user.colour").as_deref(), Some("röt"));
    assert_eq!(xattrs(&draft), ["user.old", "user.mq.priority", "user.colour", "user.mq.content_type"]);
    let large = format!("header.large={}", "x".repeat(65_480));
    assert_eq!(errno(set(&large)), libc::ENOSPC, "all attributes together have at most 64 KiB");
    fs::rename(&draft, q.join("high")).unwrap();
    assert_eq!(listing(&q).len(), 2);
    let first = q.join(m.sh("cat q/.mq/claim").succeeds().trim_end());
    assert_eq!(fs::read(&first).unwrap(), b"high\n", "the queue heeds it");
    assert_eq!(xattr(&first, "user.mq.priority").as_deref(), Some("9"));
    assert_eq!(errno(set_xattr(&first, ALL, "header.colour=red")), libc::EPERM, "a message does not change");
    assert_eq!(errno(set_xattr(&q, ALL, "header.colour=red")), libc::EINVAL);
    // While it is written, too.
    m.python(
        "import os
f = os.open('q/new', os.O_CREAT | os.O_WRONLY)
os.setxattr(f, 'user.mq.properties', b'priority=3,header.a=b')
os.write(f, b'x')
assert os.getxattr(f, 'user.mq.properties') == b'priority=3,header.a=b'
try: os.setxattr(f, 'user.mq.properties', b'mq.settles=.mq/claimed/1')
except OSError as e: assert e.errno == 22, e
else: assert False
os.close(f)",
    )
    .ok();
    let new = names(&q).into_iter().find(|name| name.to_str().unwrap().ends_with("-new")).unwrap();
    assert_eq!(xattr(q.join(new), "user.a").as_deref(), Some("b"));
}

/// Who may not read or set one may not read or set all.
#[test]
fn rights_are_those_of_each() {
    let (m, q) = mount(0o733);
    chmod(m.path(), 0o755);
    m.sh("echo x > q/.d; setfattr -n user.secret -v s q/.d; chmod 600 q/.d").ok();
    for name in ["user.secret", ALL] {
        let get = format!("python3 -c \"import os; os.getxattr('q/.d', '{name}')\"");
        let set = format!("python3 -c \"import os; os.setxattr('q/.d', '{name}', b'header.a=b')\"");
        assert!(!ann(&m, &get).status.success(), "{name}");
        assert!(!ann(&m, &set).status.success(), "{name}");
        m.sh(&get).ok();
    }
    assert_eq!(xattrs(q.join(".d")), ["user.secret"]);
}
