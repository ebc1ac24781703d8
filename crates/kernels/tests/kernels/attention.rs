//! The attention of many rows and of one.

use crate::bounds::{self, AttentionSteps};
use crate::support::{assert_padding_zero, assert_within, gpu, read, rows, run, vector};
use qwen_vl_kernels::attention::oracle::{self, Shape};
use qwen_vl_kernels::attention::{self, Attention, Heads, Source, Span};
use qwen_vl_kernels::rotary::{self, PositionTables};
use qwen_vl_kernels::{Activation, Gpu, Kernels, KvCache, KvFormat, StepBuffer};
use qwen_vl_testkit::closeness::noise;
use std::ops::Range;

/// Values of an attention, as the oracle takes them.
struct Operands<'a> {
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    shape: Shape,
    /// Keys of a row.
    span: &'a dyn Fn(usize) -> Range<usize>,
}

impl Operands<'_> {
    /// Returns the oracle's result with the bounds of each value.
    fn expected(&self) -> (Vec<f32>, Vec<f64>) {
        let Self { queries, keys, shape, span, .. } = *self;
        let of = |values: &[f32]| oracle::attention(queries, keys, values, shape, span);
        let magnitudes: Vec<f32> = self.values.iter().map(|value| value.abs()).collect();
        let Shape { kv_heads, head_dim, .. } = shape;
        let steps = AttentionSteps { head_dim, keys: keys.len() / (kv_heads * head_dim) };
        let bounds = bounds::of_attention(steps, bounds::largest_score(queries, keys, head_dim), &of(&magnitudes));
        (of(self.values), bounds)
    }
}

fn heads_of(rows: &Activation) -> Heads<'_> {
    Heads { rows, first_col: 0 }
}

const fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> Shape {
    Shape { heads, kv_heads, head_dim }
}

mod attention_matches_oracle {
    use super::*;

    #[test]
    fn plain() {
        check_attention(Kernels::PLAIN);
    }

    #[test]
    fn cpu() {
        check_attention(Kernels::CPU);
    }

    #[test]
    fn subgroups() {
        check_attention(Kernels::SUBGROUPS);
    }
}

fn check_attention(kernels: Kernels) {
    let gpu = gpu(kernels);
    // Rows, keys, heads, position of the first row if causal.
    let cases = [
        (70, 70, shape(2, 2, 104), None),
        (256, 130, shape(1, 1, 128), None),
        (5, 37, shape(3, 3, 24), None),
        (1, 1, shape(2, 2, 32), Some(0)),
        (67, 67, shape(2, 2, 128), Some(0)),
        (20, 100, shape(4, 4, 32), Some(80)),
        (65, 80, shape(2, 2, 16), Some(15)),
        // Several times the keys that the kernel of one row takes at a time, also in each slice.
        (2, 1100, shape(1, 1, 16), Some(1098)),
    ];
    for (m, keys, shape, causal_start) in cases {
        check_attention_case(&gpu, m, keys, shape, causal_start);
    }
}

mod attention_of_groups_matches_oracle {
    use super::*;

    #[test]
    fn plain() {
        check_groups(Kernels::PLAIN);
    }

    #[test]
    fn cpu() {
        check_groups(Kernels::CPU);
    }

    #[test]
    fn subgroups() {
        check_groups(Kernels::SUBGROUPS);
    }
}

/// Checks heads of queries that share heads of keys. All sets compute groups of 6 and 7 and several tiles of keys; `PLAIN` also the other
/// groups of the published models and of the goldens, one that the kernel of one row splits (12), and one that it cannot split (11).
fn check_groups(kernels: Kernels) {
    let gpu = gpu(kernels);
    let mut cases =
        vec![(33, 90, shape(12, 2, 32), Some(57)), (19, 150, shape(14, 2, 128), Some(131)), (2, 1100, shape(6, 1, 16), Some(1098))];
    if kernels == Kernels::PLAIN {
        cases.extend([
            (1, 1, shape(2, 1, 32), Some(0)),
            (67, 67, shape(4, 2, 128), Some(0)),
            (9, 75, shape(16, 2, 64), None),
            (33, 40, shape(4, 1, 8), Some(7)),
            (7, 20, shape(12, 1, 24), Some(13)),
            (7, 20, shape(11, 1, 8), Some(13)),
        ]);
    }
    for (m, keys, shape, causal_start) in cases {
        check_attention_case(&gpu, m, keys, shape, causal_start);
    }
}

