//! Group commit: one thread that makes writes durable for all who wait.
//!
//! Whoever needs durability writes first (unsynced, see [`super::db`]) and then hands over what is to happen afterwards.
//! While one sync is under way, everything that arrives waits for the next: so the number of syncs does not grow with the
//! number of producers.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use crate::error::Result;

use super::db::Db;

/// What happens when a sync has succeeded or failed. It runs on the syncer's thread and must not wait for another sync.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

enum Job {
    /// Sync the log, then call.
    Sync(Done),
    /// Once a sync has made durable what was written so far, remove a body file.
    Remove(PathBuf),
}

/// The thread and the way to it.
pub struct Syncer {
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Syncs so far; a figure for users, ordered with nothing.
    syncs: Arc<AtomicU64>,
}

impl Syncer {
    /// Starts the thread.
    pub fn start(db: Arc<Db>) -> std::io::Result<Self> {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let syncs = Arc::new(AtomicU64::new(0));
        let count = syncs.clone();
        let work = move || run(&db, &receiver, &count);
        let thread = std::thread::Builder::new().name("mqfs-sync".into()).spawn(work)?;
        Ok(Self { jobs: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)), syncs })
    }

    /// Syncs so far.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Calls `done` once everything that was written before this call survives a power cut.
    pub fn after_sync(&self, done: Done) {
        self.send(Job::Sync(done));
    }

    /// Removes a body file once the deletion of its record, written before this call, survives a power cut: the record
    /// must never come back without its body.
    pub fn remove_file(&self, path: PathBuf) {
        self.send(Job::Remove(path));
    }

    fn send(&self, job: Job) {
        let refused = match self.jobs.lock().as_ref() {
            Some(sender) => sender.send(job).err().map(|error| error.0),
            None => Some(job),
        };
        if let Some(Job::Sync(done)) = refused {
            done(Err(crate::error::Error::GoingAway));
        }
    }

    /// Does what is waiting and ends the thread.
    pub fn stop(&self) {
        drop(self.jobs.lock().take());
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the sync thread panicked");
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The longest that the first of a crowd waits for the others.
const GATHER_MAX: Duration = Duration::from_micros(500);

fn run(db: &Db, jobs: &Receiver<Job>, syncs: &AtomicU64) {
    // A sync costs processor time that producers need as well. When the one before served or met several, more are on their
    // way: waiting for them about as long as a sync takes makes one of many. A producer that is alone never waits.
    let (mut crowd, mut gather) = (0, Duration::ZERO);
    while let Ok(first) = jobs.recv() {
        if crowd > 1 {
            std::thread::sleep(gather);
        }
        // Whatever was written by those in the queue now was written before this sync begins.
        let batch: Vec<Job> = std::iter::once(first).chain(jobs.try_iter()).collect();
        let began = Instant::now();
        let result = db.sync();
        gather = began.elapsed().min(GATHER_MAX);
        crowd = batch.len() + jobs.len();
        syncs.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = &result {
            tracing::error!(%error, "sync of the store failed");
        }
        for job in batch {
            match job {
                Job::Sync(done) => done(match &result {
                    Ok(()) => Ok(()),
                    Err(error) => Err(std::io::Error::other(error.to_string()).into()),
                }),
                Job::Remove(path) if result.is_ok() => super::bodies::remove(&path),
                Job::Remove(_) => {} // swept at the next start
            }
        }
    }
}
