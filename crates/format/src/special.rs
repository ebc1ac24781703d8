//! Special tokens: their texts and ids (`tokenization_qwen.py`).
//!
//! The ids follow the ranks of the vocabulary in this order: `<|endoftext|>`, `<|im_start|>`, `<|im_end|>`, 205 extras, and the nine
//! grounding and image tags.

use std::borrow::Cow;

/// Tokens `<|extra_0|>` to `<|extra_204|>`: the original assigns them no meaning, and fine-tunes may.
const EXTRAS: u32 = 205;
const NAMED: [&str; 12] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
    "<quad>",
    "</quad>",
    "<img>",
    "</img>",
    "<imgpad>",
];
/// Entries of [`NAMED`] before the extras.
const NAMED_BEFORE_EXTRAS: u32 = 3;

/// Number of special tokens before `<img>`: the difference between `visual.image_start_id` and the number of ranks.
pub const SPECIALS_BEFORE_IMG: u32 = NAMED_BEFORE_EXTRAS + EXTRAS + 6;

/// Ids of the special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialIds {
    /// `<|endoftext|>`; also the number of ranks.
    pub endoftext: u32,
    /// `<|im_start|>`
    pub im_start: u32,
    /// `<|im_end|>`
    pub im_end: u32,
    /// `<ref>`
    pub ref_start: u32,
    /// `</ref>`
    pub ref_end: u32,
    /// `<box>`
    pub box_start: u32,
    /// `</box>`
    pub box_end: u32,
    /// `<quad>`
    pub quad_start: u32,
    /// `</quad>`
    pub quad_end: u32,
    /// `<img>`
    pub img_start: u32,
    /// `</img>`
    pub img_end: u32,
    /// `<imgpad>`
    pub imgpad: u32,
}

impl SpecialIds {
    /// Number of special tokens.
    pub const COUNT: u32 = NAMED.len() as u32 + EXTRAS;
    /// Length of the longest text of a special token, in bytes (`<|endoftext|>`, `<|extra_204|>`).
    pub const LONGEST: usize = 13;

    /// Returns the ids after a vocabulary of this many ranks.
    pub const fn after(ranks: u32) -> Self {
        let tags = ranks + NAMED_BEFORE_EXTRAS + EXTRAS;
        Self {
            endoftext: ranks,
            im_start: ranks + 1,
            im_end: ranks + 2,
            ref_start: tags,
            ref_end: tags + 1,
            box_start: tags + 2,
            box_end: tags + 3,
            quad_start: tags + 4,
            quad_end: tags + 5,
            img_start: tags + 6,
            img_end: tags + 7,
            imgpad: tags + 8,
        }
    }

    /// Returns the ids of a model whose `visual.image_start_id` is known; `None` if that leaves no room for the tokens before it.
    pub const fn of_model(image_start_id: u32) -> Option<Self> {
        match image_start_id.checked_sub(SPECIALS_BEFORE_IMG) {
            Some(ranks) if image_start_id <= u32::MAX - 2 => Some(Self::after(ranks)),
            _ => None,
        }
    }

    /// Returns the id of a special token's text.
    pub fn id(&self, text: &str) -> Option<u32> {
        if let Some(index) = NAMED.iter().position(|name| *name == text) {
            let index = index as u32;
            return Some(self.endoftext + if index < NAMED_BEFORE_EXTRAS { index } else { index + EXTRAS });
        }
        let number = text.strip_prefix("<|extra_")?.strip_suffix("|>")?;
        let index: u32 = number.parse().ok()?;
        // `+5` and `05` parse as numbers, but do not occur in names of tokens.
        (index < EXTRAS && index.to_string() == number).then_some(self.im_end + 1 + index)
    }

    /// Returns the text of a special token.
    pub fn text(&self, id: u32) -> Option<Cow<'static, str>> {
        match id.checked_sub(self.endoftext)? {
            index @ 0..NAMED_BEFORE_EXTRAS => Some(NAMED[index as usize].into()),
            index if index < NAMED_BEFORE_EXTRAS + EXTRAS => Some(format!("<|extra_{}|>", index - NAMED_BEFORE_EXTRAS).into()),
            index if index < Self::COUNT => Some(NAMED[(index - EXTRAS) as usize].into()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ids() {
        let ids = SpecialIds::after(151_643);
        assert_eq!(ids.endoftext, 151_643);
        assert_eq!(ids.img_start, 151_857);
        assert_eq!(ids.imgpad, 151_859);
        assert_eq!(SpecialIds::of_model(151_857), Some(ids));
        assert_eq!(SpecialIds::of_model(SPECIALS_BEFORE_IMG - 1), None);
        assert_eq!(SpecialIds::of_model(u32::MAX), None);
    }

    #[test]
    fn every_id_has_a_text_of_its_id() {
        let ids = SpecialIds::after(1000);
        let texts: Vec<_> = (1000..1000 + SpecialIds::COUNT).map(|id| ids.text(id).unwrap()).collect();
        assert_eq!(texts.len(), 217);
        for (id, text) in (1000..).zip(&texts) {
            assert_eq!(ids.id(text), Some(id), "{text}");
        }
        assert_eq!(texts.iter().map(|text| text.len()).max(), Some(SpecialIds::LONGEST));
        assert_eq!((ids.text(999), ids.text(1217)), (None, None));
        for other in ["<|extra_205|>", "<|extra_05|>", "<|extra_+5|>", "<|extra_|>", "<image>", ""] {
            assert_eq!(ids.id(other), None, "{other}");
        }
    }
}
