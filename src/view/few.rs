//! Few bytes that are being written, in memory. What there is of that is bounded in all, and for each user; who has no more of it puts
//! them into a file.

use std::sync::Arc;

use crate::store::INLINE_MAX;

use super::held::{Budget, Held};

/// So many bytes are in memory without being counted.
pub const UNCOUNTED: u64 = 1024;

/// Of which memory bytes are, and by which user; `None`: they are not counted.
pub type Share = Option<(Arc<Budget>, u32)>;

/// At most [`INLINE_MAX`] bytes.
#[derive(Debug)]
pub struct Few {
    bytes: Vec<u8>,
    share: Share,
    /// What was got of it: all that they may ever be.
    held: Option<Held>,
}

impl Few {
    /// None yet.
    pub fn of(share: Share) -> Self {
        Self { bytes: Vec::new(), share, held: None }
    }

    /// All of them.
    pub fn all(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether they can become so many, in memory.
    pub fn can_be(&mut self, size: u64) -> bool {
        if size > INLINE_MAX as u64 {
            return false;
        }
        if size <= UNCOUNTED || self.held.is_some() {
            return true;
        }
        let Some((budget, uid)) = &self.share else { return true };
        self.held = budget.hold(*uid, INLINE_MAX).ok();
        self.held.is_some()
    }

    /// Writes at an offset, where they [can be](Few::can_be) so many; a gap before it reads as zeros.
    pub fn write_at(&mut self, offset: u64, data: &[u8]) {
        // Both fit, as the end is within INLINE_MAX.
        let start = offset as usize;
        let end = start + data.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(data);
    }

    /// Cuts or extends (with zeros), where they [can be](Few::can_be) so many.
    pub fn resize(&mut self, size: u64) {
        self.bytes.resize(size as usize, 0);
    }

    /// Those at an offset, fewer than asked for only at the end.
    pub fn read_at(&self, offset: u64, size: usize) -> &[u8] {
        part(&self.bytes, offset, size)
    }
}

/// At most `size` bytes from `offset` on, fewer only at the end.
pub fn part(bytes: &[u8], offset: u64, size: usize) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    &bytes[start..start.saturating_add(size).min(bytes.len())]
}
