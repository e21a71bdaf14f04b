//! A drop box: everybody may put in, and nobody but its owner may look in or take out.

use std::fs;
use std::os::unix::fs::chown;

use crate::common::*;
use crate::extra::*;
use crate::users::*;

/// "A drop box is mode 1733": everybody may put in, and nobody but its owner may look in or take out.
#[test]
fn a_drop_box() {
    let (m, q) = mount(0o1733);
    ann(
        &m,
        "umask 022; echo ann > q/letter; (echo more; echo lines) > q/second; printf draft > q/.d && mv q/.d q/third",
    )
    .ok();
    bob(&m, "umask 022; echo bob > q/letter; cp /etc/hostname q/; install -m 644 /etc/hostname q/installed").ok();
    assert_eq!(m.bodies("q").len(), 6);
    let names = listing(&q);
    for script in [
        "ls q",
        "find q -mindepth 1",
        "cat q/.mq/peek/*",
        "ls q/.mq/peek",
        "ls q/.mq/claimed",
        "echo q/[0-9]* | grep ' '",
    ] {
        let ran = bob(&m, script);
        assert!(!ran.status.success(), "{script}: {ran:?}");
        assert!(!ran.stdout.contains("ann") && !ran.stdout.contains("0000000"), "{script}: {ran:?}");
    }
    let first = &names[0];
    for script in [
        format!("cat q/{first}"),
        format!("rm q/{first}"),
        format!("mv q/{first} q/.mq/claimed/"),
        format!("mv q/{first} $T/"),
        format!("touch -c q/{first} && stat q/{first}"),
    ] {
        bob(&m, &script).fails(GONE);
    }
    untouched(&q, &q.join(first));
    assert_eq!(m.sh("cat q/*-letter").ok(), "ann\nbob\n", "its owner reads and takes");
    assert_eq!(listing(control(&q, "claimed")).len(), 2);
}

/// "nobody can squat a name, stat or read another's": nor by a directory, which would also tell that the name is in use.
#[test]
fn a_directory_tells_nothing_of_drafts() {
    let (m, q) = mount(0o1733);
    chmod(m.queue("home"), 0o777);
    bob(&m, "mkdir home/own").ok();
    for (publish, there, free) in [("close", "q/.d", "q/.e"), ("rename", "q/d", "q/e")] {
        m.set("q", &format!("publish={publish}"));
        ann(&m, &format!("echo draft > {there}")).ok();
        for name in [there, free] {
            for script in [format!("mkdir {name}"), format!("mv -T home/own {name}")] {
                bob(&m, &script).fails("Operation not permitted");
            }
        }
        ann(&m, &format!("cat {there} && rm {there}")).ok();
        // Who may list the queue sees what is there.
        m.sh(&format!("mkdir {free} && rmdir {free}")).ok();
    }
    m.set("q", "publish=close");
    bob(&m, "mkdir q/bobs").ok();
    assert!(q.join("bobs").is_dir());
}

/// "Without r on the queue, other people's messages do not resolve (sequence names are guessable)": not by their names,
/// nor by the digits alone, nor by way of `.mq`.
#[test]
fn sequence_names_cannot_be_guessed() {
    let (m, q) = mount(0o1733);
    ann(&m, "umask 0; echo ann > q/a; echo claimed > q/b; echo dead > q/c").ok();
    let names = listing(&q);
    transition(&q, "claimed", &q.join(&names[1]));
    transition(&q, "dead", &q.join(&names[2]));
    for name in &names {
        for dir in ["q", "q/.mq/peek", "q/.mq/claimed", "q/.mq/dead"] {
            for guess in [name.as_str(), &name[..16]] {
                for look in ["stat", "cat", "rm", "getfattr -d", "chmod 777", "test -e"] {
                    let ran = bob(&m, &format!("{look} {dir}/{guess}"));
                    assert!(!ran.status.success() && ran.stdout.is_empty(), "{look} {dir}/{guess}: {ran:?}");
                    let said =
                        ran.stderr.contains(GONE) || (dir != "q" && ran.stderr.contains(DENIED)) || look == "test -e";
                    assert!(said, "{look} {dir}/{guess}: {ran:?}");
                }
            }
        }
    }
    // A guess that is right is answered as one that is wrong.
    let right = bob(&m, &format!("cat q/{}", names[0]));
    let wrong = bob(&m, "cat q/0000000000009999-a");
    assert_eq!(right.stderr.replace(&names[0], "NAME"), wrong.stderr.replace("0000000000009999-a", "NAME"));
    assert_eq!(m.bodies("q"), ["ann\n", "claimed\n", "dead\n"]);
    assert_eq!(m.stats("q")["claims_total"].as_u64(), Some(1));
}

/// "Without r on the queue, other people's messages do not resolve": one's own do, and reading them claims nothing.
#[test]
fn one_s_own_messages_resolve_in_a_drop_box() {
    let (m, q) = mount(0o1733);
    ann(&m, "echo mine > q/a").ok();
    let a = q.join(&listing(&q)[0]);
    assert_eq!(ann(&m, &format!("stat -c %u '{0}'; cat '{0}'", a.display())).ok(), format!("{ANN}\nmine\n"));
    untouched(&q, &a);
    assert_eq!(ann(&m, "echo again > q/b; cat q/b; cat q/b").ok(), "again\nagain\n", "by the bare name in its session");
    assert!(m.messages("q").iter().all(|(name, _)| deliveries(&q, &q.join(name)) == 0));
}

