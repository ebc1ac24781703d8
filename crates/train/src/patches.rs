//! Labels for the first training of the vision tower: the tower learns to classify every patch before it works with a decoder. The paper's
//! tower comes from OpenCLIP. The world of `qwen-vl-world` has no counterpart of OpenCLIP, and a tower of random weights learns much more
//! slowly from a decoder's few words than from all its patches.
//!
//! The outputs of `attn_pool.kv_proj` serve as the logits of several questions about a patch. Their number is the decoder's width. The
//! resampler reads the same outputs, so it can use the learned information.

use qwen_vl_world::{COLORS, SHAPES, Scene, Thing, World};

/// A question about a patch, and the outputs that answer it.
#[derive(Debug, Clone)]
pub struct Head {
    /// Name in the log.
    pub name: &'static str,
    /// Index of the first output.
    pub first: usize,
    /// Number of outputs.
    pub classes: usize,
}

/// Number of [`heads`].
const HEADS: usize = 10;
/// Number of sections of a picture's side. The position of a box's edge is one of them.
const EDGE_CLASSES: usize = 12;
/// Class of the second digit of a number that has only one.
const NO_DIGIT: usize = 10;
/// Share of a patch that a box must exceed to be its label.
const COVERED: f32 = 0.4;

/// Returns all heads in the order of their outputs: the kind of thing, the colour of a shape, the word, the first two digits of a number,
/// the edges of the box, and the colour of a plain background without an object.
pub fn heads(world: &World) -> Vec<Head> {
    // The classes are nothing, the pictograms, the shapes, and text.
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

/// Returns the right class of each of the [`heads`] for each patch of a scene, row by row. `None` if the question does not apply.
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
