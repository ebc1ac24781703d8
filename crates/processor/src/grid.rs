//! Pictures of any size: the size for the model, the grid of patches, and what the vision tower needs to know about each patch.
//!
//! Patches are in merge-block order: the patches of a token, a square of `merge`² of them, are neighbours, in reading order. Tokens are in reading
//! order too, or window by window if the tower has windows of attention.

use crate::rotary::{cos_sin, frequencies};
use crate::{PictureSize, ProcessorError, VideoStep};
use std::ops::Range;

/// The longer side of a picture has at most this many times the pixels of the shorter.
const MAX_RATIO: f64 = 200.0;

/// Limits of the size that a picture has for the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureSizing {
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Side of the square of patches that becomes one token.
    pub merge: usize,
    /// Smaller pictures are enlarged to this many pixels.
    pub min_pixels: u64,
    /// Larger pictures are reduced to this many pixels.
    pub max_pixels: u64,
    /// Side of the windows of attention, tokens; `None` without windows.
    pub window: Option<usize>,
}

impl PictureSizing {
    /// Sides of pictures are multiples of this many pixels, the side of a token.
    pub fn factor(&self) -> usize {
        self.patch_size * self.merge
    }

    /// Replaces the limits by numbers of tokens. A maximum alone also lowers a minimum above it.
    pub fn with_tokens(self, min: Option<usize>, max: Option<usize>) -> Result<Self, ProcessorError> {
        let pixels = |tokens: usize| (tokens as u64).saturating_mul((self.factor() as u64).pow(2));
        let max_pixels = max.map_or(self.max_pixels, pixels);
        let min_pixels = min.map_or(self.min_pixels.min(max_pixels), pixels);
        if max_pixels == 0 || min_pixels > max_pixels {
            let tokens = |pixels: u64| pixels / (self.factor() as u64).pow(2);
            return Err(ProcessorError::PictureTokens { min: tokens(min_pixels), max: tokens(max_pixels) });
        }
        Ok(Self { min_pixels, max_pixels, ..self })
    }

    /// Returns [`Self::grid`], or a smaller one of at most [`Self::max_pixels`]: a minimum that is rounded up can exceed a maximum near it.
    pub fn grid_within(&self, width: u32, height: u32) -> Result<PictureGrid, ProcessorError> {
        let grid = self.grid(width, height)?;
        if grid.tokens() as u64 * (self.factor() as u64).pow(2) <= self.max_pixels {
            return Ok(grid);
        }
        // A picture of the same shape that is large enough to be reduced to the maximum.
        let pixels = u64::from(width) * u64::from(height);
        let scale = (4.0 * self.max_pixels as f64 / pixels as f64).sqrt().ceil().max(1.0) as u32;
        let grid = self.grid(width.saturating_mul(scale), height.saturating_mul(scale))?;
        // A side of one token cannot shrink, so that a stripe is shortened.
        let longest = (self.max_pixels / (self.factor() as u64).pow(2)) as usize * self.merge;
        Ok(PictureGrid { rows: grid.rows.min(longest), columns: grid.columns.min(longest), ..grid })
    }

    /// Returns the grid of a picture of this size, pixels.
    pub fn grid(&self, width: u32, height: u32) -> Result<PictureGrid, ProcessorError> {
        let [height, width] = smart_resize(height, width, self.factor(), self.min_pixels, self.max_pixels)?;
        let patches = |side: u32| side as usize / self.patch_size;
        Ok(PictureGrid { window: self.window, ..PictureGrid::still([patches(height), patches(width)], self.merge, self.patch_size) })
    }
}

/// Returns the height and width that a picture has for the model: multiples of `factor`, and a number of pixels near the limits
/// (`image_processing_qwen2_vl.py`, `smart_resize`). The ratio of the sides changes a little.
pub fn smart_resize(height: u32, width: u32, factor: usize, min_pixels: u64, max_pixels: u64) -> Result<[u32; 2], ProcessorError> {
    check_shape(height, width)?;
    let (h, w, f) = (f64::from(height), f64::from(width), factor as f64);
    // Python rounds halves to even.
    let mut sides = [h, w].map(|side| (side / f).round_ties_even() * f);
    let pixels = sides[0] * sides[1];
    if pixels > max_pixels as f64 {
        let beta = (h * w / max_pixels as f64).sqrt();
        sides = [h, w].map(|side| f.max((side / beta / f).floor() * f));
    } else if pixels < min_pixels as f64 {
        let beta = (min_pixels as f64 / (h * w)).sqrt();
        sides = [h, w].map(|side| (side * beta / f).ceil() * f);
    }
    let resized = sides.map(|side| side as u32);
    if resized.contains(&0) {
        let problem = "a side rounds to 0 pixels: enlarge it, or set a minimum of tokens for pictures";
        return Err(ProcessorError::PictureShape { width, height, problem });
    }
    Ok(resized)
}

