//! Requests, events and answers: plain data that serializes to JSON.

use crate::{KvReuse, RuntimeError};
use qwen_vl_format::manifest::GenerationConfig;
use qwen_vl_format::{Manifest, ModelConfig};
use qwen_vl_processor::{
    Chat, ChatPrompt, Colors, Content, DecodeOptions, GroundedObject, Message, Messages, Picture, PictureGrid, PictureSizing,
    ProcessorError, Prompt, Role, Tokenizer, VideoOptions, VideoPlan, VideoSizing, VideoSource,
};
use serde::{Deserialize, Serialize};

/// The input of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct Request {
    /// The text.
    pub prompt: PromptInput,
    /// Generation settings; absent ones are those of the checkpoint.
    #[serde(default)]
    #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
    pub generation: GenerationOptions,
    /// Sizes of the pictures for the model.
    #[serde(default)]
    #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
    pub pictures: PictureLimits,
}

/// Limits of the size of a picture for models that take pictures of any size. A picture outside of them is enlarged or reduced. The 2023
/// model, whose pictures have one size, ignores them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[serde(default)]
pub struct PictureLimits {
    /// Fewest tokens of a picture; absent for the checkpoint's limit. Locating small objects needs about 1024.
    pub min_tokens: Option<usize>,
    /// Most tokens of a picture; absent, and at most, what the model was loaded with.
    pub max_tokens: Option<usize>,
}

impl PictureLimits {
    /// Returns the fewest and the most tokens of a picture without limits, for a model that was loaded with `max_picture_tokens`
    /// ([`ModelOptions`](crate::ModelOptions)). They are equal if all pictures have one size.
    pub fn range(manifest: &Manifest, max_picture_tokens: usize) -> [usize; 2] {
        let Some(sizing) = sizing(manifest) else { return [manifest.config.vision.queries(); 2] };
        let pixels = (sizing.factor() as u64).pow(2);
        let most = sizing.max_pixels / pixels;
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(max_picture_tokens);
        let least = usize::try_from(sizing.min_pixels.div_ceil(pixels)).unwrap_or(usize::MAX);
        [least.clamp(1, most.max(1)), most]
    }

    /// Returns the grid of a picture of this size, pixels, for a model that was loaded with `max_picture_tokens`
    /// ([`ModelOptions`](crate::ModelOptions)).
    pub fn grid(&self, manifest: &Manifest, max_picture_tokens: usize, width: u32, height: u32) -> Result<PictureGrid, RuntimeError> {
        let Some(sizing) = sizing(manifest) else {
            let side = manifest.config.vision.fixed_grid().unwrap_or_default();
            return Ok(PictureGrid::still([side, side], 1, manifest.config.vision.patch_size));
        };
        let most = self.max_tokens.unwrap_or(max_picture_tokens);
        if most > max_picture_tokens {
            let expected = format!("at most {max_picture_tokens}, which the model was loaded with");
            return Err(RuntimeError::invalid_option("max picture tokens", most, expected));
        }
        // A limit of the checkpoint that is lower stays as it is, to the pixel.
        let published = sizing.max_pixels / (sizing.factor() as u64).pow(2);
        let most = (self.max_tokens.is_some() || (max_picture_tokens as u64) < published).then_some(most);
        let sizing = sizing.with_tokens(self.min_tokens, most)?;
        // The checkpoint's own limits act as in the original, which lets a minimum that is rounded up exceed a maximum near it.
        Ok(if most.is_some() { sizing.grid_within(width, height)? } else { sizing.grid(width, height)? })
    }
}

/// Returns the rule of the sizes of pictures; `None` if they have one size.
fn sizing(manifest: &Manifest) -> Option<PictureSizing> {
    let Manifest { config: ModelConfig { vision, .. }, processor, .. } = manifest;
    Some(PictureSizing {
        patch_size: vision.patch_size,
        merge: vision.merger.as_ref()?.size,
        min_pixels: processor.min_pixels.unwrap_or(1),
        max_pixels: processor.max_pixels.unwrap_or(u64::MAX),
        window: vision.windows.as_ref().map(|windows| windows.size),
    })
}

