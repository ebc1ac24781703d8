//! The vocabulary file `qwen.tiktoken`: one token a line, the base64 of its bytes and its rank.
//!
//! [`Vocabulary::parse`] accepts what tiktoken accepts: any ASCII white space between and around the fields, any line end, empty lines, a
//! byte order mark, lines in any order. [`Vocabulary::to_bytes`] writes one form: `BASE64 RANK\n` in the order of the ranks.

use crate::{AddedToken, Family, SpecialIds, special::qwen_vl_tokens};
use base64::alphabet;
use base64::engine::{Engine, GeneralPurpose, GeneralPurposeConfig};
use std::ops::Range;

/// Padded standard base64. Python ignores the unused bits of the last character, so they are ignored here too.
const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Characters of a line that an error quotes.
const QUOTED: usize = 40;

/// The tokens of a vocabulary by rank: ranks without gaps, no token twice, and a token for each of the 256 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// Bytes of all tokens in the order of their ranks.
    bytes: Vec<u8>,
    /// End of each token in `bytes`.
    ends: Vec<u32>,
    /// Ranks in the order of their tokens' bytes, for [`Self::rank`].
    sorted: Vec<u32>,
}

/// The reason why a vocabulary cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VocabularyError {
    /// A line is wrong.
    #[error("vocabulary (qwen.tiktoken), line {line}: {problem}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// The value found and the value expected.
        problem: String,
    },
    /// The lines are valid, but together they are not a vocabulary.
    #[error("vocabulary (qwen.tiktoken): {problem}")]
    File {
        /// The value found and the value expected.
        problem: String,
    },
    /// The vocabulary belongs to another model.
    #[error(
        "vocabulary (qwen.tiktoken): it has {ranks} tokens, which makes {found} the id of `<img>`, expected `visual.image_start_id` = {expected}: the file is cut off or belongs to another model"
    )]
    ImageStart {
        /// Number of ranks.
        ranks: usize,
        /// Id of `<img>` by the vocabulary.
        found: u32,
        /// Id of `<img>` by the model's configuration.
        expected: u32,
    },
    /// The list of added tokens is wrong.
    #[error("added tokens: {problem}")]
    Added {
        /// The token, the value found and the value expected.
        problem: String,
    },
}

/// A token as the file lists it.
struct Entry {
    rank: u32,
    line: usize,
    /// Its bytes in the decoded text.
    token: Range<usize>,
}

impl Vocabulary {
    /// Reads a vocabulary file and checks all that the runtime relies on.
    pub fn parse(file: &[u8]) -> Result<Self, VocabularyError> {
        if u32::try_from(file.len()).is_err() {
            return Err(VocabularyError::File { problem: format!("it has {} bytes, expected less than 4 GiB", file.len()) });
        }
        let (mut entries, decoded) = parse_lines(file.strip_prefix(BYTE_ORDER_MARK).unwrap_or(file))?;
        entries.sort_by_key(|entry| (entry.rank, entry.line));

        let mut vocabulary = Self { bytes: Vec::with_capacity(decoded.len()), ends: Vec::with_capacity(entries.len()), sorted: Vec::new() };
        for (index, Entry { rank, line, token }) in entries.iter().enumerate() {
            if (*rank as usize) < index {
                return Err(VocabularyError::Line { line: *line, problem: format!("rank {rank} occurs in an earlier line too") });
            }
            if *rank as usize > index {
                return Err(VocabularyError::Line {
                    line: *line,
                    problem: format!("rank {rank} was found, but no line has rank {index}: expected ranks without gaps"),
                });
            }
            vocabulary.bytes.extend_from_slice(&decoded[token.clone()]);
            vocabulary.ends.push(vocabulary.bytes.len() as u32);
        }
        vocabulary.sort();
        vocabulary.check_tokens(|rank| Some(entries[rank as usize].line))?;
        Ok(vocabulary)
    }

