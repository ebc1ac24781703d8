//! The vision tower: `[patches, 3·patch²]` → patch embedding and positions → blocks → `[patches, width]`
//! (2023: `visual.py`, `VisionTransformer`; later: `modeling_qwen3_vl.py`, `Qwen3VLVisionModel` and its predecessors).

use crate::RuntimeError;
use crate::weights::Weights;
use qwen_vl_format::config::Activation as ActivationFunction;
use qwen_vl_format::{ModelConfig, VisionConfig};
use qwen_vl_kernels::attention::{Attention, Heads, Span, attention};
use qwen_vl_kernels::matmul::{Epilogue, matmul};
use qwen_vl_kernels::norm::norm;
use qwen_vl_kernels::rotary::rotary_rows;
use qwen_vl_kernels::taps::{Taps, add_taps};
use qwen_vl_kernels::{Activation, Dispatch, Gpu, StepBuffer, size};
use qwen_vl_processor::{PictureGrid, PositionTaps};

/// The vision tower with its buffers.
pub(crate) struct VisionTower {
    /// Input: patches of one picture, `[patches, 3·patch²]`.
    pub(crate) patches: Activation,
    /// Output: `[patches, width]`.
    pub(crate) hidden: Activation,
    /// Scratch, `[patches, width]`: free after the last block.
    pub(crate) normed: Activation,
    /// Scratch, `[patches, width]`: free after the last block.
    pub(crate) attended: Activation,
    /// Embedded patches, before `positions` and the norm.
    pub(crate) embedded: Activation,
    /// Patch embedding.
    pub(crate) embed: Vec<Dispatch>,
    /// Adds the embedding of the change to a second frame, after `embed`; empty without videos. Its input is in `patches` too.
    pub(crate) embed_change: Vec<Dispatch>,
    /// Position embedding and norm, after `embed`.
    pub(crate) place: Vec<Dispatch>,
    /// The blocks in order.
    pub(crate) blocks: Vec<Vec<Dispatch>>,
    positions: Positions,
    /// `(cos, sin)` of the rotary embedding, `[patches, head_dim / 2]`.
    angles: Option<wgpu::Buffer>,
    /// Windows of the patches, `[patches]` of their first and their end.
    segments: Option<wgpu::Buffer>,
}

/// The table of position embeddings.
enum Positions {
    /// Without a table.
    None,
    /// A table for the one size of pictures. It is copied to the embedded patches, and the patch embedding is then added.
    Fixed(Activation),
    /// A table that is resampled for each picture.
    Sampled(Taps),
}

/// True if products of the vision part must not round below f32: activations of the later generations exceed the range of f16.
pub(crate) fn needs_f32(vision: &VisionConfig) -> bool {
    vision.merger.is_some()
}

/// The epilogue of a product that is followed by an activation function.
pub(crate) fn epilogue(activation: ActivationFunction) -> Epilogue {
    match activation {
        ActivationFunction::Gelu => Epilogue::Gelu,
        ActivationFunction::GeluTanh => Epilogue::GeluTanh,
        ActivationFunction::QuickGelu => Epilogue::QuickGelu,
        ActivationFunction::GatedSilu => Epilogue::SwiGlu,
    }
}

