//! Every kernel against its oracle, on whatever adapter there is (a software one in the project's own tests).
//!
//! Bounds are derived: f32 rounding of a sum of `n` products is below `n * 2^-24 * sum |products|`; the kernels sum in blocks, which is
//! better (see `product_bound`).

use qwen_vl_format::Scheme;
use qwen_vl_format::block::{EncodedRows, decode_rows, encode_rows};
use qwen_vl_kernels::attention::{self, Attention, Heads, Source};
use qwen_vl_kernels::known_answers::{self, Checked, Difference};
use qwen_vl_kernels::matmul::{self, Epilogue, Product};
use qwen_vl_kernels::norm::{self, Norm};
use qwen_vl_kernels::rotary::{self, PositionTables};
use qwen_vl_kernels::sample::{self, Draw, DrawBuffer};
use qwen_vl_kernels::{
    Activation, Dispatch, Gpu, GpuOptions, Kernels, KvCache, KvFormat, Precision, StepBuffer, Weight, WeightPart, add, argmax, embedding,
    encode,
};
use qwen_vl_testkit::closeness::{assert_close, noise};

const SCHEMES: [Scheme; 9] = [
    Scheme::F32,
    Scheme::F16,
    Scheme::Q8 { group_size: 32 },
    Scheme::Q8 { group_size: 64 },
    Scheme::Q8 { group_size: 128 },
    Scheme::Q4 { group_size: 32 },
    Scheme::Q4 { group_size: 64 },
    Scheme::Q4 { group_size: 128 },
    Scheme::Int4 { group_size: 128 },
];
const EPILOGUES: [Epilogue; 4] = [Epilogue::Store, Epilogue::Accumulate, Epilogue::Gelu, Epilogue::SwiGlu];

/// A device with WebGPU's default limits, so that no kernel needs more.
fn gpu() -> Gpu {
    gpu_with(Some(Kernels::PLAIN))
}

fn gpu_with(kernels: Option<Kernels>) -> Gpu {
    let precision = if kernels.is_none() { Precision::Q8 } else { Precision::F32 };
    pollster::block_on(Gpu::request(GpuOptions { default_limits: true, kernels, precision, ..Default::default() }))
        .expect("the tests need a Vulkan, Metal or DX12 adapter (Debian: mesa-vulkan-drivers)")
}

fn rows(gpu: &Gpu, rows: usize, cols: usize, values: &[f32]) -> Activation {
    let activation = gpu.activation("test", rows, cols).unwrap();
    gpu.write_rows(&activation, values);
    activation
}

fn vector(gpu: &Gpu, values: &[f32]) -> wgpu::Buffer {
    rows(gpu, 1, values.len(), values).buffer
}

fn run(gpu: &Gpu, dispatches: &[Dispatch], rows: usize) {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encode(&mut encoder, dispatches, rows);
    gpu.queue().submit([encoder.finish()]);
}

fn read(gpu: &Gpu, activation: &Activation, rows: usize) -> Vec<f32> {
    pollster::block_on(gpu.read_rows(activation, rows)).unwrap()
}

/// Everything past `cols` in each row must still be zero.
fn assert_padding_zero(gpu: &Gpu, activation: &Activation, what: &str) {
    let bytes = pollster::block_on(gpu.read(&activation.buffer, 0, activation.bytes(activation.rows))).unwrap();
    let values: &[f32] = bytemuck::cast_slice(&bytes);
    for row in values.chunks_exact(activation.stride()) {
        assert!(row[activation.cols..].iter().all(|value| *value == 0.0), "{what}: padding was written");
    }
}

