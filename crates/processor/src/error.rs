//! Everything that can be wrong with the input of this crate.

use qwen_vl_format::VocabularyError;

/// The reason why a vocabulary, a text or a picture cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessorError {
    /// The vocabulary is damaged or belongs to another model.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    /// The added tokens belong to another model.
    #[error("added tokens: `<|image_pad|>` has id {found}, expected {expected}, the token of pictures in the model's configuration")]
    ImageToken {
        /// Its id.
        found: u32,
        /// Id in the configuration.
        expected: u32,
    },
    /// The name of a picture does not fit its positions.
    #[error(
        "the path in `<img>`{} takes {bytes} bytes of UTF-8, expected at most {limit}: use a shorter path; it begins with `{start}`",
        at.map(|at| format!(" at character {at}")).unwrap_or_default()
    )]
    ImagePathTooLong {
        /// Position of `<img>`, in characters of the text; absent if the picture is a separate part.
        at: Option<usize>,
        /// Length of the path, bytes.
        bytes: usize,
        /// Positions of a picture.
        limit: usize,
        /// The first characters of the path.
        start: String,
    },
    /// `<img>` without `</img>`.
    #[error("`<img>` at character {at} has no `</img>`: close it, or pass the text as a part of a message, where `<img>` is text")]
    UnclosedImage {
        /// Position of `<img>`, in characters of the text.
        at: usize,
    },
    /// A special token between `<img>` and `</img>`.
    #[error("special token `{token}` at character {at} is inside `<img>…</img>`, expected a path only")]
    SpecialTokenInImage {
        /// The token.
        token: String,
        /// Its position, in characters of the text.
        at: usize,
    },
    /// Token ids whose picture tags do not enclose a picture.
    #[error("the prompt ids have `<img>` at position {at}, but not a path, padding and `</img>` {expected} positions later")]
    ImageSpan {
        /// Position of `<img>`.
        at: usize,
        /// Expected distance of `</img>`.
        expected: usize,
    },
    /// The pictures of a prompt are not those whose sizes are known.
    #[error("the prompt has {pictures} picture(s), but {grids} were passed")]
    PictureCount {
        /// Pictures in the prompt.
        pictures: usize,
        /// Pictures passed.
        grids: usize,
    },
    /// The placeholders of pictures in token ids are not those of the pictures.
    #[error("the prompt contains `<|image_pad|>` or `<|video_pad|>` {pads} times, expected {features} for its {pictures} picture(s)")]
    PadCount {
        /// Placeholders in the prompt.
        pads: usize,
        /// Tokens of all pictures.
        features: usize,
        /// Pictures.
        pictures: usize,
    },
    /// The placeholders of one picture are not in a row.
    #[error("the prompt contains its placeholder {pads} times in a row at position {at}, expected {features} for the picture there")]
    PadRun {
        /// Position of the first.
        at: usize,
        /// Placeholders in a row.
        pads: usize,
        /// Tokens of the picture.
        features: usize,
    },
    /// A video in a prompt of the 2023 model.
    #[error("the 2023 model takes no videos: pass single frames as pictures")]
    Video,
    /// Pictures and videos of a prompt are not in the order of those passed.
    #[error("the prompt has a {named} where a {given} was passed: pass pictures and videos in the order of the prompt")]
    VisionOrder {
        /// Kind in the prompt.
        named: &'static str,
        /// Kind passed.
        given: &'static str,
    },
    /// A video whose frames or times cannot be used.
    #[error("the video cannot be used: {problem}")]
    VideoTimes {
        /// The problem.
        problem: String,
    },
    /// A part of a conversation that the chat template does not write.
    #[error("the chat template of this model has no {what}")]
    Unsupported {
        /// The part.
        what: &'static str,
    },
    /// Not a picture, a damaged one, or of a format that is not supported.
    #[error("cannot read the picture: {reason}")]
    UnreadablePicture {
        /// The problem.
        reason: String,
    },
    /// A picture without pixels.
    #[error("the picture has no pixels: it is {width}×{height}")]
    EmptyPicture {
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
    },
    /// A picture that would take too much memory.
    #[error(
        "the picture is {width}×{height}, {} pixels, expected at most {limit}: make it smaller, for example {}",
        u64::from(*width) * u64::from(*height),
        smaller(*width, *height, *limit)
    )]
    PictureTooLarge {
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
        /// Maximum number of pixels.
        limit: u64,
    },
    /// A picture whose shape the model cannot take.
    #[error("the picture is {width}×{height}: {problem}")]
    PictureShape {
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
        /// The problem and what to do.
        problem: &'static str,
    },
    /// Limits of a picture's tokens that no picture can keep.
    #[error("picture tokens: minimum {min}, maximum {max}; expected a maximum of at least 1 and not below the minimum")]
    PictureTokens {
        /// Minimum.
        min: u64,
        /// Maximum.
        max: u64,
    },
    /// A limit of a video's tokens that no video can keep.
    #[error("the video may have {limit} tokens, and two frames have at least {fewest}: allow more, or set a lower minimum for a step")]
    VideoTokens {
        /// Fewest tokens of a step.
        fewest: usize,
        /// The limit.
        limit: usize,
    },
    /// Raw pixels of the wrong length.
    #[error("a picture of {width}×{height} has {expected} bytes, found {found}")]
    PictureBytes {
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
        /// Bytes by its size.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
}

/// The largest size of the same shape that is allowed, rounded down to hundreds where that leaves something.
fn smaller(width: u32, height: u32, limit: u64) -> String {
    let scale = (limit as f64 / (f64::from(width) * f64::from(height))).sqrt();
    let side = |side: u32| {
        let side = (f64::from(side) * scale) as u32;
        if side >= 1000 { side / 100 * 100 } else { side.max(1) }
    };
    format!("{}×{}", side(width), side(height))
}
