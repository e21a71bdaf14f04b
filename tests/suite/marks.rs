//! Marks: what a queue remembers for whoever feeds it, set in the step that enqueues a batch.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::*;
use crate::users::{DENIED, ann, chmod, mount};

/// What `mv` says of ESTALE.
const MOVED: &str = "Stale file handle";

/// Makes a batch of one file in a queue.
fn batch(queue: &Path, name: &str) -> PathBuf {
    let batch = queue.join(".mq/batch").join(name);
    fs::create_dir(&batch).unwrap();
    fs::write(batch.join(name), name).unwrap();
    batch
}

/// Enqueues a batch; the errno if that fails.
fn enqueue(batch: &Path, queue: &Path) -> Result<(), i32> {
    fs::rename(batch, queue.join("enqueued")).map_err(|error| error.raw_os_error().unwrap())
}

/// "An attribute `user.mark.NAME` set on a batch becomes the queue's in the step that enqueues the batch."
#[test]
fn a_mark_goes_to_the_queue_with_its_batch() {
    let mut m = Mount::new();
    let q = m.queue("q");
    let b = batch(&q, "one");
    set_xattr(&b, "user.mark.source", "4711").unwrap();
    set_xattr(&b, "user.mark-was.source", "").unwrap();
    assert_eq!(xattr(&b, "user.mark.source").as_deref(), Some("4711"));
    assert_eq!(xattrs(&b), ["user.mark.source", "user.mark-was.source"]);
    assert_eq!(xattr(&q, "user.mark.source"), None);
    assert_eq!(enqueue(&b, &q), Ok(()));
    assert_eq!((xattr(&q, "user.mark.source").as_deref(), m.bodies("q")), (Some("4711"), vec!["one".to_owned()]));
    assert_eq!(m.sh("getfattr -d -m user.mark q").ok(), "# file: q\nuser.mark.source=\"4711\"\n\n");
    // A batch without files has marks, too, and the end of mqfs changes nothing.
    m.kill9_and_remount();
    m.sh("mkdir q/.mq/batch/b && setfattr -n user.mark.source -v 4712 q/.mq/batch/b && mv q/.mq/batch/b q/").ok();
    m.remount();
    assert_eq!((xattr(&q, "user.mark.source").as_deref(), m.bodies("q").len()), (Some("4712"), 1));
    // A nested queue begins without, and a queue keeps its own under another name.
    m.sh("mkdir q/n; mv q r").ok();
    let listed = |queue: &str| m.sh(&format!("getfattr -d -m user.mark {queue}")).ok().to_owned();
    assert_eq!((listed("r/n").as_str(), listed("r").as_str()), ("", "# file: r\nuser.mark.source=\"4712\"\n\n"));
    // Programs see any bytes, up to the longest attribute there is.
    let r = m.path().join("r");
    let longest: Vec<u8> = (0..65_536_u32).map(|n| n as u8).collect();
    let b = batch(&r, "two");
    set_xattr(&b, "user.mark.source", &longest).unwrap();
    set_xattr(&b, "user.mark.other", &longest).unwrap();
    set_xattr(&b, "user.mark-was.source", "4712").unwrap();
    assert_eq!(enqueue(&b, &r), Ok(()));
    assert!(["source", "other"].iter().all(|name| try_xattr(&r, &format!("user.mark.{name}")).unwrap() == longest));
    let b = batch(&r, "three");
    set_xattr(&b, "user.mark-was.source", &longest).unwrap();
    set_xattr(&b, "user.mark.source", "1").unwrap();
    assert_eq!(enqueue(&b, &r), Ok(()));
}

