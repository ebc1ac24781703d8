//! The added tokens of a tokenizer, by text and by id.

use qwen_vl_format::{AddedToken, Family, SpecialIds};
use std::ops::Range;

/// The special tokens that are recognized in a text; the texts of the others are ordinary text. Added tokens that are not special, such as
/// `<tool_call>`, are recognized except with [`Self::None`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// All: the original's default, for texts from a trusted source.
    All,
    /// The nine picture and grounding tags of the 2023 model, for tagged contents of a chat message: `<|im_end|>` in them stays text. For later
    /// generations the same as [`Self::Grounding`].
    ImageAndGrounding,
    /// The tags of regions, for text in a chat message: `<img>` in it stays text. Qwen2.5-VL and Qwen3-VL have none.
    Grounding,
    /// None.
    None,
}

/// The special tokens that are spelled out in decoded text; the others are left out. Added tokens that are not special are never left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepSpecials {
    /// All.
    All,
    /// The tags of regions, which [`crate::GroundingParser`] reads. Qwen2.5-VL and Qwen3-VL have none.
    Grounding,
    /// Those of [`Self::Grounding`] and `<|extra_0|>` to `<|extra_204|>`: the tokens of an answer that mean something. The original's chat
    /// shows the extras too (`qwen_generation_utils.py`, `_decode_chatml`), and fine-tunes use them.
    Answer,
    /// None (the path of a picture stays).
    None,
}

/// Use of an added token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Structure of a prompt.
    Control,
    /// A tag of a picture in a text of the 2023 model.
    Picture,
    /// A tag of a region.
    Grounding,
    /// `<|extra_0|>` … of the 2023 model, and special tokens that a fine-tune added to it.
    Extra,
    /// Part of a text: the token is not special.
    Text,
}

struct Entry {
    token: AddedToken,
    kind: Kind,
}

pub(crate) struct AddedTokens {
    /// By id.
    entries: Vec<Entry>,
    /// Indices of `entries`, longest text first.
    longest_first: Vec<usize>,
    /// True for the bytes that texts begin with.
    begins: [bool; 256],
}

impl AddedTokens {
    pub(crate) fn new(family: Family, special: &SpecialIds, tokens: Vec<AddedToken>) -> Self {
        let first_generation = family == Family::QwenVl;
        let kind = |token: &AddedToken| match token.id {
            _ if !token.special => Kind::Text,
            // Qwen2.5-VL and Qwen3-VL write regions as JSON.
            id if special.is_grounding(id) && matches!(family, Family::QwenVl | Family::Qwen2Vl) => Kind::Grounding,
            id if first_generation && (id > special.im_end && id < special.ref_start || id > special.imgpad) => Kind::Extra,
            id if first_generation && id >= special.img_start => Kind::Picture,
            _ => Kind::Control,
        };
        let mut entries: Vec<_> = tokens.into_iter().map(|token| Entry { kind: kind(&token), token }).collect();
        entries.sort_by_key(|entry| entry.token.id);
        let mut longest_first: Vec<_> = (0..entries.len()).collect();
        longest_first.sort_by_key(|index| usize::MAX - entries[*index].token.text.len());
        let mut begins = [false; 256];
        let first_bytes = entries.iter().filter_map(|entry| entry.token.text.bytes().next());
        first_bytes.for_each(|byte| begins[usize::from(byte)] = true);
        Self { entries, longest_first, begins }
    }

    /// Returns the largest id.
    pub(crate) fn last_id(&self) -> u32 {
        self.entries.last().map_or(0, |entry| entry.token.id)
    }

    /// Returns the first added token of the allowed ones from byte `from` of a text on, and its bytes. At one place the longest counts, as in
    /// the `tokenizers` library.
    pub(crate) fn find(&self, text: &str, from: usize, allowed: SpecialTokens) -> Option<(u32, Range<usize>)> {
        if allowed == SpecialTokens::None {
            return None;
        }
        let bytes = text.as_bytes();
        let mut starts = (from..bytes.len()).filter(|start| self.begins[usize::from(bytes[*start])]);
        starts.find_map(|start| {
            let entries = self.longest_first.iter().map(|index| &self.entries[*index]);
            let mut found = entries.filter(|entry| bytes[start..].starts_with(entry.token.text.as_bytes()));
            let Entry { token, .. } = found.find(|entry| is_allowed(entry.kind, allowed))?;
            Some((token.id, start..start + token.text.len()))
        })
    }

    /// Returns the text of an added token, if it is kept.
    pub(crate) fn text(&self, id: u32, keep: KeepSpecials) -> Option<&str> {
        let index = self.entries.binary_search_by_key(&id, |entry| entry.token.id).ok()?;
        let Entry { token, kind } = &self.entries[index];
        is_kept(*kind, keep).then_some(token.text.as_str())
    }
}

fn is_allowed(kind: Kind, allowed: SpecialTokens) -> bool {
    match allowed {
        SpecialTokens::All => true,
        SpecialTokens::ImageAndGrounding => matches!(kind, Kind::Picture | Kind::Grounding | Kind::Text),
        SpecialTokens::Grounding => matches!(kind, Kind::Grounding | Kind::Text),
        SpecialTokens::None => false,
    }
}

fn is_kept(kind: Kind, keep: KeepSpecials) -> bool {
    match keep {
        KeepSpecials::All => true,
        KeepSpecials::Grounding => matches!(kind, Kind::Grounding | Kind::Text),
        KeepSpecials::Answer => matches!(kind, Kind::Grounding | Kind::Extra | Kind::Text),
        KeepSpecials::None => kind == Kind::Text,
    }
}
