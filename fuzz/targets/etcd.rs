#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| callboard::fuzz::run("etcd", input));
