//! The checker catches each violation, in a journal that was forged for it, and finds nothing in one that tells of a day with
//! trouble and no fault.

use super::checker::check;
use super::journal::{Line, parse};
use super::promises::QUEUES;

/// Lines such as `12 offered id=sync.p1.1 delay=5`, in the form of a journal.
fn forged(text: &str) -> Vec<Line> {
    let line = |text: &str| {
        let mut words = text.split_whitespace();
        let mut line =
            serde_json::json!({ "at": words.next()?.parse::<u64>().expect("a time"), "event": words.next()? });
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            line[key] = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        }
        Some(line.to_string())
    };
    parse(&text.lines().filter_map(line).collect::<Vec<_>>().join("\n"))
}

/// The rules that a forged journal breaks, each with what it is about.
#[track_caller]
fn broken(text: &str) -> Vec<String> {
    check(&forged(text), &QUEUES).iter().map(|violation| format!("{} {}", violation.rule, violation.what)).collect()
}

/// One message's good day, for the queue and the time that it begins.
const GOOD: &str = "
    10 offered id=sync.p1.1
    20 acknowledged id=sync.p1.1
    40 delivered id=sync.p1.1 queue=sync seq=7 deliveries=1 asked=30
    50 acking id=sync.p1.1
    60 acked id=sync.p1.1";

#[test]
fn nothing_is_found_where_every_promise_was_kept() {
    assert_eq!(broken(GOOD), [""; 0]);
    // Not acknowledged, and never seen; not acknowledged, and delivered twice; acknowledged by nobody knows whom.
    assert_eq!(broken("10 offered id=sync.p1.1\n 20 refused id=sync.p1.1 errno=107"), [""; 0]);
    let twice = "
        10 offered id=async.p1.1
        20 delivered id=async.p1.1 queue=async seq=3 deliveries=1 asked=15
        30 delivered id=async.p1.1 queue=async seq=3 deliveries=2 asked=25
        35 acking id=async.p1.1
        36 delivered id=async.p1.1 queue=async seq=3 deliveries=3 asked=34
        40 acked id=async.p1.1";
    assert_eq!(broken(twice), [""; 0]);
}

#[test]
fn an_acknowledged_message_that_is_gone_is_lost() {
    assert_eq!(broken("10 offered id=sync.p1.1\n 20 acknowledged id=sync.p1.1"), ["lost sync.p1.1"]);
    assert_eq!(broken("10 offered id=async.p1.1\n 20 acknowledged id=async.p1.1"), ["lost async.p1.1"]);
    let seen = "10 offered id=async.p1.1\n 20 delivered id=async.p1.1 queue=async asked=15";
    assert_eq!(broken(seen), ["lost async.p1.1"]);
}

#[test]
fn a_power_cut_may_take_what_was_not_synced_and_nothing_else() {
    let cut = "100 cut from=50";
    assert_eq!(broken(&format!("10 offered id=sync.p1.1\n 20 acknowledged id=sync.p1.1\n {cut}")), ["lost sync.p1.1"]);
    assert_eq!(broken(&format!("10 offered id=sync.p1.1\n 60 acknowledged id=sync.p1.1\n {cut}")), [""; 0], "too late");
    assert_eq!(broken(&format!("10 offered id=async.p1.1\n 20 acknowledged id=async.p1.1\n {cut}")), [""; 0]);
    let synced = "10 offered id=async.p1.1\n 20 acknowledged id=async.p1.1 synced=true";
    assert_eq!(broken(&format!("{synced}\n {cut}")), ["lost async.p1.1"]);
    assert_eq!(
        broken(&format!("{cut}\n 110 offered id=async.p1.1\n 120 acknowledged id=async.p1.1")),
        ["lost async.p1.1"]
    );
}

#[test]
fn what_nobody_offered_is_invented() {
    let seen = "40 delivered id=sync.p1.1 queue=sync asked=30\n 50 acking id=sync.p1.1";
    assert_eq!(broken(seen), ["invented sync.p1.1"]);
    assert_eq!(broken(&format!("{seen}\n 60 offered id=sync.p1.1")), ["invented sync.p1.1"]);
}