/// Refuses a picture without pixels and one that is too long.
pub(crate) fn check_shape(height: u32, width: u32) -> Result<(), ProcessorError> {
    let (h, w) = (f64::from(height), f64::from(width));
    if h.min(w) == 0.0 {
        return Err(ProcessorError::EmptyPicture { width, height });
    }
    if h.max(w) / h.min(w) > MAX_RATIO {
        let problem = "its longer side has more than 200 times the pixels of the shorter: cut it into parts";
        return Err(ProcessorError::PictureShape { width, height, problem });
    }
    Ok(())
}

/// Size of a picture, or of a step of a video, in patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureGrid {
    /// Place in its video; `None` for a still picture.
    pub step: Option<VideoStep>,
    /// Rows of patches.
    pub rows: usize,
    /// Columns of patches.
    pub columns: usize,
    /// Side of the square of patches that becomes one token.
    pub merge: usize,
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Side of the windows of attention, tokens; `None` without windows.
    pub window: Option<usize>,
}

impl PictureGrid {
    /// Creates the grid of a still picture, without windows.
    pub fn still([rows, columns]: [usize; 2], merge: usize, patch_size: usize) -> Self {
        Self { step: None, rows, columns, merge, patch_size, window: None }
    }

    /// True for the steps of a video after its first.
    pub fn continues(&self) -> bool {
        self.step.is_some_and(|step| step.index > 0)
    }

    /// Size of the picture for the model.
    pub fn size(&self) -> PictureSize {
        let side = |patches: usize| (patches * self.patch_size) as u32;
        PictureSize { width: side(self.columns), height: side(self.rows) }
    }

    /// Number of patches.
    pub fn patches(&self) -> usize {
        self.rows * self.columns
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.patches() / (self.merge * self.merge)
    }

    /// Row and column of each patch, in merge-block order.
    pub fn places(&self) -> impl Iterator<Item = [usize; 2]> {
        let merge = self.merge;
        let patches =
            move |[row, column]: [usize; 2]| (0..merge).flat_map(move |y| (0..merge).map(move |x| [row * merge + y, column * merge + x]));
        self.windows().flat_map(cells).flat_map(patches)
    }

    /// Rows and columns of tokens of each window: windows are in reading order, those at the right and the lower border may be
    /// smaller. Without windows there is one, the whole picture.
    fn windows(&self) -> impl Iterator<Item = [Range<usize>; 2]> {
        let [rows, columns] = [self.rows / self.merge, self.columns / self.merge];
        let side = self.window.unwrap_or(rows.max(columns)).max(1);
        let along = move |count: usize| (0..count).step_by(side).map(move |first| first..count.min(first + side));
        along(rows).flat_map(move |down| along(columns).map(move |across| [down.clone(), across]))
    }

    /// First patch and end of the window of each patch, in merge-block order. A patch attends to the patches of its window.
    ///
    /// # Shapes
    /// - returns: `[rows · columns]`
    pub fn segments(&self) -> Vec<[u32; 2]> {
        let mut segments: Vec<[u32; 2]> = Vec::with_capacity(self.rows * self.columns);
        for [down, across] in self.windows() {
            let first = segments.len();
            let end = first + down.len() * across.len() * self.merge * self.merge;
            segments.resize(end, [first as u32, end as u32]);
        }
        segments
    }

    /// The place in reading order of each token.
    pub fn reading_order(&self) -> impl Iterator<Item = usize> {
        let columns = self.columns / self.merge;
        self.windows().flat_map(cells).map(move |[row, column]| row * columns + column)
    }

    /// Returns `(cos, sin)` of the rotary embedding of the vision tower, for the patches in merge-block order. A quarter of the head
    /// follows the row, the next quarter the column; the other half has the same angles.
    ///
    /// # Shapes
    /// - returns: `[rows · columns, head_dim / 2]`
    pub fn rotary(&self, base: f64, head_dim: usize) -> Vec<[f32; 2]> {
        let frequencies = frequencies(base, head_dim / 2);
        let angles = |place: usize| frequencies.iter().map(|frequency| cos_sin(place as f32 * frequency)).collect::<Vec<_>>();
        let along: Vec<_> = (0..self.rows.max(self.columns)).map(angles).collect();
        self.places().flat_map(|[row, column]| [&along[row], &along[column]]).flatten().copied().collect()
    }

