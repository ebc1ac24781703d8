//! A limit of the memory that an input takes.
//!
//! libFuzzer's `-malloc_limit_mb` needs a sanitizer, and `-rss_limit_mb` sees only memory that is written. This allocator counts what is asked
//! for, in each thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes that may still be allocated.
    static LEFT: Cell<isize> = const { Cell::new(isize::MAX / 2) };
}

/// The system's allocator with a limit for each thread. An allocation beyond it fails, which ends the process.
pub(crate) struct Bounded;

/// Takes bytes from what is left, or returns them. Returns false if fewer are left.
fn take(bytes: isize) -> bool {
    // At the end of a thread nothing is counted.
    LEFT.try_with(|left| {
        let rest = left.get() - bytes;
        // The report of a panic takes more than many inputs may.
        let fits = rest >= 0 || bytes <= 0 || std::thread::panicking();
        if fits {
            left.set(rest);
        } else {
            // The report of the failure allocates too.
            left.set(isize::MAX / 2);
            eprintln!("an allocation of {bytes} bytes exceeds the memory of this input by {}", -rest);
        }
        fits
    })
    .unwrap_or(true)
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; every call is passed on to the system's")]
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if take(layout.size() as isize) { unsafe { System.alloc(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if take(layout.size() as isize) { unsafe { System.alloc_zeroed(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        take(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if take(size as isize - layout.size() as isize) { unsafe { System.realloc(pointer, layout, size) } } else { std::ptr::null_mut() }
    }
}

/// Calls a function that may allocate at most this many bytes at a time. Otherwise the process ends.
pub(crate) fn within<T>(bytes: usize, call: impl FnOnce() -> T) -> T {
    LEFT.set(isize::try_from(bytes).unwrap_or(isize::MAX / 2));
    let result = call();
    LEFT.set(isize::MAX / 2);
    result
}
