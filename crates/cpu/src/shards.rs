//! The bytes of a web checkpoint until they are decoded.

use anyhow::{Context, Result};
use qwen_vl_format::block::{EncodedRows, decode_rows};
use qwen_vl_format::{Manifest, ShardCheck};
use qwen_vl_runtime::RuntimeError;

/// The bytes of all shards that have arrived, with their checks.
pub(crate) struct Shards {
    check: ShardCheck,
    bytes: Vec<Vec<u8>>,
}

impl Shards {
    /// No bytes yet.
    pub(crate) fn new(manifest: &Manifest) -> Self {
        Self { check: ShardCheck::new(&manifest.shards), bytes: vec![Vec::new(); manifest.shards.len()] }
    }

    /// Stores the next bytes of a shard, and hashes them.
    pub(crate) fn write(&mut self, shard: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        let begin = self.check.accept(shard, bytes)?;
        self.store(shard, begin, bytes);
        Ok(())
    }

    /// Stores the next bytes of a shard whose hash the caller checks.
    pub(crate) fn write_checked(&mut self, shard: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        let begin = self.check.accept_unhashed(shard, bytes)?;
        self.store(shard, begin, bytes);
        Ok(())
    }

    /// Expects the first byte of a shard next.
    pub(crate) fn restart(&mut self, shard: usize) -> Result<(), RuntimeError> {
        Ok(self.check.restart(shard)?)
    }

    /// Stores bytes that begin at byte `begin` of a shard.
    fn store(&mut self, shard: usize, begin: u64, bytes: &[u8]) {
        let stored = &mut self.bytes[shard];
        // After a restart, bytes past `begin` are stale.
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