    /// Returns the taps by which the tower's table of `side`² positions is resampled to this grid, bilinear and corner on corner.
    pub fn position_taps(&self, side: usize) -> PositionTaps {
        let along = |count: usize| -> Vec<([usize; 2], f32)> {
            let tap = |index: usize| {
                let at = (index * (side - 1)) as f32 / (count - 1).max(1) as f32;
                let first = at as usize;
                ([first, (first + 1).min(side - 1)], at - first as f32)
            };
            (0..count).map(tap).collect()
        };
        let (rows, columns) = (along(self.rows), along(self.columns));
        let mut taps = PositionTaps { indices: Vec::with_capacity(self.patches()), weights: Vec::with_capacity(self.patches()) };
        for [row, column] in self.places() {
            let (([top, bottom], down), ([left, right], over)) = (rows[row], columns[column]);
            taps.indices.push([[top, left], [top, right], [bottom, left], [bottom, right]].map(|[y, x]| (y * side + x) as u32));
            taps.weights.push([(1.0 - down) * (1.0 - over), (1.0 - down) * over, down * (1.0 - over), down * over]);
        }
        taps
    }
}

/// Row and column of each token of a window, in reading order.
fn cells([down, across]: [Range<usize>; 2]) -> impl Iterator<Item = [usize; 2]> {
    down.flat_map(move |row| across.clone().map(move |column| [row, column]))
}

/// The rows of a position table that make the position of each patch, in merge-block order.
#[derive(Debug, Clone, PartialEq)]
pub struct PositionTaps {
    /// Rows of the table: `[rows · columns, 4]`
    pub indices: Vec<[u32; 4]>,
    /// Their weights: `[rows · columns, 4]`
    pub weights: Vec<[f32; 4]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maximum_near_the_minimum_is_kept() {
        for (min, max) in [(64, 64), (64, 70), (1024, 1024), (4, 5)] {
            let sizing = PictureSizing { patch_size: 16, merge: 2, min_pixels: 1, max_pixels: 1, window: None }
                .with_tokens(Some(min), Some(max))
                .unwrap();
            let mut exceeded = 0;
            for (width, height) in [(9, 7), (224, 352), (30, 400), (1000, 10), (3000, 2000), (33, 33), (1, 1)] {
                let Ok(grid) = sizing.grid(width, height) else { continue };
                exceeded += usize::from(grid.tokens() > max);
                let within = sizing.grid_within(width, height).unwrap();
                assert!((1..=max).contains(&within.tokens()), "{width}×{height}, {min} to {max}: {within:?}");
                assert!(grid.tokens() > max || within == grid, "{width}×{height}");
            }
            assert!(exceeded > 0, "{min} to {max}: no picture shows the difference");
        }
    }

    #[test]
    fn windows_are_visited_one_after_the_other() {
        // 3 × 5 tokens of 2 × 2 patches, windows of 2 × 2 tokens.
        let grid = PictureGrid { window: Some(2), ..PictureGrid::still([6, 10], 2, 14) };
        let order: Vec<usize> = grid.reading_order().collect();
        assert_eq!(order, [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]);
        let places: Vec<[usize; 2]> = grid.places().collect();
        assert_eq!(places[..6], [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3]]);
        for (patch, place) in places.iter().enumerate() {
            let token = order[patch / 4];
            assert_eq!([place[0] / 2, place[1] / 2], [token / 5, token % 5]);
        }
        let lengths = [16, 16, 8, 8, 8, 4];
        let mut first = 0;
        let segments = lengths.iter().flat_map(|length| {
            first += length;
            vec![[first - length, first]; *length as usize]
        });
        assert_eq!(grid.segments(), segments.collect::<Vec<_>>());
        // Without windows, as a window that holds the whole picture.
        let whole = PictureGrid::still([6, 10], 2, 14);
        for window in [None, Some(5), Some(100)] {
            let grid = PictureGrid { window, ..whole };
            assert!(grid.places().eq(whole.places()) && grid.reading_order().eq(0..15), "{window:?}");
            assert_eq!(grid.segments(), vec![[0, 60]; 60]);
        }
    }
}
