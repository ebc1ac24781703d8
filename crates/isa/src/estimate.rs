//! An estimate of whole models on GPUs that are not there: arithmetic on the listings in `crates/kernels/isa.tsv` and on published figures of GPUs.

use anyhow::{Context, Result};
use qwen_vl_format::{ModelConfig, Scheme};
use qwen_vl_kernels::Kernels;
use qwen_vl_kernels::attention::{SPLIT_KEYS, keys_in_turn};
use std::fmt::Write;

/// Published figures of a GPU.
struct GpuFacts {
    name: &'static str,
    /// Lanes that execute an instruction in each clock, times the clock: instructions of a lane a second.
    instructions: f64,
    /// Bytes a second.
    bandwidth: f64,
}

const GPUS: [GpuFacts; 6] = [
    GpuFacts { name: "Radeon RX 6800", instructions: 60.0 * 64.0 * 2.1e9, bandwidth: 512e9 },
    GpuFacts { name: "Radeon RX 7900 XTX", instructions: 96.0 * 64.0 * 2.5e9, bandwidth: 960e9 },
    GpuFacts { name: "GeForce RTX 3060", instructions: 28.0 * 128.0 * 1.78e9, bandwidth: 360e9 },
    GpuFacts { name: "GeForce RTX 4090", instructions: 128.0 * 128.0 * 2.52e9, bandwidth: 1008e9 },
    GpuFacts { name: "Apple M2 Max", instructions: 38.0 * 128.0 * 1.4e9, bandwidth: 400e9 },
    GpuFacts { name: "Intel Iris Xe, 96 EU", instructions: 96.0 * 8.0 * 1.35e9, bandwidth: 68e9 },
];

/// Seconds between two launches.
const LAUNCH: f64 = 3e-6;
/// Seconds that a load from memory takes.
const LOAD: f64 = 0.5e-6;
/// Part of the bandwidth and of the instructions that products of one row reach.
const REACHED: f64 = 0.75;
/// Part of the time in which products of many rows issue instructions: their launches are too small to hide every load.
const BUSY: f64 = 0.6;
/// Part of the peak that attention of many rows reaches.
const ATTENTION: f64 = 0.3;
/// Tokens of a question in addition to its picture.
const TEXT: usize = 30;
/// Width and height of the picture, except for the 2023 model, which has its own size.
const PICTURE: [usize; 2] = [1024, 768];
/// Keys of a tile of the attention of one row, and the loads that wait for each other in it: 8 of keys and 8 of values, each of four at once.
const TILE: usize = 64;
const STEPS: f64 = 16.0;
/// Multiplications and additions of a block of `matmul`.
const BLOCK: f64 = 2048.0;

/// Vector instructions from the listings of RDNA3, whose figures stand for all GPUs.
struct Listings {
    /// For 256 weights of a product of one row.
    one_row: f64,
    /// For a block of a product of many rows.
    block: f64,
}

impl Listings {
    fn read(tsv: &str) -> Result<Self> {
        let figure = |kernel: &str, column: usize| -> Result<f64> {
            let start = format!("{kernel}\trdna3\tnaga\t");
            let row = tsv.lines().find_map(|line| line.strip_prefix(&*start)).with_context(|| format!("no row `{kernel}`"))?;
            row.split('\t').nth(column).and_then(|value| value.parse().ok()).with_context(|| format!("`{kernel}` has no column {column}"))
        };
        Ok(Self { one_row: figure("matvec plain+subgroups q4z", 5)?, block: figure("matmul plain q4z", 5)? })
    }
}

/// Weights of the decoder's layers and its head.
fn decoder_weights(model: &ModelConfig) -> [f64; 2] {
    let decoder = &model.decoder;
    let attention = decoder.width * decoder.head_dim * (2 * decoder.heads + 2 * decoder.kv_heads);
    let layer = attention + 3 * decoder.width * decoder.mlp_width;
    [(decoder.layers * layer) as f64, (decoder.width * decoder.vocab_size) as f64]
}

/// Patches and tokens of the picture.
fn picture(model: &ModelConfig) -> [usize; 2] {
    let vision = &model.vision;
    match (&vision.merger, vision.image_size, &vision.resampler) {
        (Some(merger), ..) => {
            let side = vision.patch_size * merger.size;
            let tokens: usize = PICTURE.iter().map(|pixels| (pixels + side / 2) / side).product();
            [tokens * merger.size * merger.size, tokens]
        }
        (None, Some(pixels), Some(resampler)) => [(pixels / vision.patch_size).pow(2), resampler.queries],
        _ => [0, 0],
    }
}

/// Seconds from a question with a picture to the first token.
fn first_answer(model: &ModelConfig, gpu: &GpuFacts, listings: &Listings) -> f64 {
    let (vision, decoder) = (&model.vision, &model.decoder);
    let [patches, tokens] = picture(model).map(|count| count as f64);
    let rows = tokens + TEXT as f64;
    let [layers, head] = decoder_weights(model);
    // A gated MLP has three matrices, one without a gate two.
    let mlp = if vision.rms_norms { 3 } else { 2 } * vision.width * vision.mlp_width;
    let tower = (vision.layers * (4 * vision.width * vision.width + mlp)) as f64;
    let products = patches * tower + rows * layers + head;
    // Blocks that attend to windows compute little next to those that attend to the whole picture.
    let full = vision.windows.as_ref().map_or(vision.layers, |windows| windows.full_blocks.len());
    let attention =
        2.0 * patches * patches * (vision.width * full) as f64 + rows * rows * (decoder.heads * decoder.head_dim * decoder.layers) as f64;
    (products * listings.block / BLOCK / BUSY + attention / ATTENTION) / gpu.instructions
}

