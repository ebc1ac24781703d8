//! Devices, uploads and launches of the tests.

use qwen_vl_format::Scheme;
use qwen_vl_format::block::{EncodedRows, decode_rows, encode_rows};
use qwen_vl_kernels::{Activation, Dispatch, Gpu, GpuOptions, Kernels, Weight, WeightPart, encode};
use qwen_vl_testkit::closeness::noise;

/// Defines a test for each storage scheme, which calls `$check` with it.
macro_rules! for_each_scheme {
    ($check:path) => {
        for_each_scheme! { $check;
            f32: Scheme::F32, f16: Scheme::F16,
            q8_32: Scheme::Q8 { group_size: 32 }, q8_64: Scheme::Q8 { group_size: 64 }, q8_128: Scheme::Q8 { group_size: 128 },
            q4z_32: Scheme::Q4Z { group_size: 32 }, q4z_128: Scheme::Q4Z { group_size: 128 },
            q4_32: Scheme::Q4 { group_size: 32 }, q4_64: Scheme::Q4 { group_size: 64 }, q4_128: Scheme::Q4 { group_size: 128 },
            int4_128: Scheme::Int4 { group_size: 128 }
        }
    };
    ($check:path; $($name:ident: $scheme:expr),*) => {
        $(
            #[test]
            fn $name() {
                $check($scheme);
            }
        )*
    };
}
pub(crate) use for_each_scheme;

/// Returns a device with WebGPU's default limits, so that no kernel needs more.
pub(crate) fn gpu(kernels: Kernels) -> Gpu {
    request(GpuOptions { kernels: Some(kernels), ..Default::default() })
}

pub(crate) fn request(options: GpuOptions) -> Gpu {
    pollster::block_on(Gpu::request(GpuOptions { default_limits: true, ..options }))
        .expect("the tests need a Vulkan, Metal or DX12 adapter (Debian: mesa-vulkan-drivers)")
}

pub(crate) fn rows(gpu: &Gpu, rows: usize, cols: usize, values: &[f32]) -> Activation {
    let activation = gpu.activation("test", rows, cols).unwrap();
    gpu.write_rows(&activation, values);
    activation
}

pub(crate) fn vector(gpu: &Gpu, values: &[f32]) -> wgpu::Buffer {
    rows(gpu, 1, values.len(), values).buffer
}

pub(crate) fn run(gpu: &Gpu, dispatches: &[Dispatch], rows: usize) {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encode(&mut encoder, dispatches, rows);
    gpu.queue().submit([encoder.finish()]);
}

pub(crate) fn read(gpu: &Gpu, activation: &Activation, rows: usize) -> Vec<f32> {
    pollster::block_on(gpu.read_rows(activation, rows)).unwrap()
}

pub(crate) fn read_u32(gpu: &Gpu, buffer: &wgpu::Buffer) -> u32 {
    u32::from_le_bytes(pollster::block_on(gpu.read(buffer, 0, 4)).unwrap().try_into().unwrap())
}

/// Panics if a value past `cols` of a row is not zero.
#[track_caller]
pub(crate) fn assert_padding_zero(gpu: &Gpu, activation: &Activation, what: &str) {
    let bytes = pollster::block_on(gpu.read(&activation.buffer, 0, activation.bytes(activation.rows))).unwrap();
    let values: &[f32] = bytemuck::cast_slice(&bytes);
    for row in values.chunks_exact(activation.stride()) {
        assert!(row[activation.cols..].iter().all(|value| *value == 0.0), "{what}: padding was written");
    }
}

/// Panics, with the worst place, if a value differs by more than its bound.
#[track_caller]
pub(crate) fn assert_within(got: &[f32], want: &[f32], bounds: &[f64], what: &str) {
    assert_eq!([got.len(), bounds.len()], [want.len(); 2], "{what}: numbers of values and bounds");
    let excess = |i: usize| f64::from((got[i] - want[i]).abs()) / bounds[i].max(f64::MIN_POSITIVE);
    let ratios: Vec<f64> = (0..want.len()).map(|i| if got[i].is_finite() { excess(i) } else { f64::INFINITY }).collect();
    let (at, worst) =
        ratios.iter().copied().enumerate().fold((0, 0.0), |worst, (i, ratio)| if ratio > worst.1 { (i, ratio) } else { worst });
    let (got, want, bound) = (got[at], want[at], bounds[at]);
    assert!(worst <= 1.0, "{what}: value {at} is {got}, expected {want}: off by {:e}, bound {bound:e}", (got - want).abs());
}

/// Returns a weight in parts of `part_rows`, with the f32 values that it stands for.
pub(crate) fn weight(gpu: &Gpu, scheme: Scheme, out: usize, cols: usize, part_rows: usize, seed: u64) -> (Weight, Vec<f32>) {
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
