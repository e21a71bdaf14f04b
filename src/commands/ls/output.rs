//! What `mqfs ls` prints.

use std::path::PathBuf;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde_json::{Value, json};

use super::super::numbers::{Numbers, Queue, STATES, count};
use super::super::text::{json_for_people, printable};

/// The queues of one mount.
pub struct Block {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Sorted by their paths.
    pub queues: Vec<Queue>,
    /// When this was so, in seconds since the epoch.
    pub at: f64,
    /// Rates were measured.
    pub rates: bool,
}

/// How the cell of a column is made.
type Cell = fn(&Numbers) -> String;

const COLUMNS: [(&str, Cell); 6] = [
    ("READY", |numbers| count(numbers, "ready").to_string()),
    ("CLAIMED", |numbers| count(numbers, "claimed").to_string()),
    ("DELAYED", |numbers| count(numbers, "delayed").to_string()),
    ("DEAD", |numbers| count(numbers, "dead").to_string()),
    ("SIZE", |numbers| {
        size(STATES.iter().map(|state| count(numbers, &format!("{state}_bytes"))).fold(0, u64::saturating_add))
    }),
    ("OLDEST", |numbers| numbers.get("oldest_ready_age_ms").and_then(Value::as_u64).map_or_else(none, age)),
];
const RATES: [(&str, Cell); 2] =
    [("IN/S", |numbers| rate(numbers, "enqueued_per_second")), ("OUT/S", |numbers| rate(numbers, "acked_per_second"))];

fn none() -> String {
    "-".to_owned()
}

/// One object for each queue, in one array.
pub fn json(blocks: &[Block]) -> String {
    let mut all = Vec::new();
    for block in blocks {
        for queue in &block.queues {
            let mut object = queue.numbers.clone().unwrap_or_default();
            object.insert("mount".to_owned(), block.point.to_string_lossy().into());
            object.insert("queue".to_owned(), queue.label.clone().into());
            object.insert("readable".to_owned(), json!(queue.numbers.is_some()));
            all.push(Value::Object(object));
        }
    }
    json_for_people(&Value::Array(all))
}

/// A table for each mount. If they are several, each has the mount point above it.
pub fn tables(blocks: &[Block]) -> String {
    let heading = |block: &Block| match blocks.len() {
        1 => String::new(),
        _ => format!("{}:\n", printable(&block.point.to_string_lossy())),
    };
    blocks.iter().map(|block| heading(block) + &table(block)).collect::<Vec<_>>().join("\n")
}

