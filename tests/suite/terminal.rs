//! What the commands print: names that users gave do nothing to a terminal, and JSON says them as they are.

use std::fs;

use crate::place::Place;

/// Clears the screen in two ways, rubs out, turns text around and ends lines.
const NAME: &str = "a\u{1b}[2J\u{9b}2J\u{7f}\u{202e}\u{2066}\u{200f}\u{2028}\u{85}b";

/// A mount with a queue of that name, in which is a message of that name, another one claimed.
fn named() -> Place {
    let place = Place::new();
    place.mounted(&[]);
    let q = place.at(NAME);
    fs::create_dir(&q).unwrap();
    fs::write(place.dir().join(NAME), "body").unwrap();
    fs::write(q.join(NAME), "body").unwrap();
    place.sh("cat mnt/*/.mq/claim > /dev/null; cp a* mnt/*/").succeeded();
    place
}

/// Whether a character does something to a terminal, or to the order of others.
fn controls(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What a command prints on a terminal, standard error too.
#[track_caller]
fn on_a_terminal(place: &Place, command: &str) -> String {
    let ran = place.sh(&format!("script -q -c '{command}' /dev/null < /dev/null"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.stdout.replace("\r\n", "\n").replace("^D\u{8}\u{8}", "")
}

#[test]
fn names_do_nothing_to_a_terminal_in_whatever_is_printed() {
    let place = named();
    let commands = [
        "$MQFS ls mnt",
        "$MQFS ls --json mnt",
        "$MQFS ls mnt/a*/a*",
        "$MQFS claims mnt",
        "$MQFS claims --json mnt",
        "$MQFS put -v mnt/a* a*",
        "$MQFS put mnt/a*/nothing a*",
        "$MQFS put -p x.y mnt/a* a*",
        "$MQFS export mnt",
        "$MQFS export mnt/a*",
        "$MQFS export mnt \"$(echo a*)x\"",
        "$MQFS mount a* mnt",
        "$MQFS mount store mnt -o \"$(echo a*)\"",
        "$MQFS umount a*",
        "$MQFS check a*",
        "$MQFS restore a* \"$(echo a*)x\"",
        "$MQFS import a* < /dev/null",
        "$MQFS \"$(echo a*)\"",
        "$MQFS backup mnt \"$(echo a*)-backup\"",
        "$MQFS check \"$(echo a*-backup)\"",
        "$MQFS consume --max-messages 1 mnt/a* -- false 2>&1 | cat",
        "$MQFS consume mnt/a*/no -- true",
    ];
    for command in commands {
        let shown = on_a_terminal(&place, command);
        assert!(!shown.is_empty(), "{command}");
        assert!(!shown.chars().any(|c| c != '\n' && controls(c)), "{command}: {shown:?}");
        if command.contains("--json") || command.ends_with("export mnt") {
            assert!(shown.contains("\\u001b[2J\\u009b2J\\u007f\\u202e"), "{command}: {shown:?}");
        }
    }
}

/// The escapes are JSON's own: whoever reads it has the name as it is, and an import gives the same.
#[test]
fn json_says_names_as_they_are() {
    let place = named();
    let queues: serde_json::Value = serde_json::from_str(&place.mqfs(&["ls", "--json", "mnt"]).stdout).unwrap();
    assert_eq!(queues[0]["queue"], NAME);
    let claims: serde_json::Value = serde_json::from_str(&place.mqfs(&["claims", "--json", "mnt"]).stdout).unwrap();
    assert!(claims[0]["message"].as_str().unwrap().ends_with(NAME));
    let exported = place.sh(
        "$MQFS export mnt | tee first; $MQFS import -q other < first; $MQFS export other > second; cmp first second",
    );
    let lines: Vec<serde_json::Value> =
        exported.succeeded().stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["path"] == NAME) && lines.iter().any(|line| line["name"] == NAME));
    // For a program, names are as they are.
    assert_eq!(place.sh("$MQFS put -v mnt/a* a*").succeeded().stdout, format!("{NAME}\n"));
}
