//! The products with a weight, and the known answers.

use crate::bounds::{self, Operands};
use crate::support::{assert_padding_zero, assert_within, for_each_scheme, gpu, read, rows, run, vector, weight};
use qwen_vl_format::Scheme;
use qwen_vl_format::block::encode_rows;
use qwen_vl_kernels::attention::oracle::Shape as HeadShape;
use qwen_vl_kernels::known_answers::{self, Checked, Difference};
use qwen_vl_kernels::matmul::{self, Epilogue, Product};
use qwen_vl_kernels::norm::{self, Norm};
use qwen_vl_kernels::{Gpu, Kernels, KvFormat, Precision, StepBuffer, Weight};
use qwen_vl_testkit::closeness::noise;

const EPILOGUES: [Epilogue; 6] =
    [Epilogue::Store, Epilogue::Accumulate, Epilogue::Gelu, Epilogue::SwiGlu, Epilogue::QuickGelu, Epilogue::GeluTanh];
const Q4Z: Scheme = Scheme::Q4Z { group_size: 32 };

/// A product `[rows, cols] · [out, cols]ᵀ` with the weight in parts of `part_rows`.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    rows: usize,
    out: usize,
    cols: usize,
    part_rows: usize,
}

const fn shape(name: &'static str, rows: usize, out: usize, cols: usize, part_rows: usize) -> Shape {
    Shape { name, rows, out, cols, part_rows }
}

/// A case: the shape, the epilogue, and a bias (matmul) or a norm (matvec).
type Case = (Shape, Epilogue, bool);

/// Returns the cases of a scheme: the first shape with one epilogue for each scheme, with all epilogues for f32 and q4, and the other
/// shapes for q4. Compiling a pipeline takes longer than running it, so this is not the whole product.
fn cases(scheme: Scheme, first: Shape, others: &[Shape]) -> Vec<Case> {
    let mut cases = vec![(first, Epilogue::Accumulate, true)];
    if scheme == Scheme::F32 {
        cases.extend(EPILOGUES.map(|epilogue| (first, epilogue, false)));
    }
    if scheme == Q4Z {
        cases.extend(EPILOGUES.map(|epilogue| (first, epilogue, true)));
        cases.extend(others.iter().zip(EPILOGUES.into_iter().cycle()).map(|(shape, epilogue)| (*shape, epilogue, true)));
    }
    cases
}

fn stored(out: usize, epilogue: Epilogue) -> usize {
    if epilogue == Epilogue::SwiGlu { out / 2 } else { out }
}

mod matmul_matches_oracle {
    use super::*;
    for_each_scheme!(check_matmul);
}

fn check_matmul(scheme: Scheme) {
    let mut sets = vec![Kernels::PLAIN, Kernels::CPU, Kernels::F16];
    if [Scheme::Q8 { group_size: 32 }, Q4Z, Scheme::Q4 { group_size: 32 }, Scheme::Int4 { group_size: 128 }].contains(&scheme) {
        sets.push(Kernels::PACKED);
    }
    if [Scheme::F32, Q4Z].contains(&scheme) {
        // Large tiles alone; `PLAIN` takes small ones for the few rows here.
        sets.push(Kernels { matmul_workgroups: 1, ..Kernels::PLAIN });
    }
    let others = [
        shape("one row", 1, 64, 64, 64),
        shape("rows past a workgroup", 67, 96, 128, 96),
        shape("two parts", 65, 100, 96, 64),
        shape("patch embedding", 70, 208, 588, 208),
    ];
    for kernels in sets {
        let gpu = gpu(kernels);
        for case in cases(scheme, shape("tail in every direction", 3, 70, 322, 70), &others) {
            check_matmul_case(&gpu, scheme, case);
        }
    }
}

fn check_matmul_case(gpu: &Gpu, scheme: Scheme, (shape, epilogue, with_bias): Case) {
    let Shape { name, rows: m, out, cols, part_rows } = shape;
    let what = format!("{name}, {scheme:?}, {epilogue:?}, bias {with_bias}, {}", gpu.kernels());
    let (weight, values) = weight(gpu, scheme, out, cols, part_rows, 7);
    let (x, bias) = (noise(11, m * cols), noise(13, out));
    let before = noise(17, m * stored(out, epilogue));
    let (input, output) = (rows(gpu, m, cols, &x), rows(gpu, m, stored(out, epilogue), &before));
    let bias_buffer = vector(gpu, &bias);
    let step = StepBuffer::new(gpu);
    step.write(gpu, m, 0, 0);
    let packed = gpu.storage("packed", matmul::packed_bytes(m, cols)).unwrap();
    let (bias_of, packed) = (with_bias.then_some(&bias_buffer), Some(&packed));
    let product = Product { weight: &weight, bias: bias_of, input: &input, output: &output, epilogue, exact: false, packed };
    run(gpu, &matmul::matmul(gpu, &step, product), m);

    let operands = Operands { input: &x, weight: &values, bias: with_bias.then_some(&bias), cols };
    let mut want = before.clone();
    matmul::oracle::product(&x, &values, operands.bias, cols, epilogue, &mut want);
    let rounding = bounds::rounding(gpu.kernels().precision, scheme, operands);
    let bounds = bounds::of_product(operands, epilogue, bounds::matmul_steps(cols), &rounding, &before);
    assert_within(&read(gpu, &output, m), &want, &bounds, &what);
    assert_padding_zero(gpu, &output, &what);
}

