//! The chat templates: from messages to pieces of a prompt.
//!
//! Qwen-VL: `qwen_generation_utils.py`, `make_context`. Later generations: `chat_template.json` of the published checkpoints.

use crate::PictureSize;
use crate::content::{Content, Message, Part, Role, ToolCall};
use qwen_vl_format::Family;
use std::borrow::Cow;
use std::fmt::Write;

/// The default system text of a chat with Qwen-VL or Qwen2-VL.
pub const DEFAULT_SYSTEM: &str = "You are a helpful assistant.";

/// Text of Qwen3-VL's template before and after the list of tools.
const BEFORE_TOOLS: &str = "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function \
     signatures within <tools></tools> XML tags:\n<tools>";
const AFTER_TOOLS: &str = "\n</tools>\n\nFor each function call, return a json object with function name and arguments within \
     <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";

/// A piece of a prompt. Texts in a row are tokenized as a whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A text.
    Text(Cow<'a, str>),
    /// A text of the 2023 model in which picture tags act too.
    Tagged(&'a str),
    /// Separates two texts.
    Break,
    /// `<|im_start|>`
    Start,
    /// `<|im_end|>`
    End,
    /// A picture of this name, with its tags.
    Picture(&'a str),
    /// A video of this name, with its tags.
    Video(&'a str),
}

/// A message by reference.
#[derive(Clone, Copy)]
pub(crate) struct Turn<'a> {
    pub(crate) role: Role,
    pub(crate) content: &'a Content,
    pub(crate) tool_calls: &'a [ToolCall],
}

impl<'a> Turn<'a> {
    pub(crate) fn new(role: Role, content: &'a Content) -> Self {
        Self { role, content, tool_calls: &[] }
    }

    pub(crate) fn of(message: &'a Message) -> Self {
        Self { role: message.role, content: &message.content, tool_calls: &message.tool_calls }
    }
}

/// Writes the messages of a conversation, one after the other.
pub(crate) struct Template {
    pub(crate) family: Family,
    /// True to number pictures and videos.
    add_vision_id: bool,
    /// Sizes that the pictures and videos have for the model.
    sizes: Vec<PictureSize>,
    /// Pictures so far.
    pub(crate) pictures: usize,
    /// Videos so far.
    videos: usize,
}

fn text<'a>(text: impl Into<Cow<'a, str>>) -> Piece<'a> {
    Piece::Text(text.into())
}

fn name(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}

impl Template {
    pub(crate) fn new(family: Family, add_vision_id: bool, sizes: Vec<PictureSize>) -> Self {
        Self { family, add_vision_id, sizes, pictures: 0, videos: 0 }
    }

