//! What is mounted where, from `/proc/self/mountinfo`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::option_list::unescape_octal;

/// The table of this process's mount namespace.
pub const PATH: &str = "/proc/self/mountinfo";

/// What the type of a mount is, unless the option `subtype` says otherwise.
pub const KIND: &str = "fuse.mqfs";

/// What the thread is called that serves the mount of a device, given as `MAJOR:MINOR`. The names of threads are for everybody to see.
pub fn session_name(device: &str) -> String {
    // At most 15 bytes: a minor number has at most 20 bits.
    format!("session {}", device.rsplit(':').next().unwrap_or_default())
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    id: u64,
    parent: u64,
    /// `MAJOR:MINOR` of the filesystem: no two that are mounted at the same time have the same.
    pub device: String,
    /// Which directory of the filesystem is mounted: `/`, except for bind mounts.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// The type, with the subtype: `fuse.mqfs`.
    pub kind: String,
    /// What is mounted, as the one who mounted it named it.
    pub source: OsString,
    /// The options of the filesystem itself.
    options: String,
}

impl Entry {
    /// Whether it is some FUSE filesystem.
    pub fn is_fuse(&self) -> bool {
        self.kind == "fuse" || self.kind.starts_with("fuse.")
    }

    /// Whether it is an mqfs mount, of whatever subtype, as far as this user can see.
    pub fn is_mqfs(&self) -> bool {
        self.is_fuse() && (self.kind == KIND || self.point.join(".mq/version").exists())
    }

    /// The user who mounted a FUSE filesystem: the kernel's word, not the filesystem's.
    pub fn user_id(&self) -> Option<u32> {
        self.number("user_id=")
    }

    /// That user's group at the time.
    pub fn group_id(&self) -> Option<u32> {
        self.number("group_id=")
    }

    fn number(&self, option: &str) -> Option<u32> {
        self.options.split(',').find_map(|text| text.strip_prefix(option))?.parse().ok()
    }
}

/// What is seen at `point`, an absolute path without symbolic links, if that is a mount point: of several mounted one
/// over the other, the uppermost.
pub fn at(point: &Path) -> io::Result<Option<Entry>> {
    Ok(uppermost(&std::fs::read(PATH)?, point))
}

/// Whether something with this type and source is mounted anywhere in our view.
pub fn is_mounted(kind: &str, source: &OsStr) -> io::Result<bool> {
    let table = std::fs::read(PATH)?;
    Ok(entries(&table).any(|entry| entry.kind == kind && entry.source == source))
}

/// The whole mounts of a type that are to be seen, each filesystem at the point where it was mounted first, sorted by their
/// points.
pub fn all(kind: &str) -> io::Result<Vec<Entry>> {
    let table = std::fs::read(PATH)?;
    let mut found: Vec<Entry> = Vec::new();
    for entry in entries(&table).filter(|entry| entry.kind == kind && is_seen_whole(&table, entry)) {
        if found.iter().all(|other| other.device != entry.device) {
            found.push(entry);
        }
    }
    found.sort_by(|a, b| a.point.cmp(&b.point));
    Ok(found)
}

/// The mount that a path, absolute and without symbolic links, is on, if that is some FUSE filesystem.
pub fn of(path: &Path) -> io::Result<Option<Entry>> {
    let table = std::fs::read(PATH)?;
    Ok(path.ancestors().find_map(|point| uppermost(&table, point)).filter(Entry::is_fuse))
}

/// Where the whole of the filesystem is to be seen of which `device` is a part.
pub fn whole(device: &str) -> io::Result<Option<Entry>> {
    let table = std::fs::read(PATH)?;
    Ok(entries(&table).find(|entry| entry.device == device && is_seen_whole(&table, entry)))
}

/// Whether a filesystem, by its `MAJOR:MINOR`, is to be seen anywhere in our view.
pub fn is_device_mounted(device: &str) -> io::Result<bool> {
    let table = std::fs::read(PATH)?;
    Ok(entries(&table).any(|entry| entry.device == device))
}

/// Whether a filesystem, by its `MAJOR:MINOR`, is read-only as a whole, however it is mounted; `None` when the table does not have it.
pub fn is_read_only(table: &[u8], device: &str) -> Option<bool> {
    let found = entries(table).find(|entry| entry.device == device)?;
    Some(found.options.split(',').any(|option| option == "ro"))
}

fn is_seen_whole(table: &[u8], entry: &Entry) -> bool {
    entry.root == Path::new("/") && uppermost(table, &entry.point).is_some_and(|seen| seen.id == entry.id)
}

fn uppermost(table: &[u8], point: &Path) -> Option<Entry> {
    let here: Vec<Entry> = entries(table).filter(|entry| entry.point == point).collect();
    // What lies under another mount is that one's parent.
    here.iter().rev().find(|entry| here.iter().all(|other| other.parent != entry.id)).cloned()
}

fn entries(table: &[u8]) -> impl Iterator<Item = Entry> {
    table.split(|&byte| byte == b'\n').filter_map(entry)
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - TYPE SOURCE SUPER_OPTIONS`; see proc(5).
fn entry(line: &[u8]) -> Option<Entry> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let separator = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
    let text = |at: usize| fields.get(at).map(|field| String::from_utf8_lossy(field).into_owned());
    Some(Entry {
        id: text(0)?.parse().ok()?,
        parent: text(1)?.parse().ok()?,
        device: text(2)?,
        root: PathBuf::from(unescape_octal(fields.get(3)?)),
        point: PathBuf::from(unescape_octal(fields.get(4)?)),
        kind: text(separator + 1)?,
        source: unescape_octal(fields.get(separator + 2)?),
        options: text(separator + 3)?,
    })
}

/// `point` without symbolic links, also when a dead mount (ENOTCONN) lies at its end.
pub fn resolve(point: &Path) -> io::Result<PathBuf> {
    let error = match std::fs::canonicalize(point) {
        Ok(path) => return Ok(path),
        Err(error) => error,
    };
    let (Some(parent), Some(name)) = (point.parent(), point.file_name()) else {
        return Err(error);
    };
    if !crate::error::is_mount_gone(&error) || name.as_bytes() == b".." {
        return Err(error);
    }
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    Ok(std::fs::canonicalize(parent)?.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        30 22 0:40 / /mnt/a\\040b rw,nosuid,nodev shared:5 - fuse.mqfs /var/a\\040store rw,user_id=7,group_id=0\n\
        31 30 0:41 / /mnt/a\\040b rw - tmpfs none rw\n\
        33 22 0:43 / /mnt/c rw - fuse other rw,user_id=0,group_id=0\n";

    #[test]
    fn the_uppermost_of_several_is_found() {
        let entry = uppermost(TABLE, Path::new("/mnt/a b")).unwrap();
        assert_eq!((entry.kind.as_str(), entry.device.as_str()), ("tmpfs", "0:41"));
        assert!(!entry.is_fuse());
        assert_eq!(uppermost(TABLE, Path::new("/mnt")), None);
    }

    #[test]
    fn fields_behind_the_optional_ones_are_found() {
        let all: Vec<Entry> = entries(TABLE).collect();
        assert_eq!(all.len(), 4);
        assert_eq!(all[1].source, "/var/a store");
        assert_eq!((all[1].user_id(), all[1].group_id(), all[0].user_id()), (Some(7), Some(0), None));
        assert!(all[1].is_fuse() && all[3].is_fuse() && !all[0].is_fuse());
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(at(Path::new("/")).unwrap().is_some());
    }
}
