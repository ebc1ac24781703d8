//! The result of the choice of a kernel set.

use crate::kernel_set::{Kernels, Precision};

/// A kernel set that [`choose`](crate::choose) has chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The set.
    pub kernels: Kernels,
    /// Origin of the choice.
    pub origin: ChoiceOrigin,
    /// The measurements, in order; empty unless the origin is [`ChoiceOrigin::Measured`].
    pub trials: Vec<Trial>,
    /// Duration of the choice, in milliseconds: compiling the variants, and measuring them.
    pub millis: f64,
    /// Coarsest precision that was allowed.
    pub(crate) precision: Precision,
}

/// Origin of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChoiceOrigin {
    /// It follows from what is known about the adapter.
    Adapter,
    /// Sets were measured.
    Measured,
    /// It was measured before: [`ChoiceOptions::record`](crate::ChoiceOptions::record).
    Restored,
}

/// The measurement of a kernel set.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// The set.
    pub kernels: Kernels,
    /// Work that it did.
    pub work: &'static str,
    /// Time of the work, in milliseconds: the best of several rounds.
    pub millis: f64,
}

impl Choice {
    /// Returns a text for [`ChoiceOptions::record`](crate::ChoiceOptions::record). It names this version of the crate and all parameters of the set.
    pub fn record(&self) -> String {
        record(self.kernels, self.precision)
    }
}

pub(crate) fn record(kernels: Kernels, coarsest: Precision) -> String {
    format!("kernels {}, {coarsest:?} or finer: {kernels:?}", env!("CARGO_PKG_VERSION"))
}