/// A weight in parts of `part_rows`, with the f32 values that it stands for.
fn weight(gpu: &Gpu, scheme: Scheme, out: usize, cols: usize, part_rows: usize, seed: u64) -> (Weight, Vec<f32>) {
    let values = noise(seed, out * cols);
    let mut parts = Vec::new();
    let mut decoded = Vec::new();
    for part in values.chunks(part_rows * cols) {
        let encoded: EncodedRows = encode_rows(scheme, part, cols);
        decoded.extend(decode_rows(scheme, &encoded, cols));
        parts.extend(Weight::upload(gpu, scheme, &encoded, cols).unwrap().parts);
    }
    assert_eq!(parts.iter().map(|part: &WeightPart| part.rows).sum::<usize>(), out);
    (Weight { scheme, rows: out, cols, parts }, decoded)
}

/// Rounding of a sum of `cols` products of unit-variance factors, and of the epilogue's few operations on values of size `√cols`.
fn product_bound(cols: usize) -> f32 {
    let largest_sum = 6.0 * (cols as f32).sqrt();
    // |products| add up to cols * E|x||w| = 0.64 cols; the blocks' partial sums make the factor in front √-like, 1/16 of the worst case.
    (cols as f32 / 16.0 + 8.0) * 0.64 * cols as f32 * f32::EPSILON / 2.0 + 8.0 * largest_sum * f32::EPSILON
}

/// Every scheme on the awkward shape, every epilogue with and without bias in f32 and 4 bits, every other shape once:
/// compiling a pipeline takes longer than running it, so not the whole product.
fn product_cases<S: Copy>(awkward: S, others: &[S]) -> Vec<(S, Scheme, Epilogue, bool)> {
    let q4 = Scheme::Q4 { group_size: 32 };
    let mut cases: Vec<_> = SCHEMES.into_iter().map(|scheme| (awkward, scheme, Epilogue::Accumulate, true)).collect();
    for epilogue in EPILOGUES {
        cases.extend([(awkward, Scheme::F32, epilogue, false), (awkward, q4, epilogue, true)]);
    }
    cases.extend(others.iter().zip(EPILOGUES.into_iter().cycle()).map(|(shape, epilogue)| (*shape, q4, epilogue, true)));
    cases
}

/// What rounding activations to 8 bits can change in a product: half a step of each block's scale, times its weights.
fn packed_bound(x: &[f32], weight: &[f32], cols: usize) -> f32 {
    let step = |block: &[f32]| block.iter().map(|x| x.abs()).fold(0.0, f32::max) / 127.0;
    let row = |x: &[f32], w: &[f32]| -> f32 {
        x.chunks(32).zip(w.chunks(32)).map(|(x, w)| 0.501 * step(x) * w.iter().map(|w| w.abs()).sum::<f32>()).sum()
    };
    x.chunks_exact(cols).flat_map(|x| weight.chunks_exact(cols).map(move |w| row(x, w))).fold(0.0, f32::max)
}

/// What halves can change in a product: input and weight are rounded, each product and each of the seven sums of eight of them. The worst
/// case within eight, whose errors are independent of those of other eights and add up like them.
fn half_bound(x: &[f32], weight: &[f32], cols: usize) -> f32 {
    let row = |x: &[f32], w: &[f32]| -> f32 {
        // Ten roundings of half a last place, 2^-11 of a number, each of at most all that the eight add up to.
        let worst = |(x, w): (&[f32], &[f32])| 10.0 * f32::powi(2.0, -11) * x.iter().zip(w).map(|(x, w)| (x * w).abs()).sum::<f32>();
        x.chunks(8).zip(w.chunks(8)).map(worst).map(|worst| worst * worst).sum::<f32>().sqrt()
    };
    x.chunks_exact(cols).flat_map(|x| weight.chunks_exact(cols).map(move |w| row(x, w))).fold(0.0, f32::max)
}

/// What rounding of a precision can change in a product.
fn rounding_bound(precision: Precision, scheme: Scheme, x: &[f32], weight: &[f32], cols: usize) -> f32 {
    match precision {
        Precision::Q8 if scheme.group_size().is_some() => packed_bound(x, weight, cols),
        Precision::F16 => half_bound(x, weight, cols),
        _ => 0.0,
    }
}

