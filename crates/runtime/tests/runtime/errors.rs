//! Errors of users and damaged files: each names the place, the value and what was expected.

use crate::support::{convert, load, load_with};
use quantize::SchemeName;
use qwen_vl_format::{Manifest, ShardError};
use qwen_vl_processor::DecodeOptions;
use qwen_vl_runtime::session::{Engine, Event, FinishReason, GenerationOptions, ImageInput, PictureLimits, PromptInput, Request};
use qwen_vl_runtime::{Backend, Gpu, GpuError, GpuOptions, Kernels, KvReuse, ModelLoader, ModelOptions, RuntimeError};
use qwen_vl_testkit::golden::fixtures;
use std::ops::ControlFlow;

fn converted() -> tempfile::TempDir {
    convert(&fixtures().join("checkpoints/mini-a"), SchemeName::F32, 32)
}

fn loader(folder: &tempfile::TempDir) -> (ModelLoader, Vec<u8>) {
    let web = folder.path().join("web");
    let manifest = Manifest::from_json(&std::fs::read_to_string(web.join("manifest.json")).unwrap()).unwrap();
    let shard = std::fs::read(web.join(&manifest.shards[0].file)).unwrap();
    let gpu = pollster::block_on(Gpu::request(GpuOptions::default())).unwrap();
    (ModelLoader::new(gpu, manifest, ModelOptions::default()).unwrap(), shard)
}

#[test]
fn a_truncated_shard_is_named_with_both_lengths() {
    let (mut loader, shard) = loader(&converted());
    loader.write(0, &shard[..shard.len() - 5]).unwrap();
    let Err(error) = loader.finish() else { panic!("a model was made of a truncated shard") };
    assert!(matches!(error, RuntimeError::Shard(ShardError::Length { .. })));
    let text = error.to_string();
    assert!(
        text.contains("shard-00000") && text.contains(&shard.len().to_string()) && text.contains(&(shard.len() - 5).to_string()),
        "{text}"
    );
}

#[test]
fn a_shard_that_goes_on_is_refused() {
    let (mut loader, shard) = loader(&converted());
    loader.write(0, &shard).unwrap();
    assert!(matches!(loader.write(0, &[0]), Err(RuntimeError::Shard(ShardError::Length { .. }))));
}

#[test]
fn one_wrong_bit_is_noticed() {
    let (mut loader, mut shard) = loader(&converted());
    let middle = shard.len() / 2;
    shard[middle] ^= 1;
    let error = loader.write(0, &shard).unwrap_err();
    assert!(matches!(error, RuntimeError::Shard(ShardError::Hash { .. })), "{error}");
    assert!(error.to_string().contains("shard-00000"), "{error}");
}

#[test]
fn a_shard_may_come_again_after_a_wrong_or_an_unfinished_one() {
    let folder = converted();
    let (mut loader, shard) = loader(&folder);
    let mut wrong = shard.clone();
    wrong[shard.len() / 2] ^= 1;
    loader.write(0, &wrong).unwrap_err();
    // An odd length: the word that it cuts must not join the first byte.
    loader.write(0, &wrong[..shard.len() / 4 * 2 + 1]).unwrap();
    loader.restart(0).unwrap();
    for piece in shard.chunks(9973) {
        loader.write(0, piece).unwrap();
    }
    let mut again = loader.finish().unwrap();
    // The kernels of `loader`.
    let mut straight = load_with(&folder, ModelOptions::default(), Some(Kernels::PLAIN));
    let logits = |model: &mut qwen_vl_runtime::Model| {
        model.rewind(0);
        let done = pollster::block_on(model.prefill(&[1, 2, 3], &[], KvReuse::Exact, &mut |_| ControlFlow::Continue(()), None)).unwrap();
        assert!(done.is_continue());
        pollster::block_on(model.logits()).unwrap()
    };
    assert_eq!(logits(&mut again), logits(&mut straight));
}

