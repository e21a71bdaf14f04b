//! Messages that describe themselves: all that one has follows from its id, which is the first line of its body.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::path::Path;

use rustix::fs::XattrFlags;

use crate::extra::Random;

/// A message as its producer writes it, and as it is to arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The name of its file.
    pub name: String,
    /// Any bytes, after a line with the id.
    pub body: Vec<u8>,
    /// By their whole names, in order.
    pub attributes: Vec<(String, Vec<u8>)>,
}

impl Message {
    /// The message with that id.
    pub fn of(id: &str) -> Message {
        let seed = id
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let mut random = Random::seeded(seed);
        // The first numbers of seeds that are alike are alike.
        (0..8).for_each(|_| {
            random.below(2);
        });
        let ending = ["", ".csv", "-größe", " and a space"][random.below(4) as usize];
        let length = match random.below(100) {
            0..10 => 0,
            10..90 => random.below(600),
            90..99 => random.below(8_000),
            _ => random.below(60_000),
        };
        let mut body = format!("{id}\n").into_bytes();
        body.extend((0..length).map(|_| random.below(256) as u8));
        Message { name: format!("{id}{ending}"), body, attributes: attributes(id, &mut random) }
    }

    /// What is wrong with one that has arrived; nothing when all is as it was.
    pub fn differs(&self, name: &str, body: &[u8], attributes: &[(String, Vec<u8>)]) -> Option<String> {
        if body != self.body {
            let at = body.iter().zip(&self.body).take_while(|(is, should)| is == should).count();
            return Some(format!("{} of {} bytes, wrong from byte {at}", body.len(), self.body.len()));
        }
        if name != self.name {
            return Some(format!("the name is {name:?}"));
        }
        // What others than the link are told apart by stays where it was used.
        let arrives = |attribute: &&(String, Vec<u8>)| attribute.0 != "user.mq.dedup_id";
        let expected: Vec<_> = self.attributes.iter().filter(arrives).collect();
        let is: Vec<_> = attributes.iter().filter(arrives).collect();
        let show = |all: &[&(String, Vec<u8>)]| {
            let one = |(name, value): &&(String, Vec<u8>)| format!("{name}={:?}", String::from_utf8_lossy(value));
            all.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        (is != expected).then(|| format!("{} instead of {}", show(&is), show(&expected)))
    }

    /// An attribute, if it has that.
    pub fn attribute(&self, name: &str) -> Option<&[u8]> {
        self.attributes.iter().find(|(other, _)| other == name).map(|(_, value)| &value[..])
    }

    /// Writes it as a file of a queue, and says what the close has said.
    pub fn write(&self, queue: &Path) -> io::Result<()> {
        let path = queue.join(&self.name);
        self.fill(&path)
    }

    /// Writes it as a draft, which is then enqueued.
    pub fn write_draft(&self, queue: &Path) -> io::Result<()> {
        let draft = queue.join(format!(".{}", self.name));
        self.fill(&draft)?;
        fs::rename(draft, queue.join(&self.name))
    }

    fn fill(&self, path: &Path) -> io::Result<()> {
        let mut file = File::options().write(true).create(true).truncate(true).open(path)?;
        let filled = self.attributes.iter().try_for_each(|(name, value)| {
            rustix::fs::fsetxattr(&file, name.as_str(), value, XattrFlags::empty()).map_err(io::Error::from)
        });
        if let Err(error) = filled.and_then(|()| file.write_all(&self.body)) {
            // As cp does: half of it is no message.
            let _ = fs::remove_file(path);
            return Err(error);
        }
        // SAFETY: the descriptor is this file's, which has been given up just now.
        match unsafe { libc::close(file.into_raw_fd()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn attributes(id: &str, random: &mut Random) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut maybe = |percent: u64, name: &str, value: Vec<u8>, random: &mut Random| {
        if random.below(100) < percent {
            all.push((name.to_owned(), value));
        }
    };
    let group = format!("g{}", random.below(6)).into_bytes();
    let priority = random.below(10).to_string().into_bytes();
    maybe(20, "user.binary", b"\xff\x00\r\n:".to_vec(), random);
    maybe(50, "user.colour", "röt".into(), random);
    maybe(50, "user.mq.content_type", "text/csv".into(), random);
    maybe(50, "user.mq.correlation_id", format!("c-{id}").into(), random);
    maybe(30, "user.mq.dedup_id", format!("d-{id}").into(), random);
    maybe(60, "user.mq.group", group, random);
    maybe(40, "user.mq.priority", priority, random);
    maybe(30, "user.mq.reply_to", "answers".into(), random);
    all
}

/// The id of a message, by its body.
pub fn id_of(body: &[u8]) -> String {
    String::from_utf8_lossy(body.split(|byte| *byte == b'\n').next().unwrap_or_default()).into_owned()
}

#[test]
fn a_message_tells_whose_it_is_and_whether_it_is_whole() {
    let ids: Vec<String> = (0..200).map(|number| format!("e1.p2.{number}")).collect();
    let all: Vec<Message> = ids.iter().map(|id| Message::of(id)).collect();
    for (id, message) in ids.iter().zip(&all) {
        let Message { name, body, attributes } = message;
        assert_eq!((id_of(body), message.differs(name, body, attributes)), (id.clone(), None));
        assert!(message.differs(name, &body[..body.len() - 1], attributes).unwrap().contains("bytes"));
        assert!(message.differs("other", body, attributes).unwrap().contains("name"));
        let more = [attributes.clone(), vec![("user.more".to_owned(), Vec::new())]].concat();
        assert!(message.differs(name, body, &more).unwrap().contains("instead of"));
    }
    assert!(all.iter().any(|message| message.attribute("user.mq.group").is_none()));
    assert!(all.iter().any(|message| message.attribute("user.mq.group") == Some(b"g5")));
    assert!(all.iter().any(|message| message.body.len() > 1000));
}
