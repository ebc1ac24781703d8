//! Web checkpoints in folders.

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use qwen_vl_format::manifest::MANIFEST_FILE;
use qwen_vl_format::{AddedToken, Manifest, ModelConfig, ShardHash};
use qwen_vl_processor::Tokenizer;
use qwen_vl_runtime::{Gpu, Model, ModelLoader, ModelOptions};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes read from a shard at a time.
const PIECE: usize = 4 << 20;

/// A folder with a valid manifest.
pub struct Checkpoint {
    folder: PathBuf,
    manifest: Manifest,
}

impl Checkpoint {
    /// Reads the manifest.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST_FILE);
        let json = fs::read_to_string(&path).with_context(|| {
            format!(
                "`{}` is not a web checkpoint: it has no readable `{MANIFEST_FILE}` (convert a model with `quantize`)",
                folder.display()
            )
        })?;
        let manifest = Manifest::from_json(&json).with_context(|| format!("could not read `{}`", path.display()))?;
        Ok(Self { folder: folder.to_owned(), manifest })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Sets the limits of the size of a picture, pixels.
    pub fn limit_pictures(&mut self, min_pixels: u64, max_pixels: u64) {
        (self.manifest.processor.min_pixels, self.manifest.processor.max_pixels) = (Some(min_pixels), Some(max_pixels));
    }

    /// Returns the tokens of the largest picture, if pictures have any size.
    pub fn largest_picture_tokens(&self) -> Option<usize> {
        let vision = &self.manifest.config.vision;
        let side = vision.patch_size as u64 * vision.merger.as_ref()?.size as u64;
        usize::try_from(self.manifest.processor.max_pixels? / (side * side)).ok()
    }

    /// Reads the vocabulary file and checks it against the manifest.
    pub fn vocabulary(&self) -> Result<Vec<u8>> {
        let file = &self.manifest.processor.tokenizer_file;
        let path = self.folder.join(file);
        let bytes = fs::read(&path).with_context(|| format!("could not read `{}`", path.display()))?;
        // A valid manifest lists the file.
        if let Some(entry) = self.manifest.files.iter().find(|entry| entry.file == *file) {
            let found = ShardHash::of(&bytes);
            ensure!(
                found == entry.sha256,
                "`{}` has {} bytes and SHA-256 {found}, the manifest says {} and {}: the file is damaged or belongs to another model",
                path.display(),
                bytes.len(),
                entry.bytes,
                entry.sha256
            );
        }
        Ok(bytes)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        tokenizer(&self.vocabulary()?, &self.manifest.config, &self.manifest.processor.added_tokens)
    }

    /// Returns the tokenizer of a web checkpoint or of an original one.
    pub fn tokenizer_of(folder: &Path) -> Result<Tokenizer> {
        if folder.join(MANIFEST_FILE).exists() {
            return Self::open(folder)?.tokenizer();
        }
        ensure!(folder.join("config.json").is_file(), "`{}` has neither `{MANIFEST_FILE}` nor a readable `config.json`", folder.display());
        let (config, quantize::Tokenizer { vocabulary, added_tokens }) = quantize::tokenizer(folder)?;
        tokenizer(&vocabulary, &config, &added_tokens)
    }

    /// Loads the weights, shard by shard.
    pub fn load(self, gpu: Gpu, options: ModelOptions) -> Result<Model> {
        let style = ProgressStyle::with_template("loading {bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec}")?;
        let progress = ProgressBar::new(self.manifest.shard_bytes()).with_style(style);
        let files: Vec<String> = self.manifest.shards.iter().map(|shard| shard.file.clone()).collect();
        let mut loader = ModelLoader::new(gpu, self.manifest, options)?;
        let mut piece = vec![0; PIECE];
        for (shard, file) in files.iter().enumerate() {
            let path = self.folder.join(file);
            let what = || format!("could not read `{}`", path.display());
            let mut file = File::open(&path).with_context(what)?;
            loop {
                let length = file.read(&mut piece).with_context(what)?;
                if length == 0 {
                    break;
                }
                loader.write(shard, &piece[..length])?;
                progress.inc(length as u64);
            }
        }
        progress.finish_and_clear();
        Ok(loader.finish()?)
    }
}

fn tokenizer(vocabulary: &[u8], config: &ModelConfig, added: &[AddedToken]) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::new(vocabulary, config.family, added)?.with_queries(config.vision.queries());
    tokenizer.check_image_token(config.image_token)?;
    Ok(tokenizer)
}
