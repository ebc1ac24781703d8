//! Compares the burn modules on a device with the goldens: every stage, every logit, every greedy token.
//!
//! The tolerances hold on every device: `vit_out` 2e-4, `image_features` 1e-4, logits 5e-4 up to 600 tokens and 2e-3 above. The first
//! three are those of `tests/fixtures/README.md`.

use burn::tensor::{Device, Tensor, TensorData};
use qwen_vl_format::{IMAGE_MEAN, IMAGE_STD};
use qwen_vl_processor::{DecodeOptions, Picture};
use qwen_vl_reference::{KvCache, Place, Positions, QwenVl, Splice, burn, ignore, packed_mask};
use qwen_vl_testkit::closeness::{assert_close, worst};
use qwen_vl_testkit::golden::{Case, GoldenSet};
use std::collections::BTreeMap;
use std::path::Path;

const VISION_TOLERANCE: f32 = 2e-4;
const FEATURES_TOLERANCE: f32 = 1e-4;

fn logits_tolerance(tokens: usize) -> f32 {
    if tokens <= 600 { 5e-4 } else { 2e-3 }
}

/// Checks all cases of all goldens.
pub fn goldens(device: &Device) {
    for set in GoldenSet::all() {
        let model = QwenVl::open(&set.checkpoint(), device).unwrap();
        assert_eq!(model.device(), *device);
        let cases = set.cases().unwrap();
        assert!(!cases.is_empty(), "{}: no cases", set.name);
        let mut encoded = BTreeMap::new();
        let mut worst_logit = 0.0f32;
        for case in &cases {
            worst_logit = worst_logit.max(check_case(&set, case, &model, &mut encoded));
        }
        println!("{}: {} cases, largest difference of a logit: {worst_logit:e}", set.name, cases.len());
    }
}

fn check_case(set: &GoldenSet, case: &Case, model: &QwenVl, encoded: &mut BTreeMap<String, Tensor<3>>) -> f32 {
    let what = |part: &str| format!("{}/{}: {part}", set.name, case.case);
    let tolerance = logits_tolerance(case.input_ids.len());
    let vocab = model.config().vocab_size;
    for image in &case.images {
        if !encoded.contains_key(&image.path) {
            encoded.insert(image.path.clone(), encode(set, &image.path, model));
        }
    }
    let features: Vec<_> = case.images.iter().map(|image| encoded[&image.path].clone()).collect();
    let features = (!features.is_empty()).then(|| Tensor::cat(features, 0));

    let splice = Splice::prompt(model.config(), &case.input_ids);
    assert_eq!((splice.len(), splice.pictures()), (case.input_ids.len(), case.images.len()), "{}", what("positions"));
    let mut cache = KvCache::default();
    let mut trace = BTreeMap::new();
    let logits = model.prefill(&splice, features, &mut cache, &mut |name, tensor| {
        trace.insert(name.to_owned(), values(tensor));
    });
    assert_eq!(logits.device(), model.device(), "{}", what("device"));
    let logits = values(&logits);
    let mut worst_logit = 0.0f32;
    for (name, want) in &case.tensors {
        let (stage, last) = name.strip_suffix("_last8").map_or((name.as_str(), false), |stage| (stage, true));
        match stage {
            "logit_max" | "logsumexp" => {
                let rows = logits.chunks_exact(vocab).map(|row| {
                    let largest = row.iter().copied().fold(f32::MIN, f32::max);
                    let sum: f64 = row.iter().map(|logit| f64::from(logit - largest).exp()).sum();
                    if stage == "logit_max" { largest } else { largest + sum.ln() as f32 }
                });
                assert_close(&rows.collect::<Vec<_>>(), &want.values, tolerance, &what(name));
            }
            // Keys and values stay inside the block, but the logits of the steps depend on all of them.
            "decode_logits_step_1_2" | "decode_logits_step_1_2_last" | "layer0_key" | "layer0_value" => {}
            _ => {
                let key = if stage == "ln_f" { "hidden.ln_f" } else { stage };
                let all = if stage == "logits" { &logits } else { &trace[key] };
                let got = if last { &all[all.len() - want.values.len()..] } else { &all[..] };
                assert_close(got, &want.values, tolerance, &what(name));
                if stage == "logits" {
                    worst_logit = worst_logit.max(worst(got, &want.values, name).1);
                }
            }
        }
    }

    let mut row = logits[logits.len() - vocab..].to_vec();
    let (mut tokens, mut step_logits) = (Vec::new(), Vec::new());
    for step in 0..case.decode.tokens.len() {
        let token = (0..vocab).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as u32;
        tokens.push(token);
        if [1, 2, case.decode.tokens.len() - 1].contains(&step) {
            step_logits.extend_from_slice(&row);
        }
        row = values(&model.step(token, case.input_ids.len(), &mut cache));
    }
    assert_eq!(tokens, case.decode.tokens, "{}", what("greedy tokens"));
    let want = &case.tensors["decode_logits_step_1_2_last"].values;
    assert_close(&step_logits, want, tolerance, &what("logits of steps"));
    worst_logit.max(worst(&step_logits, want, "steps").1)
}

