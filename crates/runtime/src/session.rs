//! From a question about pictures to an answer: the processor and the model together.
//!
//! [`Request`], [`Event`] and [`Answer`] are what the command line and the browser exchange with the engine, as JSON.

use crate::sampler::{largest, log_sum_exp, most_likely, penalize};
use crate::{Backend, KvReuse, Model, RuntimeError, Sampler, SamplingOptions, Trace};
use qwen_vl_format::ShardHash;
use qwen_vl_processor::{
    AnswerStream, Chat, DEFAULT_SYSTEM, GroundedObject, GroundingEvent, KeepSpecials, Orientation, Picture, PictureSize, ProcessorError,
    Prompt, SpecialTokens, Tokenizer,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use web_time::Instant;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The text.
    pub prompt: PromptInput,
    /// How the answer is generated; absent settings are those of the checkpoint.
    #[serde(default)]
    pub generation: GenerationOptions,
}

/// The text of a request. Pictures stand in it as `<img>name</img>`; their contents are given beside it, in the same order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PromptInput {
    /// The base format: the text is continued as it is.
    Raw {
        /// The text.
        text: String,
    },
    /// The chat template.
    Chat {
        /// What the assistant is told at the start.
        #[serde(default)]
        system: Option<String>,
        /// Questions and answers so far.
        #[serde(default)]
        history: Vec<(String, String)>,
        /// The question.
        query: String,
        /// What happens when all this does not fit.
        #[serde(default)]
        overflow: Overflow,
    },
    /// Token ids as they are.
    Ids {
        /// The ids.
        ids: Vec<u32>,
    },
}

/// What happens to a conversation that is too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overflow {
    /// The oldest turns are left out: those beyond `max_window_size`, as in the original, and then as many as the context asks for.
    #[default]
    DropOldest,
    /// It is an error.
    Error,
}

/// A prompt as it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPrompt {
    /// Token ids and the places of the pictures.
    pub prompt: Prompt,
    /// Oldest turns that were left out.
    pub dropped_turns: usize,
    /// Pictures that were left out with them: the first ones.
    pub dropped_images: usize,
}

impl PromptInput {
    /// Token ids and the places of the pictures. Where `context` is given, oldest turns are dropped until the prompt fits into so many
    /// tokens, if it is to be so.
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

/// How an answer is generated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationOptions {
    /// Longest answer, tokens.
    pub max_new_tokens: Option<usize>,
    /// Always the most likely token.
    pub greedy: Option<bool>,
    /// Divides the logits.
    pub temperature: Option<f32>,
    /// Probability mass to keep.
    pub top_p: Option<f32>,
    /// Most likely tokens to keep; 0 keeps all.
    pub top_k: Option<usize>,
    /// Start of the random numbers.
    pub seed: Option<u64>,
    /// Go on past stop tokens, up to `max_new_tokens`: for comparisons with the original.
    pub ignore_stop: bool,
    /// Shortest answer, tokens: stop tokens are not chosen before.
    pub min_new_tokens: usize,
    /// Makes tokens that occur in the prompt or the answer less likely; 1 changes nothing.
    pub repetition_penalty: Option<f32>,
    /// Texts that end the answer, without being part of it.
    pub stop: Vec<String>,
    /// Tokens that end the answer, beside the checkpoint's.
    pub stop_tokens: Vec<u32>,
    /// Tell how likely each token was, and so many of its rivals.
    pub logprobs: Option<usize>,
    /// What happens to the KV cache where the rotary base would change.
    pub kv_reuse: KvReuse,
}

impl GenerationOptions {
    fn check(&self) -> Result<(), RuntimeError> {
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
        /// Its bytes.
        bytes: Vec<u8>,
        /// What to do with a photo's EXIF orientation.
        orientation: Orientation,
    },
    /// Pixels of a canvas or a decoded picture, not premultiplied.
    Rgba {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// `[height, width, 4]`
        pixels: Vec<u8>,
    },
    /// A picture whose features are kept, see [`Engine::keeps_image`].
    Kept {
        /// [`PictureInfo::id`]
        id: String,
    },
}

