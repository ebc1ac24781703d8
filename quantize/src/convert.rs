//! Makes the web checkpoint's tensors from the original's: names and layouts change here and nowhere else.
//!
//! Layouts of the original:
//! - `attn.in_proj` of the vision tower is stored head by head: `[q of head 0; k of head 0; v of head 0; q of head 1; …]`;
//! - `attn_pool.attn.in_proj_weight` of the resampler and `c_attn` of the decoder are thirds: `[all q; all k; all v]`;
//! - `visual.proj` is `[in, out]`, every other matrix `[out, in]`;
//! - the gate of the decoder's MLP is `w2`;
//! - position tables are stored for 16×16 patches and resized when used (`visual.py`, `get_abs_pos`).

use crate::gptq::{GptqModule, QuantisationSettings};
use crate::rows::RowSource;
use crate::source::Source;
use anyhow::{Context, Result, bail};
use qwen_vl_format::block::EncodedRows;
use qwen_vl_format::qwen_vl::{POSITION_TABLE_SIDE, VISION_NORM_EPSILON};
use qwen_vl_format::tensors::tensor_table;
use qwen_vl_format::{ModelConfig, Scheme, TensorKind, TensorSpec};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// The way to make a tensor of ours from the original's.
#[derive(Debug, Clone, PartialEq)]
enum Recipe {
    /// Rows from `first` on, unchanged.
    Rows { source: String, first: usize },
    /// `[q; k; v]`, each in the order of heads, from the vision tower's interleaving by head.
    PerHead { source: String, heads: usize, head_dim: usize },
    /// Row 2i from `even`, row 2i + 1 from `odd`.
    Interleaved { even: String, odd: String },
    /// Rows from columns.
    Transposed { source: String },
    /// A position table resized from `from`×`from` to `to`×`to`.
    Resized { source: String, from: usize, to: usize },
    /// `ln_q(query) + pos_embed`.
    Query,
}

/// A checkpoint of the original, seen as the tensors of [`tensor_table`].
pub(crate) struct Converter<'a> {
    source: &'a Source,
    config: &'a ModelConfig,
    tensors: Vec<(TensorSpec, Recipe)>,
    /// GPTQ modules of the source, by the name of the matrix that they stand for.
    quantised: HashMap<String, GptqModule>,
}

const RESAMPLER: &str = "transformer.visual.attn_pool";

impl<'a> Converter<'a> {
    /// Checks that the source has every tensor of the model, with its shape and a float type. Adds a note if settings are ignored.
    pub(crate) fn new(source: &'a Source, config: &'a ModelConfig, notes: &mut Vec<String>) -> Result<Self> {
        let tensors: Vec<_> = tensor_table(config)
            .into_iter()
            .map(|spec| {
                let recipe = recipe(config, &spec.name);
                (spec, recipe)
            })
            .collect();
        let needed: Vec<_> = tensors.iter().flat_map(|(spec, recipe)| expected_sources(config, spec, recipe)).collect();
        let quantised_module =
            |name: &str| name.strip_suffix(".weight").filter(|module| source.contains(&format!("{module}.qweight"))).map(str::to_owned);
        let missing = needed.iter().map(|(name, _)| name).filter(|name| !source.contains(name) && quantised_module(name).is_none());
        let missing: Vec<String> = missing.cloned().collect();
        if !missing.is_empty() {
            return Err(source.missing_error(&missing));
        }

        let settings = QuantisationSettings::read(source.input())?;
        let mut quantised = HashMap::new();
        for (name, shape) in needed {
            let (Some(module), [outputs, inputs]) = (quantised_module(&name), shape.as_slice()) else {
                source.expect_floats(&name, &shape).map_err(|error| {
                    match settings.as_ref().and_then(QuantisationSettings::other_method) {
                        Some(method) => error.context(method),
                        None => error,
                    }
                })?;
                continue;
            };
            let settings = settings.as_ref().with_context(|| {
                format!("tensor `{module}.qweight` is quantised, but neither quantize_config.json nor config.json has the settings")
            })?;
            let opened = GptqModule::open(source, &module, &settings.gptq()?, *outputs, *inputs)?;
            refuse_bias(source, &module, *outputs)?;
            quantised.insert(name, opened);
        }
        if let Some(settings) = settings.filter(|_| quantised.is_empty()) {
            notes.push(format!("{} are ignored: the weights are not quantised", settings.describe()));
        }
        Ok(Self { source, config, tensors, quantised })
    }

