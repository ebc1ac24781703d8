//! Storage of rows of weights: f32, f16, and groups of 8-bit or 4-bit codes that share a scale.
//!
//! A matrix `[rows, cols]` is stored row after row; each row is padded with zeros to [`padded`] columns.
//! All words are little-endian.
//!
//! ```text
//! f32   values: one f32 a weight
//! f16   values: one f16 a weight
//! q8    codes:  one i8 a weight, -127..=127, four to a word            weight = code * scale
//! q4    codes:  eight weights w0..w7 to a word, each a nibble 0..=15   weight = Q4_VALUES[nibble] * scale
//!         bits  31..28 27..24 23..20 19..16 15..12 11..8  7..4  3..0
//!               w7     w3     w6     w2     w5     w1     w4    w0
//! int4  codes:  as q4                                                  weight = (nibble - 8) * scale
//! q4z   codes:  as q4                                                  weight = (nibble - z) * scale
//! scales (q8, q4, int4, q4z): one f16 for each group of `group_size` weights of a row (the last group may be shorter),
//!         each row of scales padded to an even count so that it begins at a word
//! ```
//!
//! The sixteen values of a 4-bit code, [`Q4_VALUES`], are not evenly spaced: weights are bell-shaped, and finer steps near zero cost less than
//! coarser ones at the ends save. They are `floor(t * (10.75 + 0.078125 t²) + 0.5)` for t = nibble - 8, so that a kernel needs no table (the
//! formula is exact in f32), and they are bytes, so that integer dot products stay possible.
//!
//! The steps of `q4z` are even, and each group has a zero point z = 7.5 - k / 8, where k is the number in the five lowest bits of its scale.
//! The scale is used with these bits in it, and may be negative, which mirrors the zero point. The converter writes `q4z` in groups of 32, and
//! `q4` in longer ones; before version 3 of the format it wrote `q4` in all. `quantize/README.md` compares the two. In a group with padding, z is
//! 7, 6, 5 or 4, so that padding is zero.
//!
//! The nibble order lets a kernel take four consecutive weights with one mask: `w & 0x0f0f0f0f` is w0..w3 as bytes,
//! `(w >> 4) & 0x0f0f0f0f` is w4..w7.

mod q4;
mod q4z;

pub use q4z::zero_point;

use crate::{ROW_ALIGN, padded};
use half::f16;
use half::slice::HalfFloatSliceExt;
use q4z::ZeroPoints;
use serde::{Deserialize, Serialize};

/// The encoding of a tensor's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", try_from = "SchemeKeys")]
pub enum Scheme {
    /// One f32 a weight.
    F32,
    /// One f16 a weight.
    F16,
    /// Signed bytes with one f16 scale a group.
    Q8 {
        /// Weights that share a scale: 32, 64 or 128.
        group_size: u32,
    },
    /// Nibbles that stand for [`Q4_VALUES`], with one f16 scale a group: the 4-bit code of groups of 64 and 128, and of all in versions 1 and 2 of
    /// the format.
    Q4 {
        /// Weights that share a scale: 32, 64 or 128.
        group_size: u32,
    },
    /// Nibbles that stand for even steps, with one f16 scale a group, as in GPTQ checkpoints, which are repacked without loss.
    Int4 {
        /// Weights that share a scale: 32, 64 or 128.
        group_size: u32,
    },
    /// Nibbles that stand for even steps, with one f16 scale a group, whose lowest bits choose a [`zero_point`]: the 4-bit code of
    /// groups of 32.
    Q4Z {
        /// Weights that share a scale: 32, 64 or 128.
        group_size: u32,
    },
}

/// The keys of all schemes. The derived reader of a tagged enum buffers values of any type, which takes 10 kB of wasm.
#[derive(Deserialize)]
struct SchemeKeys {
    #[serde(rename = "type")]
    kind: SchemeKind,
    group_size: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum SchemeKind {
    F32,
    F16,
    Q8,
    Q4,
    Int4,
    Q4Z,
}

impl TryFrom<SchemeKeys> for Scheme {
    type Error = &'static str;

    fn try_from(SchemeKeys { kind, group_size }: SchemeKeys) -> Result<Self, &'static str> {
        let group_size = group_size.ok_or("missing field `group_size`");
        Ok(match kind {
            SchemeKind::F32 => Self::F32,
            SchemeKind::F16 => Self::F16,
            SchemeKind::Q8 => Self::Q8 { group_size: group_size? },
            SchemeKind::Q4 => Self::Q4 { group_size: group_size? },
            SchemeKind::Int4 => Self::Int4 { group_size: group_size? },
            SchemeKind::Q4Z => Self::Q4Z { group_size: group_size? },
        })
    }
}

