//! The bytes of a draft that somebody has open. All who have it open share them.
//!
//! What is written to a small one is in memory until a close, or `fsync`, [puts](OpenDraft::put) it into the database with what
//! `stat` shows, in one change. So a crash of mqfs leaves it as one of these has found it, and nobody who was told of a close has lost
//! anything. One that grows, or is put again and again, becomes a file and stays one; then each write is in the file at once.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};

use crate::error::{Error, Result};
use crate::locks::{self, Ranked};
use crate::store::record::{DraftBody, DraftRecord, InlineDraft};
use crate::store::{INLINE_MAX, Store, UserBytes};

use super::super::attributes::ns_of;
use super::super::few::{Few, Share, part};
use super::super::staging::{fill_hole, read_file_at};
use super::super::xattr::Pairs;

/// When more bytes than these were put into the database for one small draft, it becomes a file: each close of a log that grows by
/// a line puts all of it.
const PUT_MOST: u64 = 8 * INLINE_MAX as u64;

/// What is shared by all who have a draft open.
pub type SharedDraft = Ranked<OpenDraft, { locks::DRAFT }>;

/// The bytes of a draft that somebody has open, and what `stat` shows of them.
pub struct OpenDraft {
    id: u64,
    place: Place,
    /// Of one that is no file: as its record has it, but for the times, which are newer if it has changed.
    inline: InlineDraft,
    /// What its record does not say yet.
    changed: Changed,
    /// It was removed or published, and has no record to say anything.
    gone: bool,
    /// For what is in memory.
    share: Share,
    /// Counts the bytes for which its owner is not charged in the store: of one that was removed, all.
    charge: UserBytes,
    /// Its record when it was opened last, without attributes.
    record: DraftRecord,
}

enum Place {
    /// In the database, as the record says.
    Stored,
    Memory(Few),
    File(OpenFile),
}

struct OpenFile {
    file: Arc<File>,
    writable: bool,
    /// The record says that it is a file.
    entered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Changed {
    Nothing,
    /// Times, or that it is to survive a power cut.
    Stat,
    Bytes,
}

/// The bytes of a draft, for who publishes it.
pub enum Content {
    /// In the database, as its record says.
    Stored(InlineDraft),
    /// These, which are not there yet.
    Bytes(InlineDraft, Vec<u8>),
    /// In this file.
    File(Arc<File>),
}

impl Content {
    /// Their number.
    pub fn size(&self) -> Result<u64> {
        Ok(match self {
            Content::Stored(inline) => inline.size.into(),
            Content::Bytes(_, bytes) => bytes.len() as u64,
            Content::File(file) => file.metadata()?.len(),
        })
    }
}

/// What `stat` shows of a draft.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// Length in bytes.
    pub size: u64,
    /// Time of modification, in nanoseconds since the epoch.
    pub modified_ns: i64,
    /// Time of access, in nanoseconds since the epoch.
    pub accessed_ns: i64,
}

impl Shown {
    /// Of one that is in the database.
    pub fn of(inline: &InlineDraft) -> Self {
        let InlineDraft { size, modified_ns, accessed_ns, .. } = *inline;
        Self { size: size.into(), modified_ns, accessed_ns }
    }

    /// Of one that is a file.
    pub fn of_file(stat: &std::fs::Metadata) -> Result<Self> {
        Ok(Self { size: stat.len(), modified_ns: ns_of(stat.modified()?), accessed_ns: ns_of(stat.accessed()?) })
    }
}

impl OpenDraft {
    /// Opens it. What it has in memory is of that share.
    pub fn new(store: &Store, id: u64, record: &DraftRecord, writes: bool, share: Share) -> Result<Self> {
        let (place, inline) = match record.body {
            DraftBody::Inline(inline) => (Place::Stored, inline),
            DraftBody::File => {
                let bodies = store.bodies();
                let file = if writes { bodies.open_write(id)? } else { bodies.open_read(id)? };
                let file = OpenFile { file: Arc::new(file), writable: writes, entered: true };
                (Place::File(file), InlineDraft::default())
            }
        };
        let (changed, gone, charge) = (Changed::Nothing, false, store.user_bytes(record.uid));
        Ok(Self { id, place, inline, changed, gone, share, charge, record: without_attributes(record) })
    }

