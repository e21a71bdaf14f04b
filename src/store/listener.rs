//! RocksDB's call when something of its own work fails. The binding offers its functions, but no call back; so this is the C
//! interface.

use std::ffi::{CStr, c_char, c_void};

use librocksdb_sys as ffi;
use rocksdb::{AsRawPtr, Options};

/// What RocksDB was doing: the number of compactions among `BackgroundErrorReason`.
pub const COMPACTION: u32 = 1;

/// Told of an error: what RocksDB was doing, and its text. Answers whether it is one. It runs on any thread, also on one that
/// is within a write.
pub type Told = Box<dyn Fn(u32, &str) -> Verdict + Send + Sync>;

/// What is to become of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is an error: it stops, and goes on by itself if it can.
    Error,
    /// It is none.
    Nothing,
}

/// Has `told` called by the database that is opened with these options.
pub fn listen(options: &Options, told: Told) {
    let state = Box::into_raw(Box::new(told)).cast::<c_void>();
    // SAFETY: `state` lives until `forget` gets it back, when the last of the options and the database that share the
    // listener is gone. RocksDB calls every function without asking whether it is there, so all of them are. The options are
    // valid, and take the listener over.
    unsafe {
        let listener = ffi::rocksdb_eventlistener_create(
            state,
            Some(forget),
            Some(of_database),
            Some(of_database),
            Some(of_database),
            Some(of_database),
            Some(of_file),
            Some(of_file),
            Some(of_database),
            Some(failed),
            Some(of_file),
            Some(of_file),
        );
        ffi::rocksdb_options_add_eventlistener(options.as_raw_ptr(), listener);
    }
}

/// Nothing to do.
unsafe extern "C" fn of_database<T>(_: *mut c_void, _: *mut ffi::rocksdb_t, _: *const T) {}

/// Nothing to do.
unsafe extern "C" fn of_file<T>(_: *mut c_void, _: *const T) {}

unsafe extern "C" fn forget(state: *mut c_void) {
    // SAFETY: this is what `listen` made, and the listener's last call.
    drop(unsafe { Box::from_raw(state.cast::<Told>()) });
}

unsafe extern "C" fn failed(state: *mut c_void, reason: u32, status: *mut ffi::rocksdb_status_ptr_t) {
    // SAFETY: what `listen` made, which lives as long as the listener.
    let told = unsafe { &*state.cast::<Told>() };
    let mut text: *mut c_char = std::ptr::null_mut();
    // SAFETY: both pointers are valid; the text is the caller's to free.
    unsafe { ffi::rocksdb_status_ptr_get_error(status, &raw mut text) };
    if text.is_null() {
        return;
    }
    // SAFETY: a text that ends with a null byte, freed once.
    let words = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: as above.
    unsafe { ffi::rocksdb_free(text.cast()) };
    if told(reason, &words) == Verdict::Nothing {
        // SAFETY: the status is RocksDB's own, and it looks at it again.
        unsafe { ffi::rocksdb_reset_status(status) };
    }
}