/// Group sizes that kernels exist for.
pub const GROUP_SIZES: [u32; 3] = [32, 64, 128];

/// Values of the nibbles of a 4-bit code, in units of the group's scale: `floor(t * (10.75 + 0.078125 t²) + 0.5)`, t = nibble - 8.
pub const Q4_VALUES: [i8; 16] = [-126, -102, -81, -64, -48, -34, -22, -11, 0, 11, 22, 34, 48, 64, 81, 102];

// The layout that kernels and shards rely on.
const _: () = {
    assert!(size_of::<f16>() == 2 && size_of::<f32>() == 4);
    let mut index = 0;
    while index < GROUP_SIZES.len() {
        // A group is a whole number of alignment units, so that only the last group of a row is shorter.
        assert!((GROUP_SIZES[index] as usize).is_multiple_of(ROW_ALIGN));
        index += 1;
    }
    let cols = ROW_ALIGN;
    assert!(Scheme::F32.row_data_bytes(cols) == 4 * cols && Scheme::F16.row_data_bytes(cols) == 2 * cols);
    assert!(Scheme::Q8 { group_size: 32 }.row_data_bytes(cols) == cols);
    assert!(Scheme::Q4 { group_size: 32 }.row_data_bytes(cols) == cols / 2);
    assert!(Scheme::Int4 { group_size: 32 }.row_data_bytes(cols) == cols / 2);
    assert!(Scheme::Q4Z { group_size: 32 }.row_data_bytes(cols) == cols / 2);
    // Every stored row, even of one column, begins at a word.
    assert!(Scheme::Q4 { group_size: 32 }.row_data_bytes(1).is_multiple_of(4));
    assert!(Scheme::Q4 { group_size: 128 }.row_scale_bytes(1) == 4 && Scheme::Q4 { group_size: 32 }.row_scale_bytes(33) == 4);
    assert!(Scheme::F32.row_scale_bytes(cols) == 0 && Scheme::F16.row_scale_bytes(cols) == 0);
};

impl Scheme {
    /// Bytes of the stored values or codes of one row.
    pub const fn row_data_bytes(self, cols: usize) -> usize {
        let cols = padded(cols);
        match self {
            Scheme::F32 => cols * 4,
            Scheme::F16 => cols * 2,
            Scheme::Q8 { .. } => cols,
            Scheme::Q4 { .. } | Scheme::Int4 { .. } | Scheme::Q4Z { .. } => cols / 2,
        }
    }

    /// Weights that share a scale; `None` for float schemes.
    pub const fn group_size(self) -> Option<usize> {
        match self {
            Scheme::F32 | Scheme::F16 => None,
            Scheme::Q8 { group_size } | Scheme::Q4 { group_size } | Scheme::Int4 { group_size } | Scheme::Q4Z { group_size } => {
                Some(group_size as usize)
            }
        }
    }

    /// Scales of one row, padded to an even count; 0 for float schemes.
    pub const fn row_scales(self, cols: usize) -> usize {
        match self.group_size() {
            Some(group_size) => padded(cols).div_ceil(group_size).next_multiple_of(2),
            None => 0,
        }
    }

    /// Bytes of the stored scales of one row.
    pub const fn row_scale_bytes(self, cols: usize) -> usize {
        self.row_scales(cols) * 2
    }
}

/// Encoded rows of a matrix: the bytes in a shard and on the GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EncodedRows {
    /// Values or codes, row after row.
    pub data: Vec<u8>,
    /// Scales (f16), row after row; empty for float schemes.
    pub scales: Vec<u8>,
}

/// Encodes `rows × cols` weights, row-major and unpadded.
///
/// # Panics
/// If `weights` is not a whole number of rows.
pub fn encode_rows(scheme: Scheme, weights: &[f32], cols: usize) -> EncodedRows {
    encode(scheme, weights, cols, None)
}

/// Encodes as [`encode_rows`], and measures the error. The sums are the same on every machine, bit for bit: the order of all additions is
/// written down.
///
/// # Panics
/// If `weights` is not a whole number of rows.
pub fn encode_rows_measured(scheme: Scheme, weights: &[f32], cols: usize) -> (EncodedRows, SquareSums) {
    let mut sums = Sums::default();
    let encoded = encode(scheme, weights, cols, Some(&mut sums));
    (encoded, sums.total())
}

