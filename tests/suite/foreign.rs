//! Stores and backups that somebody else has made, or may be changing: root is not led to read, serve, link or overwrite what is
//! not theirs.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::place::{Place, Ran};

/// What root alone may read, base64 of its beginning, and where nothing must come to be.
const SECRET: &str = "precious precious precious ";
const SECRET_TOLD: &str = "cHJlY2lvdXMgcHJlY2lvdXMg";
const VICTIM: &str = "private/victim";

/// A store `store` and a backup `saved`, of ann's, with a large message; a directory `private` that only root gets into.
fn place() -> Place {
    let place = Place::new();
    place.mounted(&[]);
    place
        .sh("mkdir mnt/q && head -c 100000 /dev/urandom > mnt/q/large && echo small > mnt/q/small && $MQFS backup -q mnt saved
             $MQFS umount mnt && chown -R 12345:12345 saved store && mkdir -m 700 private && mkdir -p private/bodies private/db
             cp -a saved/. private/kept && cp -a store private/store")
        .succeeded();
    // As long as the message: nothing else tells the two apart.
    let secret = &SECRET.repeat(4000)[..100_000];
    fs::write(place.dir().join("private/secret"), secret).unwrap();
    let body = body(&place.dir().join("saved"));
    let below = body.strip_prefix(place.dir().join("saved")).unwrap();
    fs::create_dir_all(place.dir().join("private").join(below.parent().unwrap())).unwrap();
    fs::write(place.dir().join("private").join(below), secret).unwrap();
    place
}

/// The body file of the large message.
fn body(of: &Path) -> PathBuf {
    let find = Command::new("find").arg(of.join("bodies")).args(["-type", "f"]).output().unwrap();
    PathBuf::from(String::from_utf8(find.stdout).unwrap().trim())
}

/// Runs a script as ann, in whose directory she is.
#[track_caller]
fn ann(place: &Place, dir: &str, script: &str) {
    place
        .sh(&format!("cd {dir} && exec setpriv --reuid=12345 --regid=12345 --clear-groups bash -ec '{script}'"))
        .succeeded();
}

/// What ann can do to a store or backup: in its directory, `$B` is the body.
const ATTACKS: &[(&str, &str)] = &[
    ("a symlinked body", "ln -sf ../../../private/secret $B"),
    ("a symlinked directory of bodies", "mv bodies ../hers-$$; ln -s ../private/bodies bodies"),
    ("a symlinked shard", "mv ${B%/*} ../hers-$$; ln -s ../../private/${B%/*} ${B%/*}"),
    ("a FIFO as a body", "rm $B; mkfifo $B"),
    ("a directory as a body", "rm $B; mkdir $B"),
    ("a dangling log", "rm -f db/LOG; ln -s ../../private/victim db/LOG"),
    ("a symlinked CURRENT", "ln -sf ../../private/kept/db/CURRENT db/CURRENT"),
    ("a FIFO as CURRENT", "rm db/CURRENT; mkfifo db/CURRENT"),
    ("a symlinked database", "mv db ../hers-db-$$; ln -s ../private/kept/db db"),
    ("a way out in CURRENT", "echo ../../private/kept/db/$(cat db/CURRENT) > db/CURRENT"),
];

impl Place {
    /// Puts back what an attack has changed.
    fn afresh(&self) {
        self.sh(
            "rm -rf saved store new hers-* && cp -a private/kept saved && cp -a private/store store && chmod 777 .",
        )
        .succeeded();
    }

    #[track_caller]
    fn attacked(&self, what: &str, attack: &str) {
        self.afresh();
        let body = body(&self.dir().join(what));
        let below = body.strip_prefix(self.dir().join(what)).unwrap();
        ann(self, what, &format!("B={}; {attack}", below.display()));
    }

    /// Every other one of them belongs to root: handed over by `chown -R`, which leaves links as they are. What is to be said to
    /// have the others used.
    fn whose(&self, what: &str, number: usize) -> &'static [&'static str] {
        if number.is_multiple_of(2) {
            return &["--trust-owner"];
        }
        self.sh(&format!("chown -R 0:0 {what}")).succeeded();
        &[]
    }

    /// Nothing came to be where it must not, and nothing of the secret is told or restored.
    #[track_caller]
    fn unharmed(&self, attack: &str, ran: &Ran) {
        assert!(!self.dir().join(VICTIM).exists(), "{attack}");
        let told = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!told.contains(SECRET_TOLD) && !told.contains(SECRET), "{attack}: {ran:?}");
        let found = self.sh("test ! -e new || grep -rl precious new");
        assert_eq!(found.stdout, "", "{attack}");
    }
}

