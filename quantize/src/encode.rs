//! Makes the bytes of a shard in their order, a slice of rows at a time.

use crate::errors::Errors;
use crate::plan::{Plan, ShardPlan};
use crate::rows::{RowSource, Target, chunks, encode};
use anyhow::Result;
use std::collections::VecDeque;
use std::ops::Range;

/// Scales to write at once.
const SCALES_BYTES: usize = 1 << 20;

/// The position in a shard that is being made.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    /// True if the header was made.
    begun: bool,
    part: usize,
    /// Rows of the part that are done.
    rows: usize,
    /// Scales of these rows, slice by slice: they follow the data of the whole part. Not one vector, which would take twice the memory as it grows.
    scales: VecDeque<Vec<u8>>,
    /// The sums over the weights of the shard so far.
    errors: Errors,
}

/// The next bytes of a shard.
#[derive(Debug)]
pub(crate) struct Piece {
    pub bytes: Vec<u8>,
    /// Number of weights in them.
    #[cfg_attr(not(feature = "files"), expect(dead_code, reason = "progress of conversions on the disk"))]
    pub weights: u64,
}

impl Cursor {
    /// The position behind a whole part, or behind the header, of a shard; `errors` are the sums over the weights before it.
    pub(crate) fn behind(parts: usize, errors: Errors) -> Self {
        Self { begun: true, part: parts, errors, ..Self::default() }
    }

    /// Makes the next bytes; `None` after the last. After an error the same bytes can be made again.
    pub(crate) fn next(&mut self, plan: &Plan, shard: &ShardPlan, source: &dyn RowSource, allow_nonfinite: bool) -> Result<Option<Piece>> {
        if !self.begun {
            self.begun = true;
            return Ok(Some(Piece { bytes: shard.header.clone(), weights: 0 }));
        }
        let rows_of = |part: usize| shard.parts.get(part).map(|part| part.rows.len());
        if rows_of(self.part) == Some(self.rows) {
            return Ok(Some(Piece { bytes: self.next_scales(), weights: 0 }));
        }
        let Some((tensor, rows)) = self.ahead(plan, shard).next() else { return Ok(None) };
        let target = Target::of(plan, tensor);
        let weights = (rows.len() * target.shape[1]) as u64;
        let (encoded, sums) = encode(source, &target, rows.clone(), allow_nonfinite)?;
        self.errors.add(target.scheme, sums);
        self.rows += rows.len();
        self.scales.extend((!encoded.scales.is_empty()).then_some(encoded.scales));
        if rows_of(self.part) == Some(self.rows) && self.scales.is_empty() {
            self.end_part();
        }
        Ok(Some(Piece { bytes: encoded.data, weights }))
    }

    /// Takes the next scales of a part whose data is done.
    fn next_scales(&mut self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SCALES_BYTES);
        while let Some(scales) = self.scales.pop_front_if(|scales| bytes.is_empty() || bytes.len() + scales.len() <= SCALES_BYTES) {
            bytes.extend(scales);
        }
        if self.scales.is_empty() {
            self.end_part();
        }
        bytes
    }

    fn end_part(&mut self) {
        (self.part, self.rows) = (self.part + 1, 0);
    }

    /// True if the last piece ended a part.
    pub(crate) fn is_at_part(&self) -> bool {
        self.begun && self.rows == 0
    }

    /// The sums over the weights of the shard so far.
    pub(crate) fn errors(&self) -> &Errors {
        &self.errors
    }

    /// The rows that the next calls of [`Self::next`] read, with the index of their tensor.
    pub(crate) fn ahead<'a>(&self, plan: &'a Plan, shard: &'a ShardPlan) -> impl Iterator<Item = (usize, Range<usize>)> + use<'a> {
        let (first, done) = (self.part, self.rows);
        shard.parts.iter().enumerate().skip(first).flat_map(move |(index, part)| {
            let skipped = if index == first { done } else { 0 };
            let rows = part.rows.start + skipped..part.rows.end;
            chunks(rows, plan.tensors[part.tensor].shape[1]).map(move |rows| (part.tensor, rows))
        })
    }
}
