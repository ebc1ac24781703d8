//! Memory of the process in place of a GPU's: one heap with one type, of which only what is mapped exists.

use crate::driver::{device, lock};
use ash::vk::{self, Handle};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, OnceLock};

/// Size of the heap, bytes.
const HEAP: u64 = 64 << 30;

#[derive(Default)]
struct Memories {
    allocated: u64,
    live: HashMap<u64, Memory>,
}

#[derive(Default)]
struct Memory {
    bytes: u64,
    /// Empty until it is mapped.
    mapped: Vec<u128>,
}

fn memories() -> &'static Mutex<Memories> {
    static MEMORIES: OnceLock<Mutex<Memories>> = OnceLock::new();
    MEMORIES.get_or_init(Mutex::default)
}

fn fill(properties: &mut vk::PhysicalDeviceMemoryProperties) {
    use vk::MemoryPropertyFlags as Flags;
    *properties = vk::PhysicalDeviceMemoryProperties { memory_type_count: 1, memory_heap_count: 1, ..Default::default() };
    properties.memory_types[0].property_flags = Flags::DEVICE_LOCAL | Flags::HOST_VISIBLE | Flags::HOST_COHERENT;
    properties.memory_heaps[0] = vk::MemoryHeap { size: HEAP, flags: vk::MemoryHeapFlags::DEVICE_LOCAL };
}

pub(crate) unsafe extern "system" fn properties(_: vk::PhysicalDevice, properties: *mut vk::PhysicalDeviceMemoryProperties) {
    // SAFETY: the caller passes a structure to fill.
    fill(unsafe { &mut *properties });
}

pub(crate) unsafe extern "system" fn properties2(_: vk::PhysicalDevice, properties: *mut vk::PhysicalDeviceMemoryProperties2<'_>) {
    // SAFETY: the caller passes a chain of structures to fill, each of the type that it names.
    unsafe {
        fill(&mut (*properties).memory_properties);
        let mut next = (*properties).p_next.cast::<vk::BaseOutStructure<'_>>();
        while !next.is_null() {
            if (*next).s_type == vk::StructureType::PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT {
                let budget = next.cast::<vk::PhysicalDeviceMemoryBudgetPropertiesEXT<'_>>();
                ((*budget).heap_budget, (*budget).heap_usage) = Default::default();
                (*budget).heap_budget[0] = HEAP;
            }
            next = (*next).p_next;
        }
    }
}

pub(crate) unsafe extern "system" fn allocate(
    _: vk::Device,
    info: *const vk::MemoryAllocateInfo<'_>,
    _: *const vk::AllocationCallbacks<'_>,
    memory: *mut vk::DeviceMemory,
) -> vk::Result {
    let mut memories = lock(memories());
    memories.allocated += 1;
    let handle = memories.allocated;
    // SAFETY: the caller passes a structure to read and a handle to fill.
    unsafe {
        memories.live.insert(handle, Memory { bytes: (*info).allocation_size, mapped: Vec::new() });
        *memory = vk::DeviceMemory::from_raw(handle);
    }
    vk::Result::SUCCESS
}

pub(crate) unsafe extern "system" fn free(_: vk::Device, memory: vk::DeviceMemory, _: *const vk::AllocationCallbacks<'_>) {
    lock(memories()).live.remove(&memory.as_raw());
}

pub(crate) unsafe extern "system" fn map(
    _: vk::Device,
    memory: vk::DeviceMemory,
    offset: u64,
    _: u64,
    _: vk::MemoryMapFlags,
    data: *mut *mut c_void,
) -> vk::Result {
    let mut memories = lock(memories());
    let Some(memory) = memories.live.get_mut(&memory.as_raw()) else { return vk::Result::ERROR_MEMORY_MAP_FAILED };
    if memory.mapped.is_empty() {
        memory.mapped = vec![0; memory.bytes.div_ceil(size_of::<u128>() as u64) as usize];
    }
    // SAFETY: the offset is within the allocation, which is not resized.
    unsafe { *data = memory.mapped.as_mut_ptr().cast::<u8>().add(offset as usize).cast() };
    vk::Result::SUCCESS
}

pub(crate) unsafe extern "system" fn map2(device: vk::Device, info: *const vk::MemoryMapInfoKHR<'_>, data: *mut *mut c_void) -> vk::Result {
    // SAFETY: the caller passes a structure to read.
    unsafe { map(device, (*info).memory, (*info).offset, (*info).size, (*info).flags, data) }
}

pub(crate) unsafe extern "system" fn buffer_requirements(
    handle: vk::Device,
    buffer: vk::Buffer,
    requirements: *mut vk::MemoryRequirements,
) {
    let Some(device) = device(handle) else { return };
    // SAFETY: the arguments are the caller's.
    unsafe {
        (device.functions.fp_v1_0().get_buffer_memory_requirements)(handle, buffer, requirements);
        (*requirements).memory_type_bits = 1;
    }
}

pub(crate) unsafe extern "system" fn buffer_requirements2(
    handle: vk::Device,
    info: *const vk::BufferMemoryRequirementsInfo2<'_>,
    requirements: *mut vk::MemoryRequirements2<'_>,
) {
    let Some(device) = device(handle) else { return };
    // SAFETY: the arguments are the caller's.
    unsafe {
        (device.functions.fp_v1_1().get_buffer_memory_requirements2)(handle, info, requirements);
        (*requirements).memory_requirements.memory_type_bits = 1;
    }
}

/// Returns the properties of images of any format: a device without a GPU cannot compute them, and no kernel has images.
pub(crate) unsafe extern "system" fn image_properties(
    _: vk::PhysicalDevice,
    _: vk::Format,
    _: vk::ImageType,
    _: vk::ImageTiling,
    _: vk::ImageUsageFlags,
    _: vk::ImageCreateFlags,
    properties: *mut vk::ImageFormatProperties,
) -> vk::Result {
    let properties_of_any = vk::ImageFormatProperties {
        max_extent: vk::Extent3D { width: 16_384, height: 16_384, depth: 2048 },
        max_mip_levels: 15,
        max_array_layers: 2048,
        sample_counts: vk::SampleCountFlags::from_raw(15),
        max_resource_size: 1 << 31,
    };
    // SAFETY: the caller passes a structure to fill.
    unsafe { *properties = properties_of_any };
    vk::Result::SUCCESS
}

pub(crate) unsafe extern "system" fn image_properties2(
    physical_device: vk::PhysicalDevice,
    info: *const vk::PhysicalDeviceImageFormatInfo2<'_>,
    properties: *mut vk::ImageFormatProperties2<'_>,
) -> vk::Result {
    // SAFETY: the caller passes a structure to read and one to fill.
    unsafe {
        let vk::PhysicalDeviceImageFormatInfo2 { format, ty, tiling, usage, flags, .. } = *info;
        image_properties(physical_device, format, ty, tiling, usage, flags, &mut (*properties).image_format_properties)
    }
}
