//! Checkpoints of random weights, of any size, in the published layout.

use anyhow::{Context, Result};
use half::bf16;
use qwen_vl_format::{Family, SpecialIds, Vocabulary};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Largest weight file, in bytes, unless a single tensor is larger. The published files have up to 10 GB.
const FILE_BYTES: u64 = 2 << 30;
/// Matrices whose result is added to the residual stream.
const RESIDUAL: [&str; 7] = [
    "c_proj.weight",
    "out_proj.weight",
    "attn.proj.weight",
    "o_proj.weight",
    "down_proj.weight",
    ".mlp.fc2.weight",
    ".mlp.linear_fc2.weight",
];
/// Weights that a thread draws at once, and holds in memory.
const CHUNK: usize = 1 << 20;

/// Added tokens of the later generations in the order of their ids, which follow the ranks.
const ADDED_TOKENS: [&str; 14] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
];

/// Writes a Hugging Face folder for the `config.json` of any supported generation: bf16 safetensors with every tensor of the original's names,
/// seeded and scaled so that activations neither vanish nor explode, with an index if there are several files. `tokenizer` is a file of
/// ranks. Memory does not grow with the size of the model.
pub fn write_synthetic_checkpoint(config_json: &serde_json::Value, seed: u64, tokenizer: &[u8], out_dir: &Path) -> Result<()> {
    let config = quantize::model_config(&config_json.to_string())?;
    std::fs::create_dir_all(out_dir).with_context(|| format!("could not create {}", out_dir.display()))?;
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(out_dir.join(name), bytes).with_context(|| format!("could not write {}", out_dir.join(name).display()))
    };
    write("config.json", serde_json::to_string_pretty(config_json)?.as_bytes())?;
    if config.family == Family::QwenVl {
        let end_of_text = SpecialIds::of_model(config.image_token).map_or(0, |special| special.endoftext);
        let generation = serde_json::json!({
            "chat_format": "chatml", "do_sample": true, "eos_token_id": end_of_text, "pad_token_id": end_of_text,
            "max_new_tokens": 512, "max_window_size": 6144, "top_k": 0, "top_p": 0.3
        });
        write("generation_config.json", serde_json::to_string_pretty(&generation)?.as_bytes())?;
        write("qwen.tiktoken", tokenizer)?;
    } else {
        // The other settings are the published ones where a file is missing.
        let vocabulary = Vocabulary::parse(tokenizer)?;
        let [tokens, merges] = quantize::bpe_files(&vocabulary)?;
        write("vocab.json", tokens.as_bytes())?;
        write("merges.txt", merges.as_bytes())?;
        let added = (vocabulary.len()..).zip(ADDED_TOKENS);
        let added = added.map(|(id, text)| (id.to_string(), serde_json::json!({ "content": text, "special": true, "normalized": false })));
        let settings = serde_json::json!({ "added_tokens_decoder": serde_json::Map::from_iter(added) });
        write("tokenizer_config.json", serde_json::to_string_pretty(&settings)?.as_bytes())?;
    }

    let files = split(quantize::original_tensors(&config));
    let name_of = |file: usize| match files.len() {
        1 => "model.safetensors".to_owned(),
        count => format!("model-{:05}-of-{count:05}.safetensors", file + 1),
    };
    if files.len() > 1 {
        let named = files.iter().enumerate().flat_map(|(file, tensors)| tensors.iter().map(move |tensor| (file, tensor)));
        let weight_map: serde_json::Map<_, _> = named.clone().map(|(file, tensor)| (tensor.name.clone(), name_of(file).into())).collect();
        let total_size: u64 = named.map(|(_, tensor)| tensor.bytes()).sum();
        let index = serde_json::json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
        write("model.safetensors.index.json", serde_json::to_string_pretty(&index)?.as_bytes())?;
    }

    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get()).min(files.len());
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            loop {
                let file = next.fetch_add(1, Ordering::Relaxed);
                let Some(tensors) = files.get(file) else { return Ok(()) };
                let path = out_dir.join(name_of(file));
                write_file(&path, tensors, seed).with_context(|| format!("could not write {}", path.display()))?;
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })
}

/// A tensor of the original, with its index among all tensors.
struct Tensor {
    index: u64,
    name: String,
    shape: Vec<usize>,
}

