//! The examples and recipes of mqfs(7), run as they stand on the page: in a shell, with programs `handle`, `header` and `body`
//! that somebody has written. Those that mount are in `recipes_mount.rs`.

use std::collections::BTreeSet;
use std::fs;

use crate::common::*;
use crate::manual::{HANDLE, NOT_RUN, RUN, all, program, recipe};
use crate::users::*;

#[test]
fn every_recipe_is_run() {
    let mut expected: BTreeSet<&str> = RUN.into_iter().chain(NOT_RUN).collect();
    for (title, _) in all() {
        let longest = expected.iter().copied().filter(|begins| title.starts_with(begins)).max_by_key(|b| b.len());
        let begins = longest.unwrap_or_else(|| panic!("nothing runs {title}"));
        expected.remove(begins);
    }
    assert!(expected.is_empty(), "the page has no {expected:?}");
}

/// A mount whose programs are on the path, and which stands where they expect it: `q` in `$T` is its queue `q`.
struct Place {
    mount: Mount,
}

impl Place {
    fn new() -> Place {
        let mount = Mount::with(&["-o", "allow_other"]);
        mount.queue("q");
        let bin = mount.scratch().join("bin");
        fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mqfs"), bin.join("mqfs")).unwrap();
        std::os::unix::fs::symlink(mount.path().join("q"), mount.scratch().join("q")).unwrap();
        program(&bin.join("handle"), HANDLE);
        program(&bin.join("header"), "#!/bin/sh\necho header\n");
        program(&bin.join("body"), "#!/bin/sh\necho body\n");
        Place { mount }
    }

