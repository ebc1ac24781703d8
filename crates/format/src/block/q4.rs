//! The search for the scales of `q4`.

use super::{Q4_VALUES, inverse_scale, to_f16_finite};
use half::f16;

/// Midpoints between neighbouring magnitudes of [`Q4_VALUES`], and the step over each; the last one exists below zero only.
const Q4_STEPS: [(f32, f32); 8] =
    [(5.5, 11.0), (16.5, 11.0), (28.0, 12.0), (41.0, 14.0), (56.0, 16.0), (72.5, 17.0), (91.5, 21.0), (114.0, 24.0)];

/// Returns the value of [`Q4_VALUES`] nearest to `scaled`, a weight in units of its scale. It uses comparisons only, so that the compiler makes
/// vector code of it.
#[inline(always)]
fn nearest_value(scaled: f32) -> f32 {
    let magnitude = scaled.abs();
    let mut value = 0.0;
    for (midpoint, step) in &Q4_STEPS[..7] {
        value += if magnitude > *midpoint { *step } else { 0.0 };
    }
    let (midpoint, step) = Q4_STEPS[7];
    value += if -scaled > midpoint { step } else { 0.0 };
    value.copysign(scaled)
}

/// Returns the nibble of that value.
#[inline(always)]
pub(super) fn nearest_nibble(scaled: f32) -> u8 {
    let magnitude = scaled.abs();
    let mut steps = 0i32;
    for (midpoint, _) in &Q4_STEPS[..7] {
        steps += i32::from(magnitude > *midpoint);
    }
    steps += i32::from(-scaled > Q4_STEPS[7].0);
    (8 + if scaled < 0.0 { -steps } else { steps }) as u8
}

/// Returns the scale with the smallest squared error among a few starts, each refined by least squares.
///
/// A start puts the weight of largest magnitude near one end of the code, which has a coarse and a fine end: scales have signs. More starts
/// and rounds gain less than 0.1 % of the error.
#[inline(always)]
pub(super) fn q4_scale(group: &[f32]) -> f16 {
    const STARTS: [f32; 4] = [0.90, 0.96, 1.02, 1.08];
    const ROUNDS: usize = 2;
    let largest = group.iter().fold(0.0f32, |largest, weight| if weight.abs() > largest.abs() { *weight } else { largest });
    let mut best = (f32::INFINITY, f16::ZERO);
    if largest == 0.0 {
        return best.1;
    }
    for end in [Q4_VALUES[0], Q4_VALUES[15]] {
        let mut scales = STARTS.map(|start| largest / f32::from(end) * start);
        for _ in 0..ROUNDS {
            let found = fits(group, scales.map(inverse_scale));
            for (scale, (products, squares)) in scales.iter_mut().zip(found) {
                if squares > 0.0 {
                    *scale = products / squares;
                }
            }
        }
        let rounded = scales.map(to_f16_finite);
        let scales = rounded.map(f16::to_f32);
        for ((rounded, scale), (products, squares)) in rounded.into_iter().zip(scales).zip(fits(group, scales.map(inverse_scale))) {
            // The sum of (weight - value * scale)², less the sum of weight², which is the same for every start.
            let error = scale * (scale * squares - 2.0 * products);
            if error < best.0 {
                best = (error, rounded);
            }
        }
    }
    best.1
}

/// Returns the sums of weight · value and of value², for the values nearest to the weights in units of each scale.
#[inline(always)]
fn fits<const SCALES: usize>(group: &[f32], inverses: [f32; SCALES]) -> [(f32, f32); SCALES] {
    inverses.map(|inverse| fit(group, inverse))
}

#[inline(always)]
fn fit(group: &[f32], inverse: f32) -> (f32, f32) {
    const LANES: usize = 8;
    let (mut products, mut squares) = ([0.0f32; LANES], [0.0f32; LANES]);
    // Groups are multiples of 32.
    for weights in group.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let value = nearest_value(weights[lane] * inverse);
            products[lane] += weights[lane] * value;
            squares[lane] += value * value;
        }
    }
    (products.iter().sum(), squares.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q4_takes_the_nearest_value() {
        for step in -1400..1400 {
            let scaled = step as f32 * 0.1 + 0.03;
            let distance = |nibble: u8| (scaled - f32::from(Q4_VALUES[usize::from(nibble)])).abs();
            let best = (0..16).map(distance).fold(f32::INFINITY, f32::min);
            assert!(distance(nearest_nibble(scaled)) <= best, "{scaled}");
            assert_eq!(nearest_value(scaled), f32::from(Q4_VALUES[usize::from(nearest_nibble(scaled))]), "{scaled}");
        }
    }
}
