//! Where the rows of a web checkpoint come from, and turning them into codes.

use anyhow::{Result, bail};
use qwen_vl_format::Scheme;
use qwen_vl_format::block::{EncodedRows, encode_rows};
use std::ops::Range;

/// The tensors of a [`qwen_vl_format::tensors::tensor_table`], by index, in slices of rows.
pub(crate) trait RowSource: Sync {
    /// Weights `[rows, cols]` of a tensor.
    fn rows(&self, tensor: usize, rows: Range<usize>) -> Result<Vec<f32>>;

    /// The rows in a scheme where the source already has them so; `None` where they are to be encoded from [`Self::rows`].
    fn encoded(&self, _tensor: usize, _rows: Range<usize>, _scheme: Scheme) -> Result<Option<EncodedRows>> {
        Ok(None)
    }
}

/// A tensor to be stored.
#[derive(Debug, Clone)]
pub(crate) struct Target<'a> {
    pub index: usize,
    pub name: &'a str,
    pub shape: [usize; 2],
    pub scheme: Scheme,
}

/// Weights read at once: 4 MiB as f32, which keeps a worker's scratch memory far below its shard.
const CHUNK_WEIGHTS: usize = 1 << 20;

/// Slices of a tensor's rows that are read and encoded at once.
pub(crate) fn chunks(rows: Range<usize>, cols: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (CHUNK_WEIGHTS / cols.max(1)).next_multiple_of(2).max(2);
    rows.clone().step_by(step).map(move |first| first..(first + step).min(rows.end))
}

/// Encodes rows of a tensor. Weights that are not finite are refused, or taken as zero where `allow_nonfinite`.
pub(crate) fn encode(source: &dyn RowSource, target: &Target<'_>, rows: Range<usize>, allow_nonfinite: bool) -> Result<EncodedRows> {
    if let Some(encoded) = source.encoded(target.index, rows.clone(), target.scheme)? {
        return Ok(encoded);
    }
    let mut weights = source.rows(target.index, rows)?;
    if weights.iter().any(|weight| !weight.is_finite()) {
        if !allow_nonfinite {
            let (nan, infinite) = count_nonfinite(source, target)?;
            bail!(
                "tensor `{}` has {nan} NaN and {infinite} infinite values among {}; --allow-nonfinite stores them as zero",
                target.name,
                target.shape[0] * target.shape[1]
            );
        }
        weights.iter_mut().filter(|weight| !weight.is_finite()).for_each(|weight| *weight = 0.0);
    }
    if target.scheme == Scheme::F16
        && let Some(weight) = weights.iter().find(|weight| weight.abs() > half::f16::MAX.to_f32())
    {
        bail!("tensor `{}` has the value {weight}, beyond f16's largest (65504): store it as f32", target.name);
    }
    Ok(encode_rows(target.scheme, &weights, target.shape[1]))
}

/// NaN and infinite values of a whole tensor.
fn count_nonfinite(source: &dyn RowSource, target: &Target<'_>) -> Result<(usize, usize)> {
    let (mut nan, mut infinite) = (0, 0);
    for rows in chunks(0..target.shape[0], target.shape[1]) {
        let weights = source.rows(target.index, rows)?;
        nan += weights.iter().filter(|weight| weight.is_nan()).count();
        infinite += weights.iter().filter(|weight| weight.is_infinite()).count();
    }
    Ok((nan, infinite))
}
