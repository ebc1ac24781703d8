//! Error bounds of the kernels, one for each value.
//!
//! A rounding changes a number by at most [`U`] of itself. If every term of a sum passes through at most `d` additions, the sum is off by at
//! most `d * U * sum |terms|`, whatever the order (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2; terms of the order
//! `U²` are left out here and below). The bounds are worst cases: errors that add up like random ones stay far below.
//!
//! WGSL's accuracy of built-in functions (section "Floating point accuracy"): division 2.5 ULP, `inverseSqrt` 2 ULP, `exp(x)` `3 + 2|x|`
//! ULP; a ULP is up to `2 * U` of a number.

use qwen_vl_format::Scheme;
use qwen_vl_kernels::matmul::{Epilogue, oracle::product};
use qwen_vl_kernels::{Kernels, KvFormat, Precision};

/// Unit roundoff of f32.
pub(crate) const U: f64 = f32::EPSILON as f64 / 2.0;

/// Error of the kernels' `erf`: 1.5e-7 by the approximation (Abramowitz and Stegun 7.1.26), and the roundings of its evaluation: five
/// terms of at most 1.5 in Horner's form, a division, and `exp(-x²)`, whose error of `(3 + 2x²)` ULP of itself is at most 6 `U`.
const ERF_ERROR: f64 = 1.5e-7 + 24.0 * U;

/// Operands of a product `[rows, cols] · [out, cols]ᵀ + [out]`.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a> {
    pub(crate) input: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) cols: usize,
}

impl Operands<'_> {
    /// Returns the sums, and of each the sum of its terms' magnitudes.
    fn sums(&self) -> [Vec<f32>; 2] {
        let magnitudes = |values: &[f32]| -> Vec<f32> { values.iter().map(|value| value.abs()).collect() };
        let outputs = self.input.len() / self.cols * (self.weight.len() / self.cols);
        let [mut sums, mut sizes] = [vec![0.0; outputs], vec![0.0; outputs]];
        product(self.input, self.weight, self.bias, self.cols, Epilogue::Store, &mut sums);
        let (input, weight, bias) = (magnitudes(self.input), magnitudes(self.weight), self.bias.map(magnitudes));
        product(&input, &weight, bias.as_deref(), self.cols, Epilogue::Store, &mut sizes);
        [sums, sizes]
    }

    /// Applies `error` to each row of the input with each row of the weight.
    fn each_pair(&self, error: impl Fn(&[f32], &[f32]) -> f64) -> Vec<f64> {
        let pairs = self.input.chunks_exact(self.cols).flat_map(|x| self.weight.chunks_exact(self.cols).map(move |w| (x, w)));
        pairs.map(|(x, w)| error(x, w)).collect()
    }
}

/// Additions and roundings that a term of the product of many rows passes through: its multiplication, the three additions of a `dot`, one
/// addition for each vector of 4 columns, the multiplication by a weight's scale, and the bias.
pub(crate) fn matmul_steps(cols: usize) -> f64 {
    1.0 + 3.0 + (cols as f64 / 4.0).ceil() + 1.0 + 1.0
}

/// As [`matmul_steps`] for the product of one row: eight vectors of a block, or the four quarters of the block one after the other, the
/// four numbers of their sum, the blocks of a lane, the lanes in a tree, the multiplication by a scale, and the bias.
pub(crate) fn matvec_steps(kernels: Kernels, cols: usize) -> f64 {
    let lanes = f64::from(kernels.matvec_lanes);
    let blocks_of_lane = (cols as f64 / 32.0 / lanes).ceil();
    1.0 + 8.0 + 3.0 + 4.0 * blocks_of_lane + lanes.log2() + 1.0 + 1.0
}

/// Roundings that an RMS norm fused into the product of one row adds: the multiplication by its weight (and in the oracle, which stores
/// normalised values), the sum of squares under a root, `inverseSqrt`, a division, and the multiplication by the root.
pub(crate) fn fused_norm_steps(kernels: Kernels, cols: usize) -> f64 {
    2.0 + matvec_steps(kernels, cols) / 2.0 + 4.0 + 5.0 + 1.0
}

/// Error of a precision in each sum.
pub(crate) fn rounding(precision: Precision, scheme: Scheme, operands: Operands<'_>) -> Vec<f64> {
    match precision {
        Precision::Q8 if scheme.group_size().is_some() => operands.each_pair(packed_error),
        Precision::F16 => operands.each_pair(half_error),
        _ => operands.each_pair(|_, _| 0.0),
    }
}

/// Error of a sum of independent errors of mean 0, each at most its bound: by Hoeffding's inequality, one of 10⁵ such sums passes
/// `sqrt(2 ln(2 * 10⁵ / p)) * sqrt(sum of squared bounds)` with a probability below `p`, here 10⁻⁶. Bounds for rounded operands that add
/// up worst cases would be as large as the results.
fn independent(bounds: impl Iterator<Item = f64>) -> f64 {
    7.22 * bounds.map(|bound| bound * bound).sum::<f64>().sqrt()
}

