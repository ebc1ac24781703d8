//! The later generations against the original code, from messages and pictures to tokens.

use crate::support::{convert, load_with};
use quantize::SchemeName;
use qwen_vl_format::{Scheme, TensorSpec};
use qwen_vl_processor::{
    Colors, Content, DecodeOptions, Message, Messages, Orientation, Part, Picture, PictureGrid, PictureSizing, Prompt, Role, Tokenizer,
    VideoStep,
};
use qwen_vl_runtime::session::{
    Answer, Engine, FinishReason, GenerationOptions, ImageInput, Overflow, PictureLimits, PromptInput, Request, ScoreRequest,
};
use qwen_vl_runtime::{
    Backend, Budget, Gpu, GpuOptions, ImageFeatures, Kernels, KvFormat, KvReuse, Model, ModelOptions, Precision, RuntimeError, Trace,
    synthetic,
};
use qwen_vl_testkit::closeness::{assert_close, worst};
use qwen_vl_testkit::family::{FamilyCase, FamilySet, Seen};
use qwen_vl_testkit::golden::fixtures;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// Largest difference of features and intermediate steps.
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

fn loaded(set: FamilySet, folder: &tempfile::TempDir, kernels: Kernels) -> Loaded {
    let cases = set.cases().unwrap();
    assert!(!cases.is_empty(), "{}", set.name);
    let context_length = cases.iter().map(|case| case.input_ids.len() + case.decode.tokens.len() + 1).max().unwrap();
    // Several chunks, whose borders lie inside of pictures.
    let options = ModelOptions { context_length, prefill_chunk: 50, ..ModelOptions::default() };
    let model = load_with(folder, options, Some(kernels));
    let (config, processor) = (&model.manifest().config, &model.manifest().processor);
    let vocabulary = std::fs::read(folder.path().join("web").join(&processor.tokenizer_file)).unwrap();
    let tokenizer = Tokenizer::new(&vocabulary, config.family, &processor.added_tokens).unwrap();
    tokenizer.check_image_token(config.image_token).unwrap();
    Loaded { set, model, tokenizer, cases }
}

fn messages(case: &FamilyCase) -> Messages {
    let mut messages = serde_json::Value::Array(case.messages.clone());
    for part in messages.as_array_mut().unwrap().iter_mut().flat_map(|message| message["content"].as_array_mut().into_iter().flatten()) {
        // Frames of a video are a list in the original.
        if part["type"] == "video" {
            *part = serde_json::json!({"video": "clip"});
        }
    }
    let messages = serde_json::from_value(messages).unwrap();
    // Answers in the history have live tags of objects.
    Messages { messages, live_specials: true, ..Messages::default() }
}

/// Returns the rows of patches in their order without windows.
fn without_windows(grid: &PictureGrid, rows: &[f32], cols: usize) -> Vec<f32> {
    let places: Vec<_> = grid.places().collect();
    let whole = PictureGrid { window: None, ..*grid };
    let row = |place| places.iter().position(|other| *other == place).unwrap();
    whole.places().flat_map(|place| rows[row(place) * cols..][..cols].to_vec()).collect()
}

