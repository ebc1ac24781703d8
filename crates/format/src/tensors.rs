//! The tensors of a web checkpoint: names, shapes, and the order in which they are stored and loaded.
//!
//! This is the only place that lists these names: the converter fills the table and the runtime reads it. Differences to the layouts of the
//! original checkpoints (`quantize` makes them):
//! - `vision.patch_embedding` has a column for each channel, row and column of a patch; the two frames of the later generations' convolution
//!   are added, which is exact for still pictures;
//! - `vision.frame_change` is the convolution of the second frame alone. With frames a and b, `patch_embedding·a + frame_change·(b − a)` is the
//!   convolution of both;
//! - `attn.qkv` is `[all q; all k; all v]`, each head by head (the 2023 tower interleaves per head, the later decoders store three matrices);
//! - `mlp.gate_up` interleaves the rows of the two branches of a gated MLP: row 2i is the branch that is multiplied, row 2i+1 is the one that
//!   passes SiLU, so that one kernel writes `up(x) * silu(gate(x))`;
//! - `resampler.query` is `ln_q(query) + pos_embed`, which no input changes;
//! - the 2023 tables `vision.position_embedding` and `resampler.key_position` are already resized to the patch grid;
//! - `resampler.proj.weight` is transposed to `[out, in]` like every other matrix.

use crate::config::{Activation, DecoderConfig, ModelConfig, VisionConfig};

/// The kind of a tensor: it decides about the scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorKind {
    /// A weight matrix `[out, in]`: stored in the chosen scheme.
    Matrix,
    /// A norm weight, a bias or a position table: always stored as f32.
    Table,
}

/// One tensor of the web checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the web checkpoint.
    pub name: String,
    /// `[rows, cols]`; vectors have one row.
    pub shape: [usize; 2],
    /// Matrix or table.
    pub kind: TensorKind,
}

/// All tensors of a model with this configuration, in load order: vision tower, resampler or mergers, decoder, head.
pub fn tensor_table(config: &ModelConfig) -> Vec<TensorSpec> {
    let mut table = Table(Vec::new());
    table.vision(&config.vision, config.decoder.width);
    table.decoder(&config.decoder);
    table.0
}

struct Table(Vec<TensorSpec>);

impl Table {
    fn vision(&mut self, vision: &VisionConfig, hidden: usize) {
        let width = vision.width;
        self.matrix("vision.patch_embedding.weight", width, vision.patch_values());
        if vision.patch_bias {
            self.rows("vision.patch_embedding.bias", 1, width);
        }
        if vision.video.is_some() {
            self.matrix("vision.frame_change.weight", width, vision.patch_values());
        }
        if let Some(side) = vision.position_side {
            self.rows("vision.position_embedding", side * side, width);
        }
        if vision.pre_norm {
            self.norm("vision.ln_pre", width, vision.rms_norms);
        }
        for layer in 0..vision.layers {
            let block = format!("vision.blocks.{layer}");
            self.norm(&format!("{block}.ln_1"), width, vision.rms_norms);
            self.linear(&format!("{block}.attn.qkv"), 3 * width, width);
            self.linear(&format!("{block}.attn.out"), width, width);
            self.norm(&format!("{block}.ln_2"), width, vision.rms_norms);
            if vision.activation == Activation::GatedSilu {
                self.linear(&format!("{block}.mlp.gate_up"), 2 * vision.mlp_width, width);
                self.linear(&format!("{block}.mlp.down"), width, vision.mlp_width);
            } else {
                self.linear(&format!("{block}.mlp.fc1"), vision.mlp_width, width);
                self.linear(&format!("{block}.mlp.fc2"), width, vision.mlp_width);
            }
        }
        if let Some(resampler) = &vision.resampler {
            let patches = vision.fixed_grid().unwrap_or_default().pow(2);
            self.rows("resampler.query", resampler.queries, hidden);
            self.matrix("resampler.kv_proj.weight", hidden, width);
            self.norm("resampler.ln_kv", hidden, false);
            self.rows("resampler.key_position", patches, hidden);
            for name in ["q", "k", "v", "out"] {
                self.linear(&format!("resampler.attn.{name}"), hidden, hidden);
            }
            self.norm("resampler.ln_post", hidden, false);
            self.matrix("resampler.proj.weight", hidden, hidden);
        }
        if let Some(merger) = &vision.merger {
            let merged = merger.size * merger.size * width;
            // The main merger normalizes patches, those of DeepStack squares of patches.
            self.norm("merger.norm", width, vision.rms_norms);
            self.merger_mlp("merger", merged, hidden);
            for index in 0..merger.deepstack.len() {
                self.norm(&format!("deepstack.{index}.norm"), merged, vision.rms_norms);
                self.merger_mlp(&format!("deepstack.{index}"), merged, hidden);
            }
        }
    }

    fn merger_mlp(&mut self, name: &str, merged: usize, hidden: usize) {
        self.linear(&format!("{name}.fc1"), merged, merged);
        self.linear(&format!("{name}.fc2"), hidden, merged);
    }

    fn decoder(&mut self, decoder: &DecoderConfig) {
        let width = decoder.width;
        self.matrix("decoder.embedding.weight", decoder.vocab_size, width);
        for layer in 0..decoder.layers {
            let block = format!("decoder.layers.{layer}");
            self.rows(&format!("{block}.attn_norm.weight"), 1, width);
            self.matrix(&format!("{block}.attn.qkv.weight"), decoder.qkv_width(), width);
            if decoder.qkv_bias {
                self.rows(&format!("{block}.attn.qkv.bias"), 1, decoder.qkv_width());
            }
            if decoder.qk_norm {
                self.rows(&format!("{block}.attn.q_norm.weight"), 1, decoder.head_dim);
                self.rows(&format!("{block}.attn.k_norm.weight"), 1, decoder.head_dim);
            }
            self.matrix(&format!("{block}.attn.out.weight"), width, decoder.attention_width());
            self.rows(&format!("{block}.mlp_norm.weight"), 1, width);
            self.matrix(&format!("{block}.mlp.gate_up.weight"), 2 * decoder.mlp_width, width);
            self.matrix(&format!("{block}.mlp.down.weight"), width, decoder.mlp_width);
        }
        self.rows("decoder.norm.weight", 1, width);
        if !decoder.tied_head {
            self.matrix("head.weight", decoder.vocab_size, width);
        }
    }

    fn push(&mut self, name: &str, rows: usize, cols: usize, kind: TensorKind) {
        self.0.push(TensorSpec { name: name.to_owned(), shape: [rows, cols], kind });
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) {
        self.push(name, rows, cols, TensorKind::Matrix);
    }

    fn rows(&mut self, name: &str, rows: usize, cols: usize) {
        self.push(name, rows, cols, TensorKind::Table);
    }

    fn linear(&mut self, name: &str, out: usize, inner: usize) {
        self.matrix(&format!("{name}.weight"), out, inner);
        self.rows(&format!("{name}.bias"), 1, out);
    }

    /// A norm's weight; its bias too, unless it is an RMS norm.
    fn norm(&mut self, name: &str, width: usize, rms: bool) {
        self.rows(&format!("{name}.weight"), 1, width);
        if !rms {
            self.rows(&format!("{name}.bias"), 1, width);
        }
    }
}
