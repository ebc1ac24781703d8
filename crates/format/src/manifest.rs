//! `manifest.json`: the index of a web checkpoint and the contract between the converter and the runtime.

use crate::block::GROUP_SIZES;
use crate::tensors::{TensorKind, tensor_table};
use crate::{AddedToken, ConfigError, Family, MAX_PART_BYTES, ModelConfig, PART_ROW_ALIGN, QwenVlConfig, Scheme, ShardHash, SpecialIds};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Value of [`Manifest::format`].
pub const FORMAT_NAME: &str = "qwen-vl-web";
/// [`Manifest::version`] that this code writes. It also reads version 1, whose `config` has the keys of the 2023 model, and
/// version 2, which lacks the scheme `q4z`.
pub const FORMAT_VERSION: u32 = 3;
/// File name of the manifest in its folder.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The index of a web checkpoint. [`Manifest::from_json`] reads it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Manifest {
    /// Always [`FORMAT_NAME`].
    pub format: String,
    /// Version of this layout, [`FORMAT_VERSION`] also for a manifest that was read from an earlier version.
    pub version: u32,
    /// Sizes of the model.
    pub config: ModelConfig,
    /// Settings of the processor.
    pub processor: ProcessorConfig,
    /// Default settings of generation.
    pub generation: GenerationConfig,
    /// Origin of the weights.
    pub provenance: Provenance,
    /// Files other than the shards: tokenizer, licence and notice.
    pub files: Vec<FileEntry>,
    /// The shards, in load order.
    pub shards: Vec<FileEntry>,
    /// The tensors, in load order.
    pub tensors: Vec<TensorEntry>,
}

/// A file of the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Name in the folder; no separators.
    pub file: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
    /// Hashes of pieces. The hash functions of browsers are fast but take whole buffers: with these hashes a shard is checked while it streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pieces: Option<Pieces>,
}

impl FileEntry {
    /// Describes a file that is not streamed.
    pub fn of(file: &str, bytes: &[u8]) -> Self {
        Self { file: file.to_owned(), bytes: bytes.len() as u64, sha256: ShardHash::of(bytes), pieces: None }
    }

    /// The problem of an entry that cannot be fetched or checked safely, in words.
    pub fn problem(&self) -> Option<&'static str> {
        let name = self.file.as_str();
        // Names become URLs and paths: letters, digits and `._-` need no escaping in either and cannot leave the folder.
        if name.is_empty() || name.len() > 255 || name.starts_with('.') {
            return Some("a name has 1 to 255 characters and does not begin with a dot");
        }
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
            return Some("a name consists of letters, digits, `.`, `_` and `-`");
        }
        if !is_hash(&self.sha256) {
            return Some("its sha256 is not 64 lower-case hexadecimal digits");
        }
        let Pieces { bytes, sha256 } = self.pieces.as_ref()?;
        if *bytes == 0 || *bytes > MAX_PIECE_BYTES || !bytes.is_multiple_of(4) {
            return Some("its pieces have a multiple of 4 bytes, 4 MiB at most");
        }
        if sha256.len() as u64 != self.bytes.div_ceil(*bytes) {
            return Some("the number of its pieces does not fit its size");
        }
        (!sha256.iter().all(|hash| is_hash(hash))).then_some("a piece's sha256 is not 64 lower-case hexadecimal digits")
    }

    /// Describes a shard.
    pub fn of_shard(file: &str, bytes: &[u8]) -> Self {
        let mut hash = FileHash::default();
        hash.update(bytes);
        hash.finish(file)
    }
}

/// The hashes of a shard whose bytes arrive in order.
#[derive(Debug, Clone, Default)]
pub struct FileHash {
    bytes: u64,
    whole: ShardHash,
    /// The hash of the piece that is not complete yet.
    piece: ShardHash,
    pieces: Vec<String>,
}

impl FileHash {
    /// Adds the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        while !bytes.is_empty() {
            let room = PIECE_BYTES - self.bytes % PIECE_BYTES;
            let (now, later) = bytes.split_at(bytes.len().min(room as usize));
            self.piece.update(now);
            self.bytes += now.len() as u64;
            bytes = later;
            if self.bytes.is_multiple_of(PIECE_BYTES) {
                self.pieces.push(std::mem::take(&mut self.piece).finish());
            }
        }
    }

    /// Number of bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The entry of a shard with these bytes.
    pub fn finish(mut self, file: &str) -> FileEntry {
        if !self.bytes.is_multiple_of(PIECE_BYTES) {
            self.pieces.push(self.piece.finish());
        }
        let pieces = Some(Pieces { bytes: PIECE_BYTES, sha256: self.pieces });
        FileEntry { file: file.to_owned(), bytes: self.bytes, sha256: self.whole.finish(), pieces }
    }
}

