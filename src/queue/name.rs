//! What a name in a queue directory means, and how a message's listed name is made.
//!
//! Names are bytes, not text. A listed name is the message's sequence number in 16 digits, then `-` and the name that
//! its producer gave it, if any: `0000000000000042-a.csv`. In a queue with priorities one more digit comes first, lower for
//! a higher priority. Sorted as bytes, listed names are in order of delivery.
//!
//! What `.mq/claim` answers names the delivery besides: `0000000000000042.K-a.csv`. As the name of something new it counts as
//! a listed name does: all before the producer's name is taken off.

use super::delivery::{self, Delivery};
use crate::error::{Error, Result};

/// The longest name a producer may give: with the sequence number and the dash it makes the 255 bytes that a directory
/// entry can have.
pub const MAX_NAME: usize = LONGEST - DIGITS - 1;

/// The longest name in a queue that keeps names: what a directory entry can have.
pub const MAX_KEPT_NAME: usize = LONGEST;

/// The longest name of a queue, as on other filesystems.
pub const QUEUE_NAME_MAX: usize = 255;

/// The longest path of a queue from the root of the mount, in bytes, as that which a system call takes.
pub const LONGEST_PATH: usize = 4096;

/// So deep a queue is nested at most: one at the top of the mount is 1 deep.
pub const DEEPEST: usize = 256;

/// The name of a queue's control directory, the only reserved name.
pub const CONTROL: &[u8] = b".mq";

/// What the names begin with of drafts and batches that last only as long as somebody has them open; a dot may be before it.
const STAGED: &[u8] = b"put-";
/// The random hexadecimal digits that end them.
const STAGED_DIGITS: usize = 32;

const DIGITS: usize = 16;

/// The longest name of a directory entry.
const LONGEST: usize = 255;

