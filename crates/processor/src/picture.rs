//! Pictures: decoding to RGB, resize, normalized pixels, patches.

use crate::{PictureGrid, ProcessorError, resize};
use image::codecs::{bmp::BmpDecoder, gif::GifDecoder, jpeg::JpegDecoder, png::PngDecoder, webp::WebPDecoder};
use image::{ColorType, ExtendedColorType, ImageDecoder, ImageFormat, ImageResult, Limits, RgbImage, imageops, metadata};
use std::io::Cursor;
use zune_jpeg::zune_core::{bytestream::ZCursor, options::DecoderOptions};

/// Maximum number of pixels of a picture: 8192×8192, 192 MiB as RGB.
pub const MAX_PICTURE_PIXELS: u64 = 1 << 26;
/// Formats that [`Picture::decode`] reads.
const SUPPORTED: &str = "PNG, JPEG, WebP, GIF or BMP";

/// Handling of a photo's EXIF orientation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orientation {
    /// Keep the pixels as stored, as the original does.
    Ignore,
    /// Turn the picture as viewers do; pixel coordinates of objects then are in that frame.
    Apply,
}

/// Conversion of stored colours to 8-bit RGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colors {
    /// As viewers show them on white: transparent pixels are blended with white, and 16-bit values are scaled.
    Display,
    /// As the original reads them, with Pillow's `convert("RGB")`: alpha is dropped without blending, so that the hidden colour of transparent
    /// pixels shows, and 16-bit gray is clipped at 255, so that nearly all of it is white.
    Original,
}

/// The way from a picture file to the pixels that the model sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Handling of the EXIF orientation.
    pub orientation: Orientation,
    /// Conversion of colours.
    pub colors: Colors,
}

