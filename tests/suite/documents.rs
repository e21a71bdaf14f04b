//! The manual pages say what the code does: every key, option, attribute, error and number that the code knows is there,
//! and nothing that it does not know.

use std::collections::BTreeSet;
use std::fs;

use clap::CommandFactory;
use mqfs::cli::Cli;
use mqfs::commands::exit::Exit;
use mqfs::fuse::options;
use mqfs::link::properties::PROPERTIES;
use mqfs::link::settings::{self, Settings};
use mqfs::queue::config::{KEYS, QueueConfig};
use mqfs::queue::duration;
use mqfs::queue::mark::{MARK, MARK_WAS, SETTLES};
use mqfs::queue::words;
use mqfs::view::xattr::{DAEMON_PID, MESSAGE_ATTRIBUTES, PREFIX, properties};

use crate::common::{Mount, listing, xattrs};

fn man_1() -> String {
    fs::read_to_string("man/mqfs.1").unwrap()
}

fn man_link() -> String {
    fs::read_to_string("man/mqfs-link.1").unwrap()
}

fn man_5() -> String {
    fs::read_to_string("man/mqfs.5").unwrap()
}

fn man_7() -> String {
    fs::read_to_string("man/mqfs.7").unwrap()
}

/// The lines between a section's heading and the next one's.
fn section<'a>(page: &'a str, heading: &str) -> Vec<&'a str> {
    let mut lines = page.lines().skip_while(|line| *line != format!(".Sh {heading}"));
    assert!(lines.next().is_some(), "no section {heading}");
    lines.take_while(|line| !line.starts_with(".Sh ")).collect()
}

/// What the items of lists in `lines` are tagged with.
fn tags<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    lines.iter().filter_map(|line| line.strip_prefix(".It ")).collect()
}

/// The words of a tag that are not macros or punctuation.
fn words(tag: &str) -> impl Iterator<Item = &str> {
    const OTHER: [&str; 14] = ["Cm", "Ns", "=", ",", "|", "Ar", "Va", "Er", "Bq", "Bo", "Bc", "Fl", "Ql", "Pa"];
    tag.split(' ').filter(|word| !OTHER.contains(word))
}

fn set<'a>(items: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    items.into_iter().map(str::to_owned).collect()
}

#[test]
fn every_key_is_documented_with_its_default_and_in_the_order_of_the_file() {
    let page = man_5();
    let documented: Vec<String> =
        tags(&section(&page, "CONFIGURATION")).iter().map(|tag| words(tag).collect::<Vec<_>>().join(" = ")).collect();
    let defaults = QueueConfig::default();
    let known: Vec<String> = KEYS
        .iter()
        .map(|key| match defaults.get(key).unwrap().as_str() {
            "" => (*key).to_owned(),
            value => format!("{key} = {value}"),
        })
        .collect();
    assert_eq!(documented, known);
}

#[test]
fn every_attribute_is_documented() {
    let page = man_5();
    let documented = set(tags(&section(&page, "ATTRIBUTES")).into_iter().flat_map(words));
    let of_messages = MESSAGE_ATTRIBUTES.iter().copied().chain(properties()).map(|name| format!("{PREFIX}{name}"));
    let others = [DAEMON_PID, MARK, MARK_WAS, "NAME", words::PROPERTIES, SETTLES].map(str::to_owned);
    assert_eq!(documented, of_messages.chain(others).collect());
}

#[test]
fn every_errno_is_documented() {
    let source = fs::read_to_string("src/error.rs").unwrap();
    let answers =
        source.split("=> libc::").skip(1).filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next());
    let known = set(answers);
    assert!(known.contains("ENOENT") && known.contains("EIO"), "not how errors.rs is written: {known:?}");
    let page = man_7();
    let documented = set(tags(&section(&page, "ERROR NUMBERS")).into_iter().flat_map(words));
    assert_eq!(documented, known);
}

#[test]
fn every_exit_code_is_documented() {
    let page = man_1();
    let documented: Vec<String> = tags(&section(&page, "EXIT STATUS")).into_iter().map(str::to_owned).collect();
    assert_eq!(documented, Exit::ALL.map(|exit| exit.code().to_string()));
}

#[test]
fn every_argument_is_documented() {
    let (man_1, man_link) = (man_1(), man_link());
    let of_all = tags(&section(&man_1, "DESCRIPTION"));
    let mut cli = Cli::command();
    cli.build();
    for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = command.get_name();
        assert!(of_all.contains(&format!("Cm {name}").as_str()), "mqfs {name} is not in mqfs(1)");
        // A page of its own has its options.
        let page = if name == "link" { &man_link } else { &man_1 };
        let tags = tags(&section(page, "DESCRIPTION"));
        for argument in command.get_arguments() {
            let told = |text: String| {
                let pieces =
                    |tag: &&str| tag.split(" , ").any(|piece| piece == text || piece.starts_with(&format!("{text} ")));
                assert!(tags.iter().any(pieces), "mqfs {name}: `{text}` is not in mqfs(1)");
            };
            argument.get_long().into_iter().for_each(|long| told(format!("Fl -{long}")));
            argument.get_short().into_iter().for_each(|short| told(format!("Fl {short}")));
            if argument.is_positional() {
                assert!(man_1.contains(&format!(".Ar {}", argument.get_id())), "mqfs {name}: {}", argument.get_id());
            }
        }
    }
}

