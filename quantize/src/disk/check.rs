//! Inspects and verifies a web checkpoint, and measures its error against the source.

use super::file::open;
use super::input::Opened;
use super::parallel::in_parallel;
use super::web::WebCheckpoint;
use super::{Event, Input};
use crate::checkpoint::Checkpoint;
use crate::convert::Converter;
use crate::rows::{RowSource, chunks};
use crate::scheme::describe_scheme;
use anyhow::{Context, Result, bail, ensure};
use qwen_vl_format::block::{EncodedRows, zero_point};
use qwen_vl_format::manifest::{FileEntry, MANIFEST_FILE, TensorEntry};
use qwen_vl_format::{Family, Scheme, ShardHash, TensorKind, Vocabulary, padded, tensors::tensor_table};
use serde::Serialize;
use std::collections::HashSet;
use std::path::Path;

/// The contents of a web checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contents {
    /// Program and version that wrote it.
    pub converter: String,
    /// Name of the converted checkpoint.
    pub source: String,
    /// The changes to the weights, in a sentence.
    pub modifications: String,
    /// Totals by module and scheme, in load order.
    pub modules: Vec<ModuleContents>,
    /// Number of weights.
    pub weights: u64,
    /// Number of shards.
    pub shards: usize,
    /// Bytes of all shards.
    pub shard_bytes: u64,
    /// Bits a weight over all shards.
    pub bits_per_weight: f64,
}

/// The tensors of a module in one scheme.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModuleContents {
    /// `vision.blocks` for all blocks together.
    pub module: String,
    /// The scheme in words.
    pub scheme: String,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of weights.
    pub weights: u64,
    /// Stored bytes.
    pub bytes: u64,
}

impl ModuleContents {
    /// Bits a weight, scales and padding included.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.weights as f64
    }
}

/// The part of a model that a tensor belongs to: all blocks or layers of a kind are one.
fn module_of(name: &str) -> &str {
    let modules = ["vision.blocks", "decoder.layers", "resampler", "merger", "deepstack"];
    let module = modules.into_iter().find(|module| name.starts_with(module));
    module.unwrap_or_else(|| name.trim_end_matches(".weight").trim_end_matches(".bias"))
}

/// Returns the contents of a web checkpoint by its manifest. The shards must exist in their sizes.
pub fn inspect(dir: &Path) -> Result<Contents> {
    let web = WebCheckpoint::open(dir)?;
    let manifest = web.manifest();
    let mut modules: Vec<ModuleContents> = Vec::new();
    for tensor in &manifest.tensors {
        let (module, scheme) = (module_of(&tensor.name), describe_scheme(tensor.scheme));
        let at = modules.iter().position(|found| found.module == module && found.scheme == scheme).unwrap_or_else(|| {
            modules.push(ModuleContents { module: module.to_owned(), scheme, tensors: 0, weights: 0, bytes: 0 });
            modules.len() - 1
        });
        let total = &mut modules[at];
        total.tensors += 1;
        total.weights += (tensor.shape[0] * tensor.shape[1]) as u64;
        total.bytes +=
            tensor.parts.iter().map(|part| part.data[1] - part.data[0] + part.scales.map_or(0, |[begin, end]| end - begin)).sum::<u64>();
    }
    let weights = modules.iter().map(|module| module.weights).sum();
    Ok(Contents {
        converter: manifest.provenance.converter.clone(),
        source: manifest.provenance.source.clone(),
        modifications: manifest.provenance.modifications.clone(),
        modules,
        weights,
        shards: manifest.shards.len(),
        shard_bytes: manifest.shard_bytes(),
        bits_per_weight: manifest.shard_bytes() as f64 * 8.0 / weights as f64,
    })
}

/// A problem of a web checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// The problem, in words.
    pub problem: String,
}

