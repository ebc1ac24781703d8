//! Writes a planned web checkpoint: shards by all cores, then the other files, the manifest last, and the folder by a rename.

use crate::plan::{Plan, ShardPlan};
use crate::rows::{RowSource, Target, chunks, encode};
use crate::source::file::InputFile;
use crate::{Event, WriteOptions};
use anyhow::{Context, Result, bail, ensure};
use qwen_vl_format::ShardHash;
use qwen_vl_format::manifest::{FORMAT_VERSION, FileEntry, MANIFEST_FILE, Manifest};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

/// Shards that are made at once hold this many bytes at most: with the scratch memory a conversion stays below 1 GiB.
const SHARDS_IN_MEMORY: u64 = 512 << 20;

/// In the temporary folder: what the conversion there is, and the lock of the process that works on it.
const MARKER: &str = ".conversion";

/// What a conversion is: runs with equal fingerprints write equal bytes, so that one may go on where another stopped.
pub(crate) fn fingerprint<'a>(plan: &Plan, options: &WriteOptions, files: impl Iterator<Item = &'a InputFile>) -> Result<String> {
    let mut text = format!("{} {FORMAT_VERSION} {}\n", env!("CARGO_PKG_VERSION"), options.allow_nonfinite);
    for file in files {
        let seconds = file.modified().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok()).map(|time| time.as_nanos());
        text += &format!("{} {} {seconds:?}\n", file.name(), file.len());
    }
    text += &serde_json::to_string(&plan.tensors).context("can not describe the plan")?;
    Ok(ShardHash::of(text.as_bytes()))
}

/// The temporary folder in which an output folder is made: next to it, so that a rename makes it appear.
pub fn partial_path(target: &Path) -> Result<PathBuf> {
    let mut name = target.file_name().with_context(|| format!("{} has no name to write under", target.display()))?.to_owned();
    name.push(".partial");
    Ok(target.with_file_name(name))
}

/// A folder under a temporary name, next to the one that it becomes.
pub(crate) struct OutputFolder {
    partial: PathBuf,
    target: PathBuf,
    force: bool,
    /// Held while this process works on the folder.
    marker: File,
}

impl OutputFolder {
    /// Makes the temporary folder, or takes over the one of an interrupted run with the same fingerprint if told to resume.
    /// A target with something in it is refused unless forced.
    pub(crate) fn create(target: &Path, options: &WriteOptions, fingerprint: &str) -> Result<Self> {
        let force = options.force;
        if target.exists() {
            let filled = fs::read_dir(target).with_context(|| format!("can not list {}", target.display()))?.next().is_some();
            ensure!(force || !filled, "{} exists and is not empty; --force replaces it", target.display());
        }
        let partial = partial_path(target)?;
        fs::create_dir_all(&partial).with_context(|| format!("can not make {}", partial.display()))?;
        let marker_path = partial.join(MARKER);
        let marker = File::options().read(true).write(true).create(true).truncate(false).open(&marker_path);
        let mut marker = marker.with_context(|| format!("can not write {}", marker_path.display()))?;
        marker.try_lock().map_err(|_| anyhow::anyhow!("another quantize is writing to {}", partial.display()))?;
        let mut found = String::new();
        marker.read_to_string(&mut found).with_context(|| format!("can not read {}", marker_path.display()))?;

        for entry in fs::read_dir(&partial).with_context(|| format!("can not list {}", partial.display()))? {
            let entry = entry.with_context(|| format!("can not list {}", partial.display()))?;
            if entry.file_name() == MARKER {
                continue;
            }
            ensure!(
                !options.resume || found == fingerprint,
                "{} is from a conversion of other files or with other options; without --resume it is started over",
                partial.display()
            );
            if !options.resume {
                fs::remove_file(entry.path())
                    .with_context(|| format!("can not remove what an earlier run left: {}", entry.path().display()))?;
            }
        }
        if found != fingerprint {
            let mut write = || -> std::io::Result<()> {
                marker.set_len(0)?;
                marker.rewind()?;
                marker.write_all(fingerprint.as_bytes())?;
                marker.sync_all()
            };
            write().with_context(|| format!("can not write {}", marker_path.display()))?;
        }
        Ok(Self { partial, target: target.to_owned(), force, marker })
    }

