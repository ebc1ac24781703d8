//! The wasm edge of Qwen-VL Web: the runtime as a few small JavaScript classes.
//!
//! It is private to the npm package, whose hand-written TypeScript faces users. JavaScript fetches files and passes bytes in; nothing here
//! touches the network or the DOM. Errors become objects with a stable `code`, once, in [`error`]. The plain data that crosses the edge
//! has generated TypeScript declarations, see [`types`].
//!
//! # Calls
//!
//! An engine runs one call at a time. A call that comes too early fails with `BUSY`, and every call after `destroy` with `DISPOSED`. Calls
//! that wait take `&self`, and calls that take `&mut self` run no JavaScript, so wasm-bindgen never throws "recursive use of an object".
//!
//! The crate is built twice: for the GPU, and in `web/cpu` for the CPU fallback. The difference is in `gpu.rs` and `cpu.rs`.
#![deny(clippy::expect_used)]
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

#[cfg(feature = "cpu")]
#[path = "cpu.rs"]
mod backend;
#[cfg(not(feature = "cpu"))]
#[path = "gpu.rs"]
mod backend;
mod error;
mod shared;
mod types;

use backend::ModelLoader;
use error::EdgeError;
use js_sys::{Array, Float32Array, Function, Promise, Uint8Array, Uint32Array};
use qwen_vl_format::{Manifest, ShardHash};
use qwen_vl_processor::{Colors, DecodeOptions, Orientation, Picture, VideoOptions, VideoSource};
use qwen_vl_runtime::benchmark::{BenchmarkOptions, benchmark};
use qwen_vl_runtime::session::{
    self, AllowedTokens, Constraint, Event, ImageInput, PictureLimits, PromptInput, Request, ScoreRequest, stop_tokens,
};
use qwen_vl_runtime::{Backend, RuntimeError};
use serde::{Deserialize, Serialize};
use shared::Shared;
use std::cell::RefCell;
use std::future::{Future, ready};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use types::{Adapter, Estimate, LoadOptions, ModelFacts, Steps};
use wasm_bindgen::prelude::*;
use web_sys::{AbortSignal, ImageData};

thread_local! {
    static ON_PANIC: RefCell<Option<Function>> = const { RefCell::new(None) };
}

/// Runs once when the module is instantiated.
#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|info| {
        // The message with the stack, for the console.
        console_error_panic_hook::hook(info);
        // A panic in a future is a trap that no promise reports.
        let message = info.to_string();
        ON_PANIC.with_borrow(|callback| {
            if let Some(callback) = callback {
                // Its own failure cannot be reported any further.
                let _ = callback.call1(&JsValue::UNDEFINED, &JsValue::from_str(&message));
            }
        });
    }));
}

/// Sets a callback that receives the message when Rust panics. The module must not be used after that.
#[wasm_bindgen(js_name = onPanic)]
pub fn on_panic(callback: Function) {
    ON_PANIC.set(Some(callback));
}

/// A model that is being loaded.
#[wasm_bindgen]
pub struct Loader {
    /// Absent after [`Self::destroy`].
    loader: Option<ModelLoader>,
}

