//! Converts a checkpoint of Qwen-VL, Qwen2-VL, Qwen2.5-VL or Qwen3-VL (a Hugging Face folder, its files, or a repository) into a web checkpoint
//! (`crates/format/FORMAT.md`).
//!
//! `config` translates the published configuration of each generation into the runtime's building blocks, and `tokenizer` its tokenizer.
//! The flow of the weights: [`source`] finds the tensors in safetensors or pickled files, `convert` makes the rows of our tensors from them,
//! `plan` decides the place of every byte, and `encode` makes the bytes of a shard in their order. This much needs no file system: it reads
//! through [`source::ReadAt`], and `web/convert` runs it in a browser. The feature `files`, which is on by default, adds `disk`: folders as
//! input and output, written with all cores, and repositories of the Hub as input.
//! Weights are read, encoded and written in slices: memory holds a shard for each core, never a tensor.

// Files, pictures and answers are outside input, which returns an error.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod card;
mod checkpoint;
mod config;
mod conversion;
mod convert;
#[cfg(feature = "files")]
mod disk;
mod encode;
mod errors;
mod generation;
mod gptq;
#[doc(hidden)]
pub mod hub_answers;
mod licence;
mod options;
mod pictures;
mod plan;
mod remote;
mod rows;
mod scheme;
pub mod source;
mod template;
mod tokenizer;

pub use config::model_config;
pub use convert::original_tensors;
#[cfg(feature = "files")]
pub use disk::{
    Contents, Event, HubSource, Input, ModuleContents, ModuleError, Options, Problem, Report, TensorError, WebCheckpoint, WriteOptions,
    convert, dequantized, inspect, partial_path, report, tokenizer, verify,
};
pub use errors::FinishedShard;
pub use options::{Rule, SchemeName, Settings, Summary, TensorTotal, WrongSetting};
pub use remote::{ConversionPlan, ConversionRequest, Need, PlannedFile, RemoteConversion, RemoteFile, Step};
pub use tokenizer::{Tokenizer, bpe_files};