/// A picture as the engine knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureInfo {
    /// Hash of its pixels.
    pub id: String,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// What happens while a request runs.
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
    /// More text, without tags.
    Text {
        /// The text.
        delta: String,
        /// The text since the event before, with its tags.
        raw: String,
    },
    /// The answer points at something: its box or quad was closed.
    Object {
        /// What.
        object: GroundedObject,
    },
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Tokens of the prompt.
    pub prompt_ids: Vec<u32>,
    /// Tokens of the prompt that were not run again, because the request before began with the same.
    pub reused_tokens: usize,
    /// Oldest turns that were left out of the prompt.
    pub dropped_turns: usize,
    /// The pictures of the prompt, without those of turns that were left out.
    pub images: Vec<PictureInfo>,
    /// Tokens of the answer; the last may be a stop token.
    pub tokens: Vec<u32>,
    /// The answer without tags, stripped.
    pub text: String,
    /// The answer with its grounding tags, as it goes into a chat's history.
    pub raw: String,
    /// What the answer points at.
    pub objects: Vec<GroundedObject>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// How long it took.
    pub timings: Timings,
    /// How likely each token was, where that was asked for.
    pub logprobs: Option<Vec<TokenLogprobs>>,
}

/// A token and how likely it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Its id.
    pub token: u32,
    /// Its text alone.
    pub text: String,
    /// Natural logarithm of its probability, before temperature and the like.
    pub logprob: f64,
}

/// A token of an answer with its rivals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprobs {
    /// The token that was chosen.
    #[serde(flatten)]
    pub chosen: TokenLogprob,
    /// The most likely tokens at this place.
    pub top: Vec<TokenLogprob>,
}

/// What is scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreRequest {
    /// The text before.
    pub prompt: PromptInput,
    /// The texts that may follow it.
    pub candidates: Vec<String>,
}

/// How likely a text was to follow a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Natural logarithm of each token's probability.
    pub logprobs: Vec<f64>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinishReason {
    /// At a stop token.
    Stop,
    /// At a stop text.
    StopString,
    /// At the limit of new tokens.
    Length,
    /// At the end of the context.
    Context,
    /// By the listener.
    Cancelled,
}

/// Wall-clock times of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Pictures: decoding, resize, vision tower and resampler.
    pub encode_ms: f64,
    /// Prompt through the decoder.
    pub prefill_ms: f64,
    /// From the start to the first token.
    pub first_token_ms: f64,
    /// From the first token to the last.
    pub decode_ms: f64,
    /// Tokens after the first, by `decode_ms`.
    pub decode_tokens_per_second: f64,
}

/// A model with its processor.
pub struct Engine<B: Backend = Model> {
    model: B,
    tokenizer: Tokenizer,
    /// Features of the latest pictures, the newest last, so that the next question about them costs no encoding.
    encoded: Vec<EncodedImage<B::Features>>,
    kept_images: usize,
}

#[derive(Clone)]
struct EncodedImage<F> {
    info: PictureInfo,
    features: F,
    /// Holders that asked for it to be kept.
    pins: usize,
}

/// Pictures whose features are kept by default, beside those that somebody holds: 4 MiB each at the published size.
const KEPT_IMAGES: usize = 16;

impl<B: Backend> Engine<B> {
    /// Joins a model with the vocabulary file of its checkpoint.
    pub fn new(model: B, vocabulary: &[u8]) -> Result<Self, RuntimeError> {
        let vision = &model.manifest().config.visual;
        let tokenizer = Tokenizer::from_tiktoken(vocabulary)?.with_queries(vision.n_queries);
        tokenizer.check_image_start(vision.image_start_id)?;
        Ok(Self { model, tokenizer, encoded: Vec::new(), kept_images: KEPT_IMAGES })
    }

    /// The model.
    pub fn model(&self) -> &B {
        &self.model
    }

