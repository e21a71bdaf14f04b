//! A campaign: episodes in which everybody works and mqfs is killed, or its disk cut, again and again; after each, the store
//! is emptied and the checker called.

use std::collections::HashSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::actors::{Actor, CAST, Part};
use super::checker::{Violation, check};
use super::evidence::Evidence;
use super::journal::{Event, Journal, Line, now, read_all};
use super::observer::Observer;
use super::promises::{COMMON, GRAVES, Promises, QUEUES};
use crate::common::{LIMIT, Mount, poll};
use crate::disk::Disk;
use crate::extra::Random;

/// How a campaign is to be run.
pub struct Plan {
    /// For messages to the user and the names of what is kept.
    pub name: &'static str,
    /// How long it takes, about. It has one episode at least.
    pub length: Duration,
    /// How long everybody works in one episode.
    pub episode: Duration,
    /// The words of a mkfs command: the disk is cut instead of mqfs killed.
    pub power: Option<&'static [&'static str]>,
    /// What the checker believes that the queues promise.
    pub promises: Vec<Promises>,
    /// It is to find what it finds: nothing is kept then.
    pub control: bool,
    /// Attaches a program to the first mqfs process, and waits until it is.
    pub attach: Option<fn(u32) -> std::process::Child>,
}

impl Plan {
    /// Kills, for so long.
    pub fn kills(length: Duration, episode: Duration) -> Plan {
        Plan { name: "kill", length, episode, power: None, promises: QUEUES.to_vec(), control: false, attach: None }
    }

    /// Power cuts of a file system made by that command, for so long.
    pub fn power(mkfs: &'static [&'static str], length: Duration, episode: Duration) -> Plan {
        Plan { name: "power", power: Some(mkfs), ..Plan::kills(length, episode) }
    }
}

/// What happened in a campaign.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Episodes.
    pub episodes: usize,
    /// How often mqfs was killed.
    pub kills: usize,
    /// How often the power was cut.
    pub cuts: usize,
    /// How many producers and workers were killed.
    pub actors: usize,
    /// Messages offered.
    pub offered: usize,
    /// Messages acknowledged to their producers.
    pub acknowledged: usize,
    /// Deliveries.
    pub delivered: usize,
    /// Deliveries of messages that had been delivered before.
    pub redelivered: usize,
    /// Messages acknowledged by workers.
    pub acked: usize,
    /// Messages moved to another queue.
    pub moved: usize,
    /// Dead letters, in `.mq/dead` or the queue for them.
    pub dead: usize,
    /// Purges.
    pub purges: usize,
    /// Calls that failed.
    pub refused: usize,
}

impl Summary {
    /// Something of each kind has happened that a campaign is about.
    pub fn is_enough(&self) -> bool {
        let Summary { acknowledged, acked, redelivered, moved, dead, .. } = *self;
        [acknowledged, acked, redelivered, moved, dead].into_iter().all(|count| count > 0)
    }
}

struct Campaign {
    plan: Plan,
    random: Random,
    mount: Mount,
    disk: Option<Disk>,
    cast: Vec<Option<Actor>>,
    /// The queues at which nobody is at work.
    absent: Vec<&'static str>,
    /// What is left of actors that were killed: their groups may have members.
    leftovers: Vec<Actor>,
    attached: Option<std::process::Child>,
    names: u64,
    summary: Summary,
    /// So much of mqfs' log was looked at.
    log: usize,
}

/// Runs a campaign; what the checker says against mqfs in the first episode that has something, and what happened.
pub fn run(plan: Plan, rerun: &str) -> (Vec<Violation>, Summary) {
    let random = Random::new();
    let seed = random.seed();
    let disk = plan.power.map(Disk::new);
    let mount = match &disk {
        Some(disk) => Mount::with_store_in(&disk.path(), &[]),
        None => Mount::new(),
    };
    let from = vec![mount.store(), mount.log_path(), mount.scratch()];
    let name = plan.name;
    let mut campaign = Campaign {
        random,
        mount,
        disk,
        cast: CAST.iter().map(|_| None).collect(),
        absent: Vec::new(),
        leftovers: Vec::new(),
        attached: None,
        names: 0,
        summary: Summary::default(),
        log: 0,
        plan,
    };
    let evidence = Evidence::of(name, seed, from, format!("{rerun} --seed {seed}"));
    let violations = campaign.run();
    if !violations.is_empty() && !campaign.plan.control {
        // Whoever expects none panics, but the store is gone by then.
        evidence.keep();
    }
    (violations, campaign.summary)
}

