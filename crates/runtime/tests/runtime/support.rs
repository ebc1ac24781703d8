//! Conversion and loading for the tests.

use quantize::{Options, SchemeName, WriteOptions};
use qwen_vl_format::Manifest;
use qwen_vl_processor::PictureGrid;
use qwen_vl_runtime::{
    Backend, ChoiceOptions, Gpu, GpuOptions, ImageFeatures, Kernels, KvReuse, Model, ModelLoader, ModelOptions, Trace, choose,
};
use qwen_vl_testkit::golden::Case;
use std::ops::ControlFlow;
use std::path::Path;

/// Returns a context length that holds every case with its greedy steps.
pub fn context_for(cases: &[Case]) -> usize {
    cases.iter().map(|case| case.input_ids.len() + case.decode.tokens.len() + 1).max().expect("at least one case")
}

/// Converts a Hugging Face folder to a temporary web checkpoint.
pub fn convert(checkpoint: &Path, scheme: SchemeName, group_size: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new(checkpoint, folder.path().join("web")).scheme(scheme).group_size(group_size).unwrap();
    quantize::convert(&options, &mut |_| ()).unwrap();
    folder
}

/// Returns the web checkpoint with every tensor decoded to f32.
pub fn dequantized(folder: &tempfile::TempDir) -> tempfile::TempDir {
    let decoded = tempfile::tempdir().unwrap();
    quantize::dequantized(&folder.path().join("web"), &decoded.path().join("web"), &WriteOptions::default()).unwrap();
    decoded
}

/// Loads a web checkpoint, its shards in pieces of an awkward size.
pub fn load(folder: &tempfile::TempDir, options: ModelOptions) -> Model {
    load_with(folder, options, None)
}

/// Loads a web checkpoint with this kernel set instead of the fastest.
pub fn load_with(folder: &tempfile::TempDir, options: ModelOptions, kernels: Option<Kernels>) -> Model {
    let folder = folder.path().join("web");
    // The plain kernels also run at WebGPU's default limits.
    let default_limits = kernels == Some(Kernels::PLAIN);
    let mut gpu = pollster::block_on(Gpu::request(GpuOptions { kernels, default_limits, ..Default::default() }))
        .expect("the tests need a Vulkan, Metal or DX12 adapter (Debian: mesa-vulkan-drivers)");
    if kernels.is_none() {
        pollster::block_on(choose(&mut gpu, ChoiceOptions::default())).unwrap();
    }
    let manifest = Manifest::from_json(&std::fs::read_to_string(folder.join("manifest.json")).unwrap()).unwrap();
    let files: Vec<_> = manifest.shards.iter().map(|shard| shard.file.clone()).collect();
    let mut loader = ModelLoader::new(gpu, manifest, options).unwrap();
    for (shard, file) in files.iter().enumerate() {
        for piece in std::fs::read(folder.join(file)).unwrap().chunks(1_000_003) {
            loader.write(shard, piece).unwrap();
        }
    }
    loader.finish().unwrap()
}

/// Runs a whole prompt.
pub fn prefill(model: &mut Model, ids: &[u32], features: &[ImageFeatures], trace: Option<&mut Trace>) {
    let flow = pollster::block_on(model.prefill(ids, features, KvReuse::Exact, &mut |_| ControlFlow::Continue(()), trace)).unwrap();
    assert!(flow.is_continue());
}

/// The grid of the pictures of a model that takes one size.
pub fn grid(model: &Model) -> PictureGrid {
    let side = model.manifest().config.vision.fixed_grid().unwrap();
    PictureGrid::still([side, side], 1, model.manifest().config.vision.patch_size)
}

/// Encodes a picture of a model that takes one size.
pub fn encode(model: &mut Model, patches: &[f32]) -> ImageFeatures {
    let grid = grid(model);
    pollster::block_on(model.encode_image(patches, None, &grid)).unwrap()
}
