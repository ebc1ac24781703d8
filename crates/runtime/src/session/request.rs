//! Requests, events and answers: plain data that serializes to JSON.

use crate::{KvReuse, RuntimeError};
use qwen_vl_processor::{Chat, DEFAULT_SYSTEM, GroundedObject, Orientation, ProcessorError, Prompt, Tokenizer};
use serde::{Deserialize, Serialize};

/// The input of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The text.
    pub prompt: PromptInput,
    /// Generation settings; absent ones are those of the checkpoint.
    #[serde(default)]
    pub generation: GenerationOptions,
}

/// The text of a request. It names pictures as `<img>name</img>`; the pictures themselves are passed separately, in the same order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PromptInput {
    /// The base format: the model continues the text as it is.
    Raw {
        /// The text.
        text: String,
    },
    /// The chat template.
    Chat {
        /// System text; absent for the default one.
        #[serde(default)]
        system: Option<String>,
        /// Earlier turns: pairs of question and answer.
        #[serde(default)]
        history: Vec<(String, String)>,
        /// The question.
        query: String,
        /// Handling of a conversation that does not fit.
        #[serde(default)]
        overflow: Overflow,
    },
    /// Token ids as they are.
    Ids {
        /// The ids.
        ids: Vec<u32>,
    },
}

/// Handling of a conversation that is too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overflow {
    /// Drop the oldest turns: first those beyond the checkpoint's `max_window_size`, as the original does, then those that do not fit the
    /// context.
    #[default]
    DropOldest,
    /// Fail.
    Error,
}

/// A prompt as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPrompt {
    /// Token ids and the positions of the pictures.
    pub prompt: Prompt,
    /// Number of oldest turns that were dropped.
    pub dropped_turns: usize,
    /// Number of pictures in the dropped turns: the first ones of the conversation.
    pub dropped_images: usize,
}

impl PromptInput {
    /// Tokenizes the prompt. If `context` is set and the overflow policy is [`Overflow::DropOldest`], drops the oldest turns until the
    /// prompt fits `context` tokens.
    pub fn encode(&self, tokenizer: &Tokenizer, max_window_size: usize, context: Option<usize>) -> Result<EncodedPrompt, ProcessorError> {
        let whole = |prompt| EncodedPrompt { prompt, dropped_turns: 0, dropped_images: 0 };
        let (system, history, query, overflow) = match self {
            Self::Raw { text } => return Ok(whole(Prompt::raw(tokenizer, text)?)),
            Self::Ids { ids } => return Ok(whole(Prompt::from_ids(tokenizer, ids.clone())?)),
            Self::Chat { system, history, query, overflow } => (system, history, query, *overflow),
        };
        let system = system.clone().unwrap_or_else(|| DEFAULT_SYSTEM.to_owned());
        let chat = |history: &[(String, String)], max_window_size| {
            let chat = Chat { system: system.clone(), history: history.to_vec(), query: query.clone(), max_window_size };
            Prompt::chat_and_turns(tokenizer, &chat)
        };
        if overflow == Overflow::Error {
            return Ok(whole(chat(history, usize::MAX)?.0));
        }
        let (mut prompt, mut turns) = chat(history, max_window_size)?;
        while turns > 0 && context.is_some_and(|context| prompt.ids.len() > context) {
            turns -= 1;
            prompt = chat(&history[history.len() - turns..], usize::MAX)?.0;
        }
        let dropped_turns = history.len() - turns;
        let dropped_images = if dropped_turns == 0 { 0 } else { chat(history, usize::MAX)?.0.images.len() - prompt.images.len() };
        Ok(EncodedPrompt { prompt, dropped_turns, dropped_images })
    }
}

/// Generation settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationOptions {
    /// Maximum length of the answer, tokens.
    pub max_new_tokens: Option<usize>,
    /// Always take the most likely token.
    pub greedy: Option<bool>,
    /// Divisor of the logits; 0 is greedy.
    pub temperature: Option<f32>,
    /// Probability mass to sample from, 0 to 1.
    pub top_p: Option<f32>,
    /// Number of most likely tokens to sample from; 0 keeps all.
    pub top_k: Option<usize>,
    /// Seed of the random numbers.
    pub seed: Option<u64>,
    /// Continue past stop tokens, up to `max_new_tokens`: for comparisons with the original.
    pub ignore_stop: bool,
    /// Minimum length of the answer, tokens: stop tokens are excluded before it.
    pub min_new_tokens: usize,
    /// Makes tokens that occur in the prompt or the answer less likely; 1 changes nothing.
    pub repetition_penalty: Option<f32>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Token ids that end the answer, in addition to the checkpoint's.
    pub stop_tokens: Vec<u32>,
    /// Return each token's log-probability and those of this many of the most likely tokens.
    pub logprobs: Option<usize>,
    /// Handling of the KV cache where the rotary base would change.
    pub kv_reuse: KvReuse,
}

