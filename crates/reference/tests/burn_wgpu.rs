//! The checks on burn-wgpu. They need the feature `wgpu` and an adapter: `cargo xtask test --only burn-wgpu` runs them on lavapipe.

mod checks;

use qwen_vl_reference::burn::tensor::Device;
use qwen_vl_reference::burn::tensor::wgpu::wgpu::Backend;
use qwen_vl_reference::wgpu_device;

/// Returns the device of burn-wgpu. Panics if there is none.
fn device() -> Device {
    let (device, adapter) = wgpu_device().unwrap();
    println!("{adapter:?}");
    assert!(matches!(adapter.backend, Backend::Vulkan | Backend::Metal), "{adapter:?}");
    assert_ne!(device, Device::flex());
    device
}

#[test]
fn f32_agrees_with_the_original() {
    checks::goldens(&device());
}

#[test]
fn a_packed_row_gives_the_logits_of_its_samples_and_threads() {
    checks::packed_row(&device());
}

#[test]
fn weights_go_out_as_they_came_in() {
    checks::weights(&device());
}
