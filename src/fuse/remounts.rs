//! `mount -o remount,ro` and `remount,rw` while a mount is in use.
//!
//! The kernel refuses what changes a file system that has become read-only, and tells nobody. But reading claims, takes and
//! acknowledges messages, which the kernel cannot know. So a thread waits for changes of the table of mounts, and looks there.
//! A bind mount that is read-only cannot be told apart: a request does not say through which mount it came.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::mountinfo;
use crate::view::View;

/// So many bytes of the table are read at once.
const CHUNK: usize = 64 * 1024;

/// Tells the view from now on whether its file system, of this `MAJOR:MINOR`, is mounted read-only.
pub fn follow(view: &Arc<View>, device: String) -> io::Result<()> {
    let table = File::open(mountinfo::PATH)?;
    let followed = Arc::downgrade(view);
    // It ends with the process, or with the view.
    view.alarm().spawn("mqfs-remounts", move || look(&followed, &table, &device)).map(drop)
}

fn look(view: &Weak<View>, table: &File, device: &str) {
    loop {
        let text = read(table);
        let Some(view) = view.upgrade() else { return };
        match text.map(|text| mountinfo::is_read_only(&text, device)) {
            Ok(Some(read_only)) => view.remounted(read_only),
            // In this namespace it is not to be seen, and stays as it was.
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "whether the mount is read-only cannot be told"),
        }
        drop(view);
        loop {
            match rustix::event::poll(&mut [PollFd::new(table, PollFlags::PRI)], None) {
                Err(Errno::INTR) => {}
                Err(_) => return,
                Ok(_) => break,
            }
        }
    }
}

/// The table as it is now; each read from its beginning gives a new one.
fn read(table: &File) -> io::Result<Vec<u8>> {
    let (mut text, mut chunk) = (Vec::new(), vec![0; CHUNK]);
    loop {
        match table.read_at(&mut chunk, text.len() as u64)? {
            0 => return Ok(text),
            length => text.extend_from_slice(&chunk[..length]),
        }
    }
}
