//! The rotary table of the decoder, dynamic NTK, and the factors of log-n attention (`modeling_qwen.py`, `RotaryEmbedding` and
//! `QWenAttention`).
//!
//! Computed on the CPU: WGSL guarantees only about 2⁻¹¹ for sine and cosine.

use crate::Gpu;
use qwen_vl_format::DecoderConfig;
use qwen_vl_processor::Rotary;

/// Returns the NTK factor for a prompt of `tokens`: 1 up to `seq_length`, 3 up to twice that, 7 up to four times, and so on.
pub fn ntk_alpha(tokens: usize, seq_length: usize) -> u32 {
    // 2^ceil(log2(tokens / seq_length) + 1) - 1, without the rounding of a logarithm.
    let mut power = 1u32;
    while (seq_length as u64) * u64::from(power) < 2 * tokens as u64 {
        power *= 2;
    }
    (power - 1).max(1)
}

/// Returns the base of the rotary frequencies for an NTK factor.
pub fn ntk_base(base: f64, alpha: u32, head_dim: usize) -> f64 {
    let dim = head_dim as f64;
    base * f64::from(alpha).powf(dim / (dim - 2.0))
}

/// Returns the factor of the query at 0-based `position`: above `seq_length`, the logarithm of the position to that base.
pub fn logn_factor(position: usize, seq_length: usize) -> f32 {
    let nth = position + 1;
    if nth > seq_length { ((nth as f64).ln() / (seq_length as f64).ln()) as f32 } else { 1.0 }
}

/// The contents of the decoder's rotary table on the GPU: row `i` belongs to index `i` of the sequence, whatever its position is.
pub(crate) struct AngleTable {
    rotary: Rotary,
    /// NTK factor of `rotary`.
    alpha: u32,
    /// Position of each row that was written.
    rows: Vec<[u32; 3]>,
}

impl AngleTable {
    /// Rows that are written beyond the needed ones, for the tokens that follow.
    const AHEAD: usize = 1024;

    /// An empty table.
    pub(crate) fn new(decoder: &DecoderConfig) -> Self {
        Self { rotary: rotary(decoder, 1), alpha: 1, rows: Vec::new() }
    }

    /// Sets the NTK factor of all rows.
    pub(crate) fn set_alpha(&mut self, decoder: &DecoderConfig, alpha: u32) {
        if self.alpha != alpha {
            *self = Self { rotary: rotary(decoder, alpha), alpha, rows: Vec::new() };
        }
    }

    /// Writes the rows of these positions from index `first` on, unless the table has them. Earlier rows must have been written.
    pub(crate) fn write(&mut self, gpu: &Gpu, table: &wgpu::Buffer, context: usize, first: usize, positions: &[[u32; 3]]) {
        let same = self.rows[first..].iter().zip(positions).take_while(|(written, position)| written == position).count();
        if same == positions.len() {
            return;
        }
        let begin = first + same;
        self.rows.truncate(begin);
        self.rows.extend_from_slice(&positions[same..]);
        let next = self.rows.iter().flatten().max().map_or(0, |largest| largest + 1);
        let ahead = context.saturating_sub(self.rows.len()).min(Self::AHEAD) as u32;
        self.rows.extend((next..next + ahead).map(|position| [position; 3]));
        // A few at a time: the table of a long context does not fit into the memory of wasm.
        let mut offset = begin as u64 * self.row_bytes();
        for rows in self.rows[begin..].chunks(4096) {
            let angles = self.rotary.rows(rows);
            gpu.queue().write_buffer(table, offset, bytemuck::cast_slice(&angles));
            offset += rows.len() as u64 * self.row_bytes();
        }
    }

    fn row_bytes(&self) -> u64 {
        self.rotary.frequencies().count() as u64 * 8
    }
}

fn rotary(decoder: &DecoderConfig, alpha: u32) -> Rotary {
    let rotary = &decoder.rotary;
    Rotary::new(ntk_base(rotary.base, alpha, decoder.head_dim), decoder.head_dim, rotary.sections, rotary.interleaved)
}

/// Writes [`logn_factor`] of every position.
pub(crate) fn write_logn(gpu: &Gpu, table: &wgpu::Buffer, context: usize, trained_context: usize) {
    for first in (0..context).step_by(4096) {
        let factors: Vec<f32> = (first..context.min(first + 4096)).map(|position| logn_factor(position, trained_context)).collect();
        gpu.queue().write_buffer(table, first as u64 * 4, bytemuck::cast_slice(&factors));
    }
}
