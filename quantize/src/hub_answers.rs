//! Parsers of the Hub's answers: the list of the files of a revision, and the headers of answers with their bytes. They need no network, so that
//! the fuzz target `listing` can call them.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::ops::Range;

/// Upper bound for the bytes of a repository: sums of sizes and offsets stay far below 64 bits.
const MAX_BYTES: u64 = 1 << 53;

/// A revision and its files. No path leads out of the repository.
#[derive(Debug)]
pub struct Listing {
    /// 40 hexadecimal digits.
    pub commit: String,
    /// The files whose hash and size are known.
    pub files: Vec<ListedFile>,
}

/// A file of a revision.
#[derive(Debug)]
pub struct ListedFile {
    /// Path in the repository.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// Hash of the contents: 40 or 64 hexadecimal digits.
    pub id: String,
    /// SHA-256, known for large files.
    pub sha256: Option<String>,
}

/// The Hub's answer.
#[derive(Debug, Deserialize)]
struct Answer {
    /// The commit.
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    /// Path in the repository.
    rfilename: String,
    size: Option<u64>,
    /// Git's hash of the file, or of its pointer if it is a large file.
    blob_id: Option<String>,
    lfs: Option<LargeFile>,
}

/// A file in the Hub's store of large files.
#[derive(Debug, Deserialize)]
struct LargeFile {
    sha256: String,
    size: u64,
}

impl Listing {
    /// Parses the answer of the Hub. Files without a hash or a size are left out.
    ///
    /// # Arguments
    /// * `source` - the repository with its revision, for messages
    pub fn parse(body: &[u8], endpoint: &str, source: &str) -> Result<Self> {
        let answer = serde_json::from_slice(body).with_context(|| format!("{endpoint} does not answer as the Hub: check HF_ENDPOINT"))?;
        let Answer { sha: commit, siblings } = answer;
        ensure!(hex(&commit, 40), "the Hub says that `{source}` is at commit `{commit}`, expected 40 hexadecimal digits");
        let mut files = Vec::new();
        let mut sum = 0u64;
        for Sibling { rfilename: path, size, blob_id, lfs } in siblings {
            let (sha256, bytes) = match lfs {
                Some(LargeFile { sha256, size }) => (Some(sha256), Some(size)),
                None => (None, size),
            };
            let (Some(id), Some(bytes)) = (sha256.clone().or(blob_id), bytes) else { continue };
            if !path.split('/').all(is_name) {
                bail!("{source} has a file of the path `{path}`, which leads out of the repository");
            }
            ensure!(hex(&id, 40) || hex(&id, 64), "{source}/{path} has the hash `{id}`, expected 40 or 64 hexadecimal digits");
            let total = sum.checked_add(bytes).filter(|sum| *sum <= MAX_BYTES);
            sum =
                total.with_context(|| format!("{source}/{path} has {bytes} bytes, expected at most {MAX_BYTES} of all files together"))?;
            files.push(ListedFile { path, bytes, id, sha256 });
        }
        Ok(Self { commit, files })
    }
}

fn hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// True for names of files and folders, which become those of files in the cache and parts of addresses.
fn is_name(part: &str) -> bool {
    // On Windows `C:x` is a path on another drive.
    let leads_out = part.contains(['\\', '\0']) || (cfg!(windows) && part.contains(':'));
    !leads_out && !matches!(part, "" | "." | "..")
}

/// Returns the size of the file of which an answer has the bytes `range`; `None` if it has others.
///
/// # Arguments
/// * `listed` - the size in the Hub's list, which counts if the answer has no size
pub fn answered(
    status: u16,
    content_range_header: Option<&str>,
    content_length: Option<&str>,
    range: &Range<u64>,
    listed: u64,
) -> Option<u64> {
    let whole = *range == (0..listed);
    match (status, content_range_header.and_then(content_range)) {
        (206, Some((bytes, len))) if bytes == *range => len.or(Some(listed)),
        (200, None) if whole => Some(content_length.and_then(|len| len.parse().ok()).unwrap_or(listed)),
        _ => None,
    }
}

/// The range of `bytes 0-99/1000`, and the size of the file if it is known.
fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, len) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let len = if len == "*" { None } else { Some(len.parse().ok()?) };
    Some((first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?, len))
}

/// A path with the bytes encoded that an address cannot have.
pub fn encoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => text.push(char::from(byte)),
            _ => text += &format!("%{byte:02X}"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(path: &str, size: u64) -> Result<Listing> {
        let hash = "0".repeat(40);
        let file = |path: &str, size: u64| json!({ "rfilename": path, "size": size, "blobId": hash });
        let body = json!({ "sha": hash, "siblings": [file("config.json", 10), file(path, size)] });
        Listing::parse(body.to_string().as_bytes(), "https://hub.example", "hf:a/b")
    }

    #[test]
    fn paths_stay_in_the_repository() {
        for path in ["a", "a/b.bin", ".gitattributes", "a..b/...", "a b?#"] {
            assert_eq!(parsed(path, 1).unwrap().files[1].path, path);
        }
        for path in ["", ".", "..", "../a", "a/../../b/c", "a/..", "./a", "/a", "a//b", "a/", "a\\b", "..\\a", "a\0"] {
            let error = parsed(path, 1).unwrap_err();
            assert!(error.to_string().contains("leads out of the repository"), "{path:?}: {error}");
        }
    }

    #[test]
    fn sums_of_sizes_do_not_overflow() {
        assert!(parsed("a", MAX_BYTES - 10).is_ok());
        for size in [MAX_BYTES - 9, u64::MAX - 10, u64::MAX] {
            let error = parsed("a", size).unwrap_err();
            assert!(error.to_string().contains(&format!("hf:a/b/a has {size} bytes, expected at most")), "{error}");
        }
    }

    #[test]
    fn ranges_of_answers() {
        assert_eq!(content_range("bytes 0-99/1000"), Some((0..100, Some(1000))));
        assert_eq!(content_range("bytes 5-5/*"), Some((5..6, None)));
        for text in ["", "bytes */1000", "bytes 0-99", "0-99/1000", "bytes 0-18446744073709551615/1", "bytes 0-9/x"] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }

    #[test]
    fn names_in_addresses() {
        assert_eq!(encoded("a/model-1.safetensors"), "a/model-1.safetensors");
        assert_eq!(encoded("a b?#%é"), "a%20b%3F%23%25%C3%A9");
    }
}
