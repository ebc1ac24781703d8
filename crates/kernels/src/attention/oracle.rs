//! [`super::attention`] in plain loops.

use std::ops::Range;

/// Numbers of heads and their width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of the keys and values: each serves `heads / kv_heads` consecutive heads of the queries.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// Returns `softmax(queries · keysᵀ / √head_dim) · values`; row m attends to the keys `span(m)`.
///
/// # Shapes
/// - `queries`: `[rows, heads * head_dim]`, `keys`, `values`: `[keys, kv_heads * head_dim]`, returns `[rows, heads * head_dim]`
pub fn attention(queries: &[f32], keys: &[f32], values: &[f32], shape: Shape, span: impl Fn(usize) -> Range<usize>) -> Vec<f32> {
    let Shape { heads, kv_heads, head_dim } = shape;
    let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let mut output = vec![0.0; queries.len()];
    for (m, query) in queries.chunks_exact(width).enumerate() {
        let visible = span(m);
        for head in 0..heads {
            let columns = head * head_dim..(head + 1) * head_dim;
            let kv_col = head / (heads / kv_heads) * head_dim;
            let scores: Vec<f64> = visible
                .clone()
                .map(|key| {
                    let key = &keys[key * kv_width + kv_col..][..head_dim];
                    let sum: f64 = query[columns.clone()].iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                    sum / (head_dim as f64).sqrt()
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (i, output) in output[m * width..][columns].iter_mut().enumerate() {
                let value = |key: usize| f64::from(values[key * kv_width + kv_col + i]);
                let sum: f64 = visible.clone().zip(&weights).map(|(key, weight)| weight * value(key)).sum();
                *output = (sum / total) as f32;
            }
        }
    }
    output
}
