//! The device with its queue, buffers and pipelines.

use crate::buffers::{Activation, Buffers, LiveBuffers, Temporary};
use crate::chosen::Choice;
use crate::error::{ErrorLog, GpuError};
use crate::kernel_set::{Kernels, Precision};
use crate::pipelines::{Pipelines, Shader};
use crate::readback::{PendingMaps, PendingRead};
use crate::size;
use futures_channel::oneshot;
use std::sync::{Arc, Mutex, PoisonError};

/// The adapter and the device to request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GpuOptions {
    /// True to accept only a software adapter.
    pub force_fallback: bool,
    /// True to prefer the adapter that saves energy to the fast one.
    pub low_power: bool,
    /// True to request only WebGPU's default limits; otherwise all that the adapter offers.
    pub default_limits: bool,
    /// The kernel set; the device is refused if its adapter lacks a feature of the set. `None` starts with [`Kernels::PLAIN`], which
    /// [`choose`](crate::choose) replaces by a faster set.
    pub kernels: Option<Kernels>,
    /// In a browser: true if the device will have the feature `subgroups`, which wgpu cannot request there. Natively it is requested here.
    pub browser_subgroups: bool,
    /// True if the adapter is software, false if it is a GPU; for browsers, where wgpu cannot say the latter. `None` asks the adapter.
    pub software: Option<bool>,
    /// True to request [`Self::TIMESTAMPS`] if the adapter has them: for timing, not for browsers.
    pub timestamps: bool,
}

impl GpuOptions {
    /// Features with which the GPU records the times at which work begins and ends.
    pub const TIMESTAMPS: wgpu::Features = wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS);
}

/// A device, its queue, its buffers, and the pipelines compiled on it.
///
/// # Errors of the device
/// A device reports most errors later than the call that causes them. [`Self::read`], [`Self::finish_read`] and [`Self::check`] fail with
/// the first error since the latest of these calls. That is the call to which the error belongs, because a read waits for all work before
/// it. The error is reported once, and the device is usable afterwards:
/// - after [`GpuError::OutOfMemory`] and [`GpuError::MemoryExhausted`] free memory and repeat the call;
/// - after [`GpuError::Validation`] buffers may hold wrong values: reload the model;
/// - [`GpuError::DeviceLost`] is reported by every later call: request another device.
pub struct Gpu {
    handle: DeviceHandle,
    queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    kernels: Kernels,
    choice: Option<Choice>,
    software: Option<bool>,
    has_subgroups: bool,
    has_f16: bool,
    pipelines: Pipelines,
    buffers: Buffers,
    errors: ErrorLog,
    loss: Loss,
}

/// Destroys a device while something else holds its [`Gpu`].
#[derive(Debug, Clone)]
pub struct DeviceHandle {
    device: wgpu::Device,
    live: LiveBuffers,
    maps: PendingMaps,
}

impl DeviceHandle {
    /// Frees all buffers and destroys the device, at once. Reads in progress, and later ones, fail with [`GpuError::DeviceLost`].
    pub fn destroy(&self) {
        self.maps.close();
        self.live.destroy();
        self.device.destroy();
    }
}

/// The reason for which a device was lost, and who waits for it.
#[derive(Debug, Clone, Default)]
struct Loss(Arc<Mutex<LossState>>);

#[derive(Debug, Default)]
struct LossState {
    reason: Option<String>,
    waiting: Vec<oneshot::Sender<String>>,
}

impl Loss {
    fn report(&self, reason: &str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.reason = Some(reason.to_owned());
        for waiting in state.waiting.drain(..) {
            // A receiver that was dropped does not wait any more.
            let _ = waiting.send(reason.to_owned());
        }
    }

    fn wait(&self) -> oneshot::Receiver<String> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.reason {
            Some(reason) => drop(sender.send(reason.clone())),
            None => state.waiting.push(sender),
        }
        receiver
    }
}

