//! From token ids to rows, and from logits to token ids.

use crate::support::{for_each_scheme, gpu, read, read_u32, rows, run, weight};
use qwen_vl_format::Scheme;
use qwen_vl_kernels::argmax::{Best, NOT_FINITE, argmax};
use qwen_vl_kernels::mask::{EXCLUDED, TokenMask, allows};
use qwen_vl_kernels::presence::PresencePenalty;
use qwen_vl_kernels::sample::{Draw, DrawBuffer, Scratch, sample};
use qwen_vl_kernels::{Activation, Dispatch, Gpu, Kernels, StepBuffer, embedding};
use qwen_vl_testkit::closeness::noise;
use std::collections::{BTreeMap, BTreeSet};

mod embedding_matches_decoded_rows {
    use super::*;
    for_each_scheme!(check_embedding);
}

fn check_embedding(scheme: Scheme) {
    let gpu = gpu(Kernels::PLAIN);
    let step = StepBuffer::new(&gpu);
    let (vocab, hidden) = (100, 96);
    let (weight, values) = weight(&gpu, scheme, vocab, hidden, 64, 7);
    let ids: [u32; 4] = [0, 99, 64, 63];
    let id_buffer = gpu.storage("ids", 16).unwrap();
    gpu.queue().write_buffer(&id_buffer, 0, bytemuck::cast_slice(&ids));
    let output = gpu.activation("out", 4, hidden).unwrap();
    step.write(&gpu, 4, 0, 4);
    run(&gpu, &embedding::embedding(&gpu, &step, &weight, &id_buffer, &output), 4);
    let want: Vec<f32> = ids.iter().flat_map(|id| values[*id as usize * hidden..][..hidden].to_vec()).collect();
    assert_eq!(read(&gpu, &output, 4), want);
}

mod argmax_finds_the_first_largest_and_reports_broken_logits {
    use super::*;

    #[test]
    fn plain() {
        check_argmax(Kernels::PLAIN);
    }

    #[test]
    fn cpu() {
        check_argmax(Kernels::CPU);
    }
}

fn check_argmax(kernels: Kernels) {
    let gpu = gpu(kernels);
    let (best, token) = (Best::new(&gpu).unwrap(), gpu.storage("token", 4).unwrap());
    let find = |logits: &Activation, values: &[f32]| {
        gpu.write_rows(logits, values);
        run(&gpu, &argmax(&gpu, logits, &best, &token), 1);
        read_u32(&gpu, &token)
    };
    // One slice, and many, the last one short.
    for vocab in [3, 4, 1023, 1025, 4099, 50_001] {
        let logits = gpu.activation("logits", 1, vocab).unwrap();
        let mut values = noise(3, vocab);
        let largest = values.iter().copied().fold(f32::MIN, f32::max);
        assert_eq!(values[find(&logits, &values) as usize], largest, "{vocab}");
        // All are negative: the padding is not.
        values.iter_mut().for_each(|logit| *logit -= 100.0);
        assert_eq!(values[find(&logits, &values) as usize], largest - 100.0, "{vocab}");
        // The largest in each slice, then equals in many slices: from the last one to the first.
        let places: Vec<usize> = (0..vocab).step_by(vocab.div_ceil(60)).chain([vocab - 1]).collect();
        for place in &places {
            let before = std::mem::replace(&mut values[*place], 7.0);
            assert_eq!(find(&logits, &values), *place as u32, "{vocab}");
            values[*place] = f32::NAN;
            assert_eq!(find(&logits, &values), NOT_FINITE, "{vocab}: {place}");
            values[*place] = before;
        }
        for place in places.iter().rev() {
            values[*place] = 9.0;
            assert_eq!(find(&logits, &values), *place as u32, "{vocab}: equals");
        }
        for broken in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            values[vocab / 2] = broken;
            assert_eq!(find(&logits, &values), NOT_FINITE, "{vocab}: {broken}");
        }
        values.fill(-f32::MAX);
        assert_eq!(find(&logits, &values), 0, "{vocab}: the least of all");
        values.fill(0.0);
        values[0] = -0.0;
        assert_eq!(find(&logits, &values), 0, "{vocab}: both zeros are equal");
    }
}

