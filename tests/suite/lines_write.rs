//! `.mq/lines`, written: every line becomes a message, with real programs.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use crate::common::*;
use crate::extra::*;

fn queue() -> Mount {
    let m = Mount::new();
    m.queue("q");
    m
}

fn open(m: &Mount) -> File {
    OpenOptions::new().write(true).open(m.path().join("q/.mq/lines")).unwrap()
}

/// Every line is a message, its newline included, whichever program writes it and however.
#[test]
fn every_line_becomes_a_message() {
    let m = queue();
    for shell in ["bash", "dash"] {
        for command in [
            "echo one > q/.mq/lines; printf 'two\\n\\nfour\\n' >> q/.mq/lines",
            "for line in one two '' four; do echo \"$line\"; done > q/.mq/lines",
            "printf 'one\\ntwo\\n\\nfour\\n' | cat > q/.mq/lines",
            "printf 'one\\ntwo\\n\\nfour\\n' | tee q/.mq/lines > $T/copy && wc -l < $T/copy > $T/count",
            "printf 'one\\ntwo\\n\\nfour\\n' | tee -a q/.mq/lines > /dev/null",
            "printf 'one\\ntwo\\n\\nfour\\n' > $T/file && cp $T/file q/.mq/lines",
            "printf 'one\\ntwo\\n\\nfour\\n' | dd of=q/.mq/lines bs=3 status=none",
            "printf 'one\\ntwo\\n\\nfour\\n' | dd of=q/.mq/lines conv=notrunc,fsync status=none",
            "printf 'one\\ntwo\\n\\nfour\\n' | awk '{ print > \"q/.mq/lines\" }'",
            "printf 'one\\ntwo\\n\\nfour\\n' | sed 'w q/.mq/lines' > /dev/null",
            "python3 -c 'f = open(\"q/.mq/lines\", \"w\"); print(\"one\\ntwo\\n\\nfour\", file=f)'",
            "python3 -c 'f = open(\"q/.mq/lines\", \"ab\", 0); [f.write(b) for b in (b\"on\", b\"e\\ntwo\\n\\nf\", b\"our\\n\")]'",
        ] {
            m.shell(shell, command).ok();
            assert_eq!(m.bodies("q"), ["one\n", "two\n", "\n", "four\n"], "{shell}: {command}");
            m.sh("rm q/*").ok();
        }
    }
    assert_eq!(m.stats("q")["aborted_total"], 0);
}

/// The messages have no producer's name, and are their writer's: user, group, umask.
#[test]
fn the_messages_are_their_writers() {
    let m = Mount::with(&["-o", "allow_other"]);
    let q = m.queue("q");
    m.sh("chmod 1777 q; umask 027; echo a > q/.mq/lines").ok();
    m.run_as(12345, 12345, "umask 077; echo b > q/.mq/lines").ok();
    let names = listing(&q);
    assert!(names.iter().all(|name| name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_digit())), "{names:?}");
    assert_eq!(m.sh("stat -c '%u %g %a %s' q/*").ok(), "0 0 640 2\n12345 12345 600 2\n");
    assert_eq!(xattr(control(&q, "peek").join(&names[0]), "user.mq.name").as_deref(), Some(""));
    let id = |name: &String| xattr(control(&q, "peek").join(name), "user.mq.id");
    assert!(id(&names[0]) != id(&names[1]));
    assert_eq!(m.sh("stat -c '%s %F' q/.mq/lines").ok(), "0 regular empty file\n");
}

/// In a queue that keeps names, too, they are listed as their digits.
#[test]
fn lines_in_a_queue_that_keeps_names() {
    let m = queue();
    m.set("q", "names=keep");
    m.sh("seq 700 > q/.mq/lines; echo b > q/b; echo c > q/.mq/lines").ok();
    let expected: Vec<String> = (1..=700).map(|n| format!("{n}\n")).chain(["b\n".into(), "c\n".into()]).collect();
    let mut bodies = m.bodies("q");
    bodies.sort();
    let mut sorted = expected.clone();
    sorted.sort();
    assert_eq!(bodies, sorted);
    let digits = |name: &String| name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_digit());
    assert_eq!(listing(m.path().join("q")).iter().filter(|name| digits(name)).count(), 701);
    let take = "import os\nfor _ in range(702):\n  f = 'q/' + open('q/.mq/claim').read().strip()\n  print(open(f).read(), end='')\n  os.unlink(f)";
    assert_eq!(m.python(take).ok(), expected.concat());
}