/// Error of 8-bit activations: for each value half a step of its block, times its weight. The quotient has an error before it is
/// rounded: the divisions of the scale and by it and a multiplication, 11 `U` of up to 127 steps.
fn packed_error(x: &[f32], w: &[f32]) -> f64 {
    let step = |block: &[f32]| f64::from(block.iter().map(|x| x.abs()).fold(0.0, f32::max)) / 127.0;
    let block = |(x, w): (&[f32], &[f32])| -> Vec<f64> {
        let half_step = (0.5 + 127.0 * 11.0 * U) * step(x);
        w.iter().map(|w| half_step * f64::from(w.abs())).collect()
    };
    independent(x.chunks(32).zip(w.chunks(32)).flat_map(block))
}

/// Error of f16 operands, with sums of eight products in f16: input, weight, product and each of seven partial sums are rounded by at most
/// 2^-11 of themselves. A driver may take numbers below 2^-14 for zero.
fn half_error(x: &[f32], w: &[f32]) -> f64 {
    let half = f64::powi(2.0, -11);
    let smallest = f32::powi(2.0, -14);
    let eight = |(x, w): (&[f32], &[f32])| -> Vec<f64> {
        let mut errors = Vec::with_capacity(4 * x.len());
        let mut partial = 0.0;
        for (x, w) in x.iter().zip(w) {
            let product = f64::from(*x) * f64::from(*w);
            let operand = |value: &f32| if value.abs() < smallest { product.abs() } else { half * product.abs() };
            partial += product;
            errors.extend([operand(x), operand(w), half * product.abs(), half * partial.abs()]);
        }
        errors
    };
    independent(x.chunks(8).zip(w.chunks(8)).flat_map(eight))
}

/// Bounds of a product: `steps` roundings of each sum, and `rounding`, the sums' error by a precision; then the epilogue's slope and its
/// own roundings. `before` is the output's content, to which [`Epilogue::Accumulate`] adds.
pub(crate) fn of_product(operands: Operands<'_>, epilogue: Epilogue, steps: f64, rounding: &[f64], before: &[f32]) -> Vec<f64> {
    let [sums, sizes] = operands.sums();
    let errors: Vec<f64> = sizes.iter().zip(rounding).map(|(size, rounding)| steps * U * f64::from(*size) + rounding).collect();
    let sums: Vec<f64> = sums.into_iter().map(f64::from).collect();
    match epilogue {
        Epilogue::Store => sums.iter().zip(errors).map(|(sum, error)| error + U * sum.abs()).collect(),
        Epilogue::Accumulate => {
            let stored = sums.iter().zip(errors).zip(before);
            stored.map(|((sum, error), before)| error + 2.0 * U * (sum.abs() + f64::from(before.abs()))).collect()
        }
        // The slope of GELU is at most 1.13.
        Epilogue::Gelu => sums.iter().zip(errors).map(|(sum, error)| 1.13 * error + sum.abs() * (0.5 * ERF_ERROR + 4.0 * U)).collect(),
        // The slope of QuickGELU is that of SiLU, at most 1.1. Its argument 1.702 x has two roundings.
        Epilogue::QuickGelu => sums.iter().zip(errors).map(|(x, error)| 1.1 * error + of_gated(*x, 1.702 * x, 2.0)).collect(),
        // The slope is at most 1.13. The argument c x (1 + d x²) has seven roundings, those of the constants included.
        Epilogue::GeluTanh => {
            let argument = |x: f64| (8.0 / std::f64::consts::PI).sqrt() * x * (1.0 + 0.044715 * x * x);
            sums.iter().zip(errors).map(|(x, error)| 1.13 * error + of_gated(*x, argument(*x), 7.0)).collect()
        }
        // The slope of SiLU is at most 1.1; its relative error is that of exp, an addition, a division and two multiplications.
        Epilogue::SwiGlu => sums
            .chunks_exact(2)
            .zip(errors.chunks_exact(2))
            .map(|(sums, errors)| {
                let [a, b] = [sums[0], sums[1]];
                let silu = b / (1.0 + (-b).exp());
                let own = (2.0 * (3.0 + 2.0 * b.abs()) + 1.0 + 5.0 + 2.0 + 1.0) * U;
                silu.abs() * errors[0] + 1.1 * (a.abs() + errors[0]) * errors[1] + (a * silu).abs() * own
            })
            .collect(),
    }
}

/// Error of `x * sigmoid(y)` in f32 where `y` has `roundings`: that of `exp`, an addition, a division, and the limit of the exponent at 80.
fn of_gated(x: f64, y: f64, roundings: f64) -> f64 {
    let own = (2.0 * (3.0 + 2.0 * y.abs()) + roundings * y.abs() + 1.0 + 5.0 + 1.0) * U;
    (x / (1.0 + (-y).exp())).abs() * own + x.abs() * (-80.0f64).exp()
}

