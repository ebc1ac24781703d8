//! The ways to make a tensor of ours from the original's.

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
}

/// The way to make a tensor of ours from the original's.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Recipe {
    /// The rows of tensors, one tensor after the other.
    Stacked(Vec<Original>),
    /// Rows from `first` on, unchanged.
    Rows { source: Original, first: usize },
    /// `[q; k; v]`, each in the order of heads, from the 2023 tower's interleaving by head.
    PerHead { source: Original, heads: usize, head_dim: usize },
    /// Row 2i from `even`, row 2i + 1 from `odd`.
    Interleaved { even: Original, odd: Original },
    /// `[rows, channels, frames, height, width]`, added over the frames.
    Folded { source: Original },
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
            Self::Query(sources) => sources.iter().collect(),
            Self::Rows { source, .. }
            | Self::PerHead { source, .. }
            | Self::Folded { source }
            | Self::Transposed { source }
            | Self::Resized { source, .. } => vec![source],
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
