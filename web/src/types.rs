//! Plain data that crosses the edge and is not part of the runtime. Tests generate its TypeScript declarations, see [`typescript`].

use qwen_vl_format::Family;
use qwen_vl_runtime::session::PictureLimits;
use qwen_vl_runtime::{Backend, Budget, Kernels, ModelOptions, Precision, RuntimeError};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Options of a load. Absent ones are those of the runtime.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS), ts(optional_fields))]
#[cfg_attr(feature = "cpu", allow(dead_code, reason = "some are options of the GPU"))]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct LoadOptions {
    /// Maximum length of prompt and answer together, tokens.
    pub(crate) context_length: Option<usize>,
    /// True to accept software adapters only.
    #[cfg_attr(test, ts(as = "Option<_>", optional))]
    pub(crate) force_fallback_adapter: bool,
    /// True to prefer the adapter that saves energy.
    #[cfg_attr(test, ts(as = "Option<_>", optional))]
    pub(crate) low_power: bool,
    /// Largest number of tokens of a picture, for models that take pictures of any size.
    pub(crate) max_picture_tokens: Option<usize>,
    /// Number format of the KV cache.
    #[cfg_attr(test, ts(optional, type = "\"f32\" | \"f16\" | \"q8\""))]
    pub(crate) kv: Option<String>,
    /// Coarsest number format that products may compute in.
    #[cfg_attr(test, ts(optional, type = "\"f32\" | \"f16\" | \"q8\""))]
    pub(crate) precision: Option<String>,
    /// Kernel set to use instead of the fastest.
    #[cfg_attr(test, ts(optional, type = "\"plain\" | \"cpu\" | \"subgroups\" | \"f16\" | \"packed\""))]
    pub(crate) kernels: Option<String>,
    /// True if the device will have the feature `subgroups`.
    #[cfg_attr(test, ts(as = "Option<_>", optional))]
    pub(crate) subgroups: bool,
    /// True if the adapter is software, false if it is a GPU; absent if the browser does not say.
    pub(crate) software: Option<bool>,
    /// False to leave the kernels of decoding as they are, instead of tuning them to the GPU.
    pub(crate) tuning: Option<bool>,
    /// Record of kernels that an earlier load has measured on the same adapter and driver. Any other text is ignored.
    pub(crate) kernel_record: Option<String>,
}

impl LoadOptions {
    /// The options that fix a model's memory.
    pub(crate) fn model_options(&self) -> Result<ModelOptions, RuntimeError> {
        let defaults = ModelOptions::default();
        let context_length = self.context_length.unwrap_or(defaults.context_length);
        let kv = parsed("kv", self.kv.as_deref(), "f32, f16 or q8")?.unwrap_or(defaults.kv);
        let max_picture_tokens = self.max_picture_tokens.unwrap_or(defaults.max_picture_tokens);
        ModelOptions { context_length, kv, max_picture_tokens, ..defaults }.checked()
    }

    /// The kernel set that the load names.
    pub(crate) fn named_kernels(&self) -> Result<Option<Kernels>, RuntimeError> {
        parsed("kernels", self.kernels.as_deref(), "plain, cpu, subgroups, f16 or packed")
    }

    /// The precision of the named kernel set, or the coarsest that the load may choose.
    pub(crate) fn coarsest_precision(&self) -> Result<Precision, RuntimeError> {
        let allowed = parsed("precision", self.precision.as_deref(), "f32, f16 or q8")?.unwrap_or_default();
        Ok(self.named_kernels()?.map_or(allowed, |kernels| kernels.precision))
    }
}

/// Parses an option that is given by name.
fn parsed<T: FromStr>(name: &str, value: Option<&str>, expected: &str) -> Result<Option<T>, RuntimeError> {
    value.map(|value| value.parse().map_err(|_| RuntimeError::invalid_option(name, value, expected))).transpose()
}

/// Description of the adapter.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(crate) struct Adapter {
    /// Name; empty if the browser hides it.
    pub(crate) name: String,
    /// Driver; empty if the browser hides it.
    pub(crate) driver: String,
    /// API below WebGPU, or `cpu`.
    pub(crate) backend: String,
    /// Kernel set in use.
    pub(crate) kernels: String,
    /// Choice of the kernel set; absent if nothing was chosen, because the load named the set or there is no GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, ts(optional))]
    pub(crate) kernel_choice: Option<KernelChoice>,
    /// Limit of one binding, bytes.
    pub(crate) max_binding_bytes: u64,
}