#[wasm_bindgen]
impl Loader {
    /// Validates the manifest, requests a GPU device and allocates all memory of the model. `compile` receives the shaders to compile, an
    /// array, before allocation occupies the GPU.
    ///
    /// The adapter is requested before this returns: see `withDeviceHook` in `web/ts/worker/compile.ts`.
    #[wasm_bindgen(unchecked_return_type = "Promise<Loader>")]
    pub fn create(manifest_json: String, options: JsValue, compile: Function) -> Promise {
        let mut created = Box::pin(async move {
            let options: LoadOptions = from_js("load options", options)?;
            let manifest = Manifest::from_json(&manifest_json).map_err(EdgeError::from)?;
            let loader = backend::loader(manifest, &options, &compile).await.map_err(EdgeError::from)?;
            Ok(JsValue::from(Self { loader: Some(loader) }))
        });
        // `future_to_promise` polls in a later microtask. The waker of this first poll is replaced there.
        match created.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => wasm_bindgen_futures::future_to_promise(ready(result)),
            Poll::Pending => wasm_bindgen_futures::future_to_promise(created),
        }
    }

    /// Writes the next bytes of a shard to the GPU. Unless they are `checked`, they are hashed here, and the last ones complete the check.
    pub fn write(&mut self, shard: usize, bytes: &[u8], checked: bool) -> Result<(), JsValue> {
        let loader = self.loader.as_mut().ok_or_else(EdgeError::disposed)?;
        let written = if checked { loader.write_checked(shard, bytes) } else { loader.write(shard, bytes) };
        Ok(written.map_err(EdgeError::from)?)
    }

    /// Restarts a shard: its first byte is expected next.
    pub fn restart(&mut self, shard: usize) -> Result<(), JsValue> {
        let loader = self.loader.as_mut().ok_or_else(EdgeError::disposed)?;
        Ok(loader.restart(shard).map_err(EdgeError::from)?)
    }

    /// Resolves when the GPU has processed everything written so far. Writing may continue meanwhile.
    pub fn drained(&self) -> Promise {
        self.loader.as_ref().map_or_else(|| Promise::resolve(&JsValue::UNDEFINED), backend::drained)
    }

    /// Throws the first error that the GPU reported on its own, until the engine exists.
    #[wasm_bindgen(js_name = checkGpu)]
    pub fn check_gpu(&self) -> Result<(), JsValue> {
        let loader = self.loader.as_ref().ok_or_else(EdgeError::disposed)?;
        Ok(loader.model().map_or(Ok(()), backend::check).map_err(EdgeError::from)?)
    }

    /// Returns the engine, even while weights arrive: it can encode pictures once [`Self::encodes`], and answer once [`Self::complete`].
    /// `vocabulary` is the manifest's tokenizer file.
    pub fn engine(&mut self, vocabulary: &[u8]) -> Result<Engine, JsValue> {
        let loader = self.loader.as_mut().ok_or_else(EdgeError::disposed)?;
        let model = loader.take_model().ok_or_else(|| EdgeError::invalid_argument("the engine was created before"))?;
        Ok(Engine::new(session::Engine::new(model, vocabulary).map_err(EdgeError::from)?))
    }

    /// The record of the kernels that were measured for this load, which `LoadOptions.kernelRecord` restores, until the engine exists; absent
    /// if none were measured.
    #[wasm_bindgen(getter, js_name = kernelRecord)]
    pub fn kernel_record(&self) -> Option<String> {
        backend::kernel_record(self.loader.as_ref()?)
    }

    /// True if the shards that pictures need are complete.
    pub fn encodes(&self) -> bool {
        self.loader.as_ref().is_some_and(ModelLoader::encodes)
    }

    /// Throws unless every shard is complete.
    pub fn complete(&self) -> Result<(), JsValue> {
        let loader = self.loader.as_ref().ok_or_else(EdgeError::disposed)?;
        Ok(loader.complete().map_err(EdgeError::from)?)
    }

    /// Releases the memory of the model, unless [`Self::engine`] returned it. Never throws.
    pub fn destroy(&mut self) {
        if let Some(model) = self.loader.take().and_then(|mut loader| loader.take_model()) {
            backend::destroy(&model);
        }
    }
}

/// Validates a manifest, without a GPU.
#[wasm_bindgen(js_name = checkManifest)]
pub fn check_manifest(manifest_json: &str) -> Result<(), JsValue> {
    Manifest::from_json(manifest_json).map_err(EdgeError::from)?;
    Ok(())
}

/// True if a browser's decoder gives the pixels of an encoded picture that the model is to see: it is a JPEG, and either `upright` or not
/// turned by EXIF. Throws as [`Images::push_encoded`] makes the request throw if the JPEG is cut short or too large.
#[wasm_bindgen(js_name = browserDecodes)]
pub fn browser_decodes(bytes: &[u8], upright: bool) -> Result<bool, JsValue> {
    let orientation = if upright { Orientation::Apply } else { Orientation::Ignore };
    Ok(qwen_vl_processor::browser_decodes(bytes, orientation).map_err(RuntimeError::from).map_err(EdgeError::from)?)
}

