//! A link that is kept running, as systemd would.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::ends::{End, SIDES};
use super::journal::{Event, Journal};
use crate::common::{LIMIT, Running, poll};
use crate::linking;

/// One that is younger may not have opened its queue yet.
const YOUNG: Duration = Duration::from_secs(2);
/// Between two looks at what is waited for.
pub const NAP: Duration = Duration::from_millis(50);

/// A link of one side.
pub struct Link {
    side: usize,
    arguments: Vec<String>,
    running: Option<(Running, Instant)>,
    /// Mqfs was killed so early that the link may not have found its queue.
    excused: bool,
    log: PathBuf,
    /// Messages that it has known, by what its processes have told last.
    pub duplicates: u64,
    connections: u64,
}

impl Link {
    /// One with these arguments, which does not run yet. What it says is added to a log.
    pub fn new(side: usize, arguments: Vec<String>, log: PathBuf) -> Link {
        Link { side, arguments, running: None, excused: false, log, duplicates: 0, connections: 0 }
    }

    fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        more.iter().copied().chain(self.arguments.iter().map(String::as_str)).collect()
    }

    /// Starts it unless it runs. One that has ended by itself is noted.
    pub fn keep(&mut self, end: &End, journal: &mut Journal) {
        if let Some((running, _)) = &mut self.running {
            if running.is_running() {
                return;
            }
            self.collect(end, journal, None);
        }
        let name = format!("name={}", SIDES[self.side]);
        self.running = Some((linking::start(&end.mount, &self.arguments(&["-o", &name])), Instant::now()));
        self.excused = false;
    }

    /// Mqfs is about to be killed.
    pub fn beware(&mut self) {
        self.excused |= self.running.as_ref().is_some_and(|(_, since)| since.elapsed() < YOUNG);
    }

    /// Kills it.
    pub fn kill(&mut self, end: &End, journal: &mut Journal) {
        self.signal(libc::SIGKILL, end, journal);
    }

    /// Asks it to end, which it does with exit status 0.
    pub fn end(&mut self, end: &End, journal: &mut Journal) {
        self.signal(libc::SIGTERM, end, journal);
    }

    fn signal(&mut self, signal: i32, end: &End, journal: &mut Journal) {
        let Some((running, since)) = &mut self.running else { return };
        if running.is_running() {
            let young = signal == libc::SIGTERM && since.elapsed() < YOUNG;
            running.signal(signal);
            if !poll(LIMIT, || !running.is_running()) {
                journal.note(&Event::Left { what: format!("the link {} does not end", SIDES[self.side]) });
            }
            // The signal may be there before it minds it.
            self.collect(end, journal, Some(if young { libc::SIGKILL } else { signal }));
        } else {
            self.collect(end, journal, None);
        }
    }

    /// Looks how it has ended, by a signal or by itself.
    fn collect(&mut self, end: &End, journal: &mut Journal, asked: Option<i32>) {
        let Some((running, _)) = self.running.take() else { return };
        let told = std::fs::read(end.mount.scratch().join(format!("mqfs-link/{}.json", SIDES[self.side])));
        let told: serde_json::Value = serde_json::from_slice(&told.unwrap_or_default()).unwrap_or_default();
        if told["pid"] == running.pid() {
            self.duplicates += told["duplicates"].as_u64().unwrap_or(0);
            self.connections += told["reconnects"].as_u64().unwrap_or(0) + 1;
        }
        let ran = running.finish();
        let said = format!("{}: {}", ran.status, ran.stderr.lines().last().unwrap_or_default());
        let text = format!("--- a link was started\n{}--- {}\n", ran.stderr, ran.status);
        let log = std::fs::File::options().create(true).append(true).open(&self.log);
        log.and_then(|mut log| std::io::Write::write_all(&mut log, text.as_bytes())).expect("a log");
        let expected = match ran.code() {
            None => asked == Some(libc::SIGKILL),
            Some(0) => asked.is_some(),
            Some(9) => self.excused,
            _ => false,
        };
        if !expected {
            journal.note(&Event::Ended { link: SIDES[self.side].to_owned(), said });
        }
        self.excused = false;
    }

    /// Connections that its processes have made.
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// Runs it until there is nothing left, which is to succeed.
    pub fn run_until_empty(&mut self, end: &End, journal: &mut Journal) {
        let name = format!("name={}", SIDES[self.side]);
        self.running =
            Some((linking::start(&end.mount, &self.arguments(&["--until-empty", "-o", &name])), Instant::now()));
        let running = &mut self.running.as_mut().unwrap().0;
        // However many there are: as long as something comes.
        let mut newest = (end.count("ready"), Instant::now());
        while running.is_running() && newest.1.elapsed() < LIMIT {
            std::thread::sleep(NAP);
            let count = end.count("ready");
            if count != newest.0 {
                newest = (count, Instant::now());
            }
        }
        if running.is_running() {
            journal.note(&Event::Left { what: format!("the link {} finds no end", SIDES[self.side]) });
            running.signal(libc::SIGKILL);
        }
        self.collect(end, journal, Some(libc::SIGTERM));
    }
}
