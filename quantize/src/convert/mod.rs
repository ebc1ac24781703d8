//! Makes the web checkpoint's tensors from the original's: names and layouts change here and nowhere else.

mod later;
mod qwen_vl;
mod recipe;

use crate::checkpoint::HEAD;
use crate::gptq::{GptqModule, QuantizationSettings};
use crate::rows::RowSource;
use crate::source::names::embedding;
use crate::source::{Block, Source, SourceTensor};
use anyhow::{Context, Result, bail, ensure};
use qwen_vl_format::block::EncodedRows;
use qwen_vl_format::qwen_vl::VISION_NORM_EPSILON;
use qwen_vl_format::tensors::tensor_table;
use qwen_vl_format::{Family, ModelConfig, Scheme, TensorSpec};
use recipe::{Original, Recipe, is_vector, stacked_rows};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// A checkpoint of the original, seen as the tensors of [`tensor_table`].
#[derive(Debug)]
pub(crate) struct Converter {
    source: Source,
    tensors: Vec<(TensorSpec, Recipe)>,
    /// GPTQ modules of the source, by the name of the matrix that they stand for.
    quantized: HashMap<String, GptqModule>,
}

impl Converter {
    /// Checks that the source has every tensor of the model, with its shape and a float type. Adds notes about settings that are ignored and
    /// about a head that is stored although it is the embedding.
    pub(crate) fn new(source: Source, config: &ModelConfig, notes: &mut Vec<String>) -> Result<Self> {
        let mut tensors = recipes(config);
        notes.extend(compare_tied_head(&mut tensors, &source, config)?);
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
        let modules: Vec<String> = needed.iter().filter_map(|original| quantized_module(&original.name)).collect();
        modules.iter().for_each(|module| GptqModule::announce(&source, module));
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
            let opened = GptqModule::open(&source, &module, &settings.gptq()?, *outputs, *inputs)?;
            if !names.contains(format!("{module}.bias").as_str()) {
                refuse_bias(&source, &module, *outputs)?;
            }
            quantized.insert(name.clone(), opened);
        }
        if let Some(settings) = settings.filter(|_| quantized.is_empty()) {
            notes.push(format!("{} are ignored: the weights are not quantized", settings.describe()));
        }
        Ok(Self { source, tensors, quantized })
    }

    /// The checkpoint of the original.
    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// The names of the tensors of the source that the model has.
    fn used(&self) -> HashSet<String> {
        let sources = self.tensors.iter().flat_map(|(_, recipe)| recipe.sources());
        let names = sources.flat_map(|Original { name, .. }| match (self.quantized.contains_key(name), name.strip_suffix("weight")) {
            // The bias is used under its own name, or zero: see `refuse_bias`.
            (true, Some(module)) => ["qweight", "qzeros", "scales", "g_idx", "bias"].map(|leaf| format!("{module}{leaf}")).to_vec(),
            _ => vec![name.clone()],
        });
        names.collect()
    }

    /// Returns the tensors of the source that the model does not have.
    pub(crate) fn unused(&self) -> Vec<String> {
        let used = self.used();
        self.source.names().filter(|name| !used.contains(*name)).map(str::to_owned).collect()
    }

    /// Bytes of the tensors of the source that the model has.
    pub(crate) fn source_bytes(&self) -> u64 {
        self.used().iter().filter_map(|name| self.source.get(name).ok()).map(SourceTensor::bytes).sum()
    }

    /// The scheme of ours in which the source stores a tensor, if there is one.
    pub(crate) fn exact_scheme(&self, tensor: usize) -> Option<Scheme> {
        let (Recipe::Stacked(_) | Recipe::Interleaved { .. }) = &self.tensors[tensor].1 else { return None };
        let mut schemes = self.tensors[tensor].1.sources().into_iter().map(|original| self.quantized.get(&original.name)?.exact_scheme());
        let first = schemes.next()??;
        schemes.all(|scheme| scheme == Some(first)).then_some(first)
    }

    /// Reads a block of the source, decoded if it is quantized.
    fn read(&self, Block { name, rows, cols }: Block<'_>) -> Result<Vec<f32>> {
        match self.quantized.get(name) {
            Some(module) => module.rows(&self.source, rows),
            None => self.source.read_floats(name, rows, cols),
        }
    }

    /// `ln_q(query) + pos_embed`, `[queries, hidden]`, which does not depend on the picture: `visual.py`, `Resampler.forward`.
    fn query(blocks: &[Vec<f32>], hidden: usize) -> Vec<f32> {
        let [query, positions, weight, bias] = blocks else { unreachable!("a query is made of four tensors") };
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
        out
    }
}

impl RowSource for Converter {
    fn announce(&self, tensor: usize, rows: Range<usize>) {
        let (spec, recipe) = &self.tensors[tensor];
        let (quantized, plain): (Vec<_>, Vec<_>) =
            recipe.blocks(spec, rows).into_iter().partition(|block| self.quantized.contains_key(block.name));
        self.source.announce(&plain);
        quantized.into_iter().for_each(|block| self.quantized[block.name].announce_rows(&self.source, block.rows));
    }