    /// It is opened once more.
    pub fn reopened(&mut self, store: &Store, record: &DraftRecord, writes: bool) -> Result<()> {
        if let Place::File(open) = &mut self.place
            && writes
            && !open.writable
        {
            (open.file, open.writable) = (Arc::new(store.bodies().open_write(self.id)?), true);
        }
        self.record = without_attributes(record);
        Ok(())
    }

    /// Its record when it was opened last, without attributes: what `fstat` shows when it is a draft no more.
    pub fn record(&self) -> &DraftRecord {
        &self.record
    }

    /// It is that user's from now on.
    pub fn turn_to(&mut self, uid: u32) {
        self.record.uid = uid;
        self.charge.turn_to(uid);
    }

    /// Length in bytes.
    pub fn size(&self) -> Result<u64> {
        Ok(match &self.place {
            Place::Stored => self.inline.size.into(),
            Place::Memory(bytes) => bytes.all().len() as u64,
            Place::File(open) => open.file.metadata()?.len(),
        })
    }

    /// What `stat` shows.
    pub fn shown(&self) -> Result<Shown> {
        match &self.place {
            Place::File(open) => Shown::of_file(&open.file.metadata()?),
            _ => Ok(Shown { size: self.size()?, ..Shown::of(&self.inline) }),
        }
    }

    /// Reads at an offset; fewer bytes than asked for only at the end.
    pub fn read_at(&self, store: &Store, offset: u64, size: usize) -> Result<Vec<u8>> {
        match &self.place {
            Place::Stored => Ok(part(&store.draft_bytes(self.id, &self.inline)?, offset, size).to_vec()),
            Place::Memory(bytes) => Ok(bytes.read_at(offset, size).to_vec()),
            Place::File(open) => read_file_at(&open.file, offset, size),
        }
    }

    /// Charges its owner, whoever writes it, for so many bytes, before they are there.
    pub fn charge(&mut self, store: &Store, size: u64) -> Result<()> {
        match &self.place {
            _ if self.gone => store.hold_bytes(&mut self.charge, size),
            Place::File(open) if open.entered => store.charge_draft(self.id, size, true),
            _ => store.hold_uncharged(&mut self.charge, size.saturating_sub(self.inline.size.into())),
        }
    }

    /// Writes at an offset; a gap before it reads as zeros.
    pub fn write_at(&mut self, store: &Store, offset: u64, data: &[u8]) -> Result<()> {
        self.make_room(store, offset + data.len() as u64)?;
        match &mut self.place {
            Place::File(open) => {
                fill_hole(&open.file, open.file.metadata()?.len(), offset)?;
                open.file.write_all_at(data, offset)?;
            }
            Place::Memory(bytes) => {
                bytes.write_at(offset, data);
                self.note_change();
            }
            Place::Stored => unreachable!("it was fetched to be changed"),
        }
        Ok(())
    }

    /// Cuts or extends (with zeros).
    pub fn truncate(&mut self, store: &Store, size: u64) -> Result<()> {
        if size == 0 && matches!(self.place, Place::Stored) {
            // What it had need not be readable.
            self.place = Place::Memory(Few::of(self.share.clone()));
        }
        self.make_room(store, size)?;
        match &mut self.place {
            Place::File(open) => {
                fill_hole(&open.file, open.file.metadata()?.len(), size)?;
                open.file.set_len(size)?;
                if size == 0 {
                    store.bodies().emptied(self.id);
                }
            }
            Place::Memory(bytes) => {
                bytes.resize(size);
                self.note_change();
            }
            Place::Stored => unreachable!("it was fetched to be changed"),
        }
        Ok(())
    }

