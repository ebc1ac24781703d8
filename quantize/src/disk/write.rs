//! Writes the shards of a planned web checkpoint with all cores.

use super::output::OutputFolder;
use super::{Event, WriteOptions};
use crate::encode::{Cursor, Piece};
use crate::errors::FinishedShard;
use crate::plan::{Plan, ShardPlan};
use crate::rows::RowSource;
use anyhow::{Context, Result};
use qwen_vl_format::manifest::FileEntry;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

/// Upper bound for the shards that are made at once, in bytes: with scratch memory a conversion stays below 1 GiB.
const SHARDS_IN_MEMORY: u64 = 512 << 20;

impl OutputFolder {
    /// Writes every shard of the plan, several at once, and returns them in order.
    pub(crate) fn write_shards(
        &self,
        plan: &Plan,
        source: &dyn RowSource,
        options: &WriteOptions,
        events: &mut dyn FnMut(Event),
    ) -> Result<Vec<FinishedShard>> {
        let largest = plan.shards.iter().map(|shard| shard.bytes).max().unwrap_or(1);
        let cores = options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |count| count.get()));
        let workers = cores.min((SHARDS_IN_MEMORY / largest).max(1) as usize).clamp(1, plan.shards.len().max(1));
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (sender, receiver) = mpsc::channel();
        let mut shards: Vec<Option<FinishedShard>> = vec![None; plan.shards.len()];
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
                        let result = self.make_shard(plan, &plan.shards[index], source, options, &mut buffer, failed, &progress);
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
                    Message::Shard(index, Ok(Some(shard))) => {
                        events(Event::Shard { file: shard.entry.file.clone(), bytes: shard.entry.bytes });
                        shards[index] = Some(shard);
                    }
                    // Stopped because another worker failed.
                    Message::Shard(_, Ok(None)) => {}
                    Message::Shard(_, Err(first)) => error = error.or(Some(first)),
                }
            }
            error.map_or(Ok(()), Err)
        })?;
        shards.into_iter().map(|shard| shard.context("a shard was not written")).collect()
    }

    /// Makes one shard in memory and writes it, unless an interrupted run did. Returns `None` if another worker failed meanwhile.
    #[expect(clippy::too_many_arguments, reason = "the state of one worker, used once")]
    fn make_shard(
        &self,
        plan: &Plan,
        shard: &ShardPlan,
        source: &dyn RowSource,
        options: &WriteOptions,
        buffer: &mut Vec<u8>,
        failed: &AtomicBool,
        progress: &dyn Fn(u64),
    ) -> Result<Option<FinishedShard>> {
        if let Some(finished) = self.finished(&shard.file).filter(|finished| finished.check(plan, shard).is_ok()) {
            // A file gets this name only after its last byte is on the disk. Its record is older.
            let bytes = fs::read(self.path_of(&shard.file)).unwrap_or_default();
            if FileEntry::of_shard(&shard.file, &bytes) == finished.entry {
                progress(shard.parts.iter().map(|part| (part.rows.len() * plan.tensors[part.tensor].shape[1]) as u64).sum());
                return Ok(Some(finished.clone()));
            }
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
        let finished = FinishedShard { entry: FileEntry::of_shard(&shard.file, buffer), errors: cursor.errors().clone() };
        self.write_shard(&finished, buffer)?;
        Ok(Some(finished))
    }
}

enum Message {
    Weights(u64),
    Shard(usize, Result<Option<FinishedShard>>),
}
