//! The tensors of a web checkpoint: names, shapes, and the order in which they are stored and loaded.
//!
//! This is the only place that lists these names: the converter fills the table and the runtime reads it. Differences to the layout of the
//! original checkpoint (`quantize/src/convert.rs` makes them):
//! - `attn.qkv` of the vision tower is `[all q; all k; all v]`, each head by head (the original interleaves per head);
//! - `mlp.gate_up` interleaves the rows of the decoder's `w1` and `w2`: row 2i is `w1[i]`, row 2i+1 is `w2[i]`,
//!   so that one kernel writes `w1(x) * silu(w2(x))`;
//! - `resampler.query` is `ln_q(query) + pos_embed`, which no input changes;
//! - `vision.position_embedding` and `resampler.key_position` are already resized to the patch grid;
//! - `resampler.proj.weight` is transposed to `[out, in]` like every other matrix.

use crate::config::ModelConfig;

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

/// All tensors of a model with this configuration, in load order: vision tower, resampler, decoder, head.
pub fn tensor_table(config: &ModelConfig) -> Vec<TensorSpec> {
    let mut table = Table(Vec::new());
    let vision = &config.visual;
    let (width, mlp, patches, hidden) = (vision.width, vision.mlp_width(), vision.patches(), config.hidden_size);

    table.matrix("vision.patch_embedding.weight", width, vision.patch_values());
    table.rows("vision.position_embedding", patches, width);
    table.layer_norm("vision.ln_pre", width);
    for layer in 0..vision.layers {
        let block = format!("vision.blocks.{layer}");
        table.layer_norm(&format!("{block}.ln_1"), width);
        table.linear(&format!("{block}.attn.qkv"), 3 * width, width);
        table.linear(&format!("{block}.attn.out"), width, width);
        table.layer_norm(&format!("{block}.ln_2"), width);
        table.linear(&format!("{block}.mlp.fc1"), mlp, width);
        table.linear(&format!("{block}.mlp.fc2"), width, mlp);
    }

    table.rows("resampler.query", vision.n_queries, hidden);
    table.matrix("resampler.kv_proj.weight", hidden, width);
    table.layer_norm("resampler.ln_kv", hidden);
    table.rows("resampler.key_position", patches, hidden);
    for name in ["q", "k", "v", "out"] {
        table.linear(&format!("resampler.attn.{name}"), hidden, hidden);
    }
    table.layer_norm("resampler.ln_post", hidden);
    table.matrix("resampler.proj.weight", hidden, hidden);

    table.matrix("decoder.embedding.weight", config.vocab_size, hidden);
    for layer in 0..config.num_hidden_layers {
        let block = format!("decoder.layers.{layer}");
        table.rows(&format!("{block}.attn_norm.weight"), 1, hidden);
        table.linear(&format!("{block}.attn.qkv"), 3 * hidden, hidden);
        table.matrix(&format!("{block}.attn.out.weight"), hidden, hidden);
        table.rows(&format!("{block}.mlp_norm.weight"), 1, hidden);
        table.matrix(&format!("{block}.mlp.gate_up.weight"), 2 * config.mlp_width(), hidden);
        table.matrix(&format!("{block}.mlp.down.weight"), hidden, config.mlp_width());
    }
    table.rows("decoder.norm.weight", 1, hidden);
    table.matrix("head.weight", config.vocab_size, hidden);
    table.0
}

struct Table(Vec<TensorSpec>);

impl Table {
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

    fn layer_norm(&mut self, name: &str, width: usize) {
        self.rows(&format!("{name}.weight"), 1, width);
        self.rows(&format!("{name}.bias"), 1, width);
    }
}
