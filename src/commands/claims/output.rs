//! What `mqfs claims` prints.

use std::time::{Duration, SystemTime};

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde_json::{Value, json};

use super::super::ls::age;
use super::super::text::{json_for_people, printable};
use super::Claim;

/// Of a longer command line the rest is cut off in the table, in characters.
const COMMAND: usize = 60;

const COLUMNS: [&str; 7] = ["QUEUE", "MESSAGE", "USER", "PID", "SINCE", "LEASE", "PROCESS"];

/// One object for each claim, in one array.
pub fn json(claims: &[Claim]) -> String {
    let time = |time: Option<SystemTime>| time.map(|time| humantime::format_rfc3339_millis(time).to_string());
    let object = |claim: &Claim| {
        json!({
            "mount": claim.mount.to_string_lossy(),
            "queue": claim.queue,
            "message": String::from_utf8_lossy(&claim.message),
            "uid": claim.worker.uid,
            "pid": claim.worker.pid,
            "process": claim.worker.process,
            "deliveries": claim.deliveries,
            "since": time(claim.since),
            "deadline": time(claim.deadline),
        })
    };
    json_for_people(&Value::Array(claims.iter().map(object).collect()))
}

/// A table; with a line for each claim, its ages as of `now`.
pub fn table(claims: &[Claim], now: SystemTime) -> String {
    let several = claims.windows(2).any(|pair| pair[0].mount != pair[1].mount);
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(COLUMNS);
    for claim in claims {
        let queue = match several {
            true => claim.mount.join(&claim.queue).to_string_lossy().into_owned(),
            false => claim.queue.clone(),
        };
        table.add_row([
            printable(&queue),
            printable(&String::from_utf8_lossy(&claim.message)),
            number(claim.worker.uid),
            number(claim.worker.pid),
            claim.since.map_or_else(none, |since| ago(now, since)),
            claim.deadline.map_or_else(none, |deadline| lease(now, deadline)),
            command(claim),
        ]);
    }
    let last = COLUMNS.len() - 1;
    for (at, column) in table.column_iter_mut().enumerate() {
        // No space at the left margin, two between columns.
        column.set_padding((if at == 0 { 0 } else { 1 }, if at == last { 0 } else { 1 }));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn none() -> String {
    "-".to_owned()
}

fn number(number: Option<u32>) -> String {
    number.map_or_else(none, |number| number.to_string())
}

fn ago(now: SystemTime, then: SystemTime) -> String {
    age(ms(now.duration_since(then).unwrap_or_default()))
}

/// How much longer a lease lasts.
fn lease(now: SystemTime, deadline: SystemTime) -> String {
    match deadline.duration_since(now) {
        Ok(left) => age(ms(left)),
        Err(_) => "over".to_owned(),
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn command(claim: &Claim) -> String {
    match (&claim.worker.process, claim.worker.pid) {
        (Some(line), _) => {
            let line = printable(line);
            let cut: String = line.chars().take(COMMAND).collect();
            if cut.len() < line.len() { cut + "..." } else { cut }
        }
        (None, Some(_)) => "gone".to_owned(),
        (None, None) => none(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Worker;
    use super::*;

    fn claim(mount: &str, message: &str, worker: Worker) -> Claim {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        Claim {
            mount: mount.into(),
            queue: "orders".into(),
            message: message.into(),
            worker,
            deliveries: 2,
            since: Some(at),
            deadline: Some(at + Duration::from_secs(30)),
        }
    }

    fn worker(process: Option<&str>) -> Worker {
        Worker { pid: Some(42), uid: Some(1000), process: process.map(str::to_owned) }
    }

    #[test]
    fn a_table_of_claims() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1020);
        let claims = [
            claim("/m", "0000000000000001-a", worker(Some("python3 work\u{1b}[2J.py"))),
            claim("/m", "0000000000000002-b\n", worker(None)),
            claim("/m", "0000000000000003-c", Worker { uid: Some(7), ..Worker::default() }),
        ];
        let expected = "\
QUEUE   MESSAGE               USER  PID  SINCE  LEASE  PROCESS
orders  0000000000000001-a    1000  42   20s    10s    python3 work\\u{1b}[2J.py
orders  0000000000000002-b\\n  1000  42   20s    10s    gone
orders  0000000000000003-c    7     -    20s    10s    -
";
        assert_eq!(table(&claims, now), expected);
        let later = table(&claims[..1], now + Duration::from_secs(60));
        assert!(later.contains("  over  "), "{later}");
        let long = table(&[claim("/m", "x", worker(Some(&"x".repeat(100))))], now);
        assert!(long.ends_with(&format!("  {}...\n", "x".repeat(COMMAND))), "{long}");
    }

    #[test]
    fn with_several_mounts_the_queue_is_a_whole_path() {
        let claims = [claim("/m", "a", worker(None)), claim("/n", "b", worker(None))];
        let shown = table(&claims, SystemTime::UNIX_EPOCH);
        assert!(shown.contains("\n/m/orders  a") && shown.contains("\n/n/orders  b"), "{shown}");
    }
}
