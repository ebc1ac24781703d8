//! `<ref>`, `<box>` and `<quad>` in an answer: objects with coordinates, and the text without tags.
//!
//! The grammar of a well-formed answer (integers are thousandths of the picture's width and height):
//!
//! ```text
//! <ref> a name</ref><box>(x1,y1),(x2,y2)</box><box>…</box>     <quad>(x1,y1),(x2,y2),(x3,y3),(x4,y4)</quad>
//! ```

use crate::mention::mentions;
use serde::{Deserialize, Serialize};

/// Size of a picture, pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureSize {
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

/// A picture of the prompt and the number that texts name it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberedPicture {
    /// Number N of "Picture N".
    pub number: usize,
    /// Size, pixels.
    pub size: PictureSize,
}

impl NumberedPicture {
    /// Numbers pictures from 1 on.
    pub fn in_order(sizes: &[PictureSize]) -> Vec<Self> {
        (1..).zip(sizes).map(|(number, size)| Self { number, size: *size }).collect()
    }
}

/// The shape of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// An upright rectangle.
    Box,
    /// Four corners.
    Quad,
}

/// Coordinates of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(untagged)]
pub enum Shape {
    /// `[x1, y1, x2, y2]`: two opposite corners.
    Box([u32; 4]),
    /// `[[x, y]; 4]`: the corners in order.
    Quad([[u32; 2]; 4]),
}

impl Shape {
    fn scaled(self, size: PictureSize) -> Self {
        // Truncated, as the original draws it (`tokenization_qwen.py`, `draw_bbox_on_latest_picture`).
        let scale = |value: u32, size: u32| (f64::from(value) / 1000.0 * f64::from(size)) as u32;
        let point = |[x, y]: [u32; 2]| [scale(x, size.width), scale(y, size.height)];
        match self {
            Self::Box([x1, y1, x2, y2]) => {
                let ([x1, y1], [x2, y2]) = (point([x1, y1]), point([x2, y2]));
                Self::Box([x1, y1, x2, y2])
            }
            Self::Quad(points) => Self::Quad(points.map(point)),
        }
    }
}

/// An object that the answer points at in a picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct GroundedObject {
    /// Its name, if the answer has one.
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    /// Its shape.
    pub kind: ObjectKind,
    /// Index of its picture in the prompt, if it is known: the only picture, or the one that the answer names most recently before the
    /// object, or the only one that the question names. The model itself never says which picture it means.
    pub image: Option<usize>,
    /// Coordinates in thousandths of the picture.
    pub norm: Shape,
    /// Coordinates in pixels of the picture, if it is known.
    pub pixels: Option<Shape>,
    /// Position of the name in the text without tags: start and end in UTF-16 code units (the arguments of JavaScript's `slice`). Empty, at
    /// the object's place, if the text there has no name.
    pub range: [usize; 2],
}

/// Text without tags and the objects in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Grounded {
    /// The text: boxes and quads removed, names unwrapped.
    pub text: String,
    /// The objects, in order.
    pub objects: Vec<GroundedObject>,
}

/// New text or a new object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroundingEvent {
    /// More text without tags.
    Text(String),
    /// A box or a quad was closed.
    Object(GroundedObject),
}

impl Grounded {
    /// Strips the text and moves the ranges of the objects accordingly.
    pub fn stripped(mut self) -> Self {
        let removed = utf16_len(&self.text) - utf16_len(self.text.trim_start());
        for object in &mut self.objects {
            object.range = object.range.map(|at| at.saturating_sub(removed));
        }
        self.text = self.text.trim().to_owned();
        self
    }
}

/// Reads a whole answer to a question about the pictures of the prompt.
pub fn parse_grounding(raw: &str, pictures: &[NumberedPicture], question: &str) -> Grounded {
    let mut parser = GroundingParser::new(pictures).asked(question);
    let mut grounded = Grounded::default();
    for event in parser.push(raw).into_iter().chain(parser.finish()) {
        match event {
            GroundingEvent::Text(text) => grounded.text.push_str(&text),
            GroundingEvent::Object(object) => grounded.objects.push(object),
        }
    }
    grounded
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    RefStart,
    RefEnd,
    Start(ObjectKind),
    End(ObjectKind),
}

