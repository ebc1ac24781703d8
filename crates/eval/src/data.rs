//! The data files that `eval_mm` of the original repository reads.

use crate::{EvalError, Task};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::collections::HashMap;

/// Returns the name of the n-th picture in a prompt. Its features replace the name, which has to be short.
fn picture_tag(number: usize) -> String {
    format!("<img>{number}.png</img>")
}

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

/// One question.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Id, unique in its file.
    pub id: String,
    /// The pictures, in the order of their tags.
    pub pictures: Vec<Picture>,
    /// The prompt in the base format.
    pub prompt: String,
    /// The earlier turns of the conversation (chat only).
    pub history: Vec<(String, String)>,
    /// The question for the chat template.
    pub query: String,
    /// The candidates that are scored, for choices.
    pub candidates: Vec<String>,
    /// The right answer.
    pub truth: Truth,
    /// Kind of the question, for a table by kinds.
    pub group: Option<String>,
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
            let prompt = format!("{}{} Answer:", picture_tag(1), line.question);
            vec![item(id, vec![line.image], prompt, line.question, truth, line.group)]
        })?,
        Task::Grounding => lines(name, text, |line: BoxLine, number| {
            let truth = Truth::Box { corners: line.bbox, width: line.width, height: line.height };
            let prompt = format!("{}<ref>{}</ref><box>", picture_tag(1), line.sent);
            let query = format!("Find {}.", line.sent);
            vec![item(number.to_string(), vec![line.image], prompt, query, truth, line.group)]
        })?,
        Task::Choice => lines(name, text, |line: ChoiceLine, number| {
            let letters = || ('A'..='Z').map(String::from).zip(&line.choices);
            let options = letters().map(|(letter, choice)| format!("{letter}. {choice}")).collect::<Vec<_>>().join("\n");
            let hint = line.hint.as_deref().filter(|hint| !hint.is_empty()).unwrap_or("N/A");
            let question = format!("Context: {hint}\nQuestion: {}\nOptions: {options}\nAnswer:", line.question);
            let candidates = letters().map(|(letter, _)| format!(" {letter}")).collect();
            let truth = line.answer.map_or(Truth::Unknown, Truth::Choice);
            let prompt = format!("{}{question}", picture_tag(1));
            vec![Item { candidates, ..item(number.to_string(), vec![line.image], prompt, question, truth, line.group) }]
        })?,
        Task::Seed => lines(name, text, |line: SeedLine, _| {
            let (prompt, pictures) = short_pictures(&line.prompt);
            let letters = ["A", "B", "C", "D"];
            let truth = line.answer.and_then(|answer| letters.iter().position(|letter| *letter == answer));
            let candidates = letters.map(|letter| format!(" {letter}")).to_vec();
            let truth = truth.map_or(Truth::Unknown, Truth::Choice);
            vec![Item { candidates, ..item(plain(&line.question_id), pictures, prompt.clone(), prompt, truth, line.group) }]
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

fn item(id: String, pictures: Vec<String>, prompt: String, query: String, truth: Truth, group: Option<String>) -> Item {
    let tags: String = (1..=pictures.len()).map(|number| format!("Picture {number}: {}\n", picture_tag(number))).collect();
    // A prompt that names its pictures has their tags already.
    let query = if query.contains("<img>") { query } else { tags + &query };
    let pictures = pictures.into_iter().map(|path| Picture { path }).collect();
    Item { id, pictures, prompt, history: vec![], query, candidates: vec![], truth, group }
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
    let question = "Describe the image in English:";
    let items = file.images.into_iter().map(|image| {
        let id = plain(&image.id);
        let truth = references.remove(&id).map_or(Truth::Unknown, Truth::Answers);
        item(id, vec![image.image], format!("{}{question}", picture_tag(1)), question.to_owned(), truth, image.group)
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
        let query = format!("{}\n{question}", picture_tag(1));
        let truth = Truth::Answers(vec![answer.to_owned()]);
        items.push(item(index.to_string(), vec![picture.to_owned()], query.clone(), query, truth, None));
    }
    Ok(items)
}

/// One item for each turn, with the turns before it.
fn dialogue(line: DialogueLine) -> Vec<Item> {
    let (mut history, mut pictures, mut items): (Vec<(String, String)>, Vec<Picture>, Vec<Item>) = (vec![], vec![], vec![]);
    for (number, turn) in line.turns.into_iter().enumerate() {
        let mut query = String::new();
        for path in turn.images {
            pictures.push(Picture { path });
            query += &format!("Picture {}: {}\n", pictures.len(), picture_tag(pictures.len()));
        }
        query += &turn.ask;
        let made = Item {
            id: format!("{}.{number}", plain(&line.id)),
            pictures: pictures.clone(),
            prompt: query.clone(),
            history: history.clone(),
            query: query.clone(),
            candidates: vec![],
            truth: Truth::Answers(vec![turn.answer.clone()]),
            group: turn.group,
        };
        items.extend(turn.scored.then_some(made));
        history.push((query, turn.answer));
    }
    items
}

/// Replaces the paths in a prompt by short names.
fn short_pictures(prompt: &str) -> (String, Vec<String>) {
    let (mut short, mut paths, mut rest) = (String::new(), Vec::new(), prompt);
    while let Some((before, after)) = rest.split_once("<img>")
        && let Some((path, tail)) = after.split_once("</img>")
    {
        paths.push(path.to_owned());
        short += before;
        short += &picture_tag(paths.len());
        rest = tail;
    }
    (short + rest, paths)
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

/// Puts examples with their answers before every prompt, without separators, as `--few-shot` of the original does. They are drawn separately
/// for every question, and not as Python draws them.
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
        let (mut prompt, mut pictures) = (String::new(), Vec::new());
        for _ in 0..count {
            let (example, answer) = left.swap_remove(draw(left.len()));
            prompt += &format!("{} {answer}", example.prompt);
            pictures.extend(example.pictures.iter().cloned());
        }
        item.prompt.insert_str(0, &prompt);
        pictures.append(&mut item.pictures);
        item.pictures = pictures;
    }
    Ok(())
}
