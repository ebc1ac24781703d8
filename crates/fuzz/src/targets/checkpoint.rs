//! The files of a published checkpoint, which `quantize` reads.

use super::manifest::assert_same_bases;
use crate::Target;
use crate::mutate::archive::{self, Member};
use crate::mutate::{json, nothing};
use quantize::source::{Files, InputFile, ReadAt, Source};
use quantize::{ConversionRequest, RemoteConversion, RemoteFile, Step};
use qwen_vl_format::{Family, Manifest, ModelConfig, Vocabulary};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// The JSON of a safetensors header.
pub static SAFETENSORS: Target =
    Target { name: "safetensors", max_len: 4096, run: safetensors, mutate: json::mutate, memory: [4 << 20, 512] };

/// The pickle of a state dict.
pub static PICKLE: Target = Target { name: "pickle", max_len: 4096, run: pickle, mutate: nothing, memory: [4 << 20, 512] };

/// A file that `torch.save` wrote: the directory of its archive, the pickle in it, and the tensors at the places that they name.
pub static ARCHIVE: Target = Target { name: "archive", max_len: 8192, run: torch, mutate: archive::mutate, memory: [4 << 20, 512] };

/// A published `config.json` of any generation.
pub static CONFIG: Target = Target { name: "config", max_len: 4096, run: config, mutate: json::mutate, memory: [16 << 20, 256] };

/// A tokenizer of a later generation: an object of its files.
pub static TOKENIZER: Target =
    Target { name: "tokenizer", max_len: 12 << 10, run: tokenizer, mutate: json::mutate, memory: [2 << 20, 512] };

/// A checkpoint that is fetched range by range: an object of its files, of which `model.safetensors` has the header alone.
pub static CHECKPOINT: Target =
    Target { name: "checkpoint", max_len: 24 << 10, run: checkpoint, mutate: json::mutate, memory: [48 << 20, 2048] };

/// A file of which only the beginning is in memory. The rest is zeros. Reads outside of it break the promise of [`ReadAt`].
#[derive(Debug)]
struct Sparse {
    begin: Vec<u8>,
    len: u64,
}

impl ReadAt for Sparse {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        assert!(
            end.is_some_and(|end| end <= self.len),
            "{} bytes from byte {offset} on are outside the file of {}",
            buffer.len(),
            self.len
        );
        buffer.copy_from_slice(&self.read(offset..offset + buffer.len() as u64));
        Ok(())
    }

    fn announce(&self, ranges: &[Range<u64>]) {
        assert!(ranges.iter().all(|range| range.start < range.end && range.end <= self.len), "{ranges:?} of {} bytes", self.len);
    }
}

impl Sparse {
    fn read(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let known = usize::try_from(range.start).ok().and_then(|start| self.begin.get(start..)).unwrap_or_default();
        let count = known.len().min(bytes.len());
        bytes[..count].copy_from_slice(&known[..count]);
        bytes
    }
}

/// A folder with one file.
fn folder(name: &str, file: Sparse) -> Files {
    Files::new("fuzz", "the folder", [InputFile::new(name, name, file.len, "", Arc::new(file))], Vec::new())
}

/// Opens a file of weights and reads its tensors, except large ones: a conversion reads tensors of the configuration's shapes only.
fn read_tensors(files: &Files) -> bool {
    let Ok(source) = Source::open(files, Family::QwenVl) else { return false };
    for name in source.names() {
        let [rows, rest @ ..] = source.shape(name).expect("a listed tensor is there") else { continue };
        let columns = rest.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
        if let Some((columns, elements)) = columns.and_then(|columns| Some((columns, rows.checked_mul(columns)?)))
            && elements <= 1 << 12
        {
            // Scattered elements and other types are refused here.
            if let Ok(values) = source.read_floats(name, 0..*rows, 0..columns) {
                assert_eq!(values.len(), elements, "`{name}`");
            }
        }
    }
    true
}

/// Bytes behind a header.
const DATA: u64 = 1 << 23;

fn safetensors_file(header: &[u8]) -> Sparse {
    let begin = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    Sparse { len: begin.len() as u64 + DATA, begin }
}

fn safetensors(bytes: &[u8]) -> bool {
    read_tensors(&folder("model.safetensors", safetensors_file(bytes)))
}

fn pickle(bytes: &[u8]) -> bool {
    let storage = |name| Member::new(name, vec![0; 512]);
    let members = [Member::new("a/data.pkl", bytes.to_vec()), storage("a/data/0"), storage("a/data/1"), storage("a/data/2")];
    torch(&archive::write(&members))
}

fn torch(bytes: &[u8]) -> bool {
    read_tensors(&folder("pytorch_model.bin", Sparse { begin: bytes.to_vec(), len: bytes.len() as u64 }))
}

