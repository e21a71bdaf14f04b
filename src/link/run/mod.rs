//! A link that runs: [`out`] and [`into`] are its two loops ([`window`]: what is claimed; [`answer`]: the broker's; [`gathered`]: what
//! has come; [`marked`]: the queue's mark); [`check`] and [`show`] look and change nothing.

pub mod answer;
pub mod check;
pub mod gathered;
pub mod into;
pub mod marked;
pub mod notify;
pub mod out;
pub mod poison;
pub mod session;
pub mod show;
pub mod stop;
mod strays;
pub mod voice;
mod window;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::net::Net;
use super::peer::{Ends, System};
use super::secret::{self, Secret};
use super::settings::{self, Settings};
use super::status::{Snapshot, State, Status};
use super::systems;
use super::trouble::Trouble;
use super::url::{self, Target};
use crate::clock;
use session::{Again, Session};
use stop::Stop;
use voice::{Listener, Voice};

/// What links what.
#[derive(Debug)]
pub struct Link {
    /// What it is called.
    pub name: String,
    /// The queue's directory.
    pub queue: PathBuf,
    /// Whether messages go to the broker.
    pub out: bool,
    /// The broker.
    pub target: Target,
    /// What kind of broker it is.
    pub system: &'static dyn System,
    /// Who logs in there.
    pub secret: Option<Secret>,
    /// How.
    pub settings: Settings,
    /// What the queue is told apart from others by, once it was asked.
    pub origin: OnceLock<String>,
}

impl Link {
    /// Reads what was asked for: one of the two ends is a queue, the other a URL.
    pub fn new(settings: Settings) -> Result<Link, Trouble> {
        let missing = |key: &str| Trouble::usage(format_args!("`{key}` is not given"));
        let from = settings.from.clone().ok_or_else(|| missing("from"))?;
        let to = settings.to.clone().ok_or_else(|| missing("to"))?;
        let (queue, broker, out) = match (url::is_url(&from), url::is_url(&to)) {
            (false, true) => (from, to, true),
            (true, false) => (to, from, false),
            (true, true) => return Err(Trouble::usage("two URLs: one of the two must be a queue's directory")),
            (false, false) => {
                return Err(Trouble::usage("two paths: one of the two must be a URL, such as amqp://host?queue=q"));
            }
        };
        // What was given is not repeated when it is refused: there may be a password in it.
        let parsed = systems::parse(&broker).map_err(|why| Trouble::usage(format_args!("the URL: {why}")));
        let (target, system) = parsed?;
        system.check(&target, out)?;
        let secret = secret::of(&settings, &target)?;
        let name = settings.name.clone().unwrap_or_else(|| default_name(Path::new(&queue), &target, out));
        Ok(Link { name, queue: queue.into(), out, target, system, secret, settings, origin: OnceLock::new() })
    }

    /// What is connected to what.
    pub fn ends(&self) -> Ends<'_> {
        let origin = self.origin.get().map_or("", String::as_str);
        Ends { target: &self.target, secret: self.secret.as_ref(), settings: &self.settings, name: &self.name, origin }
    }

    fn snapshot(&self) -> Snapshot {
        let queue = std::path::absolute(&self.queue).unwrap_or_else(|_| self.queue.clone()).display().to_string();
        let (from, to) = if self.out { (queue, self.target.text.clone()) } else { (self.target.text.clone(), queue) };
        Snapshot {
            name: self.name.clone(),
            from,
            to,
            pid: std::process::id(),
            state: State::Connecting,
            why: String::new(),
            since: clock::rfc3339(clock::now_ms()),
            messages: 0,
            bytes: 0,
            lag: None,
            in_flight: 0,
            retried: 0,
            refused: 0,
            duplicates: 0,
            reconnects: 0,
            last_success: None,
            heir_of: Vec::new(),
        }
    }

    /// Runs until it is asked to end, or has nothing more to do, or cannot go on.
    pub fn run(
        self,
        until_empty: bool,
        stop: Stop<'_>,
        again: Option<Again<'_>>,
        listener: &dyn Listener,
    ) -> Result<(), Trouble> {
        if !self.out {
            poison::check(&self.settings)?;
        }
        let net = Net::start()?;
        let status = Status::take(self.snapshot())?;
        let mut voice = Voice::new(status, self.settings.metrics.clone(), listener);
        if let Some(why) = &voice.status.untold {
            voice.say(&format!(
                "no status is kept, and nothing keeps a second link of this name away: {why}; set XDG_RUNTIME_DIR"
            ));
        }
        voice.ready();
        let session = Session::new(self, &net, until_empty, stop, again, &mut voice);
        let ended = match session.link.out {
            true => out::run(session),
            false => into::run(session),
        };
        voice.end(&ended);
        ended
    }

    /// Whether what was asked for anew can be taken over while it runs, and whether it has to connect anew for that.
    pub fn becomes(&self, new: &Link) -> Result<bool, Trouble> {
        if (&new.name, &new.queue, new.out) != (&self.name, &self.queue, self.out) {
            return Err(Trouble::usage("its name, queue and direction are settled when it is started"));
        }
        let same_broker = new.target == self.target && new.secret == self.secret;
        Ok(!same_broker || new.settings.of_connections() != self.settings.of_connections())
    }
}

