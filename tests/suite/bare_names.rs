//! "**The bare name still works for its producer**: for processes of the session (`setsid` sense) that wrote it, NAME goes on
//! resolving to the newest message that the session wrote under it, until that message is gone or the session writes the
//! name again."

use crate::common::{Mount, listing, producers, wait_until};
use crate::users::{BOB, ann, mount};

/// "`echo hi > q/a; cat q/a; rm q/a` typed at a prompt [...] work".
#[test]
fn the_bare_name_works_for_its_producer() {
    for shell in ["bash", "dash", "busybox sh"] {
        let m = Mount::new();
        let q = m.queue("q");
        assert_eq!(m.shell(shell, "echo hi > q/a; cat q/a; rm q/a").ok(), "hi\n", "{shell}");
        assert_eq!(listing(&q), [""; 0], "{shell}");
        assert_eq!(m.bodies(&q), [""; 0], "{shell}");
        assert_eq!(m.stats(&q)["acked_total"], 1, "{shell}");
    }
}

/// The bare name is good for all that a script does to a file it has just written.
#[test]
fn the_bare_name_stats_changes_mode_and_moves() {
    let m = Mount::new();
    let (q, r) = (m.queue("q"), m.queue("r"));
    let script = r#"
        printf 12345 > q/a
        stat -c '%s %F' q/a
        test -s q/a && test -f q/a && echo tested
        chmod 600 q/a; touch -c -d '2001-02-03 04:05:06 UTC' q/a; chown 12:34 q/a
        stat -c '%a %u %g %Y' q/a
        getfattr --only-values -n user.mq.state q/a
        mv q/a r/b
    "#;
    assert_eq!(m.sh(script).ok(), "5 regular file\ntested\n600 12 34 981173106\nready");
    assert_eq!((listing(&q).len(), producers(&r)), (0, vec!["b".to_owned()]));
    assert_eq!(m.bodies(&r), ["12345"]);
}

/// The bare name is resolved, never listed: no pattern matches it.
#[test]
fn the_bare_name_is_not_listed() {
    let m = Mount::new();
    let q = m.queue("q");
    assert_eq!(m.sh("echo hi > q/a; echo q/a*; ls -a q | grep -c '^a$'").stdout, "q/a*\n0\n");
    assert_eq!(listing(&q).len(), 1);
}

/// "for processes of the session (`setsid` sense) that wrote it": to every other session the bare name does not exist.
#[test]
fn other_sessions_do_not_see_the_bare_name() {
    let m = Mount::new();
    let q = m.queue("q");
    m.session("echo hi > q/a; test -e q/a").ok();
    m.session("cat q/a").fails("No such file or directory");
    m.sh("cat q/a").fails("No such file or directory");
    m.session("echo hi > q/b; setsid -w cat q/b").fails("No such file or directory");
    m.session("mv q/a q/.mq/dead/").fails("No such file or directory");
    assert_eq!(producers(&q), ["a", "b"], "and nothing was claimed");
}

/// In a container whose session was begun outside of it (`docker exec`, a job of a build service), the kernel says that the session
/// is 0. It is one like any other.
#[test]
fn a_session_that_was_begun_outside_of_the_container_is_one() {
    let m = Mount::new();
    let mqfs = env!("CARGO_BIN_EXE_mqfs");
    let script = format!(
        r#"exec unshare -pf --mount-proc --kill-child bash -c '
            set -e
            mkdir $T/point; "{mqfs}" mount $T/contained $T/point; trap "\"{mqfs}\" umount $T/point" EXIT
            test "$(ps -o sid= -p $$)" -eq 0
            cd $T/point; mkdir q
            echo hi > q/a; cat q/a; rm q/a
            echo two > q/b; setsid -w cat q/b 2>&1 | sed "s/.*: //"
            f=$(echo q/0*-b); cat $f; rm $f; cd /'
    "#
    );
    assert_eq!(m.sh(&script).ok(), "hi\nNo such file or directory\ntwo\n");
}

/// Each session that wrote a name sees its own message under it.
#[test]
fn each_session_sees_its_own_message_under_a_name() {
    let m = Mount::new();
    m.queue("q");
    m.sh("echo mine > q/a").ok();
    assert_eq!(m.session("echo theirs > q/a; cat q/a; rm q/a").ok(), "theirs\n");
    assert_eq!(m.sh("cat q/a; rm q/a").ok(), "mine\n");
}

