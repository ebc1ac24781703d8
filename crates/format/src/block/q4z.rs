//! The search for the scales and zero points of `q4z`.

use super::{inverse_scale, to_f16_finite};
use half::f16;

/// Lowest bits of a scale that choose the zero point.
const ZERO_POINT_BITS: u16 = 0x1f;

/// Returns the zero point that the lowest bits of a scale of `q4z` choose: 7.5, and down to 3.625 in steps of an eighth.
///
/// ```
/// use half::f16;
/// use qwen_vl_format::block::zero_point;
/// assert_eq!(zero_point(f16::from_bits(0x2c00)), 7.5);
/// assert_eq!(zero_point(f16::from_bits(0x2c1f)), 3.625);
/// ```
pub fn zero_point(scale: f16) -> f32 {
    ZeroPoints::value(scale.to_bits() & ZERO_POINT_BITS)
}

/// Zero points that a search may choose.
#[derive(Debug, Clone, Copy)]
pub(super) struct ZeroPoints {
    first: u16,
    step: u16,
    last: u16,
}

impl ZeroPoints {
    /// All zero points: 7.5, 7.375 … 3.625.
    pub(super) const ALL: Self = Self { first: 0, step: 1, last: ZERO_POINT_BITS };
    /// 7, 6, 5 and 4, which have a code for the weight 0.
    pub(super) const WHOLE: Self = Self { first: 4, step: 8, last: 28 };

    /// Returns the zero point of a choice.
    #[inline(always)]
    fn value(choice: u16) -> f32 {
        f32::from(60 - choice) * 0.125
    }

    /// Returns the choices on both sides of a zero point.
    #[inline(always)]
    fn around(self, zero: f32) -> [u16; 2] {
        let below = ((7.5 - zero) * 8.0 - f32::from(self.first)) as u16 / self.step;
        let lower = self.first + below.min(31) * self.step;
        [lower.min(self.last), (lower + self.step).min(self.last)]
    }
}

/// Numbers of this size have no fractions, so that a sum with it is rounded to a whole number.
const WHOLE: f32 = (1 << 23) as f32;

/// Returns the nibble nearest to `scaled`, a weight in units of its scale plus the zero point.
#[inline(always)]
pub(super) fn nearest_nibble(scaled: f32) -> f32 {
    let at_least = if scaled > 0.0 { scaled } else { 0.0 };
    let within = if at_least < 15.0 { at_least } else { 15.0 };
    (within + WHOLE) - WHOLE
}

/// Independent sums.
const LANES: usize = 8;

/// Sums over the nibbles n and the weights w of a group.
#[derive(Debug, Clone, Copy)]
struct Sums {
    /// Of n.
    nibbles: f32,
    /// Of n².
    squares: f32,
    /// Of w · n.
    products: f32,
}

/// A scale with its zero point, and the squared error less the sum of w².
#[derive(Debug, Clone, Copy)]
struct Fit {
    error: f32,
    scale: f32,
    zero: f32,
}

const NO_FIT: Fit = Fit { error: f32::INFINITY, scale: 0.0, zero: 7.5 };

/// A group with what does not change during a search.
struct Group<'a> {
    weights: &'a [f32],
    count: f32,
    /// Sum of the weights.
    total: f32,
}