/// Who may not write to the queue, may not write lines.
#[test]
fn writing_needs_the_right_to_write() {
    let m = Mount::with(&["-o", "allow_other"]);
    let q = m.queue("q");
    for (mode, allowed) in [("755", false), ("733", true), ("1733", true), ("700", false), ("772", false)] {
        m.sh(&format!("chmod {mode} q")).ok();
        let ran = m.run_as(12345, 12345, "echo a > q/.mq/lines");
        assert_eq!(ran.status.success(), allowed, "{mode}: {}", ran.stderr);
        assert!(allowed || ran.stderr.contains("Permission denied"), "{mode}: {}", ran.stderr);
    }
    assert_eq!(m.bodies(&q).len(), 2);
}

/// A line that is written in pieces is one message, and there is no message before its newline.
#[test]
fn partial_lines_are_joined() {
    let m = queue();
    for shell in ["bash", "dash"] {
        let script = "exec 3> q/.mq/lines; printf ab >&3; ls q; echo cd >&3; ls q | wc -l; printf x >&3; exec 3>&-";
        assert_eq!(m.shell(shell, script).ok(), "1\n");
        assert_eq!(m.bodies("q"), ["abcd\n", "x"], "{shell}");
        m.sh("rm q/*").ok();
    }
    let mut file = open(&m);
    for piece in ["a", "", "b\nc", "d", "\n\ne\nf"] {
        file.write_all(piece.as_bytes()).unwrap();
    }
    assert_eq!(m.bodies("q"), ["ab\n", "cd\n", "\n", "e\n"]);
    drop(file);
    wait_until(|| m.bodies("q").len() == 5);
    assert_eq!(m.bodies("q")[4], "f");
}

/// What a write completes is there when the write returns, in the order of the lines.
#[test]
fn lines_are_visible_when_the_write_returns() {
    let m = queue();
    let mut file = open(&m);
    for n in 0..50 {
        let lines: String = (0..n).map(|i| format!("{n} {i}\n")).collect();
        file.write_all(lines.as_bytes()).unwrap();
        let bodies = m.bodies("q");
        assert_eq!(bodies.concat(), lines, "{n}");
        assert_eq!(bodies.len(), n);
        m.sh("rm -f q/*").ok();
    }
}

