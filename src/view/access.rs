//! Who may do what, where the kernel's own check of modes (`default_permissions`) does not suffice.

use super::process;

/// The right to read; to list, for a queue.
pub const READ: u32 = 4;
/// The right to write.
pub const WRITE: u32 = 2;
/// The right to pass through a queue.
pub const EXEC: u32 = 1;
/// The sticky bit of a queue.
pub const STICKY: u32 = 0o1000;

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

/// To whom a queue, message or draft belongs, and what it lets whom do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The permission bits; others are ignored.
    pub mode: u32,
}

impl Owner {
    /// The caller has all the rights in `want` (of [`READ`], [`WRITE`], [`EXEC`]). As everywhere, the first class that
    /// fits decides: an owner whom the mode refuses is not helped by what it gives to the group.
    pub fn allows(&self, caller: &Caller, want: u32) -> bool {
        self.allows_with(caller, want, || process::groups(caller.pid))
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

    /// `groups` costs a read of `/proc`: it is asked only when the answer depends on it.
    fn allows_with(&self, caller: &Caller, want: u32, groups: impl FnOnce() -> Vec<u32>) -> bool {
        let class = |shift: u32| (self.mode >> shift) & want == want;
        if caller.uid == 0 {
            true
        } else if caller.uid == self.uid {
            class(6)
        } else if class(3) == class(0) {
            class(0)
        } else if caller.gid == self.gid || groups().contains(&self.gid) {
            class(3)
        } else {
            class(0)
        }
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

    fn unasked() -> Vec<u32> {
        panic!("the supplementary groups do not matter here")
    }

    #[test]
    fn every_class_has_its_own_bits_and_the_first_that_fits_decides() {
        // What is wanted, against every mode: the bits of exactly one class count.
        for mode in 0..0o1000 {
            for want in 0..8 {
                let owner = owner(mode);
                let given = |shift: u32| (mode >> shift) & 7 & want == want;
                assert!(owner.allows_with(&caller(0, 0), want, unasked));
                assert_eq!(owner.allows_with(&caller(OWNER, GROUP), want, unasked), given(6), "{mode:o} {want}");
                assert_eq!(owner.allows_with(&caller(7, GROUP), want, unasked), given(3), "{mode:o} {want}");
                assert_eq!(owner.allows_with(&caller(7, 7), want, || vec![5, GROUP]), given(3), "{mode:o} {want}");
                assert_eq!(owner.allows_with(&caller(7, 7), want, || vec![5]), given(0), "{mode:o} {want}");
            }
        }
    }

    #[test]
    fn groups_are_asked_only_when_group_and_others_differ() {
        assert!(owner(0o777).allows_with(&caller(7, 7), READ | WRITE | EXEC, unasked));
        assert!(!owner(0o700).allows_with(&caller(7, 7), READ, unasked));
        assert!(owner(0o754).allows_with(&caller(7, 7), READ, unasked), "they differ, but not in what is wanted");
        let mut asked = false;
        assert!(!owner(0o750).allows_with(&caller(7, 7), READ, || {
            asked = true;
            Vec::new()
        }));
        assert!(asked);
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
