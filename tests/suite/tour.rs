//! The tours in README.md, typed line by line: what they show is what happens. The one of links has real brokers, at the ports that
//! everybody knows, in a network of its own.
//!
//! In a `console` block, a line that begins with `$ ` is a command (lines that begin with `> ` go on with it), and the
//! lines after it are its output, errors included. `...` stands for any text within a line, and alone on a line for any
//! number of lines.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::brokers::in_own_network;
use crate::common::is_mounted;
use crate::kafka::{self, Kafka};
use crate::manual::program;
use crate::rabbit::Rabbit;

struct Step {
    /// Where the command stands in README.md.
    line: usize,
    command: String,
    output: Vec<String>,
}

#[test]
fn the_tour_in_the_readme_works() {
    let tour = tour("Five minutes");
    assert!(tour.len() > 10, "the tour has gone: {} commands left", tour.len());
    Home::new().take(&tour);
}

#[test]
fn the_tour_of_two_brokers_works() {
    let tour = tour("Two brokers");
    assert!(tour.len() > 10, "the tour has gone: {} commands left", tour.len());
    if !kafka::can_be_had() {
        return;
    }
    in_own_network(|| {
        let (_rabbit, _kafka) = (Rabbit::start_as_new(), Kafka::start_as_new());
        let home = Home::new();
        program(&home.bin().join("kafka-topics.sh"), kafka::TOPICS);
        home.take(&tour);
    });
}

/// Written by the shell after each command; no command of a tour prints it.
const MARK: &str = "\x1e\n";

/// The commands of the section with this heading.
fn tour(heading: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut here, mut inside) = (false, false);
    for (number, line) in fs::read_to_string("README.md").unwrap().lines().enumerate() {
        if line.starts_with("```") {
            inside = here && line == "```console";
        } else if let Some(title) = line.strip_prefix("## ") {
            here = title == heading;
        } else if !inside {
            continue;
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { line: number + 1, command: command.to_owned(), output: Vec::new() });
        } else {
            let step = steps.last_mut().expect("a console block begins with a command");
            match line.strip_prefix("> ") {
                Some(more) if step.output.is_empty() => step.command += &format!("\n{more}"),
                _ => step.output.push(line.to_owned()),
            }
        }
    }
    steps
}

fn script(steps: &[Step]) -> String {
    // A busy machine may not get to it within a second.
    let command = |step: &Step| step.command.replace("timeout 1 ", "timeout 5 ");
    let run = |step: &Step| format!("{}\nprintf '\\036\\n'\n", command(step));
    // What runs in the background ends with it, however that is.
    "exec 2>&1\ntrap 'kill $(jobs -p) 2> /dev/null' EXIT\n".to_owned() + &steps.iter().map(run).collect::<String>()
}

/// Where a tour is taken; whatever it leaves mounted is taken off.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        let home = Home(tempfile::tempdir().unwrap());
        fs::create_dir(home.bin()).unwrap();
        home
    }

    /// A directory on the path.
    fn bin(&self) -> PathBuf {
        self.0.path().join("bin")
    }

    #[track_caller]
    fn take(&self, steps: &[Step]) {
        let output = self.run(&script(steps));
        let mut outputs = output.split_terminator(MARK);
        for step in steps {
            let shown = outputs.next().unwrap_or_else(|| panic!("README.md:{}: the shell ended before", step.line));
            let shown: Vec<&str> = shown.lines().collect();
            assert!(
                lines_match(&step.output, &shown),
                "README.md:{}: $ {}\nshould print {:#?}\nbut prints {shown:#?}",
                step.line,
                step.command,
                step.output
            );
        }
        assert!(!is_mounted(&self.0.path().join("mnt")), "the tour leaves its mount behind");
    }

    fn run(&self, script: &str) -> String {
        let program = Path::new(env!("CARGO_BIN_EXE_mqfs")).parent().unwrap();
        let path = format!("{}:{}:{}", self.bin().display(), program.display(), std::env::var("PATH").unwrap());
        let ran = Command::new("timeout")
            .args(["--kill-after=5", "600", "bash", "-c", script, "bash"])
            .env("PATH", path)
            .env("XDG_RUNTIME_DIR", self.0.path())
            .current_dir(&self.0)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&ran.stdout).into_owned()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let mnt = self.0.path().join("mnt");
        if is_mounted(&mnt) {
            let _ = Command::new(env!("CARGO_BIN_EXE_mqfs")).arg("umount").arg(&mnt).status();
        }
        if is_mounted(&mnt) {
            let _ = Command::new("fusermount3").arg("-uz").arg(&mnt).status();
        }
    }
}

fn lines_match(wanted: &[String], shown: &[&str]) -> bool {
    match wanted.split_first() {
        None => shown.is_empty(),
        Some((first, rest)) if first == "..." => (0..=shown.len()).any(|skipped| lines_match(rest, &shown[skipped..])),
        Some((first, rest)) => {
            shown.first().is_some_and(|line| line_matches(first, line)) && lines_match(rest, &shown[1..])
        }
    }
}

fn line_matches(wanted: &str, shown: &str) -> bool {
    match wanted.split_once("...") {
        None => wanted == shown,
        Some((before, after)) => shown.strip_prefix(before).is_some_and(|rest| {
            let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            ends.into_iter().any(|at| line_matches(after, &rest[at..]))
        }),
    }
}

#[test]
fn a_difference_in_the_output_is_noticed() {
    let matches = |wanted: &[&str], shown: &[&str]| {
        lines_match(&wanted.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(), shown)
    };
    assert!(matches(&["a...c", "...", "d"], &["abc", "x", "y", "d"]));
    assert!(matches(&["...-alice"], &["0000000000000001-alice"]));
    assert!(matches(&[], &[]));
    assert!(!matches(&["...-alice"], &["0000000000000001-bob"]));
    assert!(!matches(&["a"], &["a", "b"]));
    assert!(!matches(&["a", "b"], &["a"]));
    assert!(!matches(&["a...c"], &["abcd"]));
    assert!(!matches(&[], &["error"]));
}
