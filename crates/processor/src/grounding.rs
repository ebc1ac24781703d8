//! `<ref>`, `<box>` and `<quad>` in an answer: objects with coordinates, and the text without tags.
//!
//! The grammar of a well-formed answer (integers are thousandths of the picture's width and height):
//!
//! ```text
//! <ref> a name</ref><box>(x1,y1),(x2,y2)</box><box>…</box>     <quad>(x1,y1),(x2,y2),(x3,y3),(x4,y4)</quad>
//! ```

use serde::{Deserialize, Serialize};

/// Size of a picture of the prompt, as the user sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureSize {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
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
        // Truncated, as the original does for drawing.
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

/// Something that the answer points at in a picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct GroundedObject {
    /// Its name, if the answer gives one.
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    /// Its shape.
    pub kind: ObjectKind,
    /// Index of the picture in the prompt: the latest, as in the original. Absent in a prompt without pictures.
    pub image: Option<usize>,
    /// Coordinates in thousandths of the picture.
    pub norm: Shape,
    /// Coordinates in pixels of the picture.
    pub pixels: Option<Shape>,
    /// Where the name stands in the text without tags: start and end in UTF-16 code units (what JavaScript's `slice` takes). Empty at
    /// the object's place if it has no name there.
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

/// What a piece of an answer brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroundingEvent {
    /// More text without tags.
    Text(String),
    /// A box or a quad was closed.
    Object(GroundedObject),
}

/// Reads a whole answer. `pictures` are those of the prompt, in order.
pub fn parse_grounding(raw: &str, pictures: &[PictureSize]) -> Grounded {
    let mut parser = GroundingParser::new(pictures);
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

/// Longest content of a box or quad that can be coordinates; more is text behind a stray tag.
const MAX_COORDINATES: usize = 128;

/// A name and where it stands in the clean text.
#[derive(Debug, Clone, Default)]
struct Reference {
    text: String,
    /// Absent if the name, or its beginning, is in the prompt.
    start: Option<usize>,
    closed: bool,
}

/// Reads an answer piece by piece. Text comes out as soon as it is sure to be no part of a tag, objects as soon as they are closed.
///
/// Malformed answers lose nothing but tags: what follows a `<box>` and is not coordinates is text again, a tag that is never closed
/// is left out, and so is one that was never opened. Coordinates that are cut off or of the wrong number give no object.
#[derive(Debug, Clone)]
pub struct GroundingParser {
    picture: Option<(usize, PictureSize)>,
    /// The beginning of what may become a tag.
    pending: String,
    reference: Option<Reference>,
    /// Inside a box or quad: its kind and the content so far.
    coordinates: Option<(ObjectKind, String)>,
    /// Length of the clean text, UTF-16 code units.
    length: usize,
}

impl GroundingParser {
    /// A parser at the start of an answer to a prompt with `pictures`.
    pub fn new(pictures: &[PictureSize]) -> Self {
        let picture = pictures.last().map(|size| (pictures.len() - 1, *size));
        Self { picture, pending: String::new(), reference: None, coordinates: None, length: 0 }
    }

    /// Lets the answer continue a prompt: after one that ends in `<ref>a name</ref><box>`, the answer begins with coordinates.
    pub fn continuing(mut self, prompt: &str) -> Self {
        // What a closed image or message contains is of no interest, and only tags at the very end can still be open.
        self.push(prompt);
        self.pending.clear();
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

    /// The answer is over: what was held back, if it was text.
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
            // A name holds for the boxes right behind it.
            Some(_) if !text.trim().is_empty() => self.reference = None,
            _ => {}
        }
        self.length += text.encode_utf16().count();
        events.text(text);
    }

    fn object(&self, kind: ObjectKind, norm: Shape) -> GroundedObject {
        let reference = self.reference.as_ref().filter(|reference| !reference.text.trim().is_empty());
        let units = |text: &str| text.encode_utf16().count();
        let place = reference.and_then(|reference| Some((reference.start?, &reference.text)));
        let range = place.map_or([self.length; 2], |(start, text)| {
            let start = start + units(text) - units(text.trim_start());
            [start, start + units(text.trim())]
        });
        GroundedObject {
            reference: reference.map(|reference| reference.text.trim().to_owned()),
            kind,
            image: self.picture.map(|(index, _)| index),
            norm,
            pixels: self.picture.map(|(_, size)| norm.scaled(size)),
            range,
        }
    }
}

