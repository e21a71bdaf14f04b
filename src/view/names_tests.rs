use std::time::UNIX_EPOCH;

use super::super::{Kind, Node};
use super::*;

const P: u32 = 100;

fn names() -> BareNames {
    BareNames::new(Arc::default())
}

fn key(name: &[u8], session: u32) -> Key {
    Key { queue: 1, name: name.to_vec(), by: Writer { session, uid: 0 } }
}

fn shown() -> Attributes {
    Attributes {
        node: Node::ROOT,
        kind: Kind::File,
        size: 3,
        mode: 0o644,
        uid: 0,
        gid: 0,
        links: 1,
        accessed: UNIX_EPOCH,
        modified: UNIX_EPOCH,
        changed: UNIX_EPOCH,
    }
}

fn written(process: u32, seq: Option<u64>, left: Option<u64>) -> Written {
    Written { process, seq, left, shown: shown() }
}

fn set(names: &mut BareNames, key: Key, seq: u64) {
    names.set(key, written(P, Some(seq), None));
}

fn seq(names: &BareNames, key: &Key) -> Option<u64> {
    match names.get(key, || P)? {
        Meaning::Written { seq, .. } => seq,
        Meaning::Unfinished(_) => None,
    }
}

#[test]
fn each_writer_has_its_own_and_the_newest_counts() {
    let mut names = names();
    let other = Key { by: Writer { session: 10, uid: 9 }, ..key(b"a", 10) };
    set(&mut names, key(b"a", 10), 5);
    set(&mut names, key(b"a", 11), 6);
    set(&mut names, other.clone(), 8);
    set(&mut names, key(b"a", 10), 7);
    assert_eq!(seq(&names, &key(b"a", 10)), Some(7));
    assert_eq!(seq(&names, &key(b"a", 11)), Some(6));
    assert_eq!(seq(&names, &other), Some(8));
    assert_eq!(seq(&names, &Key { queue: 2, ..key(b"a", 10) }), None);
    assert_eq!(names.name_of(7), Some((1, b"a".to_vec())));
    names.forget_message(7);
    assert_eq!((seq(&names, &key(b"a", 10)), names.name_of(7)), (None, None));
    names.forget_message_of(Writer { session: 10, uid: 0 }, 8);
    assert_eq!(seq(&names, &other), Some(8), "of somebody else");
    names.forget_message_of(other.by, 8);
    names.forget_message(6);
    assert!(names.newest.is_empty() && names.written.is_empty() && names.of_message.is_empty());
}

/// Between a look at a name and its being forgotten, another thread may have given it another meaning.
#[test]
fn what_is_forgotten_is_what_was_looked_at() {
    let mut names = names();
    set(&mut names, key(b"a", 10), 5);
    let Some(Meaning::Written { age, .. }) = names.get(&key(b"a", 10), || P) else { panic!() };
    set(&mut names, key(b"a", 10), 6);
    assert_eq!(names.forget(age), None);
    assert_eq!(names.forget_message(5), None);
    assert_eq!(seq(&names, &key(b"a", 10)), Some(6));
}

#[test]
fn a_process_finds_its_own_first_and_then_the_newest() {
    let mut names = names();
    let a = key(b"a", 10);
    let get = |names: &BareNames, process| names.get(&a, || process);
    names.open(a.clone(), 1, 51);
    names.open(a.clone(), 2, 52);
    names.open(a.clone(), 2, 53);
    assert_eq!(get(&names, 1), Some(Meaning::Unfinished(51)));
    assert_eq!([get(&names, 2), get(&names, 3)], [Some(Meaning::Unfinished(53)); 2]);
    names.close(a.clone(), 51, shown());
    names.set(a.clone(), written(1, Some(7), None));
    assert!(matches!(get(&names, 1), Some(Meaning::Written { seq: Some(7), .. })));
    assert!(matches!(get(&names, 3), Some(Meaning::Written { seq: Some(7), .. })), "it came last");
    assert_eq!(get(&names, 2), Some(Meaning::Unfinished(53)));
    names.hide(&a, 53);
    assert_eq!(get(&names, 2), Some(Meaning::Unfinished(53)));
    names.forget_message(7);
    assert_eq!(get(&names, 3), Some(Meaning::Unfinished(52)));
    names.close(a.clone(), 52, shown());
    assert_eq!(get(&names, 3), None);
    names.close(a.clone(), 53, shown());
    assert!(names.unfinished.is_empty());
    let lately = names.shown_lately(Node::Unfinished(52)).unwrap();
    assert_eq!((lately.node, lately.size), (Node::Unfinished(52), 3));
    assert_eq!(names.named_lately(Node::Message(7, Via::Bare)), Some((1, b"a".to_vec())));
}

