//! The environment that the caller gave the process: it may hold secrets of other programs, and stays readable in
//! `/proc/PID/environ` for as long as the process lives.

use std::ffi::{CStr, c_char};

/// With this set, the process runs code that we do not know, which may read its settings there at any time.
const PRELOAD: &str = "LD_PRELOAD";
/// What starts programs needs it.
const PATH: &str = "PATH";

unsafe extern "C" {
    static mut environ: *mut *mut c_char;
}

/// Takes it away, except for `PATH`; all of it stays when a library was preloaded. To be called while the process has a
/// single thread.
pub fn clear() {
    if std::env::var_os(PRELOAD).is_some() {
        return;
    }
    let path = std::env::var_os(PATH);
    let given = variables();
    // SAFETY: no other thread reads or changes the environment. Its strings are no longer part of it when they are
    // overwritten, and what still points to one of them finds an empty string.
    unsafe {
        libc::clearenv();
        for (text, length) in given {
            std::ptr::write_bytes(text, 0, length);
        }
        if let Some(path) = path {
            std::env::set_var(PATH, path);
        }
    }
}

/// The strings of the environment, with their lengths.
fn variables() -> Vec<(*mut c_char, usize)> {
    let mut found = Vec::new();
    // SAFETY: `environ` is null, or an array of strings that ends with a null pointer; no other thread changes it.
    unsafe {
        let mut at = environ;
        while !at.is_null() && !(*at).is_null() {
            found.push((*at, CStr::from_ptr(*at).to_bytes().len()));
            at = at.add(1);
        }
    }
    found
}