/// Checks the stages of a picture and returns its image features.
fn encode(set: &GoldenSet, path: &str, model: &QwenVl) -> Tensor<3> {
    let mut trace = BTreeMap::new();
    let features = model.transformer.visual.forward(patches(set, path, model), &mut |name, tensor| {
        trace.insert(name.to_owned(), values(tensor));
    });
    let layers = model.config().visual.layers;
    for (name, want) in set.image_stages(path).unwrap() {
        let (stage, every) = match name.rsplit_once("_every_") {
            Some((stage, every)) => (stage, every.trim_end_matches(|c: char| c.is_alphabetic()).parse().unwrap()),
            None => (name.as_str(), 1usize),
        };
        let key = if stage == "vit_out" { format!("block{}", layers - 1) } else { stage.to_owned() };
        let got: Vec<f32> = trace[&key].chunks_exact(want.shape[1]).step_by(every).flatten().copied().collect();
        let late = stage.starts_with("resampler") || stage == "ln_post" || stage == "image_features";
        let tolerance = if late { FEATURES_TOLERANCE } else { VISION_TOLERANCE };
        assert_close(&got, &want.values, tolerance, &format!("{}/{path}: {name}", set.name));
    }
    features
}

/// Returns the patches of a picture, with the pixels from the original's image decoder.
fn patches(set: &GoldenSet, path: &str, model: &QwenVl) -> Tensor<3> {
    let vision = &model.config().visual;
    let decoded = set.root.join("preprocess/decoded").join(Path::new(path).file_stem().unwrap()).with_extension("png");
    let file = if path.ends_with(".jpg") { decoded } else { set.root.join(path) };
    let picture = Picture::decode(&std::fs::read(file).unwrap(), DecodeOptions::ORIGINAL).unwrap();
    let patches = picture.pixels(vision.image_size, IMAGE_MEAN, IMAGE_STD).patches(vision.patch_size, vision.patch_values());
    Tensor::from_data(TensorData::new(patches, [1, vision.patches(), vision.patch_values()]), &model.device())
}

fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().try_to_vec().unwrap()
}

/// Checks that a packed row gives the logits of its samples and threads.
pub fn packed_row(device: &Device) {
    let set = &GoldenSet::all()[0];
    let model = QwenVl::open(&set.checkpoint(), device).unwrap();
    let config = model.config().clone();
    let alone = |ids: &[u32]| values(&model.prefill(&Splice::prompt(&config, ids), None, &mut KvCache::default(), &mut ignore));
    // One sample has five tokens. The other has three tokens and two continuations that do not see each other.
    let (first, shared, threads) = ([3u32, 9, 27, 81, 16], [40u32, 20, 10], [[5u32, 2], [77, 8]]);
    let continued = threads.map(|thread| alone(&[&shared[..], &thread].concat()));
    let vocab = config.vocab_size;
    let want = [&alone(&first)[..], &continued[0], &continued[1][shared.len() * vocab..]].concat();

    let place = |sample, thread, position| Place { sample, thread, position };
    let row: Vec<Place> = (0..5)
        .map(|at| place(0, 0, at))
        .chain((0..3).map(|at| place(1, 0, at)))
        .chain([place(1, 1, 3), place(1, 1, 4), place(1, 2, 3), place(1, 2, 4)])
        .collect();
    let splice = Splice::prompt(&config, &[&first[..], &shared, &threads.concat()].concat());
    let positions = Positions::of_rows(&config, 1.0, &[row.iter().map(|place| place.position).collect()], &model.device());
    let mask = packed_mask(&[row], &model.device());
    let packed = model.decode(model.embed(&splice, None, 1), &positions, &mask, None, &mut ignore);
    assert_close(&values(&model.lm_head.forward(packed)), &want, 1e-4, "packed");
}

/// Checks that weights go out as they came in.
pub fn weights(device: &Device) {
    let set = &GoldenSet::all()[0];
    let model = QwenVl::open(&set.checkpoint(), device).unwrap();
    let weights = model.weights();
    let names: Vec<_> = quantize::original_tensors(&model.config().model()).into_iter().collect();
    assert_eq!(weights.len(), names.len());
    for (name, shape) in names {
        assert_eq!(weights[&name].shape, shape, "{name}");
    }
    let mut missing = weights.clone();
    missing.remove("transformer.ln_f.weight");
    let error = QwenVl::zeros(model.config(), device).load(missing).unwrap_err().to_string();
    assert!(error.contains("transformer.ln_f.weight"), "{error}");
    let again = QwenVl::zeros(model.config(), device).load(weights.clone()).unwrap();
    assert_eq!(again.weights(), weights);
}
