//! A file that several threads read at positions of their choice.

use super::recognise::{HEAD_BYTES, recognise};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::path::{Path, PathBuf};

/// An input file. Reads take `&self`, so that threads share it. Nothing is mapped, so that resident memory stays what we allocate.
#[derive(Debug)]
pub(crate) struct InputFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl InputFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("could not open {}", path.display()))?;
        let metadata = file.metadata().with_context(|| format!("could not read {}", path.display()))?;
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

    /// Size in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Time of the last change, if the system knows it.
    pub(crate) fn modified(&self) -> Option<std::time::SystemTime> {
        self.file.metadata().and_then(|metadata| metadata.modified()).ok()
    }

    /// Replaces the error of a file that could not be parsed if its first bytes show another kind of file.
    pub(crate) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let head = self.read_vec(0, self.len.min(HEAD_BYTES as u64) as usize).unwrap_or_default();
        match recognise(&head, self.len) {
            Some(kind) => anyhow::anyhow!("{} {kind}", self.path.display()),
            None => error,
        }
    }

    /// Fills `buffer` from byte `offset` on.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check_range(offset, buffer.len())?;
        #[cfg(unix)]
        let result = std::os::unix::fs::FileExt::read_exact_at(&self.file, buffer, offset);
        #[cfg(windows)]
        let result = read_exact_at(&self.file, buffer, offset);
        result.with_context(|| format!("could not read {} bytes of {} from byte {offset} on", buffer.len(), self.path.display()))
    }

    /// The bytes `offset .. offset + len`.
    pub(crate) fn read_vec(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        // Checked before the allocation, so that a hostile length cannot exhaust the memory.
        self.check_range(offset, len)?;
        let mut buffer = vec![0; len];
        self.read_at(offset, &mut buffer)?;
        Ok(buffer)
    }

    fn check_range(&self, offset: u64, len: usize) -> Result<()> {
        ensure!(
            offset.checked_add(len as u64).is_some_and(|end| end <= self.len),
            "{} is truncated: it has {} bytes, and {len} are needed from byte {offset} on",
            self.path.display(),
            self.len
        );
        Ok(())
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
