//! The whole model on the GPU: encodes pictures, runs prompts, decodes token by token.

use crate::backend::{PictureParts, Trace};
use crate::decoder::Decoder;
use crate::options::ModelOptions;
use crate::positions::{logn_factors, rotary_angles};
use crate::resampler::Resampler;
use crate::sequence::{Cached, PromptPlan, Sequence};
use crate::vision::VisionTower;
use crate::weights::Weights;
use crate::{Backend, Budget, Gpu, KvReuse, Measured, RuntimeError, Sampler, SamplingOptions};
use qwen_vl_format::{Manifest, ModelConfig};
use qwen_vl_kernels::sample::Draw;
use qwen_vl_kernels::timing::{AdapterSpeed, adapter_speed};
use qwen_vl_kernels::{Activation, PendingRead, StepBuffer, Temporary, argmax::NOT_FINITE, encode};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use web_time::Instant;

/// Features of one picture on the GPU, as the decoder reads them: `[queries, hidden]`.
#[derive(Debug, Clone)]
pub struct ImageFeatures {
    rows: Arc<Temporary>,
    /// Number of the encoding among all of the model.
    id: u64,
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
    resampler: Resampler,
    decoder: Decoder,
    step: StepBuffer,
    /// NTK factor of the rotary tables.
    alpha: u32,
    sequence: Sequence,
    /// Number of encodings so far.
    encodings: u64,
    /// Time of one row in one layer of the decoder at the latest chunk of a prompt, milliseconds; absent before the first.
    row_millis: Option<f64>,
}

/// The launches of a model and their buffers.
struct Parts {
    vision: VisionTower,
    resampler: Resampler,
    decoder: Decoder,
    step: StepBuffer,
}

impl Parts {
    fn new(gpu: &Gpu, config: &ModelConfig, options: ModelOptions, weights: &Weights) -> Result<Self, RuntimeError> {
        let [patch_step, query_step, step] = std::array::from_fn(|_| StepBuffer::new(gpu));
        patch_step.write(gpu, config.vision.fixed_patches(), 0, config.vision.fixed_patches());
        query_step.write(gpu, config.vision.queries(), 0, config.vision.fixed_patches());
        let vision = VisionTower::new(gpu, config, weights, &patch_step)?;
        let resampler = Resampler::new(gpu, config, weights, &vision.hidden, &patch_step, &query_step)?;
        let decoder = Decoder::new(gpu, config, weights, &step, options)?;
        Ok(Self { vision, resampler, decoder, step })
    }
}

impl Model {
    /// Registers the kernels of a model with [`Gpu::uncompiled`] before the model exists, so that they compile while it is allocated, which
    /// takes some adapters seconds.
    pub fn note_kernels(gpu: &Gpu, manifest: &Manifest, options: ModelOptions) -> Result<(), RuntimeError> {
        let options = options.checked()?;
        gpu.dry_run(|gpu| Parts::new(gpu, &manifest.config, options, &Weights::allocate(gpu, &manifest.tensors)?)).map(|_| ())
    }

