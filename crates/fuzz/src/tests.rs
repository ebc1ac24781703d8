//! Replays each corpus, and seeded mutations of it.

use super::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// One to four edits: bytes flipped, cut out, doubled, set to extreme values, or replaced by words of the grammar.
fn edited(random: &mut Rng, seed: &[u8], words: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.usize(0..4) {
        let at = random.usize(0..bytes.len().max(1));
        let end = (at + 1 + random.usize(0..12)).min(bytes.len());
        match random.usize(0..6) {
            0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (at % 8)),
            1 => drop(bytes.drain(at.min(end)..end)),
            2 => drop(bytes.splice(at.min(end)..at.min(end), seed[at.min(seed.len())..end.min(seed.len())].to_vec())),
            3 => bytes.iter_mut().take(end).skip(at).for_each(|byte| *byte = 0xff),
            4 => bytes.truncate(at),
            _ if words.is_empty() => {}
            _ => drop(bytes.splice(at.min(end)..end, words[random.usize(0..words.len())].iter().copied())),
        }
    }
    bytes
}

/// The words of a dictionary in libFuzzer's format: `"..."` with `\xNN`, `\\` and `\"`.
fn dictionary(target: &str) -> Vec<Vec<u8>> {
    let text = std::fs::read_to_string(folder("dictionaries").join(format!("{target}.dict"))).unwrap_or_default();
    let word = |line: &str| {
        let mut rest = line.trim().strip_prefix('"').unwrap().strip_suffix('"').unwrap().bytes();
        let mut word = Vec::new();
        while let Some(byte) = rest.next() {
            word.push(match byte {
                b'\\' => match rest.next().unwrap() {
                    b'x' => {
                        let digits = [rest.next().unwrap(), rest.next().unwrap()];
                        u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                    }
                    other => other,
                },
                other => other,
            });
        }
        word
    };
    text.lines().filter(|line| line.starts_with('"')).map(word).collect()
}

/// Calls a target with every file of its corpus and with `rounds` damaged copies of them: half by edits of bytes, half by its mutator. Some
/// must be accepted and some refused: otherwise the corpus or the damage tests nothing.
fn replay(target: &Target, rounds: usize) {
    let name = target.name;
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder("corpus").join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let corpus: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let whole: Vec<bool> = corpus.iter().map(|input| target.check(input)).collect();
    assert!(whole.contains(&true) && whole.contains(&false), "the corpus of {name} has only one kind of input");
    let (words, mut random) = (dictionary(name), Rng::with_seed(0x5eed));
    // Half of the rounds damage accepted inputs: they get furthest into the parser.
    let sound: Vec<&Vec<u8>> = corpus.iter().zip(&whole).filter_map(|(input, accepted)| accepted.then_some(input)).collect();
    let accepted = (0..rounds)
        .filter(|round| {
            let seed = if round % 2 == 0 { &corpus[random.usize(0..corpus.len())] } else { sound[random.usize(0..sound.len())] };
            let mut input = seed.clone();
            if round % 4 < 2 || !(target.mutate)(&mut input, &mut random) {
                input = edited(&mut random, seed, &words);
            }
            target.check(&input)
        })
        .count();
    assert!(accepted > 0 && accepted < rounds, "{accepted} of {rounds} damaged inputs of {name} are accepted");
}

macro_rules! replays {
    ($($name:ident: $target:ident, $rounds:expr;)*) => {
        $(
            #[test]
            fn $name() {
                replay(&$target, $rounds);
            }
        )*
        /// Targets with a test.
        const REPLAYED: &[&str] = &[$($target.name),*];
    };
}

replays! {
    answers: ANSWER, 10_000;
    archives: ARCHIVE, 4_000;
    checkpoints: CHECKPOINT, 200;
    configurations: CONFIG, 5_000;
    data_files: EVAL, 5_000;
    forms: FORM, 400;
    listings: LISTING, 5_000;
    manifests: MANIFEST, 2_000;
    pickles: PICKLE, 5_000;
    pictures: PICTURE, 3_000;
    prompts: PROMPT, 3_000;
    safetensors_headers: SAFETENSORS, 5_000;
    tokenizers: TOKENIZER, 1_000;
    videos: VIDEO, 5_000;
    vocabularies: VOCABULARY, 4_000;
}

/// `targets.json` is the list for `cargo xtask fuzz`.
#[test]
fn the_list_is_that_of_the_targets() {
    let listed: BTreeMap<String, usize> = serde_json::from_str(include_str!("../targets.json")).unwrap();
    assert_eq!(listed, TARGETS.iter().map(|target| (target.name.to_owned(), target.max_len)).collect());
    assert!(listed.keys().all(|name| REPLAYED.contains(&name.as_str())), "{listed:?} and {REPLAYED:?}");
    for name in listed.keys() {
        assert!(folder("libfuzzer/src/bin").join(format!("{name}.rs")).is_file(), "{name} has no program");
    }
}

/// The corpus has the pickle of the fixture, which PyTorch wrote.
#[test]
fn the_corpus_has_a_real_pickle() {
    let archive = std::fs::read(folder("../../tests/fixtures/checkpoints/mini-a/pytorch_model-00003-of-00003.bin")).unwrap();
    let real = std::fs::read(folder("corpus/pickle/mini-a")).unwrap();
    assert!(archive.windows(real.len()).any(|bytes| bytes == real));
}
