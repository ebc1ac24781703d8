//! The choice of each next token.

use super::constraint::Constraint;
use super::request::{GenerationOptions, TokenLogprob, TokenLogprobs};
use crate::sampler::{exclude, largest, log_sum_exp, most_likely, penalize};
use crate::{Backend, RuntimeError, Sampler, SamplingOptions, Trace};
use qwen_vl_format::manifest::GenerationConfig;
use qwen_vl_format::{Family, SpecialIds};
use qwen_vl_kernels::mask::allows;
use qwen_vl_processor::{KeepSpecials, Tokenizer};
use std::collections::BTreeSet;

/// Chooses tokens by the options of a request and the defaults of the checkpoint.
pub(super) struct Chooser<'a> {
    /// Absent if the answer has no form.
    constraint: Option<&'a mut dyn Constraint>,
    sampler: Option<Sampler>,
    pub(super) max_new_tokens: usize,
    min_new_tokens: usize,
    stop_tokens: Vec<u32>,
    /// Absent if it changes nothing.
    penalty: Option<f32>,
    /// Tokens of prompt and answer, if there is a penalty.
    seen: BTreeSet<u32>,
    /// Absent if it changes nothing.
    presence_penalty: Option<f32>,
    /// Tokens of the answer, if there is a presence penalty.
    answered: BTreeSet<u32>,
    /// True if the model subtracts the presence penalty.
    penalized: bool,
    /// Number of alternatives to report, if log-probabilities were requested.
    logprobs: Option<usize>,
    /// True if an answer that repeats itself ends.
    ends_loops: bool,
}

/// Presence penalty of sampled answers of Qwen3-VL, unless the checkpoint has one: its makers recommend it (`README.md`, "Generation
/// Hyperparameters"), and without it small models repeat themselves. The published files leave it out.
const QWEN3_VL_PRESENCE_PENALTY: f32 = 1.5;
/// Longest passage whose repetition is a loop, tokens.
const LONGEST_PASSAGE: usize = 64;
/// Times that a passage is repeated in a loop, at least.
const TIMES: usize = 4;
/// Shortest loop, tokens: lists and tables repeat short passages.
const SHORTEST_LOOP: usize = 128;

/// True if a text ends in a passage that is repeated again and again.
fn is_loop(tokens: &[u32]) -> bool {
    (1..=LONGEST_PASSAGE).any(|passage| {
        let length = SHORTEST_LOOP.max(TIMES * passage);
        let Some(first) = tokens.len().checked_sub(length) else { return false };
        // From the end, where most texts differ at once.
        (first + passage..tokens.len()).rev().all(|at| tokens[at] == tokens[at - passage])
    })
}

/// Returns the tokens that end every answer of a checkpoint, whatever its request says.
pub fn stop_tokens(defaults: &GenerationConfig, special: SpecialIds) -> impl Iterator<Item = u32> {
    defaults.eos_token_ids().chain([special.endoftext, special.im_end, special.im_start])
}

/// The next token of an answer.
pub(super) struct Choice {
    pub(super) token: u32,
    pub(super) logprobs: Option<TokenLogprobs>,
    /// True if the token's decode step is already queued.
    pub(super) queued: bool,
}

impl<'a> Chooser<'a> {
    pub(super) fn new(options: &GenerationOptions, defaults: &GenerationConfig, family: Family, special: SpecialIds) -> Self {
        let sampler = options.samples(defaults).then(|| {
            Sampler::new(SamplingOptions {
                temperature: options.temperature.or(defaults.temperature).unwrap_or(1.0),
                top_k: options.top_k.unwrap_or(defaults.top_k),
                top_p: options.top_p.unwrap_or(defaults.top_p),
                seed: options.seed.unwrap_or_else(|| {
                    let since_epoch = web_time::SystemTime::now().duration_since(web_time::UNIX_EPOCH);
                    since_epoch.map_or(0, |elapsed| elapsed.as_nanos() as u64)
                }),
            })
        });
        // A greedy answer is often JSON, in which keys repeat.
        let of_family = (family == Family::Qwen3Vl && sampler.is_some()).then_some(QWEN3_VL_PRESENCE_PENALTY);
        Self {
            constraint: None,
            sampler,
            max_new_tokens: options.longest_answer(0, defaults),
            min_new_tokens: options.shortest_answer(defaults),
            stop_tokens: stop_tokens(defaults, special).chain(options.stop_tokens.iter().copied()).collect(),
            penalty: options.repetition_penalty.or(defaults.repetition_penalty).filter(|penalty| *penalty != 1.0),
            seen: BTreeSet::new(),
            presence_penalty: options.presence_penalty.or(defaults.presence_penalty).or(of_family).filter(|penalty| *penalty != 0.0),
            answered: BTreeSet::new(),
            penalized: false,
            logprobs: options.logprobs,
            ends_loops: !options.allow_loops && !options.ignore_stop,
        }
    }