/// Seconds of a token after `keys` others.
fn token(model: &ModelConfig, gpu: &GpuFacts, listings: &Listings, keys: usize) -> f64 {
    let decoder = &model.decoder;
    let weights: f64 = decoder_weights(model).iter().sum();
    let scheme = Scheme::Q4Z { group_size: 32 };
    let bytes = weights / 256.0 * (scheme.row_data_bytes(256) + scheme.row_scale_bytes(256)) as f64;
    let products = (bytes / gpu.bandwidth).max(weights / 256.0 * listings.one_row / gpu.instructions);
    let cache = (2 * 2 * keys * decoder.layers * decoder.kv_heads * decoder.head_dim) as f64 / gpu.bandwidth;
    let launches = if keys < SPLIT_KEYS { 6 } else { 7 };
    let waits = (decoder.layers * keys_in_turn(Kernels::SUBGROUPS, decoder.kv_heads, keys).div_ceil(TILE)) as f64 * STEPS * LOAD;
    products / REACHED + cache.max(waits) + (launches * decoder.layers + 4) as f64 * LAUNCH
}

/// Returns the page with the estimates of named models.
pub fn page(models: &[(&str, ModelConfig)], tsv: &str) -> Result<String> {
    let listings = Listings::read(tsv)?;
    let mut page = format!(
        "# Estimates for GPUs\n\n\
         **Nothing on this page was run.** It is arithmetic on what compilers make of the kernels ([isa.tsv](../crates/kernels/isa.tsv)) and on\n\
         published figures of GPUs, written by `cargo run -p qwen-vl-isa --bin isa -- estimate > docs/estimates.md`. Real figures can be half of\n\
         these, as a GPU also waits for what is not counted here.\n\n\
         Each row: a picture with its question to the first token, then tokens a second after 512 and after 2048 tokens. Weights in q4z, keys and\n\
         values in f16, kernels of `plain+subgroups`. The picture has {}×{} pixels; the 2023 model has its own 448×448.\n",
        PICTURE[0], PICTURE[1]
    );
    for (name, model) in models {
        let [patches, tokens] = picture(model);
        write!(
            page,
            "\n## {name}\n\nThe picture is {patches} patches and {tokens} tokens.\n\n\
             | GPU | first token, s | tokens/s at 512 | tokens/s at 2048 |\n| --- | --- | --- | --- |\n"
        )?;
        for gpu in &GPUS {
            let first = first_answer(model, gpu, &listings);
            let [short, long] = [512, 2048].map(|keys| 1.0 / token(model, gpu, &listings, keys));
            writeln!(page, "| {} | {first:.2} | {short:.0} | {long:.0} |", gpu.name)?;
        }
    }
    let clocks = |gpu: &GpuFacts| format!("| {} | {:.1} | {:.0} |", gpu.name, gpu.instructions / 1e12, gpu.bandwidth / 1e9);
    write!(
        page,
        "\n## How it is computed\n\n\
         | GPU | 10¹² instructions of a lane a second | GB/s |\n| --- | --- | --- |\n{}\n\n\
         - Products of one row take the longer of two times, divided by {REACHED}: that of reading their weights (4.5 bits each), and that of {:.0}\n  \
         vector instructions for 256 weights.\n\
         - Attention of one row waits {STEPS:.0} times {:.1} µs for each {TILE} keys, one layer after the other; from {SPLIT_KEYS} keys on\n  \
         its slices wait at once.\n\
         - A launch costs {:.0} µs: six or seven a layer, and four.\n\
         - Products of many rows execute {:.0} vector instructions for {BLOCK:.0} multiplications, and issue in {:.0} % of the time.\n\
         - Attention of many rows reaches {:.0} % of the peak.\n\n\
         The instruction counts are those of RDNA3. They flatter NVIDIA, where conversions and roundings are slower, and Apple.\n",
        GPUS.iter().map(clocks).collect::<Vec<_>>().join("\n"),
        listings.one_row,
        LOAD * 1e6,
        LAUNCH * 1e6,
        listings.block,
        BUSY * 100.0,
        ATTENTION * 100.0,
    )?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_is_what_the_listings_give() {
        let page = crate::estimates(include_str!("../../kernels/isa.tsv")).unwrap();
        assert_eq!(
            page,
            include_str!("../../../docs/estimates.md"),
            "run `cargo run -p qwen-vl-isa --bin isa -- estimate > docs/estimates.md`"
        );
    }

    #[test]
    fn a_table_without_the_kernel_is_refused() {
        let error = crate::estimates("kernel\ttarget\tcompiler\n").unwrap_err();
        assert!(format!("{error:#}").contains("no row `matvec plain+subgroups q4z`"), "{error:#}");
    }
}
