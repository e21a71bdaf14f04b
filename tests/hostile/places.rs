//! The queues, who owns them, and what is in them that some must not see or touch.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use crate::common::{Mount, xattr};

/// A group that some are in.
const STAFF: u32 = 54321;
/// A user and a group that none of them is.
const CAROL: u32 = 34567;

/// A user without privileges.
pub struct User {
    pub uid: u32,
    /// Supplementary groups; the group of the user's own has the same number.
    pub groups: &'static [u32],
}

pub const USERS: &[User] =
    &[User { uid: 12345, groups: &[] }, User { uid: 65534, groups: &[] }, User { uid: 23456, groups: &[4, STAFF] }];

/// A queue at the top.
struct Place {
    name: &'static str,
    uid: u32,
    gid: u32,
    mode: u32,
    config: &'static str,
    /// Its secrets are for members of its group; else for its owner.
    shared: bool,
    /// Its messages must stay as they are.
    kept: bool,
}

const fn of_root(name: &'static str, mode: u32, config: &'static str) -> Place {
    Place { name, uid: 0, gid: 0, mode, config, shared: false, kept: true }
}

const PLACES: &[Place] = &[
    of_root("private", 0o700, ""),
    of_root("drop", 0o1733, ""),
    of_root("box", 0o733, ""),
    of_root("look", 0o755, ""),
    of_root("sticky", 0o1777, ""),
    of_root("stickykeep", 0o1777, "names=keep"),
    of_root("watch", 0o700, ""),
    // Nothing comes in here, by whatever way.
    of_root(CLOSED, 0o1733, "max_messages=20\nmax_message_bytes=200K"),
    Place { name: "carol", uid: CAROL, gid: CAROL, mode: 0o700, config: "", shared: false, kept: true },
    Place { name: "club", uid: 0, gid: CAROL, mode: 0o2770, config: "", shared: true, kept: true },
    Place { name: "group", uid: 0, gid: STAFF, mode: 0o2770, config: "", shared: true, kept: false },
    Place { name: "ann", uid: 12345, gid: 12345, mode: 0o700, config: "", shared: false, kept: false },
    Place { kept: false, ..of_root("open", 0o777, "visibility_timeout=1s\nretry_delay=100ms") },
    Place { kept: false, ..of_root("keep", 0o777, "names=keep\nvisibility_timeout=1s") },
    Place { kept: false, ..of_root("first", 0o777, "priorities=5\nmax_deliveries=2\nvisibility_timeout=500ms") },
    Place { kept: false, ..of_root("small", 0o777, "max_messages=20\nmax_bytes=64K\noverflow=drop-oldest") },
    Place { kept: false, ..of_root("async", 0o777, "durability=async\nlines_batch=8\ndedup_window=5s\ndraft_ttl=2s") },
];

/// A drop box that is paused.
pub const CLOSED: &str = "closed";

/// The names of the queues.
pub fn names() -> impl Iterator<Item = &'static str> {
    PLACES.iter().map(|place| place.name)
}

/// What no user must ever read: secrets begin so. Not what one of them may read, who may let others read it, too.
pub fn secrets() -> Vec<String> {
    let known = |place: &&Place| {
        let by = |user: &User| if place.shared { user.groups.contains(&place.gid) } else { place.uid == user.uid };
        USERS.iter().any(by)
    };
    let mut secrets: Vec<String> =
        PLACES.iter().filter(|place| !known(place)).map(|place| secret(place.name)).collect();
    // Messages and drafts of root's that only root may read, where others may consume messages: not its drafts.
    secrets.extend(PLACES.iter().map(|place| format!("SECRET draft in {}", place.name)));
    secrets
}

fn secret(place: &str) -> String {
    format!("SECRET message in {place}.")
}

/// What a queue held that nobody may touch: names below `.mq/peek` and bodies.
pub type Kept = Vec<(&'static str, Vec<(String, Vec<u8>)>)>;

/// Makes the queues and what is in them; gives what must stay.
pub fn make(m: &Mount) -> Kept {
    fs::set_permissions(m.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let mut kept = Kept::new();
    for place in PLACES {
        let queue = m.queue(place.name);
        chown(&queue, Some(place.uid), Some(place.gid)).unwrap();
        fs::set_permissions(&queue, fs::Permissions::from_mode(place.mode)).unwrap();
        if !place.config.is_empty() {
            m.set(&queue, place.config);
        }
        if place.name == "watch" {
            continue;
        }
        draft(&queue, place);
        // Whoever may consume here may read every message, so these hold secrets only where others may not.
        if place.kept || place.mode & 0o007 == 0 {
            messages(&queue, place);
        }
        if place.kept {
            kept.push((place.name, m.messages(place.name)));
        }
        if place.name == CLOSED {
            m.set(&queue, "paused=in");
        }
    }
    kept
}

fn draft(queue: &Path, place: &Place) {
    let path = queue.join(".root");
    fs::write(&path, format!("SECRET draft in {}", place.name)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn messages(queue: &Path, place: &Place) {
    for n in 0..6 {
        let body = secret(place.name);
        // Every other one is a file of the store's.
        let body = if n % 2 == 0 { body } else { body.repeat(2000) };
        let way = queue.join(".making");
        fs::write(&way, body).unwrap();
        let mode = if place.mode & 0o004 != 0 { 0o600 } else { 0o666 };
        fs::set_permissions(&way, fs::Permissions::from_mode(mode)).unwrap();
        crate::common::set_xattr(&way, "user.told", secret(place.name).as_bytes()).unwrap();
        fs::rename(&way, queue.join(format!("m{n}"))).unwrap();
    }
    let listed = crate::common::listing(queue);
    let messages: Vec<&String> = listed.iter().filter(|name| !name.starts_with('.')).collect();
    for (name, state) in messages.iter().zip(["claimed", "dead", "ready", "ready"]) {
        if state != "ready" {
            fs::rename(queue.join(name), queue.join(".mq").join(state).join(name)).unwrap();
        }
    }
    if place.kept {
        // A claim of root's that lasts.
        fs::write(queue.join(".mq/config"), "visibility_timeout=1d\n").unwrap();
    }
}

/// What had to stay is there, with the same bytes, and nobody else has claimed it.
pub fn untouched(m: &Mount, kept: &Kept) {
    for (place, before) in kept {
        if *place == CLOSED {
            assert_eq!(&m.messages(place), before, "something came into a queue that is paused");
        }
        for (name, body) in before {
            let peek = m.path().join(place).join(".mq/peek").join(name);
            assert_eq!(&fs::read(&peek).unwrap(), body, "{place}/{name}");
            let claimed = xattr(&peek, "user.mq.claimed_by").unwrap_or_else(|| "uid=0".into());
            assert!(claimed.ends_with("uid=0"), "{place}/{name}: {claimed}");
            let deliveries = xattr(&peek, "user.mq.deliveries").unwrap();
            assert!(deliveries == "0" || deliveries == "1", "{place}/{name}: {deliveries} deliveries");
        }
    }
}

/// Random numbers.
pub struct Random(pub u64);

impl Random {
    /// Seeded by `MQFS_TEST_SEED` or the clock; the seed is printed.
    pub fn of_environment() -> Random {
        let given = std::env::var("MQFS_TEST_SEED").ok().map(|text| text.parse().expect("MQFS_TEST_SEED"));
        let clock = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        let seed = given.unwrap_or_else(clock);
        println!("MQFS_TEST_SEED={seed}");
        Random(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 11) as usize % limit
    }

    pub fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}
