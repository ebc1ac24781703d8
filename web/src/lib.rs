//! The wasm edge of Qwen-VL Web: the runtime as three small JavaScript classes.
//!
//! It is private to the npm package, whose hand-written TypeScript faces users. JavaScript fetches and passes bytes in;
//! nothing here touches the network or the DOM. Errors are converted once, in [`error`], to objects with a stable `code`.
//!
//! It is built twice: for the GPU, and (`web/cpu`) for the processor. What differs is in the two files of `backend`.
#![deny(clippy::unwrap_used, clippy::expect_used)]

#[cfg(feature = "cpu")]
#[path = "cpu.rs"]
mod backend;
#[cfg(not(feature = "cpu"))]
#[path = "gpu.rs"]
mod backend;
mod error;

use backend::{Model, ModelLoader};
use error::{EdgeError, invalid_argument};
use js_sys::{Float32Array, Function, Promise};
use qwen_vl_format::{Manifest, ShardHash};
use qwen_vl_processor::Orientation;
use qwen_vl_runtime::Backend;
use qwen_vl_runtime::benchmark::{BenchmarkOptions, benchmark};
use qwen_vl_runtime::session::{self, Event, ImageInput, PromptInput, Request, ScoreRequest};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::ops::ControlFlow;
use wasm_bindgen::prelude::*;

thread_local! {
    static ON_PANIC: RefCell<Option<Function>> = const { RefCell::new(None) };
}

/// Runs once when the module is instantiated.
#[wasm_bindgen(start)]
fn start() {
    // A panic in a future is a trap that no promise reports: tell JavaScript before it comes.
    std::panic::set_hook(Box::new(|info| {
        let message = info.to_string();
        ON_PANIC.with_borrow(|callback| {
            if let Some(callback) = callback {
                // The callback's own failure would have nowhere to go.
                let _ = callback.call1(&JsValue::UNDEFINED, &JsValue::from_str(&message));
            }
        });
    }));
}

/// Calls `callback` with the message when Rust panics. The module must not be used after that.
#[wasm_bindgen(js_name = onPanic)]
pub fn on_panic(callback: Function) {
    ON_PANIC.set(Some(callback));
}

/// Choices made at load; what is absent is left to the runtime.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LoadOptions {
    context_length: Option<usize>,
    force_fallback_adapter: bool,
    low_power: bool,
    kv: Option<String>,
    precision: Option<String>,
    /// The set of kernels rather than the fastest.
    kernels: Option<String>,
    /// Whether the device will have the feature `subgroups`.
    subgroups: bool,
}

/// What the adapter says of itself.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Adapter {
    name: String,
    driver: String,
    backend: String,
    kernels: String,
    max_binding_bytes: u64,
}

/// A model on its way to the GPU.
#[wasm_bindgen]
pub struct Loader(ModelLoader);

#[wasm_bindgen]
impl Loader {
    /// Checks the manifest, takes a GPU device and allocates all that the model will need. `compile` is given the WGSL of the kernels that
    /// are to be compiled, an array, before the GPU is busy with allocating.
    pub async fn create(manifest_json: String, options: JsValue, compile: Function) -> Result<Loader, JsValue> {
        let options: LoadOptions = from_js("load options", options)?;
        let manifest = Manifest::from_json(&manifest_json).map_err(EdgeError::from)?;
        Ok(Self(backend::loader(manifest, &options, &compile).await.map_err(EdgeError::from)?))
    }

    /// Takes the next bytes of a shard straight to the GPU. Unless they are `checked`, their hash is made here, and compared at the last.
    pub fn write(&mut self, shard: usize, bytes: &[u8], checked: bool) -> Result<(), JsValue> {
        let written = if checked { self.0.write_checked(shard, bytes) } else { self.0.write(shard, bytes) };
        Ok(written.map_err(EdgeError::from)?)
    }

    /// Forgets what came of a shard: its first byte comes next.
    pub fn restart(&mut self, shard: usize) -> Result<(), JsValue> {
        Ok(self.0.restart(shard).map_err(EdgeError::from)?)
    }

    /// Resolves when the GPU has taken what was written so far. It holds nothing, so writing may go on meanwhile.
    pub fn drained(&self) -> Promise {
        backend::drained(&self.0)
    }

    /// The first error that the GPU reported by itself, until the engine is made.
    #[wasm_bindgen(js_name = checkGpu)]
    pub fn check_gpu(&self) -> Result<(), JsValue> {
        Ok(self.0.model().map_or(Ok(()), backend::check).map_err(EdgeError::from)?)
    }

