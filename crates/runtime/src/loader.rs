//! From the bytes of a web checkpoint to a model on the GPU.

use crate::weights::Weights;
use crate::{Model, RuntimeError};
use qwen_vl_format::manifest::FileEntry;
use qwen_vl_format::{Manifest, ShardHash};
use qwen_vl_kernels::{Gpu, KvFormat};

/// Choices that fix what a model allocates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelOptions {
    /// Longest sequence of prompt and answer, tokens. The KV cache takes `2 * layers * hidden_size` values a token.
    pub context_length: usize,
    /// Prompt tokens that go through the decoder in one submission.
    pub prefill_chunk: usize,
    /// How keys and values are kept.
    pub kv: KvFormat,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self { context_length: 2048, prefill_chunk: 256, kv: KvFormat::default() }
    }
}

/// Takes the shards of a web checkpoint, in pieces of any size, straight into GPU buffers; checks each shard's length and SHA-256.
///
/// Shards may come in any order and interleaved; the pieces of one shard must come from its first byte to its last.
///
/// The model is made at once, so that its kernels can be compiled while the weights arrive, and pictures encoded before the decoder is here.
pub struct ModelLoader {
    queue: wgpu::Queue,
    model: Option<Model>,
    entries: Vec<FileEntry>,
    shards: Vec<Shard>,
}

/// How far a shard has come.
struct Shard {
    received: u64,
    hash: ShardHash,
    segments: Vec<Segment>,
    /// Whether pictures are encoded with some of it.
    encodes: bool,
    /// The first segment that is not complete.
    next: usize,
    /// Up to three bytes of a word that the last piece cut: the queue takes whole words only.
    word: Vec<u8>,
}

/// A range of a shard that goes into one buffer.
struct Segment {
    begin: u64,
    end: u64,
    buffer: wgpu::Buffer,
}

impl ModelLoader {
    /// Allocates all weights of a validated manifest.
    pub fn new(gpu: Gpu, manifest: Manifest, options: ModelOptions) -> Result<Self, RuntimeError> {
        let weights = Weights::allocate(&gpu, &manifest.tensors)?;
        let mut shards: Vec<Shard> = manifest
            .shards
            .iter()
            .map(|_| Shard { received: 0, hash: ShardHash::new(), segments: Vec::new(), encodes: false, next: 0, word: Vec::new() })
            .collect();
        for tensor in &manifest.tensors {
            for (part, target) in tensor.parts.iter().zip(&weights.matrix(&tensor.name).parts) {
                let Shard { segments, encodes, .. } = &mut shards[part.shard];
                *encodes |= tensor.name.starts_with("vision.") || tensor.name.starts_with("resampler.");
                segments.push(Segment { begin: part.data[0], end: part.data[1], buffer: target.data.clone() });
                if let (Some([begin, end]), Some(scales)) = (part.scales, &target.scales) {
                    segments.push(Segment { begin, end, buffer: scales.clone() });
                }
            }
        }
        for shard in &mut shards {
            shard.segments.sort_by_key(|segment| segment.begin);
        }
        let (queue, entries) = (gpu.queue().clone(), manifest.shards.clone());
        let model = Model::new(gpu, manifest, options, &weights)?;
        Ok(Self { queue, model: Some(model), entries, shards })
    }

    /// The model while its weights are still coming; what is asked of it must not need those that are not here. `None` once it was taken.
    pub fn model(&self) -> Option<&Model> {
        self.model.as_ref()
    }

    /// Hands the model out before its weights are complete. [`Self::complete`] tells when it can be used.
    pub fn take_model(&mut self) -> Option<Model> {
        self.model.take()
    }

    /// The queue that weights are written to.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// Whether pictures can be encoded: the vision tower and the resampler are complete.
    pub fn encodes(&self) -> bool {
        self.shards.iter().zip(&self.entries).all(|(shard, entry)| !shard.encodes || shard.received == entry.bytes)
    }