/// Checks every byte of a web checkpoint: the manifest, size and hash of every file, that each shard's own header agrees with the
/// manifest, that the vocabulary can be read, and that the stored values are ones that a conversion writes. Returns all problems.
///
/// # Errors
/// If the manifest cannot be read or is not valid, because every other check needs it.
pub fn verify(dir: &Path, events: &mut dyn FnMut(Event)) -> Result<Vec<Problem>> {
    let manifest = WebCheckpoint::read_manifest(dir)?;
    events(Event::Start { weights: manifest.tensors.iter().map(|tensor| (tensor.shape[0] * tensor.shape[1]) as u64).sum() });
    let mut problems = Vec::new();
    for entry in &manifest.files {
        let checked = check_file(dir, entry).and_then(|bytes| match entry.file == manifest.processor.tokenizer_file {
            true => {
                let vocabulary = Vocabulary::parse(&bytes)?;
                if manifest.config.family == Family::QwenVl {
                    vocabulary.check_image_start(manifest.config.image_token)?;
                }
                vocabulary.added_tokens(manifest.config.family, &manifest.processor.added_tokens)?;
                Ok(())
            }
            false => Ok(()),
        });
        problems.extend(checked.err().map(|error| Problem { file: entry.file.clone(), problem: format!("{error:#}") }));
    }
    let shards: Vec<usize> = (0..manifest.shards.len()).collect();
    in_parallel(
        &shards,
        |&shard| {
            let entry = &manifest.shards[shard];
            let mut found = Vec::new();
            let checked = check_file(dir, entry).and_then(|bytes| check_shard(&manifest.tensors, shard, &bytes, &mut found));
            found.extend(checked.err().map(|error| format!("{error:#}")));
            let weights: usize = manifest
                .tensors
                .iter()
                .flat_map(|tensor| tensor.parts.iter().filter(|part| part.shard == shard).map(|part| part.rows * tensor.shape[1]))
                .sum();
            (entry, found, weights as u64)
        },
        |(entry, found, weights)| {
            problems.extend(found.into_iter().map(|problem| Problem { file: entry.file.clone(), problem }));
            events(Event::Weights(weights));
            true
        },
    );
    let mut listed: HashSet<&str> = manifest.files.iter().chain(&manifest.shards).map(|entry| entry.file.as_str()).collect();
    listed.insert(MANIFEST_FILE);
    for entry in std::fs::read_dir(dir).with_context(|| format!("could not list {}", dir.display()))? {
        let name = entry.with_context(|| format!("could not list {}", dir.display()))?.file_name().to_string_lossy().into_owned();
        if !listed.contains(name.as_str()) {
            problems.push(Problem { file: name, problem: "is not in the manifest".to_owned() });
        }
    }
    problems.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(problems)
}

/// Reads a file and checks it against its manifest entry.
fn check_file(dir: &Path, entry: &FileEntry) -> Result<Vec<u8>> {
    let file = open(&dir.join(&entry.file))?;
    ensure!(file.len() == entry.bytes, "has {} bytes, the manifest says {}", file.len(), entry.bytes);
    let bytes = file.read_vec(0, entry.bytes as usize)?;
    let found = ShardHash::of(&bytes);
    ensure!(found == entry.sha256, "has SHA-256 {found}, the manifest says {}", entry.sha256);
    if let Some(pieces) = &entry.pieces {
        let found = bytes.chunks(pieces.bytes as usize).map(ShardHash::of);
        if let Some(index) = found.zip(&pieces.sha256).position(|(found, expected)| found != *expected) {
            bail!("its piece {index} has another SHA-256 than the manifest says");
        }
    }
    Ok(bytes)
}

/// Checks the contents of a shard whose hash is right. Problems of single tensors are added to `problems`.
fn check_shard(tensors: &[TensorEntry], shard: usize, bytes: &[u8], problems: &mut Vec<String>) -> Result<()> {
    let header_len = bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).context("has no header")?;
    let data_at = header_len.checked_add(8).filter(|at| *at <= bytes.len() as u64).context("its header is longer than the file")?;
    let header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&bytes[8..data_at as usize]).context("its header is not JSON")?;
    let mut expected = HashSet::new();
    for tensor in tensors {
        for (index, part) in tensor.parts.iter().enumerate().filter(|(_, part)| part.shard == shard) {
            let slice = |[begin, end]: [u64; 2]| &bytes[begin as usize..end as usize];
            for (kind, range) in [("data", Some(part.data)), ("scales", part.scales)] {
                let Some([begin, end]) = range else { continue };
                let name = format!("{}.{kind}.{index}", tensor.name);
                let offsets = begin.checked_sub(data_at).map(|begin| serde_json::json!([begin, end - data_at]));
                if offsets.is_none_or(|offsets| header.get(&name).map(|entry| &entry["data_offsets"]) != Some(&offsets)) {
                    problems.push(format!("its header does not have `{name}` at the manifest's bytes {begin} to {end}"));
                }
                expected.insert(name);
            }
            let encoded = EncodedRows { data: slice(part.data).to_vec(), scales: part.scales.map(slice).unwrap_or_default().to_vec() };
            if let Some(problem) = check_values(tensor, &encoded) {
                problems.push(format!("tensor `{}`, part {index}: {problem}", tensor.name));
            }
        }
    }
    for name in header.keys().filter(|name| *name != "__metadata__" && !expected.contains(*name)) {
        problems.push(format!("its header has `{name}`, which the manifest does not"));
    }
    Ok(())
}