    /// Makes a vocabulary of tokens by rank, with the checks of [`Self::parse`].
    pub fn from_tokens<T: AsRef<[u8]>>(tokens: impl IntoIterator<Item = T>) -> Result<Self, VocabularyError> {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for token in tokens {
            bytes.extend_from_slice(token.as_ref());
            let end = u32::try_from(bytes.len());
            ends.push(end.map_err(|_| VocabularyError::File { problem: "its tokens have 4 GiB or more".to_owned() })?);
        }
        let mut vocabulary = Self { bytes, ends, sorted: Vec::new() };
        vocabulary.sort();
        vocabulary.check_tokens(|_| None)?;
        Ok(vocabulary)
    }

    fn sort(&mut self) {
        let mut sorted: Vec<u32> = (0..self.ends.len() as u32).collect();
        sorted.sort_unstable_by_key(|rank| (self.token(*rank), *rank));
        self.sorted = sorted;
    }

    /// Checks that no token occurs twice, and that every byte is a token, so that every text can be encoded. `line_of` a rank, for errors.
    fn check_tokens(&self, line_of: impl Fn(u32) -> Option<usize>) -> Result<(), VocabularyError> {
        let twice = self.sorted.windows(2).find(|pair| self.token(pair[0]) == self.token(pair[1]));
        if let Some([first, second]) = twice {
            let problem = format!("rank {second} has the same token as rank {first}");
            return Err(match line_of(*second) {
                Some(line) => VocabularyError::Line { line, problem },
                None => VocabularyError::File { problem },
            });
        }
        match (0..=u8::MAX).find(|byte| self.rank(&[*byte]).is_none()) {
            Some(byte) => Err(VocabularyError::File {
                problem: format!(
                    "it has {} tokens, and none is the single byte 0x{byte:02x}: the file is cut off or not a vocabulary",
                    self.len()
                ),
            }),
            None => Ok(()),
        }
    }

    /// Checks the vocabulary against `visual.image_start_id` of a model.
    pub fn check_image_start(&self, expected: u32) -> Result<(), VocabularyError> {
        let found = self.special().img_start;
        if found == expected { Ok(()) } else { Err(VocabularyError::ImageStart { ranks: self.len(), found, expected }) }
    }

    /// Checks the added tokens that a checkpoint lists. Returns the ids of the special ones, and all added tokens: those of the 2023 model
    /// need not be listed.
    pub fn added_tokens(&self, family: Family, listed: &[AddedToken]) -> Result<(SpecialIds, Vec<AddedToken>), VocabularyError> {
        if family != Family::QwenVl {
            self.check_added(listed)?;
            let special =
                SpecialIds::of_tokens(listed).map_err(|text| VocabularyError::Added { problem: format!("`{text}` is missing") })?;
            return Ok((special, listed.to_vec()));
        }
        let mut tokens = qwen_vl_tokens(self.len() as u32);
        tokens.extend_from_slice(listed);
        self.check_added(&tokens)?;
        Ok((self.special(), tokens))
    }

    /// Checks that added tokens have a text and that they differ from the ranks and from each other.
    fn check_added(&self, tokens: &[AddedToken]) -> Result<(), VocabularyError> {
        let wrong = |problem| Err(VocabularyError::Added { problem });
        for (index, AddedToken { id, text, .. }) in tokens.iter().enumerate() {
            if text.is_empty() {
                return wrong(format!("token {id} has no text"));
            }
            if (*id as usize) < self.len() {
                return wrong(format!("`{text}` has id {id}, expected {} or more, behind the ranks of the vocabulary", self.len()));
            }
            if let Some(other) = tokens[..index].iter().find(|other| other.id == *id || other.text == *text) {
                return wrong(format!("`{text}` with id {id} and `{}` with id {}, expected each id and text once", other.text, other.id));
            }
        }
        Ok(())
    }

