use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::*;

const LINE: Line = Line::Message(7);

/// Messages, and who got or was denied one.
#[derive(Default)]
struct Stock {
    left: Mutex<usize>,
    got: Mutex<Vec<usize>>,
    ended: Mutex<Vec<(usize, i32)>>,
    tries: AtomicUsize,
}

impl Stock {
    fn waiter(self: &Arc<Self>, name: usize) -> Waiter {
        let stock = self.clone();
        let mut answered = false;
        Box::new(move |turn| {
            assert!(!answered, "a request is answered once");
            answered = match turn {
                Turn::Try => {
                    stock.tries.fetch_add(1, Ordering::Relaxed);
                    let mut left = stock.left.lock();
                    let there = *left > 0;
                    *left -= usize::from(there);
                    drop(left);
                    if there {
                        stock.got.lock().push(name);
                    }
                    there
                }
                Turn::GiveUp(why) => {
                    stock.ended.lock().push((name, why.errno()));
                    true
                }
            };
            answered
        })
    }
}

/// As [`View::wait`].
fn wait(waiters: &Waiters, waiter: Waiter) {
    assert!(waiters.enter((LINE, 0), (0, None), waiter).is_ok());
    waiters.serve(LINE);
}

fn add(waiters: &Waiters, stock: &Stock, count: usize) {
    *stock.left.lock() += count;
    if waiters.is_busy() {
        waiters.serve(LINE);
    }
}

#[test]
fn the_first_are_served_and_nobody_is_woken_for_nothing() {
    let (waiters, stock) = (Waiters::default(), Arc::new(Stock::default()));
    (0..100).for_each(|name| wait(&waiters, stock.waiter(name)));
    assert_eq!((waiters.waiting(LINE), waiters.all_waiting(|_| true), waiters.waiting(Line::Room(7))), (100, 100, 0));
    let before = stock.tries.load(Ordering::Relaxed);
    add(&waiters, &stock, 1);
    assert_eq!(stock.tries.load(Ordering::Relaxed) - before, 2, "the one who got it, and the next");
    add(&waiters, &stock, 2);
    assert_eq!(*stock.got.lock(), [0, 1, 2]);
    assert!(waiters.is_taken(LINE) && !waiters.is_taken(Line::Message(8)));
    // More than one call serves: the rest is left to the watch thread.
    add(&waiters, &stock, 97);
    assert_eq!(stock.got.lock().len(), 3 + AT_ONCE);
    let mut tick = Instant::now() + Duration::from_secs(60);
    match waiters.work(&mut tick, Duration::from_secs(60), &mut 0, 1) {
        Some(Work::Errands(errands)) => errands.serve.into_iter().for_each(|line| waiters.serve(line)),
        _ => panic!("an errand"),
    }
    assert_eq!(*stock.got.lock(), (0..100).collect::<Vec<_>>());
    assert!(!waiters.is_busy() && !waiters.is_taken(LINE));
}

#[test]
fn who_is_given_up_keeps_nobody_else_waiting() {
    let (waiters, stock) = (Waiters::default(), Arc::new(Stock::default()));
    (0..3).for_each(|name| wait(&waiters, stock.waiter(name)));
    let (mut tick, mut looked) = (Instant::now(), 0);
    let Some(Work::Looks(looks)) = waiters.work(&mut tick, Duration::ZERO, &mut looked, 2) else { panic!("looks") };
    let Some(Work::Looks(next)) = waiters.work(&mut tick, Duration::ZERO, &mut looked, 2) else { panic!("looks") };
    let tickets = |looks: &[Seen]| looks.iter().map(|look| look.ticket).collect::<Vec<_>>();
    assert_eq!((tickets(&looks), tickets(&next)), (vec![1, 2], vec![3, 1]), "each has its turn");
    waiters.give_up(1, Error::Interrupted);
    waiters.give_up(1, Error::Interrupted);
    add(&waiters, &stock, 1);
    assert_eq!((stock.got.lock().clone(), stock.ended.lock().clone()), (vec![1], vec![(0, libc::EINTR)]));
}

#[test]
fn at_the_end_all_are_sent_away_and_nobody_comes_in() {
    let (waiters, stock) = (Waiters::default(), Arc::new(Stock::default()));
    let notified = Arc::new(AtomicUsize::new(0));
    let notify = |count: &Arc<AtomicUsize>| {
        let count = count.clone();
        Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }) as Notify
    };
    (0..3).for_each(|name| wait(&waiters, stock.waiter(name)));
    (0..2).for_each(|handle| waiters.note_poller(LINE, handle, notify(&notified)));
    waiters.note_poller(LINE, 1, notify(&notified));
    waiters.close();
    assert_eq!(*stock.ended.lock(), [(0, libc::ENODEV), (1, libc::ENODEV), (2, libc::ENODEV)]);
    assert_eq!(notified.load(Ordering::Relaxed), 2, "once for each open file");
    assert!(waiters.enter((LINE, 0), (0, None), stock.waiter(3)).is_err());
    assert!(waiters.work(&mut Instant::now(), Duration::ZERO, &mut 0, 1).is_none());
    assert!(!waiters.is_busy());
}