    /// Returns the tensors of the source that the model does not have.
    pub(crate) fn unused(&self) -> Vec<String> {
        let used: HashSet<String> = self
            .tensors
            .iter()
            .flat_map(|(spec, recipe)| expected_sources(self.config, spec, recipe))
            .flat_map(|(name, _)| match (self.quantised.contains_key(&name), name.strip_suffix("weight")) {
                // The bias is used under its own name, or zero: see `refuse_bias`.
                (true, Some(module)) => ["qweight", "qzeros", "scales", "g_idx", "bias"].map(|leaf| format!("{module}{leaf}")).to_vec(),
                _ => vec![name],
            })
            .collect();
        self.source.names().filter(|name| !used.contains(*name)).map(str::to_owned).collect()
    }

    /// The scheme of ours in which the source stores a tensor, if there is one.
    pub(crate) fn exact_scheme(&self, tensor: usize) -> Option<Scheme> {
        let scheme = |name: &String| self.quantised.get(name).and_then(GptqModule::exact_scheme);
        match &self.tensors[tensor].1 {
            Recipe::Rows { source, first: 0 } => scheme(source),
            Recipe::Interleaved { even, odd } => scheme(even).filter(|found| scheme(odd) == Some(*found)),
            _ => None,
        }
    }

    /// Reads weights of a matrix of the source, decoded if they are quantised.
    fn read(&self, name: &str, rows: Range<usize>, cols: Range<usize>) -> Result<Vec<f32>> {
        match self.quantised.get(name) {
            Some(module) => module.rows(self.source, rows),
            None => self.source.read_floats(name, rows, cols),
        }
    }

    fn whole(&self, name: &str, rows: usize, cols: usize) -> Result<Vec<f32>> {
        self.source.read_floats(name, 0..rows, 0..cols)
    }

    /// `ln_q(query) + pos_embed`, `[queries, hidden]`, which does not depend on the picture: `visual.py`, `Resampler.forward`.
    fn query(&self) -> Result<Vec<f32>> {
        let (queries, hidden) = (self.config.vision.queries(), self.config.decoder.width);
        let query = self.whole(&format!("{RESAMPLER}.query"), queries, hidden)?;
        let positions = self.whole(&format!("{RESAMPLER}.pos_embed"), queries, hidden)?;
        let weight = self.whole(&format!("{RESAMPLER}.ln_q.weight"), hidden, 1)?;
        let bias = self.whole(&format!("{RESAMPLER}.ln_q.bias"), hidden, 1)?;
        let mut out = Vec::with_capacity(query.len());
        for (row, positions) in query.chunks_exact(hidden).zip(positions.chunks_exact(hidden)) {
            let mean = row.iter().map(|value| f64::from(*value)).sum::<f64>() / hidden as f64;
            let variance = row.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / hidden as f64;
            let scale = 1.0 / (variance + f64::from(VISION_NORM_EPSILON)).sqrt();
            out.extend((0..hidden).map(|col| {
                let normed = (f64::from(row[col]) - mean) * scale * f64::from(weight[col]) + f64::from(bias[col]);
                (normed + f64::from(positions[col])) as f32
            }));
        }
        Ok(out)
    }
}

