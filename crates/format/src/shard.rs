//! Checks of shards while their bytes arrive: length and SHA-256.

use crate::hash::ShardHash;
use crate::manifest::FileEntry;

/// The reason why bytes of a shard cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The manifest lists fewer shards.
    #[error("shard {index} does not exist: the manifest lists {count}, counted from 0")]
    NoSuchShard {
        /// Index of the shard.
        index: usize,
        /// Number of shards.
        count: usize,
    },
    /// More bytes than the shard has, or fewer at the end of loading.
    #[error("shard `{shard}` has {found} bytes, expected {expected}: fetch it again")]
    Length {
        /// File name of the shard.
        shard: String,
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes that arrived.
        found: u64,
    },
    /// All bytes arrived, but they are not those of the manifest.
    #[error("shard `{shard}` has SHA-256 {found}, expected {expected}: it is damaged or of another version; fetch it again")]
    Hash {
        /// File name of the shard.
        shard: String,
        /// Hash by the manifest.
        expected: String,
        /// Hash of the bytes that arrived.
        found: String,
    },
}

/// Checks the shards of a web checkpoint while their bytes arrive.
///
/// Shards may arrive in any order and interleaved. The pieces of one shard must arrive in the order of the file.
#[derive(Debug, Clone)]
pub struct ShardCheck {
    shards: Vec<Progress>,
}

/// Progress of one shard.
#[derive(Debug, Clone)]
struct Progress {
    file: String,
    bytes: u64,
    sha256: String,
    received: u64,
    hash: ShardHash,
}

impl ShardCheck {
    /// Begins with no bytes of any shard.
    pub fn new(shards: &[FileEntry]) -> Self {
        let progress = |entry: &FileEntry| Progress {
            file: entry.file.clone(),
            bytes: entry.bytes,
            sha256: entry.sha256.clone(),
            received: 0,
            hash: ShardHash::new(),
        };
        Self { shards: shards.iter().map(progress).collect() }
    }

    /// Accepts the next bytes of a shard and returns their position in it.
    ///
    /// The last bytes complete the hash. If it is wrong, they are refused and the shard restarts: its first byte is expected next.
    pub fn accept(&mut self, shard: usize, bytes: &[u8]) -> Result<u64, ShardError> {
        let progress = self.progress(shard)?;
        let begin = progress.advance(bytes.len())?;
        progress.hash.update(bytes);
        if progress.is_complete() && !bytes.is_empty() {
            let found = std::mem::take(&mut progress.hash).finish();
            if found != progress.sha256 {
                progress.restart();
                return Err(ShardError::Hash { shard: progress.file.clone(), expected: progress.sha256.clone(), found });
            }
        }
        Ok(begin)
    }

    /// Accepts the next bytes of a shard whose hash the caller checks, and returns their position in it.
    ///
    /// All pieces of a shard must pass through either this function or [`Self::accept`].
    pub fn accept_unhashed(&mut self, shard: usize, bytes: &[u8]) -> Result<u64, ShardError> {
        self.progress(shard)?.advance(bytes.len())
    }

    /// Discards the progress of a shard: its first byte is expected next.
    pub fn restart(&mut self, shard: usize) -> Result<(), ShardError> {
        self.progress(shard)?.restart();
        Ok(())
    }

    /// True if all bytes of this shard arrived. False for a shard that does not exist.
    pub fn is_complete(&self, shard: usize) -> bool {
        self.shards.get(shard).is_some_and(Progress::is_complete)
    }

    /// Fails unless all bytes of all shards arrived.
    pub fn complete(&self) -> Result<(), ShardError> {
        match self.shards.iter().find(|progress| !progress.is_complete()) {
            Some(progress) => Err(progress.length_error(progress.received)),
            None => Ok(()),
        }
    }

    fn progress(&mut self, index: usize) -> Result<&mut Progress, ShardError> {
        let count = self.shards.len();
        self.shards.get_mut(index).ok_or(ShardError::NoSuchShard { index, count })
    }
}

impl Progress {
    /// Counts bytes and returns the position of the first of them.
    fn advance(&mut self, bytes: usize) -> Result<u64, ShardError> {
        let begin = self.received;
        let end = begin.saturating_add(bytes as u64);
        if end > self.bytes {
            return Err(self.length_error(end));
        }
        self.received = end;
        Ok(begin)
    }

    fn restart(&mut self) {
        self.received = 0;
        self.hash = ShardHash::new();
    }

    fn is_complete(&self) -> bool {
        self.received == self.bytes
    }

    fn length_error(&self, found: u64) -> ShardError {
        ShardError::Length { shard: self.file.clone(), expected: self.bytes, found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check() -> ShardCheck {
        ShardCheck::new(&[FileEntry::of("first", b"abc"), FileEntry::of("second", b"defg")])
    }

    #[test]
    fn pieces_hash_like_the_whole() {
        let mut hash = ShardHash::new();
        hash.update(b"a");
        hash.update(b"bc");
        assert_eq!(hash.finish(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn accepts_interleaved_shards() {
        let mut check = check();
        assert_eq!(check.accept(1, b"de"), Ok(0));
        assert_eq!(check.accept(0, b""), Ok(0));
        assert_eq!(check.accept_unhashed(0, b"ab"), Ok(0));
        assert_eq!(check.complete(), Err(ShardError::Length { shard: "first".into(), expected: 3, found: 2 }));
        assert_eq!(check.accept_unhashed(0, b"c"), Ok(2));
        assert!(check.is_complete(0) && !check.is_complete(1) && !check.is_complete(2));
        assert_eq!(check.accept(1, b"fg"), Ok(2));
        assert_eq!(check.accept(1, b""), Ok(4));
        assert_eq!(check.complete(), Ok(()));
    }

    #[test]
    fn refuses_wrong_bytes_and_starts_the_shard_again() {
        let mut check = check();
        check.accept(0, b"ab").unwrap();
        let error = check.accept(0, b"d").unwrap_err();
        assert!(matches!(&error, ShardError::Hash { shard, .. } if shard == "first"), "{error}");
        assert!(check.complete().is_err());
        assert_eq!(check.accept(0, b"abc"), Ok(0));

        assert_eq!(check.accept(1, b"defgh"), Err(ShardError::Length { shard: "second".into(), expected: 4, found: 5 }));
        assert_eq!(check.accept(1, b"xx"), Ok(0), "refused bytes do not count");
        check.restart(1).unwrap();
        assert_eq!(check.accept(1, b"defg"), Ok(0));
        assert_eq!(check.complete(), Ok(()));
    }

    #[test]
    fn names_a_shard_that_does_not_exist() {
        let mut check = check();
        let expected = ShardError::NoSuchShard { index: 2, count: 2 };
        assert_eq!(check.accept(2, b""), Err(expected.clone()));
        assert_eq!(check.accept_unhashed(2, b"x"), Err(expected.clone()));
        assert_eq!(check.restart(2), Err(expected));
    }
}