/// Additions and roundings that a square passes through in the norm of a row: its multiplication, the three additions of a `dot`, the
/// vectors of one of 64 lanes, the lanes in a tree.
pub(crate) fn norm_steps(cols: usize) -> f64 {
    1.0 + 3.0 + (cols as f64 / 4.0 / 64.0).ceil() + 6.0
}

/// As [`norm_steps`] for the norm of a head in the rotary kernel: every eighth vector, then eight sums.
pub(crate) fn head_norm_steps(head_dim: usize) -> f64 {
    1.0 + 3.0 + (head_dim as f64 / 4.0 / 8.0).ceil() + 8.0
}

/// Bounds of a norm of `[rows, cols]`, by its definition; a square passes through `steps`.
///
/// The mean is off by its sum's steps and a division. The factor is off by half of what the sum of squares is (and the mean's error there
/// is of second order, as differences from the mean add up to zero), a division and `inverseSqrt`. Three roundings follow.
pub(crate) fn of_norm(input: &[f32], weight: &[f32], bias: Option<&[f32]>, epsilon: f32, steps: f64) -> Vec<f64> {
    let cols = weight.len();
    let mut bounds = Vec::with_capacity(input.len());
    for row in input.chunks_exact(cols) {
        let row: Vec<f64> = row.iter().copied().map(f64::from).collect();
        let size = row.iter().map(|x| x.abs()).sum::<f64>() / cols as f64;
        let (mean, mean_error) = match bias {
            Some(_) => (row.iter().sum::<f64>() / cols as f64, (steps + 5.0) * U * size),
            None => (0.0, 0.0),
        };
        let squares = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / cols as f64;
        let factor = 1.0 / (squares + f64::from(epsilon)).sqrt();
        let factor_error = ((steps + 2.0 + 5.0) / 2.0 + 4.0) * U;
        for (i, x) in row.iter().enumerate() {
            let (weight, bias) = (f64::from(weight[i].abs()), bias.map_or(0.0, |bias| f64::from(bias[i].abs())));
            let scaled = (x - mean).abs() * factor * weight;
            bounds.push(mean_error * factor * weight + scaled * (factor_error + 4.0 * U) + U * bias);
        }
    }
    bounds
}

/// Lengths of an attention: of a score's sum and of the sum over keys.
#[derive(Clone, Copy)]
pub(crate) struct AttentionSteps {
    pub(crate) head_dim: usize,
    pub(crate) keys: usize,
}

/// Bounds of an attention, from `magnitudes`, the oracle's result for the values' magnitudes, and `scores`, the largest sum of magnitudes of
/// a score's terms.
///
/// A score is off by its steps, and so by that much, relatively, each probability; `exp` adds `3 + 2|x|` ULP with `|x|` up to twice the
/// largest score. When a tile of 32 keys has a larger score, what was summed before is multiplied by another `exp`, whose arguments add up to
/// the same range. Numerator and denominator then have a sum over the keys each, and a division (or a multiplication by the inverse) ends.
pub(crate) fn of_attention(AttentionSteps { head_dim, keys }: AttentionSteps, scores: f64, magnitudes: &[f32]) -> Vec<f64> {
    let score_error = (1.0 + 3.0 + head_dim as f64 / 4.0 + 2.0) * U * scores;
    let range = 2.0 * scores;
    let tiles = keys.div_ceil(32) as f64;
    let probability_error = score_error * 2.0 + 2.0 * (3.0 + 2.0 * range) * U;
    let correction_error = (2.0 * (3.0 * tiles + 2.0 * range) + tiles) * U;
    let sum_error = (keys as f64 + 2.0) * U;
    let relative = 2.0 * (probability_error + correction_error + sum_error) + 6.0 * U;
    magnitudes.iter().map(|size| relative * f64::from(*size)).collect()
}

/// Returns the largest sum of the magnitudes of a score's terms, over all rows, keys and heads.
pub(crate) fn largest_score(queries: &[f32], keys: &[f32], head_dim: usize) -> f64 {
    let norm = |head: &[f32]| head.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let largest = |rows: &[f32]| rows.chunks_exact(head_dim).map(norm).fold(0.0, f64::max);
    // By Cauchy and Schwarz.
    largest(queries) * largest(keys) / (head_dim as f64).sqrt()
}

/// Error of a KV cache format in a value: half of its last place, relative to the value (f16) or to the largest of its head (8 bits; and
/// the roundings of its scale, of its inverse and of the quotient).
pub(crate) fn of_cache_format(format: KvFormat, largest: f64) -> f64 {
    match format {
        KvFormat::F32 => 0.0,
        KvFormat::F16 => largest * f64::powi(2.0, -11),
        KvFormat::Q8 => largest / 127.0 * (0.5 + 127.0 * 12.0 * U),
    }
}
