//! Prompts: the base format, the chat template, and the positions of the pictures.

use crate::content::{Content, Part};
use crate::mention::label;
use crate::{KeepSpecials, NumberedPicture, PictureSize, ProcessorError, SpecialTokens, Tokenizer};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The default system text of a chat.
pub const DEFAULT_SYSTEM: &str = "You are a helpful assistant.";
/// `max_window_size` of the published `generation_config.json`.
pub const DEFAULT_MAX_WINDOW_SIZE: usize = 6144;
/// Tokens before a picture that can hold its label, `Picture N: `.
const LABEL_TOKENS: usize = 16;

/// One picture in a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpan {
    /// Text between the tags.
    pub path: String,
    /// Position of `<img>`.
    #[serde(rename = "img_token_at")]
    pub start: usize,
    /// First position that takes a row of image features.
    pub features_from: usize,
    /// Position of `</img>`; the features take the positions from `features_from` up to it.
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
    /// System text. It has no pictures.
    pub system: String,
    /// Earlier turns: pairs of question and answer.
    pub history: Vec<(Content, Content)>,
    /// The question.
    pub query: Content,
    /// Length limit of system text and history, tokens: the oldest turns are dropped.
    pub max_window_size: usize,
    /// Length limit of the prompt, tokens: more of the oldest turns are dropped. The question stays, whatever its length.
    pub context: Option<usize>,
}

impl Default for Chat {
    fn default() -> Self {
        Self {
            system: DEFAULT_SYSTEM.to_owned(),
            history: Vec::new(),
            query: Content::default(),
            max_window_size: DEFAULT_MAX_WINDOW_SIZE,
            context: None,
        }
    }
}

/// The prompt of a [`Chat`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChatPrompt {
    /// Token ids and the pictures that are left.
    pub prompt: Prompt,
    /// Number of oldest turns that were dropped.
    pub dropped_turns: usize,
    /// Number of pictures in the dropped turns: the first ones of the conversation.
    pub dropped_images: usize,
}

impl Prompt {
    /// Tokenizes the base format: the text as it is, pictures as `<img>path</img>` in it.
    pub fn raw(tokenizer: &Tokenizer, text: &str) -> Result<Self, ProcessorError> {
        Self::from_ids(tokenizer, tokenizer.encode(text, SpecialTokens::All)?)
    }

    /// Applies the chat template (`qwen_generation_utils.py`, `make_context`).
    ///
    /// Role, line end and content of a message are tokenized separately, and in the content only grounding and picture tags are special. The
    /// newest turns are kept while system text, kept turns and the turn in question are fewer than [`Chat::max_window_size`] tokens; the
    /// question does not count. Then turns are dropped until the prompt fits [`Chat::context`].
    pub fn chat(tokenizer: &Tokenizer, chat: &Chat) -> Result<ChatPrompt, ProcessorError> {
        let mut writer = ChatWriter { tokenizer, line_end: tokenizer.encode("\n", SpecialTokens::None)?, pictures: 0 };
        let mut ids = writer.system(&chat.system)?;
        let turns = chat.history.iter().map(|(query, answer)| writer.turn(query, answer)).collect::<Result<Vec<_>, _>>()?;
        let question = writer.question(&chat.query)?;

        let mut kept = 0;
        let mut size = ids.len();
        for turn in turns.iter().rev() {
            let with_turn = size + turn.len();
            // The original's limit leaves the question out; the context's limit counts it.
            let fits = chat.context.is_none_or(|context| with_turn + question.len() <= context);
            if with_turn >= chat.max_window_size || !fits {
                break;
            }
            size = with_turn;
            kept += 1;
        }
        let dropped_turns = turns.len() - kept;
        let (dropped, kept) = turns.split_at(dropped_turns);
        let img_start = tokenizer.special().img_start;
        let dropped_images = dropped.iter().flatten().filter(|id| **id == img_start).count();
        kept.iter().for_each(|turn| ids.extend_from_slice(turn));
        ids.extend(question);
        Ok(ChatPrompt { prompt: Self::from_ids(tokenizer, ids)?, dropped_turns, dropped_images })
    }

    /// Finds the pictures in token ids: `<img>`, the positions of a picture, `</img>`.
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

