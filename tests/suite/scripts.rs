//! A script is one worker, whatever processes its shell makes of it.

use std::fs;

use crate::common::*;
use crate::extra::*;

const BUSY: &str = "Device or resource busy";

fn put(m: &Mount, body: &str) -> (std::path::PathBuf, std::path::PathBuf) {
    let q = m.queue("q");
    let a = m.message(&q, "a", body);
    (q, a)
}

/// "so `wc -c "$f"; cat "$f"; rm "$f"` in one script works"
#[test]
fn one_script_opens_a_message_as_often_as_it_likes() {
    for shell in ["bash", "dash", "busybox sh"] {
        let m = Mount::new();
        let (q, a) = put(&m, "one two\n");
        let ran = m.shell(shell, r#"for f in q/*; do wc -c < "$f"; cat "$f"; rm "$f"; done; true"#);
        assert_eq!(ran.ok(), "8\none two\n", "{shell}");
        assert_eq!(state(&q, &a), None, "{shell}");
        m.message(&q, "b", "three\n");
        let ran = m.shell(shell, r#"for f in q/*; do wc -c "$f"; head -n 1 "$f"; cat "$f"; rm "$f"; done; true"#);
        assert!(ran.ok().ends_with("\nthree\nthree\n"), "{shell}: {}", ran.stdout);
        assert_eq!(m.bodies("q").len(), 0, "{shell}");
    }
}

/// The claim of one `mv` is good for the rest of its script, by either name.
#[test]
fn mv_claims_for_its_script() {
    let m = Mount::new();
    let (q, _) = put(&m, "body\n");
    let script =
        r#"for f in q/*; do n=${f##*/}; mv "$f" q/.mq/claimed/ && cat "q/.mq/claimed/$n" && cat "$f" && rm "$f"; done"#;
    assert_eq!(m.sh(script).ok(), "body\nbody\n");
    assert_eq!(m.bodies(&q).len(), 0);
}

/// "`wc -c "$f"; cat "$f"; rm "$f"` in one script works": as do redirections, sub-shells, command substitutions, pipelines,
/// functions and wrappers, each of which puts the opens into other processes, and each shell into others again.
#[test]
fn everything_in_one_script_is_one_worker() {
    let scripts = [
        r#"wc -c < "$f"; cat "$f""#,
        r#"wc -c < "$f"; cat < "$f""#,
        r#"grep -q line < "$f" && cat "$f"; if grep -q line "$f"; then cat "$f"; fi"#,
        r#"(cat "$f"); (cat "$f"; echo); (cat < "$f"; echo)"#,
        r#"x=$(cat "$f"); y=$(cat "$f"; echo); z=$(wc -c < "$f"); cat "$f""#,
        r#"n=$(wc -c < "$f"); n=$(cat "$f" | wc -c); cat "$f"; n=$(cat "$f" | wc -c); n=$(wc -c < "$f")"#,
        r#"cat "$f" | cat; cat "$f" | cat | cat; cat < "$f" | cat; cat "$f""#,
        r#"{ cat; } < "$f"; { cat "$f"; echo; } | cat; cat "$f""#,
        r#"read -r x < "$f"; cat "$f"; while read -r x; do cat "$f"; wc -c < "$f"; done < "$f"; cat "$f""#,
        r#"cat "$f" & wait; cat "$f" & wait; cat "$f""#,
        r#"timeout 20 cat "$f"; cat "$f"; timeout 20 cat < "$f"; timeout 20 cat "$f""#,
        r#"env X=1 cat "$f"; nohup cat "$f" 2> /dev/null; nice cat "$f""#,
        r#"sh -c 'cat "$1"; exit 0' x "$f"; cat "$f"; sh -c 'cat "$1"; exit 0' x "$f""#,
        r#"handle() { n=$(wc -c < "$1"); gzip -c < "$1" | gzip -dc; }; handle "$f"; handle "$f"; cat "$f""#,
        r#"exec 3< "$f"; cat <&3; cat "$f"; cat < "$f"; (cat "$f" | cat)"#,
        r#"find "$f" -exec cat {} \; -exec wc -c {} +; echo "$f" | xargs cat; cat "$f""#,
    ];
    let m = Mount::new();
    let q = m.queue("q");
    for shell in ["bash", "dash", "busybox sh"] {
        for script in scripts {
            let a = m.message(&q, "a", "line\n");
            let whole = format!(r#"for f in q/*; do {script}; rm "$f"; done; true"#);
            let ran = m.shell(shell, &format!("{{ {whole}; }} 2> $T/err; cat $T/err >&2"));
            assert_eq!(ran.stderr, "", "{shell}: {script}");
            assert!(ran.ok().contains("line\n"), "{shell}: {script}: {}", ran.stdout);
            assert_eq!(state(&q, &a), None, "{shell}: {script}");
        }
    }
    let stats = m.stats("q");
    assert_eq!(stats["claims_total"].as_u64(), Some(3 * scripts.len() as u64), "one delivery each: {stats}");
}

/// The work goes on with whichever process of the script opens the message next, at whatever depth, and comes back.
#[test]
fn an_heir_remembers_its_script() {
    let scripts = [
        r#"wc -c < "$f"; n=$( (cat "$f"; echo) | wc -c); cat "$f""#,
        r#"cat "$f"; n=$(timeout 20 cat "$f" | wc -c); cat "$f""#,
        r#"cat "$f"; x=$(sh -c 'y=$(cat "$1"; :); echo "$y"' x "$f"); cat "$f""#,
    ];
    let m = Mount::new();
    let q = m.queue("q");
    for shell in ["bash", "dash", "busybox sh"] {
        for script in scripts {
            let a = m.message(&q, "a", "line\n");
            let ran = m.shell(shell, &format!(r#"for f in q/*; do {script}; {script}; done; true"#));
            assert_eq!(ran.stderr, "", "{shell}: {script}");
            assert_eq!(deliveries(&q, &a), 1);
            fs::remove_file(&a).unwrap();
        }
    }
}

/// Within one script too, whoever works on a message has it for itself: of several processes that could go on with a claim
/// of one that has exited, one does.
#[test]
fn one_heir_goes_on() {
    let m = Mount::new();
    let (q, a) = put(&m, "body");
    m.sh("mkfifo $T/go").ok();
    let script = format!(
        r#"f='{}'; cat "$f"; (exec 3< "$f"; echo held; read -r x < $T/go) & until grep -q held $T/out; do sleep 0.01; done
        cat "$f"; echo > $T/go; wait; cat "$f""#,
        a.display()
    );
    let script = format!("{{ {script}; }} > $T/out; cat $T/out");
    let ran = m.sh(&script);
    assert_eq!(ran.stdout, "bodyheld\nbody");
    assert_eq!(ran.stderr.matches(BUSY).count(), 1, "{}", ran.stderr);
    assert_eq!(deliveries(&q, &a), 1);
}

/// A script's claim is its own while it lives, however many of its processes have come and gone.
#[test]
fn a_script_keeps_others_out_while_it_lives() {
    let m = Mount::new();
    let (q, a) = put(&m, "body\n");
    let path = a.display();
    m.sh("mkfifo $T/go").ok();
    for opens in [
        format!("cat '{path}'"),
        format!("x=$(wc -c < '{path}'); cat '{path}'"),
        format!("timeout 20 cat '{path}'"),
        format!("(cat '{path}'; true)"),
        format!("cat < '{path}'"),
        format!("sh -c 'cat \"{path}\"; exit 0'"),
    ] {
        let mut script = std::process::Command::new("dash");
        let running =
            m.start_command(script.arg("-c").arg(format!("{opens}; echo ready; read -r x < $T/go; {opens}; exit 0")));
        wait_until(|| running.output() == "body\nready\n");
        for _ in 0..3 {
            m.worker(&format!("cat '{path}'")).fails(BUSY);
            m.worker(&format!("x=$(cat < '{path}') && echo $x")).fails(BUSY);
        }
        fs::write(m.scratch().join("go"), "\n").unwrap();
        assert_eq!(running.finish().ok(), "body\nready\nbody\n", "{opens}");
        fs::rename(within(&q, "claimed", &a), &a).unwrap();
    }
}
