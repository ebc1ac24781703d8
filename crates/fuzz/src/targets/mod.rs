//! The targets, by the crate whose parser they call.

mod answer;
mod checkpoint;
mod form;
mod listing;
mod manifest;
mod prompt;

pub use answer::{ANSWER, PICTURE};
pub use checkpoint::{ARCHIVE, CHECKPOINT, CONFIG, PICKLE, SAFETENSORS, TOKENIZER};
pub use form::{EVAL, FORM};
pub use listing::LISTING;
pub use manifest::{MANIFEST, VOCABULARY};
pub use prompt::{PROMPT, VIDEO};

use crate::Target;

/// All targets.
pub static TARGETS: [&Target; 15] = [
    &ANSWER,
    &ARCHIVE,
    &CHECKPOINT,
    &CONFIG,
    &EVAL,
    &FORM,
    &LISTING,
    &MANIFEST,
    &PICKLE,
    &PICTURE,
    &PROMPT,
    &SAFETENSORS,
    &TOKENIZER,
    &VIDEO,
    &VOCABULARY,
];
