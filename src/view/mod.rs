//! The filesystem as users see it: nodes, lookup, listing, handles, renames as transitions, control files.
//!
//! Each call here is one request of the kernel's, already decoded: it answers at once, except where durability is asked for, which
//! takes a callback, and where a reader waits. So it can be driven without a mount. Most calls come from the one thread that reads
//! the kernel's requests; the deadline thread, the watch thread, the sync thread and the body threads are the others.
//!
//! In which order locks may be taken says [`crate::locks`].

pub mod access;
mod arrivals;
mod attributes;
mod backup;
mod batch;
mod control;
mod create;
mod deadlines;
mod deliveries;
mod descriptors;
mod draft;
mod few;
mod handles;
mod held;
mod holders;
mod kept;
mod limits;
mod line;
pub(crate) mod line_cut;
mod line_part;
mod line_reader;
mod line_writer;
mod listing;
mod locking;
mod look;
mod lookup;
mod marks;
pub mod metrics;
mod nack;
mod names;
mod node;
mod offload;
mod open;
mod open_body;
mod own;
pub mod process;
mod properties;
mod publishing;
mod purge;
mod queues;
mod read;
mod remove;
mod rename;
mod rendering;
mod setattr;
mod settled;
mod staged;
mod staging;
mod stats;
mod survey;
mod take;
mod telling;
mod turns;
mod unfinished;
mod waiters;
mod watch;
mod with;
mod workers;
mod writer;
pub mod xattr;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rustix::process::Resource;

pub use attributes::{Attributes, Kind};
pub use listing::DirectoryEntry;
pub use node::{Node, Via};
pub use open::Opened;
pub use setattr::Change;

use crate::background::Alarm;
use crate::error::{Error, Result};
use crate::fair::FairMap;
use crate::locks::{self, Ranked};
use crate::on_behalf;
use crate::queue::access::Guise;
use crate::store::{Done, Probe, Store, Usage};
use arrivals::Arrivals;
use backup::Backup;
use deliveries::Deliveries;
use draft::DraftUse;
use handles::Handles;
use locking::Locking;
use look::Look;
use names::BareNames;
use offload::{By, Call, Offload, once};
use staged::Staged;
use telling::Telling;
use waiters::Waiters;
use with::Givens;
use workers::Workers;
use writer::SharedWriter;

/// More bytes than this, 64 MiB, are many for one message: at some gigabytes a second, others can wait while so many are read.
const LONG: u64 = 64 << 20;

/// How a mount differs from the default.
#[derive(Clone, Debug, Default)]
pub struct ViewOptions {
    /// Where it is mounted, as text: what metrics are told apart by.
    pub mount: String,
    /// Nothing is changed and reading never claims.
    pub read_only: bool,
    /// To whom everything is shown to belong.
    pub guise: Guise,
}

