//! Comparing floats with a stated tolerance.

/// Returns the largest absolute difference, with its index. Panics if the lengths differ or a value is not finite.
pub fn worst(got: &[f32], want: &[f32], what: &str) -> (usize, f32) {
    assert_eq!(got.len(), want.len(), "{what}: {} values, expected {}", got.len(), want.len());
    got.iter().zip(want).enumerate().fold((0, 0.0), |(at, worst), (i, (got, want))| {
        assert!(got.is_finite(), "{what}: value {i} is {got}");
        let difference = (got - want).abs();
        if difference > worst { (i, difference) } else { (at, worst) }
    })
}

/// Panics if any value differs by more than `tolerance`, and names the index with the largest difference.
#[track_caller]
pub fn assert_close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    let (at, difference) = worst(got, want, what);
    assert!(
        difference <= tolerance,
        "{what}: value {at} is {}, expected {}: off by {difference:e}, tolerance {tolerance:e}",
        got[at],
        want[at]
    );
}

/// Returns repeatable numbers with a bell-shaped distribution of deviation 1: sums of four uniform numbers. For inputs that only have to vary.
pub fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678_9abc_def1);
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (uniform() + uniform() + uniform() + uniform()) * 1.732).collect()
}