/// Chooses the frames of a video and their size, for a model that was loaded with `max_picture_tokens` and a context of `context_length`
/// tokens ([`ModelOptions`](crate::ModelOptions)). Without a limit of tokens, a video takes at most half of the context.
pub fn plan_video(
    manifest: &Manifest,
    max_picture_tokens: usize,
    context_length: usize,
    source: &VideoSource,
    options: &VideoOptions,
) -> Result<VideoPlan, RuntimeError> {
    let config = &manifest.config;
    let Some(pictures) = sizing(manifest) else { return Err(ProcessorError::Video.into()) };
    if config.vision.video.is_none() {
        return Err(RuntimeError::NoVideo);
    }
    let most = (max_picture_tokens as u64).saturating_mul((pictures.factor() as u64).pow(2));
    let pictures = PictureSizing { max_pixels: pictures.max_pixels.min(most), ..pictures };
    let options = VideoOptions { max_tokens: Some(options.max_tokens.unwrap_or(context_length / 2)), ..*options };
    Ok(VideoSizing { family: config.family, pictures }.plan(source, &options)?)
}

/// The text of a request. It names its pictures; the pictures themselves are passed separately, in the same order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(tag = "kind", rename_all = "snake_case", try_from = "PromptKeys")]
pub enum PromptInput {
    /// The base format: the model continues the text as it is.
    Raw {
        /// The text; `<img>name</img>` in it is a picture.
        text: String,
    },
    /// The chat template.
    Chat {
        /// System text; absent for the default one.
        #[cfg_attr(feature = "typescript", ts(optional))]
        system: Option<String>,
        /// Earlier turns: pairs of question and answer. Each is a list of parts, or a string with tags.
        #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
        history: Vec<(Content, Content)>,
        /// The question: a list of parts, or a string with tags.
        query: Content,
        /// Beginning of the answer, which the model continues.
        #[serde(default)]
        #[cfg_attr(feature = "typescript", ts(optional))]
        prefix: Option<String>,
        /// Handling of a conversation that does not fit.
        #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
        overflow: Overflow,
    },
    /// The chat template over a list of messages. A conversation that does not fit fails.
    Messages {
        /// The messages, in order.
        messages: Vec<Message>,
        /// Descriptions of tools, as JSON texts. Only Qwen3-VL takes them.
        #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
        tools: Vec<String>,
        /// Beginning of the answer, which the model continues.
        #[serde(default)]
        #[cfg_attr(feature = "typescript", ts(optional))]
        prefix: Option<String>,
    },
    /// Token ids as they are.
    Ids {
        /// The ids.
        ids: Vec<u32>,
    },
}

/// The keys of all prompts. The derived reader of a tagged enum buffers values of any type, which takes 17 kB of wasm.
#[derive(Deserialize)]
struct PromptKeys {
    kind: PromptKind,
    text: Option<String>,
    system: Option<String>,
    #[serde(default)]
    history: Vec<(Content, Content)>,
    query: Option<Content>,
    prefix: Option<String>,
    #[serde(default)]
    overflow: Overflow,
    messages: Option<Vec<Message>>,
    #[serde(default)]
    tools: Vec<String>,
    ids: Option<Vec<u32>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum PromptKind {
    Raw,
    Chat,
    Messages,
    Ids,
}

impl TryFrom<PromptKeys> for PromptInput {
    type Error = &'static str;

    fn try_from(keys: PromptKeys) -> Result<Self, &'static str> {
        let PromptKeys { kind, text, system, history, query, prefix, overflow, messages, tools, ids } = keys;
        Ok(match kind {
            PromptKind::Raw => Self::Raw { text: text.ok_or("missing field `text`")? },
            PromptKind::Chat => Self::Chat { system, history, query: query.ok_or("missing field `query`")?, prefix, overflow },
            PromptKind::Messages => Self::Messages { messages: messages.ok_or("missing field `messages`")?, tools, prefix },
            PromptKind::Ids => Self::Ids { ids: ids.ok_or("missing field `ids`")? },
        })
    }
}

/// Handling of a conversation that is too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "kebab-case")]
pub enum Overflow {
    /// Drop the oldest turns: first those beyond the checkpoint's `max_window_size`, as the original does, then those that do not fit the
    /// context.
    #[default]
    DropOldest,
    /// Fail.
    Error,
}