mod attention_of_wide_heads_matches_oracle {
    use super::*;

    #[test]
    fn plain() {
        check_wide_heads(Kernels::PLAIN);
    }

    #[test]
    fn cpu() {
        check_wide_heads(Kernels::CPU);
    }

    #[test]
    fn subgroups() {
        check_wide_heads(Kernels::SUBGROUPS);
    }
}

/// Checks heads that are wider than one pass of the kernel of many rows, and have more vectors than the kernel of one row has lanes.
fn check_wide_heads(kernels: Kernels) {
    let gpu = gpu(kernels);
    let cases = [
        (70, 33, shape(2, 2, 192), None),
        (20, 41, shape(2, 2, 132), Some(21)),
        (9, 140, shape(8, 1, 256), Some(131)),
        (5, 12, shape(6, 2, 208), Some(7)),
    ];
    for (m, keys, shape, causal_start) in cases {
        check_attention_case(&gpu, m, keys, shape, causal_start);
    }
}

fn check_attention_case(gpu: &Gpu, m: usize, keys: usize, shape: Shape, causal_start: Option<usize>) {
    let Shape { heads, kv_heads, head_dim } = shape;
    let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let what = format!("{m} rows, {keys} keys, {shape:?}, causal from {causal_start:?}, {}", gpu.kernels());
    let (q, k, v) = (noise(3, m * width), noise(5, keys * kv_width), noise(7, keys * kv_width));
    let span = |row| 0..causal_start.map_or(keys, |start| start + row + 1);
    let (want, bounds) = Operands { queries: &q, keys: &k, values: &v, shape, span: &span }.expected();
    let (q_rows, k_rows, v_rows) = (rows(gpu, m, width, &q), rows(gpu, keys, kv_width, &k), rows(gpu, keys, kv_width, &v));
    let output = gpu.activation("out", m, width).unwrap();
    let launch = Attention {
        queries: heads_of(&q_rows),
        keys: heads_of(&k_rows).into(),
        values: heads_of(&v_rows).into(),
        output: &output,
        heads,
        kv_heads,
        head_dim,
        span: if causal_start.is_some() { Span::Causal } else { Span::All },
    };
    let step = StepBuffer::new(gpu);
    step.write(gpu, m, causal_start.unwrap_or(0), keys);
    run(gpu, &[attention::attention(gpu, &step, launch)], m);
    assert_within(&read(gpu, &output, m), &want, &bounds, &what);
    assert_padding_zero(gpu, &output, &what);

    // The kernel of one row gives the last row.
    let last = (m - 1) * width;
    let one = rows(gpu, 1, width, &q[last..]);
    let decoded = gpu.activation("out", 1, width).unwrap();
    let launch = Attention { queries: heads_of(&one), output: &decoded, ..launch };
    step.write(gpu, 1, keys - 1, keys);
    run(gpu, &[attention::attention_decode(gpu, &step, launch)], 1);
    assert_within(&read(gpu, &decoded, 1), &want[last..], &bounds[last..], &format!("one row: {what}"));
    // Some slices are empty if there are fewer keys than slices.
    let partial = gpu.storage("partial", attention::split_bytes(heads, head_dim)).unwrap();
    gpu.write_rows(&decoded, &vec![9.0; width]);
    run(gpu, &attention::attention_split(gpu, &step, launch, &partial), 1);
    assert_within(&read(gpu, &decoded, 1), &want[last..], &bounds[last..], &format!("one row in slices: {what}"));
    assert_padding_zero(gpu, &decoded, &what);
}

mod attention_in_segments_matches_oracle {
    use super::*;

    #[test]
    fn plain() {
        check_segments(Kernels::PLAIN);
    }

    #[test]
    fn cpu() {
        check_segments(Kernels::CPU);
    }

    #[test]
    fn subgroups() {
        check_segments(Kernels::SUBGROUPS);
    }
}

