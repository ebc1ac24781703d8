//! The whole model on the GPU: encodes pictures, runs prompts, decodes token by token.

use crate::backend::{PictureParts, Trace};
use crate::decoder::Decoder;
use crate::merger::Mergers;
use crate::options::ModelOptions;
use crate::positions::{AngleTable, write_logn};
use crate::resampler::Resampler;
use crate::sequence::{Cached, ImageRows, PromptPlan, Sequence};
use crate::vision::VisionTower;
use crate::weights::Weights;
use crate::{Backend, Budget, Gpu, KvReuse, Measured, RuntimeError, Sampler, SamplingOptions};
use qwen_vl_format::{Manifest, ModelConfig};
use qwen_vl_kernels::presence::PresencePenalty;
use qwen_vl_kernels::sample::Draw;
use qwen_vl_kernels::timing::{AdapterSpeed, adapter_speed};
use qwen_vl_kernels::{Activation, PendingRead, StepBuffer, Temporary, argmax::NOT_FINITE, encode};
use qwen_vl_processor::PictureGrid;
use std::ops::ControlFlow;
use std::sync::Arc;
use web_time::Instant;

/// Features of one picture on the GPU, as the decoder reads them: `[tokens, hidden]`, then as many rows for each entry of DeepStack.
#[derive(Debug, Clone)]
pub struct ImageFeatures {
    rows: Arc<Temporary>,
    image: ImageRows,
}

/// Duration of one submission's work: long enough to make the cost of submitting negligible, short enough for the driver's watchdog and for
/// the desktop to stay responsive.
const SUBMISSION_MILLIS: f64 = 100.0;

/// A token that the GPU chose and whose read-back is in flight.
struct Chosen {
    read: PendingRead,
    /// Its position in the sequence.
    position: usize,
}

/// A loaded model. It holds one sequence at a time.
pub struct Model {
    gpu: Gpu,
    manifest: Manifest,
    options: ModelOptions,
    vision: VisionTower,
    projector: Projector,
    /// Numbers of rows of launches over patches, and over the projector's rows.
    picture_steps: [StepBuffer; 2],
    decoder: Decoder,
    step: StepBuffer,
    angles: AngleTable,
    sequence: Sequence,
    /// True if the answer in progress has a presence penalty.
    penalizes: bool,
    /// Number of encodings so far.
    encodings: u64,
    /// Time of one row in one layer of the decoder at the latest chunk of a prompt, milliseconds; absent before the first.
    row_millis: Option<f64>,
}

/// The part that turns the tower's output into image features.
enum Projector {
    Resampler(Resampler),
    Mergers(Mergers),
}

/// The launches of a model and their buffers.
struct Parts {
    vision: VisionTower,
    projector: Projector,
    picture_steps: [StepBuffer; 2],
    decoder: Decoder,
    step: StepBuffer,
}

impl Parts {
    fn new(gpu: &Gpu, config: &ModelConfig, options: ModelOptions, weights: &Weights) -> Result<Self, RuntimeError> {
        let [patch_step, row_step, step] = std::array::from_fn(|_| StepBuffer::new(gpu));
        let vision = VisionTower::new(gpu, config, weights, options.max_patches(&config.vision), &patch_step)?;
        let projector = match (&config.vision.resampler, &config.vision.merger) {
            (Some(resampler), _) => {
                Projector::Resampler(Resampler::new(gpu, config, resampler, weights, &vision.hidden, &patch_step, &row_step)?)
            }
            (None, Some(merger)) => {
                let tokens = options.max_picture_tokens;
                Projector::Mergers(Mergers::new(gpu, config, merger, weights, &vision, tokens, [&patch_step, &row_step])?)
            }
            (None, None) => unreachable!("a valid configuration has a resampler or a merger"),
        };
        let decoder = Decoder::new(gpu, config, weights, &step, options)?;
        Ok(Self { vision, projector, picture_steps: [patch_step, row_step], decoder, step })
    }
}

