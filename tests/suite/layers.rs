//! `scripts/check-layers` notices what it is there to notice.

use std::fs;
use std::path::Path;
use std::process::Command;

fn findings(file: &str, code: &str) -> String {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, code).unwrap();
    check(root.path())
}

fn check(root: &Path) -> String {
    let ran = Command::new("scripts/check-layers").arg(root).output().unwrap();
    let text = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
    assert_eq!(ran.status.success(), text.is_empty(), "{text}");
    text
}

#[test]
fn imports_from_above_are_found() {
    for (file, code) in [
        ("src/queue/a.rs", "use crate::store::Store;"),
        ("src/queue/a.rs", "use crate::{\n    error::Error,\n    view::View,\n};"),
        ("src/store/mod.rs", "fn f() { crate::fuse::mount::detach(); }"),
        ("src/view/mod.rs", "use super::fuse::spin;"),
        ("src/error.rs", "use crate::queue::state::State;"),
        ("src/clock.rs", "use crate::error::Error;"),
        ("src/view/a.rs", "use rocksdb::DB;"),
        ("src/view/a.rs", "fn f(reply: fuser::ReplyEmpty) {}"),
        ("src/fuse/a.rs", "fn f() -> rocksdb::Error {}"),
        ("tests/a.rs", "use rocksdb::DB;"),
        ("src/view/a.rs", "fn f() { std::thread::Builder::new(); }"),
        ("src/store/b/a.rs", "fn f() { thread::spawn(f); }"),
        ("src/link/a.rs", "use crate::store::Store;"),
        ("src/link/a.rs", "use crate::fuse::mountinfo;"),
        ("src/view/a.rs", "use crate::link::settings::Settings;"),
        ("src/commands/a.rs", "fn f() { tokio::spawn(f); }"),
    ] {
        assert!(findings(file, code).contains(file), "not found: {file}: {code}");
    }
}

#[test]
fn imports_from_below_and_comments_are_fine() {
    for (file, code) in [
        ("src/view/a.rs", "use crate::{error::Error, queue::{state, config}};\nuse super::queue::Queue;"),
        ("src/fuse/a.rs", "use fuser::Filesystem; use crate::view::View;"),
        ("src/store/a.rs", "use rocksdb::DB; // crate::view is above"),
        ("src/queue/a.rs", "//! As [`crate::view`] and rocksdb::DB have it.\nuse super::config;"),
        ("src/main.rs", "use crate::commands; use crate::error;"),
        ("tests/a.rs", "use mqfs::view::View;"),
        ("src/link/a.rs", "use lapin::Channel; use crate::{clock, queue::duration};"),
        ("src/commands/a.rs", "use crate::link::run::Link;"),
        ("src/view/a.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() { std::thread::spawn(f); }\n}"),
    ] {
        assert_eq!(findings(file, code), "", "{file}: {code}");
    }
}
