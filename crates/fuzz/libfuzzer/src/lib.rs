//! The programs of the fuzz targets: each is a target of `qwen-vl-fuzz` under libFuzzer.

/// Makes the program of a target.
#[macro_export]
macro_rules! target {
    ($target:path) => {
        ::libfuzzer_sys::fuzz_target!(|input: &[u8]| {
            $target.check(input);
        });

        ::libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            let mutated = $target.mutated(data, size, max_size, seed);
            mutated.unwrap_or_else(|| ::libfuzzer_sys::fuzzer_mutate(data, size, max_size))
        });
    };
}