const TAGS: [(&str, Tag); 6] = [
    ("<ref>", Tag::RefStart),
    ("</ref>", Tag::RefEnd),
    ("<box>", Tag::Start(ObjectKind::Box)),
    ("</box>", Tag::End(ObjectKind::Box)),
    ("<quad>", Tag::Start(ObjectKind::Quad)),
    ("</quad>", Tag::End(ObjectKind::Quad)),
];

/// Length limit of coordinates, bytes; a longer content of a box or quad is text after a stray tag.
const MAX_COORDINATES: usize = 128;

/// A name and its position in the text without tags.
#[derive(Debug, Clone, Default)]
struct Reference {
    text: String,
    /// Absent if the name, or its beginning, is in the prompt.
    start: Option<usize>,
    closed: bool,
}

/// Reads an answer piece by piece. It emits text as soon as it cannot be part of a tag, and an object as soon as it is closed.
///
/// Malformed answers lose only tags: text after a `<box>` that is not coordinates is text again, and a tag without its counterpart is left
/// out. Coordinates that are cut off or of the wrong number make no object. White space is that of Unicode (`char::is_whitespace`).
#[derive(Debug, Clone)]
pub struct GroundingParser {
    pictures: Vec<NumberedPicture>,
    /// Index of the picture that the question names.
    asked: Option<usize>,
    /// The beginning of a possible tag.
    pending: String,
    reference: Option<Reference>,
    /// Inside a box or quad: its kind and the content so far.
    coordinates: Option<(ObjectKind, String)>,
    /// The text without tags so far.
    clean: String,
    /// Its length in UTF-16 code units.
    length: usize,
}

fn utf16_len(text: &str) -> usize {
    text.encode_utf16().count()
}

impl GroundingParser {
    /// Creates a parser at the start of an answer to a prompt with these pictures.
    pub fn new(pictures: &[NumberedPicture]) -> Self {
        Self {
            pictures: pictures.to_vec(),
            asked: None,
            pending: String::new(),
            reference: None,
            coordinates: None,
            clean: String::new(),
            length: 0,
        }
    }

    /// Takes the question into account: an object belongs to the picture that it names.
    pub fn asked(mut self, question: &str) -> Self {
        let mut named: Vec<usize> = mentions(question).concat();
        // One number is left if all are the same.
        named.dedup();
        self.asked = self.named(&named);
        self
    }

    /// Lets the answer continue a prompt: after one that ends in `<ref>a name</ref><box>`, the answer begins with coordinates.
    pub fn continuing(mut self, prompt: &str) -> Self {
        // Only the tags at the end of the prompt can still be open.
        self.push(prompt);
        self.pending.clear();
        self.clean.clear();
        self.length = 0;
        if let Some(reference) = &mut self.reference {
            reference.start = reference.text.is_empty().then_some(0);
        }
        self
    }

    /// Takes the next piece of the answer, special tokens spelled out.
    pub fn push(&mut self, piece: &str) -> Vec<GroundingEvent> {
        let mut events = Events::default();
        let text = std::mem::take(&mut self.pending) + piece;
        let mut rest = text.as_str();
        while let Some(start) = rest.find('<') {
            self.text(&rest[..start], &mut events);
            rest = &rest[start..];
            if let Some((name, tag)) = TAGS.iter().find(|(name, _)| rest.starts_with(name)) {
                self.tag(*tag, &mut events);
                rest = &rest[name.len()..];
            } else if TAGS.iter().any(|(name, _)| name.starts_with(rest)) {
                self.pending = rest.to_owned();
                return events.0;
            } else {
                self.text("<", &mut events);
                rest = &rest[1..];
            }
        }
        self.text(rest, &mut events);
        events.0
    }

    /// Ends the answer and emits the text that was held back.
    pub fn finish(&mut self) -> Vec<GroundingEvent> {
        let mut events = Events::default();
        let pending = std::mem::take(&mut self.pending);
        self.text(&pending, &mut events);
        self.coordinates = None;
        events.0
    }

    fn tag(&mut self, tag: Tag, events: &mut Events) {
        match tag {
            Tag::RefStart => {
                self.coordinates = None;
                self.reference = Some(Reference { start: Some(self.length), ..Reference::default() });
            }
            Tag::RefEnd => {
                self.coordinates = None;
                if let Some(reference) = &mut self.reference {
                    reference.closed = true;
                }
            }
            Tag::Start(kind) => self.coordinates = Some((kind, String::new())),
            Tag::End(kind) => {
                if let Some((opened, content)) = self.coordinates.take()
                    && opened == kind
                    && let Some(norm) = shape(kind, &content)
                {
                    events.0.push(GroundingEvent::Object(self.object(kind, norm)));
                }
            }
        }
    }

