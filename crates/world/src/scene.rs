//! A scene: things at places on a background, its picture, and the boxes of the objects.

use crate::{
    World,
    catalogue::{ATLAS_SIDE, BACKGROUND_COLORS, COLORS, FONT_COUNT, Kind, Name, PLACES, SHAPES, catalogue},
    draw::{Background, Canvas, Pose, Sprite},
    random::Random,
};
use qwen_vl_processor::Picture;

/// Something that a scene can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    /// A pictogram, by its number in the catalogue.
    Pictogram(usize),
    /// A shape in a colour.
    Shape {
        /// Index in [`SHAPES`].
        shape: usize,
        /// Index in [`COLORS`].
        color: usize,
    },
    /// A word or a number.
    Text(String),
}

/// A thing at its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The thing.
    pub thing: Thing,
    /// Index in [`PLACES`]: the ninth of the picture that contains its centre. No two objects share a place.
    pub place: usize,
    /// Box of the object without regard to objects that hide it, in pixels: left, top, right, bottom.
    pub bounds: [f32; 4],
    /// The corners of a text, clockwise from its top left, pixels.
    pub quad: [[f32; 2]; 4],
    /// True if training never shows this thing at this place, this shape in this colour, or this word.
    pub held_out: bool,
}

/// A scene.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// Pixels of a side.
    pub side: usize,
    /// Index in [`BACKGROUND_COLORS`], of a plain background.
    pub background: Option<usize>,
    /// The objects in reading order: by place.
    pub objects: Vec<Object>,
}

/// Part of the world that a sample is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// For training.
    Train,
    /// For monitoring the training: new scenes of the same combinations.
    Validation,
    /// For the final evaluation: new scenes, some with combinations that training never shows.
    Test,
}

impl Thing {
    /// `cat`, `red square`, `word STOP`, `number 42`.
    pub fn en(&self) -> String {
        match self {
            Self::Pictogram(kind) => self::kind(*kind).en.clone(),
            Self::Shape { shape, color } => format!("{} {}", COLORS[*color].0.en, SHAPES[*shape].en),
            Self::Text(text) => format!("{} {text}", self.text_kind().en),
        }
    }

    /// The same in Chinese.
    pub fn zh(&self) -> String {
        match self {
            Self::Pictogram(kind) => self::kind(*kind).zh.clone(),
            Self::Shape { shape, color } => format!("{}{}", COLORS[*color].0.zh, SHAPES[*shape].zh),
            Self::Text(text) => format!("{}{text}", self.text_kind().zh),
        }
    }

    /// With an article: `a cat`; a text has `the`.
    pub fn en_with_article(&self) -> String {
        let name = self.en();
        match self {
            Self::Text(_) => format!("the {name}"),
            _ => format!("{} {name}", article(&name)),
        }
    }

    /// With a measure word: `一只猫`.
    pub fn zh_with_measure(&self) -> String {
        match self {
            Self::Pictogram(kind) => format!("一{}{}", self::kind(*kind).measure, self.zh()),
            Self::Shape { .. } => format!("一个{}", self.zh()),
            Self::Text(_) => self.zh(),
        }
    }

    /// True for a word or a number.
    pub(crate) fn text_kind(&self) -> Name {
        match self {
            Self::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => Name { en: "number", zh: "数字" },
            _ => Name { en: "word", zh: "单词" },
        }
    }

    pub(crate) fn is_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }

    /// The word a question asks for: `cat`, `square`.
    pub(crate) fn noun(&self) -> Name {
        match self {
            Self::Pictogram(kind) => Name { en: &self::kind(*kind).en, zh: &self::kind(*kind).zh },
            Self::Shape { shape, .. } => SHAPES[*shape],
            Self::Text(_) => self.text_kind(),
        }
    }

    fn sprite(&self) -> (&'static Sprite, [u8; 3]) {
        let catalogue = catalogue();
        match self {
            Self::Pictogram(kind) => (&catalogue.sprites[*kind], [255; 3]),
            Self::Shape { shape, color } => (&catalogue.sprites[catalogue.kinds.len() + shape], COLORS[*color].1),
            Self::Text(_) => unreachable!("a text is drawn from its letters"),
        }
    }
}

