//! Sampling of the next token from logits (`qwen_generation_utils.py`; `TopKLogitsWarper`, `TopPLogitsWarper` and
//! `RepetitionPenaltyLogitsProcessor` in transformers), and log-probabilities.

use qwen_vl_kernels::mask::allows;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Options of sampling.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SamplingOptions {
    /// Divisor of the logits.
    pub temperature: f32,
    /// Number of most likely tokens to keep; 0 keeps all.
    pub top_k: usize,
    /// Probability mass to keep: a token stays if the more likely ones add up to less.
    pub top_p: f32,
    /// Seed of the random numbers: the same seed gives the same answer on the same adapter.
    pub seed: u64,
}

/// Samples tokens.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplingOptions,
    random: fastrand::Rng,
}

impl Sampler {
    /// Creates a sampler at the start of its random numbers.
    pub fn new(options: SamplingOptions) -> Self {
        Self { options, random: fastrand::Rng::with_seed(options.seed) }
    }

    /// The options.
    pub fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// Returns the next random number, at least 0 and below 1, for sampling on the GPU.
    pub fn random(&mut self) -> f64 {
        self.random.f64()
    }

    /// Returns the next token. `logits` are finite, or minus infinity for excluded tokens.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let kept = self.kept(logits);
        let total: f64 = kept.iter().map(|(_, probability)| probability).sum();
        let mut left = self.random.f64() * total;
        for (token, probability) in &kept {
            left -= probability;
            if left <= 0.0 {
                return *token;
            }
        }
        kept[kept.len() - 1].0
    }

    /// Returns the tokens to sample from with their probabilities before renormalisation, the most likely first; at least one.
    pub fn kept(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let mut places: Vec<u64> = (0u32..).zip(logits).filter(|(_, logit)| logit.is_finite()).map(place).collect();
        let count = if self.options.top_k == 0 { places.len() } else { self.options.top_k.min(places.len()) };
        if count < places.len() {
            places.select_nth_unstable(count);
            places.truncate(count);
        }
        let temperature = f64::from(self.options.temperature.max(1e-6));
        let logit = |place: &u64| logits[token(*place) as usize];
        let largest = places.iter().map(logit).fold(f32::MIN, f32::max);
        let weight = |place: &u64| (f64::from(logit(place) - largest) / temperature).exp();
        let total: f64 = places.iter().map(weight).sum();

        // A few tokens usually hold the mass: sort the vocabulary only as far as necessary.
        let (mut kept, mut before, mut ordered) = (Vec::new(), 0.0, 0);
        while ordered < places.len() {
            let end = (ordered * 8).max(256).min(places.len());
            if end < places.len() {
                places[ordered..].select_nth_unstable(end - ordered - 1);
            }
            places[ordered..end].sort_unstable();
            for place in &places[ordered..end] {
                if !kept.is_empty() && before >= f64::from(self.options.top_p) {
                    return kept;
                }
                let probability = weight(place) / total;
                kept.push((token(*place), probability));
                before += probability;
            }
            ordered = end;
        }
        kept
    }
}