/// Size of the pieces that the converter hashes, bytes. Browsers copy the bytes that they hash: Chromium 156 spends 0.5 ms of processor time on
/// 1 MiB in pieces of 256 or 512 KiB, and 1.0 ms in pieces of 1 to 4 MiB.
pub const PIECE_BYTES: u64 = 512 << 10;
/// Maximum size of a piece, bytes: several are in a browser's memory at once.
pub const MAX_PIECE_BYTES: u64 = 4 << 20;

/// Maximum size of a file other than a shard, bytes: a loader collects it in memory. Vocabularies have 4 MB.
pub const MAX_TEXT_BYTES: u64 = 64 << 20;

/// Hashes of consecutive pieces of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces {
    /// Size of every piece but the last, which may be shorter; a multiple of 4.
    pub bytes: u64,
    /// Their SHA-256 in lower-case hexadecimal.
    pub sha256: Vec<String>,
}

/// Settings of the processor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessorConfig {
    /// The vocabulary file (rank format of `qwen.tiktoken`), one of [`Manifest::files`].
    pub tokenizer_file: String,
    /// The tokens after the ranks of the vocabulary, in ascending order of ids. For the 2023 model only those that a fine-tune added: its own
    /// follow from the number of ranks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added_tokens: Vec<AddedToken>,
    /// Mean of each channel of a picture scaled to 0..1.
    pub image_mean: [f32; 3],
    /// Standard deviation of each channel.
    pub image_std: [f32; 3],
    /// Smallest size of a picture for the model, pixels: smaller ones are enlarged. For models that take pictures of any size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_pixels: Option<u64>,
    /// Largest size of a picture for the model, pixels: larger ones are reduced. For models that take pictures of any size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pixels: Option<u64>,
}

/// Default settings of generation, with the keys of the published `generation_config.json`.
///
/// Optional keys are absent where the checkpoint does not set them. Manifests of before these keys existed have none of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationConfig {
    /// `chatml` for chat checkpoints, `raw` for base models.
    pub chat_format: String,
    /// The token that ends a sequence.
    pub eos_token_id: u32,
    /// Further tokens that end a sequence, where the checkpoint lists several. [`Self::eos_token_ids`] returns all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_eos_token_ids: Vec<u32>,
    /// Length limit of an answer, tokens.
    pub max_new_tokens: usize,
    /// Length limit of prompt and answer together, tokens. It holds in addition to `max_new_tokens`; a converter sets it only where
    /// the checkpoint has no `max_new_tokens`, which would override it in the original.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// Length limit of system text and history, tokens: the oldest turns are dropped.
    pub max_window_size: usize,
    /// True if answers are sampled; otherwise each token is the most likely one.
    pub do_sample: bool,
    /// Divisor of the logits; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Number of most likely tokens to sample from; 0 for all.
    pub top_k: usize,
    /// Probability mass of the most likely tokens to sample from.
    pub top_p: f32,
    /// Divisor of the positive logits, and factor of the negative ones, of tokens that occurred before; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    /// Subtracted from the logits of tokens that the answer has already; 0 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f32>,
    /// Minimum length of an answer, tokens; 0 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_new_tokens: Option<usize>,
    /// Texts that end an answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop_strings: Vec<String>,
}

impl GenerationConfig {
    /// Iterates over all tokens that end a sequence.
    pub fn eos_token_ids(&self) -> impl Iterator<Item = u32> {
        std::iter::once(self.eos_token_id).chain(self.extra_eos_token_ids.iter().copied())
    }
}

/// Origin of the weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Program and version that wrote the folder.
    pub converter: String,
    /// Name of the converted checkpoint (its folder's name).
    pub source: String,
    /// Files of the source with size and SHA-256 where they were read whole.
    pub source_files: Vec<String>,
    /// The changes to the weights, in one sentence (required by the weights' licence).
    pub modifications: String,
}

