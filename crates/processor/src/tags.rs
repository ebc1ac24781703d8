//! Objects in tags, as Qwen-VL and Qwen2-VL write them.
//!
//! The grammar of a well-formed answer (integers are thousandths of the picture's width and height):
//!
//! ```text
//! <ref> a name</ref><box>(x1,y1),(x2,y2)</box><box>…</box>     <quad>(x1,y1),(x2,y2),(x3,y3),(x4,y4)</quad>
//! ```

use crate::object::{ObjectKind, Output, Shape, utf16_len};

/// The tags of a family: start and end of names, boxes and quads.
pub(crate) type Tags = [(&'static str, Tag); 6];

/// The tags of Qwen-VL.
pub(crate) const QWEN_VL: Tags = tags(["<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"]);

/// The tags of Qwen2-VL.
pub(crate) const QWEN2_VL: Tags =
    tags(["<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"]);

const fn tags([ref_start, ref_end, box_start, box_end, quad_start, quad_end]: [&'static str; 6]) -> Tags {
    [
        (ref_start, Tag::RefStart),
        (ref_end, Tag::RefEnd),
        (box_start, Tag::Start(ObjectKind::Box)),
        (box_end, Tag::End(ObjectKind::Box)),
        (quad_start, Tag::Start(ObjectKind::Quad)),
        (quad_end, Tag::End(ObjectKind::Quad)),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    RefStart,
    RefEnd,
    Start(ObjectKind),
    End(ObjectKind),
}

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

/// Reads tags. Malformed answers lose only tags: text after a `<box>` that is not coordinates is text again, and a tag without its
/// counterpart is left out. Coordinates that are cut off or of the wrong number make no object. White space is that of Unicode
/// (`char::is_whitespace`).
#[derive(Debug, Clone)]
pub(crate) struct TagReader {
    tags: &'static Tags,
    /// The beginning of a possible tag.
    pending: String,
    reference: Option<Reference>,
    /// Inside a box or quad: its kind and the content so far.
    coordinates: Option<(ObjectKind, String)>,
}

impl TagReader {
    pub(crate) fn new(tags: &'static Tags) -> Self {
        Self { tags, pending: String::new(), reference: None, coordinates: None }
    }

    pub(crate) fn push(&mut self, piece: &str, output: &mut Output) {
        let text = std::mem::take(&mut self.pending) + piece;
        let mut rest = text.as_str();
        while let Some(start) = rest.find('<') {
            self.text(&rest[..start], output);
            rest = &rest[start..];
            if let Some((name, tag)) = self.tags.iter().find(|(name, _)| rest.starts_with(name)) {
                self.tag(*tag, output);
                rest = &rest[name.len()..];
            } else if self.tags.iter().any(|(name, _)| name.starts_with(rest)) {
                self.pending = rest.to_owned();
                return;
            } else {
                self.text("<", output);
                rest = &rest[1..];
            }
        }
        self.text(rest, output);
    }

    /// Ends the prompt: the answer begins inside what is open.
    pub(crate) fn begin_answer(&mut self) {
        self.pending.clear();
        if let Some(reference) = &mut self.reference {
            reference.start = reference.text.is_empty().then_some(0);
        }
    }

    pub(crate) fn finish(&mut self, output: &mut Output) {
        let pending = std::mem::take(&mut self.pending);
        self.text(&pending, output);
        self.coordinates = None;
    }

    fn tag(&mut self, tag: Tag, output: &mut Output) {
        match tag {
            Tag::RefStart => {
                self.coordinates = None;
                self.reference = Some(Reference { start: Some(output.length()), ..Reference::default() });
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
                    self.object(norm, output);
                }
            }
        }
    }

    fn text(&mut self, text: &str, output: &mut Output) {
        if let Some((_, content)) = &mut self.coordinates {
            content.push_str(text);
            let is_coordinates = |c: char| c.is_ascii_digit() || matches!(c, '(' | ')' | ',' | '-' | '.') || c.is_whitespace();
            if content.len() <= MAX_COORDINATES && content.chars().all(is_coordinates) {
                return;
            }
            let content = std::mem::take(content);
            self.coordinates = None;
            return self.text(&content, output);
        }
        match &mut self.reference {
            Some(reference) if !reference.closed => reference.text.push_str(text),
            // A name belongs to the boxes directly after it.
            Some(_) if !text.trim().is_empty() => self.reference = None,
            _ => {}
        }
        output.text(text);
    }

    fn object(&self, norm: Shape, output: &mut Output) {
        let reference = self.reference.as_ref().filter(|reference| !reference.text.trim().is_empty());
        let place = reference.and_then(|reference| Some((reference.start?, &reference.text)));
        let range = place.map_or([output.length(); 2], |(start, text)| {
            let start = start + utf16_len(text) - utf16_len(text.trim_start());
            [start, start + utf16_len(text.trim())]
        });
        output.object(norm, reference.map(|reference| reference.text.as_str()), range);
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
