//! Compares the burn modules with the WebGPU runtime on the same web checkpoint: features, every logit, greedy tokens.
//!
//! Both compute with the decoded values, so 4-bit weights cause no difference. The bounds are those of the goldens.

use burn::tensor::{Device, Tensor, TensorData};
use quantize::{Options, SchemeName};
use qwen_vl_format::Manifest;
use qwen_vl_processor::{Picture, PictureGrid};
use qwen_vl_reference::{KvCache, QwenVl, Splice, burn, ignore};
use qwen_vl_runtime::{Backend, Gpu, GpuOptions, ImageFeatures, KvReuse, Model, ModelLoader, ModelOptions, Trace};
use qwen_vl_testkit::closeness::{assert_close, worst};
use qwen_vl_testkit::golden::GoldenSet;
use std::ops::ControlFlow;
use std::path::Path;

const FEATURES_TOLERANCE: f32 = 1e-4;
const LOGITS_TOLERANCE: f32 = 5e-4;
const STEPS: usize = 24;

/// Prompt: token ids, and pictures as patches.
struct Prompt {
    ids: Vec<u32>,
    pictures: Vec<Vec<f32>>,
}

#[test]
fn they_agree_on_a_converted_checkpoint_of_random_weights() {
    for scheme in [SchemeName::F32, SchemeName::Q4] {
        let set = GoldenSet::all().into_iter().find(|set| set.name == "mini-b").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let web = folder.path().join("web");
        let options = Options::new(set.checkpoint(), &web).scheme(scheme).group_size(32).unwrap();
        quantize::convert(&options, &mut |_| ()).unwrap();
        let manifest = manifest(&web);
        let pixels = |path: &str| {
            let bytes = std::fs::read(set.root.join(path)).unwrap();
            patches(&manifest, &Picture::decode(&bytes, qwen_vl_processor::DecodeOptions::ORIGINAL).unwrap())
        };
        let cases = set.cases().unwrap().into_iter().filter(|case| ["text_zh", "img_vqa"].contains(&&*case.case));
        let prompts: Vec<_> = cases
            .map(|case| Prompt { pictures: case.images.iter().map(|image| pixels(&image.path)).collect(), ids: case.input_ids })
            .collect();
        assert!(!prompts.is_empty());
        agree(&web, &prompts, &format!("mini-b {scheme:?}"));
    }
}

/// Runs the repository's trained model on dialogues of the test split, with pictures, both languages and several turns.
#[test]
fn they_agree_on_nano() {
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nano");
    let manifest = manifest(&web);
    let tokenizer = qwen_vl_world::tokenizer(manifest.config.vision.queries()).unwrap();
    let dialogues = qwen_vl_world::World::small();
    let prompts: Vec<_> = dialogues
        .samples(qwen_vl_world::Split::Test, qwen_vl_world::Stage::Chat, 1)
        .map(|sample| (sample.encode(&tokenizer).unwrap(), sample.pictures))
        .filter(|(encoded, pictures)| !pictures.is_empty() && encoded.ids.len() < 400)
        .take(6)
        .map(|(encoded, pictures)| {
            // The prompt ends before the last answer, which the model generates.
            let asked = encoded.loss.iter().rposition(|learned| !learned).unwrap() + 1;
            Prompt { ids: encoded.ids[..asked].to_vec(), pictures: pictures.iter().map(|picture| patches(&manifest, picture)).collect() }
        })
        .collect();
    agree(&web, &prompts, "nano");
}

fn manifest(web: &Path) -> Manifest {
    Manifest::from_json(&std::fs::read_to_string(web.join("manifest.json")).unwrap()).unwrap()
}

fn patches(manifest: &Manifest, picture: &Picture) -> Vec<f32> {
    let vision = &manifest.config.qwen_vl().unwrap().visual;
    let pixels = picture.pixels(vision.image_size, manifest.processor.image_mean, manifest.processor.image_std);
    pixels.patches(vision.patch_size, vision.patch_values())
}

