//! On whose behalf a thread works: the user whose request it serves, or who brought about what it does later.
//!
//! The log charges its lines to that user. Each thread knows it for itself, so there is no lock, and nothing is handed
//! through the layers. So does the thread that serves requests know which of them it serves now.

use std::cell::Cell;

thread_local! {
    static USER: Cell<Option<u32>> = const { Cell::new(None) };
    static REQUEST: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The number of the kernel's request that this thread serves now; `None` when it serves none, or the kernel does not tell when the
/// one that it serves is interrupted.
pub fn request() -> Option<u64> {
    REQUEST.get()
}

/// From now on this thread serves that request.
pub fn serve(request: Option<u64>) {
    REQUEST.set(request);
}

/// The user for whom this thread works now; `None` when it does so for mqfs itself.
pub fn user() -> Option<u32> {
    USER.get()
}

/// From now on this thread works for that user.
pub fn set(user: Option<u32>) {
    USER.set(user);
}

/// Does something for a user, and goes on as before, also when that panics.
pub fn of<T>(user: Option<u32>, work: impl FnOnce() -> T) -> T {
    struct Before(Option<u32>);
    impl Drop for Before {
        fn drop(&mut self) {
            USER.set(self.0);
        }
    }
    let _before = Before(USER.replace(user));
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_it_was_before_comes_back() {
        set(Some(1));
        assert_eq!(of(Some(2), || (user(), of(None, user))), (Some(2), None));
        assert_eq!(user(), Some(1));
        let panicked = std::panic::catch_unwind(|| of(Some(3), || panic!("as the test wants it")));
        assert!(panicked.is_err());
        assert_eq!(user(), Some(1));
        assert_eq!(std::thread::spawn(user).join().unwrap(), None);
    }
}