/// Checks rows that attend to the rows of their segment. Segments are whole workgroups, or several of them share one, or one is longer than a
/// tile of keys and begins within a workgroup.
fn check_segments(kernels: Kernels) {
    let gpu = gpu(kernels);
    let cases = [
        (&[64, 64, 64, 64][..], shape(2, 2, 80)),
        (&[64, 32, 16, 8, 64, 4, 12, 4], shape(1, 1, 24)),
        (&[1, 2, 3, 100, 1, 1], shape(2, 2, 32)),
        (&[7, 150, 30], shape(4, 2, 16)),
        (&[3, 40, 5], shape(1, 1, 192)),
    ];
    for (lengths, shape) in cases {
        let segments: Vec<Range<usize>> = lengths
            .iter()
            .scan(0, |end, length| {
                *end += length;
                Some(*end - length..*end)
            })
            .collect();
        let spans: Vec<Range<usize>> = segments.iter().flat_map(|segment| vec![segment.clone(); segment.len()]).collect();
        let m = spans.len();
        let what = format!("segments of {lengths:?}, {shape:?}, {kernels}");
        let Shape { heads, kv_heads, head_dim } = shape;
        let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let (q, k, v) = (noise(3, m * width), noise(5, m * kv_width), noise(7, m * kv_width));
        let (want, bounds) = Operands { queries: &q, keys: &k, values: &v, shape, span: &|row| spans[row].clone() }.expected();
        let (q_rows, k_rows, v_rows) = (rows(&gpu, m, width, &q), rows(&gpu, m, kv_width, &k), rows(&gpu, m, kv_width, &v));
        let output = gpu.activation("out", m, width).unwrap();
        let buffer = gpu.storage("segments", 8 * m as u64).unwrap();
        let words: Vec<[u32; 2]> = spans.iter().map(|span| [span.start as u32, span.end as u32]).collect();
        gpu.queue().write_buffer(&buffer, 0, bytemuck::cast_slice(&words));
        let launch = Attention {
            queries: heads_of(&q_rows),
            keys: heads_of(&k_rows).into(),
            values: heads_of(&v_rows).into(),
            output: &output,
            heads,
            kv_heads,
            head_dim,
            span: Span::Segments(&buffer),
        };
        let step = StepBuffer::new(&gpu);
        step.write(&gpu, m, 0, m);
        run(&gpu, &[attention::attention(&gpu, &step, launch)], m);
        assert_within(&read(&gpu, &output, m), &want, &bounds, &what);
        assert_padding_zero(&gpu, &output, &what);
    }
}

/// The workgroups of one row are those of the heads of keys, so that keys and values of a group are read once. Large groups of wide heads do not
/// fit the workgroup memory.
/// Workgroups that [`choose`](qwen_vl_kernels::choose) can choose.
#[test]
fn other_workgroups_of_one_row_compute_the_same() {
    for decode_lanes in [32, 128] {
        let gpu = gpu(Kernels { decode_lanes, ..Kernels::PLAIN });
        for (m, keys, shape, causal_start) in [(19, 150, shape(14, 2, 128), Some(131)), (2, 1100, shape(6, 1, 16), Some(1098))] {
            check_attention_case(&gpu, m, keys, shape, causal_start);
        }
    }
}

#[test]
fn a_workgroup_of_one_row_computes_a_whole_group() {
    for kernels in [Kernels::PLAIN, Kernels::CPU, Kernels::SUBGROUPS] {
        let gpu = gpu(kernels);
        let step = StepBuffer::new(&gpu);
        let groups = [(4, 4), (16, 8), (32, 8), (12, 2), (28, 4), (16, 2)];
        for (head_dim, groups) in [(128, &groups[..]), (256, &groups[..4])] {
            for &(heads, kv_heads) in groups {
                let rows = |heads| gpu.activation("x", 1, heads * head_dim).unwrap();
                let (q, k, v, output) = (rows(heads), rows(kv_heads), rows(kv_heads), rows(heads));
                let (queries, keys, values) = (heads_of(&q), heads_of(&k).into(), heads_of(&v).into());
                let launch = Attention { queries, keys, values, output: &output, heads, kv_heads, head_dim, span: Span::Causal };
                let workgroups = attention::attention_decode(&gpu, &step, launch).describe(1).workgroups;
                assert_eq!(workgroups, [1, kv_heads as u32, 1], "{heads} heads of {head_dim} on {kv_heads}, {kernels}");
            }
        }
    }
}

