//! The two servers under test as child processes, each with its mount.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};

use crate::Failure;
use crate::options::Options;
use crate::scratch::Scratch;

/// How often a server that is starting or ending is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// How long a server may take to mount.
const START: Duration = Duration::from_secs(60);
/// How long a server may take to end before it is killed.
const END: Duration = Duration::from_secs(60);

/// A server process and what it has mounted. However the benchmark ends, both are gone afterwards.
struct Mounted {
    child: Child,
    mountpoint: PathBuf,
}

impl Mounted {
    fn start(command: &mut Command, mountpoint: &Path) -> Result<Mounted, Failure> {
        let below = fs::metadata(mountpoint)?.dev();
        let mut mounted = Mounted { child: command.spawn()?, mountpoint: mountpoint.to_owned() };
        let began = Instant::now();
        while fs::metadata(mountpoint)?.dev() == below {
            if let Some(status) = mounted.child.try_wait()? {
                return Err(format!("the server ended instead of mounting: {status}").into());
            }
            if began.elapsed() > START {
                return Err("the server does not mount".into());
            }
            std::thread::sleep(LOOK);
        }
        Ok(mounted)
    }

    /// Waits for the process; true when it ended in time.
    fn ended(&mut self) -> bool {
        let began = Instant::now();
        while began.elapsed() < END {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(LOOK),
                Ok(Some(_)) => return true,
                Err(_) => return false,
            }
        }
        false
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
            if !self.ended() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        // Nothing is mounted any more when the server ended well; then this fails, as it should.
        if rustix::mount::unmount(&self.mountpoint, UnmountFlags::DETACH).is_err() {
            let _ = Command::new("fusermount3").args(["-u", "-z", "-q"]).arg(&self.mountpoint).output();
        }
    }
}

/// A mounted mqfs.
pub struct Mqfs {
    mounted: Mounted,
    binary: PathBuf,
}

impl Mqfs {
    /// Mounts the store `NAME.store`, which is made if it is not there, on `NAME`.
    pub fn mount(options: &Options, scratch: &Scratch, name: &str) -> Result<Mqfs, Failure> {
        let mountpoint = scratch.path().join(name);
        fs::create_dir_all(&mountpoint)?;
        let log = scratch.path().join(format!("{name}.log"));
        let mut command = Command::new(&options.mqfs);
        command.arg("mount").arg("--foreground");
        if let Some(mount_options) = &options.mount_options {
            command.args(["-o", mount_options]);
        }
        command.arg(scratch.path().join(format!("{name}.store"))).arg(&mountpoint);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
        unsafe { command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?)) };
        let mounted = Mounted::start(&mut command, &mountpoint).map_err(|failure| {
            let said = fs::read_to_string(&log).unwrap_or_default();
            format!("{failure}: {}", said.trim())
        })?;
        Ok(Mqfs { mounted, binary: options.mqfs.clone() })
    }

    /// A new queue with this durability.
    pub fn queue(&self, name: &str, durability: &str) -> Result<PathBuf, Failure> {
        let queue = self.mounted.mountpoint.join(name);
        fs::create_dir(&queue)?;
        fs::write(queue.join(".mq/config"), format!("durability = {durability}\n"))?;
        Ok(queue)
    }

    /// The process that serves it.
    pub fn pid(&self) -> u32 {
        self.mounted.child.id()
    }

    /// The field `key` of the process's status, in MiB.
    pub fn memory(&self, key: &str) -> Result<f64, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key)).ok_or("no such field")?;
        let kib: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }

    /// `mqfs umount`, until the process is gone.
    pub fn unmount(mut self) -> Result<(), Failure> {
        let status = Command::new(&self.binary).arg("umount").arg(&self.mounted.mountpoint).status()?;
        match status.success() && self.mounted.ended() {
            true => Ok(()),
            false => Err("mqfs umount did not end the mount".into()),
        }
    }
}

/// The mounted server that does nothing.
pub struct Nothing {
    mounted: Mounted,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Nothing {
    /// Mounts it on `NAME`.
    pub fn mount(scratch: &Scratch, name: &str) -> Result<Nothing, Failure> {
        let mountpoint = scratch.directory(name)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("nothing").arg(&mountpoint).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut mounted = Mounted::start(&mut command, &mountpoint)?;
        let input = mounted.child.stdin.take().ok_or("no standard input")?;
        let output = BufReader::new(mounted.child.stdout.take().ok_or("no standard output")?);
        Ok(Nothing { mounted, input, output })
    }

    /// Its only queue.
    pub fn queue(&self) -> PathBuf {
        self.mounted.mountpoint.join("q")
    }

    /// Whether it is to ask for the next request without sleeping.
    pub fn spin(&mut self, spin: bool) -> Result<(), Failure> {
        writeln!(self.input, "{}", if spin { "spin" } else { "sleep" })?;
        match self.output.read_line(&mut String::new())? {
            0 => Err("the server that does nothing went away".into()),
            _ => Ok(()),
        }
    }
}
