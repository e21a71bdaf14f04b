//! Serving one mount, from before the first request to after the last.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::daemon;
use super::device::{Device, Session};
use super::dispatch::Admitted;
use super::helper::Helper;
use super::mount::{self, MountError};
use super::mountinfo;
use super::options::{Access, MountOptions};
use super::remounts;
use super::signals::{Serving, Signals};
use super::spin::Spin;
use crate::queue::access::Guise;
use crate::store::Store;
use crate::view::{View, ViewOptions, metrics};

/// How long open files are served after the mount was taken off.
const PATIENCE: Duration = Duration::from_secs(10);
/// When none of them is being written, and nobody has read for so long, nobody is waited for: what a reader has claimed is
/// delivered again, and it may keep the file open for the hours that its work takes.
const IDLE: Duration = Duration::from_secs(2);
/// How long the kernel is given to end the session when no file is open: it covers who is in the middle of an open.
const GRACE: Duration = Duration::from_millis(100);
/// How often the open files are counted meanwhile.
const LOOK: Duration = Duration::from_millis(10);

/// What the main thread waits for.
#[derive(Debug)]
enum Event {
    /// A signal asked for the end.
    Asked(i32),
    /// The kernel ended the session: somebody unmounted.
    Ended(io::Result<()>),
    /// A background thread of that name has panicked.
    Panicked(String),
}

/// What has to be there before any other thread is.
#[derive(Debug)]
pub struct Control {
    serving: Arc<Serving>,
    sender: Sender<Event>,
    events: Receiver<Event>,
}

impl Control {
    /// Handles the signals that were blocked; see [`Signals::handle`] for `hurried`.
    pub fn new(signals: Signals, hurried: u8) -> io::Result<Control> {
        let (sender, events) = channel();
        let asked = sender.clone();
        // The main thread is gone only when the process is ending anyway.
        let serving = signals.handle(hurried, move |signal| drop(asked.send(Event::Asked(signal))))?;
        Ok(Control { serving, sender, events })
    }
}

/// A mount that works.
pub struct Server {
    view: Arc<View>,
    point: PathBuf,
    /// The mounted filesystem's `MAJOR:MINOR`, to know it again.
    device: Option<String>,
    helper: Option<Helper>,
    events: Receiver<Event>,
    session: JoinHandle<()>,
}

/// Mounts `store` at `point` and starts to serve it.
pub fn start(
    control: Control,
    store: Store,
    point: &Path,
    source: &OsStr,
    options: &MountOptions,
    helper: Option<Helper>,
) -> Result<Server, MountError> {
    let view_options = ViewOptions {
        mount: metrics::label(point.as_os_str().as_bytes()),
        read_only: options.read_only(),
        guise: Guise { uid: options.uid, gid: options.gid, umask: options.umask },
    };
    let view =
        View::new(store, view_options).map_err(|error| MountError::Other(format!("cannot start serving: {error}")))?;
    match start_session(&control, &view, point, source, options, helper.as_ref()) {
        Ok((session, device)) => {
            Ok(Server { view, point: point.to_owned(), device, helper, events: control.events, session })
        }
        Err(error) => {
            view.begin_shutdown();
            view.close();
            Err(error)
        }
    }
}

fn start_session(
    control: &Control,
    view: &Arc<View>,
    point: &Path,
    source: &OsStr,
    options: &MountOptions,
    helper: Option<&Helper>,
) -> Result<(JoinHandle<()>, Option<String>), MountError> {
    control.serving.begin();
    let channel = mount::attach(point, source, options, helper)?;
    // A failure from here on leaves a mount behind, which has to go as well.
    let undo = |error: io::Error| {
        let _ = mount::take_off(point, helper);
        MountError::Other(format!("cannot start serving: {error}"))
    };
    let number = mountinfo::at(point).map_err(undo)?.map(|entry| entry.device);
    if let (Some(helper), Some(number)) = (helper, &number) {
        helper.mounted(number).map_err(undo)?;
    }
    let (spin, device) = (Spin::new(options.spin), Device::new(channel));
    let by = (options.transport, point);
    let session =
        Session::begin(device.clone(), view.clone(), spin.clone(), admitted(options.access), by).map_err(undo)?;
    if !session.by_rings() {
        spin.attach(device.as_fd().try_clone_to_owned().map_err(undo)?).map_err(undo)?;
    }
    view.serve(session.probe().map_err(undo)?);
    let panicked = control.sender.clone();
    view.alarm().watch(move |name| drop(panicked.send(Event::Panicked(name.to_owned()))));
    let sender = control.sender.clone();
    // What a panic leaves behind is not looked at any more: the mount ends.
    let run = AssertUnwindSafe(move || session.run());
    let panicked = |_| Err(io::Error::other("bug: the thread that serves panicked"));
    let serve = move || drop(sender.send(Event::Ended(catch_unwind(run).unwrap_or_else(panicked))));
    if let Some(number) = number.clone() {
        remounts::follow(view, number).map_err(undo)?;
    }
    // By this name it is found when nobody answers, by those who may not look at our descriptors.
    let name = mountinfo::session_name(number.as_deref().unwrap_or_default());
    let session = thread::Builder::new().name(name).spawn(serve).map_err(undo)?;
    Ok((session, number))
}

