//! Sessions: log-probabilities, penalties, endings, scores, kept pictures, conversations that are too long.

use crate::support::{convert, load};
use quantize::SchemeName;
use qwen_vl_processor::{Colors, Content, DecodeOptions};
use qwen_vl_runtime::benchmark::{BenchmarkOptions, benchmark};
use qwen_vl_runtime::session::{
    AllowedTokens, Answer, Constraint, Engine, Event, FinishReason, GenerationOptions, ImageInput, Overflow, PictureLimits, PromptInput,
    Request, ScoreRequest,
};
use qwen_vl_runtime::{Backend, Counted, KvReuse, ModelOptions, RuntimeError};
use qwen_vl_testkit::golden::fixtures;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// `seq_length` of `mini-b`: rotary bases change above it.
const WINDOW: usize = 256;

/// Rows of its embedding.
const VOCAB: u32 = 1024;

fn engine(context_length: usize) -> Engine {
    let checkpoint = fixtures().join("checkpoints/mini-b");
    let folder = convert(&checkpoint, SchemeName::F32, 32);
    let model = load(&folder, ModelOptions { context_length, prefill_chunk: 64, ..Default::default() });
    assert_eq!(model.manifest().config.decoder.trained_context, WINDOW);
    Engine::new(model, &std::fs::read(checkpoint.join("qwen.tiktoken")).unwrap()).unwrap()
}

fn raw(text: &str) -> PromptInput {
    PromptInput::Raw { text: text.to_owned() }
}

/// Greedy generation past stop tokens.
fn greedy(max_new_tokens: usize) -> GenerationOptions {
    GenerationOptions { greedy: Some(true), max_new_tokens: Some(max_new_tokens), ignore_stop: true, ..GenerationOptions::default() }
}

fn try_ask(engine: &mut Engine, prompt: PromptInput, generation: GenerationOptions, images: &[ImageInput]) -> Result<Answer, RuntimeError> {
    let request = Request { prompt, generation, pictures: PictureLimits::default() };
    pollster::block_on(engine.ask(&request, images, &mut |_| ControlFlow::Continue(()), None))
}

fn ask(engine: &mut Engine, prompt: PromptInput, generation: GenerationOptions) -> Answer {
    try_ask(engine, prompt, generation, &[]).unwrap()
}

fn picture(shade: u8) -> ImageInput {
    ImageInput::Rgba { width: 2, height: 1, pixels: vec![shade, 0, 0, 255, 0, shade, 0, 255], colors: Colors::Display }
}

