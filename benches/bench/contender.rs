//! Contenders and their turns.

use crate::Failure;
use crate::clients::Sample;
use crate::report::Series;

/// One turn of one contender: its index and the round.
pub type Turn<'a> = &'a mut dyn FnMut(usize, u32) -> Result<Sample, Failure>;

/// Gives every contender its turn in a round, in an order that changes from round to round.
pub fn take_turns(series: &mut [Series], round: u32, turn: Turn<'_>) -> Result<(), Failure> {
    let count = series.len();
    for place in 0..count {
        let index = (place + round as usize) % count;
        let sample = turn(index, round)?;
        series[index].rates.push(sample.rate());
    }
    Ok(())
}
