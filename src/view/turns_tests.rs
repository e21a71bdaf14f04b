//! Users take turns: a random course of events, looked at after each step. `MQFS_TEST_SEED` repeats one.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::*;
use crate::chance::Random;

/// What is known of a course: each user's tasks in their order, those under way, and since a user could be served, who was.
#[derive(Default)]
struct Course {
    waiting: BTreeMap<u32, Vec<u32>>,
    under_way: Vec<(u32, u32)>,
    /// By user who can be served: the users that were served meanwhile.
    passed: HashMap<u32, HashSet<u32>>,
}

impl Course {
    fn can_begin(&self, user: u32, at_once: usize) -> bool {
        let busy = self.under_way.iter().filter(|(of, _)| *of == user).count();
        self.waiting.get(&user).is_some_and(|tasks| !tasks.is_empty()) && busy < at_once
    }

    fn look(&mut self, at_once: usize) {
        for user in 0..USERS {
            match self.can_begin(user, at_once) {
                true => drop(self.passed.entry(user).or_default()),
                false => drop(self.passed.remove(&user)),
            }
        }
    }

    fn served(&mut self, user: u32, task: u32) {
        assert_eq!(self.waiting.get_mut(&user).unwrap().remove(0), task, "in their order");
        self.under_way.push((user, task));
        for (other, passed) in self.passed.iter_mut().filter(|(other, _)| **other != user) {
            assert!(passed.insert(user), "{user} was served twice while {other} waited");
        }
        self.passed.remove(&user);
    }
}

const USERS: u32 = 5;

#[test]
fn whoever_waits_waits_for_one_task_of_each_other_user() {
    let mut random = Random::new();
    for round in 0..300 {
        let at_once = 1 + random.below(3);
        let (mut turns, mut course) = (Turns::new(at_once), Course::default());
        for task in 0..200 {
            match random.below(8) {
                0..=3 => {
                    // One of them has most of the tasks.
                    let user = if random.below(2) == 0 { 0 } else { random.below(USERS as usize) as u32 };
                    turns.push(user, task);
                    course.waiting.entry(user).or_default().push(task);
                }
                4 | 5 => {
                    let could = (0..USERS).any(|user| course.can_begin(user, at_once));
                    match turns.next() {
                        Some((user, task)) => course.served(user, task),
                        None => assert!(!could, "round {round}: somebody could be served"),
                    }
                }
                6 if !course.under_way.is_empty() => {
                    let at = random.below(course.under_way.len());
                    let (user, task) = course.under_way.swap_remove(at);
                    if random.below(3) == 0 {
                        turns.again(user, task);
                        course.waiting.entry(user).or_default().insert(0, task);
                    } else {
                        turns.done(user);
                    }
                }
                _ => {
                    let waits: Vec<_> = turns.all().map(|(user, number, task)| (user, number, *task)).collect();
                    assert_eq!(waits.len(), course.waiting.values().map(Vec::len).sum::<usize>());
                    if let Some((user, number, task)) = waits.get(random.below(waits.len().max(1))) {
                        assert_eq!(turns.take(*user, *number), Some(*task));
                        assert_eq!(turns.take(*user, *number), None);
                        course.waiting.get_mut(user).unwrap().retain(|other| other != task);
                    }
                }
            }
            course.look(at_once);
            let idle = course.under_way.is_empty() && course.waiting.values().all(Vec::is_empty);
            assert_eq!(turns.is_idle(), idle);
        }
        while let Some((user, _)) = turns.next() {
            turns.done(user);
        }
        course.under_way.iter().for_each(|(user, _)| turns.done(*user));
        while let Some((user, _)) = turns.next() {
            turns.done(user);
        }
        assert!(turns.is_idle() && turns.line.is_empty(), "nothing is remembered of who is done");
    }
}

#[test]
fn a_long_task_lets_the_others_go_first_between_its_pieces() {
    let mut turns = Turns::new(1);
    turns.push(1, "long");
    turns.push(1, "behind it");
    assert_eq!(turns.next(), Some((1, "long")));
    turns.push(2, "short");
    turns.again(1, "long");
    assert_eq!(turns.next(), Some((2, "short")));
    turns.done(2);
    assert_eq!(turns.next(), Some((1, "long")));
    assert_eq!(turns.next(), None, "one at once");
    turns.done(1);
    assert_eq!(turns.next(), Some((1, "behind it")));
}