    /// Writes the file in the form `BASE64 RANK\n`, by rank.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut file = String::with_capacity(self.bytes.len() * 2 + self.len() * 10);
        for (rank, token) in self.tokens().enumerate() {
            BASE64.encode_string(token, &mut file);
            file.push(' ');
            file.push_str(&rank.to_string());
            file.push('\n');
        }
        file.into_bytes()
    }

    /// Number of ranks.
    #[expect(clippy::len_without_is_empty, reason = "a vocabulary has at least the 256 bytes")]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns the bytes of a token.
    pub fn token(&self, rank: u32) -> Option<&[u8]> {
        let end = *self.ends.get(rank as usize)? as usize;
        let begin = if rank == 0 { 0 } else { self.ends[rank as usize - 1] as usize };
        Some(&self.bytes[begin..end])
    }

    /// Returns the rank of a token.
    pub fn rank(&self, token: &[u8]) -> Option<u32> {
        let found = self.sorted.binary_search_by_key(&Some(token), |rank| self.token(*rank));
        found.ok().map(|index| self.sorted[index])
    }

    /// Splits a token into the two that merge last when its bytes are encoded by lower ranks alone. `None` for a single byte, and for a token
    /// that no sequence of merges leads to.
    pub fn last_merge(&self, rank: u32) -> Option<[&[u8]; 2]> {
        let token = self.token(rank)?;
        let mut ends: Vec<usize> = (1..=token.len()).collect();
        while ends.len() > 2 {
            let begin = |part: usize| if part == 0 { 0 } else { ends[part - 1] };
            let merged = |part: usize| self.rank(&token[begin(part)..ends[part + 1]]).filter(|merged| *merged < rank);
            let (_, part) = (0..ends.len() - 1).filter_map(|part| Some((merged(part)?, part))).min()?;
            ends.remove(part);
        }
        (ends.len() == 2).then(|| token.split_at(ends[0]).into())
    }

    /// Iterates over the bytes of all tokens, by rank.
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.ends.len()).map(|rank| self.token(rank as u32).unwrap_or_default())
    }

    /// Ids of the special tokens of the 2023 model, which follow the ranks.
    pub fn special(&self) -> SpecialIds {
        SpecialIds::after(self.len() as u32)
    }
}

/// Decodes every line that is not empty.
fn parse_lines(file: &[u8]) -> Result<(Vec<Entry>, Vec<u8>), VocabularyError> {
    let (mut entries, mut decoded) = (Vec::new(), Vec::with_capacity(file.len() / 2));
    for (index, text) in lines(file).enumerate() {
        let line = index + 1;
        let wrong = |expected: &str| {
            let quoted: String = String::from_utf8_lossy(text).chars().take(QUOTED).collect();
            VocabularyError::Line { line, problem: format!("`{quoted}`, expected {expected}") }
        };
        let mut fields = text.split(is_white_space).filter(|field| !field.is_empty());
        let Some(token) = fields.next() else { continue };
        let (Some(rank), None) = (fields.next(), fields.next()) else {
            return Err(wrong("two fields: the base64 of a token and its rank"));
        };
        let begin = decoded.len();
        BASE64.decode_vec(token, &mut decoded).map_err(|_| wrong("the base64 of a token in the first field"))?;
        let rank = std::str::from_utf8(rank).ok().and_then(|rank| rank.parse().ok());
        let rank = rank.ok_or_else(|| wrong("a rank in the second field"))?;
        entries.push(Entry { rank, line, token: begin..decoded.len() });
    }
    Ok((entries, decoded))
}

/// Lines as Python's `bytes.splitlines` has them: they end in LF, CR or CRLF.
fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = file;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = &rest[end..];
        rest = rest.strip_prefix(b"\r\n").or_else(|| rest.get(1..)).unwrap_or_default();
        Some(line)
    })
}

