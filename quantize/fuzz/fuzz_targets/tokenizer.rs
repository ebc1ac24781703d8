#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    quantize::fuzz::tokenizer(bytes);
});