pub(crate) fn kind(index: usize) -> &'static Kind {
    &catalogue().kinds[index]
}

/// `a` or `an`.
pub(crate) fn article(name: &str) -> &'static str {
    if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// The plural of a noun.
pub(crate) fn plural(name: &str) -> String {
    match name {
        "fish" => "fish".to_owned(),
        "snowman" => "snowmen".to_owned(),
        _ if name.ends_with(['s', 'x']) || name.ends_with("ch") || name.ends_with("sh") => format!("{name}es"),
        _ if name.ends_with('y') && !name.ends_with("ey") => format!("{}ies", &name[..name.len() - 1]),
        _ => format!("{name}s"),
    }
}

impl World {
    /// True if training never shows it. This holds for each thing and each word at one of the nine places, each shape in one of the
    /// world's colours, and a seventh of all numbers.
    pub fn held_out(&self, thing: &Thing, place: usize) -> bool {
        match thing {
            Thing::Pictogram(kind) => (kind * 4 + 2) % 9 == place,
            Thing::Shape { shape, color } => {
                let color = self.colors.iter().position(|listed| listed == color);
                color == Some((shape * 2 + 1) % self.colors.len()) || (shape * 2 + 5) % 9 == place
            }
            Thing::Text(text) => match text.parse::<usize>() {
                Ok(number) => number % 7 == 3,
                Err(_) => self.words.iter().position(|word| word == text).is_some_and(|index| (index * 4 + 1) % 9 == place),
            },
        }
    }

    fn thing(&self, random: &mut Random) -> Thing {
        match random.weighted(&[self.pictograms, self.shapes_share, self.texts]) {
            0 => Thing::Pictogram(*random.pick(&self.kinds)),
            1 => Thing::Shape { shape: *random.pick(&self.shapes), color: *random.pick(&self.colors) },
            _ => self.text(random),
        }
    }

    fn text(&self, random: &mut Random) -> Thing {
        if random.chance(self.numbers) {
            let digits = random.range(&self.digits);
            let low = if digits == 1 { 0 } else { 10_usize.pow(digits as u32 - 1) };
            return Thing::Text((low + random.below(10_usize.pow(digits as u32) - low)).to_string());
        }
        Thing::Text(random.pick(&self.words).clone())
    }

    /// A new scene and its picture.
    pub fn scene(&self, split: Split, random: &mut Random) -> (Scene, Picture) {
        let background = *random.pick(&self.backgrounds);
        let plain = *random.pick(&self.background_colors);
        let mut canvas = Canvas::background(self.side, background, BACKGROUND_COLORS[plain].1, random);

        let count = random.range(&self.objects_per_scene);
        let mut objects: Vec<Object> = Vec::with_capacity(count);
        // Two or three of a kind, for questions about their number.
        let repeated = random.chance(self.repeated).then(|| self.thing(random)).filter(|thing| !thing.is_text());
        for _ in 0..count {
            let novel = split == Split::Test && random.chance(0.25);
            // If a place is taken or too small, another one is drawn. A crowded picture gets fewer objects.
            for _ in 0..40 {
                let thing = match &repeated {
                    Some(thing) if random.chance(0.7) => thing.clone(),
                    _ => self.thing(random),
                };
                if thing.is_text() && objects.iter().filter(|object| object.thing.is_text()).count() >= self.texts_per_scene {
                    continue;
                }
                let place = random.below(9);
                let held_out = self.held_out(&thing, place);
                if held_out && split != Split::Test || novel && !held_out || objects.iter().any(|object| object.place == place) {
                    continue;
                }
                if let Some(object) = self.place(thing, place, held_out, &objects, &mut canvas, random) {
                    objects.push(object);
                    break;
                }
            }
        }
        objects.sort_by_key(|object| object.place);
        let picture = Picture::from_rgb(self.side as u32, self.side as u32, canvas.rgb).expect("a square of RGB");
        (Scene { side: self.side, background: (background == Background::Plain).then_some(plain), objects }, picture)
    }

