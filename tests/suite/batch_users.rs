//! Who may make, fill, see and enqueue a batch.

use crate::common::{listing, producers};
use crate::users::{ANN, BOB, DENIED, STAFF, ann, bob, chmod, mount};

/// To enqueue needs w and x on the queue, for a batch as well: with a drop box that is all that a producer has. The messages are
/// his, with his umask.
#[test]
fn a_producer_enqueues_a_batch_into_a_drop_box() {
    let (m, q) = mount(0o1733);
    let script =
        "umask 027; mkdir q/.mq/batch/b && echo 1 > q/.mq/batch/b/f && echo 2 > q/.mq/batch/b/g && mv q/.mq/batch/b q/";
    ann(&m, script).ok();
    assert_eq!(producers(&q), ["f", "g"]);
    assert_eq!(m.sh("stat -c '%u %g %a' q/*").ok(), format!("{ANN} {ANN} 640\n").repeat(2));
    ann(&m, "ls q/.mq/batch").fails(DENIED);
}

/// Who may not enqueue may not make a batch, nor enqueue that of somebody else.
#[test]
fn without_the_right_to_enqueue_there_are_no_batches() {
    let (m, q) = mount(0o755);
    ann(&m, "mkdir q/.mq/batch/b").fails(DENIED);
    m.sh("mkdir -m 777 q/.mq/batch/b; echo 1 > q/.mq/batch/b/f").ok();
    ann(&m, "cat q/.mq/batch/b/f; echo 2 > q/.mq/batch/b/g; ls q/.mq/batch/b").ok();
    ann(&m, "mv q/.mq/batch/b q/").fails(DENIED);
    chmod(&q, 0o000);
    ann(&m, "ls q/.mq/batch/b").fails(DENIED);
    chmod(&q, 0o755);
    assert_eq!((listing(&q), listing(q.join(".mq/batch/b")).len()), (vec![], 2));
}

/// "the batch directory belongs to who made it with his umask": others see and change what its mode says, and in a sticky queue
/// only its owner enqueues it.
#[test]
fn a_batch_belongs_to_who_made_it() {
    let (m, _) = mount(0o1777);
    ann(&m, "mkdir -m 700 q/.mq/batch/secret && echo 1 > q/.mq/batch/secret/f; mkdir -m 777 q/.mq/batch/open").ok();
    assert_eq!(m.sh("stat -c '%u %a' q/.mq/batch/*").ok(), format!("{ANN} 777\n{ANN} 700\n"));
    bob(&m, "ls q/.mq/batch/secret").fails(DENIED);
    bob(&m, "echo 2 > q/.mq/batch/secret/g").fails(DENIED);
    bob(&m, "mv q/.mq/batch/secret q/").fails("Operation not permitted");
    bob(&m, "rmdir q/.mq/batch/open").fails("Operation not permitted");
    bob(&m, "echo 3 > q/.mq/batch/open/h").ok();
    ann(&m, "chmod 755 q/.mq/batch/open; mv q/.mq/batch/open q/; mv q/.mq/batch/secret q/").ok();
    assert_eq!(m.sh("stat -c %u q/*").ok(), format!("{BOB}\n{ANN}\n"));
}

/// A set-group-id queue gives its group to its batches and what is in them.
#[test]
fn a_batch_has_the_group_of_a_set_group_id_queue() {
    let (m, _) = mount(0o2777);
    m.sh(&format!("chgrp {STAFF} q; chmod 2777 q")).ok();
    ann(&m, "mkdir q/.mq/batch/b; echo 1 > q/.mq/batch/b/f; mv q/.mq/batch/b q/").ok();
    assert_eq!(m.sh("stat -c '%u %g' q/*-f").ok(), format!("{ANN} {STAFF}\n"));
    assert_eq!(m.bodies("q"), ["1\n"]);
}