impl DecodeOptions {
    /// The model sees what people see.
    pub const DISPLAY: Self = Self { orientation: Orientation::Apply, colors: Colors::Display };
    /// The model sees what the original code shows it.
    pub const ORIGINAL: Self = Self { orientation: Orientation::Ignore, colors: Colors::Original };
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self::DISPLAY
    }
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
    /// Decodes PNG, JPEG, WebP, GIF (first frame) or BMP.
    pub fn decode(bytes: &[u8], options: DecodeOptions) -> Result<Self, ProcessorError> {
        let file = Cursor::new(bytes);
        // `image::ImageReader` would do this with boxed decoders and `DynamicImage`, which keep every method of every decoder and every
        // conversion of colours in the wasm: 50 kB.
        match image::guess_format(bytes) {
            Ok(ImageFormat::Png) => Self::read(open_png(bytes)?, options, ImageDecoder::orientation),
            Ok(ImageFormat::Jpeg) => Self::read(open_jpeg(bytes)?, options, |_| Ok(jpeg_orientation(bytes))),
            Ok(ImageFormat::WebP) => {
                let decoder = WebPDecoder::new(file).map_err(damaged)?;
                check_frames(bytes, decoder.dimensions())?;
                Self::read(decoder, options, ImageDecoder::orientation)
            }
            Ok(ImageFormat::Gif) => {
                check_first_frame(bytes)?;
                Self::read(GifDecoder::new(file).map_err(damaged)?, options, ImageDecoder::orientation)
            }
            Ok(ImageFormat::Bmp) => Self::read(BmpDecoder::new(file).map_err(damaged)?, options, ImageDecoder::orientation),
            _ => Err(ProcessorError::UnreadablePicture { reason: unsupported(bytes) }),
        }
    }

    fn read<D: ImageDecoder>(
        decoder: D,
        options: DecodeOptions,
        orientation: impl FnOnce(&mut D) -> ImageResult<metadata::Orientation>,
    ) -> Result<Self, ProcessorError> {
        let mut decoder = checked(decoder)?;
        let turn = match options.orientation {
            Orientation::Ignore => metadata::Orientation::NoTransforms,
            Orientation::Apply => orientation(&mut decoder).map_err(damaged)?,
        };
        let (width, height) = decoder.dimensions();
        let (color, stored) = (decoder.color_type(), decoder.original_color_type());
        // At most 8 bytes for each of `MAX_PICTURE_PIXELS`.
        let mut samples = vec![0; decoder.total_bytes() as usize];
        decoder.read_image(&mut samples).map_err(damaged)?;
        let rgb = rgb(narrow(samples, color, stored, options.colors), color, options.colors);
        let Some(image) = RgbImage::from_raw(width, height, rgb) else {
            return Err(ProcessorError::UnreadablePicture { reason: format!("its colours are of an unknown type, {color:?}") });
        };
        let image = turned(image, turn);
        Ok(Self { width: image.width(), height: image.height(), rgb: image.into_raw() })
    }

    /// Creates a picture from raw pixels.
    ///
    /// # Shapes
    /// - `rgb`: `[height, width, 3]`
    pub fn from_rgb(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self, ProcessorError> {
        check_bytes(width, height, 3, rgb.len())?;
        Ok(Self { width, height, rgb })
    }

    /// Creates a picture from raw pixels of a canvas or an `ImageBitmap`; not premultiplied.
    ///
    /// # Shapes
    /// - `rgba`: `[height, width, 4]`
    pub fn from_rgba(width: u32, height: u32, rgba: &[u8], colors: Colors) -> Result<Self, ProcessorError> {
        check_bytes(width, height, 4, rgba.len())?;
        let rgb = match colors {
            Colors::Display => on_white(rgba.as_chunks().0.iter().copied()),
            Colors::Original => first_three(rgba),
        };
        Ok(Self { width, height, rgb })
    }

    /// Width, pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height, pixels.
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

    /// Stretches the picture to `width`×`height`, byte for byte as Pillow's bicubic filter does.
    pub fn resize(&self, width: u32, height: u32) -> Self {
        let size = |width: u32, height: u32| [width as usize, height as usize];
        let rgb = resize::resize(&self.rgb, size(self.width, self.height), size(width, height));
        Self { width, height, rgb }
    }

    /// Stretches the picture to `side`×`side` and normalizes it: `(value / 255 - mean) / std`.
    pub fn pixels(&self, side: usize, mean: [f32; 3], std: [f32; 3]) -> Pixels {
        let resized = self.resize(side as u32, side as u32);
        let mut values = Vec::with_capacity(resized.rgb.len());
        for channel in 0..3 {
            let table = normalized(mean[channel], std[channel]);
            values.extend(resized.rgb[channel..].iter().step_by(3).map(|value| table[usize::from(*value)]));
        }
        Pixels { side, values }
    }

    /// Stretches the picture to the size of a grid and returns one row of normalized values for each patch, in merge-block order. The values of
    /// a row are in the order of the folded patch embedding's weights: channel, y, x. Rows are padded with zeros to `row_stride` values.
    ///
    /// # Panics
    /// If `row_stride` is less than `3 · patch_size²`.
    ///
    /// # Shapes
    /// - returns: `[patches, row_stride]`
    pub fn patches(&self, grid: &PictureGrid, patch_size: usize, mean: [f32; 3], std: [f32; 3], row_stride: usize) -> Vec<f32> {
        assert!(row_stride >= 3 * patch_size * patch_size, "a row of {row_stride} is shorter than a patch of {patch_size}");
        let width = grid.columns * patch_size;
        let resized = self.resize(width as u32, (grid.rows * patch_size) as u32);
        let tables: [_; 3] = std::array::from_fn(|channel| normalized(mean[channel], std[channel]));
        let mut rows = Vec::with_capacity(grid.rows * grid.columns * row_stride);
        for [row, column] in grid.places() {
            let end = rows.len() + row_stride;
            for (channel, table) in tables.iter().enumerate() {
                for y in row * patch_size..(row + 1) * patch_size {
                    let from = (y * width + column * patch_size) * 3;
                    let pixels = resized.rgb[from..from + patch_size * 3].chunks_exact(3);
                    rows.extend(pixels.map(|pixel| table[usize::from(pixel[channel])]));
                }
            }
            rows.resize(end, 0.0);
        }
        rows
    }
}

