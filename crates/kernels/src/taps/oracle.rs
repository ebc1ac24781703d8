//! [`super::add_taps`] in plain loops.

/// Adds to each row of `output` the weighted sum of its four rows of `table`.
///
/// # Shapes
/// - `table`: `[rows of the table, cols]`, `indices`, `weights`: `[rows, 4]`, `output`: `[rows, cols]`
pub fn add_taps(table: &[f32], cols: usize, indices: &[[u32; 4]], weights: &[[f32; 4]], output: &mut [f32]) {
    for ((row, indices), weights) in output.chunks_exact_mut(cols).zip(indices).zip(weights) {
        for (i, output) in row.iter_mut().enumerate() {
            let tap = |(index, weight): (&u32, &f32)| f64::from(*weight) * f64::from(table[*index as usize * cols + i]);
            *output = (f64::from(*output) + indices.iter().zip(weights).map(tap).sum::<f64>()) as f32;
        }
    }
}