/// "one that nobody has read is kept, the bare name is forgotten and the answer is ENOENT".
#[test]
fn unlinking_an_unread_message_by_its_bare_name_keeps_it() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo precious > q/a; rm q/a").fails("No such file or directory");
    assert_eq!(m.bodies(&q), ["precious\n"]);
    assert_eq!(producers(&q), ["a"]);
    m.sh("cat q/a").fails("No such file or directory");
    m.sh("echo second > q/b; rm -f q/b").ok();
    assert_eq!(m.bodies(&q), ["precious\n", "second\n"]);
    // By its listed name it goes: "unlinking acks, [...] whatever the state".
    m.sh("rm q/*").ok();
    assert_eq!(m.bodies(&q), [""; 0]);
}

/// "NAME goes on resolving to the newest message that the session wrote under it, until that message is gone or the session
/// writes the name again."
#[test]
fn rewriting_a_name_makes_a_second_message_and_the_name_means_that() {
    let m = Mount::new();
    let q = m.queue("q");
    assert_eq!(m.sh("echo one > q/a; echo two > q/a; cat q/a; rm q/a").ok(), "two\n");
    assert_eq!(m.bodies(&q), ["one\n"], "the older message is untouched");
    m.sh("cat q/a").fails("No such file or directory");
    assert_eq!(producers(&q), ["a"], "and it does not take over the name");
}

/// A bare name belongs to its queue.
#[test]
fn a_bare_name_means_nothing_in_another_queue() {
    let m = Mount::new();
    m.queue("q");
    m.queue("r");
    m.sh("echo hi > q/a; cat r/a").fails("No such file or directory");
    assert_eq!(m.sh("echo there > r/a; cat q/a r/a").ok(), "hi\nthere\n");
}

/// Programs that set mode and times by name after they have written work with a name in sequence form too.
#[test]
fn the_sequence_name_that_a_copy_was_given_works_for_its_producer() {
    let m = Mount::new();
    let (q, r) = (m.queue("q"), m.queue("r"));
    m.sh("echo x > q/a; cp q/0* $T/").ok();
    m.sh("install -m 600 $T/0* r/").ok();
    m.sh("cp -p $T/0* r/").ok();
    m.python(
        "import glob, os, shutil\nf = glob.glob(os.environ['T'] + '/0*')[0]\nshutil.copy(f, 'r')\nshutil.copy2(f, 'r')",
    )
    .ok();
    assert_eq!(m.bodies(&r), ["x\n"; 4]);
    assert_eq!(producers(&r), ["a"; 4]);
    assert_eq!(m.bodies(&q), ["x\n"]);
}

/// A producer that writes one name again and again is never disturbed by consumers that take its messages meanwhile.
#[test]
fn rewriting_a_name_while_consumers_take_its_messages_never_fails() {
    let m = Mount::new();
    let q = m.queue("q");
    let program = r#"
import os, sys
def consume():
    taken = 0
    while not os.path.exists(os.environ["T"] + "/done") or os.listdir("q"):
        for name in os.listdir("q"):
            try:
                os.unlink("q/" + name)
                taken += 1
            except FileNotFoundError:
                pass
    return taken
readers = []
for _ in range(2):
    r, w = os.pipe()
    if os.fork() == 0:
        os.write(w, str(consume()).encode())
        os._exit(0)
    os.close(w)
    readers.append(r)
for i in range(400):
    with open("q/x", "w") as f:
        f.write(str(i))
open(os.environ["T"] + "/done", "w")
print(sum(int(os.read(r, 20)) for r in readers))
"#;
    assert_eq!(m.python(program).ok(), "400\n");
    assert_eq!(m.bodies(&q), [""; 0]);
}

/// Whatever other users write under names of their own meanwhile, more than are remembered in all.
#[test]
fn nobody_makes_the_bare_names_of_others_forgotten() {
    let (m, q) = mount(0o777);
    m.set(&q, "durability=async");
    m.sh("mkfifo $T/go; chmod 666 $T/go").ok();
    let producer = m.spawn_as(BOB, BOB, "echo hi > q/mine; read -r l < $T/go; cat q/mine");
    wait_until(|| m.stats(&q)["ready"] == 1);
    ann(&m, "python3 -c 'for n in range(17000): open(\"q/f%d\" % n, \"w\").close()'").ok();
    m.sh("echo > $T/go").ok();
    assert_eq!(producer.finish().ok(), "hi\n");
}
