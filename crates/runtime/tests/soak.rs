//! Rounds of load, question and disposal: the same answer in each, and no memory left behind. Its program has no other test, which would
//! allocate at the same time.

#[expect(dead_code, reason = "the tests of `runtime` use the rest")]
#[path = "runtime/support.rs"]
mod support;

use quantize::SchemeName;
use qwen_vl_processor::Colors;
use qwen_vl_runtime::session::{Engine, GenerationOptions, ImageInput, PictureLimits, PromptInput, Request};
use qwen_vl_runtime::{Gpu, GpuOptions, ModelOptions};
use qwen_vl_testkit::golden::fixtures;
use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicIsize, Ordering};
use support::{convert, load};

/// Number of rounds, if `QWEN_VL_ROUNDS` names none.
const FEW: usize = 4;
/// Rounds that are left out of the resident memory's slope: lavapipe's caches fill, from 95 to 127 MiB.
const WARM_UP: usize = 60;
/// Bytes that the resident memory may grow with each round, at the upper end of the slope's error: a page. What is left is the driver's, because
/// [`LIVE`] does not change. A buffer, a pipeline or a device that is left in each round also leaves an object of wgpu there.
const BOUND: f64 = 4096.0;

/// Bytes that Rust code of this process has allocated and not freed: all but those of the driver.
static LIVE: AtomicIsize = AtomicIsize::new(0);

/// The system's allocator, which counts.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; every call is passed on to the system's")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as isize, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as isize, Ordering::Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_add(size as isize - layout.size() as isize, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Resident bytes of this process; `None` where the system does not report them.
fn resident_bytes() -> Option<f64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    pages.split(' ').nth(1)?.parse::<f64>().ok().map(|pages| pages * 4096.0)
}

/// Least squares: slope of the values over their positions, and its standard error.
fn slope(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let (x, y) = ((count - 1.0) / 2.0, values.iter().sum::<f64>() / count);
    let offsets = || values.iter().enumerate().map(|(at, value)| (at as f64 - x, value - y));
    let spread: f64 = offsets().map(|(dx, _)| dx * dx).sum();
    let slope = offsets().map(|(dx, dy)| dx * dy).sum::<f64>() / spread;
    let residue: f64 = offsets().map(|(dx, dy)| (dy - slope * dx).powi(2)).sum();
    (slope, (residue / (count - 2.0) / spread).sqrt())
}

/// Memory after each round.
struct Rounds {
    /// Bytes of [`LIVE`].
    live: Vec<isize>,
    resident: Vec<f64>,
}

impl Rounds {
    fn run(rounds: usize, mut work: impl FnMut(usize)) -> Self {
        let (mut live, mut resident) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
        for round in 0..rounds {
            work(round);
            live.push(LIVE.load(Ordering::Relaxed));
            resident.extend(resident_bytes());
        }
        Self { live, resident }
    }

    /// The resident memory, with its slope and the slope's error; `None` for few rounds.
    fn growth(&self) -> Option<(f64, f64, String)> {
        let kept = self.resident.get(WARM_UP..).filter(|kept| kept.len() >= 20)?;
        let (slope, error) = slope(kept);
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let (start, end) = (mib(self.resident[0]), mib(*self.resident.last()?));
        Some((slope, error, format!("{start:.0} to {end:.0} MiB resident, slope {slope:.0} ± {error:.0} bytes a round")))
    }
}

#[test]
fn soak_of_rounds_of_load_question_and_disposal() {
    let rounds = std::env::var("QWEN_VL_ROUNDS").map_or(FEW, |rounds| rounds.parse().expect("QWEN_VL_ROUNDS is a number"));
    let checkpoint = fixtures().join("checkpoints/mini-b");
    let folder = convert(&checkpoint, SchemeName::F32, 32);
    let vocabulary = std::fs::read(checkpoint.join("qwen.tiktoken")).unwrap();
    let picture = [ImageInput::Rgba { width: 2, height: 1, pixels: vec![9, 0, 0, 255, 0, 200, 0, 255], colors: Colors::Display }];
    let generation = GenerationOptions { greedy: Some(true), max_new_tokens: Some(4), ignore_stop: true, ..GenerationOptions::default() };
    let request =
        Request { prompt: PromptInput::Raw { text: "<img>a</img>Hello".to_owned() }, generation, pictures: PictureLimits::default() };
    let (mut first, mut wrong) = (None, 0);
    let models = Rounds::run(rounds, |_| {
        let model = load(&folder, ModelOptions { context_length: 512, ..Default::default() });
        let mut engine = Engine::new(model, &vocabulary).unwrap();
        let answer = pollster::block_on(engine.ask(&request, &picture, &mut |_| ControlFlow::Continue(()), None)).unwrap();
        wrong += usize::from(*first.get_or_insert_with(|| answer.tokens.clone()) != answer.tokens);
    });
    // The first round fills caches of the process.
    let grows = models.live.iter().skip(2).any(|live| *live != models.live[1]);
    if let Some((slope, error, memory)) = models.growth() {
        // Of the driver without kernels.
        let devices = Rounds::run(rounds, |_| drop(pollster::block_on(Gpu::request(GpuOptions::default())).unwrap()));
        let alone = devices.growth().map_or_else(String::new, |(.., memory)| format!("; of a device alone {memory}"));
        println!("{rounds} rounds: {memory}{alone}");
        let resident_grows = slope + 2.0 * error >= BOUND;
        let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/robustness");
        std::fs::create_dir_all(&out).unwrap();
        let live = models.live.last().copied().unwrap_or_default();
        let what = format!("rounds of load, question and disposal, native; {live} bytes of Rust code; {memory}{alone}");
        let wrong = wrong + usize::from(grows) + usize::from(resident_grows);
        let [commit, date] = ["QWEN_VL_COMMIT", "QWEN_VL_DATE"].map(|name| std::env::var(name).ok());
        let figure = serde_json::json!({ "what": what, "points": rounds, "wrong": wrong, "lost": 0, "commit": commit, "date": date });
        std::fs::write(out.join("soak-native.json"), figure.to_string()).unwrap();
        assert!(!resident_grows, "{memory}{alone}");
    }
    assert_eq!(wrong, 0, "rounds with another answer than the first");
    assert!(!grows, "bytes of Rust code after each round: {:?}", models.live);
}