/// What a name asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    /// `.mq`.
    Control,
    /// Anything else that begins with `.`: a draft (or a queue), with the whole name.
    Draft(&'a [u8]),
    /// A name in sequence form, with or without the digit of a priority.
    Sequence {
        /// The number that the last 16 digits say.
        seq: u64,
        /// Which delivery of that message, if it says so.
        delivery: Option<Delivery>,
        /// What follows the dash; nothing when the digits stand alone.
        name: Option<&'a [u8]>,
    },
    /// Any other name: a producer's bare name (or a queue).
    Plain(&'a [u8]),
}

/// Whether a draft or batch of that name goes with its last close, unless it has been published: what `mqfs put` stages is called so,
/// and nobody else's programs call anything so by chance.
pub fn is_staged(name: &[u8]) -> bool {
    let digits = name.strip_prefix(b".").unwrap_or(name).strip_prefix(STAGED).unwrap_or_default();
    digits.len() == STAGED_DIGITS && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Such a name, with these digits.
pub fn staged_name(random: u128) -> String {
    format!("put-{random:032x}")
}

/// Tells what `name` asks for.
pub fn classify(name: &[u8]) -> Name<'_> {
    if name == CONTROL {
        Name::Control
    } else if name.starts_with(b".") {
        Name::Draft(name)
    } else if let Some((seq, delivery, name)) = split(name) {
        Name::Sequence { seq, delivery, name }
    } else {
        Name::Plain(name)
    }
}

/// The name under which the message `seq` is listed, given its producer's name (empty if it has none), and its place among
/// the priorities in a queue that has them.
pub fn listed(order: Option<u8>, seq: u64, name: &[u8]) -> Vec<u8> {
    // At a million messages a second, 16 digits last for 300 years.
    let mut listed = Vec::with_capacity(DIGITS + 2 + name.len());
    listed.extend(order.map(|order| b'0' + order.min(9)));
    listed.extend_from_slice(format!("{seq:016}").as_bytes());
    if !name.is_empty() {
        listed.push(b'-');
        listed.extend_from_slice(name);
    }
    listed
}

/// The name of a delivery of a message. The producer's name is left out where it is `None`, and where the whole would be longer
/// than a directory entry, or no line.
pub fn delivered(order: Option<u8>, seq: u64, delivery: Delivery, name: Option<&[u8]>) -> Vec<u8> {
    let mut delivered = listed(order, seq, b"");
    delivered.push(b'.');
    delivered.extend_from_slice(delivery.text().as_bytes());
    let fits = |name: &&[u8]| !name.is_empty() && !name.contains(&b'\n') && delivered.len() + 1 + name.len() <= LONGEST;
    if let Some(name) = name.filter(fits) {
        delivered.push(b'-');
        delivered.extend_from_slice(name);
    }
    delivered
}

/// A name without what names the delivery in it: the message as it is listed, as far as the name tells.
pub fn undelivered(name: &[u8]) -> Vec<u8> {
    match split(name) {
        Some((_, Some(_), _)) => {
            let digits = name.iter().take_while(|byte| byte.is_ascii_digit()).count();
            [&name[..digits], &name[digits + 1 + delivery::LENGTH..]].concat()
        }
        _ => name.to_vec(),
    }
}

/// Refuses a producer's name that is too long to be listed, in a queue with or without priorities.
pub fn check_producer_name(name: &[u8], priorities: bool) -> Result<()> {
    if name.len() > MAX_NAME - usize::from(priorities) { Err(Error::NameTooLong) } else { Ok(()) }
}

/// Refuses a name that no queue and no draft can have. The kernel passes longer ones on.
pub fn check_entry_name(name: &[u8]) -> Result<()> {
    if name.len() > QUEUE_NAME_MAX { Err(Error::NameTooLong) } else { Ok(()) }
}

/// Refuses names that no queue can have.
pub fn check_queue_name(name: &[u8]) -> Result<()> {
    check_entry_name(name)?;
    match classify(name) {
        Name::Control => Err(Error::Exists),
        Name::Sequence { .. } => Err(Error::Invalid("a queue's name does not look like a message's".into())),
        Name::Draft(_) | Name::Plain(_) => Ok(()),
    }
}

/// The producer's part of a name: without its sequence prefix, or prefixes if it collected several, so that a message
/// copied or moved from queue to queue does not grow a longer name each time. Empty if the digits stand alone and are
/// `given`, as the number of a message that is or was there; others are a name like any other, such as a time.
pub fn stripped(name: &[u8], given: impl Fn(u64) -> bool) -> &[u8] {
    let mut rest = name;
    while let Some((seq, _, inner)) = split(rest) {
        match inner {
            None if !given(seq) => break,
            inner => rest = inner.unwrap_or_default(),
        }
    }
    rest
}

/// As [`classify`], where the digits of numbers that no message was `given` are a name like any other.
pub fn classify_given(name: &[u8], given: impl Fn(u64) -> bool) -> Name<'_> {
    match classify(name) {
        Name::Sequence { seq, name: None, .. } if !given(seq) => Name::Plain(name),
        kind => kind,
    }
}

/// The number, the delivery and the producer's name in a name in sequence form.
type Parts<'a> = (u64, Option<Delivery>, Option<&'a [u8]>);

