//! Conversion of folders and of repositories: input, output, and checks of web checkpoints on the disk.

mod check;
mod dry_run;
mod file;
mod hub;
mod input;
mod options;
mod output;
mod parallel;
mod web;
mod write;

pub use check::{Contents, ModuleContents, ModuleError, Problem, Report, TensorError, inspect, report, verify};
pub use hub::HubSource;
pub use input::Input;
pub use options::{Event, Options, WriteOptions};
pub use output::partial_path;
pub use web::{WebCheckpoint, dequantized};

use crate::checkpoint::read_config;
use crate::conversion::Conversion;
use crate::errors::Errors;
use crate::options::Summary;
use crate::tokenizer::Tokenizer;
use anyhow::Result;
use input::Opened;
use output::{OutputFolder, Target};
use qwen_vl_format::ModelConfig;
use std::path::Path;

/// Converts a checkpoint into a web checkpoint. The output folder appears when it is whole.
pub fn convert(options: &Options, events: &mut dyn FnMut(Event)) -> Result<Summary> {
    options.source.check()?;
    let target = Target::new(&options.out, &options.source.paths()?)?;
    target.check(options.write.force)?;
    let Opened { files, hub } = options.source.open(events)?;
    // This reads the directories of the weights: everything is checked before the weights are downloaded.
    let conversion = Conversion::open(&files, &options.settings())?;
    let mut summary = conversion.summary.clone();
    summary.notes.iter().for_each(|note| events(Event::Note(note.clone())));
    let sizes = conversion.sizes();
    if let Some(hub) = &hub {
        summary.notes.insert(0, hub.note.clone());
        target.check_space(&sizes)?;
        hub.fetch(conversion.converter.source().files(), events)?;
    }
    if options.dry_run {
        target.check_space(&sizes)?;
        events(Event::Start { weights: summary.weights });
        dry_run::check_all(&conversion.converter, &conversion.plan, options.write.allow_nonfinite, events)?;
        return Ok(summary);
    }
    let folder = OutputFolder::create(target, &options.write, &conversion.fingerprint()?, &sizes)?;
    if let Some(note) = &folder.note {
        events(Event::Note(note.clone()));
        summary.notes.push(note.clone());
    }
    events(Event::Start { weights: summary.weights });
    let shards = folder.write_shards(&conversion.plan, &conversion.converter, &options.write, events)?;
    summary.set_errors(&Errors::of(&shards));
    for (name, bytes) in conversion.small_files(&summary) {
        folder.write(name, &bytes)?;
    }
    folder.write_manifest(&conversion.manifest(&summary, shards.into_iter().map(|shard| shard.entry).collect())?)?;
    folder.finish()?;
    Ok(summary)
}

/// Reads the tokenizer of a checkpoint's folder, for the command line.
pub fn tokenizer(folder: &Path) -> Result<(ModelConfig, Tokenizer)> {
    let input = Input::from(folder).files()?;
    let config = read_config(&input)?;
    let tokenizer = crate::tokenizer::read(&input, &config, &mut Vec::new())?;
    Ok((config, tokenizer))
}
