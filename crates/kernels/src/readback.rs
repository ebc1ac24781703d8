//! Reading bytes back from the GPU.
//!
//! Every map of a buffer has an owner: [`PendingRead`] from its request to its end, and [`PendingMaps`] until the device is destroyed. A
//! browser would report a map whose device is gone as an unhandled error of the page.

use futures_channel::oneshot;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes on their way back from the GPU.
pub struct PendingRead {
    pub(crate) staging: wgpu::Buffer,
    mapped: Option<oneshot::Receiver<Result<(), wgpu::BufferAsyncError>>>,
    maps: PendingMaps,
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) submission: wgpu::SubmissionIndex,
}

impl PendingRead {
    /// Requests the map of `staging`, to which submitted work copies; on a destroyed device this fails at [`Self::mapped`].
    pub(crate) fn new(
        staging: wgpu::Buffer,
        maps: PendingMaps,
        #[cfg(not(target_arch = "wasm32"))] submission: wgpu::SubmissionIndex,
    ) -> Self {
        let mapped = maps.insert(&staging).then(|| {
            let (sender, mapped) = oneshot::channel();
            // The receiver is gone if the read was dropped.
            staging.map_async(wgpu::MapMode::Read, .., move |result| drop(sender.send(result)));
            mapped
        });
        Self {
            staging,
            mapped,
            maps,
            #[cfg(not(target_arch = "wasm32"))]
            submission,
        }
    }

    /// Waits for the map; returns true if the bytes can be read.
    pub(crate) async fn mapped(&mut self) -> bool {
        match &mut self.mapped {
            Some(mapped) => matches!(mapped.await, Ok(Ok(()))),
            None => false,
        }
    }
}

impl Drop for PendingRead {
    fn drop(&mut self) {
        if self.maps.remove(&self.staging) {
            self.staging.unmap();
        }
        self.staging.destroy();
    }
}

/// The buffers whose map was requested and not ended; `None` after [`Self::close`].
#[derive(Debug, Clone)]
pub(crate) struct PendingMaps(Arc<Mutex<Option<Vec<wgpu::Buffer>>>>);

impl Default for PendingMaps {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Some(Vec::new()))))
    }
}

impl PendingMaps {
    /// Ends all maps; later reads fail. Callers that wait for a map are woken with its failure.
    pub(crate) fn close(&self) {
        // The lock is not held: unmapping may run callbacks.
        let maps = self.lock().take();
        for staging in maps.into_iter().flatten() {
            staging.unmap();
        }
    }

    fn insert(&self, staging: &wgpu::Buffer) -> bool {
        let mut maps = self.lock();
        maps.as_mut().map(|maps| maps.push(staging.clone())).is_some()
    }

    fn remove(&self, staging: &wgpu::Buffer) -> bool {
        let mut maps = self.lock();
        let Some(maps) = maps.as_mut() else { return false };
        let before = maps.len();
        maps.retain(|pending| pending != staging);
        maps.len() < before
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().as_ref().map_or(0, Vec::len)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<wgpu::Buffer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
