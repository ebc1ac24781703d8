//! Qwen-VL (2023) as plain [burn](https://burn.dev) modules: the executable specification for the WebGPU runtime, and the graph that
//! `crates/train` trains.
//!
//! The module tree equals that of the original: a parameter's path (`transformer.visual.attn_pool.attn.in_proj_weight`) is its name in the
//! checkpoint. Each name is written once, as a field, so [`QwenVl::load`] and [`QwenVl::weights`] need no table. The layouts are also those
//! of the original (`in_proj` of the vision tower head by head, `w2` as the gate); nothing is converted.
//!
//! The shapes use these words for dimensions: `batch, patches, width, queries, seq, keys, hidden, heads, head_dim, vocab`.

mod decoder;
mod layers;
mod model;
mod observer;
mod positions;
mod resampler;
mod vision;
mod web;
mod weights;
#[cfg(feature = "wgpu")]
mod wgpu;

pub use burn;
pub use decoder::{Attention, Block, DecoderMlp, KvCache, Positions};
pub use layers::{LayerNorm, Linear, RmsNorm};
pub use model::{Place, QwenVl, Splice, Transformer, packed_mask};
pub use observer::{Observer, ignore};
pub use positions::{inverse_frequencies, logn_factor, ntk_alpha};
pub use resampler::{Resampler, ResamplerAttention};
pub use vision::{Blocks, VisionAttention, VisionBlock, VisionMlp, VisionTower};
pub use weights::{Weight, Weights, frozen_always};
#[cfg(feature = "wgpu")]
pub use wgpu::wgpu_device;