#[test]
fn likelihoods_penalties_and_endings() {
    let mut engine = engine(200);
    let plain = ask(&mut engine, raw("Hello"), greedy(12));
    assert_eq!(plain.logprobs, None);

    // Log-probabilities do not change the answer.
    let likely = ask(&mut engine, raw("Hello"), GenerationOptions { logprobs: Some(3), ..greedy(12) });
    assert_eq!(likely.tokens, plain.tokens);
    let logprobs = likely.logprobs.unwrap();
    for (token, found) in plain.tokens.iter().zip(&logprobs) {
        assert_eq!((found.chosen.token, found.top[0].token, found.top.len()), (*token, *token, 3));
        assert!(found.top.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob) && found.chosen.logprob < 0.0);
    }

    // A score is the likelihood of each token after the previous ones.
    let request = ScoreRequest {
        prompt: raw("Hello"),
        candidates: vec![" no".into(), " yes, it is".into(), " no".into()],
        pictures: PictureLimits::default(),
    };
    let scores = pollster::block_on(engine.score(&request, &[], &mut |_| ControlFlow::Continue(()))).unwrap().unwrap();
    assert_eq!(scores[0], scores[2], "candidates do not see each other");
    assert!(scores[1].tokens.len() > 2);
    for (at, (token, score)) in scores[1].tokens.iter().zip(&scores[1].logprobs).enumerate() {
        let ids = [&plain.prompt_ids, &scores[1].tokens[..at]].concat();
        let next = ask(&mut engine, PromptInput::Ids { ids }, GenerationOptions { logprobs: Some(1024), ..greedy(1) });
        let all = &next.logprobs.unwrap()[0].top;
        let found = all.iter().find(|other| other.token == *token).unwrap().logprob;
        assert!((score - found).abs() < 1e-3, "{at}: {score} {found}");
    }
    let stopped = pollster::block_on(engine.score(&request, &[], &mut |event| match event {
        Event::Score { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    }));
    assert_eq!(stopped.unwrap(), None);
    let empty = ScoreRequest { candidates: vec!["a".into(), String::new()], ..request };
    let error = pollster::block_on(engine.score(&empty, &[], &mut |_| ControlFlow::Continue(()))).unwrap_err();
    assert!(matches!(error, RuntimeError::EmptyCandidate { index: 1 }), "{error}");

    // A penalty so strong that no token occurs twice.
    let fresh = ask(&mut engine, raw("Hello"), GenerationOptions { repetition_penalty: Some(1e6), ..greedy(12) });
    let seen: BTreeSet<_> = fresh.prompt_ids.iter().chain(&fresh.tokens).collect();
    assert_eq!(seen.len(), fresh.prompt_ids.iter().collect::<BTreeSet<_>>().len() + fresh.tokens.len(), "{:?}", fresh.tokens);

    // The third token stops the answer, unless the answer is too short.
    let stop = GenerationOptions { ignore_stop: false, stop_tokens: vec![plain.tokens[2]], ..greedy(12) };
    let first = plain.tokens.iter().position(|token| *token == plain.tokens[2]).unwrap();
    let ended = ask(&mut engine, raw("Hello"), stop.clone());
    assert_eq!((ended.finish_reason, &ended.tokens[..]), (FinishReason::Stop, &plain.tokens[..=first]));
    let later = ask(&mut engine, raw("Hello"), GenerationOptions { min_new_tokens: 8, ..stop });
    assert!(later.tokens.len() >= 8 && !later.tokens[..8.min(later.tokens.len() - 1)].contains(&plain.tokens[2]), "{:?}", later.tokens);

    // Stop texts.
    let middle: String = plain.raw.chars().skip(plain.raw.chars().count() / 2).take(2).collect();
    let ended = ask(&mut engine, raw("Hello"), GenerationOptions { stop: vec![middle.clone()], ..greedy(12) });
    assert_eq!(ended.finish_reason, FinishReason::StopString);
    assert_eq!(ended.raw, plain.raw[..plain.raw.find(&middle).unwrap()].trim());

    for (wrong, name) in [
        (GenerationOptions { temperature: Some(f32::NAN), ..greedy(1) }, "temperature"),
        (GenerationOptions { max_new_tokens: Some(0), ..greedy(1) }, "max tokens"),
        (GenerationOptions { stop_tokens: vec![1024], ..greedy(1) }, "vocabulary size, 1024"),
    ] {
        let error = try_ask(&mut engine, raw("Hello"), wrong, &[]).unwrap_err();
        assert!(matches!(error, RuntimeError::InvalidOption { .. }) && error.to_string().contains(name), "{error}");
    }
    assert_eq!(ask(&mut engine, raw("Hello"), greedy(12)).tokens, plain.tokens, "nothing is left of all this");

    // The self-check passes without compiling other kernels, and a benchmark does not change later answers.
    let kernels = engine.model().gpu().pipelines();
    pollster::block_on(engine.model_mut().self_check()).unwrap();
    assert_eq!(engine.model().gpu().pipelines(), kernels);
    let options = BenchmarkOptions { contexts: vec![40, 9999], prompts: vec![8, 9999], decode_tokens: 4, runs: 1, ..Default::default() };
    let report = pollster::block_on(benchmark(engine.model_mut(), &options, &mut |_, _| ControlFlow::Continue(()))).unwrap().unwrap();
    assert_eq!(report.decode.iter().map(|speed| speed.context).collect::<Vec<_>>(), [40], "lengths beyond the context are left out");
    assert_eq!(report.prefill.iter().map(|speed| speed.tokens).collect::<Vec<_>>(), [8], "so are prompts");
    assert!(report.encode_ms > 0.0 && report.prefill[0].tokens_per_second > 0.0 && report.decode[0].tokens_per_second > 0.0);
    let (parts, limits) = (report.picture_parts.unwrap(), report.limits.unwrap());
    assert!(parts.block_ms > 0.0 && parts.resampler_ms > 0.0);
    assert!(limits.copy_gigabytes_per_second > 0.0 && limits.upload_gigabytes_per_second > 0.0 && limits.microseconds_per_dispatch > 0.0);
    let none = pollster::block_on(benchmark(engine.model_mut(), &options, &mut |_, _| ControlFlow::Break(()))).unwrap();
    assert_eq!(none, None);
    assert_eq!(ask(&mut engine, raw("Hello"), greedy(12)).tokens, plain.tokens);
}

