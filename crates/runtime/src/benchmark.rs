//! How fast a loaded model is on this machine: what `model.benchmark()` prints.

use crate::{Backend, KvReuse, Measured, RuntimeError};
use qwen_vl_kernels::timing::AdapterSpeed;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use web_time::Instant;

/// What is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BenchmarkOptions {
    /// Lengths of the sequence at which decoding is timed; those beyond the context are left out.
    pub contexts: Vec<usize>,
    /// Lengths of prompts, tokens; those beyond the context are left out.
    pub prompts: Vec<usize>,
    /// Tokens that are decoded at each length.
    pub decode_tokens: usize,
    /// Times that everything is repeated; the median counts.
    pub runs: usize,
    /// Whether a picture is timed, too.
    pub picture: bool,
}

impl Default for BenchmarkOptions {
    fn default() -> Self {
        Self { contexts: vec![512, 2048], prompts: vec![128, 320, 1024], decode_tokens: 32, runs: 3, picture: true }
    }
}

/// What was measured: medians of wall-clock times.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchmarkReport {
    /// One picture through vision tower and resampler, milliseconds; 0 if it was not asked for.
    pub encode_ms: f64,
    /// A block of the tower and the resampler apart, where they can run so.
    pub picture_parts: Option<PictureParts>,
    /// Prompts through the decoder.
    pub prefill: Vec<PrefillSpeed>,
    /// Greedy decoding.
    pub decode: Vec<DecodeSpeed>,
    /// Launches for one token, at the longest sequence of `decode`.
    pub dispatches_per_token: usize,
    /// What the adapter can do at best.
    pub limits: Option<AdapterSpeed>,
}

/// Parts of encoding a picture, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PictureParts {
    /// One block of the vision tower, the mean of all.
    pub block_ms: f64,
    /// The resampler.
    pub resampler_ms: f64,
}

/// A prompt through the decoder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PrefillSpeed {
    /// Its length.
    pub tokens: usize,
    /// Milliseconds.
    pub millis: f64,
    /// Tokens a second.
    pub tokens_per_second: f64,
}

/// Greedy decoding at a length of the sequence.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DecodeSpeed {
    /// Length of the sequence at the last token.
    pub context: usize,
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// Weights, keys and values read for one token, bytes.
    pub bytes_per_token: u64,
}

/// Measures a model. `on_step` hears how many of how many steps are done and may stop; there is no report then.
pub async fn benchmark<B: Measured>(
    model: &mut B,
    options: &BenchmarkOptions,
    on_step: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<BenchmarkReport>, RuntimeError> {
    let limit = model.context_length();
    let runs = options.runs.max(1);
    let decoded = options.decode_tokens.clamp(1, limit / 2);
    let prompts: Vec<_> = options.prompts.iter().copied().filter(|tokens| (1..limit).contains(tokens)).collect();
    let contexts: Vec<_> = options.contexts.iter().copied().filter(|context| (decoded + 1..=limit).contains(context)).collect();
    let longest = contexts.iter().chain(&prompts).copied().max().unwrap_or(1);
    let total = (usize::from(options.picture) + prompts.len() + contexts.len()) * runs;
    let mut done = 0;
    let mut step = || {
        done += 1;
        on_step(done, total)
    };

    // What the numbers are makes no difference to the time; what they are not is broken.
    let patches = vec![0.5; model.manifest().config.visual.patches() * model.manifest().config.visual.patch_values()];
    let mut encode = Vec::with_capacity(runs);
    if options.picture {
        // The first of all compiles the pipelines.
        model.encode_image(&patches).await?;
        model.settle().await?;
    }
    for _ in 0..if options.picture { runs } else { 0 } {
        let started = Instant::now();
        model.encode_image(&patches).await?;
        model.settle().await?;
        encode.push(millis(started));
        if step().is_break() {
            return Ok(None);
        }
    }

    let picture_parts = if options.picture { model.time_picture_parts().await? } else { None };

    let ids = ids(model, limit);
    let mut go_on = |_| ControlFlow::Continue(());
    let _ = model.prefill(&ids[..limit.min(9) - 1], &[], KvReuse::Exact, &mut go_on, None).await?;
    let mut prefill = Vec::with_capacity(prompts.len());
    for tokens in prompts {
        let mut samples = Vec::with_capacity(runs);
        for _ in 0..runs {
            model.rewind(0);
            let started = Instant::now();
            let _ = model.prefill(&ids[..tokens], &[], KvReuse::Exact, &mut go_on, None).await?;
            samples.push(millis(started));
            if step().is_break() {
                return Ok(None);
            }
        }
        let millis = median(samples);
        prefill.push(PrefillSpeed { tokens, millis, tokens_per_second: tokens as f64 * 1e3 / millis });
    }

    let mut decode = Vec::with_capacity(contexts.len());
    for context in contexts {
        let from = context - decoded;
        let _ = model.prefill(&ids[..from], &[], KvReuse::Exact, &mut go_on, None).await?;
        let mut samples = Vec::with_capacity(runs);
        for _ in 0..runs {
            model.rewind(from);
            let started = Instant::now();
            for _ in 0..decoded {
                model.next_token(None, true).await?;
            }
            model.settle().await?;
            samples.push(millis(started));
            if step().is_break() {
                return Ok(None);
            }
        }
        let tokens_per_second = decoded as f64 * 1e3 / median(samples);
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

/// A text of no meaning, without pictures.
fn ids<B: Backend>(model: &B, count: usize) -> Vec<u32> {
    let image_start = model.manifest().config.visual.image_start_id;
    let vocab = model.manifest().config.vocab_size as u32;
    (0..vocab).filter(|id| *id != image_start).cycle().step_by(37).take(count).collect()
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