/// Returns the normalized values of a channel for all 256 values of a byte. The later generations multiply by 1/255 in double precision, which
/// gives the same values.
fn normalized(mean: f32, std: f32) -> Vec<f32> {
    (0..=u8::MAX).map(|value| (f32::from(value) / 255.0 - mean) / std).collect()
}

/// Normalized pixels of a square picture, the input of the vision tower.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    side: usize,
    values: Vec<f32>,
}

impl Pixels {
    /// Side, pixels.
    pub fn side(&self) -> usize {
        self.side
    }

    /// The values.
    ///
    /// # Shapes
    /// - returns: `[3, side, side]`
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Returns one row for each patch, row-major over the picture. The values of a row are in the order of the patch embedding's weights:
    /// channel, y, x. Rows are padded with zeros to `row_stride` values.
    ///
    /// # Panics
    /// If `patch_size` does not divide the side, or `row_stride` is less than `3 · patch_size²`.
    ///
    /// # Shapes
    /// - returns: `[patches, row_stride]`
    pub fn patches(&self, patch_size: usize, row_stride: usize) -> Vec<f32> {
        assert!(self.side.is_multiple_of(patch_size), "side {} is not a multiple of the patch size {patch_size}", self.side);
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
    // This does not overflow: the size is below the limit.
    let expected = width as usize * height as usize * channels;
    if found == expected { Ok(()) } else { Err(ProcessorError::PictureBytes { width, height, expected, found }) }
}

/// Memory of a PNG's decoder in addition to that of its pixels, bytes.
const PNG_BYTES: u64 = 16 << 20;

/// Opens a PNG. The decoder inflates its colour profile, which a small file can make of any size.
fn open_png(bytes: &[u8]) -> Result<PngDecoder<Cursor<&[u8]>>, ProcessorError> {
    check_palette(bytes)?;
    let mut limits = Limits::default();
    // After the signature and the length of the first chunk.
    if let Some(&[b'I', b'H', b'D', b'R', a, b, c, d, e, f, g, h]) = bytes.get(12..24) {
        let (width, height) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        check_size(width, height)?;
        limits.max_alloc = Some(u64::from(width) * u64::from(height) * 8 + PNG_BYTES);
    }
    PngDecoder::with_limits(Cursor::new(bytes), limits).map_err(damaged)
}

/// Refuses a PNG whose palette is not a list of at most 256 colours: the decoder panics at one (`png` 0.18.1, `create_rgba_palette`).
fn check_palette(png: &[u8]) -> Result<(), ProcessorError> {
    const SIGNATURE: usize = 8;
    const COLOR: usize = 3;
    let mut rest = png.get(SIGNATURE..).unwrap_or_default();
    // A chunk: the length of its data, its type, the data, a checksum.
    while let Some((length, chunk)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        if chunk.starts_with(b"IDAT") {
            break;
        }
        if chunk.starts_with(b"PLTE") && (!length.is_multiple_of(COLOR) || length > COLOR << 8) {
            let reason = format!("its palette has {length} bytes, expected 3 for each of at most 256 colours");
            return Err(ProcessorError::UnreadablePicture { reason });
        }
        rest = length.checked_add(8).and_then(|end| chunk.get(end..)).unwrap_or_default();
    }
    Ok(())
}

/// Refuses a WebP with a frame larger than the picture: the decoder allocates the frame before it compares their sizes.
fn check_frames(webp: &[u8], (width, height): (u32, u32)) -> Result<(), ProcessorError> {
    // Wherever the decoder finds a chunk: damaged files have them at any place. The chunk's length takes four bytes.
    let size = |chunk: &[u8]| match *chunk {
        // 14 bits a side after the tag of a frame and its start code.
        [b'V', b'P', b'8', b' ', _, _, _, _, _, _, _, 0x9d, 0x01, 0x2a, a, b, c, d, ..] => {
            Some([u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])].map(|side| u32::from(side & 0x3fff)))
        }
        // Twice 14 bits, less 1.
        [b'V', b'P', b'8', b'L', _, _, _, _, 0x2f, a, b, c, d, ..] => {
            let bits = u32::from_le_bytes([a, b, c, d]);
            Some([bits, bits >> 14].map(|side| (side & 0x3fff) + 1))
        }
        _ => None,
    };
    match (0..webp.len()).filter_map(|at| size(&webp[at..])).find(|[w, h]| *w > width || *h > height) {
        Some([w, h]) => {
            let reason = format!("it has a frame of {w}x{h} pixels, and the picture has {width}x{height}");
            Err(ProcessorError::UnreadablePicture { reason })
        }
        None => Ok(()),
    }
}

