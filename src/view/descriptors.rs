//! Whether a process that closes a descriptor has others of the same file, as `/proc` tells.
//!
//! The kernel does not say which close is the last. Shells close duplicates before their command has written anything, so a file
//! without bytes is taken for whole only when its process has no way left to write to it.

use std::fs::{self, DirEntry};
use std::io::{ErrorKind, Read};

use super::process::StatmFile;

/// What else a process has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// No other descriptor of that file.
    None,
    /// At least one.
    Some,
    /// It has more descriptors than were to be looked at.
    TooMany,
    /// It cannot be told: it may not be looked at, or is about to run another program.
    Unknown,
}

/// What a line of fdinfo that is of interest here begins with.
const INODE: &str = "ino:";
/// The first lines of an fdinfo, which this is among, are no longer, in bytes.
const LENGTH: usize = 256;

/// What the process of the thread `tid`, which closes a descriptor of a file and waits for the answer, has open besides: of the file
/// that `stat` shows this inode number of. Looks at so many descriptors at `most`.
///
/// A file of another file system that has the same number is taken for the same; ours are far above those that others use.
///
/// This waits for nobody: the descriptors of a process that runs another program are not looked at, as some kernels make who looks
/// wait until it has closed those that are not to be passed on, which is to say, until we have answered. A thread that waits in
/// close(2) keeps its process from getting that far.
pub fn others(tid: u32, inode: u64, most: usize) -> Others {
    let Some(memory) = StatmFile::open(tid) else { return Others::Unknown };
    if memory.exiting() {
        return Others::None; // the table of its descriptors is gone
    }
    if memory.between_programs() {
        return Others::Unknown;
    }
    let Ok(listed) = fs::read_dir(format!("/proc/{tid}/fdinfo")) else { return Others::Unknown };
    for (number, entry) in listed.enumerate() {
        if number >= most {
            return Others::TooMany;
        }
        match entry.and_then(|entry| inode_of(&entry)) {
            Ok(Some(other)) if other == inode => return Others::Some,
            Ok(Some(_)) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {} // closed since
            Ok(None) | Err(_) => return Others::Unknown,
        }
    }
    Others::None
}

/// The number of the inode that a descriptor is of; `None` when this kernel (before 5.14) does not say.
fn inode_of(descriptor: &DirEntry) -> std::io::Result<Option<u64>> {
    let mut text = [0; LENGTH];
    let length = fs::File::open(descriptor.path())?.read(&mut text)?;
    let text = std::str::from_utf8(&text[..length]).unwrap_or_default();
    Ok(text.lines().find_map(|line| line.strip_prefix(INODE)?.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_descriptor_of_a_file_is_seen() {
        // Of a pipe, whose number is not soon given to a file of another test.
        let (file, _) = rustix::pipe::pipe().unwrap();
        let (pid, inode, all) = (std::process::id(), rustix::fs::fstat(&file).unwrap().st_ino, usize::MAX);
        assert_eq!(others(pid, inode, all), Others::Some);
        let copy = file.try_clone().unwrap();
        drop(file);
        assert_eq!(others(pid, inode, all), Others::Some);
        drop(copy);
        assert_eq!(others(pid, inode, all), Others::None);
        assert_eq!(others(pid, inode, 1), Others::TooMany);
        assert_eq!(others(0, inode, all), Others::Unknown);
    }

    #[test]
    fn who_ends_has_nothing_open() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        while !super::super::process::exiting(child.id()) {
            std::thread::yield_now();
        }
        assert_eq!(others(child.id(), 1, 1), Others::None);
        child.wait().unwrap();
        assert_eq!(others(child.id(), 1, 1), Others::Unknown);
    }
}