impl Loaded {
    /// Encodes the pictures of a case. Returns their stages too.
    fn encode(&mut self, case: &FamilyCase) -> (Vec<PictureGrid>, Vec<ImageFeatures>, Vec<Trace>) {
        let (vision, processor) = (self.model.manifest().config.vision.clone(), self.model.manifest().processor.clone());
        let (mut min_pixels, mut max_pixels) = (processor.min_pixels.unwrap(), processor.max_pixels.unwrap());
        if let Some(limits) = case.image_size_limits {
            (min_pixels, max_pixels) = (limits.min_pixels, limits.max_pixels);
        }
        let merge = vision.merger.as_ref().unwrap().size;
        let window = vision.windows.as_ref().map(|windows| windows.size);
        let sizing = PictureSizing { patch_size: vision.patch_size, merge, min_pixels, max_pixels, window };
        let (mut grids, mut features, mut traces) = (Vec::new(), Vec::new(), Vec::new());
        let root = self.set.root.clone();
        let decoded = |path: &String| {
            let bytes = std::fs::read(root.join(path)).unwrap();
            Picture::decode(&bytes, DecodeOptions { orientation: Orientation::Apply, colors: Colors::Original }).unwrap()
        };
        let patches_of = |picture: &Picture, grid: &PictureGrid| {
            picture.patches(grid, vision.patch_size, processor.image_mean, processor.image_std, vision.patch_values())
        };
        for seen in case.seen() {
            let steps: Vec<(PictureGrid, Vec<f32>, Option<Vec<f32>>)> = match seen {
                Seen::Picture(path) => {
                    let picture = decoded(&path);
                    let grid = sizing.grid(picture.width(), picture.height()).unwrap();
                    vec![(grid, patches_of(&picture, &grid), None)]
                }
                Seen::Video { frames, fps } => {
                    let frames: Vec<_> = frames.iter().map(decoded).collect();
                    let times: Vec<f64> = (0..frames.len()).map(|index| index as f64 / fps).collect();
                    let steps = VideoStep::all(vision.video.unwrap(), &times, Some(fps)).unwrap();
                    let still = PictureSizing { min_pixels: 1, ..sizing }.grid(frames[0].width(), frames[0].height()).unwrap();
                    let step = |(step, pair): (VideoStep, &[Picture])| {
                        let grid = PictureGrid { step: Some(step), ..still };
                        let first = patches_of(&pair[0], &grid);
                        let change = pair
                            .get(1)
                            .map(|frame| patches_of(frame, &grid).iter().zip(&first).map(|(second, first)| second - first).collect());
                        (grid, first, change)
                    };
                    steps.into_iter().zip(frames.chunks(2)).map(step).collect()
                }
            };
            for (grid, patches, change) in steps {
                let mut trace = Trace::new();
                features.push(pollster::block_on(self.model.encode_image_traced(&patches, change.as_deref(), &grid, &mut trace)).unwrap());
                grids.push(grid);
                traces.push(trace);
            }
        }
        (grids, features, traces)
    }

    /// Encodes the pictures of a case and checks their grids and stages.
    fn features(&mut self, case: &FamilyCase) -> (Vec<PictureGrid>, Vec<ImageFeatures>) {
        let (grids, features, traces) = self.encode(case);
        let what = |part: &str| format!("{}/{}: {part}", self.set.name, case.name);
        let is_step = |grid: &&PictureGrid| grid.step.is_some();
        let stills: Vec<_> = grids.iter().filter(|grid| !is_step(grid)).map(|grid| [1, grid.rows, grid.columns]).collect();
        assert_eq!(stills, case.image_grid_thw.clone().unwrap_or_default(), "{}", what("grids"));
        let want = case.video_grid_thw.clone().unwrap_or_default();
        assert_eq!(grids.iter().filter(is_step).count(), want.iter().map(|[steps, ..]| *steps).sum::<usize>(), "{}", what("steps"));
        for (grid, [_, rows, columns]) in grids.iter().filter(is_step).zip(&want) {
            assert_eq!([grid.rows, grid.columns], [*rows, *columns], "{}", what("frames"));
        }

        for (name, want) in &case.tensors {
            let (stage, step) = match name.strip_suffix("_every_4th") {
                Some(stage) => (stage, 4),
                None => (name.as_str(), 1),
            };
            // All pictures of a prompt in a row, and all videos.
            let of_videos = stage.strip_prefix("video_").map(|stage| format!("image_{stage}"));
            let stage = match (stage.strip_prefix("vision."), &of_videos) {
                (Some(stage), _) => stage,
                (None, Some(stage)) => stage,
                (None, None) if stage.starts_with("image_") => stage,
                (None, None) => continue,
            };
            let cols = want.shape[1];
            let among = grids.iter().zip(&traces).filter(|(grid, _)| grid.step.is_some() == of_videos.is_some());
            let mut all: Vec<f32> = among.flat_map(|(_, trace)| trace[stage].iter().copied()).collect();
            if stage == "patch_embed" && grids.iter().any(|grid| grid.window.is_some()) {
                // The original embeds patches before it puts them in the order of windows.
                all = grids.iter().zip(&traces).flat_map(|(grid, trace)| without_windows(grid, &trace[stage], cols)).collect();
            }
            let got: Vec<f32> = all.chunks_exact(cols).step_by(step).flatten().copied().collect();
            assert_close(&got, &want.values, STEP_TOLERANCE, &what(name));
        }
        (grids, features)
    }

