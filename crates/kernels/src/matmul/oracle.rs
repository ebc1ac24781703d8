//! [`super::matmul`] and [`super::matvec`] in plain loops.

use super::Epilogue;

/// Writes `epilogue(input · weightᵀ + bias)` to `output`, to whose content [`Epilogue::Accumulate`] adds.
///
/// # Shapes
/// - `input`: `[rows, cols]`, `weight`: `[out, cols]`, `bias`: `[out]`, `output`: `[rows, out]` or `[rows, out / 2]`
pub fn product(input: &[f32], weight: &[f32], bias: Option<&[f32]>, cols: usize, epilogue: Epilogue, output: &mut [f32]) {
    let out = weight.len() / cols;
    let stored = if epilogue == Epilogue::SwiGlu { out / 2 } else { out };
    for (m, row) in input.chunks_exact(cols).enumerate() {
        let sums: Vec<f64> = (0..out)
            .map(|n| {
                let weight_row = &weight[n * cols..][..cols];
                let sum: f64 = row.iter().zip(weight_row).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                sum + bias.map_or(0.0, |bias| f64::from(bias[n]))
            })
            .collect();
        for (n, output) in output[m * stored..][..stored].iter_mut().enumerate() {
            *output = match epilogue {
                Epilogue::Store => sums[n],
                Epilogue::Accumulate => f64::from(*output) + sums[n],
                Epilogue::Gelu => 0.5 * sums[n] * (1.0 + libm::erf(sums[n] * std::f64::consts::FRAC_1_SQRT_2)),
                Epilogue::QuickGelu => sums[n] / (1.0 + (-1.702 * sums[n]).exp()),
                Epilogue::GeluTanh => {
                    let cubed = sums[n] + 0.044715 * sums[n].powi(3);
                    0.5 * sums[n] * (1.0 + (std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2 * cubed).tanh())
                }
                Epilogue::SwiGlu => sums[2 * n] * (sums[2 * n + 1] / (1.0 + (-sums[2 * n + 1]).exp())),
            } as f32;
        }
    }
}
