//! `qwenvl preprocess`: what the model sees of a picture.

use anyhow::{Context, Result};
use clap::Args;
use qwen_vl_processor::{Orientation, Picture};
use std::path::{Path, PathBuf};

/// Write a picture as the model sees it: 8-bit RGB, stretched to a square.
#[derive(Args)]
pub struct PreprocessArgs {
    /// The picture: PNG, JPEG, WebP, GIF or BMP.
    image: PathBuf,
    /// Side of the square, pixels.
    #[arg(long, default_value_t = 448, value_parser = clap::value_parser!(u16).range(1..))]
    size: u16,
    /// The PNG to write.
    #[arg(short, long)]
    output: PathBuf,
    /// Turn photos as their EXIF orientation says; the original ignores it.
    #[arg(long)]
    apply_orientation: bool,
}

/// Reads and decodes a picture; errors name the file.
pub fn read_picture(path: &Path, orientation: Orientation) -> Result<(Vec<u8>, Picture)> {
    let what = || format!("picture `{}`", path.display());
    let bytes = std::fs::read(path).with_context(what)?;
    let picture = Picture::decode(&bytes, orientation).with_context(what)?;
    Ok((bytes, picture))
}

/// The orientation that a flag asks for.
pub fn orientation(apply: bool) -> Orientation {
    if apply { Orientation::Apply } else { Orientation::Ignore }
}

pub fn run(args: &PreprocessArgs) -> Result<()> {
    let (_, picture) = read_picture(&args.image, orientation(args.apply_orientation))?;
    let resized = picture.resize(args.size.into());
    let side = u32::from(args.size);
    image::save_buffer_with_format(&args.output, resized.rgb(), side, side, image::ColorType::Rgb8, image::ImageFormat::Png)
        .with_context(|| format!("writing `{}`", args.output.display()))
}
