//! The steps of a video: two frames each, with a place in time.

use crate::ProcessorError;
use qwen_vl_format::config::VideoConfig;

/// Frames of a step.
pub(crate) const FRAMES: usize = 2;
/// Longest video, seconds: times are positions in 32 bits.
pub(crate) const LONGEST: f64 = 1e7;

/// Place of a step in its video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VideoStep {
    /// Index of the step.
    pub index: u32,
    /// Its position in time, after that of the first step.
    pub time: u32,
    /// Mean time of its frames, tenths of a second.
    pub tenths: u32,
}

impl VideoStep {
    /// Returns the steps of a video. The last frame is repeated if the number of frames is odd.
    ///
    /// # Arguments
    /// * `times` - of the frames, seconds, ascending
    /// * `fps` - frames a second; absent for the mean distance of the times
    pub fn all(config: VideoConfig, times: &[f64], fps: Option<f64>) -> Result<Vec<Self>, ProcessorError> {
        let refused = |problem: String| Err(ProcessorError::VideoTimes { problem });
        let [Some(first), Some(last)] = [times.first(), times.last()] else { return refused("there are no frames".to_owned()) };
        if let Some(index) = times.iter().position(|time| !(0.0..=LONGEST).contains(time)) {
            return refused(format!("time {index} is {}, expected seconds from 0 to {LONGEST}", times[index]));
        }
        if let Some(index) = (1..times.len()).find(|index| times[*index] < times[index - 1]) {
            return refused(format!("time {index} is {}, before the {} of the frame before it", times[index], times[index - 1]));
        }
        if let Some(fps) = fps.filter(|fps| !(fps.is_finite() && *fps > 0.0)) {
            return refused(format!("the frames a second are {fps}, expected a number above 0"));
        }
        let distance = fps.map_or((last - first) / (times.len() - 1).max(1) as f64, |fps| 1.0 / fps);
        let seconds = (FRAMES as f64 * distance) as f32;
        let steps = times.chunks(FRAMES).enumerate().map(|(index, pair)| Self {
            index: index as u32,
            // In f32, as in `get_rope_index`.
            time: config.positions_per_second.map_or(index as u32, |positions| (index as f32 * seconds * positions as f32) as u32),
            tenths: tenths((pair[0] + pair[pair.len() - 1]) / 2.0),
        });
        Ok(steps.collect())
    }

    /// The text before a step in the prompts of Qwen3-VL.
    pub(crate) fn label(&self) -> String {
        format!("<{}.{} seconds>", self.tenths / 10, self.tenths % 10)
    }
}

/// Rounds like `"%.1f"`, which sees all digits of the number: 0.35 is below its decimal value.
fn tenths(seconds: f64) -> u32 {
    format!("{seconds:.1}").replace('.', "").parse().unwrap_or(u32::MAX)
}