impl Campaign {
    fn run(&mut self) -> Vec<Violation> {
        for promises in &QUEUES {
            self.mount.queue_with(promises.queue, &[COMMON, promises.config]);
        }
        fs::File::open(self.mount.path()).and_then(|root| root.sync_all()).expect("sync the queues");
        self.attached = self.plan.attach.map(|attach| attach(self.mount.pid()));
        let began = Instant::now();
        loop {
            let violations = self.episode();
            // On a slow machine an episode may be over before anything has happened.
            let enough = self.plan.control || self.summary.is_enough() || self.summary.episodes >= 10;
            if !violations.is_empty() || enough && began.elapsed() >= self.plan.length {
                return violations;
            }
            println!("{:>6} s: {}", began.elapsed().as_secs(), self.summary);
        }
    }

    fn journals(&self) -> PathBuf {
        self.mount.scratch().join(format!("episode-{}", self.summary.episodes))
    }

    fn episode(&mut self) -> Vec<Violation> {
        self.summary.episodes += 1;
        fs::create_dir(self.journals()).expect("a directory for the journals");
        self.choose_queues();
        let began = Instant::now();
        while began.elapsed() < self.plan.episode {
            self.replace_the_dead();
            self.wait_for(if self.plan.power.is_some() { 1500 } else { 700 });
            self.kill_somebody();
            self.crash();
            self.observe(|observer| observer.list());
        }
        self.end_actors();
        self.observe(|observer| observer.count());
        // What the counters are after a crash without anybody at work.
        self.crash();
        self.observe(|observer| {
            observer.count();
            observer.list();
            observer.list();
            observer.empty();
            observer.look_behind();
            observer.sweep();
        });
        self.mount.remount();
        self.observe(|observer| observer.look_for_files());
        self.look_at_log();
        let lines = read_all(&self.journals());
        self.summary.add(&lines);
        let violations = check(&lines, &self.plan.promises);
        if violations.is_empty() {
            fs::remove_dir_all(self.journals()).expect("remove the journals");
        }
        violations
    }

