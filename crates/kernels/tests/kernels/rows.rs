//! Kernels that work row by row: norm, add, taps, rotary; and views of rows.

use crate::bounds::{self, U};
use crate::support::{assert_padding_zero, assert_within, gpu, read, rows, run, vector};
use qwen_vl_kernels::norm::{self, Norm};
use qwen_vl_kernels::rotary::{self, HeadNorms, PositionTables};
use qwen_vl_kernels::taps::{self, Taps};
use qwen_vl_kernels::{Gpu, Kernels, KvCache, KvFormat, StepBuffer, add};
use qwen_vl_testkit::closeness::noise;
use std::panic::{AssertUnwindSafe, catch_unwind};

mod norm_matches_oracle {
    use super::*;

    #[test]
    fn plain() {
        check_norm(Kernels::PLAIN);
    }

    #[test]
    fn subgroups() {
        check_norm(Kernels::SUBGROUPS);
    }
}

fn check_norm(kernels: Kernels) {
    let gpu = gpu(kernels);
    let step = StepBuffer::new(&gpu);
    for (m, cols) in [(1, 32), (5, 208), (3, 1664), (2, 70)] {
        // A mean far from zero: a variance computed from squares would lose it.
        let x: Vec<f32> = noise(3, m * cols).iter().map(|x| x + 30.0).collect();
        let weight: Vec<f32> = noise(5, cols);
        let bias = noise(9, cols);
        for layer_norm in [true, false] {
            let what = format!("{m} rows of {cols}, LayerNorm {layer_norm}, {kernels}");
            let bias = layer_norm.then_some(&bias[..]);
            let want = norm::oracle::norm(&x, &weight, bias, 1e-6);
            let gpu_norm = Norm { weight: vector(&gpu, &weight), bias: bias.map(|bias| vector(&gpu, bias)), epsilon: 1e-6 };
            let (input, output) = (rows(&gpu, m, cols, &x), gpu.activation("out", m, cols).unwrap());
            step.write(&gpu, m, 0, 0);
            run(&gpu, &[norm::norm(&gpu, &step, &gpu_norm, &input, &output)], m);
            assert_within(&read(&gpu, &output, m), &want, &bounds::of_norm(&x, &weight, bias, 1e-6, bounds::norm_steps(cols)), &what);
            assert_padding_zero(&gpu, &output, &what);
        }
    }
}

#[test]
fn add_adds() {
    let gpu = gpu(Kernels::PLAIN);
    let step = StepBuffer::new(&gpu);
    let (a, b) = (noise(1, 3 * 70), noise(2, 3 * 70));
    let (left, right, output) = (rows(&gpu, 3, 70, &a), rows(&gpu, 3, 70, &b), gpu.activation("out", 3, 70).unwrap());
    step.write(&gpu, 3, 0, 0);
    run(&gpu, &[add::add(&gpu, &step, &left, &right, &output)], 3);
    let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    assert_eq!(read(&gpu, &output, 3), want);
}

#[test]
fn accumulate_adds_in_place() {
    let gpu = gpu(Kernels::PLAIN);
    let step = StepBuffer::new(&gpu);
    let (a, b) = (noise(1, 5 * 70), noise(2, 3 * 70));
    let (output, other) = (rows(&gpu, 5, 70, &a), rows(&gpu, 3, 70, &b));
    step.write(&gpu, 3, 0, 0);
    run(&gpu, &[add::accumulate(&gpu, &step, &output, &other)], 3);
    let want: Vec<f32> = a.iter().zip(b.iter().chain(&[0.0; 2 * 70])).map(|(a, b)| a + b).collect();
    assert_eq!(read(&gpu, &output, 5), want);
    assert_padding_zero(&gpu, &output, "accumulate");
}

#[test]
fn taps_match_the_oracle() {
    let gpu = gpu(Kernels::PLAIN);
    let step = StepBuffer::new(&gpu);
    for (side, m, cols) in [(3, 7, 70), (12, 50, 64), (2, 1, 512)] {
        let (table, before) = (noise(3, side * side * cols), noise(5, m * cols));
        let weights: Vec<[f32; 4]> = noise(7, 4 * m).as_chunks().0.to_vec();
        // The first and the last row of the table, and one row in all four taps.
        let mut indices: Vec<[u32; 4]> =
            (0..m).map(|row| [0, 1, 2, 3].map(|tap| ((row * 5 + tap * side) % (side * side)) as u32)).collect();
        indices[m - 1] = [(side * side - 1) as u32; 4];
        let (on_gpu, output) = (rows(&gpu, side * side, cols, &table), rows(&gpu, m, cols, &before));
        let taps = Taps { indices: words(&gpu, &indices), weights: words(&gpu, &weights) };
        step.write(&gpu, m, 0, 0);
        run(&gpu, &[taps::add_taps(&gpu, &step, &on_gpu, &taps, &output)], m);
        let [mut want, mut sizes] = [before.clone(), before.iter().map(|x| x.abs()).collect()];
        taps::oracle::add_taps(&table, cols, &indices, &weights, &mut want);
        let absolute = |values: &[f32]| -> Vec<f32> { values.iter().map(|x| x.abs()).collect() };
        let positive: Vec<[f32; 4]> = weights.iter().map(|of_row| of_row.map(f32::abs)).collect();
        taps::oracle::add_taps(&absolute(&table), cols, &indices, &positive, &mut sizes);
        // A product, three additions, the addition to the output; one more for the rounding of the oracle.
        let bounds: Vec<f64> = sizes.iter().map(|size| 6.0 * U * f64::from(*size)).collect();
        let what = format!("{m} rows of {cols}, table of {side} x {side}");
        assert_within(&read(&gpu, &output, m), &want, &bounds, &what);
        assert_padding_zero(&gpu, &output, &what);
    }
}

