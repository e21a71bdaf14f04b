//! A campaign: episodes in which producers and both links work and things go wrong; at the end of each the faults stop, all is drained,
//! and the checker called.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::checker::{Violation, check};
use super::ends::{End, IN, OUT, SIDES};
use super::faults::{FIRST, Fault};
use super::journal::{Event, Journal};
use super::keeper::{Link, NAP};
use super::producers::Producers;
use super::proxy::{BROKER, LINK, Proxy};
use super::summary::Summary;
use super::systems::{System, WINDOW};
use crate::common::LIMIT;
use crate::evidence::Evidence;
use crate::extra::Random;

/// So long a link may wait before it tries again, for an answer, and with a batch: campaigns are short.
const SETTINGS: [&str; 3] = ["retry=20ms..500ms", "confirm_timeout=3s", "batch=100"];

/// How a campaign is run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// About so long; it has one episode at least.
    pub length: Duration,
    /// So long faults are made in one episode.
    pub episode: Duration,
    /// Most messages of one producer in it.
    pub most: usize,
}

/// What is linked, and what the links are linked by.
pub struct Campaign<'a> {
    system: &'a dyn System,
    pub random: Random,
    // They end in this order.
    pub links: [Link; 2],
    pub proxies: [Proxy; 2],
    pub ends: [End; 2],
    pub journal: Journal,
    /// Queues that are paused until then.
    paused: Vec<(Instant, usize)>,
    pub summary: Summary,
}

/// Runs a campaign; what the checker says of the first episode that it has something against, and what has happened.
pub fn run(system: &dyn System, plan: Plan) -> (Vec<Violation>, Summary) {
    let mut campaign = Campaign::new(system);
    let (name, seed) = (system.name(), campaign.random.seed());
    let rerun = format!("./scripts/link-test --seed {seed} MINUTES {name}");
    let evidence = [OUT, IN].map(|side| {
        let mount = &campaign.ends[side].mount;
        let from = vec![mount.store(), mount.log_path(), mount.scratch()];
        Evidence::of(&format!("links-{name}-{}", SIDES[side]), seed, from, rerun.clone())
    });
    let began = Instant::now();
    loop {
        let violations = campaign.episode(plan);
        if !violations.is_empty() {
            evidence.iter().for_each(Evidence::keep);
        }
        if !violations.is_empty() || began.elapsed() >= plan.length {
            return (violations, campaign.summary);
        }
        println!("{:>6} s: {name}: {}", began.elapsed().as_secs(), campaign.summary);
    }
}

