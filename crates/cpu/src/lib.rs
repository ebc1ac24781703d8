//! Small Qwen-VLs without a GPU: the burn reference (`crates/reference`) as a [`Backend`](qwen_vl_runtime::Backend) of the session, from
//! the bytes of a web checkpoint. The package falls back to it where a browser has no WebGPU.

mod loader;
mod model;

pub use loader::{CpuLoader, MAX_WEIGHT_BYTES};
pub use model::{CpuFeatures, CpuModel, Pause};

use qwen_vl_format::Manifest;

/// Bytes of a model's weights as f32.
fn weight_bytes(manifest: &Manifest) -> u64 {
    manifest.tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64 * 4).sum()
}