    /// The engine while the weights are still coming: it can encode pictures once [`Self::encodes`], and all else when [`Self::complete`].
    /// `vocabulary` is the manifest's tokenizer file.
    pub fn engine(&mut self, vocabulary: &[u8]) -> Result<Engine, JsValue> {
        let model = self.0.take_model().ok_or_else(|| invalid_argument("the engine was made before".to_owned()))?;
        Ok(Engine(session::Engine::new(model, vocabulary).map_err(EdgeError::from)?))
    }

    /// Whether the shards that pictures need have come whole.
    pub fn encodes(&self) -> bool {
        self.0.encodes()
    }

    /// Fails unless every shard has come whole.
    pub fn complete(&self) -> Result<(), JsValue> {
        Ok(self.0.complete().map_err(EdgeError::from)?)
    }
}

/// Checks every rule of a manifest, without a GPU.
#[wasm_bindgen(js_name = checkManifest)]
pub fn check_manifest(manifest_json: &str) -> Result<(), JsValue> {
    Manifest::from_json(manifest_json).map_err(EdgeError::from)?;
    Ok(())
}

/// SHA-256 of bytes that come in pieces; the browser's own takes them only whole.
#[wasm_bindgen]
#[derive(Default)]
pub struct Hasher(ShardHash);

#[wasm_bindgen]
impl Hasher {
    /// Of no bytes yet.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash in lower-case hexadecimal.
    pub fn finish(self) -> String {
        self.0.finish()
    }
}

/// Pictures of a request, in the order of its `<img>` tags.
#[wasm_bindgen]
#[derive(Default)]
pub struct Images(Vec<ImageInput>);

#[wasm_bindgen]
impl Images {
    /// No pictures yet.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a PNG, JPEG, WebP, GIF or BMP file. With `upright`, a photo's EXIF orientation is applied.
    #[wasm_bindgen(js_name = pushEncoded)]
    pub fn push_encoded(&mut self, bytes: Vec<u8>, upright: bool) {
        let orientation = if upright { Orientation::Apply } else { Orientation::Ignore };
        self.0.push(ImageInput::Encoded { bytes, orientation });
    }

    /// Adds a picture that the engine keeps, see [`Engine::keeps_image`].
    #[wasm_bindgen(js_name = pushKept)]
    pub fn push_kept(&mut self, id: String) {
        self.0.push(ImageInput::Kept { id });
    }

    /// Adds pixels, four bytes each, not premultiplied.
    #[wasm_bindgen(js_name = pushRgba)]
    pub fn push_rgba(&mut self, width: u32, height: u32, pixels: Vec<u8>) {
        self.0.push(ImageInput::Rgba { width, height, pixels });
    }
}

/// A loaded model with its processor. One request at a time.
#[wasm_bindgen]
pub struct Engine(session::Engine<Model>);

#[wasm_bindgen]
impl Engine {
    /// Answers a request. `on_event` is called with every event and stops the answer by returning `false`.
    pub async fn ask(&mut self, request: JsValue, images: Images, on_event: Function) -> Result<JsValue, JsValue> {
        let request: Request = from_js("request", request)?;
        let mut listener = Listener::new(on_event);
        let answer = self.0.ask(&request, &images.0, &mut |event: Event| listener.hear(&event), None).await.map_err(EdgeError::from)?;
        listener.result(&answer)
    }

    /// Tells how likely texts are to follow a prompt; `null` if `on_event` stopped it.
    pub async fn score(&mut self, request: JsValue, images: Images, on_event: Function) -> Result<JsValue, JsValue> {
        let request: ScoreRequest = from_js("request", request)?;
        let mut listener = Listener::new(on_event);
        let scores = self.0.score(&request, &images.0, &mut |event: Event| listener.hear(&event)).await.map_err(EdgeError::from)?;
        listener.result(&scores)
    }

    /// Encodes the first of the pictures and keeps it until [`Self::release_image`].
    #[wasm_bindgen(js_name = holdImage)]
    pub async fn hold_image(&mut self, images: Images) -> Result<JsValue, JsValue> {
        let image = images.0.first().ok_or_else(|| invalid_argument("there is no picture".to_owned()))?;
        to_js(&self.0.hold_image(image).await.map_err(EdgeError::from)?)
    }

    /// Ends what [`Self::hold_image`] began.
    #[wasm_bindgen(js_name = releaseImage)]
    pub fn release_image(&mut self, id: &str) {
        self.0.release_image(id);
    }

