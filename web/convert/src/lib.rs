//! The wasm edge of the converter, for workers of browsers and for Node.
//!
//! It is private to the npm package, whose TypeScript fetches bytes and stores the results. A call that needs bytes which are not here
//! returns `undefined`: [`Conversion::needs`] then lists them, and the call is repeated when they were supplied.
#![deny(clippy::expect_used, clippy::unwrap_used)]

use js_sys::{Array, Object, Reflect, Uint8Array};
use quantize::{ConversionRequest, FinishedShard, RemoteConversion, Step, WrongSetting};
use qwen_vl_format::ConfigError;
use serde::Serialize;
use serde_wasm_bindgen::Serializer;
use wasm_bindgen::prelude::*;

/// Runs once when the module is instantiated.
#[wasm_bindgen(start)]
fn start() {
    console_error_panic_hook::set_once();
}

/// A conversion of files that JavaScript fetches range by range.
#[wasm_bindgen]
pub struct Conversion {
    conversion: RemoteConversion,
    /// The piece that was made last, until it is taken.
    piece: Vec<u8>,
}

#[wasm_bindgen]
impl Conversion {
    /// Prepares a conversion. `request` is a `ConversionRequest`.
    #[wasm_bindgen(constructor)]
    pub fn new(request: JsValue) -> Result<Self, JsValue> {
        let request: ConversionRequest =
            serde_wasm_bindgen::from_value(request).map_err(|error| coded("INVALID_ARGUMENT", &error.to_string()))?;
        let conversion = RemoteConversion::new(&request).map_err(|error| coded("INVALID_ARGUMENT", &format!("{error:#}")))?;
        Ok(Self { conversion, piece: Vec::new() })
    }

    /// Reads everything but the weights. Returns a `ConversionPlan`, or `undefined` if bytes are missing.
    pub fn open(&mut self) -> Result<JsValue, JsValue> {
        match self.conversion.open().map_err(refused)? {
            Step::Done(()) => to_js(&self.conversion.plan().map_err(refused)?),
            Step::Needs => Ok(JsValue::UNDEFINED),
        }
    }

    /// The ranges to fetch, an array of `Need`. Each is listed once.
    pub fn needs(&mut self) -> Result<JsValue, JsValue> {
        to_js(&self.conversion.needs())
    }

    /// Takes bytes of a file from an offset on.
    pub fn supply(&mut self, file: usize, offset: f64, bytes: Vec<u8>) -> Result<(), JsValue> {
        self.conversion.supply(file, offset as u64, bytes).map_err(refused)
    }

    /// The files that are neither shards nor the manifest: `[name, bytes][]`. `shards` has the records of all shards in order, or none: then the
    /// model card has blanks in place of errors.
    #[wasm_bindgen(js_name = smallFiles, unchecked_return_type = "[string, Uint8Array][]")]
    pub fn small_files(&self, shards: Vec<String>) -> Result<Array, JsValue> {
        let shards = self.finished(&shards)?;
        let files = self.conversion.small_files(&shards).map_err(refused)?;
        Ok(files.iter().map(|(name, bytes)| Array::of2(&JsValue::from_str(name), &Uint8Array::from(&**bytes))).collect())
    }

    /// True if a record is that of a finished shard. Otherwise the shard must be made again.
    #[wasm_bindgen(js_name = isFinished)]
    pub fn is_finished(&self, shard: usize, record: &str) -> bool {
        self.conversion.finished(shard, record).is_ok()
    }

    /// Begins a shard of which an earlier run has stored some bytes, and a record: that of its progress, or that of the finished shard. Returns
    /// the number of bytes that count; they must be restored then.
    pub fn begin(&mut self, shard: usize, stored: f64, record: Option<String>) -> Result<f64, JsValue> {
        Ok(self.conversion.begin(shard, stored as u64, record.as_deref()).map_err(refused)? as f64)
    }

    /// Takes bytes of the shard that an earlier run has made, in order.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), JsValue> {
        self.conversion.restore(bytes).map_err(refused)
    }

    /// The record of the shard so far, if the piece that was made last ends a part of a tensor: a later run can resume there. It is JSON with
    /// the number of `bytes`.
    pub fn progress(&self) -> Result<Option<String>, JsValue> {
        self.conversion.progress().map_err(internal)
    }

    /// Makes the next bytes of the shard and returns their number, `null` after the last, or `undefined` if bytes of the source are missing.
    #[wasm_bindgen(js_name = nextPiece, unchecked_return_type = "number | null | undefined")]
    pub fn next_piece(&mut self) -> Result<JsValue, JsValue> {
        Ok(match self.conversion.next_piece().map_err(refused)? {
            Step::Done(Some(bytes)) => {
                self.piece = bytes;
                JsValue::from(self.piece.len())
            }
            Step::Done(None) => JsValue::NULL,
            Step::Needs => JsValue::UNDEFINED,
        })
    }

    /// Copies the bytes that [`Self::next_piece`] has made to an array of their number.
    #[wasm_bindgen(js_name = takePiece)]
    pub fn take_piece(&mut self, into: &Uint8Array) -> Result<(), JsValue> {
        let piece = std::mem::take(&mut self.piece);
        if into.length() as usize != piece.len() {
            return Err(coded("INTERNAL", &format!("an array of {} bytes for a piece of {}", into.length(), piece.len())));
        }
        into.copy_from(&piece);
        Ok(())
    }

    /// The record of the shard, after its last piece: JSON with the keys of its manifest entry, and others.
    pub fn finish(&mut self) -> Result<String, JsValue> {
        self.conversion.finish().map_err(refused)?.to_json().map_err(internal)
    }

    /// The manifest as JSON. `shards` has the records of all shards, in order.
    pub fn manifest(&self, shards: Vec<String>) -> Result<String, JsValue> {
        self.conversion.manifest(&self.finished(&shards)?).map_err(refused)
    }

    fn finished(&self, records: &[String]) -> Result<Vec<FinishedShard>, JsValue> {
        records.iter().enumerate().map(|(shard, record)| self.conversion.finished(shard, record).map_err(internal)).collect()
    }
}

/// Large numbers become numbers and absent values `null`, as in JSON.
fn to_js(value: &impl Serialize) -> Result<JsValue, JsValue> {
    value.serialize(&Serializer::json_compatible()).map_err(|error| coded("INTERNAL", &error.to_string()))
}

fn internal(error: anyhow::Error) -> JsValue {
    coded("INTERNAL", &format!("{error:#}"))
}

/// The error for a checkpoint that cannot be converted with these settings.
fn refused(error: anyhow::Error) -> JsValue {
    let unsupported = error.chain().any(|cause| matches!(cause.downcast_ref(), Some(ConfigError::Architecture { .. })));
    let code = match error.is::<WrongSetting>() {
        true => "INVALID_ARGUMENT",
        false if unsupported => "UNSUPPORTED_MODEL",
        false => "CHECKPOINT_INVALID",
    };
    coded(code, &format!("{error:#}"))
}

/// JavaScript's `Error` with the property that the package reads.
fn coded(code: &str, message: &str) -> JsValue {
    let error: Object = js_sys::Error::new(message).into();
    // An object always takes a property.
    let _ = Reflect::set(&error, &"code".into(), &code.into());
    error.into()
}