/// Encodes row by row, and adds each row to `sums` while it is in the processor's cache.
fn encode(scheme: Scheme, weights: &[f32], cols: usize, mut sums: Option<&mut Sums>) -> EncodedRows {
    assert!(cols > 0 && weights.len().is_multiple_of(cols), "{} weights are not rows of {cols}", weights.len());
    let rows = weights.len() / cols;
    let mut encoded = EncodedRows {
        data: Vec::with_capacity(rows * scheme.row_data_bytes(cols)),
        scales: Vec::with_capacity(rows * scheme.row_scale_bytes(cols)),
    };
    let mut row_padded = vec![0.0f32; padded(cols)];
    let mut halves = vec![f16::ZERO; if scheme == Scheme::F16 { padded(cols) } else { 0 }];
    for row in weights.chunks_exact(cols) {
        let (data_at, scales_at) = (encoded.data.len(), encoded.scales.len());
        row_padded[..cols].copy_from_slice(row);
        match scheme.group_size() {
            Some(group_size) => {
                for (index, group) in row_padded.chunks(group_size).enumerate() {
                    let padding = index * group_size + group.len() > cols;
                    encode_group(scheme, group, padding, &mut encoded);
                }
            }
            None if scheme == Scheme::F16 => {
                halves.convert_from_f32_slice(&row_padded);
                encoded.data.extend(halves.iter().flat_map(|value| value.to_le_bytes()));
            }
            None => encoded.data.extend(row_padded.iter().flat_map(|value| value.to_le_bytes())),
        }
        encoded.scales.resize(encoded.scales.len().next_multiple_of(4), 0);
        if let Some(sums) = &mut sums {
            sums.add_row(scheme, row, &encoded.data[data_at..], &encoded.scales[scales_at..]);
        }
    }
    encoded
}

/// Decodes rows written by [`encode_rows`] back to `rows × cols` weights, without the padding.
///
/// # Panics
/// If the buffers are not of the same whole number of rows.
pub fn decode_rows(scheme: Scheme, encoded: &EncodedRows, cols: usize) -> Vec<f32> {
    let (data_bytes, scale_bytes) = (scheme.row_data_bytes(cols), scheme.row_scale_bytes(cols));
    let rows = encoded.data.len() / data_bytes;
    assert_eq!(encoded.data.len(), rows * data_bytes, "data is not whole rows of {cols} columns");
    assert_eq!(encoded.scales.len(), rows * scale_bytes, "scales do not belong to {rows} rows of {cols} columns");
    let mut weights = Vec::with_capacity(rows * cols);
    for row in 0..rows {
        let data = &encoded.data[row * data_bytes..][..data_bytes];
        let scales = &encoded.scales[row * scale_bytes..][..scale_bytes];
        let scale = |col: usize, group_size: u32| {
            let at = col / group_size as usize * 2;
            f16::from_le_bytes([scales[at], scales[at + 1]])
        };
        weights.extend((0..cols).map(|col| match scheme {
            Scheme::F32 => f32::from_le_bytes(std::array::from_fn(|i| data[col * 4 + i])),
            Scheme::F16 => f16::from_le_bytes([data[col * 2], data[col * 2 + 1]]).to_f32(),
            Scheme::Q8 { group_size } => f32::from(data[col] as i8) * scale(col, group_size).to_f32(),
            Scheme::Q4 { group_size } => f32::from(Q4_VALUES[usize::from(nibble(data, col))]) * scale(col, group_size).to_f32(),
            Scheme::Int4 { group_size } => f32::from(nibble(data, col) as i8 - 8) * scale(col, group_size).to_f32(),
            Scheme::Q4Z { group_size } => {
                let scale = scale(col, group_size);
                (f32::from(nibble(data, col)) - zero_point(scale)) * scale.to_f32()
            }
        }));
    }
    weights
}

/// Sums of squares over weights.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SquareSums {
    /// Of the differences between stored and original weights.
    pub error: f64,
    /// Of the original weights.
    pub weight: f64,
}

/// Independent sums, so that the compiler can make vector code without a change of the order of additions.
const SUM_LANES: usize = 8;
/// Values that are decoded at a time: the largest group.
const DECODED: usize = 128;