    /// Returns the pieces before the first message: the default system message, or, for Qwen3-VL, the system message and the tools.
    pub(crate) fn head<'a>(&mut self, turns: &[Turn<'a>], tools: &'a [String]) -> Vec<Piece<'a>> {
        let system = turns.first().filter(|turn| turn.role == Role::System);
        let mut pieces = Vec::new();
        if self.family != Family::Qwen3Vl {
            if system.is_none() {
                self.begin(Role::System, &mut pieces);
                pieces.push(text(DEFAULT_SYSTEM));
                self.end(&mut pieces);
            }
            return pieces;
        }
        if system.is_none() && tools.is_empty() {
            return pieces;
        }
        self.begin(Role::System, &mut pieces);
        if let Some(turn) = system {
            self.content(turn, &mut pieces);
        }
        if !tools.is_empty() {
            pieces.extend(system.map(|_| text("\n\n")));
            pieces.push(text(BEFORE_TOOLS));
            pieces.extend(tools.iter().flat_map(|tool| [text("\n"), text(tool)]));
            pieces.push(text(AFTER_TOOLS));
        }
        self.end(&mut pieces);
        pieces
    }

    /// Returns the pieces of a message.
    pub(crate) fn message<'a>(&mut self, turns: &[Turn<'a>], index: usize) -> Vec<Piece<'a>> {
        let turn = &turns[index];
        let mut pieces = Vec::new();
        match (self.family, turn.role) {
            // The head already has the first system message. The template drops later ones.
            (Family::Qwen3Vl, Role::System) => return pieces,
            (Family::Qwen3Vl, Role::Tool) => {
                let is_tool = |turn: Option<&Turn>| turn.is_some_and(|turn| turn.role == Role::Tool);
                if !is_tool(index.checked_sub(1).map(|before| &turns[before])) {
                    pieces.extend([Piece::Start, text("user")]);
                }
                pieces.push(text("\n<tool_response>\n"));
                self.content(turn, &mut pieces);
                pieces.push(text("\n</tool_response>"));
                if !is_tool(turns.get(index + 1)) {
                    self.end(&mut pieces);
                }
                return pieces;
            }
            (Family::QwenVl, _) if index > 0 || turn.role != Role::System => pieces.push(text("\n")),
            _ => {}
        }
        self.begin(turn.role, &mut pieces);
        self.content(turn, &mut pieces);
        let has_content = match turn.content {
            Content::Tagged(text) => !text.is_empty(),
            Content::Parts(parts) => !parts.is_empty(),
        };
        let calls = if turn.role == Role::Assistant { turn.tool_calls } else { &[] };
        for (index, ToolCall { name, arguments }) in calls.iter().enumerate() {
            let line_end = if has_content || index > 0 { "\n" } else { "" };
            let call = format!("{line_end}<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {arguments}}}\n</tool_call>");
            pieces.push(text(call));
        }
        self.end(&mut pieces);
        pieces
    }

    /// Returns the pieces that ask for an answer.
    pub(crate) fn generation_prompt(&self) -> Vec<Piece<'static>> {
        let mut pieces = Vec::new();
        if self.family == Family::QwenVl {
            pieces.push(text("\n"));
        }
        self.begin(Role::Assistant, &mut pieces);
        pieces
    }

    fn begin(&self, role: Role, pieces: &mut Vec<Piece<'_>>) {
        pieces.extend([Piece::Start, text(name(role))]);
        if self.family == Family::QwenVl {
            pieces.extend([Piece::Break, text("\n"), Piece::Break]);
        } else {
            pieces.push(text("\n"));
        }
    }

    fn end(&self, pieces: &mut Vec<Piece<'_>>) {
        pieces.push(Piece::End);
        // Qwen-VL has line ends between messages.
        if self.family != Family::QwenVl {
            pieces.push(text("\n"));
        }
    }

    fn content<'a>(&mut self, turn: &Turn<'a>, pieces: &mut Vec<Piece<'a>>) {
        let parts = match turn.content {
            // Neither the model nor a system text has pictures: `<img>` in them is text.
            Content::Tagged(tagged) if self.family == Family::QwenVl && turn.role == Role::User => {
                pieces.push(Piece::Tagged(tagged));
                return;
            }
            Content::Tagged(whole) => {
                pieces.push(text(whole));
                return;
            }
            Content::Parts(parts) => parts,
        };
        for part in parts {
            match part {
                Part::Text { text: part } => pieces.push(text(part)),
                Part::Region { name, boxes } => pieces.push(text(self.region(name, boxes))),
                Part::Image { .. } | Part::Video { .. } if !self.takes_pictures(turn.role) => {}
                Part::Image { image } => {
                    self.pictures += 1;
                    let numbered = self.add_vision_id || self.family == Family::QwenVl;
                    pieces.extend(numbered.then(|| text(format!("Picture {}: ", self.pictures))));
                    pieces.push(Piece::Picture(image));
                    pieces.extend((self.family == Family::QwenVl).then(|| text("\n")));
                }
                Part::Video { video } => {
                    self.videos += 1;
                    pieces.extend(self.add_vision_id.then(|| text(format!("Video {}: ", self.videos))));
                    pieces.push(Piece::Video(video));
                }
            }
        }
    }

    /// True if the template writes the pictures of such a message. Qwen3-VL's leaves them out of system messages and answers.
    pub(crate) fn takes_pictures(&self, role: Role) -> bool {
        self.family != Family::Qwen3Vl || matches!(role, Role::User | Role::Tool)
    }

    /// Returns a region of the latest picture or video in the form of the family's answers. Qwen2.5-VL and Qwen3-VL have no form for a name without boxes.
    ///
    /// # Arguments
    /// * `boxes` - in thousandths of the picture
    fn region(&self, name: &str, boxes: &[[i32; 4]]) -> String {
        let mut region = String::new();
        // Qwen2.5-VL counts pixels.
        let latest = (self.pictures + self.videos).checked_sub(1).and_then(|latest| self.sizes.get(latest));
        let unit = latest.filter(|_| self.family == Family::Qwen25Vl).map_or([1000; 2], |size| [size.width, size.height]);
        let scaled = |value: i32, unit: u32| (f64::from(value) / 1000.0 * f64::from(unit)).round() as i32;
        // Writing to a string cannot fail.
        let _ = match self.family {
            Family::QwenVl => write!(region, "<ref>{name}</ref>"),
            Family::Qwen2Vl => write!(region, "<|object_ref_start|>{name}<|object_ref_end|>"),
            Family::Qwen25Vl | Family::Qwen3Vl if boxes.is_empty() => write!(region, "{name}"),
            Family::Qwen25Vl | Family::Qwen3Vl => Ok(()),
        };
        for (index, corners) in boxes.iter().enumerate() {
            let [x1, y1, x2, y2] = [0, 1, 2, 3].map(|at| scaled(corners[at], unit[at % 2]));
            let _ = match self.family {
                Family::QwenVl => write!(region, "<box>({x1},{y1}),({x2},{y2})</box>"),
                Family::Qwen2Vl => write!(region, "<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"),
                Family::Qwen25Vl | Family::Qwen3Vl => {
                    let begin = if index == 0 { "[" } else { ", " };
                    write!(region, "{begin}{{\"bbox_2d\": [{x1}, {y1}, {x2}, {y2}], \"label\": \"{}\"}}", escaped(name))
                }
            };
        }
        if matches!(self.family, Family::Qwen25Vl | Family::Qwen3Vl) && !boxes.is_empty() {
            region.push(']');
        }
        region
    }
}