    /// The model, for what has no words: benchmarks and checks.
    pub fn model_mut(&mut self) -> &mut B {
        &mut self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Answers a request. `on_event` hears what happens and may stop it; what was generated so far is then the answer.
    ///
    /// With a `trace`, `logits` of all prompt positions, `decode_logits` of all steps, `pixels.N` and `image_features.N` are collected.
    pub async fn ask(
        &mut self,
        request: &Request,
        images: &[ImageInput],
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
        mut trace: Option<&mut Trace>,
    ) -> Result<Answer, RuntimeError> {
        let started = Instant::now();
        let generation = &request.generation;
        generation.check()?;
        let mut chooser = Chooser::new(generation, self);
        let (encoded, images) = self.encode_prompt(&request.prompt, images, chooser.max_new_tokens)?;
        let mut answer = Answer {
            prompt_ids: encoded.prompt.ids,
            reused_tokens: 0,
            dropped_turns: encoded.dropped_turns,
            images: Vec::new(),
            tokens: Vec::new(),
            text: String::new(),
            raw: String::new(),
            objects: Vec::new(),
            finish_reason: FinishReason::Cancelled,
            timings: Timings::default(),
            logprobs: generation.logprobs.map(|_| Vec::new()),
        };

        let (pictures, flow) = self.encode_all(images, on_event, trace.as_deref_mut()).await?;
        answer.images = pictures.iter().map(|picture| picture.info.clone()).collect();
        answer.timings.encode_ms = millis(started);
        if flow.is_break() {
            return Ok(answer);
        }

        let prefill_started = Instant::now();
        let flow = self.prefill(&answer.prompt_ids, &pictures, generation.kv_reuse, on_event, trace.as_deref_mut()).await?;
        answer.timings.prefill_ms = millis(prefill_started);
        answer.reused_tokens = self.model.reused();
        if flow.is_break() {
            return Ok(answer);
        }

        let sizes: Vec<_> = answer.images.iter().map(|info| PictureSize { width: info.width, height: info.height }).collect();
        let mut stream = AnswerStream::new(&sizes).stopping_at(&generation.stop);
        if let PromptInput::Raw { text } = &request.prompt {
            stream = stream.continuing(text);
        }
        let (mut clean, mut raw_heard) = (String::new(), 0);
        let mut pass_on = |answer: &mut Answer, events: Vec<GroundingEvent>, raw: &str| -> ControlFlow<()> {
            for event in events {
                let event = match event {
                    GroundingEvent::Text(delta) => {
                        clean.push_str(&delta);
                        let raw = raw[std::mem::replace(&mut raw_heard, raw.len())..].to_owned();
                        Event::Text { delta, raw }
                    }
                    GroundingEvent::Object(mut object) => {
                        // Counted over the whole conversation, as its pictures are numbered.
                        object.image = object.image.map(|image| image + encoded.dropped_images);
                        answer.objects.push(object.clone());
                        Event::Object { object }
                    }
                };
                on_event(event)?;
            }
            ControlFlow::Continue(())
        };
        let mut decode_started = started;
        chooser.note(&answer.prompt_ids);
        answer.finish_reason = loop {
            let (token, likely, ahead) = chooser.next(self, answer.tokens.len(), trace.as_deref_mut()).await?;
            answer.tokens.push(token);
            if let (Some(all), Some(likely)) = (&mut answer.logprobs, likely) {
                all.push(likely);
            }
            if answer.tokens.len() == 1 {
                answer.timings.first_token_ms = millis(started);
                decode_started = Instant::now();
            }
            if !generation.ignore_stop && chooser.stop_tokens.contains(&token) {
                break FinishReason::Stop;
            }
            let events = stream.push(&self.tokenizer, token);
            if pass_on(&mut answer, events, stream.raw()).is_break() {
                break FinishReason::Cancelled;
            }
            if stream.stopped() {
                break FinishReason::StopString;
            }
            if answer.tokens.len() >= chooser.max_new_tokens {
                break FinishReason::Length;
            }
            if !ahead && self.model.length() >= self.model.context_length() {
                break FinishReason::Context;
            }
            if !ahead {
                self.model.decode(token)?;
            }
        };
        // A step that was queued ahead of the token that ended the answer.
        self.model.rewind(answer.prompt_ids.len() + answer.tokens.len() - 1);
        answer.timings.decode_ms = millis(decode_started);
        if answer.tokens.len() > 1 {
            answer.timings.decode_tokens_per_second = (answer.tokens.len() - 1) as f64 * 1e3 / answer.timings.decode_ms;
        }
        let events = stream.finish();
        if pass_on(&mut answer, events, stream.raw()).is_break() {
            answer.finish_reason = FinishReason::Cancelled;
        }
        stream.raw().trim().clone_into(&mut answer.raw);
        clean.trim().clone_into(&mut answer.text);
        // Ranges were counted from the first generated character.
        let stripped: usize = clean[..clean.len() - clean.trim_start().len()].chars().map(char::len_utf16).sum();
        for object in &mut answer.objects {
            object.range = object.range.map(|at| at.saturating_sub(stripped));
        }
        Ok(answer)
    }

    /// How likely texts are to follow a prompt. The prompt is run once; `on_event` may stop the whole, which then has no result.
    pub async fn score(
        &mut self,
        request: &ScoreRequest,
        images: &[ImageInput],
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Option<Vec<Score>>, RuntimeError> {
        let special = match request.prompt {
            PromptInput::Chat { .. } => SpecialTokens::ImageAndGrounding,
            PromptInput::Raw { .. } | PromptInput::Ids { .. } => SpecialTokens::All,
        };
        let candidates = request.candidates.iter().map(|text| self.tokenizer.encode(text, special)).collect::<Result<Vec<_>, _>>()?;
        if let Some(index) = candidates.iter().position(Vec::is_empty) {
            return Err(RuntimeError::EmptyCandidate { index });
        }
        let vocab = self.model.manifest().config.vocab_size;
        if let Some((position, id)) = candidates.iter().flatten().copied().enumerate().find(|(_, id)| *id as usize >= vocab) {
            return Err(RuntimeError::TokenOutOfRange { id, position, vocab });
        }
        let longest = candidates.iter().map(Vec::len).max().unwrap_or(1);
        let (encoded, images) = self.encode_prompt(&request.prompt, images, longest)?;
        let used = encoded.prompt.ids.len() + longest;
        if used > self.model.context_length() {
            return Err(RuntimeError::ContextOverflow { used, limit: self.model.context_length() });
        }
        let (pictures, flow) = self.encode_all(images, on_event, None).await?;
        if flow.is_break() || self.prefill(&encoded.prompt.ids, &pictures, KvReuse::Exact, on_event, None).await?.is_break() {
            return Ok(None);
        }
        let prefix = self.model.length();
        let first = self.model.logits().await?;
        let mut scores = Vec::with_capacity(candidates.len());
        for (done, tokens) in candidates.into_iter().enumerate() {
            self.model.rewind(prefix);
            let mut logprobs = Vec::with_capacity(tokens.len());
            logprobs.push(logprob(&first, tokens[0]));
            for pair in tokens.windows(2) {
                self.model.decode(pair[0])?;
                logprobs.push(logprob(&self.model.logits().await?, pair[1]));
            }
            scores.push(Score { tokens, logprobs });
            if on_event(Event::Score { done: done + 1, total: request.candidates.len() }).is_break() {
                return Ok(None);
            }
        }
        Ok(Some(scores))
    }

    /// Runs a picture through the vision tower ahead of its question, and keeps what comes out until [`Self::release_image`].
    pub async fn hold_image(&mut self, image: &ImageInput) -> Result<PictureInfo, RuntimeError> {
        let info = self.encode(0, image, None).await?.info;
        for encoded in &mut self.encoded {
            if encoded.info.id == info.id {
                encoded.pins += 1;
            }
        }
        Ok(info)
    }

    /// Ends what [`Self::hold_image`] began.
    pub fn release_image(&mut self, id: &str) {
        for encoded in &mut self.encoded {
            if encoded.info.id == id {
                encoded.pins = encoded.pins.saturating_sub(1);
            }
        }
        self.forget_images();
    }

    /// How many pictures' features are kept beside those that somebody holds.
    pub fn keep_images(&mut self, count: usize) {
        self.kept_images = count;
        self.forget_images();
    }

    /// Whether [`ImageInput::Kept`] can name a picture.
    pub fn keeps_image(&self, id: &str) -> bool {
        self.encoded.iter().any(|encoded| encoded.info.id == id)
    }

    /// Tokens of a prompt if it was asked now.
    pub fn count(&self, prompt: &PromptInput) -> Result<usize, RuntimeError> {
        Ok(prompt.encode(&self.tokenizer, usize::MAX, None)?.prompt.ids.len())
    }

    /// A prompt with room for an answer, and the pictures that are in it.
    fn encode_prompt<'a>(
        &self,
        input: &PromptInput,
        images: &'a [ImageInput],
        max_new_tokens: usize,
    ) -> Result<(EncodedPrompt, &'a [ImageInput]), RuntimeError> {
        let context = self.model.context_length();
        // Old turns give way to an answer of usual length, not to all that it could become.
        let room = max_new_tokens.min(context / 4).max(1);
        let encoded = input.encode(&self.tokenizer, self.model.manifest().generation.max_window_size, Some(context - room))?;
        let spans = encoded.prompt.images.len();
        match images.get(encoded.dropped_images..) {
            Some(images) if images.len() == spans => Ok((encoded, images)),
            _ => Err(RuntimeError::ImageCount { spans: spans + encoded.dropped_images, given: images.len() }),
        }
    }

    async fn prefill(
        &mut self,
        ids: &[u32],
        pictures: &[EncodedImage<B::Features>],
        kv_reuse: KvReuse,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
        trace: Option<&mut Trace>,
    ) -> Result<ControlFlow<()>, RuntimeError> {
        let features: Vec<_> = pictures.iter().map(|image| image.features.clone()).collect();
        let mut on_chunk = |done| on_event(Event::Prefill { done, total: ids.len() });
        self.model.prefill(ids, &features, kv_reuse, &mut on_chunk, trace).await
    }

    /// Features of all pictures; fewer if `on_event` stops it.
    async fn encode_all(
        &mut self,
        images: &[ImageInput],
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
        mut trace: Option<&mut Trace>,
    ) -> Result<(Vec<EncodedImage<B::Features>>, ControlFlow<()>), RuntimeError> {
        let mut pictures = Vec::with_capacity(images.len());
        for (done, image) in images.iter().enumerate() {
            if on_event(Event::Encode { done, total: images.len() }).is_break() {
                return Ok((pictures, ControlFlow::Break(())));
            }
            pictures.push(self.encode(done, image, trace.as_deref_mut()).await?);
        }
        let flow =
            if images.is_empty() { ControlFlow::Continue(()) } else { on_event(Event::Encode { done: images.len(), total: images.len() }) };
        Ok((pictures, flow))
    }

    /// Features of one picture, from the latest ones if it is among them.
    async fn encode(
        &mut self,
        index: usize,
        image: &ImageInput,
        mut trace: Option<&mut Trace>,
    ) -> Result<EncodedImage<B::Features>, RuntimeError> {
        let picture = match image {
            ImageInput::Encoded { bytes, orientation } => Picture::decode(bytes, *orientation)?,
            ImageInput::Rgba { width, height, pixels } => Picture::from_rgba(*width, *height, pixels)?,
            ImageInput::Kept { id } => return self.newest(id).ok_or_else(|| RuntimeError::UnknownImage { id: id.clone() }),
        };
        let (width, height) = (picture.width(), picture.height());
        let mut hash = ShardHash::new();
        hash.update(&width.to_le_bytes());
        hash.update(picture.rgb());
        let info = PictureInfo { id: hash.finish(), width, height };
        if trace.is_none()
            && let Some(encoded) = self.newest(&info.id)
        {
            return Ok(encoded);
        }
        let manifest = self.model.manifest();
        let (vision, processor) = (&manifest.config.visual, &manifest.processor);
        let pixels = picture.pixels(vision.image_size, processor.image_mean, processor.image_std);
        let patches = pixels.patches(vision.patch_size, vision.patch_values());
        if let Some(trace) = &mut trace {
            trace.insert(format!("pixels.{index}"), pixels.values().to_vec());
        }
        let features = self.model.encode_image(&patches).await?;
        if let Some(trace) = &mut trace {
            trace.insert(format!("image_features.{index}"), self.model.read_features(&features).await?);
        }
        // So that the time counts where it was spent, and a cancelled request does not leave more than one picture's work behind.
        self.model.settle().await?;
        let encoded = EncodedImage { info, features, pins: 0 };
        self.encoded.push(encoded.clone());
        self.forget_images();
        Ok(encoded)
    }

    /// A picture that is kept; it counts as the latest from now on.
    fn newest(&mut self, id: &str) -> Option<EncodedImage<B::Features>> {
        let at = self.encoded.iter().rposition(|encoded| encoded.info.id == id)?;
        let encoded = self.encoded.remove(at);
        self.encoded.push(encoded.clone());
        Some(encoded)
    }

    /// Lets the oldest pictures go that nobody holds.
    fn forget_images(&mut self) {
        let mut surplus = self.encoded.iter().filter(|encoded| encoded.pins == 0).count().saturating_sub(self.kept_images);
        self.encoded.retain(|encoded| {
            let goes = encoded.pins == 0 && surplus > 0;
            surplus -= usize::from(goes);
            !goes
        });
    }

    fn stop_tokens(&self) -> [u32; 4] {
        let special = self.tokenizer.special();
        [self.model.manifest().generation.eos_token_id, special.endoftext, special.im_end, special.im_start]
    }

    fn token_logprob(&self, logits: &[f32], log_sum: f64, token: u32) -> TokenLogprob {
        let text = self.tokenizer.decode(&[token], KeepSpecials::All);
        TokenLogprob { token, text, logprob: f64::from(logits[token as usize]) - log_sum }
    }
}

/// Chooses tokens by the options of a request and the defaults of a checkpoint.
struct Chooser {
    sampler: Option<Sampler>,
    max_new_tokens: usize,
    min_new_tokens: usize,
    stop_tokens: Vec<u32>,
    /// Absent where it changes nothing.
    penalty: Option<f32>,
    /// Tokens of prompt and answer.
    seen: BTreeSet<u32>,
    /// Rivals to tell of, if likelihoods are wanted at all.
    logprobs: Option<usize>,
}

impl Chooser {
    fn new<B: Backend>(options: &GenerationOptions, engine: &Engine<B>) -> Self {
        let defaults = &engine.model.manifest().generation;
        let greedy = options.greedy.unwrap_or(!defaults.do_sample) || options.temperature == Some(0.0);
        let sampler = (!greedy).then(|| {
            Sampler::new(SamplingOptions {
                temperature: options.temperature.unwrap_or(1.0),
                top_k: options.top_k.unwrap_or(defaults.top_k),
                top_p: options.top_p.unwrap_or(defaults.top_p),
                seed: options.seed.unwrap_or_else(|| {
                    let since_epoch = web_time::SystemTime::now().duration_since(web_time::UNIX_EPOCH);
                    since_epoch.map_or(0, |elapsed| elapsed.as_nanos() as u64)
                }),
            })
        });
        Self {
            sampler,
            max_new_tokens: options.max_new_tokens.unwrap_or(defaults.max_new_tokens).max(1),
            min_new_tokens: options.min_new_tokens,
            stop_tokens: engine.stop_tokens().into_iter().chain(options.stop_tokens.iter().copied()).collect(),
            penalty: options.repetition_penalty.filter(|penalty| *penalty != 1.0),
            seen: BTreeSet::new(),
            logprobs: options.logprobs,
        }
    }