impl Gpu {
    /// Requests an adapter and a device on it.
    pub async fn request(options: GpuOptions) -> Result<Self, GpuError> {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        if cfg!(target_arch = "wasm32") {
            descriptor.backends = wgpu::Backends::BROWSER_WEBGPU;
        }
        // Some Vulkan drivers print "XDG_RUNTIME_DIR is invalid" here. They look for a display, and nothing in the descriptor stops them.
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
        let kernels = options.kernels.unwrap_or_default();
        let offered = adapter.features();
        let has_f16 = offered.contains(wgpu::Features::SHADER_F16);
        let has_subgroups =
            if cfg!(target_arch = "wasm32") { options.browser_subgroups } else { offered.contains(wgpu::Features::SUBGROUP) };
        for (feature, needed, has) in
            [("shader-f16", kernels.precision == Precision::F16, has_f16), ("subgroups", kernels.subgroups, has_subgroups)]
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

        let software = options.software.or(match info.device_type {
            wgpu::DeviceType::Cpu => Some(true),
            wgpu::DeviceType::Other => None,
            _ => Some(false),
        });
        let (errors, loss) = (ErrorLog::default(), Loss::default());
        device.on_uncaptured_error(Arc::new({
            let errors = errors.clone();
            move |error: wgpu::Error| errors.report(error.into())
        }));
        device.set_device_lost_callback({
            let (errors, loss) = (errors.clone(), loss.clone());
            move |_, reason| {
                loss.report(&reason);
                errors.report(GpuError::DeviceLost { reason });
            }
        });
        let buffers = Buffers::new(device.clone(), errors.clone());
        let pipelines = Pipelines::new(device.clone());
        let handle = DeviceHandle { device, live: buffers.live().clone(), maps: PendingMaps::default() };
        Ok(Self { handle, queue, info, kernels, choice: None, software, has_subgroups, has_f16, pipelines, buffers, errors, loss })
    }

    /// Returns the kernel set in use.
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Returns the latest [`choose`](crate::choose), if there was one.
    pub fn choice(&self) -> Option<&Choice> {
        self.choice.as_ref()
    }

    pub(crate) fn set_choice(&mut self, choice: Choice) -> &Choice {
        self.choice.insert(choice)
    }

    /// True if the adapter is software, false if it is a GPU, `None` if it does not say.
    pub fn is_software(&self) -> Option<bool> {
        self.software
    }

    /// Replaces what the adapter says.
    #[cfg(test)]
    pub(crate) fn assume_software(&mut self, software: Option<bool>) {
        self.software = software;
    }

    /// True if kernels may use subgroups.
    pub(crate) fn has_subgroups(&self) -> bool {
        self.has_subgroups
    }

    /// True if kernels may compute in f16.
    pub(crate) fn has_f16(&self) -> bool {
        self.has_f16
    }

    /// Sets the kernel set of later launches.
    pub(crate) fn set_kernels(&mut self, kernels: Kernels) {
        self.kernels = kernels;
    }

    /// Returns the device.
    pub fn device(&self) -> &wgpu::Device {
        &self.handle.device
    }

