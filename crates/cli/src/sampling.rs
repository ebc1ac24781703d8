//! Options of generation that several commands share.

use crate::values::{penalty, probability, temperature, tokens, whole};
use clap::Args;
use qwen_vl_runtime::session::GenerationOptions;

/// Length of an answer, and the choice of its tokens.
#[derive(Args)]
pub struct SamplingArgs {
    /// Length limit of the answer, tokens [default: the checkpoint's].
    #[arg(long, value_name = "N", value_parser = tokens, allow_negative_numbers = true)]
    max_new_tokens: Option<usize>,
    /// Always take the most likely token.
    #[arg(long)]
    greedy: bool,
    /// Divisor of the logits; 0 is greedy [default: the checkpoint's, or 1]. Each of temperature, top-p and top-k means sampling, also where the
    /// checkpoint is greedy by default.
    #[arg(long, value_name = "T", conflicts_with = "greedy", value_parser = temperature, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Probability mass to sample from [default: the checkpoint's].
    #[arg(long, value_name = "P", conflicts_with = "greedy", value_parser = probability, allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Number of most likely tokens to sample from, 0 for all [default: the checkpoint's].
    #[arg(long, value_name = "K", conflicts_with = "greedy", value_parser = whole, allow_negative_numbers = true)]
    top_k: Option<usize>,
    /// Seed of the random numbers of sampling [default: from the clock].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Subtracted from the logits of tokens that the answer has already: it ends loops [default: the
    /// checkpoint's, and without one 1.5 for sampled answers of Qwen3-VL].
    #[arg(long, value_name = "P", value_parser = penalty, allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Continue an answer that repeats itself, which otherwise ends.
    #[arg(long)]
    allow_loops: bool,
}

impl SamplingArgs {
    /// The options of a request.
    pub fn options(&self) -> GenerationOptions {
        GenerationOptions {
            max_new_tokens: self.max_new_tokens,
            greedy: self.greedy.then_some(true),
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            seed: self.seed,
            presence_penalty: self.presence_penalty,
            allow_loops: self.allow_loops,
            ..GenerationOptions::default()
        }
    }
}