impl VisionTower {
    /// Allocates a tower for pictures of up to `rows` patches.
    pub(crate) fn new(gpu: &Gpu, config: &ModelConfig, weights: &Weights, rows: usize, step: &StepBuffer) -> Result<Self, RuntimeError> {
        let vision = &config.vision;
        let width = vision.width;
        let patches = gpu.activation("vision.patches", rows, vision.patch_values())?;
        let hidden = gpu.activation("vision.hidden", rows, width)?;
        let normed = gpu.activation("vision.normed", rows, width)?;
        let qkv = gpu.activation("vision.qkv", rows, 3 * width)?;
        let attended = gpu.activation("vision.attended", rows, width)?;
        let mlp = gpu.activation("vision.mlp", rows, vision.mlp_width)?;
        let angles = match vision.rotary_base {
            Some(_) => Some(gpu.storage("vision.angles", size::product(&[rows, vision.head_dim() / 2, 8]))?),
            None => None,
        };
        let segments = match vision.windows {
            Some(_) => Some(gpu.storage("vision.segments", size::product(&[rows, 8]))?),
            None => None,
        };
        let positions = match vision.position_side {
            None => Positions::None,
            Some(_) if !vision.samples_positions() => Positions::Fixed(weights.rows("vision.position_embedding")),
            Some(_) => Positions::Sampled(Taps {
                indices: gpu.storage("vision.taps", size::product(&[rows, 16]))?,
                weights: gpu.storage("vision.tap_weights", size::product(&[rows, 16]))?,
            }),
        };

        let exact = needs_f32(vision);
        let embedded = if vision.pre_norm { &normed } else { &hidden };
        let onto = if matches!(positions, Positions::Fixed(_)) { Epilogue::Accumulate } else { Epilogue::Store };
        let embed = matmul(gpu, step, weights.linear("vision.patch_embedding").exact(exact).product(&patches, embedded, onto));
        let embed_change = match vision.video {
            Some(_) => {
                let change = weights.linear("vision.frame_change").exact(exact);
                matmul(gpu, step, change.product(&patches, embedded, Epilogue::Accumulate))
            }
            None => Vec::new(),
        };
        let mut place = Vec::new();
        if let Positions::Sampled(taps) = &positions {
            place.push(add_taps(gpu, step, &weights.rows("vision.position_embedding"), taps, embedded));
        }
        if vision.pre_norm {
            place.push(norm(gpu, step, &weights.norm("vision.ln_pre", vision.norm_epsilon), embedded, &hidden));
        }

        let activation = epilogue(vision.activation);
        let blocks = (0..vision.layers)
            .map(|layer| {
                let name = |part: &str| format!("vision.blocks.{layer}.{part}");
                let linear = |part: &str, input, output, epilogue| {
                    matmul(gpu, step, weights.linear(&name(part)).exact(exact).product(input, output, epilogue))
                };
                let norm_of = |part| norm(gpu, step, &weights.norm(&name(part), vision.norm_epsilon), &hidden, &normed);
                let in_windows = vision.windows.as_ref().is_some_and(|windows| !windows.full_blocks.contains(&layer));
                let heads = |third| Heads { rows: &qkv, first_col: third * width };
                let mut block = vec![norm_of("ln_1")];
                block.extend(linear("attn.qkv", &normed, &qkv, Epilogue::Store));
                if let Some(angles) = &angles {
                    block.push(rotary_rows(gpu, step, angles, &qkv, vision.heads));
                }
                block.push(attention(
                    gpu,
                    step,
                    Attention {
                        queries: heads(0),
                        keys: heads(1).into(),
                        values: heads(2).into(),
                        output: &attended,
                        heads: vision.heads,
                        kv_heads: vision.heads,
                        head_dim: vision.head_dim(),
                        span: segments.as_ref().filter(|_| in_windows).map_or(Span::All, Span::Segments),
                    },
                ));
                block.extend(linear("attn.out", &attended, &hidden, Epilogue::Accumulate));
                block.push(norm_of("ln_2"));
                let [first, second] = if activation == Epilogue::SwiGlu { ["gate_up", "down"] } else { ["fc1", "fc2"] };
                block.extend(linear(&format!("mlp.{first}"), &normed, &mlp, activation));
                block.extend(linear(&format!("mlp.{second}"), &mlp, &hidden, Epilogue::Accumulate));
                block
            })
            .collect();
        let embedded = embedded.clone();
        Ok(Self { patches, hidden, normed, attended, embedded, embed, embed_change, place, blocks, positions, angles, segments })
    }

    /// Writes the tables of a picture of this grid.
    pub(crate) fn write_tables(&self, gpu: &Gpu, vision: &VisionConfig, grid: &PictureGrid) {
        if let (Positions::Sampled(taps), Some(side)) = (&self.positions, vision.position_side) {
            let PositionTaps { indices, weights } = grid.position_taps(side);
            gpu.queue().write_buffer(&taps.indices, 0, bytemuck::cast_slice(&indices));
            gpu.queue().write_buffer(&taps.weights, 0, bytemuck::cast_slice(&weights));
        }
        if let (Some(angles), Some(base)) = (&self.angles, vision.rotary_base) {
            gpu.queue().write_buffer(angles, 0, bytemuck::cast_slice(&grid.rotary(base, vision.head_dim())));
        }
        if let Some(segments) = &self.segments {
            gpu.queue().write_buffer(segments, 0, bytemuck::cast_slice(&grid.segments()));
        }
    }

    /// Appends the copy of a fixed position table, before `embed`.
    pub(crate) fn encode_positions(&self, encoder: &mut wgpu::CommandEncoder, rows: usize) {
        if let Positions::Fixed(table) = &self.positions {
            encoder.copy_buffer_to_buffer(&table.buffer, 0, &self.embedded.buffer, 0, self.embedded.bytes(rows));
        }
    }
}