impl GenerationOptions {
    /// Checks the ranges of all settings.
    pub(super) fn check(&self) -> Result<(), RuntimeError> {
        let wrong = |name, value: Option<f32>, right: fn(f32) -> bool, expected| match value {
            Some(value) if !right(value) => Err(RuntimeError::InvalidOption { name, found: value.to_string(), expected }),
            _ => Ok(()),
        };
        wrong("the temperature", self.temperature, |value| value.is_finite() && value >= 0.0, "a number from 0 on")?;
        wrong("top-p", self.top_p, |value| (0.0..=1.0).contains(&value), "a number from 0 to 1")?;
        wrong("the repetition penalty", self.repetition_penalty, |value| value.is_finite() && value > 0.0, "a number above 0")
    }
}

/// A picture of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageInput {
    /// A file: PNG, JPEG, WebP, GIF or BMP.
    Encoded {
        /// Bytes of the file.
        bytes: Vec<u8>,
        /// Handling of a photo's EXIF orientation.
        orientation: Orientation,
    },
    /// Pixels of a canvas or a decoded picture, not premultiplied.
    Rgba {
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
        /// `[height, width, 4]`
        pixels: Vec<u8>,
    },
    /// A picture whose features are kept, see [`Engine::keeps_image`](super::Engine::keeps_image).
    Kept {
        /// [`PictureInfo::id`]
        id: String,
    },
}

/// Identity and size of a picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureInfo {
    /// Hash of its pixels.
    pub id: String,
    /// Width, pixels.
    pub width: u32,
    /// Height, pixels.
    pub height: u32,
}

/// Progress of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// Pictures are going through the vision tower.
    Encode {
        /// Pictures done.
        done: usize,
        /// Pictures in all.
        total: usize,
    },
    /// The prompt is going through the decoder.
    Prefill {
        /// Tokens done.
        done: usize,
        /// Tokens in all.
        total: usize,
    },
    /// Candidates are being scored.
    Score {
        /// Candidates done.
        done: usize,
        /// Candidates in all.
        total: usize,
    },
    /// More text.
    Text {
        /// The new text without tags.
        delta: String,
        /// All text since the previous event, with its tags.
        raw: String,
    },
    /// The answer closed a box or quad.
    Object {
        /// The object.
        object: GroundedObject,
    },
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Token ids of the prompt.
    pub prompt_ids: Vec<u32>,
    /// Number of prompt tokens that the KV cache held from the previous run.
    pub reused_tokens: usize,
    /// Number of oldest turns that were dropped from the prompt.
    pub dropped_turns: usize,
    /// The pictures of the prompt, without those of dropped turns.
    pub images: Vec<PictureInfo>,
    /// Token ids of the answer; the last may be a stop token.
    pub tokens: Vec<u32>,
    /// The answer without tags, stripped.
    pub text: String,
    /// The answer with its grounding tags, as it enters a chat's history.
    pub raw: String,
    /// The objects that the answer points at.
    pub objects: Vec<GroundedObject>,
    /// Reason why the answer ended.
    pub finish_reason: FinishReason,
    /// Wall-clock times.
    pub timings: Timings,
    /// Log-probability of each token, if requested.
    pub logprobs: Option<Vec<TokenLogprobs>>,
}

/// A token and its log-probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Token id.
    pub token: u32,
    /// Text of the token alone; a part of a character shows as U+FFFD.
    pub text: String,
    /// Natural logarithm of its probability, before temperature and penalties.
    pub logprob: f64,
}

/// A token of an answer with its most likely alternatives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprobs {
    /// The token that was chosen.
    #[serde(flatten)]
    pub chosen: TokenLogprob,
    /// The most likely tokens at this position.
    pub top: Vec<TokenLogprob>,
}

/// The input of a scoring run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreRequest {
    /// The text before.
    pub prompt: PromptInput,
    /// The texts that may follow it.
    pub candidates: Vec<String>,
}

/// Likelihood of a text after a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Token ids of the text.
    pub tokens: Vec<u32>,
    /// Natural logarithm of each token's probability.
    pub logprobs: Vec<f64>,
}

/// Reason why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinishReason {
    /// A stop token.
    Stop,
    /// A stop text.
    StopString,
    /// The limit of new tokens.
    Length,
    /// The end of the context.
    Context,
    /// The listener stopped it.
    Cancelled,
}

/// Wall-clock times of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Pictures: decoding, resize, vision tower and resampler.
    pub encode_ms: f64,
    /// The prompt through the decoder.
    pub prefill_ms: f64,
    /// From the start to the first token.
    pub first_token_ms: f64,
    /// From the first token to the last.
    pub decode_ms: f64,
    /// Tokens after the first per second of `decode_ms`; 0 if the clock did not advance.
    pub decode_tokens_per_second: f64,
}
