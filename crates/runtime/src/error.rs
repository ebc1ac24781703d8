//! Everything that can go wrong at run time.

use qwen_vl_format::ManifestError;
use qwen_vl_kernels::GpuError;
use qwen_vl_processor::ProcessorError;

/// Why a model could not be loaded or a question not be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The manifest is not one.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The GPU could not do it.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// A text or a picture could not be prepared.
    #[error(transparent)]
    Processor(#[from] ProcessorError),
    /// A shard ended early or went on too long.
    #[error("shard `{shard}` has {found} bytes, the manifest says {expected}: it was cut off or is of another model; fetch it again")]
    ShardLength {
        /// File name.
        shard: String,
        /// Bytes in the manifest.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// A shard's bytes are not those that were converted.
    #[error("shard `{shard}` has SHA-256 {found}, the manifest says {expected}: it is damaged or of another model; fetch it again")]
    ShardHash {
        /// File name.
        shard: String,
        /// Hash in the manifest.
        expected: String,
        /// Hash of what came.
        found: String,
    },
    /// The caller asked for a shard that the manifest does not list.
    #[error("there is no shard {index}: the manifest lists {count}")]
    NoSuchShard {
        /// What was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// Prompt and answer do not fit the context.
    #[error("the prompt has {used} tokens, which leaves no room for an answer in the context of {limit}")]
    ContextOverflow {
        /// Tokens of the prompt.
        used: usize,
        /// Tokens that fit.
        limit: usize,
    },
    /// The prompt is empty.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// A token id is not in the vocabulary.
    #[error("token {id} at position {position} is not below the vocabulary size {vocab}")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Where it stands.
        position: usize,
        /// Rows of the embedding matrix.
        vocab: usize,
    },
    /// An image span in the token ids is not closed after exactly as many positions as there are queries.
    #[error("the image span that begins at position {position} is not closed after {queries} positions")]
    UnclosedImage {
        /// Position of `<img>`.
        position: usize,
        /// Positions an image takes.
        queries: usize,
    },
    /// The prompt names more or fewer pictures than were given.
    #[error("the prompt has {spans} pictures, {given} were given")]
    ImageCount {
        /// `<img>` spans in the prompt.
        spans: usize,
        /// Pictures given.
        given: usize,
    },
    /// A picture was named whose features are not kept any more.
    #[error("the features of picture {id} are not kept any more: give the picture itself")]
    UnknownImage {
        /// What it was named by.
        id: String,
    },
    /// A setting of the generation can not be followed.
    #[error("{name} is {found}, expected {expected}")]
    InvalidOption {
        /// The setting.
        name: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A text to score has no tokens.
    #[error("candidate {index} has no tokens")]
    EmptyCandidate {
        /// Which of them.
        index: usize,
    },
    /// A check of the kernels failed on this GPU.
    #[error("the GPU computes wrongly: {what} are off by {worst}, allowed is {bound}; update the driver")]
    Incorrect {
        /// What was computed.
        what: String,
        /// Worst difference.
        worst: f32,
        /// Largest that is allowed.
        bound: f32,
    },
    /// Without a GPU only small models are of use.
    #[error("without WebGPU a model runs on the processor, with weights of up to {limit} bytes as f32; this one has {bytes}")]
    TooLargeForCpu {
        /// Its weights as f32.
        bytes: u64,
        /// Most that is taken.
        limit: u64,
    },
    /// The weights or the GPU produced NaN or infinity.
    #[error("the model's output is not finite at position {position}: the weights or the GPU are at fault")]
    NotFinite {
        /// Position whose logits are broken.
        position: usize,
    },
}
