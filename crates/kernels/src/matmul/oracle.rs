//! [`super::matmul`] and [`super::matvec`] in plain loops.

use super::Epilogue;

/// The error function to 1e-12 or so: Maclaurin series near zero, continued fraction of erfc beyond.
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 3.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while f64::abs(term) > 1e-17 * f64::abs(sum) {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
            if a == 0.0 {
                break;
            }
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let fraction = (1..=60).rev().fold(0.0, |tail, k| f64::from(k) / 2.0 / (a + tail));
        1.0 - (-a * a).exp() / std::f64::consts::PI.sqrt() / (a + fraction)
    };
    value.copysign(x)
}

/// `epilogue(input · weightᵀ + bias)`; `output` holds what [`Epilogue::Accumulate`] adds to.
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
                Epilogue::Gelu => 0.5 * sums[n] * (1.0 + erf(sums[n] * std::f64::consts::FRAC_1_SQRT_2)),
                Epilogue::SwiGlu => sums[2 * n] * (sums[2 * n + 1] / (1.0 + (-sums[2 * n + 1]).exp())),
            } as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn erf_has_known_values() {
        for (x, want) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (-2.0, -0.995_322_265_018_952_7),
            (3.5, 0.999_999_256_901_627_7),
        ] {
            assert!((super::erf(x) - want).abs() < 1e-12, "erf({x}) = {}", super::erf(x));
        }
    }
}