/// Makes tokens that occurred less likely (`RepetitionPenaltyLogitsProcessor`): divides a positive logit by `penalty` and multiplies a
/// negative one, once for each token.
pub fn penalize(logits: &mut [f32], seen: &BTreeSet<u32>, penalty: f32) {
    for token in seen {
        if let Some(logit) = logits.get_mut(*token as usize) {
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
}

/// Excludes the tokens whose bit in `allowed` is not set: the lowest bit of the first word is that of token 0.
pub fn exclude(logits: &mut [f32], allowed: &[u32]) {
    for (token, logit) in (0..).zip(logits) {
        if !allows(allowed, token) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// Returns the index of the largest logit, the lowest index among equals; 0 if there are none.
pub fn largest(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().reduce(|best, other| if other.1 > best.1 { other } else { best });
    best.map_or(0, |(index, _)| index as u32)
}

/// Returns the logarithm of the sum of the exponentials. A logit minus this number is a log-probability.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    largest + logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum::<f64>().ln()
}

/// Returns the `count` most likely tokens, the most likely first, equals by their id.
pub fn most_likely(logits: &[f32], count: usize) -> Vec<u32> {
    let mut places: Vec<u64> = (0..).zip(logits).map(place).collect();
    if count < places.len() && count > 0 {
        places.select_nth_unstable(count - 1);
    }
    places.truncate(count);
    places.sort_unstable();
    places.into_iter().map(token).collect()
}

/// Returns the place of a token in the order of tokens: the most likely first, equals by their id. The code that sorts numbers is 8 kB shorter
/// in the wasm than the code that sorts pairs by a comparison.
fn place((token, logit): (u32, &f32)) -> u64 {
    let bits = logit.to_bits();
    // Negative numbers have a sign bit, and are the larger the smaller their other bits are.
    let descending = if bits >> 31 == 1 { bits } else { !bits & (u32::MAX >> 1) };
    u64::from(descending) << 32 | u64::from(token)
}

/// Returns the token of a place.
fn token(place: u64) -> u32 {
    place as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_penalty_lowers_tokens_that_occurred() {
        let mut logits = [2.0, -2.0, 3.0];
        penalize(&mut logits, &BTreeSet::from([0, 1, 9]), 2.0);
        assert_eq!(logits, [1.0, -4.0, 3.0]);
    }

    #[test]
    fn tokens_that_are_not_allowed_are_excluded() {
        let mut logits: Vec<f32> = (0..70).map(|token| token as f32).collect();
        exclude(&mut logits, &[1 << 31 | 1, 0, 1]);
        let left: Vec<usize> = (0..70).filter(|token| logits[*token].is_finite()).collect();
        assert_eq!(left, [0, 31, 64]);
        exclude(&mut logits, &[1]);
        assert_eq!(logits.iter().filter(|logit| logit.is_finite()).count(), 1, "tokens beyond the last word are excluded");
    }

    #[test]
    fn the_likeliest_tokens_and_their_probabilities() {
        let logits = [1.0, 3.0, 3.0, -5.0];
        assert_eq!((largest(&logits), largest(&[])), (1, 0));
        assert_eq!(most_likely(&logits, 2), [1, 2]);
        assert_eq!(most_likely(&logits, 9), [1, 2, 0, 3]);
        assert!(most_likely(&logits, 0).is_empty());
        let total: f64 = logits.iter().map(|logit| (f64::from(*logit) - log_sum_exp(&logits)).exp()).sum();
        assert!((total - 1.0).abs() < 1e-12, "{total}");
    }

    #[test]
    fn places_are_in_the_order_of_logits_and_ids() {
        let logits = [f32::NAN, f32::INFINITY, 3.5, 3.5, 1e-40, 0.0, -0.0, -1e-40, -2.0, -2.5, -2.5, f32::NEG_INFINITY];
        assert!(logits.is_sorted_by(|a, b| a.total_cmp(b).is_ge()));
        let places: Vec<u64> = (7..).zip(&logits).map(place).collect();
        assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
        assert!(places.into_iter().map(token).eq(7..7 + logits.len() as u32));
    }

    #[test]
    fn excluded_tokens_are_never_sampled() {
        let mut sampler = sampler(1.0, 0, 1.0);
        let logits = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY];
        assert!((0..50).all(|_| sampler.sample(&logits) == 1));
    }

    fn sampler(temperature: f32, top_k: usize, top_p: f32) -> Sampler {
        Sampler::new(SamplingOptions { temperature, top_k, top_p, seed: 1 })
    }

    fn kept(sampler: &Sampler, probabilities: &[f32]) -> Vec<u32> {
        let logits: Vec<f32> = probabilities.iter().map(|p| p.ln()).collect();
        sampler.kept(&logits).into_iter().map(|(token, _)| token).collect()
    }

    #[test]
    fn top_p_keeps_the_token_that_crosses_the_mass() {
        let probabilities = [0.1, 0.4, 0.3, 0.2];
        assert_eq!(kept(&sampler(1.0, 0, 0.3), &probabilities), [1]);
        assert_eq!(kept(&sampler(1.0, 0, 0.5), &probabilities), [1, 2]);
        assert_eq!(kept(&sampler(1.0, 0, 1.0), &probabilities), [1, 2, 3, 0]);
        assert_eq!(kept(&sampler(1.0, 0, 0.0), &probabilities), [1], "at least one stays");
    }

    #[test]
    fn top_k_keeps_the_most_likely() {
        assert_eq!(kept(&sampler(1.0, 2, 1.0), &[0.1, 0.4, 0.3, 0.2]), [1, 2]);
        assert_eq!(kept(&sampler(1.0, 9, 1.0), &[0.6, 0.4]), [0, 1]);
    }

    #[test]
    fn a_flat_vocabulary_is_kept_whole_and_in_order() {
        let logits: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 5000) as f32 * 1e-6).collect();
        let kept = sampler(1.0, 0, 1.0).kept(&logits);
        assert_eq!(kept.len(), logits.len());
        assert!(kept.windows(2).all(|pair| logits[pair[0].0 as usize] > logits[pair[1].0 as usize]));
        assert!((kept.iter().map(|(_, probability)| probability).sum::<f64>() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn samples_follow_the_probabilities() {
        let mut sampler = sampler(1.0, 0, 1.0);
        let logits = [0.75f32.ln(), 0.25f32.ln()];
        let draws = 20_000;
        let first = (0..draws).filter(|_| sampler.sample(&logits) == 0).count() as f64 / f64::from(draws);
        // Five standard deviations of a binomial share.
        assert!((first - 0.75).abs() < 5.0 * (0.75 * 0.25 / f64::from(draws)).sqrt(), "{first}");
    }

    #[test]
    fn low_temperature_is_greedy_and_seeds_repeat() {
        let logits = [0.0, 1.0, 0.5];
        assert!((0..50).all(|_| sampler(0.0, 0, 1.0).sample(&logits) == 1));
        let draw = |seed| -> Vec<u32> {
            let mut sampler = Sampler::new(SamplingOptions { temperature: 1.0, top_k: 0, top_p: 1.0, seed });
            (0..40).map(|_| sampler.sample(&logits)).collect()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
