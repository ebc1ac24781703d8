//! What the vision tower learns before it meets a decoder: to tell of every patch what it is a part of. The paper's tower comes from
//! OpenCLIP; there is no such thing for the world of `qwen-vl-world`, and a tower of random weights takes far longer to learn from a
//! decoder's few words than from all its patches.
//!
//! The outputs of `attn_pool.kv_proj`, as many as the decoder's width, are read as the logits of several questions about a patch: what is
//! learned is where the resampler looks.

use qwen_vl_world::{COLORS, SHAPES, Scene, Thing, World};

/// What is asked about a patch, and the outputs that answer.
#[derive(Debug, Clone)]
pub struct Head {
    /// As in the log.
    pub name: &'static str,
    /// Its first output.
    pub first: usize,
    /// Its number of outputs.
    pub classes: usize,
}

/// Number of [`heads`].
const HEADS: usize = 10;
/// Parts into which a side of the picture is divided to say where an edge of a box is.
const EDGE_CLASSES: usize = 12;
/// The class of a digit that a shorter number does not have.
const NO_DIGIT: usize = 10;
/// Part of a patch that a box has to cover.
const COVERED: f32 = 0.4;

/// All heads, in the order of their outputs: what it is; a shape's colour; a word; the first two digits of a number; the edges of the box;
/// the colour of a plain background where there is nothing else.
pub fn heads(world: &World) -> Vec<Head> {
    // Nothing, the pictograms, the shapes, a text.
    let things = 1 + world.kinds.len() + SHAPES.len() + 1;
    let classes = [("thing", things), ("color", COLORS.len()), ("word", world.words.len())].into_iter();
    let digits = ["digit_1", "digit_2"].map(|name| (name, NO_DIGIT + 1));
    let edges = ["left", "top", "right", "bottom"].map(|name| (name, EDGE_CLASSES));
    let background = [("background", world.background_colors.len())];
    let mut first = 0;
    classes
        .chain(digits)
        .chain(edges)
        .chain(background)
        .map(|(name, classes)| {
            first += classes;
            Head { name, first: first - classes, classes }
        })
        .collect()
}

/// For each patch of a scene, row by row, the class that each of the [`heads`] should give, if it is asked.
pub fn labels(world: &World, scene: &Scene, grid: usize) -> Vec<[Option<usize>; HEADS]> {
    let patch = scene.side as f32 / grid as f32;
    let shapes = 1 + world.kinds.len();
    let background = scene.background.and_then(|color| world.background_colors.iter().position(|known| *known == color));
    let label = |index: usize| {
        let corner = [index % grid, index / grid].map(|cell| cell as f32 * patch);
        let covered = |bounds: &[f32; 4]| -> f32 {
            let part = |axis: usize| (corner[axis] + patch).min(bounds[axis + 2]) - corner[axis].max(bounds[axis]);
            part(0).max(0.0) * part(1).max(0.0) / (patch * patch)
        };
        let mut labels = [None; HEADS];
        let Some(object) = scene.objects.iter().find(|object| covered(&object.bounds) > COVERED) else {
            labels[0] = Some(0);
            labels[HEADS - 1] = background;
            return labels;
        };
        match &object.thing {
            Thing::Pictogram(kind) => labels[0] = world.kinds.iter().position(|known| known == kind).map(|kind| 1 + kind),
            Thing::Shape { shape, color } => (labels[0], labels[1]) = (Some(shapes + shape), Some(*color)),
            Thing::Text(text) => {
                labels[0] = Some(shapes + SHAPES.len());
                labels[2] = world.words.iter().position(|word| word == text);
                if labels[2].is_none() {
                    let mut digits = text.bytes().map(|digit| usize::from(digit - b'0'));
                    labels[3] = digits.next();
                    labels[4] = Some(digits.next().unwrap_or(NO_DIGIT));
                }
            }
        }
        for (label, edge) in labels[5..].iter_mut().zip(object.bounds) {
            *label = Some(((edge / scene.side as f32 * EDGE_CLASSES as f32) as usize).min(EDGE_CLASSES - 1));
        }
        labels
    };
    (0..grid * grid).map(label).collect()
}