#[test]
fn known_answers_are_given_by_every_choice_of_kernels() {
    for kernels in [Kernels::PLAIN, Kernels::CPU, Kernels::SUBGROUPS, Kernels::F16, Kernels::PACKED] {
        let gpu = gpu_with(Some(kernels));
        let q4 = Scheme::Q4 { group_size: 32 };
        let products = [Checked::Matmul(q4), Checked::Matvec(q4, true), Checked::Matvec(Scheme::F16, false)];
        for checked in products.into_iter().chain([Checked::Attention(104), Checked::Norm]) {
            let Difference { worst, largest } = pollster::block_on(known_answers::difference(&gpu, &checked)).unwrap();
            let part = worst / largest;
            let bound = match kernels.precision {
                Precision::Q8 if matches!(checked, Checked::Matmul(_)) => 0.02,
                Precision::F16 if matches!(checked, Checked::Matmul(_)) => 0.002,
                _ => 1e-4,
            };
            assert!(largest > 0.5 && part < bound, "{kernels}, {checked:?}: {part:e} of {largest}");
        }
    }
}

#[test]
fn matmul_matches_oracle() {
    check_matmul(Kernels::PLAIN, &SCHEMES);
    check_matmul(Kernels::CPU, &SCHEMES);
    check_matmul(Kernels::F16, &SCHEMES);
    check_matmul(Kernels::PACKED, &[Scheme::Q8 { group_size: 32 }, Scheme::Q4 { group_size: 32 }, Scheme::Int4 { group_size: 128 }]);
}

fn check_matmul(kernels: Kernels, schemes: &[Scheme]) {
    let gpu = gpu_with(Some(kernels));
    let step = StepBuffer::new(&gpu);
    // name, rows, out, cols, rows of a weight part
    let awkward = ("tail in every direction", 3, 70, 322, 70);
    let others = [
        ("one row", 1, 64, 64, 64),
        ("rows past a workgroup", 67, 96, 128, 96),
        ("two parts", 65, 100, 96, 64),
        ("patch embedding", 70, 208, 588, 208),
    ];
    let cases = product_cases(awkward, &others).into_iter().filter(|(_, scheme, ..)| schemes.contains(scheme));
    for ((name, m, out, cols, part_rows), scheme, epilogue, with_bias) in cases {
        let what = format!("{name}, {scheme:?}, {epilogue:?}, bias {with_bias}, {kernels}");
        let (weight, values) = weight(&gpu, scheme, out, cols, part_rows, 7);
        let x = noise(11, m * cols);
        let bias = noise(13, out);
        let stored = if epilogue == Epilogue::SwiGlu { out / 2 } else { out };
        let mut want = noise(17, m * stored);
        let input = rows(&gpu, m, cols, &x);
        let output = rows(&gpu, m, stored, &want);
        let bias_buffer = vector(&gpu, &bias);
        matmul::oracle::product(&x, &values, with_bias.then_some(&bias[..]), cols, epilogue, &mut want);
        let product = Product { weight: &weight, bias: with_bias.then_some(&bias_buffer), input: &input, output: &output, epilogue };
        step.write(&gpu, m, 0, 0);
        run(&gpu, &matmul::matmul(&gpu, &step, product), m);
        // SwiGLU multiplies two sums: the error of one is scaled by the other. The slope of GELU is 1.13 at most.
        let scale = match epilogue {
            Epilogue::SwiGlu => 12.0 * (cols as f32).sqrt(),
            _ => 1.13,
        };
        let bound = product_bound(cols) + rounding_bound(kernels.precision, scheme, &x, &values, cols);
        assert_close(&read(&gpu, &output, m), &want, bound * scale, &what);
        assert_padding_zero(&gpu, &output, &what);
    }
}

