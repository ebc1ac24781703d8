//! A small world to learn seeing in: scenes of pictograms, shapes and words, and what the Qwen-VL paper trains on about them.
//!
//! - [`World`]: what there is and how hard it is to see; [`World::small`], [`World::full`];
//! - [`World::sample`]: sample `index` of a [`Split`], a [`Stage`] and a seed, always the same;
//! - [`Sample::encode`]: its token ids, with the places of its pictures and of what is to be learned;
//! - [`tokenizer`]: a byte-level BPE trained on these texts, in the format of `qwen.tiktoken`.
//!
//! The test split holds scenes of other seeds, and in a quarter of its objects combinations that training never shows
//! ([`World::held_out`]).

mod bpe;
mod catalogue;
mod draw;
mod language;
mod page;
mod random;
mod sample;
mod scene;
mod world;

pub use bpe::{to_tiktoken, train as train_bpe};
pub use catalogue::{BACKGROUND_COLORS, COLORS, Kind, Name, PLACES, SHAPES, WORDS};
pub use draw::Background;
pub use language::{Question, Task};
pub use page::page_description;
pub use random::Random;
pub use sample::{Encoded, PICTURE_NAMES, Sample, Segment, Stage};
pub use scene::{Object, Scene, Split, Thing};
pub use world::World;

use qwen_vl_processor::{ProcessorError, Tokenizer};

/// The vocabulary of the world's texts, as a `qwen.tiktoken`.
pub const VOCABULARY: &[u8] = include_bytes!("../assets/world.tiktoken");

/// The tokenizer of [`VOCABULARY`], for a model with so many positions for a picture.
pub fn tokenizer(queries: usize) -> Result<Tokenizer, ProcessorError> {
    Ok(Tokenizer::from_tiktoken(VOCABULARY)?.with_queries(queries))
}