/// "ESTALE, and nothing is enqueued, when the queue's mark is another (a link that was stopped must not move its mark back)."
#[test]
fn a_mark_that_was_moved_stops_the_batch() {
    let m = Mount::new();
    let q = m.queue("q");
    set_xattr(&q, "user.mark.a", "2").unwrap();
    for (was, name) in [("1", "a"), ("", "a"), ("1", "none")] {
        let b = batch(&q, "late");
        set_xattr(&b, "user.mark.a", "1").unwrap();
        set_xattr(&b, format!("user.mark-was.{name}").as_str(), was).unwrap();
        m.sh("mv q/.mq/batch/late q/").fails(MOVED);
        assert_eq!((xattr(&q, "user.mark.a").as_deref(), m.bodies("q").len()), (Some("2"), 0), "{was} {name}");
        assert_eq!((listing(&b), xattr(&b, "user.mark.a").as_deref()), (vec!["late".to_owned()], Some("1")));
        m.sh("rm -r q/.mq/batch/late").ok();
    }
    assert!(m.log().contains("a mark of the queue is not what user.mark-was says"));
    // It reads the mark, and goes on.
    let b = batch(&q, "again");
    set_xattr(&b, "user.mark-was.a", xattr(&q, "user.mark.a").unwrap()).unwrap();
    set_xattr(&b, "user.mark-was.none", "").unwrap();
    set_xattr(&b, "user.mark.a", "3").unwrap();
    assert_eq!(enqueue(&b, &q), Ok(()));
    assert_eq!((xattr(&q, "user.mark.a").as_deref(), m.bodies("q").len()), (Some("3"), 1));
}

/// Whatever else refuses the batch leaves the marks as they were; another queue's are those of the queue that it goes to.
#[test]
fn what_is_not_enqueued_moves_no_mark() {
    let m = Mount::new();
    let (q, other) = (m.queue_with("q", &["max_messages=1"]), m.queue("other"));
    m.put("q/full", "");
    let b = batch(&q, "b");
    set_xattr(&b, "user.mark.a", "1").unwrap();
    assert_eq!(enqueue(&b, &q), Err(libc::EDQUOT));
    m.set("q", "paused=in");
    assert_eq!(enqueue(&b, &q), Err(libc::EAGAIN));
    let open = fs::File::create(b.join("open")).unwrap();
    assert_eq!(enqueue(&b, &other), Err(libc::EBUSY));
    drop(open);
    wait_until(|| enqueue(&b, &other) == Ok(()));
    assert_eq!((xattr(&q, "user.mark.a"), xattr(&other, "user.mark.a").as_deref()), (None, Some("1")));
    assert_eq!(m.bodies("other").len(), 2);
}

/// "At most 64 names a queue"; of the rest of the attributes a batch has none.
#[test]
fn marks_are_bounded_and_nothing_else_is_set_on_a_batch() {
    let m = Mount::new();
    let q = m.queue("q");
    let b = batch(&q, "b");
    for n in 0..64 {
        set_xattr(&b, &format!("user.mark.{n}"), n.to_string()).unwrap();
        set_xattr(&b, &format!("user.mark-was.{n}"), "").unwrap();
    }
    for name in ["user.mark.more", "user.mark-was.more"] {
        assert_eq!(errno(set_xattr(&b, name, "")), libc::ENOSPC, "{name}");
    }
    set_xattr(&q, "user.mark.one", "").unwrap();
    assert_eq!(enqueue(&b, &q), Err(libc::ENOSPC));
    assert_eq!(xattr(&q, "user.mark.1"), None);
    remove_xattr(&b, "user.mark.1").unwrap();
    assert_eq!(errno(remove_xattr(&b, "user.mark.1")), libc::ENODATA);
    assert_eq!(enqueue(&b, &q), Ok(()));
    assert_eq!(xattrs(&q).iter().filter(|name| name.starts_with("user.mark.")).count(), 64);
    assert_eq!(errno(set_xattr(&q, "user.mark.more", "")), libc::ENOSPC);
    set_xattr(&q, "user.mark.2", "again").unwrap();
    remove_xattr(&q, "user.mark.one").unwrap();
    assert_eq!((xattr(&q, "user.mark.one"), xattr(&q, "user.mark.2").as_deref()), (None, Some("again")));
    let b = batch(&q, "c");
    for (name, value, refused) in [
        ("user.mark.", "1", libc::EINVAL),
        ("user.note", "1", libc::EPERM),
        ("user.mq.priority", "1", libc::EPERM),
        ("user.mq.settles", "1", libc::EINVAL),
        ("trusted.mark.a", "1", libc::EOPNOTSUPP),
    ] {
        assert_eq!(errno(set_xattr(&b, name, value)), refused, "{name}");
    }
    assert_eq!(errno(set_xattr(m.path(), "user.mark.a", "1")), libc::EPERM, "the root");
    m.sh("setfattr -n user.mark.a -v 1 q/.mq/batch/c; rm -r q/.mq/batch/c; mkdir q/.mq/batch/c").ok();
    assert_eq!(xattrs(&b), [""; 0], "another batch of that name");
}