impl RowSource for Converter<'_> {
    fn rows(&self, tensor: usize, rows: Range<usize>) -> Result<Vec<f32>> {
        let (spec, recipe) = &self.tensors[tensor];
        let [_, cols] = spec.shape;
        // A vector is one row of ours and a column of the source.
        let (range, width) = if is_vector(spec) { (0..cols, 1) } else { (rows.clone(), cols) };
        match recipe {
            Recipe::Rows { source, first } => self.read(source, first + range.start..first + range.end, 0..width),
            Recipe::PerHead { source, heads, head_dim } => {
                let mut out = Vec::with_capacity(range.len() * width);
                let mut row = range.start;
                while row < range.end {
                    // Our row is (part, head, d), the source's (head, part, d): the rows of one head stay together.
                    let (part, head, d) = (row / (heads * head_dim), row / head_dim % heads, row % head_dim);
                    let run = (head_dim - d).min(range.end - row);
                    let from = (head * 3 + part) * head_dim + d;
                    out.extend(self.source.read_floats(source, from..from + run, 0..width)?);
                    row += run;
                }
                Ok(out)
            }
            Recipe::Interleaved { even, odd } => {
                let pairs = range.start / 2..range.end.div_ceil(2);
                let even = self.read(even, pairs.clone(), 0..width)?;
                let odd = self.read(odd, pairs.clone(), 0..width)?;
                let mut out = Vec::with_capacity(range.len() * width);
                for row in range {
                    let from = if row % 2 == 0 { &even } else { &odd };
                    out.extend_from_slice(&from[(row / 2 - pairs.start) * width..][..width]);
                }
                Ok(out)
            }
            Recipe::Transposed { source } => {
                let block = self.source.read_floats(source, 0..cols, range.clone())?;
                Ok((0..range.len()).flat_map(|row| block.iter().skip(row).step_by(range.len()).copied()).collect())
            }
            Recipe::Resized { source, from, to } => {
                let table = qwen_vl_format::resize_table(&self.whole(source, from * from, cols)?, *from, *to, cols);
                Ok(table[range.start * cols..range.end * cols].to_vec())
            }
            Recipe::Query => Ok(self.query()?[range.start * cols..range.end * cols].to_vec()),
        }
        .with_context(|| format!("could not make `{}` rows {}..{}", spec.name, rows.start, rows.end))
    }

    fn origin(&self, tensor: usize, row: usize, col: usize) -> (String, String) {
        let (spec, recipe) = &self.tensors[tensor];
        // A vector is one row of ours and a column of the source.
        let (row, kind) = if is_vector(spec) { (col, "element") } else { (row, "row") };
        match recipe {
            Recipe::Rows { source, first } => (source.clone(), format!("{kind} {}", first + row)),
            Recipe::PerHead { source, heads, head_dim } => {
                let (part, head, d) = (row / (heads * head_dim), row / head_dim % heads, row % head_dim);
                (source.clone(), format!("{kind} {}", (head * 3 + part) * head_dim + d))
            }
            Recipe::Interleaved { even, odd } => {
                let source = if row.is_multiple_of(2) { even } else { odd };
                (source.clone(), format!("{kind} {}", row / 2))
            }
            Recipe::Transposed { source } => (source.clone(), format!("column {row}")),
            // Computed from several weights.
            Recipe::Resized { source, .. } => (source.clone(), format!("row {row} after resizing")),
            Recipe::Query => (format!("{RESAMPLER}.query"), format!("row {row} after the norm")),
        }
    }

    fn encoded(&self, tensor: usize, rows: Range<usize>, scheme: Scheme) -> Result<Option<EncodedRows>> {
        if self.exact_scheme(tensor) != Some(scheme) {
            return Ok(None);
        }
        let encoded = |name: &String, rows: Range<usize>| self.quantised[name].encoded(self.source, rows);
        match &self.tensors[tensor].1 {
            Recipe::Rows { source, .. } => encoded(source, rows).map(Some),
            Recipe::Interleaved { even, odd } => {
                let cols = self.tensors[tensor].0.shape[1];
                let pairs = rows.start / 2..rows.end.div_ceil(2);
                let (even, odd) = (encoded(even, pairs.clone())?, encoded(odd, pairs.clone())?);
                let weave = |even: &[u8], odd: &[u8], row_bytes: usize| -> Vec<u8> {
                    let row =
                        |row: usize| &(if row.is_multiple_of(2) { even } else { odd })[(row / 2 - pairs.start) * row_bytes..][..row_bytes];
                    rows.clone().flat_map(|at| row(at).iter().copied()).collect()
                };
                Ok(Some(EncodedRows {
                    data: weave(&even.data, &odd.data, scheme.row_data_bytes(cols)),
                    scales: weave(&even.scales, &odd.scales, scheme.row_scale_bytes(cols)),
                }))
            }
            _ => Ok(None),
        }
    }
}

