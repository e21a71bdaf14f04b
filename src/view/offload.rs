//! A few threads for what may block for long: the sync of large bodies and of directories, what reads all of a large file, purges,
//! and what tells of all queues. The thread that serves the kernel waits for none of it.
//!
//! Users take turns ([`Turns`]), and what is long is done in pieces. What somebody waits for who is being killed is dropped: it is
//! looked for among what waits, and before each piece. The kernel lets nobody go whose request it has handed over, not even the
//! killed, before that is answered.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::process;
use super::turns::Turns;
use crate::background::Alarm;
use crate::error::Error;
use crate::on_behalf;

/// So many tasks of one user wait at most, those excepted for which nobody waits.
const MOST: usize = 4096;
/// How often it is looked who is being killed.
const EVERY: Duration = Duration::from_millis(100);
/// At so many at a time; each look takes some microseconds.
const LOOKS: usize = 512;

/// For whom something is done.
#[derive(Clone, Copy, Debug)]
pub struct By {
    /// Whose turn it takes: the user who asks, or whose the file is.
    pub user: u32,
    /// The thread that waits for it; 0: nobody does, or it is not visible from here.
    pub thread: u32,
}

impl By {
    /// Nobody waits for it.
    pub fn nobody(user: u32) -> Self {
        Self { user, thread: 0 }
    }
}

/// What a task is told.
#[derive(Debug)]
pub enum Call {
    /// Do the next piece.
    Go,
    /// Clean up, and answer with this: nobody waits any more, or too many do. It is called no more.
    Drop(Error),
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It has answered.
    Done,
    /// It wants to be called again.
    More,
}

/// What is to be done, piece by piece.
pub type Task = Box<dyn FnMut(Call) -> Step + Send>;

/// A task of one piece.
pub fn once(work: impl FnOnce(Call) + Send + 'static) -> Task {
    let mut work = Some(work);
    Box::new(move |turn| {
        if let Some(work) = work.take() {
            work(turn);
        }
        Step::Done
    })
}

struct Waiting {
    thread: u32,
    /// The user on whose behalf it is done, as the log has it.
    behalf: Option<u32>,
    task: Task,
}

struct Lines {
    turns: Turns<Waiting>,
    stopped: bool,
    /// Where the next look for the killed begins.
    looked: u64,
}

struct Shared {
    name: String,
    alarm: Alarm,
    /// A leaf: nothing is called under it.
    lines: Mutex<Lines>,
    /// Something can be begun, or it is over.
    work: Condvar,
    /// Somebody waits, or it is over.
    waits: Condvar,
}

/// The threads and the way to them.
pub struct Offload {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Offload {
    /// Starts so many threads of that name, of which one user has at most `at_once`.
    pub fn start(alarm: &Alarm, name: &str, threads: usize, at_once: usize) -> std::io::Result<Self> {
        let lines = Lines { turns: Turns::new(at_once), stopped: false, looked: 0 };
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            alarm: alarm.clone(),
            lines: Mutex::new(lines),
            work: Condvar::new(),
            waits: Condvar::new(),
        });
        let worker = |n| {
            let (shared, name) = (shared.clone(), format!("{name}-{n}"));
            alarm.spawn(&name.clone(), move || shared.work(&name))
        };
        let mut threads = (0..threads).map(worker).collect::<std::io::Result<Vec<_>>>()?;
        let of = shared.clone();
        threads.push(alarm.spawn(&format!("{name}-w"), move || of.watch())?);
        Ok(Self { shared, threads: Mutex::new(threads) })
    }

    /// Hands a task over; after [`Offload::stop`] it is done at once by the caller.
    pub fn run(&self, by: By, mut task: Task) {
        let mut lines = self.shared.lines.lock();
        if lines.stopped {
            drop(lines);
            while task(Call::Go) == Step::More {}
        } else if by.thread != 0 && lines.turns.waiting(by.user) >= MOST {
            drop(lines);
            task(Call::Drop(Error::TooManyOpen));
        } else {
            lines.turns.push(by.user, Waiting { thread: by.thread, behalf: on_behalf::user(), task });
            drop(lines);
            self.shared.work.notify_one();
            if by.thread != 0 {
                self.shared.waits.notify_one();
            }
        }
    }

    /// Hands a task of one piece over that is done whatever happens to who waits.
    pub fn run_anyway(&self, user: u32, work: impl FnOnce() + Send + 'static) {
        self.run(By::nobody(user), once(move |_| work()));
    }

    /// Does what is waiting and ends the threads.
    pub fn stop(&self) {
        self.shared.lines.lock().stopped = true;
        self.shared.work.notify_all();
        self.shared.waits.notify_all();
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join(); // a panic was told
        }
    }
}

