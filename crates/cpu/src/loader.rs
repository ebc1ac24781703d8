//! From the bytes of a web checkpoint to a model in memory.

use crate::CpuModel;
use anyhow::{Context, Result};
use qwen_vl_format::block::{EncodedRows, decode_rows};
use qwen_vl_format::manifest::FileEntry;
use qwen_vl_format::{Manifest, ShardHash};
use qwen_vl_runtime::RuntimeError;
use std::cell::RefCell;
use std::rc::Rc;

/// Most weights that are worth computing with on a processor, as f32.
pub const MAX_WEIGHT_BYTES: u64 = 256 << 20;

/// Takes the shards of a web checkpoint, in pieces of any size, and checks each shard's length and SHA-256.
///
/// Shards may come in any order and interleaved; the pieces of one shard must come from its first byte to its last.
pub struct CpuLoader {
    model: Option<CpuModel>,
    shards: Rc<RefCell<Shards>>,
}

/// What came of the shards.
pub(crate) struct Shards {
    entries: Vec<FileEntry>,
    received: Vec<(Vec<u8>, ShardHash)>,
}

impl CpuLoader {
    /// Refuses models that are too large to be of use without a GPU.
    pub fn new(manifest: Manifest, context_length: usize) -> Result<Self, RuntimeError> {
        let bytes = crate::weight_bytes(&manifest);
        if bytes > MAX_WEIGHT_BYTES {
            return Err(RuntimeError::TooLargeForCpu { bytes, limit: MAX_WEIGHT_BYTES });
        }
        let received = manifest.shards.iter().map(|_| Default::default()).collect();
        let shards = Rc::new(RefCell::new(Shards { entries: manifest.shards.clone(), received }));
        let model = CpuModel::new(manifest, context_length, Rc::clone(&shards));
        Ok(Self { model: Some(model), shards })
    }

    /// The model while its weights are still coming. `None` once it was taken.
    pub fn model(&self) -> Option<&CpuModel> {
        self.model.as_ref()
    }

    /// Hands the model out, also before its weights are complete; it can be used when they are. `None` once it was taken.
    pub fn take_model(&mut self) -> Option<CpuModel> {
        self.model.take()
    }

    /// Takes the next bytes of a shard. At its last byte the hash is checked; if it is wrong, the shard begins anew.
    pub fn write(&mut self, shard: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        let mut shards = self.shards.borrow_mut();
        let (entry, (received, hash)) = shards.add(shard, bytes)?;
        hash.update(bytes);
        if received.len() as u64 == entry.bytes && !bytes.is_empty() {
            let found = std::mem::take(hash).finish();
            if found != entry.sha256 {
                received.clear();
                return Err(RuntimeError::ShardHash { shard: entry.file.clone(), expected: entry.sha256.clone(), found });
            }
        }
        Ok(())
    }

    /// Takes the next bytes of a shard whose hash the caller has checked. All of a shard comes by this way or by [`Self::write`].
    pub fn write_checked(&mut self, shard: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        self.shards.borrow_mut().add(shard, bytes).map(|_| ())
    }

    /// Forgets what came of a shard: its first byte comes next.
    pub fn restart(&mut self, shard: usize) -> Result<(), RuntimeError> {
        let mut shards = self.shards.borrow_mut();
        let count = shards.received.len();
        *shards.received.get_mut(shard).ok_or(RuntimeError::NoSuchShard { index: shard, count })? = Default::default();
        Ok(())
    }

    /// Whether pictures can be encoded: here, when everything has come.
    pub fn encodes(&self) -> bool {
        self.complete().is_ok()
    }

    /// Whether every shard has come whole.
    pub fn complete(&self) -> Result<(), RuntimeError> {
        self.shards.borrow().complete()
    }
}

impl Shards {
    fn add(&mut self, shard: usize, bytes: &[u8]) -> Result<(&FileEntry, &mut (Vec<u8>, ShardHash)), RuntimeError> {
        let count = self.entries.len();
        let (Some(entry), Some(state)) = (self.entries.get(shard), self.received.get_mut(shard)) else {
            return Err(RuntimeError::NoSuchShard { index: shard, count });
        };
        let end = (state.0.len() + bytes.len()) as u64;
        if end > entry.bytes {
            return Err(RuntimeError::ShardLength { shard: entry.file.clone(), expected: entry.bytes, found: end });
        }
        state.0.extend_from_slice(bytes);
        Ok((entry, state))
    }

    pub(crate) fn complete(&self) -> Result<(), RuntimeError> {
        for (entry, (received, _)) in self.entries.iter().zip(&self.received) {
            let found = received.len() as u64;
            if found != entry.bytes {
                return Err(RuntimeError::ShardLength { shard: entry.file.clone(), expected: entry.bytes, found });
            }
        }
        Ok(())
    }

    /// Gives the bytes back, once they were decoded.
    pub(crate) fn clear(&mut self) {
        self.received.clear();
    }

    /// Decoded weights of a tensor.
    pub(crate) fn tensor(&self, manifest: &Manifest, name: &str) -> Result<Vec<f32>> {
        let entry = manifest.tensors.iter().find(|tensor| tensor.name == name);
        let entry = entry.with_context(|| format!("the manifest has no tensor `{name}`"))?;
        let mut weights = Vec::new();
        for part in &entry.parts {
            let bytes = &self.received[part.shard].0;
            let range = |[begin, end]: [u64; 2]| bytes[begin as usize..end as usize].to_vec();
            let encoded = EncodedRows { data: range(part.data), scales: part.scales.map(range).unwrap_or_default() };
            weights.extend(decode_rows(entry.scheme, &encoded, entry.shape[1]));
        }
        Ok(weights)
    }
}
