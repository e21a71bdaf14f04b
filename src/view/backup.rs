//! The mount's `.mq/backup`: whoever opens it has a snapshot of the store made, and reads where it is.
//!
//! The snapshot is there for as long as the file is open: `mqfs backup` takes it away meanwhile, with its own rights, so that
//! this process writes nowhere but in its store. What the file reads as, at its beginning, is one of
//!
//! - `preparing`;
//! - `ready PATH`, without a newline at the end: the snapshot's directory, which the reader may rename;
//! - `failed ERRNO REASON`.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};

use super::View;
use super::access::Caller;
use super::handles::Handle;
use super::open::Opened;

/// `backup`, open.
#[derive(Default)]
pub struct Backup {
    progress: Mutex<Progress>,
    closed: Condvar,
}

#[derive(Default)]
struct Progress {
    /// What the file reads as, once that is known.
    outcome: Option<Vec<u8>>,
    /// Nobody reads any more.
    closed: bool,
}

impl Backup {
    /// What the file reads as.
    pub fn text(&self) -> Vec<u8> {
        self.progress.lock().outcome.clone().unwrap_or_else(|| b"preparing\n".to_vec())
    }

    /// Nobody needs the snapshot any more.
    pub fn close(&self) {
        self.progress.lock().closed = true;
        self.closed.notify_all();
    }

    fn is_closed(&self) -> bool {
        self.progress.lock().closed
    }

    fn finish(&self, outcome: Vec<u8>) {
        self.progress.lock().outcome = Some(outcome);
    }

    fn wait_until_closed(&self) {
        let mut progress = self.progress.lock();
        while !progress.closed {
            self.closed.wait(&mut progress);
        }
    }
}

impl View {
    /// The user as whom this process runs, who can read the store, and whose descriptors open files are.
    pub(super) fn process_owner() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    /// Opens `backup`: begins a snapshot, for root and for who can read the store anyway. [`Error::Busy`] while another one is there.
    pub(super) fn open_backup(self: &Arc<Self>, caller: &Caller) -> Result<Opened> {
        if caller.uid != 0 && caller.uid != Self::process_owner() {
            return Err(Error::AccessDenied);
        }
        let backup = Arc::new(Backup::default());
        {
            let mut current = self.backup.lock();
            // One that is being cleared away is waited for.
            if current.as_ref().is_some_and(|current| !current.is_closed()) {
                return Err(Error::Busy);
            }
            *current = Some(backup.clone());
        }
        let (view, of) = (self.clone(), backup.clone());
        if let Err(error) = self.in_background(move || view.keep_snapshot(&of)) {
            *self.backup.lock() = None;
            return Err(error.into());
        }
        tracing::info!(uid = caller.uid, pid = caller.pid, "a backup begins");
        Ok(Opened { direct: true, ..Opened::plain(self.handles.add(caller, Handle::Backup(backup))) })
    }

    /// Makes a snapshot, and removes what is left of it when nobody needs it any more.
    fn keep_snapshot(&self, backup: &Backup) {
        let _alone = self.snapshot.lock();
        let begin = Instant::now();
        let going = || !backup.is_closed() && !self.going_away.load(Ordering::SeqCst);
        match self.store.make_snapshot(&going) {
            Ok((dir, manifest)) => {
                let ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
                let (messages, files) = (manifest.messages, manifest.files);
                tracing::info!(messages, files, ms, "a snapshot for a backup is made");
                backup.finish([b"ready ", dir.as_os_str().as_bytes()].concat());
                backup.wait_until_closed();
                self.store.drop_snapshot();
            }
            Err(error) => {
                tracing::warn!(%error, "no snapshot for a backup");
                backup.finish(format!("failed {} {error}\n", error.errno()).into_bytes());
                backup.wait_until_closed();
            }
        }
        self.backup.lock().take_if(|current| std::ptr::eq(&**current, backup));
    }

    /// The mount is going away: whoever makes a backup now has failed.
    pub(super) fn end_backup(&self) {
        if let Some(backup) = &*self.backup.lock() {
            backup.close();
        }
    }
}