/// GPTQ modules always have a bias. If the model has none there, it must be zero.
fn refuse_bias(source: &Source, module: &str, outputs: usize) -> Result<()> {
    let name = format!("{module}.bias");
    if module.ends_with(".c_attn") || !source.contains(&name) {
        return Ok(());
    }
    source.expect_floats(&name, &[outputs])?;
    let bias = source.read_floats(&name, 0..outputs, 0..1)?;
    if let Some((at, value)) = bias.iter().enumerate().find(|(_, value)| **value != 0.0) {
        bail!("tensor `{name}` has the value {value} at {at}, and it must be zero: this model has no bias there");
    }
    Ok(())
}

/// True if a tensor of ours is a vector: a table of one row that is a bias or a norm.
fn is_vector(spec: &TensorSpec) -> bool {
    spec.kind == TensorKind::Table && (spec.name.ends_with(".bias") || spec.name.ends_with(".weight"))
}

/// Returns the recipe of the tensor of this name in [`tensor_table`].
fn recipe(config: &ModelConfig, name: &str) -> Recipe {
    let rows = |source: String| Recipe::Rows { source, first: 0 };
    let (module, leaf) = name.rsplit_once('.').expect("every name has a module");
    if let Some(rest) = name.strip_prefix("vision.blocks.") {
        let (layer, part) = rest.split_once('.').expect("a block's tensor");
        let block = format!("transformer.visual.transformer.resblocks.{layer}");
        return match part.rsplit_once('.').expect("a module and its tensor").0 {
            "attn.qkv" => Recipe::PerHead {
                source: format!("{block}.attn.in_proj.{leaf}"),
                heads: config.vision.heads,
                head_dim: config.vision.head_dim(),
            },
            "attn.out" => rows(format!("{block}.attn.out_proj.{leaf}")),
            "mlp.fc1" => rows(format!("{block}.mlp.c_fc.{leaf}")),
            "mlp.fc2" => rows(format!("{block}.mlp.c_proj.{leaf}")),
            norm => rows(format!("{block}.{norm}.{leaf}")),
        };
    }
    if let Some(rest) = name.strip_prefix("decoder.layers.") {
        let (layer, part) = rest.split_once('.').expect("a layer's tensor");
        let block = format!("transformer.h.{layer}");
        return match part.rsplit_once('.').expect("a module and its tensor").0 {
            "attn_norm" => rows(format!("{block}.ln_1.{leaf}")),
            "attn.qkv" => rows(format!("{block}.attn.c_attn.{leaf}")),
            "attn.out" => rows(format!("{block}.attn.c_proj.{leaf}")),
            "mlp_norm" => rows(format!("{block}.ln_2.{leaf}")),
            "mlp.gate_up" => Recipe::Interleaved { even: format!("{block}.mlp.w1.{leaf}"), odd: format!("{block}.mlp.w2.{leaf}") },
            "mlp.down" => rows(format!("{block}.mlp.c_proj.{leaf}")),
            other => unreachable!("`{other}` of a decoder layer has no recipe"),
        };
    }
    let grid = config.vision.fixed_grid().unwrap_or_default();
    match module {
        "vision.patch_embedding" => rows(format!("transformer.visual.conv1.{leaf}")),
        "vision" => Recipe::Resized { source: "transformer.visual.positional_embedding".into(), from: POSITION_TABLE_SIDE, to: grid },
        "vision.ln_pre" => rows(format!("transformer.visual.ln_pre.{leaf}")),
        "resampler" if leaf == "query" => Recipe::Query,
        "resampler" => {
            // A square number: `ModelConfig::validate`.
            let from = config.vision.queries().isqrt();
            Recipe::Resized { source: format!("{RESAMPLER}.pos_embed"), from, to: grid }
        }
        "resampler.kv_proj" | "resampler.ln_kv" => rows(format!("transformer.visual.attn_pool.{}.{leaf}", &module["resampler.".len()..])),
        "resampler.attn.q" | "resampler.attn.k" | "resampler.attn.v" => {
            let third = ["resampler.attn.q", "resampler.attn.k", "resampler.attn.v"].iter().position(|name| *name == module).unwrap_or(0);
            Recipe::Rows { source: format!("{RESAMPLER}.attn.in_proj_{leaf}"), first: third * config.decoder.width }
        }
        "resampler.attn.out" => rows(format!("{RESAMPLER}.attn.out_proj.{leaf}")),
        "resampler.ln_post" => rows(format!("transformer.visual.ln_post.{leaf}")),
        "resampler.proj" => Recipe::Transposed { source: "transformer.visual.proj".into() },
        "decoder.embedding" => rows(format!("transformer.wte.{leaf}")),
        "decoder.norm" => rows(format!("transformer.ln_f.{leaf}")),
        "head" => rows(format!("lm_head.{leaf}")),
        other => unreachable!("`{other}` has no recipe"),
    }
}

