//! What the store promises of marks, and of deliveries that are acknowledged along.

use super::batches::BatchFile;
use super::record::{DraftBody, DraftRecord, InlineDraft, NewMessage};
use super::tests::{NOBODY, message, open, queue};
use super::{Enqueued, MarkRights, NewBody, NewQueue, Of, Onto, Published, ROOT, Seen, Store};
use crate::error::{Error, Result};
use crate::queue::mark::{MARKS, SETTLES, Says, Settles};

const ALL: MarkRights = MarkRights { set: true, read: true };

fn store() -> (tempfile::TempDir, Store, u64) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let q = queue(&store, "q");
    (dir, store, q)
}

/// A batch of one file, with these attributes.
fn batch(store: &Store, queue: u64, is: &[(&str, &str)], was: &[(&str, &str)]) -> (u64, u64) {
    let new = NewQueue { parent: queue, name: b"b", uid: 0, gid: 0, mode: 0o755 };
    let batch = store.make_batch(new).unwrap();
    for (says, marks) in [(Says::Is, is), (Says::Was, was)] {
        for (name, value) in marks {
            store.set_mark(batch, (says, name), value.as_bytes(), None).unwrap();
        }
    }
    (batch, draft(store, batch, "f"))
}

fn draft(store: &Store, queue: u64, name: &str) -> u64 {
    let (name, attributes) = (name.as_bytes().to_vec(), vec![(SETTLES.to_owned(), b"x".to_vec())]);
    let record = DraftRecord {
        queue,
        name,
        uid: 1,
        gid: 2,
        mode: 0o600,
        created: 5,
        due: 0,
        body: DraftBody::Inline(InlineDraft::default()),
        attributes,
    };
    store.make_draft(record, Seen::ALL).unwrap()
}

fn publish(store: &Store, (batch, draft): (u64, u64), queue: u64, settles: &[Settles]) -> Result<Vec<u64>> {
    publish_by(store, (batch, draft), queue, (settles, ALL))
}

fn publish_by(
    store: &Store,
    (batch, draft): (u64, u64),
    queue: u64,
    along: (&[Settles], MarkRights),
) -> Result<Vec<u64>> {
    let body = NewBody::Inline(b"x");
    let file = BatchFile { draft, name: b"f", modified_ns: 0, accessed_ns: 0, body };
    store.publish_batch(batch, queue, &[file], along, 9, |_| Ok(()))
}

fn mark(store: &Store, queue: u64, name: &str) -> Option<String> {
    store.mark(queue, Says::Is, name).unwrap().map(|value| String::from_utf8(value).unwrap())
}

/// A message that is claimed, with a body of so many bytes.
fn claimed(store: &Store, queue: u64, size: usize) -> Settles {
    let new = message(store, queue, "claimed");
    let id = new.id;
    let bytes = vec![b'x'; size];
    let sums = (size > super::INLINE_MAX).then(|| {
        let mut file = store.bodies().create(id).unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        super::sums::Sums::of_file(&file, size as u64).unwrap()
    });
    let body = match &sums {
        Some(sums) => NewBody::File { id, size: size as u64, synced: true, sums },
        None => NewBody::Inline(&bytes),
    };
    let Enqueued::As(seq) = store.enqueue(new, body, false, 1).unwrap() else { panic!("a duplicate") };
    let record = store.claim(queue, seq, NOBODY, 2).unwrap();
    Settles { seq, delivery: record.claim.unwrap().delivery }
}

