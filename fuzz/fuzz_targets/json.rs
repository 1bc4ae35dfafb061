#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| commissary_fuzz::json::run(bytes, &mut Default::default()));