#[test]
fn matvec_matches_oracle() {
    check_matvec(Kernels::PLAIN, &SCHEMES);
    check_matvec(Kernels::CPU, &SCHEMES);
    check_matvec(Kernels::SUBGROUPS, &[Scheme::F16, Scheme::Q8 { group_size: 64 }, Scheme::Q4 { group_size: 32 }]);
}

fn check_matvec(kernels: Kernels, schemes: &[Scheme]) {
    let gpu = gpu_with(Some(kernels));
    let others = [("small", 64, 64, 64), ("more blocks than lanes", 36, 2304, 36), ("two parts", 100, 96, 64)];
    let cases = product_cases(("tail", 70, 322, 70), &others).into_iter().filter(|(_, scheme, ..)| schemes.contains(scheme));
    for ((name, out, cols, part_rows), scheme, epilogue, normed) in cases {
        let what = format!("{name}, {scheme:?}, {epilogue:?}, norm {normed}, {kernels}");
        let (weight, values) = weight(&gpu, scheme, out, cols, part_rows, 7);
        let x: Vec<f32> = noise(11, cols).iter().map(|x| x * 3.0).collect();
        let bias = noise(13, out);
        let norm_weight: Vec<f32> = noise(19, cols).iter().map(|w| 1.0 + 0.1 * w).collect();
        let stored = if epilogue == Epilogue::SwiGlu { out / 2 } else { out };
        let mut want = noise(17, stored);
        let input = rows(&gpu, 1, cols, &x);
        let output = rows(&gpu, 1, stored, &want);
        let bias_buffer = vector(&gpu, &bias);
        let rms_norm = Norm { weight: vector(&gpu, &norm_weight), bias: None, epsilon: 1e-6 };
        let left = if normed { norm::oracle::norm(&x, &norm_weight, None, 1e-6) } else { x };
        matmul::oracle::product(&left, &values, Some(&bias), cols, epilogue, &mut want);
        let product = Product { weight: &weight, bias: Some(&bias_buffer), input: &input, output: &output, epilogue };
        run(&gpu, &matmul::matvec(&gpu, product, normed.then_some(&rms_norm)), 1);
        let size = if normed { 1.0 } else { 3.0 };
        let scale = size * if epilogue == Epilogue::SwiGlu { 12.0 * size * (cols as f32).sqrt() } else { 1.0 };
        assert_close(&read(&gpu, &output, 1), &want, product_bound(cols) * scale, &what);
        assert_padding_zero(&gpu, &output, &what);
    }
}

#[test]
fn norm_matches_oracle() {
    check_norm(Kernels::PLAIN);
    check_norm(Kernels::SUBGROUPS);
}

fn check_norm(kernels: Kernels) {
    let gpu = gpu_with(Some(kernels));
    let step = StepBuffer::new(&gpu);
    for (m, cols) in [(1, 32), (5, 208), (3, 1664), (2, 70)] {
        // A mean far from zero: a variance from squares would lose it.
        let x: Vec<f32> = noise(3, m * cols).iter().map(|x| x + 30.0).collect();
        let weight: Vec<f32> = noise(5, cols);
        let bias = noise(9, cols);
        for layer_norm in [true, false] {
            let what = format!("{m} rows of {cols}, LayerNorm {layer_norm}, {kernels}");
            let want = norm::oracle::norm(&x, &weight, layer_norm.then_some(&bias), 1e-6);
            let gpu_norm = Norm { weight: vector(&gpu, &weight), bias: layer_norm.then(|| vector(&gpu, &bias)), epsilon: 1e-6 };
            let (input, output) = (rows(&gpu, m, cols, &x), gpu.activation("out", m, cols).unwrap());
            step.write(&gpu, m, 0, 0);
            run(&gpu, &[norm::norm(&gpu, &step, &gpu_norm, &input, &output)], m);
            // The mean of values near 30 is rounded at 30 * 2^-24 a step; 16 steps, times a weight of up to 4.
            assert_close(&read(&gpu, &output, m), &want, 16.0 * 30.0 * f32::EPSILON * 4.0, &what);
            assert_padding_zero(&gpu, &output, &what);
        }
    }
}

