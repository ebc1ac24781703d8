//! The later generations against the original code, from messages and pictures to tokens.

use crate::support::{convert, load_with};
use quantize::SchemeName;
use qwen_vl_processor::{Colors, DecodeOptions, Messages, Orientation, Picture, PictureGrid, PictureSizing, Prompt, Tokenizer};
use qwen_vl_runtime::{Backend, ImageFeatures, Kernels, KvReuse, Model, ModelOptions, Trace};
use qwen_vl_testkit::closeness::assert_close;
use qwen_vl_testkit::family::{FamilyCase, FamilySet};
use std::ops::ControlFlow;

/// Largest difference of features and intermediate steps (CONVENTIONS of the reference set).
const STEP_TOLERANCE: f32 = 1e-4;

/// Largest difference of logits: long prompts add up more roundings.
fn logits_tolerance(tokens: usize) -> f32 {
    if tokens <= 350 { 3e-4 } else { 2e-3 }
}

/// A golden model with its tokenizer.
struct Loaded {
    set: FamilySet,
    model: Model,
    tokenizer: Tokenizer,
    cases: Vec<FamilyCase>,
}

fn loaded(set: FamilySet, scheme: SchemeName, kernels: Kernels) -> Loaded {
    let cases = set.cases().unwrap();
    assert!(!cases.is_empty(), "{}", set.name);
    let folder = convert(&set.checkpoint(), scheme, 32);
    let context_length = cases.iter().map(|case| case.input_ids.len() + case.decode.tokens.len() + 1).max().unwrap();
    // Several chunks, whose borders lie inside of pictures.
    let options = ModelOptions { context_length, prefill_chunk: 50, ..ModelOptions::default() };
    let model = load_with(&folder, options, Some(kernels));
    let (config, processor) = (&model.manifest().config, &model.manifest().processor);
    let vocabulary = std::fs::read(folder.path().join("web").join(&processor.tokenizer_file)).unwrap();
    let tokenizer = Tokenizer::new(&vocabulary, config.family, &processor.added_tokens).unwrap();
    tokenizer.check_image_token(config.image_token).unwrap();
    Loaded { set, model, tokenizer, cases }
}

fn messages(case: &FamilyCase) -> Messages {
    let messages = case.messages.iter().map(|message| serde_json::from_value(message.clone()).unwrap()).collect();
    // Answers in the history have live tags of objects.
    Messages { messages, live_specials: true, ..Messages::default() }
}

impl Loaded {
    /// Encodes the pictures of a case and checks their grids and stages.
    fn features(&mut self, case: &FamilyCase) -> (Vec<PictureGrid>, Vec<ImageFeatures>) {
        let what = |part: &str| format!("{}/{}: {part}", self.set.name, case.name);
        let (vision, processor) = (self.model.manifest().config.vision.clone(), self.model.manifest().processor.clone());
        let (mut min_pixels, mut max_pixels) = (processor.min_pixels.unwrap(), processor.max_pixels.unwrap());
        if let Some(limits) = case.image_size_limits {
            (min_pixels, max_pixels) = (limits.min_pixels, limits.max_pixels);
        }
        let merge = vision.merger.as_ref().unwrap().size;
        let sizing = PictureSizing { patch_size: vision.patch_size, merge, min_pixels, max_pixels };
        let (mut grids, mut features, mut traces) = (Vec::new(), Vec::new(), Vec::new());
        for path in case.images() {
            let bytes = std::fs::read(self.set.root.join(path)).unwrap();
            let picture = Picture::decode(&bytes, DecodeOptions { orientation: Orientation::Apply, colors: Colors::Original }).unwrap();
            let grid = sizing.grid(picture.width(), picture.height()).unwrap();
            let patches = picture.patches(&grid, vision.patch_size, processor.image_mean, processor.image_std, vision.patch_values());
            let mut trace = Trace::new();
            features.push(pollster::block_on(self.model.encode_image_traced(&patches, &grid, &mut trace)).unwrap());
            grids.push(grid);
            traces.push(trace);
        }
        let want: Vec<_> = case.image_grid_thw.clone().unwrap_or_default();
        assert_eq!(grids.iter().map(PictureGrid::thw).collect::<Vec<_>>(), want, "{}", what("grids"));

        for (name, want) in &case.tensors {
            let (stage, step) = match name.strip_suffix("_every_4th") {
                Some(stage) => (stage, 4),
                None => (name.as_str(), 1),
            };
            let stage = match stage.strip_prefix("vision.") {
                Some(stage) => stage,
                None if stage.starts_with("image_") => stage,
                None => continue,
            };
            // All pictures of a prompt in a row.
            let cols = want.shape[1];
            let all: Vec<f32> = traces.iter().flat_map(|trace| trace[stage].iter().copied()).collect();
            let got: Vec<f32> = all.chunks_exact(cols).step_by(step).flatten().copied().collect();
            assert_close(&got, &want.values, STEP_TOLERANCE, &what(name));
        }
        (grids, features)
    }

