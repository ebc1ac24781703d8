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
    f32::from(60 - (scale.to_bits() & ZERO_POINT_BITS)) / 8.0
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

    /// Returns the choices on both sides of a zero point.
    #[inline(always)]
    fn around(self, zero: f32) -> [u16; 2] {
        let below = ((7.5 - zero) * 8.0 - f32::from(self.first)) as u16 / self.step;
        let lower = self.first + below.min(31) * self.step;
        [lower.min(self.last), (lower + self.step).min(self.last)]
    }
}

/// Returns the nibble nearest to `scaled`, a weight in units of its scale plus the zero point.
#[inline(always)]
pub(super) fn nearest_nibble(scaled: f32) -> f32 {
    /// Numbers of this size have no fractions, so that a sum is rounded to a whole number.
    const WHOLE: f32 = (1 << 23) as f32;
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
/// zero points, which put the weight of largest magnitude near an end of the code, and refines the best few. Twice the starts gain 0.5 % of the
/// error. Errors of 1 % more remain than a search over every zero point has.
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
        for mut fit in group.regressions([low * STARTS[0], low * STARTS[1], high * STARTS[0], high * STARTS[1]], zero) {
            for other in &mut found {
                if fit.error < other.error {
                    std::mem::swap(&mut fit, other);
                }
            }
        }
    }
    // A range that f32 cannot square has no fits: the code's ends are near the largest weight then.
    let mut best = (f32::INFINITY, with_choice(largest / 7.5, choices.first)[0]);
    for fit in found.into_iter().filter(|fit| fit.error < f32::INFINITY) {
        let sums = group.sums(fit.scale, fit.zero);
        let (_, scale) = group.stored(sums, fit.zero, choices);
        let zero = zero_point(scale);
        let sums = group.sums(scale.to_f32(), zero);
        let error = group.error(sums, scale.to_f32(), zero);
        // The error with these nibbles: with the nearest ones it is smaller.
        let refined = group.stored(sums, zero, choices);
        for candidate in [(error, scale), refined] {
            if candidate.0 < best.0 {
                best = candidate;
            }
        }
    }
    best.1
}

impl Group<'_> {
    /// Returns the sums of the nibbles nearest to the weights.
    #[inline(always)]
    fn sums(&self, scale: f32, zero: f32) -> Sums {
        let [nibbles, squares, products] = self.lanes(scale, zero);
        Sums { nibbles: sum_of_lanes(nibbles), squares: sum_of_lanes(squares), products: sum_of_lanes(products) }
    }

    /// Returns the sums as lanes of vectors.
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

    /// Returns the regressions of the nibbles nearest to the weights, for some scales and a zero point.
    #[inline(always)]
    fn regressions(&self, scales: [f32; 4], zero: f32) -> [Fit; 4] {
        let mut lanes = [[[0.0f32; LANES]; 3]; 4];
        for (scale, lanes) in scales.iter().zip(&mut lanes) {
            *lanes = self.lanes(*scale, zero);
        }
        // Closures would not be compiled for the vectors of the caller.
        let mut fits = [NO_FIT; 4];
        for (lanes, fit) in lanes.iter().zip(&mut fits) {
            let sums = Sums { nibbles: sum_of_lanes(lanes[0]), squares: sum_of_lanes(lanes[1]), products: sum_of_lanes(lanes[2]) };
            *fit = self.regression(sums, zero);
        }
        fits
    }

    /// Returns the sums of w · (n − z) and (n − z)².
    #[inline(always)]
    fn centred(&self, sums: Sums, zero: f32) -> (f32, f32) {
        let products = sums.products - zero * self.total;
        let squares = sums.squares - 2.0 * zero * sums.nibbles + self.count * zero * zero;
        (products, squares)
    }

    /// Returns the zero point of the regression; that of the nibbles if these are all the same.
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

    /// Returns the best scale for nibbles that can be stored, and the error with them.
    #[inline(always)]
    fn stored(&self, sums: Sums, zero: f32, choices: ZeroPoints) -> (f32, f16) {
        let zero = self.best_zero(sums, zero);
        // The nibble n with the zero point z and the nibble 15 − n with 15 − z and the negative scale are the same weight.
        let (zero, sums) = if zero > 7.5 { (15.0 - zero, self.mirrored(sums)) } else { (zero, sums) };
        let mut best = (f32::INFINITY, f16::ZERO);
        for choice in choices.around(zero) {
            let zero = zero_point(f16::from_bits(choice));
            let (products, squares) = self.centred(sums, zero);
            for scale in with_choice(products / squares, choice) {
                let error = self.error(sums, scale.to_f32(), zero);
                if error < best.0 {
                    best = (error, scale);
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
fn with_choice(scale: f32, choice: u16) -> [f16; 2] {
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
    [f16::from_bits(below), f16::from_bits(other)]
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
        for scale in [1.0f32, -1.0, 0.01, 3e-5, -3e-7, 0.0, 65504.0, -1e9, f32::INFINITY] {
            for choice in 0..=ZERO_POINT_BITS {
                let near = with_choice(scale, choice);
                for stored in near {
                    assert!(stored.is_finite() && stored.to_bits() & ZERO_POINT_BITS == choice, "{scale}, {choice}: {stored}");
                }
                let [low, high] = near.map(|stored| stored.to_f32().abs());
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
