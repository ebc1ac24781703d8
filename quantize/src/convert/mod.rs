//! Makes the web checkpoint's tensors from the original's: names and layouts change here and nowhere else.

mod later;
mod qwen_vl;
mod recipe;

use crate::gptq::{GptqModule, QuantizationSettings};
use crate::rows::RowSource;
use crate::source::Source;
use anyhow::{Context, Result, bail};
use qwen_vl_format::block::EncodedRows;
use qwen_vl_format::qwen_vl::VISION_NORM_EPSILON;
use qwen_vl_format::tensors::tensor_table;
use qwen_vl_format::{Family, ModelConfig, Scheme, TensorSpec};
use recipe::{Original, Recipe, is_vector, stacked_rows};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// A checkpoint of the original, seen as the tensors of [`tensor_table`].
pub(crate) struct Converter<'a> {
    source: &'a Source,
    tensors: Vec<(TensorSpec, Recipe)>,
    /// GPTQ modules of the source, by the name of the matrix that they stand for.
    quantized: HashMap<String, GptqModule>,
}

impl<'a> Converter<'a> {
    /// Checks that the source has every tensor of the model, with its shape and a float type. Adds a note if settings are ignored.
    pub(crate) fn new(source: &'a Source, config: &'a ModelConfig, notes: &mut Vec<String>) -> Result<Self> {
        let tensors = recipes(config);
        let needed: Vec<&Original> = tensors.iter().flat_map(|(_, recipe)| recipe.sources()).collect();
        let names: HashSet<&str> = needed.iter().map(|original| original.name.as_str()).collect();
        let quantized_module =
            |name: &str| name.strip_suffix(".weight").filter(|module| source.contains(&format!("{module}.qweight"))).map(str::to_owned);
        let missing = needed.iter().map(|original| &original.name);
        let missing: Vec<String> = missing.filter(|name| !source.contains(name) && quantized_module(name).is_none()).cloned().collect();
        if !missing.is_empty() {
            return Err(source.missing_error(&missing));
        }

        let settings = QuantizationSettings::read(source.input())?;
        let mut quantized = HashMap::new();
        for Original { name, shape } in needed {
            let (Some(module), [outputs, inputs]) = (quantized_module(name), shape.as_slice()) else {
                source.expect_floats(name, shape).map_err(|error| {
                    match settings.as_ref().and_then(QuantizationSettings::other_method) {
                        Some(method) => error.context(method),
                        None => error,
                    }
                })?;
                continue;
            };
            let settings = settings.as_ref().with_context(|| {
                format!("tensor `{module}.qweight` is quantized, but neither quantize_config.json nor config.json has the settings")
            })?;
            let opened = GptqModule::open(source, &module, &settings.gptq()?, *outputs, *inputs)?;
            if !names.contains(format!("{module}.bias").as_str()) {
                refuse_bias(source, &module, *outputs)?;
            }
            quantized.insert(name.clone(), opened);
        }
        if let Some(settings) = settings.filter(|_| quantized.is_empty()) {
            notes.push(format!("{} are ignored: the weights are not quantized", settings.describe()));
        }
        Ok(Self { source, tensors, quantized })
    }

    /// Returns the tensors of the source that the model does not have.
    pub(crate) fn unused(&self) -> Vec<String> {
        let used: HashSet<String> = self
            .tensors
            .iter()
            .flat_map(|(_, recipe)| recipe.sources())
            .flat_map(|Original { name, .. }| match (self.quantized.contains_key(name), name.strip_suffix("weight")) {
                // The bias is used under its own name, or zero: see `refuse_bias`.
                (true, Some(module)) => ["qweight", "qzeros", "scales", "g_idx", "bias"].map(|leaf| format!("{module}{leaf}")).to_vec(),
                _ => vec![name.clone()],
            })
            .collect();
        self.source.names().filter(|name| !used.contains(*name)).map(str::to_owned).collect()
    }

