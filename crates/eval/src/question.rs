//! Questions, and their prompts for each generation of models.
//!
//! The 2023 model gets the words of `eval_mm`. The later generations get those of VLMEvalKit, the program behind their published scores
//! (`vlmeval/vlm/qwen2_vl/prompt.py`, `vlmeval/vlm/qwen3_vl/prompt.py`), and for captions and boxes those of the package's tasks
//! (`web/ts/api/tasks.ts`).

use qwen_vl_processor::{Family, Part};
use std::ops::Range;

/// Returns the end of a question with a short answer (`_build_vqa_prompt`).
fn short(family: Family) -> &'static str {
    match family {
        Family::Qwen3Vl => "\nPlease answer concisely with short words or phrases when possible.",
        Family::QwenVl | Family::Qwen2Vl | Family::Qwen25Vl => {
            "\nPlease try to answer the question with short words or phrases if possible."
        }
    }
}

/// The number of a single picture.
const ONE: Range<usize> = 1..2;

/// Returns the name of a picture in a prompt. The name has to be short, because it takes positions of the picture in the 2023 model. The
/// features replace it.
fn picture_name(number: usize) -> String {
    format!("{number}.png")
}

/// Returns the tag of a picture of the 2023 model.
pub(crate) fn picture_tag(number: usize) -> String {
    format!("<img>{}</img>", picture_name(number))
}

/// Returns the tags of pictures with their numbers, as the 2023 model's `from_list_format` writes them.
fn numbered_tags(numbers: Range<usize>) -> String {
    numbers.map(|number| format!("Picture {number}: {}\n", picture_tag(number))).collect()
}

/// A question without the words that a prompt adds. Unless it says something else, it has one picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// A request for a caption.
    Caption,
    /// A question with a short answer.
    Short(String),
    /// Something to locate, by name.
    Locate(String),
    /// A question with choices, which have the letters A, B, ….
    Choice {
        /// Additional information; empty if there is none.
        hint: String,
        /// The question.
        question: String,
        /// The choices.
        choices: Vec<String>,
    },
    /// A whole prompt as in the file, with the tags of its pictures.
    Written(String),
    /// A question of a conversation.
    Turn {
        /// Numbers of the pictures before the text, which count the pictures of the conversation from 1.
        pictures: Range<usize>,
        /// The text, which can have the tags of more pictures.
        text: String,
    },
}

impl Question {
    /// Returns the prompt of the 2023 model in the base format.
    pub fn text(&self) -> String {
        let tag = picture_tag(1);
        match self {
            Self::Short(question) => format!("{tag}{question} Answer:"),
            Self::Locate(name) => format!("{tag}<ref>{name}</ref><box>"),
            Self::Caption | Self::Choice { .. } => tag + &self.words(),
            Self::Written(_) | Self::Turn { .. } => self.tagged(),
        }
    }

    /// Returns the question for the chat template of the 2023 model, with the tags of its pictures.
    pub fn tagged(&self) -> String {
        match self {
            Self::Written(text) => text.clone(),
            Self::Turn { pictures, text } => numbered_tags(pictures.clone()) + text,
            _ => numbered_tags(ONE) + &self.words(),
        }
    }

    /// Returns the text of the 2023 model's chat prompt after its picture.
    fn words(&self) -> String {
        match self {
            Self::Caption => "Describe the image in English:".to_owned(),
            Self::Locate(name) => format!("Find {name}."),
            Self::Choice { hint, question, choices } => {
                let hint = if hint.is_empty() { "N/A" } else { hint };
                format!("Context: {hint}\nQuestion: {question}\nOptions: {}\nAnswer:", lettered(choices).join("\n"))
            }
            Self::Short(text) | Self::Written(text) | Self::Turn { text, .. } => text.clone(),
        }
    }

    /// Returns the question for the chat template of a later generation. The pictures come first, or are where their tags are in the text.
    pub fn parts(&self, family: Family) -> Vec<Part> {
        let (pictures, rest) = match self {
            Self::Caption => (ONE, vec![text("Describe this image in English.")]),
            Self::Short(question) => (ONE, vec![text(format!("{question}{}", short(family)))]),
            Self::Locate(name) => (ONE, locate(name, family)),
            Self::Choice { hint, question, choices } => (ONE, vec![text(choice(hint, question, choices, family))]),
            Self::Written(tagged) => (1..1, tagged_parts(tagged)),
            Self::Turn { pictures, text } => (pictures.clone(), tagged_parts(text)),
        };
        pictures.map(|number| Part::Image { image: picture_name(number) }).chain(rest).collect()
    }
}

fn text(text: impl Into<String>) -> Part {
    Part::Text { text: text.into() }
}

/// Returns the request to locate something.
fn locate(name: &str, family: Family) -> Vec<Part> {
    match family {
        Family::QwenVl | Family::Qwen2Vl => vec![text("Find "), Part::Region { name: name.to_owned(), boxes: Vec::new() }],
        Family::Qwen25Vl => vec![text(format!("Locate {name}, output its bbox coordinates using JSON format."))],
        Family::Qwen3Vl => vec![text(format!(
            "Locate every instance that belongs to the following categories: \"{name}\". Report bbox coordinates in JSON format."
        ))],
    }
}

/// Returns the prompt of a question with choices (`_build_mcq_prompt`).
fn choice(hint: &str, question: &str, choices: &[String], family: Family) -> String {
    let mut prompt = String::new();
    if !hint.is_empty() {
        prompt += &format!("Hint: {hint}\n");
    }
    prompt += &format!("Question: {question}\n");
    if !choices.is_empty() {
        prompt += &format!("Options:\n{}\n", lettered(choices).join("\n"));
        let is_chinese = prompt.contains(|c: char| ('\u{4e00}'..='\u{9fff}').contains(&c));
        prompt += match family {
            Family::Qwen3Vl => "Answer with the option letter only.",
            _ if is_chinese => "请直接回答选项字母。",
            _ => "Please select the correct answer from the options above.",
        };
    }
    prompt.trim_end().to_owned()
}

/// Returns the choices behind their letters.
fn lettered(choices: &[String]) -> Vec<String> {
    ('A'..='Z').zip(choices).map(|(letter, choice)| format!("{letter}. {choice}")).collect()
}

/// Splits a text at the tags of pictures. A line end after a tag belongs to the tag.
fn tagged_parts(tagged: &str) -> Vec<Part> {
    let (mut parts, mut rest) = (Vec::new(), tagged);
    while let Some((before, name, after)) = split_at_tag(rest) {
        parts.extend((!before.is_empty()).then(|| text(before)));
        parts.push(Part::Image { image: name.to_owned() });
        rest = after.strip_prefix('\n').unwrap_or(after);
    }
    parts.extend((!rest.is_empty()).then(|| text(rest)));
    parts
}

/// Splits a text at its first picture tag: the text before it, the name in it, and the rest.
fn split_at_tag(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("<img>")?;
    let (name, after) = rest.split_once("</img>")?;
    Some((before, name, after))
}

/// Replaces the paths in the picture tags of a text by short names, with numbers from `first` on. Returns the paths too.
pub(crate) fn short_names(text: &str, first: usize) -> (String, Vec<String>) {
    let (mut short, mut paths, mut rest) = (String::new(), Vec::new(), text);
    while let Some((before, path, after)) = split_at_tag(rest) {
        short += before;
        short += &picture_tag(first + paths.len());
        paths.push(path.to_owned());
        rest = after;
    }
    (short + rest, paths)
}
