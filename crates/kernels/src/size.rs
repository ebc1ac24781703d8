//! Byte sizes in 64-bit arithmetic that cannot wrap.
//!
//! `usize` has 32 bits in wasm, and a context of 262,144 positions of the published model already passes 4 GiB a layer. So dimensions are
//! widened before they are multiplied. A size that passes 64 bits saturates at `u64::MAX`: every limit refuses it.

use qwen_vl_format::{ROW_ALIGN, Scheme};

/// Returns the product of `factors`.
pub fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1, |product, factor| product.saturating_mul(*factor as u64))
}

/// Returns the bytes of f32 rows `[rows, cols]`, each padded to [`qwen_vl_format::padded`] columns.
pub fn rows(rows: usize, cols: usize) -> u64 {
    let stride = (cols as u64).checked_next_multiple_of(ROW_ALIGN as u64).unwrap_or(u64::MAX);
    product(&[rows, 4]).saturating_mul(stride)
}

/// Returns the bytes of a weight `[rows, cols]`: of its values or codes, and of its scales (0 for float schemes).
pub fn weight(scheme: Scheme, rows: usize, cols: usize) -> [u64; 2] {
    [scheme.row_data_bytes(cols), scheme.row_scale_bytes(cols)].map(|row_bytes| product(&[rows, row_bytes]))
}

/// Returns the size of the storage buffer that holds `bytes`: whole vectors of 16 bytes, at least one.
pub fn storage(bytes: u64) -> u64 {
    bytes.max(1).checked_next_multiple_of(16).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{product, rows, storage, weight};
    use crate::KvCache;
    use crate::KvFormat::{F16, F32, Q8};
    use crate::attention::split_bytes;
    use qwen_vl_format::Scheme;

    /// 32-bit products of these dimensions wrap: to 0 for 262,144 positions in f32.
    #[test]
    fn sizes_of_the_published_geometry_pass_32_bits() {
        for (positions, format, want) in [
            (262_144, F32, 4_294_967_296),
            (300_000, F32, 4_915_200_000),
            (300_000, F16, 2_457_600_000),
            (300_000, Q8, 1_267_200_000),
            (1 << 24, Q8, 70_866_960_384),
        ] {
            assert_eq!(KvCache::size(positions, 32, 128, format), want, "{positions} positions in {format:?}");
        }
        assert_eq!(rows(300_000, 4096), 4_915_200_000);
        assert_eq!(rows(262_144, 4095), 4_294_967_296);
        assert_eq!(product(&[300_000, 4096, 4]), 4_915_200_000);
        assert_eq!(weight(Scheme::F32, 1 << 20, 11_008), [46_170_898_432, 0]);
        assert_eq!(split_bytes(1 << 24, 128), 283_467_841_536);
    }

    /// The same one word further up, where native `usize` would wrap as it does in wasm at 32 bits.
    #[test]
    fn sizes_past_64_bits_saturate() {
        for format in [F32, F16, Q8] {
            assert_eq!(KvCache::size(usize::MAX, 32, 128, format), u64::MAX, "{format:?}");
        }
        assert_eq!(rows(usize::MAX, 4096), u64::MAX);
        assert_eq!(rows(2, usize::MAX), u64::MAX);
        assert_eq!(product(&[usize::MAX, 2, 8]), u64::MAX);
        assert_eq!(weight(Scheme::Q4 { group_size: 32 }, usize::MAX, 4096), [u64::MAX; 2]);
        assert_eq!(split_bytes(usize::MAX, 128), u64::MAX);
        assert_eq!(storage(u64::MAX), u64::MAX);
    }

    #[test]
    fn storage_is_whole_vectors() {
        assert_eq!([0, 1, 16, 17].map(storage), [16, 16, 16, 32]);
    }
}
