//! `mqfs link` to and from RabbitMQ by its plugin for STOMP, as an example of other servers: no transactions, other names.

use crate::common::*;
use crate::link_stomp_in::{assert_all, enqueue_all};
use crate::linking::run;
use crate::rabbit::shared;

/// All properties, there and back; a program that speaks AMQP sees the identity where it looks for it.
#[test]
fn what_went_out_and_came_in_is_the_same() {
    let (here, there, rabbit) = (Mount::new(), Mount::new(), shared());
    let (out, into) = (here.queue("out"), there.queue("q"));
    rabbit.queue("stomp");
    let stomp = rabbit.stomp_url("?destination=/amq/queue/stomp");
    let before = enqueue_all(&out);
    run(&here, &["--until-empty", "out", &stomp]).ok();
    assert_eq!(rabbit.waiting("stomp"), before.len() as u64);
    run(&there, &["--until-empty", &stomp, "q"]).ok();
    assert_all(&into, &before);
    assert_eq!(rabbit.waiting("stomp"), 0);
    enqueue_all(&out);
    run(&here, &["--until-empty", "out", &stomp]).ok();
    let ids =
        rabbit.python("p, b = get('stomp')\nprint(p.message_id == p.headers['mq-id'], p.delivery_mode, p.priority)");
    assert_eq!(ids, "True 2 7\n");
}

/// A window of messages, each with a receipt of its own, in order; what comes again under its identity is known.
#[test]
fn each_is_there_once_and_in_order() {
    let (m, rabbit) = (Mount::new(), shared());
    let (q, into) = (m.queue_with("q", &["durability=async"]), m.queue("into"));
    m.fill(&q, 500);
    rabbit.queue("stomp-order");
    let url = rabbit.stomp_url("?destination=/amq/queue/stomp-order");
    run(&m, &["--until-empty", "q", &url]).ok();
    assert_eq!((rabbit.waiting("stomp-order"), m.bodies(&q).len()), (500, 0));
    rabbit.python(
        "all = list(iter(lambda: ch.basic_get('stomp-order', auto_ack=True)[1:], (None, None)))\n\
         for p, b in all:\n    for _ in '12': ch.basic_publish('', 'stomp-order', b, p)",
    );
    run(&m, &["--until-empty", &url, "into"]).ok();
    assert_eq!(m.bodies(&into), (0..500).map(|i| format!("m{i}")).collect::<Vec<_>>());
}

/// "login refused, queue missing": told, and exit code 16.
#[test]
fn what_the_broker_will_not_is_told() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue("q");
    m.fill(&q, 1);
    let url = rabbit.stomp_url("?destination=/amq/queue/missing");
    let ran = run(&m, &["--until-empty", &url, "q"]);
    assert_eq!(ran.code(), Some(16), "{ran:?}");
    ran.fails("not_found");
    let url = rabbit.stomp_url("/nowhere?destination=/amq/queue/x");
    for (from, to) in [("q", url.as_str()), (&url, "q")] {
        let ran = run(&m, &["--until-empty", from, to]);
        assert_eq!(ran.code(), Some(16), "{ran:?}");
    }
    assert_eq!(m.bodies(&q), ["m0"]);
}
