//! What the KV cache holds, and how much of the next prompt is in it.

use crate::RuntimeError;
use crate::positions::ntk_alpha;
use qwen_vl_format::ModelConfig;
use serde::{Deserialize, Serialize};

/// What stands at a position of the KV cache: a token, or a row of image features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cached {
    /// A token.
    Token(u32),
    /// A row of image features.
    Feature {
        /// Tells encodings of one model apart.
        image: u64,
        /// Which of its rows.
        row: usize,
    },
    /// A token that the GPU chose and that was not read back yet.
    Chosen,
}

/// What happens to the KV cache where a longer prompt asks for another rotary base (dynamic NTK: above `seq_length`, then at each doubling).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvReuse {
    /// The prompt is run again from its first position, as the original does.
    #[default]
    Exact,
    /// The base stays for as long as most of the prompt is in the cache: no waiting, and answers that differ a little.
    Fast,
}

/// What a backend holds of the sequence that it is at, position by position.
#[derive(Debug, Clone, Default)]
pub struct Sequence {
    cached: Vec<Cached>,
    /// NTK factor of the keys; 0 before the first prompt.
    alpha: u32,
    reused: usize,
}

/// A prompt that was checked, and what of it has to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptPlan {
    /// Positions of the first feature of each picture.
    pub spans: Vec<usize>,
    /// What stands at each position.
    pub wanted: Vec<Cached>,
    /// NTK factor of its length.
    pub alpha: u32,
    /// Positions at the start that the cache holds already: not its last, whose logits are wanted.
    pub reused: usize,
}

impl Sequence {
    /// Positions held.
    pub fn len(&self) -> usize {
        self.cached.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.cached.is_empty()
    }

    /// NTK factor of the keys held; 0 before the first prompt.
    pub fn alpha(&self) -> u32 {
        self.alpha
    }

    /// Positions of the latest prompt that were held already.
    pub fn reused(&self) -> usize {
        self.reused
    }

    /// Checks a prompt against a model and finds out what of it is held. `images` tell the encodings of its pictures apart; with `anew`,
    /// all of it is to be run.
    pub fn plan(
        &self,
        config: &ModelConfig,
        context_length: usize,
        ids: &[u32],
        images: &[u64],
        kv_reuse: KvReuse,
        anew: bool,
    ) -> Result<PromptPlan, RuntimeError> {
        if ids.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        if ids.len() >= context_length {
            return Err(RuntimeError::ContextOverflow { used: ids.len(), limit: context_length });
        }
        let vocab = config.vocab_size;
        if let Some(position) = ids.iter().position(|id| *id as usize >= vocab) {
            return Err(RuntimeError::TokenOutOfRange { id: ids[position], position, vocab });
        }
        let spans = image_spans(config, ids)?;
        if spans.len() != images.len() {
            return Err(RuntimeError::ImageCount { spans: spans.len(), given: images.len() });
        }
        let mut wanted: Vec<_> = ids.iter().copied().map(Cached::Token).collect();
        for (first, image) in spans.iter().zip(images) {
            for row in 0..config.visual.n_queries {
                wanted[first + row] = Cached::Feature { image: *image, row };
            }
        }
        let same = self.cached.iter().zip(&wanted).take_while(|(cached, wanted)| cached == wanted).count();
        let mut alpha = if config.use_dynamic_ntk { ntk_alpha(ids.len(), config.seq_length) } else { 1 };
        if kv_reuse == KvReuse::Fast && 2 * same > wanted.len() {
            alpha = self.alpha;
        }
        let reused = if alpha != self.alpha || anew { 0 } else { same.min(ids.len() - 1) };
        Ok(PromptPlan { spans, wanted, alpha, reused })
    }

    /// Forgets what a prompt does not begin with.
    pub fn begin(&mut self, plan: &PromptPlan) {
        (self.alpha, self.reused) = (plan.alpha, plan.reused);
        self.cached.truncate(plan.reused);
    }

    /// Takes positions that were run.
    pub fn extend(&mut self, run: &[Cached]) {
        self.cached.extend_from_slice(run);
    }

    /// Checks a token that is to be run next.
    pub fn check_next(&self, config: &ModelConfig, context_length: usize, token: u32) -> Result<(), RuntimeError> {
        self.check_room(context_length)?;
        let vocab = config.vocab_size;
        if token as usize >= vocab {
            return Err(RuntimeError::TokenOutOfRange { id: token, position: self.len(), vocab });
        }
        Ok(())
    }

    /// Checks that one more position fits.
    pub fn check_room(&self, context_length: usize) -> Result<(), RuntimeError> {
        if self.len() >= context_length {
            return Err(RuntimeError::ContextOverflow { used: self.len() + 1, limit: context_length });
        }
        Ok(())
    }

    /// Names the token at a position where one was that the GPU had chosen.
    pub fn learn(&mut self, position: usize, token: u32) {
        if let Some(cached @ Cached::Chosen) = self.cached.get_mut(position) {
            *cached = Cached::Token(token);
        }
    }

    /// Forgets all but the first `length` positions.
    pub fn rewind(&mut self, length: usize) {
        self.cached.truncate(length);
    }
}

/// Positions of the first feature of each picture. Every `<img>` must be closed right after its positions.
fn image_spans(config: &ModelConfig, ids: &[u32]) -> Result<Vec<usize>, RuntimeError> {
    let (open, queries) = (config.visual.image_start_id, config.visual.n_queries);
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