/// A held picture stays although no others are kept, and a question about it encodes nothing.
#[test]
fn a_held_picture_is_not_encoded_again() {
    let mut engine = engine(600);
    engine.keep_images(0);
    let held = pollster::block_on(engine.hold_image(&picture(1), &PictureLimits::default())).unwrap().id;
    assert!(engine.keeps_image(&held));
    let bytes = engine.model().gpu().allocated_bytes();
    for image in [picture(1), ImageInput::Kept { id: held.clone() }] {
        let answer = try_ask(&mut engine, raw("<img>a</img>What?"), greedy(3), &[image]).unwrap();
        assert_eq!(answer.images[0].id, held);
        assert_eq!(engine.model().gpu().allocated_bytes(), bytes, "the picture was encoded again");
    }
    try_ask(&mut engine, raw("<img>a</img>What?"), greedy(3), &[picture(2)]).unwrap();
    assert_eq!(engine.model().gpu().allocated_bytes(), bytes, "a picture is kept");
    engine.release_image(&held);
    assert!(!engine.keeps_image(&held));
}

/// An explicit sampling option samples on a checkpoint that is greedy by default.
#[test]
fn a_temperature_samples() {
    let mut engine = engine(200);
    let plain = ask(&mut engine, raw("Hello"), greedy(12));
    let options = |seed| GenerationOptions { greedy: None, temperature: Some(3.0), seed: Some(seed), top_p: Some(1.0), ..greedy(12) };
    let drawn: BTreeSet<_> = (0..4).map(|seed| ask(&mut engine, raw("Hello"), options(seed)).tokens).collect();
    assert!(drawn.len() > 1 && drawn.iter().any(|tokens| *tokens != plain.tokens), "{drawn:?}");
    let forced = ask(&mut engine, raw("Hello"), GenerationOptions { greedy: Some(true), ..options(1) });
    assert_eq!(forced.tokens, plain.tokens);
}

/// The device reports an error once. The engine then answers again, from the first position: the KV cache may hold anything.
#[test]
fn an_engine_answers_again_after_a_gpu_error() {
    let mut engine = engine(200);
    let plain = ask(&mut engine, raw("Hello"), greedy(6));
    // Usages that exclude each other: an error that belongs to no call of ours.
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::STORAGE;
    let _ = engine.model().gpu().device().create_buffer(&wgpu::BufferDescriptor { label: None, size: 4, usage, mapped_at_creation: false });
    let error = try_ask(&mut engine, raw("Hello"), greedy(6), &[]).unwrap_err();
    assert!(matches!(error, RuntimeError::Gpu(_)), "{error}");
    let again = ask(&mut engine, raw("Hello"), greedy(6));
    assert_eq!((again.tokens, again.reused_tokens), (plain.tokens, 0));
}

