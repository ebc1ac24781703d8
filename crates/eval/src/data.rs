//! The data files that `eval_mm` of the original repository reads.

use crate::question::{picture_tag, short_names};
use crate::{EvalError, Question, Task};
use qwen_vl_processor::{Content, Family};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::collections::HashMap;

/// A picture of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Path, as in the data file.
    pub path: String,
}

/// The right answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Truth {
    /// Any of these, or all of them (VQA score, captions).
    Answers(Vec<String>),
    /// A box, pixels, in a picture of a size.
    Box {
        /// `[x1, y1, x2, y2]`
        corners: [f64; 4],
        /// Width of the picture, pixels.
        width: f64,
        /// Height of the picture, pixels.
        height: f64,
    },
    /// The number of a choice.
    Choice(usize),
    /// Not known: test files without answers.
    Unknown,
}

/// One question with its pictures and its right answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Id, unique in its file.
    pub id: String,
    /// The pictures, in the order of the prompt.
    pub pictures: Vec<Picture>,
    /// Examples with their answers, in the base format, which stand before the question.
    pub examples: String,
    /// The earlier turns of the conversation, with the true answers (chat only).
    pub history: Vec<(Question, String)>,
    /// The question.
    pub question: Question,
    /// The letters whose likelihood is compared, for choices.
    pub letters: Vec<char>,
    /// The right answer.
    pub truth: Truth,
    /// Kind of the question, for a table by kinds.
    pub group: Option<String>,
}

impl Item {
    /// Returns the prompt of the 2023 model in the base format.
    pub fn text(&self) -> String {
        format!("{}{}", self.examples, self.question.text())
    }

    /// Returns the earlier turns and the question for the chat template: texts with tags for the 2023 model, parts for the later generations.
    pub fn chat(&self, family: Family) -> (Vec<(Content, Content)>, Content) {
        let content = |question: &Question| match family {
            Family::QwenVl => Content::Tagged(question.tagged()),
            Family::Qwen2Vl | Family::Qwen25Vl | Family::Qwen3Vl => Content::Parts(question.parts(family)),
        };
        let history = self.history.iter().map(|(question, answer)| (content(question), answer.as_str().into()));
        (history.collect(), content(&self.question))
    }

