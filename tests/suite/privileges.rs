//! What the serving process keeps of what its caller had: next to nothing, in every thread.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use crate::common::{Mount, wait_until};
use crate::place::{Place, Process, Ran, UNKNOWN_CALL, end_of, is_mounted, until};
use crate::users::{ANN, ann};

const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const DAC_OVERRIDE: u64 = 1 << 1;

/// What is said of a thread in its `status`.
type Status = BTreeMap<String, String>;

/// Of every thread of a process.
fn threads(process: Process) -> Vec<Status> {
    let status = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect::<Status>()
    };
    let all: Vec<Status> = fs::read_dir(process.proc("task")).unwrap().map(|task| status(task.unwrap())).collect();
    // One may have ended.
    all.into_iter().filter(|status| !status.is_empty()).collect()
}

/// Asserts that every thread of a process has these capabilities and no way to others, and that its calls are filtered.
#[track_caller]
fn confined(process: Process, kept: u64, bounding: Option<u64>) {
    let threads = threads(process);
    assert!(threads.len() > 10, "RocksDB's are among them: {}", threads.len());
    for thread in threads {
        let set = |name: &str| u64::from_str_radix(&thread[name], 16).unwrap();
        assert_eq!((set("CapEff"), set("CapPrm")), (kept, kept), "{thread:?}");
        assert_eq!((set("CapInh"), set("CapAmb")), (0, 0), "{thread:?}");
        if let Some(bounding) = bounding {
            assert_eq!(set("CapBnd"), bounding, "{thread:?}");
        }
        assert_eq!((thread["NoNewPrivs"].as_str(), thread["Seccomp"].as_str()), ("1", "2"), "{thread:?}");
    }
    let limits = fs::read_to_string(process.proc("limits")).unwrap();
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(cores.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{cores}");
    // Nothing of the environment is left to be read, and of the descriptors nothing of the caller's.
    let left = fs::read(process.proc("environ")).unwrap();
    assert!(left.iter().all(|byte| *byte == 0), "{}", String::from_utf8_lossy(&left));
    let of_callers = process.descriptors().into_iter().filter(|file| file.ends_with("lockfile")).count();
    assert_eq!(of_callers, 0);
    // It is not dumpable: what is in its directory is root's, whoever it runs as.
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(process.proc("mem")).unwrap().uid(), 0);
}

/// Enqueues, lists, claims, acknowledges, backs up and lets others in.
const WORKS: &str = r#"set -e; mkdir mnt/q; echo x > mnt/q/a; head -c 300000 /dev/zero > mnt/q/b; ls -l mnt/q > /dev/null
    f=$(cat mnt/q/.mq/claim); cat mnt/q/$f; rm mnt/q/$f; cat mnt/q/.mq/pop | wc -c; cat mnt/.mq/metrics > /dev/null"#;

#[test]
fn roots_mount_keeps_what_unmounting_and_looking_at_writers_take() {
    let place = Place::new();
    let mount = "exec 7> lockfile; export SECRET=abc; $MQFS mount store mnt -o allow_other --log-file log";
    for more in ["", " --foreground > /dev/null 2>&1 & until [ -e mnt/.mq ]; do sleep 0.01; done"] {
        place.sh(&format!("{mount}{more}")).succeeded();
        let daemon = place.daemon();
        confined(daemon, SYS_ADMIN | SYS_PTRACE, Some(SYS_ADMIN | SYS_PTRACE));
        assert_eq!(place.sh(WORKS).succeeded().stdout, "x\n300000\n");
        place.sh("$MQFS backup -q mnt backup && rm -r backup && rmdir mnt/q").succeeded();
        // Threads that were made meanwhile are as the others.
        confined(daemon, SYS_ADMIN | SYS_PTRACE, Some(SYS_ADMIN | SYS_PTRACE));
        place.mqfs(&["umount", "mnt"]).succeeded();
        daemon.ends();
        assert!(!is_mounted(&place.mnt()));
    }
}