impl<'a> Campaign<'a> {
    /// Mounts two stores, with a proxy to the system for each. No link runs yet.
    pub fn new(system: &'a dyn System) -> Campaign<'a> {
        let mut random = Random::new();
        // Before the proxies: each mount has this thread use a table of descriptors of its own.
        let mut end = |side| End::new(side, ["sync", "async"][random.below(2) as usize]);
        let ends = [end(OUT), end(IN)];
        let proxies = system.doors().map(Proxy::start);
        let links = [OUT, IN].map(|side| {
            let port = proxies[side].port();
            let [url, queue] =
                [[system.out_url(port), "q".to_owned()], [system.in_url(port), "q".to_owned()]][side].clone();
            let mut settings: Vec<String> = SETTINGS.iter().map(|setting| (*setting).to_owned()).collect();
            settings.push(format!("window={WINDOW}"));
            settings.extend(system.settings());
            let mut arguments: Vec<String> = settings.into_iter().flat_map(|set| ["-o".to_owned(), set]).collect();
            arguments.extend(if side == OUT { [queue, url] } else { [url, queue] });
            Link::new(side, arguments, ends[OUT].mount.scratch().join(format!("link-{}.log", SIDES[side])))
        });
        let journal = Journal::open(&ends[OUT].mount.scratch().join("episode-1.jsonl"));
        Campaign { system, random, links, proxies, ends, journal, paused: Vec::new(), summary: Summary::default() }
    }

    fn episode(&mut self, plan: Plan) -> Vec<Violation> {
        self.begin();
        let count = 1 + self.random.below(3) as usize;
        let (queue, number) = (self.ends[OUT].queue(), self.summary.episodes);
        let mut producers = Producers::start(queue, &self.journal, number, count, plan.most);
        let began = Instant::now();
        let mut first = FIRST.to_vec();
        // A life of a broker is worth some seconds.
        let broker = if number == 1 { 1 } else { self.system.killed_once_in() };
        first.extend((self.random.below(broker) == 0).then_some(Fault::KillBroker));
        while !first.is_empty() || began.elapsed() < plan.episode {
            self.keep();
            sleep(Duration::from_millis(self.random.below(500)));
            self.resume(false);
            let fault = match first.is_empty() {
                true => Fault::any(&mut self.random, self.system.killed_once_in()),
                false => first.swap_remove(self.random.below(first.len() as u64) as usize),
            };
            self.make(fault);
        }
        producers.end();
        self.finish()
    }

    /// Begins an episode, with a journal of its own.
    pub fn begin(&mut self) {
        self.summary.episodes += 1;
        let name = format!("episode-{}.jsonl", self.summary.episodes);
        self.journal = Journal::open(&self.ends[OUT].mount.scratch().join(name));
    }

    /// Starts links that do not run.
    pub fn keep(&mut self) {
        for side in [OUT, IN] {
            self.links[side].keep(&self.ends[side], &mut self.journal);
        }
    }

    /// Starts one of them.
    pub fn start(&mut self, side: usize) {
        self.links[side].keep(&self.ends[side], &mut self.journal);
    }

    /// Lets queues go on that have been paused for long enough, or for however long.
    fn resume(&mut self, all: bool) {
        let (over, paused) = self.paused.drain(..).partition(|(until, _)| all || *until <= Instant::now());
        self.paused = paused;
        let over: Vec<(Instant, usize)> = over;
        over.into_iter().for_each(|(_, side)| self.ends[side].behave());
    }

    /// Makes something go wrong.
    pub fn make(&mut self, fault: Fault) {
        let side = fault.side().map_or("both", |side| SIDES[side]).to_owned();
        self.journal.note(&Event::Fault { kind: fault.kind().to_owned(), side });
        match fault {
            Fault::Cut(side) => self.proxies[side].cut(false),
            Fault::Reset(side) => self.proxies[side].cut(true),
            Fault::CutAfter(side, bytes) => self.proxies[side].cut_after(bytes),
            Fault::HalfClose(side, end) => self.proxies[side].half_close(end),
            Fault::Stall(side, end, duration) => self.proxies[side].stall(end, duration),
            Fault::StallBoth(side, duration) => {
                [LINK, BROKER].iter().for_each(|end| self.proxies[side].stall(*end, duration));
            }
            Fault::Close(side, duration) => {
                self.proxies[side].close(duration);
                self.proxies[side].cut(false);
            }
            Fault::KillLink(side) => self.links[side].kill(&self.ends[side], &mut self.journal),
            Fault::EndLink(side) => self.links[side].end(&self.ends[side], &mut self.journal),
            Fault::KillMqfs(side) => {
                self.links[side].beware();
                self.ends[side].kill();
            }
            Fault::Pause(side, duration) => {
                self.ends[side].pause();
                self.paused.push((Instant::now() + duration, side));
            }
            Fault::KillBroker => {
                self.system.kill();
            }
        }
    }

    /// Everything behaves; all is drained; then what there is is noted, and checked.
    pub fn finish(&mut self) -> Vec<Violation> {
        self.resume(true);
        self.proxies.iter().for_each(Proxy::behave);
        self.drain();
        self.observe();
        let events = self.journal.read();
        let promises = self.system.promises();
        self.summary.add(&events, promises);
        self.summary.known = self.links[IN].duplicates;
        self.summary.connections = self.links.iter().map(Link::connections).sum();
        check(&events, promises)
    }

    fn drain(&mut self) {
        // However many there are: as long as something goes.
        let waits = |end: &End| ["ready", "claimed", "delayed"].iter().map(|state| end.count(state)).sum::<u64>();
        let mut newest = (waits(&self.ends[OUT]), Instant::now());
        while newest.0 > 0 {
            if newest.1.elapsed() > LIMIT {
                self.journal.note(&Event::Left { what: "what was enqueued is not sent".to_owned() });
                break;
            }
            self.keep();
            sleep(NAP);
            let count = waits(&self.ends[OUT]);
            if count != newest.0 {
                newest = (count, Instant::now());
            }
        }
        for side in [OUT, IN] {
            self.links[side].end(&self.ends[side], &mut self.journal);
        }
        if self.system.has_an_end() {
            self.links[IN].run_until_empty(&self.ends[IN], &mut self.journal);
        }
    }

    fn observe(&mut self) {
        self.summary.worst_gap = self.summary.worst_gap.max(self.ends[IN].worst_gap());
        for (id, wrong) in self.ends[IN].arrived() {
            self.journal.note(&Event::Arrived { id, wrong });
        }
        for kept in self.system.kept().into_iter().flatten() {
            self.journal.note(&Event::Kept { id: kept.id, identity: kept.identity, lane: kept.lane });
        }
        let waiting = self.system.left();
        if waiting > 0 {
            self.journal.note(&Event::Left { what: format!("{waiting} messages wait in the broker") });
        }
        let left: Vec<String> = self.ends.iter().flat_map(End::look).collect();
        left.into_iter().for_each(|what| self.journal.note(&Event::Left { what }));
        let _ = fs::remove_file(
            self.ends[OUT].mount.scratch().join(format!("episode-{}.jsonl", self.summary.episodes - 1)),
        );
    }
}
