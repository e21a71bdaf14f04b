//! Who enqueues: numbered messages, as fast as they can, whatever becomes of the mount.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use super::journal::{Event, Journal};
use super::message::Message;

/// Before it is tried again.
const NAP: Duration = Duration::from_millis(20);

/// Producers at work; they end when it is dropped.
pub struct Producers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Producers {
    /// So many of them begin to work, in this episode of the campaign. Each writes no more than `most` messages.
    pub fn start(queue: PathBuf, journal: &Journal, episode: usize, count: usize, most: usize) -> Producers {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = |producer: usize| {
            let (queue, mut journal, stop) = (queue.clone(), journal.another(), stop.clone());
            std::thread::spawn(move || {
                // Else a link that is started holds what is being written until it has begun, and a close is not the last one.
                // SAFETY: this thread gets a copy of the table of descriptors, and only it uses that.
                assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
                for number in 1..=most {
                    let id = format!("e{episode}.p{producer}.{number}");
                    journal.note(&Event::Offered { id: id.clone() });
                    // Of a queue that is full or paused it is known that it has taken nothing.
                    while !produce(&queue, &mut journal, &id) {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        sleep(NAP);
                    }
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        };
        Producers { threads: (1..=count).map(thread).collect(), stop }
    }

    /// Waits until they have written all that they are to.
    pub fn finish(mut self) {
        self.threads.drain(..).for_each(|thread| thread.join().expect("a producer"));
    }

    /// Has them end after what they are at.
    pub fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("a producer"));
    }
}

impl Drop for Producers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Writes a message; tells whether there is nothing more to try.
fn produce(queue: &Path, journal: &mut Journal, id: &str) -> bool {
    let message = Message::of(id);
    let written = if message.body.len().is_multiple_of(3) { message.write_draft(queue) } else { message.write(queue) };
    match written {
        Ok(()) => journal.note(&Event::Acknowledged { id: id.to_owned() }),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EDQUOT | libc::EAGAIN)) => return false,
        Err(error) => {
            journal.note(&Event::Refused { id: id.to_owned(), errno: error.raw_os_error().unwrap_or(0) });
            // Nobody serves the mount: no need to be told a thousand times.
            sleep(NAP);
        }
    }
    true
}
