//! The options of a conversion, its events and its summary.

use crate::errors::Errors;
use crate::plan::{Plan, SHARD_BYTES};
use crate::scheme::describe_scheme;
use anyhow::{Context, Result, bail, ensure};
use qwen_vl_format::block::GROUP_SIZES;
use qwen_vl_format::tensors::tensor_table;
use qwen_vl_format::{Family, ModelConfig, Scheme, TensorKind, TensorSpec};
use serde::Serialize;
use std::error::Error;
use std::fmt;
use std::str::FromStr;

/// A scheme without its group size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "files", derive(clap::ValueEnum))]
pub enum SchemeName {
    /// 4 bits a weight and a scale for each group
    Q4,
    /// 8 bits a weight and a scale for each group
    Q8,
    /// Half precision
    F16,
    /// Single precision: exact
    F32,
}

impl SchemeName {
    /// The scheme with groups of this size.
    pub fn with_group_size(self, group_size: u32) -> Scheme {
        match self {
            // In longer groups even steps cost more than the zero point gains: see "The choice of q4z" in the README.
            Self::Q4 if group_size == 32 => Scheme::Q4Z { group_size },
            Self::Q4 => Scheme::Q4 { group_size },
            Self::Q8 => Scheme::Q8 { group_size },
            Self::F16 => Scheme::F16,
            Self::F32 => Scheme::F32,
        }
    }
}

impl FromStr for SchemeName {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "q4" => Self::Q4,
            "q8" => Self::Q8,
            "f16" => Self::F16,
            "f32" => Self::F32,
            _ => bail!("`{name}` is not q4, q8, f16 or f32"),
        })
    }
}

/// Stores the matrices of a module in another scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// A tensor's name or the beginning of one up to a dot: `vision`, `decoder.layers.0`, `head`.
    pub module: String,
    /// The scheme of its matrices.
    pub scheme: SchemeName,
}

impl Rule {
    /// Reads `MODULE=SCHEME`. The original's names of the two large matrices work too.
    pub fn parse(text: &str) -> Result<Self> {
        let (module, scheme) = text.split_once('=').with_context(|| format!("`{text}` is not MODULE=SCHEME"))?;
        let scheme = scheme.to_lowercase().parse()?;
        let module = match module {
            "lm_head" => "head",
            "wte" | "embed_tokens" | "embedding" => "decoder.embedding",
            "" => bail!("`{text}` names no module"),
            other => other,
        };
        Ok(Self { module: module.to_owned(), scheme })
    }

    /// `vision` includes the mergers, which are part of the tower in the original.
    fn applies_to(&self, name: &str) -> bool {
        let names = |module: &str| name.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        names(&self.module) || (self.module == "vision" && (names("merger") || names("deepstack")))
    }
}

/// The error for a rule that applies to no matrix of the model: the settings are wrong, and not the checkpoint.
#[derive(Debug)]
pub struct WrongSetting {
    module: String,
    modules: String,
}

impl fmt::Display for WrongSetting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { module, modules } = self;
        write!(
            formatter,
            "no matrix of this model is in `{module}`: use the name of a tensor, or its beginning up to a dot, such as {modules}"
        )
    }
}

impl Error for WrongSetting {}

/// The settings of a conversion: equal ones make equal bytes of equal files.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// The scheme of matrices without a rule.
    pub scheme: SchemeName,
    /// Weights that share a scale, in q4 and q8.
    pub group_size: u32,
    /// Exceptions. The last one that applies counts.
    pub rules: Vec<Rule>,
    /// Store NaN and infinite weights as zero instead of refusing them.
    pub allow_nonfinite: bool,
    /// A shard is closed when the next part would make its data larger than this, in bytes; 64 MiB by default. Parts are never split to fit.
    pub shard_bytes: u64,
}

impl Default for Settings {
    /// 4 bits in groups of 32.
    fn default() -> Self {
        Self { scheme: SchemeName::Q4, group_size: 32, rules: Vec::new(), allow_nonfinite: false, shard_bytes: SHARD_BYTES }
    }
}

impl Settings {
    /// Sets the group size.
    pub fn set_group_size(&mut self, group_size: u32) -> Result<()> {
        ensure!(GROUP_SIZES.contains(&group_size), "group size {group_size}, expected 32, 64 or 128");
        self.group_size = group_size;
        Ok(())
    }

    /// The scheme of a matrix: that of the last rule that names it; else, in q4, the scheme `exact` of a quantized source; else, for the
    /// patch embedding, at least f16, because it is small (2 MB of the full model) and every pixel passes it; else, in q4, that of
    /// [`Self::quality_rules`]; else the default.
    pub(crate) fn scheme_of(&self, config: &ModelConfig, spec: &TensorSpec, exact: Option<Scheme>) -> Scheme {
        if let Some(rule) = self.rules.iter().rev().find(|rule| rule.applies_to(&spec.name)) {
            return rule.scheme.with_group_size(self.group_size);
        }
        match (self.scheme, exact) {
            (SchemeName::Q4, Some(exact)) => exact,
            (SchemeName::Q4 | SchemeName::Q8, _)
                if ["vision.patch_embedding.weight", "vision.frame_change.weight"].contains(&spec.name.as_str()) =>
            {
                Scheme::F16
            }
            (scheme, _) => {
                let rule = self.quality_rules(config).into_iter().find(|rule| rule.applies_to(&spec.name));
                rule.map_or(scheme, |rule| rule.scheme).with_group_size(self.group_size)
            }
        }
    }