#[test]
fn a_wrong_shard_is_not_one_that_came() {
    let (mut loader, mut shard) = loader(&converted());
    shard[100] ^= 1;
    loader.write(0, &shard).unwrap_err();
    let Err(error) = loader.finish() else { panic!("a model was made of a wrong shard") };
    assert!(matches!(error, RuntimeError::Shard(ShardError::Length { found: 0, .. })), "{error}");
}

#[test]
fn a_shard_that_does_not_exist_is_refused() {
    let (mut loader, _) = loader(&converted());
    assert!(matches!(loader.write(99, &[0]), Err(RuntimeError::Shard(ShardError::NoSuchShard { index: 99, count: 1 }))));
    assert!(matches!(loader.restart(99), Err(RuntimeError::Shard(ShardError::NoSuchShard { index: 99, count: 1 }))));
}

#[test]
fn options_of_a_load_are_checked() {
    let checked = |context_length, prefill_chunk| {
        ModelOptions { context_length, prefill_chunk, ..Default::default() }.checked().map_err(|error| error.to_string())
    };
    for wrong in [0, 1, usize::MAX] {
        assert_eq!(checked(wrong, 64), Err(format!("context length is {wrong}, expected a whole number from 2 to 2147483647")));
    }
    assert_eq!(checked(2, 0), Err("prefill chunk is 0, expected at least 1".to_owned()));
    assert_eq!(checked(2, usize::MAX), Ok(ModelOptions { context_length: 2, prefill_chunk: 2, ..Default::default() }));

    let folder = converted();
    let manifest = Manifest::from_json(&std::fs::read_to_string(folder.path().join("web/manifest.json")).unwrap()).unwrap();
    let new = |context_length| {
        let gpu = pollster::block_on(Gpu::request(GpuOptions::default())).unwrap();
        ModelLoader::new(gpu, manifest.clone(), ModelOptions { context_length, ..Default::default() }).map(|_| ())
    };
    assert!(matches!(new(0), Err(RuntimeError::InvalidOption { .. })));
    // Far beyond any memory: refused with the size that it needs, which must not wrap.
    let Err(RuntimeError::Gpu(GpuError::BindingTooLarge { needed, .. })) = new(100_000_000) else { panic!("it was not refused") };
    assert_eq!(needed, 100_000_000 * 32 / 2 * 8);
}

/// Returns an engine on mini-a, whose vocabulary has 320 ranks and whose `<img>` is 534.
fn engine(context_length: usize) -> Engine {
    let folder = converted();
    let model = load(&folder, ModelOptions { context_length, prefill_chunk: 64, ..Default::default() });
    let vocabulary = std::fs::read(folder.path().join("web/qwen.tiktoken")).unwrap();
    Engine::new(model, &vocabulary).unwrap()
}

fn ask(engine: &mut Engine, prompt: PromptInput, images: &[ImageInput]) -> Result<qwen_vl_runtime::session::Answer, RuntimeError> {
    let generation = GenerationOptions { max_new_tokens: Some(4), greedy: Some(true), ignore_stop: true, ..Default::default() };
    pollster::block_on(engine.ask(
        &Request { prompt, generation, pictures: PictureLimits::default() },
        images,
        &mut |_| ControlFlow::Continue(()),
        None,
    ))
}

fn raw(text: &str) -> PromptInput {
    PromptInput::Raw { text: text.to_owned() }
}

fn picture(name: &str) -> ImageInput {
    let bytes = std::fs::read(fixtures().join("images").join(name)).unwrap();
    ImageInput::Encoded { bytes, options: DecodeOptions::ORIGINAL }
}

