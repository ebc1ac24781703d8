//! The memory that a model will allocate on the GPU.

use crate::ModelOptions;
use crate::weights::packed_input;
use qwen_vl_format::Manifest;
use qwen_vl_kernels::argmax::Best;
use qwen_vl_kernels::attention::split_bytes;
use qwen_vl_kernels::sample::Scratch;
use qwen_vl_kernels::{KvCache, KvFormat, Precision, size};
use serde::Serialize;

/// Bytes of a model's buffers. A load allocates all of them; later only the features of pictures are added, one buffer each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// Weights and tables of the checkpoint.
    pub weights: u64,
    /// Keys and values of the whole context.
    pub kv_cache: u64,
    /// Activations and position tables.
    pub scratch: u64,
    /// Features of one picture, the largest; not part of the total.
    pub picture: u64,
    /// The largest buffer: what an adapter's limits of buffers and bindings must allow.
    pub largest_binding: u64,
}

impl Budget {
    /// Most weights that a processor computes with in a tolerable time, in f32, bytes.
    pub const MAX_CPU_WEIGHTS: u64 = 256 << 20;

    /// Weights in f32, as the CPU backend holds them, bytes.
    pub fn cpu_weights(manifest: &Manifest) -> u64 {
        manifest.tensors.iter().map(|tensor| size::product(&tensor.shape).saturating_mul(4)).fold(0, u64::saturating_add)
    }

    /// The budget of a checkpoint under options that were [checked](ModelOptions::checked), with kernels of a precision.
    pub fn new(manifest: &Manifest, options: &ModelOptions, precision: Precision) -> Self {
        let (config, context) = (&manifest.config, options.context_length);
        let (vision, decoder, hidden) = (&config.vision, &config.decoder, config.decoder.width);
        let chunk = options.prefill_chunk.min(context);
        let rows = |rows: usize, cols: usize| size::storage(size::rows(rows, cols));
        let words = |factors: &[usize]| size::storage(size::product(factors).saturating_mul(4));
        let patches = options.max_patches(vision);

        let mut weights = Buffers::default();
        for tensor in &manifest.tensors {
            for part in &tensor.parts {
                let [data, scales] = size::weight(tensor.scheme, part.rows, tensor.shape[1]);
                weights.add(1, size::storage(data));
                if scales > 0 {
                    weights.add(1, size::storage(scales));
                }
            }
        }

        let mut kv_cache = Buffers::default();
        let cache = KvCache::size(context, decoder.kv_heads, decoder.head_dim, options.kv);
        kv_cache.add(2 * decoder.layers, size::storage(cache));

        let mut scratch = Buffers::default();
        // The vision tower.
        scratch.add(1, rows(patches, vision.patch_values()));
        scratch.add(3, rows(patches, vision.width));
        scratch.add(1, rows(patches, 3 * vision.width));
        scratch.add(1, rows(patches, vision.mlp_width));
        if vision.rotary_base.is_some() {
            scratch.add(1, words(&[patches, vision.head_dim()]));
        }
        if vision.windows.is_some() {
            scratch.add(1, words(&[patches, 2]));
        }
        if vision.samples_positions() {
            scratch.add(2, words(&[patches, 4]));
        }
        let mut features = 0;
        if let Some(resampler) = &vision.resampler {
            features = resampler.queries;
            scratch.add(4, rows(patches, hidden));
            scratch.add(5, rows(resampler.queries, hidden));
        }
        if let Some(merger) = &vision.merger {
            features = options.max_picture_tokens;
            scratch.add(1, rows(features, hidden));
            scratch.add(merger.deepstack.len(), rows(chunk, hidden));
        }
        if precision == Precision::Q8 {
            scratch.add(1, size::storage(packed_input(config, &ModelOptions { prefill_chunk: chunk, ..*options })));
        }
        // The decoder.
        scratch.add(1, words(&[chunk]));
        scratch.add(2, rows(chunk, hidden));
        scratch.add(1, rows(chunk, decoder.qkv_width()));
        scratch.add(1, rows(chunk, decoder.attention_width()));
        scratch.add(1, rows(chunk, decoder.mlp_width));
        scratch.add(1, size::storage(split_bytes(decoder.heads, decoder.head_dim)));
        scratch.add(1, rows(1, hidden));
        scratch.add(1, rows(1, decoder.vocab_size));
        scratch.add(1, words(&[1]));
        scratch.add(1, size::storage(Best::BYTES));
        for bytes in Scratch::sizes(decoder.vocab_size) {
            scratch.add(1, size::storage(bytes));
        }
        scratch.add(1, words(&[context, decoder.head_dim]));
        if decoder.rotary.logn {
            scratch.add(1, words(&[context]));
        }

        Self {
            weights: weights.bytes,
            kv_cache: kv_cache.bytes,
            scratch: scratch.bytes,
            picture: rows(features * (1 + vision.deepstack().len()), hidden),
            largest_binding: weights.largest.max(kv_cache.largest).max(scratch.largest),
        }
    }

    /// Bytes that a decode step reads at a sequence of `context` tokens: the layers, the head, keys and values.
    pub fn decode_bytes(manifest: &Manifest, context: usize, kv: KvFormat) -> u64 {
        let decoder = &manifest.config.decoder;
        let head = if decoder.tied_head { "decoder.embedding.weight" } else { "head.weight" };
        let read = |name: &str| name == head || name.starts_with("decoder.layers.");
        let parts = manifest.tensors.iter().filter(|tensor| read(&tensor.name)).flat_map(|tensor| &tensor.parts);
        let ranges = parts.flat_map(|part| [Some(part.data), part.scales]).flatten();
        let cache = KvCache::size(context, decoder.kv_heads, decoder.head_dim, kv);
        ranges.map(|[begin, end]| end - begin).sum::<u64>() + 2 * decoder.layers as u64 * cache
    }

    /// All that a load allocates.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv_cache).saturating_add(self.scratch)
    }
}

/// Sizes of several buffers.
#[derive(Default)]
struct Buffers {
    bytes: u64,
    largest: u64,
}

impl Buffers {
    /// Adds `count` buffers of `bytes` each. The sum saturates: a size that passes 64 bits is refused by every limit.
    fn add(&mut self, count: usize, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes.saturating_mul(count as u64));
        self.largest = self.largest.max(bytes);
    }
}
