//! Recognises files whose contents are not of the kind that their names say.

/// The first bytes of a file that `torch.save` wrote before version 1.6: protocol 2 and a magic number.
const LEGACY_TORCH: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19";

/// Number of bytes at a file's beginning that [`recognise`] needs.
pub(crate) const HEAD_BYTES: usize = 512;

/// Returns the kind of a file and the next step, as the end of a sentence that begins with the file's name; `None` for other contents.
/// Call it only for a file that could not be parsed.
pub(crate) fn recognise(head: &[u8], len: u64) -> Option<String> {
    let head = &head[..head.len().min(HEAD_BYTES)];
    let text = head.trim_ascii_start();
    let kind = if len == 0 {
        "is empty: download or copy it again"
    } else if head.starts_with(b"version https://git-lfs") {
        let size = String::from_utf8_lossy(head);
        let size = size.lines().find_map(|line| line.strip_prefix("size "));
        let size = size.map_or_else(String::new, |size| format!(" to a file of {size} bytes"));
        return Some(format!("is a Git LFS pointer{size}: run `git lfs pull` where it was cloned"));
    } else if text.starts_with(b"<") {
        "is a web page: download the file again"
    } else if head.starts_with(LEGACY_TORCH) {
        "was saved by torch before 1.6, or in its old format: load it with torch and save it again"
    } else if head.starts_with(b"\x00\x05\x16\x07") {
        "holds file attributes of macOS (AppleDouble): take the file without `._`"
    } else if head.starts_with(b"GGUF") {
        "is a GGUF file: convert the original checkpoint"
    } else if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        "is UTF-16, as PowerShell's `>` writes it: save it as UTF-8"
    } else {
        return None;
    };
    Some(kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_files() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:9d3e\nsize 1964070447\n";
        assert!(recognise(pointer, 77).unwrap().contains("Git LFS pointer to a file of 1964070447 bytes: run `git lfs pull`"));
        assert!(recognise(b"", 0).unwrap().starts_with("is empty"));
        assert!(recognise(b"\n <!DOCTYPE html>", 17).unwrap().starts_with("is a web page"));
        assert!(recognise(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M", 99).unwrap().contains("torch before 1.6"));
        assert!(recognise(b"\x00\x05\x16\x07\x00\x02", 4096).unwrap().contains("macOS"));
        assert_eq!(recognise(b"{\"a\": 1}", 8), None);
        assert_eq!(recognise(&[0; 600], 600), None);
    }
}
