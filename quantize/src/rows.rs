//! Reads the rows of a web checkpoint's tensors and encodes them.

use crate::errors::is_exact;
use crate::plan::Plan;
use anyhow::{Result, bail};
use qwen_vl_format::Scheme;
use qwen_vl_format::block::{EncodedRows, SquareSums, encode_rows, encode_rows_measured};
use std::ops::Range;

/// The tensors of a [`qwen_vl_format::tensors::tensor_table`], by index, in slices of rows.
pub(crate) trait RowSource: Sync {
    /// Announces what [`Self::rows`] and [`Self::encoded`] read.
    fn announce(&self, _tensor: usize, _rows: Range<usize>) {}

    /// Weights `[rows, cols]` of a tensor.
    fn rows(&self, tensor: usize, rows: Range<usize>) -> Result<Vec<f32>>;

    /// The rows in a scheme if the source already stores them so; `None` if they are to be encoded from [`Self::rows`].
    fn encoded(&self, _tensor: usize, _rows: Range<usize>, _scheme: Scheme) -> Result<Option<EncodedRows>> {
        Ok(None)
    }

    /// The place of a weight in the source, for errors: the tensor's name there and the position in it.
    fn origin(&self, tensor: usize, row: usize, col: usize) -> (String, String);
}

/// A tensor to be stored.
#[derive(Debug, Clone)]
pub(crate) struct Target<'a> {
    pub index: usize,
    pub name: &'a str,
    pub shape: [usize; 2],
    pub scheme: Scheme,
}

impl<'a> Target<'a> {
    pub(crate) fn of(plan: &'a Plan, index: usize) -> Self {
        let tensor = &plan.tensors[index];
        Self { index, name: &tensor.name, shape: tensor.shape, scheme: tensor.scheme }
    }
}

/// Weights read at once: 1 MiB as f32, which keeps a worker's scratch memory far below its shard, and the steps short in a browser, where
/// bytes arrive between them.
const CHUNK_WEIGHTS: usize = 1 << 18;

/// Slices of a tensor's rows that are read and encoded at once.
pub(crate) fn chunks(rows: Range<usize>, cols: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (CHUNK_WEIGHTS / cols.max(1)).next_multiple_of(2).max(2);
    rows.clone().step_by(step).map(move |first| first..(first + step).min(rows.end))
}

/// Encodes rows of a tensor, and measures the error. Weights that are not finite are refused, or count as zero if `allow_nonfinite`.
pub(crate) fn encode(
    source: &dyn RowSource,
    target: &Target<'_>,
    rows: Range<usize>,
    allow_nonfinite: bool,
) -> Result<(EncodedRows, SquareSums)> {
    let Target { index, scheme, shape: [_, cols], .. } = *target;
    if let Some(encoded) = source.encoded(index, rows.clone(), scheme)? {
        return Ok((encoded, SquareSums::default()));
    }
    let weights = checked_rows(source, target, rows, allow_nonfinite)?;
    Ok(match is_exact(scheme) {
        true => (encode_rows(scheme, &weights, cols), SquareSums::default()),
        false => encode_rows_measured(scheme, &weights, cols),
    })
}

/// Reads rows and refuses weights that the scheme cannot hold.
pub(crate) fn checked_rows(source: &dyn RowSource, target: &Target<'_>, rows: Range<usize>, allow_nonfinite: bool) -> Result<Vec<f32>> {
    let first_row = rows.start;
    let mut weights = source.rows(target.index, rows)?;
    if weights.iter().any(|weight| !weight.is_finite()) {
        if !allow_nonfinite {
            bail!(nonfinite_error(source, target)?);
        }
        weights.iter_mut().filter(|weight| !weight.is_finite()).for_each(|weight| *weight = 0.0);
    }
    if target.scheme == Scheme::F16
        && let Some(at) = weights.iter().position(|weight| weight.abs() > half::f16::MAX.to_f32())
    {
        let (name, place) = source.origin(target.index, first_row + at / target.shape[1], at % target.shape[1]);
        bail!("tensor `{name}` has the value {} in {place}, beyond f16's largest (65504): store `{}` as f32", weights[at], target.name);
    }
    Ok(weights)
}

/// The error for a tensor with NaN or infinite values: their number, and the place of the first in the source.
fn nonfinite_error(source: &dyn RowSource, target: &Target<'_>) -> Result<String> {
    let (mut nan, mut infinite, mut first) = (0, 0, None);
    let [all_rows, cols] = target.shape;
    for rows in chunks(0..all_rows, cols) {
        let weights = source.rows(target.index, rows.clone())?;
        first = first.or_else(|| {
            let at = weights.iter().position(|weight| !weight.is_finite())?;
            Some((rows.start + at / cols, at % cols))
        });
        nan += weights.iter().filter(|weight| weight.is_nan()).count();
        infinite += weights.iter().filter(|weight| weight.is_infinite()).count();
    }
    let (row, col) = first.unwrap_or_default();
    let (name, place) = source.origin(target.index, row, col);
    Ok(format!(
        "tensor `{name}` has {nan} NaN and {infinite} infinite values among {}, the first in {place} (stored as `{}`); \
         --allow-nonfinite stores them as zero",
        all_rows * cols,
        target.name
    ))
}
