//! The whole model: token ids and pictures → logits.

use crate::decoder::{Block, KvCache, Positions};
use crate::layers::{Linear, RmsNorm, zeros};
use crate::observer::{Observer, ignore};
use crate::positions::ntk_alpha;
use crate::vision::VisionTower;
use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use qwen_vl_format::ModelConfig;

/// What is added to the score of a key that a position must not see. Finite, so that a row of padding has no NaN.
const HIDDEN_KEY: f32 = -1e9;

/// The model, as `QWenLMHeadModel`.
#[derive(Module, Debug)]
pub struct QwenVl {
    /// Everything below the head.
    pub transformer: Transformer,
    /// To logits; not tied to the embedding.
    pub lm_head: Linear,
    #[module(skip)]
    config: ModelConfig,
}

/// `transformer`.
#[derive(Module, Debug)]
pub struct Transformer {
    /// Token embedding.
    pub wte: Embedding,
    /// The picture's way.
    pub visual: VisionTower,
    /// Blocks.
    pub h: Vec<Block>,
    /// Before the head.
    pub ln_f: RmsNorm,
}

/// `transformer.wte`.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocab, hidden]`.
    pub weight: Param<Tensor<2>>,
}

/// Where the rows of the decoder's input come from: below `vocab_size` a token's embedding, from there on the rows of the image
/// features, picture after picture.
#[derive(Debug, Clone)]
pub struct Splice {
    rows: Vec<i32>,
    vocab: usize,
    queries: usize,
    pictures: usize,
}

impl Splice {
    /// No tokens yet.
    pub fn new(config: &ModelConfig) -> Self {
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

    /// Adds another sequence behind this one.
    pub fn append(&mut self, other: &Self) {
        let moved = (self.pictures * self.queries) as i32;
        let vocab = self.vocab as i32;
        self.rows.extend(other.rows.iter().map(|row| if *row < vocab { *row } else { row + moved }));
        self.pictures += other.pictures;
    }

    /// A prompt in which every `<img>` is followed by the positions of a picture.
    pub fn prompt(config: &ModelConfig, ids: &[u32]) -> Self {
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

    /// Positions so far.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Pictures so far.
    pub fn pictures(&self) -> usize {
        self.pictures
    }
}

impl QwenVl {
    /// A model of zeros, to be filled by [`QwenVl::load`].
    pub fn zeros(config: &ModelConfig, device: &Device) -> Self {
        let transformer = Transformer {
            wte: Embedding { weight: zeros([config.vocab_size, config.hidden_size], device) },
            visual: VisionTower::zeros(&config.visual, device),
            h: (0..config.num_hidden_layers).map(|_| Block::zeros(config, device)).collect(),
            ln_f: RmsNorm::zeros(config.hidden_size, config.layer_norm_epsilon, device),
        };
        Self { transformer, lm_head: Linear::zeros(config.hidden_size, config.vocab_size, false, device), config: config.clone() }
    }

    /// Its configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.lm_head.weight.val().device()
    }

    /// The decoder's input.
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
            assert!(splice.pictures <= pictures, "{} pictures in the tokens, features of {pictures}", splice.pictures);
            table = Tensor::cat(vec![table, features.reshape([pictures * queries, hidden])], 0);
        } else {
            assert_eq!(splice.pictures, 0, "pictures in the tokens, but no features");
        }
        let rows = Tensor::<1, Int>::from_data(TensorData::new(splice.rows.clone(), [splice.len()]), &self.device());
        table.select(0, rows).reshape([batch, splice.len() / batch, hidden])
    }

    /// The decoder without its head: `[batch, seq, hidden]` → the same, after `ln_f`.
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

    /// Logits of every position of a prompt, `[1, seq, vocab]`; what the positions leave behind goes into `cache`, which is empty before.
    pub fn prefill(&self, splice: &Splice, features: Option<Tensor<3>>, cache: &mut KvCache, observe: Observer) -> Tensor<3> {
        let alpha = self.ntk_alpha(splice.len());
        self.lm_head.forward(self.extend(self.embed(splice, features, 1), alpha, cache, observe))
    }

    /// Logits `[1, 1, vocab]` after one more token. NTK's factor stays what the prompt, `prompt` positions long, gave.
    pub fn step(&self, token: u32, prompt: usize, cache: &mut KvCache) -> Tensor<3> {
        let mut splice = Splice::new(&self.config);
        splice.token(token);
        self.lm_head.forward(self.extend(self.embed(&splice, None, 1), self.ntk_alpha(prompt), cache, &mut ignore))
    }

    /// The decoder without its head for positions that follow those in `cache`, `[1, seq, hidden]` → the same, under an NTK factor.
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

/// Where a position of a packed row belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its sample.
    pub sample: u32,
    /// 0: what every thread of the sample sees. Else one of several continuations of it that do not see each other.
    pub thread: u32,
    /// Its position in the sequence that it sees.
    pub position: usize,
}

impl Place {
    fn sees(&self, before: &Self) -> bool {
        self.sample == before.sample && (before.thread == 0 || self.thread == before.thread)
    }
}

/// The mask `[batch, 1, seq, seq]` of packed rows: a position sees those before it of its own sample and thread.
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
