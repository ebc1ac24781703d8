//! The options of a conversion on the disk.

use crate::Input;
use crate::options::{Rule, SchemeName, Settings};
use crate::plan::SHARD_BYTES;
use anyhow::Result;
use std::path::PathBuf;

/// Options of writing.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct WriteOptions {
    /// Replace an output folder that holds a web checkpoint and nothing else.
    pub force: bool,
    /// Resume an interrupted run with the same options.
    pub resume: bool,
    /// Store NaN and infinite weights as zero instead of refusing them.
    pub allow_nonfinite: bool,
    /// Number of cores to use; all by default.
    pub threads: Option<usize>,
    /// A shard is closed when the next part would make its data larger than this, in bytes; 64 MiB by default. Parts are never split to fit.
    pub shard_bytes: Option<u64>,
}

/// A conversion.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The checkpoint to convert.
    pub source: Input,
    /// The folder to make.
    pub out: PathBuf,
    /// The scheme of matrices without a rule.
    pub scheme: SchemeName,
    /// Weights that share a scale, in q4 and q8.
    pub group_size: u32,
    /// Exceptions. The last one that applies counts.
    pub rules: Vec<Rule>,
    /// Check everything, every weight too, and report the sizes, but write nothing.
    pub dry_run: bool,
    /// Options of writing.
    pub write: WriteOptions,
}

impl Options {
    /// A conversion of a folder to 4 bits in groups of 32.
    pub fn new(source: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Self {
        Self::of(Input::Folder(source.into()), out)
    }

    /// A conversion to 4 bits in groups of 32.
    pub fn of(source: Input, out: impl Into<PathBuf>) -> Self {
        let Settings { scheme, group_size, rules, .. } = Settings::default();
        Self { source, out: out.into(), scheme, group_size, rules, dry_run: false, write: WriteOptions::default() }
    }

    /// Sets the scheme.
    pub fn scheme(mut self, scheme: SchemeName) -> Self {
        self.scheme = scheme;
        self
    }

    /// Sets the group size.
    pub fn group_size(mut self, group_size: u32) -> Result<Self> {
        let mut settings = self.settings();
        settings.set_group_size(group_size)?;
        self.group_size = settings.group_size;
        Ok(self)
    }

    /// The settings that decide about the bytes.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            scheme: self.scheme,
            group_size: self.group_size,
            rules: self.rules.clone(),
            allow_nonfinite: self.write.allow_nonfinite,
            shard_bytes: self.write.shard_bytes.unwrap_or(SHARD_BYTES),
        }
    }
}

/// Progress of a conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Something was ignored, left aside or renamed: a sentence for the user. All notes are in [`crate::Summary::notes`].
    Note(String),
    /// Downloading of the weights begins.
    Fetch {
        /// Bytes to download.
        bytes: u64,
    },
    /// This number of bytes arrived.
    Fetched(u64),
    /// Reading and writing of weights begins.
    Start {
        /// Number of all weights.
        weights: u64,
    },
    /// This number of weights is done.
    Weights(u64),
    /// A shard is on the disk.
    Shard {
        /// Its name.
        file: String,
        /// Its size.
        bytes: u64,
    },
}
