//! Writes the shards of a planned web checkpoint with all cores.

use super::output::OutputFolder;
use super::{Event, WriteOptions};
use crate::encode::{Cursor, Piece};
use crate::plan::{Plan, ShardPlan};
use crate::rows::RowSource;
use anyhow::{Context, Result, bail};
use qwen_vl_format::manifest::FileEntry;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

/// Upper bound for the shards that are made at once, in bytes: with scratch memory a conversion stays below 1 GiB.
const SHARDS_IN_MEMORY: u64 = 512 << 20;

impl OutputFolder {
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
                            // The receiver is dropped only if the whole conversion failed.
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

    /// Makes one shard in memory and writes it. Returns `None` if another worker failed meanwhile.
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
        let path = self.path_of(&shard.file);
        if options.resume && path.is_file() {
            // A file gets this name only after its last byte is on the disk.
            let bytes = fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
            if bytes.len() as u64 == shard.bytes && bytes.starts_with(&shard.header) {
                progress(shard.parts.iter().map(|part| (part.rows.len() * plan.tensors[part.tensor].shape[1]) as u64).sum());
                return Ok(Some(FileEntry::of_shard(&shard.file, &bytes)));
            }
            bail!("{} is not the shard that this conversion would write; without --resume it is started over", path.display());
        }
        buffer.clear();
        let mut cursor = Cursor::default();
        while let Some(Piece { bytes, weights }) = cursor.next(plan, shard, source, options.allow_nonfinite)? {
            if failed.load(Ordering::Relaxed) {
                return Ok(None);
            }
            buffer.extend_from_slice(&bytes);
            progress(weights);
        }
        assert_eq!(buffer.len() as u64, shard.bytes, "bytes of {}", shard.file);
        self.write(&shard.file, buffer)?;
        Ok(Some(FileEntry::of_shard(&shard.file, buffer)))
    }
}

enum Message {
    Weights(u64),
    Shard(usize, Result<Option<FileEntry>>),
}