/// Returns the tokens that a draw may give with their probabilities, the likeliest first, by sorting.
fn kept(logits: &[f32], draw: Draw) -> Vec<(u32, f64)> {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let weight = |logit: &f32| f64::from((logit - largest) / draw.temperature).exp();
    let mut tokens: Vec<(u32, f64)> = (0..).zip(logits.iter().map(weight)).collect();
    tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    tokens.truncate(if draw.top_k == 0 { logits.len() } else { draw.top_k as usize });
    let total: f64 = tokens.iter().map(|(_, weight)| weight).sum();
    let mut before = 0.0;
    tokens.retain(|(_, weight)| {
        let stays = before == 0.0 || before < f64::from(draw.top_p) * total;
        before += weight;
        stays
    });
    tokens
}

/// The launches of a draw from given logits.
struct Drawing {
    gpu: Gpu,
    logits: Vec<f32>,
    scratch: Scratch,
    buffer: DrawBuffer,
    token: wgpu::Buffer,
    launches: Vec<Dispatch>,
}

impl Drawing {
    fn new(kernels: Kernels, logits: Vec<f32>) -> Self {
        let gpu = gpu(kernels);
        let input = rows(&gpu, 1, logits.len(), &logits);
        let token = gpu.storage("token", 4).unwrap();
        let (best, scratch, buffer) = (Best::new(&gpu).unwrap(), Scratch::new(&gpu, logits.len()).unwrap(), DrawBuffer::new(&gpu));
        let launches = argmax(&gpu, &input, &best, &token).into_iter().chain(sample(&gpu, &input, &best, &scratch, &buffer, &token));
        Self { launches: launches.collect(), gpu, logits, scratch, buffer, token }
    }

    fn draw(&self, draw: Draw) -> u32 {
        self.buffer.write(&self.gpu, draw);
        run(&self.gpu, &self.launches, 1);
        read_u32(&self.gpu, &self.token)
    }

    /// Returns the number of candidates of the last draw.
    fn candidates(&self) -> usize {
        let bytes = pollster::block_on(self.gpu.read(&self.scratch.slices, 0, self.scratch.slices.size())).unwrap();
        bytemuck::cast_slice(&bytes).iter().step_by(2).map(|count: &u32| *count as usize).sum()
    }

    /// Compares draws with evenly spread random numbers with the oracle; returns the number of tokens that the oracle keeps.
    fn check(&self, options: Draw, what: &str) -> usize {
        let Draw { temperature, top_p, top_k, .. } = options;
        let what = format!("{what}, temperature {temperature}, top-k {top_k}, top-p {top_p}");
        let want = kept(&self.logits, options);
        let total: f64 = want.iter().map(|(_, weight)| weight).sum();
        let count = if want.len() > 2000 { 8 } else { 64 };
        let mut draws = BTreeMap::new();
        for i in 0..count {
            *draws.entry(self.draw(Draw { random: (i as f32 + 0.5) / count as f32, ..options })).or_insert(0) += 1;
        }
        for id in draws.keys() {
            assert!(want.iter().any(|(token, _)| token == id), "{what}: {id} is not one of the {} likeliest: {draws:?}", want.len());
        }
        // Evenly spread random numbers draw each token in proportion to its probability, up to one draw at either end of its range.
        for (id, weight) in &want {
            let (expected, found) = (f64::from(count) * weight / total, f64::from(draws.get(id).copied().unwrap_or(0)));
            assert!((found - expected).abs() <= 1.0 + 1e-3, "{what}: token {id} was drawn {found} times, expected {expected}");
        }
        want.len()
    }
}

fn options(temperature: f32, top_k: u32, top_p: f32) -> Draw {
    Draw { temperature, top_p, top_k, random: 0.5 }
}