/// Returns the memory that a model takes under these load options, an `Estimate`. Validates manifest and options; needs no GPU.
#[wasm_bindgen]
pub fn estimate(manifest_json: &str, options: JsValue) -> Result<JsValue, JsValue> {
    let options: LoadOptions = from_js("load options", options)?;
    let precision = options.coarsest_precision().map_err(EdgeError::from)?;
    let options = options.model_options().map_err(EdgeError::from)?;
    let manifest = Manifest::from_json(manifest_json).map_err(EdgeError::from)?;
    to_js(&Estimate::new(&manifest, &options, precision))
}

/// SHA-256 of bytes that arrive in pieces; the browser's own needs them whole.
#[wasm_bindgen]
#[derive(Default)]
pub struct Hasher(ShardHash);

#[wasm_bindgen]
impl Hasher {
    /// Creates the hash of no bytes.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the hash in lower-case hexadecimal.
    pub fn finish(self) -> String {
        self.0.finish()
    }
}

/// Pictures of a request, in the order of its prompt.
#[wasm_bindgen]
#[derive(Default)]
pub struct Images(Vec<ImageInput>);

#[wasm_bindgen]
impl Images {
    /// Creates an empty list.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a PNG, JPEG, WebP, GIF or BMP file. With `upright`, a photo's EXIF orientation is applied. With `original`, colours are read as the
    /// original code reads them: transparency is dropped and 16-bit gray is clipped at 255. Otherwise they are what a browser shows on white.
    #[wasm_bindgen(js_name = pushEncoded)]
    pub fn push_encoded(&mut self, bytes: Vec<u8>, upright: bool, original: Option<bool>) {
        let orientation = if upright { Orientation::Apply } else { Orientation::Ignore };
        let options = DecodeOptions { orientation, colors: colors(original) };
        self.0.push(ImageInput::Encoded { bytes, options });
    }

    /// Adds a picture that the engine keeps, see [`Engine::keeps_image`].
    #[wasm_bindgen(js_name = pushKept)]
    pub fn push_kept(&mut self, id: String) {
        self.0.push(ImageInput::Kept { id });
    }

    /// Adds the pixels of a canvas. With `original`, transparency is dropped; otherwise it is blended with white.
    #[wasm_bindgen(js_name = pushImageData)]
    pub fn push_image_data(&mut self, image: &ImageData, original: Option<bool>) {
        let (width, height, pixels) = (image.width(), image.height(), image.data().0);
        self.0.push(ImageInput::Rgba { width, height, pixels, colors: colors(original) });
    }

    /// Adds pixels, four bytes each, not premultiplied. With `original`, transparency is dropped; otherwise it is blended with white.
    #[wasm_bindgen(js_name = pushRgba)]
    pub fn push_rgba(&mut self, width: u32, height: u32, pixels: Vec<u8>, original: Option<bool>) {
        self.0.push(ImageInput::Rgba { width, height, pixels, colors: colors(original) });
    }

    /// Adds a video of frames in the size of [`Engine::plan_video`], three bytes a pixel, one frame after the other. `times` are those of the
    /// frames in seconds.
    #[wasm_bindgen(js_name = pushVideo)]
    pub fn push_video(&mut self, width: u32, height: u32, rgb: &[u8], times: Vec<f64>, fps: Option<f64>) -> Result<(), JsValue> {
        let frame_bytes = width as usize * height as usize * 3;
        if frame_bytes == 0 || rgb.len() != frame_bytes * times.len() {
            let problem = format!("the video has {} bytes, expected {} frames of {width}×{height}×3", rgb.len(), times.len());
            return Err(EdgeError::invalid_argument(problem).into());
        }
        let frames = rgb.chunks_exact(frame_bytes).map(|frame| Picture::from_rgb(width, height, frame.to_vec()));
        let frames = frames.collect::<Result<_, _>>().map_err(RuntimeError::from).map_err(EdgeError::from)?;
        self.0.push(ImageInput::Video { frames, times, fps });
        Ok(())
    }

    /// Decodes the first of the pictures and stretches it to this size, or keeps its own.
    pub fn frame(&self, size: Option<Vec<u32>>) -> Result<Frame, JsValue> {
        let picture = match self.0.first() {
            Some(ImageInput::Encoded { bytes, options }) => Picture::decode(bytes, *options),
            Some(ImageInput::Rgba { width, height, pixels, colors }) => Picture::from_rgba(*width, *height, pixels, *colors),
            _ => return Err(EdgeError::invalid_argument("a frame is a picture").into()),
        };
        let picture = picture.map_err(RuntimeError::from).map_err(EdgeError::from)?;
        let source = [picture.width(), picture.height()];
        let picture = match size.as_deref() {
            Some([width, height]) if *width > 0 && *height > 0 => picture.resize(*width, *height),
            _ => picture,
        };
        Ok(Frame { source, picture })
    }
}

