#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| commissary_fuzz::salvage::run(bytes, &mut Default::default()));
