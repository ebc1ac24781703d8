//! The resampler: `[patches, width]` → `[queries, hidden]` by one cross-attention of learned queries, then `ln_post` and a projection
//! (`visual.py`, `Resampler` and the end of `VisionTransformer.forward`).

use crate::RuntimeError;
use crate::weights::Weights;
use qwen_vl_format::ModelConfig;
use qwen_vl_format::config::ResamplerConfig;
use qwen_vl_kernels::add::add;
use qwen_vl_kernels::attention::{Attention, Heads, Span, attention};
use qwen_vl_kernels::matmul::{Epilogue, matmul};
use qwen_vl_kernels::norm::norm;
use qwen_vl_kernels::{Activation, Dispatch, Gpu, StepBuffer};

/// The resampler with its buffers.
pub(crate) struct Resampler {
    /// Input of keys and values, without positions: `ln_kv(kv_proj(x))`, `[patches, hidden]`.
    pub(crate) ln_kv: Activation,
    /// Output of the attention's projection, `[queries, hidden]`.
    pub(crate) attention_out: Activation,
    /// Output of `ln_post`, `[queries, hidden]`.
    pub(crate) ln_post: Activation,
    /// Output: the image features, `[queries, hidden]`.
    pub(crate) features: Activation,
    /// Launches over the patches.
    pub(crate) over_patches: Vec<Dispatch>,
    /// Launches over the queries, after those over the patches.
    pub(crate) over_queries: Vec<Dispatch>,
}

impl Resampler {
    /// `patch_step` and `query_step` hold the numbers of rows of the two kinds of launches.
    pub(crate) fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        resampler: &ResamplerConfig,
        weights: &Weights,
        patches: &Activation,
        patch_step: &StepBuffer,
        query_step: &StepBuffer,
    ) -> Result<Self, RuntimeError> {
        let ResamplerConfig { queries, heads: resampler_heads } = *resampler;
        let (rows, hidden, epsilon) = (patches.rows, config.decoder.width, config.vision.norm_epsilon);
        let over_patches = |label| gpu.activation(label, rows, hidden);
        let over_queries = |label| gpu.activation(label, queries, hidden);
        let projected = over_patches("resampler.kv_proj")?;
        let ln_kv = over_patches("resampler.ln_kv")?;
        let keys = over_patches("resampler.keys")?;
        let values = over_patches("resampler.values")?;
        let query = over_queries("resampler.queries")?;
        let attended = over_queries("resampler.attended")?;
        let attention_out = over_queries("resampler.out")?;
        let ln_post = over_queries("resampler.ln_post")?;
        let features = over_queries("resampler.features")?;

        // After its norm `projected` is unused, so it holds the input of the keys.
        let keys_in = &projected;
        let mut first = matmul(gpu, patch_step, weights.linear("resampler.kv_proj").product(patches, &projected, Epilogue::Store));
        first.push(norm(gpu, patch_step, &weights.norm("resampler.ln_kv", epsilon), &projected, &ln_kv));
        first.push(add(gpu, patch_step, &ln_kv, &weights.rows("resampler.key_position"), keys_in));
        first.extend(matmul(gpu, patch_step, weights.linear("resampler.attn.k").product(keys_in, &keys, Epilogue::Store)));
        first.extend(matmul(gpu, patch_step, weights.linear("resampler.attn.v").product(&ln_kv, &values, Epilogue::Store)));

        let learned = weights.rows("resampler.query");
        let mut second = matmul(gpu, query_step, weights.linear("resampler.attn.q").product(&learned, &query, Epilogue::Store));
        let heads = |rows| Heads { rows, first_col: 0 };
        second.push(attention(
            gpu,
            query_step,
            Attention {
                queries: heads(&query),
                keys: heads(&keys).into(),
                values: heads(&values).into(),
                output: &attended,
                heads: resampler_heads,
                kv_heads: resampler_heads,
                head_dim: hidden / resampler_heads,
                span: Span::All,
            },
        ));
        second.extend(matmul(gpu, query_step, weights.linear("resampler.attn.out").product(&attended, &attention_out, Epilogue::Store)));
        second.push(norm(gpu, query_step, &weights.norm("resampler.ln_post", epsilon), &attention_out, &ln_post));
        second.extend(matmul(gpu, query_step, weights.linear("resampler.proj").product(&ln_post, &features, Epilogue::Store)));
        Ok(Self { ln_kv, attention_out, ln_post, features, over_patches: first, over_queries: second })
    }
}
