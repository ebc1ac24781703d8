//! The input of a conversion: a folder, or files named one by one.

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
                bail!("two files have the name `{name}`: {} and {}", other.display(), path.display());
            }
        }
        ensure!(!files.is_empty(), "no files were given");
        Ok(Self::Files(files))
    }

    /// Refuses a path that is not a folder, and the top folder of a Hugging Face cache.
    pub(crate) fn check(&self) -> Result<()> {
        let Self::Folder(dir) = self else { return Ok(()) };
        ensure!(dir.is_dir(), "{} is not a folder", dir.display());
        let snapshots = dir.join("snapshots");
        if !dir.join("config.json").exists() && snapshots.is_dir() {
            // `refs/main` holds the name of the snapshot that is in use.
            let main = std::fs::read_to_string(dir.join("refs/main")).ok().map(|name| snapshots.join(name.trim()));
            let any = || std::fs::read_dir(&snapshots).ok()?.flatten().map(|entry| entry.path()).find(|path| path.is_dir());
            let snapshot = main.filter(|path| path.is_dir()).or_else(any).unwrap_or(snapshots);
            bail!("{} is the top folder of a Hugging Face cache: give {}", dir.display(), snapshot.display());
        }
        Ok(())
    }

    /// The path of the file of this name, whether it exists or not.
    pub(crate) fn locate(&self, name: &str) -> Result<PathBuf> {
        match self {
            Self::Folder(dir) => Ok(dir.join(name)),
            Self::Files(files) => files.get(name).cloned().with_context(|| format!("`{name}` is not among the given files")),
        }
    }

    /// The path of the file of this name, if there is one.
    pub(crate) fn find(&self, name: &str) -> Option<PathBuf> {
        self.locate(name).ok().filter(|path| path.is_file())
    }

    /// The names of all files, sorted. Hidden files are left out: macOS leaves `._model.safetensors` next to `model.safetensors`.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = match self {
            Self::Folder(dir) => {
                let list = || std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>();
                let names = list().with_context(|| format!("could not list {}", dir.display()))?;
                names.into_iter().map(|name| name.to_string_lossy().into_owned()).collect()
            }
            Self::Files(files) => files.keys().cloned().collect(),
        };
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        Ok(names)
    }

    /// The folders in the folder, sorted; none for files.
    pub(crate) fn subfolders(&self) -> Vec<PathBuf> {
        let Self::Folder(dir) = self else { return Vec::new() };
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut folders: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        folders.sort();
        folders
    }

    /// The folder, if it is one, and every file in it; or the files.
    pub(crate) fn paths(&self) -> Result<Vec<PathBuf>> {
        match self {
            Self::Folder(dir) => {
                let entries = std::fs::read_dir(dir).with_context(|| format!("could not list {}", dir.display()))?;
                let files = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file());
                Ok(files.chain([dir.clone()]).collect())
            }
            Self::Files(files) => Ok(files.values().cloned().collect()),
        }
    }

    /// The name of the checkpoint: of its repository if it is in a Hugging Face cache, else of its folder, or of the folder of its
    /// configuration.
    pub(crate) fn name(&self) -> String {
        let dir = match self {
            Self::Folder(dir) => dir.clone(),
            Self::Files(files) => files.get("config.json").and_then(|path| path.parent()).unwrap_or(Path::new("")).to_owned(),
        };
        let absolute = std::path::absolute(if dir.as_os_str().is_empty() { Path::new(".") } else { &dir }).unwrap_or(dir);
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        // `models--OWNER--NAME/snapshots/REVISION`
        let repository = absolute.parent().filter(|parent| parent.ends_with("snapshots")).and_then(|parent| name(parent.parent()?));
        let repository = repository.and_then(|name| Some(name.strip_prefix("models--")?.replacen("--", "/", 1)));
        repository.or_else(|| name(&absolute)).unwrap_or_else(|| "checkpoint".to_owned())
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