/// Returns the scale, with the bits that choose a zero point, of the smallest squared error that a search finds.
///
/// For a given choice of nibbles, the best scale and zero point are those of a linear regression. The search takes nibbles from many scales and
/// zero points, which put the weight of largest magnitude near an end of the code, and refines the best few. The error is 0.6 % above that of
/// eight starts for every zero point.
#[inline(always)]
pub(super) fn q4z_scale(weights: &[f32], choices: ZeroPoints) -> f16 {
    const ZEROS: u8 = 12;
    const STARTS: [f32; 2] = [0.92, 1.02];
    const REFINED: usize = 4;
    let largest = weights.iter().fold(0.0f32, |largest, weight| if weight.abs() > largest.abs() { *weight } else { largest });
    if largest == 0.0 {
        // Any scale does.
        return f16::from_bits(choices.first);
    }
    let group = Group { weights, count: weights.len() as f32, total: sum_of(weights) };
    let mut found = [NO_FIT; REFINED];
    for start in 0..ZEROS {
        let zero = 7.5 - (f32::from(start) + 0.5) * (4.0 / f32::from(ZEROS));
        let (low, high) = (largest / -zero, largest / (15.0 - zero));
        let starts = [low * STARTS[0], low * STARTS[1], high * STARTS[0], high * STARTS[1]];
        for sums in group.sums(starts.map(|scale| Fit { error: 0.0, scale, zero })) {
            let mut fit = group.regression(sums, zero);
            if fit.error < found[REFINED - 1].error {
                for other in &mut found {
                    if fit.error < other.error {
                        std::mem::swap(&mut fit, other);
                    }
                }
            }
        }
    }
    // A range that f32 cannot square has no fits: the code's ends are near the largest weight then.
    let zero = ZeroPoints::value(choices.first);
    let mut best = Fit { error: f32::INFINITY, scale: with_choice(largest / zero, choices.first)[0], zero };
    let mut stored = found;
    for (fit, sums) in stored.iter_mut().zip(group.sums(found)) {
        *fit = group.stored(sums, fit.zero, choices);
    }
    for (stored, sums) in stored.into_iter().zip(group.sums(stored)) {
        let error = group.error(sums, stored.scale, stored.zero);
        // With the nearest nibbles the error is smaller than with these.
        let refined = group.stored(sums, stored.zero, choices);
        for candidate in [Fit { error, ..stored }, refined] {
            if candidate.error < best.error {
                best = candidate;
            }
        }
    }
    f16::from_f32(best.scale)
}