#[test]
fn what_belongs_to_somebody_else_is_refused_unless_its_owner_is_trusted() {
    let place = place();
    let why = "it belongs to user 12345, neither to root nor to you: see `--trust-owner`";
    for arguments in [
        &["restore", "saved", "new"][..],
        &["restore", "--link", "saved", "new"],
        &["export", "saved"],
        &["check", "saved"],
        &["export", "store"],
        &["check", "store"],
        &["check", "--repair", "store"],
        &["import", "store"],
        &["mount", "store", "mnt"],
    ] {
        place.mqfs(arguments).failed(4, why);
        assert!(!place.dir().join("new").exists());
    }
    let exported = place.mqfs(&["export", "--trust-owner", "saved"]);
    assert_eq!(exported.succeeded().stdout.lines().count(), 5);
    assert_eq!(place.mqfs(&["export", "--trust-owner", "store"]).stdout.lines().count(), 5);
    for what in ["saved", "store"] {
        assert!(place.mqfs(&["check", "--trust-owner", what]).succeeded().stdout.contains("whole"));
    }
    place.sh("$MQFS export --trust-owner saved | $MQFS import -q new").succeeded();
    place.sh("rm -r new").succeeded();
    place.mqfs(&["restore", "--link", "--trust-owner", "saved", "new"]).succeeded();
    let stat = fs::metadata(body(&place.dir().join("new"))).unwrap();
    assert_eq!((stat.uid(), stat.nlink()), (0, 1), "a file that she can change is not shared");
    assert_eq!(place.mqfs(&["mount", "new", "mnt"]).succeeded().stdout, "");
    place.sh("cat mnt/q/*large | wc -c | grep -qx 100000 && $MQFS umount mnt").succeeded();
    // By the option, and by the word for fstab(5); and again, when there are files of root's.
    place.mqfs(&["mount", "--trust-owner", "store", "mnt"]).succeeded();
    place.sh("head -c 50000 /dev/zero > mnt/q/more && $MQFS umount mnt").succeeded();
    place.mqfs(&["mount", "-o", "trust_owner", "store", "mnt"]).succeeded();
    place.sh("cat mnt/q/*more | wc -c | grep -qx 50000 && $MQFS umount mnt").succeeded();
    // Those who are not root may use root's, as far as they can read it, and their own.
    place.sh("chown -R 0:0 saved && chmod -R a+rX saved && mkdir -m 777 open").succeeded();
    place.sh("setpriv --reuid=12345 --regid=12345 --clear-groups $MQFS restore saved open/new").succeeded();
}

/// Links and special files are refused in whatever was handed over to root, too, and whoever is trusted.
#[test]
fn no_link_and_no_fifo_in_a_backup_is_followed() {
    let place = place();
    for (number, (attack, script)) in ATTACKS.iter().enumerate() {
        place.attacked("saved", script);
        let trust: &[&str] = place.whose("saved", number);
        for command in [&["restore", "saved", "new"][..], &["restore", "--link", "saved", "new"]] {
            let ran = place.mqfs(&[command, trust].concat());
            assert!(ran.code.is_some_and(|code| code != 0), "{attack}: {ran:?}");
            place.unharmed(attack, &ran);
            assert!(!place.dir().join("new").exists(), "{attack}: {ran:?}");
        }
        for command in ["export", "check"] {
            let ran = place.mqfs(&[&[command, "saved"], trust].concat());
            assert!(ran.code.is_some_and(|code| code != 0), "{command}, {attack}: {ran:?}");
            place.unharmed(attack, &ran);
        }
    }
}

/// A hard link of what only root may read, as kernels allow whose `fs.protected_hardlinks` is 0; and a manifest of somebody else.
#[test]
fn each_file_has_the_right_owner() {
    let place = place();
    let linked = |what: &str| {
        place.afresh();
        let file = body(&place.dir().join(what));
        fs::remove_file(&file).unwrap();
        fs::hard_link(place.dir().join("private/secret"), file).unwrap();
    };
    linked("saved");
    for command in [&["restore", "saved", "new"][..], &["restore", "--link", "saved", "new"], &["export", "saved"]] {
        let ran = place.mqfs(&[command, &["--trust-owner"]].concat());
        assert!(ran.code.is_some_and(|code| code != 0) && ran.stderr.contains("belongs to user 0"), "{ran:?}");
        place.unharmed("a hard link", &ran);
    }
    linked("store");
    place.mqfs(&["mount", "--trust-owner", "store", "mnt"]).succeeded();
    let read = place.sh("cat mnt/q/*large");
    place.sh("$MQFS umount mnt").succeeded();
    assert!(read.stderr.contains("Input/output error"), "{read:?}");
    place.unharmed("a hard link in a store", &read);
    // What others own in a backup of root's.
    place.afresh();
    place.sh("chown -R 0:0 saved && chown 12345 saved/backup").succeeded();
    place.mqfs(&["restore", "--trust-owner", "saved", "new"]).failed(1, "belongs to user 12345");
}