    /// Holds the answer to a form.
    pub(super) fn constrained_by(mut self, constraint: Option<&'a mut dyn Constraint>) -> Self {
        self.constraint = constraint;
        self
    }

    /// True if the token ends the answer.
    pub(super) fn stops_at(&self, token: u32) -> bool {
        self.stop_tokens.contains(&token)
    }

    /// True if another token than those that end the answer is allowed.
    fn can_continue(&self, allowed: &[u32]) -> bool {
        let bits: u32 = allowed.iter().map(|word| word.count_ones()).sum();
        let stops: BTreeSet<u32> = self.stop_tokens.iter().copied().filter(|token| allows(allowed, *token)).collect();
        bits as usize > stops.len()
    }

    /// True if the answer repeats itself.
    pub(super) fn loops(&self, answer: &[u32]) -> bool {
        self.ends_loops && is_loop(answer)
    }

    /// Begins the answer. Where no other option needs the logits, the model subtracts the presence penalty.
    pub(super) fn begin<B: Backend>(&mut self, model: &mut B, traced: bool) -> Result<(), RuntimeError> {
        let needs_logits = self.penalty.is_some() || self.logprobs.is_some() || traced;
        self.penalized = model.begin_answer(self.presence_penalty.filter(|_| !needs_logits))? && !needs_logits;
        Ok(())
    }

    /// Records tokens for the repetition penalty.
    pub(super) fn record(&mut self, tokens: &[u32]) {
        if self.penalty.is_some() {
            self.seen.extend(tokens);
        }
    }