/// Choice of a kernel set.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[cfg_attr(feature = "cpu", allow(dead_code, reason = "kernels are of the GPU"))]
pub(crate) struct KernelChoice {
    /// Origin of the choice: known from the `adapter`, `measured` by this load, or by an earlier one and `restored`.
    #[cfg_attr(test, ts(type = "\"adapter\" | \"measured\" | \"restored\""))]
    pub(crate) origin: &'static str,
    /// Duration of the choice, in milliseconds.
    pub(crate) ms: f64,
    /// The measurements, in order.
    pub(crate) trials: Vec<KernelTrial>,
}

/// Measurement of a kernel set.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[cfg_attr(feature = "cpu", allow(dead_code, reason = "kernels are of the GPU"))]
pub(crate) struct KernelTrial {
    /// The set.
    pub(crate) kernels: String,
    /// Work that it did.
    pub(crate) work: &'static str,
    /// Time of the work, in milliseconds.
    pub(crate) ms: f64,
}

/// The generation of a model, and the lengths it was loaded with.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModelFacts {
    /// Generation of the model.
    pub(crate) family: Family,
    /// Maximum length of prompt and answer together, tokens.
    pub(crate) context_length: usize,
    /// Fewest and most tokens of a picture; equal if all pictures have one size.
    pub(crate) picture_tokens: [usize; 2],
}

impl ModelFacts {
    pub(crate) fn new(model: &impl Backend) -> Self {
        let manifest = model.manifest();
        Self {
            family: manifest.config.family,
            context_length: model.context_length(),
            picture_tokens: PictureLimits::range(manifest, model.max_picture_tokens()),
        }
    }
}

/// Progress of a benchmark.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub(crate) struct Steps {
    /// Steps done.
    pub(crate) done: usize,
    /// Steps in all.
    pub(crate) total: usize,
}

/// Memory that a model will take.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(crate) struct Estimate {
    /// Maximum length of prompt and answer together, tokens: the requested one, or the default.
    pub(crate) context_length: usize,
    /// On the GPU.
    pub(crate) gpu: GpuEstimate,
    /// In the CPU fallback.
    pub(crate) cpu: CpuEstimate,
}

/// GPU memory that a model will take, bytes.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(crate) struct GpuEstimate {
    /// Weights and tables of the checkpoint.
    pub(crate) weights: u64,
    /// Keys and values of the whole context.
    pub(crate) kv_cache: u64,
    /// Activations and position tables.
    pub(crate) scratch: u64,
    /// All that a load allocates: the sum of the above.
    pub(crate) total: u64,
    /// The features of one picture, in addition to `total`.
    pub(crate) picture: u64,
    /// The largest buffer, which must fit the adapter's limits of buffers and bindings.
    pub(crate) largest_binding: u64,
}

/// Memory that a model will take in the CPU fallback.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub(crate) struct CpuEstimate {
    /// Weights in f32, bytes.
    pub(crate) bytes: u64,
    /// Most weights that the CPU fallback accepts, bytes.
    pub(crate) limit: u64,
    /// True if the CPU fallback accepts the model.
    pub(crate) fits: bool,
}

impl Estimate {
    pub(crate) fn new(manifest: &qwen_vl_format::Manifest, options: &ModelOptions, precision: Precision) -> Self {
        let budget = Budget::new(manifest, options, precision);
        let (bytes, limit) = (Budget::cpu_weights(manifest), Budget::MAX_CPU_WEIGHTS);
        Self {
            context_length: options.context_length,
            gpu: GpuEstimate {
                weights: budget.weights,
                kv_cache: budget.kv_cache,
                scratch: budget.scratch,
                total: budget.total(),
                picture: budget.picture,
                largest_binding: budget.largest_binding,
            },
            cpu: CpuEstimate { bytes, limit, fits: bytes <= limit },
        }
    }
}

/// Kind of an error, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[cfg_attr(test, ts(rename = "EdgeErrorCode"))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum ErrorCode {
    WebgpuUnavailable,
    NoAdapter,
    InsufficientLimits,
    GpuOutOfMemory,
    GpuIncorrect,
    DeviceLost,
    Integrity,
    ManifestInvalid,
    ManifestVersion,
    VocabularyInvalid,
    UnsupportedModel,
    ImageDecode,
    ImageTooLarge,
    InvalidArgument,
    ContextOverflow,
    Busy,
    Disposed,
    Internal,
}

/// Values of an error, for programs.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS), ts(optional_fields, rename = "EdgeErrorDetails"))]
pub(crate) struct ErrorDetails {
    /// File name of a shard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shard: Option<String>,
    /// Length of the shard, bytes, or its SHA-256, by the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expected: Option<LengthOrHash>,
    /// Length or SHA-256 of the bytes that arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) found: Option<LengthOrHash>,
    /// Tokens in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) used: Option<u64>,
    /// Bytes needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) needed: Option<u64>,
    /// Tokens or bytes that are possible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<u64>,
}

