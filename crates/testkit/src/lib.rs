//! Test support: closeness assertions, goldens of the original code, synthetic checkpoints.

pub mod closeness;
pub mod family;
pub mod golden;
pub mod synthetic;
