//! Positions of tokens in time, height and width.

use crate::PictureGrid;

/// Positions of the tokens of a prompt.
///
/// Text counts up in all three. The tokens of a picture have the position of its start plus their step, row and column; the text behind it
/// continues after the largest of these, as `transformers` up to 4.57 and the models' release have it (5.x differs for long videos only).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Positions {
    /// Time, height and width of each token.
    pub ids: Vec<[u32; 3]>,
    /// Time, height and width of the first generated token. Those of later ones count up.
    pub next: u32,
}

impl Positions {
    /// Returns the positions of `tokens` tokens, among which are pictures: the index of the first token of each, in order, and its grid.
    pub fn new(tokens: usize, pictures: impl IntoIterator<Item = (usize, PictureGrid)>) -> Self {
        let mut positions = Self { ids: Vec::with_capacity(tokens), next: 0 };
        for (start, grid) in pictures {
            positions.text_up_to(start);
            let (rows, columns) = (grid.rows / grid.merge, grid.columns / grid.merge);
            let from = positions.next;
            for index in 0..grid.tokens() {
                let place = [index / (rows * columns), index / columns % rows, index % columns];
                positions.ids.push(place.map(|place| from + place as u32));
            }
            positions.next += grid.steps.max(rows).max(columns) as u32;
        }
        positions.text_up_to(tokens);
        positions
    }

    fn text_up_to(&mut self, end: usize) {
        let text = end.saturating_sub(self.ids.len()) as u32;
        self.ids.extend((self.next..self.next + text).map(|position| [position; 3]));
        self.next += text;
    }

    /// Difference between the position of a generated token and its index.
    pub fn rope_delta(&self) -> i64 {
        i64::from(self.next) - self.ids.len() as i64
    }
}