#[test]
fn every_claim_counts() {
    let claims = |first: u32, second: u32| {
        format!(
            "10 offered id=late.p1.1
            20 delivered id=late.p1.1 queue=late seq=3 deliveries={first} claimed=true asked=15
            40 delivered id=late.p1.1 queue=late seq=3 deliveries={second} claimed=true asked=30
            50 acking id=late.p1.1"
        )
    };
    assert_eq!(broken(&claims(1, 2)), [""; 0]);
    assert_eq!(broken(&claims(2, 2)), ["recounted late.p1.1"]);
    assert_eq!(broken(&claims(2, 1)), ["recounted late.p1.1"]);
    assert_eq!(broken(&format!("{}\n 28 cut from=24", claims(1, 1))), [""; 0], "the first claim was not durable");
    assert_eq!(broken(&format!("{}\n 29 redriving id=late.p1.1", claims(3, 1))), [""; 0]);
    assert_eq!(
        broken(&claims(1, 1).replacen("claimed=true", "", 1)),
        [""; 0],
        "who opens it is told of the time before"
    );
}

/// One that goes from left, where it is number 7, to right, where it is number 9.
const MOVED: &str = "
    10 offered id=left.p1.1
    20 acknowledged id=left.p1.1
    30 listed id=left.p1.1 queue=left seq=7 asked=25
    40 moving id=left.p1.1
    50 moved id=left.p1.1 seq=7 synced=false";

#[test]
fn a_moved_message_is_in_one_of_the_two_queues() {
    let there = "70 delivered id=left.p1.1 queue=right seq=9 deliveries=1 asked=60\n 75 acking id=left.p1.1";
    let here = "80 delivered id=left.p1.1 queue=left seq=7 deliveries=1 asked=78\n 85 acking id=left.p1.1";
    assert_eq!(broken(&format!("{MOVED}\n{there}\n 76 acked id=left.p1.1")), [""; 0]);
    assert_eq!(broken(MOVED), ["lost left.p1.1"]);
    assert_eq!(broken(&format!("{MOVED}\n{here}")), ["moved back left.p1.1"]);
    assert_eq!(broken(&format!("{MOVED}\n{there}\n{here}")), ["doubled left.p1.1", "moved back left.p1.1"]);
    let back = "76 moving id=left.p1.1\n 77 moved id=left.p1.1 seq=9 synced=false";
    let there = "70 listed id=left.p1.1 queue=right seq=9 asked=60";
    assert_eq!(
        broken(&format!("{MOVED}\n{there}\n{back}\n{}", here.replace("seq=7", "seq=11"))),
        [""; 0],
        "and back again"
    );

    // Nobody was told of the move: either will do, but not both.
    let untold = MOVED.replace("50 moved id=left.p1.1 seq=7 synced=false", "50 refused id=left.p1.1 errno=107");
    assert_eq!(broken(&format!("{untold}\n{here}")), [""; 0]);
    assert_eq!(broken(&format!("{untold}\n{there}\n 75 acking id=left.p1.1")), [""; 0]);
    assert_eq!(broken(&format!("{untold}\n{there}\n{here}")), ["doubled left.p1.1"]);
    assert_eq!(broken(&untold), ["lost left.p1.1"]);
}

#[test]
fn a_power_cut_may_take_back_a_move_that_was_not_synced() {
    let cut =
        "60 cut from=55\n 70 delivered id=left.p1.1 queue=left seq=7 deliveries=1 asked=65\n 75 acking id=left.p1.1";
    assert_eq!(broken(&format!("{MOVED}\n{cut}")), [""; 0]);
    assert_eq!(broken(&format!("{MOVED}\n 52 moved id=left.p1.1 seq=7 synced=true\n{cut}")), ["moved back left.p1.1"]);
    assert_eq!(broken(&format!("{MOVED}\n 60 cut from=55")), ["lost left.p1.1"]);
}

#[test]
fn a_message_that_is_given_up_is_a_dead_letter_and_nothing_else() {
    let given = "
        10 offered id=mortal.p1.1
        20 acknowledged id=mortal.p1.1
        30 delivered id=mortal.p1.1 queue=mortal seq=7 deliveries=1 asked=25
        40 delivered id=mortal.p1.1 queue=mortal seq=7 deliveries=2 asked=35";
    let letter = "60 delivered id=mortal.p1.1 queue=graves seq=9 deliveries=1 asked=50\n 65 acking id=mortal.p1.1";
    assert_eq!(broken(&format!("{given}\n{letter}")), [""; 0]);
    assert_eq!(broken(given), ["lost mortal.p1.1"]);
    let more = "45 delivered id=mortal.p1.1 queue=mortal seq=7 deliveries=3 asked=42";
    assert_eq!(broken(&format!("{given}\n{more}\n{letter}")), ["overdone mortal.p1.1"]);
    let again = "80 listed id=mortal.p1.1 queue=mortal seq=7 asked=70";
    assert_eq!(broken(&format!("{given}\n{letter}\n{again}")), ["doubled mortal.p1.1"]);
    assert_eq!(broken(&format!("{given}\n{letter}\n{}", again.replace("seq=7", "seq=11"))), ["doubled mortal.p1.1"]);
    let acked = "42 acking id=mortal.p1.1\n 45 acked id=mortal.p1.1";
    assert_eq!(broken(&format!("{given}\n{acked}\n{letter}")), ["came back mortal.p1.1"], "acknowledged as well");
    let kept = letter.replace("graves seq=9", "late seq=7 dead=true").replace("mortal", "late");
    let given = given.replace("mortal", "late");
    assert_eq!(broken(&format!("{given}\n{kept}")), [""; 0]);
    assert_eq!(broken(&given), ["lost late.p1.1"]);
}

