//! The tokenizer of a checkpoint: the vocabulary by rank and the added tokens.
//!
//! The 2023 model has the file `qwen.tiktoken`, which is written again in one form. The later generations have byte-level BPE in
//! `tokenizer.json`, or in `vocab.json` and `merges.txt`. Their ids are the order of the merges, so that the same file of ranks holds them.

mod added;
mod merges;

use crate::source::Files;
use crate::source::json::Json;
use anyhow::{Context, Result, bail, ensure};
use merges::Merges;
pub use merges::bpe_files;
use qwen_vl_format::{AddedToken, Family, ModelConfig, Vocabulary};
use serde_json::{Value, json};

/// The vocabulary's file name: in a 2023 checkpoint and in every web checkpoint.
pub(crate) const TOKENIZER_FILE: &str = "qwen.tiktoken";
/// The file that holds a whole tokenizer of a later generation.
const TOKENIZER_JSON: &str = "tokenizer.json";
/// The pattern by which a text is split into words.
const PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The tokenizer of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenizer {
    /// The vocabulary in the form of [`Vocabulary::to_bytes`].
    pub vocabulary: Vec<u8>,
    /// The added tokens; for the 2023 model only those that a fine-tune added, because its own follow from the number of ranks.
    pub added_tokens: Vec<AddedToken>,
}

impl Tokenizer {
    /// Reads the tokenizer of a checkpoint and checks it against the configuration.
    pub fn read(input: &Files, config: &ModelConfig) -> Result<Self> {
        read(input, config, &mut Vec::new())
    }
}

/// Reads the tokenizer of a checkpoint and checks it against the configuration. Adds notes about settings that are left out.
pub(crate) fn read(input: &Files, config: &ModelConfig, notes: &mut Vec<String>) -> Result<Tokenizer> {
    match config.family {
        Family::QwenVl => read_ranks(input, config),
        Family::Qwen2Vl | Family::Qwen25Vl | Family::Qwen3Vl => read_merges(input, config, notes),
    }
}

/// Reads the vocabulary as leniently as tiktoken and checks it against the configuration.
fn read_ranks(input: &Files, config: &ModelConfig) -> Result<Tokenizer> {
    let file = input.find(TOKENIZER_FILE);
    let file =
        file.with_context(|| format!("the vocabulary {TOKENIZER_FILE} is missing in {input}: copy it from the published checkpoint"))?;
    let bytes = file.read_all()?;
    let read = || -> Result<Vocabulary> {
        let vocabulary = Vocabulary::parse(&bytes)?;
        vocabulary.check_image_start(config.image_token)?;
        Ok(vocabulary)
    };
    let vocabulary = read().with_context(|| format!("cannot use {}", file.place())).map_err(|error| file.explain(error))?;
    // The published tokenizer looks for added tokens in the normalised text, as is done here.
    let mut added_tokens = added::read(input, None, &mut Vec::new())?;
    added_tokens.retain(|token| token.id > vocabulary.special().imgpad);
    check_rows(&added_tokens, config)?;
    vocabulary.added_tokens(config.family, &added_tokens).with_context(|| format!("cannot use the added tokens of {input}"))?;
    Ok(Tokenizer { vocabulary: vocabulary.to_bytes(), added_tokens })
}

/// Refuses added tokens that the embedding has no row for.
fn check_rows(added: &[AddedToken], config: &ModelConfig) -> Result<()> {
    let rows = config.decoder.vocab_size;
    match added.iter().find(|token| token.id as usize >= rows) {
        Some(AddedToken { id, text, .. }) => {
            bail!("the tokenizer has `{text}` as {id}, and the embedding has {rows} rows: one of the files is of another model")
        }
        None => Ok(()),
    }
}

