//! The checker catches each violation, in a journal that was forged for it, and finds nothing in one that tells of a day with trouble
//! and no fault.

use super::checker::check;
use super::journal::{Event, parse};
use super::message::Message;
use super::systems::{Doubles, Lanes, Promises, WINDOW};

const STRICT: Promises = Promises {
    loses_nothing: true,
    doubles_out: Doubles::Window(&[]),
    doubles_in: Doubles::None,
    lanes: Lanes::One,
    order_in: true,
};

/// Lines such as `kept id=e1.p1.1 identity=x lane=0`, in the form of a journal.
fn forged(text: &str) -> Vec<Event> {
    let line = |text: &str| {
        let mut words = text.split_whitespace();
        let mut line = serde_json::json!({ "event": words.next()? });
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            line[key] = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        }
        Some(line.to_string())
    };
    parse(&text.lines().filter_map(line).collect::<Vec<_>>().join("\n"))
}

#[track_caller]
fn broken(promises: Promises, text: &str) -> Vec<String> {
    check(&forged(text), promises).iter().map(ToString::to_string).collect()
}

/// The good day of a message.
fn good(id: &str) -> String {
    format!("offered id={id}\nacknowledged id={id}\nkept id={id} identity={id} lane=0\narrived id={id}\n")
}

#[test]
fn nothing_is_found_where_every_promise_was_kept() {
    assert_eq!(broken(STRICT, &(good("e1.p1.1") + &good("e1.p1.2") + &good("e1.p2.1"))), [""; 0]);
    // Not acknowledged: there, or not.
    let maybe = "offered id=e1.p1.1\nrefused id=e1.p1.1 errno=107\n";
    assert_eq!(broken(STRICT, maybe), [""; 0]);
    assert_eq!(broken(STRICT, &format!("{maybe}kept id=e1.p1.1 identity=x lane=0\narrived id=e1.p1.1")), [""; 0]);
    // Sent again after a fault, from some place on.
    let again = "fault kind=cut side=out\nkept id=e1.p1.1 identity=e1.p1.1 lane=0";
    assert_eq!(broken(STRICT, &(good("e1.p1.1") + &good("e1.p1.2") + again)), [""; 0]);
}

#[test]
fn what_was_acknowledged_and_is_not_there_is_lost() {
    let text = "offered id=e1.p1.1\nacknowledged id=e1.p1.1\n";
    assert_eq!(broken(STRICT, text), ["lost: e1.p1.1"]);
    assert_eq!(broken(Promises { loses_nothing: false, ..STRICT }, text), [""; 0]);
    let other = good("e1.p1.2");
    assert_eq!(broken(STRICT, &(other + text)), ["lost: e1.p1.1", "not in the broker: e1.p1.1"]);
}

#[test]
fn what_is_there_again_is_counted() {
    let twice = good("e1.p1.1") + "arrived id=e1.p1.1";
    assert_eq!(broken(STRICT, &twice), ["doubled: 1 times, and 0 are allowed: e1.p1.1 x2"]);
    assert_eq!(broken(Promises { doubles_in: Doubles::Any, ..STRICT }, &twice), [""; 0]);
    let kept = good("e1.p1.1") + "kept id=e1.p1.1 identity=e1.p1.1 lane=0\n";
    let doubled = "doubled in the broker: 1 times, and 0 are allowed: e1.p1.1 x2";
    assert_eq!(broken(STRICT, &kept), [doubled]);
    assert_eq!(broken(STRICT, &format!("{kept}fault kind=cut side=in")), [doubled]);
    assert_eq!(broken(STRICT, &format!("{kept}fault kind=cut side=both")), [""; 0]);
    let killed = Promises { doubles_out: Doubles::Window(&["kill link"]), ..STRICT };
    assert_eq!(broken(killed, &format!("{kept}fault kind=cut side=out")), [doubled]);
    // Of a log each place comes once, and what is there twice comes twice.
    let log = Promises { doubles_in: Doubles::AsThere, ..STRICT };
    assert_eq!(
        broken(log, &format!("{twice}\nkept id=e1.p1.1 identity=e1.p1.1 lane=0\nfault kind=cut side=out")),
        [""; 0]
    );
    assert_eq!(broken(log, &twice), ["doubled: 1 times, and 0 are allowed: e1.p1.1 x2"]);
    let many: String = (0..=WINDOW).map(|_| "kept id=e1.p1.1 identity=e1.p1.1 lane=0\n").collect();
    let many = format!("{}{many}fault kind=cut side=out", good("e1.p1.1"));
    assert!(broken(STRICT, &many)[0].starts_with(&format!("doubled in the broker: {} times", WINDOW + 1)));
}