#[test]
fn a_message_that_outlived_its_time_is_dead_or_dropped_and_no_other_is() {
    let message = |queue: &str, ttl: u64| {
        format!(
            "10 offered id={queue}.p1.1 ttl={ttl}\n 20 acknowledged id={queue}.p1.1\n 30 mounted from=25\n 9000 mounted from=8900"
        )
    };
    assert_eq!(broken(&message("fleeting", 5000)), [""; 0], "dropped");
    assert_eq!(broken(&message("fleeting", 9000)), ["lost fleeting.p1.1"], "too early");
    assert_eq!(broken(&message("fleeting", 0)), ["lost fleeting.p1.1"]);
    assert_eq!(broken(&message("brief", 5000)), ["lost brief.p1.1"], "not dropped here");
    let read = |asked: u64, dead: bool| {
        let text = "9000 delivered id=brief.p1.1 queue=brief seq=7 deliveries=1";
        format!("{}\n{text} asked={asked} dead={dead}\n 9001 acking id=brief.p1.1", message("brief", 5000))
    };
    assert_eq!(broken(&read(4000, false)), [""; 0]);
    assert_eq!(broken(&read(8000, true)), [""; 0]);
    assert_eq!(broken(&read(8000, false)), ["stale brief.p1.1"]);
    assert_eq!(broken(&format!("7000 redriving id=brief.p1.1\n{}", read(8000, false))), [""; 0]);
    assert_eq!(broken(&read(8000, false).replace("30 mounted", "7000 mounted")), [""; 0], "its time may begin then");
}

#[test]
fn a_purge_takes_what_was_there_and_nothing_else() {
    let message = |at: u64| format!("{at} offered id=cleared.p1.1\n {} acknowledged id=cleared.p1.1", at + 10);
    let purge = "50 purging id=cleared.p2.1 all=true\n 60 purged id=cleared.p2.1";
    assert_eq!(broken(&format!("{}\n{purge}", message(10))), [""; 0]);
    assert_eq!(broken(&format!("{}\n{purge}", message(55))), [""; 0], "meanwhile");
    assert_eq!(broken(&format!("{purge}\n{}", message(61))), ["lost cleared.p1.1"]);
    assert_eq!(broken(&format!("{}\n{purge}", message(10).replace("cleared", "sync"))), ["lost sync.p1.1"]);
    let untold = "50 purging id=cleared.p2.1 all=true\n 60 refused id=cleared.p2.1 errno=107\n 90 mounted from=80";
    assert_eq!(broken(&format!("{untold}\n{}", message(70))), [""; 0], "it may be late");
    assert_eq!(broken(&format!("{untold}\n{}", message(91))), ["lost cleared.p1.1"]);

    let seen = "80 delivered id=cleared.p1.1 queue=cleared seq=7 deliveries=1 asked=70\n 85 acking id=cleared.p1.1";
    assert_eq!(broken(&format!("{}\n{purge}\n{seen}", message(10))), ["came back cleared.p1.1"]);
    assert_eq!(broken(&format!("{}\n{purge}\n{seen}", message(45))), [""; 0]);
    let some = purge.replace("true", "false");
    assert_eq!(broken(&format!("{}\n{some}\n{seen}", message(10))), [""; 0], "it was in another state");
    let listed = "80 listed id=cleared.p1.1 queue=cleared seq=7 asked=70";
    assert_eq!(broken(&format!("{}\n{some}\n{listed}", message(10))), ["lost cleared.p1.1"], "after the purge");
    let cut = "65 cut from=62";
    assert_eq!(broken(&format!("{}\n{purge}\n{cut}\n{seen}", message(10))), ["came back cleared.p1.1"]);
    assert_eq!(broken(&format!("{}\n{purge}\n65 cut from=55\n{seen}", message(10))), [""; 0], "not told in time");
}