/// A killed writer of another user is seen, though mqfs has no more than that capability to see it with.
#[test]
fn how_other_users_writers_end_is_seen() {
    let m = Mount::with(&["-o", "allow_other"]);
    let q = m.queue("q");
    crate::users::chmod(&q, 0o777);
    ann(&m, "sh -c 'echo half; kill -9 $$' > q/x; true").succeeds();
    wait_until(|| m.stats("q")["aborted_total"] == 1);
    assert_eq!(m.stats("q")["ready"], 0);
}

/// Where the store is another user's, root's mqfs keeps what it takes to use it; where only the way to the mount point is not
/// open, what it takes to go there.
#[test]
fn what_belongs_to_others_is_reached() {
    let place = Place::new();
    place.mounted(&[]);
    place.mqfs(&["umount", "mnt"]).succeeded();
    place.sh(&format!("chown -R {ANN}:{ANN} store && chmod -R go= store")).succeeded();
    let daemon = place.mounted(&["-o", "trust_owner"]);
    confined(daemon, SYS_ADMIN | SYS_PTRACE | DAC_OVERRIDE, Some(SYS_ADMIN | SYS_PTRACE | DAC_OVERRIDE));
    assert_eq!(place.sh(WORKS).succeeded().stdout, "x\n300000\n");
    place.mqfs(&["umount", "mnt"]).succeeded();
    daemon.ends();

    let place = Place::new();
    place.sh(&format!("mkdir -p closed/mnt && chown -R {ANN} closed && chmod 700 closed")).succeeded();
    place.mqfs(&["mount", "store", "closed/mnt"]).succeeded();
    place.sh("mkdir closed/mnt/q && $MQFS umount closed/mnt && ls closed/mnt").succeeded();
}

/// Runs a script as an ordinary user with a copy of the binary in `home`.
fn as_user(place: &Place, script: &str) -> Ran {
    place.sh_in_namespace(&format!("{} {script}", crate::mount8::AS_USER))
}

/// Of a process in a script: what [`confined`] looks at. As an ordinary user cannot, by root.
const LOOK: &str = r#"look() { for t in /proc/$1/task/*; do grep -E '^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs|Seccomp):' $t/status; done | sort | uniq
        tr -d '\0' < /proc/$1/environ | wc -c; grep 'Max core' /proc/$1/limits | tr -s ' '; }
    pid() { as_user getfattr --only-values -n user.mq.daemon_pid mnt; }"#;

#[test]
fn an_ordinary_users_mount_has_no_privileges_and_no_way_to_any() {
    let place = Place::new();
    let script = format!(
        "{LOOK}; export SECRET=abc; as_user ./mqfs mount store mnt; look $(pid)
         as_user mkdir mnt/q; as_user sh -c 'echo hi > mnt/q/m; cat mnt/q/*'; as_user ./mqfs umount mnt; ls mnt"
    );
    let ran = as_user(&place, &script);
    let lines: Vec<&str> = ran.succeeded().stdout.lines().collect();
    let none = |name: &str| format!("Cap{name}:\t0000000000000000");
    let expected = [
        &none("Amb"),
        &none("Eff"),
        &none("Inh"),
        &none("Prm"),
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "0",
        "Max core file size 0 0 bytes ",
        "hi",
    ];
    assert_eq!(lines, expected, "{ran:?}");
}

/// The helper that was forked before takes the mount off when it is asked to, and when the serving process was killed. `umount`
/// finds that process though only root may look at its descriptors, and ends it when it is stuck.
#[test]
fn an_ordinary_users_mount_goes_however_its_process_does() {
    let place = Place::new();
    let script = format!(
        "{LOOK}; gone() {{ while findmnt $PWD/mnt > /dev/null; do :; done; ls mnt; }}
         as_user ./mqfs mount store mnt; kill -TERM $(pid); gone
         as_user ./mqfs mount store mnt; kill -9 $(pid); gone
         as_user ./mqfs mount store mnt; p=$(pid); read -r helper < /proc/$p/task/$p/children || true
         look $helper; ls /proc/$helper/fd | wc -l; kill -STOP $p
         as_user timeout -k 1 100 ./mqfs umount --force mnt; gone
         while [ -e /proc/$p ] || [ -e /proc/$helper ]; do :; done"
    );
    let ran = as_user(&place, &script);
    // It starts fusermount3, which gets its privileges only if nothing is said against that.
    let lines: Vec<&str> = ran.succeeded().stdout.lines().collect();
    let none = ["Amb", "Eff", "Inh", "Prm"].map(|name| format!("Cap{name}:\t0000000000000000"));
    let more = ["NoNewPrivs:\t0", "Seccomp:\t0", "0", "Max core file size 0 0 bytes ", "4"];
    assert_eq!(lines, none.iter().map(String::as_str).chain(more).collect::<Vec<_>>(), "{ran:?}");
}

