//! `manifest.json`: the index of a web checkpoint and the contract between the converter and the runtime.

use crate::{ModelConfig, Scheme};
use serde::{Deserialize, Serialize};

/// Value of [`Manifest::format`].
pub const FORMAT_NAME: &str = "qwen-vl-web";
/// Newest [`Manifest::version`] that this code reads and the one it writes.
pub const FORMAT_VERSION: u32 = 1;
/// File name of the manifest in its folder.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The index of a web checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always [`FORMAT_NAME`].
    pub format: String,
    /// Version of this layout.
    pub version: u32,
    /// Sizes of the model.
    pub config: ModelConfig,
    /// What turns text and pictures into the model's input.
    pub processor: ProcessorConfig,
    /// Default settings of generation.
    pub generation: GenerationConfig,
    /// Where the weights come from.
    pub provenance: Provenance,
    /// Files beside the shards: tokenizer, licence and notice.
    pub files: Vec<FileEntry>,
    /// The shards, in load order.
    pub shards: Vec<FileEntry>,
    /// The tensors, in load order.
    pub tensors: Vec<TensorEntry>,
}

/// A file of the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Name in the folder; no separators.
    pub file: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

/// Settings of the processor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessorConfig {
    /// The vocabulary file (rank format of `qwen.tiktoken`), one of [`Manifest::files`].
    pub tokenizer_file: String,
    /// Mean of each channel of a picture scaled to 0..1.
    pub image_mean: [f32; 3],
    /// Standard deviation of each channel.
    pub image_std: [f32; 3],
}

/// Settings of generation, with the keys of the published `generation_config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationConfig {
    /// `chatml` for chat checkpoints, `raw` for base models.
    pub chat_format: String,
    /// The token that ends everything.
    pub eos_token_id: u32,
    /// Longest answer by default, tokens.
    pub max_new_tokens: usize,
    /// History longer than this is dropped from its oldest turn on, tokens.
    pub max_window_size: usize,
    /// Whether answers are sampled by default.
    pub do_sample: bool,
    /// Most likely tokens to keep; 0 keeps all.
    pub top_k: usize,
    /// Probability mass to keep.
    pub top_p: f32,
}

/// Where the weights come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Program and version that wrote the folder.
    pub converter: String,
    /// Name of the converted checkpoint (its folder's name).
    pub source: String,
    /// Files of the source with size and SHA-256 where they were read whole.
    pub source_files: Vec<String>,
    /// What was done to the weights, in a sentence (the weights' licence asks for it).
    pub modifications: String,
}

/// A tensor and where it lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorEntry {
    /// Name from [`crate::tensors`].
    pub name: String,
    /// `[rows, cols]`, without padding.
    pub shape: [usize; 2],
    /// How it is stored.
    pub scheme: Scheme,
    /// Slices of rows, from the first row on; large tensors have several, so that each fits one GPU binding.
    pub parts: Vec<TensorPart>,
}

/// Consecutive rows of a tensor in one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorPart {
    /// Number of rows.
    pub rows: usize,
    /// Index into [`Manifest::shards`].
    pub shard: usize,
    /// Values or codes: first byte and one past the last, in the shard file.
    pub data: [u64; 2],
    /// Scales, likewise; absent for float schemes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scales: Option<[u64; 2]>,
}

/// Why a manifest can not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not JSON, or a key is missing or of the wrong type.
    #[error("manifest.json can not be read: {0}")]
    Parse(#[from] serde_json::Error),
    /// Another kind of file.
    #[error("manifest.json is of format `{found}`, expected `{FORMAT_NAME}`")]
    Format {
        /// What it says.
        found: String,
    },
    /// Written by a newer converter.
    #[error(
        "manifest.json has version {found}, this runtime reads version {FORMAT_VERSION}: update the runtime or convert the checkpoint again"
    )]
    Version {
        /// What it says.
        found: u32,
    },
}
