//! The bicubic resize of the model's position tables.

/// Resizes a table `[from × from, width]` to `[to × to, width]` by bicubic interpolation with a = −0.75, half-pixel centres,
/// clamped borders and no antialiasing, as `F.interpolate(mode="bicubic", align_corners=False)` does.
pub fn resize_table(table: &[f32], from: usize, to: usize, width: usize) -> Vec<f32> {
    if from == to {
        return table.to_vec();
    }
    let taps: Vec<[(usize, f64); 4]> = (0..to).map(|index| cubic_taps(index, from, to)).collect();
    let mut out = Vec::with_capacity(to * to * width);
    for y in &taps {
        for x in &taps {
            out.extend((0..width).map(|channel| {
                let row =
                    |row: usize| x.iter().map(|(col, weight)| weight * f64::from(table[(row * from + col) * width + channel])).sum::<f64>();
                y.iter().map(|(at, weight)| weight * row(*at)).sum::<f64>() as f32
            }));
        }
    }
    out
}

/// Source positions and weights of one output position along one axis.
fn cubic_taps(index: usize, from: usize, to: usize) -> [(usize, f64); 4] {
    const A: f64 = -0.75;
    // In f32 with one rounding, as PyTorch does: for ratios such as 16/24, other roundings change the result by 2e-6 and more.
    let centre = (from as f32 / to as f32).mul_add(index as f32 + 0.5, -0.5);
    let first = centre.floor();
    let t = f64::from(centre - first);
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
    std::array::from_fn(|tap| {
        let position = (first as i64 + tap as i64 - 1).clamp(0, from as i64 - 1);
        (position as usize, weights[tap])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resize_keeps_constants() {
        let flat = resize_table(&[2.5; 16 * 16], 16, 32, 1);
        assert!(flat.iter().all(|value| (value - 2.5).abs() < 1e-6));
        // The weights a quarter past a position.
        assert_eq!(cubic_taps(1, 16, 32), [(0, -0.10546875), (0, 0.87890625), (1, 0.26171875), (2, -0.03515625)]);
    }
}
