//! Pictures: decoding to RGB, resize, normalised pixels, patches.

use crate::{ProcessorError, resize};
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageFormat, ImageReader, metadata};
use std::io::Cursor;

/// Most pixels of a picture that is decoded: 8192×8192, 192 MiB as RGB.
pub const MAX_PICTURE_PIXELS: u64 = 1 << 26;

/// What to do with the EXIF orientation of a photo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Orientation {
    /// Take the pixels as stored, like the original.
    #[default]
    Ignore,
    /// Turn the picture as a viewer would; pixel coordinates of objects then are in that frame.
    Apply,
}

/// An 8-bit RGB picture.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Picture").field("width", &self.width).field("height", &self.height).finish_non_exhaustive()
    }
}

impl Picture {
    /// Decodes PNG, JPEG, WebP, GIF (first frame) or BMP as Pillow's `convert("RGB")` does: alpha is dropped without blending, gray
    /// is copied to three channels, 16-bit gray is clipped to 255, of other 16-bit values the high byte is taken.
    pub fn decode(bytes: &[u8], orientation: Orientation) -> Result<Self, ProcessorError> {
        let unreadable = |error: image::ImageError| ProcessorError::UnreadablePicture { reason: error.to_string() };
        let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
        let reader = reader.map_err(|error| ProcessorError::UnreadablePicture { reason: error.to_string() })?;
        if reader.format().is_none() {
            let reason = if bytes.is_empty() { "it is empty" } else { "it does not begin like any of these" };
            return Err(ProcessorError::UnreadablePicture { reason: reason.to_owned() });
        }
        if reader.format() == Some(ImageFormat::Jpeg) && !jpeg_is_whole(bytes) {
            return Err(ProcessorError::UnreadablePicture { reason: "the JPEG is cut short: its end marker is missing".to_owned() });
        }
        let mut decoder = reader.into_decoder().map_err(unreadable)?;
        let (width, height) = decoder.dimensions();
        check_size(width, height)?;
        let turn = match orientation {
            Orientation::Ignore => metadata::Orientation::NoTransforms,
            Orientation::Apply => decoder.orientation().map_err(unreadable)?,
        };
        let gray16 = decoder.original_color_type() == ExtendedColorType::L16;
        let mut image = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
        image.apply_orientation(turn);
        let (width, height) = (image.width(), image.height());
        let rgb = if gray16 { clip_gray16(&image) } else { rgb8(image) };
        Ok(Self { width, height, rgb })
    }

    /// A picture from raw pixels.
    ///
    /// # Shapes
    /// - `rgb`: `[height, width, 3]`
    pub fn from_rgb(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self, ProcessorError> {
        check_bytes(width, height, 3, rgb.len())?;
        Ok(Self { width, height, rgb })
    }

    /// A picture from raw pixels of a canvas or an `ImageBitmap`; not premultiplied. Alpha is dropped.
    ///
    /// # Shapes
    /// - `rgba`: `[height, width, 4]`
    pub fn from_rgba(width: u32, height: u32, rgba: &[u8]) -> Result<Self, ProcessorError> {
        check_bytes(width, height, 4, rgba.len())?;
        Ok(Self { width, height, rgb: first_three(rgba, 4) })
    }

    /// Pixels across.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Pixels down.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The pixels.
    ///
    /// # Shapes
    /// - returns: `[height, width, 3]`
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The picture stretched to `side`×`side`, byte for byte as Pillow's bicubic filter does it.
    pub fn resize(&self, side: usize) -> Self {
        let rgb = resize::resize(&self.rgb, self.width as usize, self.height as usize, side);
        Self { width: side as u32, height: side as u32, rgb }
    }

    /// The picture stretched to `side`×`side` and normalised: `(value / 255 - mean) / std`.
    pub fn pixels(&self, side: usize, mean: [f32; 3], std: [f32; 3]) -> Pixels {
        let resized = self.resize(side);
        let mut values = Vec::with_capacity(resized.rgb.len());
        for channel in 0..3 {
            let normalized = |value: u8| (f32::from(value) / 255.0 - mean[channel]) / std[channel];
            let table: Vec<f32> = (0..=u8::MAX).map(normalized).collect();
            values.extend(resized.rgb[channel..].iter().step_by(3).map(|value| table[usize::from(*value)]));
        }
        Pixels { side, values }
    }
}

/// Normalised pixels of a square picture, what the vision tower reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    side: usize,
    values: Vec<f32>,
}

impl Pixels {
    /// Pixels along a side.
    pub fn side(&self) -> usize {
        self.side
    }

