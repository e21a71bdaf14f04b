//! `mqfs mount`, and `mqfs STORE MOUNTPOINT -o OPTIONS` as mount(8) calls it.
//!
//! The order matters. What the arguments alone decide is checked first. Then the process forks, before it has a second
//! thread; the background process forks its helper, if it needs one, gives up its privileges, opens the store, mounts, and
//! tells the one in the foreground how it went.

use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::exit::{Exit, Failure};
use super::log;
use super::trust;
use crate::cli::MountArgs;
use crate::fuse::confine::{self, Reach};
use crate::fuse::daemon::{self, Outcome, Report, Side};
use crate::fuse::helper::Helper;
use crate::fuse::mount::{self, MountError};
use crate::fuse::mountinfo;
use crate::fuse::options::{Access, LogFormat, MountOptions};
use crate::fuse::serve::{self, Control, Server};
use crate::fuse::signals::Signals;
use crate::store::beneath::Trust;
use crate::store::{OpenError, Store};
use crate::view::process;

/// How long a store may stay locked by a process whose mount is gone already: it is finishing.
const STORE_PATIENCE: Duration = Duration::from_secs(15);
const STORE_PAUSE: Duration = Duration::from_millis(20);

/// A mount whose arguments are in order.
struct Plan {
    store: PathBuf,
    point: PathBuf,
    source: OsString,
    options: MountOptions,
    trust: Trust,
    log_format: LogFormat,
}

/// Runs the command. In the foreground it returns when the mount is gone, else when it works.
pub fn run(arguments: &MountArgs) -> Result<(), Failure> {
    let options = MountOptions::parse(&arguments.options).map_err(|line| Failure::new(Exit::Usage, line))?;
    let log_file = arguments.log_file.as_deref().or(options.log_file.as_deref());
    let target = log::Target::choose(log_file, arguments.foreground)?;
    let plan = check(arguments, options)?;
    let keep: Vec<BorrowedFd<'_>> = target.descriptor().into_iter().collect();
    if arguments.foreground {
        daemon::leave_to_the_caller(&keep);
        drop(keep);
        return serve(&plan, target, None);
    }
    match daemon::fork(&keep).map_err(cannot("go to the background"))? {
        Side::Caller(caller) => match caller.wait().map_err(cannot("learn whether the mount works"))? {
            Outcome::Started => Ok(()),
            Outcome::Failed(code, line) => Err(Failure::new(Exit::from_code(code), line)),
            Outcome::Died(line) => Err(Failure::new(Exit::Failure, line)),
        },
        Side::Daemon(report) => {
            drop(keep);
            background(&plan, target, report)
        }
    }
}

fn cannot(what: &str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::new(Exit::Failure, format_args!("cannot {what}: {error}"))
}

/// The checks that need no store.
fn check(arguments: &MountArgs, options: MountOptions) -> Result<Plan, Failure> {
    mount::check_fuse().map_err(mount_failure)?;
    let point = mount::check_mount_point(&arguments.mountpoint, &options).map_err(mount_failure)?;
    let store = mount::absolute_store(&arguments.store).map_err(|error| {
        Failure::new(Exit::StoreUnusable, format_args!("store {}: {error}", arguments.store.display()))
    })?;
    mount::check_apart(&store, &point).map_err(mount_failure)?;
    let source = mount::source(&store, &options);
    let log_format = arguments.log_format.or(options.log_format).unwrap_or_default();
    let trust = trust(arguments.trust_owner || options.trust_owner);
    Ok(Plan { store, point, source, options, trust, log_format })
}

/// The background process, from the fork to its end. Nobody sees its exit code.
fn background(plan: &Plan, target: log::Target, report: Report) -> Result<(), Failure> {
    let mut report = Some(report);
    let result = serve(plan, target, Some(&mut report));
    match (result, report) {
        // It never worked: the one who waits tells the user, and this process says nothing.
        (Err(failure), Some(report)) => {
            let _ = report.fail(failure.exit.code(), failure.line());
            daemon::leave(failure.exit.code());
        }
        (result, _) => {
            if let Err(failure) = &result {
                tracing::error!("{}", failure.line());
            }
            result
        }
    }
}

