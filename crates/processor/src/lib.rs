//! From texts and pictures to the input of a model of the Qwen-VL family, and from its output to text and objects.
//!
//! Plain CPU code for native and wasm: no files, no GPU, no network.
//!
//! - [`Tokenizer`]: byte-level BPE of `qwen.tiktoken`, special tokens, spans of pictures; [`StreamDecoder`] for one token at a time;
//! - [`Prompt`]: the base format and the chat templates of messages ([`Content`]), with the places of the pictures and [`Positions`];
//! - [`Picture`]: decoding, the original's resize, normalized pixels and rows of patches;
//! - [`PictureSizing`], [`PictureGrid`]: the size of a picture for the later generations; [`VideoSizing`], [`VideoStep`]: the frames of a video;
//!   [`Rotary`]: the angles of their decoders;
//! - [`GroundingParser`]: boxes, quads and points of answers as [`GroundedObject`]s, and text without their markup; [`AnswerStream`] from token
//!   ids.

// Files, pictures and answers are outside input, which returns an error.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod added;
mod answer;
mod bpe;
mod content;
mod error;
mod grid;
mod grounding;
mod jpeg;
mod json;
mod mention;
mod nfc;
mod object;
mod picture;
mod positions;
mod prompt;
mod resize;
mod rotary;
mod split;
mod step;
mod tags;
mod template;
mod tokenizer;
mod video;

pub use added::{KeepSpecials, SpecialTokens};
pub use answer::AnswerStream;
pub use content::{Content, Message, Part, Role, ToolCall};
pub use error::ProcessorError;
pub use grid::{PictureGrid, PictureSizing, PositionTaps, smart_resize};
pub use grounding::{GroundingParser, parse_grounding};
pub use jpeg::browser_decodes;
pub use object::{Grounded, GroundedObject, GroundingEvent, NumberedPicture, ObjectKind, PictureSize, Shape};
pub use picture::{Colors, DecodeOptions, MAX_PICTURE_PIXELS, Orientation, Picture, Pixels};
pub use positions::Positions;
pub use prompt::{Chat, ChatPrompt, DEFAULT_MAX_WINDOW_SIZE, ImageSpan, Messages, Prompt};
pub use qwen_vl_format::{AddedToken, Family, IMAGE_MEAN, IMAGE_STD, SpecialIds};
pub use rotary::Rotary;
pub use split::words;
pub use step::VideoStep;
pub use template::DEFAULT_SYSTEM;
pub use tokenizer::{DEFAULT_QUERIES, StreamDecoder, Tokenizer};
pub use video::{VideoOptions, VideoPlan, VideoSizing, VideoSource, smart_resize_volume};
