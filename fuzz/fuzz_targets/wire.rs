#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| commissary_fuzz::wire::run(bytes, &mut Default::default()));