impl PromptInput {
    /// Tokenizes the prompt. If `context` is set and the overflow policy is [`Overflow::DropOldest`], drops the oldest turns until the
    /// prompt fits `context` tokens.
    ///
    /// `grids` are those of all pictures in order; the 2023 model needs none.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        grids: &[PictureGrid],
        max_window_size: usize,
        context: Option<usize>,
    ) -> Result<ChatPrompt, ProcessorError> {
        let whole = |prompt| ChatPrompt { prompt, ..ChatPrompt::default() };
        match self {
            Self::Raw { text } => Ok(whole(Prompt::raw(tokenizer, text, grids)?)),
            Self::Ids { ids } => Ok(whole(Prompt::from_ids(tokenizer, ids.clone(), grids)?)),
            Self::Messages { messages, tools, prefix } => {
                let (messages, tools, prefix) = (messages.clone(), tools.clone(), prefix.clone());
                let messages = Messages { messages, tools, prefix, ..Messages::default() };
                Ok(whole(Prompt::messages(tokenizer, &messages, grids)?))
            }
            Self::Chat { system, history, query, prefix, overflow } => {
                let (max_window_size, context) = match overflow {
                    Overflow::DropOldest => (max_window_size, context),
                    Overflow::Error => (usize::MAX, None),
                };
                let (system, history, query, prefix) = (system.clone(), history.clone(), query.clone(), prefix.clone());
                Prompt::chat(tokenizer, &Chat { system, history, query, prefix, max_window_size, context }, grids)
            }
        }
    }

    /// Returns the text of the question, in which pictures may be mentioned.
    pub fn question(&self) -> String {
        match self {
            Self::Raw { text } => text.clone(),
            Self::Chat { query, .. } => query.typed(),
            Self::Messages { messages, .. } => {
                let asked = messages.iter().rev().find(|message| message.role == Role::User);
                asked.map_or_else(String::new, |message| message.content.typed())
            }
            Self::Ids { .. } => String::new(),
        }
    }
}

/// Generation settings. Absent ones are those of the checkpoint.
///
/// An answer is sampled if the checkpoint samples or if `temperature` (above 0), `top_p` or `top_k` is set. It is greedy if `greedy` is
/// true, whatever else is set, or if `temperature` is 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[serde(default)]
pub struct GenerationOptions {
    /// Maximum length of the answer, tokens; at least 1.
    pub max_new_tokens: Option<usize>,
    /// True to take the most likely token always; false to sample.
    pub greedy: Option<bool>,
    /// Divisor of the logits; 0 is greedy.
    pub temperature: Option<f32>,
    /// Probability mass to sample from, 0 to 1.
    pub top_p: Option<f32>,
    /// Number of most likely tokens to sample from; 0 keeps all.
    pub top_k: Option<usize>,
    /// Seed of the random numbers; absent for the clock. It has no effect on a greedy answer, and does not make an answer sampled.
    pub seed: Option<u64>,
    /// Continue past stop tokens, up to `max_new_tokens`: for comparisons with the original.
    #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
    pub ignore_stop: bool,
    /// Minimum length of the answer, tokens: stop tokens are excluded before it.
    #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
    pub min_new_tokens: usize,
    /// Makes tokens that occur in the prompt or the answer less likely; 1 changes nothing.
    pub repetition_penalty: Option<f32>,
    /// Subtracted from the logits of tokens that occur in the answer; 0 changes nothing. It ends loops. Absent for the checkpoint's, and
    /// without one 1.5 for sampled answers of Qwen3-VL, as its makers recommend.
    pub presence_penalty: Option<f32>,
    /// Continue an answer that repeats itself. By default it ends once its last tokens are a passage of up to 64 tokens, four times and at least
    /// 128 tokens in all.
    #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
    pub allow_loops: bool,
    /// Texts that end the answer; they are not part of it. Empty ones have no effect.
    #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
    pub stop: Vec<String>,
    /// Token ids that end the answer, in addition to the checkpoint's.
    #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
    pub stop_tokens: Vec<u32>,
    /// Return each token's log-probability and those of this many of the most likely tokens.
    pub logprobs: Option<usize>,
    /// Handling of the KV cache where the rotary base would change.
    #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
    pub kv_reuse: KvReuse,
}