/// A tensor and its position in the shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorEntry {
    /// Name from [`crate::tensors`].
    pub name: String,
    /// `[rows, cols]`, without padding.
    pub shape: [usize; 2],
    /// Its encoding.
    pub scheme: Scheme,
    /// Slices of rows, from the first row on. Large tensors have several, so that each fits one GPU binding.
    pub parts: Vec<TensorPart>,
}

/// Consecutive rows of a tensor in one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorPart {
    /// Number of rows.
    pub rows: usize,
    /// Index into [`Manifest::shards`].
    pub shard: usize,
    /// Values or codes: first byte and one past the last, in the shard file.
    pub data: [u64; 2],
    /// Scales, likewise; absent for float schemes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scales: Option<[u64; 2]>,
}

/// The reason why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not JSON, or a key is missing or of the wrong type.
    #[error("manifest.json cannot be read: {0}")]
    Parse(serde_json::Error),
    /// Another kind of file.
    #[error("manifest.json is of format `{found}`, expected `{FORMAT_NAME}`")]
    Format {
        /// The format that it names.
        found: String,
    },
    /// The manifest has another version.
    #[error(
        "manifest.json has version {found}, this runtime reads versions 1 to {FORMAT_VERSION}: update the runtime or convert the checkpoint again"
    )]
    Version {
        /// Its version.
        found: u64,
    },
    /// The sizes do not fit each other.
    #[error("manifest.json: {0}")]
    Config(ConfigError),
    /// A setting is out of range.
    #[error("manifest.json: `{key}` is {found}, expected {expected}")]
    Setting {
        /// The key, with dots.
        key: &'static str,
        /// Its value.
        found: String,
        /// The values allowed.
        expected: String,
    },
    /// A file entry that cannot be fetched or checked safely.
    #[error("manifest.json: file `{file}`: {problem}")]
    File {
        /// The name as the manifest has it.
        file: String,
        /// The problem.
        problem: &'static str,
    },
    /// The list of tensors does not fit the configuration.
    #[error("manifest.json: tensor {index} is {found}, the configuration asks for {expected}")]
    Table {
        /// Position in the list.
        index: usize,
        /// The name there, or the end of the list.
        found: String,
        /// The name that belongs there, or the end of the list.
        expected: String,
    },
    /// A tensor has another shape than the configuration gives it.
    #[error("tensor `{name}` has shape {found:?}, the configuration asks for {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape in the manifest.
        found: [usize; 2],
        /// The shape that the configuration gives.
        expected: [usize; 2],
    },
    /// No kernel reads this encoding of a tensor.
    #[error("tensor `{name}` has scheme {found:?}, expected {expected}")]
    Scheme {
        /// The tensor.
        name: String,
        /// Its scheme.
        found: Scheme,
        /// The schemes allowed.
        expected: &'static str,
    },
    /// A number of a part is wrong.
    #[error("tensor `{name}`, part {part}: {what} is {found}, expected {expected}")]
    Part {
        /// The tensor.
        name: String,
        /// Index of the part.
        part: usize,
        /// The number in question.
        what: &'static str,
        /// Its value.
        found: String,
        /// The value expected.
        expected: String,
    },
    /// The rows of a tensor's parts do not add up.
    #[error("tensor `{name}` has {found} rows in its parts, expected {expected}")]
    Rows {
        /// The tensor.
        name: String,
        /// Sum over the parts.
        found: u128,
        /// Rows of its shape.
        expected: usize,
    },
    /// A shard that no tensor uses.
    #[error("shard `{file}` holds no tensor")]
    UnusedShard {
        /// The shard.
        file: String,
    },
}

// Neither is a `source` of the error: its text has the cause already.
impl From<serde_json::Error> for ManifestError {
    fn from(error: serde_json::Error) -> Self {
        Self::Parse(error)
    }
}

impl From<ConfigError> for ManifestError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

/// The keys that manifests of all versions have.
#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    format: String,
    #[serde(default)]
    version: u64,
}

