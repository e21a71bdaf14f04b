//! Who may do what, where the kernel's own check of modes (`default_permissions`) does not suffice.

use super::process;

pub use crate::queue::access::{EXEC, Owner, READ, STICKY, WRITE};

/// Who asks, as a FUSE request says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user (`fsuid`).
    pub uid: u32,
    /// The group (`fsgid`); the supplementary groups are not in a request.
    pub gid: u32,
    /// The thread; 0 if it is in another pid namespace.
    pub pid: u32,
}

impl Owner {
    /// The caller has all the rights in `want`, with its supplementary groups.
    pub fn allows(&self, caller: &Caller, want: u32) -> bool {
        self.allows_user(caller.uid, caller.gid, want, || process::groups(caller.pid))
    }

    /// The caller may consume from this queue, which needs all of r, w and x on it; and to be its owner when it is sticky,
    /// because there the kernel lets nobody else remove other people's messages.
    pub fn may_consume(&self, caller: &Caller) -> bool {
        (self.mode & STICKY == 0 || self.is_owner(caller)) && self.allows(caller, READ | WRITE | EXEC)
    }

    /// The caller is the owner, or root.
    pub fn is_owner(&self, caller: &Caller) -> bool {
        caller.uid == 0 || caller.uid == self.uid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: u32 = 1000;
    const GROUP: u32 = 2000;

    fn caller(uid: u32, gid: u32) -> Caller {
        Caller { uid, gid, pid: 0 }
    }

    fn owner(mode: u32) -> Owner {
        Owner { uid: OWNER, gid: GROUP, mode }
    }

    #[test]
    fn consuming_needs_all_three() {
        assert!(owner(0o700).may_consume(&caller(OWNER, 7)));
        for mode in [0o300, 0o500, 0o600] {
            assert!(!owner(mode).may_consume(&caller(OWNER, 7)), "{mode:o}");
            assert!(owner(mode).may_consume(&caller(0, 7)), "{mode:o}");
        }
        // A drop box, with its sticky bit: whoever may only put in may not take out.
        assert!(!owner(0o1733).may_consume(&caller(7, 7)));
        assert!(owner(0o1733).allows(&caller(7, 7), WRITE | EXEC));
        assert!(owner(0o770).may_consume(&caller(7, GROUP)));
    }

    #[test]
    fn of_a_sticky_queue_only_the_owner_consumes() {
        for (caller, may) in [(caller(OWNER, 7), true), (caller(0, 0), true), (caller(7, GROUP), false)] {
            assert_eq!(owner(0o1777).may_consume(&caller), may, "{caller:?}");
            assert!(owner(0o777).may_consume(&caller));
        }
    }

    #[test]
    fn a_caller_who_is_not_visible_has_no_supplementary_groups() {
        assert!(!owner(0o770).may_consume(&caller(7, 7)));
    }

    #[test]
    fn owners_are_the_user_and_root() {
        assert!(owner(0).is_owner(&caller(OWNER, 7)));
        assert!(owner(0).is_owner(&caller(0, 7)));
        assert!(!owner(0o777).is_owner(&caller(7, GROUP)));
    }
}
