//! Tests of the configuration keys.

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
    let expected = "names = sequence\nclaim = read\ndurability = sync\nabort_on = killed\nvisibility_timeout = 30s\n\
                    max_lease = 12h\nmax_deliveries = 20\nmax_message_bytes = 0\ndraft_ttl = 0s\n";
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
    ] {
        assert_eq!(find(key).unwrap().allowed, words.join(" or "));
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
        ("visibility_timeout", "1500ms"),
        ("max_lease", " 90s\n"),
        ("max_deliveries", "0"),
        ("max_message_bytes", "64K"),
        ("draft_ttl", "7d"),
    ] {
        config.set(key, value).unwrap();
    }
    let expected = QueueConfig {
        names: Names::Sequence,
        claim: ClaimMode::Rename,
        durability: Durability::Async,
        abort_on: AbortOn::Never,
        visibility_timeout: Duration::from_millis(1_500),
        max_lease: Duration::from_secs(90),
        max_deliveries: 0,
        max_message_bytes: 65_536,
        draft_ttl: Duration::from_secs(7 * 86_400),
    };
    assert_eq!(config, expected);
}

#[test]
fn bad_values_are_refused_with_key_value_and_what_is_allowed() {
    let mut config = QueueConfig::default();
    for (key, value) in [
        ("names", "keep"),
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

proptest! {
    #[test]
    fn what_is_rendered_is_applied_back(
        modes in any::<[bool; 3]>(),
        times in prop::array::uniform3(1..=duration::LONGEST.as_millis() as u64),
        max_deliveries: u32,
        max_message_bytes: u64,
    ) {
        let config = QueueConfig {
            names: Names::Sequence,
            claim: if modes[0] { ClaimMode::Read } else { ClaimMode::Rename },
            durability: if modes[1] { Durability::Sync } else { Durability::Async },
            abort_on: if modes[2] { AbortOn::Killed } else { AbortOn::Never },
            visibility_timeout: Duration::from_millis(times[0]),
            max_lease: Duration::from_millis(times[1]),
            max_deliveries,
            max_message_bytes,
            draft_ttl: Duration::from_millis(times[2]),
        };
        let mut parsed = QueueConfig::default();
        parsed.apply(&config.render()).unwrap();
        prop_assert_eq!(parsed, config);
    }
}