#[test]
fn what_has_left_is_seen_for_two_seconds() {
    let mut names = names();
    let a = key(b"a", 10);
    names.set(a.clone(), written(P, None, Some(1000)));
    let age = |names: &BareNames| match names.get(&a, || P) {
        Some(Meaning::Written { age, .. }) => age,
        other => panic!("{other:?}"),
    };
    assert_eq!(names.gone(age(&names), 2999).unwrap().size, 3);
    assert!(names.gone(age(&names), 3000).is_none());
    assert!(names.gone(age(&names), 999).is_none(), "the clock was set back");
    set(&mut names, a.clone(), 5);
    assert!(names.gone(age(&names), 1000).is_none(), "it is there");
}

#[test]
fn the_table_is_bounded() {
    let mut names = names();
    for n in 0..REMEMBERED as u64 + 10 {
        set(&mut names, key(format!("f{n}").as_bytes(), 1), n);
    }
    assert_eq!((names.written.len(), names.newest.len()), (REMEMBERED, REMEMBERED));
    assert_eq!(seq(&names, &key(b"f9", 1)), None);
    assert_eq!(seq(&names, &key(b"f10", 1)), Some(10));
    (0..1000).for_each(|id| names.open(key(b"x", 1), 1, id));
    assert_eq!(names.unfinished[&key(b"x", 1)].len(), AT_A_TIME);
    assert_eq!(names.get(&key(b"x", 1), || 1), Some(Meaning::Unfinished(999)));
    (0..REMEMBERED as u64).for_each(|id| names.close(key(b"x", 1), id, shown()));
    assert_eq!(names.lately.len(), LATELY);
}

/// Whatever one user writes, the names of another mean what they meant, in all tables.
#[test]
fn nobody_makes_the_names_of_others_forgotten() {
    let mut names = names();
    let by = |uid| Writer { session: 10, uid };
    let (anns, gone) = (Key { by: by(1), ..key(b"a", 10) }, Key { by: by(1), ..key(b"gone", 10) });
    set(&mut names, anns.clone(), 1_000_000);
    names.open(gone.clone(), P, 1_000_001);
    names.close(gone.clone(), 1_000_001, shown());
    names.send_back((1, 7), Some((1, b"a".to_vec())), 1000);
    for n in 0..2 * REMEMBERED as u64 {
        let bobs = Key { by: by(2), ..key(format!("f{n}").as_bytes(), 10) };
        names.open(bobs.clone(), P, n);
        names.close(bobs.clone(), n, shown());
        set(&mut names, bobs, n);
        names.send_back((2, 100 + n as u32), None, 1000);
    }
    assert_eq!((names.written.len(), names.lately.len(), names.sent_back.len()), (REMEMBERED, LATELY, SENT_BACK));
    assert_eq!(seq(&names, &anns), Some(1_000_000));
    assert_eq!(names.named_lately(Node::Unfinished(1_000_001)), Some((1, b"gone".to_vec())));
    assert!(names.is_sent_back(7, 1, b"a", 1000));
}

#[test]
fn a_thread_that_is_sent_back_finds_nothing_until_it_has_created() {
    let mut names = names();
    names.send_back((0, 5), Some((1, b"a".to_vec())), 1000);
    assert!(names.did_not_look(5, &(1, b"a".to_vec())) && !names.did_not_look(5, &(1, b"b".to_vec())));
    let is = |names: &mut BareNames, tid, name: &[u8], now| names.is_sent_back(tid, 1, name, now);
    let (last, over) = (1000 + SENT_BACK_MS - 1, 1000 + SENT_BACK_MS);
    assert!(is(&mut names, 5, b"a", last) && !is(&mut names, 6, b"a", last) && !is(&mut names, 5, b"b", last));
    assert!(!is(&mut names, 5, b"a", over) && !names.did_not_look(5, &(1, b"a".to_vec())));
    names.send_back((0, 6), None, 1000);
    assert!((0..SENT_BACK_LOOKUPS).all(|_| is(&mut names, 6, b"b", 1000)));
    assert!(!is(&mut names, 6, b"b", 1000), "it does not create it");
    names.send_back((0, 5), None, 1000);
    names.arrived(5);
    assert!(!is(&mut names, 5, b"a", 1000));
}
