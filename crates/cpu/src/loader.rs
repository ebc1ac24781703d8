//! Loading: the bytes of a web checkpoint become a model in memory.

use crate::CpuModel;
use anyhow::{Context, Result};
use qwen_vl_format::block::{EncodedRows, decode_rows};
use qwen_vl_format::{Manifest, ShardCheck};
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

/// The bytes of all shards so far.
pub(crate) struct Shards {
    check: ShardCheck,
    bytes: Vec<Vec<u8>>,
}

impl CpuLoader {
    /// Refuses models whose weights exceed [`Budget::MAX_CPU_WEIGHTS`].
    pub fn new(manifest: Manifest, context_length: usize) -> Result<Self, RuntimeError> {
        let context_length = ModelOptions { context_length, ..ModelOptions::default() }.checked()?.context_length;
        let (bytes, limit) = (Budget::cpu_weights(&manifest), Budget::MAX_CPU_WEIGHTS);
        if bytes > limit {
            return Err(RuntimeError::TooLargeForCpu { bytes, limit });
        }
        let shards = Shards { check: ShardCheck::new(&manifest.shards), bytes: vec![Vec::new(); manifest.shards.len()] };
        let shards = Rc::new(RefCell::new(shards));
        let model = CpuModel::new(manifest, context_length, Rc::clone(&shards));
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
        let mut shards = self.shards.borrow_mut();
        let begin = shards.check.accept(shard, bytes)?;
        shards.store(shard, begin, bytes);
        Ok(())
    }

    /// Stores the next bytes of a shard whose hash the caller checks. Do not mix with [`Self::write`] within one shard.
    pub fn write_checked(&mut self, shard: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        let mut shards = self.shards.borrow_mut();
        let begin = shards.check.accept_unhashed(shard, bytes)?;
        shards.store(shard, begin, bytes);
        Ok(())
    }

    /// Restarts a shard: its first byte is expected next.
    pub fn restart(&mut self, shard: usize) -> Result<(), RuntimeError> {
        Ok(self.shards.borrow_mut().check.restart(shard)?)
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

impl Shards {
    /// Stores bytes that begin at byte `begin` of a shard.
    fn store(&mut self, shard: usize, begin: u64, bytes: &[u8]) {
        let stored = &mut self.bytes[shard];
        // More bytes than `begin` are left over from before a restart.
        stored.truncate(begin as usize);
        stored.extend_from_slice(bytes);
    }

    pub(crate) fn complete(&self) -> Result<(), RuntimeError> {
        Ok(self.check.complete()?)
    }

    /// Frees the bytes after they are decoded.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Decodes the weights of a tensor.
    pub(crate) fn tensor(&self, manifest: &Manifest, name: &str) -> Result<Vec<f32>> {
        let entry = manifest.tensors.iter().find(|tensor| tensor.name == name);
        let entry = entry.with_context(|| format!("the manifest has no tensor `{name}`"))?;
        let mut weights = Vec::new();
        for part in &entry.parts {
            let bytes = &self.bytes[part.shard];
            let range = |[begin, end]: [u64; 2]| bytes[begin as usize..end as usize].to_vec();
            let encoded = EncodedRows { data: range(part.data), scales: part.scales.map(range).unwrap_or_default() };
            weights.extend(decode_rows(entry.scheme, &encoded, entry.shape[1]));
        }
        Ok(weights)
    }
}
