//! Conversion of files that are fetched range by range.
//!
//! The converter reads when it computes and cannot wait, and a browser can only wait. So a conversion first says which ranges it needs
//! ([`RemoteConversion::needs`]), its host fetches them and hands them over ([`RemoteConversion::supply`]), and the step is repeated. A step
//! that lacks bytes changes nothing.

use crate::conversion::{Conversion, SmallFiles};
use crate::encode::Cursor;
use crate::errors::{FinishedShard, Progress};
use crate::options::{Rule, Settings};
use crate::plan::{SHARD_BYTES, ShardPlan};
use crate::rows::RowSource;
use crate::source::file::cached_repository;
use crate::source::{Files, InputFile, ReadAt};
use anyhow::{Context, Result, ensure};
use qwen_vl_format::Family;
use qwen_vl_format::manifest::{FileEntry, FileHash};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A file of the source.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct RemoteFile {
    /// Its path in the folder, with slashes.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Text that changes when the contents change: a hash, or the time of the last change.
    pub version: String,
}

/// A checkpoint, and the settings of its conversion. Absent settings are those of [`Settings::default`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(optional_fields))]
#[serde(default, rename_all = "camelCase")]
pub struct ConversionRequest {
    /// The name of the checkpoint, unless `place` is a snapshot in a Hugging Face cache.
    pub name: String,
    /// Its address or path, for messages.
    pub place: String,
    /// The files of its folder and of the folders in it.
    pub files: Vec<RemoteFile>,
    /// The scheme of matrices without a rule: `q4`, `q8`, `f16` or `f32`.
    pub scheme: Option<String>,
    /// Weights that share a scale, in q4 and q8: 32, 64 or 128.
    pub group_size: Option<u32>,
    /// Modules that are stored in another scheme: `MODULE=SCHEME`. The last one that applies counts.
    #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
    pub keep: Vec<String>,
    /// True to store NaN and infinite weights as zero.
    #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
    pub allow_nonfinite: bool,
    /// A shard is closed when the next part would make its data larger than this, in bytes.
    pub shard_bytes: Option<u64>,
}

impl ConversionRequest {
    fn settings(&self) -> Result<Settings> {
        let mut settings = Settings { allow_nonfinite: self.allow_nonfinite, ..Settings::default() };
        if let Some(scheme) = &self.scheme {
            settings.scheme = scheme.parse()?;
        }
        if let Some(group_size) = self.group_size {
            settings.set_group_size(group_size)?;
        }
        settings.rules = self.keep.iter().map(|rule| Rule::parse(rule)).collect::<Result<_>>()?;
        if let Some(bytes) = self.shard_bytes {
            ensure!((1..=SHARD_BYTES).contains(&bytes), "a shard of {bytes} bytes, expected 1 to {SHARD_BYTES}");
            settings.shard_bytes = bytes;
        }
        Ok(settings)
    }
}

/// A conversion as it was decided before the first weight is read.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct ConversionPlan {
    /// Generation of the model.
    pub family: Family,
    /// Identifies the conversion: those with equal fingerprints make equal bytes.
    pub fingerprint: String,
    /// Bytes of the weights that are read.
    pub source_bytes: u64,
    /// Number of weights.
    pub weights: u64,
    /// Bits a weight over all shards.
    pub bits_per_weight: f64,
    /// The shards, in order.
    pub shards: Vec<PlannedFile>,
    /// Size of all files of the web checkpoint, bytes.
    pub bytes: u64,
    /// Tensors of the source that the model does not have.
    pub unused_tensors: Vec<String>,
    /// Sentences about what was ignored, left aside or renamed.
    pub notes: Vec<String>,
    /// A manifest whose shards have no hashes yet, and whose card shows no errors yet, to estimate the memory of the model.
    pub manifest: String,
}

/// A file of the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct PlannedFile {
    /// Its name.
    pub file: String,
    /// Its size.
    pub bytes: u64,
}

/// Bytes of a file that a conversion needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct Need {
    /// Index into the list of files.
    pub file: usize,
    /// The first byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// The result of a step.
#[derive(Debug)]
pub enum Step<T> {
    /// The step is done.
    Done(T),
    /// Bytes are missing: see [`RemoteConversion::needs`].
    Needs,
}

/// A conversion of files that are fetched range by range, to one shard at a time.
#[derive(Debug)]
pub struct RemoteConversion {
    input: Files,
    settings: Settings,
    fetched: Vec<Arc<Fetched>>,
    conversion: Option<Conversion>,
    shard: Option<OpenShard>,
}

/// The shard that is being made.
#[derive(Debug)]
struct OpenShard {
    index: usize,
    cursor: Cursor,
    hash: FileHash,
}