impl Model {
    /// Registers the kernels of a model with [`Gpu::uncompiled`] before the model exists, so that they compile while it is allocated, which
    /// takes some adapters seconds.
    pub fn note_kernels(gpu: &Gpu, manifest: &Manifest, options: ModelOptions) -> Result<(), RuntimeError> {
        let options = options.checked()?;
        gpu.dry_run(|gpu| Parts::new(gpu, &manifest.config, options, &Weights::allocate(gpu, manifest, &options)?)).map(|_| ())
    }

    pub(crate) fn new(gpu: Gpu, manifest: Manifest, options: ModelOptions, weights: &Weights) -> Result<Self, RuntimeError> {
        let Parts { vision, projector, picture_steps, decoder, step } = Parts::new(&gpu, &manifest.config, options, weights)?;
        if let Some(logn) = &decoder.tables.logn {
            write_logn(&gpu, logn, options.context_length, manifest.config.decoder.trained_context);
        }
        let angles = AngleTable::new(&manifest.config.decoder);
        Ok(Self {
            gpu,
            manifest,
            options,
            vision,
            projector,
            picture_steps,
            decoder,
            step,
            angles,
            sequence: Sequence::default(),
            penalizes: false,
            encodings: 0,
            row_millis: None,
        })
    }

    pub(crate) fn options(&self) -> &ModelOptions {
        &self.options
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// [`Backend::encode_image`] that also collects the output of every stage: `patch_embed` and `ln_pre`, if the tower has that norm; `block0`
    /// …; of a resampler `resampler_ln_kv`, `resampler_out` and `ln_post`; `image_features`, and `image_deepstack0` … of DeepStack.
    pub async fn encode_image_traced(
        &mut self,
        patches: &[f32],
        change: Option<&[f32]>,
        grid: &PictureGrid,
        trace: &mut Trace,
    ) -> Result<ImageFeatures, RuntimeError> {
        self.run_vision(patches, change, grid, Some(trace)).await
    }

    async fn run_vision(
        &mut self,
        patches: &[f32],
        change: Option<&[f32]>,
        grid: &PictureGrid,
        mut trace: Option<&mut Trace>,
    ) -> Result<ImageFeatures, RuntimeError> {
        let (config, vision) = (&self.manifest.config, &self.vision);
        let rows = grid.patches();
        assert_eq!(patches.len(), rows * config.vision.patch_values(), "patches of one picture");
        let limit = self.options.max_patches(&config.vision);
        if rows > limit || (config.vision.merger.is_none() && rows != limit) {
            return Err(RuntimeError::PictureSize { patches: rows, limit });
        }
        let tokens = config.vision.resampler.as_ref().map_or(grid.tokens(), |resampler| resampler.queries);
        let deepstack = config.vision.deepstack().len();
        let features = self.gpu.temporary("image features", tokens * (1 + deepstack), config.decoder.width)?;
        self.gpu.write_rows(&vision.patches, patches);
        vision.write_tables(&self.gpu, &config.vision, grid);
        let [patch_step, row_step] = &self.picture_steps;
        patch_step.write(&self.gpu, rows, 0, rows);
        row_step.write(&self.gpu, tokens, 0, rows);

        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        vision.encode_positions(&mut encoder, rows);
        encode(&mut encoder, &vision.embed, rows);
        self.gpu.queue().submit([encoder.finish()]);
        if let Some(change) = change {
            assert_eq!(change.len(), patches.len(), "patches of the second frame");
            if config.vision.video.is_none() {
                return Err(RuntimeError::NoVideo);
            }
            // After the submission that reads the first frame.
            self.gpu.write_rows(&vision.patches, change);
            self.submit(&vision.embed_change, rows);
        }
        self.record(&mut trace, "patch_embed", &vision.embedded, rows).await?;
        self.submit(&vision.place, rows);
        if config.vision.pre_norm {
            self.record(&mut trace, "ln_pre", &vision.hidden, rows).await?;
        }

        // One submission for each block: the whole tower in one could exceed a driver's watchdog.
        for (layer, block) in vision.blocks.iter().enumerate() {
            self.submit(block, rows);
            self.record(&mut trace, &format!("block{layer}"), &vision.hidden, rows).await?;
            if let Projector::Mergers(mergers) = &self.projector
                && let Some(entry) = mergers.deepstack.iter().position(|(block, _)| *block == layer)
            {
                self.submit(&mergers.deepstack[entry].1, tokens);
                self.copy_features(&mergers.features, &features, (1 + entry) * tokens, tokens);
                self.record(&mut trace, &format!("image_deepstack{entry}"), &mergers.features, tokens).await?;
            }
        }
        match &self.projector {
            Projector::Resampler(resampler) => {
                self.submit(&resampler.over_patches, rows);
                self.record(&mut trace, "resampler_ln_kv", &resampler.ln_kv, rows).await?;
                self.submit(&resampler.over_queries, tokens);
                self.record(&mut trace, "resampler_out", &resampler.attention_out, tokens).await?;
                self.record(&mut trace, "ln_post", &resampler.ln_post, tokens).await?;
                self.copy_features(&resampler.features, &features, 0, tokens);
            }
            Projector::Mergers(mergers) => {
                self.submit([&mergers.norm], rows);
                self.submit(&mergers.main, tokens);
                self.copy_in_reading_order(&mergers.features, &features, grid);
            }
        }
        self.record(&mut trace, "image_features", &features, tokens).await?;
        self.encodings += 1;
        let image = ImageRows { encoding: self.encodings, rows: tokens, grid: *grid };
        Ok(ImageFeatures { rows: Arc::new(features), image })
    }

    /// Copies the first `count` rows to the rows of `features` from `first` on.
    fn copy_features(&self, from: &Activation, features: &Activation, first: usize, count: usize) {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&from.buffer, 0, &features.buffer, features.bytes(first), from.bytes(count));
        self.gpu.queue().submit([encoder.finish()]);
    }

