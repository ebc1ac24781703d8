//! Options of a load.

use crate::RuntimeError;
use qwen_vl_kernels::KvFormat;

/// Options that fix the memory a model allocates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelOptions {
    /// Maximum length of prompt and answer together, tokens; at least 2. The KV cache takes `2 * layers * hidden_size` values a token.
    pub context_length: usize,
    /// Maximum number of prompt tokens that the decoder processes at once; at least 1. Activations are allocated for this many rows. A
    /// chunk is several submissions if it takes long.
    pub prefill_chunk: usize,
    /// Number format of the KV cache.
    pub kv: KvFormat,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self { context_length: 2048, prefill_chunk: 256, kv: KvFormat::default() }
    }
}

impl ModelOptions {
    /// Shortest context: one token of a prompt and one of an answer.
    const MIN_CONTEXT: usize = 2;
    /// Longest context: positions are 32-bit words in the kernels.
    const MAX_CONTEXT: usize = i32::MAX as usize;

    /// Checks the ranges, and shortens the chunk to the context. Whether the memory suffices shows when it is allocated.
    pub fn checked(self) -> Result<Self, RuntimeError> {
        let Self { context_length, prefill_chunk, kv } = self;
        if !(Self::MIN_CONTEXT..=Self::MAX_CONTEXT).contains(&context_length) {
            let expected = format!("a whole number from {} to {}", Self::MIN_CONTEXT, Self::MAX_CONTEXT);
            return Err(RuntimeError::invalid_option("context length", context_length, expected));
        }
        if prefill_chunk == 0 {
            return Err(RuntimeError::invalid_option("prefill chunk", prefill_chunk, "at least 1"));
        }
        Ok(Self { context_length, prefill_chunk: prefill_chunk.min(context_length), kv })
    }
}