fn words<T: bytemuck::NoUninit>(gpu: &Gpu, values: &[T]) -> wgpu::Buffer {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let buffer = gpu.storage("words", bytes.len() as u64).unwrap();
    gpu.queue().write_buffer(&buffer, 0, bytes);
    buffer
}

#[test]
fn a_view_has_the_same_values() {
    let gpu = gpu(Kernels::PLAIN);
    let values = noise(3, 8 * 64);
    let patches = rows(&gpu, 8, 64, &values);
    let merged = patches.view(2, 256);
    assert_eq!([merged.rows, merged.cols, merged.stride()], [2, 256, 256]);
    assert_eq!(read(&gpu, &merged, 2), values);
    gpu.write_rows(&merged, &values[256..]);
    assert_eq!(read(&gpu, &patches, 4), values[256..]);
    let padded = gpu.activation("padded", 8, 40).unwrap();
    for (activation, rows, cols, part) in
        [(&padded, 2, 160, "[8, 40] as [2, 160] would mix values and padding"), (&patches, 16, 16, "padding"), (&patches, 2, 128, "number")]
    {
        let panic = catch_unwind(AssertUnwindSafe(|| activation.view(rows, cols))).unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.contains(part), "{text}");
    }
}

mod rotary_of_rows_matches_oracle {
    use super::*;

    #[test]
    fn plain() {
        check_rotary_rows(Kernels::PLAIN);
    }

    #[test]
    fn cpu() {
        check_rotary_rows(Kernels::CPU);
    }
}

/// Halves of heads that are multiples of 4, of 2, and odd.
fn check_rotary_rows(kernels: Kernels) {
    let gpu = gpu(kernels);
    let step = StepBuffer::new(&gpu);
    for (heads, head_dim) in [(16, 64), (2, 80), (3, 72), (4, 16), (3, 20), (5, 28), (3, 6)] {
        let m = 5;
        let (width, half) = (heads * head_dim, head_dim / 2);
        let what = format!("{heads} heads of {head_dim}, {kernels}");
        let qkv = noise(3, m * 3 * width);
        let angles: Vec<[f32; 2]> = (0..m * half).map(|i| [(i as f32).cos(), (i as f32).sin()]).collect();
        let qkv_rows = rows(&gpu, m, 3 * width, &qkv);
        // The last row is not one of the step.
        step.write(&gpu, m - 1, 0, 0);
        run(&gpu, &[rotary::rotary_rows(&gpu, &step, &words(&gpu, &angles), &qkv_rows, heads)], m - 1);
        let mut want = qkv.clone();
        for (row, angles) in want.chunks_exact_mut(3 * width).zip(angles.chunks_exact(half)).take(m - 1) {
            rotary::oracle::rotate(&mut row[..2 * width], angles, 1.0);
        }
        // Two products, each at most 1, and their sum are rounded; so is the oracle's result.
        assert_within(&read(&gpu, &qkv_rows, m), &want, &vec![2.0 * 3.0 * U; want.len()], &what);
        let unchanged = |values: &[f32]| -> Vec<f32> {
            let of_row = |(row, values): (usize, &[f32])| values[if row < m - 1 { 2 * width } else { 0 }..].to_vec();
            values.chunks_exact(3 * width).enumerate().flat_map(of_row).collect()
        };
        assert_eq!(unchanged(&read(&gpu, &qkv_rows, m)), unchanged(&qkv), "{what}: values or another row were changed");
        assert_padding_zero(&gpu, &qkv_rows, &what);
    }
}

mod rotary_matches_oracle {
    use super::*;

    #[test]
    fn with_a_cache_in_f32() {
        check_rotary(KvFormat::F32);
    }

    #[test]
    fn with_a_cache_in_f16() {
        check_rotary(KvFormat::F16);
    }

    #[test]
    fn with_a_cache_in_8_bits() {
        check_rotary(KvFormat::Q8);
    }
}

