//! What the README's table and LINKS of mqfs(7) say that links promise, and what the links themselves say.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use mqfs::link::run::Link;
use mqfs::link::settings::Settings;
use mqfs::link::systems;

use crate::{activemq, kafka};

/// The words of a promise that count.
const PROMISES: [&str; 3] = ["at least once", "exactly once", "at most once"];

/// What a system's links promise.
struct Row {
    with: String,
    schemes: Vec<String>,
    /// Out, then in.
    promises: [String; 2],
    tested: Option<String>,
}

fn of_readme() -> Vec<Row> {
    let text = fs::read_to_string("README.md").unwrap();
    let lines = text.lines().skip_while(|line| *line != "| With | URL | Out | In | Tested |");
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [with, url, out, into, tested] = cells[..] else { panic!("{line}") };
        let schemes = url.split_whitespace().map(|url| url.trim_matches('`').strip_suffix("://").unwrap().to_owned());
        let promises = [out, into].map(str::to_owned);
        Row { with: with.to_owned(), schemes: schemes.collect(), promises, tested: Some(tested.to_owned()) }
    };
    lines.skip(2).take_while(|line| line.starts_with('|')).map(row).collect()
}

fn of_manual() -> Vec<Row> {
    let text = fs::read_to_string("man/mqfs.7").unwrap();
    let (_, list) = text.split_once("\nWhat is promised, by what the URL").expect("no list in LINKS");
    let lines: Vec<&str> = list.lines().skip(2).take_while(|line| *line != ".El").collect();
    let row = |pair: &[&str]| {
        let schemes = pair[0].strip_prefix(".It Cm ").unwrap().split(" , ").map(str::to_owned).collect();
        let (with, promises) = pair[1].split_once(": out ").unwrap();
        let (out, into) = promises.split_once("; in ").unwrap();
        Row { with: with.to_owned(), schemes, promises: [out, into].map(str::to_owned), tested: None }
    };
    lines.chunks(2).map(row).collect()
}

/// What a link by this scheme says that it promises; nothing when there is none in this direction.
fn says(scheme: &str, out: bool) -> Option<String> {
    let url = match scheme {
        "amqp" | "activemq" => format!("{scheme}://h?queue=q"),
        "stomp" => format!("{scheme}://h?destination=/queue/q"),
        "zmq+rep" => format!("{scheme}://h:1?frames=json"),
        _ if scheme.starts_with("zmq+") => format!("{scheme}://h:1"),
        _ => format!("{scheme}://h/q"),
    };
    let (from, to) = if out { ("/q".to_owned(), url) } else { (url, "/q".to_owned()) };
    let link = Link::new(Settings { from: Some(from), to: Some(to), ..Settings::default() }).ok()?;
    Some(link.system.promises(link.ends(), out).join("\n"))
}

fn promised(text: &str) -> BTreeSet<&'static str> {
    PROMISES.into_iter().filter(|promise| text.contains(promise)).collect()
}

#[test]
fn links_promise_what_is_told_of_them() {
    for (place, rows) in [("README.md", of_readme()), ("mqfs(7)", of_manual())] {
        for Row { with, schemes, promises, .. } in rows {
            for scheme in schemes {
                let both = [true, false].map(|out| says(&scheme, out));
                assert!(both.iter().any(Option::is_some), "{place}: {scheme} is no system");
                for (told, text) in promises.iter().zip(both).filter_map(|(told, text)| Some((told, text?))) {
                    assert_eq!(promised(told), promised(&text), "{place}: {with}, {scheme}: {told}\n{text}");
                }
            }
        }
    }
}

/// Whatever can be linked is in both.
#[test]
fn no_system_is_left_out() {
    let why = systems::parse("nothing://h").expect_err("no system");
    let known: Vec<&str> = why.split_once("known are ").unwrap().1.split(", ").collect();
    assert!(known.contains(&"amqp"), "{why}");
    for rows in [of_readme(), of_manual()] {
        let told: BTreeSet<&str> = rows.iter().flat_map(|row| &row.schemes).map(String::as_str).collect();
        for name in &known {
            let plain = name.trim_end_matches("+ipc");
            let encrypted = plain.strip_suffix('s').is_some_and(|plain| told.contains(plain));
            assert!(told.contains(plain) || encrypted, "{name} is not among {told:?}");
        }
    }
}

/// The versions are those that these tests run: by Maven everywhere, of Debian where it is the Debian of the table.
#[test]
fn the_versions_are_those_that_are_tested() {
    let rows = of_readme();
    let tested = |with: &str| rows.iter().find(|row| row.with == with).expect(with).tested.clone().unwrap();
    assert_eq!(tested("Apache Kafka"), kafka::VERSION);
    assert_eq!(tested("ActiveMQ Artemis"), activemq::ARTEMIS);
    if !fs::read_to_string("/etc/os-release").unwrap().contains("VERSION_ID=\"12\"") {
        return;
    }
    for (with, package) in [
        ("RabbitMQ", "rabbitmq-server"),
        ("RabbitMQ by STOMP, and others", "rabbitmq-server"),
        ("ActiveMQ Classic", "activemq"),
        ("NATS JetStream", "nats-server"),
        ("ZeroMQ with answers", "libzmq5"),
        ("ZeroMQ without", "libzmq5"),
    ] {
        let out = Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]).output().unwrap();
        let installed = String::from_utf8(out.stdout).unwrap();
        assert!(installed.starts_with(&tested(with)), "{with}: {} is told, {installed} is tested", tested(with));
    }
}