/// A mounted store.
pub struct View {
    store: Store,
    options: ViewOptions,
    handles: Handles,
    writers: Ranked<HashMap<u64, Arc<SharedWriter>>, { locks::WRITERS }>,
    drafts: Ranked<HashMap<u64, DraftUse>, { locks::DRAFTS }>,
    /// Batches that are being enqueued: nothing in them can be changed.
    enqueued: Ranked<HashSet<u64>, { locks::BATCHES }>,
    /// What names mean to the sessions that gave them.
    names: Ranked<BareNames, { locks::NAMES }>,
    locking: Locking,
    /// Batches that go with their last close.
    staged: Staged,
    givens: Mutex<Givens>,
    deliveries: Mutex<Deliveries>,
    /// Messages on their way into queues that keep names.
    arrivals: Arrivals,
    /// Messages that were replaced lately in queues that keep names, by who did that.
    replaced: Ranked<FairMap<u64, ()>, { locks::REPLACED }>,
    workers: Workers,
    /// For the thread that serves requests.
    look: Look,
    /// For the thread of the deadlines.
    look_for_leases: Look,
    offload: Offload,
    /// For what reads every byte of what may be as large as the disk, so that no close waits behind it.
    long: Offload,
    /// For the sync of directories, which takes as long as the disk needs for all that is there.
    directories: Offload,
    /// Purges, and clears away what was purged.
    purging: Offload,
    /// Puts together what tells of all queues. Closes do not wait for that.
    telling: Telling,
    waiters: Arc<Waiters>,
    /// Counts the nodes given out for the lines of queues that let their producers wait.
    lanes: AtomicU32,
    /// Requests served so far. Only a measure of how busy it is: no order with anything else is needed.
    activity: AtomicU64,
    going_away: AtomicBool,
    /// The mount is read-only now. Only what begins afterwards is refused: no order with anything else is needed.
    read_only: AtomicBool,
    /// Set by [`View::close`]; held while a file is released, so that what its last close enqueues is, or is not begun.
    closed: Ranked<bool, { locks::RELEASES }>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The threads that clear away what was purged before this mount, or keep a snapshot.
    purges: Mutex<Vec<JoinHandle<()>>>,
    /// The backup that is being made.
    backup: Ranked<Option<Arc<Backup>>, { locks::BACKUP }>,
    /// Held by the thread that makes a snapshot, until it has removed it.
    snapshot: Ranked<(), { locks::SNAPSHOT }>,
}

impl View {
    /// Makes a view of an open store and starts its threads.
    pub fn new(mut store: Store, options: ViewOptions) -> std::io::Result<Arc<Self>> {
        store.show_as(options.guise);
        let alarm = store.alarm().clone();
        let names = Ranked::new(BareNames::new(store.departures().clone()));
        let read_only = AtomicBool::new(options.read_only);
        let view = Arc::new(Self {
            store,
            options,
            handles: Handles::new(
                rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
                Self::process_owner(),
            ),
            writers: Ranked::default(),
            drafts: Ranked::default(),
            enqueued: Ranked::default(),
            names,
            locking: Locking::default(),
            staged: Staged::default(),
            givens: Mutex::default(),
            deliveries: Mutex::default(),
            arrivals: Arrivals::new(&alarm),
            replaced: Ranked::new(FairMap::new(kept::REPLACED)),
            workers: Workers::default(),
            look: Look::start(&alarm)?,
            look_for_leases: Look::start(&alarm)?,
            offload: Offload::start(&alarm, "mqfs-body", 3, 2)?,
            long: Offload::start(&alarm, "mqfs-long", 4, 3)?,
            directories: Offload::start(&alarm, "mqfs-fsync", 3, 2)?,
            purging: Offload::start(&alarm, "mqfs-purge", 3, 2)?,
            telling: Telling::start(&alarm)?,
            waiters: Arc::default(),
            lanes: AtomicU32::new(0),
            activity: AtomicU64::new(0),
            going_away: AtomicBool::new(false),
            read_only,
            closed: Ranked::default(),
            threads: Mutex::default(),
            purges: Mutex::default(),
            backup: Ranked::default(),
            snapshot: Ranked::default(),
        });
        let waiters = view.waiters.clone();
        view.store.watch_room(Box::new(move |queue| waiters.room_came(queue)));
        if !view.options.read_only {
            let threads: [(_, fn(&View)); 3] = [
                ("mqfs-deadlines", Self::keep_deadlines),
                ("mqfs-sweep", Self::sweep),
                ("mqfs-waiters", Self::keep_waiters),
            ];
            for (name, work) in threads {
                let of = view.clone();
                let thread = alarm.spawn(name, move || work(&of))?;
                view.threads.lock().push(thread);
            }
            let of = view.clone();
            view.in_background(move || of.clear_left())?;
        }
        Ok(view)
    }

    /// What is told when a thread that works in the background panics.
    pub fn alarm(&self) -> &Alarm {
        self.store.alarm()
    }

