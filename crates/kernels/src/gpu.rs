//! The device: adapter choice, buffers, pipelines, reading back.

use crate::choice::{self, Kernels, Precision};
use crate::size;
use qwen_vl_format::padded;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why the GPU could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// No adapter at all.
    #[error("no GPU adapter was found: {reason}")]
    NoAdapter {
        /// What the platform says.
        reason: String,
    },
    /// The adapter refused a device.
    #[error("the adapter `{adapter}` gave no device: {reason}")]
    NoDevice {
        /// Adapter name.
        adapter: String,
        /// What the platform says.
        reason: String,
    },
    /// The kernels that were asked for need what the adapter does not have.
    #[error("the adapter `{adapter}` has no {feature}, which the chosen kernels need")]
    MissingFeature {
        /// Adapter name.
        adapter: String,
        /// WebGPU's name of it.
        feature: &'static str,
    },
    /// Something does not fit the adapter's limits.
    #[error("`{what}` needs {needed} bytes in one binding, the adapter allows {limit}")]
    BindingTooLarge {
        /// The buffer.
        what: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// Not enough memory for a buffer.
    #[error("the GPU has no room for {needed} bytes ({what})")]
    OutOfMemory {
        /// The buffer or the step.
        what: String,
        /// Bytes needed.
        needed: u64,
    },
    /// The device went away (driver reset, sleep, another program).
    #[error("the GPU device was lost: {reason}")]
    DeviceLost {
        /// What the platform says.
        reason: String,
    },
    /// The driver or the browser refused an operation: a bug of ours or of theirs.
    #[error("the GPU reported an error: {message}")]
    Validation {
        /// Its text.
        message: String,
    },
}

/// Which adapter to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GpuOptions {
    /// Only a software adapter.
    pub force_fallback: bool,
    /// The adapter that saves energy rather than the fast one.
    pub low_power: bool,
    /// Ask for WebGPU's default limits only, whatever the adapter offers.
    pub default_limits: bool,
    /// The kernels to use; those that a short measurement finds fastest where `None`.
    pub kernels: Option<Kernels>,
    /// How far the measurement may choose to round, see [`Kernels::precision`].
    pub precision: Precision,
    /// In a browser: whether the device will have the feature `subgroups`, which wgpu can not ask for. Natively it is asked for here.
    pub browser_subgroups: bool,
    /// Ask for [`Self::TIMESTAMPS`] where the adapter has them: for benches, not for browsers.
    pub timestamps: bool,
}

impl GpuOptions {
    /// What it takes to note on the GPU when work begins and ends.
    pub const TIMESTAMPS: wgpu::Features = wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS);
}

/// A device, its queue, and the pipelines compiled on it.
pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    kernels: Kernels,
    has_subgroups: bool,
    has_f16: bool,
    pipelines: Pipelines,
    uniforms: RefCell<HashMap<Vec<u32>, wgpu::Buffer>>,
    zeros: wgpu::Buffer,
    live: LiveBuffers,
    rehearsing: Cell<bool>,
    error: Arc<Mutex<Option<GpuError>>>,
    lost: Arc<MapSlot>,
}

/// Bytes on their way back from the GPU.
pub struct PendingRead {
    staging: wgpu::Buffer,
    mapped: Arc<MapSlot>,
    #[cfg(not(target_arch = "wasm32"))]
    submission: wgpu::SubmissionIndex,
}

/// f32 rows on the GPU: `[rows, cols]`, each row padded with zeros to `stride` values.
#[derive(Debug, Clone)]
pub struct Activation {
    /// The values.
    pub buffer: wgpu::Buffer,
    /// Rows there is room for.
    pub rows: usize,
    /// Values of a row.
    pub cols: usize,
}

impl Activation {
    /// Distance between two rows, in values.
    pub fn stride(&self) -> usize {
        padded(self.cols)
    }

    /// Bytes of `rows` rows.
    pub fn bytes(&self, rows: usize) -> u64 {
        size::rows(rows, self.cols)
    }
}

