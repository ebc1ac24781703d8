//! The whole model, from token ids and pictures to logits.

use crate::decoder::{Block, KvCache, Positions};
use crate::layers::{Linear, RmsNorm, zeros};
use crate::observer::{Observer, ignore};
use crate::positions::ntk_alpha;
use crate::vision::VisionTower;
use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use qwen_vl_format::QwenVlConfig;

/// Value added to the score of a key that a position must not see. It is finite, so that a row of padding has no NaN.
const HIDDEN_KEY: f32 = -1e9;

/// The model (`modeling_qwen.py`, class `QWenLMHeadModel`).
#[derive(Module, Debug)]
pub struct QwenVl {
    /// All modules below the head.
    pub transformer: Transformer,
    /// Projection to logits. Its weight is not tied to the embedding.
    pub lm_head: Linear,
    #[module(skip)]
    config: QwenVlConfig,
}

/// The module `transformer`.
#[derive(Module, Debug)]
pub struct Transformer {
    /// Token embedding.
    pub wte: Embedding,
    /// Vision tower with resampler.
    pub visual: VisionTower,
    /// Blocks, in order.
    pub h: Vec<Block>,
    /// Norm before the head.
    pub ln_f: RmsNorm,
}

/// The module `transformer.wte`.
#[derive(Module, Debug)]
pub struct Embedding {
    /// Table of embeddings, `[vocab, hidden]`.
    pub weight: Param<Tensor<2>>,
}

/// Sources of the rows of the decoder's input. An index below `vocab_size` is a token's embedding. An index from `vocab_size` on is a row
/// of the image features, picture after picture.
#[derive(Debug, Clone)]
pub struct Splice {
    rows: Vec<i32>,
    vocab: usize,
    queries: usize,
    pictures: usize,
}

impl Splice {
    /// Creates an empty sequence.
    pub fn new(config: &QwenVlConfig) -> Self {
        Self { rows: Vec::new(), vocab: config.vocab_size, queries: config.visual.n_queries, pictures: 0 }
    }

    /// Adds a token.
    pub fn token(&mut self, id: u32) {
        assert!((id as usize) < self.vocab, "token {id} is outside the vocabulary of {}", self.vocab);
        self.rows.push(id as i32);
    }

    /// Adds the positions of the next picture.
    pub fn picture(&mut self) {
        let first = self.vocab + self.pictures * self.queries;
        self.rows.extend((first..first + self.queries).map(|row| row as i32));
        self.pictures += 1;
    }

    /// Appends another sequence.
    pub fn append(&mut self, other: &Self) {
        let moved = (self.pictures * self.queries) as i32;
        let vocab = self.vocab as i32;
        self.rows.extend(other.rows.iter().map(|row| if *row < vocab { *row } else { row + moved }));
        self.pictures += other.pictures;
    }

    /// Converts a prompt in which the positions of a picture follow every `<img>`.
    pub fn prompt(config: &QwenVlConfig, ids: &[u32]) -> Self {
        let mut splice = Self::new(config);
        let mut at = 0;
        while at < ids.len() {
            splice.token(ids[at]);
            at += 1;
            if ids[at - 1] == config.visual.image_start_id && at + config.visual.n_queries < ids.len() {
                splice.picture();
                at += config.visual.n_queries;
            }
        }
        splice
    }

    /// Returns the number of positions.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True if the sequence has no positions.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the number of pictures.
    pub fn pictures(&self) -> usize {
        self.pictures
    }
}

impl QwenVl {
    /// Creates a model of zeros. [`QwenVl::load`] fills it.
    pub fn zeros(config: &QwenVlConfig, device: &Device) -> Self {
        let transformer = Transformer {
            wte: Embedding { weight: zeros([config.vocab_size, config.hidden_size], device) },
            visual: VisionTower::zeros(&config.visual, device),
            h: (0..config.num_hidden_layers).map(|_| Block::zeros(config, device)).collect(),
            ln_f: RmsNorm::zeros(config.hidden_size, config.layer_norm_epsilon, device),
        };
        Self { transformer, lm_head: Linear::zeros(config.hidden_size, config.vocab_size, false, device), config: config.clone() }
    }

    /// Returns the configuration.
    pub fn config(&self) -> &QwenVlConfig {
        &self.config
    }

    /// Returns the device that holds the weights.
    pub fn device(&self) -> Device {
        self.lm_head.weight.val().device()
    }

