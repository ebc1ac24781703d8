//! The content of a message: text, pictures and regions.

use serde::{Deserialize, Serialize};

/// The content of a message.
///
/// In JSON it is a string or a list of parts:
///
/// ```json
/// "Picture 1: <img>cat.png</img>\nWhat is <ref>it</ref>?"
/// [{"image": "cat.png"}, {"text": "What does <img> mean in HTML, and where is "}, {"ref": "the cat", "boxes": [[1, 2, 30, 40]]}, {"text": "?"}]
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(rename = "MessageContent"))]
#[serde(untagged)]
pub enum Content {
    /// A text with tags, as the original takes it: `<img>name</img>` is a picture. Not for text that a person typed.
    Tagged(String),
    /// Parts in order. Only [`Part::Image`] is a picture.
    Parts(Vec<Part>),
}

/// A part of a message. In JSON the key says which: `text`, `image` or `ref`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(rename = "MessagePart"))]
#[serde(untagged, deny_unknown_fields)]
pub enum Part {
    /// Text. Picture tags in it are text; grounding tags (`<ref>`, `<box>`, `<quad>`) are special tokens, as answers contain them.
    Text {
        /// The text.
        text: String,
    },
    /// A picture. The model reads `Picture N: `, the picture and a line end (`tokenization_qwen.py`, `from_list_format`), where N counts the
    /// pictures of the conversation from 1.
    Image {
        /// Its name: 1 byte of UTF-8 takes one of the picture's positions.
        image: String,
    },
    /// A region by name: the model reads `<ref>name</ref>` and a `<box>` for each box.
    Region {
        /// The name.
        #[serde(rename = "ref")]
        name: String,
        /// `[x1, y1, x2, y2]` in thousandths of the picture.
        #[serde(default)]
        #[cfg_attr(feature = "typescript", ts(as = "Option<_>", optional))]
        boxes: Vec<[i32; 4]>,
    },
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
                    Part::Image { .. } | Part::Region { .. } => None,
                });
                texts.collect()
            }
        }
    }
}
