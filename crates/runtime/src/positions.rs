//! Rotary angles with dynamic NTK, and the factors of log-n attention (`modeling_qwen.py`, `RotaryEmbedding` and `QWenAttention`).
//!
//! Computed on the CPU: WGSL guarantees only about 2⁻¹¹ for sine and cosine.

use qwen_vl_format::ModelConfig;
use std::ops::Range;

/// Returns the NTK factor for a prompt of `tokens`: 1 up to `seq_length`, 3 up to twice that, 7 up to four times, and so on.
pub fn ntk_alpha(tokens: usize, seq_length: usize) -> u32 {
    // 2^ceil(log2(tokens / seq_length) + 1) - 1, without the rounding of a logarithm.
    let mut power = 1u32;
    while (seq_length as u64) * u64::from(power) < 2 * tokens as u64 {
        power *= 2;
    }
    (power - 1).max(1)
}

/// Returns the inverse rotary frequencies for heads of `head_dim`, rounded to f32 where the original rounds.
pub fn inverse_frequencies(base: f64, alpha: u32, head_dim: usize) -> Vec<f32> {
    let dim = head_dim as f64;
    let base = (base * f64::from(alpha).powf(dim / (dim - 2.0))) as f32;
    (0..head_dim / 2)
        .map(|i| {
            let exponent = 2.0 * i as f32 / head_dim as f32;
            1.0 / (f64::from(base).powf(f64::from(exponent)) as f32)
        })
        .collect()
}

/// Returns the factor of the query at 0-based `position`: above `seq_length`, the logarithm of the position to that base.
pub fn logn_factor(position: usize, seq_length: usize) -> f32 {
    let nth = position + 1;
    if nth > seq_length { ((nth as f64).ln() / (seq_length as f64).ln()) as f32 } else { 1.0 }
}

/// Returns `(cos, sin)` of every position, `[positions, head_dim / 2]`. The angle is an f32 product, as in the original.
pub(crate) fn rotary_angles(config: &ModelConfig, alpha: u32, positions: Range<usize>) -> Vec<[f32; 2]> {
    let frequencies = inverse_frequencies(config.decoder.rotary.base, alpha, config.decoder.head_dim);
    positions
        .flat_map(|position| {
            frequencies.iter().map(move |frequency| {
                let angle = f64::from(position as f32 * frequency);
                [angle.cos() as f32, angle.sin() as f32]
            })
        })
        .collect()
}

/// Returns [`logn_factor`] of every position; all 1 if the config does not use it.
pub(crate) fn logn_factors(config: &ModelConfig, positions: Range<usize>) -> Vec<f32> {
    positions.map(|position| if config.decoder.rotary.logn { logn_factor(position, config.decoder.trained_context) } else { 1.0 }).collect()
}
