//! [`super::attention`] in plain loops.

/// Returns `softmax(queries · keysᵀ / √head_dim) · values`; with `causal_start`, row m attends to keys `0 ..= causal_start + m`.
///
/// # Shapes
/// - `queries`: `[rows, heads * head_dim]`, `keys`, `values`: `[keys, heads * head_dim]`, returns `[rows, heads * head_dim]`
pub fn attention(queries: &[f32], keys: &[f32], values: &[f32], heads: usize, head_dim: usize, causal_start: Option<usize>) -> Vec<f32> {
    let width = heads * head_dim;
    let mut output = vec![0.0; queries.len()];
    for (m, query) in queries.chunks_exact(width).enumerate() {
        let visible = causal_start.map_or(keys.len() / width, |start| start + m + 1);
        for head in 0..heads {
            let columns = head * head_dim..(head + 1) * head_dim;
            let scores: Vec<f64> = (0..visible)
                .map(|key| {
                    let key = &keys[key * width..][columns.clone()];
                    let sum: f64 = query[columns.clone()].iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                    sum / (head_dim as f64).sqrt()
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            for col in columns {
                let sum: f64 = weights.iter().enumerate().map(|(key, weight)| weight * f64::from(values[key * width + col])).sum();
                output[m * width + col] = (sum / total) as f32;
            }
        }
    }
    output
}