    /// Runs the prompt of a case with a trace and checks every step, then without one, and its greedy tokens.
    fn check(&mut self, case: &FamilyCase) {
        let what = |part: &str| format!("{}/{}: {part}", case.input_ids.len(), case.name) + part;
        let (grids, features) = self.features(case);
        let prompt = Prompt::messages(&self.tokenizer, &messages(case), &grids).unwrap();
        assert_eq!(prompt.ids, case.input_ids, "{}", what("ids"));
        let positions = prompt.positions();
        assert_eq!((&positions.ids, positions.rope_delta()), (&case.position_ids, case.rope_delta), "{}", what("positions"));

        let mut trace = Trace::new();
        prefill(&mut self.model, &prompt.ids, &features, Some(&mut trace));
        let (vocab, tolerance) = (self.model.manifest().config.decoder.vocab_size, logits_tolerance(case.input_ids.len()));
        let logits = &trace["logits"];
        for (name, want) in &case.tensors {
            let stage = name.strip_suffix("_last8").unwrap_or(name);
            let (got, tolerance) = match stage {
                "logits" => (logits, tolerance),
                "decoder.norm" => (&trace["hidden.ln_f"], STEP_TOLERANCE),
                _ => match stage.strip_prefix("decoder.layer").and_then(|layer| trace.get(&format!("hidden.layer{layer}"))) {
                    Some(rows) => (rows, STEP_TOLERANCE),
                    None => continue,
                },
            };
            assert_close(&got[got.len() - want.values.len()..], &want.values, tolerance, &what(name));
        }
        for (position, (row, want)) in logits.chunks_exact(vocab).zip(&case.argmax).enumerate() {
            let largest = row.iter().copied().fold(f32::MIN, f32::max);
            assert!(case.argmax_near_ties.contains(&position) || row[*want as usize] == largest, "{} {position}", what("argmax"));
        }

        let (tokens, steps) = self.greedy(case, &prompt.ids, &features);
        assert_eq!(tokens, case.decode.tokens, "{}", what("greedy tokens"));
        let want = &case.tensors["decode_logits_step_1_2_last"].values;
        assert_close(&steps, want, tolerance, &what("logits of steps"));
    }

    /// Returns the greedy tokens, and the logits of steps 1, 2 and the last.
    fn greedy(&mut self, case: &FamilyCase, ids: &[u32], features: &[ImageFeatures]) -> (Vec<u32>, Vec<f32>) {
        prefill(&mut self.model, ids, features, None);
        let (mut tokens, mut steps) = (Vec::new(), Vec::new());
        let count = case.decode.tokens.len();
        for step in 0..count {
            if step == 1 || step == 2 || step == count - 1 {
                steps.extend(pollster::block_on(self.model.logits()).unwrap());
            }
            tokens.push(pollster::block_on(self.model.next_token(None, step + 1 < count)).unwrap());
        }
        (tokens, steps)
    }
}

fn prefill(model: &mut Model, ids: &[u32], features: &[ImageFeatures], trace: Option<&mut Trace>) {
    let flow = pollster::block_on(model.prefill(ids, features, KvReuse::Exact, &mut |_| ControlFlow::Continue(()), trace)).unwrap();
    assert!(flow.is_continue());
}

#[test]
fn every_case_gives_the_tokens_of_the_original() {
    for set in FamilySet::all() {
        let mut loaded = loaded(set, SchemeName::F32, Kernels::CPU);
        for case in std::mem::take(&mut loaded.cases) {
            loaded.check(&case);
        }
    }
}