impl Group<'_> {
    /// Returns the sums of the nibbles nearest to the weights, with four scales and zero points.
    #[cfg(not(target_arch = "wasm32"))]
    #[inline(always)]
    fn sums(&self, fits: [Fit; 4]) -> [Sums; 4] {
        // Closures would not be compiled for the vectors of the caller. In one loop, the sums of lanes would spoil the vector code.
        let mut lanes = [[[0.0f32; LANES]; 3]; 4];
        for (fit, lanes) in fits.iter().zip(&mut lanes) {
            *lanes = self.lanes(fit.scale, fit.zero);
        }
        let mut sums = [Sums { nibbles: 0.0, squares: 0.0, products: 0.0 }; 4];
        for (lanes, sums) in lanes.iter().zip(&mut sums) {
            *sums = Sums { nibbles: sum_of_lanes(lanes[0]), squares: sum_of_lanes(lanes[1]), products: sum_of_lanes(lanes[2]) };
        }
        sums
    }

    /// Returns the sums as lanes of vectors.
    #[cfg(not(target_arch = "wasm32"))]
    #[inline(always)]
    fn lanes(&self, scale: f32, zero: f32) -> [[f32; LANES]; 3] {
        let inverse = inverse_scale(scale);
        let mut sums = [[0.0f32; LANES]; 3];
        // Groups are multiples of 32.
        for weights in self.weights.as_chunks::<LANES>().0 {
            let mut nibbles = [0.0f32; LANES];
            for lane in 0..LANES {
                nibbles[lane] = nearest_nibble(weights[lane] * inverse + zero);
            }
            for lane in 0..LANES {
                sums[0][lane] += nibbles[lane];
            }
            for lane in 0..LANES {
                sums[1][lane] += nibbles[lane] * nibbles[lane];
            }
            for lane in 0..LANES {
                sums[2][lane] += weights[lane] * nibbles[lane];
            }
        }
        sums
    }

    /// The same in vector instructions of wasm. The lanes and the order of all additions are those of the functions above, so that the results
    /// are equal bit for bit.
    #[cfg(target_arch = "wasm32")]
    #[inline(always)]
    fn sums(&self, fits: [Fit; 4]) -> [Sums; 4] {
        use std::arch::wasm32::*;
        // Engines make constants anew wherever they stand. From memory, as the black box forces here, they are read once.
        let [none, largest, whole] = std::hint::black_box([f32x4_splat(0.0), f32x4_splat(15.0), f32x4_splat(WHOLE)]);
        let nearest = |scaled: v128| f32x4_sub(f32x4_add(f32x4_pmin(largest, f32x4_pmax(none, scaled)), whole), whole);
        let inverses = fits.map(|fit| f32x4_splat(inverse_scale(fit.scale)));
        let zeros = fits.map(|fit| f32x4_splat(fit.zero));
        let mut lanes = [[[none; 2]; 3]; 4];
        for weights in self.weights.as_chunks::<LANES>().0 {
            let halves = [0, 4].map(|at| f32x4(weights[at], weights[at + 1], weights[at + 2], weights[at + 3]));
            for fit in 0..4 {
                for half in 0..2 {
                    let nibbles = nearest(f32x4_add(f32x4_mul(halves[half], inverses[fit]), zeros[fit]));
                    let [all, squares, products] = &mut lanes[fit];
                    all[half] = f32x4_add(all[half], nibbles);
                    squares[half] = f32x4_add(squares[half], f32x4_mul(nibbles, nibbles));
                    products[half] = f32x4_add(products[half], f32x4_mul(halves[half], nibbles));
                }
            }
        }
        let sum = |[low, high]: [v128; 2]| {
            let four = f32x4_add(low, high);
            let two = f32x4_add(four, i32x4_shuffle::<2, 3, 2, 3>(four, four));
            f32x4_extract_lane::<0>(two) + f32x4_extract_lane::<1>(two)
        };
        lanes.map(|[nibbles, squares, products]| Sums { nibbles: sum(nibbles), squares: sum(squares), products: sum(products) })
    }

    /// Returns the sums of w · (n − z) and (n − z)².
    #[inline(always)]
    fn centred(&self, sums: Sums, zero: f32) -> (f32, f32) {
        let products = sums.products - zero * self.total;
        let squares = sums.squares - 2.0 * zero * sums.nibbles + self.count * zero * zero;
        (products, squares)
    }

    /// Returns the zero point of the regression; the given one if the nibbles are equal.
    #[inline(always)]
    fn best_zero(&self, sums: Sums, zero: f32) -> f32 {
        let spread = self.count * sums.squares - sums.nibbles * sums.nibbles;
        let scale = (self.count * sums.products - self.total * sums.nibbles) / spread;
        let best = (sums.nibbles - self.total / scale) / self.count;
        if best.is_finite() { best } else { zero }
    }

    /// Returns the best scale and zero point for nibbles, within the zero points that can be stored.
    #[inline(always)]
    fn regression(&self, sums: Sums, zero: f32) -> Fit {
        let zero = self.best_zero(sums, zero).clamp(3.625, 11.375);
        let (products, squares) = self.centred(sums, zero);
        Fit { error: -products * products / squares, scale: products / squares, zero }
    }

    /// Returns the best scale and zero point for nibbles that can be stored.
    #[inline(always)]
    fn stored(&self, sums: Sums, zero: f32, choices: ZeroPoints) -> Fit {
        let zero = self.best_zero(sums, zero);
        // The nibble n with the zero point z and the nibble 15 − n with 15 − z and the negative scale are the same weight.
        let (zero, sums) = if zero > 7.5 { (15.0 - zero, self.mirrored(sums)) } else { (zero, sums) };
        let mut best = NO_FIT;
        for choice in choices.around(zero) {
            let zero = ZeroPoints::value(choice);
            let (products, squares) = self.centred(sums, zero);
            for scale in with_choice(products / squares, choice) {
                let error = self.error(sums, scale, zero);
                if error < best.error {
                    best = Fit { error, scale, zero };
                }
            }
        }
        best
    }

    #[inline(always)]
    fn mirrored(&self, Sums { nibbles, squares, products }: Sums) -> Sums {
        Sums {
            nibbles: 15.0 * self.count - nibbles,
            squares: 225.0 * self.count - 30.0 * nibbles + squares,
            products: 15.0 * self.total - products,
        }
    }

    #[inline(always)]
    fn error(&self, sums: Sums, scale: f32, zero: f32) -> f32 {
        let (products, squares) = self.centred(sums, zero);
        scale * (scale * squares - 2.0 * products)
    }
}