#[test]
fn a_mark_becomes_the_queues_with_the_batch_and_stays_with_it() {
    let (dir, store, q) = store();
    let first = batch(&store, q, &[("a", "1"), ("b", "x")], &[("a", "")]);
    publish(&store, first, q, &[]).unwrap();
    assert_eq!((mark(&store, q, "a"), mark(&store, q, "b")), (Some("1".into()), Some("x".into())));
    assert_eq!(store.mark_names(first.0, Says::Is).unwrap(), [""; 0], "nothing is left of the batch's");
    assert_eq!(store.mark_names(first.0, Says::Was).unwrap(), [""; 0]);
    let second = batch(&store, q, &[("a", "2")], &[("a", "1"), ("none", "")]);
    publish(&store, second, q, &[]).unwrap();
    drop(store);
    let store = open(dir.path());
    store.rename_queue((ROOT, b"q"), (ROOT, b"r"), false).unwrap();
    assert_eq!((mark(&store, q, "a"), mark(&store, q, "b")), (Some("2".into()), Some("x".into())));
    let nested = NewQueue { parent: q, name: b"n", uid: 0, gid: 0, mode: 0o755 };
    let nested = store.make_queue(nested).unwrap();
    assert_eq!(store.mark_names(nested, Says::Is).unwrap(), [""; 0]);
}

#[test]
fn a_mark_that_others_have_moved_stops_the_batch() {
    let (_dir, store, q) = store();
    store.set_mark(q, (Says::Is, "a"), b"5", None).unwrap();
    for was in ["", "4", "55"] {
        let late = batch(&store, q, &[("a", "6"), ("b", "1")], &[("a", was)]);
        assert!(matches!(publish(&store, late, q, &[]), Err(Error::MarkMoved)), "{was}");
        assert_eq!((mark(&store, q, "a"), mark(&store, q, "b")), (Some("5".into()), None));
        assert_eq!(store.queue(q).unwrap().counters.ready, 0);
        assert_eq!(store.mark(late.0, Says::Is, "a").unwrap().unwrap(), b"6", "the batch stays as it is");
        store.drop_batch(late.0, 9).unwrap();
        assert_eq!(store.mark_names(late.0, Says::Is).unwrap(), [""; 0]);
    }
    let without = batch(&store, q, &[("a", "7")], &[]);
    publish(&store, without, q, &[]).unwrap();
    assert_eq!(mark(&store, q, "a"), Some("7".into()));
}

#[test]
fn rights_are_asked_for_where_they_matter() {
    let (_dir, store, q) = store();
    let (set, read) = (MarkRights { set: true, read: false }, MarkRights { set: false, read: true });
    let both = batch(&store, q, &[("a", "1")], &[("a", "")]);
    assert!(matches!(publish_by(&store, both, q, (&[], set)), Err(Error::AccessDenied)));
    assert!(matches!(publish_by(&store, both, q, (&[], read)), Err(Error::AccessDenied)));
    assert_eq!(mark(&store, q, "a"), None);
    store.drop_batch(both.0, 9).unwrap();
    publish_by(&store, batch(&store, q, &[("a", "1")], &[]), q, (&[], set)).unwrap();
    publish_by(&store, batch(&store, q, &[], &[("a", "1")]), q, (&[], read)).unwrap();
    publish_by(&store, batch(&store, q, &[], &[]), q, Default::default()).unwrap();
}

#[test]
fn a_queue_has_so_many_marks_and_a_removed_one_none() {
    let (_dir, store, q) = store();
    let name = |n: usize| format!("m{n}");
    for n in 0..MARKS {
        store.set_mark(q, (Says::Is, &name(n)), b"", Some(false)).unwrap();
    }
    assert!(matches!(store.set_mark(q, (Says::Is, "more"), b"", None), Err(Error::NoSpace)));
    store.set_mark(q, (Says::Is, "m1"), b"1", Some(true)).unwrap();
    assert!(matches!(store.set_mark(q, (Says::Is, "m1"), b"", Some(false)), Err(Error::Exists)));
    assert!(matches!(store.set_mark(q, (Says::Is, "more"), b"", Some(true)), Err(Error::NoAttribute)));
    let more = batch(&store, q, &[("more", "1"), ("m2", "2")], &[]);
    assert!(matches!(publish(&store, more, q, &[]), Err(Error::NoSpace)));
    assert_eq!(mark(&store, q, "m2"), Some(String::new()));
    store.remove_mark(q, Says::Is, "m0").unwrap();
    assert!(matches!(store.remove_mark(q, Says::Is, "m0"), Err(Error::NoAttribute)));
    publish(&store, more, q, &[]).unwrap();
    assert_eq!(store.mark_names(q, Says::Is).unwrap().len(), MARKS);
    let empty = queue(&store, "empty");
    store.set_mark(empty, (Says::Is, "a"), b"1", None).unwrap();
    store.remove_queue(ROOT, b"empty").unwrap();
    assert_eq!(mark(&store, empty, "a"), None);
    assert!(matches!(store.set_mark(empty, (Says::Is, "a"), b"1", None), Err(Error::NotFound)));
}

