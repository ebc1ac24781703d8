//! A file of a checkpoint, and the checkpoint's list of files.

use super::recognise::{HEAD_BYTES, recognise};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Largest file that is read whole. The largest one that checkpoints have, `tokenizer.json`, takes 11 MB.
const MAX_SMALL: u64 = 256 << 20;

/// Bytes that several threads read at offsets: the converter's only way to its input.
pub trait ReadAt: fmt::Debug + Send + Sync {
    /// Fills `buffer` from byte `offset` on. The range is inside the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Lists ranges that will be read, so that a reader over a network can fetch them together. Reads of other ranges are allowed.
    fn announce(&self, _ranges: &[Range<u64>]) {}
}

/// Bytes in memory.
impl ReadAt for Vec<u8> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)?.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A file of a checkpoint.
#[derive(Debug, Clone)]
pub struct InputFile {
    name: String,
    place: String,
    len: u64,
    version: String,
    bytes: Arc<dyn ReadAt>,
}

impl InputFile {
    /// A file of `len` bytes.
    ///
    /// # Arguments
    /// * `name` - its name without a folder
    /// * `place` - its path or address, for messages
    /// * `version` - text that changes when its contents change: a hash, or the time of the last change
    pub fn new(name: impl Into<String>, place: impl Into<String>, len: u64, version: impl Into<String>, bytes: Arc<dyn ReadAt>) -> Self {
        Self { name: name.into(), place: place.into(), len, version: version.into(), bytes }
    }

    /// Its name without a folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path or address, for messages.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// Size in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Text that changes when the contents change.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Replaces the error of a file that could not be parsed if its first bytes show another kind of file.
    pub(crate) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let head = self.read_vec(0, self.len.min(HEAD_BYTES as u64) as usize).unwrap_or_default();
        match recognise(&head, self.len) {
            Some(kind) => anyhow::anyhow!("{} {kind}", self.place),
            None => error,
        }
    }

    /// Fills `buffer` from byte `offset` on.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check_range(offset, buffer.len())?;
        self.bytes
            .read_at(offset, buffer)
            .with_context(|| format!("could not read {} bytes of {} from byte {offset} on", buffer.len(), self.place))
    }

    /// The bytes `offset .. offset + len`.
    pub(crate) fn read_vec(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        // Checked before the allocation, so that a hostile length cannot exhaust the memory.
        self.check_range(offset, len)?;
        let mut buffer = vec![0; len];
        self.read_at(offset, &mut buffer)?;
        Ok(buffer)
    }

    /// The whole file, for small files.
    pub(crate) fn read_all(&self) -> Result<Vec<u8>> {
        // The size can be that of a server's list: the memory is not taken on its word.
        ensure!(self.len <= MAX_SMALL, "{} has {} bytes, expected at most {MAX_SMALL}", self.place, self.len);
        let mut buffer = vec![0; self.len as usize];
        self.bytes.read_at(0, &mut buffer).with_context(|| format!("could not read {}", self.place))?;
        Ok(buffer)
    }

    /// The whole file as text.
    pub(crate) fn read_text(&self) -> Result<String> {
        String::from_utf8(self.read_all()?).with_context(|| format!("could not read {}", self.place))
    }

    /// Lists ranges that will be read. Parts outside the file are left out.
    pub(crate) fn announce(&self, ranges: impl IntoIterator<Item = Range<u64>>) {
        let inside = |range: Range<u64>| range.start..range.end.min(self.len);
        let ranges: Vec<_> = ranges.into_iter().map(inside).filter(|range| !range.is_empty()).collect();
        self.bytes.announce(&ranges);
    }

    fn check_range(&self, offset: u64, len: usize) -> Result<()> {
        ensure!(
            offset.checked_add(len as u64).is_some_and(|end| end <= self.len),
            "{} is truncated: it has {} bytes, and {len} are needed from byte {offset} on",
            self.place,
            self.len
        );
        Ok(())
    }
}

/// The repository whose snapshot has this place: `models--OWNER--NAME/snapshots/REVISION` in a Hugging Face cache.
pub(crate) fn cached_repository(place: &str) -> Option<String> {
    let mut parts = place.rsplit(['/', '\\']).filter(|part| !part.is_empty()).skip(1);
    let (snapshots, folder) = (parts.next()?, parts.next()?);
    (snapshots == "snapshots").then(|| Some(folder.strip_prefix("models--")?.replacen("--", "/", 1)))?
}

/// The files of a checkpoint in the published layout.
#[derive(Debug, Clone, Default)]
pub struct Files {
    name: String,
    place: String,
    files: BTreeMap<String, InputFile>,
    folders: Vec<Files>,
}

impl Files {
    /// Lists the files of a checkpoint. Hidden files are left out: macOS leaves `._model.safetensors` next to `model.safetensors`.
    ///
    /// # Arguments
    /// * `name` - the name of the checkpoint
    /// * `place` - its path or address, for messages
    /// * `folders` - the folders in the folder: only errors mention them
    pub fn new(name: impl Into<String>, place: impl Into<String>, files: impl IntoIterator<Item = InputFile>, folders: Vec<Self>) -> Self {
        let files = files.into_iter().filter(|file| !file.name.starts_with('.')).map(|file| (file.name.clone(), file)).collect();
        Self { name: name.into(), place: place.into(), files, folders }
    }

    /// The file of this name, if there is one.
    pub(crate) fn find(&self, name: &str) -> Option<&InputFile> {
        self.files.get(name)
    }

    /// The names of all files, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The folders in the folder.
    pub(crate) fn folders(&self) -> &[Self] {
        &self.folders
    }

    /// Refuses the top folder of a repository in a Hugging Face cache, whose checkpoints are in folders of `snapshots`.
    pub(crate) fn refuse_top_of_cache(&self) -> Result<()> {
        let folder = |name: &str| self.folders.iter().find(|folder| folder.name == name);
        // `refs/main` holds the name of the snapshot that is in use.
        let main = folder("refs").and_then(|refs| refs.find("main"));
        if self.find("config.json").is_some() || (main.is_none() && folder("snapshots").is_none()) {
            return Ok(());
        }
        match main.and_then(|main| main.read_text().ok()) {
            Some(name) => bail!("{self} is the top folder of a Hugging Face cache: give {self}/snapshots/{}", name.trim()),
            None => bail!("{self} is the top folder of a Hugging Face cache: give one of the folders in {self}/snapshots"),
        }
    }

    /// The name of the checkpoint.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Files {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.place)
    }
}

#[cfg(test)]
impl Files {
    /// Files in memory.
    pub(crate) fn in_memory<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let file = |(name, bytes): (&str, &[u8])| InputFile::new(name, name, bytes.len() as u64, "", Arc::new(bytes.to_vec()));
        Self::new("test", "the folder", files.into_iter().map(file), Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_list_takes_no_memory() {
        let file = InputFile::new("config.json", "a/config.json", 1 << 40, "", Arc::new(Vec::new()));
        assert!(file.read_all().unwrap_err().to_string().contains("expected at most"));
    }
}
