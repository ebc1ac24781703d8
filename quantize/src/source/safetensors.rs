//! Reads the header of a safetensors file.
//!
//! The `safetensors` crate is not used here (only in tests), because its `read_metadata` needs the whole file as one slice, one tensor of a
//! type that it does not know makes the whole file unreadable, and its errors name neither shape nor bytes.

use super::file::InputFile;
use super::{Dtype, SourceTensor};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The public library's own limit.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes of the header's length.
pub(crate) const PREFIX_BYTES: u64 = 8;

#[derive(Deserialize)]
struct HeaderEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The tensors of the file at index `file_index`, by name.
pub(crate) fn read_header(file: &InputFile, file_index: usize) -> Result<Vec<(String, SourceTensor)>> {
    let prefix = file.read_vec(0, PREFIX_BYTES as usize)?;
    let header_len = u64::from_le_bytes(prefix.try_into().expect("8 bytes were read"));
    ensure!(header_len <= MAX_HEADER, "its header claims {header_len} bytes, expected at most {MAX_HEADER}");
    let data_at = PREFIX_BYTES + header_len;
    let header = file.read_vec(PREFIX_BYTES, header_len as usize)?;
    parse_header(&header, data_at, file.len(), file_index)
}

/// Parses the JSON of a header whose data begins at byte `data_at` of a file of `file_len` bytes.
pub(crate) fn parse_header(header: &[u8], data_at: u64, file_len: u64, file_index: usize) -> Result<Vec<(String, SourceTensor)>> {
    let entries: BTreeMap<String, serde_json::Value> = serde_json::from_slice(header).context("its header is not JSON")?;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in entries.into_iter().filter(|(name, _)| name != "__metadata__") {
        let entry: HeaderEntry = serde_json::from_value(entry).with_context(|| format!("its header's entry of tensor `{name}`"))?;
        let dtype = Dtype::named(&entry.dtype);
        let [begin, end] = entry.data_offsets;
        let elements = entry.shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
        let shape = entry.shape.iter().map(|size| usize::try_from(*size).ok()).collect::<Option<Vec<usize>>>();
        let (elements, shape) =
            elements.zip(shape).with_context(|| format!("tensor `{name}` has shape {:?}, too large to count", entry.shape))?;
        ensure!(begin <= end, "tensor `{name}` has bytes {begin} to {end}");
        if let Some(size) = dtype.size() {
            ensure!(
                elements.checked_mul(size as u64) == Some(end - begin),
                "tensor `{name}` of shape {:?} and type {} has bytes {begin} to {end}",
                entry.shape,
                entry.dtype
            );
        }
        ensure!(
            end.checked_add(data_at).is_some_and(|end| end <= file_len),
            "it is truncated: tensor `{name}` ends at byte {} but the file has {file_len}",
            end.saturating_add(data_at)
        );
        tensors.push((name, SourceTensor { file: file_index, dtype, shape, strides: None, offset: data_at + begin }));
    }
    Ok(tensors)
}
