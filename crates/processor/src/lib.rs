//! From texts and pictures to the input of a Qwen-VL, and from its output to text and objects.
//!
//! Plain CPU code for native and wasm: no files, no GPU, no network.
//!
//! - [`Tokenizer`]: byte-level BPE of `qwen.tiktoken`, special tokens, spans of pictures; [`StreamDecoder`] for one token at a time;
//! - [`Prompt`]: the base format and the chat template of messages ([`Content`]), with the positions of the pictures;
//! - [`Picture`]: decoding, the original's resize, normalized pixels and rows of patches;
//! - [`GroundingParser`]: `<ref>`, `<box>`, `<quad>` as [`GroundedObject`]s and text without tags; [`AnswerStream`] from token ids.

// Files, pictures and answers are outside input, which returns an error.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod answer;
mod bpe;
mod content;
mod error;
mod grounding;
mod jpeg;
mod mention;
mod nfc;
mod picture;
mod prompt;
mod resize;
mod split;
mod tokenizer;

pub use answer::AnswerStream;
pub use content::{Content, Part};
pub use error::ProcessorError;
pub use grounding::{
    Grounded, GroundedObject, GroundingEvent, GroundingParser, NumberedPicture, ObjectKind, PictureSize, Shape, parse_grounding,
};
pub use jpeg::browser_decodes;
pub use picture::{Colors, DecodeOptions, MAX_PICTURE_PIXELS, Orientation, Picture, Pixels};
pub use prompt::{Chat, ChatPrompt, DEFAULT_MAX_WINDOW_SIZE, DEFAULT_SYSTEM, ImageSpan, Prompt};
pub use qwen_vl_format::{IMAGE_MEAN, IMAGE_STD, SpecialIds};
pub use split::words;
pub use tokenizer::{DEFAULT_QUERIES, KeepSpecials, SpecialTokens, StreamDecoder, Tokenizer};
