//! Videos: the frames that a model sees, and their size.
//!
//! Two frames make a step, which the vision tower encodes like a picture. Frames are chosen as `qwen-vl-utils` does for Qwen2-VL and Qwen2.5-VL
//! (`vision_process.py`, `smart_nframes` and `fetch_video`), and as `video_processing_qwen3_vl.py` does for Qwen3-VL. In addition, a video has a
//! limit of tokens, so that it fits a small context.

use crate::grid::{check_shape, smart_resize};
use crate::step::{FRAMES, LONGEST};
use crate::{PictureGrid, PictureSize, PictureSizing, ProcessorError};
use qwen_vl_format::Family;
use serde::{Deserialize, Serialize};

/// Frames a second that the models were trained on.
const FPS: f64 = 2.0;
/// Fewest and most frames of a video.
const FEWEST_FRAMES: usize = 4;
const MOST_FRAMES: usize = 768;
/// Fewest and most tokens of a step of Qwen2-VL and Qwen2.5-VL (`VIDEO_MIN_PIXELS`, `VIDEO_MAX_PIXELS`).
const STEP_TOKENS: [usize; 2] = [128, 768];
/// Limits of frames · height · width of Qwen3-VL (`video_preprocessor_config.json`).
const VOLUME: [f64; 2] = [4096.0, 25_165_824.0];
/// Fewest tokens of a step of Qwen3-VL to which a limit of tokens shrinks frames, before it leaves frames out: those of its smallest picture.
const SHRUNK_TOKENS: usize = 64;

/// The way from a video to the frames that the model sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[serde(default, deny_unknown_fields)]
pub struct VideoOptions {
    /// Frames a second; 2 by default, as the models were trained.
    pub fps: Option<f64>,
    /// Most frames; 768 by default.
    pub max_frames: Option<usize>,
    /// Fewest tokens of two frames; absent for the rule of the generation.
    pub min_step_tokens: Option<usize>,
    /// Most tokens of the whole video. Frames are reduced, and if that is not enough, left out.
    pub max_tokens: Option<usize>,
}

/// Facts about a video before its frames are read.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
pub struct VideoSource {
    /// Width of a frame, pixels.
    pub width: u32,
    /// Height of a frame, pixels.
    pub height: u32,
    /// Duration, seconds. Absent if the frames were chosen before: all are kept, as far as they fit.
    pub duration: Option<f64>,
    /// Number of frames; absent if any time can be read.
    pub frames: Option<usize>,
}

/// The frames that the model sees, and their size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct VideoPlan {
    /// Place of each frame: its index if [`VideoSource::frames`] is set, otherwise its time in seconds.
    pub frames: Vec<f64>,
    /// Frames a second; absent for frames that were chosen before.
    pub fps: Option<f64>,
    /// Width of a frame for the model, pixels.
    pub width: u32,
    /// Height of a frame for the model, pixels.
    pub height: u32,
    /// Tokens of the whole video.
    pub tokens: usize,
}

/// Rules of a model's videos.
#[derive(Debug, Clone, Copy)]
pub struct VideoSizing {
    /// The generation.
    pub family: Family,
    /// The rule of its pictures, whose `max_pixels` no frame exceeds.
    pub pictures: PictureSizing,
}

impl VideoSizing {
    /// Chooses the frames of a video and their size.
    pub fn plan(&self, source: &VideoSource, options: &VideoOptions) -> Result<VideoPlan, ProcessorError> {
        let refused = |problem: String| Err(ProcessorError::VideoTimes { problem });
        let fps = options.fps.unwrap_or(FPS);
        if !(fps > 0.0 && fps <= 1000.0) {
            return refused(format!("the frames a second are {fps}, expected a number above 0, at most 1000"));
        }
        if let Some(duration) = source.duration.filter(|duration| !(*duration > 0.0 && *duration <= LONGEST)) {
            return refused(format!("the duration is {duration}, expected seconds above 0, at most {LONGEST}"));
        }
        if source.frames == Some(0) || (source.frames, source.duration) == (None, None) {
            return refused("there are no frames".to_owned());
        }
        if options.max_frames == Some(0) {
            return refused("the most frames are 0, expected at least 1".to_owned());
        }
        if options.min_step_tokens == Some(0) {
            return refused("the fewest tokens of two frames are 0, expected at least 1".to_owned());
        }
        let most = self.most_frames(options)?;
        let available = source.frames.unwrap_or(usize::MAX);
        let count = match source.duration {
            Some(duration) => {
                let wanted = ((duration * fps) as usize).clamp(FEWEST_FRAMES.min(most), most).min(available);
                // Qwen3-VL repeats the last of an odd number of frames.
                if self.family == Family::Qwen3Vl || wanted < FRAMES { wanted } else { wanted / FRAMES * FRAMES }
            }
            None => available.min(most),
        };
        let frames = match (source.frames, source.duration) {
            (Some(available), _) => spread(count, (available - 1) as f64).map(f64::round_ties_even).collect(),
            // The last frame is shown before the end.
            (None, duration) => spread(count, duration.unwrap_or_default() * (1.0 - 0.5 / count as f64)).collect(),
        };
        let grid = self.grid(count, PictureSize { width: source.width, height: source.height }, options)?;
        let PictureSize { width, height } = grid.size();
        let fps = source.duration.map(|duration| count as f64 / duration);
        Ok(VideoPlan { frames, fps, width, height, tokens: count.div_ceil(FRAMES) * grid.tokens() })
    }

