//! What the kernel is told.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::FopenFlags;
use zerocopy::{Immutable, IntoBytes};

use crate::error::{Error, Result};
use crate::view::{Attributes, Kind, Opened};

use super::abi;

/// Takes answers to the kernel, from any thread.
pub trait Carrier: Send + Sync {
    /// Takes the answer to the request of that number: an errno or 0, and what follows. Does not wait for anybody.
    fn carry(&self, unique: u64, errno: i32, parts: &[&[u8]]) -> io::Result<()>;
}

/// The answer that one request is owed. A request that is dropped is answered with an error, since whoever asked waits.
pub struct Answer {
    unique: u64,
    /// `None` once it is answered.
    carrier: Option<Arc<dyn Carrier>>,
}

/// The errno of an error. What an operator should know of is logged here, once for all requests.
fn errno(error: &Error) -> i32 {
    match error {
        Error::Io(_) | Error::Damaged(_) => tracing::error!(%error, "request failed"),
        Error::NotPermitted(why) => tracing::debug!(why, "request refused"),
        _ => {}
    }
    error.errno()
}

impl Answer {
    /// To the request of that number.
    pub fn new(unique: u64, carrier: Arc<dyn Carrier>) -> Self {
        Self { unique, carrier: Some(carrier) }
    }

    /// There is none: the kernel does not wait for any.
    pub fn none(mut self) {
        self.carrier = None;
    }

    fn send(mut self, errno: i32, parts: &[&[u8]]) {
        self.send_once(errno, parts);
    }

    fn send_once(&mut self, errno: i32, parts: &[&[u8]]) {
        let Some(carrier) = self.carrier.take() else { return };
        // Whoever asked may have been killed, or the mount is gone.
        if let Err(error) = carrier.carry(self.unique, errno, parts) {
            tracing::debug!(%error, "an answer was not taken");
        }
    }

    fn structure(self, structure: &(impl IntoBytes + Immutable)) {
        self.send(0, &[structure.as_bytes()]);
    }

    /// An errno.
    pub fn errno(self, errno: i32) {
        self.send(errno, &[]);
    }

    /// An error.
    pub fn error(self, error: &Error) {
        self.errno(errno(error));
    }

    /// That it is done.
    pub fn done(self, result: Result<()>) {
        match result {
            Ok(()) => self.send(0, &[]),
            Err(error) => self.error(&error),
        }
    }

    /// These bytes.
    pub fn bytes(self, bytes: &[u8]) {
        self.send(0, &[bytes]);
    }

    /// What stat(2) shows.
    pub fn attributes(self, result: Result<Attributes>) {
        match result {
            Ok(shown) => {
                let (attr_valid, attr_valid_nsec) = split(shown.valid());
                self.structure(&abi::AttrOut { attr_valid, attr_valid_nsec, dummy: 0, attr: attr(&shown) });
            }
            Err(error) => self.error(&error),
        }
    }

    /// An entry of a directory.
    pub fn entry(self, result: Result<Attributes>) {
        match result {
            Ok(shown) => self.structure(&entry(&shown, shown.valid())),
            Err(error) => self.error(&error),
        }
    }

    /// An open file; `writes`: that may be written to.
    pub fn opened(self, writes: bool, result: Result<Opened>) {
        match result {
            Ok(opened) => self.structure(&open(&opened, writes)),
            Err(error) => self.error(&error),
        }
    }

    /// An open directory.
    pub fn opened_directory(self, handle: u64) {
        self.structure(&abi::OpenOut { fh: handle, open_flags: 0, backing_id: 0 });
    }

    /// A new file, which is open for writing. The kernel may believe its attributes for that long.
    pub fn created(self, shown: &Attributes, valid: Duration, opened: &Opened) {
        self.structure(&abi::CreateOut { entry: entry(shown, valid), open: open(opened, true) });
    }

    /// So many bytes were written.
    pub fn written(self, result: Result<usize>) {
        match result {
            Ok(count) => {
                self.structure(&abi::WriteOut { size: u32::try_from(count).unwrap_or(u32::MAX), padding: 0 });
            }
            Err(error) => self.error(&error),
        }
    }

    /// An attribute or a list of them, for which there is room of that size; 0: only its length is asked for.
    pub fn extended(self, result: Result<Vec<u8>>, size: u32) {
        match result {
            Ok(value) if size == 0 => {
                let size = u32::try_from(value.len()).unwrap_or(u32::MAX);
                self.structure(&abi::GetxattrOut { size, padding: 0 });
            }
            Ok(value) if value.len() > size as usize => self.error(&Error::Range),
            Ok(value) => self.bytes(&value),
            Err(error) => self.error(&error),
        }
    }

    /// What statfs(2) shows.
    pub fn usage(self, shown: &abi::StatfsOut) {
        self.structure(shown);
    }

    /// Which of the events that were asked for there are.
    pub fn polled(self, events: u32) {
        self.structure(&abi::PollOut { revents: events, padding: 0 });
    }

    /// What INIT asks for.
    pub fn init(self, init: &abi::InitOut) {
        self.structure(init);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.carrier.is_some() {
            tracing::warn!(unique = self.unique, "a request was dropped");
            self.send_once(libc::EIO, &[]);
        }
    }
}

