//! From a question about pictures to an answer: the processor and the model together.
//!
//! [`Request`], [`Event`] and [`Answer`] are what the command line and the browser exchange with the engine, as JSON.

use crate::{ImageFeatures, Model, RuntimeError, Sampler, SamplingOptions, Trace};
use qwen_vl_format::ShardHash;
use qwen_vl_processor::{
    AnswerStream, Chat, DEFAULT_SYSTEM, GroundedObject, GroundingEvent, Orientation, Picture, PictureSize, ProcessorError, Prompt,
    Tokenizer,
};
use serde::{Deserialize, Serialize};
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
    },
    /// Token ids as they are.
    Ids {
        /// The ids.
        ids: Vec<u32>,
    },
}

impl PromptInput {
    /// Token ids and the places of the pictures. Chat turns older than `max_window_size` tokens are dropped.
    pub fn encode(&self, tokenizer: &Tokenizer, max_window_size: usize) -> Result<Prompt, ProcessorError> {
        match self {
            Self::Raw { text } => Prompt::raw(tokenizer, text),
            Self::Chat { system, history, query } => {
                let system = system.clone().unwrap_or_else(|| DEFAULT_SYSTEM.to_owned());
                Prompt::chat(tokenizer, &Chat { system, history: history.clone(), query: query.clone(), max_window_size })
            }
            Self::Ids { ids } => Prompt::from_ids(tokenizer, ids.clone()),
        }
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
    /// More text, without tags.
    Text {
        /// The text.
        delta: String,
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
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// At a stop token.
    Stop,
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
pub struct Engine {
    model: Model,
    tokenizer: Tokenizer,
    /// Features of the latest pictures, the newest last, so that the next question about them costs no encoding.
    encoded: Vec<EncodedImage>,
}

#[derive(Clone)]
struct EncodedImage {
    hash: String,
    size: PictureSize,
    features: ImageFeatures,
}

/// Pictures whose features are kept: 4 MiB each at the published size.
const KEPT_IMAGES: usize = 16;

impl Engine {
    /// Joins a model with the vocabulary file of its checkpoint.
    pub fn new(model: Model, vocabulary: &[u8]) -> Result<Self, RuntimeError> {
        let vision = &model.manifest().config.visual;
        let tokenizer = Tokenizer::from_tiktoken(vocabulary)?.with_queries(vision.n_queries);
        tokenizer.check_image_start(vision.image_start_id)?;
        Ok(Self { model, tokenizer, encoded: Vec::new() })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
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
        let prompt = request.prompt.encode(&self.tokenizer, self.model.manifest().generation.max_window_size)?;
        if prompt.images.len() != images.len() {
            return Err(RuntimeError::ImageCount { spans: prompt.images.len(), given: images.len() });
        }
        let mut answer = Answer {
            prompt_ids: prompt.ids,
            reused_tokens: 0,
            tokens: Vec::new(),
            text: String::new(),
            raw: String::new(),
            objects: Vec::new(),
            finish_reason: FinishReason::Cancelled,
            timings: Timings::default(),
        };

        let mut encoded = Vec::with_capacity(images.len());
        for (index, image) in images.iter().enumerate() {
            if on_event(Event::Encode { done: index, total: images.len() }).is_break() {
                return Ok(answer);
            }
            encoded.push(self.encode(index, image, trace.as_deref_mut()).await?);
        }
        if !images.is_empty() && on_event(Event::Encode { done: images.len(), total: images.len() }).is_break() {
            return Ok(answer);
        }
        answer.timings.encode_ms = millis(started);

        let prefill_started = Instant::now();
        let total = answer.prompt_ids.len();
        let features: Vec<_> = encoded.iter().map(|image| image.features.clone()).collect();
        let mut on_chunk = |done| on_event(Event::Prefill { done, total });
        let flow = self.model.prefill(&answer.prompt_ids, &features, &mut on_chunk, trace.as_deref_mut()).await?;
        answer.timings.prefill_ms = millis(prefill_started);
        answer.reused_tokens = self.model.reused();
        if flow.is_break() {
            return Ok(answer);
        }

        let sizes: Vec<_> = encoded.iter().map(|image| image.size).collect();
        let mut stream = AnswerStream::new(&sizes);
        if let PromptInput::Raw { text } = &request.prompt {
            stream = stream.continuing(text);
        }
        let mut clean = String::new();
        let mut pass_on = |answer: &mut Answer, events: Vec<GroundingEvent>| -> ControlFlow<()> {
            for event in events {
                let event = match event {
                    GroundingEvent::Text(delta) => {
                        clean.push_str(&delta);
                        Event::Text { delta }
                    }
                    GroundingEvent::Object(object) => {
                        answer.objects.push(object.clone());
                        Event::Object { object }
                    }
                };
                on_event(event)?;
            }
            ControlFlow::Continue(())
        };
        let mut decode_started = started;
        let mut chooser = Chooser::new(&request.generation, &self.model);
        answer.finish_reason = loop {
            let token = chooser.next(&self.model, trace.as_deref_mut()).await?;
            answer.tokens.push(token);
            if answer.tokens.len() == 1 {
                answer.timings.first_token_ms = millis(started);
                decode_started = Instant::now();
            }
            if !request.generation.ignore_stop && self.is_stop(token) {
                break FinishReason::Stop;
            }
            if pass_on(&mut answer, stream.push(&self.tokenizer, token)).is_break() {
                break FinishReason::Cancelled;
            }
            if answer.tokens.len() >= chooser.max_new_tokens {
                break FinishReason::Length;
            }
            if self.model.length() >= self.model.context_length() {
                break FinishReason::Context;
            }
            self.model.decode(token)?;
        };
        answer.timings.decode_ms = millis(decode_started);
        if answer.tokens.len() > 1 {
            answer.timings.decode_tokens_per_second = (answer.tokens.len() - 1) as f64 * 1e3 / answer.timings.decode_ms;
        }
        if pass_on(&mut answer, stream.finish()).is_break() {
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

    /// Features of one picture, from the latest ones if it is among them.
    async fn encode(&mut self, index: usize, image: &ImageInput, mut trace: Option<&mut Trace>) -> Result<EncodedImage, RuntimeError> {
        let picture = match image {
            ImageInput::Encoded { bytes, orientation } => Picture::decode(bytes, *orientation)?,
            ImageInput::Rgba { width, height, pixels } => Picture::from_rgba(*width, *height, pixels)?,
        };
        let size = PictureSize { width: picture.width(), height: picture.height() };
        let mut hash = ShardHash::new();
        hash.update(&size.width.to_le_bytes());
        hash.update(picture.rgb());
        let hash = hash.finish();
        let found = self.encoded.iter().position(|encoded| encoded.hash == hash);
        let encoded = if let Some(at) = found.filter(|_| trace.is_none()) {
            self.encoded.remove(at)
        } else {
            let manifest = self.model.manifest();
            let (vision, processor) = (&manifest.config.visual, &manifest.processor);
            let pixels = picture.pixels(vision.image_size, processor.image_mean, processor.image_std);
            let patches = pixels.patches(vision.patch_size, vision.patch_values());
            if let Some(trace) = &mut trace {
                trace.insert(format!("pixels.{index}"), pixels.values().to_vec());
            }
            let features = self.model.encode_image(&patches, None).await?;
            if let Some(trace) = &mut trace {
                trace.insert(format!("image_features.{index}"), self.model.read_features(&features).await?);
            }
            EncodedImage { hash, size, features }
        };
        if self.encoded.len() == KEPT_IMAGES {
            self.encoded.remove(0);
        }
        self.encoded.push(encoded.clone());
        Ok(encoded)
    }

    fn is_stop(&self, token: u32) -> bool {
        let special = self.tokenizer.special();
        token == self.model.manifest().generation.eos_token_id || [special.endoftext, special.im_end, special.im_start].contains(&token)
    }
}

/// Chooses tokens by the options of a request and the defaults of a checkpoint.
struct Chooser {
    sampler: Option<Sampler>,
    max_new_tokens: usize,
}

impl Chooser {
    fn new(options: &GenerationOptions, model: &Model) -> Self {
        let defaults = &model.manifest().generation;
        let greedy = options.greedy.unwrap_or(!defaults.do_sample);
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
        Self { sampler, max_new_tokens: options.max_new_tokens.unwrap_or(defaults.max_new_tokens).max(1) }
    }

    /// The token after the model's last position.
    async fn next(&mut self, model: &Model, trace: Option<&mut Trace>) -> Result<u32, RuntimeError> {
        if let Some(trace) = trace {
            trace.entry("decode_logits".to_owned()).or_default().extend(model.logits().await?);
        }
        match &mut self.sampler {
            Some(sampler) => Ok(sampler.sample(&model.logits().await?)),
            None => model.most_likely().await,
        }
    }
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