    /// Draws a thing if it fits.
    fn place(
        &self,
        thing: Thing,
        place: usize,
        held_out: bool,
        others: &[Object],
        canvas: &mut Canvas,
        random: &mut Random,
    ) -> Option<Object> {
        let side = self.side as f32;
        let text_sprite;
        let (sprite, tint, scale, turn) = match &thing {
            Thing::Text(text) => {
                let font = &catalogue().fonts[random.below(self.fonts.min(FONT_COUNT))];
                let height = random.between(*self.text_height.start(), *self.text_height.end()) * side;
                text_sprite = Sprite::text(font, text, height);
                let color = self.text_colors[random.below(self.text_colors.len())];
                (&text_sprite, COLORS[color].1, 1.0, self.text_rotation)
            }
            thing => {
                let (sprite, tint) = thing.sprite();
                let size = random.between(*self.sizes.start(), *self.sizes.end()) * side;
                // Things lean only: a square on its corner is a diamond, and pictograms must stay recognisable.
                (sprite, tint, size / ATLAS_SIDE as f32, self.rotation)
            }
        };
        let angle = random.between(-turn, turn).to_radians();
        let mut pose = Pose { center: [0.0; 2], scale, angle };
        let corners = sprite.corners(pose);
        let reach = [0, 1].map(|axis| corners.iter().map(|corner| corner[axis]).fold(0.0, f32::max));
        for (axis, cell) in [place % 3, place / 3].into_iter().enumerate() {
            let middle = (cell as f32 + 0.5) / 3.0 + random.between(-self.jitter, self.jitter);
            if reach[axis] * 2.0 > side - 2.0 {
                return None;
            }
            pose.center[axis] = (middle * side).clamp(reach[axis] + 1.0, side - reach[axis] - 1.0);
            if (pose.center[axis] * 3.0 / side) as usize != cell {
                return None;
            }
        }
        let [x, y] = pose.center;
        let rough = [x - reach[0], y - reach[1], x + reach[0], y + reach[1]];
        if others.iter().any(|other| hidden_part(rough, other.bounds) > self.overlap) {
            return None;
        }
        let bounds = canvas.draw(sprite, pose, tint);
        Some(Object { quad: sprite.corners(pose), thing, place, bounds, held_out })
    }
}

/// Shared area as a fraction of the smaller box.
fn hidden_part(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area = |[left, top, right, bottom]: [f32; 4]| (right - left).max(0.0) * (bottom - top).max(0.0);
    let shared = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    shared / area(a).min(area(b)).max(1.0)
}

impl Object {
    /// The place's name.
    pub fn place_name(&self) -> Name {
        PLACES[self.place]
    }

    /// Centre of its box.
    pub(crate) fn middle(&self) -> [f32; 2] {
        [(self.bounds[0] + self.bounds[2]) / 2.0, (self.bounds[1] + self.bounds[3]) / 2.0]
    }

    /// Area of its box.
    pub(crate) fn area(&self) -> f32 {
        (self.bounds[2] - self.bounds[0]) * (self.bounds[3] - self.bounds[1])
    }

    /// `<box>(x1,y1),(x2,y2)</box>`, thousandths of the picture.
    pub fn box_text(&self, side: usize) -> String {
        let [left, top, right, bottom] = self.bounds.map(|value| thousandths(value, side));
        format!("<box>({left},{top}),({right},{bottom})</box>")
    }

    /// `<quad>(x,y),(x,y),(x,y),(x,y)</quad>`.
    pub fn quad_text(&self, side: usize) -> String {
        let points = self.quad.map(|[x, y]| format!("({},{})", thousandths(x, side), thousandths(y, side)));
        format!("<quad>{}</quad>", points.join(","))
    }
}

/// A coordinate in [0, 1000), as in the paper.
pub(crate) fn thousandths(value: f32, side: usize) -> u32 {
    ((value * 1000.0 / side as f32) as u32).min(999)
}
