//! The checkpoint that is converted: its configuration and weights, checked against each other.

use crate::TOKENIZER_FILE;
use crate::source::json::Json;
use crate::source::weights::list;
use crate::source::{Input, Source};
use anyhow::{Context, Result, anyhow, bail};
use qwen_vl_format::{ModelConfig, QwenVlConfig, SpecialIds};
use std::collections::BTreeMap;

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
    pub(crate) fn open(input: &Input) -> Result<Self> {
        input.check()?;
        crate::source::weights::choose(input)?;
        let mut config = read_config(input)?;
        let source = Source::from_input(input)?;
        let mut notes = source.notes().to_vec();
        notes.extend(adopt_vocabulary_size(&source, &mut config)?);
        notes.extend(added_tokens(input, &config));
        Ok(Self { config, source, notes })
    }
}

/// Reads the configuration of a checkpoint.
fn read_config(input: &Input) -> Result<ModelConfig> {
    let path =
        input.find("config.json").with_context(|| format!("config.json is missing in {input}: give the files of a whole checkpoint"))?;
    let json = Json::read(&path)?;
    QwenVlConfig::from_hf_json(&json.value.to_string())
        .map(|config| config.model())
        .map_err(|error| match json.not_finite.first() {
            Some((key, number)) => anyhow!("{}: `{key}` is {number} and counts as null: {error}", path.display()),
            None => anyhow!("{error}"),
        })
        .with_context(|| format!("cannot convert {input}"))
}

/// Takes the number of tokens from the two embedding matrices if the configuration says otherwise: fine-tuning scripts that add tokens
/// often leave `vocab_size` as it was. Returns a sentence about it.
fn adopt_vocabulary_size(source: &Source, config: &mut ModelConfig) -> Result<Option<String>> {
    const NAMES: [&str; 2] = ["transformer.wte.weight", "lm_head.weight"];
    // `Converter::new` reports missing tensors and other widths.
    let rows = NAMES.map(|name| {
        source.get(name).ok().filter(|tensor| tensor.shape.get(1) == Some(&config.decoder.width)).map(|tensor| tensor.shape[0])
    });
    let [Some(embedding), Some(head)] = rows else { return Ok(None) };
    if embedding != head {
        bail!("tensor `{}` has {embedding} rows and tensor `{}` has {head}: both must have one for each token", NAMES[0], NAMES[1]);
    }
    let least = number_of_tokens(config);
    if embedding == config.decoder.vocab_size {
        return Ok(None);
    }
    if embedding < least {
        bail!("tensor `{}` has {embedding} rows, and the tokenizer has {least} tokens", NAMES[0]);
    }
    let note =
        format!("config.json: `vocab_size` is {}, but the weights have {embedding} tokens: {embedding} is used", config.decoder.vocab_size);
    config.decoder.vocab_size = embedding;
    config.validate()?;
    Ok(Some(note))
}

/// The number of tokens of the published tokenizer: `<imgpad>` is the last.
fn number_of_tokens(config: &ModelConfig) -> usize {
    SpecialIds::of_model(config.image_token).map_or(0, |special| special.imgpad as usize + 1)
}

/// Sentences about tokens that were added to the tokenizer: the web checkpoint's vocabulary does not have them.
fn added_tokens(input: &Input, config: &ModelConfig) -> Option<String> {
    let mut found: BTreeMap<u64, String> = BTreeMap::new();
    let files = input.names().unwrap_or_default();
    for name in files.iter().filter(|name| name.starts_with("added_tokens") && name.ends_with(".json")) {
        // Not needed for the conversion: a file that is not JSON adds no tokens.
        let Some(json) = input.find(name).and_then(|path| Json::read(&path).ok()) else { continue };
        found.extend(json.value.as_object().into_iter().flatten().filter_map(|(token, id)| Some((id.as_u64()?, token.clone()))));
    }
    if let Some(json) = input.find("tokenizer_config.json").and_then(|path| Json::read(&path).ok()) {
        let tokens = json.value["added_tokens_decoder"].as_object().into_iter().flatten();
        found.extend(tokens.filter_map(|(id, token)| Some((id.parse().ok()?, token["content"].as_str()?.to_owned()))));
    }
    let known = number_of_tokens(config) as u64;
    let added: Vec<String> = found.iter().filter(|(id, _)| **id >= known).map(|(id, token)| format!("`{token}` ({id})")).collect();
    (!added.is_empty()).then(|| {
        format!(
            "{} tokens were added to the tokenizer, and {TOKENIZER_FILE} does not have them, so prompts and answers cannot show them: {}",
            added.len(),
            list(&added)
        )
    })
}
