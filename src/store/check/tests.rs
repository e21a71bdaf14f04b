use std::path::Path;

use super::*;
use crate::queue::mark::Says;
use crate::store::keys::{self, DeadlineKind};
use crate::store::record::{DraftBody, DraftRecord, InlineDraft};
use crate::store::sums::Sums;
use crate::store::tests::{checked, message, open as open_store, queue};
use crate::store::{DeadReason, NewBody, Of, Seen, Store, Taker};

/// A store with a message in each state.
fn filled(dir: &Path) -> (Store, u64, Vec<u64>) {
    let store = open_store(dir);
    let q = queue(&store, "q");
    let seqs = (0..9).map(|n| {
        let body = NewBody::Inline(b"body");
        store.enqueue(message(&store, q, &format!("m{n}")), body, false, 1000 + n).unwrap().seq().unwrap()
    });
    let seqs: Vec<u64> = seqs.collect();
    store.claim(q, seqs[0], Taker { worker: None, uid: 0 }, 2000).unwrap();
    store.dead_letter(q, seqs[1], (MessageState::Ready, Of::Any), DeadReason::Moved, 2000).unwrap();
    (store, q, seqs)
}

/// Breaks a store by `break_it`, which gives words that the check is to say; repaired, it is whole.
#[track_caller]
fn told_and_repaired(
    break_it: impl FnOnce(&Store, u64, &[u64], &mut super::super::db::Batch<'_>) -> &'static [&'static str],
) {
    let dir = tempfile::tempdir().unwrap();
    let (store, q, seqs) = filled(dir.path());
    let mut batch = store.db.batch();
    let words = break_it(&store, q, &seqs, &mut batch);
    store.db.write(batch).unwrap();
    store.close().unwrap();
    drop(store);
    let (lines, summary) = checked(dir.path(), false);
    let damaged: Vec<&String> = lines.iter().filter(|line| line.starts_with("damaged: ")).collect();
    assert_eq!(damaged.len(), words.len(), "{lines:#?}");
    assert_eq!((summary.damaged, summary.repaired), (words.len() as u64, 0));
    for (line, word) in damaged.iter().zip(words) {
        assert!(line.contains(word), "{word}: {lines:#?}");
    }
    let (lines, summary) = checked(dir.path(), true);
    assert_eq!((summary.damaged, summary.repaired), (words.len() as u64, words.len() as u64), "{lines:#?}");
    let (lines, summary) = checked(dir.path(), false);
    assert!(summary.damaged == 0 && lines.iter().all(|line| line.contains("has been set aside")), "{lines:#?}");
    drop(open_store(dir.path()));
}

#[test]
fn a_store_in_use_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _, _) = filled(dir.path());
    drop(store); // not closed
    let (lines, summary) = checked(dir.path(), false);
    assert_eq!((lines, summary.queues, summary.messages), (vec![], 1, 9));
}

#[test]
fn a_listing_that_misses_a_message_or_has_one_too_many() {
    told_and_repaired(|_, q, seqs, batch| {
        batch.delete(Family::Index, &keys::index(q, MessageState::Ready, seqs[4]));
        batch.put(Family::Index, &keys::index(q, MessageState::Dead, seqs[5]), b"m5");
        &["place in the queue is missing", "leads nowhere"]
    });
}

#[test]
fn deadlines() {
    told_and_repaired(|store, _, seqs, batch| {
        let at = store.message(seqs[0]).unwrap().claim.unwrap().deadline;
        batch.delete(Family::Deadlines, &keys::deadline(at, DeadlineKind::Lease, seqs[0]));
        batch.put(Family::Deadlines, &keys::deadline(77, DeadlineKind::TimeToLive, seqs[3]), b"");
        &["a deadline is missing", "a deadline of message"]
    });
}

#[test]
fn counters_and_numbers() {
    told_and_repaired(|store, q, _, batch| {
        let mut counters = store.queue(q).unwrap().counters;
        counters.ready += 5;
        counters.head = keys::LAST_POSITION;
        batch.put(Family::Meta, &keys::counters(q), &crate::store::record::encode(&counters));
        &["counters of queue q: 12 ready"]
    });
}

