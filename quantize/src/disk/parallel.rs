//! Work on many items with all cores.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// Works on items with all cores and hands the results to `take` on this thread, in the order in which they are done.
/// No further item is begun after `take` returned false.
pub(crate) fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync, mut take: impl FnMut(R) -> bool) {
    // Each thread holds a shard or a slice in memory: more would not fit the promised bound.
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get()).min(4);
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::sync_channel(threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if sender.send(work(item)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for result in receiver {
            if !take(result) {
                next.store(items.len(), Ordering::Relaxed);
            }
        }
    });
}