/// The keys of versions 1 to 3. The version decides about the keys of `config`.
#[derive(Deserialize)]
struct Stored<'a> {
    #[serde(borrow)]
    config: &'a RawValue,
    processor: ProcessorConfig,
    generation: GenerationConfig,
    provenance: Provenance,
    files: Vec<FileEntry>,
    shards: Vec<FileEntry>,
    tensors: Vec<TensorEntry>,
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Manifest {
    /// Reads a manifest and checks all that can be checked without the shards. The byte ranges of the result need no further checks.
    pub fn from_json(json: &str) -> Result<Self, ManifestError> {
        // Format and version first: a newer layout may lack the keys of this one.
        let envelope: Envelope = serde_json::from_str(json)?;
        if envelope.format != FORMAT_NAME {
            return Err(ManifestError::Format { found: envelope.format });
        }
        if !(1..=u64::from(FORMAT_VERSION)).contains(&envelope.version) {
            return Err(ManifestError::Version { found: envelope.version });
        }
        let Stored { config, processor, generation, provenance, files, shards, tensors } = serde_json::from_str(json)?;
        let config = if envelope.version == 1 {
            let config: QwenVlConfig = serde_json::from_str(config.get())?;
            config.validate()?;
            config.model()
        } else {
            serde_json::from_str(config.get())?
        };
        let (format, version) = (envelope.format, FORMAT_VERSION);
        let manifest = Self { format, version, config, processor, generation, provenance, files, shards, tensors };
        manifest.validate()?;
        Ok(manifest)
    }

    /// Performs the checks of [`Manifest::from_json`].
    pub fn validate(&self) -> Result<(), ManifestError> {
        if self.format != FORMAT_NAME {
            return Err(ManifestError::Format { found: self.format.clone() });
        }
        if self.version != FORMAT_VERSION {
            return Err(ManifestError::Version { found: self.version.into() });
        }
        self.config.validate()?;
        self.validate_settings()?;
        self.validate_files()?;
        self.validate_table()?;
        self.validate_ranges()
    }

    /// Returns the tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Returns the size of all shards in bytes.
    pub fn shard_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes).sum()
    }

    fn validate_settings(&self) -> Result<(), ManifestError> {
        let setting = |key, found: String, expected: &str| Err(ManifestError::Setting { key, found, expected: expected.to_owned() });
        let processor = &self.processor;
        if !self.files.iter().any(|entry| entry.file == processor.tokenizer_file) {
            return setting("processor.tokenizer_file", format!("`{}`", processor.tokenizer_file), "one of `files`");
        }
        if let Some((found, expected)) = self.added_tokens_problem() {
            return setting("processor.added_tokens", found, &expected);
        }
        if !processor.image_mean.iter().all(|mean| mean.is_finite()) {
            return setting("processor.image_mean", format!("{:?}", processor.image_mean), "finite numbers");
        }
        if !processor.image_std.iter().all(|std| std.is_finite() && *std > 0.0) {
            return setting("processor.image_std", format!("{:?}", processor.image_std), "numbers above 0");
        }
        if self.config.vision.merger.is_some() {
            let cell = self.config.vision.patch_size as u64 * self.config.vision.patch_size as u64;
            let Some(min) = processor.min_pixels.filter(|min| *min > 0) else {
                return setting("processor.min_pixels", format!("{:?}", processor.min_pixels), "a number above 0");
            };
            if processor.max_pixels.is_none_or(|max| max < min.max(cell) || max > 1 << 32) {
                return setting("processor.max_pixels", format!("{:?}", processor.max_pixels), "from `min_pixels` to 2^32");
            }
        }
        let generation = &self.generation;
        if !["chatml", "raw"].contains(&generation.chat_format.as_str()) {
            return setting("generation.chat_format", format!("`{}`", generation.chat_format), "`chatml` or `raw`");
        }
        let in_vocabulary = |id: u32| (id as usize) < self.config.decoder.vocab_size;
        if !in_vocabulary(generation.eos_token_id) {
            return setting("generation.eos_token_id", generation.eos_token_id.to_string(), "below config.decoder.vocab_size");
        }
        if !generation.extra_eos_token_ids.iter().copied().all(in_vocabulary) {
            return setting(
                "generation.extra_eos_token_ids",
                format!("{:?}", generation.extra_eos_token_ids),
                "below config.decoder.vocab_size",
            );
        }
        if generation.max_length == Some(0) {
            return setting("generation.max_length", "0".into(), "above 0");
        }
        let positive = |value: Option<f32>| value.is_none_or(|value| value.is_finite() && value > 0.0);
        if !positive(generation.temperature) {
            return setting("generation.temperature", format!("{:?}", generation.temperature.unwrap_or_default()), "above 0");
        }
        if !positive(generation.repetition_penalty) {
            return setting("generation.repetition_penalty", format!("{:?}", generation.repetition_penalty.unwrap_or_default()), "above 0");
        }
        if let Some(penalty) = generation.presence_penalty.filter(|penalty| !(-2.0..=2.0).contains(penalty)) {
            return setting("generation.presence_penalty", format!("{penalty:?}"), "from -2 to 2");
        }
        if !(generation.top_p > 0.0 && generation.top_p <= 1.0) {
            return setting("generation.top_p", generation.top_p.to_string(), "above 0, at most 1");
        }
        Ok(())
    }

    /// Value and expectation of the first problem of `processor.added_tokens`. Only the vocabulary knows the number of ranks.
    fn added_tokens_problem(&self) -> Option<(String, String)> {
        let (config, tokens) = (&self.config, &self.processor.added_tokens);
        let vocab_size = config.decoder.vocab_size;
        let first_generation = config.family == Family::QwenVl;
        // `</img>` and `<imgpad>` follow `<img>`.
        let before = if first_generation { config.image_token as usize + 3 } else { 0 };
        let mut texts = std::collections::HashSet::from([""]);
        for (index, token) in tokens.iter().enumerate() {
            let found = || format!("`{}` with id {}", token.text, token.id);
            if token.id as usize >= vocab_size {
                return Some((found(), format!("ids below config.decoder.vocab_size = {vocab_size}")));
            }
            if (token.id as usize) < before {
                return Some((found(), format!("ids from {before} on, after those of this family")));
            }
            if index > 0 && tokens[index - 1].id >= token.id {
                return Some((found(), "ids in ascending order, each once".to_owned()));
            }
            if !texts.insert(&token.text) {
                return Some((found(), "texts that are not empty, each once".to_owned()));
            }
        }
        match SpecialIds::of_tokens(tokens) {
            _ if first_generation => None,
            Err(missing) => Some((format!("a list without `{missing}`"), "the special tokens of the family".to_owned())),
            Ok(special) if special.imgpad != config.image_token => {
                Some((format!("`<|image_pad|>` with id {}", special.imgpad), format!("config.image_token = {}", config.image_token)))
            }
            Ok(special) => {
                let token = config.vision.video.filter(|video| special.video_pad != Some(video.token))?.token;
                let found = special.video_pad.map_or("no `<|video_pad|>`".to_owned(), |id| format!("`<|video_pad|>` with id {id}"));
                Some((found, format!("config.vision.video.token = {token}")))
            }
        }
    }

    fn validate_files(&self) -> Result<(), ManifestError> {
        let mut seen = std::collections::HashSet::from([MANIFEST_FILE]);
        let mut total = 0u64;
        for (index, entry) in self.files.iter().chain(&self.shards).enumerate() {
            let problem = |problem| Err(ManifestError::File { file: entry.file.clone(), problem });
            if let Some(found) = entry.problem() {
                return problem(found);
            }
            if !seen.insert(entry.file.as_str()) {
                return problem("the name is used twice");
            }
            if index < self.files.len() && entry.bytes > MAX_TEXT_BYTES {
                return problem("it is not a shard and has more than 64 MiB");
            }
            total = match total.checked_add(entry.bytes) {
                Some(total) if total < 1 << 53 => total,
                _ => return problem("the sizes up to here exceed 2^53 bytes"),
            };
        }
        Ok(())
    }

    fn validate_table(&self) -> Result<(), ManifestError> {
        let table = tensor_table(&self.config);
        for index in 0..table.len().max(self.tensors.len()) {
            let (found, expected) = (self.tensors.get(index), table.get(index));
            let (Some(entry), Some(spec)) = (found, expected) else {
                let name = |name: Option<&str>| name.map_or_else(|| "the end of the list".to_owned(), |name| format!("`{name}`"));
                return Err(ManifestError::Table {
                    index,
                    found: name(found.map(|entry| entry.name.as_str())),
                    expected: name(expected.map(|spec| spec.name.as_str())),
                });
            };
            if entry.name != spec.name {
                return Err(ManifestError::Table { index, found: format!("`{}`", entry.name), expected: format!("`{}`", spec.name) });
            }
            if entry.shape != spec.shape {
                return Err(ManifestError::Shape { name: entry.name.clone(), found: entry.shape, expected: spec.shape });
            }
            let scheme = |expected| Err(ManifestError::Scheme { name: entry.name.clone(), found: entry.scheme, expected });
            if spec.kind == TensorKind::Table && entry.scheme != Scheme::F32 {
                return scheme("F32: norms, biases and position tables have no other");
            }
            if entry.scheme.group_size().is_some_and(|group_size| !GROUP_SIZES.contains(&(group_size as u32))) {
                return scheme("groups of 32, 64 or 128");
            }
        }
        Ok(())
    }

    /// Checks that every range has the bytes of its rows, lies in its shard, begins at a word, and follows the range before it.
    fn validate_ranges(&self) -> Result<(), ManifestError> {
        let mut layout = Layout { shards: &self.shards, current: 0, free_from: vec![0; self.shards.len()] };
        for tensor in &self.tensors {
            let rows: u128 = tensor.parts.iter().map(|part| part.rows as u128).sum();
            if rows != tensor.shape[0] as u128 {
                return Err(ManifestError::Rows { name: tensor.name.clone(), found: rows, expected: tensor.shape[0] });
            }
            for index in 0..tensor.parts.len() {
                layout.check_part(tensor, index).map_err(|PartProblem { what, found, expected }| ManifestError::Part {
                    name: tensor.name.clone(),
                    part: index,
                    what,
                    found,
                    expected,
                })?;
            }
        }
        match layout.free_from.iter().position(|free_from| *free_from == 0) {
            Some(unused) => Err(ManifestError::UnusedShard { file: self.shards[unused].file.clone() }),
            None => Ok(()),
        }
    }
}

