//! The burn reference as a backend.

use crate::shards::Shards;
use qwen_vl_format::{Manifest, QwenVlConfig};
use qwen_vl_processor::PictureGrid;
use qwen_vl_reference::burn::tensor::{Device, Tensor, TensorData};
use qwen_vl_reference::{KvCache, QwenVl, Splice, ignore};
use qwen_vl_runtime::{
    Backend, Budget, Cached, ImageRows, KvReuse, Measured, PromptPlan, RuntimeError, Sampler, Sequence, Trace, exclude, largest,
};
use std::cell::RefCell;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::rc::Rc;

/// Number of prompt positions between two pauses.
const CHUNK: usize = 128;

/// Lets the thread's event loop run: a worker that only computes receives no messages.
pub type Pause = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()>>>>;

/// Features of one picture, as the decoder reads them: `[1, queries, hidden]`.
#[derive(Debug, Clone)]
pub struct CpuFeatures {
    rows: Tensor<3>,
    image: ImageRows,
}

/// A model in memory, in f32. It holds one sequence at a time.
pub struct CpuModel {
    manifest: Manifest,
    config: QwenVlConfig,
    context_length: usize,
    shards: Rc<RefCell<Shards>>,
    /// Decoded at its first use.
    reference: Option<QwenVl>,
    cache: KvCache,
    sequence: Sequence,
    /// Logits of the last position, `[vocab]`.
    logits: Vec<f32>,
    encodings: u64,
    pause: Option<Pause>,
}

impl CpuModel {
    pub(crate) fn new(manifest: Manifest, config: QwenVlConfig, context_length: usize, shards: Rc<RefCell<Shards>>) -> Self {
        Self {
            manifest,
            config,
            context_length,
            shards,
            reference: None,
            cache: KvCache::default(),
            sequence: Sequence::default(),
            logits: Vec::new(),
            encodings: 0,
            pause: None,
        }
    }

    /// Sets the pause that follows every token and every chunk of a prompt.
    pub fn set_pause(&mut self, pause: Pause) {
        self.pause = Some(pause);
    }

    /// Decodes the weights, unless they are decoded already. They must be complete.
    pub fn prepare(&mut self) -> Result<(), RuntimeError> {
        if self.reference.is_some() {
            return Ok(());
        }
        self.shards.borrow().complete()?;
        let tensor = |name: &str| self.shards.borrow().tensor(&self.manifest, name);
        let reference = QwenVl::from_web(&self.config, &tensor, &Device::flex());
        // A validated manifest has all tensors in their shapes.
        self.reference = Some(reference.expect("the tensors of a validated manifest"));
        self.shards.borrow_mut().clear();
        Ok(())
    }

    /// Bytes of weights, keys and values.
    pub fn memory_bytes(&self) -> u64 {
        Budget::cpu_weights(&self.manifest) + self.cache_bytes(self.sequence.len())
    }

    fn cache_bytes(&self, positions: usize) -> u64 {
        let config = &self.config;
        [2, config.num_hidden_layers, config.hidden_size, 4, positions].iter().map(|factor| *factor as u64).product()
    }

    fn prepared(&mut self) -> Result<&QwenVl, RuntimeError> {
        self.prepare()?;
        Ok(self.reference.as_ref().expect("it was prepared"))
    }

    async fn pause(&self) {
        if let Some(pause) = &self.pause {
            pause().await;
        }
    }

    /// Runs positions after those of the cache. Returns the logits of all of them, or of the last one.
    fn run(&mut self, embedded: Tensor<3>, all: bool) -> Result<Vec<f32>, RuntimeError> {
        self.prepare()?;
        let reference = self.reference.as_ref().expect("it was prepared");
        let states = reference.extend(embedded, f64::from(self.sequence.alpha()), &mut self.cache, &mut ignore);
        let rows = states.dims()[1];
        let wanted = if all { states } else { states.narrow(1, rows - 1, 1) };
        let logits: Vec<f32> = reference.lm_head.forward(wanted).into_data().iter::<f32>().collect();
        self.logits = logits[logits.len() - self.config.vocab_size..].to_vec();
        Ok(logits)
    }
}

impl Backend for CpuModel {
    type Features = CpuFeatures;

    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn context_length(&self) -> usize {
        self.context_length
    }

    fn max_picture_tokens(&self) -> usize {
        0
    }

    fn length(&self) -> usize {
        self.sequence.len()
    }

    fn reused(&self) -> usize {
        self.sequence.reused()
    }

