//! What the store promises of batches.

use std::sync::atomic::{AtomicBool, Ordering};

use super::batches::{BATCH_FILES, BatchFile};
use super::record::{DraftBody, DraftRecord, InlineDraft};
use super::sums::Sums;
use super::{Entry, NewBody, NewQueue, Of, ROOT, Seen, Store};
use crate::error::Error;
use crate::queue::config::QueueConfig;
use crate::queue::state::State;

fn new(parent: u64, name: &[u8]) -> NewQueue<'_> {
    NewQueue { parent, name, uid: 0, gid: 0, mode: 0o755 }
}

fn draft(queue: u64, name: &[u8]) -> DraftRecord {
    let (name, attributes) = (name.to_vec(), Vec::new());
    DraftRecord {
        queue,
        name,
        uid: 1,
        gid: 2,
        mode: 0o600,
        created: 5,
        due: 0,
        body: DraftBody::Inline(InlineDraft::default()),
        attributes,
    }
}

fn store() -> (tempfile::TempDir, Store, u64, u64) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), QueueConfig::default()).unwrap();
    let queue = store.make_queue(new(ROOT, b"q")).unwrap();
    let batch = store.make_batch(new(queue, b"b")).unwrap();
    (dir, store, queue, batch)
}

/// The draft is an empty file from now on.
fn made_file(store: &Store, draft: u64) {
    drop(store.bodies().create(draft).unwrap());
    store.draft_to_file(draft, 0).unwrap();
}

fn file(draft: u64) -> BatchFile<'static> {
    BatchFile { draft, name: b"f", modified_ns: 0, accessed_ns: 0, body: NewBody::Inline(b"x") }
}

#[test]
fn what_is_not_the_whole_batch_is_not_enqueued() {
    let (_dir, store, queue, batch) = store();
    let first = store.make_draft(draft(batch, b"1"), Seen::ALL).unwrap();
    let second = store.make_draft(draft(batch, b"2"), Seen::ALL).unwrap();
    let other = store.make_draft(draft(queue, b".3"), Seen::ALL).unwrap();
    let publish = |files: &[u64]| {
        let files: Vec<_> = files.iter().map(|id| file(*id)).collect();
        store.publish_batch(batch, queue, &files, Default::default(), 9, |_| Ok(()))
    };
    let refused =
        store.publish_batch(batch, queue, &[file(first), file(second)], Default::default(), 9, |_| Err(Error::NoSpace));
    assert!(matches!(refused, Err(Error::NoSpace)));
    assert!(matches!(publish(&[first]), Err(Error::Busy)));
    assert!(matches!(publish(&[first, other]), Err(Error::Busy)));
    let counters = store.queue(queue).unwrap().counters;
    assert_eq!((counters.batches, counters.drafts, counters.ready, counters.enqueued_total), (1, 1, 0, 0));
    assert_eq!(store.batch_files(batch).unwrap(), [(first, b"1".to_vec()), (second, b"2".to_vec())]);
    made_file(&store, second);
    assert_eq!(publish(&[first, second]).unwrap(), [second], "its file is nobody's now");
    let counters = store.queue(queue).unwrap().counters;
    assert_eq!((counters.batches, counters.drafts, counters.ready, counters.enqueued_total), (0, 1, 2, 2));
    assert!(matches!(store.queue(batch), Err(Error::NotFound)));
    assert!(matches!(store.find_batch(queue, b"b"), Err(Error::NotFound)));
}

#[test]
fn a_batch_has_so_many_files_and_no_more() {
    let (_dir, store, queue, batch) = store();
    store.lock().queue(&store.db, batch).unwrap().counters.drafts = BATCH_FILES - 1;
    let last = store.make_draft(draft(batch, b"last"), Seen::ALL).unwrap();
    assert!(matches!(store.make_draft(draft(batch, b"more"), Seen::ALL), Err(Error::BatchFull)));
    let other = store.make_draft(draft(queue, b".other"), Seen::ALL).unwrap();
    assert!(matches!(
        store.rename_draft(other, (batch, b"other"), (Seen::ALL, false), 9, |_| Ok(())),
        Err(Error::BatchFull)
    ));
    store.remove_draft(last, 9).unwrap();
    store.rename_draft(other, (batch, b"other"), (Seen::ALL, false), 9, |_| Ok(())).unwrap();
}

#[test]
fn a_batch_is_not_among_the_queues() {
    let (_dir, store, queue, batch) = store();
    assert_eq!(store.all_queues().unwrap(), [ROOT, queue]);
    assert!(matches!(store.find_queue(queue, b"b"), Err(Error::NotFound)));
    assert!(matches!(store.make_batch(new(queue, b"b")), Err(Error::Exists)));
    assert!(matches!(store.remove_queue(ROOT, b"q"), Err(Error::NotEmpty)));
    store.rename_batch(batch, queue, b"c", true, 9).unwrap();
    store.remove_batch(queue, b"c").unwrap();
    store.remove_queue(ROOT, b"q").unwrap();
}

