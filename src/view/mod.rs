//! The filesystem as users see it: nodes, lookup, listing, handles, renames as transitions, control files.
//!
//! Each call here is one request of the kernel's, already decoded: it answers at once, except where durability is asked for, which
//! takes a callback. So it can be driven without a mount. Most calls come from the one thread that reads the kernel's requests; the
//! deadline thread, the sync thread and the body threads are the others.
//!
//! Locks, in the order in which they may be taken: a writer, a draft's use, the bare names, the handles, the store's own.

pub mod access;
mod attributes;
mod control;
mod create;
mod deadlines;
mod draft;
mod handles;
mod listing;
mod lookup;
mod names;
mod node;
mod offload;
mod open;
pub mod process;
mod queues;
mod read;
mod remove;
mod rename;
mod setattr;
mod staging;
mod stats;
mod workers;
mod writer;
pub mod xattr;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

pub use attributes::{Attributes, Kind};
pub use listing::DirectoryEntry;
pub use node::{Node, Via};
pub use open::Opened;
pub use setattr::Change;

use crate::error::{Error, Result};
use crate::store::{Done, Store, Usage};
use draft::DraftUse;
use handles::Handles;
use names::BareNames;
use offload::Offload;
use workers::Workers;
use writer::Writer;

/// How a mount differs from the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct ViewOptions {
    /// Nothing is changed and reading never claims.
    pub read_only: bool,
    /// Show this user as the owner of everything.
    pub uid: Option<u32>,
    /// Show this group as the group of everything.
    pub gid: Option<u32>,
    /// Show everything with the permissions that this mask leaves.
    pub umask: Option<u32>,
}

/// A mounted store.
pub struct View {
    store: Store,
    options: ViewOptions,
    handles: Handles,
    writers: Mutex<HashMap<u64, Arc<Mutex<Writer>>>>,
    drafts: Mutex<HashMap<u64, DraftUse>>,
    names: Mutex<BareNames>,
    workers: Workers,
    offload: Offload,
    /// Requests served so far. Only a measure of how busy it is: no order with anything else is needed.
    activity: AtomicU64,
    going_away: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl View {
    /// Makes a view of an open store and starts its threads.
    pub fn new(store: Store, options: ViewOptions) -> std::io::Result<Arc<Self>> {
        let view = Arc::new(Self {
            store,
            options,
            handles: Handles::default(),
            writers: Mutex::default(),
            drafts: Mutex::default(),
            names: Mutex::default(),
            workers: Workers::default(),
            offload: Offload::start()?,
            activity: AtomicU64::new(0),
            going_away: AtomicBool::new(false),
            threads: Mutex::default(),
        });
        if !options.read_only {
            let threads =
                [("mqfs-deadlines", Self::keep_deadlines as fn(&View)), ("mqfs-sweep", Self::sweep as fn(&View))];
            for (name, work) in threads {
                let of = view.clone();
                let thread = std::thread::Builder::new().name(name.into()).spawn(move || work(&of))?;
                view.threads.lock().push(thread);
            }
        }
        Ok(view)
    }

    fn sweep(&self) {
        match self.store.sweep() {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "removed body files that a crash had left behind"),
            Err(error) => tracing::warn!(%error, "sweep of the body files failed"),
        }
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
    }

    /// Messages that are being written.
    pub fn open_writers(&self) -> usize {
        self.writers.lock().len()
    }

    /// Open files of any kind.
    pub fn open_files(&self) -> usize {
        self.handles.len()
    }

    /// Ends everything: what is uncommitted is dropped and logged, the rest made durable. Call it once, when no request is
    /// being served any more.
    pub fn close(&self) {
        self.begin_shutdown();
        self.offload.stop();
        let open: Vec<Arc<Mutex<Writer>>> = self.writers.lock().drain().map(|(_, writer)| writer).collect();
        for writer in open {
            self.drop_unfinished(&mut writer.lock());
        }
        if let Err(error) = self.store.close() {
            tracing::error!(%error, "the store was not closed cleanly; it recovers at the next mount");
        }
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread panicked");
            }
        }
    }

    /// Blocks of the file system under the store, those free for messages.
    pub fn usage(&self) -> Result<Usage> {
        self.store.space().usage()
    }

    /// Makes everything written before this call durable, then calls.
    pub fn sync(&self, done: Done) {
        self.store.after_sync(done);
    }

    /// Open files are served to their ends when the mount goes away; nothing new is begun.
    fn refuse_when_going_away(&self) -> Result<()> {
        if self.going_away.load(Ordering::SeqCst) { Err(Error::GoingAway) } else { Ok(()) }
    }

    fn refuse_read_only(&self) -> Result<()> {
        if self.options.read_only { Err(Error::NotPermitted("the mount is read-only")) } else { Ok(()) }
    }
}
