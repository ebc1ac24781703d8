//! Everything that can be wrong with what this crate is given.

use qwen_vl_format::VocabularyError;

/// Why a vocabulary, a text or a picture can not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessorError {
    /// The vocabulary is damaged or belongs to another model.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    /// The path does not fit the positions of an image.
    #[error(
        "the path in `<img>` at character {at} takes {bytes} bytes of UTF-8, an image has room for {limit}: use a shorter path; it starts `{start}`"
    )]
    ImagePathTooLong {
        /// Where `<img>` stands, in characters of the text.
        at: usize,
        /// Length of the path.
        bytes: usize,
        /// Positions of an image.
        limit: usize,
        /// The first characters of the path.
        start: String,
    },
    /// `<img>` without `</img>`.
    #[error("`<img>` at character {at} has no `</img>`")]
    UnclosedImage {
        /// Where `<img>` stands, in characters of the text.
        at: usize,
    },
    /// A special token between `<img>` and `</img>`.
    #[error("special token `{token}` at character {at} inside `<img>…</img>`: only a path may stand there")]
    SpecialTokenInImage {
        /// The token.
        token: String,
        /// Where it stands, in characters of the text.
        at: usize,
    },
    /// Prompt ids whose image tags do not enclose an image.
    #[error("the prompt ids have `<img>` at position {at}, and not `</img>` {expected} positions after it")]
    ImageSpan {
        /// Position of `<img>`.
        at: usize,
        /// Distance at which `</img>` has to stand.
        expected: usize,
    },
    /// Not a picture, a damaged one, or of a format that is not supported.
    #[error("the picture can not be read (supported: PNG, JPEG, WebP, GIF, BMP): {reason}")]
    UnreadablePicture {
        /// What the decoder says.
        reason: String,
    },
    /// A picture without pixels.
    #[error("the picture has no pixels: it is {width}×{height}")]
    EmptyPicture {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
    /// A picture that would take too much memory.
    #[error("the picture is {width}×{height}, {limit} pixels is the most that is decoded")]
    PictureTooLarge {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// Most pixels.
        limit: u64,
    },
    /// Raw pixels of the wrong length.
    #[error("a picture of {width}×{height} has {expected} bytes, got {found}")]
    PictureBytes {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// Length by the size.
        expected: usize,
        /// Length given.
        found: usize,
    },
}