    /// Sets its times.
    pub fn set_times(&mut self, accessed: Option<SystemTime>, modified: Option<SystemTime>) -> Result<()> {
        let [accessed, modified] = [accessed, modified].map(|time| time.map(ns_of));
        if let Place::File(open) = &self.place {
            return set_times(&open.file, accessed, modified);
        }
        self.inline.accessed_ns = accessed.unwrap_or(self.inline.accessed_ns);
        self.inline.modified_ns = modified.unwrap_or(self.inline.modified_ns);
        self.inline.times_set = true;
        self.changed = self.changed.max(Changed::Stat);
        Ok(())
    }

    fn note_change(&mut self) {
        (self.inline.modified_ns, self.inline.times_set) = (ns_of(SystemTime::now()), false);
        self.changed = Changed::Bytes;
    }

    /// Fetches what is to be changed, and makes it a file when it gets too long for memory, or there is no more of that.
    fn make_room(&mut self, store: &Store, size: u64) -> Result<()> {
        match &mut self.place {
            Place::Stored => {
                let stored = store.draft_bytes(self.id, &self.inline)?;
                let mut bytes = Few::of(self.share.clone());
                if !bytes.can_be(size.max(stored.len() as u64)) {
                    return self.make_file(store, &stored, size);
                }
                bytes.write_at(0, &stored);
                self.place = Place::Memory(bytes);
            }
            Place::Memory(bytes) => {
                if !bytes.can_be(size) {
                    let bytes = bytes.all().to_vec();
                    self.make_file(store, &bytes, size)?;
                }
            }
            Place::File(_) => {}
        }
        Ok(())
    }

    /// Makes it a file, which gets `size` bytes.
    ///
    /// A power cut may take the file and leave the record that names it. To a draft of which nothing was promised that happens anyhow;
    /// where `fsync` has promised what the database has, the file is synced before: by who closes it next ([`OpenDraft::put`]).
    fn make_file(&mut self, store: &Store, bytes: &[u8], size: u64) -> Result<()> {
        let file = store.bodies().create(self.id)?;
        let written = file.write_all_at(bytes, 0).map_err(Error::from).and_then(|()| match self.inline.times_set {
            true => set_times(&file, Some(self.inline.accessed_ns), Some(self.inline.modified_ns)),
            false => Ok(()),
        });
        if written.is_err() || self.gone {
            store.discard_body(self.id); // or it has no name, as what was removed has none
        }
        written?;
        self.place = Place::File(OpenFile { file: Arc::new(file), writable: true, entered: false });
        if self.gone || self.inline.synced { Ok(()) } else { self.enter(store, size.max(bytes.len() as u64)) }
    }

    fn enter(&mut self, store: &Store, size: u64) -> Result<()> {
        let Place::File(open) = &mut self.place else { return Ok(()) };
        if !open.entered && !self.gone {
            store.draft_to_file(self.id, size)?;
            open.entered = true;
            self.charge.set(0);
            self.changed = Changed::Nothing;
        }
        Ok(())
    }

    /// Its record says from now on that it is a file, if it is.
    pub fn enter_file(&mut self, store: &Store) -> Result<()> {
        let size = self.size()?;
        self.enter(store, size)
    }

    /// Puts what has changed into the database. When that has to wait for a sync of its file, this is given: then comes
    /// [`OpenDraft::enter_file`].
    pub fn put(&mut self, store: &Store) -> Result<Option<Arc<File>>> {
        if self.gone {
            return Ok(None);
        }
        self.become_file_if_put_often(store)?;
        match &self.place {
            Place::File(open) if open.entered => return Ok(None),
            Place::File(open) if self.inline.synced => return Ok(Some(open.file.clone())),
            Place::File(_) => return self.enter_file(store).map(|()| None),
            _ if self.changed == Changed::Nothing => return Ok(None),
            Place::Memory(bytes) if self.changed == Changed::Bytes => {
                self.inline = store.put_draft(self.id, self.inline, Some(bytes.all()))?;
            }
            _ => self.inline = store.put_draft(self.id, self.inline, None)?,
        }
        self.charge.set(0);
        self.changed = Changed::Nothing;
        Ok(None)
    }

