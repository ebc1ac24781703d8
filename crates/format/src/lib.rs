//! The web checkpoint: what `quantize` writes and the runtime reads.
//!
//! Bytes in, bytes out: this crate knows nothing about files, GPUs or the network.
//! `FORMAT.md` in this folder is the normative description.
//!
//! - [`config`]: the sizes of a model as building blocks; [`qwen_vl`]: those of the 2023 model, with its published keys;
//! - [`tensors`]: the one table of our tensor names and shapes, in load order;
//! - [`block`]: the storage of one row of weights in each [`Scheme`];
//! - [`manifest`]: the index of a web checkpoint, validated before anything is loaded;
//! - [`shard`]: the checks of shards while their bytes arrive;
//! - [`vocabulary`]: the file `qwen.tiktoken`; [`special`]: the tokens behind its ranks.

// Files, pictures and answers are outside input, which returns an error.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod block;
pub mod config;
mod hash;
pub mod manifest;
pub mod qwen_vl;
mod resize;
pub mod shard;
pub mod special;
pub mod tensors;
pub mod vocabulary;

pub use block::Scheme;
pub use config::{ConfigError, DecoderConfig, Family, ModelConfig, VisionConfig};
pub use hash::ShardHash;
pub use manifest::{Manifest, ManifestError};
pub use qwen_vl::{IMAGE_MEAN, IMAGE_STD, QwenVlConfig, QwenVlVision};
pub use resize::resize_table;
pub use shard::{ShardCheck, ShardError};
pub use special::{AddedToken, SPECIALS_BEFORE_IMG, SpecialIds};
pub use tensors::{TensorKind, TensorSpec};
pub use vocabulary::{Vocabulary, VocabularyError};

/// Rows of every stored tensor are padded with zeros to a multiple of this many columns, so that kernels read whole
/// vectors and the shortest group of weights without bounds checks. Activations use the same row stride.
pub const ROW_ALIGN: usize = 32;

/// Number of stored columns of a row of `cols` values.
pub const fn padded(cols: usize) -> usize {
    cols.next_multiple_of(ROW_ALIGN)
}

/// Largest `data` of one part of a tensor, in bytes: half of WebGPU's default storage binding, and what one shard holds.
pub const MAX_PART_BYTES: u64 = 64 << 20;

/// Every part of a tensor but its last has a multiple of this many rows.
pub const PART_ROW_ALIGN: usize = 32;