    /// Runs the prompt of a case with a trace and checks every step, then without one, and its greedy tokens. Returns the largest difference of
    /// logits.
    fn check(&mut self, case: &FamilyCase) -> f32 {
        let name = format!("{}/{}", self.set.name, case.name);
        let what = |part: &str| format!("{name}: {part}");
        let (grids, features) = self.features(case);
        let prompt = Prompt::messages(&self.tokenizer, &messages(case), &grids).unwrap();
        assert_eq!(prompt.ids, case.input_ids, "{}", what("ids"));
        let positions = prompt.positions();
        assert_eq!((&positions.ids, positions.rope_delta()), (&case.position_ids, case.rope_delta), "{}", what("positions"));

        let mut trace = Trace::new();
        prefill(&mut self.model, &prompt.ids, &features, Some(&mut trace));
        let (vocab, tolerance) = (self.model.manifest().config.decoder.vocab_size, logits_tolerance(case.input_ids.len()));
        let logits = &trace["logits"];
        let mut largest = 0f32;
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
            let got = &got[got.len() - want.values.len()..];
            assert_close(got, &want.values, tolerance, &what(name));
            if stage == "logits" {
                largest = largest.max(worst(got, &want.values, &what(name)).1);
            }
        }
        for (position, (row, want)) in logits.chunks_exact(vocab).zip(&case.argmax).enumerate() {
            let largest = row.iter().copied().fold(f32::MIN, f32::max);
            assert!(case.argmax_near_ties.contains(&position) || row[*want as usize] == largest, "{} {position}", what("argmax"));
        }

        let (tokens, steps) = self.greedy(case, &prompt.ids, &features);
        assert_eq!(tokens, case.decode.tokens, "{}", what("greedy tokens"));
        let want = &case.tensors["decode_logits_step_1_2_last"].values;
        assert_close(&steps, want, tolerance, &what("logits of steps"));
        largest.max(worst(&steps, want, &what("logits of steps")).1)
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
            tokens.push(pollster::block_on(self.model.next_token(None, None, step + 1 < count)).unwrap());
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
        let folder = convert(&set.checkpoint(), SchemeName::F32, 32);
        let mut loaded = loaded(set, &folder, Kernels::CPU);
        let cases = std::mem::take(&mut loaded.cases);
        let largest = cases.iter().map(|case| loaded.check(case)).fold(0.0, f32::max);
        println!("{}: {} cases, logits off by {largest:e} at most", loaded.set.name, cases.len());
    }
}

/// The cases that stand for all where kernels or weights change: text, a picture after earlier turns, and a video.
const CHOSEN: [&str; 3] = ["multi_turn", "text_zh", "picture_and_video"];

/// Covers the plain kernels at WebGPU's default limits and those with subgroups. Rounding sets keep the towers exact: their features are
/// those of the original.
#[test]
fn every_kernel_set_agrees_with_the_original() {
    for set in FamilySet::all() {
        let folder = convert(&set.checkpoint(), SchemeName::F32, 32);
        for kernels in [Kernels::PLAIN, Kernels::SUBGROUPS] {
            let mut loaded = loaded(set.clone(), &folder, kernels);
            let cases = std::mem::take(&mut loaded.cases);
            cases.iter().filter(|case| CHOSEN.contains(&case.name.as_str())).for_each(|case| _ = loaded.check(case));
        }
        let mut halves = loaded(set, &folder, Kernels::F16);
        let cases = std::mem::take(&mut halves.cases);
        for case in cases.iter().filter(|case| CHOSEN.contains(&case.name.as_str())) {
            let (_, features) = halves.features(case);
            assert_eq!(halves.greedy(case, &case.input_ids, &features).0, case.decode.tokens, "{}: tokens with halves", case.name);
        }
    }
}

