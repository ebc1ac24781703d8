//! Answers of a model and pictures, which `qwen-vl-processor` reads.

use crate::Target;
use crate::mutate::{json, picture};
use fastrand::Rng;
use image::ImageReader;
use qwen_vl_processor::{
    Colors, DecodeOptions, Family, Grounded, GroundingEvent, GroundingParser, MAX_PICTURE_PIXELS, NumberedPicture, Orientation, Picture,
    PictureSize, Shape, browser_decodes, parse_grounding,
};
use std::io::Cursor;

/// An answer with objects: bytes for the family and the pieces, and the text.
pub static ANSWER: Target = Target { name: "answer", max_len: 1024, run: answer, mutate: mutate_answer, memory: [1 << 20, 1024] };

/// A picture: PNG, JPEG, WebP, GIF or BMP. A partition of a lossy WebP takes the 16 MiB that it can claim, whatever the file has of it
/// (`image-webp` 0.2.4, `init_partitions`).
pub static PICTURE: Target = Target { name: "picture", max_len: 4096, run: decode, mutate: picture::mutate, memory: [32 << 20, 2048] };

/// Bytes of an answer before its text.
const HEAD: usize = 2;
/// Words of answers.
const MARKUP: [&str; 30] = [
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
    "<quad>",
    "</quad>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "(1,2)",
    "(1,2),(3,4)",
    "(999,1000),(0,0)",
    "```json\n",
    "\n```",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "\"label\": ",
    "\"bbox_2d\": [1, 2, 30, 40]",
    "\"point_2d\": [5, 6]",
    "\"text_content\": \"a\"",
    "Picture 2: ",
    "图2",
    "\\ud83d",
    "1e9",
];

fn mutate_answer(input: &mut Vec<u8>, random: &mut Rng) -> bool {
    let Some((head, text)) = input.split_first_chunk::<HEAD>() else { return false };
    let head = *head;
    let mut text = String::from_utf8_lossy(text).into_owned();
    match random.u8(0..4) {
        0 => json::string(&mut text, random),
        1 => {
            let mut whole = text.into_bytes();
            if !json::mutate(&mut whole, random) {
                return false;
            }
            text = String::from_utf8_lossy(&whole).into_owned();
        }
        _ => {
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            text.insert_str(places[random.usize(..places.len())], MARKUP[random.usize(..MARKUP.len())]);
        }
    }
    *input = [&head[..], text.as_bytes()].concat();
    true
}

/// An answer in pieces makes what the whole makes. Objects lie in their pictures, and their names in the text.
fn answer(bytes: &[u8]) -> bool {
    let Some(([setup, seed], text)) = bytes.split_first_chunk::<HEAD>() else { return false };
    let family = [Family::QwenVl, Family::Qwen2Vl, Family::Qwen25Vl, Family::Qwen3Vl][usize::from(setup % 4)];
    let sizes = [(640, 333), (10, 10), (1, 8192)].map(|(width, height)| PictureSize { width, height });
    let mut pictures = NumberedPicture::in_order(&sizes[..usize::from(setup / 4 % 4)]);
    pictures.iter_mut().for_each(|picture| picture.seen = PictureSize { width: 28, height: 56 });
    let text = String::from_utf8_lossy(text);
    let question = ["", "What is in Picture 2?"][usize::from(setup / 16 % 2)];
    let whole = parse_grounding(family, &text, &pictures, question);

    let mut parser = GroundingParser::new(family, &pictures).asked(question);
    let mut random = Rng::with_seed(u64::from(*seed));
    let mut streamed = Grounded::default();
    let mut take = |events: Vec<GroundingEvent>| {
        for event in events {
            match event {
                GroundingEvent::Text(text) => streamed.text.push_str(&text),
                GroundingEvent::Object(object) => streamed.objects.push(object),
            }
        }
    };
    let mut rest = &text[..];
    while !rest.is_empty() {
        let count = random.usize(1..8);
        let end = rest.char_indices().nth(count).map_or(rest.len(), |(at, _)| at);
        take(parser.push(&rest[..end]));
        rest = &rest[end..];
    }
    take(parser.finish());
    assert_eq!(streamed, whole);

    let length = whole.text.encode_utf16().count();
    for object in &whole.objects {
        let [start, end] = object.range;
        assert!(start <= end && end <= length, "{object:?} in a text of {length}");
        assert!(points(object.norm).iter().flatten().all(|at| *at <= 1000), "{object:?}");
        if let Some(index) = object.image {
            let PictureSize { width, height } = pictures[index].size;
            let pixels = points(object.pixels.expect("an object with a picture has pixels"));
            assert!(pixels.iter().all(|[x, y]| *x <= width && *y <= height), "{object:?} in {width}x{height}");
        }
        assert_eq!(object.pixels.is_some(), object.image.is_some(), "{object:?}");
    }
    let accepted = !whole.objects.is_empty();
    let stripped = whole.stripped();
    let length = stripped.text.encode_utf16().count();
    // The place of an object without a name can be in the white space that is gone.
    let holds = |[start, end]: [usize; 2]| start <= end && (start == end || end <= length);
    assert!(stripped.objects.iter().all(|object| holds(object.range)), "{stripped:?}");
    accepted
}

fn points(shape: Shape) -> Vec<[u32; 2]> {
    match shape {
        Shape::Box([x1, y1, x2, y2]) => vec![[x1, y1], [x2, y2]],
        Shape::Quad(points) => points.to_vec(),
        Shape::Point(point) => vec![point],
    }
}

/// Largest picture that is decoded, pixels. Larger ones take the same code, only longer.
const SMALL: u64 = 1 << 16;

/// A picture has the pixels of its size, and one above the limit is refused before it is allocated.
fn decode(bytes: &[u8]) -> bool {
    let size = || ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?.into_dimensions().ok();
    let pixels = size().map(|(width, height)| u64::from(width) * u64::from(height));
    if pixels.is_some_and(|pixels| (SMALL..=MAX_PICTURE_PIXELS).contains(&pixels)) {
        return false;
    }
    // The same for frames of a GIF, which can be larger than the picture.
    let side = |low: u8, high: u8| u64::from(u16::from_le_bytes([low, high]));
    let is_large = |place: &[u8]| place[0] == 0x2c && side(place[5], place[6]) * side(place[7], place[8]) >= SMALL;
    if bytes.starts_with(b"GIF") && bytes.windows(9).any(is_large) {
        return false;
    }
    let shown = Picture::decode(bytes, DecodeOptions::DISPLAY);
    let stored = Picture::decode(bytes, DecodeOptions { orientation: Orientation::Ignore, colors: Colors::Original });
    let in_browser = browser_decodes(bytes, Orientation::Apply);
    if pixels.is_some_and(|pixels| pixels > MAX_PICTURE_PIXELS) {
        assert!(shown.is_err() && stored.is_err(), "{pixels:?} pixels are above the limit");
    }
    if let Ok(stored) = &stored {
        assert_eq!(stored.rgb().len() as u64, u64::from(stored.width()) * u64::from(stored.height()) * 3);
        in_browser.expect("a picture that is decoded here is refused in no browser");
    }
    let (Ok(shown), Ok(stored)) = (shown, stored) else { return false };
    let turned = (stored.height(), stored.width());
    assert!([(stored.width(), stored.height()), turned].contains(&(shown.width(), shown.height())));
    assert_eq!(shown.rgb().len(), stored.rgb().len());
    true
}
