//! JPEG files, which a browser can decode in place of this crate.
//!
//! The original decodes JPEG with libjpeg-turbo (through Pillow). So do browsers, while our decoder rounds differently: values differ by 1
//! or 2 of 255.

use crate::picture::{checked, jpeg_orientation, open_jpeg};
use crate::{Orientation, ProcessorError};
use image::{ImageFormat, metadata};

/// Returns true if a browser's decoder gives the pixels that [`Picture::decode`](crate::Picture::decode) is to give: the file is a JPEG, and
/// `orientation` does not ask for another orientation than that of a viewer.
///
/// Fails as `decode` does for a JPEG that is cut short or too large: a browser decodes both without an error.
pub fn browser_decodes(bytes: &[u8], orientation: Orientation) -> Result<bool, ProcessorError> {
    if image::guess_format(bytes).ok() != Some(ImageFormat::Jpeg) {
        return Ok(false);
    }
    checked(open_jpeg(bytes)?)?;
    let turned = jpeg_orientation(bytes) != metadata::Orientation::NoTransforms;
    Ok(orientation == Orientation::Apply || !turned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn fixture(path: &str) -> Vec<u8> {
        fs::read(format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    #[test]
    fn browsers_decode_jpeg_unless_it_is_to_be_turned_back() {
        let plain = fixture("web/test/pictures/420.jpg");
        let turned = fixture("web/test/pictures/turned.jpg");
        for (bytes, orientation, expected) in [
            (&plain, Orientation::Apply, true),
            (&plain, Orientation::Ignore, true),
            (&turned, Orientation::Apply, true),
            (&turned, Orientation::Ignore, false),
            (&fixture("tests/fixtures/images/gray16.png"), Orientation::Apply, false),
            (&b"not a picture".to_vec(), Orientation::Apply, false),
            (&Vec::new(), Orientation::Apply, false),
        ] {
            assert_eq!(browser_decodes(bytes, orientation).unwrap(), expected);
        }
    }

    #[test]
    fn what_browsers_decode_without_an_error_is_refused() {
        let plain = fixture("web/test/pictures/420.jpg");
        for length in [plain.len() - 2, plain.len() / 2, 100, 4] {
            assert!(browser_decodes(&plain[..length], Orientation::Apply).is_err(), "{length} bytes");
        }
        // The size in the frame header, which follows the marker of a baseline frame and three bytes.
        let frame = plain.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
        let mut large = plain.clone();
        large[frame + 5..frame + 9].copy_from_slice(&[0xFF, 0x00, 0xFF, 0x00]);
        assert!(matches!(browser_decodes(&large, Orientation::Apply), Err(ProcessorError::PictureTooLarge { .. })));
    }
}