#[test]
fn records_that_cannot_be_read() {
    told_and_repaired(|_, q, seqs, batch| {
        batch.put(Family::Messages, &keys::message(seqs[6]), &[2, 1]);
        batch.put(Family::Meta, &keys::queue(q), &[9, 9]);
        &[
            "unknown version",
            "the record of queue q is missing",
            "message record",
            "leads nowhere",
            "counters of queue q",
        ]
    });
}

#[test]
fn a_queue_that_is_gone_with_its_messages_there() {
    told_and_repaired(|_, q, _, batch| {
        batch.delete(Family::Meta, &keys::queue(q));
        batch.delete(Family::Meta, &keys::child(crate::store::ROOT, q));
        &["entry of a queue q", "has no record, and messages", "in the listing", "the name of queue recovered-"]
    });
}

#[test]
fn a_small_body_that_is_gone() {
    told_and_repaired(|_, _, seqs, batch| {
        batch.delete(Family::Bodies, &keys::body(seqs[7]));
        &["m7: body"]
    });
}

/// Whatever is wrong with a record, those behind it are served; and they are told of, once.
#[test]
fn a_record_that_cannot_be_read_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (store, q, seqs) = filled(dir.path());
    let mut batch = store.db.batch();
    batch.put(Family::Messages, &keys::message(seqs[2]), &[2, 1]);
    batch.delete(Family::Messages, &keys::message(seqs[3]));
    store.db.write(batch).unwrap();
    for &seq in &seqs[4..9] {
        assert!(store.has_ready(q, 3000).unwrap());
        assert_eq!(store.claim_next(q, Taker { worker: None, uid: 0 }, 3000).unwrap().0, seq);
        store.oldest(q, MessageState::Ready).unwrap();
    }
    assert!(!store.has_ready(q, 3000).unwrap());
    let more = store.enqueue(message(&store, q, "more"), NewBody::Inline(b"x"), false, 3001).unwrap().seq().unwrap();
    assert_eq!(store.claim_next(q, Taker { worker: None, uid: 0 }, 3002).unwrap().0, more);
}

/// A message whose body is damaged is set aside where it can be found, though letters that died before it were purged.
#[test]
fn what_is_set_aside_is_not_taken_for_purged() {
    let dir = tempfile::tempdir().unwrap();
    let (store, q, _) = filled(dir.path());
    let id = store.next_id().unwrap();
    let body = vec![b'x'; 100_000];
    let file = store.bodies().create(id).unwrap();
    std::io::Write::write_all(&mut &file, &body).unwrap();
    let sums = Sums::of_file(&file, 100_000).unwrap();
    let mut new = message(&store, q, "large");
    new.id = id;
    let body = NewBody::File { id, size: 100_000, synced: true, sums: &sums };
    let large = store.enqueue(new, body, false, 1000).unwrap().seq().unwrap();
    let (purged, mut remains) = store.purge(q, &[MessageState::Dead], 2000).unwrap();
    assert_eq!(purged, 1);
    while remains.clear_some().unwrap() {}
    remains.finish().unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"y", 5000).unwrap();
    store.close().unwrap();
    drop(store);
    let (lines, summary) = checked(dir.path(), true);
    assert_eq!(summary.repaired, 1, "{lines:#?}");
    let store = open_store(dir.path());
    let found = store.message(large).unwrap();
    assert_eq!(found.state(), MessageState::Dead);
    store.ack(q, large, (&[MessageState::Dead], Of::Any), 3000).unwrap();
}

/// Has a store with a record that cannot be decoded and a body file that nobody owns repaired.
fn repair_odd(dir: &Path) -> Vec<String> {
    let store = open_store(dir);
    let mut batch = store.db.batch();
    for key in [&b"odd"[..], b"other"] {
        batch.put(Family::Messages, key, key);
    }
    store.db.write(batch).unwrap();
    std::fs::write(store.bodies.path(0xabcd), "nobody's").unwrap();
    store.close().unwrap();
    drop(store);
    checked(dir, true).0
}

