//! Reads a web checkpoint from the disk.

use super::WriteOptions;
use super::file::open;
use super::output::{OutputFolder, Target};
use crate::card;
use crate::licence::{MODIFICATIONS_FILE, modifications_file};
use crate::options::Summary;
use crate::plan;
use crate::rows::RowSource;
use crate::source::InputFile;
use anyhow::{Context, Result, ensure};
use qwen_vl_format::block::{EncodedRows, decode_rows};
use qwen_vl_format::manifest::{FileEntry, MANIFEST_FILE, Manifest, Provenance};
use qwen_vl_format::{Scheme, ShardHash};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A web checkpoint's folder.
#[derive(Debug)]
pub struct WebCheckpoint {
    dir: PathBuf,
    manifest: Manifest,
    shards: Vec<InputFile>,
}

impl WebCheckpoint {
    /// Reads the manifest and opens the shards, which must have the manifest's sizes.
    pub fn open(dir: &Path) -> Result<Self> {
        let manifest = Self::read_manifest(dir)?;
        let mut shards = Vec::with_capacity(manifest.shards.len());
        for entry in &manifest.shards {
            let file = open(&dir.join(&entry.file))?;
            ensure!(file.len() == entry.bytes, "{} has {} bytes, the manifest says {}", file.place(), file.len(), entry.bytes);
            shards.push(file);
        }
        Ok(Self { dir: dir.to_owned(), manifest, shards })
    }

    /// The manifest of a folder, checked.
    pub(crate) fn read_manifest(dir: &Path) -> Result<Manifest> {
        let path = dir.join(MANIFEST_FILE);
        let json = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        Manifest::from_json(&json).with_context(|| format!("{} cannot be used", path.display()))
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Stored rows of a part of a tensor; `rows` counts within the part.
    fn part_rows(&self, tensor: usize, part: usize, rows: Range<usize>) -> Result<EncodedRows> {
        let entry = &self.manifest.tensors[tensor];
        let part = &entry.parts[part];
        let read = |range: [u64; 2], row_bytes: usize| {
            let begin = range[0] + (rows.start * row_bytes) as u64;
            self.shards[part.shard].read_vec(begin, rows.len() * row_bytes)
        };
        let cols = entry.shape[1];
        let data = read(part.data, entry.scheme.row_data_bytes(cols))?;
        let scales = part.scales.map(|range| read(range, entry.scheme.row_scale_bytes(cols))).transpose()?.unwrap_or_default();
        Ok(EncodedRows { data, scales })
    }

    /// Returns the decoded weights of a whole tensor, by name.
    pub fn tensor(&self, name: &str) -> Result<Vec<f32>> {
        let index = self.manifest.tensors.iter().position(|tensor| tensor.name == name);
        let index = index.with_context(|| format!("{} has no tensor `{name}`", self.dir.display()))?;
        self.rows(index, 0..self.manifest.tensors[index].shape[0])
    }
}

impl RowSource for WebCheckpoint {
    fn rows(&self, tensor: usize, rows: Range<usize>) -> Result<Vec<f32>> {
        let entry = &self.manifest.tensors[tensor];
        let mut weights = Vec::with_capacity(rows.len() * entry.shape[1]);
        let mut first = 0;
        for (index, part) in entry.parts.iter().enumerate() {
            let (begin, end) = (rows.start.max(first), rows.end.min(first + part.rows));
            if begin < end {
                let encoded = self.part_rows(tensor, index, begin - first..end - first)?;
                weights.extend(decode_rows(entry.scheme, &encoded, entry.shape[1]));
            }
            first += part.rows;
        }
        Ok(weights)
    }

    fn origin(&self, tensor: usize, row: usize, _col: usize) -> (String, String) {
        (self.manifest.tensors[tensor].name.clone(), format!("row {row}"))
    }
}

/// Rewrites a web checkpoint with the decoded value of every code, as f32.
pub fn dequantized(web_dir: &Path, out_dir: &Path, options: &WriteOptions) -> Result<()> {
    let source = WebCheckpoint::open(web_dir)?;
    let target = Target::new(out_dir, &[web_dir.to_owned()])?;
    target.check(options.force)?;
    let plan = plan::plan(&source.manifest.config, options.shard_bytes.unwrap_or(plan::SHARD_BYTES), |_, _| Scheme::F32)?;
    let mut manifest = source.manifest.clone();
    manifest.provenance.modifications += " Decoded to f32 afterwards.";
    let sizes = plan.files(manifest.files.iter().map(|entry| (entry.file.as_str(), entry.bytes)));
    let folder = OutputFolder::create(target, options, &plan.fingerprint(source.shards.iter(), options.allow_nonfinite)?, &sizes)?;
    let shards = folder.write_shards(&plan, &source, options, &mut |_| ())?;
    for entry in &mut manifest.files {
        let path = web_dir.join(&entry.file);
        let mut bytes = std::fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
        ensure!(ShardHash::of(&bytes) == entry.sha256, "{} does not have the hash of its manifest entry", path.display());
        let Provenance { source, modifications, .. } = &manifest.provenance;
        // These two describe the stored weights.
        match entry.file.as_str() {
            card::CARD_FILE => {
                bytes = card::decoded(&String::from_utf8_lossy(&bytes), source, &Summary::new(&plan), modifications).into_bytes();
            }
            MODIFICATIONS_FILE => bytes = modifications_file(modifications),
            _ => {}
        }
        folder.write(&entry.file, &bytes)?;
        *entry = FileEntry::of(&entry.file, &bytes);
    }
    manifest.shards = shards.into_iter().map(|shard| shard.entry).collect();
    manifest.tensors = plan.tensors;
    folder.write_manifest(&manifest)?;
    folder.finish()
}