/// A decoded frame.
#[wasm_bindgen]
pub struct Frame {
    source: [u32; 2],
    picture: Picture,
}

#[wasm_bindgen]
impl Frame {
    /// Width before it was stretched, pixels.
    #[wasm_bindgen(getter, js_name = sourceWidth)]
    pub fn source_width(&self) -> u32 {
        self.source[0]
    }

    /// Height before it was stretched, pixels.
    #[wasm_bindgen(getter, js_name = sourceHeight)]
    pub fn source_height(&self) -> u32 {
        self.source[1]
    }

    /// The pixels, three bytes each.
    pub fn rgb(&self) -> Vec<u8> {
        self.picture.rgb().to_vec()
    }
}

fn colors(original: Option<bool>) -> Colors {
    if original.unwrap_or(false) { Colors::Original } else { Colors::Display }
}

/// A loaded model with its processor.
#[wasm_bindgen]
pub struct Engine {
    shared: Rc<Shared>,
    adapter: Adapter,
    facts: ModelFacts,
    lost: Promise,
}

impl Engine {
    fn new(session: session::Engine<backend::Model>) -> Self {
        let model = session.model();
        let lost = backend::lost(model);
        Self {
            adapter: backend::adapter(model),
            facts: ModelFacts::new(model),
            lost: wasm_bindgen_futures::future_to_promise(async move { Ok(lost.await.into()) }),
            shared: Rc::new(Shared::new(session)),
        }
    }
}

#[wasm_bindgen]
impl Engine {
    /// Answers a request. `on_event` receives every event. The answer ends early if `on_event` returns `false` or `signal` is aborted. A
    /// `constraint` decides which tokens it may have.
    pub async fn ask(
        &self,
        request: JsValue,
        images: Images,
        on_event: Function,
        signal: Option<AbortSignal>,
        constraint: Option<TokenSource>,
    ) -> Result<JsValue, JsValue> {
        let request: Request = from_js("request", request)?;
        let mut listener = Listener::new(&self.shared, on_event, signal);
        let mut constraint = constraint.map(|tokens| JsConstraint { tokens, thrown: None });
        let answer = self.shared.run(async |session| {
            let mut on_event = |event: Event| listener.notify(&event);
            match &mut constraint {
                Some(constraint) => session.ask_constrained(&request, &images.0, &mut on_event, constraint).await,
                None => session.ask(&request, &images.0, &mut on_event, None).await,
            }
        });
        let answer = answer.await;
        // The error that JavaScript threw says more than its replacement.
        if let Some(thrown) = constraint.and_then(|constraint| constraint.thrown) {
            return Err(thrown);
        }
        listener.result(&answer?)
    }

    /// The vocabulary for the worker of constraints: the bytes of all tokens, the index after the last byte of each, the ids of those that are not
    /// part of a text, and the ids of those that end it.
    #[wasm_bindgen(js_name = tokenTable, unchecked_return_type = "[Uint8Array<ArrayBuffer>, Uint32Array<ArrayBuffer>, Uint32Array<ArrayBuffer>, Uint32Array<ArrayBuffer>]")]
    pub fn token_table(&self) -> Result<Array, JsValue> {
        self.shared.with(|session| {
            let (mut bytes, mut ends, mut special) = (Vec::new(), Vec::new(), Vec::new());
            for (id, (text, is_special)) in (0..).zip(session.tokenizer().tokens()) {
                bytes.extend_from_slice(text);
                ends.push(bytes.len() as u32);
                special.extend(is_special.then_some(id));
            }
            let stops: Vec<u32> = stop_tokens(&session.model().manifest().generation, session.tokenizer().special()).collect();
            let ids = |ids: &[u32]| Uint32Array::from(ids).into();
            Ok(Array::of4(&Uint8Array::from(&bytes[..]).into(), &ids(&ends), &ids(&special), &ids(&stops)))
        })
    }

