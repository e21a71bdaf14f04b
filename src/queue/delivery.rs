//! The identity of a delivery: what tells one claim of a message from every other claim of it.

use serde::{Deserialize, Serialize};

/// Which delivery of a message a claim is. It is random and not a count, because redriving a message begins its count anew and a
/// restored backup repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Delivery(u64);

/// Digits and letters that are not taken for one another.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A delivery is written in so many characters, of five bits each.
pub const LENGTH: usize = 10;

impl Delivery {
    /// The delivery that these bits, random ones for a new delivery, stand for: as many of them as are written.
    pub fn of(bits: u64) -> Self {
        Self(bits & ((1 << (5 * LENGTH)) - 1))
    }

    /// What [`Delivery::of`] makes it from.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// As it is written in paths.
    pub fn text(self) -> String {
        (0..LENGTH).rev().map(|at| char::from(ALPHABET[(self.0 >> (5 * at)) as usize & 31])).collect()
    }

    /// What [`Delivery::text`] wrote, if it did.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let digit = |byte: &u8| ALPHABET.iter().position(|known| known == byte);
        let add = |bits: u64, byte: &u8| Some(bits << 5 | digit(byte)? as u64);
        (text.len() == LENGTH).then(|| text.iter().try_fold(0, add)).flatten().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for bits in [0, 1, 31, 32, 0x1234_5678_9abc_def0, u64::MAX] {
            let delivery = Delivery::of(bits);
            let text = delivery.text();
            assert_eq!((text.len(), Delivery::parse(text.as_bytes())), (LENGTH, Some(delivery)), "{text}");
        }
        assert_eq!(Delivery::of(33).text(), "0000000011");
        for other in ["", "000000001", "00000000011", "000000000i", "000000000A", "000000000-"] {
            assert_eq!(Delivery::parse(other.as_bytes()), None, "{other}");
        }
    }
}