    /// Refuses rules that apply to no matrix of the model.
    pub(crate) fn check_rules(&self, config: &ModelConfig) -> Result<()> {
        let tensors = tensor_table(config);
        let matrices = || tensors.iter().filter(|spec| spec.kind == TensorKind::Matrix);
        if let Some(rule) = self.rules.iter().find(|rule| !matrices().any(|spec| rule.applies_to(&spec.name))) {
            let mut modules: Vec<_> = matrices().filter_map(|spec| spec.name.split('.').next()).collect();
            modules.dedup();
            return Err(WrongSetting { module: rule.module.clone(), modules: modules.join(", ") }.into());
        }
        Ok(())
    }

    /// The modules that q4 stores in q8 unless a rule names them: the vision part of the later generations, which is small, and an embedding
    /// that is the head too.
    fn quality_rules(&self, config: &ModelConfig) -> Vec<Rule> {
        let rule = |module: &str| Rule { module: module.to_owned(), scheme: SchemeName::Q8 };
        let vision = (config.family != Family::QwenVl).then(|| rule("vision"));
        let embedding = config.decoder.tied_head.then(|| rule("decoder.embedding"));
        vision.into_iter().chain(embedding).filter(|_| self.scheme == SchemeName::Q4).collect()
    }

    /// The schemes in words.
    pub(crate) fn describe(&self, config: &ModelConfig) -> String {
        let mut text = describe_scheme(self.scheme.with_group_size(self.group_size));
        for rule in self.quality_rules(config).iter().chain(&self.rules) {
            text += &format!(", {} as {}", rule.module, describe_scheme(rule.scheme.with_group_size(self.group_size)));
        }
        text
    }
}

/// Weights and bytes in one scheme.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorTotal {
    /// The scheme in words.
    pub scheme: String,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of weights.
    pub weights: u64,
    /// Stored bytes, scales and padding included.
    pub bytes: u64,
    /// Root of the mean squared error over that of the mean squared weight; `None` in a dry run.
    pub relative_error: Option<f64>,
}

/// Longest text of an error.
pub(crate) const ERROR_WIDTH: usize = 9;

impl TensorTotal {
    /// The error in three digits: `0.0738`, and below 0.0001 or from 1000 on `7.38e-5`.
    pub fn error_text(&self) -> Option<String> {
        let error = self.relative_error?;
        let rounded = format!("{error:.2e}");
        Some(match rounded.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()) {
            _ if error == 0.0 => "0".to_owned(),
            Some(exponent @ -4i32..=2) => format!("{error:.*}", (2 - exponent) as usize),
            _ => rounded,
        })
    }
}

/// The result of a conversion.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Number of tensors.
    pub tensors: usize,
    /// Number of weights.
    pub weights: u64,
    /// Totals by scheme, largest first.
    pub schemes: Vec<TensorTotal>,
    /// Number of shards.
    pub shards: usize,
    /// Bytes of all shards.
    pub shard_bytes: u64,
    /// Bits a weight over all shards.
    pub bits_per_weight: f64,
    /// Tensors of the source that the model does not have.
    pub unused_tensors: Vec<String>,
    /// Sentences about what was ignored, left aside or renamed.
    pub notes: Vec<String>,
}

impl Summary {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut schemes: Vec<TensorTotal> = Vec::new();
        for tensor in &plan.tensors {
            let scheme = describe_scheme(tensor.scheme);
            let [rows, cols] = tensor.shape;
            let at = schemes.iter().position(|total| total.scheme == scheme).unwrap_or_else(|| {
                schemes.push(TensorTotal { scheme, tensors: 0, weights: 0, bytes: 0, relative_error: None });
                schemes.len() - 1
            });
            let total = &mut schemes[at];
            total.tensors += 1;
            total.weights += (rows * cols) as u64;
            total.bytes += rows as u64 * (tensor.scheme.row_data_bytes(cols) + tensor.scheme.row_scale_bytes(cols)) as u64;
        }
        schemes.sort_by_key(|total| std::cmp::Reverse(total.bytes));
        let weights = schemes.iter().map(|total| total.weights).sum();
        let shard_bytes = plan.shards.iter().map(|shard| shard.bytes).sum();
        Self {
            tensors: plan.tensors.len(),
            weights,
            schemes,
            shards: plan.shards.len(),
            shard_bytes,
            bits_per_weight: shard_bytes as f64 * 8.0 / weights as f64,
            unused_tensors: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds the errors that were measured.
    pub(crate) fn set_errors(&mut self, errors: &Errors) {
        self.schemes.iter_mut().for_each(|total| total.relative_error = Some(errors.relative(&total.scheme)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_three_digits_and_one_width() {
        for (error, text) in [
            (0.0, "0"),
            (0.073_84, "0.0738"),
            (0.099_96, "0.100"),
            (0.005_301, "0.00530"),
            (0.000_208_4, "0.000208"),
            (0.000_099_96, "0.000100"),
            (0.000_05, "5.00e-5"),
            (1.0, "1.00"),
            (999.6, "1.00e3"),
            (f64::MIN_POSITIVE.sqrt(), "1.49e-154"),
            (f64::MAX, "1.80e308"),
            (f64::INFINITY, "inf"),
        ] {
            let total = TensorTotal { scheme: String::new(), tensors: 0, weights: 0, bytes: 0, relative_error: Some(error) };
            assert_eq!(total.error_text().unwrap(), text);
            assert!(text.len() <= ERROR_WIDTH, "{text}");
        }
    }
}
