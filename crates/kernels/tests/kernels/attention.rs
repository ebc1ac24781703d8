//! The attention of many rows and of one.

use crate::bounds::{self, AttentionSteps};
use crate::support::{assert_padding_zero, assert_within, gpu, read, rows, run, vector};
use qwen_vl_kernels::attention::{self, Attention, Heads, Source, oracle};
use qwen_vl_kernels::rotary::{self, PositionTables};
use qwen_vl_kernels::{Activation, Gpu, Kernels, KvCache, KvFormat, StepBuffer};
use qwen_vl_testkit::closeness::noise;

/// Values of an attention, as the oracle takes them.
struct Operands<'a> {
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    heads: usize,
    head_dim: usize,
    causal_start: Option<usize>,
}

impl Operands<'_> {
    /// Returns the oracle's result with the bounds of each value.
    fn expected(&self) -> (Vec<f32>, Vec<f64>) {
        let Self { queries, keys, heads, head_dim, causal_start, .. } = *self;
        let of = |values: &[f32]| oracle::attention(queries, keys, values, heads, head_dim, causal_start);
        let magnitudes: Vec<f32> = self.values.iter().map(|value| value.abs()).collect();
        let steps = AttentionSteps { head_dim, keys: keys.len() / (heads * head_dim) };
        let bounds = bounds::of_attention(steps, bounds::largest_score(queries, keys, head_dim), &of(&magnitudes));
        (of(self.values), bounds)
    }
}

fn heads_of(rows: &Activation) -> Heads<'_> {
    Heads { rows, first_col: 0 }
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
    // rows, keys, heads, head_dim, position of the first row if causal
    let cases = [
        (70, 70, 2, 104, None),
        (256, 130, 1, 128, None),
        (5, 37, 3, 24, None),
        (1, 1, 2, 32, Some(0)),
        (67, 67, 2, 128, Some(0)),
        (20, 100, 4, 32, Some(80)),
        (65, 80, 2, 16, Some(15)),
        // Several times the keys that the kernel of one row takes at a time, also in each slice.
        (2, 1100, 1, 16, Some(1098)),
    ];
    for (m, keys, heads, head_dim, causal_start) in cases {
        check_attention_case(&gpu, m, keys, heads, head_dim, causal_start);
    }
}

fn check_attention_case(gpu: &Gpu, m: usize, keys: usize, heads: usize, head_dim: usize, causal_start: Option<usize>) {
    let width = heads * head_dim;
    let what = format!("{m} rows, {keys} keys, {heads} heads of {head_dim}, causal from {causal_start:?}, {}", gpu.kernels());
    let (q, k, v) = (noise(3, m * width), noise(5, keys * width), noise(7, keys * width));
    let (want, bounds) = Operands { queries: &q, keys: &k, values: &v, heads, head_dim, causal_start }.expected();
    let (q_rows, k_rows, v_rows) = (rows(gpu, m, width, &q), rows(gpu, keys, width, &k), rows(gpu, keys, width, &v));
    let output = gpu.activation("out", m, width).unwrap();
    let launch = Attention {
        queries: heads_of(&q_rows),
        keys: heads_of(&k_rows).into(),
        values: heads_of(&v_rows).into(),
        output: &output,
        heads,
        head_dim,
        causal: causal_start.is_some(),
    };
    let step = StepBuffer::new(gpu);
    step.write(gpu, m, causal_start.unwrap_or(0), keys);
    run(gpu, &[attention::attention(gpu, &step, launch)], m);
    assert_within(&read(gpu, &output, m), &want, &bounds, &what);

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
}

#[test]
fn attention_reads_slices_of_one_buffer() {
    let gpu = gpu(Kernels::PLAIN);
    let step = StepBuffer::new(&gpu);
    let (m, heads, head_dim) = (40, 2, 24);
    let width = heads * head_dim;
    let qkv = noise(3, m * 3 * width);
    let part = |third: usize| -> Vec<f32> { qkv.chunks_exact(3 * width).flat_map(|row| row[third * width..][..width].to_vec()).collect() };
    let [q, k, v] = [0, 1, 2].map(part);
    let (want, bounds) = Operands { queries: &q, keys: &k, values: &v, heads, head_dim, causal_start: None }.expected();
    let qkv_rows = rows(&gpu, m, 3 * width, &qkv);
    let output = gpu.activation("out", m, width).unwrap();
    let heads_at = |third: usize| Heads { rows: &qkv_rows, first_col: third * width };
    let launch = Attention {
        queries: heads_at(0),
        keys: heads_at(1).into(),
        values: heads_at(2).into(),
        output: &output,
        heads,
        head_dim,
        causal: false,
    };
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
    let gpu = gpu(Kernels::PLAIN);
    let step = StepBuffer::new(&gpu);
    let (m, heads, head_dim, context) = (40, 2, 32, 48);
    let hidden = heads * head_dim;
    let no_rotation: Vec<[f32; 2]> = vec![[1.0, 0.0]; context * head_dim / 2];
    let tables = PositionTables { angles: vector(&gpu, bytemuck::cast_slice(&no_rotation)), logn: vector(&gpu, &vec![1.0; context]) };
    let qkv_rows = rows(&gpu, m, 3 * hidden, &noise(3, m * 3 * hidden));
    let cache = || KvCache::new(&gpu, "cache", context, heads, head_dim, format).unwrap();
    let (keys, values) = (cache(), cache());
    let (output, decoded) = (gpu.activation("out", m, hidden).unwrap(), gpu.activation("out", 1, hidden).unwrap());
    let q = noise(5, m * hidden);
    let queries = rows(&gpu, m, hidden, &q);
    let launch = Attention {
        queries: heads_of(&queries),
        keys: Source::Cache(&keys),
        values: Source::Cache(&values),
        output: &output,
        heads,
        head_dim,
        causal: true,
    };
    step.write(&gpu, m, 0, m);
    run(&gpu, &[rotary::rotary(&gpu, &step, &tables, &qkv_rows, &keys, &values), attention::attention(&gpu, &step, launch)], m);
    // The oracle takes what the cache holds after its rounding.
    let [k, v] = [&keys, &values].map(|cache| pollster::block_on(cache.read(&gpu, m)).unwrap());
    let (want, bounds) = Operands { queries: &q, keys: &k, values: &v, heads, head_dim, causal_start: Some(0) }.expected();
    assert_within(&read(&gpu, &output, m), &want, &bounds, "many rows");

    let last = (m - 1) * hidden;
    let one = rows(&gpu, 1, hidden, &q[last..]);
    let launch = Attention { queries: heads_of(&one), output: &decoded, ..launch };
    step.write(&gpu, 1, m - 1, m);
    run(&gpu, &[attention::attention_decode(&gpu, &step, launch)], 1);
    assert_within(&read(&gpu, &decoded, 1), &want[last..], &bounds[last..], "one row");
}
