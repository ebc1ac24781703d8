//! Messages and their contents: text, pictures and regions.

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// The sender of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct Message {
    /// Its sender.
    pub role: Role,
    /// Its content.
    pub content: Content,
    /// Calls of tools in an answer.
    #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
    #[serde(default)]
    pub tool_calls: Vec<ToolCall>,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct ToolCall {
    /// Name of the tool.
    pub name: String,
    /// Its arguments, as JSON text.
    pub arguments: String,
}

/// The content of a message.
///
/// In JSON it is a string or a list of parts:
///
/// ```json
/// "Picture 1: <img>cat.png</img>\nWhat is <ref>it</ref>?"
/// [{"image": "cat.png"}, {"text": "What does <img> mean in HTML, and where is "}, {"ref": "the cat", "boxes": [[1, 2, 30, 40]]}, {"text": "?"}]
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(rename = "MessageContent"))]
#[serde(untagged)]
pub enum Content {
    /// A text. The 2023 model takes it with tags, as the original does: `<img>name</img>` is a picture, so text that a person typed belongs into
    /// [`Part::Text`]. For later generations it is text only.
    Tagged(String),
    /// Parts in order. Only [`Part::Image`] is a picture.
    Parts(Vec<Part>),
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a string or a list of parts")
    }

    fn visit_str<E>(self, text: &str) -> Result<Content, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Content, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, parts: A) -> Result<Content, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(parts)).map(Content::Parts)
    }
}

/// A part of a message. In JSON the key says which: `text`, `image`, `video` or `ref`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(rename = "MessagePart"))]
#[serde(untagged)]
pub enum Part {
    /// Text. Picture tags in it are text; grounding tags (`<ref>`, `<box>`, `<quad>`) are special tokens, as answers contain them.
    Text {
        /// The text.
        text: String,
    },
    /// A picture. The 2023 model reads `Picture N: `, the picture and a line end (`tokenization_qwen.py`, `from_list_format`), where N counts
    /// the pictures of the conversation from 1.
    Image {
        /// Its name. In the 2023 model, 1 byte of UTF-8 takes one of the picture's positions.
        image: String,
    },
    /// A video, for the later generations.
    Video {
        /// Its name.
        video: String,
    },
    /// A region by name: the model reads it in the form of its answers.
    Region {
        /// The name.
        #[serde(rename = "ref")]
        name: String,
        /// `[x1, y1, x2, y2]` in thousandths of the picture.
        #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
        boxes: Vec<[i32; 4]>,
    },
}

/// The keys of all parts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PartKeys {
    /// `transformers` writes it; the other keys say the same.
    #[serde(rename = "type")]
    _kind: Option<IgnoredAny>,
    text: Option<String>,
    image: Option<String>,
    video: Option<String>,
    #[serde(rename = "ref")]
    name: Option<String>,
    boxes: Option<Vec<[i32; 4]>>,
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let PartKeys { _kind, text, image, video, name, boxes } = PartKeys::deserialize(deserializer)?;
        match (text, image, video, name, boxes) {
            (Some(text), None, None, None, None) => Ok(Self::Text { text }),
            (None, Some(image), None, None, None) => Ok(Self::Image { image }),
            (None, None, Some(video), None, None) => Ok(Self::Video { video }),
            (None, None, None, Some(name), boxes) => Ok(Self::Region { name, boxes: boxes.unwrap_or_default() }),
            _ => Err(D::Error::custom("a part has one of the keys `text`, `image`, `video` and `ref`, and `boxes` only next to `ref`")),
        }
    }
}

impl Default for Content {
    fn default() -> Self {
        Self::Tagged(String::new())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Tagged(text)
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Tagged(text.to_owned())
    }
}

impl Content {
    /// Returns the text that a person or the model wrote, without pictures and regions, for mentions of pictures.
    pub fn typed(&self) -> String {
        match self {
            Self::Tagged(text) => text.clone(),
            Self::Parts(parts) => {
                let texts = parts.iter().filter_map(|part| match part {
                    Part::Text { text } => Some(text.as_str()),
                    Part::Image { .. } | Part::Video { .. } | Part::Region { .. } => None,
                });
                texts.collect()
            }
        }
    }
}
