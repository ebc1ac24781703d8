//! [`super::rotary`] in plain loops.

/// Turns one vector of heads in place: pairs `(i, i + half)` of each head by `angles[i] = (cos, sin)`, then scales.
pub fn turn(vector: &mut [f32], angles: &[[f32; 2]], scale: f32) {
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
