//! `mqfs link` and a RabbitMQ that closes the connection, or the channel, while nothing is under way: what it says is told, and decides
//! what the link does, as when it closes them because of what was sent.

use crate::common::*;
use crate::linking::{SOON, is_empty, many, of, secret, start};
use crate::rabbit::{Rabbit, publish, shared};

/// Lets a user in, who may do everything.
fn let_in(rabbit: &Rabbit, user: &str) {
    rabbit.control(&["add_user", user, "sesame"]);
    rabbit.control(&["set_permissions", user, ".*", ".*", ".*"]);
}

/// Closes the channels of a user, as the broker does when something that it has delivered was not acknowledged for too long.
fn close_channels(rabbit: &Rabbit, user: &str) {
    let its = format!("rabbit_channel:info(C, [user]) =:= [{{user, <<\"{user}\">>}}]");
    let ack = "rabbit_channel:do(C, {'basic.ack', 999, false})";
    rabbit.control(&["eval", &format!("[{ack} || C <- rabbit_channel:list_local(), {its}].")]);
}

/// Both ways: whoever is let in no more is told so, and the link waits until it is.
#[test]
fn a_connection_that_the_broker_ends_is_told() {
    let (m, rabbit) = (Mount::new(), shared());
    let from = many(&m, 1);
    let q = m.queue("into");
    rabbit.queue("ends");
    let_in(rabbit, "eve");
    let (secret, url) = (secret(&m, "eve", "sesame"), rabbit.url("?queue=ends"));
    let out = start(&m, &[&SOON[..], &["-o", "name=out", "-o", &secret, "q", &url]].concat());
    let into = start(&m, &[&SOON[..], &["-o", "name=in", "-o", &secret, &url, "into"]].concat());
    wait_until(|| m.bodies(&q).len() == 1 && is_empty(&m, &from));
    rabbit.control(&["delete_user", "eve"]);
    let host = rabbit.url("").replace("amqp://", "");
    let ended = format!("connecting: {host}: CONNECTION_FORCED - user 'eve' is deleted");
    for (name, link) in [("out", &out), ("in", &into)] {
        wait_until(|| of(&m, name, "state") == "failing");
        let told = link.errors();
        assert!(told.contains(&ended) && told.contains("ACCESS_REFUSED"), "{name}: {told}");
    }
    let_in(rabbit, "eve");
    std::fs::write(from.join("m1"), "m1").unwrap();
    wait_until(|| m.bodies(&q).len() == 2 && is_empty(&m, &from));
    for link in [out, into] {
        link.signal(libc::SIGTERM);
        assert_eq!(link.finish().code(), Some(0));
    }
    assert_eq!(m.stats(&from)["claims_total"], 2);
}

/// A channel that is closed says no, where a connection that goes away says nothing; also when the link finds it out only as it
/// acknowledges what it has taken in.
#[test]
fn a_channel_that_the_broker_closes_is_told() {
    let (m, rabbit) = (Mount::new(), shared());
    let from = many(&m, 1);
    let q = m.queue("into");
    rabbit.queue("told-off");
    rabbit.queue("told-off-in");
    let_in(rabbit, "oskar");
    let (secret, url) = (secret(&m, "oskar", "sesame"), rabbit.url("?queue=told-off"));
    let out = start(&m, &[&SOON[..], &["-o", "name=out", "-o", &secret, "q", &url]].concat());
    let into =
        start(&m, &[&SOON[..], &["-o", "name=in", "-o", &secret, &rabbit.url("?queue=told-off-in"), "into"]].concat());
    wait_until(|| is_empty(&m, &from) && of(&m, "in", "state") == "running");
    // What comes now is acknowledged when the queue takes it.
    m.set(&q, "paused=in");
    publish(rabbit, "told-off-in", 1);
    wait_until(|| of(&m, "in", "state") == "holding");
    close_channels(rabbit, "oskar");
    let host = rabbit.url("").replace("amqp://", "");
    let said = format!("failing: {host}: PRECONDITION_FAILED - unknown delivery tag 999");
    wait_until(|| out.errors().contains(&said));
    m.set(&q, "paused=no");
    wait_until(|| into.errors().contains(&said));
    // It goes on by itself, and what it could not acknowledge is known.
    std::fs::write(from.join("m1"), "m1").unwrap();
    wait_until(|| is_empty(&m, &from) && of(&m, "in", "duplicates") == 1);
    wait_until(|| rabbit.waiting("told-off") == 2 && rabbit.waiting("told-off-in") == 0);
    for link in [out, into] {
        link.signal(libc::SIGTERM);
        assert_eq!(link.finish().code(), Some(0));
    }
    assert_eq!(m.bodies(&q), ["m0"]);
}