    /// Returns the numbers by which texts name the pictures of the prompt: those of their labels (`Picture N: `), or, if no picture has a
    /// label, their places in the conversation, of which `dropped_images` are not in the prompt.
    pub fn numbered(&self, tokenizer: &Tokenizer, sizes: &[PictureSize], dropped_images: usize) -> Vec<NumberedPicture> {
        let label = |image: &ImageSpan| {
            let before = &self.ids[image.start.saturating_sub(LABEL_TOKENS)..image.start];
            label(&tokenizer.decode(before, KeepSpecials::All))
        };
        let labels: Vec<Option<usize>> = self.images.iter().map(label).collect();
        let any_label = labels.iter().any(Option::is_some);
        let pictures = labels.into_iter().zip(sizes).enumerate();
        pictures
            .map(|(index, (label, size))| {
                // 0 is the number of no picture.
                let number = if any_label { label.unwrap_or(0) } else { dropped_images + index + 1 };
                NumberedPicture { number, size: *size }
            })
            .collect()
    }
}

/// Tokenizes the messages of a chat and counts its pictures.
struct ChatWriter<'a> {
    tokenizer: &'a Tokenizer,
    line_end: Vec<u32>,
    /// Pictures so far.
    pictures: usize,
}

impl ChatWriter<'_> {
    fn system(&self, text: &str) -> Result<Vec<u32>, ProcessorError> {
        self.message("system", self.tokenizer.encode(text, SpecialTokens::Grounding)?)
    }

    fn turn(&mut self, query: &Content, answer: &Content) -> Result<Vec<u32>, ProcessorError> {
        let query = self.content(query)?;
        let answer = match answer {
            // The model does not write pictures: `<img>` in an answer is text.
            Content::Tagged(text) => self.tokenizer.encode(text, SpecialTokens::Grounding)?,
            parts => self.content(parts)?,
        };
        let (query, answer) = (self.message("user", query)?, self.message("assistant", answer)?);
        Ok([self.line_end.as_slice(), &query, &self.line_end, &answer].concat())
    }

    fn question(&mut self, query: &Content) -> Result<Vec<u32>, ProcessorError> {
        let query = self.content(query)?;
        let query = self.message("user", query)?;
        let answer = [vec![self.tokenizer.special().im_start], self.tokenizer.encode("assistant", SpecialTokens::None)?].concat();
        Ok([self.line_end.as_slice(), &query, &self.line_end, &answer, &self.line_end].concat())
    }

    fn message(&self, role: &str, content: Vec<u32>) -> Result<Vec<u32>, ProcessorError> {
        let special = self.tokenizer.special();
        let role = self.tokenizer.encode(role, SpecialTokens::None)?;
        Ok([vec![special.im_start], role, self.line_end.clone(), content, vec![special.im_end]].concat())
    }

    fn content(&mut self, content: &Content) -> Result<Vec<u32>, ProcessorError> {
        let tokenizer = self.tokenizer;
        let parts = match content {
            Content::Tagged(text) => {
                let ids = tokenizer.encode(text, SpecialTokens::ImageAndGrounding)?;
                self.pictures += ids.iter().filter(|id| **id == tokenizer.special().img_start).count();
                return Ok(ids);
            }
            Content::Parts(parts) => parts,
        };
        let mut ids = Vec::new();
        // Text between two pictures is tokenized as a whole: words reach over the borders of parts.
        let mut text = String::new();
        for part in parts {
            match part {
                Part::Text { text: part } => text.push_str(part),
                Part::Image { image } => {
                    self.pictures += 1;
                    let _ = write!(text, "Picture {}: ", self.pictures);
                    ids.extend(tokenizer.encode(&text, SpecialTokens::Grounding)?);
                    tokenizer.encode_image(image, &mut ids)?;
                    text = "\n".to_owned();
                }
                Part::Region { name, boxes } => {
                    let _ = write!(text, "<ref>{name}</ref>");
                    for [x1, y1, x2, y2] in boxes {
                        let _ = write!(text, "<box>({x1},{y1}),({x2},{y2})</box>");
                    }
                }
            }
        }
        ids.extend(tokenizer.encode(&text, SpecialTokens::Grounding)?);
        Ok(ids)
    }
}