/// Logits as those of a trained model: most of them are close together, a few are far above.
fn peaked(vocab: usize) -> Vec<f32> {
    let mut logits: Vec<f32> = noise(11, vocab).iter().map(|value| 2.5 * value).collect();
    for (i, place) in (0..vocab).step_by(vocab / 30).enumerate() {
        logits[place] = 16.0 - 0.4 * i as f32;
    }
    logits
}

mod draws_come_from_the_likeliest_tokens_in_their_proportions {
    use super::*;

    #[test]
    fn plain() {
        check_draws(Kernels::PLAIN);
    }

    #[test]
    fn cpu() {
        check_draws(Kernels::CPU);
    }
}

fn check_draws(kernels: Kernels) {
    let mut equals = noise(7, 1000);
    equals.iter_mut().step_by(3).for_each(|logit| *logit = 2.5);
    // The only likely tokens, all in different slices.
    let mut four = vec![-100.0; 20_000];
    [19_999, 13_000, 5000, 10].iter().for_each(|place| four[*place] = -3.0);
    let wide = noise(9, 5000).iter().map(|logit| 1e4 * logit).collect();
    for (name, logits) in [("noise", noise(3, 4099)), ("few", noise(5, 3)), ("equals", equals), ("four", four), ("wide", wide)] {
        let drawing = Drawing::new(kernels, logits);
        for (temperature, top_k, top_p) in [
            (1.0, 0, 1.0),
            (0.7, 5, 1.0),
            (0.7, 3, 0.5),
            (1.0, 0, 0.3),
            (1.3, 40, 0.8),
            (1e-6, 0, 0.9),
            (1e-6, 20, 0.9),
            (1e6, 20, 0.9),
            (1.0, 1, 1.0),
            (1.0, 0, 0.0),
            (1.0, u32::MAX, 0.6),
        ] {
            drawing.check(options(temperature, top_k, top_p), name);
        }
    }
}

/// A draw reads few tokens more often than twice: those that the histogram cannot exclude.
#[test]
fn candidates_are_few_unless_tokens_are_equally_likely() {
    for kernels in [Kernels::PLAIN, Kernels::CPU] {
        let drawing = Drawing::new(kernels, peaked(50_000));
        for (temperature, top_k, top_p, most) in
            [(1.0, 0, 0.9, 40), (0.7, 20, 0.8, 30), (1.0, 1, 1.0, 2), (2.0, 0, 0.3, 2000), (1.0, 3000, 0.9, 4000), (3.0, 3000, 1.0, 4000)]
        {
            let least = drawing.check(options(temperature, top_k, top_p), "peaked").max(top_k as usize);
            let candidates = drawing.candidates();
            assert!(
                (least..=most).contains(&candidates),
                "{temperature} {top_k} {top_p}: {candidates} candidates, {least} to {most} expected"
            );
        }
        // Without a bound no token is a candidate: the draw walks the slices' masses.
        for temperature in [1.0, 4.0] {
            drawing.check(options(temperature, 0, 1.0), "peaked");
            assert_eq!(drawing.candidates(), 0);
        }

        // All are equal: every token is a candidate, and those with the lowest indices are kept.
        let flat = Drawing::new(kernels, vec![-1.5; 10_000]);
        for (top_k, top_p) in [(4000, 1.0), (0, 0.3), (6000, 0.1)] {
            flat.check(options(1.0, top_k, top_p), "flat");
            assert_eq!(flat.candidates(), 10_000);
        }
        assert_eq!([(2, 1.0), (0, 1.5e-4)].map(|(top_k, top_p)| flat.check(options(1.0, top_k, top_p), "flat")), [2, 2]);
    }
}

/// The tokens are close together, so that another order of sums would give other tokens.
#[test]
fn a_draw_can_be_repeated() {
    let drawing = Drawing::new(Kernels::PLAIN, noise(3, 20_000));
    for (top_k, top_p) in [(0, 1.0), (0, 0.9), (0, 0.5), (5000, 0.95)] {
        let draws =
            || -> Vec<u32> { (0..16).map(|i| drawing.draw(Draw { random: i as f32 / 16.0, ..options(1.0, top_k, top_p) })).collect() };
        let first = draws();
        assert!(first.iter().collect::<BTreeSet<_>>().len() > 10, "{first:?}");
        for _ in 0..2 {
            assert_eq!(draws(), first);
        }
    }
}

