//! A log file that can be opened anew, for those who rotate it.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// An open log file.
///
/// Its descriptor's number stays the same for good: another file takes it over in one step of the kernel's (dup3), so writers
/// need no lock, and no line goes to neither.
#[derive(Debug)]
pub struct LogFile {
    /// Absolute: the process goes to another directory.
    path: PathBuf,
    file: File,
}

impl LogFile {
    /// Opens a file to append to; it is made when it is not there, for nobody else to read: names of all users' messages are in it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        Ok(Self { path: std::path::absolute(path)?, file })
    }

    /// Where it is, or will be when it is opened anew.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens what is at its path now, and writes there from now on. What is made has the mode of the file before. When it
    /// fails, the file stays the one it was.
    pub fn reopen(&self) -> io::Result<()> {
        let mode = self.file.metadata()?.permissions().mode() & 0o777;
        let open = |new: bool| {
            let mut options = OpenOptions::new();
            // What blocks is no log file: a pipe that nobody reads would hold up the thread that handles signals.
            options.append(true).create_new(new).mode(mode).custom_flags(libc::O_NONBLOCK);
            options.open(&self.path)
        };
        let file = match open(false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = open(true)?;
                // Whatever the user mask takes from it.
                made.set_permissions(Permissions::from_mode(mode))?;
                made
            }
            opened => opened?,
        };
        let flags = rustix::fs::fcntl_getfl(&file)?;
        rustix::fs::fcntl_setfl(&file, flags - rustix::fs::OFlags::NONBLOCK)?;
        // SAFETY: the number is the file's for as long as this lives, and is given back at once.
        let mut own = unsafe { OwnedFd::from_raw_fd(self.file.as_raw_fd()) };
        let replaced = rustix::io::dup3(&file, &mut own, rustix::io::DupFlags::CLOEXEC);
        let _ = own.into_raw_fd();
        Ok(replaced?)
    }
}

impl AsFd for LogFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Write for &LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        (&self.file).write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_away_is_made_anew_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
        let log = LogFile::open(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let write = |text: &str| (&log).write_all(text.as_bytes()).unwrap();
        write("a\n");
        std::fs::rename(&path, &moved).unwrap();
        write("b\n");
        log.reopen().unwrap();
        write("c\n");
        log.reopen().unwrap();
        write("d\n");
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!((text(&moved).as_str(), text(&path).as_str()), ("a\nb\n", "c\nd\n"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(log.reopen().is_err());
        write("still\n");
    }
}
