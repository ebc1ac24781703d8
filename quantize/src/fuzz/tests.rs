//! Replays each corpus of `quantize/fuzz`, and seeded mutations of it.

use super::*;
use crate::source::{Dtype, Files, Source, matrix_of};
use fastrand::Rng;
use qwen_vl_format::Family;
use std::path::{Path, PathBuf};

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// One to four edits: bytes flipped, cut out, doubled, set to extreme values, or replaced by words of the grammar.
fn mutate(random: &mut Rng, seed: &[u8], words: &[Vec<u8>]) -> Vec<u8> {
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
            _ => drop(bytes.splice(at.min(end)..end, words[random.usize(0..words.len())].iter().copied())),
        }
    }
    bytes
}

/// The words of a dictionary in libFuzzer's format: `"..."` with `\xNN`, `\\` and `\"`.
fn dictionary(target: &str) -> Vec<Vec<u8>> {
    let path = folder("fuzz/dictionaries").join(format!("{target}.dict"));
    let text = std::fs::read_to_string(&path).unwrap();
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

/// Calls a target with every file of its corpus and with `rounds` damaged copies of them. Some must be accepted and some refused:
/// otherwise the corpus or the damage tests nothing.
fn short_run(target: &str, rounds: usize, call: impl Fn(&[u8]) -> bool) {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder("fuzz/corpus").join(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let corpus: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let whole: Vec<bool> = corpus.iter().map(|bytes| call(bytes)).collect();
    assert!(whole.contains(&true) && whole.contains(&false), "the corpus of {target} has only one kind of input");
    let (words, mut random) = (dictionary(target), Rng::with_seed(0x5eed));
    // Half of the rounds damage accepted inputs: they get furthest into the parser.
    let sound: Vec<&Vec<u8>> = corpus.iter().zip(&whole).filter_map(|(bytes, accepted)| accepted.then_some(bytes)).collect();
    let accepted = (0..rounds)
        .filter(|round| {
            let seed = if round % 2 == 0 { &corpus[random.usize(0..corpus.len())] } else { sound[random.usize(0..sound.len())] };
            call(&mutate(&mut random, seed, &words))
        })
        .count();
    assert!(accepted > 0 && accepted < rounds, "{accepted} of {rounds} damaged inputs of {target} are accepted");
}

#[test]
fn safetensors_headers() {
    short_run("safetensors", 5_000, safetensors_header);
}

#[test]
fn pickles() {
    short_run("pickle", 10_000, pickle);
}

#[test]
fn vocabularies() {
    short_run("tiktoken", 5_000, vocabulary);
}

#[test]
fn manifests() {
    short_run("manifest", 3_000, manifest);
}

#[test]
fn configurations() {
    short_run("config", 5_000, config);
}

#[test]
fn tokenizers() {
    short_run("tokenizer", 2_000, tokenizer);
}

/// Whole files: the archive's directory, the pickle in it, and the tensors at the places that they name.
#[test]
fn torch_archives() {
    let seed = std::fs::read(folder("../tests/fixtures/checkpoints/mini-a/pytorch_model-00003-of-00003.bin")).unwrap();
    let words = [b"PK\x05\x06".to_vec(), b"PK\x01\x02".to_vec(), vec![0xff; 4], vec![0; 2], b"K\xff".to_vec()];
    let mut random = Rng::with_seed(3);
    let (mut opened, mut refused) = (0, 0);
    // Damage near the ends, where the pickle and the directory are: the middle is weights.
    for round in 0..600 {
        let (begin, end) = if round % 2 == 0 { (0, 2500) } else { (seed.len() - 2500, seed.len()) };
        let damaged = [&seed[..begin], &mutate(&mut random, &seed[begin..end], &words), &seed[end..]].concat();
        match Source::open(&Files::in_memory([("pytorch_model.bin", &damaged[..])]), Family::QwenVl) {
            Ok(source) => {
                opened += 1;
                for name in source.names() {
                    let tensor = source.get(name).unwrap();
                    // A conversion reads tensors of the configuration's shapes only, which are not larger.
                    let count = tensor.shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
                    if count.is_some_and(|count| count < 1 << 20) {
                        let (rows, cols) = matrix_of(&tensor.shape);
                        let _ = source.read_floats(name, 0..rows, 0..cols);
                    }
                }
            }
            Err(_) => refused += 1,
        }
    }
    assert!(opened > 20 && refused > 20, "{opened} opened, {refused} refused");
}

/// The corpus has the pickle of the fixture, which PyTorch wrote.
#[test]
fn the_corpus_has_a_real_pickle() {
    let bytes = std::fs::read(folder("../tests/fixtures/checkpoints/mini-a/pytorch_model-00003-of-00003.bin")).unwrap();
    let files = Files::in_memory([("model.bin", &bytes[..])]);
    let file = files.find("model.bin").unwrap();
    let entry = zip::read_directory(file).unwrap().into_iter().find(|(name, _)| name.ends_with("data.pkl")).unwrap().1;
    let real = file.read_vec(entry.offset, entry.len as usize).unwrap();
    assert_eq!(std::fs::read(folder("fuzz/corpus/pickle/mini-a")).unwrap(), real);
}

/// Positions whose sums exceed u64, which random damage rarely makes.
#[test]
fn positions_near_the_end_of_numbers() {
    let header = br#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[18446744073709551615,8]}}"#;
    let error = safetensors::parse_header(header, 100, 200, 0).expect_err("the tensor ends before it begins");
    assert!(format!("{error:#}").contains("`a`"), "{error:#}");

    let storage = zip::Entry { offset: 100, len: 64 };
    let view = |offset: usize, shape: &[usize], strides: &[usize]| {
        let tensor = pickle::PickledTensor {
            name: "a".into(),
            storage: "0".into(),
            dtype: Dtype::F32,
            offset,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
        };
        place(tensor, storage, 0)
    };
    let huge = i64::MAX as usize;
    assert!(view(0, &[4, 4], &[4, 1]).is_ok() && view(8, &[2, 4], &[4, 1]).is_ok() && view(16, &[0], &[1]).is_ok());
    for (offset, shape, strides) in [
        (huge, vec![0], vec![1]),
        (huge, vec![], vec![]),
        (1, vec![4, 4], vec![4, 1]),
        (0, vec![huge, huge], vec![1, 1]),
        (0, vec![2, 2], vec![huge, huge]),
        (17, vec![0], vec![1]),
    ] {
        assert!(view(offset, &shape, &strides).is_err(), "{offset} {shape:?} {strides:?}");
    }
}
