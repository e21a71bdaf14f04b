//! Which requests wait because an older one may be missing: see [`super::queues`].
//!
//! Only who looks at something can miss what an older request would have made; and of all that makes something nobody waits for the
//! answer but to a last close (RELEASE), which follows a FLUSH of the same file. So a look waits while a file is known to be flushed and
//! not released, and something older may be missing; and that only for [`PATIENCE`], since whoever keeps a file open after a close of a
//! duplicate of its descriptor must not hold up others.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::super::wire::request::{Call, Request};

/// A request waits so long at most.
const PATIENCE: Duration = Duration::from_millis(50);

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is served now.
    Serve,
    /// It is asked again later.
    Wait,
}

/// What has come, as far as it matters here.
#[derive(Debug, Default)]
pub struct Order {
    /// Files that were flushed and not released.
    flushed: HashSet<u64>,
    /// When what waits has come.
    since: HashMap<u64, Instant>,
}

impl Order {
    /// What is to be done with a request. `misses`: something older may not have come yet.
    pub fn verdict(&mut self, request: &Request<'_>, misses: bool) -> Verdict {
        match request.call {
            Call::Flush { handle } => {
                self.flushed.insert(handle);
                return Verdict::Serve;
            }
            Call::Release { handle } => {
                self.flushed.remove(&handle);
                return Verdict::Serve;
            }
            _ => {}
        }
        if !misses || self.flushed.is_empty() || !looks(&request.call) {
            return Verdict::Serve;
        }
        let since = self.since.entry(request.unique).or_insert_with(Instant::now);
        if since.elapsed() < PATIENCE { Verdict::Wait } else { Verdict::Serve }
    }

    /// A request is served.
    pub fn served(&mut self, unique: u64) {
        if !self.since.is_empty() {
            self.since.remove(&unique);
        }
    }
}

/// Its answer tells what is there, or changes with it.
fn looks(call: &Call<'_>) -> bool {
    !matches!(
        call,
        Call::Flush { .. }
            | Call::Release { .. }
            | Call::Releasedir { .. }
            | Call::Write { .. }
            | Call::Forget { .. }
            | Call::BatchForget { .. }
            | Call::Interrupt { .. }
            | Call::Init { .. }
            | Call::Destroy
            | Call::Statfs
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(order: &mut Order, unique: u64, call: Call<'_>, misses: bool) -> Verdict {
        order.verdict(&Request { unique, node: 1, uid: 0, gid: 0, pid: 0, call }, misses)
    }

    #[test]
    fn only_a_look_waits_and_only_while_a_close_may_be_on_its_way() {
        let order = &mut Order::default();
        let look = |order: &mut Order, misses| ask(order, 9, Call::Lookup { name: b"x" }, misses);
        assert_eq!(look(order, true), Verdict::Serve, "nothing was flushed");
        assert_eq!(ask(order, 1, Call::Flush { handle: 7 }, true), Verdict::Serve);
        assert_eq!((look(order, false), look(order, true)), (Verdict::Serve, Verdict::Wait));
        let write = Call::Write { handle: 8, offset: 0, data: b"", cached: false, flags: 0 };
        assert_eq!(ask(order, 2, write, true), Verdict::Serve);
        assert_eq!(ask(order, 3, Call::Release { handle: 7 }, true), Verdict::Serve);
        assert_eq!(look(order, true), Verdict::Serve, "it was released");
    }

    #[test]
    fn nobody_waits_for_ever() {
        let order = &mut Order::default();
        ask(order, 1, Call::Flush { handle: 7 }, true);
        let start = Instant::now();
        while ask(order, 9, Call::Getattr, true) == Verdict::Wait {
            std::thread::yield_now();
        }
        assert!(start.elapsed() >= PATIENCE);
        order.served(9);
        assert_eq!(ask(order, 11, Call::Getattr, true), Verdict::Wait, "each has its own time");
    }
}
