//! The engine: runs requests on a model.

use super::chooser::{Choice, Chooser};
use super::constraint::Constraint;
use super::pictures::{EncodedImage, Pictures};
use super::request::{
    Answer, Event, FinishReason, GenerationOptions, ImageInput, PictureInfo, PictureLimits, PromptInput, Request, Score, ScoreRequest,
    Timings, plan_video,
};
use crate::clock::{millis, per_second};
use crate::error::{Counted, RuntimeError, TextOf};
use crate::sampler::log_sum_exp;
use crate::{Backend, KvReuse, Model, Trace};
use qwen_vl_format::{Manifest, ModelConfig, ShardHash};
use qwen_vl_processor::{
    AnswerStream, ChatPrompt, Grounded, GroundingEvent, NumberedPicture, Picture, PictureGrid, PictureSize, ProcessorError, SpecialTokens,
    Tokenizer, VideoOptions, VideoPlan, VideoSource, VideoStep,
};
use std::ops::ControlFlow;
use web_time::Instant;

/// A listener for events. It stops the run by returning [`ControlFlow::Break`].
type OnEvent<'a> = &'a mut dyn FnMut(Event) -> ControlFlow<()>;

/// A model with its processor. It runs one request at a time.
pub struct Engine<B: Backend = Model> {
    model: B,
    tokenizer: Tokenizer,
    pictures: Pictures<B::Features>,
}

impl<B: Backend> Engine<B> {
    /// Joins a model with the vocabulary file of its checkpoint.
    pub fn new(model: B, vocabulary: &[u8]) -> Result<Self, RuntimeError> {
        let Manifest { config, processor, .. } = model.manifest();
        let tokenizer = Tokenizer::new(vocabulary, config.family, &processor.added_tokens)?.with_queries(config.vision.queries());
        tokenizer.check_image_token(config.image_token)?;
        Ok(Self { model, tokenizer, pictures: Pictures::new() })
    }

    /// The model.
    pub fn model(&self) -> &B {
        &self.model
    }

