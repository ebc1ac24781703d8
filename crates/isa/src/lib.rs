//! A Vulkan driver in front of one of Mesa's, on a machine without the GPU: `cargo xtask isa` describes how it is used.
//!
//! The real driver compiles. It cannot do much else without a GPU, so everything that a WebGPU implementation needs to make a device is
//! answered here: memory, semaphores, command buffers. Nothing is ever executed. Every compute pipeline is made with a record of its
//! statistics and its assembly, which is appended to a file.
// The Vulkan loader calls these functions, and passes pointers.
#![allow(unsafe_code)]

mod capture;
mod driver;
mod memory;

use ash::vk::{self, Handle};
use driver::Driver;
use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicU64, Ordering};

/// Negotiates the version of the interface between the loader and a driver.
///
/// # Safety
/// The Vulkan loader calls it.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn vk_icdNegotiateLoaderICDInterfaceVersion(version: *mut u32) -> vk::Result {
    let Some(driver) = Driver::get() else { return vk::Result::ERROR_INITIALIZATION_FAILED };
    // SAFETY: the argument is the loader's.
    unsafe { (driver.negotiate)(version) }
}

/// Returns a function of the driver.
///
/// # Safety
/// The Vulkan loader calls it.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn vk_icdGetInstanceProcAddr(instance: vk::Instance, name: *const c_char) -> vk::PFN_vkVoidFunction {
    // SAFETY: the arguments are the loader's.
    unsafe { answer_or(name, (Driver::get()?.instance_proc)(instance, name)) }
}

/// Returns a function of the driver that takes a physical device.
///
/// # Safety
/// The Vulkan loader calls it.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn vk_icdGetPhysicalDeviceProcAddr(instance: vk::Instance, name: *const c_char) -> vk::PFN_vkVoidFunction {
    // SAFETY: the arguments are the loader's.
    unsafe { answer_or(name, (Driver::get()?.physical_device_proc)(instance, name)) }
}

unsafe extern "system" fn get_device_proc_addr(device: vk::Device, name: *const c_char) -> vk::PFN_vkVoidFunction {
    // SAFETY: the arguments are the caller's.
    unsafe { answer_or(name, (driver::instance()?.fp_v1_0().get_device_proc_addr)(device, name)) }
}

/// Returns the function of this driver in place of `real`, if there are both.
///
/// # Safety
/// `name` is a string of C.
unsafe fn answer_or(name: *const c_char, real: vk::PFN_vkVoidFunction) -> vk::PFN_vkVoidFunction {
    // SAFETY: as the caller says.
    let name = unsafe { CStr::from_ptr(name) };
    real.map(|real| answer(name.to_str().unwrap_or_default()).unwrap_or(real))
}

/// Casts a function of the given type.
macro_rules! function {
    ($function:expr, $type:ty) => {{
        let function: $type = $function;
        // SAFETY: the caller casts it to the type that belongs to its name.
        unsafe { std::mem::transmute::<$type, unsafe extern "system" fn()>(function) }
    }};
}

/// Returns the function that answers in place of the real driver's.
fn answer(name: &str) -> vk::PFN_vkVoidFunction {
    let name = name.strip_suffix("KHR").unwrap_or(name);
    Some(match name {
        "vkCreateInstance" => function!(driver::create_instance, vk::PFN_vkCreateInstance),
        "vkCreateDevice" => function!(driver::create_device, vk::PFN_vkCreateDevice),
        "vkGetDeviceProcAddr" => function!(get_device_proc_addr, vk::PFN_vkGetDeviceProcAddr),
        "vkCreateComputePipelines" => function!(capture::create_compute_pipelines, vk::PFN_vkCreateComputePipelines),
        "vkGetPhysicalDeviceMemoryProperties" => function!(memory::properties, vk::PFN_vkGetPhysicalDeviceMemoryProperties),
        "vkGetPhysicalDeviceMemoryProperties2" => function!(memory::properties2, vk::PFN_vkGetPhysicalDeviceMemoryProperties2),
        "vkGetPhysicalDeviceImageFormatProperties" => {
            function!(memory::image_properties, vk::PFN_vkGetPhysicalDeviceImageFormatProperties)
        }
        "vkGetPhysicalDeviceImageFormatProperties2" => {
            function!(memory::image_properties2, vk::PFN_vkGetPhysicalDeviceImageFormatProperties2)
        }
        "vkAllocateMemory" => function!(memory::allocate, vk::PFN_vkAllocateMemory),
        "vkFreeMemory" => function!(memory::free, vk::PFN_vkFreeMemory),
        "vkMapMemory" => function!(memory::map, vk::PFN_vkMapMemory),
        "vkMapMemory2" => function!(memory::map2, vk::PFN_vkMapMemory2KHR),
        "vkGetBufferMemoryRequirements" => function!(memory::buffer_requirements, vk::PFN_vkGetBufferMemoryRequirements),
        "vkGetBufferMemoryRequirements2" => function!(memory::buffer_requirements2, vk::PFN_vkGetBufferMemoryRequirements2),
        "vkCreateSemaphore" => function!(create_semaphore, vk::PFN_vkCreateSemaphore),
        "vkGetSemaphoreCounterValue" => function!(semaphore_value, vk::PFN_vkGetSemaphoreCounterValue),
        _ if does_nothing(name) => function!(nothing, unsafe extern "system" fn() -> vk::Result),
        _ => return None,
    })
}

/// True for functions that execute, wait or move data, which nothing here needs.
fn does_nothing(name: &str) -> bool {
    const BEGINNINGS: [&str; 19] = [
        "vkBeginCommandBuffer",
        "vkBindBufferMemory",
        "vkCmd",
        "vkDestroySemaphore",
        "vkDeviceWaitIdle",
        "vkEndCommandBuffer",
        "vkFlushMappedMemoryRanges",
        "vkGetFenceStatus",
        "vkInvalidateMappedMemoryRanges",
        "vkQueueSubmit",
        "vkQueueWaitIdle",
        "vkResetCommandBuffer",
        "vkResetFences",
        "vkSetDebugUtilsObject",
        "vkSignalSemaphore",
        "vkUnmapMemory",
        "vkUpdateDescriptorSet",
        "vkWaitForFences",
        "vkWaitSemaphores",
    ];
    BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// Stands for functions of any arguments, which it does not read: the caller removes them in the C calling conventions of 64-bit machines.
unsafe extern "system" fn nothing() -> vk::Result {
    vk::Result::SUCCESS
}

unsafe extern "system" fn create_semaphore(
    _: vk::Device,
    _: *const vk::SemaphoreCreateInfo<'_>,
    _: *const vk::AllocationCallbacks<'_>,
    semaphore: *mut vk::Semaphore,
) -> vk::Result {
    static CREATED: AtomicU64 = AtomicU64::new(0);
    // SAFETY: the caller passes a handle to fill.
    unsafe { *semaphore = vk::Semaphore::from_raw(CREATED.fetch_add(1, Ordering::Relaxed) + 1) };
    vk::Result::SUCCESS
}

/// Returns a value past all that a program waits for.
unsafe extern "system" fn semaphore_value(_: vk::Device, _: vk::Semaphore, value: *mut u64) -> vk::Result {
    // SAFETY: the caller passes a number to fill.
    unsafe { *value = 1 << 40 };
    vk::Result::SUCCESS
}