#[test]
fn attention_matches_oracle() {
    check_attention(Kernels::PLAIN);
    check_attention(Kernels::CPU);
    check_attention(Kernels::SUBGROUPS);
}

fn check_attention(kernels: Kernels) {
    let gpu = gpu_with(Some(kernels));
    let step = StepBuffer::new(&gpu);
    // rows, keys, heads, head_dim, position of the first row when causal
    let cases = [
        (70, 70, 2, 104, None),
        (256, 130, 1, 128, None),
        (5, 37, 3, 24, None),
        (1, 1, 2, 32, Some(0)),
        (67, 67, 2, 128, Some(0)),
        (20, 100, 4, 32, Some(80)),
        (65, 80, 2, 16, Some(15)),
        // Several times the keys that the decode kernel takes at a time, in every slice, too.
        (2, 1100, 1, 16, Some(1098)),
    ];
    for (m, keys, heads, head_dim, causal_start) in cases {
        let width = heads * head_dim;
        let what = format!("{m} rows, {keys} keys, {heads} heads of {head_dim}, causal from {causal_start:?}, {kernels}");
        let (q, k, v) = (noise(3, m * width), noise(5, keys * width), noise(7, keys * width));
        let want = attention::oracle::attention(&q, &k, &v, heads, head_dim, causal_start);
        let (q_rows, k_rows, v_rows) = (rows(&gpu, m, width, &q), rows(&gpu, keys, width, &k), rows(&gpu, keys, width, &v));
        let output = gpu.activation("out", m, width).unwrap();
        let heads_of = |rows| Heads { rows, first_col: 0 };
        let launch = Attention {
            queries: heads_of(&q_rows),
            keys: heads_of(&k_rows).into(),
            values: heads_of(&v_rows).into(),
            output: &output,
            heads,
            head_dim,
            causal: causal_start.is_some(),
        };
        step.write(&gpu, m, causal_start.unwrap_or(0), keys);
        run(&gpu, &[attention::attention(&gpu, &step, launch)], m);
        // Scores of size 5 with 128 roundings each change a probability by their error relatively; values are of size 4.
        let bound = 4.0 * (128.0 * 5.0 * f32::EPSILON + 64.0 * f32::EPSILON);
        assert_close(&read(&gpu, &output, m), &want, bound, &what);

        // The last row alone must agree with the decode kernel.
        let last = &q[(m - 1) * width..];
        let one = rows(&gpu, 1, width, last);
        let decoded = gpu.activation("out", 1, width).unwrap();
        let launch = Attention { queries: heads_of(&one), output: &decoded, ..launch };
        step.write(&gpu, 1, keys - 1, keys);
        run(&gpu, &[attention::attention_decode(&gpu, &step, launch)], 1);
        assert_close(&read(&gpu, &decoded, 1), &want[(m - 1) * width..], bound, &format!("decode: {what}"));
        // In slices, too; where there are fewer keys than slices, some are empty.
        let partial = gpu.storage("partial", attention::split_bytes(heads, head_dim)).unwrap();
        gpu.write_rows(&decoded, &vec![9.0; width]);
        run(&gpu, &attention::attention_split(&gpu, &step, launch, &partial), 1);
        assert_close(&read(&gpu, &decoded, 1), &want[(m - 1) * width..], bound, &format!("decode in slices: {what}"));
    }
}

#[test]
fn attention_reads_slices_of_one_buffer() {
    let gpu = gpu();
    let step = StepBuffer::new(&gpu);
    let (m, heads, head_dim) = (40, 2, 24);
    let width = heads * head_dim;
    let qkv = noise(3, m * 3 * width);
    let part = |third: usize| -> Vec<f32> { qkv.chunks_exact(3 * width).flat_map(|row| row[third * width..][..width].to_vec()).collect() };
    let want = attention::oracle::attention(&part(0), &part(1), &part(2), heads, head_dim, None);
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
    assert_close(&read(&gpu, &output, m), &want, 4.0 * 32.0 * 5.0 * f32::EPSILON, "qkv in one buffer");
    assert_padding_zero(&gpu, &output, "qkv in one buffer");
}

