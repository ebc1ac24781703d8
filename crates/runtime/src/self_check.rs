//! The self-check of a loaded model: detects drivers that compute incorrectly.

use crate::sequence::text_tokens;
use crate::vision::{epilogue, needs_f32};
use crate::{Backend, KvFormat, KvReuse, Model, RuntimeError};
use qwen_vl_format::tensors::tensor_table;
use qwen_vl_format::{Manifest, Scheme, TensorKind, TensorSpec};
use qwen_vl_kernels::attention::oracle::Shape;
use qwen_vl_kernels::known_answers::{self, Checked, Difference};
use qwen_vl_kernels::matmul::Epilogue;
use std::ops::ControlFlow;

/// Tokens of the comparison of the decoder's two plans.
const TOKENS: usize = 5;
/// Largest difference of two logits, in standard deviations of all logits. Orders of summation differ by 1e-4, half precision by less than
/// a tenth; a kernel that computes incorrectly is off by whole deviations.
const PLANS_TOLERANCE: f32 = 0.25;

impl Model {
    /// Checks that this GPU computes correctly: products, norms and attention give known answers on small inputs, and the two plans of the
    /// decoder agree on the logits of a few tokens. It also compiles and warms up the kernels that an answer needs.
    pub async fn self_check(&mut self) -> Result<(), RuntimeError> {
        for kernel in checked_kernels(self.manifest(), self.options().kv) {
            let Difference { worst, largest } = known_answers::difference(self.gpu(), &kernel).await?;
            let bound = known_answers::TOLERANCE * largest;
            if worst > bound {
                return Err(RuntimeError::Incorrect { what: format!("known answers of {}", name(&kernel)), worst, bound });
            }
        }
        if self.context_length() <= TOKENS {
            return Ok(());
        }
        let ids = text_tokens(&self.manifest().config, TOKENS);
        let mut on_chunk = |_| ControlFlow::Continue(());
        self.rewind(0);
        let _ = self.prefill(&ids, &[], KvReuse::Exact, &mut on_chunk, None).await?;
        let at_once = self.logits().await?;
        self.rewind(0);
        let _ = self.prefill(&ids[..1], &[], KvReuse::Exact, &mut on_chunk, None).await?;
        for id in &ids[1..] {
            self.decode(*id)?;
        }
        let one_by_one = self.logits().await?;
        self.rewind(0);

        let count = at_once.len() as f32;
        let mean = at_once.iter().sum::<f32>() / count;
        let deviation = (at_once.iter().map(|logit| (logit - mean).powi(2)).sum::<f32>() / count).sqrt();
        let worst = at_once.iter().zip(&one_by_one).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let bound = PLANS_TOLERANCE * deviation + f32::EPSILON;
        if worst <= bound {
            Ok(())
        } else {
            Err(RuntimeError::Incorrect { what: "logits of a prompt and of single tokens".to_owned(), worst, bound })
        }
    }
}

fn name(kernel: &Checked) -> String {
    match kernel {
        Checked::Norm => "the norm".to_owned(),
        Checked::Rotary { .. } => "the rotary embedding of the decoder".to_owned(),
        Checked::RotaryRows(head_dim) => format!("the rotary embedding of heads of {head_dim}"),
        Checked::Taps => "the position table".to_owned(),
        Checked::Attention { head_dim, segments: true, .. } => format!("the attention in windows with heads of {head_dim}"),
        Checked::Attention { head_dim, .. } => format!("the attention with heads of {head_dim}"),
        Checked::Matvec(scheme, _) => format!("the product of one row with {} weights", weights(*scheme)),
        Checked::Matmul { scheme, .. } => format!("the product of many rows with {} weights", weights(*scheme)),
    }
}

fn weights(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::F32 => "f32",
        Scheme::F16 => "f16",
        Scheme::Q8 { .. } => "8-bit",
        Scheme::Q4 { .. } | Scheme::Int4 { .. } | Scheme::Q4Z { .. } => "4-bit",
    }
}

/// The kernels that the model's weights and heads need.
fn checked_kernels(manifest: &Manifest, kv: KvFormat) -> Vec<Checked> {
    let config = &manifest.config;
    let mut kernels = vec![Checked::Norm];
    let mut add = |kernel| {
        if !kernels.contains(&kernel) {
            kernels.push(kernel);
        }
    };
    let attention = |head_dim, segments| Checked::Attention { head_dim, group: 1, segments };
    add(attention(config.vision.head_dim(), false));
    if config.vision.windows.is_some() {
        add(attention(config.vision.head_dim(), true));
    }
    if let Some(resampler) = &config.vision.resampler {
        add(attention(config.decoder.width / resampler.heads, false));
    }
    if config.vision.rotary_base.is_some() {
        add(Checked::RotaryRows(config.vision.head_dim()));
    }
    if config.vision.samples_positions() {
        add(Checked::Taps);
    }
    let decoder = &config.decoder;
    let shape = Shape { heads: decoder.heads, kv_heads: decoder.kv_heads, head_dim: decoder.head_dim };
    add(Checked::Rotary { shape, kv, norms: decoder.qk_norm, logn: decoder.rotary.logn });
    let matrices = manifest.tensors.iter().zip(tensor_table(config)).filter(|(_, spec)| spec.kind == TensorKind::Matrix);
    for (tensor, TensorSpec { name, .. }) in matrices {
        match name.split('.').next() {
            Some("head") => add(Checked::Matvec(tensor.scheme, true)),
            Some("decoder") if name == "decoder.embedding.weight" => {}
            Some("decoder") => {
                let normed = name.ends_with("attn.qkv.weight") || name.ends_with("mlp.gate_up.weight");
                add(Checked::Matvec(tensor.scheme, normed));
                add(Checked::Matmul { scheme: tensor.scheme, epilogue: Epilogue::Gelu, exact: false });
            }
            _ => add(Checked::Matmul {
                scheme: tensor.scheme,
                epilogue: epilogue(config.vision.activation),
                exact: needs_f32(&config.vision),
            }),
        }
    }
    kernels
}
