//! The worlds: contents and difficulty of their scenes.

use crate::{
    catalogue::{BACKGROUND_COLORS, COLORS, FONT_COUNT, SHAPES, WORDS, catalogue},
    draw::Background,
};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// Settings that make a world harder or easier. Sizes are fractions of the picture's side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct World {
    /// Pixels of a side.
    pub side: usize,
    /// Pictograms, by number in the catalogue.
    pub kinds: Vec<usize>,
    /// Shapes, by index in [`SHAPES`].
    pub shapes: Vec<usize>,
    /// Colours of shapes, by index in [`COLORS`].
    pub colors: Vec<usize>,
    /// Words on signs.
    pub words: Vec<String>,
    /// Digits of a number.
    pub digits: RangeInclusive<usize>,
    /// Fonts in use.
    pub fonts: usize,
    /// Weight of pictograms among objects, relative to the next two.
    pub pictograms: f32,
    /// Weight of shapes.
    pub shapes_share: f32,
    /// Weight of words and numbers.
    pub texts: f32,
    /// Fraction of the texts that are numbers.
    pub numbers: f32,
    /// Texts in one picture, at most.
    pub texts_per_scene: usize,
    /// Colours of texts, by index in [`COLORS`].
    pub text_colors: Vec<usize>,
    /// Objects in a picture.
    pub objects_per_scene: RangeInclusive<usize>,
    /// Probability of a picture with several of a kind.
    pub repeated: f32,
    /// Sizes of objects.
    pub sizes: RangeInclusive<f32>,
    /// Heights of a line of text.
    pub text_height: RangeInclusive<f32>,
    /// Largest angle of objects, in degrees.
    pub rotation: f32,
    /// Largest angle of texts, in degrees.
    pub text_rotation: f32,
    /// Largest distance of an object from the centre of its place; a place is a third of the picture wide.
    pub jitter: f32,
    /// Largest fraction of an object that is hidden.
    pub overlap: f32,
    /// Backgrounds. An entry that is listed twice is twice as frequent.
    pub backgrounds: Vec<Background>,
    /// Colours of plain backgrounds, by index in [`BACKGROUND_COLORS`].
    pub background_colors: Vec<usize>,
    /// Fraction of the captions and questions that are Chinese.
    pub chinese: f32,
    /// Questions about one picture in one sample of multi-task pre-training. They do not see each other; otherwise nano learned to copy
    /// answers from earlier ones instead of looking at the picture.
    pub questions_per_picture: RangeInclusive<usize>,
    /// Questions about one picture in one dialogue.
    pub turns: RangeInclusive<usize>,
}

impl World {
    /// Twelve pictograms and four shapes that look different at a glance, at most three to a picture, few words in one font: for a
    /// model of a few million parameters that two cores train in an hour.
    pub fn small() -> Self {
        let names = ["apple", "banana", "carrot", "cat", "dog", "fish", "tree", "sunflower", "car", "house", "umbrella", "airplane"];
        let number = |name: &&str| catalogue().kinds.iter().position(|kind| kind.en == *name).expect("a kind of the catalogue");
        Self {
            side: 112,
            kinds: names.iter().map(number).collect(),
            shapes: (0..4).collect(),
            colors: (0..6).collect(),
            words: WORDS[..24].iter().map(|word| (*word).to_owned()).collect(),
            digits: 1..=2,
            fonts: 1,
            pictograms: 0.5,
            shapes_share: 0.25,
            texts: 0.25,
            numbers: 0.5,
            texts_per_scene: 1,
            text_colors: vec![5],
            objects_per_scene: 1..=3,
            repeated: 0.25,
            sizes: 0.28..=0.45,
            text_height: 0.26..=0.32,
            rotation: 0.0,
            text_rotation: 0.0,
            jitter: 0.06,
            overlap: 0.0,
            backgrounds: vec![Background::Plain, Background::Plain, Background::Gradient],
            background_colors: (0..4).collect(),
            chinese: 0.15,
            questions_per_picture: 12..=12,
            turns: 2..=5,
        }
    }

    /// Every pictogram and shape, up to six to a picture, leaning and hiding each other, on every background; words and numbers in all
    /// fonts, turned: for a model of ten times the size and a day of a GPU.
    pub fn full() -> Self {
        Self {
            side: 448,
            kinds: (0..catalogue().kinds.len()).collect(),
            shapes: (0..SHAPES.len()).collect(),
            colors: (0..COLORS.len()).collect(),
            words: WORDS.iter().map(|word| (*word).to_owned()).collect(),
            digits: 1..=4,
            fonts: FONT_COUNT,
            text_colors: (0..COLORS.len()).collect(),
            texts_per_scene: 3,
            objects_per_scene: 1..=6,
            sizes: 0.14..=0.45,
            text_height: 0.07..=0.25,
            rotation: 25.0,
            text_rotation: 30.0,
            jitter: 0.12,
            overlap: 0.2,
            backgrounds: vec![Background::Plain, Background::Gradient, Background::Texture, Background::Photo],
            background_colors: (0..BACKGROUND_COLORS.len()).collect(),
            chinese: 0.25,
            ..Self::small()
        }
    }

    /// The same world in pictures of another size.
    pub fn with_side(mut self, side: usize) -> Self {
        self.side = side;
        self
    }
}
