//! One function for each parser of untrusted files. Any bytes must give a result or an error: no panic, no overflow, no position outside
//! the file. The tests and the targets in `quantize/fuzz` call them.

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

/// A published `config.json`. Returns true if it was accepted.
pub fn config(bytes: &[u8]) -> bool {
    let Some(config) = std::str::from_utf8(bytes).ok().and_then(|json| crate::model_config(json).ok()) else { return false };
    let elements = |shape: &[usize]| shape.iter().map(|size| *size as u64).product::<u64>();
    let original: u64 = crate::original_tensors(&config).iter().map(|(_, shape)| elements(shape)).sum();
    assert!(original > 0);
    true
}

/// A `tokenizer.json`. Returns true if it was accepted.
pub fn tokenizer(bytes: &[u8]) -> bool {
    serde_json::from_slice(bytes).is_ok_and(|json| crate::tokenizer::parse(&json).is_ok_and(|tokens| tokens >= 256))
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
mod tests;