/// Refuses a GIF whose first frame is too large, whatever the size of the picture: the decoder allocates the frame.
fn check_first_frame(gif: &[u8]) -> Result<(), ProcessorError> {
    const HEADER: usize = 13;
    /// Bytes of a colour table, by the flags of its owner.
    fn table(flags: u8) -> usize {
        if flags & 0x80 == 0 { 0 } else { 6 << (flags & 7) }
    }
    let colors = gif.get(10).map_or(0, |flags| table(*flags));
    let mut rest = gif.get(HEADER + colors..).unwrap_or_default();
    loop {
        match *rest {
            // An extension: its label, and blocks up to an empty one.
            [0x21, _, ref blocks @ ..] => {
                rest = blocks;
                while let Some((length, block)) = rest.split_first().filter(|(length, _)| **length > 0) {
                    rest = block.get(usize::from(*length)..).unwrap_or_default();
                }
                rest = rest.get(1..).unwrap_or_default();
            }
            [0x2c, _, _, _, _, a, b, c, d, ..] => {
                let [width, height] = [[a, b], [c, d]].map(|side| u32::from(u16::from_le_bytes(side)));
                // An empty frame leaves the picture as it is.
                return if width == 0 || height == 0 { Ok(()) } else { check_size(width, height) };
            }
            _ => return Ok(()),
        }
    }
}

/// Reads the header of a JPEG that is not cut off.
pub(crate) fn open_jpeg(bytes: &[u8]) -> Result<JpegDecoder<Cursor<&[u8]>>, ProcessorError> {
    if has_jpeg_end(bytes) {
        return JpegDecoder::new(Cursor::new(bytes)).map_err(damaged);
    }
    let reason = "the JPEG has no end marker after its last scan: it is cut off or damaged";
    Err(ProcessorError::UnreadablePicture { reason: reason.to_owned() })
}

/// Returns the EXIF orientation of a JPEG that [`open_jpeg`] accepts.
///
/// [`ImageDecoder::orientation`] of a JPEG does the same with another type of reader, which would keep a second copy of the code for headers in
/// the wasm: 20 kB.
pub(crate) fn jpeg_orientation(bytes: &[u8]) -> metadata::Orientation {
    let options = DecoderOptions::default().set_strict_mode(false).set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let headers = decoder.decode_headers().ok();
    let exif = headers.and_then(|()| decoder.exif());
    exif.and_then(|exif| metadata::Orientation::from_exif_chunk(exif)).unwrap_or(metadata::Orientation::NoTransforms)
}

/// Limits the memory of a decoder, and checks the size of its picture.
pub(crate) fn checked<D: ImageDecoder>(mut decoder: D) -> Result<D, ProcessorError> {
    decoder.set_limits(Limits::default()).map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    Ok(decoder)
}

fn damaged(error: image::ImageError) -> ProcessorError {
    ProcessorError::UnreadablePicture { reason: error.to_string() }
}

/// Names what a file is instead of a picture that can be read.
fn unsupported(bytes: &[u8]) -> String {
    let brand = |brands: &[&[u8]]| bytes.get(4..8) == Some(b"ftyp") && bytes.get(8..12).is_some_and(|brand| brands.contains(&brand));
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]).trim_start_matches('\u{feff}').trim_start().to_lowercase();
    let begins = |names: &[&str]| names.iter().any(|name| text.starts_with(name));
    let convert = format!("convert it to {SUPPORTED}");
    if bytes.is_empty() {
        "the file is empty".to_owned()
    } else if brand(&[b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"]) {
        format!("it is a HEIC photo (iPhone and others), which is not supported: {convert}")
    } else if brand(&[b"avif", b"avis"]) {
        format!("it is an AVIF picture, which is not supported here: {convert}")
    } else if bytes.starts_with(b"II*\0") || bytes.starts_with(b"MM\0*") {
        format!("it is a TIFF picture, which is not supported: {convert}")
    } else if bytes.starts_with(b"%PDF") {
        format!("it is a PDF document, which is not supported: {convert}")
    } else if begins(&["<!doctype html", "<html"]) {
        "it is a web page, not a picture".to_owned()
    } else if begins(&["<svg"]) || begins(&["<?xml", "<!--"]) && text.contains("<svg") {
        format!("it is an SVG drawing, which is not supported here: {convert}")
    } else if begins(&["version https://git-lfs"]) {
        "it is a Git LFS pointer, not the picture: run `git lfs pull`".to_owned()
    } else {
        format!("it is of an unknown format, expected {SUPPORTED}")
    }
}

