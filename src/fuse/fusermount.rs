//! Mounting and unmounting as an ordinary user, through the setuid program `fusermount3`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::mount::MountFlags;

use super::helper;
use super::mount::MountError;
use super::option_list;
use super::options::{Access, MountOptions};

/// Where it is looked for, in this order: a boot script's `PATH` may be short. The last one is version 2, which does
/// the same.
const PROGRAMS: &[&str] = &["fusermount3", "/usr/bin/fusermount3", "/bin/fusermount3", "fusermount"];

/// The number of the socket on which it passes the descriptor back.
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";

/// The flags that it takes as words. `nosuid` and `nodev` it sets by itself for whoever is not root.
const WORDS: &[(MountFlags, &str)] = &[
    (MountFlags::RDONLY, "ro"),
    (MountFlags::NOEXEC, "noexec"),
    (MountFlags::NOATIME, "noatime"),
    (MountFlags::NODIRATIME, "nodiratime"),
    (MountFlags::SYNCHRONOUS, "sync"),
    (MountFlags::DIRSYNC, "dirsync"),
];

/// Mounts at `point` and returns the descriptor on which the kernel will ask.
pub fn mount(point: &Path, source: &OsStr, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let other = |error: io::Error| MountError::Other(format!("cannot talk to fusermount3: {error}"));
    let (ours, theirs) = UnixStream::pair().map_err(other)?;
    let arguments = [OsStr::new("-o"), &option_string(source, options), OsStr::new("--"), point.as_os_str()];
    let child = start(&arguments, Some(theirs.into())).map_err(|error| {
        MountError::NotPermitted(format!("mounting takes root, or fusermount3 (package fuse3): {error}"))
    })?;
    // It ends by itself once it has answered, or has said on standard error why it does not.
    let device = helper::receive(&ours).map(|(_, device)| device);
    let output = child.wait_with_output().map_err(other)?;
    match device.map_err(other)? {
        Some(device) => Ok(device),
        None => Err(classify(&reason(&output.stderr))),
    }
}

/// Takes the mount off `point`, lazily: at once for those who come, and for those who use it when they are done.
pub fn unmount(point: &Path) -> io::Result<()> {
    let arguments = [OsStr::new("-u"), OsStr::new("-z"), OsStr::new("--"), point.as_os_str()];
    let output = start(&arguments, None)?.wait_with_output()?;
    if output.status.success() { Ok(()) } else { Err(io::Error::other(reason(&output.stderr))) }
}

/// Starts it with `socket` as its standard input: a descriptor that a child is given in any case, without a moment in
/// which another child of ours could inherit it too.
fn start(arguments: &[&OsStr], socket: Option<OwnedFd>) -> io::Result<Child> {
    let mut missing = io::Error::from(io::ErrorKind::NotFound);
    for program in PROGRAMS {
        let input = match &socket {
            Some(socket) => Stdio::from(socket.try_clone()?),
            None => Stdio::null(),
        };
        let mut command = Command::new(program);
        command.args(arguments).env(SOCKET_VARIABLE, "0");
        command.stdin(input).stdout(Stdio::null()).stderr(Stdio::piped());
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing = error,
            result => return result,
        }
    }
    Err(missing)
    // Our copies of `socket` are closed here: the other end reads end of file when the child goes without an answer.
}

fn option_string(source: &OsStr, options: &MountOptions) -> OsString {
    let mut list = OsString::from("default_permissions");
    for (flag, word) in WORDS {
        if options.flags.contains(*flag) {
            list.push(",");
            list.push(word);
        }
    }
    if options.access != Access::Owner {
        list.push(",allow_other");
    }
    if !options.subtype.is_empty() {
        list.push(",subtype=");
        list.push(&options.subtype);
    }
    list.push(",fsname=");
    list.push(option_list::quote(source));
    list
}

/// The last line that it said, without its name.
fn reason(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("fusermount3 failed");
    line.strip_prefix("fusermount3: ").or_else(|| line.strip_prefix("fusermount: ")).unwrap_or(line).to_owned()
}

/// It has one exit code for everything, so its words (unchanged since libfuse 2.9) have to do.
fn classify(line: &str) -> MountError {
    const MOUNT_POINT: &[&str] = &["no write access to mountpoint", "bad mount point", "failed to access mountpoint"];
    if MOUNT_POINT.iter().any(|words| line.contains(words)) {
        MountError::MountPoint(line.to_owned())
    } else {
        MountError::NotPermitted(line.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_written_as_it_reads_them() {
        let options = MountOptions::parse(&["ro,noexec,allow_root,dev"]).unwrap();
        let list = option_string(OsStr::new("/a,b"), &options);
        assert_eq!(list, r"default_permissions,ro,noexec,allow_other,subtype=mqfs,fsname=/a\,b");
    }

    #[test]
    fn the_last_line_is_the_reason() {
        assert_eq!(reason(b"fusermount3: unsafe option dev ignored\nfusermount3: mount failed\n"), "mount failed");
        assert_eq!(reason(b""), "fusermount3 failed");
        assert!(matches!(classify("bad mount point /x: Permission denied"), MountError::MountPoint(_)));
        assert!(matches!(classify("mount failed: Operation not permitted"), MountError::NotPermitted(_)));
    }
}
