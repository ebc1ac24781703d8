//! A small world for training vision: scenes of pictograms, shapes and words, with the training samples of the Qwen-VL paper.
//!
//! - [`World`]: contents and difficulty of the scenes; [`World::small`], [`World::full`];
//! - [`World::sample`]: sample `index` of a [`Split`], a [`Stage`] and a seed, which determine it;
//! - [`Sample::encode`]: its token ids, with the positions of its pictures and of the tokens to learn;
//! - [`tokenizer`]: a byte-level BPE trained on these texts, in the format of `qwen.tiktoken`.
//!
//! The test split has scenes of other seeds. A quarter of its objects are combinations that training never shows
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

/// The tokenizer of [`VOCABULARY`], for a model with `queries` positions per picture.
pub fn tokenizer(queries: usize) -> Result<Tokenizer, ProcessorError> {
    Ok(Tokenizer::from_tiktoken(VOCABULARY)?.with_queries(queries))
}