/// What a format loses of a value: half of its last place, relative to itself (f16) or to the largest of its head (8 bits).
fn format_error(format: KvFormat, largest: f32) -> f32 {
    match format {
        KvFormat::F32 => 0.0,
        KvFormat::F16 => largest * f32::powi(2.0, -11),
        KvFormat::Q8 => largest / 127.0 * 0.501,
    }
}

const KV_FORMATS: [KvFormat; 3] = [KvFormat::F32, KvFormat::F16, KvFormat::Q8];

#[test]
fn rotary_matches_oracle_in_every_format_of_the_cache() {
    let gpu = gpu();
    let step = StepBuffer::new(&gpu);
    for ((heads, head_dim), format) in [(2, 32), (3, 24)].into_iter().flat_map(|shape| KV_FORMATS.map(|format| (shape, format))) {
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
        let bound = 8.0 * 8.0 * f32::EPSILON;
        for row in 0..m {
            let position = start + row;
            let turns = &angles[position * head_dim / 2..][..head_dim / 2];
            let of = |third: usize| qkv[(row * 3 + third) * hidden..][..hidden].to_vec();
            let (mut q, mut k, v) = (of(0), of(1), of(2));
            rotary::oracle::turn(&mut q, turns, logn[position]);
            rotary::oracle::turn(&mut k, turns, 1.0);
            let what = format!("{format:?}, {heads} heads of {head_dim}");
            let largest = |values: &[f32]| values.iter().map(|value| value.abs()).fold(0.0, f32::max);
            assert_close(&got[row * 3 * hidden..][..hidden], &q, bound, &what);
            assert_close(&got_keys[position * hidden..][..hidden], &k, bound + format_error(format, largest(&k)), &what);
            assert_close(&got_values[position * hidden..][..hidden], &v, format_error(format, largest(&v)), &what);
        }
        let outside = |values: &[f32]| values[..start * hidden].iter().chain(&values[(start + m) * hidden..]).all(|value| *value == 0.0);
        assert!(outside(&got_keys) && outside(&got_values), "other positions of the cache were written");
    }
}

#[test]
fn attention_reads_every_format_of_the_cache() {
    let gpu = gpu();
    let step = StepBuffer::new(&gpu);
    let (m, heads, head_dim, context) = (40, 2, 32, 48);
    let hidden = heads * head_dim;
    let no_turn: Vec<[f32; 2]> = vec![[1.0, 0.0]; context * head_dim / 2];
    let tables = PositionTables { angles: vector(&gpu, bytemuck::cast_slice(&no_turn)), logn: vector(&gpu, &vec![1.0; context]) };
    for format in KV_FORMATS {
        let qkv = noise(3, m * 3 * hidden);
        let qkv_rows = rows(&gpu, m, 3 * hidden, &qkv);
        let cache = || KvCache::new(&gpu, "cache", context, heads, head_dim, format).unwrap();
        let (keys, values) = (cache(), cache());
        let (output, decoded) = (gpu.activation("out", m, hidden).unwrap(), gpu.activation("out", 1, hidden).unwrap());
        let queries = rows(&gpu, m, hidden, &noise(5, m * hidden));
        let launch = Attention {
            queries: Heads { rows: &queries, first_col: 0 },
            keys: Source::Cache(&keys),
            values: Source::Cache(&values),
            output: &output,
            heads,
            head_dim,
            causal: true,
        };
        step.write(&gpu, m, 0, m);
        run(&gpu, &[rotary::rotary(&gpu, &step, &tables, &qkv_rows, &keys, &values), attention::attention(&gpu, &step, launch)], m);
        // Of what the cache really holds.
        let of_cache = |cache: &KvCache| pollster::block_on(cache.read(&gpu, m)).unwrap();
        let want = attention::oracle::attention(&noise(5, m * hidden), &of_cache(&keys), &of_cache(&values), heads, head_dim, Some(0));
        let bound = 4.0 * (32.0 * 5.0 * f32::EPSILON + 64.0 * f32::EPSILON);
        assert_close(&read(&gpu, &output, m), &want, bound, &format!("{format:?}"));
        let last = rows(&gpu, 1, hidden, &noise(5, m * hidden)[(m - 1) * hidden..]);
        let launch = Attention { queries: Heads { rows: &last, first_col: 0 }, output: &decoded, ..launch };
        step.write(&gpu, 1, m - 1, m);
        run(&gpu, &[attention::attention_decode(&gpu, &step, launch)], 1);
        assert_close(&read(&gpu, &decoded, 1), &want[(m - 1) * hidden..], bound, &format!("decode, {format:?}"));
    }
}

