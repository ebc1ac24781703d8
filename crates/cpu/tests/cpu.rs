//! The CPU backend gives the original's tokens through the same session as the GPU backend.

use quantize::{Options, SchemeName};
use qwen_vl_cpu::{CpuLoader, CpuModel};
use qwen_vl_format::{Manifest, ShardError};
use qwen_vl_processor::DecodeOptions;
use qwen_vl_runtime::benchmark::{BenchmarkOptions, benchmark};
use qwen_vl_runtime::session::{Answer, Engine, Event, FinishReason, GenerationOptions, ImageInput, PictureLimits, PromptInput, Request};
use qwen_vl_runtime::{Budget, RuntimeError};
use qwen_vl_testkit::golden::{Case, GoldenSet, fixtures};
use std::ops::ControlFlow;
use std::path::Path;

struct Converted {
    folder: tempfile::TempDir,
    manifest: Manifest,
}

impl Converted {
    fn new(checkpoint: &Path, scheme: SchemeName) -> Self {
        let folder = tempfile::tempdir().unwrap();
        quantize::convert(&Options::new(checkpoint, folder.path().join("web")).scheme(scheme), &mut |_| ()).unwrap();
        let json = std::fs::read_to_string(folder.path().join("web/manifest.json")).unwrap();
        Self { manifest: Manifest::from_json(&json).unwrap(), folder }
    }

    fn shard(&self, index: usize) -> Vec<u8> {
        std::fs::read(self.folder.path().join("web").join(&self.manifest.shards[index].file)).unwrap()
    }

    fn engine(&self, context_length: usize) -> Engine<CpuModel> {
        let mut loader = CpuLoader::new(self.manifest.clone(), context_length).unwrap();
        // The model can be taken before its weights are complete.
        let model = loader.take_model().unwrap();
        for shard in 0..self.manifest.shards.len() {
            assert!(!loader.encodes());
            for piece in self.shard(shard).chunks(1_000_003) {
                loader.write(shard, piece).unwrap();
            }
        }
        loader.complete().unwrap();
        let vocabulary = self.folder.path().join("web").join(&self.manifest.processor.tokenizer_file);
        Engine::new(model, &std::fs::read(vocabulary).unwrap()).unwrap()
    }
}

fn request(case: &Case) -> Request {
    let tokens = case.decode.tokens.len();
    let generation =
        GenerationOptions { greedy: Some(true), max_new_tokens: Some(tokens), ignore_stop: true, ..GenerationOptions::default() };
    Request { prompt: PromptInput::Ids { ids: case.input_ids.clone() }, generation, pictures: PictureLimits::default() }
}

fn images(set: &GoldenSet, case: &Case) -> Vec<ImageInput> {
    let read = |path: &str| std::fs::read(set.root.join(path)).unwrap();
    case.images.iter().map(|image| ImageInput::Encoded { bytes: read(&image.path), options: DecodeOptions::ORIGINAL }).collect()
}

fn ask(engine: &mut Engine<CpuModel>, request: &Request, images: &[ImageInput]) -> Answer {
    pollster::block_on(engine.ask(request, images, &mut |_| ControlFlow::Continue(()), None)).unwrap()
}

fn mini_a() -> GoldenSet {
    GoldenSet::all().into_iter().find(|set| set.name == "mini-a").unwrap()
}

#[test]
fn the_original_s_tokens() {
    let mut asked = 0;
    for set in GoldenSet::all() {
        let cases = set.cases().unwrap();
        let context = cases.iter().map(|case| case.input_ids.len() + case.decode.tokens.len() + 1).max().unwrap();
        let mut engine = Converted::new(&set.checkpoint(), SchemeName::F32).engine(context);
        for case in &cases {
            let answer = ask(&mut engine, &request(case), &images(&set, case));
            assert_eq!(answer.tokens, case.decode.tokens, "{}/{}", set.name, case.case);
            asked += 1;
        }
    }
    assert!(asked >= 10, "{asked} cases");
}

#[test]
fn the_cache_is_reused_and_answers_can_be_stopped() {
    let set = mini_a();
    let cases = set.cases().unwrap();
    let case = cases.iter().find(|case| case.case == "img_vqa").unwrap();
    let images = images(&set, case);
    let mut engine = Converted::new(&set.checkpoint(), SchemeName::Q4).engine(600);
    let first = ask(&mut engine, &request(case), &images);
    assert_eq!(first.reused_tokens, 0);
    let again = ask(&mut engine, &request(case), &images);
    assert_eq!((again.tokens, again.reused_tokens), (first.tokens.clone(), case.input_ids.len() - 1));

    let mut events = 0;
    let mut stop = |event: Event| {
        events += usize::from(matches!(event, Event::Text { .. }));
        if events == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let stopped = pollster::block_on(engine.ask(&request(case), &images, &mut stop, None)).unwrap();
    assert_eq!(stopped.finish_reason, FinishReason::Cancelled);
    assert!(stopped.tokens.len() < first.tokens.len() && first.tokens.starts_with(&stopped.tokens));
    assert_eq!(ask(&mut engine, &request(case), &images).tokens, first.tokens);

    // Sampled answers depend on their seed alone.
    let mut drawn = request(case);
    (drawn.generation.greedy, drawn.generation.seed, drawn.generation.temperature) = (Some(false), Some(5), Some(2.0));
    drawn.generation.top_p = Some(1.0);
    let [one, two] = [(); 2].map(|()| ask(&mut engine, &drawn, &images).tokens);
    assert_eq!(one, two);
    assert_ne!(one, first.tokens);

    let options = BenchmarkOptions { contexts: vec![64], decode_tokens: 4, runs: 1, ..BenchmarkOptions::default() };
    let report = pollster::block_on(benchmark(engine.model_mut(), &options, &mut |_, _| ControlFlow::Continue(()))).unwrap().unwrap();
    assert!(report.decode[0].tokens_per_second > 0.0 && report.dispatches_per_token == 0);
    assert!(engine.model().memory_bytes() > 4 * 100_000);
}

#[test]
fn large_models_and_wrong_shards_are_refused() {
    let converted = Converted::new(&fixtures().join("checkpoints/mini-a"), SchemeName::F32);
    let mut large = converted.manifest.clone();
    large.tensors[0].shape[0] = (Budget::MAX_CPU_WEIGHTS / 4) as usize;
    assert!(matches!(CpuLoader::new(large, 64), Err(RuntimeError::TooLargeForCpu { limit: Budget::MAX_CPU_WEIGHTS, .. })));
    assert!(matches!(CpuLoader::new(converted.manifest.clone(), 1), Err(RuntimeError::InvalidOption { .. })));

    let mut loader = CpuLoader::new(converted.manifest.clone(), 64).unwrap();
    let mut bytes = converted.shard(0);
    assert!(matches!(loader.write(99, &bytes), Err(RuntimeError::Shard(ShardError::NoSuchShard { index: 99, .. }))));
    loader.write(0, &bytes[..10]).unwrap();
    assert!(matches!(loader.complete(), Err(RuntimeError::Shard(ShardError::Length { found: 10, .. }))));
    loader.restart(0).unwrap();
    bytes[7] ^= 1;
    assert!(matches!(loader.write(0, &bytes), Err(RuntimeError::Shard(ShardError::Hash { .. }))));
    bytes[7] ^= 1;
    loader.write(0, &bytes).unwrap();
    assert!(matches!(loader.write(0, &[0]), Err(RuntimeError::Shard(ShardError::Length { .. }))));
}
