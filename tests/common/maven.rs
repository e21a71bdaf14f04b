//! What only Maven has: fetched once, by its name, and kept beside the build.

#![allow(dead_code)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Said once, whoever asks.
static TOLD: Mutex<bool> = Mutex::new(false);

/// The directory that is in an archive `GROUP:NAME:VERSION:tar.gz:bin`. Nothing where Maven cannot be reached: then it is said, loudly,
/// that tests are skipped.
pub fn unpacked(artifact: &str, directory: &str) -> Option<PathBuf> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let there = kept.join(directory);
    if there.exists() {
        return Some(there);
    }
    let fetched = tempfile::Builder::new().prefix("maven-").tempdir_in(kept).unwrap();
    // With what was fetched before it need not be reached.
    let done = ["-o", "-U"].iter().any(|how| {
        let copy = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy";
        let mut command = Command::new("mvn");
        command.args(["-q", "-B", how, copy, &format!("-Dartifact={artifact}")]);
        command.arg(format!("-DoutputDirectory={}", fetched.path().display()));
        command.current_dir(fetched.path()).output().is_ok_and(|out| out.status.success())
    });
    if !done {
        skip(artifact);
        return None;
    }
    let archive = fs::read_dir(fetched.path()).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_file());
    let unpacked = Command::new("tar").arg("xzf").arg(archive.unwrap()).current_dir(fetched.path()).status().unwrap();
    assert!(unpacked.success());
    // Whole, or not there: another program may be looking.
    let _ = fs::rename(fetched.path().join(directory), &there);
    there.exists().then_some(there)
}

/// Says that tests are skipped.
pub fn skip(artifact: &str) {
    let mut told = TOLD.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !std::mem::replace(&mut *told, true) {
        // Past what the harness keeps to itself when a test passes.
        let line = format!("\n*** SKIPPED: Maven cannot be reached for {artifact}: what needs it is NOT TESTED ***\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