/// The tensors of an accepted configuration can be counted.
fn config(bytes: &[u8]) -> bool {
    let Some(config) = std::str::from_utf8(bytes).ok().and_then(|json| quantize::model_config(json).ok()) else { return false };
    let elements = |shape: &[usize]| shape.iter().map(|size| *size as u64).product::<u64>();
    let original: u64 = quantize::original_tensors(&config).iter().map(|(_, shape)| elements(shape)).sum();
    assert!(original > 0);
    let json = serde_json::to_string(&config).expect("a configuration is JSON");
    let mut again: ModelConfig = serde_json::from_str(&json).expect("our configuration is read as it is written");
    assert_same_bases(&mut again, &config);
    assert_eq!(again, config);
    true
}

/// Reads an object of files: texts as they are, and other values as JSON. Returns `None` if the input is not one.
fn files(bytes: &[u8]) -> Option<BTreeMap<String, Vec<u8>>> {
    let Ok(Value::Object(files)) = serde_json::from_slice(bytes) else { return None };
    let contents = |value: Value| match value {
        Value::String(text) => text.into_bytes(),
        value => value.to_string().into_bytes(),
    };
    Some(files.into_iter().map(|(name, value)| (name, contents(value))).collect())
}

/// A configuration for vocabularies of any size, which has the ids of the corpus.
fn later_config() -> ModelConfig {
    static JSON: &str = include_str!("../../corpus/config/q2-a");
    let mut config = quantize::model_config(JSON).expect("the corpus begins with a configuration that is accepted");
    config.image_token = 292;
    config.vision.video = config.vision.video.map(|video| qwen_vl_format::config::VideoConfig { token: 293, ..video });
    config
}

/// The vocabulary of an accepted tokenizer is accepted, and makes the same merges.
fn tokenizer(bytes: &[u8]) -> bool {
    let Some(files) = files(bytes) else { return false };
    let files = files.into_iter().map(|(name, begin)| {
        let len = begin.len() as u64;
        InputFile::new(&*name, &*name, len, "", Arc::new(Sparse { begin, len }))
    });
    let Ok(tokenizer) = quantize::Tokenizer::read(&Files::new("fuzz", "the folder", files, Vec::new()), &later_config()) else {
        return false;
    };
    let vocabulary = Vocabulary::parse(&tokenizer.vocabulary).expect("the converter writes vocabularies that the runtime reads");
    quantize::bpe_files(&vocabulary).expect("the merges of an accepted tokenizer follow from its ranks");
    qwen_vl_processor::Tokenizer::new(&tokenizer.vocabulary, Family::Qwen2Vl, &tokenizer.added_tokens)
        .expect("the runtime takes the tokens that the converter writes");
    true
}

/// Steps in which a conversion must be open. Each needs new ranges.
const STEPS: usize = 100;

/// A conversion names ranges inside its files, each once, until it is open or fails. Then its plan is whole, and its manifest is accepted.
fn checkpoint(bytes: &[u8]) -> bool {
    let Some(files) = files(bytes) else { return false };
    let file = |(name, begin): (String, Vec<u8>)| match name.ends_with(".safetensors") {
        true => (name, safetensors_file(&begin)),
        false => (name, Sparse { len: begin.len() as u64, begin }),
    };
    let files: Vec<(String, Sparse)> = files.into_iter().map(file).collect();
    let listed = files.iter().map(|(path, file)| RemoteFile { path: path.clone(), bytes: file.len, version: "1".to_owned() });
    let request =
        ConversionRequest { name: "fuzz".to_owned(), place: "the folder".to_owned(), files: listed.collect(), ..Default::default() };
    let Ok(mut conversion) = RemoteConversion::new(&request) else { return false };
    for _ in 0..STEPS {
        match conversion.open() {
            Err(_) => return false,
            Ok(Step::Done(())) => {
                // Models that the manifest cannot hold, such as those of a vocabulary without a stop token, are refused here.
                let Ok(plan) = conversion.plan() else { return false };
                Manifest::from_json(&plan.manifest).expect("the converter writes manifests that the runtime reads");
                assert!(plan.shards.iter().map(|shard| shard.bytes).sum::<u64>() <= plan.bytes);
                conversion.small_files(&[]).expect("an open conversion has its small files");
                return true;
            }
            Ok(Step::Needs) => {}
        }
        let needs = conversion.needs();
        assert!(!needs.is_empty(), "the conversion waits for nothing");
        for need in needs {
            let file = &files[need.file].1;
            assert!(need.start < need.end && need.end <= file.len, "{need:?} of {} bytes", file.len);
            conversion.supply(need.file, need.start, file.read(need.start..need.end)).expect("a listed file takes bytes");
        }
    }
    panic!("the conversion is not open after {STEPS} steps");
}
