//! The device: limits, errors, reads, and the choice of kernels.

use crate::support::{gpu, read_u32, request, rows, run};
use qwen_vl_format::Scheme;
use qwen_vl_kernels::{
    ChoiceOptions, Gpu, GpuError, GpuOptions, Kernels, KvCache, KvFormat, Precision, StepBuffer, Weight, argmax, choose, embedding, size,
};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Sizes of the published geometry that 32 bits cannot hold.
#[test]
fn a_buffer_past_the_limit_is_refused_by_name_with_its_size() {
    let gpu = gpu(Kernels::PLAIN);
    let limits = gpu.device().limits();
    let limit = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
    let refused = |what: &str, needed| GpuError::BindingTooLarge { what: what.to_owned(), needed, limit };
    for (positions, needed) in [(262_144, 4_294_967_296), (300_000, 4_915_200_000), (usize::MAX, u64::MAX)] {
        let error = KvCache::new(&gpu, "decoder.keys", positions, 32, 128, KvFormat::F32).unwrap_err();
        assert_eq!(error, refused("decoder.keys", needed));
        let error = gpu.activation("decoder.hidden", positions, 4096).unwrap_err();
        assert_eq!(error, refused("decoder.hidden", needed));
    }
    let error = Weight::allocate(&gpu, "head.weight", Scheme::F32, 1 << 16, &[1 << 16]).unwrap_err();
    assert_eq!(error, refused("head.weight", 1 << 34));
    let text = error.to_string();
    assert!(text.contains("head.weight") && text.contains(&(1u64 << 34).to_string()) && text.contains(&limit.to_string()), "{text}");
    assert_eq!(gpu.allocated_bytes(), 0);
}

#[test]
fn a_dry_run_that_panics_does_not_stop_later_allocations() {
    let gpu = gpu(Kernels::PLAIN);
    let panicked = catch_unwind(AssertUnwindSafe(|| gpu.dry_run(|gpu| -> () { panic!("{}", gpu.storage("x", 64).unwrap().size()) })));
    assert!(panicked.is_err());
    assert_eq!(gpu.allocated_bytes(), 0, "a dry run allocated");
    gpu.storage("x", 64).unwrap();
    assert_eq!(gpu.allocated_bytes(), size::storage(64));
}

#[test]
fn an_error_of_the_device_is_reported_once_by_the_call_that_it_belongs_to() {
    let gpu = gpu(Kernels::PLAIN);
    let logits = rows(&gpu, 1, 4, &[1.0, 5.0, 2.0, 0.0]);
    let token = gpu.storage("token", 4).unwrap();
    let launch = argmax::argmax(&gpu, &logits, &argmax::Best::new(&gpu).unwrap(), &token);
    // Past the end of the buffer: a validation error outside of any scope.
    gpu.queue().write_buffer(&token, 0, &[0; 64]);
    let error = pollster::block_on(gpu.read(&token, 0, 4)).unwrap_err();
    assert!(matches!(&error, GpuError::Validation { .. }), "{error}");
    assert!(error.to_string().contains("recover()"), "{error}");
    run(&gpu, &launch, 1);
    assert_eq!(read_u32(&gpu, &token), 1, "the device is usable again");
    assert_eq!(gpu.check(), Ok(()));
}

#[test]
fn a_destroyed_device_ends_reads_in_progress_and_refuses_later_ones() {
    let gpu = gpu(Kernels::PLAIN);
    let buffer = gpu.storage("x", 64).unwrap();
    let (read, dropped) = (gpu.begin_read(&buffer, 0, 4), gpu.begin_read(&buffer, 0, 4));
    drop(dropped);
    assert_eq!(gpu.check(), Ok(()), "a dropped read is not an error");
    let (lost, also_lost) = (gpu.lost(), gpu.lost());
    gpu.handle().destroy();
    assert_eq!(gpu.allocated_bytes(), 0);
    for _ in 0..2 {
        let error = pollster::block_on(gpu.read(&buffer, 0, 4)).unwrap_err();
        assert!(matches!(error, GpuError::DeviceLost { .. }), "{error}");
    }
    let error = pollster::block_on(gpu.finish_read(read)).unwrap_err();
    assert!(matches!(error, GpuError::DeviceLost { .. }), "{error}");
    // A poll that finds the queue empty runs the callback.
    gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
    assert_eq!(pollster::block_on(lost), pollster::block_on(also_lost));
    assert_eq!(pollster::block_on(gpu.lost()), pollster::block_on(gpu.lost()));
}

#[test]
fn drained_waits_for_submitted_work() {
    let gpu = gpu(Kernels::PLAIN);
    let logits = rows(&gpu, 1, 4, &[1.0, 5.0, 2.0, 0.0]);
    let token = gpu.storage("token", 4).unwrap();
    run(&gpu, &argmax::argmax(&gpu, &logits, &argmax::Best::new(&gpu).unwrap(), &token), 1);
    let drained = gpu.drained();
    gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
    pollster::block_on(drained);
    assert_eq!(gpu.check(), Ok(()));
}

#[test]
fn a_device_measures_which_kernels_to_use_and_keeps_nothing_of_it() {
    let mut gpu = request(GpuOptions::default());
    let chosen =
        pollster::block_on(choose(&mut gpu, ChoiceOptions { precision: Precision::Q8, ..ChoiceOptions::default() })).unwrap().kernels;
    assert_eq!(gpu.kernels(), chosen);
    let exact = Kernels { precision: Precision::F32, ..chosen };
    assert_eq!(exact == Kernels::CPU, gpu.is_software() == Some(true), "{exact}");
    assert_eq!(gpu.allocated_bytes(), 0);
}

/// Tests of the browser find shaders by these labels.
#[test]
fn a_shader_is_labelled_by_its_kernel_and_its_kernel_set() {
    let labels = |kernels| {
        let gpu: Gpu = gpu(kernels);
        let step = StepBuffer::new(&gpu);
        gpu.dry_run(|gpu| {
            let weight = Weight::allocate(gpu, "w", Scheme::F32, 64, &[64]).unwrap();
            let (ids, output) = (gpu.storage("ids", 4).unwrap(), gpu.activation("out", 1, 64).unwrap());
            embedding::embedding(gpu, &step, &weight, &ids, &output);
            argmax::argmax(gpu, &output, &argmax::Best::new(gpu).unwrap(), &ids);
        });
        let mut labels: Vec<String> = gpu.uncompiled().into_iter().map(|shader| shader.label).collect();
        labels.sort();
        labels
    };
    assert_eq!(labels(Kernels::PLAIN), ["argmax_merge plain", "argmax_slices plain", "embedding plain"]);
    assert_eq!(labels(Kernels::CPU), ["argmax_merge cpu", "argmax_slices cpu", "embedding cpu"]);
}