impl Shared {
    fn work(&self, name: &str) {
        let mut lines = self.lines.lock();
        loop {
            let Some((user, Waiting { thread, behalf, mut task })) = lines.turns.next() else {
                // What is under way may come back.
                if lines.stopped && lines.turns.is_idle() {
                    self.work.notify_all();
                    return;
                }
                self.work.wait(&mut lines);
                continue;
            };
            let again = MutexGuard::unlocked(&mut lines, || {
                let mut step = Step::Done;
                let killed = process::is_killed(thread);
                self.alarm.guard(name, || {
                    let next = || if killed { drop_task(&mut task, Error::Interrupted) } else { task(Call::Go) };
                    step = on_behalf::of(behalf, next);
                });
                (step == Step::More).then_some(task)
            });
            match again {
                Some(task) => lines.turns.again(user, Waiting { thread, behalf, task }),
                None => lines.turns.done(user),
            }
            self.work.notify_one();
        }
    }

    /// Looks after those who wait, as long as anybody does.
    fn watch(&self) {
        let mut lines = self.lines.lock();
        while !lines.stopped {
            let looked = lines.looked;
            let mut waiting: Vec<_> = lines
                .turns
                .all()
                .filter(|(_, _, waiting)| waiting.thread != 0)
                .map(|(user, number, waiting)| (number <= looked, number, user, waiting.thread))
                .collect();
            if waiting.is_empty() {
                self.waits.wait(&mut lines);
                // Most are served before they need to be looked at.
                if !lines.stopped {
                    self.waits.wait_for(&mut lines, EVERY);
                }
                continue;
            }
            waiting.sort_unstable();
            waiting.truncate(LOOKS);
            lines.looked = waiting.last().map_or(0, |(_, number, ..)| *number);
            let killed = MutexGuard::unlocked(&mut lines, || {
                waiting.retain(|(_, _, _, thread)| process::is_killed(*thread));
                waiting
            });
            let dropped: Vec<_> =
                killed.into_iter().filter_map(|(_, number, user, _)| lines.turns.take(user, number)).collect();
            MutexGuard::unlocked(&mut lines, || {
                for mut waiting in dropped {
                    self.alarm.guard(&self.name, || {
                        let _ = drop_task(&mut waiting.task, Error::Interrupted);
                    });
                }
            });
            if !lines.stopped {
                self.waits.wait_for(&mut lines, EVERY);
            }
        }
    }
}

