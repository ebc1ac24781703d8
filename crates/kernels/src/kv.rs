//! The KV cache of one decoder layer.

use crate::{Gpu, GpuError, size};

/// Number format of the KV cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KvFormat {
    /// 4 bytes per value. The goldens are compared in this format.
    #[default]
    F32,
    /// 2 bytes per value. The shaders pack them, so that no feature is needed.
    F16,
    /// 1 byte per value, and one f32 scale for each head of a position, which maps its largest magnitude to 127.
    Q8,
}

impl std::str::FromStr for KvFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "q8" => Ok(Self::Q8),
            _ => Err(format!("unknown format `{name}` of the KV cache, expected f32, f16 or q8")),
        }
    }
}

impl KvFormat {
    /// Returns the WGSL type of four values.
    pub(crate) fn element(self) -> &'static str {
        match self {
            Self::F32 => "vec4<f32>",
            Self::F16 => "vec2<u32>",
            Self::Q8 => "u32",
        }
    }

    /// Returns the bytes of four values.
    fn element_bytes(self) -> usize {
        match self {
            Self::F32 => 16,
            Self::F16 => 8,
            Self::Q8 => 4,
        }
    }

    /// Returns WGSL that defines `NAME_vector(at)`, four values, and `NAME_scale(at, head)`, the scale of a head whose first four values are
    /// there, for a binding `NAME`.
    pub(crate) fn wgsl_load(self, name: &str) -> String {
        let vector = match self {
            Self::F32 => format!("{name}[at]"),
            Self::F16 => format!("vec4<f32>(unpack2x16float({name}[at].x), unpack2x16float({name}[at].y))"),
            Self::Q8 => format!("vec4<f32>(unpack4xI8({name}[at]))"),
        };
        let scale = match self {
            Self::F32 | Self::F16 => "1.0".to_owned(),
            Self::Q8 => format!("bitcast<f32>({name}[at + (sizes.kv_heads - head) * sizes.vectors + head])"),
        };
        format!(
            "fn {name}_vector(at: u32) -> vec4<f32> {{ return {vector}; }}\n\
             fn {name}_scale(at: u32, head: u32) -> f32 {{ return {scale}; }}\n"
        )
    }

    /// Returns WGSL that defines `store_NAME(at, value)` for four values. In a format with scales the caller divides them by the scale.
    pub(crate) fn wgsl_store(self, name: &str) -> String {
        let stored = match self {
            Self::F32 => "value",
            Self::F16 => "vec2<u32>(pack2x16float(value.xy), pack2x16float(value.zw))",
            Self::Q8 => "pack4xI8(vec4<i32>(round(value)))",
        };
        format!("fn store_{name}(at: u32, value: vec4<f32>) {{ {name}_cache[at] = {stored}; }}\n")
    }
}

/// Keys or values of one layer, `[context, heads * head_dim]`.
#[derive(Debug, Clone)]
pub struct KvCache {
    /// One row per position.
    pub buffer: wgpu::Buffer,
    /// Number of heads, which may be fewer than those of the queries.
    pub heads: usize,
    /// Width of a head: a multiple of 8.
    pub head_dim: usize,
    /// Number format.
    pub format: KvFormat,
}

impl KvCache {
    /// Allocates a cache of zeros for `context` positions.
    ///
    /// # Panics
    /// If `head_dim` is not a multiple of 8, which a validated configuration excludes.
    pub fn new(gpu: &Gpu, label: &str, context: usize, heads: usize, head_dim: usize, format: KvFormat) -> Result<Self, GpuError> {
        assert!(head_dim.is_multiple_of(8), "heads of {head_dim} values");
        let buffer = gpu.storage(label, Self::size(context, heads, head_dim, format))?;
        Ok(Self { buffer, heads, head_dim, format })
    }

    /// Returns the bytes of `context` positions.
    pub fn size(context: usize, heads: usize, head_dim: usize, format: KvFormat) -> u64 {
        let scales = if format == KvFormat::Q8 { heads as u64 } else { 0 };
        let elements = (size::product(&[heads, head_dim]) / 4).saturating_add(scales);
        size::product(&[context, format.element_bytes()]).saturating_mul(elements)
    }

    /// Returns the bytes of the first `positions`.
    pub fn bytes(&self, positions: usize) -> u64 {
        Self::size(positions, self.heads, self.head_dim, self.format)
    }

    /// Returns the distance of two positions in elements: the vectors of four values, then the scales of the heads, if any.
    pub(crate) fn stride(&self) -> usize {
        (self.bytes(1) / self.format.element_bytes() as u64) as usize
    }

    /// Reads the first `positions` as f32, `[positions, heads * head_dim]`.
    pub async fn read(&self, gpu: &Gpu, positions: usize) -> Result<Vec<f32>, GpuError> {
        let bytes = gpu.read(&self.buffer, 0, self.bytes(positions)).await?;
        let width = self.heads * self.head_dim;
        let rows = bytes.chunks_exact(self.bytes(1) as usize);
        let word = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
        Ok(rows
            .flat_map(|row| -> Vec<f32> {
                match self.format {
                    KvFormat::F32 => row.chunks_exact(4).map(word).collect(),
                    KvFormat::F16 => row.chunks_exact(2).map(|half| half::f16::from_le_bytes([half[0], half[1]]).to_f32()).collect(),
                    KvFormat::Q8 => {
                        let scale = |head: usize| word(&row[width + head * 4..][..4]);
                        row[..width].iter().enumerate().map(|(i, code)| f32::from(*code as i8) * scale(i / self.head_dim)).collect()
                    }
                }
            })
            .collect())
    }
}
