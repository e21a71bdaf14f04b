//! What is kept when a crash test fails.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Copies a store, its log and the journals to a named directory when the test panics.
pub struct Evidence {
    from: Vec<PathBuf>,
    to: PathBuf,
    rerun: String,
}

impl Evidence {
    /// Of a campaign with that name and seed; `rerun` is the command that does it again.
    pub fn of(name: &str, seed: u64, from: Vec<PathBuf>, rerun: String) -> Evidence {
        let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("crash-{name}-{seed}"));
        Evidence { from, to, rerun }
    }
}

impl Evidence {
    /// Copies it now, and says where to.
    pub fn keep(&self) {
        let copied = std::fs::create_dir_all(&self.to).is_ok()
            && Command::new("cp")
                .arg("-rL")
                .args(&self.from)
                .arg(&self.to)
                .status()
                .is_ok_and(|status| status.success());
        let what =
            if copied { "the store, its log and the journals are in" } else { "not everything could be copied to" };
        eprintln!("{what} {}\nto do it again: {}", self.to.display(), self.rerun);
    }
}

impl Drop for Evidence {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep();
        }
    }
}