/// What a link is called when nobody says: by what it links, so that it is the same the next time, and another link's is another.
fn default_name(queue: &Path, target: &Target, out: bool) -> String {
    let queue = queue.file_name().unwrap_or_default().to_string_lossy();
    let direction = if out { "to" } else { "from" };
    let plain = target.scheme.strip_suffix('s').filter(|_| target.tls);
    let system = plain.unwrap_or(target.scheme);
    let mut text = format!("{queue}-{direction}-{system}");
    if let Some(host) = target.hosts.first() {
        text += &format!("-{}", host.name);
        if host.port != target.port {
            text += &format!("-{}", host.port);
        }
    }
    let there = ["exchange", "queue", "topic", "destination", "stream", "durable"];
    let there = there.iter().filter_map(|key| target.parameter(key));
    for part in target.path.as_deref().into_iter().chain(there) {
        text += &format!("-{part}");
    }
    let sound = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = text.chars().map(sound).take(100).collect();
    settings::name(&name).unwrap_or_else(|_| "link".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(queue: &str, url: &str) -> String {
        let target = systems::parse(url).unwrap().0;
        default_name(Path::new(queue), &target, true)
    }

    /// Two links of one name would be taken for one, with one status and one mark.
    #[test]
    fn what_is_another_link_is_called_otherwise() {
        let urls = [
            #[cfg(feature = "link-amqp")]
            "amqp://h?queue=t",
            #[cfg(feature = "link-amqp")]
            "amqp://h:5673?queue=t",
            #[cfg(feature = "link-amqp")]
            "amqp://h/prod?queue=t",
            #[cfg(feature = "link-amqp")]
            "amqp://other/prod?queue=t",
            #[cfg(feature = "link-amqp")]
            "amqp://h?exchange=e&queue=t",
            #[cfg(feature = "link-amqp")]
            "amqp://h?exchange=e&queue=u",
            #[cfg(feature = "link-kafka")]
            "kafka://h/t",
            #[cfg(feature = "link-nats")]
            "nats://h/t",
            #[cfg(feature = "link-stomp")]
            "activemq://h?topic=t",
        ];
        let names: std::collections::BTreeSet<String> = urls.iter().map(|url| name("/srv/mq/q", url)).collect();
        assert_eq!(names.len(), urls.len(), "{names:?}");
    }

    /// One that is encrypted now goes on where it was.
    #[cfg(feature = "link-amqp")]
    #[test]
    fn tls_and_the_usual_port_change_no_name() {
        for url in ["amqp://h?queue=t", "amqp://h:5672?queue=t", "amqps://h?queue=t", "amqps://anna@h:5671?queue=t"] {
            assert_eq!(name("q", url), "q-to-amqp-h-t", "{url}");
        }
        #[cfg(feature = "link-nats")]
        assert_eq!(
            (name("q", "nats://h/t"), name("q", "natss://h/t")),
            ("q-to-nats-h-t".into(), "q-to-nats-h-t".into())
        );
    }
}
