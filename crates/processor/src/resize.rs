//! Pillow's bicubic resize of 8-bit RGB, byte for byte (as of Pillow 10).
//!
//! The filter is widened when shrinking, taps outside the picture are left out, coefficients are rounded to fixed point, and there
//! are two passes with rounding to 8 bits in between: first horizontal, then vertical. An axis that has its size already is skipped.

use std::borrow::Cow;

/// Fractional bits of a coefficient: 32 less 8 of a pixel and 2 for the overshoot of the filter.
const FRACTION_BITS: u32 = 22;
/// Half-width of the filter, in source pixels when not shrinking.
const SUPPORT: f64 = 2.0;

/// The taps of one output pixel.
struct Taps {
    first: usize,
    coefficients: Vec<i32>,
}

/// Keys' cubic with a = -0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let widening = scale.max(1.0);
    let support = SUPPORT * widening;
    (0..to)
        .map(|out| {
            let center = (out as f64 + 0.5) * scale;
            // Casts of negative values give 0: taps before the picture are left out.
            let first = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let weights: Vec<f64> = (first..end).map(|tap| bicubic((tap as f64 - center + 0.5) * (1.0 / widening))).collect();
            let sum: f64 = weights.iter().sum();
            let coefficients = weights
                .iter()
                .map(|weight| {
                    let fixed = weight * (1.0 / sum) * f64::from(1u32 << FRACTION_BITS);
                    (fixed + 0.5f64.copysign(fixed)) as i32
                })
                .collect();
            Taps { first, coefficients }
        })
        .collect()
}

fn to_u8(sum: [i32; 3]) -> [u8; 3] {
    sum.map(|sum| (sum >> FRACTION_BITS).clamp(0, 255) as u8)
}

/// Half a unit, so that the shift rounds.
const HALF: i32 = 1 << (FRACTION_BITS - 1);

/// # Shapes
/// - `rgb`: `[height, width, 3]`
/// - returns: `[to_height, to_width, 3]`
pub(crate) fn resize(rgb: &[u8], [width, height]: [usize; 2], [to_width, to_height]: [usize; 2]) -> Vec<u8> {
    let mut rows = Cow::Borrowed(rgb);
    if width != to_width {
        let taps = taps(width, to_width);
        let mut resized = Vec::with_capacity(height * to_width * 3);
        for row in rgb.chunks_exact(width * 3) {
            for Taps { first, coefficients } in &taps {
                let mut sum = [HALF; 3];
                for (pixel, coefficient) in row[first * 3..].chunks_exact(3).zip(coefficients) {
                    for channel in 0..3 {
                        sum[channel] += i32::from(pixel[channel]) * coefficient;
                    }
                }
                resized.extend_from_slice(&to_u8(sum));
            }
        }
        rows = Cow::Owned(resized);
    }
    if height == to_height {
        return rows.into_owned();
    }
    let row_bytes = to_width * 3;
    let mut resized = Vec::with_capacity(to_height * row_bytes);
    let mut sums = vec![HALF; row_bytes];
    for Taps { first, coefficients } in taps(height, to_height) {
        sums.fill(HALF);
        for (row, coefficient) in rows[first * row_bytes..].chunks_exact(row_bytes).zip(&coefficients) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * coefficient;
            }
        }
        resized.extend(sums.iter().map(|sum| (sum >> FRACTION_BITS).clamp(0, 255) as u8));
    }
    resized
}
