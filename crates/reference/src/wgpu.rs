//! The device of burn-wgpu.

use anyhow::{Result, anyhow};
use burn::tensor::Device;
use burn::tensor::wgpu::WgpuBackend;
use burn::tensor::wgpu::wgpu::AdapterInfo;
use std::sync::OnceLock;

/// Without this choice, burn prefers a GPU with OpenGL to a software adapter with Vulkan, even if `VK_DRIVER_FILES` names the latter.
const GRAPHICS_API: WgpuBackend = if cfg!(target_vendor = "apple") { WgpuBackend::Metal } else { WgpuBackend::Vulkan };

/// Returns the device of burn-wgpu and its adapter: the fastest GPU, or a software adapter on a machine without one. The environment
/// variable `CUBECL_WGPU_DEFAULT_DEVICE` chooses another adapter, for example `Cpu` or `IntegratedGpu(0)`.
///
/// `Device::wgpu` instead opens its adapter at the first operation, and panics if there is none.
pub fn wgpu_device() -> Result<(Device, AdapterInfo)> {
    // burn opens an adapter once in a process.
    static OPENED: OnceLock<Result<(Device, AdapterInfo), String>> = OnceLock::new();
    let open = || match Device::wgpu_options().graphics_api(GRAPHICS_API).init_with_setup() {
        Ok((device, setup)) => Ok((device, setup.adapter.get_info())),
        Err(error) => Err(error.to_string()),
    };
    OPENED.get_or_init(open).clone().map_err(|error| {
        anyhow!(
            "could not open a device of burn-wgpu: {error}. Install a Vulkan driver (Mesa's lavapipe needs no GPU), or compute on the CPU"
        )
    })
}
