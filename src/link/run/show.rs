//! `--show N`: what the first messages would become, as lines of JSON. Nothing is sent, claimed or acknowledged; a broker counts a
//! delivery of what it shows.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use serde_json::{Map, Value};

use super::super::envelope::Envelope;
use super::super::local::outgoing;
use super::super::local::queue::Queue;
use super::super::mark::Positions;
use super::super::net::Net;
use super::super::overflow;
use super::super::properties::{self, header_of};
use super::super::trouble::Trouble;
use super::Link;
use crate::clock;

/// A broker that says nothing for so long has no more.
const PATIENCE: Duration = Duration::from_secs(2);
/// So much of a body is shown.
const SHOWN: u64 = 256;

/// Shows up to `count` messages.
pub fn run(link: &Link, count: usize, line: &mut dyn FnMut(&str)) -> Result<(), Trouble> {
    match link.out {
        true => out(link, count, line),
        false => into(link, count, line),
    }
}

fn out(link: &Link, count: usize, line: &mut dyn FnMut(&str)) -> Result<(), Trouble> {
    let queue = Queue::open(&link.queue)?;
    let trouble = |error: std::io::Error| queue.trouble(&error);
    // Nothing is written to the queue, so what it is told apart by may not be there yet.
    let origin = Some(queue.text("user.link.origin")).filter(|origin| !origin.is_empty());
    let origin = origin.unwrap_or_else(|| "ORIGIN".to_owned());
    let mut shown = 0;
    // What is ready is listed in the order of delivery, and may be much.
    for entry in std::fs::read_dir(queue.path().join(".mq/peek")).map_err(trouble)? {
        if shown == count {
            break;
        }
        // Gone meanwhile, perhaps.
        let Ok(file) = File::open(entry.map_err(trouble)?.path()) else { continue };
        let attributes = outgoing::attributes(&file).map_err(trouble)?;
        let mut state = [0; 16];
        let length = rustix::fs::fgetxattr(&file, "user.mq.state", &mut state).unwrap_or(0);
        if &state[..length] != b"ready" {
            continue;
        }
        let size = file.metadata().map_err(trouble)?.len();
        let mut envelope = properties::outgoing(&attributes, &origin, clock::now_ms());
        file.take(SHOWN).read_to_end(&mut envelope.body).map_err(trouble)?;
        line(&sent(&envelope, size));
        shown += 1;
    }
    Ok(())
}

fn sent(envelope: &Envelope, size: u64) -> String {
    let mut pairs = vec![("id".to_owned(), envelope.id.clone().into_bytes())];
    pairs.extend(envelope.fields.iter().map(|(field, value)| (header_of(*field).to_owned(), value.clone())));
    pairs.extend(envelope.headers.iter().map(|(name, value)| (format!("header.{name}"), value.clone())));
    rendered(&pairs, &envelope.body, size)
}

fn into(link: &Link, count: usize, line: &mut dyn FnMut(&str)) -> Result<(), Trouble> {
    let net = Net::start()?;
    let queue = Queue::open(&link.queue)?;
    let mark = queue.attribute(&format!("user.mark.link-{}", link.name)).map_err(|error| queue.trouble(&error))?;
    let mark = mark.and_then(|mark| Positions::parse(&mark)).filter(|_| link.system.is_log());
    link.origin.get_or_init(|| queue.text("user.link.origin"));
    let mut receiver = link.system.watch(&net, link.ends(), mark.as_ref())?;
    for _ in 0..count {
        let Some(came) = receiver.next(PATIENCE)? else { break };
        let size = came.large.as_ref().map_or(came.envelope.body.len() as u64, |large| large.bytes);
        match came.fits().and_then(|()| properties::incoming(&came.envelope, false)) {
            Ok(arrival) => {
                let mut pairs = vec![("name".to_owned(), arrival.name)];
                pairs.extend(arrival.attributes);
                line(&rendered(&pairs, &came.envelope.body, size));
            }
            Err(why) => line(&rendered(&[("refused".to_owned(), why.into_bytes())], &came.envelope.body, size)),
        }
    }
    receiver.close(&net);
    Ok(())
}

fn rendered(pairs: &[(String, Vec<u8>)], body: &[u8], size: u64) -> String {
    let shown = &body[..body.len().min(SHOWN as usize)];
    let body = overflow::render(&[("body".to_owned(), shown.to_vec())]);
    let parsed = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default();
    let mut object = parsed(&overflow::render(pairs));
    object.insert("size".to_owned(), Value::from(size));
    object.extend(parsed(&body));
    Value::Object(object).to_string()
}