impl Gpu {
    /// Takes an adapter and a device on it, with all limits that the adapter offers.
    pub async fn request(options: GpuOptions) -> Result<Self, GpuError> {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        if cfg!(target_arch = "wasm32") {
            descriptor.backends = wgpu::Backends::BROWSER_WEBGPU;
        }
        let instance = wgpu::Instance::new(descriptor);
        let adapter = instance
            .request_adapter(&wgpu::RequestAdapterOptions {
                power_preference: if options.low_power { wgpu::PowerPreference::LowPower } else { wgpu::PowerPreference::HighPerformance },
                force_fallback_adapter: options.force_fallback,
                ..Default::default()
            })
            .await
            .map_err(|error| GpuError::NoAdapter { reason: error.to_string() })?;
        let info = adapter.get_info();
        let required_limits = if options.default_limits { wgpu::Limits::default() } else { adapter.limits() };
        let forced = options.kernels.unwrap_or_default();
        let offered = adapter.features();
        let has_f16 = (options.precision.max(forced.precision) != Precision::F32) && offered.contains(wgpu::Features::SHADER_F16);
        let has_subgroups =
            if cfg!(target_arch = "wasm32") { options.browser_subgroups } else { offered.contains(wgpu::Features::SUBGROUP) };
        for (feature, needed, has) in
            [("shader-f16", forced.precision == Precision::F16, has_f16), ("subgroups", forced.subgroups, has_subgroups)]
        {
            if needed && !has {
                return Err(GpuError::MissingFeature { adapter: info.name, feature });
            }
        }
        let mut required_features = wgpu::Features::empty();
        required_features.set(wgpu::Features::SHADER_F16, has_f16);
        required_features.set(wgpu::Features::SUBGROUP, has_subgroups && cfg!(not(target_arch = "wasm32")));
        required_features.set(GpuOptions::TIMESTAMPS, options.timestamps && offered.contains(GpuOptions::TIMESTAMPS));
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor { label: Some("qwen-vl"), required_features, required_limits, ..Default::default() })
            .await
            .map_err(|error| GpuError::NoDevice { adapter: info.name.clone(), reason: error.to_string() })?;

