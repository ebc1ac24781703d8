//! Rotary angles with dynamic NTK, and the factors of log-n attention (`modeling_qwen.py`, `RotaryEmbedding` and `QWenAttention`).
//!
//! Made on the CPU: WGSL promises only about 2⁻¹¹ for sine and cosine.

use qwen_vl_format::ModelConfig;

/// The NTK factor for a prompt of `tokens`: 1 up to `seq_length`, 3 up to twice that, 7 up to four times, and so on.
pub fn ntk_alpha(tokens: usize, seq_length: usize) -> u32 {
    // 2^ceil(log2(tokens / seq_length) + 1) - 1, without the rounding of a logarithm.
    let mut power = 1u32;
    while (seq_length as u64) * u64::from(power) < 2 * tokens as u64 {
        power *= 2;
    }
    (power - 1).max(1)
}

/// Inverse rotary frequencies for heads of `head_dim`, rounded to f32 where the original does.
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

/// What the query at 0-based `position` is multiplied by: above `seq_length`, the logarithm of the position to that base.
pub fn logn_factor(position: usize, seq_length: usize) -> f32 {
    let nth = position + 1;
    if nth > seq_length { ((nth as f64).ln() / (seq_length as f64).ln()) as f32 } else { 1.0 }
}

/// `(cos, sin)` for every position up to `context`, `[context, head_dim / 2]`. The angle is an f32 product, as in the original.
pub(crate) fn rotary_angles(config: &ModelConfig, alpha: u32, context: usize) -> Vec<[f32; 2]> {
    let frequencies = inverse_frequencies(config.rotary_emb_base, alpha, config.head_dim());
    (0..context)
        .flat_map(|position| {
            frequencies.iter().map(move |frequency| {
                let angle = f64::from(position as f32 * frequency);
                [angle.cos() as f32, angle.sin() as f32]
            })
        })
        .collect()
}

/// [`logn_factor`] of every position up to `context`; all 1 where the config does not use it.
pub(crate) fn logn_factors(config: &ModelConfig, context: usize) -> Vec<f32> {
    (0..context).map(|position| if config.use_logn_attn { logn_factor(position, config.seq_length) } else { 1.0 }).collect()
}