/// "Two writers of the same name make two messages", also when they are two users in one session.
#[test]
fn two_users_write_the_same_name() {
    for bits in [0o777, 0o1777, 0o1733] {
        let (m, q) = mount(bits);
        ann(&m, "umask 022; echo ann > q/same; echo again > q/same").ok();
        bob(&m, "umask 022; echo bob > q/same; cp /etc/hostname q/same").ok();
        m.sh("echo root > q/same").ok();
        ann(&m, "echo ann > q/same").ok();
        assert_eq!(listing(&q).len(), 6, "{bits:o}");
        assert_eq!(m.bodies("q")[5], "ann\n", "{bits:o}");
    }
}

/// "Consuming needs r+w+x on the queue": a producer who may not list consumes nothing, its own messages included.
#[test]
fn a_producer_who_may_not_consume() {
    let (m, q) = mount(0o733);
    ann(&m, "echo mine > q/a").ok();
    let a = q.join(&listing(&q)[0]);
    let name = a.file_name().unwrap().to_str().unwrap();
    assert_eq!(ann(&m, &format!("cat q/{name}")).ok(), "mine\n");
    untouched(&q, &a);
    for to in ["q/.mq/claimed/", "q/.mq/dead/"] {
        ann(&m, &format!("mv q/{name} {to}")).fails(DENIED);
    }
    untouched(&q, &a);
}

/// "A drop box is mode 1733" for others, with a group that consumes: the primary group counts without /proc.
#[test]
fn a_drop_box_with_a_consuming_group() {
    let (m, q) = mount(0o773);
    chown(&q, None, Some(STAFF)).unwrap();
    ann(&m, "umask 022; echo letter > q/a").ok();
    let name = listing(&q)[0].clone();
    bob(&m, &format!("cat q/{name}")).fails(GONE);
    assert_eq!(m.run_as(BOB, STAFF, "cat q/*").ok(), "letter\n");
    assert_eq!(state(&q, &q.join(&name)).as_deref(), Some("claimed"));
    fs::rename(within(&q, "claimed", &q.join(&name)), q.join(&name)).unwrap();
    assert_eq!(m.run_as_with_groups(BOB, BOB, &STAFF.to_string(), "cat q/*").ok(), "letter\n");
    assert_eq!(deliveries(&q, &q.join(&name)), 2);
}

/// "Drafts in a drop box are their owner's": others neither find them nor are in their way, and its owner sees all.
#[test]
fn drafts_in_a_drop_box_are_their_owners() {
    let (mut m, q) = mount(0o1733);
    m.set("q", "drafts = .* *.part");
    ann(&m, "umask 0; echo ann > q/.d; echo half > q/x.part; chmod 666 q/.d").ok();
    for script in [
        "cat q/.d",
        "stat q/.d",
        "cat q/x.part",
        "echo more >> q/x.part && test $(wc -c < q/x.part) -gt 9",
        "rm q/.d",
        "ln q/.d q/got",
    ] {
        assert!(!bob(&m, script).status.success(), "{script}");
    }
    bob(&m, "rm -f q/x.part; set -C; echo bob > q/.d && cat q/.d && mv q/.d q/letter").ok();
    bob(&m, "umask 0; mkdir q/x.part").fails("Operation not permitted");
    bob(&m, "echo bobs > q/x.part").ok();
    assert_eq!(ann(&m, "cat q/.d q/x.part").ok(), "ann\nhalf\n");
    m.kill9_and_remount();
    assert_eq!(bob(&m, "cat q/x.part").ok(), "bobs\n");
    assert_eq!(m.stats(&q)["drafts"], 3);
    // Who may list finds all, each of them where nobody else has the name; and what goes to a user is that user's.
    assert_eq!(m.sh("ls -A q | grep -v letter | sort; cat q/.d").ok(), ".d\nx.part\nx.part\nann\n");
    m.sh("chown 65534 q/.d").ok();
    ann(&m, "cat q/.d").fails(GONE);
    assert_eq!(bob(&m, "cat q/.d && mv q/.d q/x.part && cat q/x.part").ok(), "ann\nann\n");
    ann(&m, "mv q/x.part q/x").ok();
    bob(&m, "mv q/x.part q/x").ok();
    assert_eq!(m.bodies(&q), ["bob\n", "half\n", "ann\n"]);
    assert_eq!(m.stats(&q)["drafts"], 0);
    m.stop();
    let checked = std::process::Command::new(env!("CARGO_BIN_EXE_mqfs")).arg("check").arg(m.store()).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

/// In other queues there is one name space, as in any directory.
#[test]
fn where_all_may_list_drafts_are_found_by_all() {
    let (m, q) = mount(0o1777);
    ann(&m, "umask 022; echo ann > q/.d").ok();
    assert_eq!(bob(&m, "cat q/.d").ok(), "ann\n");
    bob(&m, "echo bob > q/.d").fails(DENIED);
    bob(&m, "set -C; echo bob > q/.d").fails("cannot overwrite");
    bob(&m, "echo bob > q/.e; mv q/.e q/.d").fails("");
    assert_eq!(ann(&m, "cat q/.d").ok(), "ann\n");
    assert_eq!(listing(&q), [".d", ".e"]);
    bob(&m, "mkdir q/.mq/batch/b; echo x > q/.mq/batch/b/f; chmod 755 q/.mq/batch/b").ok();
    assert_eq!(ann(&m, "cat q/.mq/batch/b/f").ok(), "x\n", "of a batch as well");
}