/// Everything that the serving process does. `report`, if there is somebody to report to, is taken when the mount works.
fn serve(plan: &Plan, target: log::Target, report: Option<&mut Option<Report>>) -> Result<(), Failure> {
    let hangup = target.on_hangup();
    let log_file = target.path();
    let log = log::init(target, plan.log_format)?;
    daemon::prepare_process();
    confine::give_up_surroundings();
    let helper = match plan.options.auto_unmount || !confine::may_mount() {
        true => Some(
            Helper::start(&plan.point, &plan.source, &plan.options).map_err(cannot("start the helper that mounts"))?,
        ),
        false => None,
    };
    let signals = Signals::block(hangup).map_err(cannot("take over signals"))?;
    let reach = Reach { point: &plan.point, store: &plan.store, log: log_file.as_deref() };
    confine::give_up_privileges(reach).map_err(cannot("give up privileges"))?;
    confine::filter_calls();
    // Until the end, when it tells the rest.
    let _teller = log.tell().map_err(cannot("start the log's thread"))?;
    let control = Control::new(signals, Exit::Interrupted.code()).map_err(cannot("take over signals"))?;
    let server = start(plan, control, helper)?;
    if let Some(report) = report.and_then(Option::take)
        && report.succeed().is_err()
    {
        tracing::warn!("whoever asked for the mount is gone: unmounting");
        // As if they had sent the signal to us; the server takes it from there.
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
            .map_err(|errno| cannot("end")(errno.into()))?;
    }
    server.run().map_err(cannot("go on serving"))
}

fn start(plan: &Plan, control: Control, helper: Option<Helper>) -> Result<Server, Failure> {
    let store = open_store(plan)?;
    store.limit_users(plan.options.user_limits);
    store.limit_batches(plan.options.batch_files);
    let server =
        serve::start(control, store, &plan.point, &plan.source, &plan.options, helper).map_err(mount_failure)?;
    tracing::info!("mounted {} at {}", plan.store.display(), plan.point.display());
    if plan.options.access != Access::Owner && !process::sees_exit_codes_of_others() {
        tracing::warn!(
            "abort_on = killed and failed work for processes of this user only: without CAP_SYS_PTRACE the exit codes of \
             others are hidden, and what their killed and failed writers wrote is enqueued"
        );
    }
    if !process::sees_all_processes() {
        tracing::warn!(
            "in a PID namespace of its own, mqfs cannot tell processes outside of it apart: bare names do not work for \
             them, and of the readers of a message each is a stranger to the other"
        );
    }
    Ok(server)
}

/// Opens the store. After umount(8) the old process needs a moment to let go of it; whoever mounts again right then
/// waits for that moment instead of failing.
fn open_store(plan: &Plan) -> Result<Store, Failure> {
    let deadline = Instant::now() + STORE_PATIENCE;
    loop {
        match Store::open_of(&plan.store, plan.trust, plan.options.queue_defaults.clone()) {
            Err(OpenError::InUse) if Instant::now() < deadline && !is_mounted(plan) => std::thread::sleep(STORE_PAUSE),
            result => return result.map_err(|error| store_failure(&plan.store, &error)),
        }
    }
}

fn is_mounted(plan: &Plan) -> bool {
    mountinfo::is_mounted(&plan.options.kind(), &plan.source).unwrap_or(true)
}

/// A store that cannot be opened.
pub(super) fn store_failure(store: &Path, error: &OpenError) -> Failure {
    let exit = match error {
        OpenError::InUse => Exit::StoreInUse,
        _ => Exit::StoreUnusable,
    };
    Failure::new(exit, format_args!("store {}: {error}", store.display()))
}

fn mount_failure(error: MountError) -> Failure {
    let exit = match error {
        MountError::MountPoint(_) => Exit::MountPoint,
        MountError::NotPermitted(_) => Exit::NotPermitted,
        MountError::Other(_) => Exit::Failure,
    };
    Failure::new(exit, error)
}