    /// The most frames under these options.
    fn most_frames(&self, options: &VideoOptions) -> Result<usize, ProcessorError> {
        let most = options.max_frames.unwrap_or(MOST_FRAMES);
        let fewest = self.fewest_tokens(options).unwrap_or(SHRUNK_TOKENS);
        let steps = options.max_tokens.map_or(usize::MAX, |tokens| tokens / roomy(fewest));
        let most = most.min(steps.saturating_mul(FRAMES));
        if most == 0 {
            return Err(ProcessorError::VideoTokens { fewest: roomy(fewest), limit: options.max_tokens.unwrap_or(0) });
        }
        Ok(most)
    }

    /// The fewest tokens of a step.
    fn fewest_tokens(&self, options: &VideoOptions) -> Option<usize> {
        let of_family = (self.family != Family::Qwen3Vl).then_some(STEP_TOKENS[0]);
        options.min_step_tokens.or(of_family).map(|tokens| tokens.min(self.most_step_tokens()))
    }

    /// The most tokens of a picture.
    fn most_step_tokens(&self) -> usize {
        usize::try_from(self.pictures.max_pixels / (self.pictures.factor() as u64).pow(2)).unwrap_or(usize::MAX).max(1)
    }

    /// Returns the grid of each step of a video of this many frames.
    fn grid(&self, frames: usize, size: PictureSize, options: &VideoOptions) -> Result<PictureGrid, ProcessorError> {
        let PictureSize { width, height } = size;
        let factor = self.pictures.factor();
        let pixels = |tokens: usize| (tokens as u64).saturating_mul((factor as u64).pow(2));
        let steps = frames.div_ceil(FRAMES);
        let fewest = self.fewest_tokens(options);
        // The most tokens of a step: its part of the video's limit.
        let share = options.max_tokens.map_or(usize::MAX, |tokens| tokens / steps).min(self.most_step_tokens());
        let [height, width] = if self.family == Family::Qwen3Vl {
            let volume = |tokens: usize| pixels(tokens) as f64 * frames as f64;
            let limits = [fewest.map_or(VOLUME[0], volume), VOLUME[1].min(volume(share))];
            smart_resize_volume(frames, height, width, factor, limits)?
        } else {
            let fewest = fewest.unwrap_or(1);
            let most = STEP_TOKENS[1].min(share).max(roomy(fewest).min(share));
            smart_resize(height, width, factor, pixels(fewest), pixels(most))?
        };
        // A minimum that is rounded up can exceed the maximum.
        let within = PictureSizing { min_pixels: 1, max_pixels: pixels(share), ..self.pictures };
        within.grid_within(width, height)
    }
}

/// A little more than a minimum, so that a size exists between the two (`fetch_video`).
fn roomy(tokens: usize) -> usize {
    (tokens as f64 * 1.05).ceil() as usize
}

/// `count` numbers from 0 to `last`.
fn spread(count: usize, last: f64) -> impl Iterator<Item = f64> {
    let distance = last / (count - 1).max(1) as f64;
    (0..count).map(move |index| if index > 0 && index + 1 == count { last } else { index as f64 * distance })
}

/// Returns the height and width of the frames of a video of Qwen3-VL (`video_processing_qwen3_vl.py`, `smart_resize`). `limits` are those of
/// frames · height · width.
pub fn smart_resize_volume(
    frames: usize,
    height: u32,
    width: u32,
    factor: usize,
    [min, max]: [f64; 2],
) -> Result<[u32; 2], ProcessorError> {
    check_shape(height, width)?;
    let (mut h, mut w, f, count) = (f64::from(height), f64::from(width), factor as f64, frames as f64);
    if h.min(w) < f {
        // The shorter side becomes one token.
        let scale = f / h.min(w);
        (h, w) = ((h * scale).trunc(), (w * scale).trunc());
    }
    let mut sides = [h, w].map(|side| (side / f).round_ties_even() * f);
    let volume = frames.next_multiple_of(FRAMES) as f64 * sides[0] * sides[1];
    if volume > max {
        let beta = (count * h * w / max).sqrt();
        sides = [h, w].map(|side| f.max((side / beta / f).floor() * f));
    } else if volume < min {
        let beta = (min / (count * h * w)).sqrt();
        sides = [h, w].map(|side| (side * beta / f).ceil() * f);
    }
    Ok(sides.map(|side| side as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_at_least_one_token() {
        let pictures = PictureSizing { patch_size: 14, merge: 2, min_pixels: 3136, max_pixels: 12_845_056, window: None };
        let source = VideoSource { width: 64, height: 64, duration: Some(4.0), frames: None };
        let plan = |min_step_tokens| {
            let options = VideoOptions { min_step_tokens, max_tokens: Some(512), ..VideoOptions::default() };
            VideoSizing { family: Family::Qwen2Vl, pictures }.plan(&source, &options)
        };
        assert!(plan(Some(1)).is_ok());
        assert!(plan(Some(0)).unwrap_err().to_string().contains("fewest tokens"));
    }
}
