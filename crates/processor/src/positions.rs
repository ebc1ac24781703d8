//! Positions of tokens in time, height and width.

use crate::PictureGrid;

/// Positions of the tokens of a prompt.
///
/// Text counts up in all three. The tokens of a picture have the position of its start plus their row and column; those of a video also the time
/// of their step. The text behind continues after the largest of these, as `transformers` up to 4.57 and the models' release have it. (5.24
/// continues after the larger side of the picture, which differs for long videos: there, text and video would share positions.)
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Positions {
    /// Time, height and width of each token.
    pub ids: Vec<[u32; 3]>,
    /// Time, height and width of the first generated token. Those of later ones count up.
    pub next: u32,
}

impl Positions {
    /// Returns the positions of `tokens` tokens, among which are pictures and steps of videos: the index of the first token of each, in order, and
    /// its grid. A step that follows the one before without text between them has the start of its video.
    pub fn new(tokens: usize, pictures: impl IntoIterator<Item = (usize, PictureGrid)>) -> Self {
        let mut positions = Self { ids: Vec::with_capacity(tokens), next: 0 };
        let mut from = 0;
        for (start, grid) in pictures {
            let joined = grid.continues() && start == positions.ids.len();
            positions.text_up_to(start);
            if !joined {
                from = positions.next;
            }
            let time = if joined { grid.step.map_or(0, |step| step.time) } else { 0 };
            let (rows, columns) = (grid.rows / grid.merge, grid.columns / grid.merge);
            let places = (0..grid.tokens()).map(|index| [time, (index / columns) as u32, (index % columns) as u32]);
            positions.ids.extend(places.map(|place| place.map(|place| from + place)));
            positions.next = positions.next.max(from + time.saturating_add(1).max(rows.max(columns) as u32));
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