#[test]
fn a_delivery_is_acknowledged_with_the_batch_or_nothing_is_done() {
    let (_dir, store, q) = store();
    let other = queue(&store, "other");
    for size in [3, 100_000] {
        let (held, lost) = (claimed(&store, other, size), claimed(&store, other, size));
        store.nack(other, lost.seq, Of::Any, false, 3).unwrap();
        let before = (store.queue(q).unwrap().counters, store.queue(other).unwrap().counters);
        let late = batch(&store, q, &[("a", "1")], &[]);
        assert!(matches!(publish(&store, late, q, &[held, lost]), Err(Error::NotFound)));
        store.drop_batch(late.0, 9).unwrap();
        let after = (store.queue(q).unwrap().counters, store.queue(other).unwrap().counters);
        assert_eq!((after.0.ready, after.0.enqueued_total), (before.0.ready, before.0.enqueued_total));
        assert_eq!((after.1, mark(&store, q, "a")), (before.1, None));
        // Named twice, it is one.
        publish(&store, batch(&store, q, &[], &[]), q, &[held, held]).unwrap();
        let counters = store.queue(other).unwrap().counters;
        assert_eq!((counters.claimed, counters.acked_total), (before.1.claimed - 1, before.1.acked_total + 1));
        assert!(matches!(store.message(held.seq), Err(Error::NotFound)));
        assert!(matches!(store.check_lasts(held), Err(Error::NotFound)));
        store.ack(other, lost.seq, (&crate::queue::state::State::ALL, Of::Any), 9).unwrap();
    }
    store
        .list(q, crate::queue::state::State::Ready, 0, |entry| {
            assert_eq!(store.message(entry.id).unwrap().attributes, [], "it is not passed on");
            true
        })
        .unwrap();
    let files = || std::fs::read_dir(store.bodies().path(0).parent().unwrap()).unwrap().count();
    store.sync_soon();
    while files() > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn a_draft_acknowledges_with_its_message_or_as_a_duplicate() {
    let (_dir, store, q) = store();
    store
        .alter_queue(q, |record| {
            record.config = "dedup_window = 1h".into();
            Ok(())
        })
        .unwrap();
    let publish = |settles| {
        let draft = draft(&store, q, ".d");
        let attributes = vec![("user.mq.dedup_id".into(), b"1".to_vec())];
        let new = NewMessage { attributes, ..message(&store, q, "d") };
        let how = (Published::Gone, Onto::Nothing, Some(settles));
        let published = store.publish(draft, new, NewBody::Inline(b"x"), how, 9);
        if published.is_err() {
            store.remove_draft(draft, 9).unwrap();
        }
        published
    };
    let (first, second) = (claimed(&store, q, 3), claimed(&store, q, 3));
    assert!(matches!(publish(first), Ok(Enqueued::As(_))));
    assert!(matches!(publish(first), Err(Error::NotFound)));
    assert!(matches!(publish(second), Ok(Enqueued::Duplicate)));
    let counters = store.queue(q).unwrap().counters;
    assert_eq!((counters.ready, counters.claimed, counters.acked_total, counters.duplicates_total), (1, 0, 2, 1));
}
