//! The examples and recipes of the manual, as its reader would copy them.

#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// One of them.
pub struct Block {
    /// The heading of its subsection, or what the page says before it.
    pub title: String,
    /// As it is shown.
    pub code: String,
}

/// The literal blocks in a section of `man/PAGE`, in their order.
pub fn blocks(page: &str, section: &str) -> Vec<Block> {
    let text = fs::read_to_string(format!("man/{page}")).unwrap();
    let (_, text) = text.split_once(&format!("\n.Sh {section}\n")).unwrap_or_else(|| panic!("no section {section}"));
    let text = text.split("\n.Sh ").next().unwrap();
    let (mut blocks, mut heading, mut before, mut inside) = (Vec::new(), None, String::new(), None::<String>);
    for line in text.lines() {
        match &mut inside {
            Some(_) if line == ".Ed" => {
                let title = heading.clone().unwrap_or_else(|| before.trim().to_owned());
                blocks.push(Block { title, code: inside.take().unwrap() });
                before.clear();
            }
            Some(code) => *code += &format!("{}\n", shown(line)),
            None if line.starts_with(".Bd ") => inside = Some(String::new()),
            None if line == ".Pp" => before.clear(),
            None => match line.strip_prefix(".Ss ") {
                Some(text) => heading = Some(text.to_owned()),
                None => before += &format!("{line} "),
            },
        }
    }
    blocks
}

/// A line of a literal block without its escapes.
fn shown(line: &str) -> String {
    line.replace("\\&", "").replace("\\(dq", "\"").replace("\\e", "\\")
}

/// Those of mqfs(7), mqfs(1) and mqfs-link(1) that are run by a test, by the beginnings of their titles.
pub const RUN: [&str; 38] = [
    "A worker that waits for messages",
    "The same with several messages",
    "Take one message",
    "A log, line by line",
    "A message of several parts",
    "A message with a header",
    "Give every dead message",
    "What is there",
    "A copy of a queue's messages",
    "and back, as new messages",
    "A hot folder",
    "A Maildir",
    "Files of a directory, each once",
    "Lines of a file, each once",
    "One message of each",
    "Uploads by SFTP",
    "Uploads by Samba",
    "Uploads by Samba 2",
    "Several accounts that work on one queue",
    "When nothing is mounted",
    "Upgrading under load",
    "Upgrading under load 2",
    "Mount a store, use a queue",
    "Resize the pictures",
    "The queues in which messages have been given up",
    "Enqueue what a program says",
    "A backup every hour",
    "The bodies of the dead letters",
    "From .Xr cron 8",
    "Each minute, what has come in a queue is sent",
    "A topic of Kafka into a queue",
    "What these settings promise",
    "A mainframe's batch to Kafka",
    "A mainframe's batch to Kafka 2",
    "A queue of RabbitMQ, worked off by a shell script",
    "Three mounts in three cities",
    "Three mounts in three cities 2",
    "Three mounts in three cities 3",
];

/// Configuration of other programs, and what needs a terminal. (`mount8.rs` has the line of fstab.)
pub const NOT_RUN: [&str; 4] =
    ["Uploads by SFTP 2", "The same as a service", "Watch the queues", "A queue for everybody on the machine"];

/// All of their examples and recipes, by their titles; those after the first of one title have a number.
pub fn all() -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    let sections = [
        ("mqfs.7", "EXAMPLES"),
        ("mqfs.7", "RECIPES"),
        ("mqfs.1", "EXAMPLES"),
        ("mqfs-link.1", "EXAMPLES"),
        ("mqfs-link.1", "RECIPES"),
    ];
    for block in sections.into_iter().flat_map(|(page, section)| blocks(page, section)) {
        let before = all.iter().filter(|(title, _)| title.trim_end_matches([' ', '2', '3']) == block.title).count();
        let number = if before > 0 { format!(" {}", before + 1) } else { String::new() };
        all.push((block.title + &number, block.code));
    }
    all
}

/// The one whose title begins so.
#[track_caller]
pub fn recipe(begins: &str) -> String {
    assert!(RUN.iter().any(|title| title.starts_with(begins)), "{begins}");
    let all = all();
    let found = all.iter().find(|(title, _)| title.starts_with(begins));
    found.unwrap_or_else(|| panic!("{begins} is not in the page")).1.clone()
}

/// The program `handle`: keeps what it was given, as its argument or input, in `$T/handled`, and fails when that is `bad`.
pub const HANDLE: &str = r#"#!/bin/sh
body=${1-$(cat)}
test "$body" != bad || exit 1
printf '%s\n' "$body" >> "$T/handled"
"#;

/// Writes a program.
pub fn program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
