//! Preprocessing of pictures against Pillow's, byte for byte.

mod common;

use common::{data_folders, read, read_json};
use qwen_vl_processor::{Colors, DecodeOptions, IMAGE_MEAN, IMAGE_STD, Orientation, Picture, ProcessorError};
use serde::Deserialize;
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Index {
    images: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    file: String,
    size_wh: [u32; 2],
    decoded_rgb: Option<String>,
    resized_448: Option<String>,
    decoded_rgb_sha256: String,
    resized_448_sha256: String,
    pixels_probe: Vec<[f64; 4]>,
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode(path: &std::path::Path) -> Picture {
    Picture::decode(&read(path), DecodeOptions::ORIGINAL).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn pictures_are_those_of_the_original() {
    for folder in data_folders() {
        let index: Index = read_json(&folder.join("preprocess/index.json"));
        assert!(index.images.len() >= 8);
        for entry in index.images {
            let picture = decode(&folder.join(&entry.file));
            assert_eq!([picture.width(), picture.height()], entry.size_wh, "{}", entry.file);
            let picture = if entry.file.ends_with(".jpg") {
                // JPEG decoders differ by a few units: bounded here, and the rest is compared from the original's bytes.
                let decoded = decode(&folder.join(entry.decoded_rgb.as_ref().unwrap()));
                let difference = |(a, b): (&u8, &u8)| a.abs_diff(*b);
                let largest = picture.rgb().iter().zip(decoded.rgb()).map(difference).max().unwrap();
                let sum: u64 = picture.rgb().iter().zip(decoded.rgb()).map(difference).map(u64::from).sum();
                let mean = sum as f64 / decoded.rgb().len() as f64;
                assert!(largest <= 8 && mean < 0.5, "{}: JPEG values differ by up to {largest}, {mean:.3} on average", entry.file);
                decoded
            } else {
                picture
            };
            assert_eq!(sha256(picture.rgb()), entry.decoded_rgb_sha256, "{} decoded", entry.file);

            let resized = picture.resize(448, 448);
            assert_eq!(sha256(resized.rgb()), entry.resized_448_sha256, "{} resized", entry.file);
            if let Some(file) = entry.resized_448 {
                assert_eq!(resized, decode(&folder.join(file)), "{} resized", entry.file);
            }

            let pixels = picture.pixels(448, IMAGE_MEAN, IMAGE_STD);
            for [channel, y, x, expected] in entry.pixels_probe {
                let found = pixels.values()[(channel as usize * 448 + y as usize) * 448 + x as usize];
                // Nine digits name one f32.
                assert_eq!(found, expected as f32, "{} channel {channel} ({x},{y})", entry.file);
            }
        }
    }
}

#[test]
fn patches_are_in_the_order_of_the_weights() {
    let side = 4;
    let rgb = (0..48).collect();
    let picture = Picture::from_rgb(side, side, rgb).unwrap();
    let pixels = picture.pixels(side as usize, [0.0; 3], [1.0 / 255.0; 3]);
    let rows = pixels.patches(2, 16);
    assert_eq!(rows.len(), 4 * 16);
    // Patch 1 is at the right of the first row of patches: pixels (2,0), (3,0), (2,1), (3,1), each channel on its own.
    let expected = [6, 9, 18, 21, 7, 10, 19, 22, 8, 11, 20, 23, 0, 0, 0, 0].map(|value| value as f32);
    for (found, expected) in rows[16..32].iter().zip(expected) {
        assert!((found - expected).abs() < 1e-4, "{:?}", &rows[16..32]);
    }
}

#[test]
fn orientation_is_ignored_or_applied() {
    let bytes = read(&data_folders()[0].join("images/exif_orient6.jpg"));
    let stored = Picture::decode(&bytes, DecodeOptions::ORIGINAL).unwrap();
    let turned = Picture::decode(&bytes, DecodeOptions { orientation: Orientation::Apply, ..DecodeOptions::ORIGINAL }).unwrap();
    assert_eq!(turned, Picture::decode(&bytes, DecodeOptions::DISPLAY).unwrap());
    assert_eq!((stored.width(), stored.height()), (240, 160));
    assert_eq!((turned.width(), turned.height()), (160, 240));
    // Orientation 6: the stored picture is turned clockwise, so that its bottom left corner is at the top left.
    let bottom_left = (159 * 240) * 3;
    assert_eq!(turned.rgb()[..3], stored.rgb()[bottom_left..bottom_left + 3]);
}

#[test]
fn every_format_is_read() {
    // Few colours, so that GIF keeps them.
    let rgb: Vec<u8> = (0..12u8).flat_map(|at| [at % 4 * 60, at / 4 * 80, 200]).collect();
    let expected = Picture::from_rgb(4, 3, rgb.clone()).unwrap();
    let image = image::RgbImage::from_raw(4, 3, rgb).unwrap();
    for format in [image::ImageFormat::Png, image::ImageFormat::Bmp, image::ImageFormat::WebP, image::ImageFormat::Gif] {
        let mut file = std::io::Cursor::new(Vec::new());
        image::DynamicImage::from(image.clone()).write_to(&mut file, format).unwrap();
        let file = file.get_ref().as_slice();
        assert_eq!(Picture::decode(file, DecodeOptions::ORIGINAL).unwrap(), expected, "{format:?}");
        let error = Picture::decode(&file[..file.len() - 12], DecodeOptions::ORIGINAL).unwrap_err();
        assert!(matches!(error, ProcessorError::UnreadablePicture { .. }), "{format:?} cut short: {error}");
    }
}

#[test]
fn raw_pixels() {
    let rgba = [1, 2, 3, 0, 4, 5, 6, 255];
    let picture = Picture::from_rgba(2, 1, &rgba, Colors::Original).unwrap();
    assert_eq!(picture, Picture::from_rgb(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap());
    let picture = Picture::from_rgba(2, 1, &rgba, Colors::Display).unwrap();
    assert_eq!(picture, Picture::from_rgb(2, 1, vec![255, 255, 255, 4, 5, 6]).unwrap());
    assert_eq!(picture.resize(1, 1).rgb().len(), 3);
}

fn encoded(image: impl Into<image::DynamicImage>, format: image::ImageFormat) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    image.into().write_to(&mut file, format).unwrap();
    file.into_inner()
}

/// Black under three strengths of alpha, in every form that files have it in.
#[test]
fn transparent_pixels_are_white_or_what_is_under_them() {
    use image::{ImageBuffer, ImageFormat};
    let rgba = |scale: u16| [[0, 0, 0, 0], [0, 0, 0, 128], [0, 0, 0, 255]].concat().into_iter().map(move |value: u16| value * scale);
    let gray = |scale: u16| [[0, 0], [0, 128], [0, 255]].concat().into_iter().map(move |value: u16| value * scale);
    let narrow = |values: &mut dyn Iterator<Item = u16>| values.map(|value| value as u8).collect::<Vec<u8>>();
    let rgba8 = image::RgbaImage::from_raw(3, 1, narrow(&mut rgba(1))).unwrap();
    let files = [
        ("PNG RGBA", encoded(rgba8.clone(), ImageFormat::Png)),
        ("WebP RGBA", encoded(rgba8, ImageFormat::WebP)),
        ("PNG gray and alpha", encoded(image::GrayAlphaImage::from_raw(3, 1, narrow(&mut gray(1))).unwrap(), ImageFormat::Png)),
        (
            "PNG RGBA, 16 bits",
            encoded(ImageBuffer::<image::Rgba<u16>, _>::from_raw(3, 1, rgba(257).collect::<Vec<_>>()).unwrap(), ImageFormat::Png),
        ),
        (
            "PNG gray and alpha, 16 bits",
            encoded(ImageBuffer::<image::LumaA<u16>, _>::from_raw(3, 1, gray(257).collect::<Vec<_>>()).unwrap(), ImageFormat::Png),
        ),
    ];
    for (name, file) in files {
        let rgb = |options| Picture::decode(&file, options).unwrap().rgb().to_vec();
        assert_eq!(rgb(DecodeOptions::DISPLAY), [[255; 3], [127; 3], [0; 3]].concat(), "{name}");
        assert_eq!(rgb(DecodeOptions::ORIGINAL), [0; 9], "{name}");
    }
    let path = data_folders()[0].join("images/gray_alpha.png");
    let (shown, stored) = (Picture::decode(&read(&path), DecodeOptions::DISPLAY).unwrap(), decode(&path));
    assert!(shown.rgb().iter().zip(stored.rgb()).all(|(shown, stored)| shown >= stored));
    assert_ne!(shown, stored);
}

#[test]
fn gray_of_16_bits_is_scaled_or_clipped() {
    let values = [0, 100, 255, 256, 32_768, 65_535];
    let image = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(6, 1, values.to_vec()).unwrap();
    let file = encoded(image, image::ImageFormat::Png);
    let gray = |options| Picture::decode(&file, options).unwrap().rgb().iter().step_by(3).copied().collect::<Vec<_>>();
    assert_eq!(gray(DecodeOptions::DISPLAY), [0, 0, 1, 1, 128, 255]);
    assert_eq!(gray(DecodeOptions::ORIGINAL), [0, 100, 255, 255, 255, 255]);
}

#[test]
fn unusable_pictures_are_named() {
    let png = read(&data_folders()[0].join("images/tiny_5x3.png"));
    let jpeg = read(&data_folders()[0].join("images/exif_orient6.jpg"));
    // A header of 65536×65536, with its checksum.
    let mut huge = png.clone();
    huge[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let checksum = crc32(&huge[12..29]);
    huge[29..33].copy_from_slice(&checksum.to_be_bytes());
    let mut no_end = jpeg.clone();
    let length = no_end.len();
    no_end[length - 2..].fill(0);
    for (name, bytes, expected) in [
        ("empty", &[][..], "cannot read the picture: the file is empty"),
        ("text", b"not a picture at all", "unknown format, expected PNG, JPEG, WebP, GIF or BMP"),
        ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC photo (iPhone and others), which is not supported: convert it to PNG"),
        ("AVIF", b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF picture"),
        ("TIFF", b"II*\0\x08\0\0\0", "a TIFF picture, which is not supported: convert it to PNG"),
        ("TIFF of the other order", b"MM\0*\0\0\0\x08", "a TIFF picture"),
        ("PDF", b"%PDF-1.7\n", "a PDF document"),
        ("HTML", b"\xef\xbb\xbf\n<!DOCTYPE html><html>", "a web page"),
        ("SVG", b"<?xml version=\"1.0\"?>\n<svg/>", "an SVG drawing"),
        ("Git LFS", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("cut header", &png[..20], "cannot read the picture"),
        ("cut data", &png[..png.len() - 30], "cannot read the picture"),
        ("cut JPEG", &jpeg[..jpeg.len() / 2], "no end marker after its last scan: it is cut off or damaged"),
        ("JPEG whose end is zeros", &no_end, "no end marker after its last scan: it is cut off or damaged"),
        ("huge", &huge, "the picture is 65536×65536, 4294967296 pixels, expected at most 67108864: make it smaller, for example 8100×8100"),
    ] {
        for options in [DecodeOptions::ORIGINAL, DecodeOptions::DISPLAY] {
            let error = Picture::decode(bytes, options).unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
    }
    let error = Picture::from_rgba(0, 5, &[], Colors::Display).unwrap_err();
    assert!(matches!(error, ProcessorError::EmptyPicture { width: 0, height: 5 }), "{error}");
    let error = Picture::from_rgba(2, 2, &[0; 15], Colors::Display).unwrap_err().to_string();
    assert!(error.contains("a picture of 2×2 has 16 bytes, found 15"), "{error}");
}

/// The checksum of a PNG chunk.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}
