//! Qwen-VL (2023) as plain [burn](https://burn.dev) modules: the executable specification that the WebGPU runtime is compared with, and the
//! graph that `crates/train` trains.
//!
//! The module tree *is* the original's: a parameter's path (`transformer.visual.attn_pool.attn.in_proj_weight`) is its name in the
//! checkpoint, so names are written down once, as fields, and [`QwenVl::load`] and [`QwenVl::weights`] need no table. Layouts are the
//! original's too (`in_proj` of the vision tower head by head, `w2` the gate); nothing is converted.
//!
//! Dimension words in the shapes below: `batch, patches, width, queries, seq, keys, hidden, heads, head_dim, vocab`.

mod decoder;
mod layers;
mod model;
mod observer;
mod positions;
mod resampler;
mod vision;
mod web;
mod weights;

pub use burn;
pub use decoder::{Attention, Block, DecoderMlp, KvCache, Positions};
pub use layers::{LayerNorm, Linear, RmsNorm};
pub use model::{Place, QwenVl, Splice, Transformer, packed_mask};
pub use observer::{Observer, ignore};
pub use positions::{inverse_frequencies, logn_factor, ntk_alpha};
pub use resampler::{Resampler, ResamplerAttention};
pub use vision::{Blocks, VisionAttention, VisionBlock, VisionMlp, VisionTower};
pub use weights::{Weight, Weights, frozen_always};
