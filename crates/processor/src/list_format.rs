//! The list format of the original tokenizer (`from_list_format`, `to_list_format`): a message as a list of parts.

use crate::tokenizer::nfc;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// A part of a message to write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ListItem {
    /// A picture: `Picture N: <img>path</img>` and a line end.
    Image {
        /// Its path.
        image: String,
    },
    /// A named region: `<ref>name</ref>` and its boxes.
    Region {
        /// The name.
        #[serde(rename = "ref")]
        reference: String,
        /// `[x1, y1, x2, y2]`, each 0 to 1000 of the picture.
        #[serde(rename = "box")]
        boxes: Vec<[i32; 4]>,
    },
    /// Text as it is.
    Text {
        /// The text.
        text: String,
    },
}

/// A part of a message that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListSegment {
    /// Text between tags.
    Text(String),
    /// Path of a picture.
    Image(String),
    /// What stands in `<ref>`.
    Ref(String),
    /// What stands in `<box>`.
    Box(String),
    /// What stands in `<quad>`.
    Quad(String),
}

/// Writes a message. Pictures are numbered from `first_picture` on: 1 for the original's numbering within one message, one more
/// than the pictures before for a numbering over a whole conversation.
pub fn from_list_format(items: &[ListItem], first_picture: usize) -> String {
    let mut text = String::new();
    let mut picture = first_picture;
    for item in items {
        match item {
            ListItem::Image { image } => {
                let _ = writeln!(text, "Picture {picture}: <img>{image}</img>");
                picture += 1;
            }
            ListItem::Region { reference, boxes } => {
                let _ = write!(text, "<ref>{reference}</ref>");
                for [x1, y1, x2, y2] in boxes {
                    let _ = write!(text, "<box>({x1},{y1}),({x2},{y2})</box>");
                }
            }
            ListItem::Text { text: plain } => text.push_str(plain),
        }
    }
    text
}

/// Reads a message. A tag that is not closed is text.
pub fn to_list_format(text: &str) -> Vec<ListSegment> {
    type Make = fn(String) -> ListSegment;
    const TAGS: [(&str, &str, Make); 4] = [
        ("<img>", "</img>", ListSegment::Image),
        ("<ref>", "</ref>", ListSegment::Ref),
        ("<box>", "</box>", ListSegment::Box),
        ("<quad>", "</quad>", ListSegment::Quad),
    ];
    let text = nfc(text);
    let mut segments = Vec::new();
    let mut plain = 0;
    let mut at = 0;
    while let Some(found) = text[at..].find('<') {
        at += found;
        let tag = TAGS.iter().find(|(start, ..)| text[at..].starts_with(start));
        let Some((inside, end, make)) = tag.map(|(start, end, make)| (at + start.len(), *end, make)) else {
            at += 1;
            continue;
        };
        let Some(length) = text[inside..].find(end) else {
            at = inside;
            continue;
        };
        if plain < at {
            segments.push(ListSegment::Text(text[plain..at].to_owned()));
        }
        segments.push(make(text[inside..inside + length].to_owned()));
        at = inside + length + end.len();
        plain = at;
    }
    if plain < text.len() {
        segments.push(ListSegment::Text(text[plain..].to_owned()));
    }
    segments
}