#[test]
fn embedding_matches_decoded_rows() {
    let gpu = gpu();
    let step = StepBuffer::new(&gpu);
    let (vocab, hidden) = (100, 96);
    for scheme in SCHEMES {
        let (weight, values) = weight(&gpu, scheme, vocab, hidden, 64, 7);
        let ids: [u32; 4] = [0, 99, 64, 63];
        let id_buffer = gpu.storage("ids", 16).unwrap();
        gpu.queue().write_buffer(&id_buffer, 0, bytemuck::cast_slice(&ids));
        let output = gpu.activation("out", 4, hidden).unwrap();
        step.write(&gpu, 4, 0, 4);
        run(&gpu, &embedding::embedding(&gpu, &step, &weight, &id_buffer, &output), 4);
        let want: Vec<f32> = ids.iter().flat_map(|id| values[*id as usize * hidden..][..hidden].to_vec()).collect();
        assert_eq!(read(&gpu, &output, 4), want, "{scheme:?}");
    }
}

#[test]
fn add_adds() {
    let gpu = gpu();
    let step = StepBuffer::new(&gpu);
    let (a, b) = (noise(1, 3 * 70), noise(2, 3 * 70));
    let (left, right, output) = (rows(&gpu, 3, 70, &a), rows(&gpu, 3, 70, &b), gpu.activation("out", 3, 70).unwrap());
    step.write(&gpu, 3, 0, 0);
    run(&gpu, &[add::add(&gpu, &step, &left, &right, &output)], 3);
    let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    assert_eq!(read(&gpu, &output, 3), want);
}

#[test]
fn argmax_finds_the_first_largest_and_reports_broken_logits() {
    check_argmax(Kernels::PLAIN);
    check_argmax(Kernels::CPU);
}

fn check_argmax(kernels: Kernels) {
    let gpu = gpu_with(Some(kernels));
    let token = gpu.storage("token", 4).unwrap();
    let find = |values: &[f32]| {
        let logits = rows(&gpu, 1, values.len(), values);
        run(&gpu, &[argmax::argmax(&gpu, &logits, &token)], 1);
        let bytes = pollster::block_on(gpu.read(&token, 0, 4)).unwrap();
        u32::from_le_bytes(bytes.try_into().unwrap())
    };
    let mut logits = noise(3, 4099);
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    assert_eq!(logits[find(&logits) as usize], largest);
    (logits[4000], logits[511], logits[257]) = (9.0, 9.0, 9.0);
    assert_eq!(find(&logits), 257);
    assert_eq!(find(&[-5.0, -3.0, -4.0]), 1);
    for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        logits[1234] = broken;
        assert_eq!(find(&logits), argmax::NOT_FINITE, "{broken}");
    }
}

