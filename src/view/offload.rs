//! A few threads for what may block for long: the sync of large bodies. The thread that serves the kernel never waits.

use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use parking_lot::Mutex;

/// What is to be done.
pub type Task = Box<dyn FnOnce() + Send>;

/// The threads and the way to them.
pub struct Offload {
    tasks: Mutex<Option<Sender<Task>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Offload {
    /// Starts so many threads of that name.
    pub fn start(name: &str, threads: usize) -> std::io::Result<Self> {
        let (sender, receiver) = crossbeam_channel::unbounded::<Task>();
        let threads = (0..threads)
            .map(|n| {
                let tasks = receiver.clone();
                std::thread::Builder::new().name(format!("{name}-{n}")).spawn(move || {
                    for task in tasks {
                        task();
                    }
                })
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self { tasks: Mutex::new(Some(sender)), threads: Mutex::new(threads) })
    }

    /// Hands a task over; after [`Offload::stop`] it is done at once by the caller.
    pub fn run(&self, task: Task) {
        let refused = match self.tasks.lock().as_ref() {
            Some(sender) => sender.send(task).err().map(|error| error.0),
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
            if thread.join().is_err() {
                tracing::error!("a thread for long tasks panicked");
            }
        }
    }
}