    /// Takes the next bytes of a shard. At its last byte the hash is checked; if it is wrong, the shard begins anew.
    pub fn write(&mut self, shard: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        let (state, entry) = self.upload(shard, bytes)?;
        state.hash.update(bytes);
        if state.received == entry.bytes && !bytes.is_empty() {
            let found = std::mem::take(&mut state.hash).finish();
            if found != entry.sha256 {
                state.restart();
                return Err(RuntimeError::ShardHash { shard: entry.file.clone(), expected: entry.sha256.clone(), found });
            }
        }
        Ok(())
    }

    /// Takes the next bytes of a shard whose hash the caller has checked. All of a shard comes by this way or by [`Self::write`].
    pub fn write_checked(&mut self, shard: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        self.upload(shard, bytes).map(|_| ())
    }

    fn upload(&mut self, shard: usize, bytes: &[u8]) -> Result<(&mut Shard, &FileEntry), RuntimeError> {
        let count = self.shards.len();
        let (Some(state), Some(entry)) = (self.shards.get_mut(shard), self.entries.get(shard)) else {
            return Err(RuntimeError::NoSuchShard { index: shard, count });
        };
        let end = state.received + bytes.len() as u64;
        if end > entry.bytes {
            return Err(RuntimeError::ShardLength { shard: entry.file.clone(), expected: entry.bytes, found: end });
        }
        state.upload(&self.queue, bytes);
        Ok((state, entry))
    }

    /// Forgets what came of a shard: its first byte comes next. What is on the GPU is overwritten then.
    pub fn restart(&mut self, shard: usize) -> Result<(), RuntimeError> {
        let count = self.shards.len();
        self.shards.get_mut(shard).ok_or(RuntimeError::NoSuchShard { index: shard, count })?.restart();
        Ok(())
    }

    /// Whether every shard has come whole.
    pub fn complete(&self) -> Result<(), RuntimeError> {
        for (shard, entry) in self.shards.iter().zip(&self.entries) {
            if shard.received != entry.bytes {
                return Err(RuntimeError::ShardLength { shard: entry.file.clone(), expected: entry.bytes, found: shard.received });
            }
        }
        Ok(())
    }

    /// The model, compiled, once every shard has come whole.
    ///
    /// # Panics
    /// If the model was taken before.
    pub fn finish(mut self) -> Result<Model, RuntimeError> {
        self.complete()?;
        let model = self.take_model().expect("the model is taken once");
        model.gpu().check()?;
        model.gpu().compile();
        Ok(model)
    }
}

impl Shard {
    fn restart(&mut self) {
        self.received = 0;
        self.hash = ShardHash::new();
        self.next = 0;
        self.word.clear();
    }

    /// Hands `bytes`, which begin at `self.received`, to the segments that they belong to.
    fn upload(&mut self, queue: &wgpu::Queue, bytes: &[u8]) {
        let begin = self.received;
        let end = begin + bytes.len() as u64;
        self.received = end;
        while let Some(segment) = self.segments.get(self.next) {
            if segment.begin >= end {
                break;
            }
            let from = begin.max(segment.begin);
            let to = end.min(segment.end);
            let mut piece = &bytes[(from - begin) as usize..(to - begin) as usize];
            let mut offset = from - segment.begin;
            // Complete the word that the last piece left open; segments begin and end at whole words.
            if !self.word.is_empty() {
                let taken = (4 - self.word.len()).min(piece.len());
                let word_offset = offset - self.word.len() as u64;
                self.word.extend_from_slice(&piece[..taken]);
                piece = &piece[taken..];
                offset += taken as u64;
                if self.word.len() == 4 {
                    queue.write_buffer(&segment.buffer, word_offset, &self.word);
                    self.word.clear();
                }
            }
            let whole = piece.len() / 4 * 4;
            if whole > 0 {
                queue.write_buffer(&segment.buffer, offset, &piece[..whole]);
            }
            self.word.extend_from_slice(&piece[whole..]);
            if to < segment.end {
                break;
            }
            self.next += 1;
        }
    }
}
