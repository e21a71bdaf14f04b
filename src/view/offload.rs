//! A few threads for what may block for long: the sync of large bodies and of directories, what reads all of a large file or
//! tells of all queues. The thread that serves the kernel waits for none of it.

use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use parking_lot::Mutex;

use crate::background::Alarm;
use crate::on_behalf;

/// What is to be done.
pub type Task = Box<dyn FnOnce() + Send>;

/// A task, and the user on whose behalf it is done.
type Handed = (Task, Option<u32>);

/// The threads and the way to them.
pub struct Offload {
    tasks: Mutex<Option<Sender<Handed>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Offload {
    /// Starts so many threads of that name.
    pub fn start(alarm: &Alarm, name: &str, threads: usize) -> std::io::Result<Self> {
        let (sender, receiver) = crossbeam_channel::unbounded::<Handed>();
        let threads = (0..threads)
            .map(|n| {
                let (tasks, name, raised) = (receiver.clone(), format!("{name}-{n}"), alarm.clone());
                let thread = name.clone();
                let work = move |(task, user)| raised.guard(&name, || on_behalf::of(user, task));
                alarm.spawn(&thread, move || tasks.into_iter().for_each(work))
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self { tasks: Mutex::new(Some(sender)), threads: Mutex::new(threads) })
    }

    /// Hands a task over, which is done on behalf of whom this thread works for; after [`Offload::stop`] it is done at once by the caller.
    pub fn run(&self, task: Task) {
        let refused = match self.tasks.lock().as_ref() {
            Some(sender) => sender.send((task, on_behalf::user())).err().map(|error| error.0.0),
            None => Some(task),
        };
        if let Some(task) = refused {
            task();
        }
    }

    /// Does what is waiting and ends the threads.
    pub fn stop(&self) {
        drop(self.tasks.lock().take());
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join(); // a panic was told
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Whoever else waits for one of its threads is answered before the mount ends.
    #[test]
    fn a_task_that_panics_is_told_and_the_next_ones_are_done() {
        let (alarm, (sender, told)) = (Alarm::default(), mpsc::channel());
        let offload = Offload::start(&alarm, "test", 1).unwrap();
        let of = sender.clone();
        alarm.watch(move |name| of.send(name.to_owned()).unwrap());
        offload.run(Box::new(|| panic!("as the test wants it")));
        offload.run(Box::new(move || sender.send("done".into()).unwrap()));
        assert_eq!([told.recv().unwrap(), told.recv().unwrap()], ["test-0", "done"]);
        offload.stop();
    }
}
