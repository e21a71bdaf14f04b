//! Counts, and says which promises were not kept.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::journal::Event;
use super::message::Message;
use super::systems::{Doubles, Lanes, Promises, WINDOW};

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub rule: &'static str,
    /// Of what.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// What is said of one rule, beyond which it is only counted.
const MOST: usize = 20;

struct Checker<'a> {
    events: &'a [Event],
    promises: Promises,
    violations: Vec<Violation>,
}

/// Everything that a journal has against what is promised.
pub fn check(events: &[Event], promises: Promises) -> Vec<Violation> {
    let mut checker = Checker { events, promises, violations: Vec::new() };
    checker.check_arrivals();
    checker.check_broker();
    checker.check_end();
    checker.violations
}

/// How often what sends was disturbed: each time a window may have been sent twice.
fn disturbances(events: &[Event], kinds: &[&str]) -> usize {
    let counts = |event: &&Event| match event {
        Event::Fault { kind, side } => side != "in" && (kinds.is_empty() || kinds.contains(&kind.as_str())),
        _ => false,
    };
    events.iter().filter(counts).count()
}

/// So many doubles there may be.
pub fn bound(events: &[Event], doubles: Doubles) -> usize {
    match doubles {
        Doubles::None => 0,
        Doubles::AsThere => {
            let kept = events.iter().filter_map(|event| match event {
                Event::Kept { id, .. } => Some(id),
                _ => None,
            });
            again(kept)
        }
        Doubles::Window(kinds) => WINDOW * disturbances(events, kinds),
        Doubles::Any => usize::MAX,
    }
}

/// How many of these are there again.
pub fn again<'a>(ids: impl Iterator<Item = &'a String>) -> usize {
    let mut seen = HashSet::new();
    ids.filter(|id| !seen.insert(*id)).count()
}

impl<'a> Checker<'a> {
    fn say(&mut self, rule: &'static str, what: impl std::fmt::Display) {
        match self.violations.iter().filter(|violation| violation.rule == rule).count() {
            MOST => self.violations.push(Violation { rule, what: "... and more".to_owned() }),
            count if count > MOST => {}
            _ => self.violations.push(Violation { rule, what: what.to_string() }),
        }
    }

    fn acknowledged(&self) -> Vec<&'a String> {
        let acknowledged = |event: &'a Event| match event {
            Event::Acknowledged { id } => Some(id),
            _ => None,
        };
        self.events.iter().filter_map(acknowledged).collect()
    }

    fn offered(&self) -> HashSet<&'a String> {
        let offered = |event: &'a Event| match event {
            Event::Offered { id } => Some(id),
            _ => None,
        };
        self.events.iter().filter_map(offered).collect()
    }

    fn check_arrivals(&mut self) {
        let (offered, mut arrived) = (self.offered(), Vec::new());
        for event in self.events {
            let Event::Arrived { id, wrong } = event else { continue };
            arrived.push((0, id));
            if !offered.contains(id) {
                self.say("invented", id);
            } else if let Some(wrong) = wrong {
                self.say("damaged", format_args!("{id}: {wrong}"));
            }
        }
        let there: HashSet<&String> = arrived.iter().map(|(_, id)| *id).collect();
        if self.promises.loses_nothing {
            for id in self.acknowledged() {
                if !there.contains(id) {
                    self.say("lost", id);
                }
            }
        }
        self.check_doubles("doubled", &arrived, self.promises.doubles_in);
        let undisturbed = !self.events.iter().any(|event| matches!(event, Event::Fault { side, .. } if side != "out"));
        if self.promises.order_in || undisturbed {
            self.check_order("out of order", &arrived);
        }
    }

    fn check_broker(&mut self) {
        let mut kept = Vec::new();
        let mut identities: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
        for event in self.events {
            let Event::Kept { id, identity, lane } = event else { continue };
            kept.push((*lane, id));
            identities.entry(id).or_default().insert(identity);
        }
        if kept.is_empty() {
            return;
        }
        let there: HashSet<&String> = kept.iter().map(|(_, id)| *id).collect();
        for id in self.acknowledged() {
            if self.promises.loses_nothing && !there.contains(id) {
                self.say("not in the broker", id);
            }
        }
        identities.retain(|_, identities| identities.len() > 1);
        for (id, identities) in identities {
            self.say("renamed", format_args!("{id}: {identities:?}"));
        }
        self.check_doubles("doubled in the broker", &kept, self.promises.doubles_out);
        self.check_order("out of order in the broker", &kept);
    }

    fn check_doubles(&mut self, rule: &'static str, ids: &[(u32, &String)], allowed: Doubles) {
        let (count, most) = (again(ids.iter().map(|(_, id)| *id)), bound(self.events, allowed));
        if count > most {
            let mut times: BTreeMap<&String, usize> = BTreeMap::new();
            ids.iter().for_each(|(_, id)| *times.entry(id).or_default() += 1);
            times.retain(|_, times| *times > 1);
            let some: Vec<_> = times.into_iter().take(MOST).map(|(id, times)| format!("{id} x{times}")).collect();
            self.say(rule, format_args!("{count} times, and {most} are allowed: {}", some.join(", ")));
        }
    }

    /// First comings only. A broker that is killed may keep any of what it has not confirmed, and lose what came before it (RabbitMQ keeps
    /// long bodies elsewhere than short ones): then what was kept too early must come again, after what it overtook.
    fn check_order(&mut self, rule: &'static str, ids: &[(u32, &'a String)]) {
        let killed =
            self.events.iter().any(|event| matches!(event, Event::Fault { kind, .. } if kind == "kill broker"));
        let lasts: HashMap<&String, usize> = ids.iter().enumerate().map(|(place, (_, id))| (*id, place)).collect();
        let (mut seen, mut last) = (HashSet::new(), HashMap::new());
        for (place, (at, id)) in ids.iter().enumerate() {
            let Some((producer, number)) = numbered(id).filter(|_| seen.insert(*id)) else { continue };
            let Some(lane) = lane(self.promises.lanes, id) else { continue };
            let newest = last.entry((*at, producer, lane)).or_insert((0, *id));
            match number > newest.0 {
                true => *newest = (number, id),
                false if killed && lasts.get(newest.1).is_some_and(|last| *last > place) => {}
                false => {
                    let before = newest.1;
                    self.say(rule, format_args!("{id} after {before}"));
                }
            }
        }
    }

    fn check_end(&mut self) {
        for event in self.events {
            match event {
                Event::Left { what } => self.say("left", what),
                Event::Ended { link, said } => self.say("ended", format_args!("the link {link} by itself: {said}")),
                _ => {}
            }
        }
    }
}

/// Whose a message is, and its number.
fn numbered(id: &str) -> Option<(&str, u64)> {
    let (producer, number) = id.rsplit_once('.')?;
    Some((producer, number.parse().ok()?))
}

/// What it is in order with; nothing when with nothing.
fn lane(lanes: Lanes, id: &str) -> Option<Vec<u8>> {
    let message = || Message::of(id);
    match lanes {
        Lanes::One => Some(Vec::new()),
        Lanes::Group => message().attribute("user.mq.group").map(<[u8]>::to_vec),
        Lanes::Priority => Some(message().attribute("user.mq.priority").unwrap_or(b"4").to_vec()),
    }
}