/// The tokens that a draw may give and their probabilities, the likeliest first, by sorting.
fn kept(logits: &[f32], draw: Draw) -> Vec<(u32, f64)> {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let weight = |logit: &f32| f64::from((logit - largest) / draw.temperature).exp();
    let mut tokens: Vec<(u32, f64)> = (0..).zip(logits.iter().map(weight)).collect();
    tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    tokens.truncate(if draw.top_k == 0 { logits.len() } else { draw.top_k as usize });
    let total: f64 = tokens.iter().map(|(_, weight)| weight).sum();
    let mut before = 0.0;
    tokens.retain(|(_, weight)| {
        let stays = before == 0.0 || before < f64::from(draw.top_p) * total;
        before += weight;
        stays
    });
    tokens
}

#[test]
fn draws_come_from_the_likeliest_tokens_in_their_proportions() {
    let gpu = gpu();
    let token = gpu.storage("token", 4).unwrap();
    let buffer = DrawBuffer::new(&gpu);
    let mut equals = noise(7, 1000);
    equals.iter_mut().step_by(3).for_each(|logit| *logit = 2.5);
    for (name, logits) in [("noise", noise(3, 4099)), ("few", noise(5, 3)), ("equals", equals)] {
        let input = rows(&gpu, 1, logits.len(), &logits);
        let launch = [sample::sample(&gpu, &input, &buffer, &token)];
        let run_draw = |draw| {
            buffer.write(&gpu, draw);
            run(&gpu, &launch, 1);
            u32::from_le_bytes(pollster::block_on(gpu.read(&token, 0, 4)).unwrap().try_into().unwrap())
        };
        for (temperature, top_k, top_p) in
            [(1.0, 0, 1.0), (0.7, 5, 1.0), (1.0, 0, 0.3), (1.3, 40, 0.8), (1e-6, 0, 0.9), (1.0, 1, 1.0), (1.0, 0, 0.0)]
        {
            let what = format!("{name}, temperature {temperature}, top-k {top_k}, top-p {top_p}");
            let options = Draw { temperature, top_p, top_k, random: 0.0 };
            let want = kept(&logits, options);
            let total: f64 = want.iter().map(|(_, weight)| weight).sum();
            let draws: Vec<u32> = (0..64).map(|i| run_draw(Draw { random: (i as f32 + 0.5) / 64.0, ..options })).collect();
            assert!(draws.iter().all(|id| want.iter().any(|(token, _)| token == id)), "{what}: {draws:?}");
            // Random numbers that are spread evenly draw each token as often as is its due, but for one at either end.
            for (id, weight) in &want {
                let (due, found) = (64.0 * weight / total, draws.iter().filter(|draw| *draw == id).count() as f64);
                assert!((found - due).abs() <= 1.0 + 1e-3, "{what}: token {id} was drawn {found} times, its due is {due}");
            }
        }
    }
    let broken = rows(&gpu, 1, 3, &[0.0, f32::NAN, 1.0]);
    buffer.write(&gpu, Draw { temperature: 1.0, top_p: 1.0, top_k: 0, random: 0.5 });
    run(&gpu, &[sample::sample(&gpu, &broken, &buffer, &token)], 1);
    assert_eq!(pollster::block_on(gpu.read(&token, 0, 4)).unwrap(), argmax::NOT_FINITE.to_le_bytes());
}

#[test]
fn a_buffer_past_the_limit_is_refused_by_name() {
    let gpu = gpu();
    let error = gpu.storage("head.weight", 1 << 40).unwrap_err().to_string();
    assert!(error.contains("head.weight") && error.contains(&(1u64 << 40).to_string()), "{error}");
}

#[test]
fn a_device_measures_which_kernels_to_use_and_keeps_nothing_of_it() {
    let gpu = gpu_with(None);
    let exact = Kernels { precision: Precision::F32, ..gpu.kernels() };
    assert!([Kernels::PLAIN, Kernels::CPU, Kernels::SUBGROUPS].contains(&exact), "{exact}");
    assert_eq!(gpu.allocated_bytes(), 0);
}
