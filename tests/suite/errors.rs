//! The table of errors: which call is refused with which errno, and that a refusal changes nothing.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::common::*;
use crate::extra::*;

fn queue() -> (Mount, PathBuf) {
    let m = Mount::new();
    let q = m.queue("q");
    (m, q)
}

fn open(path: &Path, flags: i32) -> io::Result<File> {
    let access = flags & libc::O_ACCMODE;
    let mut options = OpenOptions::new();
    options.read(access != libc::O_WRONLY).write(access != libc::O_RDONLY).custom_flags(flags & !libc::O_ACCMODE);
    // O_CREAT and O_EXCL are the library's own.
    if flags & libc::O_CREAT != 0 {
        options.create_new(flags & libc::O_EXCL != 0).create(flags & libc::O_EXCL == 0);
    }
    options.open(path)
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn result(code: libc::c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn mknod(path: &Path, kind: libc::mode_t) -> io::Result<()> {
    // SAFETY: a valid string.
    result(unsafe { libc::mknod(c(path).as_ptr(), kind | 0o644, libc::makedev(1, 3)) })
}

/// "no such queue or message [...] | ENOENT"
#[test]
fn enoent() {
    let (m, q) = queue();
    let a = m.message(&q, "a", "body");
    for path in [
        "none",
        "none/x",
        "none/.mq",
        "none/.mq/config",
        "q/none",
        "q/.none",
        "q/0000000000009999-a",
        "q/0000000000009999",
    ] {
        let path = m.path().join(path);
        assert_eq!(errno(File::open(&path)), libc::ENOENT, "{}", path.display());
        assert_eq!(errno(fs::metadata(&path)), libc::ENOENT);
        assert_eq!(errno(fs::rename(&path, q.join("x"))), libc::ENOENT);
        assert_eq!(errno(fs::remove_file(&path)), libc::ENOENT);
        assert_eq!(errno(try_xattr(&path, "user.x")), libc::ENOENT);
    }
    for path in ["none", ".mq/none", ".mq/claimed/none", ".mq/dead/0000000000000001-a", ".mq/peek/x"] {
        assert_eq!(errno(File::open(q.join(path))), libc::ENOENT, "{path}");
    }
    let file = a.file_name().unwrap().to_str().unwrap();
    assert_eq!(errno(File::open(q.join(file.replace("-a", "-b")))), libc::ENOENT, "another name under the same number");
    assert_eq!(errno(fs::write(m.path().join("none/x"), "")), libc::ENOENT);
    assert_eq!(errno(fs::remove_dir(m.path().join("none"))), libc::ENOENT);
    fs::remove_file(&a).unwrap();
    assert_eq!(errno(File::open(&a)), libc::ENOENT);
    // "opening such a name with plain O_CREAT (as `touch` does) when its message is gone answers ENOENT"
    assert_eq!(errno(open(&a, libc::O_WRONLY | libc::O_CREAT)), libc::ENOENT);
    m.sh(&format!("touch '{}'", a.display())).fails("No such file or directory");
    assert_eq!(m.messages("q").len(), 0);
}

/// "lost the race for a claim | ENOENT"
#[test]
fn enoent_for_the_loser_of_a_claim() {
    let (m, q) = queue();
    let a = m.message(&q, "a", "body");
    let claimed = within(&q, "claimed", &a);
    fs::rename(&a, &claimed).unwrap();
    assert_eq!(errno(fs::rename(&a, &claimed)), libc::ENOENT);
    assert_eq!(errno(fs::rename(&a, within(&q, "dead", &a))), libc::ENOENT);
    assert_eq!(deliveries(&q, &a), 1);
    m.worker(&format!("mv '{}' q/.mq/claimed/", a.display())).fails("No such file or directory");
}

/// "claimed by somebody else | EBUSY"
#[test]
fn ebusy() {
    let (m, q) = queue();
    let a = m.message(&q, "a", "body");
    m.worker(&format!("cat '{}'; true", a.display())).ok();
    assert_eq!(errno(File::open(&a)), libc::EBUSY);
    assert_eq!(state(&q, &a).as_deref(), Some("claimed"));
}

/// "name taken (`names = keep`, mkdir, O_EXCL draft, rename onto a message in a `sequence` queue) | EEXIST"
#[test]
fn eexist() {
    let (m, q) = queue();
    let (a, b) = (m.message(&q, "a", "a"), m.message(&q, "b", "b"));
    fs::write(q.join(".d"), "draft").unwrap();
    m.queue("q/inner");
    assert_eq!(errno(fs::create_dir(&q)), libc::EEXIST);
    assert_eq!(errno(fs::create_dir(q.join("inner"))), libc::EEXIST);
    assert_eq!(errno(fs::create_dir(q.join(".d"))), libc::EEXIST);
    assert_eq!(errno(fs::create_dir(&a)), libc::EEXIST);
    assert_eq!(errno(open(&q.join(".d"), libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL)), libc::EEXIST);
    assert_eq!(errno(open(&a, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL)), libc::EEXIST);
    assert_eq!(errno(fs::rename(&a, &b)), libc::EEXIST);
    assert_eq!(errno(fs::rename(q.join(".d"), &b)), libc::EEXIST);
    assert_eq!(errno(fs::hard_link(q.join(".d"), &b)), libc::EEXIST);
    assert_eq!(m.bodies("q"), ["a", "b"]);
    assert_eq!(fs::read_to_string(q.join(".d")).unwrap(), "draft");
}

/// "rmdir of a queue that still holds anything | ENOTEMPTY"
#[test]
fn enotempty() {
    let (m, q) = queue();
    let a = transition(&q, "dead", &m.message(&q, "a", "a"));
    assert_eq!(errno(fs::remove_dir(&q)), libc::ENOTEMPTY);
    fs::remove_file(a).unwrap();
    fs::remove_dir(&q).unwrap();
}

/// "write to a committed message, file in the root, special files, foreign transition | EPERM"
#[test]
fn eperm() {
    let (m, q) = queue();
    let a = m.message(&q, "a", "body");
    let digits = q.join(&a.file_name().unwrap().to_str().unwrap()[..16]);
    for path in [&a, &digits] {
        for flags in [
            libc::O_WRONLY,
            libc::O_RDWR | libc::O_APPEND,
            libc::O_RDWR | libc::O_TRUNC,
            libc::O_WRONLY | libc::O_TRUNC,
        ] {
            assert_eq!(errno(open(path, flags)), libc::EPERM, "{} {flags:o}", path.display());
        }
        // SAFETY: a valid string.
        assert_eq!(errno(result(unsafe { libc::truncate(c(path).as_ptr(), 0) })), libc::EPERM);
    }
    m.sh(&format!("echo x >> '{}'", a.display())).fails("Operation not permitted");
    m.sh(&format!("echo x > '{}'", a.display())).fails("Operation not permitted");
    m.sh(&format!("truncate -s 0 '{}'", a.display())).fails("Operation not permitted");

    assert_eq!(errno(File::create(m.path().join("file"))), libc::EPERM);
    assert_eq!(errno(File::create(m.path().join(".draft"))), libc::EPERM);
    assert_eq!(errno(File::create(control(&q, "x"))), libc::EPERM);
    assert_eq!(errno(File::create(control(&q, "claimed/x"))), libc::EPERM);
    assert_eq!(errno(File::create(control(&q, "dead/x"))), libc::EPERM);
    assert_eq!(errno(File::create(control(&q, "peek/x"))), libc::EPERM);
    for kind in [libc::S_IFIFO, libc::S_IFCHR, libc::S_IFBLK, libc::S_IFSOCK] {
        for name in ["special", ".special"] {
            assert_eq!(errno(mknod(&q.join(name), kind)), libc::EPERM, "{kind:o} {name}");
        }
    }
    assert_eq!(errno(symlink("x", q.join("link"))), libc::EPERM);
    assert_eq!(errno(fs::hard_link(&a, q.join("link"))), libc::EPERM);
    assert_eq!(errno(fs::rename(&a, q.join("b"))), libc::EPERM);
    assert_eq!(errno(fs::remove_file(control(&q, "stats"))), libc::EPERM);
    assert_eq!(errno(fs::remove_file(control(&q, "config"))), libc::EPERM);
    assert_eq!(m.bodies("q"), ["body"]);
    assert_eq!(state(&q, &a).as_deref(), Some("ready"), "refused opens claim nothing");
    assert_eq!(deliveries(&q, &a), 0);
}

/// "not the owner, not a consumer | EACCES"
#[test]
fn eacces() {
    use std::os::unix::fs::PermissionsExt;
    let m = Mount::with(&["-o", "allow_other"]);
    let q = m.queue("q");
    fs::set_permissions(&q, fs::Permissions::from_mode(0o733)).unwrap();
    let call = |code: &str| {
        let program = format!("import os\ntry:\n  {code}\nexcept OSError as error: print(error.errno)\nelse: print(0)");
        fs::write(m.scratch().join("call"), program).unwrap();
        m.run_as(12345, 12345, "python3 $T/call").ok().trim().parse::<i32>().unwrap()
    };
    assert_eq!(call("os.close(os.open('q/a', os.O_CREAT | os.O_WRONLY))"), 0);
    let name = only_name(&q);
    assert_eq!(call(&format!("os.rename('q/{name}', 'q/.mq/claimed/{name}')")), libc::EACCES, "not a consumer");
    fs::set_permissions(&q, fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(call("os.setxattr('q', 'user.mq.max_deliveries', b'1')"), libc::EACCES, "not the owner");
    assert_eq!(call("os.open('q/.mq/config', os.O_WRONLY)"), libc::EACCES, "not the owner");
    assert_eq!(call("os.open('q/.mq/config', os.O_WRONLY | os.O_TRUNC)"), libc::EACCES, "not the owner");
    assert_eq!(state(&q, &q.join(name)).as_deref(), Some("ready"));
}

/// "bad config key or value [...] | EINVAL", at the write of the line.
#[test]
fn einval() {
    let (m, q) = queue();
    let before = fs::read_to_string(control(&q, "config")).unwrap();
    for bad in [
        "nonsense",
        "no_such_key=1",
        "visibility_timeout=",
        "visibility_timeout=0s",
        "max_deliveries=-1",
        "claim=maybe",
        "=1",
    ] {
        let mut file = OpenOptions::new().write(true).open(control(&q, "config")).unwrap();
        assert_eq!(errno(file.write_all(format!("{bad}\n").as_bytes())), libc::EINVAL, "{bad}");
        drop(file);
        assert_eq!(m.sh(&format!("echo '{bad}' > q/.mq/config")).code(), Some(1), "{bad}");
    }
    // A last line without its end is complete at the close.
    let close = "import os\nfd = os.open('q/.mq/config', os.O_WRONLY)\nos.write(fd, b'claim=maybe')\ntry: os.close(fd)\nexcept OSError as e: print(e.errno)";
    assert_eq!(m.python(close).ok(), format!("{}\n", libc::EINVAL));
    let now = fs::read_to_string(control(&q, "config")).unwrap();
    assert_eq!(
        now.lines().filter(|line| !line.starts_with("# rejected:")).collect::<Vec<_>>(),
        before.lines().collect::<Vec<_>>()
    );
    assert_eq!(errno(set_xattr(&q, "user.mq.claim", "maybe")), libc::EINVAL);
    fs::write(control(&q, "config"), "claim=rename\n").unwrap();
    assert!(
        !fs::read_to_string(control(&q, "config")).unwrap().contains("# rejected:"),
        "forgotten by the next good one"
    );
}

/// "name too long (238 bytes of the producer's [...]) | ENAMETOOLONG"
#[test]
fn enametoolong() {
    let (m, q) = queue();
    let fits = "n".repeat(238);
    let long = "n".repeat(239);
    fs::write(q.join(&fits), "body").unwrap();
    assert_eq!(only_name(&q).len(), 255);
    assert_eq!(errno(File::create(q.join(&long))), libc::ENAMETOOLONG);
    fs::write(q.join(".d"), "draft").unwrap();
    assert_eq!(errno(fs::rename(q.join(".d"), q.join(&long))), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::hard_link(q.join(".d"), q.join(&long))), libc::ENAMETOOLONG);
    fs::rename(q.join(".d"), q.join("m".repeat(238))).unwrap();
    // Bytes, not characters; and a name in sequence form counts without its prefix.
    assert_eq!(errno(File::create(q.join("ä".repeat(120)))), libc::ENAMETOOLONG);
    fs::write(q.join("ä".repeat(119)), "").unwrap();
    let other = m.queue("other");
    let listed = &listing(&q)[0];
    fs::rename(q.join(listed), other.join(listed)).unwrap();
    assert_eq!(m.bodies("other"), ["body"]);
    assert_eq!(errno(File::create(q.join("n".repeat(256)))), libc::ENAMETOOLONG);
    fs::create_dir(m.path().join("d".repeat(255))).unwrap();
    assert_eq!(errno(fs::create_dir(m.path().join("d".repeat(256)))), libc::ENAMETOOLONG);
}

/// "message too large | EFBIG", at the write that is too much; "Whole or not at all": nothing of it is enqueued.
#[test]
fn efbig() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_message_bytes=1000"]);
    fs::write(q.join("fits"), [b'x'; 1000]).unwrap();
    let mut file = File::create(q.join("large")).unwrap();
    file.write_all(&[b'x'; 900]).unwrap();
    assert_eq!(errno(file.write_all(&[b'x'; 101])), libc::EFBIG);
    drop(file);
    m.sh("head -c 5000 /dev/zero > q/large").fails("File too large");
    m.sh("cp /bin/bash q/large").fails("File too large");
    m.sh("truncate -s 2000 q/large").fails("File too large");
    assert_eq!(errno(fs::write(q.join(".draft"), [b'x'; 2000])), libc::EFBIG);
    let _ = fs::remove_file(q.join(".draft"));
    assert_listed(&q, &["fits"]);
    m.message(&q, "next", "goes on");
    assert_eq!(m.messages("q").len(), 2);

    // What is moved in from another queue is bound by the queue it comes to.
    let p = m.queue("p");
    let big = m.message(&p, "big", [b'x'; 3000]);
    assert_eq!(errno(fs::rename(&big, q.join("big"))), libc::EFBIG);
    assert_eq!(m.messages("p").len(), 1);
}

/// "rename out of the mount | EXDEV"
#[test]
fn exdev() {
    let (m, q) = queue();
    let a = m.message(&q, "a", "body");
    assert_eq!(errno(fs::rename(&a, m.scratch().join("a"))), libc::EXDEV);
    fs::write(m.scratch().join("in"), "x").unwrap();
    assert_eq!(errno(fs::rename(m.scratch().join("in"), q.join("in"))), libc::EXDEV);
    assert_eq!(errno(fs::hard_link(m.scratch().join("in"), q.join("in"))), libc::EXDEV);
    assert_eq!(state(&q, &a).as_deref(), Some("ready"));
    m.sh("mv $T/in q/in").ok();
    assert_listed(&q, &["a", "in"]);
}

/// An access control list with one named user, as setxattr(2) takes it: the kernel looks at it before mqfs does.
fn acl() -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(1u16, 6u16, u32::MAX), (2, 4, 1000), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 4, u32::MAX)]
    {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// "Never ENOSYS for one file's refusal: the kernel then stops sending that call for the whole mount."
#[test]
fn never_enosys() {
    let (m, q) = queue();
    let a = m.message(&q, "a", "body");
    fs::write(q.join(".d"), "draft").unwrap();
    let d = q.join(".d");
    let not_enosys = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            assert_ne!(error.raw_os_error(), Some(libc::ENOSYS), "{what}");
        }
    };
    let open_message = File::open(&a).unwrap();
    let open_draft = OpenOptions::new().read(true).write(true).open(&d).unwrap();
    for (path, file) in [(&a, &open_message), (&d, &open_draft), (&q, &File::open(&q).unwrap())] {
        let what = |call: &str| format!("{call} {}", path.display());
        let fd = file.as_raw_fd();
        for name in [
            "system.posix_acl_access",
            "system.posix_acl_default",
            "security.capability",
            "trusted.x",
            "user.mq.nonsense",
        ] {
            not_enosys(&what("setxattr"), set_xattr(path, name, "x"));
            not_enosys(&what("getxattr"), try_xattr(path, name).map(drop));
            not_enosys(&what("removexattr"), remove_xattr(path, name));
        }
        for name in ["system.posix_acl_access", "security.x", "trusted.x"] {
            assert_eq!(errno(set_xattr(path, name, acl())), libc::EOPNOTSUPP, "{name} {}", path.display());
        }
        // SAFETY: calls with a valid descriptor and valid strings; none of them writes to memory of this process.
        unsafe {
            not_enosys(&what("fallocate"), result(libc::fallocate(fd, 0, 0, 10)));
            not_enosys(&what("punch hole"), result(libc::fallocate(fd, libc::FALLOC_FL_PUNCH_HOLE | 1, 0, 10)));
            not_enosys(&what("flock"), result(libc::flock(fd, libc::LOCK_SH)));
            not_enosys(&what("fsync"), result(libc::fsync(fd)));
            not_enosys(&what("fdatasync"), result(libc::fdatasync(fd)));
            let sought = libc::lseek(fd, 0, libc::SEEK_DATA);
            not_enosys(&what("lseek"), result(if sought < 0 { -1 } else { 0 }));
            not_enosys(&what("ioctl"), result(libc::ioctl(fd, libc::TCGETS as _, std::ptr::null_mut::<u8>()).min(0)));
            not_enosys(&what("access"), result(libc::access(c(path).as_ptr(), libc::R_OK)));
        }
        not_enosys(&what("link"), fs::hard_link(path, q.join(".linked")));
    }
    not_enosys("mknod", mknod(&q.join("x"), libc::S_IFIFO));
    not_enosys("symlink", symlink("x", q.join("x")));
    not_enosys("readlink", fs::read_link(&a).map(drop));
    not_enosys("tmpfile", open(&q, libc::O_TMPFILE | libc::O_RDWR).map(drop));
    not_enosys("copy_file_range", io::copy(&mut &open_message, &mut &open_draft).map(drop));

    // And the calls still arrive where they are allowed.
    let _ = fs::remove_file(q.join(".linked"));
    set_xattr(&d, "user.note", "x").unwrap();
    assert_eq!(xattr(&d, "user.note").as_deref(), Some("x"));
    assert!(xattrs(&a).contains(&"user.mq.seq".to_owned()));
    remove_xattr(&d, "user.note").unwrap();
    open_draft.sync_all().unwrap();
    fs::hard_link(&d, q.join("linked")).unwrap();
    assert_eq!(m.messages("q").len(), 2);
}