    /// Returns the texts whose likelihood is compared, for choices. The prompts of the 2023 model end without the blank before a letter.
    pub fn candidates(&self, family: Family) -> Vec<String> {
        let blank = if family == Family::QwenVl { " " } else { "" };
        self.letters.iter().map(|letter| format!("{blank}{letter}")).collect()
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
struct QuestionLine {
    image: String,
    question: String,
    question_id: Option<Value>,
    answer: Option<OneOrMany>,
    group: Option<String>,
}

#[derive(Deserialize)]
struct BoxLine {
    image: String,
    sent: String,
    bbox: [f64; 4],
    width: f64,
    height: f64,
    group: Option<String>,
}

#[derive(Deserialize)]
struct ChoiceLine {
    image: String,
    hint: Option<String>,
    question: String,
    choices: Vec<String>,
    answer: Option<usize>,
    group: Option<String>,
}

#[derive(Deserialize)]
struct SeedLine {
    question_id: Value,
    prompt: String,
    answer: Option<String>,
    group: Option<String>,
}

#[derive(Deserialize)]
struct DialogueLine {
    id: Value,
    turns: Vec<DialogueTurn>,
}

#[derive(Deserialize)]
struct DialogueTurn {
    #[serde(default)]
    images: Vec<String>,
    ask: String,
    answer: String,
    group: Option<String>,
    /// True if the answer is measured. Exact match cannot measure boxes.
    #[serde(default = "yes")]
    scored: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct CaptionFile {
    images: Vec<CaptionImage>,
    #[serde(default)]
    annotations: Vec<CaptionAnnotation>,
}

#[derive(Deserialize)]
struct CaptionImage {
    id: Value,
    image: String,
    group: Option<String>,
}

#[derive(Deserialize)]
struct CaptionAnnotation {
    image_id: Value,
    caption: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AnnotationFile {
    /// VQA: answers of ten people.
    Vqa { annotations: Vec<VqaAnnotation> },
    /// DocVQA.
    Documents { data: Vec<DocumentAnnotation> },
}

#[derive(Deserialize)]
struct VqaAnnotation {
    question_id: Value,
    answers: Vec<VqaAnswer>,
}

#[derive(Deserialize)]
struct VqaAnswer {
    answer: String,
}

#[derive(Deserialize)]
struct DocumentAnnotation {
    #[serde(rename = "questionId")]
    question_id: Value,
    answers: Vec<String>,
}

/// A list of data files that are evaluated together.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct Suite {
    /// The files.
    pub tasks: Vec<SuiteEntry>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct SuiteEntry {
    /// Its name in the table.
    pub name: String,
    /// Its task.
    pub task: Task,
    /// The data file, relative to the suite.
    pub data: String,
}

/// Reads a data file. Errors call it `name`. `annotations` holds name and text of the file with the true answers, for data sets that keep
/// them separate.
pub fn read_items(task: Task, name: &str, text: &str, annotations: Option<(&str, &str)>) -> Result<Vec<Item>, EvalError> {
    let mut items = match task {
        Task::Caption => captions(name, text)?,
        Task::Vqa | Task::Exact | Task::Gqa | Task::Anls | Task::Relaxed => lines(name, text, |line: QuestionLine, number| {
            let truth = line.answer.map_or(Truth::Unknown, |answer| Truth::Answers(answer.into_vec()));
            let id = line.question_id.map_or_else(|| number.to_string(), |id| plain(&id));
            vec![item(id, vec![line.image], Question::Short(line.question), truth, line.group)]
        })?,
        Task::Grounding => lines(name, text, |line: BoxLine, number| {
            let truth = Truth::Box { corners: line.bbox, width: line.width, height: line.height };
            vec![item(number.to_string(), vec![line.image], Question::Locate(line.sent), truth, line.group)]
        })?,
        Task::Choice => lines(name, text, |line: ChoiceLine, number| {
            let letters = ('A'..='Z').take(line.choices.len()).collect();
            let truth = line.answer.map_or(Truth::Unknown, Truth::Choice);
            let question = Question::Choice { hint: line.hint.unwrap_or_default(), question: line.question, choices: line.choices };
            vec![Item { letters, ..item(number.to_string(), vec![line.image], question, truth, line.group) }]
        })?,
        Task::Seed => lines(name, text, |line: SeedLine, _| {
            let (prompt, pictures) = short_names(&line.prompt, 1);
            let letters = vec!['A', 'B', 'C', 'D'];
            let truth = line.answer.and_then(|answer| letters.iter().position(|letter| answer.chars().eq([*letter])));
            let truth = truth.map_or(Truth::Unknown, Truth::Choice);
            vec![Item { letters, ..item(plain(&line.question_id), pictures, Question::Written(prompt), truth, line.group) }]
        })?,
        Task::Mme => mme(name, text)?,
        Task::Dialogue => lines(name, text, |line: DialogueLine, _| dialogue(line))?,
    };
    if let Some((file, text)) = annotations {
        let mut answers = read_annotations(file, text)?;
        for item in &mut items {
            let missing = || EvalError::MissingAnnotation { file: file.to_owned(), question: item.id.clone() };
            item.truth = Truth::Answers(answers.remove(&item.id).ok_or_else(missing)?);
        }
    }
    Ok(items)
}

fn item(id: String, pictures: Vec<String>, question: Question, truth: Truth, group: Option<String>) -> Item {
    let pictures = pictures.into_iter().map(|path| Picture { path }).collect();
    Item { id, pictures, examples: String::new(), history: vec![], question, letters: vec![], truth, group }
}

/// Ids are numbers in some files and texts in others.
fn plain(id: &Value) -> String {
    id.as_str().map_or_else(|| id.to_string(), str::to_owned)
}

fn lines<T: DeserializeOwned>(name: &str, text: &str, items: impl Fn(T, usize) -> Vec<Item>) -> Result<Vec<Item>, EvalError> {
    let mut all = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |error: serde_json::Error| EvalError::Line { file: name.to_owned(), line: index + 1, reason: error.to_string() };
        all.extend(items(serde_json::from_str(line).map_err(wrong)?, index));
    }
    Ok(all)
}

fn whole<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, EvalError> {
    serde_json::from_str(text).map_err(|error| EvalError::File { file: name.to_owned(), reason: error.to_string() })
}

fn captions(name: &str, text: &str) -> Result<Vec<Item>, EvalError> {
    let file: CaptionFile = whole(name, text)?;
    let mut references: HashMap<String, Vec<String>> = HashMap::new();
    for annotation in file.annotations {
        references.entry(plain(&annotation.image_id)).or_default().push(annotation.caption);
    }
    let items = file.images.into_iter().map(|image| {
        let id = plain(&image.id);
        let truth = references.remove(&id).map_or(Truth::Unknown, Truth::Answers);
        item(id, vec![image.image], Question::Caption, truth, image.group)
    });
    Ok(items.collect())
}

/// Lines of picture, question and answer, with tabs between them.
fn mme(name: &str, text: &str) -> Result<Vec<Item>, EvalError> {
    let mut items = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.trim().split('\t').collect();
        let [picture, question, answer] = fields[..] else {
            let reason = format!("expected picture, question and answer with tabs between them, found {} fields", fields.len());
            return Err(EvalError::Line { file: name.to_owned(), line: index + 1, reason });
        };
        // The script asks without a number before the picture.
        let written = Question::Written(format!("{}\n{question}", picture_tag(1)));
        items.push(item(index.to_string(), vec![picture.to_owned()], written, Truth::Answers(vec![answer.to_owned()]), None));
    }
    Ok(items)
}

/// One item for each turn, with the turns before it.
fn dialogue(line: DialogueLine) -> Vec<Item> {
    let (mut history, mut pictures, mut items): (Vec<(Question, String)>, Vec<String>, Vec<Item>) = (vec![], vec![], vec![]);
    for (number, turn) in line.turns.into_iter().enumerate() {
        let first = pictures.len() + 1;
        pictures.extend(turn.images);
        let end = pictures.len() + 1;
        let (text, in_text) = short_names(&turn.ask, end);
        pictures.extend(in_text);
        let question = Question::Turn { pictures: first..end, text };
        let id = format!("{}.{number}", plain(&line.id));
        let truth = Truth::Answers(vec![turn.answer.clone()]);
        let made = Item { history: history.clone(), ..item(id, pictures.clone(), question.clone(), truth, turn.group) };
        items.extend(turn.scored.then_some(made));
        history.push((question, turn.answer));
    }
    items
}

fn read_annotations(name: &str, text: &str) -> Result<HashMap<String, Vec<String>>, EvalError> {
    let wrong = || EvalError::File {
        file: name.to_owned(),
        reason: "expected {\"annotations\": [{\"question_id\", \"answers\": [{\"answer\"}]}]} (VQA) or \
            {\"data\": [{\"questionId\", \"answers\"}]} (DocVQA)"
            .to_owned(),
    };
    Ok(match serde_json::from_str(text).map_err(|_| wrong())? {
        AnnotationFile::Vqa { annotations } => annotations
            .into_iter()
            .map(|annotation| (plain(&annotation.question_id), annotation.answers.into_iter().map(|answer| answer.answer).collect()))
            .collect(),
        AnnotationFile::Documents { data } => {
            data.into_iter().map(|annotation| (plain(&annotation.question_id), annotation.answers)).collect()
        }
    })
}

/// Puts examples with their answers before every prompt in the base format, without separators, as `--few-shot` of the original does. They are
/// drawn separately for every question, and not as Python draws them.
pub fn few_shot_prompts(items: &mut [Item], examples: &[Item], count: usize, seed: u64) -> Result<(), EvalError> {
    let answered: Vec<(&Item, &String)> = examples
        .iter()
        .filter_map(|example| match &example.truth {
            Truth::Answers(answers) => Some((example, answers.first()?)),
            _ => None,
        })
        .collect();
    if answered.len() < count {
        return Err(EvalError::TooFewExamples { found: answered.len(), needed: count });
    }
    // A linear congruential generator: any even spread will do.
    let mut state = seed;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for item in items {
        let mut left: Vec<&(&Item, &String)> = answered.iter().collect();
        let mut pictures = Vec::new();
        for _ in 0..count {
            let (example, answer) = left.swap_remove(draw(left.len()));
            item.examples += &format!("{} {answer}", example.question.text());
            pictures.extend(example.pictures.iter().cloned());
        }
        pictures.append(&mut item.pictures);
        item.pictures = pictures;
    }
    Ok(())
}
