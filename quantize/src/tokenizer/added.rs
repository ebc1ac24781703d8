//! The added tokens of a checkpoint. Up to three files list them.

use super::TOKENIZER_JSON;
use crate::source::Files;
use crate::source::json::Json;
use crate::source::weights::list;
use anyhow::{Context, Result, bail, ensure};
use qwen_vl_format::AddedToken;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const ADDED_TOKENS: &str = "added_tokens.json";

/// A token as a file lists it.
struct Listed {
    text: String,
    /// Absent in `added_tokens.json`.
    special: Option<bool>,
    file: &'static str,
}

/// Reads the added tokens, in the order of their ids. `tokenizer` is the contents of `tokenizer.json`, if there is one.
pub(super) fn read(input: &Files, tokenizer: Option<&Value>, notes: &mut Vec<String>) -> Result<Vec<AddedToken>> {
    let file = |name: &str| input.find(name).map(Json::read).transpose();
    let settings = file(TOKENIZER_CONFIG)?.map_or(Value::Null, |json| json.value);
    let mut tokens = Tokens::default();
    for entry in tokenizer.and_then(|json| json["added_tokens"].as_array()).into_iter().flatten() {
        tokens.add_entry(entry["id"].as_u64(), entry, TOKENIZER_JSON)?;
    }
    for (id, entry) in settings["added_tokens_decoder"].as_object().into_iter().flatten() {
        tokens.add_entry(id.parse().ok(), entry, TOKENIZER_CONFIG)?;
    }
    if let Some(json) = file(ADDED_TOKENS)? {
        for (text, id) in json.value.as_object().into_iter().flatten() {
            tokens.add(id.as_u64(), Listed { text: text.clone(), special: None, file: ADDED_TOKENS })?;
        }
    }
    if !tokens.normalized.is_empty() {
        notes.push(format!(
            "the added tokens {} are looked for in the normalised text by the original, and in the text as typed here",
            list(&tokens.normalized)
        ));
    }
    // Lists of special tokens, for those whose flag no file has.
    let mut special = BTreeSet::new();
    for json in [Some(settings), file("special_tokens_map.json")?.map(|json| json.value)].into_iter().flatten() {
        for key in ["additional_special_tokens", "extra_special_tokens", "bos_token", "eos_token", "pad_token", "unk_token"] {
            collect_texts(&json[key], &mut special);
        }
    }
    let token = |(id, Listed { text, special: flag, .. }): (u32, Listed)| {
        let special = flag.unwrap_or_else(|| special.contains(&text));
        AddedToken { id, text, special }
    };
    Ok(tokens.by_id.into_iter().map(token).collect())
}

#[derive(Default)]
struct Tokens {
    by_id: BTreeMap<u32, Listed>,
    ids: BTreeMap<String, u32>,
    /// Texts of tokens that are matched after the normalisation.
    normalized: Vec<String>,
}

impl Tokens {
    /// Adds a token with its flags.
    fn add_entry(&mut self, id: Option<u64>, entry: &Value, file: &'static str) -> Result<()> {
        let text = entry["content"].as_str().with_context(|| format!("{file}: the added token {entry} has no `content`"))?;
        for flag in ["lstrip", "rstrip", "single_word"] {
            ensure!(entry[flag] != true, "{file}: the added token `{text}` has `{flag}` true, which is not supported");
        }
        if entry["normalized"] == true && !self.normalized.iter().any(|found| found == text) {
            self.normalized.push(text.to_owned());
        }
        self.add(id, Listed { text: text.to_owned(), special: entry["special"].as_bool(), file })
    }

    /// Adds a token, or compares it with the same one of another file. The flag of the later file counts, as in transformers.
    fn add(&mut self, id: Option<u64>, token: Listed) -> Result<()> {
        let Listed { text, file, .. } = &token;
        let id = id.and_then(|id| u32::try_from(id).ok()).with_context(|| format!("{file}: the added token `{text}` has no id"))?;
        if let Some(other) = self.by_id.get(&id).filter(|other| other.text != *text) {
            bail!("{file} has `{text}` as {id}, and {} has `{}`: one of the files is of another model", other.file, other.text);
        }
        if let Some(other) = self.ids.insert(text.clone(), id).filter(|other| *other != id) {
            bail!("{file} has `{text}` as {id}, and another entry has it as {other}: one of the files is of another model");
        }
        let special = token.special.or_else(|| self.by_id.get(&id).and_then(|before| before.special));
        self.by_id.insert(id, Listed { special, ..token });
        Ok(())
    }
}

/// Collects the texts of a token, or of a list of tokens, each a text or an object with `content`.
fn collect_texts(value: &Value, texts: &mut BTreeSet<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect_texts(value, texts)),
        value => texts.extend(value.as_str().or(value["content"].as_str()).map(str::to_owned)),
    }
}