#[test]
fn bad_requests_are_errors_and_the_engine_stays_usable() {
    let mut engine = engine(400);
    let message = |result: Result<_, RuntimeError>| result.map(|_: qwen_vl_runtime::session::Answer| ()).unwrap_err().to_string();

    let error = message(ask(&mut engine, raw("<img>a.png</img>What?"), &[]));
    assert!(error.contains("the prompt names 1 picture, but 0 were given"), "{error}");
    let error = message(ask(&mut engine, raw("<img>a.png"), &[picture("photo_cat.png")]));
    assert!(error.contains("`<img>` at character 0"), "{error}");
    let error = message(ask(&mut engine, raw(&format!("<img>{}</img>", "x".repeat(300))), &[picture("photo_cat.png")]));
    assert!(error.contains("300 bytes"), "{error}");
    let broken = ImageInput::Encoded { bytes: b"\x89PNG\r\n\x1a\n but no more".to_vec(), options: DecodeOptions::ORIGINAL };
    let error = message(ask(&mut engine, raw("<img>a.png</img>"), &[broken]));
    assert!(error.contains("cannot read the picture"), "{error}");
    let error = message(ask(&mut engine, raw(&"word ".repeat(500)), &[]));
    assert!(error.contains("context of 400"), "{error}");
    let error = message(ask(&mut engine, PromptInput::Ids { ids: vec![1, 2, 100_000] }, &[]));
    assert!(error.contains("token 100000 at position 2"), "{error}");
    let error = message(ask(&mut engine, raw(""), &[]));
    assert!(error.contains("no tokens"), "{error}");

    let answer = ask(&mut engine, raw("Hello"), &[]).unwrap();
    assert_eq!((answer.tokens.len(), answer.finish_reason), (4, FinishReason::Length));
}

#[test]
fn a_cancelled_answer_keeps_what_came_and_the_next_is_whole() {
    let mut engine = engine(400);
    let request = Request {
        prompt: raw("Hello"),
        generation: GenerationOptions { max_new_tokens: Some(12), greedy: Some(true), ignore_stop: true, ..Default::default() },
        pictures: PictureLimits::default(),
    };
    let run = |engine: &mut Engine, stop_after: usize| {
        let mut texts = 0;
        let mut on_event = |event| {
            texts += usize::from(matches!(event, Event::Text { .. }));
            if texts >= stop_after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        pollster::block_on(engine.ask(&request, &[], &mut on_event, None)).unwrap()
    };
    let whole = run(&mut engine, usize::MAX);
    let cut = run(&mut engine, 3);
    assert_eq!(cut.finish_reason, FinishReason::Cancelled);
    assert!(cut.tokens.len() < whole.tokens.len() && whole.tokens.starts_with(&cut.tokens), "{:?} of {:?}", cut.tokens, whole.tokens);
    assert_eq!(run(&mut engine, usize::MAX).tokens, whole.tokens);
}

#[test]
fn the_context_ends_an_answer() {
    let mut engine = engine(16);
    let request = Request {
        prompt: PromptInput::Ids { ids: (0..12).collect() },
        generation: GenerationOptions { greedy: Some(true), ignore_stop: true, ..Default::default() },
        pictures: PictureLimits::default(),
    };
    let answer = pollster::block_on(engine.ask(&request, &[], &mut |_| ControlFlow::Continue(()), None)).unwrap();
    // Twelve positions of the prompt, four of the answer, and one more token that needs no position.
    assert_eq!((answer.finish_reason, answer.tokens.len()), (FinishReason::Context, 5));
}

#[test]
fn the_same_picture_is_encoded_once() {
    let mut engine = engine(400);
    let prompt = || raw("<img>a.png</img>What?");
    let first = ask(&mut engine, prompt(), &[picture("photo_cat.png")]).unwrap();
    let before = engine.model().gpu().allocated_bytes();
    let again = ask(&mut engine, prompt(), &[picture("photo_cat.png")]).unwrap();
    assert_eq!(engine.model().gpu().allocated_bytes(), before, "features were made anew");
    assert_eq!(first.tokens, again.tokens);
    ask(&mut engine, prompt(), &[picture("photo_rocket.png")]).unwrap();
    assert!(engine.model().gpu().allocated_bytes() > before, "another picture took the first one's features");
}
