//! What turns texts and pictures into the input of a Qwen-VL, and its output back into text and boxes.
//!
//! Plain CPU code for native and wasm: no files, no GPU, no network.
//!
//! - [`Tokenizer`]: byte-level BPE of `qwen.tiktoken`, special tokens, image spans; [`StreamDecoder`] for one token at a time;
//! - [`Prompt`]: the base format and the chat template, with the places of the pictures; the list format ([`from_list_format`]);
//! - [`Picture`]: decoding, the original's resize, normalised pixels and rows of patches;
//! - [`GroundingParser`]: `<ref>`, `<box>`, `<quad>` as [`GroundedObject`]s and text without tags; [`AnswerStream`] from token ids.

// Files, pictures and answers are outside input, which returns an error.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod answer;
mod error;
mod grounding;
mod list_format;
mod picture;
mod prompt;
mod resize;
mod split;
mod tokenizer;
mod vocabulary;

pub use answer::AnswerStream;
pub use error::ProcessorError;
pub use grounding::{Grounded, GroundedObject, GroundingEvent, GroundingParser, ObjectKind, PictureSize, Shape, parse_grounding};
pub use list_format::{ListItem, ListSegment, from_list_format, to_list_format};
pub use picture::{MAX_PICTURE_PIXELS, Orientation, Picture, Pixels};
pub use prompt::{Chat, DEFAULT_MAX_WINDOW_SIZE, DEFAULT_SYSTEM, ImageSpan, Prompt};
pub use qwen_vl_format::{IMAGE_MEAN, IMAGE_STD, SpecialIds};
pub use split::words;
pub use tokenizer::{DEFAULT_QUERIES, KeepSpecials, SpecialTokens, StreamDecoder, Tokenizer};
