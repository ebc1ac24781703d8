//! The real driver, and the instance and devices that it has made.

use ash::khr::pipeline_executable_properties;
use ash::vk;
use libloading::Library;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Environment variable with the path of the real driver's library.
const DRIVER: &str = "ISA_DRIVER";

pub(crate) type Negotiate = unsafe extern "system" fn(*mut u32) -> vk::Result;

/// The entry points of the real driver.
pub(crate) struct Driver {
    pub negotiate: Negotiate,
    pub instance_proc: vk::PFN_vkGetInstanceProcAddr,
    pub physical_device_proc: vk::PFN_vkGetInstanceProcAddr,
    /// Keeps the functions valid.
    _library: Library,
}

impl Driver {
    /// Returns the driver, loaded at the first call; `None` if it could not be loaded, which is printed once.
    pub fn get() -> Option<&'static Self> {
        static LOADED: OnceLock<Option<Driver>> = OnceLock::new();
        let load = || Self::load().map_err(|error| eprintln!("could not load the driver that {DRIVER} names: {error}")).ok();
        LOADED.get_or_init(load).as_ref()
    }

    fn load() -> Result<Self, Box<dyn std::error::Error>> {
        let path = std::env::var_os(DRIVER).ok_or("the variable is not set")?;
        // SAFETY: the library is a Vulkan driver of Mesa, whose entry points have these types.
        unsafe {
            let library = Library::new(path)?;
            Ok(Self {
                negotiate: *library.get(b"vk_icdNegotiateLoaderICDInterfaceVersion\0")?,
                instance_proc: *library.get(b"vk_icdGetInstanceProcAddr\0")?,
                physical_device_proc: *library.get(b"vk_icdGetPhysicalDeviceProcAddr\0")?,
                _library: library,
            })
        }
    }
}

/// A device with its functions.
#[derive(Clone)]
pub(crate) struct Device {
    pub functions: ash::Device,
    pub executables: pipeline_executable_properties::Device,
}

static INSTANCE: Mutex<Option<ash::Instance>> = Mutex::new(None);
static DEVICES: OnceLock<Mutex<HashMap<vk::Device, Device>>> = OnceLock::new();

/// The latest instance: programs that compile make one.
pub(crate) fn instance() -> Option<ash::Instance> {
    lock(&INSTANCE).clone()
}

pub(crate) fn device(handle: vk::Device) -> Option<Device> {
    lock(DEVICES.get_or_init(Mutex::default)).get(&handle).cloned()
}

pub(crate) unsafe extern "system" fn create_instance(
    info: *const vk::InstanceCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    instance: *mut vk::Instance,
) -> vk::Result {
    let Some(driver) = Driver::get() else { return vk::Result::ERROR_INITIALIZATION_FAILED };
    // SAFETY: the arguments are the caller's, and the function of this name has this type.
    unsafe {
        let Some(create) = (driver.instance_proc)(vk::Instance::null(), c"vkCreateInstance".as_ptr()) else {
            return vk::Result::ERROR_INITIALIZATION_FAILED;
        };
        let create: vk::PFN_vkCreateInstance = std::mem::transmute(create);
        let result = create(info, allocator, instance);
        if result == vk::Result::SUCCESS {
            let entry = ash::StaticFn { get_instance_proc_addr: driver.instance_proc };
            *lock(&INSTANCE) = Some(ash::Instance::load(&entry, *instance));
        }
        result
    }
}

/// Creates a device with the extension that reports what a pipeline was compiled to.
pub(crate) unsafe extern "system" fn create_device(
    physical_device: vk::PhysicalDevice,
    info: *const vk::DeviceCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    device: *mut vk::Device,
) -> vk::Result {
    let Some(instance) = instance() else { return vk::Result::ERROR_INITIALIZATION_FAILED };
    // SAFETY: the arguments are the caller's; what `changed` points to lives until the call returns.
    unsafe {
        let mut changed = *info;
        let mut names: Vec<_> = match changed.enabled_extension_count {
            0 => Vec::new(),
            count => std::slice::from_raw_parts(changed.pp_enabled_extension_names, count as usize).to_vec(),
        };
        names.push(pipeline_executable_properties::NAME.as_ptr());
        (changed.enabled_extension_count, changed.pp_enabled_extension_names) = (names.len() as u32, names.as_ptr());
        let mut feature = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
        feature.p_next = changed.p_next.cast_mut();
        changed.p_next = (&raw const feature).cast();
        let result = (instance.fp_v1_0().create_device)(physical_device, &changed, allocator, device);
        if result == vk::Result::SUCCESS {
            let functions = ash::Device::load(instance.fp_v1_0(), *device);
            let executables = pipeline_executable_properties::Device::new(&instance, &functions);
            lock(DEVICES.get_or_init(Mutex::default)).insert(*device, Device { functions, executables });
        }
        result
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
