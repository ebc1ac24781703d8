//! Contents of scenes: pictograms, coloured shapes and words, with their names in English and Chinese.

use crate::draw::Sprite;
use ab_glyph::FontRef;
use serde::Deserialize;
use std::sync::OnceLock;

/// A pictogram's names.
#[derive(Debug, Deserialize)]
pub struct Kind {
    /// English name.
    pub en: String,
    /// Chinese name.
    pub zh: String,
    /// Chinese measure word.
    pub measure: String,
    /// Group: fruit, animal, …
    pub group: String,
}

/// A word in English and Chinese.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// English.
    pub en: &'static str,
    /// Chinese.
    pub zh: &'static str,
}

const fn name(en: &'static str, zh: &'static str) -> Name {
    Name { en, zh }
}

/// Shapes, drawn in any colour.
pub const SHAPES: [Name; 6] = [
    name("circle", "圆形"),
    name("square", "正方形"),
    name("triangle", "三角形"),
    name("star", "星形"),
    name("cross", "十字"),
    name("diamond", "菱形"),
];

/// Colours of shapes and words.
pub const COLORS: [(Name, [u8; 3]); 8] = [
    (name("red", "红色"), [220, 30, 35]),
    (name("green", "绿色"), [25, 150, 60]),
    (name("blue", "蓝色"), [30, 80, 220]),
    (name("yellow", "黄色"), [245, 205, 20]),
    (name("purple", "紫色"), [135, 45, 175]),
    (name("black", "黑色"), [20, 20, 25]),
    (name("orange", "橙色"), [245, 130, 20]),
    (name("brown", "棕色"), [125, 75, 40]),
];

/// Colours of plain backgrounds. They are pale, so that objects stand out.
pub const BACKGROUND_COLORS: [(Name, [u8; 3]); 6] = [
    (name("white", "白色"), [250, 250, 250]),
    (name("gray", "灰色"), [185, 185, 188]),
    (name("pink", "粉色"), [250, 200, 212]),
    (name("cyan", "青色"), [170, 232, 236]),
    (name("beige", "米色"), [238, 222, 185]),
    (name("lavender", "淡紫色"), [208, 196, 240]),
];

/// The nine places of a picture, row by row.
pub const PLACES: [Name; 9] = [
    name("top left", "左上"),
    name("top", "上方"),
    name("top right", "右上"),
    name("left", "左边"),
    name("center", "中间"),
    name("right", "右边"),
    name("bottom left", "左下"),
    name("bottom", "下方"),
    name("bottom right", "右下"),
];

/// Words for signs. The small world has the first 24.
pub const WORDS: [&str; 64] = [
    "STOP", "OPEN", "EXIT", "SALE", "TAXI", "CAFE", "BANK", "ZOO", "BUS", "PARK", "SHOP", "FOOD", "BOOK", "MILK", "TEA", "HOT", "NEW",
    "GO", "ONE", "WOW", "FUN", "ICE", "SKY", "YES", "Hotel", "Museum", "Library", "Market", "Station", "School", "Garden", "Bakery",
    "Cinema", "Theatre", "Airport", "Harbour", "Welcome", "Closed", "Danger", "Caution", "Fresh", "Coffee", "Pizza", "Juice", "Bread",
    "Water", "Spring", "Summer", "Autumn", "Winter", "North", "South", "East", "West", "Monday", "Friday", "Music", "Radio", "Photo",
    "Travel", "Ocean", "River", "Mountain", "Forest",
];

/// Pixels of a pictogram in the atlas.
pub(crate) const ATLAS_SIDE: usize = 64;
/// Pictograms in a row of the atlas.
pub(crate) const ATLAS_COLUMNS: usize = 12;
const ATLAS: &[u8] = include_bytes!("../assets/atlas.png");
const KINDS: &str = include_str!("../assets/kinds.json");
const FONTS: [&[u8]; 4] = [
    include_bytes!("../assets/fonts/NotoSans-Bold.ttf"),
    include_bytes!("../assets/fonts/NotoSerif-Regular.ttf"),
    include_bytes!("../assets/fonts/JetBrainsMono-Bold.ttf"),
    include_bytes!("../assets/fonts/PatrickHand-Regular.ttf"),
];
const CIRCLE_RADIUS_SQUARED: f32 = 0.9;
/// Distances of a star's corners from its center.
const STAR_INNER: f32 = 0.42;
const STAR_OUTER: f32 = 0.98;
/// Number of fonts.
pub(crate) const FONT_COUNT: usize = FONTS.len();

/// Contents of the assets.
pub(crate) struct Catalogue {
    pub(crate) kinds: Vec<Kind>,
    /// One sprite for each kind, then a white one for each shape, which is tinted when it is drawn.
    pub(crate) sprites: Vec<Sprite>,
    pub(crate) fonts: Vec<FontRef<'static>>,
}

pub(crate) fn catalogue() -> &'static Catalogue {
    static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();
    CATALOGUE.get_or_init(|| {
        // The assets are compiled in, and a test reads them all.
        let kinds: Vec<Kind> = serde_json::from_str(KINDS).expect("kinds.json is whole");
        let atlas = image::load_from_memory_with_format(ATLAS, image::ImageFormat::Png).expect("atlas.png is whole").into_rgba8();
        let pictogram = |index: usize| {
            let (left, top) = (index % ATLAS_COLUMNS * ATLAS_SIDE, index / ATLAS_COLUMNS * ATLAS_SIDE);
            Sprite::new(ATLAS_SIDE, ATLAS_SIDE, |x, y| atlas.get_pixel((left + x) as u32, (top + y) as u32).0)
        };
        let shape = |shape: usize| Sprite::new(ATLAS_SIDE, ATLAS_SIDE, |x, y| [255, 255, 255, shape_coverage(shape, x, y)]);
        let sprites = (0..kinds.len()).map(pictogram).chain((0..SHAPES.len()).map(shape)).collect();
        let fonts = FONTS.map(|font| FontRef::try_from_slice(font).expect("a font is whole")).into();
        Catalogue { kinds, sprites, fonts }
    })
}

