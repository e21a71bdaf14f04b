//! The body of a large draft that is being published: made durable and summed, or copied first, piece by piece. Between two pieces
//! others have their turn.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::error::Result;
use crate::queue::config::Durability;
use crate::store::sums::{BLOCK, Sums, read_block};
use crate::store::{Done, INLINE_MAX, Published};

use super::View;
use super::draft::{Content, Target};
use super::offload::{By, Call, Step};
use super::staging::read_file_at;

/// Length of a piece, in bytes: some milliseconds' work.
pub(super) const PIECE: usize = 8 << 20;

/// A body on its way.
pub(super) struct LargeBody {
    /// The number of the body file.
    to: u64,
    from: Arc<File>,
    /// The file, when it is a copy.
    copy: Option<File>,
    /// So much of it was copied.
    copied: u64,
    /// Its length in bytes, as far as is known: the draft may be being written while it is copied.
    size: u64,
    synced: bool,
    sums: Vec<u32>,
}

impl LargeBody {
    /// Of a draft's file `from` of so many bytes, which is to be the body file `to`. With `copy` that is another file.
    pub fn new(to: u64, from: Arc<File>, size: u64, copy: Option<File>) -> Self {
        Self { to, from, copy, copied: 0, size, synced: false, sums: Vec::new() }
    }

    /// Whether it is another file than the draft's.
    pub fn is_copy(&self) -> bool {
        self.copy.is_some()
    }

    /// The number of the body file.
    pub fn id(&self) -> u64 {
        self.to
    }

    /// Its length and checksums, once [`LargeBody::more`] has told that it is done.
    pub fn done(self) -> (u64, Sums) {
        (self.size, Sums::of(self.sums))
    }

    /// Does the next piece; false when there is none left.
    fn more(&mut self, view: &View) -> Result<bool> {
        if let Some(copy) = &self.copy
            && self.copied < self.size
        {
            // Holes in it become bytes.
            let length = usize::try_from(self.size - self.copied).unwrap_or(PIECE).min(PIECE);
            let bytes = read_file_at(&self.from, self.copied, length)?;
            copy.write_all_at(&bytes, self.copied)?;
            self.copied += bytes.len() as u64;
            if bytes.len() < length {
                self.size = self.copied; // it was cut meanwhile
            }
            return Ok(true);
        }
        let file = self.copy.as_ref().unwrap_or(&self.from);
        if !self.synced {
            view.store.bodies().sync(self.to, file)?;
            self.synced = true;
            return Ok(true);
        }
        Ok(!add_sums(&mut self.sums, file, self.size, PIECE)?)
    }
}

/// Adds the checksums of the next `length` bytes or so to those of a file of `size` bytes; true when it has all.
pub(super) fn add_sums(sums: &mut Vec<u32>, file: &File, size: u64, length: usize) -> Result<bool> {
    let (mut bytes, blocks) = (Vec::new(), size.div_ceil(BLOCK as u64));
    for _ in 0..length.div_ceil(BLOCK) {
        let block = sums.len() as u64;
        if block >= blocks {
            break;
        }
        read_block(file, block, size, &mut bytes)?;
        sums.push(crc32fast::hash(&bytes));
    }
    Ok(sums.len() as u64 >= blocks)
}

impl View {
    /// Publishes a draft, and calls `finish` with what came of it: at once when it is small, else on a thread for that, piece by piece.
    pub(super) fn publish_body(
        self: &Arc<Self>,
        id: u64,
        target: Target,
        by: By,
        finish: impl FnOnce(Result<Durability>, Done) + Send + 'static,
        done: Done,
    ) {
        let size = match self.draft_size(id) {
            Ok(size) => size,
            Err(error) => return finish(Err(error), done),
        };
        if size <= INLINE_MAX as u64 && target.then == Published::Gone {
            return finish(self.publish_draft(id, &target, None), done);
        }
        let view = self.clone();
        let (mut end, mut body) = (Some((finish, done)), None);
        let work = move |turn| {
            let result = match turn {
                Call::Go => view.publish_piece(id, &target, &mut body),
                Call::Drop(why) => Err(why),
            };
            let result = match result {
                Ok(None) => return Step::More,
                Ok(Some(durability)) => Ok(durability),
                Err(error) => Err(error),
            };
            // A refused copy would lie there until the next start.
            if let Some(copy) = body.take().filter(LargeBody::is_copy) {
                view.store.discard_body(copy.id());
            }
            if let Some((finish, done)) = end.take() {
                finish(result, done);
            }
            Step::Done
        };
        self.offload_for(size).run(by, Box::new(work));
    }

    /// Does the next piece of that; `None` when there are more.
    fn publish_piece(&self, id: u64, target: &Target, body: &mut Option<LargeBody>) -> Result<Option<Durability>> {
        if body.is_none() {
            *body = self.large_body(id, target)?;
        }
        if let Some(large) = body
            && large.more(self)?
        {
            return Ok(None);
        }
        self.publish_draft(id, target, body.take()).map(Some)
    }

    /// The body of a draft; `None` when it is small.
    fn large_body(&self, id: u64, target: &Target) -> Result<Option<LargeBody>> {
        self.store.draft(id)?; // it may have been removed
        let content = self.draft_content(id)?;
        let size = content.size()?;
        self.store.config(target.queue)?.admit_size(size)?;
        let Content::File(from) = content else { return Ok(None) };
        if size <= INLINE_MAX as u64 {
            return Ok(None);
        }
        if target.then == Published::Gone {
            return Ok(Some(LargeBody::new(target.id, from, size, None)));
        }
        self.store.space().admit(size)?;
        let copy = self.store.bodies().create(target.id)?;
        Ok(Some(LargeBody::new(target.id, from, size, Some(copy))))
    }
}