    /// Returns the likelihoods of texts after a prompt; `null` if `on_event` or `signal` stopped the run.
    pub async fn score(
        &self,
        request: JsValue,
        images: Images,
        on_event: Function,
        signal: Option<AbortSignal>,
    ) -> Result<JsValue, JsValue> {
        let request: ScoreRequest = from_js("request", request)?;
        let mut listener = Listener::new(&self.shared, on_event, signal);
        let scores = self.shared.run(async |session| session.score(&request, &images.0, &mut |event: Event| listener.notify(&event)).await);
        let scores = scores.await?;
        listener.result(&scores)
    }

    /// Encodes the first of the pictures for questions with the same `limits` and holds it until [`Self::release_image`].
    #[wasm_bindgen(js_name = holdImage)]
    pub async fn hold_image(&self, images: Images, limits: JsValue) -> Result<JsValue, JsValue> {
        let limits: PictureLimits = from_js("picture limits", limits)?;
        let image = images.0.first().ok_or_else(|| EdgeError::invalid_argument("the list of pictures is empty, expected one"))?;
        let info = self.shared.run(async |session| session.hold_image(image, &limits).await).await?;
        to_js(&info)
    }

    /// Ends one [`Self::hold_image`]. Never throws; during a call it takes effect when the call ends.
    #[wasm_bindgen(js_name = releaseImage)]
    pub fn release_image(&self, id: String) {
        self.shared.release_image(id);
    }

    /// Sets the number of pictures whose features are kept in addition to held ones.
    #[wasm_bindgen(js_name = keepImages)]
    pub fn keep_images(&self, count: f64) -> Result<(), JsValue> {
        let most = f64::from(u32::MAX);
        if count.fract() != 0.0 || !(0.0..=most).contains(&count) {
            return Err(EdgeError::invalid_argument(format!("kept images is {count}, expected a whole number from 0 to {most}")).into());
        }
        self.shared.with(|session| {
            session.keep_images(count as usize);
            Ok(())
        })
    }

    /// True if [`Images::push_kept`] can name the picture.
    #[wasm_bindgen(js_name = keepsImage)]
    pub fn keeps_image(&self, id: &str) -> Result<bool, JsValue> {
        self.shared.with(|session| Ok(session.keeps_image(id)))
    }

    /// Number of tokens of a prompt. A model whose pictures have one size needs no pictures for it.
    pub fn count(&self, prompt: JsValue, images: Images, limits: JsValue) -> Result<usize, JsValue> {
        let prompt: PromptInput = from_js("prompt", prompt)?;
        let limits: PictureLimits = from_js("picture limits", limits)?;
        self.shared.with(|session| session.count(&prompt, &images.0, &limits))
    }

    /// Chooses the frames of a video and their size, a `VideoPlan`.
    #[wasm_bindgen(js_name = planVideo)]
    pub fn plan_video(&self, source: JsValue, options: JsValue) -> Result<JsValue, JsValue> {
        let source: VideoSource = from_js("video", source)?;
        let options: VideoOptions = from_js("video options", options)?;
        let plan = self.shared.with(|session| session.plan_video(&source, &options))?;
        to_js(&plan)
    }

    /// Measures the model; `null` if `on_step` or `signal` stopped it.
    pub async fn benchmark(&self, options: JsValue, on_step: Function, signal: Option<AbortSignal>) -> Result<JsValue, JsValue> {
        let options: BenchmarkOptions = from_js("benchmark options", options)?;
        let mut listener = Listener::new(&self.shared, on_step, signal);
        let mut on_step = |done: usize, total: usize| listener.notify(&Steps { done, total });
        let report = self.shared.run(async |session| benchmark(session.model_mut(), &options, &mut on_step).await).await?;
        listener.result(&report)
    }

    /// Checks that the kernels compute correctly on this GPU.
    #[wasm_bindgen(js_name = selfCheck)]
    pub async fn self_check(&self) -> Result<(), JsValue> {
        self.shared.run(async |session| backend::self_check(session.model_mut()).await).await
    }

    /// Resolves with the browser's reason when the GPU device is lost or destroyed.
    pub fn lost(&self) -> Promise {
        self.lost.clone()
    }