#[test]
fn what_is_not_as_it_was_is_damaged() {
    assert_eq!(broken(STRICT, "arrived id=e1.p1.1"), ["invented: e1.p1.1"]);
    let text = "offered id=e1.p1.1\narrived id=e1.p1.1 wrong=shorter";
    assert_eq!(broken(STRICT, text), ["damaged: e1.p1.1: shorter"]);
    let renamed = good("e1.p1.1") + "kept id=e1.p1.1 identity=other lane=0\nfault kind=cut side=out";
    assert_eq!(broken(STRICT, &renamed), [r#"renamed: e1.p1.1: {"e1.p1.1", "other"}"#]);
}

#[test]
fn first_comings_are_in_order() {
    let swapped = good("e1.p1.2") + &good("e1.p1.1");
    let found = ["out of order: e1.p1.1 after e1.p1.2", "out of order in the broker: e1.p1.1 after e1.p1.2"];
    assert_eq!(broken(STRICT, &swapped), found);
    let loose = Promises { order_in: false, ..STRICT };
    assert_eq!(broken(loose, &swapped), found, "nothing went wrong");
    assert_eq!(broken(loose, &format!("{swapped}fault kind=cut side=in")), found[1..]);
    // Of other producers, or in other partitions, they may be.
    assert_eq!(broken(STRICT, &(good("e1.p1.2") + &good("e1.p2.1"))), [""; 0]);
}

#[test]
fn what_a_killed_broker_kept_too_early_comes_again() {
    let kept = |id: &str| format!("kept id={id} identity={id} lane=0\n");
    let again = Promises { doubles_out: Doubles::Any, ..STRICT };
    let day = good("e1.p1.2") + &good("e1.p1.1");
    let killed = "fault kind=\"kill\\u0020broker\" side=out\n";
    let wrong = ["out of order in the broker: e1.p1.1 after e1.p1.2"];
    let loose = Promises { order_in: false, ..again };
    let disturbed = "fault kind=cut side=in\n";
    assert_eq!(broken(loose, &format!("{day}{disturbed}{killed}")), wrong, "it did not come again");
    let twice = format!("{day}{disturbed}{}", kept("e1.p1.2"));
    assert_eq!(broken(loose, &twice), wrong, "nobody was killed");
    assert_eq!(broken(loose, &format!("{twice}{killed}")), [""; 0]);
}

#[test]
fn what_has_no_group_is_in_order_with_nothing() {
    let group = |id: &str| Message::of(id).attribute("user.mq.group").map(<[u8]>::to_vec);
    let ids: Vec<String> = (1..100).map(|number| format!("e1.p1.{number}")).collect();
    let (first, second) = ids
        .iter()
        .flat_map(|first| ids.iter().map(move |second| (first, second)))
        .find(|(first, second)| first < second && group(first).is_some() && group(first) == group(second))
        .unwrap();
    let loose = ids.iter().find(|id| group(id).is_none() && *id != &ids[0]).unwrap();
    let groups = Promises { lanes: Lanes::Group, ..STRICT };
    let (low, high) = if number(first) < number(second) { (first, second) } else { (second, first) };
    assert_eq!(broken(groups, &(good(high) + &good(low))).len(), 2);
    assert_eq!(broken(groups, &(good(loose) + &good(&ids[0]))), [""; 0]);
}

fn number(id: &str) -> u64 {
    id.rsplit('.').next().unwrap().parse().unwrap()
}

#[test]
fn what_is_left_and_links_that_end_are_told() {
    assert_eq!(broken(STRICT, "left what=claimed"), ["left: claimed"]);
    assert_eq!(broken(STRICT, "ended link=out said=why"), ["ended: the link out by itself: why"]);
}
