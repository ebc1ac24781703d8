//! Benchmark of a loaded model on this machine, the source of `model.benchmark()`.

use crate::clock::{millis, per_second};
use crate::sequence::text_tokens;
use crate::{KvReuse, Measured, RuntimeError};
use qwen_vl_format::VisionConfig;
use qwen_vl_processor::PictureGrid;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use web_time::Instant;

pub use crate::backend::PictureParts;
pub use qwen_vl_kernels::timing::AdapterSpeed;

/// Options of a benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(default)]
pub struct BenchmarkOptions {
    /// Sequence lengths at which decoding is timed, tokens; those beyond the context are left out.
    #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
    pub contexts: Vec<usize>,
    /// Prompt lengths, tokens; those beyond the context are left out.
    #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
    pub prompts: Vec<usize>,
    /// Number of tokens to decode at each length, at least 1; half of the context at most.
    #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
    pub decode_tokens: usize,
    /// Number of repetitions, at least 1; the median counts.
    #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
    pub runs: usize,
    /// True if encoding a picture is timed too.
    #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
    pub picture: bool,
}

impl Default for BenchmarkOptions {
    fn default() -> Self {
        Self { contexts: vec![512, 2048], prompts: vec![128, 320, 1024], decode_tokens: 32, runs: 3, picture: true }
    }
}

impl BenchmarkOptions {
    fn check(&self) -> Result<(), RuntimeError> {
        for (name, value) in [("runs", self.runs), ("decode tokens", self.decode_tokens)] {
            if value == 0 {
                return Err(RuntimeError::invalid_option(name, value, "at least 1"));
            }
        }
        Ok(())
    }
}

/// Result of a benchmark: medians of wall-clock times.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct BenchmarkReport {
    /// One picture through vision tower and resampler, milliseconds; 0 if it was not requested.
    pub encode_ms: f64,
    /// Times of a block of the tower and of the resampler, if they can run separately.
    pub picture_parts: Option<PictureParts>,
    /// Speed of prompts.
    pub prefill: Vec<PrefillSpeed>,
    /// Speed of greedy decoding.
    pub decode: Vec<DecodeSpeed>,
    /// Number of launches for one token, at the longest sequence of `decode`.
    pub dispatches_per_token: usize,
    /// Upper limits of the adapter; absent without an adapter.
    pub limits: Option<AdapterSpeed>,
}

/// Speed of one prompt length.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct PrefillSpeed {
    /// Length of the prompt.
    pub tokens: usize,
    /// Time of the whole prompt, milliseconds.
    pub millis: f64,
    /// Tokens per second; 0 if the clock did not advance.
    pub tokens_per_second: f64,
}

/// Speed of greedy decoding at one sequence length.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct DecodeSpeed {
    /// Length of the sequence at the last token.
    pub context: usize,
    /// Tokens per second; 0 if the clock did not advance.
    pub tokens_per_second: f64,
    /// Bytes of weights, keys and values that one token reads.
    pub bytes_per_token: u64,
}

/// Measures a model. `on_step` receives the numbers of steps done and of all steps; it may stop, and the result is then `None`.
pub async fn benchmark<B: Measured>(
    model: &mut B,
    options: &BenchmarkOptions,
    on_step: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<BenchmarkReport>, RuntimeError> {
    options.check()?;
    let (limit, runs) = (model.context_length(), options.runs);
    let decoded = options.decode_tokens.min(limit / 2).max(1);
    let prompts: Vec<_> = options.prompts.iter().copied().filter(|tokens| (1..limit).contains(tokens)).collect();
    let contexts: Vec<_> = options.contexts.iter().copied().filter(|context| (decoded + 1..=limit).contains(context)).collect();
    let longest = contexts.iter().chain(&prompts).copied().max().unwrap_or(1);
    let total = (usize::from(options.picture) + prompts.len() + contexts.len()) * runs;
    let mut done = 0;
    let mut step = || {
        done += 1;
        on_step(done, total)
    };

    // Any finite values do: the time does not depend on them.
    let vision = &model.manifest().config.vision;
    let grid = benchmark_grid(vision, model.max_picture_tokens());
    let patches = vec![0.5; grid.patches() * vision.patch_values()];
    let mut encode = Vec::with_capacity(runs);
    if options.picture {
        // The first picture compiles the pipelines.
        model.encode_image(&patches, None, &grid).await?;
        model.settle().await?;
    }
    for _ in 0..if options.picture { runs } else { 0 } {
        let started = Instant::now();
        model.encode_image(&patches, None, &grid).await?;
        model.settle().await?;
        encode.push(millis(started));
        if step().is_break() {
            return Ok(None);
        }
    }

    let picture_parts = if options.picture { model.time_picture_parts().await? } else { None };

    let ids = text_tokens(&model.manifest().config, limit);
    let mut on_chunk = |_| ControlFlow::Continue(());
    let _ = model.prefill(&ids[..limit.min(9) - 1], &[], KvReuse::Exact, &mut on_chunk, None).await?;
    let mut prefill = Vec::with_capacity(prompts.len());
    for tokens in prompts {
        let mut samples = Vec::with_capacity(runs);
        for _ in 0..runs {
            model.rewind(0);
            let started = Instant::now();
            let _ = model.prefill(&ids[..tokens], &[], KvReuse::Exact, &mut on_chunk, None).await?;
            samples.push(millis(started));
            if step().is_break() {
                return Ok(None);
            }
        }
        let millis = median(samples);
        prefill.push(PrefillSpeed { tokens, millis, tokens_per_second: per_second(tokens, millis) });
    }

    let mut decode = Vec::with_capacity(contexts.len());
    for context in contexts {
        let from = context - decoded;
        let _ = model.prefill(&ids[..from], &[], KvReuse::Exact, &mut on_chunk, None).await?;
        let mut samples = Vec::with_capacity(runs);
        for _ in 0..runs {
            model.rewind(from);
            let started = Instant::now();
            for _ in 0..decoded {
                model.next_token(None, None, true).await?;
            }
            model.settle().await?;
            samples.push(millis(started));
            if step().is_break() {
                return Ok(None);
            }
        }
        let tokens_per_second = per_second(decoded, median(samples));
        decode.push(DecodeSpeed { context, tokens_per_second, bytes_per_token: model.decode_bytes(context) });
    }
    model.rewind(0);
    Ok(Some(BenchmarkReport {
        encode_ms: if options.picture { median(encode) } else { 0.0 },
        picture_parts,
        prefill,
        decode,
        dispatches_per_token: model.decode_dispatches(longest),
        limits: model.adapter_limits().await?,
    }))
}

/// Side of the benchmark's picture where pictures have any size, pixels: the size of the 2023 model.
const PICTURE_SIDE: usize = 448;

/// Returns the grid of the benchmark's picture, at most `max_tokens` tokens.
fn benchmark_grid(vision: &VisionConfig, max_tokens: usize) -> PictureGrid {
    match &vision.merger {
        None => vision
            .fixed_grid()
            .map_or(PictureGrid::still([1, 1], 1, vision.patch_size), |side| PictureGrid::still([side, side], 1, vision.patch_size)),
        Some(merger) => {
            let side = (PICTURE_SIDE / (vision.patch_size * merger.size)).min(max_tokens.isqrt()).max(1) * merger.size;
            PictureGrid::still([side, side], merger.size, vision.patch_size)
        }
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
