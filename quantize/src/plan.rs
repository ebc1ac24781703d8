//! Decides the place of every byte of a web checkpoint, before the first is written.

use crate::source::InputFile;
use anyhow::{Context, Result, ensure};
use qwen_vl_format::manifest::{FORMAT_VERSION, MANIFEST_FILE, PIECE_BYTES, TensorEntry, TensorPart};
use qwen_vl_format::tensors::tensor_table;
use qwen_vl_format::{MAX_PART_BYTES, ModelConfig, PART_ROW_ALIGN, Scheme, ShardHash, TensorKind, TensorSpec, padded};
use std::ops::Range;

/// A shard is closed when the next part would make its data larger than this, in bytes. No part is larger.
pub(crate) const SHARD_BYTES: u64 = 64 << 20;

/// The layout of a web checkpoint.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The manifest's entries. Byte ranges are within the shard files.
    pub tensors: Vec<TensorEntry>,
    pub shards: Vec<ShardPlan>,
}

impl Plan {
    /// Identifies a conversion of these files: runs with equal fingerprints write equal bytes, so that one can resume another.
    pub(crate) fn fingerprint<'a>(&self, files: impl Iterator<Item = &'a InputFile>, allow_nonfinite: bool) -> Result<String> {
        let mut text = format!("{} {FORMAT_VERSION} {allow_nonfinite}\n", env!("CARGO_PKG_VERSION"));
        for file in files {
            text += &format!("{} {} {}\n", file.name(), file.len(), file.version());
        }
        text += &serde_json::to_string(&self.tensors).context("could not describe the plan")?;
        Ok(ShardHash::of(text.as_bytes()))
    }

    /// The names and sizes of all files of the web checkpoint; `others` are those that are neither shards nor the manifest.
    /// The size of the manifest is an estimate from above.
    pub(crate) fn files<'a>(&self, others: impl Iterator<Item = (&'a str, u64)>) -> Vec<(String, u64)> {
        // A piece has a hash of 64 characters, a part of a tensor five numbers and their keys.
        let pieces: u64 = self.shards.iter().map(|shard| shard.bytes.div_ceil(PIECE_BYTES) * 67 + 256).sum();
        let parts: u64 = self.tensors.iter().map(|tensor| 256 + 160 * tensor.parts.len() as u64).sum();
        let mut files: Vec<_> = self.shards.iter().map(|shard| (shard.file.clone(), shard.bytes)).collect();
        files.extend(others.map(|(name, bytes)| (name.to_owned(), bytes)));
        files.push((MANIFEST_FILE.to_owned(), pieces + parts + (16 << 10)));
        files
    }
}

/// The layout of one shard.
#[derive(Debug)]
pub(crate) struct ShardPlan {
    pub file: String,
    /// The safetensors header, after its length.
    pub header: Vec<u8>,
    /// Size of the whole file.
    pub bytes: u64,
    pub parts: Vec<PlannedPart>,
}

impl ShardPlan {
    /// The number of whole parts in the first bytes; `None` if they do not end behind the header or a part.
    pub(crate) fn parts_before(&self, bytes: u64) -> Option<usize> {
        let ends = self.parts.iter().map(|part| part.scales.end);
        [self.header.len() as u64].into_iter().chain(ends).position(|end| end == bytes)
    }
}

/// A slice of a tensor in a shard.
#[derive(Debug)]
pub(crate) struct PlannedPart {
    /// Index into [`Plan::tensors`].
    pub tensor: usize,
    /// Index among the tensor's parts.
    pub part: usize,
    pub rows: Range<usize>,
    /// Byte ranges in the file.
    pub data: Range<u64>,
    pub scales: Range<u64>,
}