/// Returns the two scales on both sides of `scale` whose lowest bits are `choice`.
#[inline(always)]
fn with_choice(scale: f32, choice: u16) -> [f32; 2] {
    // As f32, the bits of an f16 begin at bit 13, if both have the same exponent: conversions would take most of the time of a search.
    const STEP: u32 = (ZERO_POINT_BITS as u32 + 1) << 13;
    const NORMAL: std::ops::Range<f32> = 2.0 / 16384.0..32768.0;
    if !NORMAL.contains(&scale.abs()) {
        return with_choice_near_limits(scale, choice);
    }
    let below = f32::from_bits(scale.to_bits() & !(STEP - 1) | u32::from(choice) << 13);
    let step = if below.abs() < scale.abs() { STEP } else { STEP.wrapping_neg() };
    [below, f32::from_bits(below.to_bits().wrapping_add(step))]
}

/// The same where an f16 has fewer digits, or ends.
#[cold]
fn with_choice_near_limits(scale: f32, choice: u16) -> [f32; 2] {
    const STEP: u16 = ZERO_POINT_BITS + 1;
    const MAGNITUDE: u16 = 0x7fff;
    let bits = to_f16_finite(scale).to_bits();
    let below = (bits & !ZERO_POINT_BITS) | choice;
    let other = if f16::from_bits(below).to_f32().abs() < scale.abs() {
        // Not beyond the finite numbers.
        if (below & MAGNITUDE) + STEP < f16::INFINITY.to_bits() { below + STEP } else { below }
    } else if below & MAGNITUDE >= STEP {
        below - STEP
    } else {
        below
    };
    [below, other].map(|bits| f16::from_bits(bits).to_f32())
}

fn sum_of(weights: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    for eight in weights.as_chunks::<8>().0 {
        for lane in 0..8 {
            lanes[lane] += eight[lane];
        }
    }
    sum_of_lanes(lanes)
}

/// Adds the lanes in halves, as vector instructions do.
#[inline(always)]
fn sum_of_lanes([a, b, c, d, e, f, g, h]: [f32; 8]) -> f32 {
    let [a, b, c, d] = [a + e, b + f, c + g, d + h];
    (a + c) + (b + d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_keep_their_choice() {
        for scale in [1.0f32, -1.0, 0.01, 0.999_9, -4096.1, 1.3e-4, 3e-5, -3e-7, 0.0, 65504.0, -1e9, f32::INFINITY] {
            for choice in 0..=ZERO_POINT_BITS {
                let near = with_choice(scale, choice);
                for value in near {
                    let stored = f16::from_f32(value);
                    assert!(stored.is_finite() && stored.to_f32() == value, "{scale}, {choice}: {value}");
                    assert_eq!(stored.to_bits() & ZERO_POINT_BITS, choice, "{scale}: {value}");
                }
                let [low, high] = near.map(f32::abs);
                if (1e-4..6e4).contains(&scale.abs()) {
                    assert!(low.min(high) <= scale.abs() && scale.abs() <= low.max(high), "{scale}, {choice}: {low} and {high}");
                }
            }
        }
    }

    #[test]
    fn a_search_takes_only_the_zero_points_of_its_choice() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..500 {
            let group: [f32; 32] = std::array::from_fn(|_| random.f32().powi(3) - 0.3 * random.f32());
            let zero = zero_point(q4z_scale(&group, ZeroPoints::WHOLE));
            assert!([7.0, 6.0, 5.0, 4.0].contains(&zero), "{zero}");
        }
    }
}