    /// Copies the rows of tokens in the order of the tower's windows to their places in reading order.
    fn copy_in_reading_order(&self, from: &Activation, features: &Activation, grid: &PictureGrid) {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        // Tokens that are neighbours in both orders are one copy.
        let mut run = [0, 0, 0];
        for (row, place) in grid.reading_order().chain([usize::MAX]).enumerate() {
            let [first, to, count] = run;
            if place == to + count {
                run[2] += 1;
                continue;
            }
            encoder.copy_buffer_to_buffer(&from.buffer, from.bytes(first), &features.buffer, features.bytes(to), from.bytes(count));
            run = [row, place, 1];
        }
        self.gpu.queue().submit([encoder.finish()]);
    }

    /// Queues a decode step for the token that the GPU chose last, without waiting for the token. [`Self::finish_choice`] records it in the
    /// sequence.
    fn decode_choice(&mut self) -> Result<(), RuntimeError> {
        self.sequence.check_room(self.options.context_length)?;
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&self.decoder.token, 0, &self.decoder.ids, 0, 4);
        self.decode_step(encoder)?;
        self.sequence.push(Cached::Chosen);
        Ok(())
    }

    /// Samples the next token from the latest logits on the GPU, in place of the most likely one. `random` is at least 0 and below 1.
    fn sample(&self, options: &SamplingOptions, random: f64) {
        let draw = Draw {
            temperature: options.temperature.max(1e-6),
            top_p: options.top_p,
            top_k: u32::try_from(options.top_k).unwrap_or(u32::MAX),
            random: random as f32,
        };
        self.decoder.draw.write(&self.gpu, draw);
        self.submit(self.decoder.sample(&self.gpu), 1);
    }

    /// Begins to read back the token that the GPU chose: the most likely one, or that of [`Self::sample`].
    fn begin_choice(&self) -> Chosen {
        Chosen { read: self.gpu.begin_read(&self.decoder.token, 0, 4), position: self.length() }
    }

    /// Returns the token of [`Self::begin_choice`].
    async fn finish_choice(&mut self, chosen: Chosen) -> Result<u32, RuntimeError> {
        let bytes = self.gpu.finish_read(chosen.read).await?;
        let token = bytemuck::pod_read_unaligned(&bytes);
        if token == NOT_FINITE {
            return Err(RuntimeError::NotFinite { position: chosen.position.saturating_sub(1) });
        }
        self.sequence.resolve(chosen.position, token);
        Ok(token)
    }

    /// Appends one decode step for the token in `ids`, the one chosen last, to `encoder` and submits it.
    fn decode_step(&mut self, mut encoder: wgpu::CommandEncoder) -> Result<(), RuntimeError> {
        let length = self.length();
        let position = self.sequence.next();
        self.angles.write(&self.gpu, &self.decoder.tables.angles, self.options.context_length, length, &[position]);
        let decoder = &self.decoder;
        self.step.write(&self.gpu, 1, length, length + 1);
        let presence = if self.penalizes { Some(decoder.presence(&self.gpu)?) } else { None };
        encode(&mut encoder, presence.iter().map(|presence| &presence.mark), 1);
        encode(&mut encoder, decoder.embed.iter().chain(decoder.layers.iter().flat_map(|layer| layer.decode(length + 1))), 1);
        self.encode_head(&mut encoder, 0, presence);
        self.gpu.queue().submit([encoder.finish()]);
        Ok(())
    }

    /// Runs one chunk of a prompt, after the positions that the cache holds.
    async fn prefill_chunk(
        &self,
        ids: &[u32],
        spans: &[usize],
        images: &[ImageFeatures],
        trace: &mut Option<&mut Trace>,
    ) -> Result<(), RuntimeError> {
        let (decoder, rows, start) = (&self.decoder, ids.len(), self.length());
        self.step.write(&self.gpu, rows, start, start + rows);
        self.gpu.queue().write_buffer(&decoder.ids, 0, bytemuck::cast_slice(ids));

        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        encode(&mut encoder, &decoder.embed, rows);
        // The rows of image features that belong to this chunk: the picture, its first row, the chunk's row and the number of rows.
        let mut placed = Vec::new();
        for (first, features) in spans.iter().zip(images) {
            let from = (*first).max(start);
            let to = (first + features.image.rows).min(start + rows);
            if from < to {
                placed.push((features, from - first, from - start, to - from));
            }
        }
        let deepstack = if placed.is_empty() { &[] } else { &decoder.deepstack[..] };
        for added in deepstack {
            encoder.clear_buffer(&added.rows.buffer, 0, None);
        }
        let mut place = |target: &Activation, entry: usize| {
            for (features, first, row, count) in &placed {
                let from = features.rows.bytes(entry * features.image.rows + first);
                encoder.copy_buffer_to_buffer(&features.rows.buffer, from, &target.buffer, target.bytes(*row), target.bytes(*count));
            }
        };
        place(&decoder.hidden, 0);
        for (entry, added) in deepstack.iter().enumerate() {
            place(&added.rows, 1 + entry);
        }
        if trace.is_none() {
            // As many layers in one submission as the measured speed allows; one if it is not measured.
            let together = (self.row_millis.map_or(1.0, |millis| SUBMISSION_MILLIS / (millis * rows as f64)) as usize).max(1);
            for first in (0..decoder.layers.len()).step_by(together) {
                let layers = first..decoder.layers.len().min(first + together);
                let launches =
                    layers.flat_map(|layer| decoder.layers[layer].prefill.iter().chain(deepstack.get(layer).map(|added| &added.add)));
                encode(&mut encoder, launches, rows);
                let next = self.gpu.device().create_command_encoder(&Default::default());
                self.gpu.queue().submit([std::mem::replace(&mut encoder, next).finish()]);
            }
            self.encode_head(&mut encoder, rows - 1, None);
            self.gpu.queue().submit([encoder.finish()]);
        } else {
            self.gpu.queue().submit([encoder.finish()]);
            self.record(trace, "hidden.embed", &decoder.hidden, rows).await?;
            for (layer, plan) in decoder.layers.iter().enumerate() {
                self.submit(&plan.prefill, rows);
                self.record(trace, &format!("hidden.layer{layer}"), &decoder.hidden, rows).await?;
                self.submit(deepstack.get(layer).map(|added| &added.add), rows);
            }
            self.submit([&decoder.final_norm], rows);
            self.record(trace, "hidden.ln_f", &decoder.normed, rows).await?;
            for row in 0..rows {
                let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
                self.encode_head(&mut encoder, row, None);
                self.gpu.queue().submit([encoder.finish()]);
                self.record(trace, "logits", &decoder.logits, 1).await?;
            }
            for (layer, plan) in decoder.layers.iter().enumerate() {
                for (name, cache) in [("key", &plan.keys), ("value", &plan.values)] {
                    if let Some(trace) = trace {
                        trace.insert(format!("layer{layer}_{name}"), cache.read(&self.gpu, start + rows).await?);
                    }
                }
            }
        }
        Ok(())
    }

    /// Appends final norm, head, presence penalty and argmax for one row of the hidden states.
    fn encode_head(&self, encoder: &mut wgpu::CommandEncoder, row: usize, presence: Option<&PresencePenalty>) {
        let decoder = &self.decoder;
        encoder.copy_buffer_to_buffer(&decoder.hidden.buffer, decoder.hidden.bytes(row), &decoder.last.buffer, 0, decoder.last.bytes(1));
        encode(encoder, decoder.head.iter().chain(presence.map(|presence| &presence.penalize)).chain(&decoder.argmax), 1);
    }

    fn submit<'a>(&self, dispatches: impl IntoIterator<Item = &'a qwen_vl_kernels::Dispatch>, rows: usize) {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        encode(&mut encoder, dispatches, rows);
        self.gpu.queue().submit([encoder.finish()]);
    }

    /// Appends the first `rows` rows to the trace, if there is one.
    async fn record(&self, trace: &mut Option<&mut Trace>, name: &str, rows_of: &Activation, rows: usize) -> Result<(), RuntimeError> {
        if let Some(trace) = trace {
            trace.entry(name.to_owned()).or_default().extend(self.gpu.read_rows(rows_of, rows).await?);
        }
        Ok(())
    }
}