/// The helper of root's `auto_unmount` unmounts, and can do nothing else.
#[test]
fn roots_helper_keeps_what_unmounting_takes() {
    let place = Place::new();
    let mount = "exec 7> lockfile; export SECRET=abc; $MQFS mount store mnt -o auto_unmount --log-file log";
    place.sh(mount).succeeded();
    let daemon = place.daemon();
    let children = fs::read_to_string(daemon.proc(&format!("task/{}/children", daemon.0))).unwrap();
    let helper = Process(children.trim().parse().unwrap());
    until(|| threads(helper)[0]["Seccomp"] == "2");
    let threads = threads(helper);
    assert_eq!(threads.len(), 1);
    let set = |name: &str| u64::from_str_radix(&threads[0][name], 16).unwrap();
    assert_eq!(["CapEff", "CapPrm", "CapBnd"].map(set), [SYS_ADMIN; 3]);
    assert_eq!(["CapInh", "CapAmb"].map(set), [0; 2]);
    assert_eq!(threads[0]["NoNewPrivs"], "1");
    let left = fs::read(helper.proc("environ")).unwrap();
    assert!(left.iter().all(|byte| *byte == 0));
    let open: Vec<_> = helper.descriptors().into_iter().filter(|file| !file.ends_with("null")).collect();
    assert!(open.len() == 1 && open[0].to_string_lossy().starts_with("socket:"), "{open:?}");
    daemon.kill(libc::SIGKILL);
    until(|| !is_mounted(&place.mnt()));
    helper.ends();
}

/// A call that is not in the list fails with ENOSYS, is told of once, and ends nothing. Here a tracer makes mqfs ask for it.
#[test]
fn a_call_that_mqfs_is_not_known_to_make_fails_and_is_told() {
    let mut place = Place::new();
    place.expects_unknown_calls = true;
    let mut child = place.foreground(&[]);
    let trace = place.dir().join("trace");
    let mut strace = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=tgkill", "-e", "inject=tgkill:retval=0:syscall=getpgrp", "-o"])
        .arg(&trace)
        .args(["-p", &child.id().to_string()])
        .stderr(fs::File::create(place.dir().join("tracer")).unwrap())
        .spawn()
        .unwrap();
    let traced = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        !status.contains("TracerPid:\t0\n")
    };
    let all = || fs::read_dir(Process(child.id()).proc("task")).unwrap().all(|task| traced(task.unwrap()));
    until(|| all() || strace.try_wait().unwrap().is_some());
    place.sh("mkdir mnt/q; echo 1 > mnt/q/a; echo 2 > mnt/q/b; cat mnt/q/*").succeeded();
    until(|| place.errors().contains(UNKNOWN_CALL));
    // SAFETY: the child has not been waited for. At SIGTERM strace lets go of the process.
    unsafe { libc::kill(strace.id().cast_signed(), libc::SIGTERM) };
    strace.wait().unwrap();
    let seen = fs::read_to_string(place.dir().join("tracer")).unwrap();
    assert!(seen.contains(&format!("error {}", libc::ENOSYS)), "{seen}");
    place.mqfs(&["umount", "mnt"]).succeeded();
    assert_eq!(end_of(&mut child).code(), Some(0));
    assert_eq!(place.errors().matches(UNKNOWN_CALL).count(), 1, "once: {}", place.errors());
}

/// mount(8) adds these for `users` and the like in fstab, and whoever shows a device or a set-user-ID program in a mount has
/// gained nothing.
#[test]
fn devices_and_set_user_id_programs_never_work() {
    let place = Place::new();
    place.mounted(&["-o", "dev,suid,exec"]);
    let options = place.findmnt("OPTIONS");
    for word in ["nosuid", "nodev"] {
        assert!(options.split(',').any(|option| option == word), "{word} in {options}");
    }
}
