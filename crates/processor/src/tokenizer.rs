//! Text to token ids and back.

use crate::added::{AddedTokens, KeepSpecials, SpecialTokens};
use crate::{ProcessorError, bpe::encode_word, nfc::nfc, split};
use qwen_vl_format::{AddedToken, Family, SpecialIds, Vocabulary};
use std::{borrow::Cow, ops::Range};

/// Positions of a picture in the published model.
pub const DEFAULT_QUERIES: usize = 256;

/// The tokenizer of a family: NFC, byte-level BPE by ranks, and special tokens. For the 2023 model also images as spans of path bytes.
///
/// It does not use the `tokenizers` crate. That crate takes merges and characters where this vocabulary has ranks and bytes, its NFC is that
/// of Unicode 9, its splitter stops silently where the regex engine gives up, and it adds size to the wasm.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    family: Family,
    special: SpecialIds,
    added: AddedTokens,
    queries: usize,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ranks = self.vocabulary.len();
        f.debug_struct("Tokenizer").field("family", &self.family).field("ranks", &ranks).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Creates the tokenizer of a 2023 model from the bytes of a `qwen.tiktoken`.
    pub fn from_tiktoken(file: &[u8]) -> Result<Self, ProcessorError> {
        Self::new(file, Family::QwenVl, &[])
    }

    /// Creates a tokenizer from the bytes of a `qwen.tiktoken` and the tokens after its ranks, see [`Vocabulary::added_tokens`].
    pub fn new(file: &[u8], family: Family, added: &[AddedToken]) -> Result<Self, ProcessorError> {
        let vocabulary = Vocabulary::parse(file)?;
        let (special, tokens) = vocabulary.added_tokens(family, added)?;
        let added = AddedTokens::new(family, &special, tokens);
        Ok(Self { vocabulary, family, special, added, queries: DEFAULT_QUERIES })
    }

    /// The generation whose texts this tokenizer reads.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Sets the number of positions of a picture, for 2023 models whose number is not [`DEFAULT_QUERIES`].
    pub fn with_queries(mut self, queries: usize) -> Self {
        self.queries = queries;
        self
    }

    /// Number of positions of a picture of the 2023 model.
    pub fn queries(&self) -> usize {
        self.queries
    }

    /// Ids of the special tokens.
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// Number of ids up to the last added token.
    pub fn len(&self) -> usize {
        self.added.last_id() as usize + 1
    }

    /// Always false: a vocabulary has at least the single bytes.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Returns the bytes of an ordinary token.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocabulary.token(id)
    }

    /// Returns the bytes of each id up to the last added token, none for an id without a token, and true if the token is not part of a text.
    pub fn tokens(&self) -> impl Iterator<Item = (&[u8], bool)> {
        (0..self.len() as u32).map(|id| match self.vocabulary.token(id) {
            Some(bytes) => (bytes, false),
            None => {
                (self.added.text(id, KeepSpecials::All).unwrap_or_default().as_bytes(), self.added.text(id, KeepSpecials::None).is_none())
            }
        })
    }

    /// Checks the vocabulary against the token of pictures in a model's configuration: `<img>` of the 2023 model, `<|image_pad|>` of the others.
    pub fn check_image_token(&self, expected: u32) -> Result<(), ProcessorError> {
        match self.family {
            Family::QwenVl => Ok(self.vocabulary.check_image_start(expected)?),
            _ if self.special.imgpad == expected => Ok(()),
            _ => Err(ProcessorError::ImageToken { found: self.special.imgpad, expected }),
        }
    }

    /// Returns the token ids of a text.
    ///
    /// The 2023 model: NFC comes first. If `allowed` includes the picture tags, `<img>path</img>` becomes `<img>`, the bytes of the path as ids,
    /// `<imgpad>` up to [`Self::queries`] ids, and `</img>`. Positions in errors count characters of the text after NFC.
    ///
    /// The later generations: added tokens are cut out of the text as it is, and NFC acts on the pieces between them.
    pub fn encode(&self, text: &str, allowed: SpecialTokens) -> Result<Vec<u32>, ProcessorError> {
        let has_spans = self.family == Family::QwenVl;
        let text = if has_spans { nfc(text) } else { text.into() };
        let normalized = |piece| if has_spans { Cow::Borrowed(piece) } else { nfc(piece) };
        let mut ids = Vec::new();
        let mut from = 0;
        while let Some((id, place)) = self.added.find(&text, from, allowed) {
            self.encode_ordinary(&normalized(&text[from..place.start]), &mut ids);
            from = place.end;
            if has_spans && id == self.special.img_start {
                from = self.encode_tagged_image(&text, place, allowed, &mut ids)?;
            } else {
                ids.push(id);
            }
        }
        self.encode_ordinary(&normalized(&text[from..]), &mut ids);
        Ok(ids)
    }

    /// Appends the span of a picture whose `<img>` is at `start`. Returns the index of the byte after its `</img>`.
    fn encode_tagged_image(
        &self,
        text: &str,
        start: Range<usize>,
        allowed: SpecialTokens,
        ids: &mut Vec<u32>,
    ) -> Result<usize, ProcessorError> {
        let character = |byte: usize| text[..byte].chars().count();
        let Some((id, end)) = self.added.find(text, start.end, allowed) else {
            return Err(ProcessorError::UnclosedImage { at: character(start.start) });
        };
        if id != self.special.img_end {
            return Err(ProcessorError::SpecialTokenInImage { token: text[end.clone()].to_owned(), at: character(end.start) });
        }
        self.encode_span(&text[start.end..end.start], Some(character(start.start)), ids)?;
        Ok(end.end)
    }

    /// Appends the span of a picture.
    pub(crate) fn encode_image(&self, path: &str, ids: &mut Vec<u32>) -> Result<(), ProcessorError> {
        self.encode_span(&nfc(path), None, ids)
    }

    fn encode_span(&self, path: &str, at: Option<usize>, ids: &mut Vec<u32>) -> Result<(), ProcessorError> {
        if path.len() > self.queries {
            let start = path.chars().take(40).collect();
            return Err(ProcessorError::ImagePathTooLong { at, bytes: path.len(), limit: self.queries, start });
        }
        ids.push(self.special.img_start);
        // The byte's value is the id, not the id of that byte's token (`tokenization_qwen.py`, `_encode_imgurl`).
        ids.extend(path.bytes().map(u32::from));
        ids.extend(std::iter::repeat_n(self.special.imgpad, self.queries - path.len()));
        ids.push(self.special.img_end);
        Ok(())
    }

    /// Appends the ids of a text in NFC without added tokens.
    fn encode_ordinary(&self, text: &str, ids: &mut Vec<u32>) {
        for word in split::words(text) {
            encode_word(&self.vocabulary, word.as_bytes(), ids);
        }
    }

    /// Returns the text of token ids.
    ///
    /// Spans of pictures of the 2023 model become `<img>path</img>` again. Bytes that are not UTF-8 become U+FFFD. Ids that are neither ranks nor special tokens
    /// (rows of the embedding without a token) are left out.
    pub fn decode(&self, ids: &[u32], keep: KeepSpecials) -> String {
        let mut bytes = Vec::new();
        let mut at = 0;
        while let Some(id) = ids.get(at) {
            self.decode_id(*id, keep, &mut bytes);
            at += 1;
            if self.family == Family::QwenVl
                && *id == self.special.img_start
                && let Some(path) = self.image_path(&ids[at..])
            {
                bytes.extend_from_slice(&path);
                at += self.queries;
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the path of a picture, if `ids` begin with what follows `<img>`: path bytes, padding, `</img>`.
    pub(crate) fn image_path(&self, ids: &[u32]) -> Option<Vec<u8>> {
        let span = ids.get(..self.queries)?;
        if ids.get(self.queries) != Some(&self.special.img_end) {
            return None;
        }
        let length = span.iter().position(|id| *id == self.special.imgpad).unwrap_or(span.len());
        span[..length].iter().map(|id| u8::try_from(*id).ok()).collect()
    }

    /// Appends the bytes of one id.
    fn decode_id(&self, id: u32, keep: KeepSpecials, bytes: &mut Vec<u8>) {
        if let Some(token) = self.vocabulary.token(id) {
            bytes.extend_from_slice(token);
        } else if let Some(text) = self.added.text(id, keep) {
            bytes.extend_from_slice(text.as_bytes());
        }
    }
}

/// Decodes token ids one by one and holds back the bytes of a character until it is complete.
///
/// All pieces together equal [`Tokenizer::decode`] of all ids, except for spans of pictures, which answers do not have: their ids are decoded
/// like any others.
#[derive(Debug, Clone)]
pub struct StreamDecoder {
    keep: KeepSpecials,
    pending: Vec<u8>,
}

impl StreamDecoder {
    /// Creates a decoder at the start of an answer.
    pub fn new(keep: KeepSpecials) -> Self {
        Self { keep, pending: Vec::new() }
    }

    /// Returns the text that `id` completes; empty if it completes no character.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        tokenizer.decode_id(id, self.keep, &mut self.pending);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            let error = match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => error,
            };
            let (valid, tail) = rest.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(valid));
            rest = tail;
            let Some(bad) = error.error_len() else { break };
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &rest[bad..];
        }
        self.pending = rest.to_vec();
        text
    }

    /// Ends the answer and returns the text that was held back: U+FFFD for an incomplete character.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}