/// Bytes, or a SHA-256.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(untagged)]
pub(crate) enum LengthOrHash {
    Length(u64),
    Hash(String),
}

impl From<u64> for LengthOrHash {
    fn from(bytes: u64) -> Self {
        Self::Length(bytes)
    }
}

impl From<String> for LengthOrHash {
    fn from(hash: String) -> Self {
        Self::Hash(hash)
    }
}

/// Generates `web/ts/wire/generated.ts`. `QWEN_VL_WRITE_TYPES=1 cargo test -p qwen-vl-web` writes it; without the variable the test fails if
/// the file is stale.
#[cfg(test)]
mod typescript {
    use super::*;
    use quantize::{ConversionPlan, ConversionRequest, Need, PlannedFile, RemoteFile};
    use qwen_vl_constrain::Form;
    use qwen_vl_processor::{
        Content, GroundedObject, MAX_PICTURE_PIXELS, Message, ObjectKind, Part, Role, Shape, ToolCall, VideoOptions, VideoPlan, VideoSource,
    };
    use qwen_vl_runtime::KvReuse;
    use qwen_vl_runtime::benchmark::{AdapterSpeed, BenchmarkOptions, BenchmarkReport, DecodeSpeed, PictureParts, PrefillSpeed};
    use qwen_vl_runtime::session::{
        Answer, Event, FinishReason, GenerationOptions, Overflow, PictureInfo, PictureLimits, PromptInput, Request, Score, ScoreRequest,
        Timings, TokenLogprob, TokenLogprobs,
    };
    use std::path::Path;
    use ts_rs::{Config, TS};

    const HEADER: &str = "/**
 * Types that cross the edge between Rust and TypeScript, generated from the Rust ones.
 * Do not edit: change the Rust type, then run `QWEN_VL_WRITE_TYPES=1 cargo test -p qwen-vl-web`.
 */
";

    fn declaration<T: TS>(config: &Config) -> String {
        let declaration = format!("{}export {}", T::docs().unwrap_or_default(), T::decl(config));
        let lines: Vec<_> = declaration.lines().map(str::trim_end).collect();
        format!("\n{}\n", lines.join("\n"))
    }

    fn generated() -> String {
        let config = Config::new().with_large_int("number");
        macro_rules! declarations {
            ($($name:ty),* $(,)?) => { [$(declaration::<$name>(&config)),*].concat() };
        }
        let types = declarations![
            LoadOptions,
            Adapter,
            KernelChoice,
            KernelTrial,
            Family,
            ModelFacts,
            Steps,
            Estimate,
            GpuEstimate,
            CpuEstimate,
            Request,
            Content,
            Part,
            Message,
            Role,
            ToolCall,
            PromptInput,
            Overflow,
            GenerationOptions,
            PictureLimits,
            KvReuse,
            Event,
            Answer,
            FinishReason,
            Timings,
            PictureInfo,
            VideoOptions,
            VideoSource,
            VideoPlan,
            GroundedObject,
            ObjectKind,
            Shape,
            TokenLogprob,
            TokenLogprobs,
            ScoreRequest,
            Score,
            Form,
            BenchmarkOptions,
            BenchmarkReport,
            PictureParts,
            PrefillSpeed,
            DecodeSpeed,
            AdapterSpeed,
            ErrorCode,
            ErrorDetails,
            LengthOrHash,
            ConversionRequest,
            RemoteFile,
            ConversionPlan,
            PlannedFile,
            Need,
        ];
        let limits =
            format!("\n/**\n * Maximum number of pixels of a picture.\n */\nexport const MAX_PICTURE_PIXELS = {MAX_PICTURE_PIXELS};\n");
        format!("{HEADER}{types}{limits}")
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "runs natively, where there are files")]
    fn the_generated_types_are_up_to_date() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("ts/wire/generated.ts");
        let expected = generated();
        if std::env::var_os("QWEN_VL_WRITE_TYPES").is_some() {
            std::fs::write(&file, &expected).unwrap();
        }
        let found = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(found == expected, "{} is stale: run `QWEN_VL_WRITE_TYPES=1 cargo test -p qwen-vl-web`", file.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_a_load_are_named_when_they_are_wrong() {
        let message = |options: LoadOptions| options.model_options().map_err(|error| error.to_string());
        let options = message(LoadOptions::default()).unwrap();
        assert_eq!(options, ModelOptions::default());
        let context = LoadOptions { context_length: Some(0), ..LoadOptions::default() };
        assert_eq!(message(context), Err("context length is 0, expected a whole number from 2 to 2147483647".to_owned()));
        let kv = LoadOptions { kv: Some("f8".to_owned()), ..LoadOptions::default() };
        assert_eq!(message(kv), Err("kv is f8, expected f32, f16 or q8".to_owned()));
    }
}