    /// Writes a file of the folder and returns its manifest entry.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<FileEntry> {
        self.write_unlisted(name, bytes)?;
        Ok(FileEntry::of(name, bytes))
    }

    /// Writes a file whole or not at all: under another name, to the disk, then renamed.
    fn write_unlisted(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (unfinished, finished) = (self.partial.join(format!("{name}.unfinished")), self.partial.join(name));
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&unfinished)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&unfinished, &finished)
        };
        write().with_context(|| format!("can not write {} ({} bytes)", finished.display(), bytes.len()))
    }

    /// Makes the folder appear under its name.
    pub(crate) fn finish(self) -> Result<()> {
        let marker = self.partial.join(MARKER);
        fs::remove_file(&marker).with_context(|| format!("can not remove {}", marker.display()))?;
        // Closed before the rename: some systems do not move folders with open files.
        drop(self.marker);
        sync_folder(&self.partial)?;
        let mut replaced = None;
        if self.target.exists() {
            let mut name = self.target.file_name().unwrap_or_default().to_owned();
            name.push(".replaced");
            let aside = self.target.with_file_name(name);
            // An empty folder was allowed above; anything else only with `force`.
            if fs::remove_dir(&self.target).is_err() {
                ensure!(
                    self.force,
                    "{} was filled by someone else meanwhile; the result is in {}",
                    self.target.display(),
                    self.partial.display()
                );
                fs::rename(&self.target, &aside).with_context(|| format!("can not move {} aside", self.target.display()))?;
                replaced = Some(aside);
            }
        }
        fs::rename(&self.partial, &self.target)
            .with_context(|| format!("can not rename {} to {}", self.partial.display(), self.target.display()))?;
        if let Some(parent) = self.target.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_folder(parent)?;
        }
        if let Some(aside) = replaced {
            fs::remove_dir_all(&aside).with_context(|| format!("can not remove {}", aside.display()))?;
        }
        Ok(())
    }

    /// Writes the manifest after checking it as a reader would.
    pub(crate) fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        manifest.validate().context("the converter made a manifest that it would not read")?;
        let json = serde_json::to_string(manifest).context("can not write the manifest as JSON")?;
        self.write_unlisted(MANIFEST_FILE, json.as_bytes())
    }

    /// Writes every shard of the plan, several at once, and returns their entries in order.
    pub(crate) fn write_shards(
        &self,
        plan: &Plan,
        source: &dyn RowSource,
        options: &WriteOptions,
        events: &mut dyn FnMut(Event),
    ) -> Result<Vec<FileEntry>> {
        let largest = plan.shards.iter().map(|shard| shard.bytes).max().unwrap_or(1);
        let cores = options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |count| count.get()));
        let workers = cores.min((SHARDS_IN_MEMORY / largest).max(1) as usize).clamp(1, plan.shards.len().max(1));
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (sender, receiver) = mpsc::channel();
        let mut entries: Vec<Option<FileEntry>> = vec![None; plan.shards.len()];
        std::thread::scope(|scope| {
            for _ in 0..workers {
                let sender = sender.clone();
                let (next, failed) = (&next, &failed);
                scope.spawn(move || {
                    let mut buffer = Vec::new();
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= plan.shards.len() || failed.load(Ordering::Relaxed) {
                            return;
                        }
                        let progress = |weights| {
                            // The receiver is gone only when the whole conversion failed.
                            let _ = sender.send(Message::Weights(weights));
                        };
                        let result = self.write_shard(plan, &plan.shards[index], source, options, &mut buffer, failed, &progress);
                        failed.fetch_or(result.is_err(), Ordering::Relaxed);
                        if sender.send(Message::Shard(index, result)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            let mut error = None;
            for message in receiver {
                match message {
                    Message::Weights(weights) => events(Event::Weights(weights)),
                    Message::Shard(index, Ok(Some(entry))) => {
                        events(Event::Shard { file: entry.file.clone(), bytes: entry.bytes });
                        entries[index] = Some(entry);
                    }
                    // Stopped because another worker failed.
                    Message::Shard(_, Ok(None)) => {}
                    Message::Shard(_, Err(first)) => error = error.or(Some(first)),
                }
            }
            error.map_or(Ok(()), Err)
        })?;
        entries.into_iter().map(|entry| entry.context("a shard was not written")).collect()
    }

    /// Makes one shard in memory and writes it; `None` when another worker has failed meanwhile.
    #[expect(clippy::too_many_arguments, reason = "the state of one worker, used once")]
    fn write_shard(
        &self,
        plan: &Plan,
        shard: &ShardPlan,
        source: &dyn RowSource,
        options: &WriteOptions,
        buffer: &mut Vec<u8>,
        failed: &AtomicBool,
        progress: &dyn Fn(u64),
    ) -> Result<Option<FileEntry>> {
        let path = self.partial.join(&shard.file);
        if options.resume && path.is_file() {
            // It got its name only after its last byte was on the disk.
            let bytes = fs::read(&path).with_context(|| format!("can not read {}", path.display()))?;
            if bytes.len() as u64 == shard.bytes && bytes.starts_with(&shard.header) {
                progress(shard.parts.iter().map(|part| (part.rows.len() * plan.tensors[part.tensor].shape[1]) as u64).sum());
                return Ok(Some(FileEntry::of_shard(&shard.file, &bytes)));
            }
            bail!("{} is not the shard that this conversion would write; remove the folder to start over", path.display());
        }
        buffer.clear();
        buffer.resize(shard.bytes as usize, 0);
        buffer[..shard.header.len()].copy_from_slice(&shard.header);
        for part in &shard.parts {
            let tensor = &plan.tensors[part.tensor];
            let target = Target { index: part.tensor, name: &tensor.name, shape: tensor.shape, scheme: tensor.scheme };
            let (mut data_at, mut scales_at) = (part.data.start as usize, part.scales.start as usize);
            for rows in chunks(part.rows.clone(), tensor.shape[1]) {
                if failed.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                let weights = (rows.len() * tensor.shape[1]) as u64;
                let encoded = encode(source, &target, rows, options.allow_nonfinite)?;
                buffer[data_at..data_at + encoded.data.len()].copy_from_slice(&encoded.data);
                buffer[scales_at..scales_at + encoded.scales.len()].copy_from_slice(&encoded.scales);
                data_at += encoded.data.len();
                scales_at += encoded.scales.len();
                progress(weights);
            }
            assert_eq!((data_at as u64, scales_at as u64), (part.data.end, part.scales.end), "bytes of `{}`", tensor.name);
        }
        self.write_unlisted(&shard.file, buffer)?;
        Ok(Some(FileEntry::of_shard(&shard.file, buffer)))
    }
}

enum Message {
    Weights(u64),
    Shard(usize, Result<Option<FileEntry>>),
}

/// Makes the names in a folder durable, where the system can.
fn sync_folder(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| format!("can not sync {}", folder.display()))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}