/// Collects events, and joins neighbouring text.
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

/// Coordinates from the content of a tag; values beyond the picture are moved to its border.
fn shape(kind: ObjectKind, content: &str) -> Option<Shape> {
    let points = points(content)?;
    match (kind, points[..].as_ref()) {
        (ObjectKind::Box, [[x1, y1], [x2, y2]]) => Some(Shape::Box([*x1, *y1, *x2, *y2])),
        (ObjectKind::Quad, [a, b, c, d]) => Some(Shape::Quad([*a, *b, *c, *d])),
        _ => None,
    }
}

/// `(x,y),(x,y)…`, blanks anywhere between the signs.
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
            // Some answers leave out the comma between points.
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [PictureSize; 2] = [PictureSize { width: 10, height: 10 }, PictureSize { width: 640, height: 333 }];

    fn json(raw: &str) -> (String, serde_json::Value) {
        let grounded = parse_grounding(raw, &SIZES);
        (grounded.text, serde_json::to_value(grounded.objects).unwrap())
    }

    #[test]
    fn objects_in_pixels_of_the_latest_picture() {
        let (text, objects) = json(
            "See<ref> Two apples</ref><box>(302,257),(582,671)</box><box>(603,252),(878,642)</box> and<ref> a 🥣</ref><box>(2,269),(304,674)</box>.",
        );
        assert_eq!(text, "See Two apples and a 🥣.");
        assert_eq!(
            objects,
            serde_json::json!([
                {"ref": "Two apples", "kind": "box", "image": 1, "norm": [302, 257, 582, 671], "pixels": [193, 85, 372, 223], "range": [4, 14]},
                {"ref": "Two apples", "kind": "box", "image": 1, "norm": [603, 252, 878, 642], "pixels": [385, 83, 561, 213], "range": [4, 14]},
                {"ref": "a 🥣", "kind": "box", "image": 1, "norm": [2, 269, 304, 674], "pixels": [1, 89, 194, 224], "range": [19, 23]},
            ])
        );
    }

    #[test]
    fn quads_have_four_points() {
        let (text, objects) = json("sign <quad>(10,10),(90,12),(88,70),(9,66)</quad>");
        assert_eq!(text, "sign ");
        assert_eq!(
            objects,
            serde_json::json!([{
                "ref": null, "kind": "quad", "image": 1, "norm": [[10, 10], [90, 12], [88, 70], [9, 66]],
                "pixels": [[6, 3], [57, 3], [56, 23], [5, 21]], "range": [5, 5],
            }])
        );
    }

    #[test]
    fn without_pictures_there_are_no_pixels() {
        let grounded = parse_grounding("<box>(1,2),(3,4)</box>", &[]);
        assert_eq!((grounded.objects[0].image, grounded.objects[0].pixels), (None, None));
        assert_eq!(grounded.objects[0].norm, Shape::Box([1, 2, 3, 4]));
    }

    #[test]
    fn a_name_holds_for_the_boxes_right_behind_it() {
        let (_, objects) = json("<ref>a</ref> <box>(1,1),(2,2)</box>\n<box>(3,3),(4,4)</box> then <box>(5,5),(6,6)</box>");
        let names: Vec<_> = objects.as_array().unwrap().iter().map(|object| object["ref"].as_str()).collect();
        assert_eq!(names, [Some("a"), Some("a"), None]);
    }

    #[test]
    fn malformed_answers_keep_their_text() {
        for (raw, text, objects) in [
            ("", "", 0),
            ("a < b > c", "a < b > c", 0),
            ("plain <b>bold</b>", "plain <b>bold</b>", 0),
            ("</box></ref></quad>x", "x", 0),
            ("<ref>open", "open", 0),
            ("<ref>a<ref>b</ref><box>(1,2),(3,4)</box>", "ab", 1),
            ("<box>(1,2),(3,4)", "", 0),
            ("x<box>y", "xy", 0),
            ("x<box>y</box>z", "xyz", 0),
            ("<box>(1,2)</box>", "", 0),
            ("<box>(1,2),(3,4),(5,6)</box>", "", 0),
            ("<box>(1,2),(3,)</box>", "", 0),
            ("<box>(1.5,2),(3,4)</box>", "", 0),
            ("<box>(1,2),(3,4)</quad>", "", 0),
            ("<quad>(1,2),(3,4)</quad>", "", 0),
            ("<box></box><quad></quad><ref></ref>", "", 0),
            ("<box> ( 1 , 2 ) ( 3 , 4 ) </box>", "", 1),
            ("<box>(1,2),<box>(1,2),(3,4)</box>", "", 1),
            ("<box>(1,2)<ref>a</ref><box>(1,2),(3,4)</box>", "a", 1),
            ("<box>(-5,2),(99999999999,4)</box>", "", 1),
            ("<box>(1,2),(99999999999999999999999,4)</box>", "", 0),
            ("x<bo", "x<bo", 0),
            ("x<", "x<", 0),
            ("<<box>(1,2),(3,4)</box>", "<", 1),
            ("<bo<box>(1,2),(3,4)</box>", "<bo", 1),
        ] {
            let grounded = parse_grounding(raw, &SIZES);
            assert_eq!((grounded.text.as_str(), grounded.objects.len()), (text, objects), "{raw}");
        }
        let digits = format!("<box>{}", "1".repeat(500));
        assert_eq!(parse_grounding(&digits, &SIZES).text.len(), 500);
        let outside = parse_grounding("<box>(-5,2),(9999,4)</box>", &SIZES).objects.remove(0);
        assert_eq!(outside.norm, Shape::Box([0, 2, 1000, 4]));
        assert_eq!(outside.pixels, Some(Shape::Box([0, 0, 640, 1])));
    }

    /// Every way to cut a text in two, and single characters, give what the whole gives, and never a part of a tag.
    #[test]
    fn pieces_give_what_the_whole_gives() {
        let raw = "<ref> 两个苹果</ref><box>(302,257),(582,671)</box> and <quad>(1,2),(3,4),(5,6),(7,8)</quad><<ref>b</ref>.";
        let whole = parse_grounding(raw, &SIZES);
        let places: Vec<usize> = raw.char_indices().map(|(at, _)| at).chain([raw.len()]).collect();
        let halves = places.iter().map(|at| vec![&raw[..*at], &raw[*at..]]);
        let characters = places.windows(2).map(|pair| &raw[pair[0]..pair[1]]).collect();
        for pieces in halves.chain([characters]) {
            let mut parser = GroundingParser::new(&SIZES);
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
        let mut parser = GroundingParser::new(&SIZES);
        assert_eq!(parser.push("<ref>a</ref><box>(1,2),(3,4)</bo"), [GroundingEvent::Text("a".into())]);
        assert!(matches!(parser.push("x>").as_slice(), [GroundingEvent::Object(_)]));
    }

    #[test]
    fn an_answer_may_begin_inside_a_box() {
        let mut parser = GroundingParser::new(&SIZES).continuing("<img>a.png</img><ref>the cat</ref><box>");
        let events = parser.push("(1,2),(3,4)</box>");
        let [GroundingEvent::Object(object)] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((object.reference.as_deref(), object.range), (Some("the cat"), [0, 0]));
        assert_eq!(parser.push("ok"), [GroundingEvent::Text("ok".into())]);
    }

    #[test]
    fn an_answer_may_begin_inside_a_name() {
        let mut parser = GroundingParser::new(&SIZES).continuing("<box>(1,2),(3,4)</box> What is <ref>");
        let events = parser.push("a cat</ref><box>(1,2),(3,4)</box>");
        let [GroundingEvent::Text(_), GroundingEvent::Object(object)] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((object.reference.as_deref(), object.range), (Some("a cat"), [0, 5]));
    }
}
