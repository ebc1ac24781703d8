//! Parsers of untrusted files on thousands of damaged inputs: each must return, never panic, and never promise bytes beyond the file.

use crate::source::file::InputFile;
use crate::source::{Source, matrix_of, pickle, safetensors, zip};
use std::path::{Path, PathBuf};

fn checkpoint(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/checkpoints").join(name)
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as usize % bound.max(1)
    }

    /// One to four edits: bytes flipped, cut out, doubled, set to extreme values, or replaced by words of the grammar.
    fn mutate(&mut self, seed: &[u8], words: &[&[u8]]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let end = (at + 1 + self.below(12)).min(bytes.len());
            match self.below(6) {
                0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (at % 8)),
                1 => drop(bytes.drain(at..end)),
                2 => drop(bytes.splice(at..at, seed[at.min(seed.len())..end.min(seed.len())].to_vec())),
                3 => bytes.iter_mut().take(end).skip(at).for_each(|byte| *byte = 0xff),
                4 => bytes.truncate(at),
                _ => drop(bytes.splice(at..end, words[self.below(words.len())].iter().copied())),
            }
        }
        bytes
    }
}

#[test]
fn safetensors_headers() {
    let file = std::fs::read(checkpoint("mini-b").join("model-00002-of-00003.safetensors")).unwrap();
    let header_len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let words: [&[u8]; 9] =
        [b"0", b"-1", b"18446744073709551615", b"9223372036854775808", b"\"I64\"", b"\"F32\"", b"[]", b"null", b"\"data_offsets\":[8,4]"];
    let mut random = Random(1);
    let mut accepted = 0;
    for _ in 0..20_000 {
        let header = random.mutate(&file[8..8 + header_len], &words);
        let data_at = 8 + header.len() as u64;
        for (_, tensor) in safetensors::parse_header(&header, data_at, file.len() as u64, 0).unwrap_or_default() {
            assert!(tensor.offset <= file.len() as u64);
            accepted += 1;
        }
    }
    assert!(accepted > 0, "the damage is too heavy to test anything");
}

#[test]
fn pickles() {
    let path = checkpoint("mini-a").join("pytorch_model-00003-of-00003.bin");
    let file = InputFile::open(&path).unwrap();
    let entry = zip::read_directory(&file).unwrap().into_iter().find(|(name, _)| name.ends_with("data.pkl")).unwrap().1;
    let seed = file.read_vec(entry.offset, entry.len as usize).unwrap();
    let words: [&[u8]; 10] =
        [b"R", b"(", b"t", b"Q", b"cos\nsystem\n", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"J\xff\xff\xff\xff", b"h\x00", b"}", b"u"];
    let mut random = Random(2);
    let accepted = (0..20_000).filter(|_| pickle::read_state_dict(&random.mutate(&seed, &words)).is_ok()).count();
    assert!(accepted > 0, "the damage is too heavy to test anything");
}

/// Whole files: the archive's directory, the pickle in it, and tensors read where they claim to be.
#[test]
fn torch_archives() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    let seed = std::fs::read(checkpoint("mini-a").join("pytorch_model-00003-of-00003.bin")).unwrap();
    let words: [&[u8]; 5] = [b"PK\x05\x06", b"PK\x01\x02", b"\xff\xff\xff\xff", b"\x00\x00", b"K\xff"];
    let mut random = Random(3);
    let (mut opened, mut refused) = (0, 0);
    // Damage near the ends, where the pickle and the directory are: the middle is weights.
    for round in 0..600 {
        let (begin, end) = if round % 2 == 0 { (0, 2500) } else { (seed.len() - 2500, seed.len()) };
        let damaged = [&seed[..begin], &random.mutate(&seed[begin..end], &words), &seed[end..]].concat();
        std::fs::write(&path, damaged).unwrap();
        match Source::open(folder.path()) {
            Ok(source) => {
                opened += 1;
                for name in source.names() {
                    let tensor = source.get(name).unwrap();
                    // A conversion asks for the shapes of the configuration only; these are as large as theirs.
                    if tensor.shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size)).is_some_and(|count| count < 1 << 20)
                    {
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

#[test]
fn vocabularies() {
    let config = crate::read_config(&checkpoint("mini-a")).unwrap();
    let seed = std::fs::read(checkpoint("mini-a").join("qwen.tiktoken")).unwrap();
    let words: [&[u8]; 6] = [b"\n", b"\r\n", b" 7", b"\xff\xfe", b"99999999999999999999", b"===="];
    let mut random = Random(4);
    crate::convert::check_tokenizer(&config, &seed).unwrap();
    let refused = (0..3_000).filter(|_| crate::convert::check_tokenizer(&config, &random.mutate(&seed, &words)).is_err()).count();
    assert!(refused > 2_000, "{refused} refused");
}

/// Two that random damage rarely makes: positions whose sums leave u64.
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
            dtype: crate::source::Dtype::F32,
            storage_len: 16,
            offset,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
        };
        crate::source::place(tensor, storage, 0)
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