/// Takes a name in sequence form apart.
fn split(name: &[u8]) -> Option<Parts<'_>> {
    let digits = name.iter().take(DIGITS + 2).take_while(|byte| byte.is_ascii_digit()).count();
    if !(DIGITS..=DIGITS + 1).contains(&digits) {
        return None;
    }
    let (digits, rest) = name.split_at(digits);
    // 16 digits cannot overflow.
    let seq = digits[digits.len() - DIGITS..].iter().fold(0, |seq, digit| seq * 10 + u64::from(digit - b'0'));
    let (delivery, rest) = match rest {
        [b'.', rest @ ..] => {
            let (delivery, rest) = rest.split_at_checked(delivery::LENGTH)?;
            (Some(Delivery::parse(delivery)?), rest)
        }
        rest => (None, rest),
    };
    match rest {
        [] => Some((seq, delivery, None)),
        [b'-', name @ ..] => Some((seq, delivery, Some(name))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LARGEST: u64 = 9_999_999_999_999_999;

    #[test]
    fn what_is_staged_has_a_name_that_is_nobody_elses() {
        let name = staged_name(0xabc << 64 | 7);
        assert_eq!(name.len(), 36);
        assert!(is_staged(name.as_bytes()) && is_staged(format!(".{name}").as_bytes()));
        for other in
            [format!("{name}0"), format!("..{name}"), name.replace('7', "g"), name.to_uppercase(), "put-".into()]
        {
            assert!(!is_staged(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn names_are_told_apart() {
        assert_eq!(classify(b".mq"), Name::Control);
        for draft in [&b".a.csv"[..], b".mqx", b".", b".0000000000000042-a"] {
            assert_eq!(classify(draft), Name::Draft(draft));
        }
        assert_eq!(classify(b"0000000000000042"), Name::Sequence { seq: 42, delivery: None, name: None });
        assert_eq!(
            classify(b"0000000000000042-a.csv"),
            Name::Sequence { seq: 42, delivery: None, name: Some(b"a.csv") }
        );
        assert_eq!(classify(b"0000000000000042-"), Name::Sequence { seq: 42, delivery: None, name: Some(b"") });
        assert_eq!(classify(b"0000000000000042-.mq"), Name::Sequence { seq: 42, delivery: None, name: Some(b".mq") });
        assert_eq!(classify(b"70000000000000042-a"), Name::Sequence { seq: 42, delivery: None, name: Some(b"a") });
        assert_eq!(classify(b"00000000000000042"), Name::Sequence { seq: 42, delivery: None, name: None });
        assert_eq!(classify(b"9999999999999999"), Name::Sequence { seq: LARGEST, delivery: None, name: None });
        for plain in [
            &b"a.csv"[..],
            b"",
            b"mq",
            b"42",
            b"42-a",
            b"000000000000042-a",
            b"000000000000000042-a",
            b"000000000000000042",
            b"0000000000000042a",
            b"000000000000004x-a",
            b"+000000000000042-a",
            b" 000000000000042",
            b"\xff\xfe",
        ] {
            assert_eq!(classify(plain), Name::Plain(plain));
        }
    }

    #[test]
    fn listed_names_carry_the_producers_name_if_there_is_one() {
        assert_eq!(listed(None, 42, b"a.csv"), b"0000000000000042-a.csv");
        assert_eq!(listed(None, 42, b""), b"0000000000000042");
        assert_eq!(listed(Some(3), 42, b"a.csv"), b"30000000000000042-a.csv");
        assert_eq!(listed(None, LARGEST, b"a"), b"9999999999999999-a");
    }

    #[test]
    fn names_of_deliveries_are_told_apart() {
        let delivery = Delivery::of(33);
        let name = |name| Name::Sequence { seq: 42, delivery: Some(delivery), name };
        assert_eq!(classify(b"0000000000000042.0000000011"), name(None));
        assert_eq!(classify(b"0000000000000042.0000000011-a.csv"), name(Some(b"a.csv")));
        assert_eq!(classify(b"30000000000000042.0000000011-a"), name(Some(b"a")));
        for plain in ["0000000000000042.", "0000000000000042.000000001-a", "0000000000000042.0000000011a"] {
            assert_eq!(classify(plain.as_bytes()), Name::Plain(plain.as_bytes()));
        }
        assert_eq!(stripped(b"0000000000000042.0000000011-a.csv", |_| true), b"a.csv");
        assert_eq!(stripped(b"0000000000000042.0000000011", |_| true), b"");
        assert_eq!(undelivered(b"30000000000000042.0000000011-a"), b"30000000000000042-a");
        assert_eq!(undelivered(b"0000000000000042.0000000011"), b"0000000000000042");
        assert_eq!(undelivered(b"0000000000000042-a.0000000011"), b"0000000000000042-a.0000000011");
        let written = |order, name: Option<&[u8]>| delivered(order, 42, delivery, name);
        assert_eq!(written(None, Some(b"a.csv")), b"0000000000000042.0000000011-a.csv");
        assert_eq!(written(Some(3), Some(b"a")), b"30000000000000042.0000000011-a");
        for alone in [None, Some(&b""[..]), Some(b"a\nb"), Some(&[b'x'; 228])] {
            assert_eq!(written(None, alone), b"0000000000000042.0000000011");
        }
        assert_eq!(written(None, Some(&[b'x'; 227])).len(), 255);
    }

    #[test]
    fn a_name_as_long_as_allowed_is_listed_in_255_bytes() {
        assert_eq!(MAX_NAME, 238);
        let longest = [b'x'; MAX_NAME];
        assert!(check_producer_name(&longest, false).is_ok());
        assert!(check_producer_name(b"", false).is_ok());
        assert!(matches!(check_producer_name(&longest, true), Err(Error::NameTooLong)));
        assert!(check_producer_name(&longest[1..], true).is_ok());
        assert_eq!(listed(Some(9), LARGEST, &longest[1..]).len(), 255);
        assert_eq!(listed(None, LARGEST, &longest).len(), 255);
        assert!(matches!(check_producer_name(&[b'x'; MAX_NAME + 1], false), Err(Error::NameTooLong)));
    }

    #[test]
    fn prefixes_are_stripped_however_many() {
        let stripped = |name: &'static [u8]| stripped(name, |_| true);
        assert_eq!(stripped(b"a.csv"), b"a.csv");
        assert_eq!(stripped(b".a.csv"), b".a.csv");
        assert_eq!(stripped(b"0000000000000042-a.csv"), b"a.csv");
        assert_eq!(stripped(b"0000000000000042-0000000000000007-a"), b"a");
        assert_eq!(stripped(b"0000000000000042"), b"");
        assert_eq!(stripped(b"0000000000000042-"), b"");
        assert_eq!(stripped(b"0000000000000042-0000000000000007"), b"");
        assert_eq!(stripped(b"0000000000000042-42-a"), b"42-a");
        assert_eq!(stripped(b""), b"");
    }

    #[test]
    fn digits_that_are_no_messages_number_are_a_name() {
        let given = |seq: u64| seq < 43;
        assert_eq!(classify_given(b"0000000000000042", given), Name::Sequence { seq: 42, delivery: None, name: None });
        assert_eq!(classify_given(b"0000000000000043", given), Name::Plain(b"0000000000000043"));
        assert_eq!(classify_given(b"70000000000000043", given), Name::Plain(b"70000000000000043"));
        let named = Name::Sequence { seq: 43, delivery: None, name: Some(b"a") };
        assert_eq!(classify_given(b"0000000000000043-a", given), named);
        assert_eq!(classify_given(b".mq", given), Name::Control);
        assert_eq!(stripped(b"0000000000000042-1795873109887454", given), b"1795873109887454");
        assert_eq!(stripped(b"1795873109887454", given), b"1795873109887454");
        assert_eq!(stripped(b"0000000000000042", given), b"");
        assert_eq!(stripped(b"0000000000000043-a", given), b"a");
    }

    proptest! {
        #[test]
        fn what_is_listed_is_classified_back(seq in 0..=LARGEST, name: Vec<u8>) {
            let expected = Name::Sequence { seq, delivery: None, name: (!name.is_empty()).then_some(&name[..]) };
            let listed = listed(None, seq, &name);
            prop_assert_eq!(classify(&listed), expected);
        }

        #[test]
        fn what_is_stripped_is_the_producers_name_and_stays_as_it_is(seq in 0..=LARGEST, name: Vec<u8>) {
            let given = |seq: u64| seq.is_multiple_of(2);
            let bare = stripped(&name, given);
            prop_assert_eq!(stripped(bare, given), bare);
            let listed = listed(None, seq, &name);
            if !name.is_empty() {
                prop_assert_eq!(stripped(&listed, given), bare);
            }
        }

        #[test]
        fn listed_names_sort_as_their_numbers(a in 0..=LARGEST, b in 0..=LARGEST, x: Vec<u8>, y: Vec<u8>) {
            prop_assume!(a != b);
            prop_assert_eq!(listed(None, a, &x).cmp(&listed(None, b, &y)), a.cmp(&b));
        }
    }
}