fn check_rotary(format: KvFormat) {
    for kernels in [Kernels::PLAIN, Kernels::CPU] {
        let gpu = gpu(kernels);
        for (heads, kv_heads, head_dim) in [(2, 2, 32), (3, 3, 24), (4, 2, 128), (14, 2, 16), (9, 1, 72), (2, 1, 256)] {
            for (normed, logn) in [(false, true), (true, false)] {
                check_rotary_case(&gpu, format, [heads, kv_heads, head_dim], normed, logn);
            }
        }
    }
}

const EPSILON: f32 = 1e-6;

fn check_rotary_case(gpu: &Gpu, format: KvFormat, [heads, kv_heads, head_dim]: [usize; 3], normed: bool, with_logn: bool) {
    let what = format!("{format:?}, {heads} heads of {head_dim} on {kv_heads}, norm {normed}, log-n {with_logn}, {}", gpu.kernels());
    let step = StepBuffer::new(gpu);
    let (m, start, context) = (5, 3, 16);
    let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let cols = width + 2 * kv_width;
    let qkv = noise(3, m * cols);
    let angles: Vec<[f32; 2]> = (0..context * head_dim / 2).map(|i| [(i as f32).cos(), (i as f32).sin()]).collect();
    let logn: Vec<f32> = (0..context).map(|i| 1.0 + 0.1 * i as f32).collect();
    let tables = PositionTables { angles: vector(gpu, bytemuck::cast_slice(&angles)), logn: with_logn.then(|| vector(gpu, &logn)) };
    let [q_weight, k_weight] = [21, 22].map(|seed| -> Vec<f32> { noise(seed, head_dim).iter().map(|w| 1.0 + 0.5 * w).collect() });
    let norms = HeadNorms { queries: vector(gpu, &q_weight), keys: vector(gpu, &k_weight), epsilon: EPSILON };
    let qkv_rows = rows(gpu, m, cols, &qkv);
    let cache = || KvCache::new(gpu, "cache", context, kv_heads, head_dim, format).unwrap();
    let (keys, values) = (cache(), cache());
    step.write(gpu, m, start, start + m);
    run(gpu, &[rotary::rotary(gpu, &step, &tables, normed.then_some(&norms), &qkv_rows, &keys, &values)], m);
    let got = read(gpu, &qkv_rows, m);
    let of_cache = |cache: &KvCache| pollster::block_on(cache.read(gpu, context)).unwrap();
    let (got_keys, got_values) = (of_cache(&keys), of_cache(&values));
    let largest = |values: &[f32]| f64::from(values.iter().map(|value| value.abs()).fold(0.0, f32::max));
    // The heads after the norm, and the largest bound of a value.
    let after_norm = |heads: &[f32], weight: &[f32]| match normed {
        true => {
            let bounds = bounds::of_norm(heads, weight, None, EPSILON, bounds::head_norm_steps(head_dim));
            (norm::oracle::norm(heads, weight, None, EPSILON), bounds.into_iter().fold(0.0, f64::max))
        }
        false => (heads.to_vec(), 0.0),
    };
    for (row, qkv) in qkv.chunks_exact(cols).enumerate() {
        let position = start + row;
        let angles = &angles[position * head_dim / 2..][..head_dim / 2];
        let scale = if with_logn { logn[position] } else { 1.0 };
        let ((mut q, q_error), (mut k, k_error)) = (after_norm(&qkv[..width], &q_weight), after_norm(&qkv[width..][..kv_width], &k_weight));
        let v = &qkv[width + kv_width..];
        // Two products, their sum and the scale are rounded; the two products are each at most the largest value.
        let rounded = |values: &[f32], error: f64, scale: f32| 2.0 * (largest(values) * 4.0 * U + error) * f64::from(scale);
        let (q_error, k_error) = (rounded(&q, q_error, scale), rounded(&k, k_error, 1.0));
        rotary::oracle::rotate(&mut q, angles, scale);
        rotary::oracle::rotate(&mut k, angles, 1.0);
        let within = |got: &[f32], want: &[f32], bound: f64, part: &str| {
            assert_within(got, want, &vec![bound; want.len()], &format!("{part} of row {row}, {what}"));
        };
        within(&got[row * cols..][..width], &q, q_error, "queries");
        within(&got_keys[position * kv_width..][..kv_width], &k, k_error + bounds::of_cache_format(format, largest(&k)), "keys");
        within(&got_values[position * kv_width..][..kv_width], v, bounds::of_cache_format(format, largest(v)), "values");
    }
    let outside = |values: &[f32]| values[..start * kv_width].iter().chain(&values[(start + m) * kv_width..]).all(|value| *value == 0.0);
    assert!(outside(&got_keys) && outside(&got_values), "{what}: other positions of the cache were written");
    assert_padding_zero(gpu, &qkv_rows, &what);
}
