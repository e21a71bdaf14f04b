//! Whose turn it is: users take turns, so that many tasks of one of them do not hold up those of the others.
//!
//! Each user has a line of tasks. Users who have one that can begin stand in a line of their own: the first of them is served one
//! task, or one piece of a long one, and goes to its end. So whoever comes waits for one task of each other user at most,
//! however many those have. Of one user's tasks no more are under way at a time than `at_once`, which is fewer than there are
//! threads: so one user alone does not keep the others waiting for even that.

use std::collections::{HashMap, VecDeque};

/// The lines.
pub struct Turns<T> {
    at_once: usize,
    users: HashMap<u32, Of<T>>,
    /// Users with a task that can begin, each once: one with waiting tasks and fewer under way than may be at once.
    line: VecDeque<u32>,
    next: u64,
}

/// A user's tasks.
struct Of<T> {
    waiting: VecDeque<(u64, T)>,
    under_way: usize,
}

impl<T> Turns<T> {
    /// Nobody waits. Of one user so many tasks are under way at once.
    pub fn new(at_once: usize) -> Self {
        Self { at_once, users: HashMap::new(), line: VecDeque::new(), next: 0 }
    }

    fn of(&mut self, user: u32) -> &mut Of<T> {
        self.users.entry(user).or_insert_with(|| Of { waiting: VecDeque::new(), under_way: 0 })
    }

    /// How many tasks of a user wait.
    pub fn waiting(&self, user: u32) -> usize {
        self.users.get(&user).map_or(0, |of| of.waiting.len())
    }

    /// Whether no task waits, and none is under way.
    pub fn is_idle(&self) -> bool {
        self.users.is_empty()
    }

    /// Another task, behind the user's others.
    pub fn push(&mut self, user: u32, task: T) {
        self.next += 1;
        let number = self.next;
        self.of(user).waiting.push_back((number, task));
        self.line_up(user);
    }

    /// The next task to be begun, and whose it is. It is under way until [`Turns::done`] or [`Turns::again`].
    pub fn next(&mut self) -> Option<(u32, T)> {
        let user = self.line.pop_front()?;
        let of = self.of(user);
        let (_, task) = of.waiting.pop_front()?;
        of.under_way += 1;
        self.line_up(user);
        Some((user, task))
    }

    /// A user's task is done.
    pub fn done(&mut self, user: u32) {
        let of = self.of(user);
        of.under_way -= 1;
        if of.under_way == 0 && of.waiting.is_empty() {
            self.users.remove(&user);
        } else {
            self.line_up(user);
        }
    }

    /// A piece of a user's task is done: its next one comes before the user's other tasks, and after the others' turns.
    pub fn again(&mut self, user: u32, task: T) {
        self.next += 1;
        let number = self.next;
        let of = self.of(user);
        of.under_way -= 1;
        of.waiting.push_front((number, task));
        self.line_up(user);
    }

    /// The waiting tasks, each with its number, by which [`Turns::take`] finds it as long as it waits.
    pub fn all(&self) -> impl Iterator<Item = (u32, u64, &T)> {
        self.users.iter().flat_map(|(user, of)| of.waiting.iter().map(|(number, task)| (*user, *number, task)))
    }

    /// Takes a task of a user's out that still waits.
    pub fn take(&mut self, user: u32, number: u64) -> Option<T> {
        let of = self.users.get_mut(&user)?;
        let at = of.waiting.iter().position(|(other, _)| *other == number)?;
        let (_, task) = of.waiting.remove(at)?;
        if of.waiting.is_empty() {
            self.line.retain(|other| *other != user);
            if of.under_way == 0 {
                self.users.remove(&user);
            }
        }
        Some(task)
    }

    /// Puts a user at the end of the line who has a task that can begin and is not in it.
    fn line_up(&mut self, user: u32) {
        let at_once = self.at_once;
        let can_begin = self.users.get(&user).is_some_and(|of| !of.waiting.is_empty() && of.under_way < at_once);
        if can_begin && !self.line.contains(&user) {
            self.line.push_back(user);
        }
    }
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
