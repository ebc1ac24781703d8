//! The reader of vocabularies on the inputs of the fuzzer (`crates/fuzz`) and on damaged copies: each returns or fails, and nothing panics.

use qwen_vl_processor::Tokenizer;
use std::path::Path;

#[test]
fn damaged_vocabularies_do_not_panic() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/tiktoken");
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    // A valid one.
    paths.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/checkpoints/mini-a/qwen.tiktoken"));
    assert!(paths.len() > 1, "no inputs in {}", folder.display());
    let mut random = fastrand::Rng::with_seed(1);
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
            // Cut off, with one bit flipped, or with a line inserted.
            damaged.clone_from(&bytes);
            let at = random.usize(..damaged.len().max(1));
            match round % 3 {
                0 => damaged.truncate(at),
                1 => damaged.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (round % 8)),
                _ => drop(damaged.splice(at..at, b"\n= 99999999999999999999".iter().copied())),
            }
        }
    }
    assert!(accepted > 0 && refused > 0, "{accepted} accepted, {refused} refused");
}
