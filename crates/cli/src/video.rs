//! Videos as folders of frames.

use crate::preprocess::read_picture;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use qwen_vl_format::Manifest;
use qwen_vl_processor::{DecodeOptions, Picture, PictureGrid, VideoOptions, VideoPlan, VideoSource, VideoStep};
use qwen_vl_runtime::RuntimeError;
use qwen_vl_runtime::session::{ImageInput, plan_video};
use std::path::{Path, PathBuf};

/// Endings of the names of frames.
const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "gif", "bmp"];

/// Videos before the question.
#[derive(Args)]
pub struct VideoArgs {
    /// A video before the question, after the pictures: a folder with a picture file for each frame, in the order of their names (`ffmpeg -i
    /// film.mp4 FOLDER/%05d.png` writes one); may be repeated.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["chat", "case"])]
    pub video: Vec<PathBuf>,
    /// Frames a second of the folders.
    #[arg(long, value_name = "FPS", default_value_t = 2.0)]
    pub frame_rate: f64,
    /// Frames a second that the model sees.
    #[arg(long, value_name = "FPS", default_value_t = 2.0)]
    pub video_fps: f64,
    /// Most frames of a video that the model sees [default: 768].
    #[arg(long, value_name = "N")]
    pub max_frames: Option<usize>,
    /// Most tokens of a video: frames are reduced, and if that is not enough, left out.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub max_video_tokens: usize,
}

/// Reads the frames of a folder that the model sees. Returns the grids of the steps too.
pub fn read_video(
    folder: &Path,
    args: &VideoArgs,
    manifest: &Manifest,
    max_picture_tokens: usize,
    decoding: DecodeOptions,
) -> Result<(ImageInput, Vec<PictureGrid>)> {
    let rate = args.frame_rate;
    ensure!(rate.is_finite() && rate > 0.0, "--frame-rate is {rate}, expected a number above 0");
    let what = || format!("video `{}`", folder.display());
    let paths = frames(folder).with_context(what)?;
    let (_, first) = read_picture(&paths[0], decoding)?;
    let (width, height) = (first.width(), first.height());
    let source = VideoSource { width, height, duration: Some(paths.len() as f64 / rate), frames: Some(paths.len()) };
    let options = VideoOptions {
        fps: Some(args.video_fps),
        max_frames: args.max_frames,
        max_tokens: Some(args.max_video_tokens),
        ..Default::default()
    };
    let plan = plan_video(manifest, max_picture_tokens, args.max_video_tokens, &source, &options).with_context(what)?;
    let frame = |place: &f64| -> Result<Picture> {
        let path = &paths[*place as usize];
        let (_, frame) = read_picture(path, decoding)?;
        ensure!(
            (frame.width(), frame.height()) == (width, height),
            "`{}` is {}×{}, and `{}` is {width}×{height}: the frames of a video have one size",
            path.display(),
            frame.width(),
            frame.height(),
            paths[0].display()
        );
        Ok(frame.resize(plan.width, plan.height))
    };
    let pictures = plan.frames.iter().map(frame).collect::<Result<Vec<_>>>()?;
    let times: Vec<f64> = plan.frames.iter().map(|place| place / rate).collect();
    let VideoPlan { width, height, fps, .. } = plan;
    let grids = grids(manifest, [width, height], &times, fps).with_context(what)?;
    Ok((ImageInput::Video { frames: pictures, times, fps }, grids))
}

/// Reads frames of these names that have their size for the model already, as golden cases have them.
pub fn read_fitting(
    root: &Path,
    names: &[String],
    fps: f64,
    manifest: &Manifest,
    decoding: DecodeOptions,
) -> Result<(ImageInput, Vec<PictureGrid>)> {
    let frames = names.iter().map(|name| Ok(read_picture(&root.join(name), decoding)?.1)).collect::<Result<Vec<_>>>()?;
    let size = frames.first().map(|frame| [frame.width(), frame.height()]).context("a video of the case has no frames")?;
    let times: Vec<f64> = (0..frames.len()).map(|index| index as f64 / fps).collect();
    let grids = grids(manifest, size, &times, Some(fps))?;
    Ok((ImageInput::Video { frames, times, fps: Some(fps) }, grids))
}

/// The grids of the steps of a video.
fn grids(manifest: &Manifest, [width, height]: [u32; 2], times: &[f64], fps: Option<f64>) -> Result<Vec<PictureGrid>> {
    let vision = &manifest.config.vision;
    let (Some(video), Some(merger)) = (vision.video, &vision.merger) else { return Err(RuntimeError::NoVideo.into()) };
    let patches = |side: u32| side as usize / vision.patch_size;
    let still = PictureGrid::still([patches(height), patches(width)], merger.size, vision.patch_size);
    Ok(VideoStep::all(video, times, fps)?.into_iter().map(|step| PictureGrid { step: Some(step), ..still }).collect())
}

/// The picture files of a folder, numbers in their names in order.
fn frames(folder: &Path) -> Result<Vec<PathBuf>> {
    if folder.is_file() {
        bail!("it is a file, expected a folder of frames: `ffmpeg -i {} FOLDER/%05d.png` writes one", folder.display());
    }
    let mut paths = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let ending =
        |path: &Path| path.extension().is_some_and(|ending| ENDINGS.contains(&ending.to_string_lossy().to_ascii_lowercase().as_str()));
    paths.retain(|path| ending(path) && path.is_file());
    ensure!(!paths.is_empty(), "the folder has no picture files ({})", ENDINGS.join(", "));
    alphanumeric_sort::sort_path_slice(&mut paths);
    Ok(paths)
}