#[test]
fn a_message_of_another_queue_is_misplaced() {
    let text = "10 offered id=sync.p1.1\n 20 listed id=sync.p1.1 queue=async seq=1 asked=15\n 30 acking id=sync.p1.1";
    assert_eq!(broken(text), ["misplaced sync.p1.1"]);
}

#[test]
fn a_body_that_is_not_whole_is_broken_and_one_that_is_not_there_unreadable() {
    assert_eq!(broken("10 broken queue=sync name=0000000000000007-x why=cut"), ["broken sync/0000000000000007-x"]);
    let unreadable = "70 unreadable queue=sync name=x errno=5 asked=60";
    assert_eq!(broken(unreadable), ["unreadable sync/x"]);
    assert_eq!(broken(&format!("100 cut from=65\n{unreadable}")), [""; 0], "the disk was gone");
}

#[test]
fn an_acknowledged_message_that_is_there_again_came_back() {
    let again = "80 delivered id=sync.p1.1 queue=sync seq=7 deliveries=2 asked=70\n 90 acking id=sync.p1.1";
    assert_eq!(broken(&format!("{GOOD}\n{again}")), ["came back sync.p1.1"]);
    assert_eq!(broken(&format!("{GOOD}\n 80 listed id=sync.p1.1 queue=sync seq=7 asked=70")), ["came back sync.p1.1"]);
    // Asked for before the acknowledgement was answered: two workers at once, one of whom was late.
    assert_eq!(broken(&format!("{GOOD}\n 80 delivered id=sync.p1.1 queue=sync seq=7 asked=55")), [""; 0]);
    // The power was cut in between; but an fsync had been answered.
    assert_eq!(broken(&format!("{GOOD}\n 68 cut from=65\n{again}")), [""; 0]);
    let settled = format!("{GOOD}\n 62 settled id=sync.p1.1\n 68 cut from=65\n{again}");
    assert_eq!(broken(&settled), ["came back sync.p1.1"]);
}

#[test]
fn one_enqueue_that_makes_two_messages_is_doubled() {
    let text = "
        10 offered id=unique.p1.1
        12 refused id=unique.p1.1 errno=107
        15 offered id=unique.p1.1
        20 acknowledged id=unique.p1.1
        40 delivered id=unique.p1.1 queue=unique seq=7 asked=30
        45 acking id=unique.p1.1
        50 delivered id=unique.p1.1 queue=unique seq=8 asked=46";
    assert_eq!(broken(text), ["doubled unique.p1.1"]);
}

#[test]
fn numbers_that_do_not_grow_are_disordered() {
    let two = |first: u64, second: u64| {
        format!(
            "10 offered id=sync.p1.9\n 20 acknowledged id=sync.p1.9\n 30 offered id=sync.p1.10\n 40 acknowledged id=sync.p1.10
             50 delivered id=sync.p1.10 queue=sync seq={second} asked=45\n 51 acking id=sync.p1.10
             52 delivered id=sync.p1.9 queue=sync seq={first} asked=46\n 53 acking id=sync.p1.9"
        )
    };
    assert_eq!(broken(&two(1, 2)), [""; 0], "several workers");
    assert_eq!(broken(&two(2, 1)), ["disordered sync.p1.10"]);
}

#[test]
fn first_deliveries_out_of_order_to_one_worker_are_disordered() {
    let two = |queue: &str, priority: u8, deliveries: u32| {
        format!(
            "10 offered id={queue}.p1.1 priority=0\n 20 offered id={queue}.p1.2 priority={priority}
             50 delivered id={queue}.p1.2 queue={queue} deliveries=1 asked=45\n 51 acking id={queue}.p1.2
             60 delivered id={queue}.p1.1 queue={queue} deliveries={deliveries} asked=55\n 61 acking id={queue}.p1.1"
        )
    };
    assert_eq!(broken(&two("single", 0, 1)), ["disordered single.p1.2"]);
    assert_eq!(broken(&two("single", 0, 2)), [""; 0], "delivered before, to one who was killed");
    assert_eq!(broken(&two("priority", 0, 1)), ["disordered priority.p1.2"]);
    assert_eq!(broken(&two("priority", 1, 1)), [""; 0], "of a higher priority");
    assert_eq!(broken(&two("sync", 0, 1)), [""; 0], "there are several workers");
}