/// One write may complete more lines than are taken at once: its program, like all, writes the rest again.
#[test]
fn ten_thousand_lines_through_tee() {
    let m = queue();
    m.sh("seq 10000 | tee q/.mq/lines > $T/copy; seq 10001 13000 > $T/file; dd if=$T/file of=q/.mq/lines bs=1M status=none").ok();
    let expected: String = (1..=13_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(m.bodies("q").concat(), expected);
    assert_eq!(m.stats("q")["ready"], 13_000);
    assert_eq!(m.stats("q")["enqueued_total"], 13_000);
    // The writer is told how far a write went.
    let mut file = open(&m);
    let taken = file.write("\n".repeat(100_000).as_bytes()).unwrap();
    assert!((1..100_000).contains(&taken), "{taken}");
    assert_eq!(m.stats("q")["ready"], 13_000 + taken);
    file.write_all("\n".repeat(5_000).as_bytes()).unwrap();
    assert_eq!(m.stats("q")["ready"], 18_000 + taken);
}

/// Lines longer than one write, and longer than what is kept in memory, with others before and behind.
#[test]
fn long_lines() {
    let m = queue();
    let line = |length: usize, byte: u8| [vec![byte; length - 1], vec![b'\n']].concat();
    let mut text = Vec::new();
    let lengths = [10, 32 * 1024, 32 * 1024 + 1, 3, 100_000, 200_000, 3_000_000, 7, 40_000, 1 << 20, 2];
    for (n, length) in lengths.iter().enumerate() {
        text.extend(line(*length, b'a' + n as u8));
    }
    let path = m.scratch().join("text");
    fs::write(&path, &text).unwrap();
    for command in [
        "cat $T/text > q/.mq/lines",
        "dd if=$T/text of=q/.mq/lines bs=8M status=none",
        "tee q/.mq/lines < $T/text > $T/copy",
    ] {
        m.sh(command).ok();
        let bodies: Vec<Vec<u8>> = m.messages("q").into_iter().map(|(_, body)| body).collect();
        assert_eq!(bodies.iter().map(Vec::len).collect::<Vec<_>>(), lengths, "{command}");
        assert!(bodies.concat() == text, "{command}");
        assert_eq!(m.body_files().len(), 6, "{command}");
        m.sh("rm q/*").ok();
        wait_until(|| m.body_files().is_empty());
    }
    assert!(m.peak_rss_kib() < 200_000, "{} KiB", m.peak_rss_kib());
}

/// A line of any length in little memory, and nothing of it stays when it is dropped.
#[test]
fn an_endless_line() {
    let m = queue();
    let mut writer =
        m.spawn("exec 3> q/.mq/lines; head -c 60000000 /dev/zero >&3; echo ready; read -r never < $T/fifo");
    m.sh("mkfifo $T/fifo 2> /dev/null; true");
    wait_until(|| writer.output() == "ready\n" || !writer.is_running());
    // `head` has ended: its line is one.
    assert_eq!(m.messages("q").iter().map(|(_, body)| body.len()).collect::<Vec<_>>(), [60_000_000]);
    drop(writer);
    m.sh("rm q/*").ok();
    wait_until(|| m.body_files().is_empty());
    m.python("import os, signal\nfd = os.open('q/.mq/lines', os.O_WRONLY)\nfor _ in range(60): os.write(fd, b'x' * 1000000)\nos.kill(os.getpid(), 9)");
    wait_until(|| m.stats("q")["aborted_total"] == 1);
    assert!(m.messages("q").is_empty());
    wait_until(|| m.body_files().is_empty());
    assert!(m.peak_rss_kib() < 100_000, "{} KiB", m.peak_rss_kib());
}

/// Processes that share one descriptor do not mix within a line.
#[test]
fn children_that_share_a_descriptor_do_not_mix() {
    let m = queue();
    m.sh(r#"exec 3> q/.mq/lines
        for name in a b c d; do
            ( for i in $(seq 60); do printf %s $name >&3; printf %s $name >&3; echo $name >&3; done ) &
        done; wait"#)
        .ok();
    let mut bodies = m.bodies("q");
    bodies.sort();
    let expected: Vec<String> =
        ["aaa\n", "bbb\n", "ccc\n", "ddd\n"].iter().flat_map(|line| vec![(*line).to_owned(); 60]).collect();
    assert_eq!(bodies, expected);
}

/// Nor do programs that each open it.
#[test]
fn writers_with_files_of_their_own_do_not_mix() {
    let m = queue();
    let program = r#"
import os, sys
fd = os.open("q/.mq/lines", os.O_WRONLY | os.O_APPEND)
text = "".join(f"{sys.argv[1]} {i} {'x' * (i * 7 % 90)}.\n" for i in range(300)).encode()
for at in range(0, len(text), 37):
    os.write(fd, text[at:at + 37])
"#;
    let start = |n: usize| {
        let mut command = std::process::Command::new("python3");
        m.start_command(command.args(["-c", program, &n.to_string()]))
    };
    let writers: Vec<_> = (0..6).map(start).collect();
    for writer in writers {
        writer.finish().ok();
    }
    let bodies = m.bodies("q");
    for n in 0..6 {
        let own: Vec<&String> = bodies.iter().filter(|line| line.starts_with(&format!("{n} "))).collect();
        let expected: Vec<String> = (0..300).map(|i| format!("{n} {i} {}.\n", "x".repeat(i * 7 % 90))).collect();
        assert!(own.iter().copied().eq(&expected), "{n}: {own:?}");
    }
    assert_eq!(bodies.len(), 1800);
}

/// The last line of a process that ends is enqueued then, though others hold the descriptor.
#[test]
fn the_last_line_of_a_process_is_enqueued_when_it_ends() {
    let m = queue();
    let script =
        "exec 3> q/.mq/lines; printf parent >&3; (printf child >&3); cat q/.mq/peek/*; echo; printf '%s\\n' s >&3";
    assert_eq!(m.sh(script).ok(), "child\n");
    assert_eq!(m.bodies("q"), ["child", "parents\n"]);
    m.sh("rm q/*; exec 3> q/.mq/lines; printf a >&3; /bin/echo b >&3; exec /bin/echo c >&3").ok();
    assert_eq!(m.bodies("q"), ["b\n", "ac\n"], "exec is the same process");
}

/// A killed writer leaves its complete lines and nothing of the one that it had begun.
#[test]
fn the_unfinished_line_of_a_killed_writer_is_dropped() {
    let m = queue();
    for (n, signal) in ["KILL", "TERM", "INT", "PIPE"].iter().enumerate() {
        let script = format!(
            "exec 3> q/.mq/lines; printf 'mine' >&3; bash -c 'printf \"whole\\npart\" >&3; kill -{signal} $$'; echo s >&3"
        );
        m.sh(&script);
        assert_eq!(m.bodies("q"), ["whole\n", "mines\n"], "{signal}");
        assert_eq!(m.stats("q")["aborted_total"], n + 1);
        m.sh("rm q/*").ok();
    }
    assert_eq!(m.log().matches("dropped an unfinished line").count(), 4, "{}", m.log());
    // It is the writer's own file.
    m.sh("bash -c 'printf \"whole\\npart\"; kill -9 $$' > q/.mq/lines");
    wait_until(|| m.bodies("q") == ["whole\n"]);
    // Who has written nothing, or complete lines only, leaves nothing to drop.
    m.sh("exec 3> q/.mq/lines; bash -c 'kill -9 $$'; bash -c 'echo x >&3; kill -9 $$'; printf y >&3");
    assert_eq!(m.bodies("q"), ["whole\n", "x\n", "y"]);
    m.set("q", "abort_on=never");
    m.sh("exec 3> q/.mq/lines; bash -c 'printf kept >&3; kill -9 $$'");
    wait_until(|| m.bodies("q").last().unwrap() == "kept");
    assert_eq!(m.stats("q")["aborted_total"], 5);
}

/// `tail -F log > q/.mq/lines`, for as long as the log grows, across its rotation.
#[test]
fn a_growing_log() {
    let m = queue();
    fs::write(m.scratch().join("log"), "").unwrap();
    let tail = m.spawn("exec tail -F --sleep-interval=0.01 $T/log > q/.mq/lines 2> /dev/null");
    let mut expected = String::new();
    for n in 0..30 {
        m.sh(&format!("printf 'begin {n} ' >> $T/log; echo end >> $T/log")).ok();
        expected += &format!("begin {n} end\n");
        wait_until(|| m.bodies("q").concat() == expected);
        if n == 15 {
            m.sh("mv $T/log $T/log.1; : > $T/log").ok();
        }
    }
    assert_eq!(m.bodies("q").len(), 30);
    tail.signal(libc::SIGTERM);
    tail.finish();
    assert_eq!(m.stats("q")["aborted_total"], 0);
}

/// "message too large | EFBIG": the lines before it are there, it is not, and nothing of it is taken for another line.
#[test]
fn a_line_that_is_too_long() {
    let m = queue();
    m.set("q", "max_message_bytes=10");
    m.sh("echo 123456789 > q/.mq/lines; echo 1234567890 > q/.mq/lines").fails("File too large");
    assert_eq!(m.bodies("q"), ["123456789\n"]);
    let mut file = open(&m);
    assert_eq!(file.write(b"a\nb\n0123456789\nc\n").unwrap(), 4, "what is before it");
    assert_eq!(errno(file.write(b"0123456789\nc\n")), libc::EFBIG);
    assert_eq!(file.write(b"d\n").unwrap(), 2);
    assert_eq!(file.write(b"012345").unwrap(), 6);
    assert_eq!(errno(file.write(b"67890")), libc::EFBIG, "with what came before");
    assert_eq!(errno(file.write(b"67890")), libc::EFBIG, "again");
    assert_eq!(file.write(b"x").unwrap(), 1, "the rest of that line");
    assert_eq!(file.write(b"y\ne\n").unwrap(), 4);
    drop(file);
    assert_eq!(m.bodies("q")[1..], ["a\n", "b\n", "d\n", "e\n"]);
    assert_eq!(m.stats("q")["aborted_total"], 1);
}

/// "store's disk full | ENOSPC, and all goes on when there is room again": from the write, and who tries again loses nothing.
#[test]
fn a_full_disk() {
    let disk = tempfile::Builder::new().prefix("mqfs-test-disk-").tempdir().unwrap();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64m", "mqfs-test"])
        .arg(disk.path())
        .status();
    assert!(mount.unwrap().success());
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("-l").arg(self.0).status();
        }
    }
    let _unmount = Unmount(disk.path());
    let m = Mount::with_store_in(disk.path(), &[]);
    m.queue("q");
    m.queue("other");
    let filler = disk.path().join("filler");
    let fill = || {
        let _ = fs::write(&filler, vec![0; 64 << 20]);
        // mqfs looks at the disk now and then only.
        wait_until(|| fs::write(m.path().join("other/probe"), "").is_err());
    };
    let make_room = || {
        fs::remove_file(&filler).unwrap();
        wait_until(|| fs::write(m.path().join("other/probe"), "").is_ok());
    };
    let mut file = open(&m);
    file.write_all(b"begun ").unwrap();
    fill();
    let line = [vec![b'x'; 50_000], vec![b'\n']].concat();
    assert_eq!(errno(file.write(&line)), libc::ENOSPC);
    assert_eq!(errno(file.write(&line)), libc::ENOSPC);
    m.sh("printf 'all\nof it\n' | tee q/.mq/lines > /dev/null; exit ${PIPESTATUS[1]}").fails("No space left on device");
    make_room();
    file.write_all(&line).unwrap();
    let joined = [b"begun ", &line[..]].concat();
    let bodies = || m.messages("q").into_iter().map(|(_, body)| body).collect::<Vec<_>>();
    assert!(bodies() == [joined.clone()], "the same write again went on where it was refused");
    // Who does not try again has lost the line, not a part of it.
    file.write_all(b"begun ").unwrap();
    fill();
    assert_eq!(errno(file.write(&line[1..])), libc::ENOSPC);
    make_room();
    file.write_all(b"next\nagain ").unwrap();
    fill();
    assert_eq!(errno(file.write(&line[1..9])), libc::ENOSPC);
    make_room();
    file.write_all(b"the rest\nlast\nbegun ").unwrap();
    fill();
    assert_eq!(errno(file.write(b"and not finished")), libc::ENOSPC);
    drop(file);
    make_room();
    assert!(bodies() == [joined, b"next\n".to_vec(), b"last\n".to_vec()], "{:?}", &m.bodies("q")[1..]);
    assert_eq!(m.stats("q")["aborted_total"], 3);
}

