//! Tests of the configuration keys.

use super::super::*;
use super::*;
use proptest::prelude::*;

fn refusal(result: Result<()>) -> String {
    match result {
        Err(Error::Invalid(why)) => why,
        other => panic!("not refused as invalid: {other:?}"),
    }
}

#[test]
fn the_defaults_are_those_that_are_documented() {
    let expected = "names = sequence\nclaim = read\ndurability = sync\nabort_on = killed\npublish = close\ndrafts = .*\nvisibility_timeout = 30s\n\
                    max_lease = 12h\nmax_claimed = 0\nmax_deliveries = 20\nretry_delay = 0s\nretry_backoff = fixed\ndead_letter = \n\
                    message_ttl = 0s\nexpired = dead\nmax_messages = 0\nmax_bytes = 0\nmax_message_bytes = 0\n\
                    overflow = reject\npriorities = 1\npriority_ageing = 0s\ndedup_window = 0s\ndraft_ttl = 0s\nlines_batch = 1\npaused = no\n";
    assert_eq!(QueueConfig::default().render(), expected);
}

#[test]
fn the_words_that_are_allowed_are_those_that_are_understood() {
    let config = QueueConfig::default();
    for (key, words) in [
        ("names", NAMES.iter().map(|(word, _)| *word).collect::<Vec<_>>()),
        ("claim", CLAIM.iter().map(|(word, _)| *word).collect()),
        ("durability", DURABILITY.iter().map(|(word, _)| *word).collect()),
        ("abort_on", ABORT_ON.iter().map(|(word, _)| *word).collect()),
        ("publish", PUBLISH.iter().map(|(word, _)| *word).collect()),
        ("retry_backoff", RETRY_BACKOFF.iter().map(|(word, _)| *word).collect()),
        ("expired", EXPIRED.iter().map(|(word, _)| *word).collect()),
        ("overflow", OVERFLOW.iter().map(|(word, _)| *word).collect()),
        ("paused", PAUSED.iter().map(|(word, _)| *word).collect()),
    ] {
        let (last, others) = words.split_last().unwrap();
        assert_eq!(find(key).unwrap().allowed, format!("{} or {last}", others.join(", ")));
        for word in words {
            let mut changed = config.clone();
            changed.set(key, word).unwrap();
            assert_eq!(changed.get(key).as_deref(), Some(word));
        }
    }
}

#[test]
fn every_key_is_got_and_set_back() {
    let config = QueueConfig::default();
    assert_eq!(KEYS.len(), TABLE.len());
    for key in KEYS {
        let mut same = config.clone();
        same.set(key, &config.get(key).unwrap()).unwrap();
        assert_eq!(same, config);
    }
    assert_eq!(config.get("no_such_key"), None);
}

#[test]
fn each_key_changes_its_own_field() {
    let mut config = QueueConfig::default();
    for (key, value) in [
        ("claim", "rename"),
        ("durability", "async"),
        ("abort_on", "never"),
        ("publish", "rename"),
        ("drafts", "*.part  ~*"),
        ("visibility_timeout", "1500ms"),
        ("max_lease", " 90s\n"),
        ("max_claimed", "8"),
        ("max_deliveries", "0"),
        ("retry_delay", "5s"),
        ("retry_backoff", "exponential"),
        ("dead_letter", "/failed/orders/"),
        ("message_ttl", "1h"),
        ("expired", "drop"),
        ("max_messages", "9"),
        ("max_bytes", "1M"),
        ("max_message_bytes", "64K"),
        ("overflow", "drop-oldest"),
        ("priorities", "10"),
        ("priority_ageing", "2m"),
        ("dedup_window", "5m"),
        ("draft_ttl", "7d"),
        ("lines_batch", "100"),
        ("paused", "both"),
    ] {
        config.set(key, value).unwrap();
    }
    let expected = QueueConfig {
        names: Names::Sequence,
        claim: ClaimMode::Rename,
        durability: Durability::Async,
        abort_on: AbortOn::Never,
        publish: Publish::Rename,
        drafts: Patterns::parse("*.part ~*").unwrap(),
        visibility_timeout: Duration::from_millis(1_500),
        max_lease: Duration::from_secs(90),
        max_claimed: 8,
        max_deliveries: 0,
        retry_delay: Duration::from_secs(5),
        retry_backoff: RetryBackoff::Exponential,
        dead_letter: "failed/orders".into(),
        message_ttl: Duration::from_secs(3600),
        expired: Expired::Drop,
        max_messages: 9,
        max_bytes: 1 << 20,
        max_message_bytes: 65_536,
        overflow: Overflow::DropOldest,
        priorities: 10,
        priority_ageing: Duration::from_secs(120),
        dedup_window: Duration::from_secs(300),
        draft_ttl: Duration::from_secs(7 * 86_400),
        lines_batch: 100,
        paused: Paused::Both,
    };
    assert_eq!(config, expected);
}

#[test]
fn bad_values_are_refused_with_key_value_and_what_is_allowed() {
    let mut config = QueueConfig::default();
    for (key, value) in [
        ("names", "kept"),
        ("publish", "open"),
        ("drafts", ".* *"),
        ("drafts", "a/b"),
        ("dead_letter", "a//b"),
        ("dead_letter", "a /"),
        ("dead_letter", "../b"),
        ("dead_letter", "a/.mq"),
        ("priorities", "0"),
        ("priorities", "11"),
        ("lines_batch", "0"),
        ("paused", "yes"),
        ("overflow", "drop_oldest"),
        ("claim", "Read"),
        ("durability", ""),
        ("abort_on", "always"),
        ("visibility_timeout", "0s"),
        ("visibility_timeout", "30"),
        ("max_lease", "-1s"),
        ("max_deliveries", "4294967296"),
        ("max_deliveries", "+1"),
        ("max_deliveries", ""),
        ("max_message_bytes", "K"),
        ("max_message_bytes", "1.5M"),
        ("max_message_bytes", "64é"),
        ("max_message_bytes", "16777216T"),
        ("draft_ttl", "101years"),
    ] {
        let why = refusal(config.set(key, value));
        assert!(why.contains(key) && why.contains(value) && why.contains(find(key).unwrap().allowed), "{why}");
    }
    assert_eq!(config, QueueConfig::default());
}

