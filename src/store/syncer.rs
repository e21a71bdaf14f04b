//! Group commit: one thread that makes writes durable for all who wait.
//!
//! Whoever needs durability writes first (unsynced, see [`super::db`]) and then hands over what is to happen afterwards.
//! While one sync is under way, everything that arrives waits for the next: so the number of syncs does not grow with the
//! number of producers.
//!
//! Handing a sync over and being told of its end costs two wake-ups, a good part of what the sync itself takes. A producer that
//! is alone waits for nothing else, so the thread that serves it syncs by itself ([`Syncer::after_sync_serving`]), unless
//! others wait for that thread, or did so during the last such sync, or the disk is slow.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use crate::background::Alarm;
use crate::error::Result;
use crate::on_behalf;

use super::db::Db;
use super::removals::Removals;

/// What happens when a sync has succeeded or failed. It runs on the syncer's thread and must not wait for another sync.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// Whether a request waits to be served.
pub type Probe = Box<dyn Fn() -> bool + Send + Sync>;

enum Job {
    /// Sync the log, then call, on behalf of this user.
    Sync(Done, Option<u32>),
    /// Once a sync has made durable what was written so far, remove a body file.
    Remove(u64),
}

/// The thread and the way to it.
pub struct Syncer {
    db: Arc<Db>,
    jobs: Mutex<Option<Sender<Job>>>,
    /// That which syncs, and that which removes files, and ends when the first has.
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Syncs so far; a figure for users, ordered with nothing.
    syncs: Arc<AtomicU64>,
    /// What is handed over and not done yet. A hint: a serving thread that misreads it syncs once more or hands over.
    pending: Arc<AtomicU64>,
    probe: OnceLock<Probe>,
    /// So many more syncs of a serving thread are handed over. Only that thread changes it.
    crowded: AtomicU32,
}

/// A serving thread does not sync by itself for so many syncs after it kept others waiting...
const CROWDED_FOR: u32 = 64;
/// ...and after a sync that took longer than this.
const SLOW: Duration = Duration::from_millis(2);

impl Syncer {
    /// Starts the thread.
    pub fn start(db: Arc<Db>, removals: Arc<Removals>, alarm: &Alarm) -> std::io::Result<Self> {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let syncs = Arc::new(AtomicU64::new(0));
        let pending = Arc::new(AtomicU64::new(0));
        let of_thread = (db.clone(), syncs.clone(), pending.clone());
        let raised = alarm.clone();
        // The removal of a large file takes its time, and nobody who waits for a sync is to wait for that.
        let (gone, files) = crossbeam_channel::unbounded::<u64>();
        let work = move || run(&of_thread.0, &receiver, &gone, (&of_thread.1, &of_thread.2), &raised);
        let threads = vec![
            alarm.spawn(THREAD, work)?,
            alarm.spawn("mqfs-remove", move || files.into_iter().for_each(|id| removals.remove(id)))?,
        ];
        Ok(Self {
            db,
            jobs: Mutex::new(Some(sender)),
            threads: Mutex::new(threads),
            syncs,
            pending,
            probe: OnceLock::new(),
            crowded: AtomicU32::new(0),
        })
    }

    /// From now on the thread that serves requests may sync by itself when `probe` says that none waits.
    pub fn serve(&self, probe: Probe) {
        self.probe.get_or_init(|| probe);
    }

    /// As [`Syncer::after_sync`], for the one thread that serves requests: it may sync by itself before this returns.
    pub fn after_sync_serving(&self, done: Done) {
        let Some(others) = self.probe.get() else { return self.after_sync(done) };
        let crowded = self.crowded.load(Ordering::Relaxed);
        if crowded > 0 {
            self.crowded.store(crowded - 1, Ordering::Relaxed);
            return self.after_sync(done);
        }
        if self.pending.load(Ordering::Relaxed) > 0 || others() {
            return self.after_sync(done);
        }
        let began = Instant::now();
        let result = self.db.sync();
        self.syncs.fetch_add(1, Ordering::Relaxed);
        // Before the answer, which lets its producer ask for the next thing.
        if began.elapsed() > SLOW || others() {
            self.crowded.store(CROWDED_FOR, Ordering::Relaxed);
        }
        if let Err(error) = &result {
            tracing::error!(%error, "sync of the store failed");
        }
        done(result);
    }

    /// Syncs so far.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Calls `done` once everything that was written before this call survives a power cut.
    pub fn after_sync(&self, done: Done) {
        self.send(Job::Sync(done, on_behalf::user()));
    }

    /// Removes a body file once the deletion of its record, written before this call, survives a power cut: the record
    /// must never come back without its body.
    pub fn remove_file(&self, id: u64) {
        self.send(Job::Remove(id));
    }

    fn send(&self, job: Job) {
        self.pending.fetch_add(1, Ordering::Relaxed);
        let refused = match self.jobs.lock().as_ref() {
            Some(sender) => sender.send(job).err().map(|error| error.0),
            None => Some(job),
        };
        if let Some(Job::Sync(done, _)) = refused {
            done(Err(crate::error::Error::GoingAway));
        }
    }

    /// Does what is waiting and ends the threads.
    pub fn stop(&self) {
        drop(self.jobs.lock().take());
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join(); // a panic was told
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

const THREAD: &str = "mqfs-sync";

fn run(db: &Db, jobs: &Receiver<Job>, gone: &Sender<u64>, (syncs, pending): (&AtomicU64, &AtomicU64), alarm: &Alarm) {
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
        pending.fetch_sub(batch.len() as u64, Ordering::Relaxed);
        for job in batch {
            match job {
                Job::Sync(done, user) => {
                    let result = match &result {
                        Ok(()) => Ok(()),
                        Err(error) => Err(error.again()),
                    };
                    alarm.guard(THREAD, || on_behalf::of(user, || done(result)));
                }
                // Otherwise, or when that thread has panicked, it is swept at the next start.
                Job::Remove(id) => drop(result.is_ok().then(|| gone.send(id))),
            }
        }
    }
}