/// The bytes of an answer, for a single writev(2).
pub fn framed<T>(unique: u64, errno: i32, parts: &[&[u8]], write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
    let length = size_of::<abi::OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
    let header = abi::OutHeader { len: u32::try_from(length).unwrap_or(u32::MAX), error: -errno, unique };
    let mut slices = vec![IoSlice::new(header.as_bytes())];
    slices.extend(parts.iter().map(|part| IoSlice::new(part)));
    write(&slices)
}

/// A directory's entries, as long as there is room.
#[derive(Debug)]
pub struct Listing {
    bytes: Vec<u8>,
    room: usize,
}

impl Listing {
    /// For so many bytes.
    pub fn new(room: u32) -> Self {
        Self { bytes: Vec::new(), room: room as usize }
    }

    /// Adds an entry; false when there is no room for it.
    pub fn add(&mut self, node: u64, cookie: u64, kind: Kind, name: &[u8]) -> bool {
        let header = abi::Dirent {
            ino: node,
            off: cookie,
            namelen: u32::try_from(name.len()).unwrap_or(u32::MAX),
            typ: u32::from(match kind {
                Kind::Directory => libc::DT_DIR,
                Kind::File => libc::DT_REG,
            }),
        };
        let length = (size_of::<abi::Dirent>() + name.len()).next_multiple_of(8);
        if self.bytes.len() + length > self.room {
            return false;
        }
        let end = self.bytes.len() + length;
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name);
        self.bytes.resize(end, 0);
        true
    }

    /// What was added.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn split(valid: Duration) -> (u64, u32) {
    (valid.as_secs(), valid.subsec_nanos())
}

/// A time in the kernel's form. Its nanoseconds count forward also before the epoch.
fn since_epoch(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (since.as_secs().cast_signed(), since.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let whole = before.as_secs().cast_signed();
            match before.subsec_nanos() {
                0 => (-whole, 0),
                part => (-whole - 1, 1_000_000_000 - part),
            }
        }
    }
}

fn attr(shown: &Attributes) -> abi::Attr {
    let [(atime, atimensec), (mtime, mtimensec), (ctime, ctimensec)] =
        [shown.accessed, shown.modified, shown.changed].map(since_epoch);
    let kind = match shown.kind {
        Kind::Directory => libc::S_IFDIR,
        Kind::File => libc::S_IFREG,
    };
    abi::Attr {
        ino: shown.node.inode(),
        size: shown.size,
        blocks: shown.size.div_ceil(512),
        atime,
        mtime,
        ctime,
        atimensec,
        mtimensec,
        ctimensec,
        mode: kind | shown.mode & 0o7777,
        nlink: shown.links,
        uid: shown.uid,
        gid: shown.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// The number that the kernel knows the node by need not be the one that it shows: a file may have several nodes.
fn entry(shown: &Attributes, valid: Duration) -> abi::EntryOut {
    let (entry_valid, entry_valid_nsec) = split(shown.name_valid());
    let (attr_valid, attr_valid_nsec) = split(valid);
    abi::EntryOut {
        nodeid: shown.node.id(),
        generation: 0,
        entry_valid,
        attr_valid,
        entry_valid_nsec,
        attr_valid_nsec,
        attr: attr(shown),
    }
}

/// How the kernel is to treat an open file.
fn open(opened: &Opened, writes: bool) -> abi::OpenOut {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct || opened.stream);
    flags.set(FopenFlags::FOPEN_STREAM, opened.stream);
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.immutable);
    flags.set(FopenFlags::FOPEN_NOFLUSH, opened.immutable && !writes);
    abi::OpenOut { fh: opened.handle, open_flags: flags.bits(), backing_id: 0 }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[derive(Default)]
    struct Told(Mutex<Vec<(u64, i32, Vec<u8>)>>);

    impl Carrier for Told {
        fn carry(&self, unique: u64, errno: i32, parts: &[&[u8]]) -> io::Result<()> {
            self.0.lock().push((unique, errno, parts.concat()));
            Ok(())
        }
    }

    #[test]
    fn each_request_is_answered_once() {
        let told = Arc::new(Told::default());
        let answer = |unique| Answer::new(unique, told.clone());
        answer(1).bytes(b"x");
        answer(2).error(&Error::NotFound);
        drop(answer(3));
        answer(4).none();
        let expected = [(1, 0, b"x".to_vec()), (2, libc::ENOENT, Vec::new()), (3, libc::EIO, Vec::new())];
        assert_eq!(*told.0.lock(), expected);
    }

    #[test]
    fn a_listing_ends_where_its_room_does() {
        let mut listing = Listing::new(2 * 32);
        assert!(listing.add(1, 1, Kind::File, b"12345678") && listing.add(2, 2, Kind::Directory, b"1"));
        assert!(!listing.add(3, 3, Kind::File, b""));
        assert_eq!(listing.bytes().len(), 64);
    }

    #[test]
    fn times_before_the_epoch_have_a_form() {
        let half = Duration::from_millis(500);
        assert_eq!(since_epoch(UNIX_EPOCH - half), (-1, 500_000_000));
        assert_eq!(since_epoch(UNIX_EPOCH - 2 * half), (-1, 0));
        assert_eq!(since_epoch(UNIX_EPOCH + 3 * half), (1, 500_000_000));
    }
}