/// What is set aside stays as it is, whatever else would have its name.
#[test]
fn what_is_set_aside_is_kept_under_a_name_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    for _ in 0..2 {
        let lines = repair_odd(dir.path());
        assert!(!lines.iter().any(|line| line.contains("not repaired")), "{lines:#?}");
    }
    let lost = dir.path().join("lost+found");
    let mut found: Vec<(String, String)> = std::fs::read_dir(lost)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).unwrap()))
        .collect();
    found.sort();
    let of = |name: &str, bytes: &str| (name.to_owned(), bytes.to_owned());
    let message = "message-0000000000000000";
    let expected = [
        of("body-000000000000abcd", "nobody's"),
        of("body-000000000000abcd.2", "nobody's"),
        of(message, "odd"),
        of(&format!("{message}.2"), "other"),
        of(&format!("{message}.3"), "odd"),
        of(&format!("{message}.4"), "other"),
    ];
    assert_eq!(found, expected);
}

/// Root may repair what belongs to somebody who would like to write elsewhere.
#[test]
fn a_repair_follows_no_links() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(out.path().join(to), dir.path().join(name)).unwrap();
    drop(filled(dir.path()));
    std::fs::write(out.path().join("precious"), "precious").unwrap();
    // The directory.
    link("", "lost+found");
    let lines = repair_odd(dir.path());
    assert!(lines.iter().any(|line| line.contains("not repaired") && line.contains("is no directory")), "{lines:#?}");
    // What is in it, and the format.
    std::fs::remove_file(dir.path().join("lost+found")).unwrap();
    std::fs::create_dir(dir.path().join("lost+found")).unwrap();
    link("precious", "lost+found/message-0000000000000000");
    link("precious", "format.new");
    let lines = checked(dir.path(), true).0;
    assert!(!lines.iter().any(|line| line.contains("not repaired")), "{lines:#?}");
    assert_eq!(std::fs::read(dir.path().join("lost+found/message-0000000000000000.2")).unwrap(), b"odd");
    assert!(dir.path().join("format").symlink_metadata().unwrap().is_file());
    // What is written in place.
    for name in ["synced", "lock"] {
        std::fs::remove_file(dir.path().join(name)).unwrap();
        link("precious", name);
        assert!(check(dir.path(), Trust::Own, true, &mut |_, _| ()).is_err(), "{name}");
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    assert_eq!(std::fs::read_to_string(out.path().join("precious")).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 1);
}

#[test]
fn a_mark_of_no_queue_is_kept() {
    told_and_repaired(|store, q, _, batch| {
        store.set_mark(q, (Says::Is, "right"), b"1", None).unwrap();
        batch.put(Family::Meta, &keys::mark(q, Says::Was, b"of a queue"), b"2");
        batch.put(Family::Meta, &keys::mark(77, Says::Is, b"lost"), b"3");
        &["the mark lost of queue number 77", "the mark of a queue of queue number"]
    });
}

/// The bytes of small drafts, one of which are others by now, and one of which are gone.
#[test]
fn drafts_in_the_database() {
    let make = |store: &Store, queue, name: &str| {
        let (body, attributes) = (DraftBody::Inline(InlineDraft::new(5)), Vec::new());
        let name = name.as_bytes().to_vec();
        let record = DraftRecord { queue, name, uid: 1, gid: 2, mode: 0o600, created: 5, due: 0, body, attributes };
        let id = store.make_draft(record, Seen::ALL).unwrap();
        store.put_draft(id, InlineDraft::new(5), Some(b"bytes")).unwrap();
        id
    };
    told_and_repaired(|store, q, _, batch| {
        make(store, q, ".whole");
        batch.put(Family::Bodies, &keys::draft_bytes(make(store, q, ".changed")), b"others");
        batch.delete(Family::Bodies, &keys::draft_bytes(make(store, q, ".gone")));
        &["draft .changed: body", "draft .gone: body"]
    });
}