    pub(crate) fn new(gpu: Gpu, manifest: Manifest, options: ModelOptions, weights: &Weights) -> Result<Self, RuntimeError> {
        let Parts { vision, resampler, decoder, step } = Parts::new(&gpu, &manifest.config, options, weights)?;
        if let Some(logn) = &decoder.tables.logn {
            write_table(&gpu, logn, options.context_length, |positions| logn_factors(&manifest.config, positions));
        }
        let mut model = Self {
            gpu,
            manifest,
            options,
            vision,
            resampler,
            decoder,
            step,
            alpha: 0,
            sequence: Sequence::default(),
            encodings: 0,
            row_millis: None,
        };
        model.set_alpha(1);
        Ok(model)
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// [`Backend::encode_image`] that also collects the output of every stage: `ln_pre`, `block0` …, `resampler_ln_kv`, `resampler_out`,
    /// `ln_post` and `image_features`.
    pub async fn encode_image_traced(&mut self, patches: &[f32], trace: &mut Trace) -> Result<ImageFeatures, RuntimeError> {
        self.run_vision(patches, Some(trace)).await
    }

    async fn run_vision(&mut self, patches: &[f32], mut trace: Option<&mut Trace>) -> Result<ImageFeatures, RuntimeError> {
        let (config, vision, resampler) = (&self.manifest.config, &self.vision, &self.resampler);
        let (rows, queries) = (config.vision.fixed_patches(), config.vision.queries());
        assert_eq!(patches.len(), rows * config.vision.patch_values(), "patches of one picture");
        self.gpu.write_rows(&vision.patches, patches);

        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&vision.positions.buffer, 0, &vision.embedded.buffer, 0, vision.embedded.bytes(rows));
        encode(&mut encoder, &vision.embed, rows);
        self.gpu.queue().submit([encoder.finish()]);
        self.record(&mut trace, "ln_pre", &vision.hidden, rows).await?;

        // One submission for each block: the whole tower in one could exceed a driver's watchdog.
        for (layer, block) in vision.blocks.iter().enumerate() {
            self.submit(block, rows);
            self.record(&mut trace, &format!("block{layer}"), &vision.hidden, rows).await?;
        }
        self.submit(&resampler.over_patches, rows);
        self.record(&mut trace, "resampler_ln_kv", &resampler.ln_kv, rows).await?;
        self.submit(&resampler.over_queries, queries);
        self.record(&mut trace, "resampler_out", &resampler.attention_out, queries).await?;
        self.record(&mut trace, "ln_post", &resampler.ln_post, queries).await?;
        self.record(&mut trace, "image_features", &resampler.features, queries).await?;

        let features = self.gpu.temporary("image features", queries, config.decoder.width)?;
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&resampler.features.buffer, 0, &features.buffer, 0, features.bytes(queries));
        self.gpu.queue().submit([encoder.finish()]);
        self.encodings += 1;
        Ok(ImageFeatures { rows: Arc::new(features), id: self.encodings })
    }

    /// Queues a decode step for the token that the GPU chose last, without waiting for the token. [`Self::finish_choice`] records it in the
    /// sequence.
    fn decode_choice(&mut self) -> Result<(), RuntimeError> {
        self.sequence.check_room(self.options.context_length)?;
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&self.decoder.token, 0, &self.decoder.ids, 0, 4);
        self.decode_step(encoder);
        self.sequence.extend(&[Cached::Chosen]);
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
        self.submit([self.decoder.sample(&self.gpu)], 1);
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

    /// Appends one decode step for the token in `ids` to `encoder` and submits it.
    fn decode_step(&self, mut encoder: wgpu::CommandEncoder) {
        let (decoder, length) = (&self.decoder, self.length());
        self.step.write(&self.gpu, 1, length, length + 1);
        encode(&mut encoder, decoder.embed.iter().chain(decoder.layers.iter().flat_map(|layer| layer.decode(length + 1))), 1);
        self.encode_head(&mut encoder, 0);
        self.gpu.queue().submit([encoder.finish()]);
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
        for (first, features) in spans.iter().zip(images) {
            // The positions of this picture that lie in this chunk.
            let from = (*first).max(start);
            let to = (first + features.rows.rows).min(start + rows);
            if from < to {
                encoder.copy_buffer_to_buffer(
                    &features.rows.buffer,
                    features.rows.bytes(from - first),
                    &decoder.hidden.buffer,
                    decoder.hidden.bytes(from - start),
                    features.rows.bytes(to - from),
                );
            }
        }
        if trace.is_none() {
            // As many layers in one submission as the measured speed allows; one if it is not measured.
            let layers = self.row_millis.map_or(1.0, |millis| SUBMISSION_MILLIS / (millis * rows as f64));
            for layers in decoder.layers.chunks((layers as usize).max(1)) {
                encode(&mut encoder, layers.iter().flat_map(|layer| &layer.prefill), rows);
                let next = self.gpu.device().create_command_encoder(&Default::default());
                self.gpu.queue().submit([std::mem::replace(&mut encoder, next).finish()]);
            }
            self.encode_head(&mut encoder, rows - 1);
            self.gpu.queue().submit([encoder.finish()]);
        } else {
            self.gpu.queue().submit([encoder.finish()]);
            self.record(trace, "hidden.embed", &decoder.hidden, rows).await?;
            for (layer, plan) in decoder.layers.iter().enumerate() {
                self.submit(&plan.prefill, rows);
                self.record(trace, &format!("hidden.layer{layer}"), &decoder.hidden, rows).await?;
            }
            self.submit([&decoder.final_norm], rows);
            self.record(trace, "hidden.ln_f", &decoder.normed, rows).await?;
            for row in 0..rows {
                let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
                self.encode_head(&mut encoder, row);
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

    /// Appends final norm, head and argmax for one row of the hidden states.
    fn encode_head(&self, encoder: &mut wgpu::CommandEncoder, row: usize) {
        let decoder = &self.decoder;
        encoder.copy_buffer_to_buffer(&decoder.hidden.buffer, decoder.hidden.bytes(row), &decoder.last.buffer, 0, decoder.last.bytes(1));
        encode(encoder, decoder.head.iter().chain([&decoder.argmax]), 1);
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

    /// Fills the rotary tables for an NTK factor, unless they are filled for it.
    fn set_alpha(&mut self, alpha: u32) {
        if self.alpha != alpha {
            let angles = |positions| rotary_angles(&self.manifest.config, alpha, positions);
            write_table(&self.gpu, &self.decoder.tables.angles, self.options.context_length, angles);
            self.alpha = alpha;
        }
    }
}

/// Writes a table of all positions, a few at a time: the table of a long context does not fit into the memory of wasm.
fn write_table<T: bytemuck::NoUninit>(gpu: &Gpu, table: &wgpu::Buffer, context: usize, rows: impl Fn(Range<usize>) -> Vec<T>) {
    const POSITIONS: usize = 4096;
    let mut offset = 0;
    for first in (0..context).step_by(POSITIONS) {
        let rows = rows(first..context.min(first + POSITIONS));
        let bytes: &[u8] = bytemuck::cast_slice(&rows);
        gpu.queue().write_buffer(table, offset, bytes);
        offset += bytes.len() as u64;
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

    fn length(&self) -> usize {
        self.sequence.len()
    }

    fn reused(&self) -> usize {
        self.sequence.reused()
    }

    async fn encode_image(&mut self, patches: &[f32]) -> Result<ImageFeatures, RuntimeError> {
        self.run_vision(patches, None).await
    }

    async fn read_features(&self, features: &ImageFeatures) -> Result<Vec<f32>, RuntimeError> {
        Ok(self.gpu.read_rows(&features.rows, features.rows.rows).await?)
    }

    async fn prefill(
        &mut self,
        ids: &[u32],
        images: &[ImageFeatures],
        kv_reuse: KvReuse,
        on_chunk: &mut dyn FnMut(usize) -> ControlFlow<()>,
        mut trace: Option<&mut Trace>,
    ) -> Result<ControlFlow<()>, RuntimeError> {
        let identities: Vec<u64> = images.iter().map(|image| image.id).collect();
        let plan = self.sequence.plan(&self.manifest.config, self.options.context_length, ids, &identities, kv_reuse, trace.is_some())?;
        self.set_alpha(plan.alpha);
        self.sequence.begin(&plan);
        let PromptPlan { spans, contents, reused, .. } = plan;

        for (chunk, cached) in ids[reused..].chunks(self.options.prefill_chunk).zip(contents[reused..].chunks(self.options.prefill_chunk)) {
            let started = Instant::now();
            self.prefill_chunk(chunk, &spans, images, &mut trace).await?;
            self.sequence.extend(cached);
            // Wait for the chunk, so that little work is in flight when `on_chunk` stops the prompt.
            self.gpu.read(&self.decoder.token, 0, 4).await?;
            self.row_millis = Some(started.elapsed().as_secs_f64() * 1e3 / (chunk.len() * self.decoder.layers.len()) as f64);
            if on_chunk(self.length()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn decode(&mut self, token: u32) -> Result<(), RuntimeError> {
        self.sequence.check_next(&self.manifest.config, self.options.context_length, token)?;
        self.gpu.queue().write_buffer(&self.decoder.ids, 0, bytemuck::bytes_of(&token));
        self.decode_step(self.gpu.device().create_command_encoder(&Default::default()));
        self.sequence.extend(&[Cached::Token(token)]);
        Ok(())
    }

    /// The GPU chooses the token and runs it before it is read back.
    async fn next_token(&mut self, sampler: Option<&mut Sampler>, ahead: bool) -> Result<u32, RuntimeError> {
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
        let (visual, resampler) = (&self.manifest.config.vision, &self.resampler);
        Backend::settle(self).await?;
        let started = Instant::now();
        for block in &self.vision.blocks {
            self.submit(block, visual.fixed_patches());
        }
        Backend::settle(self).await?;
        let blocks_done = Instant::now();
        self.submit(&resampler.over_patches, visual.fixed_patches());
        self.submit(&resampler.over_queries, visual.queries());
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
        decoder.embed.len() + decoder.layers.iter().map(|layer| layer.decode(context).count()).sum::<usize>() + decoder.head.len() + 1
    }
}