impl Tensor {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn bytes(&self) -> u64 {
        self.elements() as u64 * 2
    }

    /// Mean and deviation of its weights.
    fn distribution(&self) -> (f32, f32) {
        let fan_in: usize = self.shape.iter().skip(1).product();
        let name = self.name.as_str();
        let norm = [".ln_", "ln_f", "ln_q", "ln_kv", "ln_pre", "ln_post", "norm"].iter().any(|norm| name.contains(norm));
        match name {
            _ if norm && name.ends_with(".weight") => (1.0, 0.1),
            _ if name.ends_with("bias") => (0.0, 0.02),
            "transformer.wte.weight" => (0.0, 0.5),
            // It can be the head too: logits with a deviation of about 4.
            _ if name.ends_with("embed_tokens.weight") => (0.0, 4.0 / (fan_in as f32).sqrt()),
            // Logits with a deviation of about 4, so that greedy choices are clear.
            "lm_head.weight" => (0.0, 4.0 / (fan_in as f32).sqrt()),
            _ if ["positional_embedding", "pos_embed", "pos_embed.weight"].iter().any(|end| name.ends_with(end)) => (0.0, 0.3),
            _ if name.ends_with("query") => (0.0, 1.0),
            // Keeps the additions to the residual stream smaller than the stream.
            _ if RESIDUAL.iter().any(|end| name.ends_with(end)) => (0.0, 0.5 / (fan_in as f32).sqrt()),
            _ => (0.0, 1.0 / (fan_in.max(1) as f32).sqrt()),
        }
    }
}

fn split(tensors: Vec<(String, Vec<usize>)>) -> Vec<Vec<Tensor>> {
    let mut files: Vec<Vec<Tensor>> = vec![Vec::new()];
    let mut filled = 0;
    for (index, (name, shape)) in (0..).zip(tensors) {
        let tensor = Tensor { index, name, shape };
        if filled > 0 && filled + tensor.bytes() > FILE_BYTES {
            files.push(Vec::new());
            filled = 0;
        }
        filled += tensor.bytes();
        files.last_mut().expect("never empty").push(tensor);
    }
    files
}

fn write_file(path: &Path, tensors: &[Tensor], seed: u64) -> Result<()> {
    let mut header = serde_json::Map::from_iter([("__metadata__".to_owned(), serde_json::json!({ "format": "pt" }))]);
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.bytes();
        header.insert(tensor.name.clone(), serde_json::json!({ "dtype": "BF16", "shape": tensor.shape, "data_offsets": [at, end] }));
        at = end;
    }
    let mut json = serde_json::to_string(&header)?;
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));

    let mut file = BufWriter::with_capacity(CHUNK, File::create(path)?);
    file.write_all(&(json.len() as u64).to_le_bytes())?;
    file.write_all(json.as_bytes())?;
    let mut bytes = Vec::new();
    for tensor in tensors {
        let (mean, deviation) = tensor.distribution();
        let mut noise = Noise::new(seed, tensor.index);
        let mut left = tensor.elements();
        while left > 0 {
            let count = left.min(CHUNK);
            bytes.clear();
            bytes.extend((0..count).flat_map(|_| bf16::from_f32(mean + deviation * noise.next()).to_le_bytes()));
            file.write_all(&bytes)?;
            left -= count;
        }
    }
    Ok(file.flush()?)
}

/// Numbers with a bell-shaped distribution of deviation 1: sums of four uniform ones.
struct Noise(u64);

impl Noise {
    fn new(seed: u64, stream: u64) -> Self {
        // Two rounds of splitmix64, so that neighbouring seeds and streams share nothing.
        let mix = |mut z: u64| {
            z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ z >> 31
        };
        // xorshift would never leave zero.
        Self(mix(mix(seed) ^ stream).max(1))
    }

    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let sum: u64 = (0..4).map(|lane| self.0 >> (16 * lane) & 0xffff).sum();
        // Four uniform numbers have the mean 2 and the variance 1/3.
        (sum as f32 / 65536.0 - 2.0) * 3.0f32.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_mean_0_and_deviation_1() {
        let mut noise = Noise::new(7, 3);
        let values: Vec<f64> = (0..200_000).map(|_| f64::from(noise.next())).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
        assert!(mean.abs() < 0.01 && (deviation - 1.0).abs() < 0.01, "mean {mean}, deviation {deviation}");
    }