    /// Counts tokens as having occurred.
    fn note(&mut self, tokens: &[u32]) {
        if self.penalty.is_some() {
            self.seen.extend(tokens);
        }
    }

    /// The token after the model's last position, `made` tokens into the answer; whether it runs already, which it does where the model
    /// chooses by itself.
    async fn next<B: Backend>(
        &mut self,
        engine: &mut Engine<B>,
        made: usize,
        trace: Option<&mut Trace>,
    ) -> Result<(u32, Option<TokenLogprobs>, bool), RuntimeError> {
        let too_early = made < self.min_new_tokens;
        if self.penalty.is_none() && self.logprobs.is_none() && !too_early && trace.is_none() {
            let model = &mut engine.model;
            let ahead = made + 1 < self.max_new_tokens && model.length() < model.context_length();
            return Ok((model.next_token(self.sampler.as_mut(), ahead).await?, None, ahead));
        }
        let original = engine.model.logits().await?;
        if let Some(trace) = trace {
            trace.entry("decode_logits".to_owned()).or_default().extend(&original);
        }
        let mut logits = original.clone();
        if let Some(penalty) = self.penalty {
            penalize(&mut logits, &self.seen, penalty);
        }
        if too_early {
            for token in &self.stop_tokens {
                if let Some(logit) = logits.get_mut(*token as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        let token = match &mut self.sampler {
            Some(sampler) => sampler.sample(&logits),
            None => largest(&logits),
        };
        self.note(&[token]);
        let likely = self.logprobs.map(|count| {
            let log_sum = log_sum_exp(&original);
            TokenLogprobs {
                chosen: engine.token_logprob(&original, log_sum, token),
                top: most_likely(&original, count).into_iter().map(|token| engine.token_logprob(&original, log_sum, token)).collect(),
            }
        });
        Ok((token, likely, false))
    }
}

fn logprob(logits: &[f32], token: u32) -> f64 {
    f64::from(logits[token as usize]) - log_sum_exp(logits)
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
