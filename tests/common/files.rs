//! Looking at names and extended attributes.

use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The names in a directory in the order of readdir, without `.` and `..`.
#[track_caller]
pub fn names(dir: impl AsRef<Path>) -> Vec<OsString> {
    let dir = dir.as_ref();
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

/// As [`names`], as text.
#[track_caller]
pub fn listing(dir: impl AsRef<Path>) -> Vec<String> {
    names(dir).iter().map(|name| name.to_string_lossy().into_owned()).collect()
}

/// As [`listing`], without the sequence numbers: the producers' names.
#[track_caller]
pub fn producers(dir: impl AsRef<Path>) -> Vec<String> {
    listing(dir).iter().map(|name| producer(name).to_owned()).collect()
}

/// The only entry of a directory, as a path.
#[track_caller]
pub fn only(dir: impl AsRef<Path>) -> PathBuf {
    let all = names(&dir);
    assert_eq!(all.len(), 1, "expected one entry: {all:?}");
    dir.as_ref().join(&all[0])
}

/// Every file below a directory of the store, with the bytes it takes on disk.
pub fn files_below(dir: impl AsRef<Path>) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut left = vec![dir.as_ref().to_owned()];
    while let Some(dir) = left.pop() {
        // What vanishes meanwhile is not there.
        for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => left.push(path),
                Ok(meta) => found.push((path, meta.blocks() * 512)),
                Err(_) => {}
            }
        }
    }
    found
}

/// The producer's part of a message name in sequence form (`0000000000000042-a.csv` is `a.csv`).
#[track_caller]
pub fn producer(name: &str) -> &str {
    let (number, rest) = name.split_at_checked(17).unwrap_or_else(|| panic!("{name:?} is not in sequence form"));
    let digits = number.bytes().take(16).all(|byte| byte.is_ascii_digit());
    assert!(digits && number.ends_with('-'), "{name:?} is not in sequence form");
    rest
}

/// The value of an extended attribute as text; `None` when it does not exist.
#[track_caller]
pub fn xattr(path: impl AsRef<Path>, name: &str) -> Option<String> {
    match try_xattr(&path, name) {
        Ok(value) => Some(String::from_utf8(value).unwrap()),
        Err(error) if error.raw_os_error() == Some(libc::ENODATA) => None,
        Err(error) => panic!("getxattr {} {name}: {error}", path.as_ref().display()),
    }
}

/// The value of an extended attribute, or why there is none.
pub fn try_xattr(path: impl AsRef<Path>, name: &str) -> io::Result<Vec<u8>> {
    let (path, name) = (c_string(path.as_ref().as_os_str().as_bytes()), c_string(name.as_bytes()));
    // SAFETY: valid strings, and a buffer of the length told.
    sized(|buffer| unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// Sets an extended attribute.
pub fn set_xattr(path: impl AsRef<Path>, name: &str, value: impl AsRef<[u8]>) -> io::Result<()> {
    let (path, name, value) =
        (c_string(path.as_ref().as_os_str().as_bytes()), c_string(name.as_bytes()), value.as_ref());
    // SAFETY: valid strings, and a buffer of the length told.
    match unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Removes an extended attribute.
pub fn remove_xattr(path: impl AsRef<Path>, name: &str) -> io::Result<()> {
    let (path, name) = (c_string(path.as_ref().as_os_str().as_bytes()), c_string(name.as_bytes()));
    // SAFETY: valid strings.
    match unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The names of all extended attributes.
#[track_caller]
pub fn xattrs(path: impl AsRef<Path>) -> Vec<String> {
    let path = c_string(path.as_ref().as_os_str().as_bytes());
    // SAFETY: a valid string, and a buffer of the length told.
    let list = sized(|buffer| unsafe { libc::listxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) });
    let list = list.expect("listxattr");
    let parts = list.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| String::from_utf8(part.to_vec()).unwrap()).collect()
}

/// The errno of a failed operation; fails the test when the operation succeeded.
#[track_caller]
pub fn errno<T>(result: io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("the operation should have failed"),
        Err(error) => error.raw_os_error().unwrap_or_else(|| panic!("no errno: {error}")),
    }
}

fn sized(mut call: impl FnMut(&mut [u8]) -> isize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 64 * 1024];
    match call(&mut buffer) {
        -1 => Err(io::Error::last_os_error()),
        length => {
            buffer.truncate(length as usize);
            Ok(buffer)
        }
    }
}

fn c_string(bytes: &[u8]) -> CString {
    CString::new(bytes).unwrap()
}