    fn handled(&self) -> Vec<String> {
        let text = fs::read_to_string(self.mount.scratch().join("handled")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// A script that finds the programs of [`Place`], in the mount.
fn there(code: &str) -> String {
    format!("PATH=$T/bin:$PATH\n{code}")
}

/// The same, beside the mount.
fn beside(code: &str) -> String {
    there(&format!("cd $T\n{code}"))
}

#[test]
fn a_worker_that_waits() {
    let p = Place::new();
    let _worker = p.mount.spawn(&there(&recipe("A worker that waits for messages")));
    p.mount.sh("echo 1 > q/a; echo bad > q/b; echo 2 > q/c").ok();
    wait_until(|| p.handled() == ["1", "2"] && p.mount.stats("q")["acked_total"] == 2);
    assert_eq!(p.mount.bodies("q"), ["bad\n"]);
    assert_eq!(p.mount.stats("q")["nacked_total"], 1);
}

#[test]
fn several_messages_at_a_time() {
    let p = Place::new();
    let worker = p.mount.spawn(&there(&format!("exec {}", recipe("The same with several messages"))));
    p.mount.sh("for i in 1 2 3 4 5; do echo $i > q/$i; done").ok();
    wait_until(|| p.mount.stats("q")["acked_total"] == 5);
    assert_eq!(p.handled().into_iter().collect::<BTreeSet<_>>().len(), 5);
    worker.signal(libc::SIGTERM);
    assert_eq!(worker.finish().code(), Some(0));
}

#[test]
fn take_one_message() {
    let p = Place::new();
    p.mount.sh("echo one > q/a; echo two > q/b").ok();
    p.mount.sh(&beside(&recipe("Take one message"))).ok();
    assert_eq!(fs::read_to_string(p.mount.scratch().join("message")).unwrap(), "one\n");
    assert_eq!(p.mount.bodies("q"), ["two\n"]);
}

#[test]
fn a_log_line_by_line() {
    let p = Place::new();
    let log = p.mount.scratch().join("app.log");
    fs::write(&log, "old\n").unwrap();
    let _both = p.mount.spawn(&beside(&recipe("A log, line by line")));
    let append = |line: &str| p.mount.sh(&format!("echo {line} >> $T/app.log")).ok().len();
    // tail says nothing when it has come to the end of the file.
    let mut probes = 0;
    wait_until(|| {
        probes += append("probe");
        !p.handled().is_empty()
    });
    (1..=3).for_each(|line| assert_eq!(append(&format!("line{line}")), 0));
    wait_until(|| p.handled().ends_with(&["line1", "line2", "line3"].map(str::to_owned)));
    assert!(!p.handled().contains(&"old".to_owned()));
}

#[test]
fn a_message_of_several_parts() {
    let p = Place::new();
    p.mount.sh(&there(&recipe("A message of several parts"))).ok();
    assert_eq!(p.mount.bodies("q"), ["header\nbody\n"]);
    program(&p.mount.scratch().join("bin/body"), "#!/bin/sh\necho half; exit 1\n");
    let failed = p.mount.sh(&there(&recipe("A message of several parts")));
    assert_eq!((failed.code(), p.mount.bodies("q").len()), (Some(1), 1), "{failed:?}");
}

#[test]
fn a_message_with_a_header() {
    let p = Place::new();
    fs::write(p.mount.scratch().join("report.pdf"), "pdf").unwrap();
    p.mount.sh(&beside(&recipe("A message with a header"))).ok();
    let message = only(p.mount.path().join("q"));
    assert_eq!(producer(message.file_name().unwrap().to_str().unwrap()), "report.pdf");
    assert_eq!(xattr(&message, "user.customer").as_deref(), Some("4711"));
}

#[test]
fn another_chance_for_the_dead() {
    let p = Place::new();
    p.mount.sh("echo one > q/a; echo two > q/b; mv q/* q/.mq/dead/").ok();
    let shown = p.mount.sh(&there(&recipe("Give every dead message")));
    assert!(shown.ok().contains("one") && shown.ok().contains("two"), "{shown:?}");
    assert_eq!(p.mount.stats("q")["ready"], 2);
}

#[test]
fn what_is_there() {
    let p = Place::new();
    p.mount.sh("echo one > q/a").ok();
    let shown = p.mount.sh(&there(&recipe("What is there")));
    let (stats, age) = shown.ok().rsplit_once('\n').unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(stats).unwrap()["ready"], 1);
    assert!(age.parse::<u64>().is_ok(), "{age}");
}

#[test]
fn a_copy_and_back() {
    let p = Place::new();
    p.mount.sh("echo one > q/a; echo two > q/b; mv q/*b q/.mq/claimed/").ok();
    p.mount.sh(&beside(&recipe("A copy of a queue's messages"))).ok();
    assert_eq!(listing(p.mount.scratch().join("backup")).len(), 2);
    p.mount.sh("echo all > q/.mq/purge").ok();
    p.mount.sh(&beside(&recipe("and back, as new messages"))).ok();
    assert_eq!(p.mount.bodies("q"), ["one\n", "two\n"]);
}

/// What came before the loop ran, what it is told of, and what comes without an event: a delay that is over.
#[test]
fn a_hot_folder() {
    let p = Place::new();
    let code = recipe("A hot folder").replace("-t 60", "-t 1");
    let (makes, takes) = code.split_once('\n').unwrap();
    p.mount.sh(makes).ok();
    p.mount.sh("echo early > in/a").ok();
    let _watching = p.mount.spawn(&there(takes));
    wait_until(|| p.handled() == ["early"]);
    p.mount.sh("echo told > in/b").ok();
    wait_until(|| p.handled() == ["early", "told"]);
    p.mount.sh("echo late > in/.mq/with/delay=1ms/c").ok();
    wait_until(|| p.handled() == ["early", "told", "late"]);
}

#[test]
fn a_maildir() {
    let p = Place::new();
    p.mount.sh(&there(&recipe("A Maildir"))).ok();
    let deliver = "echo 'Subject: hi' > mail/tmp/1 && mv mail/tmp/1 mail/new/1 && cat mail/new/1";
    assert_eq!(p.mount.sh(deliver).ok(), "Subject: hi\n");
    p.mount.sh("mv mail/new/1 mail/cur/1:2,S").ok();
    assert_eq!(listing(p.mount.path().join("mail/cur")), ["1:2,S"]);
}

#[test]
fn files_of_a_directory_are_sent_once() {
    let p = Place::new();
    let out = p.mount.scratch().join("out");
    fs::create_dir(&out).unwrap();
    for (round, text) in ["first", "second"].into_iter().enumerate() {
        fs::write(out.join("a"), text).unwrap();
        fs::write(out.join(format!("b{round}")), text).unwrap();
        p.mount.sh(&beside(&recipe("Files of a directory"))).ok();
        assert!(listing(&out).is_empty());
    }
    assert_eq!(p.mount.bodies("q"), ["first", "first", "second", "second"]);
    assert_eq!(p.mount.stats("q")["claims_total"], 0);
}

/// What CAVEATS warns of.
#[test]
fn programs_that_destroy_or_claim_what_they_find() {
    let p = Place::new();
    p.mount.sh("echo one > q/a; echo two > q/b").ok();
    p.mount.session("grep -r one q").succeeds();
    assert_eq!(p.mount.stats("q")["claimed"], 2);
    p.mount.sh("mv q/.mq/claimed/* q/; mkdir $T/empty").ok();
    p.mount.session("rsync -r --delete $T/empty/ q/").succeeds();
    assert_eq!(p.mount.bodies("q"), [""; 0]);
    assert_eq!(p.mount.stats("q")["acked_total"], 2);
}

/// Runs a batch of sftp's commands beside a server of its own.
fn sftp(options: &str, commands: &str) -> String {
    format!("exec sftp -q {options} -b - -D /usr/lib/openssh/sftp-server <<< $'{commands}'")
}

#[test]
fn uploads_by_sftp() {
    let p = Place::new();
    p.mount.sh(&recipe("Uploads by SFTP")).ok();
    let uploads = p.mount.path().join("uploads");
    assert_eq!(mode(&uploads), 0o1733);
    let body = "x".repeat(4 << 20);
    fs::write(p.mount.scratch().join("big"), &body).unwrap();
    fs::write(p.mount.scratch().join("half"), &body[..1 << 20]).unwrap();
    p.mount.sh(&sftp("", &format!("put {}/big uploads/whole", p.mount.scratch().display()))).succeeds();
    assert!(p.mount.bodies("uploads") == [body.as_str()], "whole");

    // The client vanishes, and its server ends in order.
    let vanishes = sftp("-l 8", &format!("put {}/big uploads/cut", p.mount.scratch().display()));
    let client = p.mount.spawn(&vanishes);
    wait_until(|| p.mount.stats("")["writers"] == 1);
    client.signal(libc::SIGKILL);
    wait_until(|| p.mount.stats("")["writers"] == 0);
    assert_eq!(p.mount.bodies("uploads").len(), 1);
    assert_eq!(p.mount.stats("uploads")["aborted_total"], 1);

    // An upload that is interrupted, resumed, and renamed.
    let scratch = p.mount.scratch();
    let scratch = scratch.display();
    p.mount.sh(&sftp("", &format!("put {scratch}/half uploads/late.part"))).succeeds();
    assert_eq!(p.mount.bodies("uploads").len(), 1);
    let resumed = format!(r"reput {scratch}/big uploads/late.part\nrename uploads/late.part uploads/late");
    p.mount.sh(&sftp("", &resumed)).succeeds();
    assert!(p.mount.bodies("uploads") == [body.as_str(), body.as_str()], "resumed");
    assert_eq!(producers(&uploads), ["whole", "late"]);
}

/// Those who share it see and read what is there, and claim nothing; its owner consumes.
#[test]
fn uploads_by_samba() {
    let p = Place::new();
    p.mount.sh(&recipe("Uploads by Samba")).ok();
    assert_eq!(ann(&p.mount, "umask 002; echo one > inbox/a; ls inbox; cat inbox/a").ok(), "a\none\n");
    assert_eq!(bob(&p.mount, "ls inbox; cat inbox/a").ok(), "a\none\n");
    bob(&p.mount, "echo two > inbox/a").fails("");
    bob(&p.mount, "rm inbox/a").fails("");
    bob(&p.mount, "cat inbox/.mq/pop").fails(DENIED);
    assert_eq!(p.mount.stats("inbox")["claims_total"], 0);
    assert_eq!(p.mount.sh("cat inbox/.mq/pop").ok(), "one\n");
}

#[test]
fn several_accounts() {
    let p = Place::new();
    p.mount.sh(&recipe("Several accounts").replace("workers", &STAFF.to_string())).ok();
    bob(&p.mount, "echo one > jobs/a; echo two > jobs/b").ok();
    let message = listing(p.mount.path().join("jobs"))[0].clone();
    bob(&p.mount, "ls jobs").fails(DENIED);
    ann(&p.mount, &format!("cat jobs/{message}")).fails(GONE);
    ann(&p.mount, &format!("rm jobs/{message}")).fails(GONE);
    for (uid, expected) in [(ANN, "one\n"), (ANN + 1, "two\n")] {
        let works = "f=$(cat jobs/.mq/claim) && cat jobs/$f && rm jobs/$f";
        assert_eq!(p.mount.run_as_with_groups(uid, uid, &STAFF.to_string(), works).ok(), expected);
    }
}

#[test]
fn lines_of_a_file_each_once() {
    let p = Place::new();
    let feed = p.mount.scratch().join("feed.csv");
    let append = |from: usize, to: usize| {
        use std::io::Write;
        let mut file = fs::File::options().create(true).append(true).open(&feed).unwrap();
        (from..to).for_each(|n| writeln!(file, "{n}").unwrap());
    };
    append(0, 150);
    let script = beside(&recipe("Lines of a file, each once"));
    let feeders = [p.mount.spawn(&script), p.mount.spawn(&script)];
    let all = |count: usize| (0..count).map(|n| format!("{n}\n")).collect::<Vec<_>>();
    wait_until(|| p.mount.bodies("q") == all(150));
    // One is killed, wherever it is, and another one goes on from the mark.
    let [first, _second] = feeders;
    first.signal(libc::SIGKILL);
    append(150, 320);
    wait_until(|| p.mount.bodies("q").len() >= 320);
    assert_eq!(p.mount.bodies("q"), all(320));
    assert_eq!(xattr(p.mount.path().join("q"), "user.mark.feed").as_deref(), Some("320"));
}

#[test]
fn one_message_of_each() {
    let p = Place::new();
    p.mount.queue("in");
    p.mount.queue("out");
    let _worker = p.mount.spawn(&there(&recipe("One message of each")));
    p.mount.sh("echo 1 > in/a; echo 2 > in/b").ok();
    wait_until(|| p.mount.stats("in")["acked_total"] == 2);
    assert_eq!(producers(p.mount.path().join("out")), ["a.gz", "b.gz"]);
    assert_eq!(p.mount.sh("zcat out/*").ok(), "1\n2\n");
    assert_eq!(p.mount.stats("in")["nacked_total"], 0);
}