/// Returns the tensors of the original that a recipe reads, with their shapes.
fn expected_sources(config: &ModelConfig, spec: &TensorSpec, recipe: &Recipe) -> Vec<(String, Vec<usize>)> {
    let vision = &config.vision;
    let [rows, cols] = spec.shape;
    let shape = |rows: usize| if is_vector(spec) { vec![rows] } else { vec![rows, cols] };
    let count = if is_vector(spec) { cols } else { rows };
    match recipe {
        Recipe::Rows { source, .. } if source == "transformer.visual.conv1.weight" => {
            vec![(source.clone(), vec![vision.width, 3, vision.patch_size, vision.patch_size])]
        }
        // One third of a stacked projection.
        Recipe::Rows { source, .. } if source.contains(".in_proj_") => vec![(source.clone(), shape(3 * config.decoder.width))],
        Recipe::Rows { source, .. } | Recipe::PerHead { source, .. } => vec![(source.clone(), shape(count))],
        Recipe::Interleaved { even, odd } => vec![(even.clone(), shape(count / 2)), (odd.clone(), shape(count / 2))],
        Recipe::Transposed { source } => vec![(source.clone(), vec![cols, rows])],
        Recipe::Resized { source, from, .. } => vec![(source.clone(), vec![from * from, cols])],
        Recipe::Query => {
            [("query", vec![rows, cols]), ("pos_embed", vec![rows, cols]), ("ln_q.weight", vec![cols]), ("ln_q.bias", vec![cols])]
                .into_iter()
                .map(|(name, shape)| (format!("{RESAMPLER}.{name}"), shape))
                .collect()
        }
    }
}

/// Returns every tensor of the original with this configuration: name and shape, in the order of our table.
pub fn original_tensors(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let mut seen = HashSet::new();
    let all = tensor_table(config).into_iter().flat_map(|spec| expected_sources(config, &spec, &recipe(config, &spec.name)));
    all.filter(|(name, _)| seen.insert(name.clone())).collect()
}
