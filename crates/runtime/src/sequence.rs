//! The contents of the KV cache, and the part of the next prompt that is in it.

use crate::error::{Counted, RuntimeError, TextOf};
use crate::positions::ntk_alpha;
use qwen_vl_format::ModelConfig;
use qwen_vl_processor::{PictureGrid, Positions};
use serde::{Deserialize, Serialize};

/// Content of a position of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cached {
    /// A token.
    Token(u32),
    /// A row of image features.
    Feature {
        /// Sequence number of this encoding within the model.
        image: u64,
        /// Index of the row.
        row: usize,
    },
    /// A token that the GPU chose and that is not read back yet.
    Chosen,
}

/// The image features of a prompt's picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageRows {
    /// Sequence number of this encoding within the model.
    pub encoding: u64,
    /// Number of rows.
    pub rows: usize,
    /// The picture in patches.
    pub grid: PictureGrid,
}

/// Handling of the KV cache when a longer prompt changes the rotary base (dynamic NTK: above `seq_length`, then at each doubling).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "snake_case")]
pub enum KvReuse {
    /// Run the prompt again from its first position, as the original does.
    #[default]
    Exact,
    /// Keep the base while more than half of the prompt is in the cache: faster, and answers differ slightly.
    Fast,
}

/// The sequence in a backend's KV cache, position by position.
#[derive(Debug, Clone, Default)]
pub struct Sequence {
    cached: Vec<Cached>,
    /// Time, height and width of each position.
    positions: Vec<[u32; 3]>,
    /// NTK factor of the keys; 0 before the first prompt.
    alpha: u32,
    reused: usize,
}

/// A checked prompt and the part of it that has to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptPlan {
    /// Positions of the first feature of each picture.
    pub spans: Vec<usize>,
    /// Content of each position.
    pub contents: Vec<Cached>,
    /// Time, height and width of each position.
    pub positions: Vec<[u32; 3]>,
    /// NTK factor of the prompt's length.
    pub alpha: u32,
    /// Number of positions at the start that the cache holds. The last position always runs, because its logits are needed.
    pub reused: usize,
}

impl Sequence {
    /// Number of positions.
    pub fn len(&self) -> usize {
        self.cached.len()
    }

    /// True if there are no positions.
    pub fn is_empty(&self) -> bool {
        self.cached.is_empty()
    }

    /// NTK factor of the keys; 0 before the first prompt.
    pub fn alpha(&self) -> u32 {
        self.alpha
    }

    /// Number of positions of the latest prompt that the cache held already.
    pub fn reused(&self) -> usize {
        self.reused
    }

    /// Checks a prompt against a model and finds the part that the cache holds. `images` are the features of its pictures. With
    /// `without_reuse`, all of it runs.
    pub fn plan(
        &self,
        config: &ModelConfig,
        context_length: usize,
        ids: &[u32],
        images: &[ImageRows],
        kv_reuse: KvReuse,
        without_reuse: bool,
    ) -> Result<PromptPlan, RuntimeError> {
        if ids.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        if ids.len() >= context_length {
            return Err(RuntimeError::ContextOverflow { counted: Counted::Prompt, used: ids.len(), limit: context_length });
        }
        let vocab = config.decoder.vocab_size;
        if let Some(position) = ids.iter().position(|id| *id as usize >= vocab) {
            return Err(RuntimeError::TokenOutOfRange { id: ids[position], text: TextOf::Sequence, position, vocab });
        }
        let spans = image_spans(config, ids, images)?;
        if spans.len() != images.len() {
            return Err(RuntimeError::ImageCount { spans: spans.len(), given: images.len() });
        }
        let mut contents: Vec<_> = ids.iter().copied().map(Cached::Token).collect();
        for (first, image) in spans.iter().zip(images) {
            for row in 0..image.rows {
                contents[first + row] = Cached::Feature { image: image.encoding, row };
            }
        }
        // A position of the 2023 model is one number.
        let grids = spans.iter().copied().zip(images.iter().map(|image| image.grid));
        let positions = match config.decoder.rotary.sections {
            Some(_) => Positions::new(ids.len(), grids),
            None => Positions::new(ids.len(), []),
        };
        let same = self.cached.iter().zip(&contents).take_while(|(cached, contents)| cached == contents).count();
        let mut alpha = if config.decoder.rotary.dynamic_ntk { ntk_alpha(ids.len(), config.decoder.trained_context) } else { 1 };
        if kv_reuse == KvReuse::Fast && 2 * same > contents.len() {
            alpha = self.alpha;
        }
        let reused = if alpha != self.alpha || without_reuse { 0 } else { same.min(ids.len() - 1) };
        Ok(PromptPlan { spans, contents, positions: positions.ids, alpha, reused })
    }

