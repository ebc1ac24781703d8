//! Kernel sets: the variants of all kernels that run together.

use crate::wgsl::wgsl;
use std::{fmt, str::FromStr};

/// Precision to which the matrix products of many rows round their operands. Sums, and everything outside of these products, stay f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Precision {
    /// No rounding.
    #[default]
    F32,
    /// Activations, weights and sums of eight products in f16.
    F16,
    /// Activations in 8 bits, in blocks of 32. Products with weights that are not quantized stay [`Self::F32`].
    Q8,
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "q8" => Ok(Self::Q8),
            _ => Err(format!("unknown precision `{name}`, expected f32, f16 or q8")),
        }
    }
}

/// A kernel set. All sets compute the same results up to the order of sums, unless [`Self::precision`] rounds. The fastest set depends on
/// the adapter: GPUs prefer many small invocations; software adapters prefer few, large ones because each invocation carries its own
/// context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernels {
    /// Invocations of a workgroup in the product of one row: a power of two from 4 to 256.
    pub matvec_lanes: u32,
    /// True if the product of one row with f16 or f32 weights loops over quarters of a block. This cuts code and compile time to a third and
    /// costs a seventh more run time. (Quantized blocks compile faster, and would run a quarter longer.)
    pub matvec_float_quarters: bool,
    /// True if the product of one row loads the codes of 4 bits of its eight rows before it decodes the first, so that a GPU waits once for the
    /// memory. On a software adapter it takes 6 to 9 % longer so.
    pub matvec_early_loads: bool,
    /// Rows and columns that one invocation of the product of many rows computes from weights that it decodes itself; columns are a
    /// multiple of 4. `None` stages decoded weights for 64 invocations in workgroup memory.
    pub matmul_registers: Option<[u32; 2]>,
    /// Number of workgroups from which a product of many rows in f32 takes tiles of 64 x 64 rather than 32 x 32, if it stages tiles at all. Large GPUs
    /// have some 100 compute units, which each need several workgroups.
    pub matmul_workgroups: u32,
    /// Rows of a workgroup in the attention of many rows: a multiple of 8 up to 64.
    pub attention_rows: u32,
    /// Rows that an invocation of the attention of many rows scores, and sums values for: 4 or 8. With 8 it needs more than 200 registers of a
    /// GPU, and there are half as many workgroups.
    pub attention_lane_rows: u32,
    /// True if the width of a head is a run-time value in the attention kernels. The kernel of many rows then serves all widths, and loops over
    /// a head are not unrolled: unrolling takes most of the compile time on Mesa's software adapter.
    pub attention_of_any_width: bool,
    /// Invocations of a workgroup in the attention of one row: a power of two from 4 to 256.
    pub decode_lanes: u32,
    /// Invocations side by side along a key in the attention of one row: a power of two. They read whole cache lines of a GPU. A software
    /// adapter gains nothing by them.
    pub decode_key_lanes: u32,
    /// Workgroups that the attention of one row divides 512 keys among, if its slices then have from 16 to 64 keys.
    pub decode_workgroups: u32,
    /// Invocations of a workgroup of argmax: a power of two up to 256.
    pub argmax_lanes: u32,
    /// Most workgroups over which argmax and sampling divide the logits: up to 256. GPUs need many to hide the latency of loads. A software
    /// adapter runs as many at a time as the processor has cores.
    pub logit_slices: u32,
    /// True if norms and the kernels of decoding reduce across a workgroup by subgroup operations. Needs the adapter's `subgroups`.
    pub subgroups: bool,
    /// Precision of the products of many rows. [`Precision::F16`] needs the adapter's `shader-f16`.
    pub precision: Precision,
}

impl Kernels {
    /// For GPUs, and the default.
    pub const PLAIN: Self = Self {
        matvec_lanes: 64,
        matvec_float_quarters: false,
        matvec_early_loads: true,
        matmul_registers: None,
        matmul_workgroups: 256,
        attention_rows: 32,
        attention_lane_rows: 4,
        attention_of_any_width: false,
        decode_lanes: 64,
        decode_key_lanes: 8,
        decode_workgroups: 128,
        argmax_lanes: 256,
        logit_slices: 128,
        subgroups: false,
        precision: Precision::F32,
    };
    /// For software adapters: few large invocations, little code and little workgroup memory, because SwiftShader is slow to compile, also
    /// to compile the clearing of that memory.
    pub const CPU: Self = Self {
        matvec_lanes: 8,
        matvec_float_quarters: true,
        matvec_early_loads: false,
        matmul_registers: Some([16, 16]),
        matmul_workgroups: 1,
        attention_rows: 16,
        attention_lane_rows: 8,
        attention_of_any_width: true,
        decode_lanes: 8,
        decode_key_lanes: 1,
        decode_workgroups: 16,
        argmax_lanes: 32,
        logit_slices: 4,
        subgroups: false,
        precision: Precision::F32,
    };
    /// For GPUs with subgroups.
    pub const SUBGROUPS: Self = Self { subgroups: true, ..Self::PLAIN };
    /// For GPUs that compute fast in f16; results change slightly.
    pub const F16: Self = Self { precision: Precision::F16, ..Self::PLAIN };
    /// For GPUs with packed integer products; results change slightly more.
    pub const PACKED: Self = Self { precision: Precision::Q8, ..Self::PLAIN };