/// It is a stream: opened to read or to write, without positions, and what truncates a file does no harm.
#[test]
fn it_is_a_stream() {
    let m = queue();
    let path = m.path().join("q/.mq/lines");
    let both = OpenOptions::new().read(true).write(true).open(&path);
    assert_eq!(errno(both), libc::EINVAL);
    let file = open(&m);
    assert_eq!(errno(file.write_at(b"x", 5)), libc::ESPIPE);
    assert_eq!(errno(std::io::Seek::seek(&mut &file, std::io::SeekFrom::Start(1))), libc::ESPIPE);
    assert_eq!(errno(std::io::Read::read(&mut &file, &mut [0])), libc::EBADF);
    file.set_len(0).unwrap();
    drop(file);
    m.sh("touch q/.mq/lines; : > q/.mq/lines; truncate -s 0 q/.mq/lines").ok();
    m.sh("rm q/.mq/lines").fails("Operation not permitted");
    assert_eq!(m.sh("ls q/.mq").ok().split('\n').filter(|name| *name == "lines").count(), 1);
    assert!(m.messages("q").is_empty());
    assert_eq!(errno(fs::metadata(m.path().join(".mq/lines"))), libc::ENOENT, "the root holds no messages");
}

/// A read-only mount takes no lines.
#[test]
fn a_read_only_mount_takes_no_lines() {
    let mut m = queue();
    m.set_args(&["-o", "ro"]);
    m.remount();
    m.sh("echo x > q/.mq/lines").fails("Read-only file system");
}