/// A product of a code and a scale of few bits is exact in f32, so coded weights compute as their decoded values do, up to the contraction of
/// multiply-adds.
#[test]
fn coded_weights_give_the_logits_of_their_decoded_values() {
    const BOUND: f32 = 1e-4;
    for set in FamilySet::all() {
        for scheme in [SchemeName::Q4, SchemeName::Q8] {
            let coded = convert(&set.checkpoint(), scheme, 32);
            let decoded = crate::support::dequantized(&coded);
            let mut models = [loaded(set.clone(), &coded, Kernels::CPU), loaded(set.clone(), &decoded, Kernels::CPU)];
            let case = models[0].cases.iter().find(|case| case.name == "multi_turn").unwrap().clone();
            let [got, want] = models.each_mut().map(|loaded| {
                let features = loaded.encode(&case).1;
                let mut trace = Trace::new();
                prefill(&mut loaded.model, &case.input_ids, &features, Some(&mut trace));
                trace.remove("logits").unwrap()
            });
            let what = format!("{} {scheme:?}", set.name);
            assert_close(&got, &want, BOUND, &what);
            println!("{what}: logits off by {:e} at most", worst(&got, &want, &what).1);
        }
    }
}

fn engine(name: &str, max_picture_tokens: usize) -> Engine {
    engine_of(&fixtures().join("family/checkpoints").join(name), max_picture_tokens)
}

fn engine_of(checkpoint: &Path, max_picture_tokens: usize) -> Engine {
    let folder = convert(checkpoint, SchemeName::F32, 32);
    let options = ModelOptions { context_length: 900, prefill_chunk: 64, max_picture_tokens, ..ModelOptions::default() };
    let model = load_with(&folder, options, Some(Kernels::CPU));
    let file = folder.path().join("web").join(&model.manifest().processor.tokenizer_file);
    Engine::new(model, &std::fs::read(file).unwrap()).unwrap()
}

fn picture(name: &str) -> ImageInput {
    let bytes = std::fs::read(fixtures().join("family/images").join(name)).unwrap();
    ImageInput::Encoded { bytes, options: DecodeOptions::default() }
}

fn text(text: &str) -> Part {
    Part::Text { text: text.to_owned() }
}

fn image() -> Part {
    Part::Image { image: "picture".to_owned() }
}

fn chat(history: &[(Content, Content)], parts: Vec<Part>) -> PromptInput {
    PromptInput::Chat { system: None, history: history.to_vec(), query: Content::Parts(parts), prefix: None, overflow: Overflow::Error }
}

fn try_ask(
    engine: &mut Engine,
    prompt: PromptInput,
    generation: GenerationOptions,
    limits: PictureLimits,
    images: &[ImageInput],
) -> Result<Answer, RuntimeError> {
    let generation =
        GenerationOptions { greedy: Some(true), max_new_tokens: generation.max_new_tokens.or(Some(6)), ignore_stop: true, ..generation };
    let request = Request { prompt, generation, pictures: limits };
    pollster::block_on(engine.ask(&request, images, &mut |_| ControlFlow::Continue(()), None))
}

fn ask(engine: &mut Engine, prompt: PromptInput, images: &[ImageInput]) -> Answer {
    try_ask(engine, prompt, GenerationOptions::default(), PictureLimits::default(), images).unwrap()
}

/// Positions behind a picture do not follow the index. Reuse, rewinding and scoring must not change them.
#[test]
fn a_conversation_reuses_the_cache_and_scores_continue_it() {
    for name in ["q2-a", "q25-a", "q3-a"] {
        let mut engine = engine(name, 1280);
        let images = [picture("p_cell.png"), picture("p_wide.png")];
        let first = ask(&mut engine, chat(&[], vec![image(), text("What is it?")]), &images[..1]);
        assert_eq!((first.reused_tokens, first.tokens.len()), (0, 6), "{name}");
        let again = ask(&mut engine, chat(&[], vec![image(), text("What is it?")]), &images[..1]);
        assert_eq!((again.tokens, again.reused_tokens), (first.tokens.clone(), first.prompt_ids.len() - 1), "{name}");

        let turn = (Content::Parts(vec![image(), text("What is it?")]), Content::from(first.raw.as_str()));
        let second = chat(std::slice::from_ref(&turn), vec![text("And this?"), image()]);
        let continued = ask(&mut engine, second.clone(), &images);
        assert!(continued.reused_tokens >= first.prompt_ids.len(), "{name}: {} reused", continued.reused_tokens);
        engine.model_mut().rewind(0);
        let fresh = ask(&mut engine, second.clone(), &images);
        assert_eq!((fresh.reused_tokens, &fresh.tokens), (0, &continued.tokens), "{name}");

        // Scores behind a reused prompt are those behind a fresh one.
        let candidates = vec!["yes, it is".to_owned(), "no".to_owned()];
        let request = ScoreRequest { prompt: second, candidates, pictures: PictureLimits::default() };
        let score = |engine: &mut Engine| -> Vec<f64> {
            let scores = pollster::block_on(engine.score(&request, &images, &mut |_| ControlFlow::Continue(()))).unwrap().unwrap();
            scores.into_iter().flat_map(|score| score.logprobs).collect()
        };
        let reused = score(&mut engine);
        engine.model_mut().rewind(0);
        let fresh = score(&mut engine);
        assert!(fresh.len() > 2 && reused.len() == fresh.len(), "{name}");
        let apart = reused.iter().zip(&fresh).map(|(reused, fresh)| (reused - fresh).abs()).fold(0.0, f64::max);
        assert!(apart < 1e-3, "{name}: {reused:?}, fresh {fresh:?}");
    }
}