/// Values that f16 cannot hold, next to small ones: a product that is rounded differs by far more than the bound of an exact one.
#[test]
fn an_exact_product_is_not_rounded() {
    let (m, out, cols) = (5, 70, 96);
    let mut x = noise(11, m * cols);
    x.iter_mut().step_by(7).for_each(|x| *x *= 1e6);
    for kernels in [Kernels::F16, Kernels::PACKED, Kernels { precision: Precision::Q8, ..Kernels::CPU }] {
        let gpu = gpu(kernels);
        let (weight, values) = weight(&gpu, Q4Z, out, cols, out, 7);
        let (input, output) = (rows(&gpu, m, cols, &x), gpu.activation("out", m, out).unwrap());
        let packed = gpu.storage("packed", matmul::packed_bytes(m, cols)).unwrap();
        let step = StepBuffer::new(&gpu);
        step.write(&gpu, m, 0, 0);
        let operands = Operands { input: &x, weight: &values, bias: None, cols };
        let mut want = vec![0.0; m * out];
        matmul::oracle::product(&x, &values, None, cols, Epilogue::Store, &mut want);
        let unrounded = vec![0.0; m * out];
        let bounds = bounds::of_product(operands, Epilogue::Store, bounds::matmul_steps(cols), &unrounded, &want);
        let computed = |exact| {
            let (epilogue, packed) = (Epilogue::Store, Some(&packed));
            let product = Product { weight: &weight, bias: None, input: &input, output: &output, epilogue, exact, packed };
            run(&gpu, &matmul::matmul(&gpu, &step, product), m);
            read(&gpu, &output, m)
        };
        let rounded = computed(false);
        let excess = (0..want.len()).map(|i| f64::from((rounded[i] - want[i]).abs()) / bounds[i]).fold(0.0, f64::max);
        assert!(excess > 100.0, "{kernels}: without `exact` the largest error is {excess} bounds");
        assert_within(&computed(true), &want, &bounds, &format!("exact, {kernels}"));
    }
}

/// A weight of ones hands each value to the activation: also those for which `exp` would overflow.
#[test]
fn activations_of_large_values_are_finite() {
    let values = [-1e9, -1e4, -90.0, -50.0, -5.0, -0.0, 0.0, 1e-30, 5.0, 50.0, 90.0, 1e4, 1e9];
    let x: Vec<f32> = values.into_iter().flat_map(|value| std::iter::once(value).chain([0.0; 31])).collect();
    let ones = vec![1.0; 2 * 32];
    for kernels in [Kernels::PLAIN, Kernels::CPU] {
        let gpu = gpu(kernels);
        let step = StepBuffer::new(&gpu);
        step.write(&gpu, values.len(), 0, 0);
        let weight = Weight::upload(&gpu, Scheme::F32, &encode_rows(Scheme::F32, &ones, 32), 32).unwrap();
        let input = rows(&gpu, values.len(), 32, &x);
        for epilogue in [Epilogue::QuickGelu, Epilogue::GeluTanh] {
            let output = gpu.activation("out", values.len(), 2).unwrap();
            let product = Product { weight: &weight, bias: None, input: &input, output: &output, epilogue, exact: false, packed: None };
            run(&gpu, &matmul::matmul(&gpu, &step, product), values.len());
            let operands = Operands { input: &x, weight: &ones, bias: None, cols: 32 };
            let mut want = vec![0.0; 2 * values.len()];
            matmul::oracle::product(&x, &ones, None, 32, epilogue, &mut want);
            let bounds = bounds::of_product(operands, epilogue, bounds::matmul_steps(32), &vec![0.0; want.len()], &want);
            assert_within(&read(&gpu, &output, values.len()), &want, &bounds, &format!("{epilogue:?}, {kernels}"));
        }
    }
}

mod matvec_matches_oracle {
    use super::*;
    for_each_scheme!(check_matvec);
}

fn check_matvec(scheme: Scheme) {
    let mut sets = vec![Kernels::PLAIN, Kernels::CPU];
    if [Scheme::F16, Scheme::Q8 { group_size: 64 }, Q4Z].contains(&scheme) {
        sets.push(Kernels::SUBGROUPS);
    }
    if scheme.group_size().is_some() {
        sets.extend([Kernels::PACKED, Kernels { precision: Precision::Q8, ..Kernels::CPU }]);
    }
    let others = [shape("small", 1, 64, 64, 64), shape("more blocks than lanes", 1, 36, 2304, 36), shape("two parts", 1, 100, 96, 64)];
    for kernels in sets {
        let gpu = gpu(kernels);
        for case in cases(scheme, shape("tail", 1, 70, 322, 70), &others) {
            check_matvec_case(&gpu, scheme, case);
        }
    }
}