/// Lays out all tensors of the configuration in the schemes that `scheme_of` gives the matrices.
pub(crate) fn plan(config: &ModelConfig, shard_bytes: u64, scheme_of: impl Fn(usize, &TensorSpec) -> Scheme) -> Result<Plan> {
    let mut tensors: Vec<TensorEntry> = tensor_table(config)
        .into_iter()
        .enumerate()
        .map(|(index, spec)| {
            let scheme = if spec.kind == TensorKind::Table { Scheme::F32 } else { scheme_of(index, &spec) };
            TensorEntry { name: spec.name, shape: spec.shape, scheme, parts: Vec::new() }
        })
        .collect();

    // Packs parts into shards in load order. Offsets are relative to the data section until the headers are known.
    let mut shards: Vec<Vec<PlannedPart>> = vec![Vec::new()];
    let mut filled = 0u64;
    for (index, tensor) in tensors.iter().enumerate() {
        for (part, rows) in part_rows(tensor)?.into_iter().enumerate() {
            let (data_bytes, scale_bytes) = part_bytes(tensor, rows.len());
            if filled > 0 && filled + data_bytes + scale_bytes > shard_bytes {
                shards.push(Vec::new());
                filled = 0;
            }
            let data = filled..filled + data_bytes;
            let scales = data.end..data.end + scale_bytes;
            filled = scales.end;
            shards.last_mut().expect("never empty").push(PlannedPart { tensor: index, part, rows, data, scales });
        }
    }

    let mut plans = Vec::with_capacity(shards.len());
    for (shard, mut parts) in shards.into_iter().enumerate() {
        let header = header(&tensors, &parts);
        let data_at = header.len() as u64;
        for part in &mut parts {
            part.data = part.data.start + data_at..part.data.end + data_at;
            part.scales = part.scales.start + data_at..part.scales.end + data_at;
            tensors[part.tensor].parts.push(TensorPart {
                rows: part.rows.len(),
                shard,
                data: [part.data.start, part.data.end],
                scales: (!part.scales.is_empty()).then_some([part.scales.start, part.scales.end]),
            });
        }
        let bytes = parts.last().map_or(data_at, |part| part.scales.end);
        plans.push(ShardPlan { file: format!("shard-{shard:05}.safetensors"), header, bytes, parts });
    }
    Ok(Plan { tensors, shards: plans })
}

/// Bytes of the data and of the scales of some rows.
fn part_bytes(tensor: &TensorEntry, rows: usize) -> (u64, u64) {
    let cols = tensor.shape[1];
    (rows as u64 * tensor.scheme.row_data_bytes(cols) as u64, rows as u64 * tensor.scheme.row_scale_bytes(cols) as u64)
}

/// Slices a tensor into as few parts of about equal size as fit a shard each.
fn part_rows(tensor: &TensorEntry) -> Result<Vec<Range<usize>>> {
    let rows = tensor.shape[0];
    let (data_bytes, scale_bytes) = part_bytes(tensor, rows);
    let count = (data_bytes + scale_bytes).div_ceil(SHARD_BYTES).max(1);
    let mut step = rows.div_ceil(count as usize).next_multiple_of(PART_ROW_ALIGN);
    // Rounding up to a multiple of `PART_ROW_ALIGN` can exceed the limit: then one part more is needed.
    let fits = |step: usize| {
        let (data, scales) = part_bytes(tensor, step);
        data + scales <= SHARD_BYTES && data <= MAX_PART_BYTES
    };
    if count > 1 && !fits(step) && step > PART_ROW_ALIGN {
        step -= PART_ROW_ALIGN;
    }
    ensure!(count == 1 || fits(step), "tensor `{}` has rows too long for a part: {:?} in {:?}", tensor.name, tensor.shape, tensor.scheme);
    Ok((0..rows).step_by(step).map(|first| first..(first + step).min(rows)).collect())
}

/// The safetensors header of a shard: length, JSON, spaces up to a multiple of eight bytes.
fn header(tensors: &[TensorEntry], parts: &[PlannedPart]) -> Vec<u8> {
    let mut entries = vec![r#""__metadata__":{"format":"qwen-vl-web"}"#.to_owned()];
    for part in parts {
        let tensor = &tensors[part.tensor];
        let (rows, cols) = (part.rows.len(), tensor.shape[1]);
        let (dtype, width) = match tensor.scheme {
            Scheme::F32 => ("F32", padded(cols)),
            Scheme::F16 => ("F16", padded(cols)),
            Scheme::Q8 { .. } => ("I8", padded(cols)),
            Scheme::Q4 { .. } | Scheme::Int4 { .. } | Scheme::Q4Z { .. } => ("U32", padded(cols) / 8),
        };
        // Our own names need no escapes in JSON.
        let mut entry = |kind: &str, dtype: &str, width: usize, range: &Range<u64>| {
            entries.push(format!(
                r#""{}.{kind}.{}":{{"dtype":"{dtype}","shape":[{rows},{width}],"data_offsets":[{},{}]}}"#,
                tensor.name, part.part, range.start, range.end
            ));
        };
        entry("data", dtype, width, &part.data);
        if !part.scales.is_empty() {
            entry("scales", "F16", tensor.scheme.row_scales(cols), &part.scales);
        }
    }
    let mut json = format!("{{{}}}", entries.join(","));
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json.bytes());
    header
}
