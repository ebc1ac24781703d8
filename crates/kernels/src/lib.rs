//! The compute kernels of Qwen-VL Web: every WGSL file with its launch code and its oracle.
//!
//! Conventions:
//! - Activations are f32 matrices `[rows, cols]` whose rows are [`qwen_vl_format::padded`] to a multiple of 32 values. WebGPU clears buffers
//!   and kernels keep the padding zero, so that inner products run over whole vectors.
//! - A [`Weight`] has one buffer of values or codes, and one of scales, for each slice of rows.
//! - One uniform, [`Step`], changes from launch to launch. Everything else is fixed when a [`Dispatch`] is created, so that bind groups are
//!   created once.
//! - Every kernel runs at WebGPU's default limits: 8 storage buffers, 16 KiB of workgroup memory, 256 invocations. Optional features are
//!   used if the adapter has them and they measure faster; each kernel has a variant without them.
//! - An oracle computes the same result in plain loops and sums in f64. Tests and the check at load use it.
//! - A dimension of a matrix is a `usize`, a size in bytes a `u64` from [`size`].

pub mod add;
pub mod argmax;
pub mod attention;
mod buffers;
mod choice;
mod chosen;
mod device;
mod dispatch;
pub mod embedding;
mod error;
mod kernel_set;
pub mod known_answers;
mod kv;
pub mod mask;
pub mod matmul;
pub mod norm;
mod pipelines;
pub mod presence;
mod readback;
pub mod rotary;
pub mod sample;
pub mod size;
pub mod taps;
pub mod timing;
mod weight;
mod wgsl;

pub use buffers::{Activation, Temporary};
pub use choice::{ChoiceOptions, choose};
pub use chosen::{Choice, ChoiceOrigin, Trial};
pub use device::{DeviceHandle, Gpu, GpuOptions};
pub use dispatch::{Dispatch, Grid, Launch, Step, StepBuffer, encode};
pub use error::GpuError;
pub use kernel_set::{Kernels, Precision};
pub use kv::{KvCache, KvFormat};
pub use pipelines::Shader;
pub use readback::PendingRead;
pub use weight::{Weight, WeightPart};
