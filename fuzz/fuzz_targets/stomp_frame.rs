#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| mqfs_fuzz::check(mqfs_fuzz::properties::stomp_frame, input));
