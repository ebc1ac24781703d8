//! Kernels that work row by row: norm, add, rotary.

use crate::bounds::{self, U};
use crate::support::{assert_padding_zero, assert_within, gpu, read, rows, run, vector};
use qwen_vl_kernels::norm::{self, Norm};
use qwen_vl_kernels::rotary::{self, PositionTables};
use qwen_vl_kernels::{Kernels, KvCache, KvFormat, StepBuffer, add};
use qwen_vl_testkit::closeness::noise;

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
            assert_within(&read(&gpu, &output, m), &want, &bounds::of_norm(&x, &weight, bias, 1e-6), &what);
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
    let gpu = gpu(Kernels::PLAIN);
    let step = StepBuffer::new(&gpu);
    for (heads, head_dim) in [(2, 32), (3, 24)] {
        let (m, start, context) = (5, 3, 16);
        let hidden = heads * head_dim;
        let qkv = noise(3, m * 3 * hidden);
        let angles: Vec<[f32; 2]> = (0..context * head_dim / 2).map(|i| [(i as f32).cos(), (i as f32).sin()]).collect();
        let logn: Vec<f32> = (0..context).map(|i| 1.0 + 0.1 * i as f32).collect();
        let tables = PositionTables { angles: vector(&gpu, bytemuck::cast_slice(&angles)), logn: vector(&gpu, &logn) };
        let qkv_rows = rows(&gpu, m, 3 * hidden, &qkv);
        let cache = || KvCache::new(&gpu, "cache", context, heads, head_dim, format).unwrap();
        let (keys, values) = (cache(), cache());
        step.write(&gpu, m, start, start + m);
        run(&gpu, &[rotary::rotary(&gpu, &step, &tables, &qkv_rows, &keys, &values)], m);
        let got = read(&gpu, &qkv_rows, m);
        let of_cache = |cache: &KvCache| pollster::block_on(cache.read(&gpu, context)).unwrap();
        let (got_keys, got_values) = (of_cache(&keys), of_cache(&values));
        for row in 0..m {
            let position = start + row;
            let angles = &angles[position * head_dim / 2..][..head_dim / 2];
            let of = |third: usize| qkv[(row * 3 + third) * hidden..][..hidden].to_vec();
            let largest = |values: &[f32]| f64::from(values.iter().map(|value| value.abs()).fold(0.0, f32::max));
            let (mut q, mut k, v) = (of(0), of(1), of(2));
            // Two products, their sum and the scale are rounded; the two products are each at most the largest value.
            let rounded = |values: &[f32], scale: f32| 2.0 * largest(values) * f64::from(scale) * 4.0 * U;
            let (q_error, k_error) = (rounded(&q, logn[position]), rounded(&k, 1.0));
            rotary::oracle::rotate(&mut q, angles, logn[position]);
            rotary::oracle::rotate(&mut k, angles, 1.0);
            let what = format!("{format:?}, {heads} heads of {head_dim}");
            let within = |got: &[f32], want: &[f32], bound: f64| assert_within(got, want, &vec![bound; want.len()], &what);
            within(&got[row * 3 * hidden..][..hidden], &q, q_error);
            within(&got_keys[position * hidden..][..hidden], &k, k_error + bounds::of_cache_format(format, largest(&k)));
            within(&got_values[position * hidden..][..hidden], &v, bounds::of_cache_format(format, largest(&v)));
        }
        let outside = |values: &[f32]| values[..start * hidden].iter().chain(&values[(start + m) * hidden..]).all(|value| *value == 0.0);
        assert!(outside(&got_keys) && outside(&got_values), "other positions of the cache were written");
    }
}
