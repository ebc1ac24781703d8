//! A file read at positions, by several threads at once.

use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::path::{Path, PathBuf};

/// An input file. Reads take `&self`, so that threads share it; nothing is mapped, so that resident memory stays what we allocate.
#[derive(Debug)]
pub(crate) struct InputFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl InputFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("can not open {}", path.display()))?;
        let metadata = file.metadata().with_context(|| format!("can not read {}", path.display()))?;
        ensure!(metadata.is_file(), "{} is not a file", path.display());
        Ok(Self { path: path.to_owned(), file, len: metadata.len() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file's name without its folder.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// When it was last changed, as far as the system knows.
    pub(crate) fn modified(&self) -> Option<std::time::SystemTime> {
        self.file.metadata().and_then(|metadata| metadata.modified()).ok()
    }

    /// Fills `buffer` from byte `offset` on.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        ensure!(
            offset.checked_add(buffer.len() as u64).is_some_and(|end| end <= self.len),
            "{} is truncated: it has {} bytes, {} are wanted from byte {offset} on",
            self.path.display(),
            self.len,
            buffer.len()
        );
        #[cfg(unix)]
        let result = std::os::unix::fs::FileExt::read_exact_at(&self.file, buffer, offset);
        #[cfg(windows)]
        let result = read_exact_at(&self.file, buffer, offset);
        result.with_context(|| format!("can not read {} bytes of {} from byte {offset} on", buffer.len(), self.path.display()))
    }

    /// The bytes `offset .. offset + len`.
    pub(crate) fn read_vec(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        // Checked before the allocation, so that a hostile length can not exhaust the memory.
        ensure!(
            offset.checked_add(len as u64).is_some_and(|end| end <= self.len),
            "{} is truncated: it has {} bytes, {len} are wanted from byte {offset} on",
            self.path.display(),
            self.len
        );
        let mut buffer = vec![0; len];
        self.read_at(offset, &mut buffer)?;
        Ok(buffer)
    }
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !buffer.is_empty() {
        match file.seek_read(buffer, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
}