    fn text(&mut self, text: &str, events: &mut Events) {
        if let Some((_, content)) = &mut self.coordinates {
            content.push_str(text);
            let is_coordinates = |c: char| c.is_ascii_digit() || matches!(c, '(' | ')' | ',' | '-' | '.') || c.is_whitespace();
            if content.len() <= MAX_COORDINATES && content.chars().all(is_coordinates) {
                return;
            }
            let content = std::mem::take(content);
            self.coordinates = None;
            return self.text(&content, events);
        }
        match &mut self.reference {
            Some(reference) if !reference.closed => reference.text.push_str(text),
            // A name belongs to the boxes directly after it.
            Some(_) if !text.trim().is_empty() => self.reference = None,
            _ => {}
        }
        self.clean.push_str(text);
        self.length += utf16_len(text);
        events.text(text);
    }

    fn object(&self, kind: ObjectKind, norm: Shape) -> GroundedObject {
        let reference = self.reference.as_ref().filter(|reference| !reference.text.trim().is_empty());
        let picture = self.picture();
        let place = reference.and_then(|reference| Some((reference.start?, &reference.text)));
        let range = place.map_or([self.length; 2], |(start, text)| {
            let start = start + utf16_len(text) - utf16_len(text.trim_start());
            [start, start + utf16_len(text.trim())]
        });
        GroundedObject {
            reference: reference.map(|reference| reference.text.trim().to_owned()),
            kind,
            image: picture,
            norm,
            pixels: picture.map(|index| norm.scaled(self.pictures[index].size)),
            range,
        }
    }

    /// Returns the index of the picture that an object at the end of the text belongs to, if it is known.
    fn picture(&self) -> Option<usize> {
        if self.pictures.len() <= 1 {
            return (!self.pictures.is_empty()).then_some(0);
        }
        match mentions(&self.clean).last() {
            Some(numbers) => self.named(numbers),
            None => self.asked,
        }
    }

    /// Returns the index of the picture that these numbers name, if they name exactly one.
    fn named(&self, numbers: &[usize]) -> Option<usize> {
        let [number] = numbers else { return None };
        let mut found = self.pictures.iter().enumerate().filter(|(_, picture)| picture.number == *number);
        match (found.next(), found.next()) {
            (Some((index, _)), None) => Some(index),
            _ => None,
        }
    }
}

/// Collects events and joins neighbouring text.
#[derive(Default)]
struct Events(Vec<GroundingEvent>);

impl Events {
    fn text(&mut self, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(GroundingEvent::Text(before)) => before.push_str(text),
            _ => self.0.push(GroundingEvent::Text(text.to_owned())),
        }
    }
}

/// Reads coordinates. Values outside the picture move to its border.
fn shape(kind: ObjectKind, content: &str) -> Option<Shape> {
    let points = points(content)?;
    match (kind, points[..].as_ref()) {
        (ObjectKind::Box, [[x1, y1], [x2, y2]]) => Some(Shape::Box([*x1, *y1, *x2, *y2])),
        (ObjectKind::Quad, [a, b, c, d]) => Some(Shape::Quad([*a, *b, *c, *d])),
        _ => None,
    }
}

