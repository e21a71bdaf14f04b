//! Durable enqueue against the spool idiom; and, to know what the kernel's protocol allows at most, against the server that
//! does nothing and has no disk.

use std::path::Path;

use crate::Failure;
use crate::about;
use crate::client::{self, Work};
use crate::clients;
use crate::contender::take_turns;
use crate::options::Options;
use crate::report::{Expected, Report, Series};
use crate::scratch::Scratch;
use crate::server::{Mqfs, Nothing};

/// Runs the part.
pub fn run(options: &Options, scratch: &Scratch, report: &mut Report) -> Result<(), Failure> {
    let mqfs = Mqfs::mount(options, scratch, "durable")?;
    let mut nothing = Nothing::mount(scratch, "no-disk")?;
    let kind = about::filesystem(scratch.path())?;
    let spool_label = format!("{} spool", kind.split(' ').next().unwrap_or("a"));
    for &producers in &options.producers {
        let each = options.count.unwrap_or(match producers {
            1 => 1000,
            2..=8 => 500,
            _ => 200,
        });
        let mut series = [Series::new("mqfs"), Series::new(&spool_label), Series::new("do-nothing, spinning, no disk")];
        for round in 0..options.rounds {
            take_turns(&mut series, round, &mut |index, round| {
                let name = format!("{producers}-{round}");
                if index == 2 {
                    nothing.spin(true)?;
                    let sample = clients::run(scratch, Work::Enqueue, &nothing.queue(), producers, each);
                    nothing.spin(false)?;
                    return sample;
                }
                let (work, dir) = match index {
                    0 => (Work::Enqueue, mqfs.queue(&name, "sync")?),
                    _ => (Work::Spool, scratch.directory(&format!("spool-{name}"))?),
                };
                let sample = clients::run(scratch, work, &dir, producers, each)?;
                complete(&dir, sample.operations)?;
                Ok(sample)
            })?;
        }
        let what = format!("durable enqueue, {producers} producer{}", if producers == 1 { "" } else { "s" });
        report.section(&what);
        let [ours, spool, limit] = &series;
        for contender in &series {
            report.rates(contender, producers);
        }
        report.ratio(&what, ours, spool, expected(producers));
        report.ratio(&what, ours, limit, None);
        report.ratio(&what, limit, spool, None);
    }
    mqfs.unmount()
}

/// How many times as fast as the spool mqfs is to be.
fn expected(producers: u32) -> Option<Expected> {
    match producers {
        1 => Some(Expected::AtLeast(1.3)),
        8 => Some(Expected::AtLeast(2.0)),
        _ => None,
    }
}

/// Whether everything that was written is there: a fast loss would not count.
fn complete(dir: &Path, written: u64) -> Result<(), Failure> {
    let found = client::list(dir)?.len() as u64;
    match found == written {
        true => Ok(()),
        false => Err(format!("{} holds {found} files of {written}", dir.display()).into()),
    }
}
