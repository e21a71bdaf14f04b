//! The mount table of this machine.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the names of all temporary directories begin with; the process id of the test follows.
pub const PREFIX: &str = "mqfs-test-";

/// Whether something is mounted at `path`.
pub fn is_mounted(path: &Path) -> bool {
    mount_points().iter().any(|point| point == path)
}

fn mount_points() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

/// Detaches whatever is mounted at `path`; tells whether nothing is left there.
pub fn detach(path: &Path) -> bool {
    let c_path = CString::new(path.as_os_str().as_bytes()).unwrap();
    while is_mounted(path) {
        // SAFETY: a call with a valid string.
        let detached = unsafe { libc::umount2(c_path.as_ptr(), libc::MNT_DETACH) } == 0;
        let helper = || Command::new("fusermount3").arg("-uz").arg(path).status();
        if !detached && !helper().is_ok_and(|status| status.success()) {
            break;
        }
    }
    !is_mounted(path)
}

/// Removes what test processes that no longer live have left: their mounts, and then their directories.
pub fn remove_leftovers() {
    for entry in fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let owner = rest.split('-').next().unwrap_or_default();
        let dead = owner.parse::<u32>().is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        let dir = entry.path();
        if dead && mount_points().iter().filter(|point| point.starts_with(&dir)).all(|point| detach(point)) {
            let _ = fs::remove_dir_all(dir);
        }
    }
}
