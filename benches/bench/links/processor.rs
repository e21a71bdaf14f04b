//! What processes take of the processors. On a busy machine it says more than the time that passes.

use std::fs;

use crate::Failure;

/// How many seconds of a processor these have taken, by what the scheduler has counted for each of their threads: /proc/PID/stat
/// counts in hundredths of a second, in which a link without work may take nothing for long.
pub fn taken(processes: &[u32]) -> Result<f64, Failure> {
    let mut nanoseconds = 0;
    for process in processes {
        for task in fs::read_dir(format!("/proc/{process}/task"))? {
            let counted = fs::read_to_string(task?.path().join("schedstat"))?;
            nanoseconds += counted.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
    }
    Ok(nanoseconds as f64 / 1e9)
}