    fn config() -> serde_json::Value {
        serde_json::json!({
            "architectures": ["QWenLMHeadModel"], "hidden_size": 128, "intermediate_size": 128, "kv_channels": 32,
            "layer_norm_epsilon": 1e-6, "num_attention_heads": 4, "num_hidden_layers": 1, "rotary_emb_base": 10000,
            "seq_length": 256, "use_dynamic_ntk": true, "use_logn_attn": true, "vocab_size": 4352,
            "visual": {"heads": 2, "image_size": 112, "image_start_id": 4310, "layers": 1, "mlp_ratio": 2.0,
                       "output_dim": 128, "patch_size": 14, "width": 32, "n_queries": 16}
        })
    }

    #[test]
    fn later_generations_convert() {
        let vocabulary = std::fs::read(crate::golden::fixtures().join("tokenizer/qwen.tiktoken")).unwrap();
        for name in ["q2-a", "q25-a", "q3-a"] {
            let path = crate::golden::fixtures().join("family/checkpoints").join(name).join("config.json");
            let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            // The fixture's vocabulary has 4096 ranks.
            config["image_token_id"] = 4108.into();
            config["video_token_id"] = 4109.into();
            let text = if name == "q3-a" { &mut config["text_config"] } else { &mut config };
            text["vocab_size"] = 4128.into();
            let folder = tempfile::tempdir().unwrap();
            let (source, out) = (folder.path().join("source"), folder.path().join("web"));
            write_synthetic_checkpoint(&config, 1, &vocabulary, &source).unwrap();
            let summary = quantize::convert(&quantize::Options::new(&source, &out), &mut |_| ()).unwrap();
            // Neither a template nor settings of pictures.
            assert_eq!((summary.unused_tensors.len(), summary.notes.len()), (0, 2), "{:?}", summary.notes);
            assert_eq!(quantize::verify(&out, &mut |_| ()).unwrap(), []);
            let web = quantize::WebCheckpoint::open(&out).unwrap();
            assert_eq!(web.manifest().processor.added_tokens.len(), 14);
            let norm = web.tensor("decoder.layers.0.mlp_norm.weight").unwrap();
            assert!(norm.iter().all(|weight| (0.4..1.6).contains(weight)), "{norm:?}");
        }
    }

    /// With 16 queries the resampler's table is 4×4 and the patch grid 8×8: the key positions are resized from it.
    #[test]
    fn a_synthetic_checkpoint_converts() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["source", "again", "other"].map(|name| folder.path().join(name));
        let vocabulary = std::fs::read(crate::golden::fixtures().join("tokenizer/qwen.tiktoken")).unwrap();
        for (path, seed) in paths.iter().zip([1, 1, 2]) {
            write_synthetic_checkpoint(&config(), seed, &vocabulary, path).unwrap();
        }
        let weights = paths.each_ref().map(|path| std::fs::read(path.join("model.safetensors")).unwrap());
        assert!(weights[0] == weights[1] && weights[0] != weights[2]);

        let out = folder.path().join("web");
        let summary = quantize::convert(&quantize::Options::new(&paths[0], &out).scheme(quantize::SchemeName::F32), &mut |_| ()).unwrap();
        assert!(summary.unused_tensors.is_empty());
        assert_eq!(quantize::verify(&out, &mut |_| ()).unwrap(), []);
        let web = quantize::WebCheckpoint::open(&out).unwrap();
        assert_eq!(web.manifest().tensor("resampler.query").unwrap().shape, [16, 128]);
        let positions = web.tensor("resampler.key_position").unwrap();
        assert_eq!(positions.len(), 8 * 8 * 128);
        let source = safetensors::SafeTensors::deserialize(&weights[0]).unwrap();
        let table = source.tensor("transformer.visual.attn_pool.pos_embed").unwrap();
        assert_eq!(table.shape(), [16, 128]);
        let table: Vec<f32> = table.data().as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect();
        assert_eq!(positions, qwen_vl_format::resize_table(&table, 4, 8, 128));
    }
}
