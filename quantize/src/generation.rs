//! `generation_config.json`: the settings that the runtime has, and the names of those that it does not have.

use crate::source::Files;
use crate::source::json::Json;
use anyhow::{Result, anyhow, bail, ensure};
use qwen_vl_format::manifest::GenerationConfig;
use qwen_vl_format::{AddedToken, Family, ModelConfig, SpecialIds};
use serde_json::Value;
use std::collections::BTreeSet;

/// Keys that do not change the answers of this model. They are left out without a note.
const WITHOUT_EFFECT: [&str; 6] =
    ["pad_token_id", "bos_token_id", "transformers_version", "_from_model_config", "use_cache", "return_dict_in_generate"];

/// Values of keys that are missing.
struct Defaults {
    eos: Vec<u32>,
    max_new_tokens: usize,
    max_window_size: usize,
    do_sample: bool,
    temperature: Option<f32>,
    top_k: usize,
    top_p: f32,
}

/// The default values. For the 2023 model and without a file they are the published ones. A file of the later generations is read by
/// transformers alone, whose own defaults stand for missing keys.
fn defaults(config: &ModelConfig, added: &[AddedToken], has_file: bool) -> Defaults {
    let (do_sample, temperature, top_k, top_p) = match config.family {
        Family::QwenVl => (true, None, 0, 0.3),
        _ if has_file => (false, None, 50, 1.0),
        Family::Qwen2Vl => (true, Some(0.01), 1, 0.001),
        Family::Qwen25Vl => (true, Some(1e-6), 1, 0.001),
        Family::Qwen3Vl => (true, Some(0.7), 20, 0.8),
    };
    let (eos, max_new_tokens, max_window_size) = match config.family {
        Family::QwenVl => (SpecialIds::of_model(config.image_token).map(|special| special.endoftext).into_iter().collect(), 512, 6144),
        // No turn is dropped before the context is full.
        Family::Qwen2Vl | Family::Qwen25Vl | Family::Qwen3Vl => {
            let special = SpecialIds::of_tokens(added).ok();
            (
                special.map(|special| [special.im_end, special.endoftext]).into_iter().flatten().collect(),
                1024,
                config.decoder.trained_context,
            )
        }
    };
    Defaults { eos, max_new_tokens, max_window_size, do_sample, temperature, top_k, top_p }
}

