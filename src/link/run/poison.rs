//! Messages that cannot be taken in, saved as files: body and what is known of it.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::Access;

use super::super::backoff::random;
use super::super::overflow;
use super::super::peer::{Came, Large};
use super::super::properties::header_of;
use super::super::settings::{Poison, Settings};
use super::super::trouble::{Kind, Trouble};
use crate::clock;

/// Whether messages can be saved, where that is asked for: before the first one comes that has to be.
pub fn check(settings: &Settings) -> Result<(), Trouble> {
    let Poison::Save(directory) = &settings.poison else { return Ok(()) };
    let wrong = |why: io::Error| Trouble::new(Kind::Local, format_args!("poison: {}: {why}", directory.display()));
    rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK).map_err(|errno| wrong(errno.into()))
}

/// Writes `NAME.body` and `NAME.json` into a directory, both on disk when it returns; gives NAME.
pub fn save(directory: &Path, came: &Came, why: &str) -> io::Result<String> {
    let envelope = &came.envelope;
    let name = format!("{}-{:08x}", clock::now_ms(), random() as u32);
    let mut told =
        vec![("why".to_owned(), why.as_bytes().to_vec()), ("id".to_owned(), envelope.id.clone().into_bytes())];
    told.extend(envelope.fields.iter().map(|(field, value)| (header_of(*field).to_owned(), value.clone())));
    told.extend(envelope.source.iter().map(|(name, value)| (format!("link.{name}"), value.clone())));
    told.extend(envelope.headers.iter().map(|(name, value)| (format!("header.{name}"), value.clone())));
    let body = directory.join(format!("{name}.body"));
    match &came.large {
        None => write(&body, &mut &envelope.body[..])?,
        Some(Large { file: Some(file), .. }) => {
            let mut file = file;
            file.rewind()?;
            write(&body, &mut file)?;
        }
        Some(Large { file: None, .. }) => return Err(io::Error::other("its body was not kept")),
    }
    write(&directory.join(format!("{name}.json")), &mut (overflow::render(&told) + "\n").as_bytes())?;
    File::open(directory)?.sync_all()?;
    Ok(name)
}

fn write(path: &Path, from: &mut dyn Read) -> io::Result<()> {
    // Who may not read the queue may not read what did not fit into it.
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    let written = io::copy(from, &mut file).and_then(|_| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}