#[test]
fn a_presence_penalty_ends_repetitions() {
    let mut engine = engine("q3-a", 64);
    let options = |penalty| GenerationOptions { max_new_tokens: Some(40), presence_penalty: penalty, ..GenerationOptions::default() };
    let mut run = |penalty| {
        let prompt = chat(&[], vec![text("Say it again and again.")]);
        try_ask(&mut engine, prompt, options(penalty), PictureLimits::default(), &[]).unwrap().tokens
    };
    let distinct = |tokens: &[u32]| tokens.iter().collect::<std::collections::BTreeSet<_>>().len();
    let (without, zero, with) = (run(None), run(Some(0.0)), run(Some(2.0)));
    assert_eq!(without, zero);
    // The first choice has nothing to be penalized.
    assert_eq!(without[0], with[0]);
    assert!(distinct(&with) > distinct(&without), "{with:?}, without {without:?}");
}

/// The self-check runs the kernels that the model has, and no others.
#[test]
fn the_self_check_compiles_nothing() {
    for name in ["q2-a", "q25-a", "q3-a"] {
        let mut engine = engine(name, 64);
        ask(&mut engine, chat(&[], vec![image(), text("What is it?")]), &[picture("p_cell.png")]);
        let kernels = engine.model().gpu().pipelines();
        pollster::block_on(engine.model_mut().self_check()).unwrap();
        assert_eq!(engine.model().gpu().pipelines(), kernels, "{name}");
    }
}

