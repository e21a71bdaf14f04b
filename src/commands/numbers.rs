//! From the text of `.mq/metrics` to the numbers of each queue.

use std::borrow::Cow;
use std::collections::HashMap;

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

/// When all this was so, in seconds since the epoch.
pub fn timestamp(text: &str) -> Option<f64> {
    let found = text.lines().filter_map(sample).find(|(name, ..)| *name == "timestamp_seconds");
    found.and_then(|(.., value)| value.parse().ok())
}

/// Reads the metrics of queues, sorted by their paths; other metrics are passed over.
pub fn parse(text: &str) -> Vec<Queue> {
    let mut queues: Vec<Queue> = Vec::new();
    let mut known: HashMap<Cow<'_, str>, usize> = HashMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, labels, value)) = sample(line) else { continue };
        let Some(queue) = labels.get("queue") else { continue };
        let at = *known.entry(queue.clone()).or_insert_with(|| {
            queues.push(Queue { label: queue.clone().into_owned(), numbers: None });
            queues.len() - 1
        });
        let numbers = &mut queues[at].numbers;
        match name {
            "queue_readable" => {}
            "paused" => pause(numbers.get_or_insert_default(), labels.get("direction"), value),
            _ => {
                let (name, value) = entry(name, labels.get("state"), value);
                numbers.get_or_insert_default().insert(name, value);
            }
        }
    }
    for numbers in queues.iter_mut().filter_map(|queue| queue.numbers.as_mut()) {
        for state in STATES {
            if count(numbers, state) == 0 {
                numbers.insert(format!("oldest_{state}_age_ms"), Value::Null);
            }
        }
        numbers.entry("fullness").or_insert(Value::Null);
    }
    queues.sort_by(|a, b| a.label.cmp(&b.label));
    queues
}

/// The labels of a sample: a few.
#[derive(Debug, Default)]
struct Labels<'a>(Vec<(&'a str, Cow<'a, str>)>);

impl<'a> Labels<'a> {
    fn get(&self, label: &str) -> Option<&Cow<'a, str>> {
        self.0.iter().find(|(name, _)| *name == label).map(|(_, text)| text)
    }
}

/// The states of messages.
pub const STATES: [&str; 4] = ["ready", "claimed", "delayed", "dead"];

/// Enters whether one way through the queue is closed, as `.mq/stats` has it for both.
fn pause(numbers: &mut Numbers, direction: Option<&Cow<'_, str>>, value: &str) {
    let before = numbers.get("paused").and_then(Value::as_str).unwrap_or("no");
    let now = match direction {
        Some(direction) if value == "1" => {
            if before == "no" {
                direction.as_ref()
            } else {
                "both"
            }
        }
        _ => before,
    };
    let now = Value::from(now);
    numbers.insert("paused".to_owned(), now);
}

/// A metric under the name that `.mq/stats` has for it.
fn entry(metric: &str, state: Option<&Cow<'_, str>>, value: &str) -> (String, Value) {
    match (metric, state) {
        ("messages", Some(state)) => (state.to_string(), number(value)),
        ("message_bytes", Some(state)) => (format!("{state}_bytes"), number(value)),
        ("fullness_ratio", _) => ("fullness".to_owned(), value.parse::<f64>().map_or(Value::Null, Value::from)),
        (metric, _) => match metric.strip_suffix("_age_seconds") {
            Some(of) => {
                let ms = value.parse::<f64>().map_or(0.0, |seconds| (seconds * 1000.0).round());
                (format!("{of}_age_ms"), Value::from(ms as u64))
            }
            None => (metric.to_owned(), number(value)),
        },
    }
}

fn number(text: &str) -> Value {
    text.parse::<u64>().map_or(Value::Null, Value::from)
}

/// `mqfs_NAME{LABEL="TEXT",...} VALUE`
fn sample(line: &str) -> Option<(&str, Labels<'_>, &str)> {
    let line = line.strip_prefix("mqfs_")?;
    let (name, mut rest) = line.split_at(line.find(['{', ' '])?);
    let mut labels = Labels::default();
    while let Some(inner) = rest.strip_prefix(['{', ',']) {
        let (label, quoted) = inner.split_once("=\"")?;
        let (text, after) = quoted_text(quoted)?;
        labels.0.push((label, text));
        rest = after;
    }
    Some((name, labels, rest.trim_start_matches('}').trim()))
}

/// The text before the quotation mark that ends it, without escapes, and what is behind that mark.
fn quoted_text(text: &str) -> Option<(Cow<'_, str>, &str)> {
    // Most have no escapes.
    let end = text.find(['"', '\\'])?;
    if text.as_bytes()[end] == b'"' {
        return Some((text[..end].into(), &text[end + 1..]));
    }
    let mut plain = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((plain.into(), &text[at + 1..])),
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
        let label = |name| labels.get(name).unwrap().as_ref();
        assert_eq!((label("queue"), label("state")), ("a \"}\\\n,x=\"", "ready"));
        assert_eq!(sample("mqfs_writers 3").map(|(name, _, value)| (name, value)), Some(("writers", "3")));
        assert!(sample("other 3").is_none() && sample("mqfs_x{queue=\"a").is_none());
    }

    #[test]
    fn names_are_those_of_stats() {
        let queues = parse(
            "# HELP x y\nmqfs_writers 3\nmqfs_queue_readable{queue=\"b\"} 0\nmqfs_queue_readable{queue=\"a\"} 1\n\
             mqfs_messages{queue=\"a\",state=\"ready\"} 2\nmqfs_message_bytes{queue=\"a\",state=\"dead\"} 5\n\
             mqfs_oldest_ready_age_seconds{queue=\"a\"} 1.5\nmqfs_acked_total{queue=\"a\"} 9\n\
             mqfs_paused{mount=\"/m\",queue=\"a\",direction=\"in\"} 1\n\
             mqfs_paused{mount=\"/m\",queue=\"a\",direction=\"out\"} 1\nmqfs_fullness_ratio{queue=\"a\"} 0.25\n\
             mqfs_oldest_dead_age_seconds{queue=\"a\"} 0\n",
        );
        assert_eq!(queues.iter().map(|queue| queue.label.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let numbers = serde_json::json!({"ready": 2, "dead_bytes": 5, "oldest_ready_age_ms": 1500, "acked_total": 9, "paused": "both",
            "fullness": 0.25, "oldest_claimed_age_ms": null, "oldest_delayed_age_ms": null, "oldest_dead_age_ms": null});
        assert_eq!(queues[0].numbers.as_ref(), numbers.as_object());
        assert!(queues[1].numbers.is_none());
    }

    #[test]
    fn a_pause_has_one_word() {
        let mut numbers = Numbers::new();
        let mut then = |direction: &str, value| {
            pause(&mut numbers, Some(&direction.into()), value);
            numbers["paused"].as_str().unwrap().to_owned()
        };
        assert_eq!([then("in", "0"), then("out", "1"), then("in", "1")], ["no", "out", "both"]);
    }

    #[test]
    fn the_time_of_all_is_found() {
        assert_eq!(timestamp("# x\nmqfs_info{a=\"b\"} 1\nmqfs_timestamp_seconds{mount=\"m\"} 17.5\n"), Some(17.5));
        assert_eq!(timestamp("mqfs_info 1\n"), None);
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