/// Each error says which tokens it counts.
#[test]
fn errors_of_scores_name_the_candidate() {
    let mut engine = engine(30);
    let mut error = |candidates: &[&str]| {
        let request = ScoreRequest {
            prompt: raw("Hello"),
            candidates: candidates.iter().map(|text| (*text).to_owned()).collect(),
            pictures: PictureLimits::default(),
        };
        pollster::block_on(engine.score(&request, &[], &mut |_| ControlFlow::Continue(()))).unwrap_err()
    };
    let long = "word ".repeat(40);
    let overflow = error(&["a", &long]);
    let RuntimeError::ContextOverflow { counted: Counted::PromptAndCandidate, used, limit: 30 } = overflow else { panic!("{overflow}") };
    assert_eq!(
        overflow.to_string(),
        format!("the prompt and the longest candidate have {used} tokens, too many for the context of 30, which holds prompt and answer")
    );
    assert!(matches!(error(&[]), RuntimeError::NoCandidates));
}

#[test]
fn pictures_are_kept_and_held() {
    let mut engine = engine(600);
    let prompt = || raw("<img>a</img>What?");
    let first = try_ask(&mut engine, prompt(), greedy(3), &[picture(1)]).unwrap();
    let id = first.images[0].id.clone();
    assert_eq!((first.images[0].width, first.images[0].height, engine.keeps_image(&id)), (2, 1, true));
    let by_name = try_ask(&mut engine, prompt(), greedy(3), &[ImageInput::Kept { id: id.clone() }]).unwrap();
    assert_eq!((&by_name.tokens, &by_name.images), (&first.tokens, &first.images));

    engine.keep_images(1);
    let hold = |engine: &mut Engine, shade| pollster::block_on(engine.hold_image(&picture(shade), &PictureLimits::default())).unwrap().id;
    let held = hold(&mut engine, 2);
    assert_eq!(hold(&mut engine, 2), held);
    let other = hold(&mut engine, 3);
    engine.release_image(&other);
    assert_eq!([&id, &held, &other].map(|id| engine.keeps_image(id)), [false, true, true]);
    let error = try_ask(&mut engine, prompt(), greedy(3), &[ImageInput::Kept { id: id.clone() }]).unwrap_err();
    assert!(matches!(&error, RuntimeError::UnknownImage { id: named } if *named == id), "{error}");

    // Two holds need two releases; the picture is then the oldest.
    engine.release_image(&held);
    assert!(engine.keeps_image(&held));
    engine.release_image(&held);
    assert_eq!([&held, &other].map(|id| engine.keeps_image(id)), [false, true]);
    let wrong = ImageInput::Encoded { bytes: b"no picture".to_vec(), options: DecodeOptions::DISPLAY };
    assert!(matches!(pollster::block_on(engine.hold_image(&wrong, &PictureLimits::default())), Err(RuntimeError::Processor(_))));
}

#[test]
fn oldest_turns_and_their_pictures_give_way() {
    let mut engine = engine(700);
    let turn = |question: &str| (Content::from(question), Content::from("Yes."));
    let history = vec![turn("Picture 1: <img>1</img>\nOne?"), turn("Two?"), turn("Picture 2: <img>2</img>\nThree?")];
    let chat = |overflow| PromptInput::Chat { system: None, history: history.clone(), query: "Four?".into(), prefix: None, overflow };
    let images = [picture(1), picture(2)];
    let used = engine.count(&chat(Overflow::Error), &[], &PictureLimits::default()).unwrap();
    let error = try_ask(&mut engine, chat(Overflow::Error), greedy(200), &images);
    assert_eq!(error.is_err(), used >= 700, "{used} tokens");

    let answer = try_ask(&mut engine, chat(Overflow::DropOldest), greedy(200), &images).unwrap();
    assert_eq!(answer.images.len(), 1);
    assert_eq!(
        (
            answer.dropped_turns,
            answer.images[0].id == pollster::block_on(engine.hold_image(&picture(2), &PictureLimits::default())).unwrap().id
        ),
        (1, true)
    );
    assert!(answer.prompt_ids.len() + 700 / 4 <= 700, "{} tokens", answer.prompt_ids.len());
    let short =
        PromptInput::Chat { system: None, history: history[1..].to_vec(), query: "Four?".into(), prefix: None, overflow: Overflow::Error };
    assert_eq!(try_ask(&mut engine, short, greedy(1), &images[1..]).unwrap().prompt_ids, answer.prompt_ids);

    let missing = try_ask(&mut engine, chat(Overflow::DropOldest), greedy(1), &images[..1]).unwrap_err();
    assert!(matches!(missing, RuntimeError::ImageCount { spans: 2, given: 1 }), "{missing}");
}