    fn observe(&mut self, look: impl FnOnce(&mut Observer<'_>)) {
        look(&mut Observer::new(&self.mount, &self.journals(), "campaign"));
    }

    /// At first everybody is at work. Later few may be, because what is alone at a time is served in other ways.
    fn choose_queues(&mut self) {
        let most = if self.summary.is_enough() { self.random.below(4) } else { 0 };
        self.absent = QUEUES.iter().map(|promises| promises.queue).filter(|_| self.random.below(4) < most).collect();
        if self.absent.len() == QUEUES.len() {
            self.absent.clear();
        }
    }

    fn wait_for(&mut self, milliseconds: u64) {
        if self.plan.control {
            // There is one life only, in which something has to be acknowledged.
            sleep(Duration::from_secs(1));
            let told = |line: &Line| matches!(line.event, Event::Acknowledged { .. });
            poll(LIMIT, || read_all(&self.journals()).iter().any(told));
            return;
        }
        // Short lives are as telling as long ones.
        let most = if self.random.below(4) == 0 { 60 } else { milliseconds };
        // Until enough has happened those of each episode are longer: the machine may be slow.
        let most = if self.summary.is_enough() { most } else { most * self.summary.episodes as u64 };
        sleep(Duration::from_millis(self.random.below(most)));
    }

    fn replace_the_dead(&mut self) {
        for (slot, (queue, role)) in CAST.iter().enumerate() {
            if self.cast[slot].is_none() && !self.absent.contains(queue) {
                self.names += 1;
                let name = format!("p{}", self.names);
                let part = Part {
                    role: *role,
                    queue: (*queue).to_owned(),
                    dir: self.mount.path().join(queue),
                    journal: self.journals().join(format!("{queue}.{name}.jsonl")),
                    name,
                    seed: self.random.below(u64::MAX >> 12),
                };
                self.cast[slot] = Some(part.start(self.mount.path()));
            }
        }
    }

    /// Sometimes one process, which leaves its children behind, sometimes a whole script.
    fn kill_somebody(&mut self) {
        for _ in 0..self.random.below(4) {
            let slot = self.random.below(CAST.len() as u64) as usize;
            let Some(mut actor) = self.cast[slot].take() else { continue };
            self.summary.actors += 1;
            // Where one worker at a time is the rule nothing of the one before may be left.
            if self.random.below(2) == 0 && !super::promises::of(CAST[slot].0).is_some_and(|queue| queue.in_order) {
                actor.kill_alone();
                self.leftovers.push(actor);
            } else {
                assert!(actor.kill(), "an actor does not end");
            }
        }
    }

    fn end_actors(&mut self) {
        let actors: Vec<Actor> =
            self.cast.iter_mut().filter_map(Option::take).chain(self.leftovers.drain(..)).collect();
        actors.iter().for_each(|actor| {
            actor.kill_group();
        });
        for actor in actors {
            assert!(actor.kill(), "an actor does not end");
        }
        self.mount.end_programs();
    }

    /// Mqfs ends without grace, and is mounted again.
    fn crash(&mut self) {
        self.end_mqfs();
        // Now and then it does not get through its start, either.
        for _ in 0..self.random.below(6).saturating_sub(3) {
            self.mount.launch();
            sleep(Duration::from_millis(self.random.below(120)));
            self.end_mqfs();
        }
        let from = now();
        self.mount.start();
        Journal::open(&self.journals().join("mounts.jsonl")).note(Event::Mounted { from });
    }

    /// Mqfs is killed, sometimes when it is about to end, or loses its disk and is killed.
    fn end_mqfs(&mut self) {
        self.summary.kills += 1;
        let Some(disk) = self.disk.take() else {
            let asked = self.random.below(8) == 0;
            if asked {
                self.mount.signal(libc::SIGTERM);
                sleep(Duration::from_millis(self.random.below(60)));
            }
            let status = self.mount.cut_short();
            // Asked to end it may be faster, with 0, or with 8 before it was mounted; earliest still, the signal ends it.
            let asked_to = asked && (matches!(status.code(), Some(0 | 8)) || status.signal() == Some(libc::SIGTERM));
            assert!(status.signal() == Some(libc::SIGKILL) || asked_to, "mqfs ended by itself: {status}");
            return;
        };
        let from = now();
        disk.cut_the_power();
        self.mount.cut_short();
        self.detach();
        disk.start_again();
        self.disk = Some(disk);
        self.summary.cuts += 1;
        Journal::open(&self.journals().join("cuts.jsonl")).note(Event::Cut { from });
    }

    /// It ends when mqfs has.
    fn detach(&mut self) {
        if let Some(mut attached) = self.attached.take() {
            attached.wait().expect("the attached program ends");
        }
    }

    /// Without a power cut there is nothing that mqfs should complain of, but a mount that went away before an answer did.
    fn look_at_log(&mut self) {
        let log = self.mount.log();
        let mut journal = Journal::open(&self.journals().join("log.jsonl"));
        for line in log[self.log..].lines() {
            let error = self.disk.is_none() && line.contains("ERROR") && !line.contains("Failed to send FUSE reply");
            if error || line.contains("panicked at") {
                journal.note(Event::Complaint { text: line.to_owned() });
            }
        }
        self.log = log.len();
    }
}

impl Drop for Campaign {
    fn drop(&mut self) {
        let actors: Vec<Actor> = self.cast.drain(..).flatten().chain(self.leftovers.drain(..)).collect();
        actors.iter().for_each(|actor| {
            actor.kill_group();
        });
        actors.into_iter().for_each(|actor| {
            actor.kill();
        });
        if let Some(attached) = &mut self.attached {
            let _ = attached.kill();
            let _ = attached.wait();
        }
    }
}

impl Summary {
    fn add(&mut self, lines: &[Line]) {
        let (mut acknowledged, mut delivered, mut dead_letters) = (HashSet::new(), HashSet::new(), HashSet::new());
        for line in lines {
            match &line.event {
                Event::Offered { .. } => self.offered += 1,
                Event::Acknowledged { id, .. } => self.acknowledged += usize::from(acknowledged.insert(id)),
                Event::Delivered { id, queue, dead, .. } => {
                    self.dead += usize::from((*dead || queue == GRAVES) && dead_letters.insert(id));
                    self.delivered += 1;
                    self.redelivered += usize::from(!delivered.insert(id));
                }
                Event::Acked { .. } => self.acked += 1,
                Event::Purged { .. } => self.purges += 1,
                Event::Moved { synced: false, .. } => self.moved += 1,
                Event::Refused { .. } => self.refused += 1,
                _ => {}
            }
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Summary {
            episodes,
            kills,
            cuts,
            actors,
            offered,
            acknowledged,
            delivered,
            redelivered,
            acked,
            moved,
            dead,
            purges,
            refused,
        } = self;
        write!(
            f,
            "{episodes} episodes: mqfs killed {kills} times, {cuts} power cuts, {actors} producers and workers killed; messages: \
             {offered} offered, {acknowledged} acknowledged, {delivered} delivered, {redelivered} of them again, {acked} acked, {moved} moved, \
             {dead} dead letters; {purges} purges; {refused} calls refused"
        )
    }
}
