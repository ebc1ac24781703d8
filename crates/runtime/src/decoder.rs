//! The decoder: token ids, and image features in place of some of them → blocks over a KV cache → logits (2023: `modeling_qwen.py`; later:
//! `modeling_qwen2_vl.py`, `modeling_qwen3_vl.py`).
//!
//! Every layer has two plans over the same buffers: `prefill` for many positions at once, with matrix products, and `decode` for one
//! position, in six launches: norm + qkv, rotary + cache write, attention (two in a long context, see [`SPLIT_KEYS`]), output projection +
//! residual, norm + gate/up + SiLU, down projection + residual.

use crate::weights::Weights;
use crate::{ModelOptions, RuntimeError};
use qwen_vl_format::ModelConfig;
use qwen_vl_kernels::add::accumulate;
use qwen_vl_kernels::argmax::{Best, argmax};
use qwen_vl_kernels::attention::{Attention, Heads, SPLIT_KEYS, Source, Span, attention, attention_decode, attention_split, split_bytes};
use qwen_vl_kernels::embedding::embedding;
use qwen_vl_kernels::mask::TokenMask;
use qwen_vl_kernels::matmul::{Epilogue, matmul, matvec};
use qwen_vl_kernels::norm::{Norm, norm};
use qwen_vl_kernels::presence::PresencePenalty;
use qwen_vl_kernels::rotary::{HeadNorms, PositionTables, rotary};
use qwen_vl_kernels::sample::{DrawBuffer, Scratch, sample};
use qwen_vl_kernels::{Activation, Dispatch, Gpu, KvCache, StepBuffer, size};
use std::cell::OnceCell;

/// The decoder with its buffers.
pub(crate) struct Decoder {
    /// Input: token ids of the step, u32.
    pub(crate) ids: wgpu::Buffer,
    /// The residual stream, `[chunk, hidden]`.
    pub(crate) hidden: Activation,
    /// Scratch; with a trace it holds `ln_f` of all positions.
    pub(crate) normed: Activation,
    /// Input of the head: hidden state of one position, `[1, hidden]`.
    pub(crate) last: Activation,
    /// Logits, `[1, vocab]`.
    pub(crate) logits: Activation,
    /// The most likely token, u32.
    pub(crate) token: wgpu::Buffer,
    /// Rotary angles, and log-n factors if the model has them.
    pub(crate) tables: PositionTables,
    /// Additions to the hidden states of a prompt's chunk after the first layers, in order.
    pub(crate) deepstack: Vec<DeepStack>,
    /// Embedding rows of the ids.
    pub(crate) embed: Vec<Dispatch>,
    /// The layers in order.
    pub(crate) layers: Vec<DecoderLayer>,
    /// `ln_f` of all positions → `normed`, for traces; the head contains a norm already.
    pub(crate) final_norm: Dispatch,
    /// `ln_f` and head: `last` → `logits`.
    pub(crate) head: Vec<Dispatch>,
    /// `logits` → `token`.
    pub(crate) argmax: [Dispatch; 2],
    /// Results of argmax that `sample` reads.
    best: Best,
    /// Parameters of `sample`.
    pub(crate) draw: DrawBuffer,
    /// Intermediate results of `sample`.
    scratch: Scratch,
    /// `logits` → sampled `token`, after argmax; compiled at its first use.
    sample: OnceCell<[Dispatch; 3]>,
    /// Compiled at its first use.
    presence: OnceCell<PresencePenalty>,
    /// Made for the first answer that is held to a form.
    mask: OnceCell<TokenMask>,
}

/// An addition of image features after a layer.
pub(crate) struct DeepStack {
    /// Features at the positions of pictures, zeros elsewhere, `[chunk, width]`.
    pub(crate) rows: Activation,
    /// The addition of `rows` to the hidden states.
    pub(crate) add: Dispatch,
}

/// One block of the decoder.
pub(crate) struct DecoderLayer {
    /// Keys after rotary.
    pub(crate) keys: KvCache,
    /// Values.
    pub(crate) values: KvCache,
    /// Launches for many positions.
    pub(crate) prefill: Vec<Dispatch>,
    /// Launches for one position, before its attention.
    before_attention: Vec<Dispatch>,
    /// Attention of one position.
    attention: Dispatch,
    /// Attention of one position in a long context.
    split_attention: [Dispatch; 2],
    /// Launches for one position, after its attention.
    after_attention: Vec<Dispatch>,
}

