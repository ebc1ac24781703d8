//! SHA-256, the hash of a web checkpoint's files.

use sha2::{Digest, Sha256};

/// SHA-256 of a file whose bytes arrive in pieces.
#[derive(Debug, Clone, Default)]
pub struct ShardHash(Sha256);

impl ShardHash {
    /// Creates the hash of no bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the hash in lower-case hexadecimal, the form of [`FileEntry::sha256`](crate::manifest::FileEntry::sha256).
    pub fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Returns the hash of a whole file.
    pub fn of(bytes: &[u8]) -> String {
        let mut hash = Self::new();
        hash.update(bytes);
        hash.finish()
    }
}
