//! The closes of a message that has no bytes.
//!
//! A close by the process that opened the file promises the message, which is durable when it returns. But shells close duplicates of
//! the descriptor before their command has written anything, and a crash must not make an empty message of what was about to be
//! written. So a message without bytes is committed at a close after which its opener has no descriptor of it left. Where that cannot
//! be seen it is committed at the last close, and a crash before that leaves nothing.

use std::sync::Arc;

use crate::error::Error;
use crate::store::{Done, Patience};

use super::super::descriptors::{Others, others};
use super::super::offload::{By, Call, once};
use super::super::{Node, View, process};
use super::{SharedWriter, Writer};

/// The thread that serves requests looks at so many descriptors of a process. Of one that has more another thread looks...
const FEW: usize = 64;
/// ...at so many.
const MANY: usize = 65_536;

impl View {
    /// The close, by the thread `tid` of the process that opened it, of a message without bytes. It may be the last, so there has to
    /// be room from now on.
    pub(super) fn close_empty(self: &Arc<Self>, shared: Arc<SharedWriter>, tid: u32, done: Done) {
        let attempt = {
            let view = self.clone();
            move |writer: &mut Writer, patience| {
                let room = view.reserve(writer, 1, patience);
                if room.is_ok() {
                    writer.unmet = None;
                }
                view.whole_or_nothing(writer, room)
            }
        };
        let mut writer = shared.lock();
        if writer.has_room() {
            drop(writer);
            return self.commit_empty(shared, tid, (FEW, true), done);
        }
        match attempt(&mut writer, Patience::None) {
            Ok(()) => {
                drop(writer);
                self.commit_empty(shared, tid, (FEW, true), done);
            }
            Err(Error::WouldBlock) if process::is_leaving(tid) => {
                writer.found_no_room(false, &Error::WouldBlock);
                drop(writer);
                done(Err(Error::QueueFull));
            }
            Err(Error::WouldBlock) => {
                drop(writer);
                let (view, waited) = (self.clone(), shared.clone());
                let closed = move |room| match room {
                    Ok(()) => view.commit_empty(waited, tid, (FEW, false), done),
                    Err(error) => done(Err(error)),
                };
                self.wait_for_room(shared, tid, false, attempt, closed);
            }
            Err(error) => {
                drop(writer);
                done(Err(error));
            }
        }
    }

    /// Commits a message without bytes, unless its opener can still write to it, of whose descriptors so many are looked at at
    /// `most`. `serving`: this is the thread that serves requests.
    fn commit_empty(self: &Arc<Self>, shared: Arc<SharedWriter>, tid: u32, (most, serving): (usize, bool), done: Done) {
        let (inode, version) = {
            let writer = shared.lock();
            (Node::Writer(writer.id()).inode(), writer.version)
        };
        // The kernel shows the descriptors as they are after this close, whose thread waits for our answer.
        match others(tid, inode, most) {
            Others::TooMany if most < MANY => {
                let view = self.clone();
                let by = By { user: shared.lock().producer, thread: tid };
                let work = move |turn| match turn {
                    Call::Go => view.commit_empty(shared, tid, (MANY, false), done),
                    Call::Drop(why) => view.close_dropped(&mut shared.lock(), why, done),
                };
                self.offload.run(by, once(work));
            }
            Others::Some | Others::Unknown | Others::TooMany => done(Ok(())),
            Others::None => {
                let mut writer = shared.lock();
                // Another process has written meanwhile, and a later close commits it; or it has not finished.
                if writer.version != version {
                    let answer = writer.refuse_unfinished();
                    drop(writer);
                    return done(answer);
                }
                // It has room, as one that might have got any priority: now it is known which one it has.
                let admitted = self.reserve(&mut writer, 0, Patience::None);
                if let Err(error) = self.whole_or_nothing(&mut writer, admitted) {
                    drop(writer);
                    return done(Err(error));
                }
                self.commit(&mut writer, false, serving, done);
            }
        }
    }
}
