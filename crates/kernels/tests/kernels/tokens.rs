//! From token ids to rows, and from logits to token ids.

use crate::support::{for_each_scheme, gpu, read, read_u32, rows, run, weight};
use qwen_vl_format::Scheme;
use qwen_vl_kernels::presence::PresencePenalty;
use qwen_vl_kernels::sample::{self, Draw, DrawBuffer};
use qwen_vl_kernels::{Kernels, StepBuffer, argmax, embedding};
use qwen_vl_testkit::closeness::noise;

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
    let token = gpu.storage("token", 4).unwrap();
    let find = |values: &[f32]| {
        let logits = rows(&gpu, 1, values.len(), values);
        run(&gpu, &[argmax::argmax(&gpu, &logits, &token)], 1);
        read_u32(&gpu, &token)
    };
    let mut logits = noise(3, 4099);
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    assert_eq!(logits[find(&logits) as usize], largest);
    (logits[4000], logits[511], logits[257]) = (9.0, 9.0, 9.0);
    assert_eq!(find(&logits), 257);
    assert_eq!(find(&[-5.0, -3.0, -4.0]), 1);
    for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        logits[1234] = broken;
        assert_eq!(find(&logits), argmax::NOT_FINITE, "{broken}");
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

#[test]
fn draws_come_from_the_likeliest_tokens_in_their_proportions() {
    let gpu = gpu(Kernels::PLAIN);
    let token = gpu.storage("token", 4).unwrap();
    let buffer = DrawBuffer::new(&gpu);
    let mut equals = noise(7, 1000);
    equals.iter_mut().step_by(3).for_each(|logit| *logit = 2.5);
    for (name, logits) in [("noise", noise(3, 4099)), ("few", noise(5, 3)), ("equals", equals)] {
        let input = rows(&gpu, 1, logits.len(), &logits);
        let launch = [sample::sample(&gpu, &input, &buffer, &token)];
        let run_draw = |draw| {
            buffer.write(&gpu, draw);
            run(&gpu, &launch, 1);
            read_u32(&gpu, &token)
        };
        for (temperature, top_k, top_p) in
            [(1.0, 0, 1.0), (0.7, 5, 1.0), (1.0, 0, 0.3), (1.3, 40, 0.8), (1e-6, 0, 0.9), (1.0, 1, 1.0), (1.0, 0, 0.0)]
        {
            let what = format!("{name}, temperature {temperature}, top-k {top_k}, top-p {top_p}");
            let options = Draw { temperature, top_p, top_k, random: 0.0 };
            let want = kept(&logits, options);
            let total: f64 = want.iter().map(|(_, weight)| weight).sum();
            let draws: Vec<u32> = (0..64).map(|i| run_draw(Draw { random: (i as f32 + 0.5) / 64.0, ..options })).collect();
            assert!(draws.iter().all(|id| want.iter().any(|(token, _)| token == id)), "{what}: {draws:?}");
            // Evenly spread random numbers draw each token in proportion to its probability, up to one draw at either end of its range.
            for (id, weight) in &want {
                let (expected, found) = (64.0 * weight / total, draws.iter().filter(|draw| *draw == id).count() as f64);
                assert!((found - expected).abs() <= 1.0 + 1e-3, "{what}: token {id} was drawn {found} times, expected {expected}");
            }
        }
    }
    let broken = rows(&gpu, 1, 3, &[0.0, f32::NAN, 1.0]);
    buffer.write(&gpu, Draw { temperature: 1.0, top_p: 1.0, top_k: 0, random: 0.5 });
    run(&gpu, &[sample::sample(&gpu, &broken, &buffer, &token)], 1);
    assert_eq!(read_u32(&gpu, &token), argmax::NOT_FINITE);
}

#[test]
fn tokens_of_the_answer_are_penalized_each_once() {
    for kernels in [Kernels::PLAIN, Kernels::CPU] {
        let gpu = gpu(kernels);
        let values = noise(3, 4099);
        let logits = rows(&gpu, 1, values.len(), &values);
        let token = gpu.storage("token", 4).unwrap();
        let presence = PresencePenalty::new(&gpu, &logits, &token).unwrap();
        for (penalty, answer) in [(1.5, vec![0, 31, 32, 33, 4098, 31, 2000, argmax::NOT_FINITE, 4099]), (-0.5, vec![7]), (1.0, vec![])] {
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
