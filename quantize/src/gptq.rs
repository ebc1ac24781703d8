//! Modules of a GPTQ checkpoint: 4-bit integers with scales for groups of inputs.
//!
//! ```text
//! qweight  I32 [in / 8, out]      word k of an output holds inputs 8k..8k+7, the first in the lowest nibble
//! qzeros   I32 [groups, out / 8]  zero points, packed likewise along the outputs; stored minus one, in `gptq_v2` unchanged
//! scales   F16 [groups, out]
//! g_idx    I32 [in]               the group of each input; i / group_size unless activation order was used
//! weight[out, in] = (code - zero) * scale[g_idx[in], out]
//! ```
//!
//! With zero points of 8 and groups in order, codes and scales are those of [`Scheme::Int4`], and nothing is lost.

use crate::source::json::Json;
use crate::source::{Block, Dtype, Files, Source};
use anyhow::{Context, Result, bail, ensure};
use qwen_vl_format::block::{EncodedRows, GROUP_SIZES, pack_q4};
use qwen_vl_format::{Scheme, padded};
use serde_json::Value;
use std::ops::Range;

/// The settings of a quantization, from `quantize_config.json` or the configuration's `quantization_config`.
///
/// Fine-tuning scripts leave them in models whose weights are plain again, so they count only if quantized tensors are there.
pub(crate) struct QuantizationSettings {
    /// The file's name.
    file: String,
    /// The file's path or address.
    place: String,
    value: Value,
}

impl QuantizationSettings {
    /// Reads the settings of a checkpoint; `None` if it has none.
    pub(crate) fn read(input: &Files) -> Result<Option<Self>> {
        let own = input.find("quantize_config.json");
        let Some(file) = own.or_else(|| input.find("config.json")) else { return Ok(None) };
        let json = Json::read(file)?.value;
        let value = if own.is_some() { json } else { json["quantization_config"].clone() };
        Ok((!value.is_null()).then(|| Self { file: file.name().to_owned(), place: file.place().to_owned(), value }))
    }

    /// The place of the settings and the method, for messages.
    pub(crate) fn describe(&self) -> String {
        let name = &self.file;
        match self.value["quant_method"].as_str() {
            Some(method) => format!("the quantization settings in {name} (`{method}`)"),
            None => format!("the quantization settings in {name}"),
        }
    }

    /// A sentence that ends the error about a tensor that is not plain: the method that saved it, if the settings name another than GPTQ.
    pub(crate) fn other_method(&self) -> Option<String> {
        let method = self.value["quant_method"].as_str().filter(|method| *method != "gptq")?;
        Some(format!("the checkpoint was quantized by `{method}` ({}): dequantize it, or convert the original", self.place))
    }

    /// The settings of GPTQ.
    pub(crate) fn gptq(&self) -> Result<GptqConfig> {
        let Self { place, value, .. } = self;
        let wrong = |key: &str, expected: &str| format!("{place}: `{key}` of the quantization is {}, expected {expected}", value[key]);
        if let Some(method) = value["quant_method"].as_str() {
            ensure!(method == "gptq", wrong("quant_method", "`gptq`"));
        }
        ensure!(value["bits"] == 4, wrong("bits", "4"));
        let group_size = value["group_size"].as_i64().with_context(|| wrong("group_size", "a number"))?;
        ensure!((1..=1 << 20).contains(&group_size), wrong("group_size", "a positive number"));
        let zero_offset = match value["checkpoint_format"].as_str() {
            None | Some("gptq") => 1,
            Some("gptq_v2") => 0,
            Some(_) => bail!(wrong("checkpoint_format", "`gptq` or `gptq_v2`")),
        };
        Ok(GptqConfig { group_size: group_size as usize, zero_offset })
    }
}

/// The layout of GPTQ modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GptqConfig {
    group_size: usize,
    /// Added to stored zero points.
    zero_offset: u8,
}

/// A quantized matrix of the source.
#[derive(Debug)]
pub(crate) struct GptqModule {
    /// Name without `.qweight`.
    name: String,
    outputs: usize,
    inputs: usize,
    group_size: usize,
    /// Group of each input, if the groups are not in order.
    order: Option<Vec<usize>>,
    /// Zero points `[groups, outputs]`, unless all are 8.
    zeros: Option<Vec<u8>>,
    /// True if scales are f16, as in our schemes.
    half_scales: bool,
}

impl GptqModule {
    /// Announces what [`Self::open`] reads.
    pub(crate) fn announce(source: &Source, name: &str) {
        let names = ["qzeros", "g_idx", "bias"].map(|leaf| format!("{name}.{leaf}"));
        source.announce(&names.iter().filter_map(|name| source.whole(name)).collect::<Vec<_>>());
    }

    /// Announces what [`Self::rows`] and [`Self::encoded`] read.
    pub(crate) fn announce_rows(&self, source: &Source, rows: Range<usize>) {
        let [words, scales] = ["qweight", "scales"].map(|leaf| format!("{}.{leaf}", self.name));
        let block = |name, height| Block { name, rows: 0..height, cols: rows.clone() };
        source.announce(&[block(words.as_str(), self.inputs / 8), block(scales.as_str(), self.groups())]);
    }

