//! From the text of `.mq/metrics` to the numbers of each queue.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// By the names that `.mq/stats` has for them.
pub type Numbers = Map<String, Value>;

/// A queue.
pub struct Queue {
    /// Its path from the root of the mount, as text.
    pub label: String,
    /// Nothing when the caller may not read them.
    pub numbers: Option<Numbers>,
}

/// The rates that a second look gives.
const RATES: [(&str, &str); 2] = [("enqueued_total", "enqueued_per_second"), ("acked_total", "acked_per_second")];

impl Queue {
    /// Enters how many messages came and went each second, since the numbers were `before`, `seconds` ago. In a queue that
    /// was not there then, or was made anew, all of them.
    pub fn measure(&mut self, before: Option<&Numbers>, seconds: f64) {
        let Some(numbers) = &mut self.numbers else { return };
        for (total, rate) in RATES {
            let now = count(numbers, total);
            let before = before.map(|before| count(before, total)).filter(|before| *before <= now);
            let per_second = (now - before.unwrap_or(0)) as f64 / seconds;
            numbers.insert(rate.to_owned(), Value::from((per_second * 100.0).round() / 100.0));
        }
    }
}

/// A number, 0 when it is not there.
pub fn count(numbers: &Numbers, name: &str) -> u64 {
    numbers.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// Reads the metrics of queues, sorted by their paths; other metrics are passed over.
pub fn parse(text: &str) -> Vec<Queue> {
    let mut queues: BTreeMap<String, Option<Numbers>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, labels, value)) = sample(line) else { continue };
        let Some(queue) = labels.get("queue") else { continue };
        let numbers = queues.entry(queue.clone()).or_default();
        if name != "queue_readable" {
            let (name, value) = entry(name, labels.get("state"), value);
            numbers.get_or_insert_default().insert(name, value);
        }
    }
    for numbers in queues.values_mut().flatten() {
        if count(numbers, "ready") == 0 {
            numbers.insert("oldest_ready_age_ms".to_owned(), Value::Null);
        }
    }
    queues.into_iter().map(|(label, numbers)| Queue { label, numbers }).collect()
}

/// A metric under the name that `.mq/stats` has for it.
fn entry(metric: &str, state: Option<&String>, value: &str) -> (String, Value) {
    match (metric, state) {
        ("messages", Some(state)) => (state.clone(), number(value)),
        ("message_bytes", Some(state)) => (format!("{state}_bytes"), number(value)),
        ("oldest_ready_age_seconds", _) => {
            let ms = value.parse::<f64>().map_or(0.0, |seconds| (seconds * 1000.0).round());
            ("oldest_ready_age_ms".to_owned(), Value::from(ms as u64))
        }
        (metric, _) => (metric.to_owned(), number(value)),
    }
}

fn number(text: &str) -> Value {
    text.parse::<u64>().map_or(Value::Null, Value::from)
}

/// `mqfs_NAME{LABEL="TEXT",...} VALUE`
fn sample(line: &str) -> Option<(&str, BTreeMap<&str, String>, &str)> {
    let line = line.strip_prefix("mqfs_")?;
    let (name, mut rest) = line.split_at(line.find(['{', ' '])?);
    let mut labels = BTreeMap::new();
    while let Some(inner) = rest.strip_prefix(['{', ',']) {
        let (label, quoted) = inner.split_once("=\"")?;
        let (text, after) = quoted_text(quoted)?;
        labels.insert(label, text);
        rest = after;
    }
    Some((name, labels, rest.trim_start_matches('}').trim()))
}

/// The text before the quotation mark that ends it, without escapes, and what is behind that mark.
fn quoted_text(text: &str) -> Option<(String, &str)> {
    let mut plain = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((plain, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => plain.push('\n'),
                escaped => plain.push(escaped),
            },
            other => plain.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_taken_apart() {
        let (name, labels, value) = sample(r#"mqfs_messages{queue="a \"}\\\n,x=\"",state="ready"} 7"#).unwrap();
        assert_eq!((name, value), ("messages", "7"));
        assert_eq!(labels["queue"], "a \"}\\\n,x=\"");
        assert_eq!(labels["state"], "ready");
        assert_eq!(sample("mqfs_writers 3").map(|(name, _, value)| (name, value)), Some(("writers", "3")));
        assert!(sample("other 3").is_none() && sample("mqfs_x{queue=\"a").is_none());
    }

    #[test]
    fn names_are_those_of_stats() {
        let queues = parse(
            "# HELP x y\nmqfs_writers 3\nmqfs_queue_readable{queue=\"b\"} 0\nmqfs_queue_readable{queue=\"a\"} 1\n\
             mqfs_messages{queue=\"a\",state=\"ready\"} 2\nmqfs_message_bytes{queue=\"a\",state=\"dead\"} 5\n\
             mqfs_oldest_ready_age_seconds{queue=\"a\"} 1.5\nmqfs_acked_total{queue=\"a\"} 9\n",
        );
        assert_eq!(queues.iter().map(|queue| queue.label.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let numbers = serde_json::json!({"ready": 2, "dead_bytes": 5, "oldest_ready_age_ms": 1500, "acked_total": 9});
        assert_eq!(queues[0].numbers.as_ref(), numbers.as_object());
        assert!(queues[1].numbers.is_none());
    }

    #[test]
    fn rates_are_per_second() {
        let before = serde_json::json!({"enqueued_total": 10, "acked_total": 50});
        let mut queue = parse("mqfs_enqueued_total{queue=\"a\"} 25\nmqfs_acked_total{queue=\"a\"} 3\n").remove(0);
        queue.measure(before.as_object(), 2.0);
        let numbers = queue.numbers.unwrap();
        assert_eq!(numbers["enqueued_per_second"], 7.5);
        assert_eq!(numbers["acked_per_second"], 1.5, "made anew");
    }
}