    /// How many pictures' features are kept beside those that are held.
    #[wasm_bindgen(js_name = keepImages)]
    pub fn keep_images(&mut self, count: usize) {
        self.0.keep_images(count);
    }

    /// Whether [`Images::push_kept`] can name a picture.
    #[wasm_bindgen(js_name = keepsImage)]
    pub fn keeps_image(&self, id: &str) -> bool {
        self.0.keeps_image(id)
    }

    /// Tokens of a prompt.
    pub fn count(&self, prompt: JsValue) -> Result<usize, JsValue> {
        let prompt: PromptInput = from_js("prompt", prompt)?;
        Ok(self.0.count(&prompt).map_err(EdgeError::from)?)
    }

    /// Measures the model; `null` if `on_step` stopped it.
    pub async fn benchmark(&mut self, options: JsValue, on_step: Function) -> Result<JsValue, JsValue> {
        let options: BenchmarkOptions = from_js("benchmark options", options)?;
        let mut listener = Listener::new(on_step);
        let mut on_step = |done: usize, total: usize| listener.hear(&BenchmarkStep { done, total });
        let report = benchmark(self.0.model_mut(), &options, &mut on_step).await.map_err(EdgeError::from)?;
        listener.result(&report)
    }

    /// Whether the kernels compute rightly on this GPU.
    #[wasm_bindgen(js_name = selfCheck)]
    pub async fn self_check(&mut self) -> Result<(), JsValue> {
        Ok(backend::self_check(self.0.model_mut()).await.map_err(EdgeError::from)?)
    }

    /// Resolves with the browser's words when the GPU device goes away. It holds nothing.
    pub fn lost(&self) -> Promise {
        let lost = backend::lost(self.0.model());
        wasm_bindgen_futures::future_to_promise(async move { Ok(lost.await.into()) })
    }

    /// The logits that the latest token was chosen from.
    pub async fn logits(&self) -> Result<Float32Array, JsValue> {
        let logits = self.0.model().logits().await.map_err(EdgeError::from)?;
        Ok(Float32Array::from(&logits[..]))
    }

    /// The adapter that the model runs on.
    #[wasm_bindgen(getter)]
    pub fn adapter(&self) -> Result<JsValue, JsValue> {
        to_js(&backend::adapter(self.0.model()))
    }

    /// The first error that the GPU reported by itself.
    #[wasm_bindgen(js_name = checkGpu)]
    pub fn check_gpu(&self) -> Result<(), JsValue> {
        Ok(backend::check(self.0.model()).map_err(EdgeError::from)?)
    }

    /// Compiles the kernels that are not yet, or decodes the weights.
    pub fn prepare(&mut self) -> Result<(), JsValue> {
        Ok(backend::prepare(self.0.model_mut()).map_err(EdgeError::from)?)
    }

    /// Bytes of all GPU buffers.
    #[wasm_bindgen(getter, js_name = gpuBytes)]
    pub fn gpu_bytes(&self) -> f64 {
        backend::memory_bytes(self.0.model()) as f64
    }

    /// Longest sequence of prompt and answer, tokens.
    #[wasm_bindgen(getter, js_name = contextLength)]
    pub fn context_length(&self) -> usize {
        self.0.model().context_length()
    }

    /// Gives the GPU memory back at once; nothing can be asked any more.
    pub fn destroy(&self) {
        backend::destroy(self.0.model());
    }
}

/// How far a benchmark is.
#[derive(Serialize)]
struct BenchmarkStep {
    done: usize,
    total: usize,
}

/// A JavaScript function that hears events and stops their source by returning `false` or by throwing.
struct Listener {
    function: Function,
    thrown: Option<JsValue>,
}

impl Listener {
    fn new(function: Function) -> Self {
        Self { function, thrown: None }
    }

    fn hear<T: Serialize>(&mut self, event: &T) -> ControlFlow<()> {
        match to_js(event).and_then(|event| self.function.call1(&JsValue::UNDEFINED, &event)) {
            Ok(verdict) if verdict == JsValue::FALSE => ControlFlow::Break(()),
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
    serde_wasm_bindgen::from_value(value).map_err(|error| invalid_argument(format!("{what}: {error}")).into())
}

fn to_js<T: Serialize>(value: &T) -> Result<JsValue, JsValue> {
    // `json_compatible`: plain objects and `null`, as the TypeScript types say.
    value.serialize(&serde_wasm_bindgen::Serializer::json_compatible()).map_err(Into::into)
}
