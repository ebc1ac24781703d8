//! The rotary embedding of the decoder by positions of time, height and width (M-RoPE).

/// Returns the frequencies `base^(-2i / dim)` for i below `dim / 2`, rounded to f32 where the original rounds.
pub(crate) fn frequencies(base: f64, dim: usize) -> Vec<f32> {
    let frequency = |i: usize| {
        let exponent = (2 * i) as f32 / dim as f32;
        1.0 / (f64::from(base as f32).powf(f64::from(exponent)) as f32)
    };
    (0..dim / 2).map(frequency).collect()
}

/// Returns cosine and sine of an angle, rounded once.
pub(crate) fn cos_sin(angle: f32) -> [f32; 2] {
    let angle = f64::from(angle);
    [angle.cos() as f32, angle.sin() as f32]
}

/// Frequencies of the decoder's heads, and the axis of a position that each follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// Frequency, and 0 for time, 1 for height, 2 for width.
    frequencies: Vec<(f32, usize)>,
}

impl Rotary {
    /// Distributes the frequencies of heads of width `head_dim` over the axes: `sections` of them follow time, height and width. Without sections
    /// all follow time. The sections are blocks, or, if `interleaved`, alternate until theirs are used up, and time takes the rest.
    pub fn new(base: f64, head_dim: usize, sections: Option<[usize; 3]>, interleaved: bool) -> Self {
        let axis = |i: usize| match sections {
            None => 0,
            Some(sections) if interleaved => match i % 3 {
                axis if i < 3 * sections[axis] => axis,
                _ => 0,
            },
            Some([time, height, _]) => usize::from(i >= time) + usize::from(i >= time + height),
        };
        Self { frequencies: frequencies(base, head_dim).into_iter().enumerate().map(|(i, frequency)| (frequency, axis(i))).collect() }
    }

    /// Returns the frequencies, in radians a position.
    pub fn frequencies(&self) -> impl Iterator<Item = f32> {
        self.frequencies.iter().map(|(frequency, _)| *frequency)
    }

    /// Returns `(cos, sin)` of each position. The angle is an f32 product, as in the original.
    ///
    /// # Shapes
    /// - `positions`: `[tokens]` of time, height and width
    /// - returns: `[tokens, head_dim / 2]`
    pub fn rows(&self, positions: &[[u32; 3]]) -> Vec<[f32; 2]> {
        let row = |position: &[u32; 3]| {
            let position = position.map(|position| position as f32);
            self.frequencies.iter().map(move |(frequency, axis)| cos_sin(position[*axis] * frequency))
        };
        positions.iter().flat_map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axes(head_dim: usize, sections: Option<[usize; 3]>, interleaved: bool) -> String {
        let rotary = Rotary::new(1e6, head_dim, sections, interleaved);
        rotary.frequencies.iter().map(|(_, axis)| ['t', 'h', 'w'][*axis]).collect()
    }

    #[test]
    fn axes_are_those_of_the_sections() {
        assert_eq!(axes(8, None, false), "tttt");
        assert_eq!(axes(16, Some([2, 3, 3]), false), "tthhhwww");
        assert_eq!(axes(128, Some([16, 24, 24]), false), format!("{}{}{}", "t".repeat(16), "h".repeat(24), "w".repeat(24)));
        assert_eq!(axes(128, Some([24, 20, 20]), true), format!("{}tttt", "thw".repeat(20)));
        assert_eq!(axes(16, Some([4, 2, 2]), true), "thwthwtt");
    }

    #[test]
    fn angles_follow_their_axis() {
        let rotary = Rotary::new(10_000.0, 8, Some([1, 1, 2]), false);
        let rows = rotary.rows(&[[3, 5, 7], [0, 0, 0]]);
        let expected = [3.0, 5.0 / 10.0, 7.0 / 100.0, 7.0 / 1000.0];
        for ([cos, sin], angle) in rows.iter().zip(expected) {
            assert!((f64::from(*cos) - f64::cos(angle)).abs() < 1e-7 && (f64::from(*sin) - f64::sin(angle)).abs() < 1e-7, "{angle}");
        }
        assert_eq!(rows[4..], [[1.0, 0.0]; 4]);
    }
}