/// True if the end marker follows the data of the last scan. The decoder fills missing data with gray without an error.
fn has_jpeg_end(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xDA;
    const END: u8 = 0xD9;
    let mut rest = bytes.get(2..).unwrap_or_default();
    // A segment is 0xFF, the marker, and, except at the end, a length that counts itself.
    while let [0xFF, marker, after @ ..] = rest {
        match *marker {
            END => return true,
            // Any number of 0xFF may precede a marker.
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
    // The decoder judges bytes that are not a segment.
    rest.len() > 1
}

/// Converts samples of 16 bits to 8 bits.
fn narrow(samples: Vec<u8>, color: ColorType, stored: ExtendedColorType, colors: Colors) -> Vec<u8> {
    if color.bytes_per_pixel() == color.channel_count() {
        return samples;
    }
    let narrow: fn(u16) -> u8 = match colors {
        Colors::Display => |value| ((u32::from(value) + 128) / 257) as u8,
        // Pillow reads 16-bit gray as integers and clips them at 255. Of other 16-bit values it takes the high bytes.
        Colors::Original if stored == ExtendedColorType::L16 => |value| value.min(255) as u8,
        Colors::Original => |value| (value >> 8) as u8,
    };
    samples.as_chunks().0.iter().map(|value| narrow(u16::from_ne_bytes(*value))).collect()
}

/// Converts 8-bit pixels to RGB.
fn rgb(pixels: Vec<u8>, color: ColorType, colors: Colors) -> Vec<u8> {
    match (color.channel_count(), colors) {
        (1, _) => gray(pixels.iter()),
        (2, Colors::Original) => gray(pixels.iter().step_by(2)),
        (2, Colors::Display) => on_white(pixels.as_chunks().0.iter().map(|[value, alpha]| [*value, *value, *value, *alpha])),
        (4, Colors::Original) => first_three(&pixels),
        (4, Colors::Display) => on_white(pixels.as_chunks().0.iter().copied()),
        _ => pixels,
    }
}

fn first_three(pixels: &[u8]) -> Vec<u8> {
    pixels.as_chunks().0.iter().flat_map(|[red, green, blue, _]| [*red, *green, *blue]).collect()
}

fn gray<'a>(pixels: impl Iterator<Item = &'a u8>) -> Vec<u8> {
    pixels.flat_map(|value| [*value; 3]).collect()
}

/// Blends pixels that are not premultiplied with white.
fn on_white(pixels: impl Iterator<Item = [u8; 4]>) -> Vec<u8> {
    let blend = |value: u8, alpha: u8| {
        let (value, alpha) = (u32::from(value), u32::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    pixels.flat_map(|[red, green, blue, alpha]| [blend(red, alpha), blend(green, alpha), blend(blue, alpha)]).collect()
}

/// Same as [`image::DynamicImage::apply_orientation`], which would compile the code for every pixel type.
fn turned(mut image: RgbImage, turn: metadata::Orientation) -> RgbImage {
    use metadata::Orientation;
    match turn {
        Orientation::NoTransforms => {}
        Orientation::Rotate90 => image = imageops::rotate90(&image),
        Orientation::Rotate180 => imageops::rotate180_in_place(&mut image),
        Orientation::Rotate270 => image = imageops::rotate270(&image),
        Orientation::FlipHorizontal => imageops::flip_horizontal_in_place(&mut image),
        Orientation::FlipVertical => imageops::flip_vertical_in_place(&mut image),
        Orientation::Rotate90FlipH => {
            image = imageops::rotate90(&image);
            imageops::flip_horizontal_in_place(&mut image);
        }
        Orientation::Rotate270FlipH => {
            image = imageops::rotate270(&image);
            imageops::flip_horizontal_in_place(&mut image);
        }
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{DynamicImage, GrayImage, ImageBuffer};

    #[test]
    fn a_colour_profile_of_any_size_is_not_inflated() {
        let chunk = |kind: &[u8], data: &[u8]| {
            let body = [kind, data].concat();
            let crc = !body.iter().fold(!0u32, |crc, byte| {
                (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
            });
            [&(data.len() as u32).to_be_bytes()[..], &body, &crc.to_be_bytes()].concat()
        };
        // A block of deflate with 258 zeros takes 2 bits: a literal, and then copies of it.
        let profile = |copies: usize| {
            let mut bits: Vec<bool> = "110 00110000".bytes().filter(|bit| *bit != b' ').map(|bit| bit == b'1').collect();
            for _ in 0..copies {
                bits.extend("1100010100000".bytes().map(|bit| bit == b'1'));
            }
            bits.extend([false; 7]);
            let mut data = b"x\0\0\x78\x01".to_vec();
            data.extend(bits.chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit))));
            let zeros = 258 * copies as u64 + 1;
            // Adler-32 of zeros.
            data.extend((((zeros % 65_521) << 16) as u32 | 1).to_be_bytes());
            data
        };
        let png = |copies: usize| {
            let header = chunk(b"IHDR", &[0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0]);
            let pixels = chunk(b"IDAT", &[0x78, 0x01, 0x01, 0x02, 0x00, 0xfd, 0xff, 0, 0, 0, 2, 0, 1]);
            [&b"\x89PNG\r\n\x1a\n"[..], &header, &chunk(b"iCCP", &profile(copies)), &pixels, &chunk(b"IEND", &[])].concat()
        };
        let kept = |bytes: &[u8]| open_png(bytes).unwrap().icc_profile().unwrap().map_or(0, |profile| profile.len());
        assert_eq!(kept(&png(1000)), 258_001);
        assert_eq!(kept(&png(100_000)), 0, "26 MB were inflated");
        assert!(Picture::decode(&png(100_000), DecodeOptions::default()).is_ok());
    }

    #[test]
    fn values_of_16_bits_are_scaled_as_the_image_crate_does() {
        let values: Vec<u16> = (0..=u16::MAX).collect();
        let bytes = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        let image = DynamicImage::ImageLuma16(ImageBuffer::from_raw(256, 256, values).unwrap());
        assert_eq!(narrow(bytes, ColorType::L16, ExtendedColorType::L16, Colors::Display), image.to_luma8().into_raw());
    }

    #[test]
    fn pictures_are_turned_as_the_image_crate_does() {
        let image = DynamicImage::from(GrayImage::from_raw(3, 2, (0..6).collect()).unwrap()).into_rgb8();
        for exif in 1..=8 {
            let turn = metadata::Orientation::from_exif(exif).unwrap();
            let mut expected = DynamicImage::from(image.clone());
            expected.apply_orientation(turn);
            assert_eq!(turned(image.clone(), turn), expected.into_rgb8(), "EXIF orientation {exif}");
        }
    }

    /// Damage that the decoders do not survive, or allocate for. The fuzzer found the files.
    #[test]
    fn parts_that_do_not_fit_the_picture_are_refused() {
        let palette = include_bytes!("../../fuzz/corpus/picture/palette_of_16_bytes.png");
        let webp = include_bytes!("../../fuzz/corpus/picture/large_frame.webp");
        let gif = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\x01\0\0\0\0,\0\0\0\0\xfe\xff\xff\xff\0\x02\x02D\x01\0;";
        for (file, part) in [(&palette[..], "palette has 16 bytes"), (webp, "a frame of"), (gif, "65534×65535")] {
            let error = Picture::decode(file, DecodeOptions::DISPLAY).unwrap_err().to_string();
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
}
