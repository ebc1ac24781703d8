//! How fast a loaded model is on this machine: what `model.benchmark()` prints.

use crate::{Backend, KvReuse, RuntimeError};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use web_time::Instant;

/// What is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BenchmarkOptions {
    /// Lengths of the sequence at which decoding is timed; those beyond the context are left out.
    pub contexts: Vec<usize>,
    /// Tokens of the prompt that is timed.
    pub prompt_tokens: usize,
    /// Tokens that are decoded at each length.
    pub decode_tokens: usize,
    /// Times that everything is repeated; the median counts.
    pub runs: usize,
    /// Whether a picture is timed, too.
    pub picture: bool,
}

impl Default for BenchmarkOptions {
    fn default() -> Self {
        Self { contexts: vec![512, 2048], prompt_tokens: 512, decode_tokens: 32, runs: 3, picture: true }
    }
}

/// What was measured: medians of wall-clock times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkReport {
    /// One picture through vision tower and resampler, milliseconds; 0 if it was not asked for.
    pub encode_ms: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Prompt through the decoder, milliseconds.
    pub prefill_ms: f64,
    /// Tokens of the prompt by its time.
    pub prefill_tokens_per_second: f64,
    /// Greedy decoding.
    pub decode: Vec<DecodeSpeed>,
    /// Launches for one token, at the longest sequence of `decode`.
    pub dispatches_per_token: usize,
}

/// Greedy decoding at a length of the sequence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecodeSpeed {
    /// Length of the sequence at the last token.
    pub context: usize,
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// Weights, keys and values read for one token, bytes.
    pub bytes_per_token: u64,
}

/// Measures a model. `on_step` hears how many of how many steps are done and may stop; there is no report then.
pub async fn benchmark<B: Backend>(
    model: &mut B,
    options: &BenchmarkOptions,
    on_step: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<BenchmarkReport>, RuntimeError> {
    let limit = model.context_length();
    let runs = options.runs.max(1);
    let decoded = options.decode_tokens.clamp(1, limit / 2);
    let prompt_tokens = options.prompt_tokens.clamp(1, limit - 1);
    let contexts: Vec<_> = options.contexts.iter().copied().filter(|context| (decoded + 1..=limit).contains(context)).collect();
    let longest = contexts.iter().copied().max().unwrap_or(prompt_tokens);
    let total = (1 + usize::from(options.picture) + contexts.len()) * runs;
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

    let ids = ids(model, limit);
    let mut go_on = |_| ControlFlow::Continue(());
    let _ = model.prefill(&ids[..prompt_tokens.min(8)], &[], KvReuse::Exact, &mut go_on, None).await?;
    let mut prefill = Vec::with_capacity(runs);
    for _ in 0..runs {
        model.rewind(0);
        let started = Instant::now();
        let _ = model.prefill(&ids[..prompt_tokens], &[], KvReuse::Exact, &mut go_on, None).await?;
        prefill.push(millis(started));
        if step().is_break() {
            return Ok(None);
        }
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
    let prefill_ms = median(prefill);
    model.rewind(0);
    Ok(Some(BenchmarkReport {
        encode_ms: if options.picture { median(encode) } else { 0.0 },
        prompt_tokens,
        prefill_ms,
        prefill_tokens_per_second: prompt_tokens as f64 * 1e3 / prefill_ms,
        decode,
        dispatches_per_token: model.decode_dispatches(longest),
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
