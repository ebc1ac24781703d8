//! The rank format of `qwen.tiktoken`: one token in a line, base64 of its bytes, a blank, its rank.

use crate::ProcessorError;
use std::collections::HashMap;

/// The tokens of a vocabulary by rank.
pub(crate) struct Vocabulary {
    /// Bytes of all tokens, one after the other.
    bytes: Vec<u8>,
    /// Where each token ends in `bytes`.
    ends: Vec<u32>,
}

impl Vocabulary {
    /// Reads the file. CRLF line ends and a missing last line end are fine; anything else has to be a line of the format.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, ProcessorError> {
        let mut tokens: Vec<(u32, usize, Vec<u8>)> = Vec::new();
        let file = file.strip_suffix(b"\n").unwrap_or(file);
        for (index, line) in file.split(|byte| *byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let (token, rank) = parse_line(line).map_err(|reason| ProcessorError::VocabularyLine { line: index + 1, reason })?;
            tokens.push((rank, index + 1, token));
        }
        tokens.sort_by_key(|(rank, line, _)| (*rank, *line));

        let mut vocabulary = Self { bytes: Vec::new(), ends: Vec::with_capacity(tokens.len()) };
        for (index, (rank, line, token)) in tokens.iter().enumerate() {
            if (*rank as usize) < index {
                return Err(ProcessorError::VocabularyLine { line: *line, reason: format!("rank {rank} was given before") });
            }
            if *rank as usize > index {
                return Err(ProcessorError::Vocabulary { reason: format!("rank {index} is missing (ranks up to {rank} follow it)") });
            }
            vocabulary.bytes.extend_from_slice(token);
            vocabulary.ends.push(vocabulary.bytes.len() as u32);
        }
        vocabulary.check_tokens(&tokens)?;
        Ok(vocabulary)
    }

    /// No token twice, and every single byte is a token, so that every text can be encoded.
    fn check_tokens(&self, tokens: &[(u32, usize, Vec<u8>)]) -> Result<(), ProcessorError> {
        let mut ranks = HashMap::with_capacity(tokens.len());
        for (rank, line, token) in tokens {
            if let Some(earlier) = ranks.insert(token.as_slice(), rank) {
                return Err(ProcessorError::VocabularyLine {
                    line: *line,
                    reason: format!("the token of rank {rank} is the same as that of rank {earlier}"),
                });
            }
        }
        match (0..=u8::MAX).find(|byte| !ranks.contains_key([*byte].as_slice())) {
            Some(byte) => Err(ProcessorError::Vocabulary {
                reason: format!(
                    "{} tokens, and none for the single byte 0x{byte:02x}: the file is cut short or not a vocabulary",
                    self.len()
                ),
            }),
            None => Ok(()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of a token.
    pub(crate) fn token(&self, id: u32) -> Option<&[u8]> {
        let end = *self.ends.get(id as usize)? as usize;
        let start = if id == 0 { 0 } else { self.ends[id as usize - 1] as usize };
        Some(&self.bytes[start..end])
    }

    /// The pair of tokens that merges into each token, in rank order.
    ///
    /// tiktoken knows no merges: in a word, it joins the neighbours whose bytes together have the lowest rank. A token of rank r then
    /// arises from one pair only, the one left over when its bytes alone are encoded with the ranks below r: whatever stands around
    /// it, no join across its borders can have happened before it, and inside the order is the same. So merges built this way,
    /// in rank order, give tiktoken's tokens exactly. A token whose bytes leave more than two parts arises only as a whole word.
    pub(crate) fn merges(&self) -> Vec<(u32, u32)> {
        let mut byte_ids = [0; 256];
        for id in 0..self.len() as u32 {
            if let Some([byte]) = self.token(id) {
                byte_ids[*byte as usize] = id;
            }
        }
        let mut merges = Vec::with_capacity(self.len());
        let mut merged: HashMap<(u32, u32), u32, PairHash> = HashMap::with_capacity_and_hasher(self.len(), PairHash::default());
        let mut parts = Vec::new();
        for id in 0..self.len() as u32 {
            let token = self.token(id).unwrap_or_default();
            if token.len() < 2 {
                continue;
            }
            parts.clear();
            parts.extend(token.iter().map(|byte| byte_ids[*byte as usize]));
            while parts.len() > 2 {
                let lowest = parts.windows(2).enumerate().filter_map(|(at, pair)| Some((*merged.get(&(pair[0], pair[1]))?, at))).min();
                let Some((joined, at)) = lowest else { break };
                parts[at] = joined;
                parts.remove(at + 1);
            }
            if let [left, right] = parts[..] {
                merged.insert((left, right), id);
                merges.push((left, right));
            }
        }
        merges
    }
}

fn parse_line(line: &[u8]) -> Result<(Vec<u8>, u32), String> {
    let shown = || String::from_utf8_lossy(&line[..line.len().min(40)]).into_owned();
    let Some(blank) = line.iter().position(|byte| *byte == b' ') else {
        return Err(format!("expected base64, a blank and a rank, found `{}`", shown()));
    };
    let token = decode_base64(&line[..blank]).ok_or_else(|| format!("`{}` does not start with the base64 of a token", shown()))?;
    let rank = std::str::from_utf8(&line[blank + 1..]).ok().and_then(|rank| rank.parse().ok());
    let rank = rank.ok_or_else(|| format!("`{}` does not end in a rank", shown()))?;
    Ok((token, rank))
}

/// Padded standard base64; `None` if it is anything else, or empty.
fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take(2).take_while(|byte| **byte == b'=').count();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for group in text[..text.len() - padding].chunks(4) {
        let mut bits = 0u32;
        for byte in group {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - group.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

/// Two ids in one multiplication: SipHash takes most of the time otherwise.
#[derive(Default, Clone, Copy)]
struct PairHasher(u64);
type PairHash = std::hash::BuildHasherDefault<PairHasher>;

impl std::hash::Hasher for PairHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, value: u32) {
        self.0 = (self.0.rotate_left(32) ^ u64::from(value)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single_bytes() -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        (0..256usize).map(|byte| format!("{}{}== {byte}\n", LETTERS[byte >> 2] as char, LETTERS[(byte & 3) << 4] as char)).collect()
    }

    fn error(file: &str) -> String {
        Vocabulary::parse(file.as_bytes()).err().expect("an error").to_string()
    }

    #[test]
    fn reads_both_line_ends() {
        let file = single_bytes() + "YWI= 256\nYWJj 257";
        for file in [file.clone(), file.replace('\n', "\r\n"), file + "\n"] {
            let vocabulary = Vocabulary::parse(file.as_bytes()).unwrap();
            assert_eq!(vocabulary.len(), 258);
            assert_eq!(vocabulary.token(0x41), Some(b"A".as_slice()));
            assert_eq!(vocabulary.token(257), Some(b"abc".as_slice()));
            assert_eq!(vocabulary.token(258), None);
            assert_eq!(vocabulary.merges(), [(0x61, 0x62), (256, 0x63)]);
        }
    }

    #[test]
    fn a_token_that_can_not_arise_has_no_merge() {
        // `abcd` is there, and no pair of tokens that leads to it: only a word that is just `abcd` gives it.
        let vocabulary = Vocabulary::parse((single_bytes() + "YWJjZA== 256").as_bytes()).unwrap();
        assert_eq!(vocabulary.merges(), []);
    }

    #[test]
    fn names_the_bad_line() {
        let good = single_bytes();
        for (tail, expected) in [
            ("YWI= 256\nYWJj 256\n", "line 258: rank 256 was given before"),
            ("YWI= 256\nYWI= 257\n", "line 258: the token of rank 257 is the same as that of rank 256"),
            ("YWI= 257\n", "rank 256 is missing"),
            ("YWI=\n", "line 257: expected base64, a blank and a rank, found `YWI=`"),
            ("YWI 256\n", "line 257: `YWI 256` does not start with the base64"),
            ("YW!= 256\n", "line 257: `YW!= 256` does not start with the base64"),
            ("YWI= 25x\n", "line 257: `YWI= 25x` does not end in a rank"),
            ("YWI= \n", "line 257: `YWI= ` does not end in a rank"),
            ("\nYWI= 256\n", "line 257: expected base64"),
            (" 256\n", "line 257: ` 256` does not start with the base64"),
        ] {
            let error = error(&(good.clone() + tail));
            assert!(error.contains(expected), "{tail:?}: {error}");
        }
        assert!(error("").contains("line 1"));
        let cut = &good[..good.len() / 2];
        assert!(error(cut).contains("vocabulary (qwen.tiktoken)"), "{}", error(cut));
        let whole_lines = good.lines().take(100).collect::<Vec<_>>().join("\n");
        assert!(error(&whole_lines).contains("100 tokens, and none for the single byte 0x64"));
    }

    #[test]
    fn base64_of_every_length() {
        assert_eq!(decode_base64(b"AA=="), Some(vec![0]));
        assert_eq!(decode_base64(b"//8="), Some(vec![255, 255]));
        assert_eq!(decode_base64(b"AQID"), Some(vec![1, 2, 3]));
        assert_eq!(decode_base64(b"AQIDBA=="), Some(vec![1, 2, 3, 4]));
        for bad in ["", "A", "AA", "AAA", "====", "A===", "AA==AA==", "=AAA"] {
            assert_eq!(decode_base64(bad.as_bytes()), None, "{bad}");
        }
    }
}
