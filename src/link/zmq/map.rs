//! A message as frames: the last is the body. What ZeroMQ has no place for is in a frame of JSON before it, if that is asked for.

use super::super::envelope::{Envelope, Field};
use super::super::overflow;
use super::super::properties::{field_of, header_of};
use super::address::{Address, Topic};

/// The identity of a message, in the frame of JSON.
const ID: &str = "mq-id";

/// The frames of a message, without an envelope.
pub fn frames(envelope: &Envelope, address: &Address) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    match &address.topic {
        Some(Topic::Fixed(topic)) => frames.push(topic.clone().into_bytes()),
        Some(Topic::Group) => frames.push(envelope.field(Field::Group).unwrap_or_default().to_vec()),
        None => {}
    }
    if address.json {
        let mut pairs = vec![(ID.to_owned(), envelope.id.clone().into_bytes())];
        pairs.extend(envelope.fields.iter().map(|(field, value)| (header_of(*field).to_owned(), value.clone())));
        pairs.extend(envelope.headers.iter().map(|(name, value)| (format!("user.{name}"), value.clone())));
        frames.push(overflow::render(&pairs).into_bytes());
    }
    frames.push(envelope.body.clone());
    frames
}

/// What came, without its envelope. `topics` is whether the first of several frames is what it was published under.
pub fn came(mut frames: Vec<Vec<u8>>, json: bool, topics: bool) -> Envelope {
    let mut envelope = Envelope { body: frames.pop().unwrap_or_default(), ..Envelope::default() };
    if topics && frames.len() > usize::from(json) {
        envelope.source.push(("topic", frames.remove(0)));
    }
    let properties = if json { frames.last().and_then(|frame| properties(frame)) } else { None };
    if let Some(pairs) = properties {
        frames.pop();
        for (name, value) in pairs {
            match (name.strip_prefix("user."), field_of(&name)) {
                (Some(header), _) => envelope.headers.push((header.to_owned(), value)),
                (None, Some(field)) => envelope.fields.push((field, value)),
                (None, None) if name == ID => envelope.id = String::from_utf8_lossy(&value).into_owned(),
                (None, None) => {}
            }
        }
    }
    for (number, frame) in frames.into_iter().enumerate() {
        envelope.headers.push((format!("frame-{}", number + 1), frame));
    }
    envelope
}

fn properties(frame: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    overflow::parse(std::str::from_utf8(frame).ok()?)
}

#[cfg(test)]
mod tests {
    use super::super::super::systems;
    use super::*;

    fn address(text: &str) -> Address {
        Address::of(&systems::parse(text).unwrap().0, true).unwrap()
    }

    #[test]
    fn properties_go_along_where_that_is_asked_for() {
        let fields = vec![(Field::Group, b"eu.de".to_vec()), (Field::Name, b"a".to_vec())];
        let headers = vec![("binary".to_owned(), vec![0xff])];
        let sent = Envelope { id: "o/1".to_owned(), fields, headers, source: Vec::new(), body: b"x".to_vec() };
        assert_eq!(frames(&sent, &address("zmq+push://h:1")), [b"x".to_vec()]);
        let all = frames(&sent, &address("zmq+pub://h:1?topic=%group&frames=json"));
        assert_eq!((all.len(), &all[0][..], &all[2][..]), (3, &b"eu.de"[..], &b"x"[..]));
        let mut came = came(all, true, true);
        assert_eq!(std::mem::take(&mut came.source), [("topic", b"eu.de".to_vec())]);
        came.fields.sort_by_key(|(field, _)| *field != Field::Group);
        assert_eq!(came, sent);
    }

    #[test]
    fn frames_that_are_not_ours_are_kept() {
        let frames = || vec![b"a".to_vec(), b"{".to_vec(), b"body".to_vec()];
        let kept = |json, topics| came(frames(), json, topics);
        let header = |number: u8, value: &[u8]| (format!("frame-{number}"), value.to_vec());
        assert_eq!(kept(false, false).headers, [header(1, b"a"), header(2, b"{")]);
        assert_eq!(
            (kept(true, true).headers, kept(true, true).source),
            (vec![header(1, b"{")], vec![("topic", b"a".to_vec())])
        );
        assert_eq!(
            came(vec![b"body".to_vec()], true, true),
            Envelope { body: b"body".to_vec(), ..Envelope::default() }
        );
    }
}
