//! Errors of loading and running a model.

use qwen_vl_format::{ManifestError, ShardError};
use qwen_vl_kernels::GpuError;
use qwen_vl_processor::ProcessorError;
use std::fmt;

/// The reason why a model could not be loaded or a request not be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The manifest is invalid.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The bytes of a shard are not those of the manifest.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The GPU failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// A text or a picture cannot be processed.
    #[error(transparent)]
    Processor(#[from] ProcessorError),
    /// The sequence does not fit the context.
    #[error("{counted} {used} tokens, too many for the context of {limit}, which holds prompt and answer")]
    ContextOverflow {
        /// Meaning of `used`.
        counted: Counted,
        /// Number of tokens.
        used: usize,
        /// Tokens that fit.
        limit: usize,
    },
    /// The tokens that may come next could not be computed.
    #[error("the answer cannot be held to its form: {problem}")]
    Constraint {
        /// The reason.
        problem: String,
    },
    /// The prompt is empty.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// A token id is not in the vocabulary.
    #[error("token {id} at position {position} of {text} is not below the vocabulary size {vocab}")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// The text it is in.
        text: TextOf,
        /// Its position in that text, tokens.
        position: usize,
        /// Rows of the embedding matrix.
        vocab: usize,
    },
    /// An image span in the token ids is not closed after exactly the number of positions that a picture takes.
    #[error("the image span that begins at position {position} is not closed after {queries} positions")]
    UnclosedImage {
        /// Position of `<img>`.
        position: usize,
        /// Positions that a picture takes.
        queries: usize,
    },
    /// The prompt has more or fewer positions for pictures than the pictures have.
    #[error("the prompt has {pads} tokens for pictures and videos, expected {needed}, one unbroken run per picture")]
    ImagePads {
        /// Number of these tokens in the prompt.
        pads: usize,
        /// Positions that the pictures take.
        needed: usize,
    },
    /// A picture has more patches than the model's buffers, or not as many as the model takes.
    #[error("a picture has {patches} patches, and this model was loaded for {limit}")]
    PictureSize {
        /// Number of patches.
        patches: usize,
        /// Number of patches of the model's pictures: the largest, or the only one.
        limit: usize,
    },
    /// A video for a model that takes none.
    #[error("this checkpoint takes no videos: it was converted before they were supported, convert it again")]
    NoVideo,
    /// The frames of a video have different sizes, or one that the model cannot take.
    #[error("the frames of the video cannot be used: {problem}")]
    VideoFrames {
        /// The problem.
        problem: String,
    },
    /// The prompt names more or fewer pictures than were passed.
    #[error("the prompt names {}, but {given} {} given", pictures(*.spans), if *.given == 1 { "was" } else { "were" })]
    ImageCount {
        /// Number of `<img>` spans in the prompt.
        spans: usize,
        /// Number of pictures passed.
        given: usize,
    },
    /// The features of a picture are not kept.
    #[error("the features of picture {id} are not kept any longer: pass the picture itself")]
    UnknownImage {
        /// The id that was passed.
        id: String,
    },
    /// An option is out of its range.
    #[error("{name} is {found}, expected {expected}")]
    InvalidOption {
        /// The option.
        name: String,
        /// Its value.
        found: String,
        /// Description of the values that are possible.
        expected: String,
    },
    /// There are no texts to score.
    #[error("there are no candidates to score")]
    NoCandidates,
    /// A text to score has no tokens.
    #[error("candidate {index}, counted from 0, has no tokens")]
    EmptyCandidate {
        /// Index of the candidate.
        index: usize,
    },
    /// The self-check failed.
    #[error("GPU self-check failed ({what}): error {worst} exceeds {bound}; update the graphics driver")]
    Incorrect {
        /// The computation.
        what: String,
        /// Largest difference.
        worst: f32,
        /// Largest difference that is allowed.
        bound: f32,
    },
    /// The model is too large to run without a GPU.
    #[error("this model has {bytes} bytes of weights in f32; without WebGPU the limit is {limit}")]
    TooLargeForCpu {
        /// Weights in f32, bytes.
        bytes: u64,
        /// Most that is accepted, bytes.
        limit: u64,
    },
    /// The processor fallback has only the model of 2023.
    #[error("without WebGPU only small models of the 2023 Qwen-VL run, not later generations: use a browser with WebGPU")]
    NoCpuKernels,
    /// The model computed NaN or infinity.
    #[error("the model's output at position {position} is not finite: the weights or the graphics driver are faulty")]
    NotFinite {
        /// Position of the logits.
        position: usize,
    },
}

impl RuntimeError {
    /// Creates an [`Self::InvalidOption`].
    pub fn invalid_option(name: impl Into<String>, found: impl ToString, expected: impl Into<String>) -> Self {
        Self::InvalidOption { name: name.into(), found: found.to_string(), expected: expected.into() }
    }
}

/// The tokens that [`RuntimeError::ContextOverflow`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Those of the prompt; an answer needs at least one more.
    Prompt,
    /// Those of the prompt and of the longest candidate.
    PromptAndCandidate,
    /// Those of the prompt, of the answer so far, and the next one.
    SequenceAndNext,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prompt => "the prompt has",
            Self::PromptAndCandidate => "the prompt and the longest candidate have",
            Self::SequenceAndNext => "the prompt, the answer so far and the next token have",
        })
    }
}

/// The text that a token is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextOf {
    /// The prompt or the answer.
    Sequence,
    /// A candidate by its index.
    Candidate(usize),
}

impl fmt::Display for TextOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sequence => f.write_str("the sequence"),
            Self::Candidate(index) => write!(f, "candidate {index} (counted from 0)"),
        }
    }
}

fn pictures(count: usize) -> String {
    format!("{count} {}", if count == 1 { "picture" } else { "pictures" })
}
