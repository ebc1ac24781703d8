//! What a conversion reads: a folder, or files named one by one.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The files of a checkpoint in the published layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Every file of a folder that has one of the known names.
    Folder(PathBuf),
    /// These files, by their names without folders.
    Files(BTreeMap<String, PathBuf>),
}

impl From<&Path> for Input {
    fn from(folder: &Path) -> Self {
        Self::Folder(folder.to_owned())
    }
}

impl Input {
    /// One folder, or files.
    pub fn from_paths(paths: &[PathBuf]) -> Result<Self> {
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
                bail!("two files are called `{name}`: {} and {}", other.display(), path.display());
            }
        }
        ensure!(!files.is_empty(), "no files were given");
        Ok(Self::Files(files))
    }

    /// Refuses a folder that is none.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Self::Folder(dir) => ensure!(dir.is_dir(), "{} is not a folder", dir.display()),
            Self::Files(_) => {}
        }
        Ok(())
    }

    /// Where the file of this name is, or would be.
    pub(crate) fn locate(&self, name: &str) -> Result<PathBuf> {
        match self {
            Self::Folder(dir) => Ok(dir.join(name)),
            Self::Files(files) => files.get(name).cloned().with_context(|| format!("`{name}` is not among the given files")),
        }
    }

    /// The file of this name, if there is one.
    pub(crate) fn find(&self, name: &str) -> Option<PathBuf> {
        self.locate(name).ok().filter(|path| path.is_file())
    }

    /// The names of all files, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let dir = match self {
            Self::Folder(dir) => dir,
            Self::Files(files) => return Ok(files.keys().cloned().collect()),
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir).with_context(|| format!("can not list {}", dir.display()))? {
            names.push(entry.with_context(|| format!("can not list {}", dir.display()))?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// What the checkpoint is called: the name of the folder, or of the one that the configuration is in.
    pub(crate) fn name(&self) -> String {
        let dir = match self {
            Self::Folder(dir) => dir.clone(),
            Self::Files(files) => files.get("config.json").and_then(|path| path.parent()).unwrap_or(Path::new("")).to_owned(),
        };
        let absolute = std::path::absolute(if dir.as_os_str().is_empty() { Path::new(".") } else { &dir }).unwrap_or(dir);
        absolute.file_name().map_or_else(|| "checkpoint".to_owned(), |name| name.to_string_lossy().into_owned())
    }
}

impl fmt::Display for Input {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(dir) => write!(formatter, "{}", dir.display()),
            Self::Files(files) => write!(formatter, "the {} given files", files.len()),
        }
    }
}