    /// The logits that the latest token was chosen from.
    pub async fn logits(&self) -> Result<Float32Array, JsValue> {
        let logits = self.shared.run(async |session| session.model().logits().await).await?;
        Ok(Float32Array::from(&logits[..]))
    }

    /// The adapter that the model runs on, an `Adapter`.
    #[wasm_bindgen(getter)]
    pub fn adapter(&self) -> Result<JsValue, JsValue> {
        to_js(&self.adapter)
    }

    /// Throws the first error that the GPU reported on its own.
    #[wasm_bindgen(js_name = checkGpu)]
    pub fn check_gpu(&self) -> Result<(), JsValue> {
        self.shared.with(|session| backend::check(session.model()))
    }

    /// Compiles the remaining kernels, or decodes the weights.
    pub fn prepare(&self) -> Result<(), JsValue> {
        self.shared.with(|session| backend::prepare(session.model_mut()))
    }

    /// Bytes of all GPU buffers; during a call those before the call.
    #[wasm_bindgen(getter, js_name = gpuBytes)]
    pub fn gpu_bytes(&self) -> f64 {
        self.shared.memory_bytes() as f64
    }

    /// The model's generation and lengths, a `ModelFacts`.
    #[wasm_bindgen(getter)]
    pub fn facts(&self) -> Result<JsValue, JsValue> {
        to_js(&self.facts)
    }

    /// Destroys the model at any time, also during a call, which then ends and rejects with `DISPOSED`. Never throws. The promise never
    /// rejects; it resolves when no call is in progress any longer and all memory is released.
    pub fn destroy(&self) -> Promise {
        self.shared.destroy()
    }
}

#[wasm_bindgen]
extern "C" {
    /// A JavaScript object that decides which tokens an answer may have.
    pub type TokenSource;

    /// Takes the latest token of the answer, and returns those that may follow, a bit each, as a `Uint32Array`.
    #[wasm_bindgen(method, catch)]
    async fn next(this: &TokenSource, token: Option<u32>) -> Result<JsValue, JsValue>;
}

/// A constraint that JavaScript computes.
struct JsConstraint {
    tokens: TokenSource,
    thrown: Option<JsValue>,
}

impl Constraint for JsConstraint {
    fn next(&mut self, token: Option<u32>) -> AllowedTokens<'_> {
        Box::pin(async move {
            let allowed = self.tokens.next(token).await.map_err(|error| {
                self.thrown = Some(error);
                RuntimeError::Constraint { problem: "JavaScript failed".to_owned() }
            })?;
            Ok(Uint32Array::from(allowed).to_vec())
        })
    }
}

/// A JavaScript function that receives events. It stops the run by returning `false` or by throwing; an aborted signal and a destroyed
/// engine stop it too.
struct Listener {
    shared: Rc<Shared>,
    function: Function,
    signal: Option<AbortSignal>,
    thrown: Option<JsValue>,
}

impl Listener {
    fn new(shared: &Rc<Shared>, function: Function, signal: Option<AbortSignal>) -> Self {
        Self { shared: Rc::clone(shared), function, signal, thrown: None }
    }

    fn notify<T: Serialize>(&mut self, event: &T) -> ControlFlow<()> {
        if self.shared.is_destroyed() {
            return ControlFlow::Break(());
        }
        match to_js(event).and_then(|event| self.function.call1(&JsValue::UNDEFINED, &event)) {
            Ok(verdict) if verdict == JsValue::FALSE => ControlFlow::Break(()),
            Ok(_) if self.signal.as_ref().is_some_and(AbortSignal::aborted) => ControlFlow::Break(()),
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => {
                self.thrown = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn result<T: Serialize>(self, result: &T) -> Result<JsValue, JsValue> {
        match self.thrown {
            Some(error) => Err(error),
            None => to_js(result),
        }
    }
}

fn from_js<T: for<'de> Deserialize<'de>>(what: &str, value: JsValue) -> Result<T, JsValue> {
    serde_wasm_bindgen::from_value(value).map_err(|error| EdgeError::invalid_argument(format!("{what}: {error}")).into())
}

fn to_js<T: Serialize>(value: &T) -> Result<JsValue, JsValue> {
    // `json_compatible`: plain objects and `null`, as the TypeScript declarations say.
    value.serialize(&serde_wasm_bindgen::Serializer::json_compatible()).map_err(Into::into)
}
