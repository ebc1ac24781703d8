//! The ways to make a tensor of ours from the original's.

use crate::source::Block;
use qwen_vl_format::{TensorKind, TensorSpec};
use std::ops::Range;

/// A tensor of the original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Original {
    pub name: String,
    pub shape: Vec<usize>,
}

impl Original {
    pub(super) fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), shape: shape.into() }
    }

    /// A source tensor that becomes one of ours, or some of its rows. A vector of the original is one row of ours.
    pub(super) fn of(spec: &TensorSpec, name: impl Into<String>, rows: usize) -> Self {
        let shape = if is_vector(spec) { vec![rows] } else { vec![rows, spec.shape[1]] };
        Self::new(name, shape)
    }

    fn block(&self, rows: Range<usize>, width: usize) -> Block<'_> {
        Block { name: &self.name, rows, cols: 0..width }
    }

    fn whole(&self) -> Block<'_> {
        self.block(0..self.shape[0], self.shape[1..].iter().product())
    }
}

/// The way to make a tensor of ours from the original's.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Recipe {
    /// The rows of tensors, one tensor after the other.
    Stacked(Vec<Original>),
    /// The rows of a tensor that the source has twice. Both must be equal.
    Twice { source: Original, copy: Original },
    /// Rows from `first` on, unchanged.
    Rows { source: Original, first: usize },
    /// `[q; k; v]`, each in the order of heads, from the 2023 tower's interleaving by head.
    PerHead { source: Original, heads: usize, head_dim: usize },
    /// Row 2i from `even`, row 2i + 1 from `odd`.
    Interleaved { even: Original, odd: Original },
    /// `[rows, channels, frames, height, width]`, added over the frames from `first` on.
    Folded { source: Original, first: usize },
    /// Rows from columns.
    Transposed { source: Original },
    /// A position table resized from `from`×`from` to `to`×`to`.
    Resized { source: Original, from: usize, to: usize },
    /// `ln_q(query) + pos_embed`: the queries, the positions, and weight and bias of the norm.
    Query([Original; 4]),
}

impl Recipe {
    /// The whole of one tensor of the original.
    pub(super) fn whole(spec: &TensorSpec, name: impl Into<String>) -> Self {
        let [rows, cols] = spec.shape;
        Self::Stacked(vec![Original::of(spec, name, if is_vector(spec) { cols } else { rows })])
    }

    /// The tensors of the original that it reads.
    pub(super) fn sources(&self) -> Vec<&Original> {
        match self {
            Self::Stacked(sources) => sources.iter().collect(),
            Self::Interleaved { even, odd } => vec![even, odd],
            Self::Twice { source, copy } => vec![source, copy],
            Self::Query(sources) => sources.iter().collect(),
            Self::Rows { source, .. }
            | Self::PerHead { source, .. }
            | Self::Folded { source, .. }
            | Self::Transposed { source }
            | Self::Resized { source, .. } => vec![source],
        }
    }

    /// The blocks of the original that make `rows` of a tensor of ours. The converter puts them together.
    pub(super) fn blocks(&self, spec: &TensorSpec, rows: Range<usize>) -> Vec<Block<'_>> {
        let [_, cols] = spec.shape;
        // A vector is one row of ours and a column of the source.
        let (rows, width) = if is_vector(spec) { (0..cols, 1) } else { (rows, cols) };
        match self {
            Self::Stacked(sources) => stacked_rows(sources, rows).map(|(source, rows)| source.block(rows, width)).collect(),
            Self::Twice { source, copy } => vec![source.block(rows.clone(), width), copy.block(rows, width)],
            Self::Rows { source, first } => vec![source.block(first + rows.start..first + rows.end, width)],
            Self::PerHead { source, heads, head_dim } => {
                let mut blocks = Vec::new();
                let mut row = rows.start;
                while row < rows.end {
                    // Our row is (part, head, d), the source's (head, part, d): the rows of one head stay together.
                    let (part, head, d) = (row / (heads * head_dim), row / head_dim % heads, row % head_dim);
                    let run = (head_dim - d).min(rows.end - row);
                    let from = (head * 3 + part) * head_dim + d;
                    blocks.push(source.block(from..from + run, width));
                    row += run;
                }
                blocks
            }
            Self::Interleaved { even, odd } => {
                let pairs = rows.start / 2..rows.end.div_ceil(2);
                vec![even.block(pairs.clone(), width), odd.block(pairs, width)]
            }
            Self::Folded { source, .. } => vec![source.block(rows, source.shape[1..].iter().product())],
            Self::Transposed { source } => vec![Block { name: &source.name, rows: 0..source.shape[0], cols: rows }],
            Self::Resized { source, .. } => vec![source.whole()],
            Self::Query(sources) => sources.iter().map(Original::whole).collect(),
        }
    }
}

/// The tensors among stacked ones that hold these rows, with the rows of each.
pub(super) fn stacked_rows(sources: &[Original], rows: Range<usize>) -> impl Iterator<Item = (&Original, Range<usize>)> {
    let mut first = 0;
    sources.iter().filter_map(move |source| {
        let begin = first;
        first += source.shape[0];
        let (start, end) = (rows.start.max(begin), rows.end.min(first));
        (start < end).then(|| (source, start - begin..end - begin))
    })
}

/// True if a tensor of ours is a vector: a table of one row that is a bias or a norm.
pub(super) fn is_vector(spec: &TensorSpec) -> bool {
    spec.kind == TensorKind::Table && (spec.name.ends_with(".bias") || spec.name.ends_with(".weight"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_stacked_tensors() {
        let sources = [4, 1, 3].map(|rows| Original::new(rows.to_string(), [rows, 8]));
        let found = |rows: Range<usize>| -> Vec<(usize, Range<usize>)> {
            stacked_rows(&sources, rows).map(|(source, rows)| (source.shape[0], rows)).collect()
        };
        assert_eq!(found(0..8), [(4, 0..4), (1, 0..1), (3, 0..3)]);
        assert_eq!(found(3..6), [(4, 3..4), (1, 0..1), (3, 0..1)]);
        assert_eq!(found(5..8), [(3, 0..3)]);
        assert_eq!(found(2..2), []);
    }
}