impl GenerationOptions {
    /// Checks the ranges of all settings for a checkpoint with these defaults and a vocabulary of `vocab` tokens.
    pub(super) fn check(&self, defaults: &GenerationConfig, vocab: usize) -> Result<(), RuntimeError> {
        let float = |name, value: Option<f32>, right: fn(f32) -> bool, expected| match value {
            Some(value) if !right(value) => Err(RuntimeError::invalid_option(name, value, expected)),
            _ => Ok(()),
        };
        float("temperature", self.temperature, |value| value.is_finite() && value >= 0.0, "a number of at least 0")?;
        float("top-p", self.top_p, |value| (0.0..=1.0).contains(&value), "a number from 0 to 1")?;
        float("repetition penalty", self.repetition_penalty, |value| value.is_finite() && value > 0.0, "a number above 0")?;
        float("presence penalty", self.presence_penalty, |value| (-2.0..=2.0).contains(&value), "a number from -2 to 2")?;
        if self.max_new_tokens == Some(0) {
            return Err(RuntimeError::invalid_option("max tokens", 0, "at least 1"));
        }
        let most = self.max_new_tokens.unwrap_or(defaults.max_new_tokens);
        if self.min_new_tokens > most {
            return Err(RuntimeError::invalid_option("min tokens", self.min_new_tokens, format!("at most max tokens, {most}")));
        }
        if let Some(count) = self.logprobs.filter(|count| *count > vocab) {
            return Err(RuntimeError::invalid_option("logprobs", count, format!("at most the vocabulary size, {vocab}")));
        }
        match self.stop_tokens.iter().find(|id| **id as usize >= vocab) {
            Some(id) => Err(RuntimeError::invalid_option("stop token", id, format!("an id below the vocabulary size, {vocab}"))),
            None => Ok(()),
        }
    }

    /// Returns the longest answer to a prompt of `prompt` tokens, in tokens. The checkpoint's limit of prompt and answer together applies
    /// unless the request sets a length.
    pub fn longest_answer(&self, prompt: usize, defaults: &GenerationConfig) -> usize {
        let limit = defaults.max_length.map_or(usize::MAX, |max_length| max_length.saturating_sub(prompt));
        self.max_new_tokens.unwrap_or_else(|| defaults.max_new_tokens.min(limit)).max(1)
    }

    /// Returns the length before which stop tokens are excluded. The checkpoint's default never exceeds a requested maximum, and does not
    /// apply if the request ignores stop tokens.
    pub(super) fn shortest_answer(&self, defaults: &GenerationConfig) -> usize {
        match self.min_new_tokens {
            0 if self.ignore_stop => 0,
            0 => defaults.min_new_tokens.unwrap_or(0).min(self.max_new_tokens.unwrap_or(usize::MAX)),
            requested => requested,
        }
    }

    /// Returns the texts that end the answer: the request's, and the checkpoint's unless the request ignores its stop tokens.
    pub(super) fn stops(&self, defaults: &GenerationConfig) -> Vec<String> {
        let of_checkpoint: &[String] = if self.ignore_stop { &[] } else { &defaults.stop_strings };
        [&self.stop, of_checkpoint].concat()
    }

    /// True if the answer is sampled, on a checkpoint with these defaults.
    pub(super) fn samples(&self, defaults: &GenerationConfig) -> bool {
        let requested = self.temperature.is_some() || self.top_p.is_some() || self.top_k.is_some();
        let greedy = self.greedy.unwrap_or(!requested && !defaults.do_sample);
        !greedy && self.temperature != Some(0.0)
    }
}

/// A picture or a video of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum ImageInput {
    /// A file: PNG, JPEG, WebP, GIF or BMP.
    Encoded {
        /// Bytes of the file.
        bytes: Vec<u8>,
        /// Handling of orientation and colours.
        options: DecodeOptions,
    },
    /// Pixels of a canvas or a decoded picture, not premultiplied.
    Rgba {
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
        /// `[height, width, 4]`
        pixels: Vec<u8>,
        /// Handling of transparent pixels.
        colors: Colors,
    },
    /// A video, for the later generations.
    Video {
        /// Its frames, in the size of [`VideoPlan`](qwen_vl_processor::VideoPlan): they are not resized.
        frames: Vec<Picture>,
        /// Time of each frame, seconds.
        times: Vec<f64>,
        /// Frames a second; absent for the mean distance of the times.
        fps: Option<f64>,
    },
    /// A picture or video whose features are kept, see [`Engine::keeps_image`](super::Engine::keeps_image).
    Kept {
        /// [`PictureInfo::id`]
        id: String,
    },
}

/// Identity and size of a picture or a video.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct PictureInfo {
    /// Hash of its pixels.
    pub id: String,
    /// Width, pixels.
    pub width: u32,
    /// Height, pixels.
    pub height: u32,
    /// Width and height that the model sees, pixels.
    pub seen: [u32; 2],
    /// Positions in the prompt.
    pub tokens: usize,
    /// Number of frames of a video; 1 for a picture.
    pub frames: usize,
}

