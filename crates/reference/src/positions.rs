//! Numbers that depend on a position: rotary angles with dynamic NTK, log-n factors (`modeling_qwen.py`), and the resize of 16×16 tables
//! (`visual.py`, `get_abs_pos`). The code is separate from the runtime's, so that a comparison finds the faults of either.

use burn::tensor::{Device, Tensor, TensorData};

/// Returns the NTK factor, `max(1, 2^ceil(log2(tokens / seq_length) + 1) - 1)`.
pub fn ntk_alpha(tokens: usize, seq_length: usize) -> f64 {
    // Counts ceil(log2(tokens / seq_length)), because the logarithm of a power of two may round up.
    let mut doublings = 0;
    while seq_length << doublings < tokens {
        doublings += 1;
    }
    if tokens * 2 <= seq_length { 1.0 } else { ((2u64 << doublings) as f64 - 1.0).max(1.0) }
}

/// Returns the rotary frequencies `base^(-2i/d)` with the base that NTK changes, in f32 as in the original.
pub fn inverse_frequencies(base: f64, alpha: f64, head_dim: usize) -> Vec<f32> {
    let d = head_dim as f64;
    let base = f64::from((base * alpha.powf(d / (d - 2.0))) as f32);
    (0..head_dim / 2).map(|i| 1.0 / base.powf(f64::from(2.0 * i as f32 / head_dim as f32)) as f32).collect()
}

/// Returns the log-n factor of a query. `position` counts from 0.
pub fn logn_factor(position: usize, seq_length: usize) -> f32 {
    if position + 1 > seq_length { (((position + 1) as f64).ln() / (seq_length as f64).ln()) as f32 } else { 1.0 }
}

/// Builds the matrix `[to², from²]` that resizes a table of `from`×`from` rows to `to`×`to`. Returns `None` if the sizes are equal.
pub(crate) fn resize_matrix(from: usize, to: usize, device: &Device) -> Option<Tensor<2>> {
    if from == to {
        return None;
    }
    let count = from * from;
    let mut identity = vec![0.0; count * count];
    identity.iter_mut().step_by(count + 1).for_each(|one| *one = 1.0);
    let matrix = qwen_vl_format::resize_table(&identity, from, to, count);
    Some(Tensor::from_data(TensorData::new(matrix, [to * to, count]), device))
}