/// Reads the settings. Null means the same as a missing key. Adds a note if settings are left out.
pub(crate) fn read(input: &Files, config: &ModelConfig, added: &[AddedToken], notes: &mut Vec<String>) -> Result<GenerationConfig> {
    let file = input.find("generation_config.json");
    let defaults = defaults(config, added, file.is_some());
    let (place, json) = match file {
        Some(file) => {
            let json = Json::read(file)?;
            ensure!(json.value.is_object(), "{} is {}, expected an object", file.place(), json.value);
            (file.place().to_owned(), json)
        }
        None => (String::new(), Json { value: Value::Object(Default::default()), not_finite: Vec::new() }),
    };
    let mut settings = Settings { place, json, used: WITHOUT_EFFECT.into() };

    let chat_format = settings.take("chat_format", "`chatml` or `raw`", |value| {
        value.as_str().filter(|format| ["chatml", "raw"].contains(format)).map(str::to_owned)
    })?;
    let vocab_size = config.decoder.vocab_size;
    let ids = |value: &Value| -> Option<Vec<u32>> {
        let id = |value: &Value| integer(value).and_then(|id| u32::try_from(id).ok()).filter(|id| (*id as usize) < vocab_size);
        match value {
            Value::Array(ids) if !ids.is_empty() => ids.iter().map(id).collect(),
            value => Some(vec![id(value)?]),
        }
    };
    let eos = settings.take("eos_token_id", &format!("a token below {vocab_size}, or a list of such tokens"), ids)?;
    let mut eos = eos.unwrap_or(defaults.eos);
    // `stop_words_ids` of the 2023 code: each entry is a sequence of tokens. The runtime ends at single tokens.
    let words = |value: &Value| value.as_array()?.iter().map(|word| ids(word).filter(|word| word.len() == 1)).collect::<Option<Vec<_>>>();
    if let Some(words) = words(&settings.json.value["stop_words_ids"]) {
        settings.used.insert("stop_words_ids");
        eos.extend(words.into_iter().flatten());
        let mut seen = BTreeSet::new();
        eos.retain(|id| seen.insert(*id));
    }
    let [eos_token_id, extra_eos_token_ids @ ..] = &eos[..] else {
        bail!("config.json: `visual.image_start_id` is {}, which leaves no room for the tokens before it", config.image_token)
    };
    let count = |value: &Value| integer(value).and_then(|count| usize::try_from(count).ok());
    let positive = |value: &Value| count(value).filter(|count| *count > 0);
    let above_zero = |value: &Value| value.as_f64().map(|number| number as f32).filter(|number| *number > 0.0 && number.is_finite());
    // As in the original, `max_new_tokens` overrides `max_length`.
    let max_new_tokens = settings.take("max_new_tokens", "a positive integer", positive)?;
    let max_length = settings.take("max_length", "a positive integer", positive)?.filter(|_| max_new_tokens.is_none());
    let do_sample = settings.take("do_sample", "true or false", Value::as_bool)?.unwrap_or(defaults.do_sample);
    if !do_sample && settings.json.value["temperature"] == 0.0 {
        // Stands for "do not sample" in many files.
        settings.json.value["temperature"].take();
    }
    let generation = GenerationConfig {
        chat_format: chat_format.unwrap_or_else(|| "chatml".to_owned()),
        eos_token_id: *eos_token_id,
        extra_eos_token_ids: extra_eos_token_ids.to_vec(),
        max_new_tokens: max_new_tokens.unwrap_or(defaults.max_new_tokens),
        max_length,
        max_window_size: settings.take("max_window_size", "a positive integer", positive)?.unwrap_or(defaults.max_window_size),
        do_sample,
        temperature: settings.take("temperature", "a number above 0", above_zero)?.or(defaults.temperature),
        top_k: settings.take("top_k", "an integer from 0 on", count)?.unwrap_or(defaults.top_k),
        top_p: settings
            .take("top_p", "a number above 0, at most 1", |value| above_zero(value).filter(|top_p| *top_p <= 1.0))?
            .unwrap_or(defaults.top_p),
        repetition_penalty: settings.take("repetition_penalty", "a number above 0", above_zero)?,
        presence_penalty: settings.take("presence_penalty", "a number from -2 to 2", |value| {
            value.as_f64().map(|number| number as f32).filter(|number| (-2.0..=2.0).contains(number))
        })?,
        min_new_tokens: settings.take("min_new_tokens", "an integer from 0 on", count)?.filter(|count| *count > 0),
        stop_strings: settings.take("stop_strings", "a text, or a list of texts", texts)?.unwrap_or_default(),
    };
    notes.extend(settings.notes());
    Ok(generation)
}

/// A text, or a list of texts.
fn texts(value: &Value) -> Option<Vec<String>> {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        value => Some(vec![text(value)?]),
    }
}

/// An integer, also one that is written as `50.0`.
fn integer(value: &Value) -> Option<u64> {
    let whole = |number: f64| (number >= 0.0 && number <= 2f64.powi(53) && number.fract() == 0.0).then_some(number as u64);
    value.as_u64().or_else(|| value.as_f64().and_then(whole))
}

/// A file of settings and the keys that were read.
struct Settings {
    place: String,
    json: Json,
    used: BTreeSet<&'static str>,
}

impl Settings {
    /// The value of a key; `None` if it is missing, null or not finite.
    fn take<T>(&mut self, key: &'static str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        self.used.insert(key);
        match &self.json.value[key] {
            Value::Null => Ok(None),
            value => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(anyhow!("{}: `{key}` is {value}, expected {expected}", self.place)),
            },
        }
    }

    /// Sentences about the keys that have no place in a web checkpoint.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let entries = self.json.value.as_object().into_iter().flatten();
        let left_out = entries.filter(|(key, value)| !value.is_null() && !self.used.contains(key.as_str()));
        let left_out: Vec<String> = left_out.map(|(key, value)| format!("`{key}` ({value})")).collect();
        if !left_out.is_empty() {
            notes.push(format!(
                "generation_config.json has settings that a web checkpoint does not have, left out: {}",
                left_out.join(", ")
            ));
        }
        notes.extend(
            self.json.not_finite.iter().map(|(key, number)| format!("generation_config.json: `{key}` is {number}, and is ignored")),
        );
        notes
    }
}
