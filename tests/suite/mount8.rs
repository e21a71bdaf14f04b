//! mqfs under the system's own tools: mount(8), fstab, umount(8), findmnt, df; and as an ordinary user.
//!
//! mount(8) takes `PATH` out of the environment, so its helper finds `mqfs` in a system directory or not at all. The
//! scripts here put it into one, in a mount namespace of their own.

use std::fs;

use crate::place::{Place, Ran};

/// Makes `mqfs` a command of the system.
const INSTALL: &str = "set -e; mount -t tmpfs none /usr/local/sbin; cp $MQFS /usr/local/sbin/mqfs; D=$PWD;";

/// Runs the rest of the script as an ordinary user, who has a copy of the binary, a directory to write in, and a FUSE
/// device that is open to everybody as udev makes it (some containers have it for root only).
pub const AS_USER: &str = "set -e; mkdir home; cp $MQFS home/mqfs; mkdir home/mnt; chown -R 65534:65534 home; cd home
    mknod -m 666 ../fuse c 10 229; mount --bind ../fuse /dev/fuse
    as_user() { setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"; };";

#[track_caller]
fn installed(place: &Place, script: &str) -> Ran {
    place.sh_in_namespace(&format!("{INSTALL} {script}"))
}

#[track_caller]
fn as_user(place: &Place, script: &str) -> Ran {
    place.sh_in_namespace(&format!("{AS_USER} {script}"))
}

#[test]
fn mount_umount_findmnt_and_df_know_it() {
    let place = Place::new();
    let ran = installed(
        &place,
        "mount -t fuse.mqfs $D/store $D/mnt -o allow_other,max_deliveries=7,noauto,x-foo=bar
         mkdir mnt/q; echo hi > mnt/q/m; grep max_deliveries mnt/q/.mq/config
         findmnt -n -t fuse.mqfs -o SOURCE,FSTYPE $D/mnt; df --output=source,target $D/mnt | tail -1
         umount mnt; ls mnt",
    );
    let lines: Vec<Vec<&str>> = ran.succeeded().stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let (store, mnt) = (place.store(), place.mnt());
    let (store, mnt) = (store.to_str().unwrap(), mnt.to_str().unwrap());
    assert_eq!(lines[1..], [vec![store, "fuse.mqfs"], vec![store, mnt]], "{ran:?}");
    assert!(lines[0].concat() == "max_deliveries=7", "{ran:?}");
}

#[test]
fn the_type_fuse_with_the_program_in_the_source_works() {
    let place = Place::new();
    let ran = place.sh_in_namespace(
        "set -e; mount -t fuse \"$MQFS#$PWD/store\" $PWD/mnt -o ro; findmnt -n -o FSTYPE,OPTIONS $PWD/mnt; umount mnt",
    );
    assert!(ran.succeeded().stdout.starts_with("fuse.mqfs ro,"), "{ran:?}");
    let ran = installed(&place, "mount -t fuse mqfs#$D/store $D/mnt; findmnt -n -o SOURCE $D/mnt; umount mnt");
    assert_eq!(ran.succeeded().stdout.trim(), place.store().to_str().unwrap());
}

#[test]
fn a_line_of_fstab_works() {
    let place = Place::new();
    let line =
        |options: &str| format!("{} {} fuse.mqfs {options} 0 0\n", place.store().display(), place.mnt().display());
    let options = "defaults,_netdev,nofail,x-systemd.automount,uid=1234,comment=queues,visibility_timeout=5m";
    fs::write(place.dir().join("fstab"), line(options)).unwrap();
    let ran = installed(
        &place,
        "mount -a -T fstab; mkdir mnt/q; stat -c %u mnt/q; cat mnt/q/.mq/config | grep visibility
         mount -a -T fstab; findmnt -n -o TARGET $D/mnt | wc -l; umount mnt",
    );
    let words: Vec<&str> = ran.succeeded().stdout.split_whitespace().collect();
    assert_eq!(words, ["1234", "visibility_timeout", "=", "5m", "1"], "{ran:?}");
}

#[test]
fn paths_with_blanks_and_commas_come_through() {
    let place = Place::new();
    let ran = installed(
        &place,
        r#"mkdir 'm n,t'; mount -t fuse.mqfs "$D/a st,ore" "$D/m n,t" -o 'log_file="/tmp/x,y"' 2>&1 || true
         findmnt -n -o SOURCE "$D/m n,t"; umount "$D/m n,t"; rm -f /tmp/x,y"#,
    );
    assert_eq!(ran.succeeded().stdout.trim(), place.dir().join("a st,ore").to_str().unwrap());
}

#[test]
fn a_failure_is_one_line_also_under_mount() {
    let place = Place::new();
    installed(&place, "mount -t fuse.mqfs $D/store $D/mnt -o frobnicate").failed(2, "frobnicate");
    installed(&place, "touch mnt/x; mount -t fuse.mqfs $D/store $D/mnt").failed(5, "not empty");
}

#[test]
fn an_ordinary_user_mounts_and_unmounts() {
    let place = Place::new();
    let ran = as_user(
        &place,
        "as_user ./mqfs mount a,store mnt; as_user mkdir mnt/q; as_user sh -c 'echo hi > mnt/q/m; cat mnt/q/*'
         findmnt -n -o SOURCE,FSTYPE,OPTIONS $PWD/mnt; as_user stat -c %u mnt/q; as_user ./mqfs umount mnt; ls mnt",
    );
    let lines: Vec<&str> = ran.succeeded().stdout.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[2]), (3, "hi", "65534"), "{ran:?}");
    let mount: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(mount[..2], [place.dir().join("home/a,store").to_str().unwrap(), "fuse.mqfs"]);
    for word in ["nosuid", "nodev", "user_id=65534", "default_permissions"] {
        assert!(mount[2].split(',').any(|option| option == word), "{word} in {}", mount[2]);
    }
}

