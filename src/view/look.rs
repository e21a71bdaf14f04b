//! Whether a process lives, asked by the thread that serves requests.
//!
//! `/proc/PID/stat` makes its reader wait while that process is in exec (see [`process::stat`]), and in exec the process may be
//! waiting for an answer of the very thread that asks. [`process::alive`] does not look while it sees that, but the process may
//! begin just then. So the look is another thread's, and who asks does not wait for ever.

use std::time::Duration;

use crossbeam_channel::{Sender, bounded, unbounded};
use parking_lot::Mutex;

use super::process::{self, ProcessId};

/// A look takes some microseconds. After this long the process is taken to live: in exec, it does.
const PATIENCE: Duration = Duration::from_millis(50);

type Question = (ProcessId, Sender<bool>);

/// The thread that looks.
pub struct Look {
    questions: Mutex<Option<Sender<Question>>>,
}

impl Look {
    /// Starts the thread; it ends when this is dropped or stopped.
    pub fn start() -> std::io::Result<Self> {
        let (questions, asked) = unbounded::<Question>();
        std::thread::Builder::new().name("mqfs-look".into()).spawn(move || {
            for (process, answer) in asked {
                // Who asked may have given up.
                let _ = answer.send(process::alive(process));
            }
        })?;
        Ok(Self { questions: Mutex::new(Some(questions)) })
    }

    /// Whether the process lives, as far as is known at once.
    pub fn alive(&self, process: ProcessId) -> bool {
        let (answer, answered) = bounded(1);
        let asked = self.questions.lock().as_ref().is_some_and(|questions| questions.send((process, answer)).is_ok());
        !asked || answered.recv_timeout(PATIENCE).unwrap_or(true)
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.questions.lock().take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_another_of_its_number() {
        let look = Look::start().unwrap();
        let this = process::identity(std::process::id()).unwrap();
        assert!(look.alive(this));
        assert!(!look.alive(ProcessId { start: this.start + 1, ..this }));
        look.stop();
        assert!(look.alive(this), "nobody looks: it is given the benefit of the doubt");
    }
}