/// Sums that are not added up yet.
#[derive(Debug, Default)]
struct Sums {
    errors: [f64; SUM_LANES],
    weights: [f64; SUM_LANES],
}

impl Sums {
    /// Adds a row and its encoding.
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "the compiler cannot see that the processor has AVX2"))]
    fn add_row(&mut self, scheme: Scheme, row: &[f32], data: &[u8], scales: &[u8]) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature that the function is compiled for.
            return unsafe { self.add_row_avx2(scheme, row, data, scales) };
        }
        self.add_row_portable(scheme, row, data, scales);
    }

    /// The same code for wider vectors.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn add_row_avx2(&mut self, scheme: Scheme, row: &[f32], data: &[u8], scales: &[u8]) {
        self.add_row_portable(scheme, row, data, scales);
    }

    #[inline(always)]
    fn add_row_portable(&mut self, scheme: Scheme, row: &[f32], data: &[u8], scales: &[u8]) {
        let mut decoded = [0.0f32; DECODED];
        let group_size = scheme.group_size().unwrap_or(DECODED);
        let bytes_of = |weights: usize| weights * data.len() / padded(row.len());
        let mut scales = scales.as_chunks().0.iter();
        for (row, data) in row.chunks(DECODED).zip(data.chunks(bytes_of(DECODED))) {
            for (decoded, data) in decoded.chunks_mut(group_size).zip(data.chunks(bytes_of(group_size))) {
                let scale = scales.next().map_or(f16::ONE, |bytes| f16::from_le_bytes(*bytes));
                decode_group(scheme, data, scale, decoded);
            }
            // Two loops: of one, the compiler makes poor vector code.
            add_squares(&mut self.weights, row, |weight, _| f64::from(weight), &decoded);
            add_squares(&mut self.errors, row, |weight, stored| f64::from(stored) - f64::from(weight), &decoded);
        }
    }

    fn total(&self) -> SquareSums {
        SquareSums { error: sum_of_lanes(&self.errors), weight: sum_of_lanes(&self.weights) }
    }
}

/// Adds the squares of a value of each weight and its stored weight.
#[inline(always)]
fn add_squares(sums: &mut [f64; SUM_LANES], weights: &[f32], value: impl Fn(f32, f32) -> f64, stored: &[f32]) {
    let (eights, rest) = weights.as_chunks::<SUM_LANES>();
    let (stored_eights, stored_rest) = stored[..weights.len()].as_chunks::<SUM_LANES>();
    let mut lanes = *sums;
    for (weights, stored) in eights.iter().zip(stored_eights) {
        for lane in 0..SUM_LANES {
            let value = value(weights[lane], stored[lane]);
            lanes[lane] += value * value;
        }
    }
    *sums = lanes;
    for ((sum, weight), stored) in sums.iter_mut().zip(rest).zip(stored_rest) {
        let value = value(*weight, *stored);
        *sum += value * value;
    }
}

/// Adds the lanes in halves, as vector instructions do.
fn sum_of_lanes([a, b, c, d, e, f, g, h]: &[f64; SUM_LANES]) -> f64 {
    let [a, b, c, d] = [a + e, b + f, c + g, d + h];
    (a + c) + (b + d)
}