    /// Direct access to the model for benchmarks and self-checks, which bypass the tokenizer.
    pub fn model_mut(&mut self) -> &mut B {
        &mut self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Answers a request. If `on_event` stops the run, the answer is the part generated so far.
    ///
    /// With a `trace`, collects `logits` of all prompt positions, `decode_logits` of all steps, `pixels.N` and `image_features.N`.
    pub async fn ask(
        &mut self,
        request: &Request,
        images: &[ImageInput],
        on_event: OnEvent<'_>,
        trace: Option<&mut Trace>,
    ) -> Result<Answer, RuntimeError> {
        let result = self.answer(request, images, on_event, None, trace).await;
        self.discard_after_failure(result)
    }

    /// Answers a request with a text that the constraint allows, or with the beginning of one if the answer ends early.
    pub async fn ask_constrained(
        &mut self,
        request: &Request,
        images: &[ImageInput],
        on_event: OnEvent<'_>,
        constraint: &mut dyn Constraint,
    ) -> Result<Answer, RuntimeError> {
        let result = self.answer(request, images, on_event, Some(constraint), None).await;
        self.discard_after_failure(result)
    }

    async fn answer(
        &mut self,
        request: &Request,
        images: &[ImageInput],
        on_event: OnEvent<'_>,
        constraint: Option<&mut dyn Constraint>,
        mut trace: Option<&mut Trace>,
    ) -> Result<Answer, RuntimeError> {
        let started = Instant::now();
        let manifest = self.model.manifest();
        request.generation.check(&manifest.generation, manifest.config.decoder.vocab_size)?;
        let mut chooser = Chooser::new(&request.generation, &manifest.generation, manifest.config.family, self.tokenizer.special());
        let is_constrained = constraint.is_some();
        chooser = chooser.constrained_by(constraint);
        let (encoded, dropped, prepared) =
            self.prepare_request(&request.prompt, images, &request.pictures, chooser.max_new_tokens, trace.is_some())?;
        let defaults = &self.model.manifest().generation;
        chooser.max_new_tokens = request.generation.longest_answer(encoded.prompt.ids.len(), defaults);
        let mut answer = Answer {
            prompt_ids: encoded.prompt.ids.clone(),
            reused_tokens: 0,
            dropped_turns: encoded.dropped_turns,
            images: Vec::new(),
            tokens: Vec::new(),
            text: String::new(),
            raw: String::new(),
            objects: Vec::new(),
            finish_reason: FinishReason::Cancelled,
            timings: Timings::default(),
            logprobs: request.generation.logprobs.map(|_| Vec::new()),
        };

        let (pictures, flow) = self.encode_all(prepared, on_event, trace.as_deref_mut()).await?;
        answer.images = pictures.iter().map(|picture| picture.info.clone()).collect();
        answer.timings.encode_ms = millis(started);
        if flow.is_break() {
            return Ok(answer);
        }

        let prefill_started = Instant::now();
        let flow = self.prefill(&answer.prompt_ids, &pictures, request.generation.kv_reuse, on_event, trace.as_deref_mut()).await?;
        answer.timings.prefill_ms = millis(prefill_started);
        answer.reused_tokens = self.model.reused();
        if flow.is_break() {
            return Ok(answer);
        }

        let sizes: Vec<_> = answer.images.iter().map(|info| PictureSize { width: info.width, height: info.height }).collect();
        let numbered = encoded.prompt.numbered(&self.tokenizer, &sizes, dropped);
        let mut writer = AnswerWriter::new(request, self.model.manifest(), &numbered, dropped, is_constrained, on_event);
        self.generate(&request.generation, chooser, &mut answer, &mut writer, started, trace).await?;
        writer.finish(&mut answer);
        Ok(answer)
    }

    /// Generates tokens until the answer ends; fills in its tokens, its finish reason and the rest of its times.
    async fn generate(
        &mut self,
        options: &GenerationOptions,
        mut chooser: Chooser<'_>,
        answer: &mut Answer,
        writer: &mut AnswerWriter<'_>,
        started: Instant,
        mut trace: Option<&mut Trace>,
    ) -> Result<(), RuntimeError> {
        let mut decode_started = started;
        chooser.record(&answer.prompt_ids);
        chooser.begin(&mut self.model, trace.is_some())?;
        answer.finish_reason = loop {
            let generated = answer.tokens.len();
            let Choice { token, logprobs, queued } =
                chooser.next(&mut self.model, &self.tokenizer, &answer.tokens, trace.as_deref_mut()).await?;
            answer.tokens.push(token);
            if let (Some(all), Some(logprobs)) = (&mut answer.logprobs, logprobs) {
                all.push(logprobs);
            }
            if generated == 0 {
                answer.timings.first_token_ms = millis(started);
                decode_started = Instant::now();
            }
            if !options.ignore_stop && chooser.stops_at(token) {
                break FinishReason::Stop;
            }
            if writer.push(answer, &self.tokenizer, token).is_break() {
                break FinishReason::Cancelled;
            }
            if writer.stream.stopped() {
                break FinishReason::StopString;
            }
            if chooser.loops(&answer.tokens) {
                break FinishReason::Loop;
            }
            if answer.tokens.len() >= chooser.max_new_tokens {
                break FinishReason::Length;
            }
            if !queued {
                if self.model.length() >= self.model.context_length() {
                    break FinishReason::Context;
                }
                self.model.decode(token)?;
            }
        };
        // Drop the decode step that was queued before the last token was known to end the answer.
        self.model.rewind(answer.prompt_ids.len() + answer.tokens.len() - 1);
        answer.timings.decode_ms = millis(decode_started);
        answer.timings.decode_tokens_per_second = per_second(answer.tokens.len() - 1, answer.timings.decode_ms);
        Ok(())
    }

    /// Returns the likelihood of each candidate after the prompt. The prompt runs once. Returns `None` if `on_event` stops the run.
    pub async fn score(
        &mut self,
        request: &ScoreRequest,
        images: &[ImageInput],
        on_event: OnEvent<'_>,
    ) -> Result<Option<Vec<Score>>, RuntimeError> {
        let result = self.likelihoods(request, images, on_event).await;
        self.discard_after_failure(result)
    }

    async fn likelihoods(
        &mut self,
        request: &ScoreRequest,
        images: &[ImageInput],
        on_event: OnEvent<'_>,
    ) -> Result<Option<Vec<Score>>, RuntimeError> {
        let special = match request.prompt {
            PromptInput::Chat { .. } | PromptInput::Messages { .. } => SpecialTokens::Grounding,
            PromptInput::Raw { .. } | PromptInput::Ids { .. } => SpecialTokens::All,
        };
        if request.candidates.is_empty() {
            return Err(RuntimeError::NoCandidates);
        }
        let candidates = request.candidates.iter().map(|text| self.tokenizer.encode(text, special)).collect::<Result<Vec<_>, _>>()?;
        if let Some(index) = candidates.iter().position(Vec::is_empty) {
            return Err(RuntimeError::EmptyCandidate { index });
        }
        let vocab = self.model.manifest().config.decoder.vocab_size;
        for (index, tokens) in candidates.iter().enumerate() {
            if let Some(position) = tokens.iter().position(|id| *id as usize >= vocab) {
                return Err(RuntimeError::TokenOutOfRange { id: tokens[position], text: TextOf::Candidate(index), position, vocab });
            }
        }
        let longest = candidates.iter().map(Vec::len).max().unwrap_or(1);
        let (encoded, _, prepared) = self.prepare_request(&request.prompt, images, &request.pictures, longest, false)?;
        let used = encoded.prompt.ids.len() + longest;
        if used > self.model.context_length() {
            let counted = Counted::PromptAndCandidate;
            return Err(RuntimeError::ContextOverflow { counted, used, limit: self.model.context_length() });
        }
        let (pictures, flow) = self.encode_all(prepared, on_event, None).await?;
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

    /// Encodes a picture before its question, which has the same limits, and keeps its features until [`Self::release_image`]. Every hold needs
    /// a release.
    pub async fn hold_image(&mut self, image: &ImageInput, limits: &PictureLimits) -> Result<PictureInfo, RuntimeError> {
        let prepared = self.prepare(image, limits, false)?;
        let (mut encoded, _) = self.encode_all(vec![prepared], &mut |_| ControlFlow::Continue(()), None).await?;
        let encoded = encoded.remove(0);
        let info = encoded.info.clone();
        self.pictures.hold(encoded);
        Ok(info)
    }

    /// Ends one [`Self::hold_image`].
    pub fn release_image(&mut self, id: &str) {
        self.pictures.release(id);
    }

    /// Sets the number of pictures whose features are kept in addition to held ones.
    pub fn keep_images(&mut self, count: usize) {
        self.pictures.keep(count);
    }

    /// True if [`ImageInput::Kept`] can name the picture.
    pub fn keeps_image(&self, id: &str) -> bool {
        self.pictures.contains(id)
    }

    /// Number of tokens of a prompt, with all its turns.
    pub fn count(&mut self, prompt: &PromptInput, images: &[ImageInput], limits: &PictureLimits) -> Result<usize, RuntimeError> {
        let any_size = self.model.manifest().config.vision.merger.is_some();
        let prepared = if any_size { self.prepare_all(images, limits, false)? } else { Vec::new() };
        Ok(prompt.encode(&self.tokenizer, &grids(&prepared), usize::MAX, None)?.prompt.ids.len())
    }

    /// Chooses the frames of a video and their size, for [`ImageInput::Video`].
    pub fn plan_video(&self, source: &VideoSource, options: &VideoOptions) -> Result<VideoPlan, RuntimeError> {
        let model = &self.model;
        plan_video(model.manifest(), model.max_picture_tokens(), model.context_length(), source, options)
    }

    /// Discards the sequence after a failure of the GPU: the KV cache may hold anything. The next run starts from its first position.
    fn discard_after_failure<T>(&mut self, result: Result<T, RuntimeError>) -> Result<T, RuntimeError> {
        if let Err(RuntimeError::Gpu(_) | RuntimeError::NotFinite { .. }) = result {
            self.model.rewind(0);
        }
        result
    }

    /// Tokenizes a prompt so that an answer has room, and prepares the pictures and videos that are still in it. Returns the number of the others
    /// too.
    fn prepare_request(
        &mut self,
        input: &PromptInput,
        images: &[ImageInput],
        limits: &PictureLimits,
        max_new_tokens: usize,
        encode_again: bool,
    ) -> Result<(ChatPrompt, usize, PreparedImages<B>), RuntimeError> {
        // Pictures of any size decide about the length of the prompt. Others are decoded after it, without those of dropped turns.
        let any_size = self.model.manifest().config.vision.merger.is_some();
        let mut prepared = if any_size { self.prepare_all(images, limits, encode_again)? } else { Vec::new() };
        let context = self.model.context_length();
        // Drop old turns for an answer of usual length, not for the longest possible one.
        let room = max_new_tokens.min(context / 4).max(1);
        let max_window_size = self.model.manifest().generation.max_window_size;
        let encoded = input.encode(&self.tokenizer, &grids(&prepared), max_window_size, Some(context - room))?;
        // The dropped pictures and videos. A video has several spans; those of later generations were counted with their grids.
        let mut dropped = encoded.dropped_images;
        if any_size {
            dropped = grids(&prepared)[..dropped].iter().filter(|grid| !grid.continues()).count();
            prepared.drain(..dropped);
        } else {
            let spans = encoded.prompt.images.len() + dropped;
            if images.len() != spans {
                return Err(RuntimeError::ImageCount { spans, given: images.len() });
            }
            prepared = self.prepare_all(&images[dropped..], limits, encode_again)?;
        }
        Ok((encoded, dropped, prepared))
    }

    async fn prefill(
        &mut self,
        ids: &[u32],
        pictures: &[EncodedImage<B::Features>],
        kv_reuse: KvReuse,
        on_event: OnEvent<'_>,
        trace: Option<&mut Trace>,
    ) -> Result<ControlFlow<()>, RuntimeError> {
        let features: Vec<_> = pictures.iter().flat_map(|image| &image.steps).map(|(_, features)| features.clone()).collect();
        let mut on_chunk = |done| on_event(Event::Prefill { done, total: ids.len() });
        self.model.prefill(ids, &features, kv_reuse, &mut on_chunk, trace).await
    }

    /// Encodes all pictures, or fewer if `on_event` stops the run.
    async fn encode_all(
        &mut self,
        pictures: Vec<Prepared<B::Features>>,
        on_event: OnEvent<'_>,
        mut trace: Option<&mut Trace>,
    ) -> Result<(Vec<EncodedImage<B::Features>>, ControlFlow<()>), RuntimeError> {
        let total = pictures.iter().map(|picture| picture.grids().len()).sum();
        let mut all = Vec::with_capacity(pictures.len());
        let mut done = 0;
        for picture in pictures {
            let (info, steps) = match picture {
                Prepared::Kept(encoded) => {
                    done += encoded.steps.len();
                    all.push(encoded);
                    continue;
                }
                Prepared::New { info, steps } => (info, steps),
            };
            let mut encoded = EncodedImage { info, steps: Vec::with_capacity(steps.len()) };
            for step in steps {
                if on_event(Event::Encode { done, total }).is_break() {
                    return Ok((all, ControlFlow::Break(())));
                }
                let features = self.encode(done, &step, trace.as_deref_mut()).await?;
                encoded.steps.push((step.grid, features));
                done += 1;
            }
            self.pictures.insert(encoded.clone());
            all.push(encoded);
        }
        let flow = if total == 0 { ControlFlow::Continue(()) } else { on_event(Event::Encode { done: total, total }) };
        Ok((all, flow))
    }

    fn prepare_all(
        &mut self,
        images: &[ImageInput],
        limits: &PictureLimits,
        encode_again: bool,
    ) -> Result<Vec<Prepared<B::Features>>, RuntimeError> {
        images.iter().map(|image| self.prepare(image, limits, encode_again)).collect()
    }

    /// Decodes a picture and stretches it to its size for the model, unless its features are kept. With `encode_again` only those are used that
    /// the caller names.
    fn prepare(&mut self, image: &ImageInput, limits: &PictureLimits, encode_again: bool) -> Result<Prepared<B::Features>, RuntimeError> {
        let picture = match image {
            ImageInput::Encoded { bytes, options } => Picture::decode(bytes, *options)?,
            ImageInput::Rgba { width, height, pixels, colors } => Picture::from_rgba(*width, *height, pixels, *colors)?,
            ImageInput::Video { frames, times, fps } => return self.prepare_video(frames, times, *fps, encode_again),
            ImageInput::Kept { id } => {
                let kept = self.pictures.get(id).ok_or_else(|| RuntimeError::UnknownImage { id: id.clone() })?;
                return Ok(Prepared::Kept(kept));
            }
        };
        let (width, height) = (picture.width(), picture.height());
        let grid = limits.grid(self.model.manifest(), self.model.max_picture_tokens(), width, height)?;
        let vision = &self.model.manifest().config.vision;
        let mut hash = ShardHash::new();
        hash.update(&width.to_le_bytes());
        hash.update(picture.rgb());
        if vision.merger.is_some() {
            // The same picture has other features in another size.
            [grid.rows, grid.columns].iter().for_each(|side| hash.update(&(*side as u64).to_le_bytes()));
        }
        let seen = [grid.columns, grid.rows].map(|patches| (patches * vision.patch_size) as u32);
        let tokens = if vision.merger.is_some() { grid.tokens() } else { vision.queries() };
        let info = PictureInfo { id: hash.finish(), width, height, seen, tokens, frames: 1 };
        match self.pictures.get(&info.id) {
            Some(kept) if !encode_again => Ok(Prepared::Kept(kept)),
            _ => Ok(Prepared::New { info, steps: vec![Step { grid, first: picture.resize(seen[0], seen[1]), second: None }] }),
        }
    }

    /// Splits a video into its steps, unless its features are kept.
    fn prepare_video(
        &mut self,
        frames: &[Picture],
        times: &[f64],
        fps: Option<f64>,
        encode_again: bool,
    ) -> Result<Prepared<B::Features>, RuntimeError> {
        let manifest = self.model.manifest();
        let refused = |problem| Err(RuntimeError::VideoFrames { problem });
        if manifest.config.vision.merger.is_none() {
            return Err(ProcessorError::Video.into());
        }
        let Some(video) = manifest.config.vision.video else { return Err(RuntimeError::NoVideo) };
        if frames.len() != times.len() {
            return refused(format!("{} frames have {} times", frames.len(), times.len()));
        }
        let steps = VideoStep::all(video, times, fps)?;
        let size = |frame: &Picture| [frame.width(), frame.height()];
        let seen @ [width, height] = size(&frames[0]);
        if let Some(index) = frames.iter().position(|frame| size(frame) != seen) {
            let [other_width, other_height] = size(&frames[index]);
            return refused(format!("frame {index} is {other_width}×{other_height}, and the first is {width}×{height}"));
        }
        let limits = PictureLimits { min_tokens: Some(1), max_tokens: None };
        let grid = limits.grid(manifest, self.model.max_picture_tokens(), width, height)?;
        if grid.size() != (PictureSize { width, height }) {
            let PictureSize { width: whole_width, height: whole_height } = grid.size();
            return refused(format!("they are {width}×{height}, expected the size of a plan, such as {whole_width}×{whole_height}"));
        }
        let mut hash = ShardHash::new();
        hash.update(&width.to_le_bytes());
        frames.iter().for_each(|frame| hash.update(frame.rgb()));
        times.iter().chain(&fps).for_each(|time| hash.update(&time.to_le_bytes()));
        let tokens = steps.len() * grid.tokens();
        let info = PictureInfo { id: hash.finish(), width, height, seen, tokens, frames: frames.len() };
        match self.pictures.get(&info.id) {
            Some(kept) if !encode_again => return Ok(Prepared::Kept(kept)),
            _ => {}
        }
        let steps = steps.into_iter().zip(frames.chunks(2)).map(|(step, pair)| {
            let grid = PictureGrid { step: Some(step), ..grid };
            // A frame that is repeated changes nothing.
            let second = pair.get(1).filter(|second| **second != pair[0]);
            Step { grid, first: pair[0].clone(), second: second.cloned() }
        });
        Ok(Prepared::New { info, steps: steps.collect() })
    }

    /// Encodes a picture or a step of a video.
    async fn encode(&mut self, index: usize, step: &Step, mut trace: Option<&mut Trace>) -> Result<B::Features, RuntimeError> {
        let Step { grid, first, second } = step;
        let Manifest { config: ModelConfig { vision, .. }, processor, .. } = self.model.manifest();
        let (mean, std) = (processor.image_mean, processor.image_std);
        let patches_of = |picture: &Picture| picture.patches(grid, vision.patch_size, mean, std, vision.patch_values());
        let patches = match vision.image_size {
            Some(side) => {
                let pixels = first.pixels(side, mean, std);
                if let Some(trace) = &mut trace {
                    trace.insert(format!("pixels.{index}"), pixels.values().to_vec());
                }
                pixels.patches(vision.patch_size, vision.patch_values())
            }
            None => patches_of(first),
        };
        let change = second.as_ref().map(|second| {
            let mut change = patches_of(second);
            change.iter_mut().zip(&patches).for_each(|(second, first)| *second -= first);
            change
        });
        let features = self.model.encode_image(&patches, change.as_deref(), grid).await?;
        if let Some(trace) = &mut trace {
            trace.insert(format!("image_features.{index}"), self.model.read_features(&features).await?);
        }
        // Wait here so that encoding is timed as encoding, and so that a cancelled run leaves at most one picture in flight.
        self.model.settle().await?;
        Ok(features)
    }
}

/// The pictures of a request, in order.
type PreparedImages<B> = Vec<Prepared<<B as Backend>::Features>>;

fn grids<F>(pictures: &[Prepared<F>]) -> Vec<PictureGrid> {
    pictures.iter().flat_map(Prepared::grids).collect()
}

/// A picture or video of a request whose size for the model is known.
enum Prepared<F> {
    /// Its features are kept.
    Kept(EncodedImage<F>),
    /// It has to be encoded.
    New {
        info: PictureInfo,
        /// One for a picture.
        steps: Vec<Step>,
    },
}

/// A picture, or two frames of a video, in their size for the model.
struct Step {
    grid: PictureGrid,
    first: Picture,
    /// Absent if it is the same as the first.
    second: Option<Picture>,
}

impl<F> Prepared<F> {
    fn grids(&self) -> Vec<PictureGrid> {
        match self {
            Self::Kept(encoded) => encoded.steps.iter().map(|(grid, _)| *grid).collect(),
            Self::New { steps, .. } => steps.iter().map(|step| step.grid).collect(),
        }
    }
}

/// The ends of an answer at which white space is removed.
#[derive(Clone, Copy)]
enum Trim {
    Both,
    /// Of an answer that continues its prefix: white space between them has a meaning.
    End,
    /// Of an answer with a constraint, which can demand white space.
    None,
}

/// Turns generated tokens into events and into the texts and objects of an answer.
struct AnswerWriter<'a> {
    stream: AnswerStream,
    on_event: OnEvent<'a>,
    /// The text without tags.
    clean: String,
    /// Length of the raw text that events have reported, bytes.
    raw_reported: usize,
    dropped_images: usize,
    trim: Trim,
}

impl<'a> AnswerWriter<'a> {
    fn new(
        request: &Request,
        manifest: &Manifest,
        pictures: &[NumberedPicture],
        dropped_images: usize,
        is_constrained: bool,
        on_event: OnEvent<'a>,
    ) -> Self {
        let stream = AnswerStream::new(manifest.config.family, pictures).asked(&request.prompt.question());
        let mut stream = stream.stopping_at(&request.generation.stops(&manifest.generation));
        let prefix = match &request.prompt {
            PromptInput::Chat { prefix, .. } | PromptInput::Messages { prefix, .. } => prefix.as_ref(),
            _ => None,
        };
        if let Some(text) = prefix {
            stream = stream.continuing(text);
        } else if let PromptInput::Raw { text } = &request.prompt {
            stream = stream.continuing(text);
        }
        let trim = match prefix {
            _ if is_constrained => Trim::None,
            Some(_) => Trim::End,
            None => Trim::Both,
        };
        Self { stream, on_event, clean: String::new(), raw_reported: 0, dropped_images, trim }
    }

