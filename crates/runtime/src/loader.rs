//! Loading: the bytes of a web checkpoint become a model on the GPU.

use crate::weights::Weights;
use crate::{Model, ModelOptions, RuntimeError};
use qwen_vl_format::{Manifest, ShardCheck};
use qwen_vl_kernels::Gpu;

/// Writes the shards of a web checkpoint, in pieces of any size, to GPU buffers and checks each shard's length and SHA-256.
///
/// Shards may arrive in any order and interleaved. The pieces of one shard must arrive in the order of the file.
///
/// The model exists from the beginning, so that its kernels compile while the weights arrive and pictures can be encoded before the
/// decoder's weights are complete.
pub struct ModelLoader {
    queue: wgpu::Queue,
    model: Option<Model>,
    check: ShardCheck,
    shards: Vec<Upload>,
}

/// Progress of writing one shard to the GPU.
#[derive(Default)]
struct Upload {
    segments: Vec<Segment>,
    /// True if encoding pictures needs a part of this shard.
    encodes: bool,
    /// Index of the first segment that is not complete.
    next: usize,
    /// Up to three bytes of a word that the previous piece cut: the queue takes whole words only.
    word: Vec<u8>,
}

/// A byte range of a shard and the buffer that holds it.
struct Segment {
    begin: u64,
    end: u64,
    buffer: wgpu::Buffer,
}

impl ModelLoader {
    /// Allocates the model of a validated manifest.
    pub fn new(gpu: Gpu, manifest: Manifest, options: ModelOptions) -> Result<Self, RuntimeError> {
        let options = options.checked()?;
        let weights = Weights::allocate(&gpu, &manifest, &options)?;
        let mut shards: Vec<Upload> = manifest.shards.iter().map(|_| Upload::default()).collect();
        for tensor in &manifest.tensors {
            for (part, target) in tensor.parts.iter().zip(&weights.matrix(&tensor.name).parts) {
                let Upload { segments, encodes, .. } = &mut shards[part.shard];
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
        let (queue, check) = (gpu.queue().clone(), ShardCheck::new(&manifest.shards));
        let model = Model::new(gpu, manifest, options, &weights)?;
        Ok(Self { queue, model: Some(model), check, shards })
    }

    /// The model while its weights arrive. Work that reads weights must wait for them. `None` after [`Self::take_model`].
    pub fn model(&self) -> Option<&Model> {
        self.model.as_ref()
    }

    /// Returns the model, even before its weights are complete; `None` if it was taken already. [`Self::complete`] shows when the whole
    /// model can be used.
    pub fn take_model(&mut self) -> Option<Model> {
        self.model.take()
    }

    /// The queue that weights are written to.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// True if pictures can be encoded: the vision tower and the resampler are complete.
    pub fn encodes(&self) -> bool {
        self.shards.iter().enumerate().all(|(index, shard)| !shard.encodes || self.check.is_complete(index))
    }

    /// Writes the next bytes of a shard. Its last bytes complete the hash; if that is wrong, the shard restarts.
    pub fn write(&mut self, shard: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        let begin = self.check.accept(shard, bytes)?;
        self.shards[shard].write(&self.queue, begin, bytes);
        Ok(())
    }

    /// Writes the next bytes of a shard whose hash the caller checks. Do not mix with [`Self::write`] within one shard.
    pub fn write_checked(&mut self, shard: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        let begin = self.check.accept_unhashed(shard, bytes)?;
        self.shards[shard].write(&self.queue, begin, bytes);
        Ok(())
    }

    /// Restarts a shard: its first byte is expected next.
    pub fn restart(&mut self, shard: usize) -> Result<(), RuntimeError> {
        Ok(self.check.restart(shard)?)
    }

    /// Fails unless every shard is complete.
    pub fn complete(&self) -> Result<(), RuntimeError> {
        Ok(self.check.complete()?)
    }

    /// Returns the compiled model; fails unless every shard is complete.
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

impl Upload {
    /// Writes `bytes`, which begin at byte `begin` of the shard, to the buffers of their segments.
    fn write(&mut self, queue: &wgpu::Queue, begin: u64, bytes: &[u8]) {
        // A shard begins, perhaps not for the first time.
        if begin == 0 {
            self.next = 0;
            self.word.clear();
        }
        let end = begin + bytes.len() as u64;
        while let Some(segment) = self.segments.get(self.next) {
            if segment.begin >= end {
                break;
            }
            let from = begin.max(segment.begin);
            let to = end.min(segment.end);
            let mut piece = &bytes[(from - begin) as usize..(to - begin) as usize];
            let mut offset = from - segment.begin;
            // Complete the word that the previous piece cut; segments begin and end at whole words.
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
