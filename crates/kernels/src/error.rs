//! Errors of the GPU.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An error of the GPU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// The platform offers no adapter.
    #[error("no GPU adapter was found: {reason}")]
    NoAdapter {
        /// Reason of the platform.
        reason: String,
    },
    /// The adapter refused a device.
    #[error("could not create a device on adapter `{adapter}`: {reason}")]
    NoDevice {
        /// Adapter name.
        adapter: String,
        /// Reason of the platform.
        reason: String,
    },
    /// The adapter lacks a feature that the requested kernels need.
    #[error("adapter `{adapter}` does not have {feature}, which the requested kernels need")]
    MissingFeature {
        /// Adapter name.
        adapter: String,
        /// WebGPU's name of the feature.
        feature: &'static str,
    },
    /// A buffer passes a limit of the adapter.
    #[error(
        "`{what}` needs {needed} bytes in one binding, the adapter allows {limit}: use a shorter context, smaller pictures or a smaller model"
    )]
    BindingTooLarge {
        /// The buffer.
        what: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The GPU has no memory for a buffer.
    #[error("the GPU has no memory for the {needed} bytes of `{what}`")]
    OutOfMemory {
        /// The buffer.
        what: String,
        /// Bytes needed.
        needed: u64,
    },
    /// The GPU ran out of memory in an operation that allocates no buffer of ours.
    #[error("the GPU ran out of memory while computing")]
    MemoryExhausted,
    /// The device is lost: a driver reset, sleep, another program, or [`Gpu::destroy`](crate::Gpu::destroy).
    #[error("the GPU device was lost: {reason}")]
    DeviceLost {
        /// Reason of the platform.
        reason: String,
    },
    /// The driver or the browser refused an operation: a bug in this library or in theirs. Buffers may hold wrong values afterwards.
    #[error("the GPU refused an operation: {message}; reload the model (`recover()`)")]
    Validation {
        /// Message of the platform.
        message: String,
    },
}

impl From<wgpu::Error> for GpuError {
    fn from(error: wgpu::Error) -> Self {
        match error {
            wgpu::Error::OutOfMemory { .. } => Self::MemoryExhausted,
            other => Self::Validation { message: other.to_string() },
        }
    }
}

/// The errors that a device reports outside of any call, until a call reports them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ErrorLog(Arc<Mutex<Errors>>);

#[derive(Debug, Default)]
struct Errors {
    /// The first since the latest [`ErrorLog::take`]: later ones follow from it. One of missing memory takes the place of a refusal, because a
    /// refusal of the buffer that is missing can arrive before it.
    first: Option<GpuError>,
    /// The latest of missing memory. Buffers that were not allocated can be refused at any time after that.
    memory: Option<GpuError>,
    lost: Option<GpuError>,
}

impl ErrorLog {
    pub(crate) fn report(&self, error: GpuError) {
        let mut errors = self.lock();
        let Errors { first, memory, lost } = &mut *errors;
        match &error {
            GpuError::DeviceLost { .. } => _ = lost.get_or_insert(error),
            GpuError::OutOfMemory { .. } | GpuError::MemoryExhausted => {
                *memory = Some(error.clone());
                if matches!(first, None | Some(GpuError::Validation { .. })) {
                    *first = Some(error);
                }
            }
            _ => _ = first.get_or_insert_with(|| memory.clone().unwrap_or(error)),
        }
    }

    /// Fails with the first error since the latest call, and forgets it. The loss of the device is reported each time.
    pub(crate) fn take(&self) -> Result<(), GpuError> {
        let mut errors = self.lock();
        let first = errors.first.take();
        match errors.lost.clone().or(first) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Errors> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{ErrorLog, GpuError};

    #[test]
    fn an_error_is_reported_once_and_a_loss_each_time() {
        let log = ErrorLog::default();
        let refused = |message: &str| GpuError::Validation { message: message.to_owned() };
        log.report(refused("first"));
        log.report(refused("its consequence"));
        assert_eq!(log.take(), Err(refused("first")));
        assert_eq!(log.take(), Ok(()));
        let lost = GpuError::DeviceLost { reason: "reset".to_owned() };
        log.report(refused("second"));
        log.report(lost.clone());
        assert_eq!([log.take(), log.take()], [Err(lost.clone()), Err(lost)]);
    }

    #[test]
    fn a_refusal_near_an_error_of_memory_follows_from_it() {
        let log = ErrorLog::default();
        let refused = || GpuError::Validation { message: "an invalid buffer".to_owned() };
        let memory = GpuError::OutOfMemory { what: "step".to_owned(), needed: 4 };
        log.report(refused());
        log.report(memory.clone());
        assert_eq!(log.take(), Err(memory.clone()));
        log.report(refused());
        assert_eq!(log.take(), Err(memory));
        assert_eq!(log.take(), Ok(()));
    }
}