    fn push(&mut self, answer: &mut Answer, tokenizer: &Tokenizer, token: u32) -> ControlFlow<()> {
        let events = self.stream.push(tokenizer, token);
        self.report(answer, events)
    }

    fn report(&mut self, answer: &mut Answer, events: Vec<GroundingEvent>) -> ControlFlow<()> {
        for event in events {
            let event = match event {
                GroundingEvent::Text(delta) => {
                    self.clean.push_str(&delta);
                    let raw = self.stream.raw();
                    let raw = raw[std::mem::replace(&mut self.raw_reported, raw.len())..].to_owned();
                    Event::Text { delta, raw }
                }
                GroundingEvent::Object(mut object) => {
                    // Count over the whole conversation, as its pictures are numbered.
                    object.image = object.image.map(|image| image + self.dropped_images);
                    answer.objects.push(object.clone());
                    Event::Object { object }
                }
            };
            (self.on_event)(event)?;
        }
        ControlFlow::Continue(())
    }

    /// Reports the text that was held back and fills in the answer's texts.
    fn finish(mut self, answer: &mut Answer) {
        let events = self.stream.finish();
        if self.report(answer, events).is_break() {
            answer.finish_reason = FinishReason::Cancelled;
        }
        let raw = self.stream.raw();
        match self.trim {
            Trim::Both => raw.trim(),
            Trim::End => raw.trim_end(),
            Trim::None => raw,
        }
        .clone_into(&mut answer.raw);
        // Ranges were counted from the first generated character.
        let whole = Grounded { text: self.clean, objects: std::mem::take(&mut answer.objects) };
        let Grounded { text, objects } = match self.trim {
            Trim::Both => whole.stripped(),
            Trim::End => whole.stripped_at_end(),
            Trim::None => whole,
        };
        (answer.text, answer.objects) = (text, objects);
    }
}

fn logprob(logits: &[f32], token: u32) -> f64 {
    f64::from(logits[token as usize]) - log_sum_exp(logits)
}