/// What is dropped of a long line takes nothing of the next one with it.
#[test]
fn a_long_line_after_a_refused_one_is_whole() {
    let m = queue();
    m.sh("echo max_message_bytes=90000 > q/.mq/config").ok();
    m.python(
        "import errno, os\n\
         fd = os.open('q/.mq/lines', os.O_WRONLY)\n\
         for n in range(20):\n\
         \x20   assert os.write(fd, b'a' * 40000) == 40000\n\
         \x20   try: os.write(fd, b'a' * 60000 + b'\\n'); assert False\n\
         \x20   except OSError as error: assert error.errno == errno.EFBIG, error\n\
         \x20   assert os.write(fd, b'%02d' % n * 20000) == 40000\n\
         \x20   assert os.write(fd, b'%02d' % n * 20000 + b'\\n') == 40001\n\
         os.close(fd)\n",
    )
    .ok();
    let whole: Vec<String> = (0..20).map(|n| format!("{n:02}").repeat(40000) + "\n").collect();
    assert!(m.bodies("q") == whole);
}

/// Processes that close the file and end leave nothing of their lines in mqfs: these are messages soon, each as it was written.
#[test]
fn lines_of_processes_that_have_ended_do_not_pile_up() {
    let m = queue();
    m.python(
        "import os\n\
         fd = os.open('q/.mq/lines', os.O_WRONLY)\n\
         for n in range(200):\n\
         \x20   pid = os.fork()\n\
         \x20   if pid == 0:\n\
         \x20       assert os.write(fd, b'%03d' % n * 11000) == 33000\n\
         \x20       os.close(fd)\n\
         \x20       os._exit(0)\n\
         \x20   assert os.waitpid(pid, 0)[1] == 0\n\
         there = len(os.listdir('q'))\n\
         assert there >= 136, there\n",
    )
    .ok();
    let whole: Vec<String> = (0..200).map(|n| format!("{n:03}").repeat(11000)).collect();
    wait_until(|| m.messages("q").len() == 200);
    let mut bodies = m.bodies("q");
    bodies.sort();
    assert!(bodies == whole);
    assert_eq!(m.stats("q")["aborted_total"], 0);
}