/// What can be said about a link, with what holds when nobody does, and what becomes of what a message has.
#[test]
fn links_are_documented() {
    let page = man_link();
    let settings = section(&page, "SETTINGS");
    let mut keys: Vec<&str> = Vec::new();
    for tag in tags(&settings) {
        let names = tag.split(" = ").next().unwrap_or_default();
        keys.extend(words(names).filter(|word| settings::KEYS.contains(word)));
    }
    assert_eq!(keys, settings::KEYS);
    let table = section(&page, "PROPERTIES").join("\n");
    for property in &PROPERTIES {
        let here = table.contains(property.from) || property.becomes.is_some_and(|name| table.contains(name));
        assert!(here && table.contains(&format!("Ql {}", property.header)), "{}", property.header);
    }
    let defaults = Settings::default();
    for (key, value) in [
        ("window", defaults.window.to_string()),
        ("window_bytes", format!("{}M", defaults.window_bytes >> 20)),
        ("batch", defaults.batch.to_string()),
        ("linger", duration::format(defaults.linger)),
        ("remember", defaults.remember.to_string()),
        ("retry", format!("{}..{}", duration::format(defaults.retry_first), duration::format(defaults.retry_longest))),
        ("confirm_timeout", format!("{}s", defaults.confirm_timeout.as_secs())),
        ("hold", duration::format(defaults.hold)),
        ("largest", format!("{}M", defaults.largest >> 20)),
    ] {
        assert!(settings.contains(&format!(".It Cm {key} = {value}").as_str()), "{key} = {value}");
    }
}

#[test]
fn every_mount_option_is_documented() {
    let page = man_1();
    let documented = set(tags(&section(&page, "MOUNT OPTIONS")).into_iter().flat_map(words));
    for option in options::names() {
        assert!(documented.contains(option), "the mount option {option} is not in mqfs(1)");
    }
}

#[test]
fn what_a_mount_shows_is_documented() {
    let mount = Mount::new();
    let queue = mount.queue("q");
    let (page, overview) = (man_5(), man_7());

    let documented = set(tags(&section(&page, "STATISTICS")).into_iter().flat_map(words));
    let keys = |stats: &serde_json::Value| set(stats.as_object().unwrap().keys().map(String::as_str));
    let of_queue = keys(&mount.stats("q"));
    assert_eq!(documented, of_queue.union(&keys(&mount.stats(""))).cloned().collect());

    let known = set(KEYS.iter().copied()).union(&of_queue).map(|key| format!("{PREFIX}{key}")).collect::<BTreeSet<_>>();
    assert_eq!(xattrs(&queue).into_iter().collect::<BTreeSet<_>>(), known);

    let tree = section(&overview, "THE TREE").join("\n");
    for name in listing(queue.join(".mq")).iter().chain(&listing(mount.path().join(".mq"))) {
        assert!(tree.contains(name), "{name} in .mq is not in THE TREE");
    }
}

/// A reference to a section, of the page itself or of another one, leads somewhere.
#[test]
fn every_section_that_is_referred_to_exists() {
    let pages = [("mqfs 1", man_1()), ("mqfs-link 1", man_link()), ("mqfs 5", man_5()), ("mqfs 7", man_7())];
    let mut references = 0;
    for (name, page) in &pages {
        let lines: Vec<&str> = page.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let Some((_, heading)) = line.split_once("Sx ") else { continue };
            let heading = heading.trim_end_matches([' ', '.', ',', ':', ';']);
            let elsewhere = match lines.get(at + 1..at + 3) {
                Some(["in", next]) => {
                    next.strip_prefix(".Xr ").map(|rest| rest.trim_end_matches([' ', '.', ',', ':', ';']))
                }
                _ => None,
            };
            let target = elsewhere.unwrap_or(name);
            let (_, text) = pages.iter().find(|(page, _)| *page == target).expect(target);
            let found = text.lines().any(|line| [".Sh ", ".Ss "].iter().any(|m| line.strip_prefix(m) == Some(heading)));
            assert!(found, "{name}: there is no section {heading} in {target}");
            references += 1;
        }
    }
    assert!(references > 20, "{references}");
}

/// A quotation or a bracket goes to the end of its line: a second one would stand within it, and words after `No` too.
#[test]
fn quotations_and_brackets_end_where_they_should() {
    for (page, text) in [("mqfs(1)", man_1()), ("mqfs-link(1)", man_link()), ("mqfs(5)", man_5()), ("mqfs(7)", man_7())]
    {
        for line in text.lines().filter(|line| line.starts_with('.')) {
            let words: Vec<&str> = line[1..].split(' ').collect();
            let of = |names: &[&str]| words.iter().filter(|word| names.contains(word)).count();
            let twice = ["Ql", "Dq", "Sq", "Bq", "Pq"].iter().any(|name| of(&[name]) > 1);
            let quoted = of(&["Ql", "Dq", "Sq"]) > 0;
            let literal = words.iter().position(|word| *word == "Ql").unwrap_or(words.len());
            let goes_on = words[literal..].iter().any(|word| ["No", "Xr", "Cm", "Pa", "Nm"].contains(word));
            assert!(!(twice || quoted && goes_on), "{page}: {line}");
        }
    }
}

#[test]
fn this_version_is_in_the_changelog() {
    let changes = fs::read_to_string("CHANGELOG.md").unwrap();
    assert!(changes.contains(&format!("\n## {} ", env!("CARGO_PKG_VERSION"))));
}

/// The table of promises in the README names tests that are there.
#[test]
fn the_tests_that_the_readme_names_exist() {
    let readme = fs::read_to_string("README.md").unwrap();
    let named: Vec<&str> = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    let files: Vec<&&str> = named.iter().filter(|path| !path.contains("://")).collect();
    assert!(files.len() > 30, "{files:?}");
    for path in files {
        assert!(fs::exists(path).unwrap(), "{path}");
    }
    for script in readme.split("`./scripts/").skip(1).filter_map(|rest| rest.split([' ', '`']).next()) {
        assert!(fs::exists(format!("scripts/{script}")).unwrap(), "{script}");
    }
}
