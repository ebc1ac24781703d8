//! [`super::rotary`] in plain loops.

/// Rotates one row of heads in place: the pair `(i, i + half)` of each head by `angles[i] = (cos, sin)`. Then scales it.
pub fn rotate(vector: &mut [f32], angles: &[[f32; 2]], scale: f32) {
    let half = angles.len();
    for head in vector.chunks_exact_mut(2 * half) {
        for (i, [cos, sin]) in angles.iter().enumerate() {
            let (low, high) = (f64::from(head[i]), f64::from(head[i + half]));
            let (cos, sin, scale) = (f64::from(*cos), f64::from(*sin), f64::from(scale));
            head[i] = ((low * cos - high * sin) * scale) as f32;
            head[i + half] = ((high * cos + low * sin) * scale) as f32;
        }
    }
}
