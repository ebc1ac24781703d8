//! A file on the disk that several threads read.

use crate::source::{InputFile, ReadAt};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::UNIX_EPOCH;

/// A file on the disk, opened at the first read. Nothing is mapped, so that resident memory stays what we allocate.
#[derive(Debug)]
pub(crate) struct DiskFile {
    path: PathBuf,
    opened: OnceLock<File>,
}

impl DiskFile {
    /// The file at a path; `None` if nothing or something else is there.
    pub(crate) fn input(path: &Path) -> Option<InputFile> {
        let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        let name = path.file_name()?.to_string_lossy();
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|time| time.as_nanos());
        let bytes = Self { path: path.to_owned(), opened: OnceLock::new() };
        Some(InputFile::new(name, path.display().to_string(), metadata.len(), format!("{modified:?}"), Arc::new(bytes)))
    }

    fn file(&self) -> io::Result<&File> {
        if let Some(file) = self.opened.get() {
            return Ok(file);
        }
        let file = File::open(&self.path)?;
        Ok(self.opened.get_or_init(|| file))
    }
}

impl ReadAt for DiskFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        read_exact_at(self.file()?, offset, buffer)
    }
}

/// Fills `buffer` from byte `offset` of a file on.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Fills `buffer` from byte `offset` of a file on.
#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !buffer.is_empty() {
        match file.seek_read(buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
}

/// The file at a path.
pub(crate) fn open(path: &Path) -> Result<InputFile> {
    let metadata = std::fs::metadata(path).with_context(|| format!("could not open {}", path.display()))?;
    ensure!(metadata.is_file(), "{} is not a file", path.display());
    DiskFile::input(path).with_context(|| format!("could not open {}", path.display()))
}
