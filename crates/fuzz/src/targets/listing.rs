//! The Hub's answers, which `quantize` reads: the list of a repository's files, and the headers of the answers with their bytes.

use crate::Target;
use crate::mutate::json;
use quantize::hub_answers::{Listing, answered, encoded};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Component, Path};

/// An object: the `listing`, and `answers` to requests for ranges of its files.
pub static LISTING: Target = Target { name: "listing", max_len: 4096, run: listing, mutate: json::mutate, memory: [1 << 20, 256] };

#[derive(Deserialize)]
struct Input {
    listing: Value,
    #[serde(default)]
    answers: Vec<Answer>,
}

/// An answer to a request for the bytes `range` of a file.
#[derive(Deserialize)]
struct Answer {
    /// The number of the file.
    file: usize,
    range: [u64; 2],
    status: u16,
    content_range: Option<String>,
    content_length: Option<String>,
}

/// No file of an accepted list leads out of the repository or of the cache, sums of sizes fit, and an answer with other bytes is refused.
fn listing(bytes: &[u8]) -> bool {
    let Ok(Input { listing, answers }) = serde_json::from_slice(bytes) else { return false };
    let Ok(listing) = Listing::parse(listing.to_string().as_bytes(), "https://hub.example", "hf:owner/name") else { return false };
    let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(hex(&listing.commit) && listing.commit.len() == 40);
    let (snapshot, blobs) = (Path::new("/cache/snapshots/commit"), Path::new("/cache/blobs"));
    let mut sum = 0u64;
    for file in &listing.files {
        let path = Path::new(&file.path);
        assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{path:?}");
        assert_eq!(path.components().count(), file.path.split('/').count(), "{path:?}");
        if !file.path.contains('/') {
            assert_eq!(snapshot.join(path).parent(), Some(snapshot), "{path:?}");
        }
        assert!(hex(&file.id) && !file.id.is_empty());
        assert_eq!(blobs.join(&file.id).parent(), Some(blobs));
        assert!(file.sha256.as_ref().is_none_or(|hash| *hash == file.id));
        let address = encoded(&file.path);
        assert!(address.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~/%".contains(&byte)), "{address}");
        assert_eq!(decoded(&address), file.path.as_bytes(), "{address}");
        sum = sum.checked_add(file.bytes).expect("the sum of sizes fits");
    }
    // The converter rounds offsets up to windows.
    assert!(sum.checked_add(1 << 32).is_some());
    for answer in answers {
        let Answer { file, range: [start, end], status, content_range, content_length } = answer;
        let Some(listed) = listing.files.get(file).map(|file| file.bytes).filter(|listed| start < end && end <= *listed) else { continue };
        let found = answered(status, content_range.as_deref(), content_length.as_deref(), &(start..end), listed);
        if found == Some(listed) && status == 206 {
            let text = content_range.expect("an accepted part names its range");
            let numbers: Vec<u64> = text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
            assert_eq!(numbers[..2], [start, end - 1], "{text}");
            assert!(numbers.get(2).is_none_or(|len| *len == listed), "{text}");
        } else if found == Some(listed) {
            assert_eq!((status, start, end), (200, 0, listed), "an answer without a range is the whole file");
        }
    }
    true
}

/// The bytes of a path in an address.
fn decoded(address: &str) -> Vec<u8> {
    let mut bytes = address.bytes();
    let mut path = Vec::new();
    while let Some(byte) = bytes.next() {
        path.push(match byte {
            b'%' => {
                let digits = [bytes.next(), bytes.next()].map(|digit| char::from(digit.expect("two digits")).to_digit(16));
                let [high, low] = digits.map(|digit| digit.expect("a hexadecimal digit"));
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    path
}
