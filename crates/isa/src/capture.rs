//! Compute pipelines with a record of what they were compiled to.

use crate::driver::{Device, device};
use ash::vk;
use std::ffi::{CStr, c_char};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;

/// Environment variable with the file that the records are appended to. The compiling program appends the names of the kernels.
const OUT: &str = "ISA_OUT";

pub(crate) unsafe extern "system" fn create_compute_pipelines(
    handle: vk::Device,
    _: vk::PipelineCache,
    count: u32,
    infos: *const vk::ComputePipelineCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    pipelines: *mut vk::Pipeline,
) -> vk::Result {
    use vk::PipelineCreateFlags as Flags;
    let Some(device) = device(handle) else { return vk::Result::ERROR_INITIALIZATION_FAILED };
    // SAFETY: the arguments are the caller's arrays of `count` elements.
    unsafe {
        let mut infos = std::slice::from_raw_parts(infos, count as usize).to_vec();
        for info in &mut infos {
            info.flags |= Flags::CAPTURE_STATISTICS_KHR | Flags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
        }
        // Without the cache: a pipeline that is found there has no record.
        let create = device.functions.fp_v1_0().create_compute_pipelines;
        let result = create(handle, vk::PipelineCache::null(), count, infos.as_ptr(), allocator, pipelines);
        if result == vk::Result::SUCCESS {
            for pipeline in std::slice::from_raw_parts(pipelines, count as usize) {
                match record(&device, *pipeline) {
                    Ok(record) => append(&record),
                    Err(error) => eprintln!("could not read what a pipeline was compiled to: {error}"),
                }
            }
        }
        result
    }
}

/// Returns the statistics and the assembly of a pipeline as text: `statistic NAME = VALUE`, then `assembly`, its lines, and `end`.
fn record(device: &Device, pipeline: vk::Pipeline) -> Result<String, vk::Result> {
    let mut record = String::new();
    let executables = &device.executables;
    // SAFETY: the device has the extension, and made the pipeline with the flags that capture.
    unsafe {
        let found = executables.get_pipeline_executable_properties(&vk::PipelineInfoKHR::default().pipeline(pipeline))?;
        for (index, executable) in found.iter().enumerate() {
            let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(index as u32);
            // Writing to a string does not fail.
            let _ = writeln!(record, "statistic Subgroup size = {}", executable.subgroup_size);
            for statistic in executables.get_pipeline_executable_statistics(&info)? {
                let _ = writeln!(record, "statistic {} = {}", text(&statistic.name), statistic_value(&statistic));
            }
            for (name, content) in representations(device, &info)? {
                if name.to_lowercase().ends_with("assembly") {
                    let _ = writeln!(record, "assembly\n{content}\nend");
                }
            }
        }
    }
    Ok(record)
}

fn statistic_value(statistic: &vk::PipelineExecutableStatisticKHR<'_>) -> String {
    use vk::PipelineExecutableStatisticFormatKHR as Format;
    // SAFETY: the format says which field is set.
    unsafe {
        match statistic.format {
            Format::BOOL32 => statistic.value.b32.to_string(),
            Format::INT64 => statistic.value.i64.to_string(),
            Format::UINT64 => statistic.value.u64.to_string(),
            _ => statistic.value.f64.to_string(),
        }
    }
}

/// Returns the internal representations that are text, with their names.
///
/// # Safety
/// The executable is the device's.
unsafe fn representations(device: &Device, info: &vk::PipelineExecutableInfoKHR<'_>) -> Result<Vec<(String, String)>, vk::Result> {
    // SAFETY: the second call writes at most the bytes that the first reported.
    unsafe {
        let mut found = device.executables.get_pipeline_executable_internal_representations(info)?;
        let mut contents: Vec<Vec<u8>> = found.iter().map(|found| vec![0; found.data_size]).collect();
        for (found, content) in found.iter_mut().zip(&mut contents) {
            found.p_data = content.as_mut_ptr().cast();
        }
        let mut count = found.len() as u32;
        let read = device.executables.fp().get_pipeline_executable_internal_representations_khr;
        read(device.functions.handle(), info, &mut count, found.as_mut_ptr()).result()?;
        let named = found.iter().zip(contents).filter(|(found, _)| found.is_text == vk::TRUE);
        Ok(named.map(|(found, content)| (text(&found.name), until_zero(&content))).collect())
    }
}

fn text(name: &[c_char]) -> String {
    let bytes: Vec<u8> = name.iter().map(|character| *character as u8).collect();
    until_zero(&bytes)
}

fn until_zero(bytes: &[u8]) -> String {
    let bytes = CStr::from_bytes_until_nul(bytes).map_or(bytes, CStr::to_bytes);
    String::from_utf8_lossy(bytes).into_owned()
}

fn append(record: &str) {
    let Some(path) = std::env::var_os(OUT) else { return };
    let written = OpenOptions::new().append(true).create(true).open(path).and_then(|mut file| file.write_all(record.as_bytes()));
    if let Err(error) = written {
        eprintln!("could not append to the file that {OUT} names: {error}");
    }
}