    fn sweep(&self) {
        match self.store.sweep() {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "removed body files that a crash had left behind"),
            Err(error) => tracing::warn!(%error, "sweep of the body files failed"),
        }
    }

    /// Tells how to see whether a request waits to be served. From then on closes may be synced by the thread that serves
    /// them.
    pub fn serve(&self, probe: Probe) {
        self.store.serve(probe);
    }

    /// Where so many bytes are read for a message: whoever publishes what is very large holds up none but others who do.
    fn offload_for(&self, bytes: u64) -> &Offload {
        if bytes > LONG { &self.long } else { &self.offload }
    }

    /// Counts a request.
    pub fn served(&self) {
        self.activity.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests served so far.
    pub fn activity(&self) -> u64 {
        self.activity.load(Ordering::Relaxed)
    }

    /// From now on nobody waits: blocked reads and new ones that would block are answered with [`Error::GoingAway`].
    pub fn begin_shutdown(&self) {
        self.going_away.store(true, Ordering::SeqCst);
        self.waiters.close();
    }

    /// Messages that are being written.
    pub fn open_writers(&self) -> usize {
        self.writers.lock().len()
    }

    /// Open files of any kind.
    pub fn open_files(&self) -> usize {
        self.handles.len()
    }

    /// Open files that somebody may be in the middle of writing.
    pub fn written_files(&self) -> usize {
        self.handles.written()
    }

    /// Ends everything: what is uncommitted is dropped and logged, the rest made durable. Call it once. A file whose last close is
    /// being served is released first.
    pub fn close(self: &Arc<Self>) {
        self.begin_shutdown();
        *self.closed.lock() = true;
        self.renew_held();
        self.end_backup();
        let purges = std::mem::take(&mut *self.purges.lock());
        join(purges);
        self.offload.stop();
        self.long.stop();
        self.directories.stop();
        self.purging.stop();
        self.telling.stop();
        self.look.stop();
        self.look_for_leases.stop();
        let open: Vec<Arc<SharedWriter>> = self.writers.lock().drain().map(|(_, writer)| writer).collect();
        for writer in open {
            let mut writer = writer.lock();
            on_behalf::of(Some(writer.uid), || self.drop_unfinished(&mut writer));
        }
        self.put_open_drafts();
        for lines in self.handles.line_writers() {
            self.drop_unfinished_lines(&lines);
        }
        if let Err(error) = self.store.close() {
            tracing::error!(%error, "the store was not closed cleanly; it recovers at the next mount");
        }
        join(self.threads.lock().drain(..));
    }

    /// Blocks of the file system under the store, those free for messages.
    pub fn usage(&self) -> Result<Usage> {
        self.store.space().usage()
    }

    /// Makes everything durable that was written before this call in a queue, or anywhere when that is the root, then calls: the
    /// bodies that a queue without durability did not wait for, and the log.
    fn sync(self: &Arc<Self>, queue: u64, by: By, done: Done) {
        let view = self.clone();
        // They may be many, and are looked for elsewhere, too.
        let work = move |turn| match turn {
            Call::Go => {
                let bodies = view.store.sync_bodies(queue);
                view.store.after_sync(Box::new(move |log| done(bodies.and(log))));
            }
            Call::Drop(why) => done(Err(why)),
        };
        self.directories.run(by, once(work));
    }

    /// Open files are served to their ends when the mount goes away; nothing new is begun.
    fn refuse_when_going_away(&self) -> Result<()> {
        if self.going_away.load(Ordering::SeqCst) { Err(Error::GoingAway) } else { Ok(()) }
    }

    /// The mount has become read-only, or is so no more. One that was so from the beginning stays so: nothing keeps its deadlines.
    pub fn remounted(&self, read_only: bool) {
        let read_only = read_only || self.options.read_only;
        if self.read_only.swap(read_only, Ordering::Relaxed) != read_only {
            tracing::info!(read_only, "remounted");
        }
    }

    fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    fn refuse_read_only(&self) -> Result<()> {
        if self.is_read_only() { Err(Error::MountReadOnly) } else { Ok(()) }
    }
}

fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        let _ = thread.join(); // a panic was told
    }
}
