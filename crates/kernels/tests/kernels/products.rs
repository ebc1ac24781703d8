//! The products with a weight, and the known answers.

use crate::bounds::{self, Operands};
use crate::support::{assert_padding_zero, assert_within, for_each_scheme, gpu, read, rows, run, vector, weight};
use qwen_vl_format::Scheme;
use qwen_vl_kernels::known_answers::{self, Checked, Difference};
use qwen_vl_kernels::matmul::{self, Epilogue, Product};
use qwen_vl_kernels::norm::{self, Norm};
use qwen_vl_kernels::{Gpu, Kernels, Precision, StepBuffer};
use qwen_vl_testkit::closeness::noise;

const EPILOGUES: [Epilogue; 4] = [Epilogue::Store, Epilogue::Accumulate, Epilogue::Gelu, Epilogue::SwiGlu];
const Q4: Scheme = Scheme::Q4 { group_size: 32 };

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
    if scheme == Q4 {
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
    if [Scheme::Q8 { group_size: 32 }, Q4, Scheme::Int4 { group_size: 128 }].contains(&scheme) {
        sets.push(Kernels::PACKED);
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
    let product = Product { weight: &weight, bias: with_bias.then_some(&bias_buffer), input: &input, output: &output, epilogue };
    run(gpu, &matmul::matmul(gpu, &step, product), m);

    let operands = Operands { input: &x, weight: &values, bias: with_bias.then_some(&bias), cols };
    let mut want = before.clone();
    matmul::oracle::product(&x, &values, operands.bias, cols, epilogue, &mut want);
    let rounding = bounds::rounding(gpu.kernels().precision, scheme, operands);
    let bounds = bounds::of_product(operands, epilogue, bounds::matmul_steps(cols), &rounding, &before);
    assert_within(&read(gpu, &output, m), &want, &bounds, &what);
    assert_padding_zero(gpu, &output, &what);
}

mod matvec_matches_oracle {
    use super::*;
    for_each_scheme!(check_matvec);
}

fn check_matvec(scheme: Scheme) {
    let mut sets = vec![Kernels::PLAIN, Kernels::CPU];
    if [Scheme::F16, Scheme::Q8 { group_size: 64 }, Q4].contains(&scheme) {
        sets.push(Kernels::SUBGROUPS);
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
    let product = Product { weight: &weight, bias: Some(&bias_buffer), input: &input, output: &output, epilogue };
    run(gpu, &matmul::matvec(gpu, product, normed.then_some(&rms_norm)), 1);

    let left = if normed { norm::oracle::norm(&x, &norm_weight, None, 1e-6) } else { x };
    let operands = Operands { input: &left, weight: &values, bias: Some(&bias), cols };
    let mut want = before.clone();
    matmul::oracle::product(&left, &values, Some(&bias), cols, epilogue, &mut want);
    let steps = bounds::matvec_steps(gpu.kernels(), cols) + if normed { bounds::fused_norm_steps(gpu.kernels(), cols) } else { 0.0 };
    let exact = bounds::rounding(Precision::F32, scheme, operands);
    let bounds = bounds::of_product(operands, epilogue, steps, &exact, &before);
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
    let products = [Checked::Matmul(Q4), Checked::Matvec(Q4, true), Checked::Matvec(Scheme::F16, false)];
    for checked in products.into_iter().chain([
        Checked::Attention { head_dim: 104, group: 1 },
        Checked::Attention { head_dim: 128, group: 7 },
        Checked::Norm,
    ]) {
        let Difference { worst, largest } = pollster::block_on(known_answers::difference(&gpu, &checked)).unwrap();
        let part = worst / largest;
        println!("{kernels:?}, {checked:?}: {part:e}");
        let bound = if matches!(checked, Checked::Matmul(_)) { rounded } else { 1e-6 };
        assert!(largest > 0.5 && part < bound, "{kernels}, {checked:?}: {part:e} of {largest}, bound {bound:e}");
    }
}
