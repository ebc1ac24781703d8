//! Loading: the bytes of a web checkpoint become a model in memory.

use crate::model::CpuModel;
use crate::shards::Shards;
use qwen_vl_format::Manifest;
use qwen_vl_runtime::{Budget, ModelOptions, RuntimeError};
use std::cell::RefCell;
use std::rc::Rc;

/// Stores the shards of a web checkpoint, in pieces of any size, and checks each shard's length and SHA-256.
///
/// Shards may arrive in any order and interleaved. The pieces of one shard must arrive in the order of the file.
pub struct CpuLoader {
    model: Option<CpuModel>,
    shards: Rc<RefCell<Shards>>,
}

impl CpuLoader {
    /// Refuses models whose weights exceed [`Budget::MAX_CPU_WEIGHTS`], and generations after 2023.
    pub fn new(manifest: Manifest, context_length: usize) -> Result<Self, RuntimeError> {
        let context_length = ModelOptions { context_length, ..ModelOptions::default() }.checked()?.context_length;
        let (bytes, limit) = (Budget::cpu_weights(&manifest), Budget::MAX_CPU_WEIGHTS);
        if bytes > limit {
            return Err(RuntimeError::TooLargeForCpu { bytes, limit });
        }
        let config = manifest.config.qwen_vl().ok_or(RuntimeError::NoCpuKernels)?;
        let shards = Rc::new(RefCell::new(Shards::new(&manifest)));
        let model = CpuModel::new(manifest, config, context_length, Rc::clone(&shards));
        Ok(Self { model: Some(model), shards })
    }

    /// The model while its weights arrive. `None` after [`Self::take_model`].
    pub fn model(&self) -> Option<&CpuModel> {
        self.model.as_ref()
    }

    /// Returns the model, even before its weights are complete; it can be used when they are. `None` if it was taken already.
    pub fn take_model(&mut self) -> Option<CpuModel> {
        self.model.take()
    }

    /// Stores the next bytes of a shard. Its last bytes complete the hash; if that is wrong, the shard restarts.
    pub fn write(&mut self, shard: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        self.shards.borrow_mut().write(shard, bytes)
    }

    /// Stores the next bytes of a shard whose hash the caller checks. Do not mix with [`Self::write`] within one shard.
    pub fn write_checked(&mut self, shard: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        self.shards.borrow_mut().write_checked(shard, bytes)
    }

    /// Restarts a shard: its first byte is expected next.
    pub fn restart(&mut self, shard: usize) -> Result<(), RuntimeError> {
        self.shards.borrow_mut().restart(shard)
    }

    /// True if pictures can be encoded: here, when every shard is complete.
    pub fn encodes(&self) -> bool {
        self.complete().is_ok()
    }

    /// Fails unless every shard is complete.
    pub fn complete(&self) -> Result<(), RuntimeError> {
        self.shards.borrow().complete()
    }
}