    fn become_file_if_put_often(&mut self, store: &Store) -> Result<()> {
        let Place::Memory(bytes) = &self.place else { return Ok(()) };
        let size = bytes.all().len() as u64;
        if self.changed < Changed::Bytes || self.inline.put + size <= PUT_MOST {
            return Ok(());
        }
        let bytes = bytes.all().to_vec();
        match self.make_file(store, &bytes, size) {
            // It costs more as it is, but no inode.
            Err(Error::NoSpace | Error::TooManyOpen) => Ok(()),
            made => made,
        }
    }

    /// It is to survive a power cut from the next [`OpenDraft::put`] and sync on.
    pub fn promise(&mut self) {
        if !self.inline.synced && !self.gone && !matches!(self.place, Place::File(_)) {
            self.inline.synced = true;
            self.changed = self.changed.max(Changed::Stat);
        }
    }

    /// Its file, if it is one.
    pub fn file(&self) -> Option<Arc<File>> {
        match &self.place {
            Place::File(open) => Some(open.file.clone()),
            _ => None,
        }
    }

    /// Nobody writes it any more: what the database has need not be in memory.
    pub fn settle(&mut self) {
        if !self.gone && self.changed == Changed::Nothing && matches!(self.place, Place::Memory(_)) {
            self.place = Place::Stored;
        }
    }

    /// For who publishes it.
    pub fn content(&self) -> Content {
        match &self.place {
            Place::File(open) => Content::File(open.file.clone()),
            Place::Memory(bytes) if self.changed == Changed::Bytes => Content::Bytes(self.inline, bytes.all().to_vec()),
            _ => Content::Stored(self.inline),
        }
    }

    /// Its bytes may leave the store at any time: whoever has it open to read keeps them.
    pub fn fetch(&mut self, store: &Store) {
        let Place::Stored = self.place else { return };
        let mut bytes = Few::of(self.share.clone());
        if !bytes.can_be(self.inline.size.into()) {
            tracing::warn!(
                draft = self.id,
                "who has a draft open that is published may not be able to read it any more"
            );
            return;
        }
        // What is damaged is so to its readers now and later.
        if let Ok(stored) = store.draft_bytes(self.id, &self.inline) {
            bytes.write_at(0, &stored);
            self.place = Place::Memory(bytes);
        }
    }

    /// Whoever has it open keeps its bytes when `leave` takes them from the store, which then answers true.
    pub fn leave<T>(&mut self, store: &Store, leave: impl FnOnce() -> Result<(bool, T)>) -> Result<T> {
        let stored = matches!(self.place, Place::Stored);
        self.gone = true;
        let size = self.inline.size.into();
        if stored && let Err(error) = self.make_room(store, size) {
            // It must be possible to remove it.
            tracing::warn!(draft = self.id, %error, "who has a draft open that is removed cannot read it any more");
        }
        let left = leave();
        if !matches!(left, Ok((true, _))) {
            self.gone = false;
            if stored {
                self.place = Place::Stored;
            }
        } else if !stored && matches!(&self.place, Place::File(open) if !open.entered) {
            store.discard_body(self.id); // no record names it
        }
        left.map(|(_, left)| left)
    }

    /// It was removed: its owner is charged for it as long as somebody has it open.
    pub fn charge_removed(&mut self) {
        let size = self.size().unwrap_or_default();
        self.charge.set(size);
    }
}

fn without_attributes(record: &DraftRecord) -> DraftRecord {
    DraftRecord { attributes: Pairs::new(), name: record.name.clone(), ..*record }
}

fn set_times(file: &File, accessed: Option<i64>, modified: Option<i64>) -> Result<()> {
    let times = Timestamps {
        last_access: accessed.map_or(omitted(), timespec),
        last_modification: modified.map_or(omitted(), timespec),
    };
    Ok(rustix::fs::futimens(file, &times).map_err(std::io::Error::from)?)
}

fn omitted() -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ }
}

fn timespec(ns: i64) -> Timespec {
    Timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) }
}