#[test]
fn what_comes_while_somebody_serves_is_not_missed() {
    let waiters = Arc::new(Waiters::default());
    let (of, mut tries) = (waiters.clone(), 0);
    wait(
        &waiters,
        Box::new(move |_| {
            tries += 1;
            if tries == 2 {
                // Nothing was found; now something comes, and another thread calls.
                of.serve(LINE);
            }
            tries == 3
        }),
    );
    assert_eq!(waiters.all_waiting(|_| true), 1);
    waiters.serve(LINE);
    assert_eq!(waiters.all_waiting(|_| true), 0);
}

#[test]
fn no_wake_up_is_lost_between_threads() {
    const EACH: usize = 2000;
    let (waiters, stock) = (Waiters::default(), Arc::new(Stock::default()));
    std::thread::scope(|scope| {
        for side in 0..2 {
            let (waiters, stock) = (&waiters, &stock);
            scope.spawn(move || (0..EACH).for_each(|name| wait(waiters, stock.waiter(side * EACH + name))));
            scope.spawn(move || (0..EACH).for_each(|_| add(waiters, stock, 1)));
        }
    });
    // What one call left to the watch thread.
    while !waiters.table.lock().errands.is_empty() {
        let Some(Work::Errands(errands)) = waiters.work(&mut Instant::now(), Duration::ZERO, &mut 0, 0) else { break };
        errands.serve.into_iter().for_each(|line| waiters.serve(line));
    }
    let mut got = stock.got.lock().clone();
    got.sort_unstable();
    assert_eq!(got, (0..2 * EACH).collect::<Vec<_>>());
    assert_eq!((*stock.left.lock(), waiters.all_waiting(|_| true)), (0, 0));
}

/// As [`wait`], of a request of which the kernel tells when it is interrupted.
fn wait_as(waiters: &Waiters, request: u64, waiter: Waiter) -> bool {
    let entered = waiters.enter((LINE, 0), (0, Some(request)), waiter);
    let parked = entered.is_ok();
    if let Err((mut waiter, why)) = entered {
        waiter(Turn::GiveUp(why));
    }
    waiters.serve(LINE);
    parked
}

#[test]
fn who_is_interrupted_is_sent_away_whenever_the_kernel_tells() {
    let (waiters, stock) = (Waiters::default(), Arc::new(Stock::default()));
    (1..=3).for_each(|request| assert!(wait_as(&waiters, request, stock.waiter(request as usize))));
    waiters.interrupt(2);
    waiters.interrupt(4);
    assert_eq!(*stock.ended.lock(), [(2, libc::EINTR)]);
    assert!(!wait_as(&waiters, 4, stock.waiter(4)), "it was told before the request came");
    add(&waiters, &stock, 2);
    assert_eq!((stock.got.lock().clone(), stock.ended.lock().len()), (vec![1, 3], 2));
    // What is answered is forgotten.
    waiters.interrupt(1);
    assert!(waiters.table.lock().requests.is_empty());
    (10..10 + 2 * EARLY as u64).for_each(|request| waiters.interrupt(request));
    assert_eq!(waiters.table.lock().interrupted.len(), EARLY);
}

#[test]
fn who_is_interrupted_while_it_tries_is_sent_away_after_that() {
    let (waiters, ended) = (Arc::new(Waiters::default()), Arc::new(Mutex::new(Vec::new())));
    let (of, told) = (waiters.clone(), ended.clone());
    let waiter = move |turn| {
        match turn {
            Turn::Try => of.interrupt(7),
            Turn::GiveUp(why) => told.lock().push(why.errno()),
        }
        false
    };
    assert!(wait_as(&waiters, 7, Box::new(waiter)));
    assert_eq!(*ended.lock(), [libc::EINTR]);
    assert_eq!((waiters.all_waiting(|_| true), waiters.table.lock().requests.len()), (0, 0));
}

#[test]
fn only_those_are_looked_at_of_whom_the_kernel_does_not_tell() {
    let (waiters, stock) = (Waiters::default(), Arc::new(Stock::default()));
    assert!(wait_as(&waiters, 1, stock.waiter(1)));
    assert!(!waiters.table.lock().is_to_be_looked_at());
    wait(&waiters, stock.waiter(2));
    let Some(Work::Looks(looks)) = waiters.work(&mut Instant::now(), Duration::ZERO, &mut 0, 9) else {
        panic!("looks")
    };
    assert_eq!(looks.iter().map(|look| look.ticket).collect::<Vec<_>>(), [2]);
    add(&waiters, &stock, 2);
    assert!(!waiters.table.lock().is_to_be_looked_at());
}
