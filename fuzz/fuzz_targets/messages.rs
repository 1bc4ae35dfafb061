#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| commissary_fuzz::messages::run(bytes, &mut Default::default()));
