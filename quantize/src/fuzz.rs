//! One function for each parser of untrusted files. Any bytes must give a result or an error: no panic, no overflow, no position outside
//! the file. The tests below and the targets in `quantize/fuzz` call them.

use crate::source::{pickle, place, safetensors, zip};
use qwen_vl_format::{Manifest, Vocabulary};

/// The JSON of a safetensors file's header. Returns true if it was accepted.
pub fn safetensors_header(bytes: &[u8]) -> bool {
    let data_at = 8 + bytes.len() as u64;
    let file_len = data_at + (1 << 20);
    let Ok(tensors) = safetensors::parse_header(bytes, data_at, file_len, 0) else { return false };
    for (name, tensor) in tensors {
        let elements = tensor.shape.iter().map(|size| *size as u64).product::<u64>();
        let end = tensor.dtype.size().map_or(tensor.offset, |size| tensor.offset + elements * size as u64);
        assert!(tensor.offset >= data_at && end <= file_len, "`{name}` is outside the file: {tensor:?}");
    }
    true
}

/// The pickle of a state dict, and its views placed in storages of 64 KiB. Returns true if it was accepted.
pub fn pickle(bytes: &[u8]) -> bool {
    let Ok(found) = pickle::read_state_dict(bytes) else { return false };
    let storage = zip::Entry { offset: 100, len: 1 << 16 };
    for tensor in found.tensors {
        let Ok(placed) = place(tensor, storage, 0) else { continue };
        let Some(strides) = placed.strides else { continue };
        if placed.dtype.size().is_some() && !placed.shape.contains(&0) {
            let last: usize = placed.shape.iter().zip(&strides).map(|(size, stride)| (size - 1) * stride).sum();
            let end = placed.offset + (last as u64 + 1) * placed.dtype.size().unwrap_or(1) as u64;
            assert!(end <= storage.offset + storage.len, "a view ends at byte {end}: {:?} {strides:?}", placed.shape);
        }
    }
    true
}

/// A vocabulary. Written in the strict form, it must read the same. Returns true if it was accepted.
pub fn vocabulary(bytes: &[u8]) -> bool {
    let Ok(vocabulary) = Vocabulary::parse(bytes) else { return false };
    let again = Vocabulary::parse(&vocabulary.to_bytes()).expect("an accepted vocabulary is accepted again");
    assert_eq!(again, vocabulary);
    true
}

/// A manifest. Written again, it must read the same. Returns true if it was accepted.
pub fn manifest(bytes: &[u8]) -> bool {
    let Some(manifest) = std::str::from_utf8(bytes).ok().and_then(|json| Manifest::from_json(json).ok()) else { return false };
    let json = serde_json::to_string(&manifest).expect("a manifest is JSON");
    let again = Manifest::from_json(&json).expect("an accepted manifest is accepted again");
    assert_eq!(serde_json::to_string(&again).expect("a manifest is JSON"), json);
    for entry in manifest.tensors.iter().flat_map(|tensor| &tensor.parts) {
        let end = entry.scales.map_or(entry.data[1], |scales| scales[1]);
        assert!(end <= manifest.shards[entry.shard].bytes);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::file::InputFile;
    use crate::source::{Dtype, Source, matrix_of};
    use std::path::{Path, PathBuf};

    fn folder(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
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
        fn mutate(&mut self, seed: &[u8], words: &[Vec<u8>]) -> Vec<u8> {
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
    /// else the corpus, or the damage, tests nothing.
    fn short_run(target: &str, rounds: usize, call: impl Fn(&[u8]) -> bool) {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(folder("fuzz/corpus").join(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let corpus: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
        let whole: Vec<bool> = corpus.iter().map(|bytes| call(bytes)).collect();
        assert!(whole.contains(&true) && whole.contains(&false), "the corpus of {target} has only one kind of input");
        let (words, mut random) = (dictionary(target), Random(0x5eed));
        // Half of the rounds damage what is accepted as it is: it gets furthest into the parser.
        let sound: Vec<&Vec<u8>> = corpus.iter().zip(&whole).filter_map(|(bytes, accepted)| accepted.then_some(bytes)).collect();
        let accepted = (0..rounds)
            .filter(|round| {
                let seed = if round % 2 == 0 { &corpus[random.below(corpus.len())] } else { sound[random.below(sound.len())] };
                call(&random.mutate(seed, &words))
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

    /// Whole files: the archive's directory, the pickle in it, and tensors read where they claim to be.
    #[test]
    fn torch_archives() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("pytorch_model.bin");
        let seed = std::fs::read(folder("../tests/fixtures/checkpoints/mini-a/pytorch_model-00003-of-00003.bin")).unwrap();
        let words = [b"PK\x05\x06".to_vec(), b"PK\x01\x02".to_vec(), vec![0xff; 4], vec![0; 2], b"K\xff".to_vec()];
        let mut random = Random(3);
        let (mut opened, mut refused) = (0, 0);
        // Damage near the ends, where the pickle and the directory are: the middle is weights.
        for round in 0..600 {
            let (begin, end) = if round % 2 == 0 { (0, 2500) } else { (seed.len() - 2500, seed.len()) };
            let damaged = [&seed[..begin], &random.mutate(&seed[begin..end], &words), &seed[end..]].concat();
            std::fs::write(&path, damaged).unwrap();
            match Source::open(temporary.path()) {
                Ok(source) => {
                    opened += 1;
                    for name in source.names() {
                        let tensor = source.get(name).unwrap();
                        // A conversion asks for the shapes of the configuration only; these are as large as theirs.
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

    /// The pickle of the corpus is that of the fixture, so that it stays what PyTorch writes.
    #[test]
    fn the_corpus_has_a_real_pickle() {
        let file = InputFile::open(&folder("../tests/fixtures/checkpoints/mini-a/pytorch_model-00003-of-00003.bin")).unwrap();
        let entry = zip::read_directory(&file).unwrap().into_iter().find(|(name, _)| name.ends_with("data.pkl")).unwrap().1;
        let real = file.read_vec(entry.offset, entry.len as usize).unwrap();
        assert_eq!(std::fs::read(folder("fuzz/corpus/pickle/mini-a")).unwrap(), real);
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
}