#[test]
fn an_unknown_key_is_refused_with_those_that_are_known() {
    let why = refusal(QueueConfig::default().set("colour", "red"));
    assert!(why.contains("`colour`"), "{why}");
    for key in KEYS {
        assert!(why.contains(key), "{key} is not in: {why}");
    }
}

#[test]
fn sizes_take_suffixes_of_1024() {
    for (text, expected) in [("0", 0), ("7", 7), ("2K", 2 << 10), ("2m", 2 << 20), ("2G", 2 << 30), ("2T", 2 << 40)] {
        assert_eq!(bytes(text), Some(expected), "{text}");
    }
    assert_eq!(bytes("18446744073709551615"), Some(u64::MAX));
    assert_eq!(bytes("18446744073709551616"), None);
}

#[test]
fn applied_lines_change_what_they_name_and_the_later_wins() {
    let mut config = QueueConfig::default();
    config.apply("# a comment = 1\n\n  claim=rename\r\n\tmax_deliveries =3\nmax_deliveries= 5").unwrap();
    let expected = QueueConfig { claim: ClaimMode::Rename, max_deliveries: 5, ..QueueConfig::default() };
    assert_eq!(config, expected);
    config.apply("").unwrap();
    assert_eq!(config, expected);
}

#[test]
fn one_bad_line_leaves_everything_as_it_was() {
    for bad in ["claim = maybe", "nonsense", "no_such_key = 1", "= 1", "="] {
        let mut config = QueueConfig::default();
        let why = refusal(config.apply(&format!("max_deliveries = 3\n{bad}\ndraft_ttl = 1s\n")));
        assert!(!why.contains('\n'), "the text must fit on one comment line: {why}");
        assert_eq!(config, QueueConfig::default(), "{bad}");
    }
}

#[test]
fn the_wait_before_a_retry_grows_as_configured() {
    let seconds = Duration::from_secs;
    let mut config = QueueConfig { retry_delay: seconds(5), ..QueueConfig::default() };
    assert_eq!([1, 2, 9].map(|deliveries| config.retry_after(deliveries)), [seconds(5); 3]);
    config.retry_backoff = RetryBackoff::Exponential;
    let waits = [0, 1, 2, 3, 99].map(|deliveries| config.retry_after(deliveries));
    assert_eq!(waits, [seconds(5), seconds(5), seconds(10), seconds(20), LONGEST_RETRY]);
    assert_eq!(config.later_after(2), seconds(10));
    config.retry_delay = seconds(0);
    assert_eq!(config.retry_after(7), seconds(0));
    assert_eq!([1, 3, 99].map(|deliveries| config.later_after(deliveries)), [seconds(1), seconds(4), seconds(300)]);
    config.retry_delay = LONGEST_RETRY * 2;
    assert_eq!(config.retry_after(3), LONGEST_RETRY * 2, "never shorter than what was asked for");
}

proptest! {
    #[test]
    fn what_is_rendered_is_applied_back(
        modes in any::<[bool; 9]>(),
        times in prop::array::uniform7(1..=duration::LONGEST.as_millis() as u64),
        max_deliveries: u32,
        sizes: [u64; 4],
        numbers in (1..=10_u8, 1..=100_000_u32),
        abort_on in prop::sample::select(ABORT_ON),
        drafts in "(([.*?]?[a-z~]{1,5}[*?]?) {0,2}){0,3}",
        dead_letter in "([a-z]{1,5}(/[a-z .]{1,5}x){0,2})?",
    ) {
        let config = QueueConfig {
            names: if modes[3] { Names::Sequence } else { Names::Keep },
            claim: if modes[0] { ClaimMode::Read } else { ClaimMode::Rename },
            durability: if modes[1] { Durability::Sync } else { Durability::Async },
            abort_on: abort_on.1,
            publish: if modes[8] { Publish::Close } else { Publish::Rename },
            drafts: Patterns::parse(&drafts).unwrap(),
            visibility_timeout: Duration::from_millis(times[0]),
            max_lease: Duration::from_millis(times[1]),
            max_claimed: sizes[3],
            max_deliveries,
            retry_delay: Duration::from_millis(times[3]),
            retry_backoff: if modes[4] { RetryBackoff::Fixed } else { RetryBackoff::Exponential },
            dead_letter,
            message_ttl: Duration::from_millis(times[4]),
            expired: if modes[5] { Expired::Dead } else { Expired::Drop },
            max_messages: sizes[0],
            max_bytes: sizes[1],
            max_message_bytes: sizes[2],
            overflow: if modes[6] { Overflow::DropOldest } else { Overflow::Reject },
            priorities: numbers.0,
            priority_ageing: Duration::from_millis(times[6]),
            dedup_window: Duration::from_millis(times[5]),
            draft_ttl: Duration::from_millis(times[2]),
            lines_batch: numbers.1,
            paused: if modes[7] { Paused::In } else { Paused::Out },
        };
        let mut parsed = QueueConfig::default();
        parsed.apply(&config.render()).unwrap();
        prop_assert_eq!(parsed, config);
    }
}
