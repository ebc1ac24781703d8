//! Objects of answers, and the output of the parsers of answers: text without markup, objects and their pictures.

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
    /// Size that it has for the model, pixels. Qwen2.5-VL writes coordinates in these.
    pub seen: PictureSize,
}

impl NumberedPicture {
    /// Numbers pictures that the model sees in their own size, from 1 on.
    pub fn in_order(sizes: &[PictureSize]) -> Vec<Self> {
        (1..).zip(sizes).map(|(number, size)| Self { number, size: *size, seen: *size }).collect()
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
    /// A single place.
    Point,
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
    /// `[x, y]`.
    Point([u32; 2]),
}

impl Shape {
    fn kind(self) -> ObjectKind {
        match self {
            Self::Box(_) => ObjectKind::Box,
            Self::Quad(_) => ObjectKind::Quad,
            Self::Point(_) => ObjectKind::Point,
        }
    }

    /// Returns the shape in thousandths of its picture, given one in units of which the sides of the picture have `unit`. Coordinates outside
    /// the picture move to its border.
    fn norm(self, unit: PictureSize) -> Self {
        let norm = |value: u32, unit: u32| (f64::from(value.min(unit)) / f64::from(unit) * 1000.0).round() as u32;
        self.map(|[x, y]| [norm(x, unit.width), norm(y, unit.height)])
    }

    /// Returns the shape in pixels of a picture of this size.
    fn pixels(self, unit: PictureSize, size: PictureSize) -> Self {
        // Truncated, as the original draws it (`tokenization_qwen.py`, `draw_bbox_on_latest_picture`; the notebook `2d_grounding.ipynb` of
        // Qwen3-VL; `spatial_understanding.ipynb` of Qwen2.5-VL).
        let scale = |value: u32, unit: u32, size: u32| (f64::from(value.min(unit)) / f64::from(unit) * f64::from(size)) as u32;
        self.map(|[x, y]| [scale(x, unit.width, size.width), scale(y, unit.height, size.height)])
    }

    fn map(self, point: impl Fn([u32; 2]) -> [u32; 2]) -> Self {
        match self {
            Self::Box([x1, y1, x2, y2]) => {
                let ([x1, y1], [x2, y2]) = (point([x1, y1]), point([x2, y2]));
                Self::Box([x1, y1, x2, y2])
            }
            Self::Quad(points) => Self::Quad(points.map(point)),
            Self::Point(place) => Self::Point(point(place)),
        }
    }
}

/// Unit of the coordinates of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Unit {
    /// Thousandths of the picture.
    #[default]
    Thousandths,
    /// Pixels of the picture in its size for the model.
    SeenPixels,
}

const THOUSAND: PictureSize = PictureSize { width: 1000, height: 1000 };

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
    /// object, or the only one that the question names. The model itself never says which picture it means. For Qwen2.5-VL, whose coordinates
    /// need a picture, it is otherwise the last one.
    pub image: Option<usize>,
    /// Coordinates in thousandths of the picture.
    pub norm: Shape,
    /// Coordinates in pixels of the picture, if it is known.
    pub pixels: Option<Shape>,
    /// Position of the name in the text without markup: start and end in UTF-16 code units (the arguments of JavaScript's `slice`). Empty,
    /// at the object's place, if the text there has no name. The names of Qwen2.5-VL and Qwen3-VL are part of the
    /// markup.
    pub range: [usize; 2],
}

/// Text without markup and the objects in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Grounded {
    /// The text: boxes, quads and points removed, names in tags unwrapped.
    pub text: String,
    /// The objects, in order.
    pub objects: Vec<GroundedObject>,
}

/// New text or a new object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroundingEvent {
    /// More text without markup.
    Text(String),
    /// An object was closed.
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

    /// Strips the end of a text that continues another, where white space at its beginning has a meaning.
    pub fn stripped_at_end(mut self) -> Self {
        self.text.truncate(self.text.trim_end().len());
        self
    }
}

/// Collects the text without markup and the objects, and finds the objects' pictures.
#[derive(Debug, Clone, Default)]
pub(crate) struct Output {
    pictures: Vec<NumberedPicture>,
    unit: Unit,
    /// Index of the picture that the question names.
    asked: Option<usize>,
    /// The text so far.
    text: String,
    /// Its length in UTF-16 code units.
    length: usize,
    events: Vec<GroundingEvent>,
}

impl Output {
    pub(crate) fn new(pictures: &[NumberedPicture], unit: Unit) -> Self {
        Self { pictures: pictures.to_vec(), unit, ..Self::default() }
    }

    /// Takes the question into account: an object belongs to the picture that it names.
    pub(crate) fn ask(&mut self, question: &str) {
        let mut named: Vec<usize> = mentions(question).concat();
        // One number is left if all are the same.
        named.dedup();
        self.asked = self.named(&named);
    }

    /// Forgets the text and the events so far.
    pub(crate) fn restart(&mut self) {
        self.text.clear();
        self.length = 0;
        self.events.clear();
    }

    /// Returns the length of the text so far, UTF-16 code units.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Returns the events since the last call.
    pub(crate) fn take(&mut self) -> Vec<GroundingEvent> {
        std::mem::take(&mut self.events)
    }

    /// Adds text and joins it with neighbouring text.
    pub(crate) fn text(&mut self, text: &str) {
        self.text.push_str(text);
        self.length += utf16_len(text);
        match self.events.last_mut() {
            _ if text.is_empty() => {}
            Some(GroundingEvent::Text(before)) => before.push_str(text),
            _ => self.events.push(GroundingEvent::Text(text.to_owned())),
        }
    }

    /// Adds an object with its coordinates as the answer has them. `range` is the place of its name in the text.
    pub(crate) fn object(&mut self, shape: Shape, reference: Option<&str>, range: [usize; 2]) {
        let image = self.picture();
        let picture = image.map(|index| self.pictures[index]);
        let unit = picture.filter(|_| self.unit == Unit::SeenPixels).map_or(THOUSAND, |picture| picture.seen);
        self.events.push(GroundingEvent::Object(GroundedObject {
            reference: reference.map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned),
            kind: shape.kind(),
            image,
            norm: shape.norm(unit),
            pixels: picture.map(|picture| shape.pixels(unit, picture.size)),
            range,
        }));
    }

    /// Returns the index of the picture that an object at the end of the text belongs to, if it is known.
    fn picture(&self) -> Option<usize> {
        if self.pictures.len() <= 1 {
            return (!self.pictures.is_empty()).then_some(0);
        }
        let named = match mentions(&self.text).last() {
            Some(numbers) => self.named(numbers),
            None => self.asked,
        };
        // Pixels mean nothing without their picture: it is taken to be the latest.
        named.or_else(|| self.pictures.len().checked_sub(1).filter(|_| self.unit == Unit::SeenPixels))
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

pub(crate) fn utf16_len(text: &str) -> usize {
    text.encode_utf16().count()
}