fn drop_task(task: &mut Task, why: Error) -> Step {
    task(Call::Drop(why));
    Step::Done
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::sync::mpsc::{self, Receiver, Sender};

    use super::*;

    /// Whoever else waits for one of its threads is answered before the mount ends.
    #[test]
    fn a_task_that_panics_is_told_and_the_next_ones_are_done() {
        let (alarm, (sender, told)) = (Alarm::default(), mpsc::channel());
        let offload = Offload::start(&alarm, "test", 1, 1).unwrap();
        let of = sender.clone();
        alarm.watch(move |name| of.send(name.to_owned()).unwrap());
        offload.run_anyway(1, || panic!("as the test wants it"));
        offload.run_anyway(1, move || sender.send("done".into()).unwrap());
        assert_eq!([told.recv().unwrap(), told.recv().unwrap()], ["test-0", "done"]);
        offload.stop();
    }

    /// A task that says when it has begun and waits to be let on.
    fn held(offload: &Offload, by: By) -> (Receiver<()>, Sender<()>) {
        let ((begin, begun), (let_on, on)) = (mpsc::channel(), mpsc::channel());
        let work = move |_| {
            begin.send(()).unwrap();
            let _ = on.recv();
        };
        offload.run(by, once(work));
        (begun, let_on)
    }

    fn tells(offload: &Offload, by: By, what: &'static str, to: &Sender<String>) {
        let to = to.clone();
        offload.run(
            by,
            once(move |turn| {
                let text = if let Call::Drop(why) = turn { format!("{what}: {why}") } else { what.to_owned() };
                to.send(text).unwrap();
            }),
        );
    }

    #[test]
    fn one_users_tasks_leave_a_thread_to_the_others() {
        let offload = Offload::start(&Alarm::default(), "test", 2, 1).unwrap();
        let (begun, let_on) = held(&offload, By::nobody(1));
        begun.recv().unwrap();
        let (sender, told) = mpsc::channel();
        for what in ["first", "second", "third"] {
            tells(&offload, By::nobody(1), what, &sender);
        }
        tells(&offload, By::nobody(2), "another's", &sender);
        assert_eq!(told.recv().unwrap(), "another's", "while a task of the one is under way, and others wait");
        drop(let_on);
        assert_eq!([(); 3].map(|()| told.recv().unwrap()), ["first", "second", "third"]);
        offload.stop();
    }

    #[test]
    fn another_user_goes_between_the_pieces_of_a_long_task() {
        let offload = Offload::start(&Alarm::default(), "test", 1, 1).unwrap();
        let (begun, let_on) = held(&offload, By::nobody(3));
        begun.recv().unwrap();
        let (sender, told) = mpsc::channel();
        let (to, mut pieces) = (sender.clone(), 0);
        let long = move |_| {
            pieces += 1;
            to.send(format!("piece {pieces}")).unwrap();
            if pieces < 3 { Step::More } else { Step::Done }
        };
        offload.run(By::nobody(1), Box::new(long));
        tells(&offload, By::nobody(1), "behind it", &sender);
        tells(&offload, By::nobody(2), "another's", &sender);
        drop(let_on);
        let order = [(); 5].map(|()| told.recv().unwrap());
        assert_eq!(order, ["piece 1", "another's", "piece 2", "piece 3", "behind it"]);
        offload.stop();
    }

    #[test]
    fn what_the_killed_wait_for_is_dropped_and_all_else_is_done() {
        let offload = Offload::start(&Alarm::default(), "test", 1, 1).unwrap();
        let (begun, let_on) = held(&offload, By::nobody(1));
        begun.recv().unwrap();
        let (sender, told) = mpsc::channel();
        let start = || Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let (mut one, mut other) = (start(), start());
        let by = |thread| By { user: 1, thread };
        tells(&offload, by(one.id()), "killed", &sender);
        tells(&offload, by(other.id()), "alive", &sender);
        tells(&offload, By::nobody(1), "nobody's", &sender);
        one.kill().unwrap();
        one.wait().unwrap();
        // The one thread there is, is busy.
        assert_eq!(told.recv().unwrap(), format!("killed: {}", Error::Interrupted));
        drop(let_on);
        assert_eq!([(); 2].map(|()| told.recv().unwrap()), ["alive", "nobody's"]);
        other.kill().unwrap();
        other.wait().unwrap();
        offload.stop();
    }

    #[test]
    fn one_users_line_has_an_end() {
        let offload = Offload::start(&Alarm::default(), "test", 1, 1).unwrap();
        let (begun, let_on) = held(&offload, By::nobody(1));
        begun.recv().unwrap();
        let (sender, told) = mpsc::channel();
        let by = |user| By { user, thread: std::process::id() };
        (0..MOST).for_each(|_| tells(&offload, by(1), "waits", &sender));
        tells(&offload, by(1), "too many", &sender);
        assert_eq!(told.recv().unwrap(), format!("too many: {}", Error::TooManyOpen));
        tells(&offload, by(2), "another's", &sender);
        drop(let_on);
        assert!(told.iter().take(2).any(|text| text == "another's"));
        offload.stop();
    }
}
