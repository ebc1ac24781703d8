//! The compute pipelines of a device, by their WGSL source.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A shader that a kernel needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shader {
    /// Label of its shader module and of its pipeline: the kernel and the kernel set, as in `matvec plain+subgroups`.
    pub label: String,
    /// WGSL with the entry point `main`.
    pub source: Arc<str>,
}

impl Shader {
    /// Compiles the shader as for a launch. Errors are the device's.
    pub fn compile(&self, device: &wgpu::Device) -> wgpu::ComputePipeline {
        let (label, source) = (Some(self.label.as_str()), wgpu::ShaderSource::Wgsl(self.source.as_ref().into()));
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
        device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                // Every kernel writes its workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        })
    }
}

#[derive(Clone)]
pub(crate) struct Pipelines {
    device: wgpu::Device,
    by_source: Arc<Mutex<HashMap<Arc<str>, Entry>>>,
}

struct Entry {
    shader: Shader,
    /// Compiled lazily, because compilation is slow. In browsers `compile.ts` may have compiled the same source asynchronously.
    pipeline: Option<wgpu::ComputePipeline>,
}

impl Pipelines {
    pub(crate) fn new(device: wgpu::Device) -> Self {
        Self { device, by_source: Arc::default() }
    }

    pub(crate) fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// Registers a shader; returns the shared copy of its source.
    pub(crate) fn register(&self, label: String, source: String) -> Arc<str> {
        let mut entries = self.lock();
        if let Some((known, _)) = entries.get_key_value(source.as_str()) {
            return known.clone();
        }
        let source: Arc<str> = source.into();
        entries.insert(source.clone(), Entry { shader: Shader { label, source: source.clone() }, pipeline: None });
        source
    }

    /// Returns the pipeline of a registered source; compiles it first if necessary.
    pub(crate) fn get(&self, source: &str) -> wgpu::ComputePipeline {
        let mut entries = self.lock();
        let Entry { shader, pipeline } = entries.get_mut(source).expect("the source is registered");
        pipeline.get_or_insert_with(|| shader.compile(&self.device)).clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Returns the registered shaders without a pipeline.
    pub(crate) fn uncompiled(&self) -> Vec<Shader> {
        let entries = self.lock();
        entries.values().filter(|entry| entry.pipeline.is_none()).map(|entry| entry.shader.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Entry>> {
        self.by_source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