/// Bytes of the source that may be fetched ahead. Larger reads are fetched alone.
const AHEAD_BYTES: u64 = 5 << 20;
/// Bytes that are asked for at once, unless the next step needs fewer.
const REFILL_BYTES: u64 = 2 << 20;
/// Ranges that are closer to each other than this are fetched as one.
const GAP_BYTES: u64 = 64 << 10;

/// The reads of the next steps.
struct Ahead {
    /// Ranges of each file.
    ranges: Vec<Vec<Range<u64>>>,
    /// True if the first step needs bytes that are neither here nor on their way.
    urgent: bool,
    /// True if these are all steps that are left of the shard.
    last: bool,
}

impl RemoteConversion {
    /// Prepares a conversion. Nothing is read yet.
    pub fn new(request: &ConversionRequest) -> Result<Self> {
        let ConversionRequest { name, place, files, .. } = request;
        let fetched: Vec<Arc<Fetched>> = files.iter().map(|_| Arc::default()).collect();
        let mut folders: BTreeMap<&str, Vec<InputFile>> = BTreeMap::new();
        for (file, bytes) in files.iter().zip(&fetched) {
            let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
            let input = InputFile::new(name, format!("{place}/{}", file.path), file.bytes, &*file.version, bytes.clone());
            folders.entry(folder).or_default().push(input);
        }
        let own = folders.remove("").unwrap_or_default();
        let below = folders.into_iter().map(|(folder, files)| Files::new(folder, format!("{place}/{folder}"), files, Vec::new()));
        let name = cached_repository(place).unwrap_or_else(|| name.clone());
        let input = Files::new(name, place, own, below.collect());
        Ok(Self { input, settings: request.settings()?, fetched, conversion: None, shard: None })
    }

    /// Reads everything but the weights.
    pub fn open(&mut self) -> Result<Step<()>> {
        let opened = match self.conversion.take() {
            Some(conversion) => Ok(conversion),
            None => Conversion::open(&self.input, &self.settings),
        };
        // An error can come from bytes that are missing: it counts only if none are.
        if self.lacks_bytes() {
            return Ok(Step::Needs);
        }
        self.conversion = Some(opened?);
        self.retain(&[]);
        Ok(Step::Done(()))
    }

    /// The plan of the opened conversion.
    pub fn plan(&self) -> Result<ConversionPlan> {
        let conversion = self.opened()?;
        let hashless = |shard: &ShardPlan| FileEntry { sha256: "0".repeat(64), pieces: None, ..FileEntry::of(&shard.file, &[]) };
        let entries = conversion.plan.shards.iter().map(|shard| FileEntry { bytes: shard.bytes, ..hashless(shard) }).collect();
        let summary = &conversion.summary;
        let manifest = conversion.manifest(summary, entries)?;
        Ok(ConversionPlan {
            family: conversion.family(),
            fingerprint: conversion.fingerprint()?,
            source_bytes: conversion.converter.source_bytes(),
            weights: summary.weights,
            bits_per_weight: summary.bits_per_weight,
            shards: conversion.plan.shards.iter().map(|shard| PlannedFile { file: shard.file.clone(), bytes: shard.bytes }).collect(),
            bytes: conversion.sizes().iter().map(|(_, bytes)| bytes).sum(),
            unused_tensors: summary.unused_tensors.clone(),
            notes: summary.notes.clone(),
            manifest: to_json(&manifest)?,
        })
    }

    /// Ranges to fetch and supply before the step is repeated, or ahead of the next step. Each range is listed once.
    pub fn needs(&mut self) -> Vec<Need> {
        let ahead = self.announce();
        if let Some(ahead) = &ahead {
            self.retain(&ahead.ranges);
        }
        let mut needs = Vec::new();
        for (file, fetched) in self.fetched.iter().enumerate() {
            let mut state = fetched.state();
            let ranges = merged(std::mem::take(&mut state.wanted));
            let missing = ranges.into_iter().flat_map(|range| state.missing(&range)).collect::<Vec<_>>();
            needs.extend(missing.into_iter().map(|Range { start, end }| Need { file, start, end }));
        }
        // A few large requests are faster than many small ones.
        let bytes: u64 = needs.iter().map(|need| need.end - need.start).sum();
        if ahead.is_some_and(|ahead| !ahead.urgent && !ahead.last) && bytes < REFILL_BYTES {
            return Vec::new();
        }
        for need in &needs {
            self.fetched[need.file].state().requested.push(need.start..need.end);
        }
        needs
    }

