//! Users without privileges, for the tests of who may do what.

#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::{Mount, Ran};
use crate::extra::{deliveries, state};

/// What programs say of EACCES.
pub const DENIED: &str = "Permission denied";
/// What programs say of ENOENT.
pub const GONE: &str = "No such file or directory";
/// A user without privileges; the number of a group of its own, too.
pub const ANN: u32 = 12345;
/// Another.
pub const BOB: u32 = 65534;
/// A group that neither has by default.
pub const STAFF: u32 = 54321;

/// A mount that lets other users in, with the queue `q` of root of this mode.
pub fn mount(mode: u32) -> (Mount, PathBuf) {
    let m = Mount::with(&["-o", "allow_other"]);
    let q = m.queue("q");
    chmod(&q, mode);
    (m, q)
}

/// Sets the mode of a path.
#[track_caller]
pub fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The mode of a path, without its kind.
#[track_caller]
pub fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Runs a script as [`ANN`].
#[track_caller]
pub fn ann(m: &Mount, script: &str) -> Ran {
    m.run_as(ANN, ANN, script)
}

/// Runs a script as [`BOB`].
#[track_caller]
pub fn bob(m: &Mount, script: &str) -> Ran {
    m.run_as(BOB, BOB, script)
}

/// A bash script as [`ANN`], who runs mqfs as `$MQFS`: through a descriptor, as she may not walk to where it was built.
pub fn ann_with_mqfs(script: &str) -> std::process::Command {
    let run = r#"exec 9< "$1"; export MQFS=/proc/self/fd/9
        exec setpriv --reuid="$2" --regid="$2" --clear-groups --inh-caps=-all bash -c "$3""#;
    let mut command = std::process::Command::new("bash");
    command.args(["-c", run, "as", env!("CARGO_BIN_EXE_mqfs"), &ANN.to_string(), script]);
    command
}

/// Asserts that a message is ready and was never delivered.
#[track_caller]
pub fn untouched(queue: &Path, message: &Path) {
    assert_eq!(state(queue, message).as_deref(), Some("ready"));
    assert_eq!(deliveries(queue, message), 0);
}
