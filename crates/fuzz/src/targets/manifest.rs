//! The files of a web checkpoint: the manifest and the vocabulary.

use crate::Target;
use crate::mutate::{json, ranks};
use qwen_vl_format::{Manifest, ModelConfig, Vocabulary, tensors::tensor_table};
use qwen_vl_processor::{KeepSpecials, SpecialTokens, Tokenizer};

/// A manifest of version 1 or 2.
pub static MANIFEST: Target = Target { name: "manifest", max_len: 24 << 10, run: manifest, mutate: json::mutate, memory: [16 << 20, 256] };

/// A vocabulary: `qwen.tiktoken`.
pub static VOCABULARY: Target = Target { name: "tiktoken", max_len: 4096, run: vocabulary, mutate: ranks::mutate, memory: [1 << 20, 128] };

/// Written again, a manifest reads the same; its parts are in their shards and make up its tensors.
fn manifest(bytes: &[u8]) -> bool {
    let Some(manifest) = std::str::from_utf8(bytes).ok().and_then(|json| Manifest::from_json(json).ok()) else { return false };
    let json = |manifest: &Manifest| serde_json::to_string(manifest).expect("a manifest is JSON");
    let mut again = Manifest::from_json(&json(&manifest)).expect("an accepted manifest is accepted again");
    assert_same_bases(&mut again.config, &manifest.config);
    assert_eq!(json(&again), json(&manifest));
    for entry in manifest.tensors.iter().flat_map(|tensor| &tensor.parts) {
        let end = entry.scales.map_or(entry.data[1], |scales| scales[1]);
        assert!(end <= manifest.shards[entry.shard].bytes);
    }
    assert_eq!(manifest.tensors.len(), tensor_table(&manifest.config).len());
    assert!(manifest.shard_bytes() < 1 << 53);
    true
}

/// Asserts that a configuration that was written and read again has the same rotary bases, and makes them equal: `serde_json` reads a number of
/// double precision up to one unit of the last place off.
pub(super) fn assert_same_bases(again: &mut ModelConfig, config: &ModelConfig) {
    let bases = |config: &ModelConfig| [config.decoder.rotary.base, config.vision.rotary_base.unwrap_or_default()];
    for (again, base) in bases(again).into_iter().zip(bases(config)) {
        assert!((again - base).abs() <= 2.0 * f64::EPSILON * base.abs(), "{again} and {base}");
    }
    again.decoder.rotary.base = config.decoder.rotary.base;
    if let (Some(again), Some(base)) = (&mut again.vision.rotary_base, config.vision.rotary_base) {
        *again = base;
    }
}

/// Written in the strict form, a vocabulary reads the same. Its tokenizer returns the text that it encodes.
fn vocabulary(bytes: &[u8]) -> bool {
    let Ok(vocabulary) = Vocabulary::parse(bytes) else { return false };
    let again = Vocabulary::parse(&vocabulary.to_bytes()).expect("an accepted vocabulary is accepted again");
    assert_eq!(again, vocabulary);
    let Ok(tokenizer) = Tokenizer::from_tiktoken(bytes) else { return false };
    let text = "It's 2 pictures:\n\n 图片 <box>(1,2)";
    let ids = tokenizer.encode(text, SpecialTokens::None).expect("a text without special tokens can be encoded");
    assert_eq!(tokenizer.decode(&ids, KeepSpecials::None), text);
    true
}