#[test]
fn a_change_of_the_rotary_base_is_run_again_or_passed_over() {
    let mut engine = engine(600);
    let ids = |count: u32| PromptInput::Ids { ids: (0..count).map(|id| id % 200).collect() };
    let with = |kv_reuse| GenerationOptions { kv_reuse, ..greedy(4) };
    let straight = ask(&mut engine, ids(WINDOW as u32 + 20), with(KvReuse::Exact));

    ask(&mut engine, ids(WINDOW as u32 - 20), with(KvReuse::Exact));
    let exact = ask(&mut engine, ids(WINDOW as u32 + 20), with(KvReuse::Exact));
    assert_eq!((exact.reused_tokens, &exact.tokens), (0, &straight.tokens));

    ask(&mut engine, ids(WINDOW as u32 - 20), with(KvReuse::Exact));
    let fast = ask(&mut engine, ids(WINDOW as u32 + 20), with(KvReuse::Fast));
    assert_eq!(fast.reused_tokens, WINDOW - 20);
    // Another conversation has its own base.
    let other: Vec<u32> = (0..WINDOW as u32 + 20).map(|id| (id + 7) % 200).collect();
    let fresh = ask(&mut engine, PromptInput::Ids { ids: other.clone() }, with(KvReuse::Fast));
    engine.model_mut().rewind(0);
    let alone = ask(&mut engine, PromptInput::Ids { ids: other }, with(KvReuse::Exact));
    assert_eq!((fresh.reused_tokens, fresh.tokens), (0, alone.tokens));
}

/// Allows the tokens of a list of sets, one for each token of the answer, and records the tokens that it is given.
struct Sets {
    sets: Vec<Vec<u32>>,
    told: Vec<Option<u32>>,
}

impl Constraint for Sets {
    fn next(&mut self, token: Option<u32>) -> AllowedTokens<'_> {
        let set = &self.sets[self.told.len()];
        self.told.push(token);
        let mut allowed = vec![0; VOCAB as usize / 32];
        set.iter().for_each(|token| allowed[*token as usize / 32] |= 1 << (token % 32));
        Box::pin(std::future::ready(Ok(allowed)))
    }
}

fn constrained(engine: &mut Engine, generation: GenerationOptions, sets: Vec<Vec<u32>>) -> (Answer, Vec<Option<u32>>) {
    let mut constraint = Sets { sets, told: Vec::new() };
    let request = Request { prompt: raw("Hello"), generation, pictures: PictureLimits::default() };
    let mut on_event = |_| ControlFlow::Continue(());
    let answer = pollster::block_on(engine.ask_constrained(&request, &[], &mut on_event, &mut constraint)).unwrap();
    (answer, constraint.told)
}

