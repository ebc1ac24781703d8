//! Random weights, the same as in `quantize/tests/independent/compare_codes.py`.

/// Number `index` of a stream of splitmix64, in 0..1.
fn uniform(seed: u64, index: u64) -> f64 {
    let mut z = seed.wrapping_add(index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    ((z >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

/// Box and Muller's bell curve.
fn normal(seed: u64, index: u64) -> f64 {
    let (radius, angle) = (uniform(seed, 2 * index), uniform(seed, 2 * index + 1));
    (-2.0 * radius.ln()).sqrt() * (2.0 * std::f64::consts::PI * angle).cos()
}

pub fn gaussian(index: u64) -> f64 {
    normal(0, index)
}

/// Student's t with five degrees of freedom.
pub fn heavy_tailed(index: u64) -> f64 {
    let squares: f64 = (1..6).map(|k| normal(1 << 40, 6 * index + k).powi(2)).sum();
    normal(1 << 40, 6 * index) / (squares / 5.0).sqrt()
}

/// Returns the first `count` weights of a kind.
pub fn weights(kind: fn(u64) -> f64, count: u64) -> Vec<f32> {
    (0..count).map(|index| (0.02 * kind(index)) as f32).collect()
}