#[test]
fn root_unmounts_a_users_mount_that_it_cannot_look_into() {
    let place = Place::new();
    as_user(&place, "as_user ./mqfs mount store mnt; ! ls mnt 2> /dev/null; ./mqfs umount mnt; ls mnt").succeeded();
}

#[test]
fn a_users_mount_ends_by_umount_and_recovers_from_death() {
    let place = Place::new();
    as_user(
        &place,
        "pid() { as_user getfattr --only-values -n user.mq.daemon_pid mnt; }
         as_user ./mqfs mount store mnt; as_user fusermount3 -u mnt
         as_user ./mqfs mount store mnt; as_user mkdir mnt/q; kill -9 $(pid)
         as_user ./mqfs mount store mnt; as_user ls -d mnt/q > /dev/null; as_user ./mqfs umount mnt
         as_user ./mqfs mount store mnt -o auto_unmount; kill -9 $(pid)
         while findmnt $PWD/mnt > /dev/null; do :; done; ls mnt",
    )
    .succeeded();
}

#[test]
fn what_an_ordinary_user_may_not_is_said_in_one_line() {
    let place = Place::new();
    let conf = "echo '#' > ../fuse.conf; mount --bind ../fuse.conf /etc/fuse.conf;";
    as_user(&place, &format!("{conf} as_user ./mqfs mount store mnt -o allow_other")).failed(6, "user_allow_other");
    let place = Place::new();
    as_user(&place, "mkdir -m 755 ../roots; as_user ./mqfs mount store ../roots").failed(5, "roots");
    let place = Place::new();
    as_user(&place, "mkdir -m 700 ../roots; as_user ./mqfs mount ../roots mnt").failed(4, "Permission denied");
    let place = Place::new();
    let script = "./mqfs mount store mnt -o allow_other
        as_user ./mqfs umount mnt || { code=$?; umount mnt; exit $code; }";
    as_user(&place, script).failed(6, "Operation not permitted");
}