/// Reads `(x,y),(x,y)…` with white space anywhere between the signs and the numbers.
fn points(content: &str) -> Option<Vec<[u32; 2]>> {
    let mut points = Vec::new();
    let mut rest = content.trim();
    loop {
        let (point, after) = rest.strip_prefix('(')?.split_once(')')?;
        let (x, y) = point.split_once(',')?;
        let number = |text: &str| text.trim().parse::<i64>().ok().map(|value| value.clamp(0, 1000) as u32);
        points.push([number(x)?, number(y)?]);
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(next) => rest = next.trim_start(),
            None if rest.is_empty() => return Some(points),
            // Some answers have no comma between points.
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [PictureSize; 2] = [PictureSize { width: 10, height: 10 }, PictureSize { width: 640, height: 333 }];

    #[derive(Deserialize)]
    struct Case {
        raw: String,
        pictures: Vec<[u32; 2]>,
        #[serde(default)]
        question: String,
        text: String,
        objects: Vec<GroundedObject>,
    }

    /// The cases that the TypeScript parser is held to as well.
    #[test]
    fn shared_cases() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../tests/grounding.json")).unwrap();
        assert!(cases.len() >= 50, "{} cases", cases.len());
        for case in cases {
            let sizes: Vec<_> = case.pictures.iter().map(|[width, height]| PictureSize { width: *width, height: *height }).collect();
            let grounded = parse_grounding(&case.raw, &NumberedPicture::in_order(&sizes), &case.question).stripped();
            assert_eq!(grounded, Grounded { text: case.text, objects: case.objects }, "{}", case.raw);
        }
    }

    #[test]
    fn long_digits_are_text() {
        let digits = format!("<box>{}", "1".repeat(500));
        assert_eq!(parse_grounding(&digits, &[], "").text.len(), 500);
    }

    #[test]
    fn pictures_with_other_numbers() {
        let [first, second] = SIZES;
        let pictures =
            |numbers: [usize; 2]| [(numbers[0], first), (numbers[1], second)].map(|(number, size)| NumberedPicture { number, size });
        let raw = "<box>(1,2),(3,4)</box>";
        let image = |numbers, question| parse_grounding(raw, &pictures(numbers), question).objects[0].image;
        assert_eq!(image([4, 5], "Where in Picture 5?"), Some(1));
        assert_eq!(image([4, 5], "Where in Picture 2?"), None);
        assert_eq!(image([1, 1], "Where in Picture 1?"), None, "two pictures have this number");
    }

    /// Every cut of a text in two, and single characters, give the same as the whole text, and never a part of a tag.
    #[test]
    fn pieces_give_what_the_whole_gives() {
        let raw = "<ref> 两个苹果</ref><box>(302,257),(582,671)</box> and <quad>(1,2),(3,4),(5,6),(7,8)</quad><<ref>b</ref>.";
        let pictures = NumberedPicture::in_order(&SIZES);
        let whole = parse_grounding(raw, &pictures, "");
        assert_eq!(whole.objects.len(), 2);
        let places: Vec<usize> = raw.char_indices().map(|(at, _)| at).chain([raw.len()]).collect();
        let halves = places.iter().map(|at| vec![&raw[..*at], &raw[*at..]]);
        let characters = places.windows(2).map(|pair| &raw[pair[0]..pair[1]]).collect();
        for pieces in halves.chain([characters]) {
            let mut parser = GroundingParser::new(&NumberedPicture::in_order(&SIZES));
            let mut grounded = Grounded::default();
            let mut events: Vec<GroundingEvent> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
            events.extend(parser.finish());
            for event in events {
                match event {
                    GroundingEvent::Text(text) => {
                        assert!(!text.contains("ref") && !text.contains("box") && !text.contains("(302"), "{text}");
                        grounded.text.push_str(&text);
                    }
                    GroundingEvent::Object(object) => grounded.objects.push(object),
                }
            }
            assert_eq!(grounded, whole, "{pieces:?}");
        }
    }

    #[test]
    fn an_object_comes_as_soon_as_it_is_closed() {
        let mut parser = GroundingParser::new(&NumberedPicture::in_order(&SIZES));
        assert_eq!(parser.push("<ref>a</ref><box>(1,2),(3,4)</bo"), [GroundingEvent::Text("a".into())]);
        assert!(matches!(parser.push("x>").as_slice(), [GroundingEvent::Object(_)]));
    }

    #[test]
    fn an_answer_may_begin_inside_a_box() {
        let mut parser = GroundingParser::new(&NumberedPicture::in_order(&SIZES)).continuing("<img>a.png</img><ref>the cat</ref><box>");
        let events = parser.push("(1,2),(3,4)</box>");
        let [GroundingEvent::Object(object)] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((object.reference.as_deref(), object.range), (Some("the cat"), [0, 0]));
        assert_eq!(parser.push("ok"), [GroundingEvent::Text("ok".into())]);
    }

    #[test]
    fn an_answer_may_begin_inside_a_name() {
        let mut parser = GroundingParser::new(&NumberedPicture::in_order(&SIZES)).continuing("<box>(1,2),(3,4)</box> What is <ref>");
        let events = parser.push("a cat</ref><box>(1,2),(3,4)</box>");
        let [GroundingEvent::Text(_), GroundingEvent::Object(object)] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((object.reference.as_deref(), object.range), (Some("a cat"), [0, 5]));
    }
}