    /// Takes bytes of a file.
    pub fn supply(&mut self, file: usize, offset: u64, bytes: Vec<u8>) -> Result<()> {
        let fetched = self.fetched.get(file).with_context(|| format!("file {file} does not exist: the list has {}", self.fetched.len()))?;
        let mut state = fetched.state();
        let supplied = offset..offset.saturating_add(bytes.len() as u64);
        let requested = std::mem::take(&mut state.requested);
        state.requested = without(requested, &supplied);
        state.windows.insert(offset, bytes);
        Ok(())
    }

    /// Returns the conversion.
    ///
    /// # Errors
    /// If it is not opened.
    fn opened(&self) -> Result<&Conversion> {
        self.conversion.as_ref().context("the conversion is not opened")
    }

    /// The files of the result that are neither shards nor the manifest: names and contents. Before all shards are complete, the model card
    /// has blanks in place of their errors.
    pub fn small_files(&self, shards: &[FinishedShard]) -> Result<SmallFiles<'_>> {
        let conversion = self.opened()?;
        Ok(match shards.len() == conversion.plan.shards.len() {
            true => conversion.small_files(&conversion.measured(shards)),
            false => conversion.small_files(&conversion.summary),
        })
    }

    /// Reads what [`FinishedShard::to_json`] wrote about a shard.
    ///
    /// # Errors
    /// If it is damaged, of another shard, or of an older version: then the shard is made again.
    pub fn finished(&self, shard: usize, record: &str) -> Result<FinishedShard> {
        let finished = FinishedShard::from_json(record)?;
        finished.check(&self.opened()?.plan, self.planned(shard)?)?;
        Ok(finished)
    }

    fn planned(&self, shard: usize) -> Result<&ShardPlan> {
        let shards = &self.opened()?.plan.shards;
        shards.get(shard).with_context(|| format!("shard {shard} does not exist: the plan has {}", shards.len()))
    }

    /// Begins a shard. The one before it is given up if it is not complete. No range may be on its way.
    ///
    /// An earlier run can have left `stored` bytes of it, and a record, of [`Self::progress`] or of the finished shard. Returns the number of
    /// bytes that count. They must pass through [`Self::restore`] before the first piece is made.
    pub fn begin(&mut self, shard: usize, stored: u64, record: Option<&str>) -> Result<u64> {
        let planned = self.planned(shard)?;
        let progress = record.and_then(|record| Progress::read(record, stored, &self.opened().ok()?.plan, planned));
        // Requests that failed are forgotten, so that they can be repeated.
        for fetched in &self.fetched {
            let mut state = fetched.state();
            state.requested.clear();
            state.wanted.clear();
        }
        let (cursor, restored) = match progress {
            Some((Progress { bytes, errors }, parts)) => (Cursor::behind(parts, errors), bytes),
            None => (Cursor::default(), 0),
        };
        self.shard = Some(OpenShard { index: shard, cursor, hash: FileHash::default() });
        Ok(restored)
    }

    /// Takes bytes of the shard that an earlier run has made, in order.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<()> {
        self.shard.as_mut().context("no shard is begun")?.hash.update(bytes);
        Ok(())
    }

    /// The record of the shard so far, as JSON, if the piece that was made last ends a part of a tensor: with it, a later run can resume there.
    pub fn progress(&self) -> Result<Option<String>> {
        let shard = self.shard.as_ref().filter(|shard| shard.cursor.is_at_part());
        let progress = shard.map(|shard| Progress { bytes: shard.hash.bytes(), errors: shard.cursor.errors().clone() });
        progress.as_ref().map(to_json).transpose()
    }

    /// Makes the next bytes of the shard; none after the last.
    pub fn next_piece(&mut self) -> Result<Step<Option<Vec<u8>>>> {
        let conversion = self.conversion.as_ref().context("the conversion is not opened")?;
        let shard = self.shard.as_mut().context("no shard is begun")?;
        let planned = &conversion.plan.shards[shard.index];
        let made = shard.cursor.next(&conversion.plan, planned, &conversion.converter, conversion.allow_nonfinite);
        if self.lacks_bytes() {
            return Ok(Step::Needs);
        }
        let piece = made?.map(|piece| piece.bytes);
        if let (Some(bytes), Some(shard)) = (&piece, &mut self.shard) {
            shard.hash.update(bytes);
        }
        Ok(Step::Done(piece))
    }

    /// The record of the shard, after its last piece.
    pub fn finish(&mut self) -> Result<FinishedShard> {
        let shard = self.shard.take().context("no shard is begun")?;
        let planned = &self.opened()?.plan.shards[shard.index];
        ensure!(shard.hash.bytes() == planned.bytes, "{} has {} of {} bytes", planned.file, shard.hash.bytes(), planned.bytes);
        Ok(FinishedShard { entry: shard.hash.finish(&planned.file), errors: shard.cursor.errors().clone() })
    }

    /// The manifest as JSON, given all shards in order.
    pub fn manifest(&self, shards: &[FinishedShard]) -> Result<String> {
        let conversion = self.opened()?;
        let entries = shards.iter().map(|shard| shard.entry.clone()).collect();
        to_json(&conversion.manifest(&conversion.measured(shards), entries)?)
    }

    /// True if a step since the last call lacked bytes. They are wanted then.
    fn lacks_bytes(&self) -> bool {
        let mut lacks = false;
        for fetched in &self.fetched {
            lacks |= std::mem::take(&mut fetched.state().lacking);
        }
        lacks
    }

    /// Announces the reads of the next steps; `None` if no shard is being made.
    fn announce(&self) -> Option<Ahead> {
        let (conversion, shard) = (self.conversion.as_ref()?, self.shard.as_ref()?);
        let mut ahead = Ahead { ranges: vec![Vec::new(); self.fetched.len()], urgent: false, last: true };
        for (step, (tensor, rows)) in shard.cursor.ahead(&conversion.plan, &conversion.plan.shards[shard.index]).enumerate() {
            let bytes: u64 = ahead.ranges.iter().cloned().flat_map(merged).map(|range| range.end - range.start).sum();
            if bytes >= AHEAD_BYTES {
                ahead.last = false;
                break;
            }
            conversion.converter.announce(tensor, rows);
            for (ranges, fetched) in ahead.ranges.iter_mut().zip(&self.fetched) {
                let mut state = fetched.state();
                let wanted = std::mem::take(&mut state.wanted);
                ahead.urgent |= step == 0 && wanted.iter().any(|range| !state.missing(range).is_empty());
                ranges.extend(wanted);
            }
        }
        for (ranges, fetched) in ahead.ranges.iter().zip(&self.fetched) {
            fetched.state().wanted = ranges.clone();
        }
        Some(ahead)
    }

    /// Drops windows that none of these ranges of each file needs.
    fn retain(&self, ahead: &[Vec<Range<u64>>]) {
        for (file, fetched) in self.fetched.iter().enumerate() {
            let needed = ahead.get(file).map_or(&[][..], Vec::as_slice);
            let overlaps = |start: u64, end: u64| needed.iter().any(|range| range.start < end && range.end > start);
            fetched.state().windows.retain(|start, bytes| overlaps(*start, *start + bytes.len() as u64));
        }
    }
}

fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).context("could not write JSON")
}

/// Ranges in order, with those near each other as one.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP_BYTES) => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// The bytes of a file that are here, and those that are not.
#[derive(Debug, Default)]
struct Fetched(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Bytes by the offset of the first.
    windows: BTreeMap<u64, Vec<u8>>,
    /// Ranges that were announced, or read without being here.
    wanted: Vec<Range<u64>>,
    /// Ranges that are being fetched.
    requested: Vec<Range<u64>>,
    /// True if bytes were read that are not here.
    lacking: bool,
}

impl Fetched {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The window that holds a byte.
    fn window(&self, at: u64) -> Option<(u64, &[u8])> {
        let windows = self.windows.range(..=at).rev();
        windows.map(|(start, bytes)| (*start, bytes.as_slice())).find(|(start, bytes)| at < start + bytes.len() as u64)
    }

    /// The parts of a range that are neither here nor on their way.
    fn missing(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let here = self.windows.iter().map(|(start, bytes)| *start..start + bytes.len() as u64);
        here.chain(self.requested.iter().cloned()).fold(vec![range.clone()], |missing, known| without(missing, &known))
    }
}

/// The parts of ranges outside another range.
fn without(ranges: Vec<Range<u64>>, other: &Range<u64>) -> Vec<Range<u64>> {
    let outside = |range: Range<u64>| [range.start..range.end.min(other.start), range.start.max(other.end)..range.end];
    ranges.into_iter().flat_map(outside).filter(|range| range.start < range.end).collect()
}

impl ReadAt for Fetched {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        let (mut at, mut filled) = (offset, 0);
        while filled < buffer.len() {
            let Some((start, bytes)) = state.window(at) else {
                state.lacking = true;
                state.wanted.push(offset..offset + buffer.len() as u64);
                return Err(io::Error::new(io::ErrorKind::WouldBlock, "the bytes are not fetched yet"));
            };
            let from = &bytes[(at - start) as usize..];
            let count = from.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&from[..count]);
            (at, filled) = (at + count as u64, filled + count);
        }
        Ok(())
    }

    fn announce(&self, ranges: &[Range<u64>]) {
        self.state().wanted.extend_from_slice(ranges);
    }
}
