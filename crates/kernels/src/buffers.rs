//! Buffers: activations, storage that is released on drop, and allocation with named errors.

use crate::error::{ErrorLog, GpuError};
use crate::size;
use qwen_vl_format::padded;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// f32 rows on the GPU: `[rows, cols]`, each row padded with zeros to `stride` values.
#[derive(Debug, Clone)]
pub struct Activation {
    /// The values.
    pub buffer: wgpu::Buffer,
    /// Capacity in rows.
    pub rows: usize,
    /// Values of a row.
    pub cols: usize,
}

impl Activation {
    /// Returns the distance between two rows, in values.
    pub fn stride(&self) -> usize {
        padded(self.cols)
    }

    /// Returns the same values as rows of other columns, for example each four rows of `[rows, cols]` as one of `[rows / 4, 4 * cols]`.
    ///
    /// # Panics
    /// If the rows of one of both have padding, which the other would contain, or the numbers of values differ.
    pub fn view(&self, rows: usize, cols: usize) -> Self {
        let [from, to] = [(self.rows, self.cols), (rows, cols)].map(|(rows, cols)| format!("[{rows}, {cols}]"));
        assert!(
            self.cols == self.stride() && cols == padded(cols),
            "a view of {from} as {to} would mix values and padding: both rows must be whole multiples of 32 values"
        );
        assert_eq!(
            size::product(&[self.rows, self.cols]),
            size::product(&[rows, cols]),
            "a view of {from} as {to} changes the number of values"
        );
        Self { buffer: self.buffer.clone(), rows, cols }
    }

    /// Returns the bytes of `rows` rows.
    pub fn bytes(&self, rows: usize) -> u64 {
        size::rows(rows, self.cols)
    }
}

/// Activations that are freed on drop; a browser would keep their memory until its garbage collection.
#[derive(Debug)]
pub struct Temporary {
    activation: Activation,
    live: LiveBuffers,
}

impl Temporary {
    pub(crate) fn new(activation: Activation, live: LiveBuffers) -> Self {
        Self { activation, live }
    }
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
        // Submitted work still completes.
        self.activation.buffer.destroy();
    }
}

/// The storage buffers that were allocated and not freed.
#[derive(Debug, Clone, Default)]
pub(crate) struct LiveBuffers(Arc<Mutex<Vec<wgpu::Buffer>>>);

impl LiveBuffers {
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().iter().map(wgpu::Buffer::size).sum()
    }

    pub(crate) fn destroy(&self) {
        for buffer in self.lock().drain(..) {
            buffer.destroy();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<wgpu::Buffer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Allocates the buffers of a device.
pub(crate) struct Buffers {
    device: wgpu::Device,
    live: LiveBuffers,
    /// Contents of uniforms that never change.
    uniforms: RefCell<HashMap<Vec<u32>, wgpu::Buffer>>,
    zeros: wgpu::Buffer,
    dry_run: Cell<bool>,
    allocations: RefCell<Vec<Allocation>>,
    errors: ErrorLog,
}

/// An allocation whose outcome the device has not reported yet.
pub(crate) struct Allocation {
    what: String,
    bytes: u64,
    outcome: Pin<Box<dyn Future<Output = Option<wgpu::Error>>>>,
}

impl Allocation {
    /// Reports a failure, if that is the outcome.
    fn poll(&mut self, errors: &ErrorLog, context: &mut Context<'_>) -> Poll<()> {
        self.outcome.as_mut().poll(context).map(|outcome| {
            if outcome.is_some() {
                errors.report(GpuError::OutOfMemory { what: std::mem::take(&mut self.what), needed: self.bytes });
            }
        })
    }
}

impl Buffers {
    pub(crate) fn new(device: wgpu::Device, errors: ErrorLog) -> Self {
        let zeros = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("zeros"),
            size: 16,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        Self {
            device,
            live: LiveBuffers::default(),
            uniforms: RefCell::default(),
            zeros,
            dry_run: Cell::default(),
            allocations: RefCell::default(),
            errors,
        }
    }

    pub(crate) fn live(&self) -> &LiveBuffers {
        &self.live
    }

    /// Returns four zeros, for bindings that a launch does not use.
    pub(crate) fn zeros(&self) -> &wgpu::Buffer {
        &self.zeros
    }

    /// Allocates a zeroed buffer. A failure is reported, with the buffer's label and size, by [`Self::settled`].
    pub(crate) fn create(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false });
        self.watch(label, size, scope.pop());
        buffer
    }

    pub(crate) fn watch(&self, what: &str, bytes: u64, outcome: impl Future<Output = Option<wgpu::Error>> + 'static) {
        let mut allocation = Allocation { what: what.to_owned(), bytes, outcome: Box::pin(outcome) };
        // Natively the outcome is known at once.
        if allocation.poll(&self.errors, &mut Context::from_waker(Waker::noop())).is_pending() {
            self.allocations.borrow_mut().push(allocation);
        }
    }

    /// Waits until the outcomes of all allocations so far are in the error log.
    pub(crate) fn settled(&self) -> impl Future<Output = ()> + use<> {
        let (allocations, errors) = (self.allocations.take(), self.errors.clone());
        async move {
            for mut allocation in allocations {
                std::future::poll_fn(|context| allocation.poll(&errors, context)).await;
            }
        }
    }

    pub(crate) fn storage(&self, label: &str, bytes: u64) -> Result<wgpu::Buffer, GpuError> {
        let bytes = size::storage(bytes);
        let limits = self.device.limits();
        let limit = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        if bytes > limit {
            return Err(GpuError::BindingTooLarge { what: label.to_owned(), needed: bytes, limit });
        }
        if self.dry_run.get() {
            return Ok(self.zeros.clone());
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let buffer = self.create(label, bytes, usage);
        self.live.lock().push(buffer.clone());
        Ok(buffer)
    }

    /// Returns a uniform of these words, shared by all callers with the same words.
    pub(crate) fn uniform(&self, queue: &wgpu::Queue, words: &[u32]) -> wgpu::Buffer {
        if let Some(uniform) = self.uniforms.borrow().get(words) {
            return uniform.clone();
        }
        let uniform =
            self.create("sizes", size::storage(words.len() as u64 * 4), wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST);
        queue.write_buffer(&uniform, 0, bytemuck::cast_slice(words));
        self.uniforms.borrow_mut().insert(words.to_vec(), uniform.clone());
        uniform
    }

    /// Makes [`Self::storage`] allocate nothing until the guard is dropped.
    pub(crate) fn begin_dry_run(&self) -> DryRun<'_> {
        DryRun { buffers: self, outer: self.dry_run.replace(true) }
    }
}

/// Ends a dry run on drop, also when its work panics.
pub(crate) struct DryRun<'a> {
    buffers: &'a Buffers,
    outer: bool,
}

impl Drop for DryRun<'_> {
    fn drop(&mut self) {
        self.buffers.dry_run.set(self.outer);
    }
}