    /// Builds the decoder's input.
    ///
    /// # Shapes
    /// - `splice`: `batch · seq` positions
    /// - `features`: `[pictures, queries, hidden]`
    /// - returns: `[batch, seq, hidden]`
    pub fn embed(&self, splice: &Splice, features: Option<Tensor<3>>, batch: usize) -> Tensor<3> {
        let hidden = self.config.hidden_size;
        let mut table = self.transformer.wte.weight.val();
        if let Some(features) = features {
            let [pictures, queries, _] = features.dims();
            assert!(splice.pictures <= pictures, "the tokens have {} pictures, but the features have {pictures}", splice.pictures);
            table = Tensor::cat(vec![table, features.reshape([pictures * queries, hidden])], 0);
        } else {
            assert_eq!(splice.pictures, 0, "the tokens have pictures, but there are no features");
        }
        let rows = Tensor::<1, Int>::from_data(TensorData::new(splice.rows.clone(), [splice.len()]), &self.device());
        table.select(0, rows).reshape([batch, splice.len() / batch, hidden])
    }

    /// Runs the decoder without its head, up to and including `ln_f`. Keeps the shape `[batch, seq, hidden]`.
    pub fn decode(
        &self,
        embedded: Tensor<3>,
        positions: &Positions,
        mask: &Tensor<4>,
        mut cache: Option<&mut KvCache>,
        observe: Observer,
    ) -> Tensor<3> {
        let mut x = embedded;
        observe("hidden.embed", &x);
        for (index, block) in self.transformer.h.iter().enumerate() {
            x = block.forward(x, positions, mask, cache.as_deref_mut().map(|cache| (cache, index)));
            observe(&format!("hidden.layer{index}"), &x);
        }
        let x = self.transformer.ln_f.forward(x);
        observe("hidden.ln_f", &x);
        x
    }

    /// Returns the logits of every position of a prompt, `[1, seq, vocab]`. Adds keys and values to `cache`, which must be empty.
    pub fn prefill(&self, splice: &Splice, features: Option<Tensor<3>>, cache: &mut KvCache, observe: Observer) -> Tensor<3> {
        let alpha = self.ntk_alpha(splice.len());
        self.lm_head.forward(self.extend(self.embed(splice, features, 1), alpha, cache, observe))
    }

    /// Returns the logits after one more token, `[1, 1, vocab]`. The NTK factor stays that of the prompt, which has `prompt` positions.
    pub fn step(&self, token: u32, prompt: usize, cache: &mut KvCache) -> Tensor<3> {
        let mut splice = Splice::new(&self.config);
        splice.token(token);
        self.lm_head.forward(self.extend(self.embed(&splice, None, 1), self.ntk_alpha(prompt), cache, &mut ignore))
    }

    /// Runs the decoder without its head on positions that follow those in `cache`. `alpha` is the NTK factor. Keeps the shape
    /// `[1, seq, hidden]`.
    pub fn extend(&self, embedded: Tensor<3>, alpha: f64, cache: &mut KvCache, observe: Observer) -> Tensor<3> {
        let (first, seq) = (cache.positions(), embedded.dims()[1]);
        let positions = Positions::new(&self.config, alpha, first, seq, &self.device());
        let keys = first + seq;
        let hidden = |query: usize| (0..keys).map(move |key| if key <= first + query { 0.0 } else { HIDDEN_KEY });
        let mask = TensorData::new((0..seq).flat_map(hidden).collect::<Vec<f32>>(), [1, 1, seq, keys]);
        self.decode(embedded, &positions, &Tensor::from_data(mask, &self.device()), Some(cache), observe)
    }

    fn ntk_alpha(&self, prompt: usize) -> f64 {
        if self.config.use_dynamic_ntk { ntk_alpha(prompt, self.config.seq_length) } else { 1.0 }
    }
}

/// Sample, thread and index of a position of a packed row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Number of the sample.
    pub sample: u32,
    /// 0 for the part that every thread of the sample sees, otherwise the number of a continuation. Continuations do not see each other.
    pub thread: u32,
    /// Index in the sequence that this position sees.
    pub position: usize,
}

impl Place {
    fn sees(&self, before: &Self) -> bool {
        self.sample == before.sample && (before.thread == 0 || self.thread == before.thread)
    }
}

/// Builds the mask of packed rows, `[batch, 1, seq, seq]`. A position sees itself and the earlier positions of its sample that belong to
/// its thread or to the part that all threads see.
pub fn packed_mask(rows: &[Vec<Place>], device: &Device) -> Tensor<4> {
    let seq = rows[0].len();
    let mut mask = Vec::with_capacity(rows.len() * seq * seq);
    for row in rows {
        for query in 0..seq {
            mask.extend((0..seq).map(|key| if key <= query && row[query].sees(&row[key]) { 0.0 } else { HIDDEN_KEY }));
        }
    }
    Tensor::from_data(TensorData::new(mask, [rows.len(), 1, seq, seq]), device)
}
