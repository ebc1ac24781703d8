//! The merger: squares of neighbouring patches, `[patches, width]` → `[tokens, hidden]` (`modeling_qwen2_vl.py`, `PatchMerger`;
//! `modeling_qwen2_5_vl.py`, `Qwen2_5_VLPatchMerger`; `modeling_qwen3_vl.py`, `Qwen3VLVisionPatchMerger`).
//!
//! Patches arrive in merge-block order, so that the patches of a square are neighbours in memory: `[patches, width]` and
//! `[tokens, size² · width]` are the same buffer.

use crate::RuntimeError;
use crate::vision::{VisionTower, needs_f32};
use crate::weights::Weights;
use qwen_vl_format::ModelConfig;
use qwen_vl_format::config::MergerConfig;
use qwen_vl_kernels::matmul::{Epilogue, matmul};
use qwen_vl_kernels::norm::norm;
use qwen_vl_kernels::{Activation, Dispatch, Gpu, StepBuffer};

/// The mergers of a model with their buffers.
pub(crate) struct Mergers {
    /// Output of the merger that ran last, `[tokens, hidden]`.
    pub(crate) features: Activation,
    /// The norm of the patches after the last block.
    pub(crate) norm: Dispatch,
    /// Launches over the tokens, after `norm`.
    pub(crate) main: Vec<Dispatch>,
    /// DeepStack: numbers of blocks, and the launches over tokens that follow them.
    pub(crate) deepstack: Vec<(usize, Vec<Dispatch>)>,
}

impl Mergers {
    /// `tokens` is the capacity; the steps hold the numbers of rows of the two kinds of launches.
    pub(crate) fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        merger: &MergerConfig,
        weights: &Weights,
        tower: &VisionTower,
        tokens: usize,
        [patch_step, token_step]: [&StepBuffer; 2],
    ) -> Result<Self, RuntimeError> {
        let vision = &config.vision;
        let exact = needs_f32(vision);
        let features = gpu.activation("merger.features", tokens, config.decoder.width)?;
        let merged = merger.size * merger.size * vision.width;
        let [hidden, normed, middle] = [&tower.hidden, &tower.normed, &tower.attended].map(|rows| rows.view(tokens, merged));
        let mlp = |name: &str| {
            let linear = |part: &str, input, output, epilogue| {
                let linear = weights.linear(&format!("{name}.{part}"));
                matmul(gpu, token_step, linear.exact(exact).product(input, output, epilogue))
            };
            let mut launches = linear("fc1", &normed, &middle, Epilogue::Gelu);
            launches.extend(linear("fc2", &middle, &features, Epilogue::Store));
            launches
        };
        let norm_of = |name: &str| weights.norm(&format!("{name}.norm"), vision.norm_epsilon);
        let norm_patches = norm(gpu, patch_step, &norm_of("merger"), &tower.hidden, &tower.normed);
        let deepstack = merger.deepstack.iter().enumerate().map(|(index, block)| {
            let name = format!("deepstack.{index}");
            let mut launches = vec![norm(gpu, token_step, &norm_of(&name), &hidden, &normed)];
            launches.extend(mlp(&name));
            (*block, launches)
        });
        let deepstack = deepstack.collect();
        let main = mlp("merger");
        Ok(Self { features, norm: norm_patches, main, deepstack })
    }
}