    /// Truncates the cache to the prefix shared with the new prompt.
    pub fn begin(&mut self, plan: &PromptPlan) {
        (self.alpha, self.reused) = (plan.alpha, plan.reused);
        self.rewind(plan.reused);
    }

    /// Appends positions of a prompt that ran.
    pub fn extend(&mut self, run: &[Cached], positions: &[[u32; 3]]) {
        self.cached.extend_from_slice(run);
        self.positions.extend_from_slice(positions);
    }

    /// Appends a token after all others.
    pub fn push(&mut self, run: Cached) {
        self.extend(&[run], &[self.next()]);
    }

    /// Returns time, height and width of the next token: one more than the largest so far.
    pub fn next(&self) -> [u32; 3] {
        [self.positions.iter().flatten().max().map_or(0, |largest| largest + 1); 3]
    }

    /// Checks a token that is about to run.
    pub fn check_next(&self, config: &ModelConfig, context_length: usize, token: u32) -> Result<(), RuntimeError> {
        self.check_room(context_length)?;
        let vocab = config.decoder.vocab_size;
        if token as usize >= vocab {
            return Err(RuntimeError::TokenOutOfRange { id: token, text: TextOf::Sequence, position: self.len(), vocab });
        }
        Ok(())
    }

    /// Checks that one more position fits.
    pub fn check_room(&self, context_length: usize) -> Result<(), RuntimeError> {
        if self.len() >= context_length {
            return Err(RuntimeError::ContextOverflow { counted: Counted::SequenceAndNext, used: self.len() + 1, limit: context_length });
        }
        Ok(())
    }

    /// Records the token that the GPU chose for a position.
    pub fn resolve(&mut self, position: usize, token: u32) {
        if let Some(cached @ Cached::Chosen) = self.cached.get_mut(position) {
            *cached = Cached::Token(token);
        }
    }

    /// Truncates the sequence to its first `length` positions.
    pub fn rewind(&mut self, length: usize) {
        self.cached.truncate(length);
        self.positions.truncate(length);
    }
}

/// Returns `count` arbitrary tokens without pictures and videos, for measurements and checks.
pub(crate) fn text_tokens(config: &ModelConfig, count: usize) -> Vec<u32> {
    let video = config.vision.video.map(|video| video.token);
    let is_text = |id: &u32| *id != config.image_token && Some(*id) != video;
    (0..config.decoder.vocab_size as u32).filter(is_text).cycle().step_by(37).take(count).collect()
}

/// Returns the position of the first feature of each picture.
fn image_spans(config: &ModelConfig, ids: &[u32], images: &[ImageRows]) -> Result<Vec<usize>, RuntimeError> {
    match &config.vision.resampler {
        Some(resampler) => tagged_spans(config.image_token, resampler.queries, ids),
        None => padded_spans(config, ids, images),
    }
}

/// Every `<img>` must be closed right after its positions.
fn tagged_spans(open: u32, queries: usize, ids: &[u32]) -> Result<Vec<usize>, RuntimeError> {
    let mut spans = Vec::new();
    let mut position = 0;
    while position < ids.len() {
        if ids[position] == open {
            if ids.get(position + queries + 1) != Some(&(open + 1)) {
                return Err(RuntimeError::UnclosedImage { position, queries });
            }
            spans.push(position + 1);
            position += queries + 1;
        }
        position += 1;
    }
    Ok(spans)
}

/// The pictures take the places of the tokens `<|image_pad|>`, and steps of videos those of `<|video_pad|>`, in order and without gaps.
fn padded_spans(config: &ModelConfig, ids: &[u32], images: &[ImageRows]) -> Result<Vec<usize>, RuntimeError> {
    let video_token = config.vision.video.map(|video| video.token);
    let pads = ids.iter().filter(|id| **id == config.image_token || Some(**id) == video_token).count();
    let needed = images.iter().map(|image| image.grid.tokens()).sum();
    let mut spans = Vec::with_capacity(images.len());
    let mut position = 0;
    for image in images {
        let tokens = image.grid.tokens();
        let pad = image.grid.step.and(video_token).unwrap_or(config.image_token);
        let begin = ids[position..].iter().position(|id| *id == pad).map_or(ids.len(), |offset| position + offset);
        let run = ids[begin..].iter().take(tokens).take_while(|id| **id == pad).count();
        if pads != needed || run != tokens {
            return Err(RuntimeError::ImagePads { pads, needed });
        }
        spans.push(begin);
        position = begin + tokens;
    }
    if pads == needed { Ok(spans) } else { Err(RuntimeError::ImagePads { pads, needed }) }
}