    fn rows(&self, tensor: usize, rows: Range<usize>) -> Result<Vec<f32>> {
        let (spec, recipe) = &self.tensors[tensor];
        let [_, cols] = spec.shape;
        let read = || recipe.blocks(spec, rows.clone()).into_iter().map(|block| self.read(block)).collect::<Result<Vec<_>>>();
        let mut blocks = read().with_context(|| format!("could not make `{}` rows {}..{}", spec.name, rows.start, rows.end))?;
        let table_rows = |table: Vec<f32>| table[rows.start * cols..rows.end * cols].to_vec();
        Ok(match recipe {
            Recipe::Stacked(_) | Recipe::Rows { .. } | Recipe::PerHead { .. } if blocks.len() == 1 => blocks.swap_remove(0),
            Recipe::Stacked(_) | Recipe::Rows { .. } | Recipe::PerHead { .. } => blocks.concat(),
            Recipe::Twice { source, copy } => {
                ensure!(blocks[0] == blocks[1], two_heads(&copy.name, &source.name));
                blocks.swap_remove(0)
            }
            Recipe::Interleaved { .. } => {
                let width = if is_vector(spec) { 1 } else { cols };
                let range = if is_vector(spec) { 0..cols } else { rows };
                let first = range.start / 2;
                let row = |row: usize| &blocks[row % 2][(row / 2 - first) * width..][..width];
                range.flat_map(|at| row(at).iter().copied()).collect()
            }
            Recipe::Folded { source, first } => {
                let (frames, area) = folded(source);
                let pixel = |channel: &[f32], at: usize| channel.iter().skip(*first * area + at).step_by(area).copied().sum();
                let channels = blocks[0].chunks_exact(frames * area);
                channels.flat_map(|channel| (0..area).map(move |at| pixel(channel, at))).collect()
            }
            Recipe::Transposed { .. } => (0..rows.len()).flat_map(|row| blocks[0].iter().skip(row).step_by(rows.len()).copied()).collect(),
            Recipe::Resized { from, to, .. } => table_rows(qwen_vl_format::resize_table(&blocks[0], *from, *to, cols)),
            Recipe::Query(_) => table_rows(Self::query(&blocks, cols)),
        })
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
            Recipe::Twice { source, .. } => at(source, format!("{kind} {row}")),
            Recipe::Rows { source, first } => at(source, format!("{kind} {}", first + row)),
            Recipe::PerHead { source, heads, head_dim } => {
                let (part, head, d) = (row / (heads * head_dim), row / head_dim % heads, row % head_dim);
                at(source, format!("{kind} {}", (head * 3 + part) * head_dim + d))
            }
            Recipe::Interleaved { even, odd } => at(if row.is_multiple_of(2) { even } else { odd }, format!("{kind} {}", row / 2)),
            // Computed from several weights.
            Recipe::Folded { source, first: 0 } => at(source, format!("row {row} after adding the frames")),
            Recipe::Folded { source, .. } => at(source, format!("row {row}")),
            Recipe::Transposed { source } => at(source, format!("column {row}")),
            Recipe::Resized { source, .. } => at(source, format!("row {row} after resizing")),
            Recipe::Query([query, ..]) => at(query, format!("row {row} after the norm")),
        }
    }

    fn encoded(&self, tensor: usize, rows: Range<usize>, scheme: Scheme) -> Result<Option<EncodedRows>> {
        if self.exact_scheme(tensor) != Some(scheme) {
            return Ok(None);
        }
        let encoded = |original: &Original, rows: Range<usize>| self.quantized[&original.name].encoded(&self.source, rows);
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

/// Prepares the comparison of a head that is stored although the configuration says that it is the embedding. Returns a sentence about it.
fn compare_tied_head(tensors: &mut [(TensorSpec, Recipe)], source: &Source, config: &ModelConfig) -> Result<Option<String>> {
    let embedding = embedding(config.family);
    if !config.decoder.tied_head || !source.contains(HEAD) || !source.contains(&embedding) {
        return Ok(None);
    }
    let shape = [config.decoder.vocab_size, config.decoder.width];
    for name in [HEAD, &embedding] {
        ensure!(source.get(name)?.shape == shape, two_heads(HEAD, &embedding));
    }
    let [table, copy] = [embedding.as_str(), HEAD].map(|name| Original::new(name, shape));
    if let Some((_, recipe)) = tensors.iter_mut().find(|(_, recipe)| *recipe == Recipe::Stacked(vec![table.clone()])) {
        *recipe = Recipe::Twice { source: table, copy };
    }
    Ok(Some(format!("tensor `{HEAD}` is a copy of `{embedding}`, which is stored once")))
}

/// The error for a head that differs from the embedding, which the configuration names as the head.
fn two_heads(head: &str, embedding: &str) -> String {
    format!(
        "tensor `{head}` differs from `{embedding}`, and config.json says that they are one (`tie_word_embeddings` true): transformers 4 ignores \
         `{head}`, transformers 5 uses it; remove the tensor to ignore it, or set `tie_word_embeddings` to false to use it"
    )
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
        Family::Qwen2Vl | Family::Qwen25Vl | Family::Qwen3Vl => later::recipe,
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