    /// # Shapes
    /// - returns: `[3, side, side]`
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// One row for each patch, row-major over the picture, its values in the order of the patch embedding's weights: channel, y, x.
    /// Rows are filled up with zeros to `row_stride` values.
    ///
    /// `patch_size` divides the side, and `row_stride` is at least `3 · patch_size²`.
    ///
    /// # Shapes
    /// - returns: `[patches, row_stride]`
    pub fn patches(&self, patch_size: usize, row_stride: usize) -> Vec<f32> {
        assert!(self.side.is_multiple_of(patch_size), "side {} is no multiple of the patch size {patch_size}", self.side);
        assert!(row_stride >= 3 * patch_size * patch_size, "a row of {row_stride} is shorter than a patch of {patch_size}");
        let grid = self.side / patch_size;
        let mut rows = Vec::with_capacity(grid * grid * row_stride);
        for patch in 0..grid * grid {
            let (top, left) = (patch / grid * patch_size, patch % grid * patch_size);
            for channel in 0..3 {
                for y in top..top + patch_size {
                    let from = (channel * self.side + y) * self.side + left;
                    rows.extend_from_slice(&self.values[from..from + patch_size]);
                }
            }
            rows.resize((patch + 1) * row_stride, 0.0);
        }
        rows
    }
}

fn check_size(width: u32, height: u32) -> Result<(), ProcessorError> {
    if width == 0 || height == 0 {
        return Err(ProcessorError::EmptyPicture { width, height });
    }
    if u64::from(width) * u64::from(height) > MAX_PICTURE_PIXELS {
        return Err(ProcessorError::PictureTooLarge { width, height, limit: MAX_PICTURE_PIXELS });
    }
    Ok(())
}

fn check_bytes(width: u32, height: u32, channels: usize, found: usize) -> Result<(), ProcessorError> {
    check_size(width, height)?;
    // No overflow: the size is below the limit.
    let expected = width as usize * height as usize * channels;
    if found == expected { Ok(()) } else { Err(ProcessorError::PictureBytes { width, height, expected, found }) }
}

/// Whether the end marker follows the data of the last scan. The decoder fills what is missing with gray and says nothing.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xDA;
    const END: u8 = 0xD9;
    let mut rest = bytes.get(2..).unwrap_or_default();
    // Segments: 0xFF, the marker, and but for the end a length that counts itself.
    while let [0xFF, marker, after @ ..] = rest {
        match *marker {
            END => return true,
            // Any number of 0xFF may stand before a marker.
            0xFF => {
                rest = &rest[1..];
                continue;
            }
            _ => {}
        }
        let [high, low, ..] = after else { return false };
        let Some(next) = after.get(usize::from(u16::from_be_bytes([*high, *low])).max(2)..) else { return false };
        rest = next;
        if *marker == START_OF_SCAN {
            // In the data, 0xFF 0x00 is a value and 0xD0 to 0xD7 are restarts.
            let is_marker = |pair: &[u8]| pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0xD0..=0xD7);
            let Some(length) = rest.windows(2).position(is_marker) else { return false };
            rest = &rest[length..];
        }
    }
    // Bytes that are no segment are for the decoder to judge.
    rest.len() > 1
}

fn first_three(pixels: &[u8], channels: usize) -> Vec<u8> {
    pixels.chunks_exact(channels).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
}

fn gray(pixels: impl Iterator<Item = u8>) -> Vec<u8> {
    pixels.flat_map(|value| [value; 3]).collect()
}

/// Pillow reads 16-bit gray as integers and clips them on the way to 8 bits.
fn clip_gray16(image: &DynamicImage) -> Vec<u8> {
    gray(image.to_luma16().iter().map(|value| (*value).min(255) as u8))
}

fn rgb8(image: DynamicImage) -> Vec<u8> {
    let high = |value: &u16| (*value >> 8) as u8;
    match image {
        DynamicImage::ImageRgb8(pixels) => pixels.into_raw(),
        DynamicImage::ImageRgba8(pixels) => first_three(&pixels, 4),
        DynamicImage::ImageLuma8(pixels) => gray(pixels.iter().copied()),
        DynamicImage::ImageLumaA8(pixels) => gray(pixels.iter().step_by(2).copied()),
        DynamicImage::ImageLumaA16(pixels) => gray(pixels.iter().step_by(2).map(high)),
        DynamicImage::ImageRgb16(pixels) => pixels.iter().map(high).collect(),
        DynamicImage::ImageRgba16(pixels) => {
            pixels.pixels().flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).map(|value| high(&value)).collect()
        }
        other => other.into_rgb8().into_raw(),
    }
}
