//! Models of any geometry with random 4-bit weights, to measure speed and memory without a checkpoint.

use crate::{Backend, Gpu, Model, ModelLoader, ModelOptions, RuntimeError};
use qwen_vl_format::manifest::{
    FORMAT_NAME, FORMAT_VERSION, FileEntry, GenerationConfig, ProcessorConfig, Provenance, TensorEntry, TensorPart,
};
use qwen_vl_format::tensors::{TensorKind, TensorSpec, tensor_table};
use qwen_vl_format::{MAX_PART_BYTES, Manifest, ModelConfig, PART_ROW_ALIGN, Scheme, SpecialIds};

/// Bytes of one upload; its content repeats.
const PIECE_BYTES: usize = 1 << 20;

/// Returns a manifest for this geometry, with matrices in 4 bits and every tensor in a separate shard. No files exist for it.
pub fn manifest(config: ModelConfig) -> Manifest {
    manifest_in(config, |_| Scheme::Q4Z { group_size: 32 })
}

/// Returns [`manifest`] with the matrices in the schemes of `scheme`.
pub fn manifest_in(config: ModelConfig, scheme: impl Fn(&TensorSpec) -> Scheme) -> Manifest {
    let place = |(shard, spec)| {
        let scheme = scheme(&spec);
        place(shard, spec, scheme)
    };
    let (tensors, shards) = tensor_table(&config).into_iter().enumerate().map(place).unzip();
    Manifest {
        format: FORMAT_NAME.to_owned(),
        version: FORMAT_VERSION,
        processor: ProcessorConfig {
            tokenizer_file: String::new(),
            added_tokens: Vec::new(),
            image_mean: [0.5; 3],
            image_std: [0.25; 3],
            min_pixels: None,
            max_pixels: None,
        },
        generation: GenerationConfig {
            chat_format: "raw".to_owned(),
            eos_token_id: SpecialIds::of_model(config.image_token).map_or(0, |special| special.endoftext),
            extra_eos_token_ids: Vec::new(),
            max_new_tokens: 16,
            max_length: None,
            max_window_size: config.decoder.trained_context,
            do_sample: false,
            temperature: None,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: None,
            presence_penalty: None,
            min_new_tokens: None,
            stop_strings: Vec::new(),
        },
        provenance: Provenance {
            converter: "qwen-vl-runtime".to_owned(),
            source: "random".to_owned(),
            source_files: Vec::new(),
            modifications: String::new(),
        },
        files: Vec::new(),
        shards,
        tensors,
        config,
    }
}

fn place(shard: usize, TensorSpec { name, shape, kind }: TensorSpec, matrix: Scheme) -> (TensorEntry, FileEntry) {
    let [rows, cols] = shape;
    let scheme = if kind == TensorKind::Matrix { matrix } else { Scheme::F32 };
    let most = (MAX_PART_BYTES as usize / scheme.row_data_bytes(cols) / PART_ROW_ALIGN * PART_ROW_ALIGN).clamp(1, rows);
    let mut at = 0;
    let mut range = |bytes: usize| {
        at += bytes as u64;
        [at - bytes as u64, at]
    };
    let parts = (0..rows).step_by(most).map(|first| {
        let rows = most.min(rows - first);
        let scales = rows * scheme.row_scale_bytes(cols);
        TensorPart { rows, shard, data: range(rows * scheme.row_data_bytes(cols)), scales: (scales > 0).then(|| range(scales)) }
    });
    let parts = parts.collect();
    (TensorEntry { name, shape, scheme, parts }, FileEntry { file: format!("{shard}"), bytes: at, sha256: String::new(), pieces: None })
}

/// Returns the model of [`manifest`]: codes are noise, scales keep activations at size 1, norms are 1, biases and tables are 0.
pub async fn model(gpu: Gpu, config: ModelConfig, options: ModelOptions) -> Result<Model, RuntimeError> {
    let manifest = manifest(config);
    let tensors = manifest.tensors.clone();
    let mut random = fastrand::Rng::with_seed(0);
    let mut noise = vec![0; PIECE_BYTES];
    random.fill(&mut noise);
    let mut loader = ModelLoader::new(gpu, manifest, options)?;
    for tensor in &tensors {
        // Codes have a standard deviation of about 70.
        let scale = half(1.0 / (70.0 * (tensor.shape[1] as f32).sqrt()));
        let scales: Vec<u8> = scale.to_le_bytes().repeat(PIECE_BYTES / 2);
        let value = if tensor.name.ends_with(".weight") { 1.0f32 } else { 0.0 };
        let table = value.to_le_bytes().repeat(PIECE_BYTES / 4);
        for part in &tensor.parts {
            let pieces = if tensor.scheme == Scheme::F32 { &table } else { &noise };
            for (pieces, [begin, end]) in std::iter::once((pieces, part.data)).chain(part.scales.map(|range| (&scales, range))) {
                for piece in (begin..end).step_by(PIECE_BYTES) {
                    loader.write_checked(part.shard, &pieces[..PIECE_BYTES.min((end - piece) as usize)])?;
                }
            }
        }
        // Without the wait all of it would be in staging memory at once.
        if let Some(model) = loader.model() {
            model.settle().await?;
        }
    }
    loader.finish()
}

/// Returns the bits of a positive half of at least 2^-14.
fn half(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits >> 13) - ((127 - 15) << 10)) as u16
}
