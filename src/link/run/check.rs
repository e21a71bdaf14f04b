//! `--check`: connects, logs in, looks, and says what is promised. Nothing is sent, claimed or acknowledged.

use super::super::local::queue::Queue;
use super::super::net::Net;
use super::super::trouble::{Kind, Trouble};
use super::{Link, poison};

/// Says what it finds, line by line.
pub fn run(link: &Link, line: &mut dyn FnMut(&str)) -> Result<(), Trouble> {
    let queue = Queue::open(&link.queue)?;
    let directory = queue.path().display();
    // Consuming needs r, w and x, enqueuing w and x; a link asks for the names of its batches, too.
    let access = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(queue.path(), access)
        .map_err(|_| Trouble::new(Kind::Queue, format_args!("{directory}: r, w and x on the queue are needed")))?;
    line(&format!("{}: queue {directory}", link.name));
    line(match queue.text("user.mq.durability").as_str() {
        "async" => "queue: durability is async: the link syncs after each batch",
        _ => "queue: what is enqueued is on disk",
    });
    let deliveries = queue.text("user.mq.max_deliveries");
    if link.out && deliveries != "0" {
        line(&format!(
            "queue: after {deliveries} refusals, or restarts by kill -9, a message becomes a dead letter; max_deliveries = 0 never does"
        ));
    }
    if !link.out {
        poison::check(&link.settings)?;
    }
    let net = Net::start()?;
    // Asking for messages would have a broker count a delivery of each that it takes back.
    let found = link.system.look(&net, link.ends(), link.out)?;
    let login = if link.secret.is_some() { ", logged in" } else { "" };
    line(&format!("broker: connected to {}{login}", link.target.text));
    found.iter().for_each(|found| line(found));
    line(match link.target.tls {
        true => "broker: encrypted, and its certificate is verified",
        false => "broker: not encrypted",
    });
    link.system.promises(link.ends(), link.out).iter().for_each(|promise| line(promise));
    Ok(())
}