        // Errors arrive asynchronously, outside of any call: keep the first and report it at the next read-back.
        let error = Arc::new(Mutex::new(None));
        let keep_first = |slot: &Mutex<Option<GpuError>>, found: GpuError| {
            slot.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(found);
        };
        device.on_uncaptured_error(Arc::new({
            let slot = error.clone();
            move |found: wgpu::Error| {
                let found = match found {
                    wgpu::Error::OutOfMemory { .. } => GpuError::OutOfMemory { what: "while computing".into(), needed: 0 },
                    other => GpuError::Validation { message: other.to_string() },
                };
                keep_first(&slot, found);
            }
        }));
        let lost = Arc::<MapSlot>::default();
        device.set_device_lost_callback({
            let (slot, lost) = (error.clone(), lost.clone());
            move |reason, message| {
                lost.fill(Err(message.clone()));
                if reason != wgpu::DeviceLostReason::Destroyed {
                    keep_first(&slot, GpuError::DeviceLost { reason: message });
                }
            }
        });
        let zeros = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("zeros"),
            size: 16,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        let pipelines = Pipelines { device: device.clone(), made: Default::default() };
        let mut gpu = Self {
            device,
            queue,
            info,
            kernels: options.kernels.unwrap_or_default(),
            has_subgroups,
            has_f16,
            pipelines,
            uniforms: RefCell::default(),
            zeros,
            live: LiveBuffers::default(),
            rehearsing: Cell::default(),
            error,
            lost,
        };
        if options.kernels.is_none() {
            gpu.kernels = choice::fastest(&mut gpu, options.precision).await?;
        }
        Ok(gpu)
    }

    /// The kernels in use.
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Whether kernels may use subgroups.
    pub(crate) fn has_subgroups(&self) -> bool {
        self.has_subgroups
    }

    /// Whether kernels may compute in halves.
    pub(crate) fn has_f16(&self) -> bool {
        self.has_f16
    }

    /// Uses others for what is prepared from now on.
    pub(crate) fn set_kernels(&mut self, kernels: Kernels) {
        self.kernels = kernels;
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// The queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// What the adapter says of itself.
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.info
    }

    /// Bytes of all buffers that were made and not freed.
    pub fn allocated_bytes(&self) -> u64 {
        self.live.lock().iter().map(wgpu::Buffer::size).sum()
    }

    /// Frees all buffers and gives the device back, at once and whoever still holds a part of it.
    pub fn destroy(&self) {
        for buffer in self.live.lock().drain(..) {
            buffer.destroy();
        }
        self.device.destroy();
    }

    /// Resolves with the platform's words when the device goes away, also when it is destroyed. One waits at most.
    pub fn lost(&self) -> impl Future<Output = String> + use<> {
        let lost = self.lost.clone();
        async move { std::future::poll_fn(|context| lost.poll(context)).await.err().unwrap_or_default() }
    }

    /// The first error that the device reported on its own, if any.
    pub fn check(&self) -> Result<(), GpuError> {
        match &*self.error.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// What [`Self::storage`] allocates for `bytes`: whole vectors, at least one.
    pub fn storage_bytes(bytes: u64) -> u64 {
        size::storage(bytes)
    }

    /// A zeroed storage buffer of `bytes`, rounded up to 16.
    pub fn storage(&self, label: &str, bytes: u64) -> Result<wgpu::Buffer, GpuError> {
        let bytes = Self::storage_bytes(bytes);
        let limits = self.device.limits();
        let limit = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        if bytes > limit {
            return Err(GpuError::BindingTooLarge { what: label.to_owned(), needed: bytes, limit });
        }
        if self.rehearsing.get() {
            return Ok(self.zeros.clone());
        }
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        self.live.lock().push(buffer.clone());
        Ok(buffer)
    }

    /// Runs `work` without allocating: the storage that it asks for is not there. What it prepares can not be launched, but its kernels are
    /// known afterwards, see [`Self::uncompiled`].
    pub fn rehearse<T>(&self, work: impl FnOnce(&Self) -> T) -> T {
        self.rehearsing.set(true);
        let result = work(self);
        self.rehearsing.set(false);
        result
    }

    /// Zeroed activations `[rows, cols]`.
    pub fn activation(&self, label: &str, rows: usize, cols: usize) -> Result<Activation, GpuError> {
        let buffer = self.storage(label, size::rows(rows, cols))?;
        Ok(Activation { buffer, rows, cols })
    }

    /// Zeroed activations that are freed when they are dropped. All others live as long as the device.
    pub fn temporary(&self, label: &str, rows: usize, cols: usize) -> Result<Temporary, GpuError> {
        Ok(Temporary { activation: self.activation(label, rows, cols)?, live: self.live.clone() })
    }

    /// Writes rows of `cols` values each, unpadded, from row 0 on.
    pub fn write_rows(&self, activation: &Activation, values: &[f32]) {
        let cols = activation.cols;
        assert!(
            values.len().is_multiple_of(cols) && values.len() / cols <= activation.rows,
            "{} values are not rows of {cols}",
            values.len()
        );
        if cols == activation.stride() {
            self.queue.write_buffer(&activation.buffer, 0, bytemuck::cast_slice(values));
        } else {
            for (row, values) in values.chunks_exact(cols).enumerate() {
                self.queue.write_buffer(&activation.buffer, activation.bytes(row), bytemuck::cast_slice(values));
            }
        }
    }

    /// Reads `rows` rows back, without padding.
    pub async fn read_rows(&self, activation: &Activation, rows: usize) -> Result<Vec<f32>, GpuError> {
        let bytes = self.read(&activation.buffer, 0, activation.bytes(rows)).await?;
        let values: &[f32] = bytemuck::cast_slice(&bytes);
        Ok(values.chunks_exact(activation.stride()).flat_map(|row| &row[..activation.cols]).copied().collect())
    }

    /// Reads bytes back: waits for all work submitted so far.
    pub async fn read(&self, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<u8>, GpuError> {
        self.finish_read(self.begin_read(buffer, offset, bytes)).await
    }

    /// Submits a copy of bytes for [`Self::finish_read`]. Work that is submitted later is not waited for.
    pub fn begin_read(&self, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> PendingRead {
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read-back"),
            size: bytes,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, bytes);
        let _submission = self.queue.submit([encoder.finish()]);
        let mapped: Arc<MapSlot> = Arc::default();
        staging.map_async(wgpu::MapMode::Read, .., {
            let mapped = mapped.clone();
            move |result| mapped.fill(result.map_err(|error| error.to_string()))
        });
        PendingRead {
            staging,
            mapped,
            #[cfg(not(target_arch = "wasm32"))]
            submission: _submission,
        }
    }

    /// The bytes of [`Self::begin_read`], once they are there.
    pub async fn finish_read(&self, read: PendingRead) -> Result<Vec<u8>, GpuError> {
        let PendingRead { staging, mapped, .. } = &read;
        // In a browser the callback comes from the event loop; natively somebody has to wait for the device.
        #[cfg(not(target_arch = "wasm32"))]
        if let Err(error) = self.device.poll(wgpu::PollType::Wait { submission_index: Some(read.submission.clone()), timeout: None }) {
            self.check()?;
            return Err(GpuError::DeviceLost { reason: error.to_string() });
        }
        let outcome = std::future::poll_fn(|context| mapped.poll(context)).await;
        self.check()?;
        outcome.map_err(|reason| GpuError::DeviceLost { reason })?;
        let view = staging.get_mapped_range(..).map_err(|error| GpuError::Validation { message: error.to_string() })?;
        let bytes = view.to_vec();
        drop(view);
        staging.unmap();
        Ok(bytes)
    }

    /// Four zeros, for a binding that a launch has no use for.
    pub(crate) fn zeros(&self) -> &wgpu::Buffer {
        &self.zeros
    }

    /// A uniform of these words, shared by all who ask for the same.
    pub(crate) fn uniform(&self, words: &[u32]) -> wgpu::Buffer {
        if let Some(uniform) = self.uniforms.borrow().get(words) {
            return uniform.clone();
        }
        let uniform = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("sizes"),
            size: (words.len() as u64 * 4).next_multiple_of(16).max(16),
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.queue.write_buffer(&uniform, 0, bytemuck::cast_slice(words));
        self.uniforms.borrow_mut().insert(words.to_vec(), uniform.clone());
        uniform
    }

    /// Pipelines that kernels were made for.
    pub fn pipelines(&self) -> usize {
        self.pipelines.lock().len()
    }

    /// The shaders that kernels were made for and that are not compiled yet, as WGSL with the entry point `main`.
    pub fn uncompiled(&self) -> Vec<Arc<str>> {
        self.pipelines.lock().iter().filter(|(_, made)| made.pipeline.is_none()).map(|(source, _)| source.clone()).collect()
    }

    /// Compiles them now rather than at their first launch.
    pub fn compile(&self) {
        for source in self.uncompiled() {
            self.pipelines.get(&source);
        }
    }

    pub(crate) fn pipeline_cache(&self) -> &Pipelines {
        &self.pipelines
    }
}

/// The pipelines of a device by their WGSL source.
#[derive(Clone)]
pub(crate) struct Pipelines {
    device: wgpu::Device,
    made: Arc<Mutex<HashMap<Arc<str>, MadePipeline>>>,
}

struct MadePipeline {
    label: &'static str,
    /// `None` until it is needed: compiling takes long, and may go on meanwhile by other ways.
    pipeline: Option<wgpu::ComputePipeline>,
}

impl Pipelines {
    pub(crate) fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// Notes a source that will be needed; returns its only copy.
    pub(crate) fn want(&self, label: &'static str, source: String) -> Arc<str> {
        let mut made = self.lock();
        if let Some((known, _)) = made.get_key_value(source.as_str()) {
            return known.clone();
        }
        let source: Arc<str> = source.into();
        made.insert(source.clone(), MadePipeline { label, pipeline: None });
        source
    }

    /// The pipeline for a source that was wanted, compiled at the first request.
    pub(crate) fn get(&self, source: &str) -> wgpu::ComputePipeline {
        let mut made = self.lock();
        let MadePipeline { label, pipeline } = made.get_mut(source).expect("the source was wanted");
        pipeline.get_or_insert_with(|| compile(&self.device, label, source)).clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, MadePipeline>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn compile(device: &wgpu::Device, label: &str, source: &str) -> wgpu::ComputePipeline {
    let module =
        device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some(label), source: wgpu::ShaderSource::Wgsl(source.into()) });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(label),
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

/// The buffers that were made and not freed.
#[derive(Debug, Clone, Default)]
struct LiveBuffers(Arc<Mutex<Vec<wgpu::Buffer>>>);

impl LiveBuffers {
    fn lock(&self) -> MutexGuard<'_, Vec<wgpu::Buffer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Activations that are freed when they are dropped: browsers would keep the memory until they collect their garbage.
#[derive(Debug)]
pub struct Temporary {
    activation: Activation,
    live: LiveBuffers,
}

impl std::ops::Deref for Temporary {
    type Target = Activation;

    fn deref(&self) -> &Activation {
        &self.activation
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        self.live.lock().retain(|buffer| *buffer != self.activation.buffer);
        // What was submitted still runs to its end.
        self.activation.buffer.destroy();
    }
}

/// A one-shot channel for the result of a callback; it must be `Send` natively.
#[derive(Default)]
struct MapSlot(Mutex<MapState>);

#[derive(Default)]
struct MapState {
    result: Option<Result<(), String>>,
    waker: Option<std::task::Waker>,
}

impl MapSlot {
    fn fill(&self, result: Result<(), String>) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.result = Some(result);
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
    }

    fn poll(&self, context: &std::task::Context<'_>) -> std::task::Poll<Result<(), String>> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.result.take() {
            Some(result) => std::task::Poll::Ready(result),
            None => {
                slot.waker = Some(context.waker().clone());
                std::task::Poll::Pending
            }
        }
    }
}
