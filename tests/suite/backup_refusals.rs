//! What `mqfs backup` and `mqfs restore` refuse, and how they tell of damage.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::place::Place;

impl Place {
    /// The first file below a directory.
    fn first_file(&self, below: &str) -> PathBuf {
        let found = self.sh(&format!("find {below} -type f | sort | head -n 1"));
        self.dir().join(found.succeeded().stdout.trim())
    }
}

#[test]
fn only_root_and_the_user_as_whom_mqfs_runs_may() {
    let place = Place::new();
    place.mounted(&["-o", "allow_other,uid=65534"]);
    fs::create_dir(place.dir().join("open")).unwrap();
    fs::set_permissions(place.dir().join("open"), fs::Permissions::from_mode(0o777)).unwrap();
    let as_nobody = |command: &str| place.sh(&format!("setpriv --reuid=65534 --regid=65534 --clear-groups {command}"));
    as_nobody("$MQFS backup mnt open/saved").failed(6, "only root and the user as whom mqfs runs");
    assert!(as_nobody("cat mnt/.mq/backup").stderr.contains("Permission denied"));
    assert!(!place.dir().join("open/saved").exists());
    place.mqfs(&["backup", "-q", "mnt", "open/saved"]).succeeded();
    place.sh("test -z \"$(find open/saved -perm /077)\"").succeeded();
}

#[test]
fn what_is_in_the_way_is_not_touched() {
    let place = Place::new();
    place.mounted(&[]);
    place.sh("mkdir mnt/q full empty && echo m > mnt/q/m && touch full/x file").succeeded();
    let backup = |to: &str| place.mqfs(&["backup", "mnt", to]);
    backup("full").failed(12, "not empty");
    backup("file").failed(12, "no directory");
    backup("missing/saved").failed(12, "No such file");
    backup("mnt/q/saved").failed(12, "on an mqfs mount");
    let jobs = Place::new();
    jobs.mounted(&["-o", "subtype=jobs"]);
    backup(jobs.at("q").to_str().unwrap()).failed(12, "on an mqfs mount");
    backup("store/saved").failed(12, "within the store");
    backup("/").failed(12, "not a directory that can be made");
    place.mqfs(&["backup", "full", "saved"]).failed(5, "nothing is mounted");
    place.mqfs(&["backup", "/proc", "saved"]).failed(5, "not an mqfs mount");
    assert!(!place.dir().join("saved").exists());
    assert_eq!(backup("empty").succeeded().stdout.lines().count(), 1);

    let restore = |from: &str, to: &str| place.mqfs(&["restore", from, to]);
    restore("empty", "full").failed(12, "not empty");
    restore("missing", "new").failed(4, "No such file");
    restore("full", "new").failed(4, "no backup");
    restore("store", "new").failed(4, "no backup");
    fs::remove_file(place.dir().join("empty/db/CURRENT")).unwrap();
    restore("empty", "new").failed(4, "");
    assert!(!place.dir().join("new").exists(), "what could not be restored leaves nothing");
}

#[test]
fn a_damaged_backup_is_told() {
    let place = Place::new();
    place.mounted(&[]);
    place.sh("cd mnt && mkdir q && head -c 100000 /dev/urandom > q/a && head -c 100000 /dev/urandom > q/b").succeeded();
    // Lost in the store already.
    fs::remove_file(place.first_file("store/bodies")).unwrap();
    let made = place.mqfs(&["backup", "-q", "mnt", "saved"]);
    made.failed(13, "the bodies of 1 messages are missing");
    place.mqfs(&["restore", "saved", "restored"]).failed(13, "the bodies of 1 messages are missing");
    // Lost in the backup.
    fs::remove_file(place.first_file("saved/bodies")).unwrap();
    place.mqfs(&["restore", "saved", "other"]).failed(4, "files");
    let manifest = fs::read_to_string(place.dir().join("saved/backup")).unwrap();
    let newer = manifest.replacen("\"format\": ", "\"format\": 9", 1);
    fs::write(place.dir().join("saved/backup"), newer).unwrap();
    place.mqfs(&["restore", "saved", "other"]).failed(4, "newer");
}

/// A backup is checked as a store is, and nothing in it is changed; what comes of it can be repaired.
#[test]
fn check_verifies_a_backup_and_never_changes_it() {
    let place = Place::new();
    place.mounted(&[]);
    place
        .sh("cd mnt && mkdir q && head -c 100000 /dev/urandom > q/a && echo small > q/b && echo begun > q/.draft")
        .succeeded();
    place.mqfs(&["backup", "-q", "mnt", "saved"]).succeeded();
    let all =
        || place.sh("find saved -printf '%p %m %T@\\n' | sort; find saved -type f | sort | xargs sha256sum").stdout;
    let before = all();
    let told = place.mqfs(&["check", "saved"]);
    assert_eq!(told.succeeded().stdout, "whole: 1 queues, 2 messages, 1 drafts\n");
    place.mqfs(&["check", "--repair", "saved"]).failed(4, "it is a backup");
    assert_eq!(all(), before);

    place
        .sh("f=$(find saved/bodies -size +90k) && printf x | dd of=$f bs=1 seek=70000 conv=notrunc status=none")
        .succeeded();
    let (before, told) = (all(), place.mqfs(&["check", "saved"]));
    assert!(told.code == Some(14) && told.stderr.starts_with("mqfs: backup saved: 1 found damaged"), "{told:?}");
    assert!(told.stdout.contains("-a: ") && told.stdout.contains("wrong checksum"), "{told:?}");
    place.mqfs(&["check", "--repair", "saved"]).failed(4, "it is a backup");
    assert_eq!(all(), before);
    place.mqfs(&["restore", "saved", "restored"]).succeeded();
    assert_eq!(place.mqfs(&["check", "--repair", "restored"]).code, Some(15));
    place.mqfs(&["check", "restored"]).succeeded();

    // One of which the writers had not finished is not restored, and may be what it likes.
    place.sh("sed -i 's/\"unfinished\": \\[\\]/\"unfinished\": [1]/' saved/backup").succeeded();
    place.mqfs(&["check", "saved"]).succeeded();
    place.sh("rm saved/db/*.sst").succeeded();
    let told = place.mqfs(&["check", "saved"]);
    assert_eq!(told.code, Some(14));
    assert!(told.stdout.contains("files of") && told.stdout.contains("database cannot be opened"), "{told:?}");
}