fn table(block: &Block) -> String {
    let columns: Vec<&(&str, Cell)> = COLUMNS.iter().chain(RATES.iter().filter(|_| block.rates)).collect();
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["QUEUE"].into_iter().chain(columns.iter().map(|(title, _)| *title)).chain(["STATE"]));
    let mut row = |name: String, numbers: Option<&Numbers>, state: String| {
        let cell = |(_, cell): &&(&str, Cell)| numbers.map_or_else(none, cell);
        table.add_row([name].into_iter().chain(columns.iter().map(cell)).chain([state]));
    };
    for queue in &block.queues {
        row(printable(&queue.label), queue.numbers.as_ref(), queue.numbers.as_ref().map_or_else(none, state));
    }
    if block.queues.len() > 1 {
        row("total".to_owned(), Some(&total(&block.queues)), String::new());
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        let last = columns.len() + 1;
        // No space at the left margin, two between columns.
        column.set_padding((if at == 0 { 0 } else { 1 }, if at == last { 0 } else { 1 }));
        column.set_cell_alignment(if at == 0 || at == last { CellAlignment::Left } else { CellAlignment::Right });
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// What is not as usual with a queue: that nothing gets in or out, and who waits for that.
fn state(numbers: &Numbers) -> String {
    let mut words = Vec::new();
    if numbers.get("fullness").and_then(Value::as_f64).is_some_and(|fullness| fullness >= 1.0) {
        words.push("full".to_owned());
    }
    match numbers.get("paused").and_then(Value::as_str) {
        None | Some("no") => {}
        Some(way) => words.push(format!("paused {way}")),
    }
    for (name, who) in [("waiting", "consumer"), ("waiting_writers", "producer")] {
        match count(numbers, name) {
            0 => {}
            1 => words.push(format!("1 {who} waits")),
            many => words.push(format!("{many} {who}s wait")),
        }
    }
    if words.is_empty() { none() } else { words.join(", ") }
}

/// The sums of all, and the largest age.
fn total(queues: &[Queue]) -> Numbers {
    let mut total = Numbers::new();
    for (name, value) in queues.iter().filter_map(|queue| queue.numbers.as_ref()).flatten() {
        let sum = total.entry(name.clone()).or_insert(Value::Null);
        *sum = match (name.as_str(), sum.as_u64(), value.as_u64()) {
            (name, so_far, age) if name.ends_with("_age_ms") => so_far.max(age).into(),
            (_, so_far, Some(value)) => (so_far.unwrap_or(0) + value).into(),
            _ => (sum.as_f64().unwrap_or(0.0) + value.as_f64().unwrap_or(0.0)).into(),
        };
    }
    total
}

/// Bytes, in the largest unit in which there is at least one.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    let mut value = bytes as f64;
    let mut unit = "";
    for larger in UNITS {
        if value < 1023.5 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit.is_empty() || value >= 9.95 { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") }
}

/// An age in its two largest units.
pub fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    let parts = [("d", seconds / 86_400), ("h", seconds / 3600 % 24), ("m", seconds / 60 % 60), ("s", seconds % 60)];
    let first = parts.iter().position(|(_, value)| *value > 0).unwrap_or(3);
    let shown = parts.iter().skip(first).take(2).filter(|(unit, value)| *value > 0 || *unit == "s" && first == 3);
    shown.map(|(unit, value)| format!("{value}{unit}")).collect()
}

fn rate(numbers: &Numbers, name: &str) -> String {
    numbers.get(name).and_then(Value::as_f64).map_or_else(none, |rate| format!("{rate:.1}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let shown = [0, 999, 1023, 1024, 1536, 10 << 10, 1 << 20, (1 << 20) - 1, 5 << 40, u64::MAX].map(size);
        assert_eq!(shown, ["0", "999", "1023", "1.0K", "1.5K", "10K", "1.0M", "1.0M", "5.0T", "16E"]);
    }

    #[test]
    fn ages_have_two_units() {
        let shown = [0, 999, 1000, 61_000, 3_600_000, 3_660_000, 90_061_000, 8_640_000_000].map(age);
        assert_eq!(shown, ["0s", "0s", "1s", "1m1s", "1h", "1h1m", "1d1h", "100d"]);
    }

    #[test]
    fn a_state_says_what_is_not_as_usual() {
        let of = |numbers: Value| state(numbers.as_object().unwrap());
        assert_eq!(of(json!({"fullness": 0.99, "paused": "no", "waiting": 0})), "-");
        assert_eq!(
            of(json!({"paused": "both", "waiting": 1, "waiting_writers": 1})),
            "paused both, 1 consumer waits, 1 producer waits"
        );
        assert_eq!(of(json!({"fullness": 1.0, "waiting": 3})), "full, 3 consumers wait");
    }

    fn queue(label: &str, numbers: Option<Value>) -> Queue {
        Queue { label: label.into(), numbers: numbers.map(|numbers| numbers.as_object().unwrap().clone()) }
    }

    #[test]
    fn a_table_is_aligned_and_ends_in_the_total() {
        let first =
            json!({"ready": 10, "dead": 1, "ready_bytes": 2048, "oldest_ready_age_ms": 5000, "acked_per_second": 1.5});
        let second = json!({"ready": 5, "dead": 0, "oldest_ready_age_ms": null, "acked_per_second": 2.0,
            "paused": "in", "fullness": 1.5, "waiting_writers": 2});
        let queues = vec![queue("größe", Some(first)), queue("secret", None), queue("z", Some(second))];
        let shown = table(&Block { point: "/mnt".into(), queues, at: 1.0, rates: true });
        let expected = "\
QUEUE   READY  CLAIMED  DELAYED  DEAD  SIZE  OLDEST  IN/S  OUT/S  STATE
größe      10        0        0     1  2.0K      5s     -    1.5  -
secret      -        -        -     -     -       -     -      -  -
z           5        0        0     0     0       -     -    2.0  full, paused in, 2 producers wait
total      15        0        0     1  2.0K      5s     -    3.5
";
        assert_eq!(shown, expected);
    }
}