    /// The sets with their names in options.
    const NAMED: [(&str, Self); 5] =
        [("plain", Self::PLAIN), ("cpu", Self::CPU), ("subgroups", Self::SUBGROUPS), ("f16", Self::F16), ("packed", Self::PACKED)];

    /// Returns the suffix of a pipeline's label: the set without features and precision, then these, as in `plain+subgroups+f16`.
    pub(crate) fn label(self) -> String {
        let exact = Self { subgroups: false, precision: Precision::F32, ..self };
        let name = Self::NAMED.iter().find(|(_, named)| *named == exact).map_or("custom", |(name, _)| name);
        let subgroups = if self.subgroups { "+subgroups" } else { "" };
        let precision = match self.precision {
            Precision::F32 => "",
            Precision::F16 => "+f16",
            Precision::Q8 => "+packed",
        };
        [name, subgroups, precision].concat()
    }

    /// Returns the `enable` directives of the set's shaders.
    pub(crate) fn enables(self) -> String {
        let mut enables = String::new();
        if self.precision == Precision::F16 {
            enables += "enable f16;\n";
        }
        // naga supports subgroup operations, but does not know this directive.
        if self.subgroups && cfg!(target_arch = "wasm32") {
            enables += "enable subgroups;\n";
        }
        enables
    }

    /// Returns the WGSL of `Lane`, the position of an invocation, and of the sums and maxima over a workgroup of `lanes` invocations.
    pub(crate) fn reductions(self, lanes: u32) -> String {
        let source = if self.subgroups { wgsl!("reduce_subgroups.wgsl") } else { wgsl!("reduce_tree.wgsl") };
        format!("const LANES: u32 = {lanes}u;\n{}{source}", wgsl!("reduce.wgsl"))
    }
}

impl Default for Kernels {
    fn default() -> Self {
        Self::PLAIN
    }
}

impl FromStr for Kernels {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let named = Self::NAMED.into_iter().find(|(known, _)| *known == name);
        named.map(|(_, kernels)| kernels).ok_or_else(|| {
            let names = Self::NAMED.map(|(known, _)| known).join(", ");
            format!("unknown kernel set `{name}`, expected one of {names}")
        })
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quarters = if self.matvec_float_quarters { " (floats by quarters of a block)" } else { "" };
        write!(f, "matvec of {} lanes{quarters}, matmul ", self.matvec_lanes)?;
        match (self.precision, self.matmul_registers) {
            (Precision::Q8, _) => write!(f, "with 8-bit activations")?,
            (Precision::F16, _) => write!(f, "in halves")?,
            (Precision::F32, None) => write!(f, "of staged tiles")?,
            (Precision::F32, Some([rows, columns])) => write!(f, "of {rows} x {columns} an invocation")?,
        }
        let heads = if self.attention_of_any_width { " and heads of any width" } else { "" };
        let Self { attention_rows, decode_lanes, argmax_lanes, logit_slices, .. } = self;
        write!(
            f,
            ", attention of {attention_rows} rows{heads}, or of one by {decode_lanes} lanes, argmax of {logit_slices} times {argmax_lanes} lanes"
        )?;
        if self.subgroups { write!(f, ", subgroups") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Kernels, Precision};

    #[test]
    fn a_label_names_the_set_its_features_and_its_precision() {
        let labels = [
            (Kernels::PLAIN, "plain"),
            (Kernels::CPU, "cpu"),
            (Kernels::SUBGROUPS, "plain+subgroups"),
            (Kernels { precision: Precision::F16, ..Kernels::SUBGROUPS }, "plain+subgroups+f16"),
            (Kernels { precision: Precision::Q8, ..Kernels::CPU }, "cpu+packed"),
            (Kernels { decode_lanes: 128, ..Kernels::PLAIN }, "custom"),
        ];
        for (kernels, label) in labels {
            assert_eq!(kernels.label(), label);
        }
    }
}
