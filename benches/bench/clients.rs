//! Starting clients together and timing them.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::Failure;
use crate::client::{BODY, Work};
use crate::scratch::Scratch;

/// What a group of clients did.
#[derive(Clone, Copy)]
pub struct Sample {
    /// Operations of all clients together.
    pub operations: u64,
    /// From the first client's begin to the last one's end.
    pub seconds: f64,
}

impl Sample {
    /// Operations in a second.
    pub fn rate(self) -> f64 {
        self.operations as f64 / self.seconds
    }
}

/// A started client. It is killed and reaped if it is dropped before it was waited for.
struct Client {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Has `clients` clients do `work` in `dir`, `each` times each.
pub fn run(scratch: &Scratch, work: Work, dir: &Path, clients: u32, each: u64) -> Result<Sample, Failure> {
    start(scratch, work, dir, clients, each, &[], BODY)
}

/// Has one client do `work` in `dir`, `count` times, with messages of `bytes`.
pub fn one(scratch: &Scratch, work: Work, dir: &Path, count: u64, bytes: usize) -> Result<Sample, Failure> {
    start(scratch, work, dir, 1, count, &[], bytes)
}

/// Has `clients` clients consume `names`, every name once.
pub fn consume(scratch: &Scratch, dir: &Path, clients: u32, names: &[OsString]) -> Result<Sample, Failure> {
    start(scratch, Work::Consume, dir, clients, names.len() as u64 / u64::from(clients), names, BODY)
}

fn start(
    scratch: &Scratch,
    work: Work,
    dir: &Path,
    clients: u32,
    each: u64,
    names: &[OsString],
    bytes: usize,
) -> Result<Sample, Failure> {
    scratch.check()?;
    scratch.settle()?;
    let mut running = Vec::new();
    for number in 0..clients {
        let mut client = Client::spawn(work, dir, number, each, bytes)?;
        // Neighbours in the listing go to different clients, as they would in real life.
        for name in names.iter().skip(number as usize).step_by(clients as usize).take(each as usize) {
            client.input.write_all(name.as_bytes())?;
            client.input.write_all(b"\n")?;
        }
        client.input.flush()?;
        running.push(client);
    }
    for client in &mut running {
        client.line()?;
    }
    for client in &mut running {
        client.input.write_all(b"go\n")?;
    }
    let mut began = u64::MAX;
    let mut ended = 0_u64;
    for client in &mut running {
        let line = client.line().map_err(|failure| scratch.check().err().unwrap_or(failure))?;
        let (first, last) = line.trim_end().split_once(' ').ok_or("a client spoke nonsense")?;
        began = began.min(first.parse()?);
        ended = ended.max(last.parse()?);
    }
    let seconds = ended.saturating_sub(began).max(1) as f64 / 1e9;
    Ok(Sample { operations: each * u64::from(clients), seconds })
}

impl Client {
    fn spawn(work: Work, dir: &Path, number: u32, each: u64, bytes: usize) -> Result<Client, Failure> {
        let work = clap::ValueEnum::to_possible_value(&work).ok_or("no such work")?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["client", work.get_name()])
            .arg(dir)
            .args([format!("p{number}"), each.to_string(), bytes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().ok_or("no standard input")?;
        let output = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        Ok(Client { child, input, output })
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err("a client failed".into()),
            _ => Ok(line),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A client that printed its line is about to end; one that did not is stuck or useless.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