/// Returns the inside of a JSON string.
fn escaped(text: &str) -> String {
    let mut json = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            '\n' => json.push_str("\\n"),
            c if c.is_control() => {
                let _ = write!(json, "\\u{:04x}", u32::from(c));
            }
            c => json.push(c),
        }
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn cases(file: &str) -> Vec<Value> {
        let json: Value = serde_json::from_str(file).unwrap();
        json["cases"].as_array().unwrap().clone()
    }

    /// Messages as the case has them. A picture by address is a picture.
    fn messages(case: &Value) -> Vec<Message> {
        let json = case["messages"].to_string().replace(r#""image_url":{"url":"u"}"#, r#""image":"u""#);
        serde_json::from_str(&json).unwrap()
    }

    fn written(family: Family, messages: &[Message], tools: &[String], add_vision_id: bool) -> String {
        let turns: Vec<_> = messages.iter().map(Turn::of).collect();
        let mut template = Template::new(family, add_vision_id, Vec::new());
        let mut pieces = template.head(&turns, tools);
        (0..turns.len()).for_each(|index| pieces.extend(template.message(&turns, index)));
        pieces.extend(template.generation_prompt());
        let text = pieces.into_iter().map(|piece| match piece {
            Piece::Text(text) => text,
            Piece::Start => "<|im_start|>".into(),
            Piece::End => "<|im_end|>".into(),
            Piece::Picture(_) => "<|vision_start|><|image_pad|><|vision_end|>".into(),
            Piece::Video(_) => "<|vision_start|><|video_pad|><|vision_end|>".into(),
            Piece::Tagged(_) | Piece::Break => panic!("a piece of the 2023 model"),
        });
        text.collect()
    }

    fn check(family: Family, case: &Value, expected: &Value) {
        let messages = messages(case);
        let tools: Vec<String> = case.get("tools").map_or_else(Vec::new, |tools| serde_json::from_value(tools.clone()).unwrap());
        let text = expected["text"].as_str().unwrap();
        assert_eq!(written(family, &messages, &tools, false), text);
        let numbered = expected["text_add_vision_id"].as_str().unwrap_or(text);
        assert_eq!(written(family, &messages, &tools, true), numbered);
    }

    #[test]
    fn texts_are_those_of_the_published_templates() {
        let cases = cases(include_str!("../../../tests/fixtures/family/tokenizer/templates.json"));
        assert_eq!(cases.len(), 40);
        for case in cases {
            check(Family::Qwen2Vl, &case, &case["qwen2_vl"]);
            check(Family::Qwen3Vl, &case, &case["qwen3_vl"]);
        }
    }

    #[test]
    fn tools_are_those_of_the_published_template() {
        let cases = cases(include_str!("../../../tests/fixtures/family/tokenizer/tools.json"));
        assert_eq!(cases.len(), 5);
        cases.iter().for_each(|case| check(Family::Qwen3Vl, case, case));
    }

    #[test]
    fn regions_have_the_form_of_the_family_s_answers() {
        let boxes = [[1, 2, 30, 40], [5, 6, 7, 8]];
        for (family, boxes, expected) in [
            (Family::QwenVl, &boxes[..1], "<ref>a \"b\"</ref><box>(1,2),(30,40)</box>"),
            (
                Family::Qwen2Vl,
                &boxes[..],
                "<|object_ref_start|>a \"b\"<|object_ref_end|><|box_start|>(1,2),(30,40)<|box_end|><|box_start|>(5,6),(7,8)<|box_end|>",
            ),
            (Family::Qwen2Vl, &[], "<|object_ref_start|>a \"b\"<|object_ref_end|>"),
            (
                Family::Qwen3Vl,
                &boxes[..],
                r#"[{"bbox_2d": [1, 2, 30, 40], "label": "a \"b\""}, {"bbox_2d": [5, 6, 7, 8], "label": "a \"b\""}]"#,
            ),
            (Family::Qwen3Vl, &[], "a \"b\""),
        ] {
            assert_eq!(Template::new(family, false, Vec::new()).region("a \"b\"", boxes), expected, "{family:?}");
        }
        // In pixels of the latest of the pictures before it.
        let sizes = [(28, 28), (560, 280), (2800, 2800)].map(|(width, height)| PictureSize { width, height });
        let template = Template { pictures: 2, ..Template::new(Family::Qwen25Vl, false, sizes.to_vec()) };
        assert_eq!(template.region("a", &[[500, 0, 1000, 999]]), r#"[{"bbox_2d": [280, 0, 560, 280], "label": "a"}]"#);
        assert_eq!(escaped("\\ \"\n\t é"), r#"\\ \"\n\u0009 é"#);
    }
}
