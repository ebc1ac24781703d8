//! Converts a checkpoint of Qwen-VL, Qwen2-VL or Qwen3-VL (a Hugging Face folder, or its files) into a web checkpoint
//! (`crates/format/FORMAT.md`).
//!
//! `config` translates the published configuration of each generation into the runtime's building blocks, and `tokenizer` its tokenizer.
//! The flow of the weights: [`source`] finds the tensors in safetensors or pickled files, `convert` makes the rows of our tensors from them,
//! `plan` decides the place of every byte, and `write` encodes rows and writes shards with all cores into the folder of `output`.
//! Weights are read, encoded and written in slices: memory holds a shard for each core, never a tensor.

// Files, pictures and answers are outside input, which returns an error.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod check;
mod checkpoint;
mod config;
mod convert;
#[doc(hidden)]
pub mod fuzz;
mod generation;
mod gptq;
mod licence;
mod options;
mod output;
mod parallel;
mod pictures;
mod plan;
mod rows;
pub mod source;
mod template;
mod tokenizer;
mod web;
mod write;

pub use check::{Contents, ModuleContents, ModuleError, Problem, Report, TensorError, inspect, report, verify};
pub use checkpoint::tokenizer;
pub use config::model_config;
pub use convert::original_tensors;
pub use options::{Event, Options, Rule, SchemeName, Summary, TensorTotal, WriteOptions};
pub use output::partial_path;
pub use tokenizer::{Tokenizer, bpe_files};
pub use web::{WebCheckpoint, dequantized};

use anyhow::Result;
use checkpoint::Checkpoint;
use convert::Converter;
use output::{OutputFolder, Target};
use qwen_vl_format::manifest::{FORMAT_NAME, FORMAT_VERSION, Manifest, ProcessorConfig, Provenance};
use qwen_vl_format::{Family, Scheme};
use tokenizer::TOKENIZER_FILE;

/// Converts a checkpoint into a web checkpoint. The output folder appears when it is whole.
pub fn convert(options: &Options, events: &mut dyn FnMut(Event)) -> Result<Summary> {
    let input = &options.source;
    input.check()?;
    let target = Target::new(&options.out, &input.paths()?)?;
    target.check(options.write.force)?;
    let Checkpoint { config, source, mut notes } = Checkpoint::open(input)?;
    let Tokenizer { vocabulary, added_tokens } = tokenizer::read(input, &config, &mut notes)?;
    let generation = generation::read(input, &config, &added_tokens, &mut notes)?;
    let pictures = pictures::read(input, &config, &mut notes)?;

    let converter = Converter::new(&source, &config, &mut notes)?;
    let shard_bytes = options.write.shard_bytes.unwrap_or(plan::SHARD_BYTES);
    options.check_rules(&config)?;
    let plan = plan::plan(&config, shard_bytes, |index, spec| options.scheme_of(&config, spec, converter.exact_scheme(index)))?;
    let mut summary = Summary::new(&plan);
    summary.unused_tensors = converter.unused();
    summary.notes = notes;
    summary.notes.iter().for_each(|note| events(Event::Note(note.clone())));
    let modifications = format!(
        "The weights of `{}` were changed by quantize {}: renamed, rearranged, {}, and matrices stored as {}{}.",
        input.name(),
        env!("CARGO_PKG_VERSION"),
        match config.family {
            Family::QwenVl => "position tables resized",
            Family::Qwen2Vl | Family::Qwen3Vl => "the frames of the patch embedding added",
        },
        options.describe(&config),
        if plan.tensors.iter().any(|tensor| matches!(tensor.scheme, Scheme::Int4 { .. })) {
            ", those that were quantized before with their own codes as int4"
        } else {
            ""
        }
    );
    let mut small_files = vec![(TOKENIZER_FILE, vocabulary)];
    small_files.extend(licence::files(&source, config.family, &modifications)?);
    let sizes = plan.files(small_files.iter().map(|(name, bytes)| (*name, bytes.len() as u64)));
    if options.dry_run {
        target.check_space(&sizes)?;
        events(Event::Start { weights: summary.weights });
        rows::check_all(&converter, &plan, options.write.allow_nonfinite, events)?;
        return Ok(summary);
    }
    let fingerprint = write::fingerprint(&plan, &options.write, source.files())?;
    let folder = OutputFolder::create(target, &options.write, &fingerprint, &sizes)?;
    if let Some(note) = &folder.note {
        events(Event::Note(note.clone()));
        summary.notes.push(note.clone());
    }
    events(Event::Start { weights: summary.weights });
    let shards = folder.write_shards(&plan, &converter, &options.write, events)?;
    let mut files = Vec::new();
    for (name, bytes) in small_files {
        files.push(folder.write(name, &bytes)?);
    }
    let manifest = Manifest {
        format: FORMAT_NAME.to_owned(),
        version: FORMAT_VERSION,
        config,
        processor: ProcessorConfig {
            tokenizer_file: TOKENIZER_FILE.to_owned(),
            added_tokens,
            image_mean: pictures.mean,
            image_std: pictures.std,
            min_pixels: pictures.min_pixels,
            max_pixels: pictures.max_pixels,
        },
        generation,
        provenance: Provenance {
            converter: concat!("quantize ", env!("CARGO_PKG_VERSION")).to_owned(),
            source: input.name(),
            source_files: source.files().map(|file| format!("{} ({} bytes)", file.name(), file.len())).collect(),
            modifications,
        },
        files,
        shards,
        tensors: plan.tensors,
    };
    folder.write_manifest(&manifest)?;
    folder.finish()?;
    Ok(summary)
}
