//! Durations as people write them: `30s`, `5m`, `2h`, `7d`, `1500ms`.

use std::time::Duration;

use crate::error::{Error, Result};

/// The longest duration accepted, 100 years: added to any date of ours it stays far inside 64 bits of milliseconds.
pub const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The units that [`format`] writes, the largest first, with their milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Those that [`parse`] reads besides, with their nanoseconds.
const MORE_UNITS: [(&str, u128); 3] = [("ns", 1), ("us", 1_000), ("w", 7 * 86_400_000 * NS_PER_MS)];

const NS_PER_MS: u128 = 1_000_000;

/// Reads a duration: a number and a unit, or several of them (`1h 30m`). It must be whole milliseconds and at most
/// [`LONGEST`].
pub fn parse(text: &str) -> Result<Duration> {
    let refused = |why: &str| Error::Invalid(format!("`{text}` is not a duration: {why}"));
    let ns = nanoseconds(text.trim()).ok_or_else(|| refused("write a number and ms, s, m, h or d, such as 30s"))?;
    if ns > LONGEST.as_nanos() {
        return Err(refused("it is longer than 100 years"));
    }
    if !ns.is_multiple_of(NS_PER_MS) {
        return Err(refused("it is not whole milliseconds"));
    }
    // At most LONGEST, so it fits.
    Ok(Duration::from_millis((ns / NS_PER_MS) as u64))
}

/// The sum of numbers with units, the most there is when it is more than that; `None` when the text is none, or empty.
fn nanoseconds(text: &str) -> Option<u128> {
    let (mut rest, mut sum) = (text, None);
    while !rest.is_empty() {
        let (number, unit);
        (number, rest) = split(rest, |c| c.is_ascii_digit())?;
        (unit, rest) = split(rest.trim_start(), |c| c.is_ascii_alphabetic())?;
        rest = rest.trim_start();
        let usual = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ms)| u128::from(*ms) * NS_PER_MS);
        let more = || MORE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ns)| *ns);
        let each = usual.or_else(more)?;
        // Digits only, so what cannot be read is too large.
        let added = number.parse::<u128>().unwrap_or(u128::MAX).saturating_mul(each);
        sum = Some(sum.unwrap_or(0_u128).saturating_add(added));
    }
    sum
}

/// The front of a text that consists of such characters, at least one of them, and what follows.
fn split(text: &str, of: fn(char) -> bool) -> Option<(&str, &str)> {
    let end = text.find(|c| !of(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// Writes a duration in the largest single unit that divides it (`12h`, `90s`, `1500ms`), so that [`parse`] reads the
/// same back. What is below a millisecond is cut off.
pub fn format(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return "0s".to_owned();
    }
    // The last unit is one millisecond, which divides everything.
    let (unit, size) = UNITS.into_iter().find(|(_, size)| ms.is_multiple_of(*size)).unwrap_or(("ms", 1));
    format!("{}{unit}", ms / size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(text: &str) -> u128 {
        parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).as_millis()
    }

    #[test]
    fn every_unit_is_read() {
        assert_eq!(ms("1500ms"), 1_500);
        assert_eq!(ms("30s"), 30_000);
        assert_eq!(ms("5m"), 300_000);
        assert_eq!(ms("2h"), 7_200_000);
        assert_eq!(ms("7d"), 604_800_000);
        assert_eq!(ms("0s"), 0);
        assert_eq!(ms(" 1h 30m "), 5_400_000);
        assert_eq!(ms("1h30m 2 s"), 5_402_000);
        assert_eq!(ms("2w"), 1_209_600_000);
        assert_eq!(ms("0000000000000000000000000000000000000000000001s"), 1_000);
    }

    #[test]
    fn nonsense_is_refused_with_the_text_in_it() {
        for text in [
            "",
            "s",
            "-1s",
            "soon",
            "30",
            "30 parsecs",
            "1s,",
            "1.5h",
            "s1",
            "1s 2",
            "+1s",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            let error = parse(text).expect_err(text);
            assert!(matches!(&error, Error::Invalid(why) if why.contains(&format!("`{text}`"))), "{text}: {error}");
        }
    }

    #[test]
    fn less_than_a_millisecond_and_more_than_a_century_are_refused() {
        assert!(parse("1us").is_err());
        assert!(parse("1ms 1ns").is_err());
        assert!(parse("36501d").is_err());
        assert_eq!(parse("36500d").unwrap(), LONGEST);
        assert_eq!(ms("1000us"), 1);
    }

    /// A library that added them up panicked.
    #[test]
    fn sums_beyond_every_limit_are_refused() {
        let much = u128::MAX;
        for text in [
            "18446744073709551615s 999999us 1us 999999999ns",
            "18446744073709551615s999999999999us",
            &format!("{much}w {much}w 1ns"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.to_string().contains("longer than 100 years"), "{error}");
        }
    }

    #[test]
    fn the_largest_unit_that_divides_is_written() {
        for text in ["0s", "1ms", "1500ms", "1s", "90s", "2m", "12h", "25h", "1d", "7d", "36500d"] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
        assert_eq!(format(Duration::from_secs(60)), "1m");
        assert_eq!(format(Duration::from_micros(1_999)), "1ms");
        assert_eq!(format(Duration::from_micros(999)), "0s");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ms in 0..=LONGEST.as_millis() as u64) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse(&format(duration)).unwrap(), duration);
        }
    }
}
