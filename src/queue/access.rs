//! Who may do what by the permission bits of a queue, message or draft.

/// The right to read; to list, for a queue.
pub const READ: u32 = 4;
/// The right to write.
pub const WRITE: u32 = 2;
/// The right to pass through a queue.
pub const EXEC: u32 = 1;
/// The sticky bit of a queue.
pub const STICKY: u32 = 0o1000;

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

/// How a mount shows to whom things belong, whatever they were made as. What is shown is what counts, for the kernel and for us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guise {
    /// This user is the owner of everything.
    pub uid: Option<u32>,
    /// This group is the group of everything.
    pub gid: Option<u32>,
    /// Everything has the permissions that this mask leaves.
    pub umask: Option<u32>,
}

impl Guise {
    /// What is shown.
    pub fn of(&self, owner: Owner) -> Owner {
        Owner {
            uid: self.uid.unwrap_or(owner.uid),
            gid: self.gid.unwrap_or(owner.gid),
            mode: self.umask.map_or(owner.mode, |mask| (owner.mode & !0o777) | (0o777 & !mask)),
        }
    }
}

impl Owner {
    /// A user with one group has all the rights in `want` (of [`READ`], [`WRITE`], [`EXEC`]); `groups` are the user's other
    /// groups, asked only when the answer depends on them. As everywhere, the first class that fits decides: an owner whom the
    /// mode refuses is not helped by what it gives to the group.
    pub fn allows_user(&self, uid: u32, gid: u32, want: u32, groups: impl FnOnce() -> Vec<u32>) -> bool {
        let class = |shift: u32| (self.mode >> shift) & want == want;
        if uid == 0 {
            true
        } else if uid == self.uid {
            class(6)
        } else if class(3) == class(0) {
            class(0)
        } else if gid == self.gid || groups().contains(&self.gid) {
            class(3)
        } else {
            class(0)
        }
    }

    /// A user has all the rights in `want`, whatever groups that user is in: who is not the owner has them only when the group
    /// and the others have them.
    pub fn allows_in_any_group(&self, uid: u32, want: u32) -> bool {
        let class = |shift: u32| (self.mode >> shift) & want == want;
        uid == 0 || if uid == self.uid { class(6) } else { class(3) && class(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: u32 = 1000;
    const GROUP: u32 = 2000;

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
                assert!(owner.allows_user(0, 0, want, unasked));
                assert_eq!(owner.allows_user(OWNER, GROUP, want, unasked), given(6), "{mode:o} {want}");
                assert_eq!(owner.allows_user(7, GROUP, want, unasked), given(3), "{mode:o} {want}");
                assert_eq!(owner.allows_user(7, 7, want, || vec![5, GROUP]), given(3), "{mode:o} {want}");
                assert_eq!(owner.allows_user(7, 7, want, || vec![5]), given(0), "{mode:o} {want}");
                assert!(owner.allows_in_any_group(0, want));
                assert_eq!(owner.allows_in_any_group(OWNER, want), given(6), "{mode:o} {want}");
                assert_eq!(owner.allows_in_any_group(7, want), given(3) && given(0), "{mode:o} {want}");
            }
        }
    }

    #[test]
    fn a_guise_changes_what_it_names_and_no_other_bits() {
        let plain = Owner { uid: 7, gid: 8, mode: 0o3755 };
        assert_eq!(Guise::default().of(plain), plain);
        let guise = Guise { uid: Some(1), gid: None, umask: Some(0o027) };
        assert_eq!(guise.of(plain), Owner { uid: 1, gid: 8, mode: 0o3750 });
    }

    #[test]
    fn groups_are_asked_only_when_group_and_others_differ() {
        assert!(owner(0o777).allows_user(7, 7, READ | WRITE | EXEC, unasked));
        assert!(!owner(0o700).allows_user(7, 7, READ, unasked));
        assert!(owner(0o754).allows_user(7, 7, READ, unasked), "they differ, but not in what is wanted");
        let mut asked = false;
        assert!(!owner(0o750).allows_user(7, 7, READ, || {
            asked = true;
            Vec::new()
        }));
        assert!(asked);
    }
}
