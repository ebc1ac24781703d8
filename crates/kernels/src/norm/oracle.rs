//! [`super::norm`] in plain loops.

/// Normalises each row of `input`, `[rows, cols]`: by LayerNorm with a bias, by RMS norm without.
pub fn norm(input: &[f32], weight: &[f32], bias: Option<&[f32]>, epsilon: f32) -> Vec<f32> {
    let cols = weight.len();
    let mut output = Vec::with_capacity(input.len());
    for row in input.chunks_exact(cols) {
        let mean = if bias.is_some() { row.iter().map(|x| f64::from(*x)).sum::<f64>() / cols as f64 } else { 0.0 };
        let squares = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / cols as f64;
        let factor = 1.0 / (squares + f64::from(epsilon)).sqrt();
        output.extend(row.iter().enumerate().map(|(i, x)| {
            let scaled = (f64::from(*x) - mean) * factor * f64::from(weight[i]);
            (scaled + bias.map_or(0.0, |bias| f64::from(bias[i]))) as f32
        }));
    }
    output
}
