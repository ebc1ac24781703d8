//! Weight matrices on the GPU.

use crate::wgsl::wgsl;
use crate::{Gpu, GpuError, size};
use qwen_vl_format::Scheme;
use qwen_vl_format::block::EncodedRows;

/// A weight matrix `[rows, cols]` in slices of rows, each of which fits one binding.
#[derive(Debug, Clone)]
pub struct Weight {
    /// Storage scheme.
    pub scheme: Scheme,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// The slices in the order of their rows.
    pub parts: Vec<WeightPart>,
}

/// A slice of rows of a [`Weight`].
#[derive(Debug, Clone)]
pub struct WeightPart {
    /// Rows of this slice: a multiple of 32 except in the last slice.
    pub rows: usize,
    /// Values or codes, row after row.
    pub data: wgpu::Buffer,
    /// Scales, row after row; `None` for float schemes.
    pub scales: Option<wgpu::Buffer>,
}

impl Weight {
    /// Allocates a weight of zeros; `part_rows` are the rows of its slices.
    pub fn allocate(gpu: &Gpu, label: &str, scheme: Scheme, cols: usize, part_rows: &[usize]) -> Result<Self, GpuError> {
        let parts = part_rows
            .iter()
            .map(|&rows| {
                let [data_bytes, scale_bytes] = size::weight(scheme, rows, cols);
                let data = gpu.storage(label, data_bytes)?;
                let scales = if scale_bytes > 0 { Some(gpu.storage(label, scale_bytes)?) } else { None };
                Ok(WeightPart { rows, data, scales })
            })
            .collect::<Result<_, GpuError>>()?;
        Ok(Self { scheme, rows: part_rows.iter().sum(), cols, parts })
    }

    /// Allocates a weight of one slice with encoded rows, for tests.
    pub fn upload(gpu: &Gpu, scheme: Scheme, encoded: &EncodedRows, cols: usize) -> Result<Self, GpuError> {
        let rows = encoded.data.len() / scheme.row_data_bytes(cols);
        let weight = Self::allocate(gpu, "weight", scheme, cols, &[rows])?;
        gpu.queue().write_buffer(&weight.parts[0].data, 0, &encoded.data);
        if let Some(scales) = &weight.parts[0].scales {
            gpu.queue().write_buffer(scales, 0, &encoded.scales);
        }
        Ok(weight)
    }

    /// Returns each slice with its first row.
    pub fn parts_from(&self) -> impl Iterator<Item = (usize, &WeightPart)> {
        self.parts.iter().scan(0, |next, part| {
            let first = *next;
            *next += part.rows;
            Some((first, part))
        })
    }

    /// Returns WGSL that declares this weight at bindings `binding` and `binding + 1` and defines `load_block(row, block, blocks)`,
    /// `load_quarter(row, block, blocks, quarter)`, and in two steps the inner product of a block and vectors: `stored_block(row, block, blocks)`
    /// and `stored_dot(stored, bits, sum of x, x0 … x7)`, times `scale_from(bits)` of `block_scale_bits(row, block, blocks)`.
    pub(crate) fn wgsl(&self, binding: u32) -> String {
        let (name, source, group_size) = match self.scheme {
            Scheme::F32 => ("f32", wgsl!("weight_f32.wgsl"), 32),
            Scheme::F16 => ("f16", wgsl!("weight_f16.wgsl"), 32),
            Scheme::Q8 { group_size } => ("q8", wgsl!("weight_q8.wgsl"), group_size),
            Scheme::Q4 { group_size } => ("q4", wgsl!("weight_q4.wgsl"), group_size),
            Scheme::Int4 { group_size } => ("int4", wgsl!("weight_q4.wgsl"), group_size),
            Scheme::Q4Z { group_size } => ("q4z", wgsl!("weight_q4.wgsl"), group_size),
        };
        let blocks_per_scale = group_size / 32;
        let element = match self.scheme {
            Scheme::F32 => "vec4<f32>",
            _ => "vec4<u32>",
        };
        let mut wgsl = format!("// weight: {name}\n@group(0) @binding({binding}) var<storage, read> weight_data: array<{element}>;\n");
        if self.scheme.group_size().is_some() {
            wgsl += &format!("@group(0) @binding({}) var<storage, read> weight_scales: array<u32>;\n", binding + 1);
            wgsl += &format!("const BLOCKS_PER_SCALE: u32 = {blocks_per_scale}u;\n");
            wgsl += wgsl!("weight_scale.wgsl");
        }
        match self.scheme {
            Scheme::Q4 { .. } | Scheme::Int4 { .. } | Scheme::Q4Z { .. } => {
                let (even, zero_points) = (!matches!(self.scheme, Scheme::Q4 { .. }), matches!(self.scheme, Scheme::Q4Z { .. }));
                wgsl += &format!("const EVEN: bool = {even};\nconst ZERO_POINTS: bool = {zero_points};\n");
            }
            Scheme::Q8 { .. } => wgsl += wgsl!("weight_late.wgsl"),
            Scheme::F32 | Scheme::F16 => wgsl += &[wgsl!("weight_late.wgsl"), wgsl!("weight_dot.wgsl")].concat(),
        }
        wgsl += source;
        wgsl
    }
}

impl WeightPart {
    /// Returns the bindings that [`Weight::wgsl`] declares.
    pub(crate) fn bindings(&self, binding: u32) -> impl Iterator<Item = (u32, &wgpu::Buffer)> {
        std::iter::once((binding, &self.data)).chain(self.scales.iter().map(move |scales| (binding + 1, scales)))
    }
}