    /// Chooses the token after the model's last position; `answer` are the tokens so far. Where no option needs the logits, the model chooses
    /// on its own and queues the decode step at once.
    pub(super) async fn next<B: Backend>(
        &mut self,
        model: &mut B,
        tokenizer: &Tokenizer,
        answer: &[u32],
        trace: Option<&mut Trace>,
    ) -> Result<Choice, RuntimeError> {
        let generated = answer.len();
        let allowed = match &mut self.constraint {
            Some(constraint) => Some(constraint.next(answer.last().copied()).await?),
            None => None,
        };
        let allowed = allowed.as_deref();
        // A text that is complete ends, whatever its length.
        let too_early = generated < self.min_new_tokens && allowed.is_none_or(|allowed| self.can_continue(allowed));
        let penalized = self.penalized || self.presence_penalty.is_none();
        if self.penalty.is_none() && penalized && self.logprobs.is_none() && !too_early && trace.is_none() {
            let queued = generated + 1 < self.max_new_tokens && model.length() < model.context_length();
            let token = model.next_token(self.sampler.as_mut(), allowed, queued).await?;
            return Ok(Choice { token, logprobs: None, queued });
        }
        let original = model.logits().await?;
        if let Some(trace) = trace {
            trace.entry("decode_logits".to_owned()).or_default().extend(&original);
        }
        let mut logits = original.clone();
        if let Some(penalty) = self.penalty {
            penalize(&mut logits, &self.seen, penalty);
        }
        if let Some(penalty) = self.presence_penalty.filter(|_| !penalized) {
            for token in &self.answered {
                logits[*token as usize] -= penalty;
            }
        }
        if too_early {
            for token in &self.stop_tokens {
                if let Some(logit) = logits.get_mut(*token as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        if let Some(allowed) = allowed {
            exclude(&mut logits, allowed);
        }
        let token = match &mut self.sampler {
            Some(sampler) => sampler.sample(&logits),
            None => largest(&logits),
        };
        self.record(&[token]);
        if self.presence_penalty.is_some() {
            self.answered.insert(token);
        }
        let logprobs = self.logprobs.map(|count| {
            let log_sum = log_sum_exp(&original);
            let logprob = |token: u32| TokenLogprob {
                token,
                text: tokenizer.decode(&[token], KeepSpecials::All),
                logprob: f64::from(original[token as usize]) - log_sum,
            };
            TokenLogprobs { chosen: logprob(token), top: most_likely(&original, count).into_iter().map(logprob).collect() }
        });
        Ok(Choice { token, logprobs, queued: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> GenerationConfig {
        GenerationConfig {
            chat_format: "chatml".to_owned(),
            eos_token_id: 50,
            extra_eos_token_ids: vec![51, 52],
            max_new_tokens: 64,
            max_length: Some(40),
            max_window_size: 100,
            do_sample: true,
            temperature: Some(0.6),
            top_k: 7,
            top_p: 0.3,
            repetition_penalty: Some(1.25),
            presence_penalty: Some(0.5),
            min_new_tokens: Some(3),
            stop_strings: vec!["</answer>".to_owned()],
        }
    }

    #[test]
    fn loops() {
        let repeated = |passage: &[u32], tokens: usize| -> Vec<u32> { passage.iter().copied().cycle().take(tokens).collect() };
        let passage: Vec<u32> = (0..64).collect();
        for (tokens, expected) in [
            (repeated(&[7], 127), false),
            (repeated(&[7], 128), true),
            (repeated(&[1, 2, 3], 128), true),
            (repeated(&passage[..40], 159), false),
            (repeated(&passage[..40], 160), true),
            (repeated(&passage, 256), true),
            // Too long a passage, and numbers that count.
            ((0..65).cycle().take(1000).collect(), false),
            ((0..300).flat_map(|number| [5, 6, number, 7]).collect(), false),
            (Vec::new(), false),
        ] {
            assert_eq!(is_loop(&tokens), expected, "{} tokens that begin with {:?}", tokens.len(), &tokens[..tokens.len().min(4)]);
            // Text before a loop changes nothing. A different token after it ends the loop.
            let before = [&[9, 8, 9][..], &tokens].concat();
            assert_eq!(is_loop(&before), expected);
            assert!(!is_loop(&[&before[..], &[1000]].concat()));
        }
    }

    #[test]
    fn the_checkpoint_has_the_defaults_and_the_request_overrides_them() {
        let defaults = defaults();
        let special = SpecialIds::after(320);
        let chooser = Chooser::new(&GenerationOptions::default(), &defaults, Family::QwenVl, special);
        let sampling = *chooser.sampler.as_ref().unwrap().options();
        assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p), (0.6, 7, 0.3));
        assert_eq!((chooser.penalty, chooser.presence_penalty, chooser.min_new_tokens), (Some(1.25), Some(0.5), 3));
        assert_eq!(GenerationOptions::default().stops(&defaults), ["</answer>"]);
        for token in [50, 51, 52, special.endoftext, special.im_end, special.im_start] {
            assert!(chooser.stops_at(token), "{token}");
        }
        assert!(!chooser.stops_at(53));

        let options = GenerationOptions {
            temperature: Some(2.0),
            top_k: Some(0),
            top_p: Some(1.0),
            repetition_penalty: Some(1.0),
            presence_penalty: Some(0.0),
            max_new_tokens: Some(2),
            stop: vec!["\n".to_owned()],
            stop_tokens: vec![53],
            ..GenerationOptions::default()
        };
        let chooser = Chooser::new(&options, &defaults, Family::Qwen3Vl, special);
        let sampling = *chooser.sampler.as_ref().unwrap().options();
        assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p), (2.0, 0, 1.0));
        assert_eq!((chooser.penalty, chooser.presence_penalty, chooser.min_new_tokens), (None, None, 2));
        assert_eq!(options.stops(&defaults), ["\n", "</answer>"]);
        // The penalty of the generation holds for sampled answers, unless the checkpoint or the request has one.
        let unset = GenerationConfig { presence_penalty: None, ..defaults.clone() };
        let penalty = |family, options: &GenerationOptions| Chooser::new(options, &unset, family, special).presence_penalty;
        let none = GenerationOptions::default();
        assert_eq!(penalty(Family::Qwen3Vl, &none), Some(1.5));
        assert_eq!(penalty(Family::Qwen3Vl, &options), None);
        assert_eq!(penalty(Family::Qwen25Vl, &none), None);
        assert_eq!(penalty(Family::Qwen3Vl, &GenerationOptions { greedy: Some(true), ..none }), None);
        let past_stops = GenerationOptions { ignore_stop: true, ..options };
        assert_eq!((past_stops.shortest_answer(&defaults), past_stops.stops(&defaults)), (0, vec!["\n".to_owned()]));
        assert!(chooser.stops_at(50) && chooser.stops_at(53));
    }
}