impl DecoderLayer {
    /// Launches for one position that attends to `keys` positions.
    pub(crate) fn decode(&self, keys: usize) -> impl Iterator<Item = &Dispatch> {
        let attention = if keys < SPLIT_KEYS { std::slice::from_ref(&self.attention) } else { &self.split_attention };
        self.before_attention.iter().chain(attention).chain(&self.after_attention)
    }
}

/// Buffers that the layers share.
struct Buffers {
    ids: wgpu::Buffer,
    hidden: Activation,
    normed: Activation,
    qkv: Activation,
    attended: Activation,
    mlp: Activation,
    /// Partial results of the split attention.
    partial: wgpu::Buffer,
    tables: PositionTables,
    /// Rows that are added to the hidden states after the first layers, `[chunk, width]` each.
    deepstack: Vec<Activation>,
}

impl Buffers {
    fn allocate(gpu: &Gpu, config: &ModelConfig, options: ModelOptions) -> Result<Self, RuntimeError> {
        let (chunk, context, decoder) = (options.prefill_chunk, options.context_length, &config.decoder);
        Ok(Self {
            ids: gpu.storage("decoder.ids", size::product(&[chunk, 4]))?,
            hidden: gpu.activation("decoder.hidden", chunk, decoder.width)?,
            normed: gpu.activation("decoder.normed", chunk, decoder.width)?,
            qkv: gpu.activation("decoder.qkv", chunk, decoder.qkv_width())?,
            attended: gpu.activation("decoder.attended", chunk, decoder.attention_width())?,
            mlp: gpu.activation("decoder.mlp", chunk, decoder.mlp_width)?,
            partial: gpu.storage("decoder.partial", split_bytes(decoder.heads, decoder.head_dim))?,
            tables: PositionTables {
                angles: gpu.storage("decoder.angles", size::product(&[context, decoder.head_dim / 2, 8]))?,
                logn: decoder.rotary.logn.then(|| gpu.storage("decoder.logn", size::product(&[context, 4]))).transpose()?,
            },
            deepstack: config
                .vision
                .deepstack()
                .iter()
                .map(|_| gpu.activation("decoder.deepstack", chunk, decoder.width))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// Everything that the plans of a layer are made of.
struct Planner<'a> {
    gpu: &'a Gpu,
    config: &'a ModelConfig,
    weights: &'a Weights,
    step: &'a StepBuffer,
    buffers: &'a Buffers,
    options: ModelOptions,
}

impl Planner<'_> {
    fn rms_norm(&self, name: &str) -> Norm {
        Norm { weight: self.weights.vector(name), bias: None, epsilon: self.config.decoder.norm_epsilon }
    }

    fn layer(&self, index: usize) -> Result<DecoderLayer, RuntimeError> {
        let Self { gpu, config, weights, step, .. } = *self;
        let Buffers { hidden, normed, qkv, attended, mlp, partial, tables, .. } = self.buffers;
        let name = |part: &str| format!("decoder.layers.{index}.{part}");
        let ModelOptions { context_length, kv, .. } = self.options;
        let cache = |label| KvCache::new(gpu, label, context_length, config.decoder.kv_heads, config.decoder.head_dim, kv);
        let (keys, values) = (cache("decoder.keys")?, cache("decoder.values")?);
        let (attn_norm, mlp_norm) = (self.rms_norm(&name("attn_norm.weight")), self.rms_norm(&name("mlp_norm.weight")));
        let [qkv_linear, out, gate_up, down] = ["attn.qkv", "attn.out", "mlp.gate_up", "mlp.down"].map(|part| weights.linear(&name(part)));
        let head_norms = config.decoder.qk_norm.then(|| HeadNorms {
            queries: weights.vector(&name("attn.q_norm.weight")),
            keys: weights.vector(&name("attn.k_norm.weight")),
            epsilon: config.decoder.norm_epsilon,
        });
        let rotate = || rotary(gpu, step, tables, head_norms.as_ref(), qkv, &keys, &values);
        let heads = |rows| Heads { rows, first_col: 0 };
        let launch = Attention {
            queries: heads(qkv),
            keys: Source::Cache(&keys),
            values: Source::Cache(&values),
            output: attended,
            heads: config.decoder.heads,
            kv_heads: config.decoder.kv_heads,
            head_dim: config.decoder.head_dim,
            span: Span::Causal,
        };

        let mut prefill = vec![norm(gpu, step, &attn_norm, hidden, normed)];
        prefill.extend(matmul(gpu, step, qkv_linear.product(normed, qkv, Epilogue::Store)));
        prefill.push(rotate());
        prefill.push(attention(gpu, step, launch));
        prefill.extend(matmul(gpu, step, out.product(attended, hidden, Epilogue::Accumulate)));
        prefill.push(norm(gpu, step, &mlp_norm, hidden, normed));
        prefill.extend(matmul(gpu, step, gate_up.product(normed, mlp, Epilogue::SwiGlu)));
        prefill.extend(matmul(gpu, step, down.product(mlp, hidden, Epilogue::Accumulate)));

        let mut before_attention = matvec(gpu, qkv_linear.product(hidden, qkv, Epilogue::Store), Some(&attn_norm));
        before_attention.push(rotate());
        let decode_attention = attention_decode(gpu, step, launch);
        let split_attention = attention_split(gpu, step, launch, partial);
        let mut after_attention = matvec(gpu, out.product(attended, hidden, Epilogue::Accumulate), None);
        after_attention.extend(matvec(gpu, gate_up.product(hidden, mlp, Epilogue::SwiGlu), Some(&mlp_norm)));
        after_attention.extend(matvec(gpu, down.product(mlp, hidden, Epilogue::Accumulate), None));
        Ok(DecoderLayer { keys, values, prefill, before_attention, attention: decode_attention, split_attention, after_attention })
    }
}

impl Decoder {
    pub(crate) fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        weights: &Weights,
        step: &StepBuffer,
        options: ModelOptions,
    ) -> Result<Self, RuntimeError> {
        let buffers = Buffers::allocate(gpu, config, options)?;
        let last = gpu.activation("decoder.last", 1, config.decoder.width)?;
        let logits = gpu.activation("decoder.logits", 1, config.decoder.vocab_size)?;
        let token = gpu.storage("decoder.token", 4)?;
        let (best, scratch) = (Best::new(gpu)?, Scratch::new(gpu, config.decoder.vocab_size)?);
        let planner = Planner { gpu, config, weights, step, buffers: &buffers, options };
        let layers = (0..config.decoder.layers).map(|index| planner.layer(index)).collect::<Result<_, _>>()?;
        let final_norm = planner.rms_norm("decoder.norm.weight");
        let Buffers { ids, hidden, normed, tables, deepstack, .. } = buffers;
        let deepstack = deepstack
            .into_iter()
            .map(|rows| {
                let add = accumulate(gpu, step, &hidden, &rows);
                DeepStack { rows, add }
            })
            .collect();
        Ok(Self {
            embed: embedding(gpu, step, weights.matrix("decoder.embedding.weight"), &ids, &hidden),
            final_norm: norm(gpu, step, &final_norm, &hidden, &normed),
            head: matvec(gpu, weights.head(config.decoder.tied_head).product(&last, &logits, Epilogue::Store), Some(&final_norm)),
            argmax: argmax(gpu, &logits, &best, &token),
            best,
            draw: DrawBuffer::new(gpu),
            scratch,
            sample: OnceCell::new(),
            presence: OnceCell::new(),
            mask: OnceCell::new(),
            ids,
            hidden,
            normed,
            last,
            logits,
            token,
            tables,
            deepstack,
            layers,
        })
    }

    /// The launches of the presence penalty.
    pub(crate) fn presence(&self, gpu: &Gpu) -> Result<&PresencePenalty, RuntimeError> {
        if let Some(presence) = self.presence.get() {
            return Ok(presence);
        }
        let made = PresencePenalty::new(gpu, &self.logits, &self.token)?;
        Ok(self.presence.get_or_init(|| made))
    }

    /// The launch that excludes tokens.
    pub(crate) fn mask(&self, gpu: &Gpu) -> Result<&TokenMask, RuntimeError> {
        if let Some(mask) = self.mask.get() {
            return Ok(mask);
        }
        let made = TokenMask::new(gpu, &self.logits)?;
        Ok(self.mask.get_or_init(|| made))
    }

    /// The launches that sample a token.
    pub(crate) fn sample(&self, gpu: &Gpu) -> &[Dispatch; 3] {
        self.sample.get_or_init(|| sample(gpu, &self.logits, &self.best, &self.scratch, &self.draw, &self.token))
    }
}