/// The shards as far as their ranges were checked. Ranges that are in the order of the file cannot overlap.
struct Layout<'a> {
    shards: &'a [FileEntry],
    /// Shard of the last part.
    current: usize,
    /// End of the last range of each shard.
    free_from: Vec<u64>,
}

/// The problem of a part.
struct PartProblem {
    what: &'static str,
    found: String,
    expected: String,
}

fn problem(what: &'static str, found: impl ToString, expected: impl ToString) -> Result<(), PartProblem> {
    Err(PartProblem { what, found: found.to_string(), expected: expected.to_string() })
}

impl Layout<'_> {
    fn check_part(&mut self, tensor: &TensorEntry, index: usize) -> Result<(), PartProblem> {
        let (part, scheme, cols) = (&tensor.parts[index], tensor.scheme, tensor.shape[1]);
        let is_last = index + 1 == tensor.parts.len();
        if part.rows == 0 || !(is_last || part.rows.is_multiple_of(PART_ROW_ALIGN)) {
            return problem("its number of rows", part.rows, format!("a multiple of {PART_ROW_ALIGN}"));
        }
        if part.shard >= self.shards.len() {
            return problem("its shard", part.shard, format!("below {}", self.shards.len()));
        }
        if part.shard < self.current {
            return problem("its shard", part.shard, format!("{} or a later one (load order)", self.current));
        }
        self.current = part.shard;

        // Neither product overflows: there are less than 2^24 rows of less than 2^32 bytes (`ModelConfig::validate`).
        let data_bytes = part.rows as u64 * scheme.row_data_bytes(cols) as u64;
        let scale_bytes = part.rows as u64 * scheme.row_scale_bytes(cols) as u64;
        if data_bytes > MAX_PART_BYTES {
            return problem("its data in bytes", data_bytes, format!("at most {MAX_PART_BYTES}"));
        }
        self.check_range("data", part.shard, part.data, data_bytes)?;
        match part.scales {
            Some(_) if scale_bytes == 0 => problem("`scales`", "present", format!("none in scheme {scheme:?}")),
            None if scale_bytes > 0 => problem("`scales`", "absent", format!("{scale_bytes} bytes")),
            Some(scales) => self.check_range("scales", part.shard, scales, scale_bytes),
            None => Ok(()),
        }
    }

    /// Checks one range and moves the end of its shard's last range to its end.
    fn check_range(&mut self, what: &'static str, shard: usize, [begin, end]: [u64; 2], bytes: u64) -> Result<(), PartProblem> {
        let (file, free_from) = (&self.shards[shard], self.free_from[shard]);
        let found = || format!("bytes {begin} to {end}");
        if end.checked_sub(begin) != Some(bytes) {
            return problem(what, found(), format!("{bytes} bytes for its rows"));
        }
        if !begin.is_multiple_of(4) {
            return problem(what, found(), "a multiple of 4 as its first byte");
        }
        if end > file.bytes {
            return problem(what, found(), format!("at most {}, the size of `{}`", file.bytes, file.file));
        }
        if begin < free_from {
            return problem(what, found(), format!("{free_from} or later: the range before it in `{}` ends there", file.file));
        }
        self.free_from[shard] = end;
        Ok(())
    }
}
