//! Text to token ids and back.

use crate::{ProcessorError, split, vocabulary::merges};
use qwen_vl_format::{SpecialIds, Vocabulary, VocabularyError};
use std::{borrow::Cow, ops::Range};
use tokenizers::{Model, models::bpe::BPE};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Positions of an image in the published model.
pub const DEFAULT_QUERIES: usize = 256;
/// Which special tokens are read as such in a text; the others are ordinary text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// Every one: the original's default, for texts from a trusted side.
    All,
    /// The nine image and grounding tags, for what stands inside a chat message: `<|im_end|>` typed by a user stays text.
    ImageAndGrounding,
    /// None.
    None,
}

/// Which special tokens are spelled out in decoded text; the others are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepSpecials {
    /// Every one.
    All,
    /// `<ref>`, `<box>`, `<quad>` and their ends: what [`crate::GroundingParser`] reads.
    Grounding,
    /// None (the path of an image stays).
    None,
}

/// The tokenizer of a Qwen-VL: NFC, byte-level BPE by ranks, special tokens, and images as spans of path bytes.
///
/// The merging is done by the model of the `tokenizers` crate. Around it stand the original's own steps, because the crate's
/// would differ: its NFC is that of Unicode 9, and its splitter stops quietly where the regex engine gives up.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    bpe: BPE,
    special: SpecialIds,
    queries: usize,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("ranks", &self.vocabulary.len()).field("queries", &self.queries).finish()
    }
}

impl Tokenizer {
    /// Builds the tokenizer from the bytes of a `qwen.tiktoken`.
    pub fn from_tiktoken(file: &[u8]) -> Result<Self, ProcessorError> {
        let vocabulary = Vocabulary::parse(file)?;
        let word = |id| latin1(vocabulary.token(id).unwrap_or_default());
        let words = (0..vocabulary.len() as u32).map(|id| (word(id), id)).collect::<tokenizers::models::bpe::Vocab>();
        let merges = merges(&vocabulary).into_iter().map(|(left, right)| (word(left), word(right))).collect();
        let bpe = BPE::builder()
            .vocab_and_merges(words, merges)
            // tiktoken takes a word that is a token as a whole, also where no merges lead to it.
            .ignore_merges(true)
            .cache_capacity(0)
            .build()
            .map_err(|error| VocabularyError::File { problem: error.to_string() })?;
        let special = vocabulary.special();
        Ok(Self { vocabulary, bpe, special, queries: DEFAULT_QUERIES })
    }

    /// Sets the number of positions of an image, for models that have not [`DEFAULT_QUERIES`].
    pub fn with_queries(mut self, queries: usize) -> Self {
        self.queries = queries;
        self
    }

    /// Number of positions of an image.
    pub fn queries(&self) -> usize {
        self.queries
    }

    /// Ids of the special tokens.
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// Number of ids: ranks and special tokens.
    pub fn len(&self) -> usize {
        self.vocabulary.len() + SpecialIds::COUNT as usize
    }

