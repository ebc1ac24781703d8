//! Rounds of load, question and disposal: the same answer in each, and no memory left behind.

use crate::support::{convert, load};
use quantize::SchemeName;
use qwen_vl_processor::Colors;
use qwen_vl_runtime::ModelOptions;
use qwen_vl_runtime::session::{Engine, GenerationOptions, ImageInput, PictureLimits, PromptInput, Request};
use qwen_vl_testkit::golden::fixtures;
use std::ops::ControlFlow;
use std::path::Path;

/// Number of rounds, if `QWEN_VL_ROUNDS` names none. So few say nothing about memory.
const FEW: usize = 3;
/// Rounds of which the first part is left out, in which caches of the driver fill.
const WARM_UP: f64 = 0.3;
/// Bytes that the process may grow with each round, at the lower end of the slope's error. The weights of the model are 100 times as large.
const BOUND: f64 = 50_000.0;

/// Resident bytes of this process; `None` where the system does not report them.
fn resident_bytes() -> Option<f64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    pages.split(' ').nth(1)?.parse::<f64>().ok().map(|pages| pages * 4096.0)
}

/// Least squares: slope of the values over their positions, and its standard error.
fn slope(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let (x, y) = ((count - 1.0) / 2.0, values.iter().sum::<f64>() / count);
    let offsets = || values.iter().enumerate().map(|(at, value)| (at as f64 - x, value - y));
    let spread: f64 = offsets().map(|(dx, _)| dx * dx).sum();
    let slope = offsets().map(|(dx, dy)| dx * dy).sum::<f64>() / spread;
    let residue: f64 = offsets().map(|(dx, dy)| (dy - slope * dx).powi(2)).sum();
    (slope, (residue / (count - 2.0) / spread).sqrt())
}

#[test]
fn rounds_of_load_question_and_disposal() {
    let rounds = std::env::var("QWEN_VL_ROUNDS").map_or(FEW, |rounds| rounds.parse().expect("QWEN_VL_ROUNDS is a number"));
    let checkpoint = fixtures().join("checkpoints/mini-b");
    let folder = convert(&checkpoint, SchemeName::F32, 32);
    let vocabulary = std::fs::read(checkpoint.join("qwen.tiktoken")).unwrap();
    let picture = [ImageInput::Rgba { width: 2, height: 1, pixels: vec![9, 0, 0, 255, 0, 200, 0, 255], colors: Colors::Display }];
    let generation = GenerationOptions { greedy: Some(true), max_new_tokens: Some(4), ignore_stop: true, ..GenerationOptions::default() };
    let request =
        Request { prompt: PromptInput::Raw { text: "<img>a</img>Hello".to_owned() }, generation, pictures: PictureLimits::default() };
    let (mut first, mut resident) = (None, Vec::new());
    for round in 0..rounds {
        let model = load(&folder, ModelOptions { context_length: 512, ..Default::default() });
        let mut engine = Engine::new(model, &vocabulary).unwrap();
        let answer = pollster::block_on(engine.ask(&request, &picture, &mut |_| ControlFlow::Continue(()), None)).unwrap();
        assert_eq!(*first.get_or_insert_with(|| answer.tokens.clone()), answer.tokens, "round {round}");
        drop(engine);
        resident.extend(resident_bytes());
    }
    let kept = &resident[(resident.len() as f64 * WARM_UP) as usize..];
    if kept.len() < 20 {
        return;
    }
    let (slope, error) = slope(kept);
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let (start, end) = (mib(resident[0]), mib(resident[resident.len() - 1]));
    let memory = format!("{start:.0} to {end:.0} MiB resident, slope {slope:.0} ± {error:.0} bytes a round");
    println!("{rounds} rounds: {memory}");
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/robustness");
    std::fs::create_dir_all(&out).unwrap();
    let what = format!("rounds of load, question and disposal, native; {memory}");
    let figure = serde_json::json!({ "what": what, "points": rounds, "wrong": 0, "lost": 0 });
    std::fs::write(out.join("soak-native.json"), figure.to_string()).unwrap();
    assert!(slope - 2.0 * error < BOUND, "{memory}");
}