    /// Returns the queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// Returns the adapter's description of itself.
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.info
    }

    /// Returns a handle that can destroy the device while a call on this `Gpu` is in progress.
    pub fn handle(&self) -> DeviceHandle {
        self.handle.clone()
    }

    /// Frees all buffers and destroys the device, see [`DeviceHandle::destroy`].
    pub fn destroy(&self) {
        self.handle.destroy();
    }

    /// Resolves with the platform's reason when the device is lost or destroyed. Natively some other call must poll the device.
    pub fn lost(&self) -> impl Future<Output = String> + use<> {
        let lost = self.loss.wait();
        async move { lost.await.unwrap_or_default() }
    }

    /// Fails with the first error that the device has reported since the latest check or read, and forgets it; see
    /// [Errors of the device](Self#errors-of-the-device).
    pub fn check(&self) -> Result<(), GpuError> {
        self.errors.take()
    }

    /// Waits until the GPU has finished all work submitted so far and the outcomes of all allocations are known to [`Self::check`].
    /// Does not borrow the `Gpu`. Natively some other call must poll the device.
    pub fn drained(&self) -> impl Future<Output = ()> + use<> {
        let (sender, drained) = oneshot::channel();
        // The receiver is gone if the caller does not wait any more.
        self.queue.on_submitted_work_done(move || {
            let _ = sender.send(());
        });
        let settled = self.buffers.settled();
        async move {
            settled.await;
            let _ = drained.await;
        }
    }

    /// Returns the bytes of all storage buffers that were allocated and not freed.
    pub fn allocated_bytes(&self) -> u64 {
        self.buffers.live().bytes()
    }

    /// Allocates a zeroed storage buffer of [`size::storage`]`(bytes)`. A failure of the allocation itself is reported later, see
    /// [Errors of the device](Self#errors-of-the-device).
    pub fn storage(&self, label: &str, bytes: u64) -> Result<wgpu::Buffer, GpuError> {
        self.buffers.storage(label, bytes)
    }

    /// Allocates zeroed activations `[rows, cols]`, which live as long as the device.
    pub fn activation(&self, label: &str, rows: usize, cols: usize) -> Result<Activation, GpuError> {
        let buffer = self.storage(label, size::rows(rows, cols))?;
        Ok(Activation { buffer, rows, cols })
    }

    /// Allocates zeroed activations that are freed on drop.
    pub fn temporary(&self, label: &str, rows: usize, cols: usize) -> Result<Temporary, GpuError> {
        Ok(Temporary::new(self.activation(label, rows, cols)?, self.buffers.live().clone()))
    }

    /// Allocates a zeroed uniform.
    pub(crate) fn uniform(&self, label: &str, bytes: usize) -> wgpu::Buffer {
        self.buffers.create(label, bytes as u64, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST)
    }

    /// Returns a uniform of these words, shared by all callers with the same words.
    pub(crate) fn constant_uniform(&self, words: &[u32]) -> wgpu::Buffer {
        self.buffers.uniform(&self.queue, words)
    }

    /// Returns four zeros, for bindings that a launch does not use.
    pub(crate) fn zeros(&self) -> &wgpu::Buffer {
        self.buffers.zeros()
    }

    /// Runs `work` without allocating storage. The launches that it prepares cannot run, but their kernels are in [`Self::uncompiled`]
    /// afterwards.
    pub fn dry_run<T>(&self, work: impl FnOnce(&Self) -> T) -> T {
        let _guard = self.buffers.begin_dry_run();
        work(self)
    }

    /// Writes rows of `cols` values each, unpadded, from row 0.
    ///
    /// # Panics
    /// If `values` are not whole rows, or more than the activations hold.
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

    /// Reads the first `rows` rows, without padding.
    pub async fn read_rows(&self, activation: &Activation, rows: usize) -> Result<Vec<f32>, GpuError> {
        let bytes = self.read(&activation.buffer, 0, activation.bytes(rows)).await?;
        let values: &[f32] = bytemuck::cast_slice(&bytes);
        Ok(values.chunks_exact(activation.stride()).flat_map(|row| &row[..activation.cols]).copied().collect())
    }

    /// Reads bytes, after all work submitted so far.
    pub async fn read(&self, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<u8>, GpuError> {
        self.finish_read(self.begin_read(buffer, offset, bytes)).await
    }

    /// Submits a copy of bytes for [`Self::finish_read`], which does not wait for work submitted later.
    pub fn begin_read(&self, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> PendingRead {
        let staging = self.buffers.create("read-back", bytes, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        let mut encoder = self.device().create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, bytes);
        let _submission = self.queue.submit([encoder.finish()]);
        PendingRead::new(
            staging,
            self.handle.maps.clone(),
            #[cfg(not(target_arch = "wasm32"))]
            _submission,
        )
    }

    /// Waits for the bytes of [`Self::begin_read`].
    pub async fn finish_read(&self, mut read: PendingRead) -> Result<Vec<u8>, GpuError> {
        // A browser's event loop runs the callback; natively a call must wait for the device.
        #[cfg(not(target_arch = "wasm32"))]
        if let Err(error) = self.device().poll(wgpu::PollType::Wait { submission_index: Some(read.submission.clone()), timeout: None }) {
            self.check()?;
            return Err(GpuError::DeviceLost { reason: error.to_string() });
        }
        let mapped = read.mapped().await;
        self.buffers.settled().await;
        self.check()?;
        let lost = || GpuError::DeviceLost { reason: "a read-back was ended".to_owned() };
        if !mapped {
            return Err(lost());
        }
        let view = read.staging.get_mapped_range(..).map_err(|_| lost())?;
        Ok(view.to_vec())
    }

    /// Returns the number of pipelines that the launches so far need.
    pub fn pipelines(&self) -> usize {
        self.pipelines.len()
    }

    /// Returns the shaders of the launches so far that are not compiled yet.
    pub fn uncompiled(&self) -> Vec<Shader> {
        self.pipelines.uncompiled()
    }

    /// Compiles them now instead of at their first launch.
    pub fn compile(&self) {
        for shader in self.uncompiled() {
            self.pipelines.get(&shader.source);
        }
    }

    pub(crate) fn pipeline_cache(&self) -> &Pipelines {
        &self.pipelines
    }
}

#[cfg(test)]
mod tests {
    use super::{Gpu, GpuError, GpuOptions};
    use std::future::{poll_fn, ready};
    use std::task::Poll;

    fn gpu() -> Gpu {
        pollster::block_on(Gpu::request(GpuOptions::default())).expect("the tests need an adapter")
    }

    fn out_of_memory() -> Option<wgpu::Error> {
        Some(wgpu::Error::OutOfMemory { source: "injected by the test".into() })
    }

    #[test]
    fn a_failed_allocation_is_reported_once_with_its_name_and_size() {
        let gpu = gpu();
        let token = gpu.storage("token", 4).unwrap();
        let failed = Err(GpuError::OutOfMemory { what: "decoder.keys".to_owned(), needed: 1 << 30 });
        // Natively the outcome is known at once.
        gpu.buffers.watch("decoder.keys", 1 << 30, ready(out_of_memory()));
        assert_eq!(gpu.check().map(|()| Vec::new()), failed);
        // In a browser it is known later: a read waits for it.
        let mut polls = 0;
        let later = poll_fn(move |context| {
            polls += 1;
            context.waker().wake_by_ref();
            if polls < 3 { Poll::Pending } else { Poll::Ready(out_of_memory()) }
        });
        gpu.buffers.watch("decoder.keys", 1 << 30, later);
        assert_eq!(gpu.check(), Ok(()));
        assert_eq!(pollster::block_on(gpu.read(&token, 0, 4)), failed);
        assert_eq!(pollster::block_on(gpu.read(&token, 0, 4)), Ok(vec![0; 4]));
    }

    #[test]
    fn memory_that_runs_out_without_a_buffer_has_no_size() {
        let error = GpuError::from(out_of_memory().unwrap());
        assert_eq!(error, GpuError::MemoryExhausted);
        assert!(!error.to_string().contains('0'), "{error}");
    }

    #[test]
    fn no_map_is_left_when_a_read_ends_is_dropped_or_loses_its_device() {
        let gpu = gpu();
        let buffer = gpu.storage("x", 16).unwrap();
        let maps = gpu.handle.maps.clone();
        let read = gpu.begin_read(&buffer, 0, 4);
        let dropped = gpu.begin_read(&buffer, 0, 4);
        assert_eq!(maps.len(), 2);
        drop(dropped);
        assert_eq!(maps.len(), 1);
        pollster::block_on(gpu.finish_read(read)).unwrap();
        assert_eq!(maps.len(), 0);
        let _read = gpu.begin_read(&buffer, 0, 4);
        gpu.destroy();
        assert_eq!(maps.len(), 0);
        let _refused = gpu.begin_read(&buffer, 0, 4);
        assert_eq!(maps.len(), 0, "a read of a destroyed device maps a buffer");
    }
}
