//! Files in the Hub's cache: `blobs/HASH`, and links to them in `snapshots/COMMIT`.

use super::remote::{RemoteFile, Windows};
use crate::source::ReadAt;
use anyhow::{Context, Result, bail, ensure};
use qwen_vl_format::ShardHash;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The places of a file in the cache.
#[derive(Debug)]
pub(super) struct Blob {
    pub path: PathBuf,
    /// The link to it.
    pub pointer: PathBuf,
    /// Known for large files.
    pub sha256: Option<String>,
}

/// A file of a revision. It is read by ranges until it is in the cache.
#[derive(Debug)]
pub(super) struct HubFile {
    remote: RemoteFile,
    windows: Arc<Windows>,
    /// Its number in `windows`.
    number: usize,
    /// Its place in the cache; `None` if it is not kept.
    blob: Option<Blob>,
    /// True to download the file when its first byte is read.
    whole: bool,
    cached: OnceLock<File>,
    downloading: Mutex<()>,
}

impl HubFile {
    pub(super) fn new(remote: RemoteFile, windows: Arc<Windows>, number: usize, blob: Option<Blob>, whole: bool) -> Self {
        let cached = OnceLock::new();
        if let Some(file) = blob.as_ref().and_then(|blob| File::open(&blob.pointer).ok())
            && file.metadata().is_ok_and(|metadata| metadata.len() == remote.len)
        {
            let _ = cached.set(file);
        }
        Self { remote, windows, number, blob, whole, cached, downloading: Mutex::new(()) }
    }

    pub(super) fn is_cached(&self) -> bool {
        self.cached.get().is_some()
    }

    /// Bytes that [`Self::fetch`] downloads.
    pub(super) fn missing(&self) -> u64 {
        let Some(blob) = &self.blob else { return 0 };
        let here = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        self.remote.len.saturating_sub(here(&blob.path).max(here(&blob.part())))
    }

    /// Downloads the file into the cache, and continues a download that was interrupted. Reports the number of bytes that arrive.
    pub(super) fn fetch(&self, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let _downloading = self.downloading.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(blob) = self.blob.as_ref().filter(|_| !self.is_cached()) else { return Ok(()) };
        blob.download(&self.remote, progress)?;
        let file = File::open(&blob.pointer).with_context(|| format!("could not open {}", blob.pointer.display()))?;
        let _ = self.cached.set(file);
        Ok(())
    }
}

impl ReadAt for HubFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.whole {
            self.fetch(&mut |_| ()).map_err(io::Error::other)?;
        }
        match self.cached.get() {
            Some(file) => crate::disk::file::read_exact_at(file, offset, buffer),
            None => self.windows.read(self.number, &self.remote, offset, buffer),
        }
    }
}

impl Blob {
    /// The unfinished file, where `hf-hub` looks for it too.
    fn part(&self) -> PathBuf {
        self.path.with_extension("part")
    }

    fn download(&self, remote: &RemoteFile, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let blobs = self.path.parent().unwrap_or(Path::new(""));
        fs::create_dir_all(blobs).with_context(|| format!("could not create {}", blobs.display()))?;
        // Another process may download the same file.
        let lock_path = self.path.with_extension("lock");
        let lock = File::create(&lock_path).and_then(|file| file.lock().map(|()| file));
        let _lock = lock.with_context(|| format!("could not lock {}", lock_path.display()))?;
        match fs::metadata(&self.path) {
            Ok(metadata) if metadata.len() == remote.len => {}
            Ok(metadata) => {
                bail!("{} has {} bytes, the Hub lists {}: remove it and run again", self.path.display(), metadata.len(), remote.len)
            }
            Err(_) => {
                let part = self.part();
                self.write(&part, remote, progress)?;
                fs::rename(&part, &self.path).with_context(|| format!("could not rename {}", part.display()))?;
            }
        }
        self.link()
    }

    /// Appends what is missing of the unfinished file, and checks its hash.
    fn write(&self, part: &Path, remote: &RemoteFile, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let problem = || format!("could not write {}", part.display());
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(part).with_context(problem)?;
        let mut hash = ShardHash::default();
        let mut at = file.metadata().with_context(problem)?.len();
        if at > remote.len {
            file.set_len(0).with_context(problem)?;
            at = 0;
        }
        if self.sha256.is_some() {
            let mut buffer = vec![0; 1 << 20];
            loop {
                match file.read(&mut buffer).with_context(|| format!("could not read {}", part.display()))? {
                    0 => break,
                    count => hash.update(&buffer[..count]),
                }
            }
        }
        remote.read(at..remote.len, &mut |bytes| {
            file.write_all(bytes).with_context(problem)?;
            if self.sha256.is_some() {
                hash.update(bytes);
            }
            progress(bytes.len() as u64);
            Ok(())
        })?;
        file.sync_all().with_context(problem)?;
        let found = hash.finish();
        if let Some(expected) = self.sha256.as_ref().filter(|expected| **expected != found) {
            fs::remove_file(part).with_context(|| format!("could not remove {}", part.display()))?;
            bail!("the download to {} has SHA-256 {found}, the Hub lists {expected}: it was removed, run again", part.display());
        }
        ensure!(file.metadata().with_context(problem)?.len() == remote.len, "{} was changed by another program", part.display());
        Ok(())
    }

    /// Makes the file appear in the snapshot.
    fn link(&self) -> Result<()> {
        let snapshot = self.pointer.parent().unwrap_or(Path::new(""));
        fs::create_dir_all(snapshot).with_context(|| format!("could not create {}", snapshot.display()))?;
        // A link to nothing, or a file of another size.
        let _ = fs::remove_file(&self.pointer);
        let target = Path::new("../../blobs").join(self.path.file_name().unwrap_or_default());
        #[cfg(unix)]
        let linked = std::os::unix::fs::symlink(target, &self.pointer);
        #[cfg(windows)]
        let linked = std::os::windows::fs::symlink_file(target, &self.pointer);
        // Windows needs a permission for links.
        let linked =
            linked.or_else(|_| fs::hard_link(&self.path, &self.pointer)).or_else(|_| fs::copy(&self.path, &self.pointer).map(drop));
        linked.with_context(|| format!("could not link {} to {}", self.pointer.display(), self.path.display()))
    }
}
