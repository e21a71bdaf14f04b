//! Files of a store that are flipped, cut or removed: mqfs serves or refuses, clearly, and never crashes; no reader gets wrong
//! bytes; nothing is lost without a word; and `mqfs check --repair` brings back what is not damaged.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::extra::{Random, full};
use crate::place::{Place, Ran, binary, is_mounted, run, until};

/// Messages by queue and producer's name, with their bodies.
type Messages = BTreeMap<String, Vec<u8>>;

/// Makes a store with something of everything: in tables, in the log, and in body files. `MQFS` is mounted and unmounted
/// several times. Each message's body begins with its name.
const FILL: &str = r#"
set -e
mount() { "$MQFS" mount store mnt; }
umount() { "$MQFS" umount mnt; }
pad=$(printf 'x%.0s' {1..200})
put() { for ((i = $2; i <= $3; i++)); do echo "$1-$i $pad" > "mnt/$1/$1-$i"; done; }
large() { { echo "$1-$2"; seq "$3"; } > "mnt/$1/$1-$2"; }
mount
mkdir mnt/q mnt/kept mnt/q/nested mnt/async
echo names=keep > mnt/kept/.mq/config
echo durability=async > mnt/async/.mq/config
put q 1 200; put kept 1 20; put q 201 220
large q large1 20000; large q large2 60000; large async large3 100000
mv mnt/q/*-q-3 mnt/q/.mq/claimed/; mv mnt/q/*-q-4 mnt/q/.mq/dead/
echo later > mnt/q/.mq/with/delay=10h/q-later
echo draft > mnt/q/.draft
umount; mount
rm mnt/q/*-q-1; put q 300 320
umount; mount
put q 400 440; put async 1 60; large q large4 30000
umount
"#;

impl Place {
    fn messages(&self) -> Result<Messages, String> {
        let mut all = Messages::new();
        let mut queues = vec![self.mnt()];
        while let Some(queue) = queues.pop() {
            let entries = fs::read_dir(&queue).map_err(|error| format!("{}: {error}", queue.display()))?;
            for entry in entries {
                let entry = entry.map_err(|error| format!("{}: {error}", queue.display()))?;
                // What is listed and has no record is not there.
                queues.extend(entry.file_type().is_ok_and(|kind| kind.is_dir()).then(|| entry.path()));
            }
            let peek = queue.join(".mq/peek");
            if queue == self.mnt() || !peek.exists() {
                continue;
            }
            let entries = fs::read_dir(&peek).map_err(|error| format!("{}: {error}", peek.display()))?;
            for entry in entries {
                let path = entry.map_err(|error| format!("{}: {error}", peek.display()))?.path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                let numbered = name.len() > 17 && name.bytes().take(16).all(|byte| byte.is_ascii_digit());
                let name = if numbered { &name[17..] } else { &name };
                match fs::read(&path) {
                    Ok(bytes) => drop(all.insert(name.to_owned(), bytes)),
                    Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::ENOENT)) => {}
                    Err(error) => panic!("{}: {error}", path.display()),
                }
            }
        }
        Ok(all)
    }

    /// `mqfs` that must end, and not by a crash.
    #[track_caller]
    fn ends(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "60", binary()]).args(arguments).current_dir(self.dir());
        let ran = run(&mut command);
        assert!(ran.code.is_some_and(|code| code < 100) && !ran.stderr.contains("panicked"), "{arguments:?}: {ran:?}");
        ran
    }

    fn mount_logged(&self) -> Ran {
        self.ends(&["mount", "store", "mnt", "--log-file", "log"])
    }

    fn unmount(&self) {
        self.ends(&["umount", "mnt"]);
        until(|| !is_mounted(&self.mnt()));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }
}

/// A store, what is in it, and places with copies of it.
struct Original {
    place: Place,
    messages: Messages,
}

impl Original {
    /// That of the tests that run at the same time.
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Original>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let original = Arc::new(Self::new());
            *shared = Arc::downgrade(&original);
            original
        })
    }

    fn new() -> Self {
        let place = Place::new();
        place.sh(FILL).succeeded();
        // A mount that flushes the log would leave nothing in it.
        let copy = Self::copied(&place);
        copy.mount_logged().succeeded();
        let messages = copy.messages().unwrap();
        copy.unmount();
        assert_eq!(messages.len(), 366, "{:?}", messages.keys());
        Self { place, messages }
    }

    fn copied(place: &Place) -> Place {
        let copy = Place::new();
        let ran = run(Command::new("cp").arg("-a").arg(place.store()).arg(copy.store()));
        ran.succeeded();
        copy
    }

    fn copy(&self) -> Place {
        Self::copied(&self.place)
    }

    /// Files of a kind, with paths relative to the store.
    fn files(&self, kind: &str) -> Vec<PathBuf> {
        let store = self.place.store();
        let all = crate::common::files_below(&store)
            .into_iter()
            .map(|(path, _)| path.strip_prefix(&store).unwrap().to_owned());
        let mut files: Vec<PathBuf> = all
            .filter(|path| {
                let name = path.to_str().unwrap();
                match kind {
                    "table" => name.ends_with(".sst"),
                    "log" => name.ends_with(".log"),
                    "body" => name.starts_with("bodies/") && fs::metadata(store.join(path)).unwrap().len() > 32 << 10,
                    prefix => name.starts_with(prefix),
                }
            })
            .collect();
        files.sort();
        assert!(!files.is_empty(), "no {kind}");
        files
    }

    /// What is there is right; gives how much is missing.
    #[track_caller]
    fn assert_right(&self, found: &Messages, what: &str) -> usize {
        for (name, bytes) in found {
            assert!(self.messages.get(name) == Some(bytes), "{what}: wrong bytes of {name}");
        }
        self.messages.len() - found.len()
    }
}

fn flip(file: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Kinds of files, and whether all messages must be there when they are repaired.
const KINDS: [(&str, bool); 10] = [
    ("table", false),
    ("log", false),
    ("body", false),
    ("db/MANIFEST", true),
    ("db/CURRENT", true),
    ("db/OPTIONS", true),
    ("db/IDENTITY", true),
    ("format", true),
    ("synced", true),
    ("lock", true),
];

/// Does something to a file; says what.
fn damage(file: &Path, random: &mut Random) -> String {
    let length = fs::metadata(file).unwrap().len();
    match random.below(4) {
        0 => {
            fs::remove_file(file).unwrap();
            "removed".to_owned()
        }
        1 => {
            let to = random.below(length + 1);
            OpenOptions::new().write(true).open(file).unwrap().set_len(to).unwrap();
            format!("cut from {length} to {to}")
        }
        _ if length > 0 => {
            let at = random.below(length);
            flip(file, at);
            format!("flipped at {at} of {length}")
        }
        _ => "left".to_owned(),
    }
}

fn one_damage(original: &Original, (kind, all_there): (&str, bool), random: &mut Random) {
    let files = original.files(kind);
    let victim = &files[random.below(files.len() as u64) as usize];
    let served = original.copy();
    let did = damage(&served.store().join(victim), random);
    let what = format!("{}: {did}", victim.display());
    println!("{what}");
    let repaired = Original::copied(&served);

    // To mount is to serve what is right, or to refuse.
    let mounted = served.mount_logged();
    let mut missing = usize::MAX;
    match mounted.code {
        Some(0) => {
            match served.messages() {
                Ok(found) => missing = original.assert_right(&found, &what),
                Err(error) => assert!(error.contains("Input/output error"), "{what}: {error}"),
            }
            served.sh("mkdir mnt/new && echo new > mnt/new/a && cat mnt/new/*-a");
            served.unmount();
            assert!(!served.log().contains("panicked"), "{what}: {}", served.log());
        }
        _ => mounted.failed(4, "store"),
    }

    // To check changes nothing and tells of it.
    let before = repaired.sh("find store -type f ! -name lock | sort | xargs md5sum").stdout;
    let checked = repaired.ends(&["check", "store"]);
    assert_eq!(repaired.sh("find store -type f ! -name lock | sort | xargs md5sum").stdout, before, "{what}");
    let told = match checked.code {
        Some(0) => false,
        Some(14) => {
            assert!(checked.stdout.contains("damaged: "), "{what}: {checked:?}");
            true
        }
        _ => panic!("{what}: {checked:?}"),
    };
    let loud = mounted.code != Some(0) || served.log().contains("ERROR");
    assert!(told || loud || missing == 0, "{what}: {missing} are missing without a word: {checked:?}");
    assert!(told || missing == 0, "{what}: mqfs check says nothing of what is missing");

    // Repaired, it works, and says what became of it.
    let repair = repaired.ends(&["check", "--repair", "store"]);
    assert!(matches!(repair.code, Some(0 | 15)), "{what}: {repair:?}");
    assert!(!told || repair.stdout.contains("repaired: "), "{what}: {repair:?}");
    let again = repaired.ends(&["check", "store"]);
    assert_eq!(again.code, Some(0), "{what}: {again:?} after {repair:?}");
    repaired.mount_logged().succeeded();
    let found = repaired.messages().unwrap();
    let missing = original.assert_right(&found, &what);
    let most = match kind {
        _ if all_there => 0,
        "body" => 1,
        // A whole file may be gone.
        _ if did.starts_with("flipped") => original.messages.len() / 2,
        _ => original.messages.len(),
    };
    assert!(missing <= most, "{what}: {missing} are missing: {repair:?}");
    // The queue may have been recovered under another name.
    repaired
        .sh("cd mnt/q 2> /dev/null || for q in mnt/recovered-*; do cd $q; break; done; echo new > again && cat *again")
        .succeeded();
    repaired.unmount();
}

/// Each kind of file, damaged somehow; with `MQFS_TEST_FULL`, again and again.
#[test]
fn whatever_is_damaged_nothing_wrong_is_served_and_the_rest_is_saved() {
    // The same each time, unless more is asked for: what is lost of a table depends on where it is hit.
    let chosen = full() || std::env::var_os("MQFS_TEST_SEED").is_some();
    let mut random = if chosen { Random::new() } else { Random::seeded(1) };
    let original = Original::shared();
    for round in 0..if full() { 30 } else { 1 } {
        println!("round {round}");
        KINDS.iter().for_each(|kind| one_damage(&original, *kind, &mut random));
    }
}

/// RocksDB's recovery drops, without a word, what is behind damage in the middle of its log. mqfs does not let it.
#[test]
fn damage_in_the_middle_of_the_log_is_refused_and_costs_what_is_damaged() {
    let original = Original::shared();
    let log = original
        .files("log")
        .into_iter()
        .max_by_key(|log| fs::metadata(original.place.store().join(log)).unwrap().len());
    let log = log.unwrap();
    for removed in [false, true] {
        let place = original.copy();
        let file = place.store().join(&log);
        if removed {
            fs::remove_file(&file).unwrap()
        } else {
            flip(&file, fs::metadata(&file).unwrap().len() / 2)
        }
        let files = || place.sh("find store -type f ! -name lock | sort | xargs md5sum").stdout;
        let before = files();
        for _ in 0..2 {
            place
                .mount_logged()
                .failed(4, "changes that were durable are behind the damage in its log; see `mqfs check`");
            assert_eq!(files(), before, "nothing is touched that a repair could use");
        }
        let checked = place.ends(&["check", "store"]);
        assert_eq!(checked.code, Some(14), "{checked:?}");
        assert!(checked.stdout.starts_with("damaged: the log of the database: "), "{checked:?}");
        let repaired = place.ends(&["check", "store", "--repair"]);
        assert_eq!(repaired.code, Some(15), "{repaired:?}");
        assert!(repaired.stdout.contains("repaired: what can be read of the database"), "{repaired:?}");
        place.mount_logged().succeeded();
        let missing = original.assert_right(&place.messages().unwrap(), "the log");
        // Of the block of the log that is damaged, 32 KiB long, what is behind the damage is lost.
        let most = if removed { 110 } else { 80 };
        assert!(missing <= most, "{missing} are missing: {repaired:?}");
        place.unmount();
    }
}

/// A store of which the database is gone is not taken for a new one.
#[test]
fn a_store_that_lost_its_database_is_not_an_empty_one() {
    let original = Original::shared();
    for lost in ["db/CURRENT", "db", "db/*.sst db/*.log db/MANIFEST* db/CURRENT"] {
        let place = original.copy();
        place.sh(&format!("cd store && rm -r {lost}")).succeeded();
        let left = || place.sh("find store -name '*.sst' | wc -l").stdout;
        let before = left();
        place.mount_logged().failed(4, "see `mqfs check`");
        assert_eq!(left(), before, "the tables are still there");
        let checked = place.ends(&["check", "store"]);
        assert_eq!(checked.code, Some(14), "{checked:?}");
        let repaired = place.ends(&["check", "store", "--repair"]);
        assert_eq!(repaired.code, Some(15), "{repaired:?}");
        if lost == "db/CURRENT" {
            place.mount_logged().succeeded();
            assert_eq!(original.assert_right(&place.messages().unwrap(), lost), 0);
        } else {
            // What is left are large bodies, which are kept.
            assert!(repaired.stdout.contains("belongs to nothing: moved to lost+found"), "{repaired:?}");
            assert!(place.sh("grep -l q-large1 store/lost+found/body-*").succeeded().stdout.lines().count() == 1);
            place.mount_logged().succeeded();
        }
        place.unmount();
    }
}

/// A damaged body is told with its message; repaired, the message is a dead letter that says why.
#[test]
fn check_sets_aside_messages_whose_bodies_are_damaged() {
    let original = Original::shared();
    let place = original.copy();
    let whole = place.ends(&["check", "store"]);
    assert_eq!((whole.code, whole.stderr.as_str()), (Some(0), ""), "{whole:?}");
    assert_eq!(whole.stdout, "whole: 4 queues, 366 messages, 1 drafts\n");
    assert_eq!(place.ends(&["check", "store", "--repair"]).code, Some(0));

    let mut bodies = original.files("body");
    bodies.truncate(3);
    let path = |n: usize| place.store().join(&bodies[n]);
    flip(&path(0), 70_000);
    OpenOptions::new().write(true).open(path(1)).unwrap().set_len(9).unwrap();
    fs::remove_file(path(2)).unwrap();
    let checked = place.ends(&["check", "store"]);
    assert_eq!(checked.code, Some(14), "{checked:?}");
    let lines: Vec<&str> = checked.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{checked:?}");
    for words in ["wrong checksum of bytes", "has 9 bytes and not", "is missing"] {
        let told = |line: &&str| line.starts_with("damaged: queue ") && line.contains("large") && line.contains(words);
        assert!(lines.iter().any(told), "{words}: {checked:?}");
    }
    assert!(checked.stderr.ends_with("3 found damaged; nothing was changed: try --repair\n"), "{checked:?}");
    let repaired = place.ends(&["check", "store", "--repair"]);
    assert_eq!(repaired.code, Some(15), "{repaired:?}");
    assert_eq!(repaired.stdout.lines().filter(|line| line.starts_with("repaired: it is set aside")).count(), 3);
    let again = place.ends(&["check", "store"]);
    assert!(again.code == Some(0) && again.stdout.contains("note: queue "), "{again:?}");

    place.mount_logged().succeeded();
    let dead =
        place.sh("getfattr -R -n user.mq.dead_reason mnt/q/.mq/dead mnt/async/.mq/dead 2> /dev/null | grep -c damaged");
    assert_eq!(dead.stdout, "3\n");
    place.sh("rm mnt/q/.mq/dead/*large* mnt/async/.mq/dead/*large*; true");
    place.unmount();
    assert_eq!(place.ends(&["check", "store"]).code, Some(0));
}

/// A store that somebody has open is not looked at; what is no store is none.
#[test]
fn check_refuses_what_is_mounted_or_no_store() {
    let place = Place::new();
    place.mount_logged().succeeded();
    place.ends(&["check", "store"]).failed(3, "in use by another process");
    place.ends(&["check", "--repair", "store"]).failed(3, "in use by another process");
    place.unmount();
    assert_eq!(place.ends(&["check", "store"]).code, Some(0), "an empty one");
    place.ends(&["check", "mnt"]).failed(4, "not an mqfs store");
    place.ends(&["check", "nowhere"]).failed(4, "No such file");
    fs::write(place.store().join("format"), "99\n").unwrap();
    place.ends(&["check", "--repair", "store"]).failed(4, "use a newer mqfs");
}
