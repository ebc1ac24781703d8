//! What a model allocates on the GPU, known before it does.

use crate::ModelOptions;
use qwen_vl_format::Manifest;
use qwen_vl_kernels::attention::split_bytes;
use qwen_vl_kernels::{Gpu, KvCache, KvFormat};
use serde::Serialize;

/// Bytes of a model's buffers. They are all made when it is loaded; afterwards only the features of pictures are added, one buffer each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// Weights and tables of the checkpoint.
    pub weights: u64,
    /// Keys and values of the whole context.
    pub kv_cache: u64,
    /// Activations and position tables.
    pub scratch: u64,
    /// The features of one picture; not part of the total.
    pub picture: u64,
}

impl Budget {
    /// The budget of a checkpoint under these options.
    pub fn new(manifest: &Manifest, options: &ModelOptions) -> Self {
        let (config, context) = (&manifest.config, options.context_length);
        let (vision, hidden) = (&config.visual, config.hidden_size);
        let chunk = options.prefill_chunk.clamp(1, context);
        let parts = manifest.tensors.iter().flat_map(|tensor| tensor.parts.iter().map(move |part| (tensor, part)));
        let weights = parts.map(|(tensor, part)| {
            let (scheme, cols) = (tensor.scheme, tensor.shape[1]);
            let scales = part.rows * scheme.row_scale_bytes(cols);
            let scales = if scales > 0 { Gpu::storage_bytes(scales as u64) } else { 0 };
            Gpu::storage_bytes((part.rows * scheme.row_data_bytes(cols)) as u64) + scales
        });
        let rows = |rows: usize, cols: usize| Gpu::storage_bytes((rows * qwen_vl_format::padded(cols) * 4) as u64);
        let words = |count: usize| Gpu::storage_bytes(count as u64 * 4);
        let (patches, queries) = (vision.patches(), vision.n_queries);
        let tower = rows(patches, vision.patch_values())
            + 3 * rows(patches, vision.width)
            + rows(patches, 3 * vision.width)
            + rows(patches, vision.mlp_width());
        let resampler = 4 * rows(patches, hidden) + 5 * rows(queries, hidden);
        let decoder = words(chunk)
            + 3 * rows(chunk, hidden)
            + rows(chunk, 3 * hidden)
            + rows(chunk, config.mlp_width())
            + Gpu::storage_bytes(split_bytes(config.num_attention_heads, config.head_dim()))
            + rows(1, hidden)
            + rows(1, config.vocab_size)
            + words(1)
            + words(context * config.head_dim())
            + words(context);
        let cache = KvCache::size(context, config.num_attention_heads, config.head_dim(), options.kv);
        Self {
            weights: weights.sum(),
            kv_cache: 2 * config.num_hidden_layers as u64 * Gpu::storage_bytes(cache),
            scratch: tower + resampler + decoder,
            picture: rows(queries, hidden),
        }
    }

    /// Bytes that a decode step reads at a sequence of `context` tokens: the layers, the head, keys and values.
    pub fn decode_bytes(manifest: &Manifest, context: usize, kv: KvFormat) -> u64 {
        let config = &manifest.config;
        let read = |name: &str| name == "head.weight" || name.starts_with("decoder.layers.");
        let parts = manifest.tensors.iter().filter(|tensor| read(&tensor.name)).flat_map(|tensor| &tensor.parts);
        let ranges = parts.flat_map(|part| [Some(part.data), part.scales]).flatten();
        let cache = KvCache::size(context, config.num_attention_heads, config.head_dim(), kv);
        ranges.map(|[begin, end]| end - begin).sum::<u64>() + 2 * config.num_hidden_layers as u64 * cache
    }

    /// All that is allocated at load.
    pub fn total(&self) -> u64 {
        self.weights + self.kv_cache + self.scratch
    }
}