/// Decodes weights that share a scale: as many as `decoded` and `data` hold.
#[inline(always)]
fn decode_group(scheme: Scheme, data: &[u8], stored_scale: f16, decoded: &mut [f32]) {
    let scale = stored_scale.to_f32();
    match scheme {
        Scheme::F32 => {
            for (value, bytes) in decoded.iter_mut().zip(data.as_chunks().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        Scheme::F16 => {
            let mut halves = [f16::ZERO; DECODED];
            for (half, bytes) in halves.iter_mut().zip(data.as_chunks().0) {
                *half = f16::from_le_bytes(*bytes);
            }
            halves.convert_to_f32_slice(decoded);
        }
        Scheme::Q8 { .. } => {
            for (value, code) in decoded.iter_mut().zip(data) {
                *value = f32::from(*code as i8) * scale;
            }
        }
        Scheme::Q4 { .. } => {
            // The formula of `Q4_VALUES` in integers.
            let value = |t: i32| (t * (1376 + 10 * t * t) + 64) >> 7;
            decode_nibbles(data, decoded, |nibble| value(nibble - 8) as f32 * scale);
        }
        Scheme::Int4 { .. } => decode_nibbles(data, decoded, |nibble| (nibble - 8) as f32 * scale),
        Scheme::Q4Z { .. } => {
            let zero = zero_point(stored_scale);
            decode_nibbles(data, decoded, |nibble| (nibble as f32 - zero) * scale);
        }
    }
}

#[inline(always)]
fn decode_nibbles(data: &[u8], decoded: &mut [f32], value: impl Fn(i32) -> f32) {
    for (values, word) in decoded.as_chunks_mut::<8>().0.iter_mut().zip(data.as_chunks::<4>().0) {
        for byte in 0..4 {
            values[byte] = value(i32::from(word[byte] & 0xf));
            values[byte + 4] = value(i32::from(word[byte] >> 4));
        }
    }
}

/// Returns the nibble of one column of a stored row.
fn nibble(row: &[u8], col: usize) -> u8 {
    let word = u32::from_le_bytes(std::array::from_fn(|i| row[col / 8 * 4 + i]));
    unpack_q4(word)[col % 8]
}

/// Packs eight nibbles into a word, in the order that the module documentation shows.
pub fn pack_q4(nibbles: [u8; 8]) -> u32 {
    (0..8).fold(0, |word, i| word | u32::from(nibbles[i] & 0xf) << (i % 4 * 8 + i / 4 * 4))
}

/// Unpacks a word of eight nibbles; the inverse of [`pack_q4`].
pub fn unpack_q4(word: u32) -> [u8; 8] {
    std::array::from_fn(|i| (word >> (i % 4 * 8 + i / 4 * 4) & 0xf) as u8)
}

/// Returns the nearest code; of two, the one of larger magnitude. `f32::round` gives the same and is a function call in wasm.
#[inline(always)]
fn nearest_code(weight: f32, scale: f32, min: i32, max: i32) -> i32 {
    if scale == 0.0 {
        return 0;
    }
    // Beyond every code: the sum below cannot overflow.
    let scaled = (weight / scale).clamp(-1000.0, 1000.0);
    let whole = scaled as i32;
    let rest = scaled - whole as f32;
    (whole + i32::from(rest >= 0.5) - i32::from(rest <= -0.5)).clamp(min, max)
}

fn inverse_scale(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

fn q8_scale(group: &[f32]) -> f16 {
    let largest = group.iter().fold(0.0f32, |largest, weight| largest.max(weight.abs()));
    to_f16_finite(largest / 127.0)
}

/// Returns the scale that maps the weight of largest magnitude to the code −8, which has no positive counterpart.
fn int4_scale(group: &[f32]) -> f16 {
    let largest = group.iter().fold(0.0f32, |largest, weight| if weight.abs() > largest.abs() { *weight } else { largest });
    to_f16_finite(largest / -8.0)
}

/// Appends the scale and the codes of a group.
#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "the compiler cannot see that the processor has AVX2"))]
fn encode_group(scheme: Scheme, group: &[f32], padding: bool, encoded: &mut EncodedRows) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the feature that the function is compiled for.
        return unsafe { encode_group_avx2(scheme, group, padding, encoded) };
    }
    encode_group_portable(scheme, group, padding, encoded);
}

/// The same code for wider vectors. Results are equal bit for bit: the order of all additions is written down, and nothing is fused.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn encode_group_avx2(scheme: Scheme, group: &[f32], padding: bool, encoded: &mut EncodedRows) {
    encode_group_portable(scheme, group, padding, encoded);
}

#[inline(always)]
fn encode_group_portable(scheme: Scheme, group: &[f32], padding: bool, encoded: &mut EncodedRows) {
    let scale = match scheme {
        Scheme::Q8 { .. } => q8_scale(group),
        Scheme::Q4 { .. } => q4::q4_scale(group),
        Scheme::Int4 { .. } => int4_scale(group),
        Scheme::Q4Z { .. } => q4z::q4z_scale(group, if padding { ZeroPoints::WHOLE } else { ZeroPoints::ALL }),
        Scheme::F32 | Scheme::F16 => unreachable!("float schemes have no groups"),
    };
    encoded.scales.extend(scale.to_le_bytes());
    let zero = zero_point(scale);
    let scale = scale.to_f32();
    if let Scheme::Q8 { .. } = scheme {
        let at = encoded.data.len();
        encoded.data.resize(at + group.len(), 0);
        for (code, weight) in encoded.data[at..].iter_mut().zip(group) {
            *code = nearest_code(*weight, scale, -127, 127) as u8;
        }
        return;
    }
    let inverse = inverse_scale(scale);
    for eight in group.as_chunks::<8>().0 {
        let nibbles = match scheme {
            Scheme::Q4 { .. } => eight.map(|weight| q4::nearest_nibble(weight * inverse)),
            Scheme::Q4Z { .. } => eight.map(|weight| q4z::nearest_nibble(weight * inverse + zero) as u8),
            _ => eight.map(|weight| (nearest_code(weight, scale, -8, 7) + 8) as u8),
        };
        encoded.data.extend(pack_q4(nibbles).to_le_bytes());
    }
}