#[test]
fn a_constraint_decides_about_every_token() {
    let mut engine = engine(200);
    let plain = ask(&mut engine, raw("Hello"), greedy(8));
    // A constraint that excludes nothing changes nothing, on the GPU, with logits, and with sampling.
    let all = || vec![(0..VOCAB).collect::<Vec<u32>>(); 8];
    let sampled = GenerationOptions { greedy: None, temperature: Some(1.0), top_p: Some(0.9), seed: Some(5), ..greedy(8) };
    for generation in [greedy(8), GenerationOptions { logprobs: Some(0), ..greedy(8) }, sampled] {
        let free = ask(&mut engine, raw("Hello"), generation.clone());
        let (answer, told) = constrained(&mut engine, generation, all());
        assert_eq!(answer.tokens, free.tokens);
        let latest = answer.tokens[..7].iter().copied().map(Some);
        assert_eq!(told, std::iter::once(None).chain(latest).collect::<Vec<_>>());
    }
    // The tokens of the free answer are excluded, one more in each step.
    let sets =
        || -> Vec<Vec<u32>> { (0..8).map(|step| (0..VOCAB).filter(|token| !plain.tokens[..=step].contains(token)).collect()).collect() };
    let (on_gpu, _) = constrained(&mut engine, greedy(8), sets());
    let (with_logits, _) = constrained(&mut engine, GenerationOptions { logprobs: Some(0), ..greedy(8) }, sets());
    assert_eq!(on_gpu.tokens, with_logits.tokens);
    assert!(on_gpu.tokens.iter().zip(sets()).all(|(token, set)| set.contains(token)), "{:?}", on_gpu.tokens);
    let (sampled, _) =
        constrained(&mut engine, GenerationOptions { greedy: Some(false), temperature: Some(2.0), seed: Some(1), ..greedy(8) }, sets());
    assert!(sampled.tokens.iter().zip(sets()).all(|(token, set)| set.contains(token)), "{:?}", sampled.tokens);
    // Single tokens.
    let (forced, _) = constrained(&mut engine, greedy(3), vec![vec![7], vec![300], vec![7]]);
    assert_eq!(forced.tokens, [7, 300, 7]);
}

#[test]
fn a_text_that_is_complete_ends_even_if_it_is_short() {
    let mut engine = engine(200);
    let stop = engine.model().manifest().generation.eos_token_id;
    let long = GenerationOptions { greedy: Some(true), min_new_tokens: 6, max_new_tokens: Some(8), ..GenerationOptions::default() };
    let (answer, _) = constrained(&mut engine, long.clone(), vec![vec![7], vec![7, stop], vec![stop]]);
    assert_eq!((answer.tokens, answer.finish_reason), (vec![7, 7, stop], FinishReason::Stop));
    // Until then stop tokens are excluded where another token is allowed.
    let (answer, _) = constrained(&mut engine, long, vec![vec![7, stop]; 8]);
    assert_eq!(answer.tokens[..6], [7; 6]);
}

#[test]
fn an_answer_continues_its_prefix() {
    let mut engine = engine(200);
    let chat = |prefix: Option<&str>| PromptInput::Chat {
        system: None,
        history: Vec::new(),
        query: "Four?".into(),
        prefix: prefix.map(str::to_owned),
        overflow: Overflow::Error,
    };
    let ids = |prompt: &PromptInput| prompt.encode(engine.tokenizer(), &[], usize::MAX, None).unwrap().prompt.ids;
    let (without, with) = (ids(&chat(None)), ids(&chat(Some("It is"))));
    let prefix = engine.tokenizer().encode("It is", qwen_vl_processor::SpecialTokens::None).unwrap();
    assert_eq!(with, [without, prefix].concat());
    let answer = ask(&mut engine, chat(Some("It is")), greedy(4));
    let continued = ask(&mut engine, PromptInput::Ids { ids: with }, greedy(4));
    assert_eq!(answer.tokens, continued.tokens);
    // The parser of objects knows what came before.
    let answer = ask(&mut engine, chat(Some("<ref>cat</ref><box>(1,2),(3,")), greedy(1));
    assert!(!answer.raw.contains("cat"), "{}", answer.raw);
}
