//! The threads that work in the background, and what a panic in one of them comes to.
//!
//! A mount of which the thread for the deadlines, or for the syncs, is gone would go on as if nothing were wrong, and no lease
//! would ever end, no close ever be answered. So all these threads are begun here: when one panics, whoever serves the mount
//! is told, and ends it in order, as if it had been asked to. What was promised is on disk, and a panic is a bug of
//! which nobody knows what else it has left undone: the next mount begins with what is on disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use parking_lot::Mutex;

/// Told of the name of the thread that panicked.
type Told = Box<dyn FnOnce(&str) + Send>;

/// Told of panics: once, of the first.
#[derive(Clone, Default)]
pub struct Alarm(Arc<Mutex<State>>);

#[derive(Default)]
enum State {
    /// Nobody wants to be told yet.
    #[default]
    Quiet,
    Watched(Told),
    /// This thread has panicked, and nobody was told yet.
    Raised(String),
    /// Somebody was told.
    Over,
}

impl Alarm {
    /// Has `told` called when a thread panics, or at once if one has. Only the first who asks is told. Called from the
    /// thread that panicked, which holds no lock any more.
    pub fn watch(&self, told: impl FnOnce(&str) + Send + 'static) {
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, State::Over) {
            State::Quiet => *state = State::Watched(Box::new(told)),
            State::Raised(name) => {
                drop(state);
                told(&name);
            }
            other => *state = other,
        }
    }

    /// Starts a thread of that name.
    pub fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
        let (alarm, of) = (self.clone(), name.to_owned());
        Builder::new().name(name.to_owned()).spawn(move || alarm.guard(&of, work))
    }

    /// Does one of the things that the thread `name` has to do, which goes on with the next even when this one panics: others may
    /// wait for what it does until the mount has ended.
    ///
    /// What the work shared with others is unwound, its locks included; each change of the store is whole or not there at all.
    pub fn guard(&self, name: &str, work: impl FnOnce()) {
        // What it panicked with was told by the hook.
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            self.raise(name);
        }
    }

    fn raise(&self, name: &str) {
        tracing::error!(thread = name, "bug: a background thread panicked");
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, State::Over) {
            State::Quiet => *state = State::Raised(name.to_owned()),
            State::Watched(told) => {
                drop(state);
                told(name);
            }
            other => *state = other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_panic_is_told_once_whoever_comes_first() {
        for early in [true, false] {
            let (alarm, (sender, told)) = (Alarm::default(), mpsc::channel());
            let watch = || {
                let sender = sender.clone();
                alarm.watch(move |name| sender.send(name.to_owned()).unwrap());
            };
            if early {
                watch();
            }
            alarm.spawn("fine", || ()).unwrap().join().unwrap();
            for name in ["first", "second"] {
                alarm.spawn(name, || panic!("as the test wants it")).unwrap().join().unwrap();
            }
            if !early {
                watch();
            }
            watch();
            drop(sender);
            drop(alarm);
            assert_eq!(told.iter().collect::<Vec<_>>(), ["first"]);
        }
    }
}
