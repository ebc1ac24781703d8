//! Options of a load.

use crate::RuntimeError;
use qwen_vl_format::VisionConfig;
use qwen_vl_kernels::KvFormat;

/// Options that fix the memory a model allocates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelOptions {
    /// Maximum length of prompt and answer together, tokens; at least 2. The KV cache takes `2 * layers * kv_heads * head_dim` values a
    /// token.
    pub context_length: usize,
    /// Maximum number of prompt tokens that the decoder processes at once; at least 1. Activations are allocated for this many rows. A
    /// chunk is several submissions if it takes long.
    pub prefill_chunk: usize,
    /// Number format of the KV cache.
    pub kv: KvFormat,
    /// Largest number of tokens of one picture, for models that take pictures of any size; at least 4. Larger pictures are reduced. The vision
    /// tower's activations are allocated for this many.
    pub max_picture_tokens: usize,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self { context_length: 2048, prefill_chunk: 256, kv: KvFormat::default(), max_picture_tokens: 1280 }
    }
}

impl ModelOptions {
    /// Shortest context: one token of a prompt and one of an answer.
    const MIN_CONTEXT: usize = 2;
    /// Longest context: positions are 32-bit words in the kernels.
    const MAX_CONTEXT: usize = i32::MAX as usize;

    /// Fewest tokens of the largest picture.
    const MIN_PICTURE_TOKENS: usize = 4;
    /// Most tokens of a picture that any published model takes.
    const MAX_PICTURE_TOKENS: usize = 1 << 14;

    /// Checks the ranges, and shortens the chunk to the context. Whether the memory suffices shows when it is allocated.
    pub fn checked(self) -> Result<Self, RuntimeError> {
        let Self { context_length, prefill_chunk, kv, max_picture_tokens } = self;
        if !(Self::MIN_CONTEXT..=Self::MAX_CONTEXT).contains(&context_length) {
            let expected = format!("a whole number from {} to {}", Self::MIN_CONTEXT, Self::MAX_CONTEXT);
            return Err(RuntimeError::invalid_option("context length", context_length, expected));
        }
        if prefill_chunk == 0 {
            return Err(RuntimeError::invalid_option("prefill chunk", prefill_chunk, "at least 1"));
        }
        if !(Self::MIN_PICTURE_TOKENS..=Self::MAX_PICTURE_TOKENS).contains(&max_picture_tokens) {
            let expected = format!("a whole number from {} to {}", Self::MIN_PICTURE_TOKENS, Self::MAX_PICTURE_TOKENS);
            return Err(RuntimeError::invalid_option("max picture tokens", max_picture_tokens, expected));
        }
        Ok(Self { context_length, prefill_chunk: prefill_chunk.min(context_length), kv, max_picture_tokens })
    }

    /// Largest number of patches of a picture.
    pub(crate) fn max_patches(&self, vision: &VisionConfig) -> usize {
        match &vision.merger {
            Some(merger) => self.max_picture_tokens * merger.size * merger.size,
            None => vision.fixed_patches(),
        }
    }
}
