//! The checkpoint that is converted: its configuration and weights, checked against each other.

use crate::config::model_config;
use crate::source::json::Json;
use crate::source::names::embedding;
use crate::source::{Files, Source};
use anyhow::{Context, Error, Result, bail};
use qwen_vl_format::{Family, ModelConfig, SpecialIds};
use serde_json::Value;

/// A checkpoint in the published layout.
pub(crate) struct Checkpoint {
    pub config: ModelConfig,
    pub source: Source,
    /// Sentences for the user: what was left aside, ignored or renamed.
    pub notes: Vec<String>,
}

impl Checkpoint {
    /// Opens a checkpoint. The names of the files come first, so that a LoRA adapter is recognised, then the configuration, so that another
    /// model is.
    pub(crate) fn open(input: &Files) -> Result<Self> {
        input.refuse_top_of_cache()?;
        crate::source::weights::choose(input)?;
        let mut config = read_config(input)?;
        let mut template_notes = Vec::new();
        crate::template::check(input, config.family, &mut template_notes)?;
        let source = Source::open(input, config.family)?;
        let mut notes = source.notes().to_vec();
        notes.extend(template_notes);
        notes.extend(adopt_tied_head(input, &source, &mut config)?);
        notes.extend(adopt_vocabulary_size(&source, &mut config)?);
        Ok(Self { config, source, notes })
    }
}

/// Reads the configuration of a checkpoint.
pub(crate) fn read_config(input: &Files) -> Result<ModelConfig> {
    input.refuse_top_of_cache()?;
    let file = input.find(CONFIG);
    let file = file.with_context(|| format!("{CONFIG} is missing in {input}: give the files of a whole checkpoint"))?;
    let json = Json::read(file)?;
    model_config(&json.value.to_string())
        .map_err(|error| match json.not_finite.first() {
            Some((key, number)) => Error::new(error).context(format!("{}: `{key}` is {number} and counts as null", file.place())),
            None => Error::new(error),
        })
        .with_context(|| format!("cannot convert {input}"))
}

const CONFIG: &str = "config.json";
/// The head, unless it is the embedding.
pub(crate) const HEAD: &str = "lm_head.weight";

/// Takes the number of tokens from the embedding, and the head if there is one, if the configuration says otherwise: fine-tuning scripts that
/// add tokens often leave `vocab_size` as it was. Returns a sentence about it.
fn adopt_vocabulary_size(source: &Source, config: &mut ModelConfig) -> Result<Option<String>> {
    let name = embedding(config.family);
    // `Converter::new` reports missing tensors and other widths.
    let rows = |name: &str| {
        source.get(name).ok().filter(|tensor| tensor.shape.get(1) == Some(&config.decoder.width)).map(|tensor| tensor.shape[0])
    };
    let Some(embedding) = rows(&name) else { return Ok(None) };
    if !config.decoder.tied_head {
        let Some(head) = rows(HEAD) else { return Ok(None) };
        if embedding != head {
            bail!("tensor `{name}` has {embedding} rows and tensor `{HEAD}` has {head}: both must have one for each token");
        }
    }
    let least = number_of_tokens(config);
    if embedding == config.decoder.vocab_size {
        return Ok(None);
    }
    if embedding < least {
        bail!("tensor `{name}` has {embedding} rows, and the tokenizer has {least} tokens");
    }
    let note =
        format!("config.json: `vocab_size` is {}, but the weights have {embedding} tokens: {embedding} is used", config.decoder.vocab_size);
    config.decoder.vocab_size = embedding;
    config.validate()?;
    Ok(Some(note))
}

/// The number of tokens that a model needs at least: `<imgpad>` is the last of the published tokenizer of 2023, and `<|image_pad|>` comes
/// before few others.
fn number_of_tokens(config: &ModelConfig) -> usize {
    match config.family {
        Family::QwenVl => SpecialIds::of_model(config.image_token).map_or(0, |special| special.imgpad as usize + 1),
        Family::Qwen2Vl | Family::Qwen25Vl | Family::Qwen3Vl => config.image_token as usize + 1,
    }
}

/// Takes the embedding as the head if the weights have no other and the configuration says nothing: some releases of transformers leave the
/// key out where it has its default. Returns a sentence about it.
fn adopt_tied_head(input: &Files, source: &Source, config: &mut ModelConfig) -> Result<Option<String>> {
    const KEY: &str = "tie_word_embeddings";
    let has_head = source.contains(HEAD) || source.contains("lm_head.qweight");
    if config.family == Family::QwenVl || config.decoder.tied_head || has_head {
        return Ok(None);
    }
    let json = input.find(CONFIG).map(Json::read).transpose()?.map_or(Value::Null, |json| json.value);
    if !json[KEY].is_null() || !json["text_config"][KEY].is_null() {
        return Ok(None);
    }
    config.decoder.tied_head = true;
    Ok(Some(format!("config.json does not have `{KEY}` and the weights have no `{HEAD}`: the head is the embedding")))
}