    async fn encode_image(&mut self, patches: &[f32], _change: Option<&[f32]>, grid: &PictureGrid) -> Result<CpuFeatures, RuntimeError> {
        let vision = &self.config.visual;
        let shape = [1, vision.patches(), vision.patch_values()];
        let patches = Tensor::from_data(TensorData::new(patches.to_vec(), shape), &Device::flex());
        let rows = self.prepared()?.transformer.visual.forward(patches, &mut ignore);
        self.pause().await;
        self.encodings += 1;
        let image = ImageRows { encoding: self.encodings, rows: self.config.visual.n_queries, grid: *grid };
        Ok(CpuFeatures { rows, image })
    }

    fn begin_answer(&mut self, presence_penalty: Option<f32>) -> Result<bool, RuntimeError> {
        Ok(presence_penalty.is_none())
    }

    async fn read_features(&self, features: &CpuFeatures) -> Result<Vec<f32>, RuntimeError> {
        Ok(features.rows.clone().into_data().iter::<f32>().collect())
    }

    async fn prefill(
        &mut self,
        ids: &[u32],
        images: &[CpuFeatures],
        kv_reuse: KvReuse,
        on_chunk: &mut dyn FnMut(usize) -> ControlFlow<()>,
        mut trace: Option<&mut Trace>,
    ) -> Result<ControlFlow<()>, RuntimeError> {
        let pictures: Vec<ImageRows> = images.iter().map(|features| features.image).collect();
        let config = &self.manifest.config;
        let plan = self.sequence.plan(config, self.context_length, ids, &pictures, kv_reuse, trace.is_some())?;
        let splice = Splice::prompt(&self.config, ids);
        let features = (!images.is_empty()).then(|| Tensor::cat(images.iter().map(|image| image.rows.clone()).collect(), 0));
        let embedded = self.prepared()?.embed(&splice, features, 1);
        self.sequence.begin(&plan);
        self.cache.truncate(plan.reused);
        let PromptPlan { contents, positions, reused, .. } = plan;
        for (number, chunk) in contents[reused..].chunks(CHUNK).enumerate() {
            let part = embedded.clone().narrow(1, reused + number * CHUNK, chunk.len());
            let logits = self.run(part, trace.is_some())?;
            if let Some(trace) = &mut trace {
                trace.entry("logits".to_owned()).or_default().extend(logits);
            }
            let first = reused + number * CHUNK;
            self.sequence.extend(chunk, &positions[first..first + chunk.len()]);
            self.pause().await;
            if on_chunk(self.length()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn decode(&mut self, token: u32) -> Result<(), RuntimeError> {
        self.sequence.check_next(&self.manifest.config, self.context_length, token)?;
        let mut splice = Splice::new(&self.config);
        splice.token(token);
        let embedded = self.prepared()?.embed(&splice, None, 1);
        self.run(embedded, false)?;
        self.sequence.push(Cached::Token(token));
        Ok(())
    }

    async fn next_token(&mut self, sampler: Option<&mut Sampler>, allowed: Option<&[u32]>, ahead: bool) -> Result<u32, RuntimeError> {
        let mut logits = self.logits().await?;
        if let Some(allowed) = allowed {
            exclude(&mut logits, allowed);
        }
        let token = sampler.map_or_else(|| largest(&logits), |sampler| sampler.sample(&logits));
        if ahead {
            self.decode(token)?;
        }
        self.pause().await;
        Ok(token)
    }

    async fn logits(&self) -> Result<Vec<f32>, RuntimeError> {
        if self.logits.iter().all(|logit| logit.is_finite()) {
            Ok(self.logits.clone())
        } else {
            Err(RuntimeError::NotFinite { position: self.length().saturating_sub(1) })
        }
    }

    fn rewind(&mut self, length: usize) {
        self.sequence.rewind(length);
        self.cache.truncate(length);
    }

    async fn settle(&self) -> Result<(), RuntimeError> {
        Ok(())
    }
}

impl Measured for CpuModel {
    fn decode_bytes(&self, context: usize) -> u64 {
        let decoder = |name: &str| name.starts_with("decoder.layers") || name.starts_with("head");
        let tensors = self.manifest.tensors.iter().filter(|tensor| decoder(&tensor.name));
        tensors.map(|tensor| tensor.shape.iter().map(|side| *side as u64).product::<u64>() * 4).sum::<u64>() + self.cache_bytes(context)
    }

    /// No kernels are launched.
    fn decode_dispatches(&self, _: usize) -> usize {
        0
    }
}