/// Converts a scale to f16 and clamps it to the finite range. No checkpoint has weights that need larger scales.
fn to_f16_finite(value: f32) -> f16 {
    f16::from_f32(value.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(len: usize) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * 0.7).sin() * (1.0 + (i % 13) as f32)).collect()
    }

    #[test]
    fn schemes_in_a_manifest() {
        for (json, scheme) in [
            (r#"{"type":"f32"}"#, Scheme::F32),
            (r#"{"type":"f16"}"#, Scheme::F16),
            (r#"{"type":"q8","group_size":32}"#, Scheme::Q8 { group_size: 32 }),
            (r#"{"type":"q4","group_size":64}"#, Scheme::Q4 { group_size: 64 }),
            (r#"{"type":"int4","group_size":128}"#, Scheme::Int4 { group_size: 128 }),
            (r#"{"type":"q4z","group_size":32}"#, Scheme::Q4Z { group_size: 32 }),
        ] {
            assert_eq!(serde_json::to_string(&scheme).unwrap(), json);
            assert_eq!(serde_json::from_str::<Scheme>(json).unwrap(), scheme);
        }
        for (json, problem) in [
            (r#"{"type":"q4"}"#, "missing field `group_size`"),
            (r#"{"type":"q5","group_size":32}"#, "unknown variant `q5`"),
            (r#"{"group_size":32}"#, "missing field `type`"),
        ] {
            let error = serde_json::from_str::<Scheme>(json).unwrap_err().to_string();
            assert!(error.starts_with(problem), "{json}: {error}");
        }
    }

    #[test]
    fn q4_words_round_trip() {
        let nibbles = [0, 1, 7, 8, 9, 10, 14, 15];
        assert_eq!(unpack_q4(pack_q4(nibbles)), nibbles);
        // As in the module documentation: w0 in the lowest nibble, w4 in the next.
        assert_eq!(pack_q4([1, 0, 0, 0, 2, 0, 0, 0]), 0x0000_0021);
    }

    #[test]
    fn q4_values_are_those_of_the_formula() {
        for (nibble, value) in (0i8..).zip(Q4_VALUES) {
            let t = f32::from(nibble - 8);
            assert_eq!((t * (10.75 + 0.078125 * t * t) + 0.5).floor(), f32::from(value));
        }
    }

    /// All schemes with groups, in groups of all sizes.
    fn grouped() -> impl Iterator<Item = Scheme> {
        let of_size =
            |group_size| [Scheme::Q8 { group_size }, Scheme::Q4 { group_size }, Scheme::Int4 { group_size }, Scheme::Q4Z { group_size }];
        GROUP_SIZES.into_iter().flat_map(of_size)
    }

    #[test]
    fn vector_code_gives_the_same_bits() {
        for scheme in grouped() {
            let (mut portable, mut chosen) = (EncodedRows::default(), EncodedRows::default());
            for group in wave(64 * 128).chunks(128).chain([[0.0; 128].as_slice(), &[1e-30; 128], &[6e4; 128], &[f32::MAX; 128]]) {
                for padding in [false, true] {
                    encode_group_portable(scheme, group, padding, &mut portable);
                    encode_group(scheme, group, padding, &mut chosen);
                }
            }
            assert_eq!(portable, chosen, "{scheme:?}");
            let mut scales = portable.scales.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes));
            assert!(scales.all(f16::is_finite), "{scheme:?}");
        }
    }

    #[test]
    fn measured_errors_are_those_of_the_decoded_weights() {
        for cols in [1, 8, 70, 128, 300] {
            let weights = wave(5 * cols);
            for scheme in grouped().chain([Scheme::F32, Scheme::F16]) {
                let (encoded, sums) = encode_rows_measured(scheme, &weights, cols);
                assert_eq!(encoded, encode_rows(scheme, &weights, cols));
                let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
                let decoded = decode_rows(scheme, &encoded, cols);
                let error = squares(&mut weights.iter().zip(&decoded).map(|(weight, stored)| f64::from(*stored) - f64::from(*weight)));
                let weight = squares(&mut weights.iter().copied().map(f64::from));
                assert!((sums.error - error).abs() <= 1e-12 * error, "{scheme:?}, {cols} columns: {} and {error}", sums.error);
                assert!((sums.weight - weight).abs() <= 1e-12 * weight, "{scheme:?}, {cols} columns: {} and {weight}", sums.weight);
                let mut portable = Sums::default();
                let (data_bytes, scale_bytes) = (scheme.row_data_bytes(cols), scheme.row_scale_bytes(cols));
                for (index, row) in weights.chunks_exact(cols).enumerate() {
                    let (data, scales) = (&encoded.data[index * data_bytes..], &encoded.scales[index * scale_bytes..]);
                    portable.add_row_portable(scheme, row, &data[..data_bytes], &scales[..scale_bytes]);
                }
                assert_eq!(sums, portable.total(), "{scheme:?}, {cols} columns");
                assert_eq!(error == 0.0, scheme == Scheme::F32, "{scheme:?}, {cols} columns: {error}");
            }
        }
    }

    #[test]
    fn q4_error_on_a_bell_curve_is_below_even_steps() {
        // Sums of four uniforms; even steps with the same search leave 0.080 there, plain rounding of Q4_0 0.086.
        let mut random = fastrand::Rng::with_seed(1);
        let mut uniform = || random.f32() - 0.5;
        let weights: Vec<f32> = (0..64 * 1024).map(|_| uniform() + uniform() + uniform() + uniform()).collect();
        let scheme = Scheme::Q4 { group_size: 32 };
        let decoded = decode_rows(scheme, &encode_rows(scheme, &weights, 1024), 1024);
        let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
        let error = squares(&mut weights.iter().zip(&decoded).map(|(weight, decoded)| weight - decoded));
        let relative = (error / squares(&mut weights.iter().copied())).sqrt();
        assert!(relative < 0.0745, "relative error {relative}");
    }

    #[test]
    fn float_schemes_are_exact_on_their_own_values() {
        let weights: Vec<f32> = wave(3 * 70).iter().map(|value| f16::from_f32(*value).to_f32()).collect();
        for scheme in [Scheme::F32, Scheme::F16] {
            assert_eq!(decode_rows(scheme, &encode_rows(scheme, &weights, 70), 70), weights);
        }
    }

    #[test]
    fn codes_are_near_their_weights() {
        let cols = 70;
        let weights = wave(3 * cols);
        for group_size in GROUP_SIZES {
            // Half a step of 127; the widest gap of the 4-bit values is 24 of 126, and the search may put its end 15 % inside.
            // Even steps of 8: half a step, and a whole one at the end without the code +8.
            for (scheme, bound) in [
                (Scheme::Q8 { group_size }, 0.5 / 127.0),
                (Scheme::Q4 { group_size }, 0.15),
                (Scheme::Int4 { group_size }, 1.0 / 8.0),
                (Scheme::Q4Z { group_size }, 0.15),
            ] {
                let encoded = encode_rows(scheme, &weights, cols);
                assert_eq!(encoded.data.len(), 3 * scheme.row_data_bytes(cols));
                assert_eq!(encoded.scales.len(), 3 * scheme.row_scale_bytes(cols));
                let decoded = decode_rows(scheme, &encoded, cols);
                for (row, row_decoded) in weights.chunks(cols).zip(decoded.chunks(cols)) {
                    for (group, group_decoded) in row.chunks(group_size as usize).zip(row_decoded.chunks(group_size as usize)) {
                        let largest = group.iter().fold(0.0f32, |largest, weight| largest.max(weight.abs()));
                        for (weight, decoded) in group.iter().zip(group_decoded) {
                            // f16 rounds the scale by 2^-11.
                            let bound = largest * (bound + 1.0 / 1024.0);
                            assert!((weight - decoded).abs() <= bound, "{scheme:?}: {weight} became {decoded}, bound {bound}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn zero_groups_stay_zero() {
        for scheme in grouped() {
            assert!(decode_rows(scheme, &encode_rows(scheme, &[0.0; 64], 64), 64).iter().all(|weight| *weight == 0.0));
        }
    }
}
