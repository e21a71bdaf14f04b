//! What is measured, and where: a figure means nothing without it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::Failure;
use crate::client::BODY;
use crate::options::Options;
use crate::scratch::Scratch;

/// Prints the head of the report.
pub fn print(options: &Options, scratch: &Scratch) -> Result<(), Failure> {
    let version = first_line(Command::new(&options.mqfs).arg("--version"))
        .ok_or_else(|| format!("cannot run {}", options.mqfs.display()))?;
    let repository = env!("CARGO_MANIFEST_DIR");
    let commit = first_line(Command::new("git").args(["-C", repository, "rev-parse", "--short", "HEAD"]));
    let changed = first_line(Command::new("git").args(["-C", repository, "status", "--porcelain"]));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let processors = std::thread::available_parallelism()?;
    println!(
        "measured     {version}, commit {}{}{}",
        commit.as_deref().unwrap_or("unknown"),
        if changed.is_some() { " with changes" } else { "" },
        options.mount_options.as_ref().map(|o| format!(", mounted with -o {o}")).unwrap_or_default(),
    );
    println!("machine      {processors} x {}, Linux {}", processor(), kernel.trim());
    println!("load         {}", load.split(' ').take(3).collect::<Vec<_>>().join(" "));
    println!("filesystem   {} (store and spool)", filesystem(scratch.path())?);
    println!(
        "messages     {BODY} bytes where nothing else is said, a new name each; every client is a process of its own"
    );
    println!("figures      median of {} rounds, smallest .. largest; us/op as one client sees it", options.rounds);
    Ok(())
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    name.map_or("unknown processor", |(_, name)| name).to_owned()
}

/// The type and the device of the filesystem that holds `path`.
pub fn filesystem(path: &Path) -> Result<String, Failure> {
    let device = fs::metadata(path)?.dev();
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let found = mounts.lines().find(|line| line.split(' ').nth(2) == Some(&number));
    let Some((_, after)) = found.and_then(|line| line.split_once(" - ")) else {
        return Ok("unknown".to_owned());
    };
    let mut fields = after.split(' ');
    Ok(format!("{} on {}", fields.next().unwrap_or("unknown"), fields.next().unwrap_or("unknown")))
}
