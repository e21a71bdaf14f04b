//! The wall clock, and how an instant is written for people.
//!
//! Instants are milliseconds since 1970-01-01 UTC everywhere in the project, but for the times that stat(2) shows. Only this file
//! asks the wall clock, besides the kernel's requests that mean now. What acts on messages takes the instant as an
//! argument; a change that only notes when it was made asks for itself. How long something takes is measured by `Instant`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last millisecond of the year 9999, the latest instant that RFC 3339 can write.
const LAST_RFC3339_MS: u64 = 253_402_300_799_999;

/// The wall clock in milliseconds since the epoch (0 if it is set before that).
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `ms` as RFC 3339 in UTC with milliseconds, such as `2026-01-31T08:00:00.250Z`. Instants after the year 9999 are
/// written as its last millisecond.
pub fn rfc3339(ms: u64) -> String {
    let instant = UNIX_EPOCH + Duration::from_millis(ms.min(LAST_RFC3339_MS));
    humantime::format_rfc3339_millis(instant).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_is_after_this_file_was_written_and_does_not_stand_still_for_ever() {
        let first = now_ms();
        assert!(first > 1_700_000_000_000, "{first}");
        while now_ms() == first {
            std::thread::yield_now();
        }
    }

    #[test]
    fn instants_are_written_in_utc_with_milliseconds() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_769_846_400_250), "2026-01-31T08:00:00.250Z");
        assert_eq!(rfc3339(1_769_846_400_007), "2026-01-31T08:00:00.007Z");
    }

    #[test]
    fn instants_beyond_the_format_are_written_as_its_last() {
        assert_eq!(rfc3339(LAST_RFC3339_MS), "9999-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(LAST_RFC3339_MS + 1), "9999-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