#[test]
fn a_draw_reports_broken_logits() {
    for kernels in [Kernels::PLAIN, Kernels::CPU] {
        for place in [0, 2, 1024, 7000, 49_999] {
            let mut logits = peaked(50_000);
            logits[place] = f32::NAN;
            let drawing = Drawing::new(kernels, logits);
            for draw in [options(1.0, 0, 1.0), options(1.0, 20, 0.8)] {
                assert_eq!(drawing.draw(draw), NOT_FINITE);
            }
        }
    }
}

#[test]
fn tokens_of_the_answer_are_penalized_each_once() {
    for kernels in [Kernels::PLAIN, Kernels::CPU] {
        let gpu = gpu(kernels);
        let values = noise(3, 4099);
        let logits = rows(&gpu, 1, values.len(), &values);
        let token = gpu.storage("token", 4).unwrap();
        let presence = PresencePenalty::new(&gpu, &logits, &token).unwrap();
        for (penalty, answer) in [(1.5, vec![0, 31, 32, 33, 4098, 31, 2000, NOT_FINITE, 4099]), (-0.5, vec![7]), (1.0, vec![])] {
            presence.begin(&gpu, penalty);
            for id in &answer {
                gpu.queue().write_buffer(&token, 0, bytemuck::bytes_of(id));
                run(&gpu, std::slice::from_ref(&presence.mark), 1);
            }
            gpu.queue().write_buffer(&logits.buffer, 0, bytemuck::cast_slice(&values));
            run(&gpu, std::slice::from_ref(&presence.penalize), 1);
            let want = (0..).zip(&values).map(|(id, logit)| if answer.contains(&id) { logit - penalty } else { *logit });
            assert_eq!(read(&gpu, &logits, 1), want.collect::<Vec<f32>>(), "{penalty}");
        }
    }
}

#[test]
fn tokens_that_are_not_allowed_are_excluded() {
    for kernels in [Kernels::PLAIN, Kernels::CPU] {
        let gpu = gpu(kernels);
        let values = noise(3, 4099);
        let logits = rows(&gpu, 1, values.len(), &values);
        let mask = TokenMask::new(&gpu, &logits).unwrap();
        let some: Vec<u32> = (0..129).map(|word: u32| word.wrapping_mul(0x9e37_79b9)).collect();
        // No token, all, some, and fewer or more words than the vocabulary has.
        for allowed in [vec![], vec![u32::MAX; 129], some.clone(), some[..3].to_vec(), vec![u32::MAX; 200]] {
            gpu.queue().write_buffer(&logits.buffer, 0, bytemuck::cast_slice(&values));
            mask.write(&gpu, &allowed);
            run(&gpu, std::slice::from_ref(&mask.exclude), 1);
            let want = (0..).zip(&values).map(|(id, logit)| if allows(&allowed, id) { *logit } else { EXCLUDED });
            assert_eq!(read(&gpu, &logits, 1), want.collect::<Vec<f32>>());
        }
    }
}

#[test]
fn a_broken_logit_is_reported_even_if_its_token_is_excluded() {
    for kernels in [Kernels::PLAIN, Kernels::CPU] {
        let gpu = gpu(kernels);
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = noise(3, 100);
            values[70] = broken;
            let logits = rows(&gpu, 1, values.len(), &values);
            let mask = TokenMask::new(&gpu, &logits).unwrap();
            mask.write(&gpu, &[1]);
            run(&gpu, std::slice::from_ref(&mask.exclude), 1);
            let token = gpu.storage("token", 4).unwrap();
            run(&gpu, &argmax(&gpu, &logits, &Best::new(&gpu).unwrap(), &token), 1);
            assert_eq!(read_u32(&gpu, &token), NOT_FINITE);
        }
    }
}