fn check_matvec_case(gpu: &Gpu, scheme: Scheme, (shape, epilogue, normed): Case) {
    let Shape { name, out, cols, part_rows, .. } = shape;
    let what = format!("{name}, {scheme:?}, {epilogue:?}, norm {normed}, {}", gpu.kernels());
    let (weight, values) = weight(gpu, scheme, out, cols, part_rows, 7);
    let x: Vec<f32> = noise(11, cols).iter().map(|x| x * 3.0).collect();
    let bias = noise(13, out);
    let norm_weight: Vec<f32> = noise(19, cols).iter().map(|w| 1.0 + 0.1 * w).collect();
    let before = noise(17, stored(out, epilogue));
    let (input, output) = (rows(gpu, 1, cols, &x), rows(gpu, 1, stored(out, epilogue), &before));
    let bias_buffer = vector(gpu, &bias);
    let rms_norm = Norm { weight: vector(gpu, &norm_weight), bias: None, epsilon: 1e-6 };
    let packed = gpu.storage("packed", matmul::packed_bytes(1, cols)).unwrap();
    let (bias_of, packed) = (Some(&bias_buffer), Some(&packed));
    let product = Product { weight: &weight, bias: bias_of, input: &input, output: &output, epilogue, exact: false, packed };
    run(gpu, &matmul::matvec(gpu, product, normed.then_some(&rms_norm)), 1);

    let left = if normed { norm::oracle::norm(&x, &norm_weight, None, 1e-6) } else { x };
    let operands = Operands { input: &left, weight: &values, bias: Some(&bias), cols };
    let mut want = before.clone();
    matmul::oracle::product(&left, &values, Some(&bias), cols, epilogue, &mut want);
    let steps = bounds::matvec_steps(gpu.kernels(), cols) + if normed { bounds::fused_norm_steps(gpu.kernels(), cols) } else { 0.0 };
    // f16 is for many rows, and 8-bit activations are not for q4.
    let packed = gpu.kernels().precision == Precision::Q8 && scheme != Scheme::Q4 { group_size: 32 };
    let precision = if packed { Precision::Q8 } else { Precision::F32 };
    let rounding = bounds::rounding(precision, scheme, operands);
    let bounds = bounds::of_product(operands, epilogue, steps, &rounding, &before);
    assert_within(&read(gpu, &output, 1), &want, &bounds, &what);
    assert_padding_zero(gpu, &output, &what);
}

mod every_kernel_set_gives_the_known_answers {
    use super::*;

    #[test]
    fn plain() {
        check_known_answers(Kernels::PLAIN, 1e-6);
    }

    #[test]
    fn cpu() {
        check_known_answers(Kernels::CPU, 1e-6);
    }

    #[test]
    fn subgroups() {
        check_known_answers(Kernels::SUBGROUPS, 1e-6);
    }

    #[test]
    fn f16() {
        check_known_answers(Kernels::F16, 0.002);
    }

    #[test]
    fn packed() {
        check_known_answers(Kernels::PACKED, 0.01);
    }
}

/// Checks that no difference passes `rounded` of the largest answer for the products of many rows, 1e-6 for the other kernels.
///
/// These bounds are chosen, at two to five times the largest differences seen on lavapipe (2.2e-7, 0.00103 in f16, 0.0033 with 8-bit
/// activations), which this test prints.
fn check_known_answers(kernels: Kernels, rounded: f32) {
    let gpu = gpu(kernels);
    let matmul = |epilogue, exact| Checked::Matmul { scheme: Q4Z, epilogue, exact };
    let products = EPILOGUES.map(|epilogue| matmul(epilogue, false)).into_iter().chain([
        matmul(Epilogue::GeluTanh, true),
        Checked::Matvec(Q4Z, true),
        Checked::Matvec(Scheme::F16, false),
    ]);
    let rotary = |norms, logn| Checked::Rotary { shape: HeadShape { heads: 6, kv_heads: 2, head_dim: 24 }, kv: KvFormat::F32, norms, logn };
    let others = [
        Checked::Attention { head_dim: 104, group: 1, segments: false },
        Checked::Attention { head_dim: 128, group: 7, segments: false },
        Checked::Attention { head_dim: 80, group: 1, segments: true },
        Checked::Norm,
        rotary(true, false),
        rotary(false, true),
        Checked::RotaryRows(72),
        Checked::RotaryRows(20),
        Checked::Taps,
    ];
    for checked in products.chain(others) {
        let Difference { worst, largest } = pollster::block_on(known_answers::difference(&gpu, &checked)).unwrap();
        let part = worst / largest;
        println!("{kernels:?}, {checked:?}: {part:e}");
        let rounds = match checked {
            Checked::Matmul { exact, .. } => !exact,
            Checked::Matvec(scheme, _) => kernels.precision == Precision::Q8 && scheme.group_size().is_some(),
            _ => false,
        };
        let bound = if rounds { rounded } else { 1e-6 };
        assert!(largest > 0.5 && part < bound, "{kernels}, {checked:?}: {part:e} of {largest}, bound {bound:e}");
    }
}
