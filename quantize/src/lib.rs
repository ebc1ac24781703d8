//! Converts a Qwen-VL checkpoint (a Hugging Face folder, or its files) into a web checkpoint (`crates/format/FORMAT.md`).
//!
//! The way of the data: [`source`] finds the tensors in safetensors or pickled files, `convert` gives our tensors' rows from
//! them, `plan` decides where every byte goes, `write` encodes rows and writes shards with all cores. Weights are read,
//! encoded and written in slices: memory holds a shard for each core, never a tensor.

mod check;
mod convert;
#[doc(hidden)]
pub mod fuzz;
mod gptq;
mod licence;
mod options;
mod plan;
mod rows;
pub mod source;
mod web;
mod write;

pub use check::{Contents, ModuleContents, ModuleError, Problem, Report, TensorError, inspect, report, verify};
pub use convert::original_tensors;
pub use options::{Event, Options, Rule, SchemeName, Summary, TensorTotal, WriteOptions};
pub use web::{WebCheckpoint, dequantized};
pub use write::partial_path;

use anyhow::{Context, Result, ensure};
use convert::Converter;
use qwen_vl_format::manifest::{FORMAT_NAME, FORMAT_VERSION, GenerationConfig, Manifest, ProcessorConfig, Provenance};
use qwen_vl_format::{IMAGE_MEAN, IMAGE_STD, ModelConfig, Scheme, SpecialIds};
use source::{Input, Source};
use write::OutputFolder;

/// The vocabulary's file name, in the source and in the web checkpoint.
const TOKENIZER_FILE: &str = "qwen.tiktoken";

/// Converts a checkpoint into a web checkpoint. The output folder appears when it is whole.
pub fn convert(options: &Options, events: &mut dyn FnMut(Event)) -> Result<Summary> {
    let input = &options.source;
    input.check()?;
    // The configuration first: another model's folder should be refused as such, not for a missing tensor.
    let config = read_config(input)?;
    let generation = read_generation_config(input, &config)?;
    let tokenizer_path = input.locate(TOKENIZER_FILE).context("the vocabulary is missing (it comes with the published checkpoint)")?;
    let tokenizer = std::fs::read(&tokenizer_path)
        .with_context(|| format!("can not read the vocabulary {} (it comes with the published checkpoint)", tokenizer_path.display()))?;
    convert::check_tokenizer(&config, &tokenizer).with_context(|| format!("{} does not fit", tokenizer_path.display()))?;

    let source = Source::from_input(input)?;
    let converter = Converter::new(&source, &config)?;
    let shard_bytes = options.write.shard_bytes.unwrap_or(plan::SHARD_BYTES);
    let plan = plan::plan(&config, shard_bytes, |index, spec| options.scheme_of(spec, converter.exact_scheme(index)))?;
    let mut summary = Summary::new(&plan);
    summary.unused_tensors = converter.unused();
    if options.dry_run {
        return Ok(summary);
    }
    events(Event::Start { weights: summary.weights });

    let modifications = format!(
        "The weights of `{}` were changed by quantize {}: renamed, rearranged, position tables resized, and matrices stored as {}{}.",
        input.name(),
        env!("CARGO_PKG_VERSION"),
        options.describe(),
        if plan.tensors.iter().any(|tensor| matches!(tensor.scheme, Scheme::Int4 { .. })) {
            ", those that were quantised before with their own codes as int4"
        } else {
            ""
        }
    );
    let folder = OutputFolder::create(&options.out, &options.write, &write::fingerprint(&plan, &options.write, source.files())?)?;
    let shards = folder.write_shards(&plan, &converter, &options.write, events)?;
    let mut files = vec![folder.write(TOKENIZER_FILE, &tokenizer)?];
    for (name, bytes) in licence::files(&source, &modifications)? {
        files.push(folder.write(name, &bytes)?);
    }
    let manifest = Manifest {
        format: FORMAT_NAME.to_owned(),
        version: FORMAT_VERSION,
        config,
        processor: ProcessorConfig { tokenizer_file: TOKENIZER_FILE.to_owned(), image_mean: IMAGE_MEAN, image_std: IMAGE_STD },
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

/// The configuration of a checkpoint.
pub fn read_config(input: &Input) -> Result<ModelConfig> {
    let path = input.locate("config.json")?;
    let json = std::fs::read_to_string(&path).with_context(|| format!("can not read {}", path.display()))?;
    ModelConfig::from_hf_json(&json).with_context(|| format!("can not convert {input}"))
}

/// `generation_config.json`; where the file or a key is missing, the published values.
fn read_generation_config(input: &Input, config: &ModelConfig) -> Result<GenerationConfig> {
    let path = input.find("generation_config.json");
    let value: serde_json::Value = if let Some(path) = &path {
        let json = std::fs::read_to_string(path).with_context(|| format!("can not read {}", path.display()))?;
        serde_json::from_str(&json).with_context(|| format!("{} is not JSON", path.display()))?
    } else {
        serde_json::Value::Object(Default::default())
    };
    let wrong = |key: &str| format!("generation_config.json of {input}: `{key}` is {}", value[key]);
    let number = |key: &str, default: u64| match &value[key] {
        serde_json::Value::Null => Ok(default),
        found => found.as_u64().with_context(|| wrong(key)),
    };
    let end_of_text = SpecialIds::of_model(config.visual.image_start_id).map_or(0, |special| u64::from(special.endoftext));
    let generation = GenerationConfig {
        chat_format: value["chat_format"].as_str().unwrap_or("chatml").to_owned(),
        eos_token_id: u32::try_from(number("eos_token_id", end_of_text)?).with_context(|| wrong("eos_token_id"))?,
        extra_eos_token_ids: Vec::new(),
        max_new_tokens: number("max_new_tokens", 512)? as usize,
        max_length: None,
        max_window_size: number("max_window_size", 6144)? as usize,
        do_sample: value["do_sample"].as_bool().unwrap_or(true),
        temperature: None,
        top_k: number("top_k", 0)? as usize,
        top_p: value["top_p"].as_f64().unwrap_or(0.3) as f32,
        repetition_penalty: None,
    };
    ensure!(["chatml", "raw"].contains(&generation.chat_format.as_str()), "{}, expected `chatml` or `raw`", wrong("chat_format"));
    ensure!(
        (generation.eos_token_id as usize) < config.vocab_size,
        "{}, beyond the vocabulary of {}",
        wrong("eos_token_id"),
        config.vocab_size
    );
    ensure!(generation.top_p > 0.0 && generation.top_p <= 1.0, "{}, expected above 0, at most 1", wrong("top_p"));
    Ok(generation)
}