/// A store with links in it is not mounted, nor imported into or repaired, if they are the database's; bodies are not served.
#[test]
fn no_link_and_no_fifo_in_a_store_is_followed() {
    let place = place();
    let planted: &[(&str, &str)] = &[
        ("a log to be", "ln -s ../../private/victim db/009999.log"),
        ("the lock", "rm lock; ln -s ../private/victim lock"),
        ("how far it is durable", "rm synced; ln -s ../private/victim synced"),
        ("the format", "rm format; ln -s ../private/kept/backup format"),
        ("the format to be", "ln -s ../private/victim format.new; echo 3 > format"),
        ("the reserve", "rm -f reserve; ln -s ../private/victim reserve"),
        ("what comes in", "ln -s ../../private/victim bodies/incoming"),
        ("a snapshot", "ln -s ../private snapshot"),
    ];
    for (number, (attack, script)) in ATTACKS.iter().chain(planted).enumerate() {
        let again = || {
            place.attacked("store", script);
            place.whose("store", number)
        };
        let trust = again();
        for command in ["export", "check"] {
            place.unharmed(attack, &place.mqfs(&[&[command, "store"], trust].concat()));
        }
        again();
        let mounted = place.mqfs(&[&["mount", "store", "mnt"], trust].concat());
        place.unharmed(attack, &mounted);
        if mounted.code == Some(0) {
            place.unharmed(attack, &place.sh("cat mnt/q/*large; head -c 40000 /dev/zero > mnt/q/new"));
            place.unharmed(attack, &place.mqfs(&["backup", "-q", "--trust-owner", "mnt", "new"]));
            place.mqfs(&["umount", "mnt"]).succeeded();
            place.unharmed(attack, &mounted);
        }
        again();
        let import = "$MQFS export private/store --trust-owner | sed s/large/other/ | $MQFS import store";
        place.unharmed(attack, &place.sh(&format!("{import} {}", trust.concat())));
        place.unharmed(attack, &place.mqfs(&[&["check", "--repair", "store"], trust].concat()));
    }
    let secret = fs::read_to_string(place.dir().join("private/secret")).unwrap();
    assert_eq!(secret, SECRET.repeat(4000)[..100_000]);
    assert!(!fs::metadata(place.dir().join("private/kept/backup")).unwrap().file_type().is_fifo());
}

/// She plants links under the names that the database will use next, in a store that root has mounted, and that is hers.
#[test]
fn the_database_of_a_mounted_store_is_not_led_away() {
    let place = place();
    place.afresh();
    place.mqfs(&["mount", "--trust-owner", "store", "mnt"]).succeeded();
    ann(
        &place,
        "store",
        "for n in $(seq 1 400); do ln -s ../../private/victim-$n db/$(printf %06d.log $n) 2>/dev/null || :; done",
    );
    ann(
        &place,
        "store",
        "for n in $(seq 1 400); do ln -s ../../private/victim-$n db/$(printf %06d.sst $n) 2>/dev/null || :; done",
    );
    // A snapshot begins a new log.
    for _ in 0..3 {
        place.sh("echo x > mnt/q/x; $MQFS backup -q --trust-owner mnt new; rm -rf new");
    }
    place.sh("$MQFS umount mnt || umount -l mnt");
    let victims = place.sh("ls private | grep -c victim");
    assert_eq!(victims.stdout.trim(), "0");
}

/// Ann swaps files and directories for links and back, all the time.
#[test]
fn what_is_swapped_meanwhile_is_not_followed() {
    let place = place();
    place.afresh();
    let file = body(&place.dir().join("saved"));
    let program = r#"
import os, sys
body, shard = sys.argv[1], os.path.dirname(sys.argv[1])
os.mkdir("hers-swap")
os.symlink("../../../private/secret", "hers-swap/body")
os.symlink("../../private/" + "/".join(shard.split("/")[-2:]), "hers-swap/shard")
import ctypes
libc = ctypes.CDLL(None)
def exchange(a, b): assert libc.renameat2(-100, a.encode(), -100, b.encode(), 2) == 0
print(flush=True)
while True:
    for name, other in (body, "hers-swap/body"), (shard, "hers-swap/shard"):
        exchange(name, other)
        exchange(name, other)
"#;
    fs::write(place.dir().join("swap"), program).unwrap();
    let mut swapping = Command::new("setpriv")
        .args(["--reuid=12345", "--regid=12345", "--clear-groups", "/usr/bin/python3"])
        .arg(place.dir().join("swap"))
        .arg(&file)
        .current_dir(place.dir())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let ready = std::io::Read::read(swapping.stdout.as_mut().unwrap(), &mut [0; 1]).unwrap();
    let mut runs = Vec::new();
    for round in 0..30 {
        let link: &[&str] = if round % 2 == 0 { &["--link"] } else { &[] };
        let ran = place.mqfs(&[&["restore", "--trust-owner", "saved", "new"], link].concat());
        runs.push(ran.code);
        place.unharmed("swapped", &ran);
        place.sh("rm -rf new").succeeded();
        place.unharmed("swapped", &place.mqfs(&["export", "--trust-owner", "saved"]));
    }
    swapping.kill().unwrap();
    swapping.wait().unwrap();
    assert_eq!(ready, 1);
    assert!(runs.iter().all(Option::is_some), "{runs:?}");
}