/// What is acknowledged while the sweep is under way comes back with a power cut, and has its body then, until the
/// acknowledgement is durable.
#[test]
fn the_sweep_takes_no_body_before_its_acknowledgement_is_durable() {
    let (dir, store, queue, batch) = store();
    let draft = store.make_draft(draft(batch, b"a"), Seen::ALL).unwrap();
    made_file(&store, draft);
    let (sums, path) = (Sums::default(), store.bodies().path(draft));
    let body = NewBody::File { id: draft, size: 0, synced: true, sums: &sums };
    store.publish_batch(batch, queue, &[BatchFile { body, ..file(draft) }], Default::default(), 9, |_| Ok(())).unwrap();
    store.close().unwrap();
    drop(store);
    let store = Store::open(&dir.path().join("store"), QueueConfig::default()).unwrap();
    // The thread that syncs is busy.
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    store.after_sync(Box::new(move |_| {
        let _ = wait.recv(); // until nobody can send any more
    }));
    let mut messages = Vec::new();
    let each = |entry: Entry<'_>| {
        messages.push(entry.id);
        true
    };
    store.list(queue, State::Ready, 0, each).unwrap();
    store.ack(queue, messages[0], (&[State::Ready], Of::Any), 9).unwrap();
    assert_eq!(store.sweep().unwrap(), 1);
    assert!(path.exists());
    drop(go_on);
    while path.exists() {
        std::thread::yield_now();
    }
}

/// What another run left is swept away while it is still used. The moment that matters is short: some of the rounds meet it.
#[test]
fn the_sweep_takes_no_file_that_becomes_a_message_meanwhile() {
    for _ in 0..8 {
        let (dir, store, queue, batch) = store();
        let make = |n: u32| store.make_draft(draft(batch, n.to_string().as_bytes()), Seen::ALL).unwrap();
        let drafts: Vec<u64> = (0..1000).map(make).collect();
        drafts.iter().for_each(|draft| made_file(&store, *draft));
        store.close().unwrap();
        drop(store);
        let store = Store::open(&dir.path().join("store"), QueueConfig::default()).unwrap();
        let (sums, done) = (Sums::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(store.sweep().unwrap(), 0);
                }
            });
            let body = |id| NewBody::File { id, size: 0, synced: true, sums: &sums };
            let files: Vec<BatchFile<'_>> =
                drafts.iter().map(|id| BatchFile { body: body(*id), ..file(*id) }).collect();
            store.publish_batch(batch, queue, &files, Default::default(), 9, |_| Ok(())).unwrap();
            done.store(true, Ordering::Relaxed);
        });
        assert!(drafts.iter().all(|id| store.bodies().path(*id).exists()));
    }
}

/// While all others wait nothing is looked up for each file, however many there are: what they are was read before.
#[test]
fn nobody_waits_while_the_files_of_a_batch_are_read() {
    let looked = |count: usize| {
        let (_dir, store, queue, batch) = store();
        let drafts: Vec<u64> =
            (0..count).map(|n| store.make_draft(draft(batch, format!("{n}").as_bytes()), Seen::ALL).unwrap()).collect();
        let files: Vec<_> = drafts.iter().map(|id| file(*id)).collect();
        let publish = || store.publish_batch(batch, queue, &files, Default::default(), 9, |_| Ok(()));
        let (looked, published) = super::db::looked::during(publish);
        published.unwrap();
        assert_eq!(store.queue(queue).unwrap().counters.ready, count as u64);
        looked
    };
    assert_eq!(looked(500), looked(5));
}

/// One that is charged to its owner just after it was read costs its owner as much as it has.
#[test]
fn a_file_that_changes_after_it_was_read_is_read_again() {
    let (dir, store, queue, batch) = store();
    let id = store.make_draft(draft(batch, b"1"), Seen::ALL).unwrap();
    store.charge_draft(id, 5000, false).unwrap();
    let other = store.make_draft(draft(queue, b".other"), Seen::ALL).unwrap();
    store.charge_draft(other, 10_000, false).unwrap();
    let charged = AtomicBool::new(false);
    let change = |_: &mut _| {
        // The second time, it is read under the lock.
        if !charged.swap(true, Ordering::SeqCst) {
            store.charge_draft(id, 1, false).unwrap();
        }
        Ok(())
    };
    store.publish_batch(batch, queue, &[file(id)], Default::default(), 9, change).unwrap();
    let owned = store.owned(1).unwrap();
    assert_eq!((owned.drafts, owned.bytes), (1, super::users::cost(1, &[]) + super::users::cost(10_000, &[])));
    drop(store);
    assert_eq!(super::tests::checked(&dir.path().join("store"), false).1.damaged, 0);
}