/// Messages are the chat of the same turns; tools come in front of them, and only Qwen3-VL takes them.
#[test]
fn messages_and_tools() {
    let message = |role, content: Content| Message { role, content, tool_calls: Vec::new() };
    let messages = vec![
        message(Role::User, Content::Parts(vec![image(), text("What is it?")])),
        message(Role::Assistant, "A cell.".into()),
        message(Role::User, "And now?".into()),
    ];
    let history = [(Content::Parts(vec![image(), text("What is it?")]), Content::from("A cell."))];
    let tools = vec![r#"{"type": "function", "function": {"name": "find"}}"#.to_owned()];
    for name in ["q25-a", "q3-a"] {
        let mut engine = engine(name, 64);
        let images = [picture("p_cell.png")];
        let same = ask(&mut engine, chat(&history, vec![text("And now?")]), &images);
        let found = ask(&mut engine, PromptInput::Messages { messages: messages.clone(), tools: Vec::new(), prefix: None }, &images);
        assert_eq!((&found.prompt_ids, &found.tokens), (&same.prompt_ids, &same.tokens), "{name}");
        let prompt = PromptInput::Messages { messages: messages.clone(), tools: tools.clone(), prefix: None };
        let with_tools = try_ask(&mut engine, prompt, GenerationOptions::default(), PictureLimits::default(), &images);
        if name == "q3-a" {
            let ids = with_tools.unwrap().prompt_ids;
            assert!(ids.len() > same.prompt_ids.len() + 50 && ids.ends_with(&same.prompt_ids), "{} tokens", ids.len());
        } else {
            assert!(with_tools.unwrap_err().to_string().contains("tools"));
        }
    }
}

/// Copies a checkpoint whose layers add nothing, so that the likeliest token after a token is always the same.
fn without_layers(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures().join("family/checkpoints").join(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&bytes[8..start]).unwrap();
    for (name, tensor) in header {
        if name.contains("layers") && (name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight")) {
            let [from, to] = [0, 1].map(|end| start + tensor["data_offsets"][end].as_u64().unwrap() as usize);
            bytes[from..to].fill(0);
        }
    }
    std::fs::write(path, bytes).unwrap();
    folder
}

#[test]
fn an_answer_that_repeats_itself_ends() {
    let mut engine = engine_of(without_layers("q3-a").path(), 64);
    let mut run = |allow_loops, ignore_stop| {
        let generation =
            GenerationOptions { max_new_tokens: Some(200), greedy: Some(true), allow_loops, ignore_stop, ..GenerationOptions::default() };
        let prompt = chat(&[], vec![text("Say it again and again.")]);
        let request = Request { prompt, generation, pictures: PictureLimits::default() };
        pollster::block_on(engine.ask(&request, &[], &mut |_| ControlFlow::Continue(()), None)).unwrap()
    };
    let (guarded, allowed, original) = (run(false, false), run(true, false), run(false, true));
    assert_eq!((allowed.finish_reason, allowed.tokens.len()), (FinishReason::Length, 200));
    assert_eq!(allowed.tokens, original.tokens);
    assert_eq!(guarded.finish_reason, FinishReason::Loop, "{:?}", guarded.tokens);
    assert!(guarded.tokens.len() >= 128 && allowed.tokens.starts_with(&guarded.tokens), "{:?}", guarded.tokens);
}

#[test]
fn pictures_keep_the_limits_of_their_tokens() {
    let mut engine = engine("q3-a", 120);
    let prompt = || chat(&[], vec![image(), text("?")]);
    let mut tokens = |min_tokens, max_tokens, name: &str| {
        let limits = PictureLimits { min_tokens, max_tokens };
        let answer = try_ask(&mut engine, prompt(), GenerationOptions::default(), limits, &[picture(name)]);
        answer.map(|answer| answer.prompt_ids.iter().filter(|id| **id == 3112).count()).map_err(|error| error.to_string())
    };
    // By the checkpoint at least 64, by the load at most 120.
    assert!((64..=120).contains(&tokens(None, None, "p_chart.png").unwrap()));
    assert!((64..=80).contains(&tokens(None, None, "p_tiny_9x7.png").unwrap()));
    assert!((20..=30).contains(&tokens(Some(4), Some(30), "p_chart.png").unwrap()));
    assert!((100..=120).contains(&tokens(Some(100), None, "p_tiny_9x7.png").unwrap()));
    // The same picture in another size has other features.
    assert_ne!(tokens(Some(4), Some(30), "p_chart.png").unwrap(), tokens(None, None, "p_chart.png").unwrap());
    let error = tokens(None, Some(121), "p_chart.png").unwrap_err();
    assert_eq!(error, "max picture tokens is 121, expected at most 120, which the model was loaded with");
    let error = tokens(Some(50), Some(49), "p_chart.png").unwrap_err();
    assert!(error.contains("minimum 50, maximum 49"), "{error}");
}

#[test]
fn bad_input_is_named() {
    let mut engine = engine("q2-a", 64);
    let mut fails = |prompt, images: &[ImageInput]| {
        try_ask(&mut engine, prompt, GenerationOptions::default(), PictureLimits::default(), images).unwrap_err().to_string()
    };
    let stripe = ImageInput::Rgba { width: 1005, height: 5, pixels: vec![200; 1005 * 5 * 4], colors: Colors::Display };
    let error = fails(chat(&[], vec![image(), text("?")]), &[stripe]);
    assert!(error.contains("1005×5") && error.contains("200"), "{error}");
    let error = fails(chat(&[], vec![Part::Video { video: "clip".to_owned() }, text("?")]), &[]);
    assert!(error.contains("1 picture") && error.contains('0'), "{error}");
    let error = fails(chat(&[], vec![image(), text("?")]), &[]);
    assert!(error.contains("1 picture") && error.contains('0'), "{error}");
    // Placeholders without pictures, as ids.
    let error = fails(PromptInput::Ids { ids: vec![5, 3012, 6] }, &[]);
    assert!(error.contains("<|image_pad|>") && error.contains('1') && error.contains('0'), "{error}");
    // Typed placeholders are text.
    let typed = ask(&mut engine, chat(&[], vec![text("What does <|image_pad|> mean, and <|im_end|>?")]), &[]);
    assert!(!typed.prompt_ids.contains(&3012) && typed.prompt_ids.iter().filter(|id| **id == 3002).count() == 2);
}

fn frame(number: usize) -> Picture {
    let bytes = std::fs::read(fixtures().join(format!("family/images/p_clip_{number}.png"))).unwrap();
    Picture::decode(&bytes, DecodeOptions::ORIGINAL).unwrap()
}

/// A question about a picture and a video gives the original's prompt and tokens; the next question encodes neither again.
#[test]
fn an_engine_answers_about_videos() {
    for set in FamilySet::all() {
        let mut engine = engine(&set.name, 1280);
        let case = set.cases().unwrap().into_iter().find(|case| case.name == "picture_and_video").unwrap();
        let [Seen::Picture(picture), Seen::Video { fps, .. }] = &case.seen()[..] else { panic!("{}", case.name) };
        let bytes = std::fs::read(set.root.join(picture)).unwrap();
        let still = ImageInput::Encoded { bytes, options: DecodeOptions::ORIGINAL };
        let times: Vec<f64> = (0..5).map(|index| index as f64 / fps).collect();
        let clip = ImageInput::Video { frames: (1..6).map(frame).collect(), times, fps: Some(*fps) };
        let question = case.messages[0]["content"][2]["text"].as_str().unwrap();
        let query = vec![image(), Part::Video { video: "clip".to_owned() }, text(question)];
        let plain = GenerationOptions {
            greedy: Some(true),
            ignore_stop: true,
            repetition_penalty: Some(1.0),
            max_new_tokens: Some(case.decode.tokens.len()),
            ..GenerationOptions::default()
        };
        let images = [still, clip];
        let first = try_ask(&mut engine, chat(&[], query.clone()), plain.clone(), PictureLimits::default(), &images).unwrap();
        assert_eq!((&first.prompt_ids, &first.tokens), (&case.input_ids, &case.decode.tokens), "{}", set.name);
        assert_eq!(first.images.iter().map(|info| info.frames).collect::<Vec<_>>(), [1, 5]);
        let kept: Vec<_> = first.images.iter().map(|info| ImageInput::Kept { id: info.id.clone() }).collect();
        let again = try_ask(&mut engine, chat(&[], query), plain, PictureLimits::default(), &kept).unwrap();
        assert_eq!(again.tokens, first.tokens, "{}", set.name);
        assert_eq!(again.reused_tokens, first.prompt_ids.len() - 1, "{}", set.name);
    }
}

#[test]
fn videos_that_cannot_be_used_are_refused() {
    let mut engine = engine("q2-a", 64);
    let mut refusal = |frames: Vec<Picture>, times: Vec<f64>| {
        let clip = ImageInput::Video { frames, times, fps: None };
        let query = vec![Part::Video { video: "clip".to_owned() }, text("?")];
        try_ask(&mut engine, chat(&[], query), GenerationOptions::default(), PictureLimits::default(), &[clip]).unwrap_err().to_string()
    };
    for (frames, times, problem) in [
        (vec![], vec![], "there are no frames"),
        (vec![frame(0)], vec![0.0, 1.0], "1 frames have 2 times"),
        (vec![frame(0), frame(1)], vec![1.0, 0.0], "time 1 is 0, before the 1"),
        (vec![frame(0), frame(1).resize(196, 224)], vec![0.0, 1.0], "frame 1 is 196×224, and the first is 224×224"),
        (vec![frame(0).resize(230, 224)], vec![0.0], "they are 230×224, expected the size of a plan, such as 224×224"),
        (vec![frame(0).resize(280, 280)], vec![0.0], "they are 280×280, expected the size of a plan"),
    ] {
        let error = refusal(frames, times);
        assert!(error.contains(problem), "{error}");
    }
}

/// The GPU subtracts the presence penalty as the processor does, which needs the logits that a report of log-probabilities reads.
#[test]
fn a_presence_penalty_on_the_gpu_gives_the_same_answer() {
    let mut engine = engine("q3-a", 64);
    let mut answer = |presence_penalty, logprobs, temperature| {
        let generation = GenerationOptions {
            presence_penalty: Some(presence_penalty),
            temperature,
            seed: Some(5),
            greedy: temperature.is_none().then_some(true),
            ignore_stop: true,
            logprobs,
            max_new_tokens: Some(40),
            ..GenerationOptions::default()
        };
        try_ask(&mut engine, chat(&[], vec![text("Count.")]), generation, PictureLimits::default(), &[]).unwrap().tokens
    };
    let plain = answer(0.0, None, None);
    let penalized = answer(2.0, None, None);
    assert_eq!(penalized, answer(2.0, Some(0), None));
    assert_ne!(penalized, plain, "the penalty changes this answer");
    assert_eq!(plain, answer(0.0, None, None), "a penalty ends with its answer");
}

/// The published sizes in the converter's default schemes, without weights: what a load takes, and what a token reads.
#[test]
fn budgets_of_published_models() {
    let models = [
        ("Qwen3-VL-2B-Instruct", 1.56e9, 112 << 10, 1.14e9),
        ("Qwen3-VL-4B-Instruct", 2.91e9, 144 << 10, 2.48e9),
        ("Qwen2-VL-2B-Instruct", 1.69e9, 28 << 10, 0.99e9),
        ("Qwen2.5-VL-3B-Instruct", 2.60e9, 36 << 10, 1.89e9),
        ("Qwen2.5-VL-7B-Instruct", 5.00e9, 56 << 10, 3.98e9),
    ];
    for (name, weights, kv_token, read) in models {
        let facts = if name == "Qwen2.5-VL-7B-Instruct" { "Qwen2.5-VL-3B-Instruct" } else { name };
        let json = std::fs::read_to_string(fixtures().join(format!("family/facts/{facts}.config.json"))).unwrap();
        let mut config = quantize::model_config(&json).unwrap();
        if facts != name {
            // The 7B has the tower of the 3B.
            let decoder = &mut config.decoder;
            (decoder.vocab_size, decoder.width, decoder.layers, decoder.mlp_width) = (152_064, 3584, 28, 18_944);
            (decoder.heads, decoder.kv_heads, decoder.tied_head) = (28, 4, false);
        }
        let tied = config.decoder.tied_head;
        let scheme = |spec: &TensorSpec| {
            let vision = ["vision.", "merger.", "deepstack."].iter().any(|part| spec.name.starts_with(part));
            let eight_bits = vision || tied && spec.name.starts_with("decoder.embedding.");
            if eight_bits { Scheme::Q8 { group_size: 32 } } else { Scheme::Q4Z { group_size: 32 } }
        };
        let manifest = synthetic::manifest_in(config, scheme);
        let options = ModelOptions { kv: KvFormat::F16, ..ModelOptions::default() };
        let budget = Budget::new(&manifest, &options, Precision::F32);
        let close = |got: u64, want: f64| (got as f64 / want - 1.0).abs() < 0.02;
        assert!(close(budget.weights, weights), "{name}: {budget:?}");
        assert_eq!(budget.kv_cache, 2048 * kv_token, "{name}");
        let bytes = Budget::decode_bytes(&manifest, 0, KvFormat::F16);
        assert!(close(bytes, read), "{name}: {bytes} bytes a token");
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        println!(
            "{name}: folder {:.2} GB, GPU memory {:.2} GB and {:.2} for a picture, {:.2} GB a token",
            gigabytes(manifest.shard_bytes()),
            gigabytes(budget.total()),
            gigabytes(budget.picture),
            gigabytes(bytes)
        );
    }
}

#[test]
fn a_model_of_random_weights_allocates_its_budget() {
    for name in ["q2-a", "q25-a", "q3-a"] {
        let json = std::fs::read_to_string(fixtures().join(format!("family/checkpoints/{name}/config.json"))).unwrap();
        let config = quantize::model_config(&json).unwrap();
        let gpu = pollster::block_on(Gpu::request(GpuOptions::default())).unwrap();
        let options = ModelOptions { context_length: 40, max_picture_tokens: 16, ..ModelOptions::default() };
        let model = pollster::block_on(synthetic::model(gpu, config, options)).unwrap();
        assert_eq!(
            model.gpu().allocated_bytes(),
            Budget::new(model.manifest(), &options, model.gpu().kernels().precision).total(),
            "{name}"
        );
    }
}