/// Reads the byte-level BPE of a later generation.
fn read_merges(input: &Files, config: &ModelConfig, notes: &mut Vec<String>) -> Result<Tokenizer> {
    let json = input.find(TOKENIZER_JSON).map(|file| Ok::<_, anyhow::Error>((Json::read(file)?.value, file))).transpose()?;
    let (merges, files) = match &json {
        Some((json, file)) => {
            let files = file.place().to_owned();
            let read = || {
                check_steps(json)?;
                Merges::of_json(&json["model"])
            };
            (read().with_context(|| format!("cannot use {files}"))?, files)
        }
        None => {
            let (Some(vocabulary), Some(merges)) = (input.find("vocab.json"), input.find("merges.txt")) else {
                bail!(
                    "the tokenizer is missing in {input}: copy {TOKENIZER_JSON}, or vocab.json and merges.txt, from the published checkpoint"
                );
            };
            let text = merges.read_text()?;
            let files = format!("{} with {}", vocabulary.place(), merges.place());
            let read = || Merges::of_files(&Json::read(vocabulary)?.value, &text);
            (read().with_context(|| format!("cannot use {files}"))?, files)
        }
    };
    let added = added::read(input, json.as_ref().map(|(json, _)| json), notes)?;
    let vocabulary = merges.vocabulary(&added).with_context(|| format!("cannot use {files}"))?;
    let (special, _) = vocabulary.added_tokens(config.family, &added).with_context(|| format!("cannot use the added tokens of {input}"))?;
    ensure!(
        special.imgpad == config.image_token,
        "config.json: `image_token_id` is {}, and the tokenizer has `<|image_pad|>` as {}: one of the files is of another model",
        config.image_token,
        special.imgpad
    );
    if let Some(video) = config.vision.video {
        let found = special.video_pad.map_or("no `<|video_pad|>`".to_owned(), |id| format!("`<|video_pad|>` as {id}"));
        ensure!(
            special.video_pad == Some(video.token),
            "config.json: `video_token_id` is {}, and the tokenizer has {found}: one of the files is of another model",
            video.token
        );
    }
    check_rows(&added, config)?;
    Ok(Tokenizer { vocabulary: vocabulary.to_bytes(), added_tokens: added })
}

/// Refuses a `tokenizer.json` whose steps are not those of Qwen: NFC, the known pattern, byte-level BPE.
fn check_steps(json: &Value) -> Result<()> {
    // Values by key. Null stands for a missing key.
    let steps = [
        ("normalizer.type", json!(["NFC"])),
        ("pre_tokenizer.type", json!(["Sequence"])),
        ("pre_tokenizer.pretokenizers.0.type", json!(["Split"])),
        ("pre_tokenizer.pretokenizers.0.pattern.Regex", json!([PATTERN])),
        ("pre_tokenizer.pretokenizers.0.behavior", json!(["Isolated"])),
        ("pre_tokenizer.pretokenizers.0.invert", json!([false])),
        ("pre_tokenizer.pretokenizers.1.type", json!(["ByteLevel"])),
        ("pre_tokenizer.pretokenizers.1.add_prefix_space", json!([false])),
        ("pre_tokenizer.pretokenizers.1.use_regex", json!([false])),
        ("pre_tokenizer.pretokenizers.2", json!([null])),
        // Others add tokens to each text.
        ("post_processor.type", json!(["ByteLevel", null])),
        ("decoder.type", json!(["ByteLevel"])),
        ("model.type", json!(["BPE"])),
        ("model.dropout", json!([null])),
        ("model.unk_token", json!([null])),
        ("model.continuing_subword_prefix", json!(["", null])),
        ("model.end_of_word_suffix", json!(["", null])),
        ("model.byte_fallback", json!([false, null])),
        ("model.ignore_merges", json!([false, null])),
    ];
    for (key, expected) in steps {
        let found = json.pointer(&format!("/{}", key.replace('.', "/"))).unwrap_or(&Value::Null);
        let expected = expected.as_array().map_or(&[][..], Vec::as_slice);
        ensure!(
            expected.contains(found),
            "`{key}` is {found}, expected {}: this tokenizer is not Qwen's",
            expected.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ")
        );
    }
    Ok(())
}
