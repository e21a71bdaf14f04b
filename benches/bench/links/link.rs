//! A link as a process.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::processor;
use crate::Failure;
use crate::clients::Sample;
use crate::options::Options;
use crate::scratch::Scratch;

/// How often a queue's counter is read: 100 reads a second are no load.
const LOOK: Duration = Duration::from_millis(10);
/// How long nothing may be counted, and how long a link may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running link; it has ended when this is dropped.
pub struct Link {
    child: Child,
    queue: PathBuf,
    log: PathBuf,
}

impl Link {
    /// Links a queue to a broker.
    pub fn out(options: &Options, scratch: &Scratch, queue: &Path, url: &str) -> Result<Link, Failure> {
        Link::start(options, scratch, queue, [queue.to_string_lossy().as_ref(), url])
    }

    /// Links a broker to a queue.
    pub fn into(options: &Options, scratch: &Scratch, url: &str, queue: &Path) -> Result<Link, Failure> {
        Link::start(options, scratch, queue, [url, queue.to_string_lossy().as_ref()])
    }

    fn start(options: &Options, scratch: &Scratch, queue: &Path, ends: [&str; 2]) -> Result<Link, Failure> {
        scratch.check()?;
        let name = queue.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = scratch.path().join(format!("{name}.link"));
        let mut command = Command::new(&options.mqfs);
        command.args(["link", "-o", &format!("name={name}")]).args(ends);
        for setting in &options.link_settings {
            command.args(["-o", setting]);
        }
        command.env("XDG_RUNTIME_DIR", scratch.path()).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(File::create(&log)?);
        // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
        unsafe { command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?)) };
        Ok(Link { child: command.spawn()?, queue: queue.to_owned(), log })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Counts what goes through, by a counter of its queue, until that is so many; from the first on, and without those. With the
    /// microseconds of a processor that the link takes for a message, and those that the process `mount` takes.
    pub fn count(
        mut self,
        scratch: &Scratch,
        counter: &str,
        count: u64,
        mount: u32,
    ) -> Result<(Sample, [f64; 2]), Failure> {
        let taken = [self.pid(), mount];
        let taken = || Ok::<_, Failure>([processor::taken(&taken[..1])?, processor::taken(&taken[1..])?]);
        let mut first = None;
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let counted = self.counter(counter)?;
            if counted != last {
                (last, since) = (counted, Instant::now());
            }
            match first {
                None if counted > 0 => first = Some((Instant::now(), counted, taken()?)),
                Some((begun, before, had)) if counted >= count => {
                    let seconds = Instant::now().duration_since(begun).as_secs_f64();
                    let has = taken()?;
                    self.end()?;
                    return match counted - before {
                        0 => Err("too few messages to measure anything: say a larger --count".into()),
                        operations if counted == count => {
                            let each = |of: usize| (has[of] - had[of]) * 1e6 / operations as f64;
                            Ok((Sample { operations, seconds }, [each(0), each(1)]))
                        }
                        _ => Err(format!("{counted} messages instead of {count}").into()),
                    };
                }
                _ => {}
            }
            scratch.check()?;
            if since.elapsed() > PATIENCE || self.child.try_wait()?.is_some() {
                return Err(format!("a link stopped at {counted} of {count}: {}", self.said()).into());
            }
            std::thread::sleep(LOOK);
        }
    }

    fn counter(&self, name: &str) -> Result<u64, Failure> {
        let mut value = [0; 32];
        let length = rustix::fs::getxattr(&self.queue, name, &mut value)?;
        Ok(std::str::from_utf8(&value[..length])?.parse()?)
    }

    /// What it has said.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default().trim().to_owned()
    }

    /// Whether it says that all is well.
    pub fn is_running(&self, scratch: &Scratch) -> bool {
        let name = self.queue.file_name().unwrap_or_default().to_string_lossy();
        let status = fs::read_to_string(scratch.path().join(format!("mqfs-link/{name}.json"))).unwrap_or_default();
        status.contains("\"state\":\"running\"")
    }

    /// Asks it to end, and waits.
    pub fn end(&mut self) -> Result<(), Failure> {
        let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                return match status.success() {
                    true => Ok(()),
                    false => Err(format!("a link ended badly: {status}: {}", self.said()).into()),
                };
            }
            std::thread::sleep(LOOK);
        }
        Err(format!("a link does not end: {}", self.said()).into())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