#[test]
fn a_delivery_before_it_is_due_is_early() {
    let at = |time: u64| {
        format!(
            "10 offered id=late.p1.1 delay=5000
             {time} delivered id=late.p1.1 queue=late deliveries=1 asked=11\n 9000 acking id=late.p1.1"
        )
    };
    assert_eq!(broken(&at(3000)), ["early late.p1.1"]);
    assert_eq!(broken(&at(5020)), [""; 0]);
}

#[test]
fn a_batch_of_which_some_are_enqueued_is_torn() {
    let offered = "
        10 offered id=batch.p1.1.000 batch=[\"batch.p1.1\",2]
        11 offered id=batch.p1.1.001 batch=[\"batch.p1.1\",2]";
    let first = "30 delivered id=batch.p1.1.000 queue=batch seq=4 asked=20\n 31 acking id=batch.p1.1.000";
    let second = "40 delivered id=batch.p1.1.001 queue=batch seq=5 asked=35\n 41 acking id=batch.p1.1.001";
    assert_eq!(broken(&format!("{offered}\n{first}\n{second}")), [""; 0]);
    assert_eq!(broken(&format!("{offered}\n{first}")), ["torn batch.p1.1"]);
    assert_eq!(broken(&format!("{offered}\n 60 waiting batch=batch.p1.1 files=2")), [""; 0], "not enqueued");
    assert_eq!(broken(&format!("{offered}\n 60 waiting batch=batch.p1.1 files=1")), ["torn batch.p1.1"]);
    assert_eq!(broken(offered), ["torn batch.p1.1"], "neither enqueued nor waiting");
    let both = format!("{offered}\n{first}\n{second}\n 60 waiting batch=batch.p1.1 files=2");
    assert_eq!(broken(&both), ["torn batch.p1.1"]);
    let swapped =
        format!("{offered}\n 20 acknowledged id=batch.p1.1.000\n 20 acknowledged id=batch.p1.1.001\n{first}\n{second}");
    assert_eq!(broken(&swapped.replace("seq=4", "seq=6")), ["disordered batch.p1.1.001"]);
}

#[test]
fn a_mark_without_its_batch_and_a_batch_without_its_mark_are_found() {
    let fed = |mark: u64| {
        format!(
            "10 offered id=fed.feed.7.000 batch=[\"fed.feed.7\",1]
             30 delivered id=fed.feed.7.000 queue=fed seq=4 asked=20\n 31 acking id=fed.feed.7.000
             40 offered id=fed.feed.8.000 batch=[\"fed.feed.8\",1]\n 60 waiting batch=fed.feed.8~p1-1 files=1
             70 marked queue=fed mark={mark}"
        )
    };
    assert_eq!(broken(&fed(7)), [""; 0]);
    assert_eq!(broken(&fed(8)), ["unmarked fed.feed.8.000"]);
    assert_eq!(broken(&fed(6)), ["unmarked fed.feed.7.000"]);
    // Batches of one number that others have left are nobody's fault, and the same number enqueued twice is somebody's.
    let left = "50 waiting batch=fed.feed.7~p2-1 files=1";
    assert_eq!(broken(&format!("{}\n{left}", fed(7))), [""; 0]);
    let twice = "50 delivered id=fed.feed.7.000 queue=fed seq=9 asked=45";
    assert!(broken(&format!("{}\n{twice}", fed(7))).contains(&"doubled fed.feed.7.000".to_owned()));
}

#[test]
fn a_claim_that_never_ends_is_held() {
    let held = "99 held queue=sync name=0000000000000007-sync.p1.1";
    assert_eq!(broken(&format!("{GOOD}\n{held}")), ["held sync/0000000000000007-sync.p1.1"]);
}

#[test]
fn counters_that_differ_are_miscounted() {
    assert_eq!(broken("1 counted queue=sync what=ready says=2 found=2"), [""; 0]);
    assert_eq!(broken("1 counted queue=sync what=ready says=2 found=1"), ["miscounted sync ready"]);
}

#[test]
fn what_is_left_in_the_emptied_store_is_left() {
    assert_eq!(broken("1 left what=bodies/01/0001"), ["left bodies/01/0001"]);
}

#[test]
fn errors_that_no_crash_explains_are_found() {
    assert_eq!(broken("10 offered id=sync.p1.1\n 11 refused id=sync.p1.1 errno=28"), ["refused sync.p1.1"]);
    assert_eq!(broken("11 complaint text=ERROR"), ["complaint mqfs"]);
}
