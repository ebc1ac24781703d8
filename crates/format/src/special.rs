//! Added tokens: the tokens behind the ranks of a vocabulary.
//!
//! The generations after 2023 list them (`added_tokens` of `tokenizer.json`). For the 2023 model they follow from the number of ranks
//! (`tokenization_qwen.py`): `<|endoftext|>`, `<|im_start|>`, `<|im_end|>`, 205 extras, and the nine grounding and image tags.

use serde::{Deserialize, Serialize};

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

/// A token behind the ranks of a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// False if the token is part of the text of an answer, such as `<tool_call>`.
    pub special: bool,
}

/// Returns the added tokens of the 2023 model after a vocabulary of this many ranks.
pub(crate) fn qwen_vl_tokens(ranks: u32) -> Vec<AddedToken> {
    let (before, after) = NAMED.split_at(NAMED_BEFORE_EXTRAS as usize);
    let extras = (0..EXTRAS).map(|index| format!("<|extra_{index}|>"));
    let texts = before.iter().map(|name| (*name).to_owned()).chain(extras).chain(after.iter().map(|name| (*name).to_owned()));
    (ranks..).zip(texts).map(|(id, text)| AddedToken { id, text, special: true }).collect()
}

/// Ids of the special tokens by their role. The texts are those of the 2023 model and of the later generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialIds {
    /// `<|endoftext|>`. In the 2023 model also the number of ranks.
    pub endoftext: u32,
    /// `<|im_start|>`
    pub im_start: u32,
    /// `<|im_end|>`
    pub im_end: u32,
    /// `<ref>`; `<|object_ref_start|>`
    pub ref_start: u32,
    /// `</ref>`; `<|object_ref_end|>`
    pub ref_end: u32,
    /// `<box>`; `<|box_start|>`
    pub box_start: u32,
    /// `</box>`; `<|box_end|>`
    pub box_end: u32,
    /// `<quad>`; `<|quad_start|>`
    pub quad_start: u32,
    /// `</quad>`; `<|quad_end|>`
    pub quad_end: u32,
    /// `<img>`; `<|vision_start|>`
    pub img_start: u32,
    /// `</img>`; `<|vision_end|>`
    pub img_end: u32,
    /// `<imgpad>`; `<|image_pad|>`
    pub imgpad: u32,
    /// `<|video_pad|>`, if there is one.
    pub video_pad: Option<u32>,
}

impl SpecialIds {
    /// Number of special tokens of the 2023 model.
    pub const COUNT: u32 = NAMED.len() as u32 + EXTRAS;

    /// Returns the ids of the 2023 model after a vocabulary of this many ranks.
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
            video_pad: None,
        }
    }

    /// Returns the ids of a 2023 model whose `visual.image_start_id` is known; `None` if that leaves no room for the tokens before it.
    pub const fn of_model(image_start_id: u32) -> Option<Self> {
        match image_start_id.checked_sub(SPECIALS_BEFORE_IMG) {
            Some(ranks) if image_start_id <= u32::MAX - 2 => Some(Self::after(ranks)),
            _ => None,
        }
    }

    /// Finds the ids of a later generation by the texts of its added tokens. The error is the text of a token that is missing.
    pub fn of_tokens(tokens: &[AddedToken]) -> Result<Self, &'static str> {
        let id = |text: &'static str| tokens.iter().find(|token| token.text == text).map(|token| token.id).ok_or(text);
        Ok(Self {
            endoftext: id("<|endoftext|>")?,
            im_start: id("<|im_start|>")?,
            im_end: id("<|im_end|>")?,
            ref_start: id("<|object_ref_start|>")?,
            ref_end: id("<|object_ref_end|>")?,
            box_start: id("<|box_start|>")?,
            box_end: id("<|box_end|>")?,
            quad_start: id("<|quad_start|>")?,
            quad_end: id("<|quad_end|>")?,
            img_start: id("<|vision_start|>")?,
            img_end: id("<|vision_end|>")?,
            imgpad: id("<|image_pad|>")?,
            video_pad: id("<|video_pad|>").ok(),
        })
    }

    /// True for the six tags of regions.
    pub fn is_grounding(&self, id: u32) -> bool {
        [self.ref_start, self.ref_end, self.box_start, self.box_end, self.quad_start, self.quad_end].contains(&id)
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
    fn the_table_of_2023_has_the_ids_of_the_formula() {
        let ids = SpecialIds::after(1000);
        let tokens = qwen_vl_tokens(1000);
        assert_eq!(tokens.len() as u32, SpecialIds::COUNT);
        assert!((1000..).zip(&tokens).all(|(id, token)| token.id == id && token.special));
        for (text, id) in [
            ("<|endoftext|>", ids.endoftext),
            ("<|im_end|>", ids.im_end),
            ("<|extra_0|>", ids.im_end + 1),
            ("<|extra_204|>", ids.ref_start - 1),
            ("</ref>", ids.ref_end),
            ("<quad>", ids.quad_start),
            ("<imgpad>", ids.imgpad),
        ] {
            assert_eq!(tokens[(id - 1000) as usize].text, text);
        }
        assert_eq!(tokens.iter().filter(|token| ids.is_grounding(token.id)).count(), 6);
    }

    #[test]
    fn later_generations_are_found_by_text() {
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
            "<|vision_pad|>",
            "<|image_pad|>",
            "<|video_pad|>",
        ];
        let token = |(index, text): (usize, &&str)| AddedToken { id: 151_643 + index as u32, text: (*text).to_owned(), special: true };
        let mut tokens: Vec<_> = texts.iter().enumerate().map(token).collect();
        let ids = SpecialIds::of_tokens(&tokens).unwrap();
        assert_eq!((ids.im_end, ids.box_end, ids.img_start, ids.imgpad), (151_645, 151_649, 151_652, 151_655));
        assert_eq!(ids.video_pad, Some(151_656));
        tokens.pop();
        assert_eq!(SpecialIds::of_tokens(&tokens).unwrap().video_pad, None);
        tokens.pop();
        assert_eq!(SpecialIds::of_tokens(&tokens), Err("<|image_pad|>"));
    }
}
