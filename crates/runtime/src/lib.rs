//! Qwen-VL on wgpu: the vision tower, the resampler, the decoder with its KV cache, sampling, and the session.
//!
//! The same code runs natively and in a browser. It never fetches: the caller writes the bytes of a web checkpoint to a [`ModelLoader`], in
//! pieces of any size, and receives a [`Model`]; an [`Engine`](session::Engine) adds the processor.
//!
//! A load creates all buffers and bind groups. Launches differ in one small uniform and in their numbers of workgroups.

mod backend;
pub mod benchmark;
mod budget;
mod clock;
mod decoder;
mod error;
mod loader;
mod merger;
mod model;
mod options;
mod positions;
mod resampler;
mod sampler;
mod self_check;
mod sequence;
pub mod session;
pub mod synthetic;
mod vision;
mod weights;

pub use backend::{Backend, Measured, Trace};
pub use budget::Budget;
pub use error::{Counted, RuntimeError, TextOf};
pub use loader::ModelLoader;
pub use model::{ImageFeatures, Model};
pub use options::ModelOptions;
pub use positions::{logn_factor, ntk_alpha, ntk_base};
pub use qwen_vl_kernels::{
    Choice, ChoiceOptions, ChoiceOrigin, DeviceHandle, Gpu, GpuError, GpuOptions, Kernels, KvFormat, Precision, Shader, choose,
};
pub use sampler::{Sampler, SamplingOptions, exclude, largest};
pub use sequence::{Cached, ImageRows, KvReuse, PromptPlan, Sequence};