/// Runs every prompt on the runtime and on the reference, and compares the results.
fn agree(web: &Path, prompts: &[Prompt], what: &str) {
    let device = Device::flex();
    let reference = QwenVl::open_web(web, &device).unwrap();
    let mut runtime = load(web, prompts);
    let config = reference.config().clone();
    let (mut worst_feature, mut worst_logit) = (0.0f32, 0.0f32);
    for (number, prompt) in prompts.iter().enumerate() {
        let what = format!("{what}, prompt {number}");
        let (mut theirs, mut ours) = (Vec::<ImageFeatures>::new(), Vec::new());
        for patches in &prompt.pictures {
            let mut trace = Trace::new();
            let grid = PictureGrid::still([config.visual.grid(), config.visual.grid()], 1, config.visual.patch_size);
            theirs.push(pollster::block_on(runtime.encode_image_traced(patches, None, &grid, &mut trace)).unwrap());
            let shape = [1, config.visual.patches(), config.visual.patch_values()];
            let patches = Tensor::from_data(TensorData::new(patches.clone(), shape), &device);
            let features = reference.transformer.visual.forward(patches, &mut ignore);
            let (got, want) = (&trace["image_features"], values(&features));
            assert_close(got, &want, FEATURES_TOLERANCE, &format!("{what}: features"));
            worst_feature = worst_feature.max(worst(got, &want, &what).1);
            ours.push(features);
        }
        let ours = (!ours.is_empty()).then(|| Tensor::cat(ours, 0));

        let mut trace = Trace::new();
        runtime.rewind(0);
        let mut go_on = |_| ControlFlow::Continue(());
        let prefill = runtime.prefill(&prompt.ids, &theirs, KvReuse::Exact, &mut go_on, Some(&mut trace));
        assert!(pollster::block_on(prefill).unwrap().is_continue());
        let mut cache = KvCache::default();
        let logits = values(&reference.prefill(&Splice::prompt(&config, &prompt.ids), ours, &mut cache, &mut ignore));
        assert_close(&trace["logits"], &logits, LOGITS_TOLERANCE, &format!("{what}: logits"));
        worst_logit = worst_logit.max(worst(&trace["logits"], &logits, &what).1);

        let mut row = logits[logits.len() - config.vocab_size..].to_vec();
        for step in 0..STEPS {
            let token = pollster::block_on(runtime.next_token(None, None, false)).unwrap();
            let best = (0..row.len()).fold(0, |best, id| if row[id] > row[best] { id } else { best });
            // If two logits are closer than the tolerance, either token is right.
            let lost = row[best] - row[token as usize];
            assert!(
                lost <= 2.0 * LOGITS_TOLERANCE,
                "{what}: token {token} at step {step}, expected {best}, whose logit is higher by {lost}"
            );
            runtime.decode(token).unwrap();
            row = values(&reference.step(token, prompt.ids.len(), &mut cache));
            let got = pollster::block_on(runtime.logits()).unwrap();
            assert_close(&got, &row, LOGITS_TOLERANCE, &format!("{what}: logits of step {step}"));
        }
    }
    println!("{what}: {} prompts, largest difference of a feature: {worst_feature:e}, of a logit: {worst_logit:e}", prompts.len());
}

fn load(web: &Path, prompts: &[Prompt]) -> Model {
    let gpu = pollster::block_on(Gpu::request(GpuOptions::default()))
        .expect("the tests need a Vulkan, Metal or DX12 adapter (Debian: mesa-vulkan-drivers)");
    let manifest = manifest(web);
    let files: Vec<_> = manifest.shards.iter().map(|shard| shard.file.clone()).collect();
    let longest = prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap();
    let mut loader = ModelLoader::new(gpu, manifest, ModelOptions { context_length: longest + STEPS + 1, ..Default::default() }).unwrap();
    for (shard, file) in files.iter().enumerate() {
        loader.write(shard, &std::fs::read(web.join(file)).unwrap()).unwrap();
    }
    loader.finish().unwrap()
}

fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().try_to_vec().unwrap()
}