/// Without `allow_other` the kernel lets in nobody but the owner, and we need not look: a check of ours would refuse the FLUSH of a
/// process that changed its user after it opened a file, and `close` would fail for it.
fn admitted(access: Access) -> Admitted {
    match access {
        Access::Owner | Access::AllowOther => Admitted::All,
        Access::AllowRoot => Admitted::RootAnd(rustix::process::geteuid().as_raw()),
    }
}

impl Server {
    /// Serves until somebody unmounts or a signal asks for the end, and finishes in order: what is committed is safe,
    /// what is not is dropped and logged.
    pub fn run(self) -> io::Result<()> {
        let mut panicked = None;
        let mut ended = match self.events.recv() {
            Ok(Event::Asked(signal)) => {
                tracing::info!("asked to end by signal {signal}");
                None
            }
            Ok(Event::Ended(result)) => Some(result),
            Ok(Event::Panicked(name)) => {
                tracing::error!(thread = name, "ending: what it has to do nobody would do any more");
                panicked = Some(io::Error::other(format!("bug: the background thread {name} panicked")));
                None
            }
            Err(_) => Some(Err(io::Error::other("bug: nobody watches the session"))),
        };
        self.view.begin_shutdown();
        self.take_off();
        if ended.is_none() {
            ended = self.serve_the_rest();
        }
        if let Some(Ok(())) = ended {
            self.view.release_all();
        }
        self.view.close();
        let Some(result) = ended else {
            // The kernel still has files of ours open, and the thread that serves them still reads.
            daemon::leave(panicked.map_or(0, |_| 1));
        };
        if self.session.join().is_err() {
            return Err(io::Error::other("bug: the session's thread panicked"));
        }
        tracing::info!("unmounted {}", self.point.display());
        match panicked.map_or(result, Err) {
            // What `umount -f` leads to.
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
            result => result,
        }
    }

    /// Takes the mount off its mount point, unless it is no longer there or another one covers it.
    fn take_off(&self) {
        let uppermost = mountinfo::at(&self.point).ok().flatten().map(|entry| entry.device);
        if uppermost.is_none() || uppermost != self.device {
            return;
        }
        if let Err(error) = mount::take_off(&self.point, self.helper.as_ref()) {
            tracing::warn!("cannot take the mount off {}: {error}", self.point.display());
        }
    }

    /// Serves open files for up to [`PATIENCE`], those that are only read for as long as they are. Returns how the session
    /// ended if it did.
    fn serve_the_rest(&self) -> Option<io::Result<()>> {
        let start = Instant::now();
        let (mut busy, mut served) = (start, self.view.activity());
        loop {
            match self.events.recv_timeout(LOOK) {
                Ok(Event::Ended(result)) => return Some(result),
                // A second signal never gets here.
                Ok(Event::Asked(_) | Event::Panicked(_)) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            let (open, waited) = (self.view.open_files(), start.elapsed());
            if open == 0 && waited >= GRACE {
                return None;
            }
            let activity = self.view.activity();
            if activity != served {
                (busy, served) = (Instant::now(), activity);
            }
            if self.view.written_files() == 0 && busy.elapsed() >= IDLE {
                tracing::info!("{open} files are open, and nobody reads or writes them: leaving");
                return None;
            }
            if waited >= PATIENCE {
                tracing::warn!("{open} files are still open after {} s: leaving", PATIENCE.as_secs());
                return None;
            }
        }
    }
}