/// Returns the first problem of stored values: they must be finite, and padding must be zero.
fn check_values(tensor: &TensorEntry, encoded: &EncodedRows) -> Option<String> {
    let (scheme, cols) = (tensor.scheme, tensor.shape[1]);
    let half = |bytes: &[u8; 2]| half::f16::from_le_bytes(*bytes);
    let not_finite = match scheme {
        Scheme::F32 => encoded.data.as_chunks().0.iter().filter(|bytes| !f32::from_le_bytes(**bytes).is_finite()).count(),
        Scheme::F16 => encoded.data.as_chunks().0.iter().filter(|bytes| !half(bytes).is_finite()).count(),
        _ => encoded.scales.as_chunks().0.iter().filter(|bytes| !half(bytes).is_finite()).count(),
    };
    if not_finite > 0 {
        let what = if encoded.scales.is_empty() { "values" } else { "scales" };
        return Some(format!("{not_finite} {what} are not finite"));
    }
    // The code of zero is 0 in q8 and a nibble in the 4-bit schemes, where eight columns are one word.
    let zero = |row: usize| match scheme {
        Scheme::Q4 { .. } | Scheme::Int4 { .. } => Some(0x88),
        Scheme::Q4Z { group_size } => {
            let group = row * scheme.row_scales(cols) + cols / group_size as usize;
            let zero = encoded.scales.as_chunks().0.get(group).map(|bytes| zero_point(half(bytes)))?;
            // Only a whole zero point has a code for zero.
            (zero.fract() == 0.0).then_some(0x11 * zero as u8)
        }
        _ => Some(0),
    };
    let used = scheme.row_data_bytes(cols) * cols.next_multiple_of(8) / padded(cols);
    let mut rows = encoded.data.chunks_exact(scheme.row_data_bytes(cols)).enumerate();
    let dirty = rows.find_map(|(index, row)| row[used..].iter().any(|byte| Some(*byte) != zero(index)).then_some(index));
    dirty.map(|row| format!("the padding of row {row} is not zero"))
}

/// The error of a web checkpoint's weights against its source.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Every matrix, in load order. Tables are stored exactly.
    pub tensors: Vec<TensorError>,
    /// Every module.
    pub modules: Vec<ModuleError>,
}

/// The error of a tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorError {
    /// Its name.
    pub name: String,
    /// The scheme in words.
    pub scheme: String,
    /// Root of the mean squared error over that of the mean squared weight.
    pub relative: f64,
    /// The largest difference of a weight.
    pub largest: f32,
}

/// The error of all matrices of a module together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModuleError {
    /// As in [`ModuleContents::module`].
    pub module: String,
    /// Root of the mean squared error over that of the mean squared weight.
    pub relative: f64,
}

/// Sums over weights.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    error: f64,
    weight: f64,
    largest: f32,
}

impl Sums {
    fn relative(self) -> f64 {
        if self.weight > 0.0 { (self.error / self.weight).sqrt() } else { self.error.sqrt() }
    }
}

/// Compares every matrix of a web checkpoint with the checkpoint that it was made from.
pub fn report(input: &Input, web_dir: &Path, events: &mut dyn FnMut(Event)) -> Result<Report> {
    let Opened { files, hub } = input.open(events)?;
    let Checkpoint { config, source, mut notes } = Checkpoint::open(&files)?;
    let converter = Converter::new(source, &config, &mut notes)?;
    let web = WebCheckpoint::open(web_dir)?;
    ensure!(web.manifest().config == config, "{} was not made from {input}: their configurations differ", web_dir.display());
    if let Some(hub) = hub {
        hub.fetch(converter.source().files(), events)?;
    }
    let kinds: Vec<TensorKind> = tensor_table(&config).into_iter().map(|spec| spec.kind).collect();
    let matrices: Vec<usize> = (0..kinds.len()).filter(|index| kinds[*index] == TensorKind::Matrix).collect();
    let entry = |index: usize| &web.manifest().tensors[index];
    events(Event::Start { weights: matrices.iter().map(|index| (entry(*index).shape[0] * entry(*index).shape[1]) as u64).sum() });

    let work: Vec<_> = matrices
        .iter()
        .flat_map(|index| chunks(0..entry(*index).shape[0], entry(*index).shape[1]).map(move |rows| (*index, rows)))
        .collect();
    let mut sums = vec![Sums::default(); kinds.len()];
    let mut failure = None;
    in_parallel(
        &work,
        |(index, rows)| -> Result<(usize, Sums, u64)> {
            let (want, got) = (converter.rows(*index, rows.clone())?, web.rows(*index, rows.clone())?);
            let mut sums = Sums::default();
            for (want, got) in want.iter().zip(&got) {
                let difference = want - got;
                sums.error += f64::from(difference).powi(2);
                sums.weight += f64::from(*want).powi(2);
                sums.largest = sums.largest.max(difference.abs());
            }
            Ok((*index, sums, want.len() as u64))
        },
        |result| match result {
            Ok((index, chunk, weights)) => {
                let total = &mut sums[index];
                total.error += chunk.error;
                total.weight += chunk.weight;
                total.largest = total.largest.max(chunk.largest);
                events(Event::Weights(weights));
                true
            }
            Err(error) => {
                failure = Some(error);
                false
            }
        },
    );
    if let Some(error) = failure {
        return Err(error);
    }

    let mut modules: Vec<(String, Sums)> = Vec::new();
    let mut tensors = Vec::new();
    for index in matrices {
        let (entry, sums) = (entry(index), sums[index]);
        let module = module_of(&entry.name);
        match modules.iter_mut().find(|(name, _)| name == module) {
            Some((_, total)) => {
                total.error += sums.error;
                total.weight += sums.weight;
            }
            None => modules.push((module.to_owned(), sums)),
        }
        tensors.push(TensorError {
            name: entry.name.clone(),
            scheme: describe_scheme(entry.scheme),
            relative: sums.relative(),
            largest: sums.largest,
        });
    }
    let modules = modules.into_iter().map(|(module, sums)| ModuleError { module, relative: sums.relative() }).collect();
    Ok(Report { tensors, modules })
}