/// ASCII white space as Python's `bytes.split` has it.
fn is_white_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single_bytes() -> String {
        (0..=u8::MAX).map(|byte| format!("{} {byte}\n", BASE64.encode([byte]))).collect()
    }

    fn error(file: &str) -> String {
        Vocabulary::parse(file.as_bytes()).expect_err("a bad vocabulary").to_string()
    }

    #[test]
    fn reads_all_that_tiktoken_reads() {
        let strict = single_bytes() + "YWI= 256\nYWJj 257\n";
        let expected = Vocabulary::parse(strict.as_bytes()).unwrap();
        assert_eq!(expected.len(), 258);
        assert_eq!(expected.token(0x41), Some(b"A".as_slice()));
        assert_eq!(expected.token(257), Some(b"abc".as_slice()));
        assert_eq!(expected.token(258), None);
        for (rank, token) in (0..).zip(expected.tokens()) {
            assert_eq!(expected.rank(token), Some(rank));
        }
        for other in ["", "ac", "abcd", "b c"] {
            assert_eq!(expected.rank(other.as_bytes()), None, "{other}");
        }
        let reversed: Vec<&str> = strict.lines().rev().collect();
        for (name, file) in [
            ("no line end at the end", strict.trim_end().to_owned()),
            ("an empty line at the end", strict.clone() + "\n"),
            ("an empty line at the start", "\n".to_owned() + &strict),
            ("a line of white space", strict.clone() + " \t\n"),
            ("CRLF", strict.replace('\n', "\r\n")),
            ("CRLF and an empty last line", strict.replace('\n', "\r\n") + "\r\n"),
            ("CR", strict.replace('\n', "\r")),
            ("tabs", strict.replace(' ', "\t")),
            ("several blanks", strict.replace(' ', "  \x0b\x0c ")),
            ("blanks at line ends", strict.replace('\n', " \n")),
            ("blanks at line starts", strict.replace('\n', "\n  ")),
            ("a sign", strict.replace(" 25", " +25")),
            ("unused bits", strict.replace("YWI=", "YWJ=")),
            ("a byte order mark", "\u{feff}".to_owned() + &strict),
            ("another order", reversed.join("\n")),
        ] {
            assert_ne!(file, strict, "{name}");
            let vocabulary = Vocabulary::parse(file.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(vocabulary, expected, "{name}");
            assert_eq!(vocabulary.to_bytes(), strict.as_bytes(), "{name}");
        }
    }

    #[test]
    fn made_of_tokens() {
        let parsed = Vocabulary::parse((single_bytes() + "YWI= 256\nYWJj 257\n").as_bytes()).unwrap();
        assert_eq!(Vocabulary::from_tokens(parsed.tokens()).unwrap(), parsed);
        let twice = parsed.tokens().chain([b"ab".as_slice()]);
        assert!(Vocabulary::from_tokens(twice).unwrap_err().to_string().contains("rank 258 has the same token as rank 256"));
        assert!(Vocabulary::from_tokens(parsed.tokens().skip(1)).unwrap_err().to_string().contains("single byte 0x00"));
    }

    #[test]
    fn merges_by_rank() {
        let tokens = single_bytes() + "YWI= 256\nYmM= 257\nYWJj 258\nYWJjYWI= 259\nenp6 260\n";
        let vocabulary = Vocabulary::parse(tokens.as_bytes()).unwrap();
        let parts = |rank| vocabulary.last_merge(rank).map(|parts| parts.map(|part| String::from_utf8_lossy(part).into_owned()));
        let expected = |left: &str, right: &str| Some([left.to_owned(), right.to_owned()]);
        assert_eq!(parts(256), expected("a", "b"));
        // `ab` merges before `bc`.
        assert_eq!(parts(258), expected("ab", "c"));
        assert_eq!(parts(259), expected("abc", "ab"));
        assert_eq!((parts(97), parts(260), parts(261)), (None, None, None));
    }

    #[test]
    fn names_line_and_value() {
        let good = single_bytes();
        for (tail, expected) in [
            ("YWI= 256\nYWJj 256\n", "line 258: rank 256 occurs in an earlier line too"),
            ("YWI= 256\nYWI= 257\n", "line 258: rank 257 has the same token as rank 256"),
            ("YWI= 258\n", "line 257: rank 258 was found, but no line has rank 256"),
            ("YWI=\n", "line 257: `YWI=`, expected two fields"),
            ("YWI= 256 3\n", "line 257: `YWI= 256 3`, expected two fields"),
            ("\n\nYWI=\n", "line 259: `YWI=`, expected two fields"),
            ("YWI 256\n", "line 257: `YWI 256`, expected the base64"),
            ("YW!= 256\n", "line 257: `YW!= 256`, expected the base64"),
            ("A=== 256\n", "line 257: `A=== 256`, expected the base64"),
            ("YW==YW== 256\n", "line 257: `YW==YW== 256`, expected the base64"),
            ("YWI= 25x\n", "line 257: `YWI= 25x`, expected a rank"),
            ("YWI= -1\n", "line 257: `YWI= -1`, expected a rank"),
            ("YWI= 4294967296\n", "line 257: `YWI= 4294967296`, expected a rank"),
            ("= 256\n", "line 257: `= 256`, expected the base64"),
        ] {
            let error = error(&(good.clone() + tail));
            assert!(error.contains(expected), "{tail:?}: {error}");
        }
        let long = error(&("x".repeat(1000) + " 1"));
        assert!(long.len() < 200, "{long}");
    }

    #[test]
    fn incomplete_files() {
        let good = single_bytes();
        let empty = error("");
        assert!(empty.contains("it has 0 tokens, and none is the single byte 0x00"), "{empty}");
        let first_lines = good.lines().take(100).collect::<Vec<_>>().join("\n");
        assert!(error(&first_lines).contains("it has 100 tokens, and none is the single byte 0x64"));
        let cut = error(&good[..good.len() - 6]);
        assert!(cut.contains("line 256: `/w=`, expected two fields"), "{cut}");
        // A page instead of the file.
        assert!(error("<!doctype html>\n<p>").contains("line 1: `<!doctype html>`"));
    }

    #[test]
    fn added_tokens_are_checked() {
        let vocabulary = Vocabulary::parse(single_bytes().as_bytes()).unwrap();
        let texts = [
            "<|endoftext|>",
            "<|im_start|>",
            "<|im_end|>",
            "<|object_ref_start|>",
            "<|object_ref_end|>",
            "<|box_start|>",
            "<|box_end|>",
            "<|quad_start|>",
            "<|quad_end|>",
            "<|vision_start|>",
            "<|vision_end|>",
            "<|image_pad|>",
        ];
        let token = |(id, text): (u32, &&str)| AddedToken { id, text: (*text).to_owned(), special: true };
        let tokens: Vec<_> = (256..).zip(&texts).map(token).collect();
        assert_eq!(vocabulary.added_tokens(Family::Qwen2Vl, &tokens).unwrap().0.imgpad, 267);
        let changed = |index: usize, id, text: &str| {
            let mut tokens = tokens.clone();
            tokens[index] = AddedToken { id, text: text.to_owned(), special: true };
            vocabulary.added_tokens(Family::Qwen2Vl, &tokens).unwrap_err().to_string()
        };
        for (error, expected) in [
            (changed(3, 259, ""), "token 259 has no text"),
            (changed(0, 255, "<|endoftext|>"), "`<|endoftext|>` has id 255, expected 256 or more"),
            (changed(1, 256, "<|im_start|>"), "`<|im_start|>` with id 256 and `<|endoftext|>` with id 256, expected each id and text once"),
            (changed(1, 300, "<|endoftext|>"), "`<|endoftext|>` with id 300 and `<|endoftext|>` with id 256"),
            (changed(11, 267, "<|pad|>"), "`<|image_pad|>` is missing"),
        ] {
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn belongs_to_a_model() {
        let vocabulary = Vocabulary::parse(single_bytes().as_bytes()).unwrap();
        assert_eq!(vocabulary.check_image_start(470), Ok(()));
        let error = vocabulary.check_image_start(471).unwrap_err().to_string();
        assert!(error.contains("256 tokens") && error.contains("470") && error.contains("471"), "{error}");
    }
}
