//! The target `hello` as a program of libFuzzer.

#![forbid(unsafe_code)]
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blixt_fuzz::hello(data));
