//! A conversion's input: a folder, files named one by one, or a repository of the Hub.

use super::Event;
use super::file::DiskFile;
use super::hub::{Hub, HubSource};
use crate::source::Files;
use crate::source::file::cached_repository;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The place of a checkpoint in the published layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Every file of a folder that has one of the known names.
    Folder(PathBuf),
    /// These files, by their names without folders.
    Files(BTreeMap<String, PathBuf>),
    /// A repository of the Hugging Face Hub.
    Hub(HubSource),
}

/// The files of an input, and the repository that they are in.
pub(crate) struct Opened {
    pub files: Files,
    pub hub: Option<Hub>,
}

impl From<&Path> for Input {
    fn from(folder: &Path) -> Self {
        Self::Folder(folder.to_owned())
    }
}

impl Input {
    /// One folder, files, or one repository as `hf:OWNER/NAME[@REVISION]`.
    pub fn from_paths(paths: &[PathBuf]) -> Result<Self> {
        if let Some(repository) = paths.iter().find_map(|path| HubSource::parse(path.to_str()?).transpose()).transpose()? {
            ensure!(paths.len() == 1, "{repository} is a repository: give nothing else as the source");
            return Ok(Self::Hub(repository));
        }
        if let [path] = paths
            && !path.is_file()
        {
            return Ok(Self::Folder(path.clone()));
        }
        let mut files = BTreeMap::new();
        for path in paths {
            ensure!(!path.is_dir(), "{} is a folder: give one folder, or the files themselves", path.display());
            ensure!(path.is_file(), "{} is not a file", path.display());
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(other) = files.insert(name.clone(), path.clone()) {
                bail!("two files have the name `{name}`: {} and {}", other.display(), path.display());
            }
        }
        ensure!(!files.is_empty(), "no files were given");
        Ok(Self::Files(files))
    }

    /// Lists the files, which are opened when they are read.
    ///
    /// # Errors
    /// For a path that is not a folder, and for a repository that cannot be listed.
    pub fn files(&self) -> Result<Files> {
        Ok(self.open(&mut |_| ())?.files)
    }

    /// Lists the files, and reports the commit of a repository.
    pub(crate) fn open(&self, events: &mut dyn FnMut(Event)) -> Result<Opened> {
        if let Self::Hub(source) = self {
            let hub = source.open(events)?;
            return Ok(Opened { files: hub.listed.clone(), hub: Some(hub) });
        }
        Ok(Opened { files: self.local_files()?, hub: None })
    }

    fn local_files(&self) -> Result<Files> {
        self.check()?;
        let files = |paths: Vec<PathBuf>| paths.into_iter().filter_map(|path| DiskFile::input(&path)).collect::<Vec<_>>();
        let folders = match self {
            Self::Folder(dir) => {
                let below = list(dir)?.into_iter().filter(|path| path.is_dir());
                // One that cannot be listed has nothing to mention.
                let listed = below.filter_map(|folder| Some((files(list(&folder).ok()?), folder)));
                let name = |folder: &Path| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
                listed.map(|(files, folder)| Files::new(name(&folder), folder.display().to_string(), files, Vec::new())).collect()
            }
            Self::Files(_) | Self::Hub(_) => Vec::new(),
        };
        let paths = match self {
            Self::Folder(dir) => list(dir)?,
            Self::Files(files) => files.values().cloned().collect(),
            Self::Hub(_) => Vec::new(),
        };
        Ok(Files::new(self.name(), self.to_string(), files(paths), folders))
    }

    /// Refuses a path that is not a folder.
    pub(crate) fn check(&self) -> Result<()> {
        let Self::Folder(dir) = self else { return Ok(()) };
        ensure!(dir.is_dir(), "{} is not a folder", dir.display());
        Ok(())
    }

    /// The folder, if it is one, and every file in it; or the files; or the repository's folder in the cache.
    pub(crate) fn paths(&self) -> Result<Vec<PathBuf>> {
        match self {
            Self::Folder(dir) => Ok(list(dir)?.into_iter().filter(|path| path.is_file()).chain([dir.clone()]).collect()),
            Self::Files(files) => Ok(files.values().cloned().collect()),
            Self::Hub(source) => Ok(Some(source.cache_folder()).filter(|folder| folder.is_dir()).into_iter().collect()),
        }
    }

    /// The name of the checkpoint: of its repository if it is in a Hugging Face cache, else of its folder, or of the folder of its
    /// configuration.
    fn name(&self) -> String {
        let dir = match self {
            Self::Folder(dir) => dir.clone(),
            Self::Files(files) => files.get("config.json").and_then(|path| path.parent()).unwrap_or(Path::new("")).to_owned(),
            Self::Hub(source) => return source.repository.clone(),
        };
        let absolute = std::path::absolute(if dir.as_os_str().is_empty() { Path::new(".") } else { &dir }).unwrap_or(dir);
        let name = || absolute.file_name().map(|name| name.to_string_lossy().into_owned());
        cached_repository(&absolute.display().to_string()).or_else(name).unwrap_or_else(|| "checkpoint".to_owned())
    }
}

impl fmt::Display for Input {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(dir) => write!(formatter, "{}", dir.display()),
            Self::Files(files) => write!(formatter, "the {} given files", files.len()),
            Self::Hub(source) => write!(formatter, "{source}"),
        }
    }
}

/// The paths in a folder, sorted.
fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("could not list {}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}
