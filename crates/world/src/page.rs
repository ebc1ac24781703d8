//! The small world as the demo page needs it: names, colours, shapes, and the questions that a model of it is trained on.

use crate::{
    World,
    catalogue::{ATLAS_COLUMNS, ATLAS_SIDE, BACKGROUND_COLORS, COLORS, Name, SHAPES, catalogue, shape_path},
    language::ask,
};
use serde_json::{Value, json};
use std::ops::RangeInclusive;

/// Stands for the name that a visitor writes.
const BLANK: &str = "…";
/// Stands for the region that a visitor marks.
const REGION: &str = "▢";

/// Describes [`World::small`]. The page is built with the result, `assets/small.json`; a test checks that it is current.
pub fn page_description() -> Value {
    let world = World::small();
    let kinds = &catalogue().kinds;
    let mut known = world.kinds.clone();
    known.sort_unstable();
    json!({
        "atlas": { "cell": ATLAS_SIDE, "columns": ATLAS_COLUMNS, "rows": kinds.len().div_ceil(ATLAS_COLUMNS) },
        "kinds": known.iter().map(|&index| json!({ "index": index, "en": kinds[index].en, "zh": kinds[index].zh })).collect::<Vec<_>>(),
        "shapes": world.shapes.iter().map(|&shape| {
            let Name { en, zh } = SHAPES[shape];
            json!({ "en": en, "zh": zh, "path": shape_path(shape) })
        }).collect::<Vec<_>>(),
        "colors": world.colors.iter().map(|&color| colored(COLORS[color])).collect::<Vec<_>>(),
        "backgrounds": world.background_colors.iter().map(|&color| colored(BACKGROUND_COLORS[color])).collect::<Vec<_>>(),
        "ink": css(COLORS[world.text_colors[0]].1),
        "words": world.words,
        "digits": world.digits.end(),
        "shares": { "pictograms": world.pictograms, "shapes": world.shapes_share, "texts": world.texts, "numbers": world.numbers },
        "sizes": { "object": usual(&world.sizes), "text": usual(&world.text_height) },
        "marks": { "name": BLANK, "region": REGION },
        "questions": {
            "en": {
                "first": ask::LIST,
                "captionEn": ask::CAPTION,
                "captionZh": ask::CAPTION_ZH,
                "read": ask::read("word"),
                "find": ask::find(&format!("the {BLANK}")),
                "region": ask::region(REGION),
                "compare": ask::MORE,
            },
            // Regions and comparisons are trained in English only.
            "zh": {
                "first": ask::CAPTION_ZH,
                "captionEn": ask::CAPTION,
                "captionZh": ask::CAPTION_ZH,
                "read": ask::READ_ZH,
                "find": ask::find_zh(BLANK),
                "region": ask::region(REGION),
                "compare": ask::MORE,
            },
        },
    })
}

fn colored((Name { en, zh }, rgb): (Name, [u8; 3])) -> Value {
    json!({ "en": en, "zh": zh, "css": css(rgb) })
}

fn css([r, g, b]: [u8; 3]) -> String {
    format!("rgb({r} {g} {b})")
}

/// A size from the lower part of a range, in hundredths: with it, three objects in different thirds of a picture hardly overlap.
fn usual(range: &RangeInclusive<f32>) -> f64 {
    let size = f64::from(range.start() + (range.end() - range.start()) / 3.0);
    (size * 100.0).round() / 100.0
}
