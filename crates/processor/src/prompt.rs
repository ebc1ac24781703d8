//! Prompts: the base format, the chat template, and where the pictures are.

use crate::{ProcessorError, SpecialTokens, Tokenizer};
use serde::{Deserialize, Serialize};

/// The system text of a chat by default.
pub const DEFAULT_SYSTEM: &str = "You are a helpful assistant.";
/// `max_window_size` of the published `generation_config.json`.
pub const DEFAULT_MAX_WINDOW_SIZE: usize = 6144;

/// One picture in a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpan {
    /// What stands between the tags.
    pub path: String,
    /// Position of `<img>`.
    #[serde(rename = "img_token_at")]
    pub start: usize,
    /// First position that takes a row of image features.
    pub features_from: usize,
    /// Position of `</img>`; the positions from `features_from` up to it are those of the features.
    #[serde(rename = "end_token_at")]
    pub end: usize,
}

/// Token ids and the pictures among them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Prompt {
    /// `[seq]`
    pub ids: Vec<u32>,
    /// The pictures, in order.
    pub images: Vec<ImageSpan>,
}

/// A conversation and its next question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Chat {
    /// What the assistant is told at the start.
    pub system: String,
    /// Questions and answers so far.
    pub history: Vec<(String, String)>,
    /// The question.
    pub query: String,
    /// Longest prompt without the question, tokens: older turns are dropped.
    pub max_window_size: usize,
}

impl Default for Chat {
    fn default() -> Self {
        Self { system: DEFAULT_SYSTEM.to_owned(), history: Vec::new(), query: String::new(), max_window_size: DEFAULT_MAX_WINDOW_SIZE }
    }
}

impl Prompt {
    /// The base format: the text as it is, pictures as `<img>path</img>` in it.
    pub fn raw(tokenizer: &Tokenizer, text: &str) -> Result<Self, ProcessorError> {
        Self::from_ids(tokenizer, tokenizer.encode(text, SpecialTokens::All)?)
    }

    /// The chat template (`qwen_generation_utils.py`, `make_context`).
    ///
    /// Role, line end and content of a message are tokenised on their own, and in the content only the image and grounding tags are
    /// special. The newest turns are kept for as long as system, kept turns and the turn in question are fewer than
    /// [`Chat::max_window_size`] tokens; the question is not counted.
    pub fn chat(tokenizer: &Tokenizer, chat: &Chat) -> Result<Self, ProcessorError> {
        Ok(Self::chat_and_turns(tokenizer, chat)?.0)
    }

    /// [`Self::chat`], and how many of the newest turns are in it.
    pub fn chat_and_turns(tokenizer: &Tokenizer, chat: &Chat) -> Result<(Self, usize), ProcessorError> {
        let special = tokenizer.special();
        let encode = |text: &str| tokenizer.encode(text, SpecialTokens::ImageAndGrounding);
        let line_end = encode("\n")?;
        let message = |role: &str, content: &str| -> Result<Vec<u32>, ProcessorError> {
            let parts = [vec![special.im_start], encode(role)?, line_end.clone(), encode(content)?, vec![special.im_end]];
            Ok(parts.concat())
        };

        let mut ids = message("system", &chat.system)?;
        let mut kept = Vec::new();
        let mut size = ids.len();
        for (query, answer) in chat.history.iter().rev() {
            let turn = [line_end.clone(), message("user", query)?, line_end.clone(), message("assistant", answer)?].concat();
            size += turn.len();
            if size >= chat.max_window_size {
                break;
            }
            kept.push(turn);
        }
        let turns = kept.len();
        ids.extend(kept.into_iter().rev().flatten());
        ids.extend_from_slice(&line_end);
        ids.extend(message("user", &chat.query)?);
        ids.extend_from_slice(&line_end);
        ids.push(special.im_start);
        ids.extend(encode("assistant")?);
        ids.extend_from_slice(&line_end);
        Ok((Self::from_ids(tokenizer, ids)?, turns))
    }

    /// Finds the pictures in ids: `<img>`, as many positions as an image has, `</img>`.
    pub fn from_ids(tokenizer: &Tokenizer, ids: Vec<u32>) -> Result<Self, ProcessorError> {
        let mut images = Vec::new();
        let mut at = 0;
        while at < ids.len() {
            if ids[at] == tokenizer.special().img_start {
                let Some(path) = tokenizer.image_path(&ids[at + 1..]) else {
                    return Err(ProcessorError::ImageSpan { at, expected: tokenizer.queries() + 1 });
                };
                let end = at + 1 + tokenizer.queries();
                images.push(ImageSpan { path: String::from_utf8_lossy(&path).into_owned(), start: at, features_from: at + 1, end });
                at = end;
            }
            at += 1;
        }
        Ok(Self { ids, images })
    }
}