/// Coverage of a pixel by a shape, 0 to 255, from 16 points of the pixel.
fn shape_coverage(shape: usize, x: usize, y: usize) -> u8 {
    let half = ATLAS_SIDE as f32 / 2.0;
    let at = |pixel: usize, point: usize| (pixel as f32 + (point as f32 + 0.5) / 4.0 - half) / half;
    let inside = (0..16).filter(|point| inside_shape(shape, at(x, point % 4), at(y, point / 4))).count();
    (inside * 255 / 16) as u8
}

/// SVG path of a shape, in the square from -1 to 1.
pub(crate) fn shape_path(shape: usize) -> String {
    // In thousandths, and without negative zeros.
    let number = |value: f32| (value * 1000.0).round() / 1000.0 + 0.0;
    if SHAPES[shape].en == "circle" {
        let radius = number(CIRCLE_RADIUS_SQUARED.sqrt());
        return format!("M{radius} 0A{radius} {radius} 0 1 1 -{radius} 0A{radius} {radius} 0 1 1 {radius} 0Z");
    }
    let points: Vec<String> = corners(shape).iter().map(|[x, y]| format!("{} {}", number(*x), number(*y))).collect();
    format!("M{}Z", points.join("L"))
}

/// Corners of a shape with straight edges, in the square from -1 to 1.
fn corners(shape: usize) -> Vec<[f32; 2]> {
    match SHAPES[shape].en {
        "square" => vec![[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]],
        "triangle" => vec![[0.0, -0.95], [0.95, 0.85], [-0.95, 0.85]],
        "cross" => [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]
            .iter()
            .flat_map(|[x, y]: &[f32; 2]| {
                [[0.9 * x + 0.3 * y, 0.9 * y - 0.3 * x], [0.9 * x - 0.3 * y, 0.9 * y + 0.3 * x], [0.3 * (x - y), 0.3 * (x + y)]]
            })
            .collect(),
        "diamond" => vec![[0.0, -0.95], [0.75, 0.0], [0.0, 0.95], [-0.75, 0.0]],
        _ => (0..10)
            .map(|point| {
                let (sin, cos) = (point as f32 * std::f32::consts::PI / 5.0).sin_cos();
                let radius = if point % 2 == 0 { STAR_OUTER } else { STAR_INNER };
                [radius * sin, -radius * cos]
            })
            .collect(),
    }
}

/// True if a point of the square from -1 to 1 belongs to a shape.
fn inside_shape(shape: usize, x: f32, y: f32) -> bool {
    match SHAPES[shape].en {
        "circle" => x * x + y * y < CIRCLE_RADIUS_SQUARED,
        "square" => x.abs() < 0.85 && y.abs() < 0.85,
        "triangle" => y < 0.85 && x.abs() < (y + 0.95) / 1.8 * 0.95,
        "cross" => x.abs().max(y.abs()) < 0.9 && x.abs().min(y.abs()) < 0.3,
        "diamond" => x.abs() / 0.75 + y.abs() / 0.95 < 1.0,
        // A star with five points. The angle is folded into half a point, where the edge is one straight line.
        _ => {
            let fifth = std::f32::consts::TAU / 5.0;
            let angle = (x.atan2(-y).rem_euclid(fifth) - fifth / 2.0).abs();
            let radius = x.hypot(y);
            let (inner, outer) = (STAR_INNER, STAR_OUTER);
            let (px, py) = (radius * angle.cos(), radius * angle.sin());
            let (ox, oy) = (outer * (fifth / 2.0).cos(), outer * (fifth / 2.0).sin());
            (ox - inner) * py - oy * (px - inner) > 0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assets_are_whole() {
        let catalogue = catalogue();
        assert!(catalogue.kinds.len() >= 90);
        assert_eq!(catalogue.sprites.len(), catalogue.kinds.len() + SHAPES.len());
        for (index, sprite) in catalogue.sprites.iter().enumerate() {
            assert!(sprite.covered() > 0.1, "sprite {index} is empty");
        }
        let mut names: Vec<&str> = catalogue.kinds.iter().flat_map(|kind| [kind.en.as_str(), kind.zh.as_str()]).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "two kinds share a name");
    }

    /// The page draws shapes by their outlines, the world by [`inside_shape`].
    #[test]
    fn outlines_bound_the_shapes() {
        /// Crossings of the edges with the ray from the point to the right.
        fn enclosed(corners: &[[f32; 2]], x: f32, y: f32) -> bool {
            let edges = corners.iter().zip(corners.iter().cycle().skip(1));
            let crossings = edges.filter(|([ax, ay], [bx, by])| (*ay > y) != (*by > y) && x < (bx - ax) * (y - ay) / (by - ay) + ax);
            crossings.count() % 2 == 1
        }
        for shape in (0..SHAPES.len()).filter(|shape| SHAPES[*shape].en != "circle") {
            let corners = corners(shape);
            for point in 0..200 * 200 {
                // No point lies on an edge.
                let at = |index: usize| (index as f32 + 0.371) / 100.0 - 1.0;
                let (x, y) = (at(point % 200), at(point / 200));
                assert_eq!(enclosed(&corners, x, y), inside_shape(shape, x, y), "{} at {x}, {y}", SHAPES[shape].en);
            }
        }
    }
}