    /// Checks the tensors of a module that stands for a matrix `[outputs, inputs]`.
    pub(crate) fn open(source: &Source, name: &str, config: &GptqConfig, outputs: usize, inputs: usize) -> Result<Self> {
        ensure!(
            inputs.is_multiple_of(8) && outputs.is_multiple_of(8),
            "module `{name}` of {outputs} × {inputs} cannot hold eight codes to a word"
        );
        let groups = inputs.div_ceil(config.group_size);
        source.expect_shape(&format!("{name}.qweight"), &[inputs / 8, outputs])?;
        source.expect_shape(&format!("{name}.qzeros"), &[groups, outputs / 8])?;
        source.expect_floats(&format!("{name}.scales"), &[groups, outputs])?;
        let half_scales = source.get(&format!("{name}.scales"))?.dtype == Dtype::F16;

        let zero_words = source.read_words(&format!("{name}.qzeros"), 0..groups, 0..outputs / 8)?;
        let zeros: Vec<u8> = zero_words.iter().flat_map(|word| nibbles(*word).map(|zero| zero + config.zero_offset)).collect();
        let zeros = zeros.iter().any(|zero| *zero != 8).then_some(zeros);

        let order_name = format!("{name}.g_idx");
        let mut order = None;
        if source.contains(&order_name) {
            source.expect_shape(&order_name, &[inputs])?;
            let words = source.read_words(&order_name, 0..inputs, 0..1)?;
            if let Some((input, group)) = words.iter().enumerate().find(|(_, group)| !(0..groups as i32).contains(*group)) {
                bail!("tensor `{order_name}` has group {group} for input {input}, expected 0 to {}", groups - 1);
            }
            let in_order = words.iter().enumerate().all(|(input, group)| input / config.group_size == *group as usize);
            order = (!in_order).then(|| words.iter().map(|group| *group as usize).collect());
        }
        Ok(Self { name: name.to_owned(), outputs, inputs, group_size: config.group_size, order, zeros, half_scales })
    }

    /// The scheme that holds this module exactly, if there is one.
    pub(crate) fn exact_scheme(&self) -> Option<Scheme> {
        let group_size = GROUP_SIZES.into_iter().find(|size| *size as usize == self.group_size)?;
        (self.half_scales && self.order.is_none() && self.zeros.is_none()).then_some(Scheme::Int4 { group_size })
    }

    /// Weights `[rows, inputs]`.
    pub(crate) fn rows(&self, source: &Source, rows: Range<usize>) -> Result<Vec<f32>> {
        let words = source.read_words(&format!("{}.qweight", self.name), 0..self.inputs / 8, rows.clone())?;
        let scales = source.read_floats(&format!("{}.scales", self.name), 0..self.groups(), rows.clone())?;
        let mut out = Vec::with_capacity(rows.len() * self.inputs);
        for (at, row) in rows.clone().enumerate() {
            for input in 0..self.inputs {
                let code = nibbles(words[input / 8 * rows.len() + at])[input % 8];
                let group = self.order.as_ref().map_or(input / self.group_size, |order| order[input]);
                let zero = self.zeros.as_ref().map_or(8, |zeros| zeros[group * self.outputs + row]);
                out.push((f32::from(code) - f32::from(zero)) * scales[group * rows.len() + at]);
            }
        }
        Ok(out)
    }

    /// The same rows as codes and scales of [`Self::exact_scheme`].
    pub(crate) fn encoded(&self, source: &Source, rows: Range<usize>) -> Result<EncodedRows> {
        let scheme = self.exact_scheme().context("a module without an exact scheme is encoded from its weights")?;
        let words = source.read_words(&format!("{}.qweight", self.name), 0..self.inputs / 8, rows.clone())?;
        let scales = source.read_floats(&format!("{}.scales", self.name), 0..self.groups(), rows.clone())?;
        if let Some(scale) = scales.iter().find(|scale| !scale.is_finite()) {
            bail!("tensor `{}.scales` has the value {scale}", self.name);
        }
        let padding = (padded(self.inputs) - self.inputs) / 8;
        let mut encoded = EncodedRows::default();
        for at in 0..rows.len() {
            for word in words.iter().skip(at).step_by(rows.len()) {
                encoded.data.extend(pack_q4(nibbles(*word)).to_le_bytes());
            }
            // Eight codes of value zero.
            encoded.data.extend([0x88; 4].repeat(padding));
            let row_scales = scales.iter().skip(at).step_by(rows.len());
            let before = encoded.scales.len();
            encoded.scales.extend(row_scales.flat_map(|scale| half::f16::from_f32(*scale).to_le_bytes()));
            encoded.scales.resize(before + scheme.row_scale_bytes(self.inputs), 0);
        }
        Ok(encoded)
    }

    fn groups(&self) -> usize {
        self.inputs.div_ceil(self.group_size)
    }
}

/// The eight nibbles of a word, from the lowest on.
fn nibbles(word: i32) -> [u8; 8] {
    std::array::from_fn(|i| (word as u32 >> (4 * i) & 0xf) as u8)
}
