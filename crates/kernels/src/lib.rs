//! The compute kernels of Qwen-VL Web: every WGSL file, its launch code and its oracle side by side.
//!
//! Conventions:
//! - Activations are f32 matrices `[rows, cols]` whose rows are [`qwen_vl_format::padded`] to a multiple of 32 values; the padding is
//!   zero from the start (WebGPU clears buffers) and kernels keep it zero, so that inner products run over whole vectors.
//! - Weights are [`Weight`]s: one buffer of codes (and one of scales) for each slice of rows.
//! - What changes from launch to launch is one uniform, [`Step`]; all else is fixed when a [`Dispatch`] is made, so that bind groups
//!   are built once.
//! - Every kernel runs at WebGPU's default limits: 8 storage buffers, 16 KiB of workgroup memory, 256 invocations. Optional features are
//!   used where an adapter has them and a measurement says so; each kernel has a variant that needs none.
//! - An oracle is ordinary code in plain loops, accumulating in f64; tests and benches use it.

pub mod add;
pub mod argmax;
pub mod attention;
mod choice;
mod dispatch;
pub mod embedding;
mod gpu;
pub mod known_answers;
mod kv;
pub mod matmul;
pub mod norm;
pub mod rotary;
pub mod sample;
pub mod size;
pub mod timing;
mod weight;
mod wgsl;

pub use choice::{Kernels, Precision};
pub use dispatch::{Dispatch, Grid, Launch, Step, StepBuffer, encode};
pub use gpu::{Activation, Gpu, GpuError, GpuOptions, PendingRead, Temporary};
pub use kv::{KvCache, KvFormat};
pub use weight::{Weight, WeightPart};
