//! The directory in which everything happens, and leaving nothing behind.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use crate::Failure;
use crate::options::Options;

/// What the names of the directories begin with; the id of the process follows.
const PREFIX: &str = "mqfs-bench.";

/// Set by a signal: a handler can reach nothing but a static.
static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// A directory of this run's own, removed at its end.
///
/// A signal does not end the process: it makes the next [`check`](Scratch::check) fail, so that every guard unmounts and
/// cleans up on the way out. Servers and clients watch their standard input and end when this process dies of SIGKILL.
pub struct Scratch {
    root: Option<TempDir>,
}

impl Scratch {
    /// Makes the directory below the one that the user chose.
    pub fn new(options: &Options) -> Result<Scratch, Failure> {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
            let handler: extern "C" fn(libc::c_int) = stop;
            // SAFETY: the handler does nothing but an atomic store.
            unsafe { libc::signal(signal, handler as libc::sighandler_t) };
        }
        let above = options.dir.clone().or_else(|| std::env::var_os("MQFS_BENCH_DIR").map(PathBuf::from));
        let above = above.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
        fs::create_dir_all(&above)?;
        sweep(&above)?;
        let root = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}.", std::process::id()))
            .tempdir_in(above.canonicalize()?)?;
        Ok(Scratch { root: Some(root) })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.root.as_ref().map_or(Path::new(""), TempDir::path)
    }

    /// A new directory in it.
    pub fn directory(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// Fails once a signal asked this process to stop.
    pub fn check(&self) -> Result<(), Failure> {
        match STOP.load(Ordering::Relaxed) {
            true => Err("stopped by a signal".into()),
            false => Ok(()),
        }
    }

    /// Writes back what earlier turns left dirty, so that a turn pays for its own work only.
    pub fn settle(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(fs::File::open(self.path())?)?)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Some(root) = self.root.take() else { return };
        if is_mounted_below(root.path()) {
            let kept = root.keep();
            eprintln!("bench: something is still mounted below {}: left as it is", kept.display());
        }
    }
}

/// Removes what runs that were killed have left in `above`.
fn sweep(above: &Path) -> io::Result<()> {
    for entry in fs::read_dir(above)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((process, _)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')) else {
            continue;
        };
        if !Path::new("/proc").join(process).exists() && !is_mounted_below(&path) {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

/// Whether anything is mounted below `dir`; removing the directory would then remove what is in the mount.
fn is_mounted_below(dir: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().filter_map(|line| line.split(' ').nth(1)).any(|point| Path::new(point).starts_with(dir))
}
