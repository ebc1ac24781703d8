//! A conversion without its input and output: everything is decided, and the shards can be made.

use crate::checkpoint::Checkpoint;
use crate::convert::Converter;
use crate::errors::{Errors, FinishedShard};
use crate::options::{Settings, Summary};
use crate::plan::{self, Plan};
use crate::source::Files;
use crate::tokenizer::{self, TOKENIZER_FILE, Tokenizer};
use crate::{card, generation, licence, pictures};
use anyhow::{Context, Result};
use qwen_vl_format::manifest::{FORMAT_NAME, FORMAT_VERSION, FileEntry, Manifest, ProcessorConfig, Provenance};
use qwen_vl_format::{Family, Scheme};
use std::borrow::Cow;

/// Names and contents of files that are neither shards nor the manifest.
pub(crate) type SmallFiles<'a> = Vec<(&'static str, Cow<'a, [u8]>)>;

/// A checkpoint that was read up to its weights.
#[derive(Debug)]
pub(crate) struct Conversion {
    pub converter: Converter,
    pub plan: Plan,
    pub summary: Summary,
    /// The files that are neither shards nor the manifest, without the card.
    texts: Vec<(&'static str, Vec<u8>)>,
    /// The front matter of the card.
    card: String,
    pub allow_nonfinite: bool,
    /// The manifest without its lists of files.
    manifest: Manifest,
}

impl Conversion {
    /// Reads everything but the weights, and decides about every byte of the result.
    pub(crate) fn open(input: &Files, settings: &Settings) -> Result<Self> {
        let Checkpoint { config, source, mut notes } = Checkpoint::open(input)?;
        let Tokenizer { vocabulary, added_tokens } = tokenizer::read(input, &config, &mut notes)?;
        let generation = generation::read(input, &config, &added_tokens, &mut notes)?;
        let pictures = pictures::read(input, &config, &mut notes)?;

        let converter = Converter::new(source, &config, &mut notes)?;
        settings.check_rules(&config)?;
        let plan =
            plan::plan(&config, settings.shard_bytes, |index, spec| settings.scheme_of(&config, spec, converter.exact_scheme(index)))?;
        let mut summary = Summary::new(&plan);
        summary.unused_tensors = converter.unused();
        summary.notes = notes;
        let modifications = format!(
            "The weights of `{}` were changed by quantize {}: renamed, rearranged, {}, and matrices stored as {}{}.",
            input.name(),
            env!("CARGO_PKG_VERSION"),
            match config.family {
                Family::QwenVl => "position tables resized",
                Family::Qwen2Vl | Family::Qwen25Vl | Family::Qwen3Vl => "the frames of the patch embedding added",
            },
            settings.describe(&config),
            if plan.tensors.iter().any(|tensor| matches!(tensor.scheme, Scheme::Int4 { .. })) {
                ", those that were quantized before with their own codes as int4"
            } else {
                ""
            }
        );
        let mut texts = vec![(TOKENIZER_FILE, vocabulary)];
        texts.extend(licence::files(converter.source(), config.family, &modifications)?);
        let card = card::front(converter.source(), input.name(), config.family)?;
        let manifest = Manifest {
            format: FORMAT_NAME.to_owned(),
            version: FORMAT_VERSION,
            config,
            processor: ProcessorConfig {
                tokenizer_file: TOKENIZER_FILE.to_owned(),
                added_tokens,
                image_mean: pictures.mean,
                image_std: pictures.std,
                min_pixels: pictures.min_pixels,
                max_pixels: pictures.max_pixels,
            },
            generation,
            provenance: Provenance {
                converter: concat!("quantize ", env!("CARGO_PKG_VERSION")).to_owned(),
                source: input.name().to_owned(),
                source_files: converter.source().files().map(|file| format!("{} ({} bytes)", file.name(), file.len())).collect(),
                modifications,
            },
            files: Vec::new(),
            shards: Vec::new(),
            tensors: Vec::new(),
        };
        Ok(Self { converter, plan, summary, texts, card, allow_nonfinite: settings.allow_nonfinite, manifest })
    }

    /// Generation of the model.
    pub(crate) fn family(&self) -> Family {
        self.manifest.config.family
    }

    /// The names and sizes of all files.
    pub(crate) fn sizes(&self) -> Vec<(String, u64)> {
        self.plan.files(self.small_files(&self.summary).iter().map(|(name, bytes)| (*name, bytes.len() as u64)))
    }

    /// The summary with the errors of the shards.
    pub(crate) fn measured(&self, shards: &[FinishedShard]) -> Summary {
        let mut summary = self.summary.clone();
        summary.set_errors(&Errors::of(shards));
        summary
    }

    /// The files that are neither shards nor the manifest: names and contents. The card shows the errors of the summary; without them, it has
    /// the same size.
    pub(crate) fn small_files(&self, summary: &Summary) -> SmallFiles<'_> {
        let Provenance { source, modifications, .. } = &self.manifest.provenance;
        let card = card::card(&self.card, source, summary, modifications).into_bytes();
        let texts = self.texts.iter().map(|(name, bytes)| (*name, Cow::Borrowed(bytes.as_slice())));
        texts.chain([(card::CARD_FILE, Cow::Owned(card))]).collect()
    }

    /// Identifies the conversion: those with equal fingerprints make equal bytes.
    pub(crate) fn fingerprint(&self) -> Result<String> {
        self.plan.fingerprint(self.converter.source().files(), self.allow_nonfinite)
    }

    /// The manifest, checked as a reader would.
    pub(crate) fn manifest(&self, summary: &Summary, shards: Vec<FileEntry>) -> Result<Manifest> {
        let files = self.small_files(summary).iter().map(|(name, bytes)| FileEntry::of(name, bytes)).collect();
        let manifest = Manifest { files, shards, tensors: self.plan.tensors.clone(), ..self.manifest.clone() };
        manifest.validate().context("the converter made a manifest that it would not read")?;
        Ok(manifest)
    }
}