impl Backend for Model {
    type Features = ImageFeatures;

    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn context_length(&self) -> usize {
        self.options.context_length
    }

    fn max_picture_tokens(&self) -> usize {
        self.options.max_picture_tokens
    }

    fn length(&self) -> usize {
        self.sequence.len()
    }

    fn reused(&self) -> usize {
        self.sequence.reused()
    }

    async fn encode_image(&mut self, patches: &[f32], change: Option<&[f32]>, grid: &PictureGrid) -> Result<ImageFeatures, RuntimeError> {
        self.run_vision(patches, change, grid, None).await
    }

    async fn read_features(&self, features: &ImageFeatures) -> Result<Vec<f32>, RuntimeError> {
        Ok(self.gpu.read_rows(&features.rows, features.image.rows).await?)
    }

    async fn prefill(
        &mut self,
        ids: &[u32],
        images: &[ImageFeatures],
        kv_reuse: KvReuse,
        on_chunk: &mut dyn FnMut(usize) -> ControlFlow<()>,
        mut trace: Option<&mut Trace>,
    ) -> Result<ControlFlow<()>, RuntimeError> {
        self.penalizes = false;
        let pictures: Vec<ImageRows> = images.iter().map(|features| features.image).collect();
        let plan = self.sequence.plan(&self.manifest.config, self.options.context_length, ids, &pictures, kv_reuse, trace.is_some())?;
        self.angles.set_alpha(&self.manifest.config.decoder, plan.alpha);
        self.angles.write(&self.gpu, &self.decoder.tables.angles, self.options.context_length, 0, &plan.positions);
        self.sequence.begin(&plan);
        let PromptPlan { spans, contents, positions, reused, .. } = plan;

        let size = self.options.prefill_chunk;
        for first in (reused..ids.len()).step_by(size) {
            let chunk = first..ids.len().min(first + size);
            let started = Instant::now();
            self.prefill_chunk(&ids[chunk.clone()], &spans, images, &mut trace).await?;
            self.sequence.extend(&contents[chunk.clone()], &positions[chunk.clone()]);
            // Wait for the chunk, so that little work is in flight when `on_chunk` stops the prompt.
            self.gpu.read(&self.decoder.token, 0, 4).await?;
            self.row_millis = Some(started.elapsed().as_secs_f64() * 1e3 / (chunk.len() * self.decoder.layers.len()) as f64);
            if on_chunk(self.length()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn begin_answer(&mut self, presence_penalty: Option<f32>) -> Result<bool, RuntimeError> {
        self.penalizes = presence_penalty.is_some();
        if let Some(penalty) = presence_penalty {
            self.decoder.presence(&self.gpu)?.begin(&self.gpu, penalty);
        }
        Ok(true)
    }

    fn decode(&mut self, token: u32) -> Result<(), RuntimeError> {
        self.sequence.check_next(&self.manifest.config, self.options.context_length, token)?;
        for buffer in [&self.decoder.ids, &self.decoder.token] {
            self.gpu.queue().write_buffer(buffer, 0, bytemuck::bytes_of(&token));
        }
        self.decode_step(self.gpu.device().create_command_encoder(&Default::default()))?;
        self.sequence.push(Cached::Token(token));
        Ok(())
    }

    /// The GPU chooses the token and runs it before it is read back.
    async fn next_token(&mut self, sampler: Option<&mut Sampler>, allowed: Option<&[u32]>, ahead: bool) -> Result<u32, RuntimeError> {
        if let Some(allowed) = allowed {
            let mask = self.decoder.mask(&self.gpu)?;
            mask.write(&self.gpu, allowed);
            self.submit([&mask.exclude].into_iter().chain(&self.decoder.argmax), 1);
        }
        if let Some(sampler) = sampler {
            let random = sampler.random();
            self.sample(sampler.options(), random);
        }
        let chosen = self.begin_choice();
        if ahead {
            self.decode_choice()?;
        }
        self.finish_choice(chosen).await
    }

    async fn logits(&self) -> Result<Vec<f32>, RuntimeError> {
        let logits = self.gpu.read_rows(&self.decoder.logits, 1).await?;
        if logits.iter().all(|logit| logit.is_finite()) { Ok(logits) } else { Err(RuntimeError::NotFinite { position: self.length() - 1 }) }
    }

    fn rewind(&mut self, length: usize) {
        self.sequence.rewind(length);
    }

    async fn settle(&self) -> Result<(), RuntimeError> {
        self.gpu.read(&self.decoder.token, 0, 4).await?;
        Ok(())
    }
}

impl Measured for Model {
    async fn time_picture_parts(&mut self) -> Result<Option<PictureParts>, RuntimeError> {
        let rows = self.vision.patches.rows;
        // One row of patches, with windows of as many patches as those of a picture.
        let window = self.manifest.config.vision.window_patches();
        let grid = PictureGrid { window, ..PictureGrid::still([1, rows], 1, self.manifest.config.vision.patch_size) };
        let [patch_step, row_step] = &self.picture_steps;
        let projected = match &self.projector {
            Projector::Resampler(resampler) => resampler.features.rows,
            Projector::Mergers(mergers) => mergers.features.rows,
        };
        self.vision.write_tables(&self.gpu, &self.manifest.config.vision, &grid);
        patch_step.write(&self.gpu, rows, 0, rows);
        row_step.write(&self.gpu, projected, 0, rows);
        Backend::settle(self).await?;
        let started = Instant::now();
        for block in &self.vision.blocks {
            self.submit(block, rows);
        }
        Backend::settle(self).await?;
        let blocks_done = Instant::now();
        match &self.projector {
            Projector::Resampler(resampler) => {
                self.submit(&resampler.over_patches, rows);
                self.submit(&resampler.over_queries, projected);
            }
            Projector::Mergers(mergers) => {
                self.submit([&mergers.norm], rows);
                self.submit(&mergers.main, projected);
                for (_, merger) in &mergers.deepstack {
                    self.submit(merger, projected);
                }
            }
        }
        Backend::settle(self).await?;
        Ok(Some(PictureParts {
            block_ms: (blocks_done - started).as_secs_f64() * 1e3 / self.vision.blocks.len().max(1) as f64,
            resampler_ms: blocks_done.elapsed().as_secs_f64() * 1e3,
        }))
    }

    async fn adapter_limits(&self) -> Result<Option<AdapterSpeed>, RuntimeError> {
        Ok(Some(adapter_speed(&self.gpu).await?))
    }

    fn decode_bytes(&self, context: usize) -> u64 {
        Budget::decode_bytes(&self.manifest, context, self.options.kv)
    }

    fn decode_dispatches(&self, context: usize) -> usize {
        let decoder = &self.decoder;
        let layers = decoder.layers.iter().map(|layer| layer.decode(context).count()).sum::<usize>();
        decoder.embed.len() + layers + decoder.head.len() + decoder.argmax.len()
    }
}