/// Progress of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
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
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
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
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
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
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct TokenLogprobs {
    /// The token that was chosen.
    #[serde(flatten)]
    pub chosen: TokenLogprob,
    /// The most likely tokens at this position.
    pub top: Vec<TokenLogprob>,
}

/// The input of a scoring run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct ScoreRequest {
    /// The text before.
    pub prompt: PromptInput,
    /// The texts that may follow it.
    pub candidates: Vec<String>,
    /// Sizes of the pictures for the model.
    #[serde(default)]
    #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
    pub pictures: PictureLimits,
}

/// Likelihood of a text after a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct Score {
    /// Token ids of the text.
    pub tokens: Vec<u32>,
    /// Natural logarithm of each token's probability.
    pub logprobs: Vec<f64>,
}

/// Reason why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
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
    /// It repeated itself: see [`GenerationOptions::allow_loops`].
    Loop,
    /// The listener stopped it.
    Cancelled,
}

/// Wall-clock times of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
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

#[cfg(test)]
mod tests {
    use super::*;
    use qwen_vl_processor::ToolCall;

    fn defaults(do_sample: bool) -> GenerationConfig {
        GenerationConfig {
            chat_format: "chatml".to_owned(),
            eos_token_id: 5,
            extra_eos_token_ids: Vec::new(),
            max_new_tokens: 16,
            max_length: None,
            max_window_size: 100,
            do_sample,
            temperature: None,
            top_k: 0,
            top_p: 0.3,
            repetition_penalty: None,
            presence_penalty: None,
            min_new_tokens: None,
            stop_strings: Vec::new(),
        }
    }

