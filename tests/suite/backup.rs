//! `mqfs backup` and `mqfs restore`: whatever was acknowledged is in it, whole, and nobody waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::place::{Place, binary, run, until};

const LARGE: usize = 100_000;

impl Place {
    fn stats(&self, queue: &str) -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(self.at(queue).join(".mq/stats")).unwrap()).unwrap()
    }

    /// Restores the backup `backup` and mounts what it gives, in place of what was mounted.
    fn mount_restored(&self, backup: &str) {
        self.mqfs(&["umount", "mnt"]).succeeded();
        self.mqfs(&["restore", backup, "restored"]).succeeded();
        self.mqfs(&["mount", "restored", "mnt"]).succeeded();
    }

    fn names(&self, path: &str) -> Vec<String> {
        let names = fs::read_dir(self.at(path)).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn json(path: PathBuf) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Every file below a directory, relative to it, with its inode and its bytes.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (u64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for path in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                left.push(path);
            } else {
                let entry = (fs::metadata(&path).unwrap().ino(), fs::read(&path).unwrap());
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), entry);
            }
        }
    }
    found
}

#[test]
fn a_backup_has_every_state_and_property_and_a_store_made_of_it_goes_on() {
    let place = Place::new();
    place.mounted(&[]);
    place
        .sh("cd mnt && mkdir a a/b kept && echo 'names = keep' > kept/.mq/config && printf 'max_deliveries = 7\\nvisibility_timeout = 1h\\n' > a/.mq/config
             echo 1 > a/ready; echo 2 > a/.mq/with/delay=1h,id=x,header.colour=red/delayed; echo 3 > a/dead; echo 4 > a/claimed
             mv a/*-dead a/.mq/dead/; mv a/*-claimed a/.mq/claimed/
             head -c 100000 /dev/urandom > kept/large; head -c 50000 /dev/urandom > a/.draft; echo begun > kept/.small
             mkdir a/.mq/batch/later; echo part > a/.mq/batch/later/1; chmod 640 kept/large; chmod 2750 kept
             setfattr -n user.note -v keep a; setfattr -n user.mark.at -v 6 a/.mq/batch/later
             setfattr -n user.mark.at -v 5 a; setfattr -n user.mark-was.at -v 5 a/.mq/batch/later")
        .succeeded();
    let before =
        place.sh("cd mnt && sha256sum a/.mq/peek/* kept/.mq/peek/* a/.draft kept/.small a/.mq/batch/later/1").stdout;
    let told = place.mqfs(&["backup", "mnt", "saved"]);
    assert!(told.succeeded().stdout.contains("5 messages in 3 queues, 3 drafts"), "{told:?}");
    assert!(told.stdout.contains("linked"), "{told:?}");
    place.sh("cd mnt && echo later > a/later && rm kept/large && echo more >> a/.draft").succeeded();

    place.mount_restored("saved");
    let after =
        place.sh("cd mnt && sha256sum a/.mq/peek/* kept/.mq/peek/* a/.draft kept/.small a/.mq/batch/later/1").stdout;
    assert_eq!(before, after);
    let stats = place.stats("a");
    for (state, count) in [("ready", 1), ("claimed", 1), ("delayed", 1), ("dead", 1), ("drafts", 1), ("batches", 1)] {
        assert_eq!(stats[state], count, "{state}: {stats}");
    }
    assert_eq!((&stats["enqueued_total"], &stats["claims_total"]), (&4.into(), &1.into()), "{stats}");
    let large = fs::metadata(place.at("kept/large")).unwrap();
    assert_eq!((large.len(), large.permissions().mode() & 0o777), (LARGE as u64, 0o640));
    assert_eq!(fs::metadata(place.at("kept")).unwrap().permissions().mode() & 0o7777, 0o2750);
    place
        .sh("cd mnt && grep -q 'max_deliveries = 7' a/.mq/config && getfattr -n user.note a > /dev/null && cd a/.mq &&
             test \"$(getfattr --only-values -n user.colour delayed/*)\" = red && mv dead/*-dead .. && mv claimed/*-claimed .. &&
             echo new > ../new && test \"$(getfattr --only-values -n user.mark.at ..)\" = 5 && mv batch/later .. &&
             test \"$(getfattr --only-values -n user.mark.at ..)\" = 6")
        .succeeded();
    assert_eq!(place.stats("a")["ready"], 5);
}

#[test]
fn a_backup_shares_its_bytes_with_the_store_and_neither_changes_the_other() {
    let place = Place::new();
    place.mounted(&[]);
    place
        .sh("cd mnt && mkdir q && for i in 1 2 3; do head -c 100000 /dev/urandom > q/$i; done; head -c 40000 /dev/zero > q/.d")
        .succeeded();
    place.mqfs(&["backup", "-q", "mnt", "saved"]).succeeded();
    assert!(!place.store().join("snapshot").exists());
    let saved = tree(&place.dir().join("saved"));
    let store = tree(&place.store());
    let shared = |path: &PathBuf| store.get(path).is_some_and(|other| other.0 == saved[path].0);
    let bodies: Vec<_> = saved.keys().filter(|path| path.starts_with("bodies")).collect();
    assert_eq!(bodies.len(), 4);
    assert_eq!(bodies.iter().filter(|path| shared(path)).count(), 3, "the draft is a copy");
    assert!(saved.keys().filter(|path| path.extension().is_some_and(|kind| kind == "sst")).all(shared));
    let written = |path: &&PathBuf| ["MANIFEST", "CURRENT"].iter().any(|name| path.to_string_lossy().contains(name));
    assert_eq!(saved.keys().filter(written).filter(|path| shared(path)).count(), 0, "what the store writes to");

    // The store goes on, and is emptied; so is one that shares even more with the backup.
    place
        .sh("cd mnt && echo changed > q/.d && rm q/0* && for i in $(seq 300); do echo $i > q/$i; done; rm q/0*")
        .succeeded();
    place.mqfs(&["restore", "--link", "saved", "linked"]).succeeded();
    place.mqfs(&["umount", "mnt"]).succeeded();
    place.mqfs(&["mount", "linked", "mnt"]).succeeded();
    place.sh("cd mnt && test $(ls q | wc -l) = 3 && echo other > q/.d && rm q/0* && for i in $(seq 300); do echo $i > q/$i; done").succeeded();
    place.mqfs(&["umount", "mnt"]).succeeded();
    assert!(tree(&place.dir().join("saved")) == saved, "the backup was changed");
    place.mqfs(&["mount", "saved", "mnt"]).failed(4, "mqfs restore");
}

/// What the producers and workers of the next test know.
#[derive(Default)]
struct Known {
    /// Whose write and close were done, with their bodies.
    written: Mutex<BTreeSet<String>>,
    /// Of which somebody began to acknowledge.
    acked: Mutex<BTreeSet<String>>,
    /// Which somebody has acknowledged.
    gone: Mutex<BTreeSet<String>>,
    stop: AtomicBool,
    number: AtomicU64,
}

impl Known {
    fn produce(&self, queue: &Path) {
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.number.fetch_add(1, Ordering::Relaxed);
            // Every third is in a file of its own, and some are written by the way of a draft.
            let name = format!("m{number}");
            let size = if number.is_multiple_of(3) { LARGE } else { 10 };
            let mut file = fs::File::create(queue.join(format!(".{name}"))).unwrap();
            file.write_all(&body(&name, size)).unwrap();
            drop(file);
            if number.is_multiple_of(2) {
                fs::rename(queue.join(format!(".{name}")), queue.join(&name)).unwrap();
            } else {
                fs::remove_file(queue.join(format!(".{name}"))).unwrap();
                fs::write(queue.join(&name), body(&name, size)).unwrap();
            }
            self.written.lock().unwrap().insert(name);
        }
    }

    fn work(&self, queue: &Path) {
        while !self.stop.load(Ordering::Relaxed) {
            let claim = rustix_open_nonblocking(&queue.join(".mq/claim"));
            let mut path = String::new();
            if std::io::Read::read_to_string(&mut { claim }, &mut path).is_err() {
                std::thread::yield_now();
                continue;
            }
            let path = queue.join(path.trim_end());
            // Behind the number and the delivery.
            let name = path.file_name().unwrap().to_str().unwrap()[28..].to_owned();
            let number: u64 = name[1..].parse().unwrap();
            assert!(
                fs::read(&path).unwrap() == body(&name, if number.is_multiple_of(3) { LARGE } else { 10 }),
                "{name}"
            );
            // Some stay for good.
            if !number.is_multiple_of(5) {
                self.acked.lock().unwrap().insert(name.clone());
                fs::remove_file(&path).unwrap();
                self.gone.lock().unwrap().insert(name);
            }
        }
    }
}

fn rustix_open_nonblocking(path: &Path) -> fs::File {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
}

/// A body that tells whose it is.
fn body(name: &str, size: usize) -> Vec<u8> {
    name.bytes().chain(*b" ").cycle().take(size).collect()
}

#[test]
fn a_backup_under_load_has_all_that_was_acknowledged() {
    let place = Place::new();
    place.mounted(&[]);
    fs::create_dir(place.at("q")).unwrap();
    let known = Known::default();
    let queue = place.at("q");
    let mut taken = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| known.produce(&queue));
            scope.spawn(|| known.work(&queue));
        }
        for round in 0..4 {
            let begin = known.number.load(Ordering::Relaxed);
            until(|| known.number.load(Ordering::Relaxed) > begin + 30);
            let written = known.written.lock().unwrap().clone();
            let gone = known.gone.lock().unwrap().clone();
            let backup = format!("saved{round}");
            let ran = place.mqfs(&["backup", "mnt", &backup]);
            let acked_after = known.acked.lock().unwrap().clone();
            taken.push((backup, written, gone, acked_after, ran));
        }
        known.stop.store(true, Ordering::Relaxed);
    });
    for (backup, written, gone, acked_after, ran) in taken {
        ran.succeeded();
        place.mount_restored(&backup);
        let peek = place.at("q/.mq/peek");
        let found: BTreeMap<String, Vec<u8>> = fs::read_dir(&peek)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().to_str().unwrap()[17..].to_owned(), fs::read(entry.path()).unwrap()))
            .collect();
        for name in written.difference(&acked_after) {
            assert!(found.contains_key(name), "{backup}: {name} is missing");
        }
        for (name, bytes) in &found {
            let number: u64 = name[1..].parse().unwrap();
            assert!(
                *bytes == body(name, if number.is_multiple_of(3) { LARGE } else { 10 }),
                "{backup}: {name} is not whole"
            );
            // What is being acknowledged while the backup is made may be there or not.
            assert!(!gone.contains(name), "{backup}: {name} was acknowledged before");
        }
        let stats = place.stats("q");
        let count = |what: &str| stats[what].as_u64().unwrap();
        assert_eq!(count("ready") + count("claimed"), found.len() as u64, "{backup}: {stats}");
        assert_eq!(count("enqueued_total") - count("acked_total"), found.len() as u64, "{backup}: {stats}");
        let bytes: usize = found.values().map(Vec::len).sum();
        assert_eq!(count("ready_bytes") + count("claimed_bytes"), bytes as u64, "{backup}: {stats}");
        place.mqfs(&["umount", "mnt"]).succeeded();
        fs::remove_dir_all(place.dir().join("restored")).unwrap();
        place.mounted(&[]);
    }
}

#[test]
fn a_message_whose_writers_are_not_done_is_what_a_crash_would_leave() {
    let place = Place::new();
    place.mounted(&[]);
    fs::create_dir(place.at("q")).unwrap();
    // The shell closes what it opened, and a child goes on with it: the message is committed, and not visible yet.
    let script =
        "exec 3> q/open; head -c 100000 /dev/zero | cat >&3; sleep 1000 & exec 3>&-; touch ../closed; exec sleep 1000";
    let mut writer = Command::new("bash").args(["-c", script]).current_dir(place.mnt()).spawn().unwrap();
    until(|| place.dir().join("closed").exists());
    assert_eq!((place.names("q").len(), &place.stats("")["writers"]), (0, &1.into()));
    fs::write(place.at("q/done"), "done").unwrap();
    let backup = place.mqfs(&["backup", "mnt", "saved"]);
    let children = run(Command::new("pkill").args(["-KILL", "-P", &writer.id().to_string()]));
    writer.kill().unwrap();
    writer.wait().unwrap();
    backup.succeeded();
    assert_eq!(children.code, Some(0));
    place.mount_restored("saved");
    for name in place.names("q") {
        let length = fs::metadata(place.at("q").join(&name)).unwrap().len();
        assert!(
            name.ends_with("-done") && length == 4 || name.ends_with("-open") && length == 100_000,
            "{name} {length}"
        );
    }
    assert_eq!((place.names("q").len(), &place.stats("q")["ready"]), (2, &2.into()));
}

#[test]
fn to_another_filesystem_it_is_copied_whole_or_not_at_all() {
    let place = Place::new();
    place.mounted(&[]);
    place.sh("cd mnt && mkdir q && for i in 1 2 3; do head -c 3000000 /dev/urandom > q/$i; done").succeeded();
    fs::create_dir(place.dir().join("disk")).unwrap();
    // Not enough room, then enough.
    place.sh("mount -t tmpfs -o size=5m none disk").succeeded();
    let full = place.mqfs(&["backup", "mnt", "disk/saved"]);
    let left = fs::read_dir(place.dir().join("disk")).unwrap().count();
    place.sh("mount -o remount,size=64m disk").succeeded();
    let copied = place.mqfs(&["backup", "mnt", "disk/saved"]);
    let manifest = place.dir().join("disk/saved/backup");
    let names = fs::read_dir(place.dir().join("disk")).unwrap().count();
    let restored = place.mqfs(&["restore", "--link", "disk/saved", "restored"]);
    let manifest = manifest.exists().then(|| json(manifest));
    place.sh("umount disk").succeeded();
    full.failed(10, "No space left");
    assert_eq!(left, 0, "a partial backup is left");
    assert!(copied.succeeded().stdout.contains("copied, because it is on another filesystem"), "{copied:?}");
    assert_eq!((manifest.unwrap()["messages"].as_u64(), names), (Some(3), 1));
    restored.succeeded();
    until(|| !place.store().join("snapshot").exists());
    let before = place.sh("cat mnt/q/.mq/peek/* | sha256sum").stdout;
    place.mqfs(&["umount", "mnt"]).succeeded();
    place.mqfs(&["mount", "restored", "mnt"]).succeeded();
    assert_eq!(place.sh("cat mnt/q/.mq/peek/* | sha256sum").stdout, before);
}

#[test]
fn a_store_whose_disk_is_full_is_not_put_at_risk() {
    let disk = crate::disk::Disk::new(&["mkfs.ext4", "-q"]);
    let place = Place::new();
    let store = disk.path().join("store");
    place.mqfs(&["mount", store.to_str().unwrap(), "mnt"]).succeeded();
    // The draft would have to be copied, and there is no room for that.
    place.sh("cd mnt && mkdir q && head -c 260M /dev/zero > q/.draft && echo m > q/m").succeeded();
    let to = disk.path().join("saved");
    let refused = place.mqfs(&["backup", "mnt", to.to_str().unwrap()]);
    place.sh("cd mnt && rm q/.draft && echo n > q/n && test $(ls q | wc -l) = 2").succeeded();
    until(|| place.mqfs(&["backup", "mnt", to.to_str().unwrap()]).code == Some(0));
    place.mqfs(&["umount", "mnt"]).succeeded();
    refused.failed(10, "no space left");
    assert!(to.join("backup").exists() && !store.join("snapshot").exists());
}

#[test]
fn a_backup_that_is_made_survives_a_power_cut() {
    let disk = crate::disk::Disk::new(&["mkfs.ext4", "-q"]);
    let (place, other) = (Place::new(), Place::new());
    place.mqfs(&["mount", disk.path().join("store").to_str().unwrap(), "mnt"]).succeeded();
    other.mounted(&[]);
    for (place, to) in [(&place, "linked"), (&other, "copied")] {
        place
            .sh("cd mnt && mkdir q && echo 'durability = async' > q/.mq/config && head -c 50000 /dev/urandom > q/.d
                 for i in $(seq 30); do head -c 100000 /dev/urandom > q/$i; echo $i > q/s$i; done")
            .succeeded();
        place.mqfs(&["backup", "-q", "mnt", disk.path().join(to).to_str().unwrap()]).succeeded();
    }
    let sums = "cat mnt/q/.mq/peek/* mnt/q/.d | sha256sum";
    let before = [&place, &other].map(|place| place.sh(sums).stdout);
    disk.cut_the_power();
    place.daemon().kill(libc::SIGKILL);
    place.sh("umount -l mnt").succeeded();
    other.mqfs(&["umount", "mnt"]).succeeded();
    disk.start_again();
    let after = [(&place, "linked"), (&other, "copied")].map(|(place, from)| {
        let restored = place.mqfs(&["restore", disk.path().join(from).to_str().unwrap(), "restored"]);
        place.mqfs(&["mount", "restored", "mnt"]);
        (restored, place.sh(sums).stdout)
    });
    for ((restored, after), before) in after.into_iter().zip(before) {
        restored.succeeded();
        assert_eq!(after, before);
    }
}

#[test]
fn a_daemon_that_is_killed_leaves_nothing_that_passes_for_a_backup() {
    let place = Place::new();
    let daemon = place.mounted(&[]);
    place.sh("cd mnt && mkdir q && for i in $(seq 20); do head -c 100000 /dev/urandom > q/$i; done").succeeded();
    // Stopped while the snapshot is there: reading what `.mq/backup` says is all that a backup does then.
    let asked = fs::File::open(place.at(".mq/backup")).unwrap();
    until(|| place.store().join("snapshot/backup").exists());
    daemon.kill(libc::SIGKILL);
    daemon.ends();
    drop(asked);
    place.sh("umount -l mnt").succeeded();
    assert!(place.store().join("snapshot").exists());
    place.mounted(&[]);
    assert!(!place.store().join("snapshot").exists(), "removed at the next start");
    place.mqfs(&["backup", "-q", "mnt", "saved"]).succeeded();

    // Killed at any other moment, the backup fails, and whatever is there is whole.
    for moment in 0..5 {
        let daemon = place.daemon();
        let to = format!("try{moment}");
        let mut backup = Command::new(binary())
            .args(["backup", "-q", "mnt", &to])
            .current_dir(place.dir())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut looks = 0;
        until(|| {
            looks += 1;
            looks > moment || place.store().join("snapshot").exists()
        });
        daemon.kill(libc::SIGKILL);
        daemon.ends();
        let ended = crate::place::end_of(&mut backup);
        place.sh("umount -l mnt").succeeded();
        let there = place.dir().join(&to);
        assert!(ended.success() <= there.exists(), "told as made, and not there");
        if there.exists() {
            place.mqfs(&["restore", &to, "restored"]).succeeded();
            fs::remove_dir_all(place.dir().join("restored")).unwrap();
        }
        place.mounted(&[]);
        assert_eq!(place.names("q").len(), 20);
    }
}

#[test]
fn a_backup_that_is_killed_is_cleared_away() {
    let place = Place::new();
    place.mounted(&[]);
    place.sh("cd mnt && mkdir q && head -c 100000 /dev/urandom > q/m").succeeded();
    let asked = fs::File::open(place.at(".mq/backup")).unwrap();
    place.mqfs(&["backup", "mnt", "saved"]).failed(10, "another backup");
    until(|| fs::read_to_string(place.store().join("snapshot/backup")).is_ok());
    drop(asked);
    until(|| !place.store().join("snapshot").exists());
    until(|| place.mqfs(&["backup", "-q", "mnt", "saved"]).code == Some(0));
    // Unmounted in the middle: the one who waits is told.
    let asked = fs::File::open(place.at(".mq/backup")).unwrap();
    until(|| place.store().join("snapshot/backup").exists());
    place.mqfs(&["umount", "mnt"]);
    drop(asked);
    assert!(!place.store().join("snapshot").exists());
}

#[test]
fn a_read_only_mount_can_be_backed_up() {
    let place = Place::new();
    place.mounted(&[]);
    place.sh("mkdir mnt/q && echo m > mnt/q/m").succeeded();
    place.mqfs(&["umount", "mnt"]).succeeded();
    place.mounted(&["-o", "ro"]);
    assert!(place.mqfs(&["backup", "mnt", "saved"]).succeeded().stdout.contains("1 messages"));
}