/// "w sets, r reads", as with all attributes of a queue: in a sticky one its owner sets them.
#[test]
fn who_may_not_write_sets_no_mark_and_who_may_not_read_learns_none() {
    let (m, q) = mount(0o777);
    let take = |was: &str, is: &str| {
        let attributes = [("mark-was", was), ("mark", is)].map(|(kind, value)| match value {
            "-" => String::new(),
            value => format!("setfattr -n user.{kind}.a -v '{value}' q/.mq/batch/b;"),
        });
        let made = "rm -rf q/.mq/batch/b; mkdir q/.mq/batch/b; echo 1 > q/.mq/batch/b/f;";
        ann(&m, &format!("{made} {} mv q/.mq/batch/b q/", attributes.concat()))
    };
    take("", "1").ok();
    ann(&m, "getfattr --only-values -n user.mark.a q; setfattr -n user.mark.a -v 2 q").ok();
    take("2", "3").ok();
    chmod(&q, 0o733);
    take("3", "4").fails(DENIED);
    take("", "4").fails(DENIED);
    ann(&m, "getfattr --only-values -n user.mark.a q").fails(DENIED);
    take("-", "4").ok();
    chmod(&q, 0o1777);
    take("-", "5").fails(DENIED);
    take("4", "5").fails(DENIED);
    ann(&m, "setfattr -n user.mark.a -v 5 q").fails("Operation not permitted");
    take("4", "-").ok();
    take("-", "-").ok();
    assert_eq!(xattr(&q, "user.mark.a").as_deref(), Some("4"));
    chmod(&q, 0o755);
    ann(&m, "setfattr -n user.mark.a -v 5 q").fails(DENIED);
    ann(&m, "setfattr -x user.mark.a q").fails(DENIED);
}

/// Several at once who feed one queue: each batch is enqueued by the one whose mark is still right.
#[test]
fn of_several_who_feed_a_queue_each_position_has_one() {
    let m = Mount::new();
    let q = m.queue("q");
    std::thread::scope(|scope| {
        for feeder in 0..4 {
            let q = &q;
            scope.spawn(move || {
                loop {
                    let was = xattr(q, "user.mark.at").unwrap_or_default();
                    let next = was.parse().unwrap_or(0) + 1;
                    if next > 60 {
                        return;
                    }
                    let b = q.join(format!(".mq/batch/{feeder}"));
                    fs::create_dir(&b).unwrap();
                    fs::write(b.join(format!("{next}")), next.to_string()).unwrap();
                    set_xattr(&b, "user.mark-was.at", was).unwrap();
                    set_xattr(&b, "user.mark.at", next.to_string()).unwrap();
                    match enqueue(&b, q) {
                        Ok(()) => {}
                        Err(errno) => {
                            assert_eq!(errno, libc::ESTALE);
                            fs::remove_dir_all(&b).unwrap();
                        }
                    }
                }
            });
        }
    });
    assert_eq!(m.bodies("q"), (1..=60).map(|n| n.to_string()).collect::<Vec<_>>());
}