#[test]
fn attention_reads_slices_of_one_buffer() {
    let gpu = gpu(Kernels::PLAIN);
    let step = StepBuffer::new(&gpu);
    let (m, shape) = (40, shape(4, 2, 24));
    let Shape { heads, kv_heads, head_dim } = shape;
    let parts = [(0, heads), (heads, kv_heads), (heads + kv_heads, kv_heads)];
    let cols = (heads + 2 * kv_heads) * head_dim;
    let qkv = noise(3, m * cols);
    let [q, k, v] = parts.map(|(first, count)| -> Vec<f32> {
        qkv.chunks_exact(cols).flat_map(|row| row[first * head_dim..][..count * head_dim].to_vec()).collect()
    });
    let (want, bounds) = Operands { queries: &q, keys: &k, values: &v, shape, span: &|_| 0..m }.expected();
    let qkv_rows = rows(&gpu, m, cols, &qkv);
    let output = gpu.activation("out", m, heads * head_dim).unwrap();
    let [queries, keys, values] = parts.map(|(first, _)| Heads { rows: &qkv_rows, first_col: first * head_dim });
    let (keys, values) = (keys.into(), values.into());
    let launch = Attention { queries, keys, values, output: &output, heads, kv_heads, head_dim, span: Span::All };
    step.write(&gpu, m, 0, m);
    run(&gpu, &[attention::attention(&gpu, &step, launch)], m);
    assert_within(&read(&gpu, &output, m), &want, &bounds, "qkv in one buffer");
    assert_padding_zero(&gpu, &output, "qkv in one buffer");
}

mod attention_reads_a_cache {
    use super::*;

    #[test]
    fn in_f32() {
        check_cache(KvFormat::F32);
    }

    #[test]
    fn in_f16() {
        check_cache(KvFormat::F16);
    }

    #[test]
    fn in_8_bits() {
        check_cache(KvFormat::Q8);
    }
}

fn check_cache(format: KvFormat) {
    for kernels in [Kernels::PLAIN, Kernels::CPU] {
        let gpu = gpu(kernels);
        for shape in [shape(2, 2, 32), shape(6, 2, 32), shape(2, 1, 192)] {
            check_cache_case(&gpu, format, shape);
        }
    }
}

fn check_cache_case(gpu: &Gpu, format: KvFormat, shape: Shape) {
    let Shape { heads, kv_heads, head_dim } = shape;
    let what = format!("{format:?}, {shape:?}, {}", gpu.kernels());
    let step = StepBuffer::new(gpu);
    let (m, context) = (40, 48);
    let (width, cols) = (heads * head_dim, (heads + 2 * kv_heads) * head_dim);
    let no_rotation: Vec<[f32; 2]> = vec![[1.0, 0.0]; context * head_dim / 2];
    let tables = PositionTables { angles: vector(gpu, bytemuck::cast_slice(&no_rotation)), logn: None };
    let qkv_rows = rows(gpu, m, cols, &noise(3, m * cols));
    let cache = || KvCache::new(gpu, "cache", context, kv_heads, head_dim, format).unwrap();
    let (keys, values) = (cache(), cache());
    let (output, decoded) = (gpu.activation("out", m, width).unwrap(), gpu.activation("out", 1, width).unwrap());
    let q = noise(5, m * width);
    let queries = rows(gpu, m, width, &q);
    let launch = Attention {
        queries: heads_of(&queries),
        keys: Source::Cache(&keys),
        values: Source::Cache(&values),
        output: &output,
        heads,
        kv_heads,
        head_dim,
        span: Span::Causal,
    };
    step.write(gpu, m, 0, m);
    run(gpu, &[rotary::rotary(gpu, &step, &tables, None, &qkv_rows, &keys, &values), attention::attention(gpu, &step, launch)], m);
    // The oracle takes what the cache holds after its rounding.
    let [k, v] = [&keys, &values].map(|cache| pollster::block_on(cache.read(gpu, m)).unwrap());
    let (want, bounds) = Operands { queries: &q, keys: &k, values: &v, shape, span: &|row| 0..row + 1 }.expected();
    assert_within(&read(gpu, &output, m), &want, &bounds, &format!("many rows, {what}"));

    let last = (m - 1) * width;
    let one = rows(gpu, 1, width, &q[last..]);
    let launch = Attention { queries: heads_of(&one), output: &decoded, ..launch };
    step.write(gpu, 1, m - 1, m);
    run(gpu, &[attention::attention_decode(gpu, &step, launch)], 1);
    assert_within(&read(gpu, &decoded, 1), &want[last..], &bounds[last..], &format!("one row, {what}"));
    let partial = gpu.storage("partial", attention::split_bytes(heads, head_dim)).unwrap();
    gpu.write_rows(&decoded, &vec![9.0; width]);
    run(gpu, &attention::attention_split(gpu, &step, launch, &partial), 1);
    assert_within(&read(gpu, &decoded, 1), &want[last..], &bounds[last..], &format!("one row in slices, {what}"));
}