    #[test]
    fn prompts_in_json() {
        let chat = |system: Option<&str>, history, prefix: Option<&str>, overflow| PromptInput::Chat {
            system: system.map(str::to_owned),
            history,
            query: "Why?".into(),
            prefix: prefix.map(str::to_owned),
            overflow,
        };
        for (json, prompt) in [
            (r#"{"kind":"raw","text":"A cat"}"#, PromptInput::Raw { text: "A cat".to_owned() }),
            (r#"{"kind":"ids","ids":[1,2]}"#, PromptInput::Ids { ids: vec![1, 2] }),
            (r#"{"kind":"chat","query":"Why?"}"#, chat(None, Vec::new(), None, Overflow::DropOldest)),
            (
                r#"{"kind":"chat","system":"Be brief.","history":[["Hi","Hello"]],"query":"Why?","prefix":"Be","overflow":"error"}"#,
                chat(Some("Be brief."), vec![("Hi".into(), "Hello".into())], Some("Be"), Overflow::Error),
            ),
            (
                r#"{"kind":"messages","messages":[{"role":"user","content":"Why?"},{"role":"assistant","content":"",
                    "tool_calls":[{"name":"find","arguments":"{}"}]},{"role":"tool","content":"4"}],"tools":["{}"],"prefix":"4"}"#,
                PromptInput::Messages {
                    messages: vec![
                        Message { role: Role::User, content: "Why?".into(), tool_calls: Vec::new() },
                        Message {
                            role: Role::Assistant,
                            content: "".into(),
                            tool_calls: vec![ToolCall { name: "find".to_owned(), arguments: "{}".to_owned() }],
                        },
                        Message { role: Role::Tool, content: "4".into(), tool_calls: Vec::new() },
                    ],
                    tools: vec!["{}".to_owned()],
                    prefix: Some("4".to_owned()),
                },
            ),
        ] {
            assert_eq!(serde_json::from_str::<PromptInput>(json).unwrap(), prompt);
            let written = serde_json::to_string(&prompt).unwrap();
            assert_eq!(serde_json::from_str::<PromptInput>(&written).unwrap(), prompt, "{written}");
        }
        for (json, problem) in [
            (r#"{"kind":"raw"}"#, "missing field `text`"),
            (r#"{"kind":"chat"}"#, "missing field `query`"),
            (r#"{"kind":"ids"}"#, "missing field `ids`"),
            (r#"{"kind":"messages"}"#, "missing field `messages`"),
            (r#"{"kind":"song"}"#, "unknown variant `song`"),
            (r#"{"text":"A cat"}"#, "missing field `kind`"),
        ] {
            let error = serde_json::from_str::<PromptInput>(json).unwrap_err().to_string();
            assert!(error.starts_with(problem), "{json}: {error}");
        }
    }

    #[test]
    fn an_explicit_sampling_option_samples() {
        let none = GenerationOptions::default();
        let with = |change: fn(&mut GenerationOptions)| {
            let mut options = GenerationOptions::default();
            change(&mut options);
            options
        };
        assert_eq!([none.samples(&defaults(true)), none.samples(&defaults(false))], [true, false]);
        for options in [
            with(|options| options.temperature = Some(0.7)),
            with(|options| options.top_p = Some(0.5)),
            with(|options| options.top_k = Some(3)),
            with(|options| options.greedy = Some(false)),
        ] {
            assert!(options.samples(&defaults(false)), "{options:?}");
            let greedy = GenerationOptions { greedy: Some(true), ..options };
            assert!(!greedy.samples(&defaults(true)), "{greedy:?}");
        }
        let zero = with(|options| (options.temperature, options.top_p) = (Some(0.0), Some(0.5)));
        assert!(!zero.samples(&defaults(true)));
        let seed = with(|options| options.seed = Some(1));
        assert!(!seed.samples(&defaults(false)), "a seed alone");
    }

    #[test]
    fn options_out_of_range_are_named() {
        type Change = fn(&mut GenerationOptions);
        let check = |change: Change| {
            let mut options = GenerationOptions::default();
            change(&mut options);
            options.check(&defaults(true), 576).map_err(|error| error.to_string())
        };
        let refused: [(Change, &str); 14] = [
            (|options| options.max_new_tokens = Some(0), "max tokens is 0, expected at least 1"),
            (|options| options.min_new_tokens = 17, "min tokens is 17, expected at most max tokens, 16"),
            (|options| options.temperature = Some(-0.5), "temperature is -0.5, expected a number of at least 0"),
            (|options| options.temperature = Some(f32::NAN), "temperature is NaN, expected a number of at least 0"),
            (|options| options.temperature = Some(f32::INFINITY), "temperature is inf, expected a number of at least 0"),
            (|options| options.top_p = Some(1.5), "top-p is 1.5, expected a number from 0 to 1"),
            (|options| options.top_p = Some(-0.1), "top-p is -0.1, expected a number from 0 to 1"),
            (|options| options.top_p = Some(f32::NAN), "top-p is NaN, expected a number from 0 to 1"),
            (|options| options.repetition_penalty = Some(0.0), "repetition penalty is 0, expected a number above 0"),
            (|options| options.repetition_penalty = Some(-1.0), "repetition penalty is -1, expected a number above 0"),
            (|options| options.repetition_penalty = Some(f32::NAN), "repetition penalty is NaN, expected a number above 0"),
            (|options| options.logprobs = Some(577), "logprobs is 577, expected at most the vocabulary size, 576"),
            (|options| options.stop_tokens = vec![5, 576], "stop token is 576, expected an id below the vocabulary size, 576"),
            (|options| options.stop_tokens = vec![u32::MAX], "stop token is 4294967295, expected an id below the vocabulary size, 576"),
        ];
        for (change, message) in refused {
            assert_eq!(check(change), Err(message.to_owned()));
        }
        let accepted: [fn(&mut GenerationOptions); 6] = [
            |options| options.max_new_tokens = Some(1),
            |options| (options.min_new_tokens, options.max_new_tokens) = (17, Some(17)),
            |options| (options.temperature, options.top_p, options.top_k) = (Some(0.0), Some(0.0), Some(usize::MAX)),
            |options| options.top_p = Some(1.0),
            |options| options.logprobs = Some(576),
            |options| options.stop_tokens = vec![575],
        ];
        for change in accepted {
            assert_eq!(check(change), Ok(()));
        }
    }

    #[test]
    fn a_length_of_prompt_and_answer_holds_unless_the_request_sets_one() {
        let defaults = GenerationConfig { max_new_tokens: 64, max_length: Some(40), ..defaults(false) };
        let none = GenerationOptions::default();
        assert_eq!([10, 39, 50].map(|prompt| none.longest_answer(prompt, &defaults)), [30, 1, 1]);
        let own = GenerationOptions { max_new_tokens: Some(50), ..none.clone() };
        assert_eq!(own.longest_answer(30, &defaults), 50);
        assert_eq!(none.longest_answer(30, &GenerationConfig { max_length: None, ..defaults }), 64);
    }
}