    /// The scheme of ours in which the source stores a tensor, if there is one.
    pub(crate) fn exact_scheme(&self, tensor: usize) -> Option<Scheme> {
        let (Recipe::Stacked(_) | Recipe::Interleaved { .. }) = &self.tensors[tensor].1 else { return None };
        let mut schemes = self.tensors[tensor].1.sources().into_iter().map(|original| self.quantized.get(&original.name)?.exact_scheme());
        let first = schemes.next()??;
        schemes.all(|scheme| scheme == Some(first)).then_some(first)
    }

    /// Reads weights of a matrix of the source, decoded if they are quantized.
    fn read(&self, name: &str, rows: Range<usize>, cols: Range<usize>) -> Result<Vec<f32>> {
        match self.quantized.get(name) {
            Some(module) => module.rows(self.source, rows),
            None => self.source.read_floats(name, rows, cols),
        }
    }

    fn whole(&self, Original { name, shape }: &Original) -> Result<Vec<f32>> {
        self.source.read_floats(name, 0..shape[0], 0..shape[1..].iter().product())
    }

    /// `ln_q(query) + pos_embed`, `[queries, hidden]`, which does not depend on the picture: `visual.py`, `Resampler.forward`.
    fn query(&self, sources: &[Original; 4]) -> Result<Vec<f32>> {
        let [query, positions, weight, bias] = sources.each_ref().map(|source| self.whole(source));
        let (query, positions, weight, bias) = (query?, positions?, weight?, bias?);
        let hidden = sources[0].shape[1];
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
            Recipe::Stacked(sources) => {
                let mut out = Vec::with_capacity(range.len() * width);
                for (source, rows) in stacked_rows(sources, range) {
                    out.extend(self.read(&source.name, rows, 0..width)?);
                }
                Ok(out)
            }
            Recipe::Rows { source, first } => self.read(&source.name, first + range.start..first + range.end, 0..width),
            Recipe::PerHead { source, heads, head_dim } => {
                let mut out = Vec::with_capacity(range.len() * width);
                let mut row = range.start;
                while row < range.end {
                    // Our row is (part, head, d), the source's (head, part, d): the rows of one head stay together.
                    let (part, head, d) = (row / (heads * head_dim), row / head_dim % heads, row % head_dim);
                    let run = (head_dim - d).min(range.end - row);
                    let from = (head * 3 + part) * head_dim + d;
                    out.extend(self.source.read_floats(&source.name, from..from + run, 0..width)?);
                    row += run;
                }
                Ok(out)
            }
            Recipe::Interleaved { even, odd } => {
                let pairs = range.start / 2..range.end.div_ceil(2);
                let even = self.read(&even.name, pairs.clone(), 0..width)?;
                let odd = self.read(&odd.name, pairs.clone(), 0..width)?;
                let mut out = Vec::with_capacity(range.len() * width);
                for row in range {
                    let from = if row % 2 == 0 { &even } else { &odd };
                    out.extend_from_slice(&from[(row / 2 - pairs.start) * width..][..width]);
                }
                Ok(out)
            }
            Recipe::Folded { source } => {
                let (frames, area) = folded(source);
                let values = self.source.read_floats(&source.name, range, 0..frames * cols)?;
                let pixel = |channel: &[f32], at: usize| channel.iter().skip(at).step_by(area).copied().sum();
                Ok(values.chunks_exact(frames * area).flat_map(|channel| (0..area).map(move |at| pixel(channel, at))).collect())
            }
            Recipe::Transposed { source } => {
                let block = self.source.read_floats(&source.name, 0..cols, range.clone())?;
                Ok((0..range.len()).flat_map(|row| block.iter().skip(row).step_by(range.len()).copied()).collect())
            }
            Recipe::Resized { source, from, to } => {
                let table = qwen_vl_format::resize_table(&self.whole(source)?, *from, *to, cols);
                Ok(table[range.start * cols..range.end * cols].to_vec())
            }
            Recipe::Query(sources) => Ok(self.query(sources)?[range.start * cols..range.end * cols].to_vec()),
        }
        .with_context(|| format!("could not make `{}` rows {}..{}", spec.name, rows.start, rows.end))
    }

    fn origin(&self, tensor: usize, row: usize, col: usize) -> (String, String) {
        let (spec, recipe) = &self.tensors[tensor];
        // A vector is one row of ours and a column of the source.
        let (row, kind) = if is_vector(spec) { (col, "element") } else { (row, "row") };
        let at = |source: &Original, place: String| (source.name.clone(), place);
        match recipe {
            Recipe::Stacked(sources) => match stacked_rows(sources, row..row + 1).next() {
                Some((source, rows)) => at(source, format!("{kind} {}", rows.start)),
                None => unreachable!("`{}` has no row {row}", spec.name),
            },
            Recipe::Rows { source, first } => at(source, format!("{kind} {}", first + row)),
            Recipe::PerHead { source, heads, head_dim } => {
                let (part, head, d) = (row / (heads * head_dim), row / head_dim % heads, row % head_dim);
                at(source, format!("{kind} {}", (head * 3 + part) * head_dim + d))
            }
            Recipe::Interleaved { even, odd } => at(if row.is_multiple_of(2) { even } else { odd }, format!("{kind} {}", row / 2)),
            // Computed from several weights.
            Recipe::Folded { source } => at(source, format!("row {row} after adding the frames")),
            Recipe::Transposed { source } => at(source, format!("column {row}")),
            Recipe::Resized { source, .. } => at(source, format!("row {row} after resizing")),
            Recipe::Query([query, ..]) => at(query, format!("row {row} after the norm")),
        }
    }

    fn encoded(&self, tensor: usize, rows: Range<usize>, scheme: Scheme) -> Result<Option<EncodedRows>> {
        if self.exact_scheme(tensor) != Some(scheme) {
            return Ok(None);
        }
        let encoded = |original: &Original, rows: Range<usize>| self.quantized[&original.name].encoded(self.source, rows);
        match &self.tensors[tensor].1 {
            Recipe::Stacked(sources) => {
                let mut whole = EncodedRows::default();
                for (source, rows) in stacked_rows(sources, rows) {
                    let part = encoded(source, rows)?;
                    whole.data.extend(part.data);
                    whole.scales.extend(part.scales);
                }
                Ok(Some(whole))
            }
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

/// Checks that the bias of a GPTQ module, which always has one, is zero: the model has none there.
fn refuse_bias(source: &Source, module: &str, outputs: usize) -> Result<()> {
    let name = format!("{module}.bias");
    if !source.contains(&name) {
        return Ok(());
    }
    source.expect_floats(&name, &[outputs])?;
    let bias = source.read_floats(&name, 0..outputs, 0..1)?;
    if let Some((at, value)) = bias.iter().enumerate().find(|(_, value)| **value != 0.0) {
        bail!("tensor `{name}` has the value {value} at {at}, and it must be zero: this model has no bias there");
    }
    Ok(())
}

/// Frames, and values of a channel of a frame, of a convolution's weight.
fn folded(source: &Original) -> (usize, usize) {
    (source.shape[2], source.shape[3] * source.shape[4])
}

/// Returns the tensors of [`tensor_table`] with their recipes.
fn recipes(config: &ModelConfig) -> Vec<(TensorSpec, Recipe)> {
    let recipe = match config.family {
        Family::QwenVl => qwen_vl::recipe,
        Family::Qwen2Vl | Family::Qwen3Vl => later::recipe,
    };
    let with_recipe = |spec: TensorSpec| {
        let recipe = recipe(config, &spec);
        (spec, recipe)
    };
    tensor_table(config).into_iter().map(with_recipe).collect()
}

/// Returns every tensor of the original with this configuration: name and shape, in the order of our table.
pub fn original_tensors(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let mut seen = HashSet::new();
    let recipes = recipes(config);
    let all = recipes.iter().flat_map(|(_, recipe)| recipe.sources());
    all.filter(|original| seen.insert(&original.name)).map(|original| (original.name.clone(), original.shape.clone())).collect()
}
