//! Small Qwen-VL models without a GPU: the burn reference (`crates/reference`) as a [`Backend`](qwen_vl_runtime::Backend) of the session,
//! loaded from the bytes of a web checkpoint. It is the package's CPU fallback.

mod loader;
mod model;
mod shards;

pub use loader::CpuLoader;
pub use model::{CpuFeatures, CpuModel, Pause};
