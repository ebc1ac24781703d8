//! The reader of vocabularies on the inputs of the fuzzer (`quantize/fuzz`) and on damaged copies: each must come back.

use qwen_vl_processor::Tokenizer;
use std::path::Path;

#[test]
fn damaged_vocabularies_come_back() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../quantize/fuzz/corpus/tiktoken");
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    // One with all bytes, as a model needs.
    paths.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/checkpoints/mini-a/qwen.tiktoken"));
    let mut state = 1u64;
    let mut below = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound.max(1)
    };
    let (mut accepted, mut refused) = (0, 0);
    for bytes in paths.iter().map(|path| std::fs::read(path).unwrap()) {
        let mut damaged = bytes.clone();
        for round in 0..40 {
            match Tokenizer::from_tiktoken(&damaged) {
                Ok(tokenizer) => {
                    accepted += 1;
                    assert!(tokenizer.token_bytes(0).is_some());
                }
                Err(_) => refused += 1,
            }
            // Cut, with a bit turned, or with a line put in.
            damaged.clone_from(&bytes);
            let at = below(damaged.len());
            match round % 3 {
                0 => damaged.truncate(at),
                1 => damaged.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (round % 8)),
                _ => drop(damaged.splice(at..at, b"\n= 99999999999999999999".iter().copied())),
            }
        }
    }
    assert!(accepted > 0 && refused > 0, "{accepted} accepted, {refused} refused");
}
