//! `qwenvl preprocess`: a picture as the model sees it.

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use qwen_vl_processor::{Colors, DecodeOptions, Orientation, Picture};
use std::path::{Path, PathBuf};

/// Characters of an address that an error quotes.
const QUOTED: usize = 100;

/// Write a picture as the model sees it: 8-bit RGB, stretched to a square.
#[derive(Args)]
pub struct PreprocessArgs {
    /// The picture: PNG, JPEG, WebP, GIF or BMP.
    image: PathBuf,
    /// Side of the square, pixels.
    #[arg(long, default_value_t = 448, value_parser = clap::value_parser!(u16).range(1..=8192))]
    size: u16,
    /// The PNG to write.
    #[arg(short, long)]
    output: PathBuf,
    /// Turn photos as their EXIF orientation says; the original ignores it.
    #[arg(long)]
    apply_orientation: bool,
    /// Colours: `original` as the original code reads them, for comparisons with it; `display` as `qwenvl ask` reads them by default.
    #[arg(long, value_enum, default_value_t = Pixels::Original)]
    pixels: Pixels,
}

/// Conversion of a picture's colours to 8-bit RGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pixels {
    /// As viewers show them: transparency on white, 16-bit gray scaled.
    Display,
    /// As the original code reads them: transparency dropped, 16-bit gray clipped at 255.
    Original,
}

/// Returns the options of a decoder.
pub fn decode_options(apply_orientation: bool, pixels: Pixels) -> DecodeOptions {
    DecodeOptions {
        orientation: if apply_orientation { Orientation::Apply } else { Orientation::Ignore },
        colors: match pixels {
            Pixels::Display => Colors::Display,
            Pixels::Original => Colors::Original,
        },
    }
}

/// Reads and decodes a picture; errors name the file.
pub fn read_picture(path: &Path, options: DecodeOptions) -> Result<(Vec<u8>, Picture)> {
    let what = || format!("picture `{}`", path.display());
    let bytes = std::fs::read(path).with_context(what)?;
    let picture = Picture::decode(&bytes, options).with_context(what)?;
    Ok((bytes, picture))
}

/// Fails if the path of a picture is an address.
pub fn check_is_path(path: &Path) -> Result<()> {
    let text = path.to_string_lossy();
    let lower = text.to_ascii_lowercase();
    if ["http://", "https://", "ftp://", "data:", "file://"].iter().any(|scheme| lower.starts_with(scheme)) {
        let quoted: String = text.chars().take(QUOTED).collect();
        bail!(
            "picture `{quoted}` is an address, expected a path: qwenvl fetches nothing; download the picture and pass the path of the file"
        );
    }
    Ok(())
}

pub fn run(args: &PreprocessArgs) -> Result<()> {
    check_is_path(&args.image)?;
    let (_, picture) = read_picture(&args.image, decode_options(args.apply_orientation, args.pixels))?;
    let side = u32::from(args.size);
    let resized = picture.resize(side, side);
    image::save_buffer_with_format(&args.output, resized.rgb(), side, side, image::ColorType::Rgb8, image::ImageFormat::Png)
        .with_context(|| format!("could not write `{}`", args.output.display()))
}