/// So many processes can have begun a line in one open file; others write whole lines, and a line of theirs that was refused is
/// not enqueued in part.
#[test]
fn lines_that_are_begun_are_bounded() {
    let m = queue();
    m.python(
        "import errno, os\n\
         fd = os.open('q/.mq/lines', os.O_WRONLY)\n\
         told, tell = os.pipe()\n\
         go, hold = os.pipe()\n\
         def begin():\n\
         \x20   if os.fork() == 0:\n\
         \x20       os.close(hold)\n\
         \x20       try: os.write(fd, b'begun'); answer = b'y'\n\
         \x20       except OSError as error: answer = b'n' if error.errno == errno.ENFILE else b'?'\n\
         \x20       os.write(tell, answer)\n\
         \x20       os.read(go, 1)\n\
         \x20       if answer != b'y':\n\
         \x20           os.write(fd, b' and ended\\n')\n\
         \x20           os.write(fd, b'whole\\n')\n\
         \x20       os._exit(0)\n\
         \x20   return os.read(told, 1)\n\
         answers = [begin() for _ in range(70)]\n\
         assert answers == 64 * [b'y'] + 6 * [b'n'], answers\n\
         os.write(fd, b'line\\n')\n\
         os.close(hold)\n\
         assert all(os.wait()[1] == 0 for _ in range(70))\n\
         hold = os.open('/dev/null', os.O_RDONLY)\n\
         assert begin() == b'y'\n",
    )
    .ok();
    wait_until(|| m.messages("q").len() == 72);
    let mut bodies = m.bodies("q");
    bodies.sort();
    assert_eq!(
        (&bodies[..65], &bodies[65..]),
        (
            &vec!["begun".to_owned(); 65][..],
            &["line\n", "whole\n", "whole\n", "whole\n", "whole\n", "whole\n", "whole\n"].map(str::to_owned)[..]
        )
    );
}

/// A queue that is removed while somebody writes lines to it.
#[test]
fn the_queue_goes_away() {
    let m = queue();
    let mut file = open(&m);
    file.write_all(b"begun").unwrap();
    fs::remove_dir(m.path().join("q")).unwrap();
    assert_eq!(errno(file.write(b"x\n")), libc::ENOENT);
    drop(file);
    m.queue("q");
    assert!(m.messages("q").is_empty());
}

/// What is complete stays, what is not is dropped and logged, when the mount ends while somebody writes.
#[test]
fn the_mount_ends() {
    let mut m = queue();
    let writer = m.spawn("exec 3> q/.mq/lines; printf 'whole\\npart' >&3; echo ready; exec sleep 1000");
    wait_until(|| writer.output() == "ready\n");
    m.stop();
    drop(writer);
    m.start();
    assert_eq!(m.bodies("q"), ["whole\n"]);
    assert!(m.log().contains("dropped an unfinished line"), "{}", m.log());
}

/// Lines are enqueued at once for a consumer that looks while the writer goes on.
#[test]
fn a_consumer_beside_the_writer() {
    let m = queue();
    let writer = m.spawn("for i in $(seq 200); do echo $i; done > q/.mq/lines");
    let mut seen = String::new();
    wait_until(|| {
        seen += &m.worker("for f in q/0*; do [ -e \"$f\" ] && cat \"$f\" && rm \"$f\"; done; true").stdout;
        seen.lines().count() == 200
    });
    writer.finish().ok();
    assert_eq!(seen, (1..=200).map(|n| format!("{n}\n")).collect::<String>());
    holds_for(Duration::from_millis(50), || m.messages("q").is_empty());
}