    /// Never: a vocabulary has at least the single bytes.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Bytes of an ordinary token.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocabulary.token(id)
    }

    /// Checks the vocabulary against the id of `<img>` in a model's configuration.
    pub fn check_image_start(&self, expected: u32) -> Result<(), ProcessorError> {
        Ok(self.vocabulary.check_image_start(expected)?)
    }

    /// Token ids of a text.
    ///
    /// Where `allowed` has the image tags, `<img>path</img>` becomes `<img>`, the bytes of the path as ids filled up with `<imgpad>`
    /// to [`Self::queries`] ids, `</img>`. Positions in errors count characters of the text after NFC.
    pub fn encode(&self, text: &str, allowed: SpecialTokens) -> Result<Vec<u32>, ProcessorError> {
        let text = nfc(text);
        let mut ids = Vec::new();
        let mut from = 0;
        while let Some((id, place)) = self.find_special(&text, from, allowed) {
            self.encode_ordinary(&text[from..place.start], &mut ids);
            from = place.end;
            if id == self.special.img_start {
                from = self.encode_image(&text, place, allowed, &mut ids)?;
            } else {
                ids.push(id);
            }
        }
        self.encode_ordinary(&text[from..], &mut ids);
        Ok(ids)
    }

    /// The span of an image whose `<img>` is at `start`. Returns the byte after its `</img>`.
    fn encode_image(&self, text: &str, start: Range<usize>, allowed: SpecialTokens, ids: &mut Vec<u32>) -> Result<usize, ProcessorError> {
        let character = |byte: usize| text[..byte].chars().count();
        let Some((id, end)) = self.find_special(text, start.end, allowed) else {
            return Err(ProcessorError::UnclosedImage { at: character(start.start) });
        };
        if id != self.special.img_end {
            return Err(ProcessorError::SpecialTokenInImage { token: text[end.clone()].to_owned(), at: character(end.start) });
        }
        let path = &text[start.end..end.start];
        if path.len() > self.queries {
            return Err(ProcessorError::ImagePathTooLong {
                at: character(start.start),
                bytes: path.len(),
                limit: self.queries,
                start: path.chars().take(40).collect(),
            });
        }
        ids.push(self.special.img_start);
        // The byte's value is the id, not the id of that byte's token (`tokenization_qwen.py`, `_encode_imgurl`).
        ids.extend(path.bytes().map(u32::from));
        ids.extend(std::iter::repeat_n(self.special.imgpad, self.queries - path.len()));
        ids.push(self.special.img_end);
        Ok(end.end)
    }

    /// The first special token from byte `from` on, and where it stands.
    fn find_special(&self, text: &str, from: usize, allowed: SpecialTokens) -> Option<(u32, Range<usize>)> {
        if allowed == SpecialTokens::None {
            return None;
        }
        let mut from = from;
        loop {
            // Every special token starts with its only `<` and ends with its only `>`.
            let start = from + text[from..].find('<')?;
            let end = text[start..].bytes().take(SpecialIds::LONGEST).position(|byte| byte == b'>').map(|length| start + length + 1);
            if let Some(end) = end
                && let Some(id) = self.special.id(&text[start..end]).filter(|id| self.is_allowed(*id, allowed))
            {
                return Some((id, start..end));
            }
            from = start + 1;
        }
    }

    fn is_allowed(&self, id: u32, allowed: SpecialTokens) -> bool {
        match allowed {
            SpecialTokens::All => true,
            SpecialTokens::ImageAndGrounding => id >= self.special.ref_start,
            SpecialTokens::None => false,
        }
    }

    fn encode_ordinary(&self, text: &str, ids: &mut Vec<u32>) {
        for word in split::words(text) {
            let tokens = self.bpe.tokenize(&latin1(word.as_bytes()));
            // Without dropout and unknown token the model has nothing to refuse: every byte is in the vocabulary.
            let tokens = tokens.expect("byte-level BPE encodes every word");
            ids.extend(tokens.iter().map(|token| token.id));
        }
    }

    /// Text of token ids.
    ///
    /// Image spans become `<img>path</img>` again. Bytes that are no UTF-8 become U+FFFD; ids that are neither ranks nor special
    /// tokens (the padding rows of the embedding) become nothing.
    pub fn decode(&self, ids: &[u32], keep: KeepSpecials) -> String {
        let mut bytes = Vec::new();
        let mut at = 0;
        while let Some(id) = ids.get(at) {
            self.decode_id(*id, keep, &mut bytes);
            at += 1;
            if *id == self.special.img_start
                && let Some(path) = self.image_path(&ids[at..])
            {
                bytes.extend_from_slice(&path);
                at += self.queries;
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The path of an image, if `ids` go on as they do after `<img>`: path bytes, padding, `</img>`.
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
        let kept = match keep {
            KeepSpecials::All => true,
            KeepSpecials::Grounding => (self.special.ref_start..=self.special.quad_end).contains(&id),
            KeepSpecials::None => false,
        };
        if let Some(token) = self.vocabulary.token(id) {
            bytes.extend_from_slice(token);
        } else if kept && let Some(text) = self.special.text(id) {
            bytes.extend_from_slice(text.as_bytes());
        }
    }
}

/// NFC of a text, borrowed if it is that already.
pub(crate) fn nfc(text: &str) -> Cow<'_, str> {
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => text.into(),
        _ => text.nfc().collect::<String>().into(),
    }
}

/// One character for each byte: the model of the `tokenizers` crate works on characters.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Decodes token ids one by one, and holds back the bytes of a character until it is complete.
///
/// All pieces together are [`Tokenizer::decode`] of all ids, but for an image span, which the model has no use for in an answer:
/// here its ids are decoded like any others.
#[derive(Debug, Clone)]
pub struct StreamDecoder {
    keep: KeepSpecials,
    pending: Vec<u8>,
}

impl StreamDecoder {
    /// A decoder at the start of an answer.
    pub fn new(keep: KeepSpecials) -> Self {
        Self { keep, pending: Vec::new() }
    }

    /// The text that `id` completes; empty if there is none yet.
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

    /// What was held back, at the end of the answer: U+FFFD for an incomplete character.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}
