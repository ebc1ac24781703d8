//! `qwenvl eval`: the metrics of the paper over data files.

use crate::checkpoint::Checkpoint;
use crate::gpu::GpuArgs;
use crate::preprocess::read_picture;
use crate::values::count;
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use qwen_vl_eval::{
    Item, Settings, Suite, SuiteEntry, Task, Truth, Variant, anls, best_choice, caption_words, cider_d, exact_match, few_shot_prompts,
    gqa_answer, grounding_match, mme_scores, read_items, relaxed_match, vqa_score, yes_no,
};
use qwen_vl_format::ShardHash;
use qwen_vl_processor::{Content, DecodeOptions, Family, KeepSpecials};
use qwen_vl_runtime::session::{Engine, GenerationOptions, ImageInput, Overflow, PictureLimits, PromptInput, Request, ScoreRequest};
use qwen_vl_runtime::{ModelOptions, Precision};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Measure models on the data files of the original's `eval_mm`.
///
/// Prints, for each task and kind of question, the metric as the original scripts compute it, and corrected in brackets where that
/// differs.
#[derive(Args)]
#[command(group(clap::ArgGroup::new("input").required(true).args(["suite", "data"])))]
pub struct EvalArgs {
    /// A web checkpoint, as NAME=DIR or DIR. Each repetition adds a column.
    #[arg(long = "model", value_name = "[NAME=]DIR", required = true)]
    models: Vec<String>,
    /// A folder with `suite.json` and the files that it lists (`world export` writes one).
    #[arg(long, value_name = "DIR")]
    suite: Option<PathBuf>,
    /// One data file.
    #[arg(long, value_name = "FILE", requires = "task")]
    data: Option<PathBuf>,
    /// Task of the data file.
    #[arg(long, value_enum, requires = "data")]
    task: Option<TaskName>,
    /// File of true answers, if the data set keeps them separate: VQA-style or DocVQA annotations.
    #[arg(long, value_name = "FILE", requires = "data")]
    annotations: Option<PathBuf>,
    /// Folder that the paths of pictures are relative to [default: that of the data file].
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Use the chat template. The original scripts use it only for MME, with chat models too.
    #[arg(long)]
    chat: bool,
    /// Examples before each question.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "train")]
    few_shot: usize,
    /// The data file to take examples from.
    #[arg(long, value_name = "FILE", requires = "data")]
    train: Option<PathBuf>,
    /// Seed for drawing the examples.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number of questions to ask of each file [default: all].
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    limit: Option<usize>,
    /// Folder for the answers, one file for each model and task. Answers that it holds already are not computed again.
    #[arg(long, value_name = "DIR")]
    predictions: Option<PathBuf>,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    gpu: GpuArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TaskName {
    Caption,
    Vqa,
    Exact,
    Gqa,
    Anls,
    Relaxed,
    Grounding,
    Choice,
    Seed,
    Mme,
    Dialogue,
}

impl From<TaskName> for Task {
    fn from(name: TaskName) -> Self {
        match name {
            TaskName::Caption => Self::Caption,
            TaskName::Vqa => Self::Vqa,
            TaskName::Exact => Self::Exact,
            TaskName::Gqa => Self::Gqa,
            TaskName::Anls => Self::Anls,
            TaskName::Relaxed => Self::Relaxed,
            TaskName::Grounding => Self::Grounding,
            TaskName::Choice => Self::Choice,
            TaskName::Seed => Self::Seed,
            TaskName::Mme => Self::Mme,
            TaskName::Dialogue => Self::Dialogue,
        }
    }
}

/// The contents of a data file.
struct Part {
    name: String,
    task: Task,
    items: Vec<Item>,
    root: PathBuf,
    /// Hash of all data that the questions are made from.
    hash: String,
}

/// An answer of a model, a line of a file of predictions.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Prediction {
    id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    answer: String,
    /// Log-probabilities of each candidate's tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    candidates: Vec<Vec<f64>>,
}

/// The first line of a file of predictions: the model and the questions of its answers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    model: String,
    data: String,
    chat: bool,
}

/// The scores of a part, or of one kind of its questions.
#[derive(Debug, Clone, Copy, Default)]
struct Score {
    count: usize,
    original: f64,
    corrected: f64,
}

pub fn run(args: &EvalArgs) -> Result<()> {
    let parts = parts(args)?;
    let mut columns = Vec::new();
    for model in &args.models {
        let (name, folder) = model.split_once('=').unwrap_or_else(|| {
            let name = Path::new(model).file_name().and_then(|name| name.to_str());
            (name.unwrap_or(model), model)
        });
        columns.push((name.to_owned(), evaluate(args, name, Path::new(folder), &parts)?));
    }
    if args.json { print_json(&parts, &columns) } else { print_table(&parts, &columns) }
}

fn parts(args: &EvalArgs) -> Result<Vec<Part>> {
    if let Some(folder) = &args.suite {
        let path = folder.join("suite.json");
        let suite: Suite = serde_json::from_str(&read(&path)?).with_context(|| format!("could not read `{}`", path.display()))?;
        return suite.tasks.iter().map(|entry| part(args, entry, folder)).collect();
    }
    // The argument group requires one of the two.
    let (Some(data), Some(task)) = (&args.data, args.task) else { bail!("`--suite` or `--task` and `--data` is needed") };
    let name = data.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let folder = data.parent().unwrap_or(Path::new("."));
    let file = data.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(vec![part(args, &SuiteEntry { name, task: task.into(), data: file }, folder)?])
}

fn part(args: &EvalArgs, entry: &SuiteEntry, folder: &Path) -> Result<Part> {
    let path = folder.join(&entry.data);
    let text = read(&path)?;
    let annotations =
        args.annotations.as_ref().map(|path| Ok::<_, anyhow::Error>((path.display().to_string(), read(path)?))).transpose()?;
    let annotated = annotations.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    let mut items = read_items(entry.task, &path.display().to_string(), &text, annotated)?;
    items.truncate(args.limit.unwrap_or(usize::MAX));
    ensure!(!items.is_empty(), "`{}` has no questions", path.display());
    let mut all = text;
    if let Some(train) = &args.train {
        let text = read(train)?;
        let examples = read_items(entry.task, &train.display().to_string(), &text, None)?;
        few_shot_prompts(&mut items, &examples, args.few_shot, args.seed)?;
        all = format!("{all}{text}{} {}", args.few_shot, args.seed);
    }
    let root = args.root.clone().unwrap_or_else(|| folder.to_owned());
    Ok(Part { name: entry.name.clone(), task: entry.task, items, root, hash: ShardHash::of(all.as_bytes()).to_string() })
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("could not read `{}`", path.display()))
}

/// Asks one model all questions. Returns the scores of each part by kind of question, and those of all kinds under the empty name.
fn evaluate(args: &EvalArgs, name: &str, folder: &Path, parts: &[Part]) -> Result<Vec<BTreeMap<String, Score>>> {
    let checkpoint = Checkpoint::open(folder)?;
    let vocabulary = checkpoint.vocabulary()?;
    let tokenizer = checkpoint.tokenizer()?;
    ensure!(
        tokenizer.family() == Family::QwenVl,
        "`{}` is of a later generation than the prompts of this evaluation, which are those of the 2023 Qwen-VL",
        folder.display()
    );
    let gpu = args.gpu.request(false)?;
    let mut answers_as = serde_json::to_vec(checkpoint.manifest())?;
    // Kernels that round change answers.
    if gpu.kernels().precision != Precision::F32 {
        answers_as.extend(format!("{:?}", gpu.kernels().precision).bytes());
    }
    let model_hash = ShardHash::of(&answers_as).to_string();
    let chat = |part: &Part| args.chat || part.task.settings().chat;

    // The context has to hold the longest question with its answer.
    let mut context_length = 0;
    for part in parts {
        for item in &part.items {
            let prompt = prompt(item, chat(part)).encode(&tokenizer, &[], usize::MAX, None);
            let tokens = prompt.with_context(|| format!("{}: question `{}`", part.name, item.id))?.prompt.ids.len();
            let candidates = item.candidates.iter().map(String::len).max().unwrap_or(0);
            context_length = context_length.max(tokens + part.task.settings().max_new_tokens.max(candidates) + 1);
        }
    }
    let options = ModelOptions { context_length, ..ModelOptions::default() };
    let mut engine = Engine::new(checkpoint.load(gpu, options)?, &vocabulary)?;

    let mut scores = Vec::new();
    for part in parts {
        let header = Header { model: model_hash.clone(), data: part.hash.clone(), chat: chat(part) };
        let (mut known, mut file) = match &args.predictions {
            Some(folder) => {
                fs::create_dir_all(folder).with_context(|| format!("making `{}`", folder.display()))?;
                let path = folder.join(format!("{name}-{}.jsonl", part.name));
                let (known, file) = resume(&path, &header)?;
                (known, Some((path, file)))
            }
            None => (HashMap::new(), None),
        };
        let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} {per_sec}, {eta} left")?;
        let progress = ProgressBar::new(part.items.len() as u64).with_style(style).with_message(format!("{name}: {}", part.name));
        let mut predictions = Vec::with_capacity(part.items.len());
        for item in &part.items {
            let prediction = match known.remove(&item.id) {
                Some(prediction) => prediction,
                None => {
                    let made =
                        predict(&mut engine, item, part, chat(part)).with_context(|| format!("{}: question `{}`", part.name, item.id))?;
                    if let Some((path, file)) = &mut file {
                        let line = format!("{}\n", serde_json::to_string(&made)?);
                        file.write_all(line.as_bytes()).with_context(|| format!("writing `{}`", path.display()))?;
                    }
                    made
                }
            };
            predictions.push(prediction);
            progress.inc(1);
        }
        progress.finish_and_clear();
        scores.push(score(part, &predictions));
    }
    Ok(scores)
}

fn prompt(item: &Item, chat: bool) -> PromptInput {
    match chat {
        true => PromptInput::Chat { system: None, history: history(item), query: item.query.as_str().into(), overflow: Overflow::Error },
        false => PromptInput::Raw { text: item.prompt.clone() },
    }
}

fn history(item: &Item) -> Vec<(Content, Content)> {
    item.history.iter().map(|(query, answer)| (query.as_str().into(), answer.as_str().into())).collect()
}

fn predict(engine: &mut Engine, item: &Item, part: &Part, chat: bool) -> Result<Prediction> {
    let image = |picture: &qwen_vl_eval::Picture| -> Result<ImageInput> {
        let (bytes, _) = read_picture(&part.root.join(&picture.path), DecodeOptions::ORIGINAL)?;
        Ok(ImageInput::Encoded { bytes, options: DecodeOptions::ORIGINAL })
    };
    let images = item.pictures.iter().map(image).collect::<Result<Vec<_>>>()?;
    let Settings { max_new_tokens, min_new_tokens, scored, .. } = part.task.settings();
    let mut on_event = |_| ControlFlow::Continue(());
    let mut prediction = Prediction { id: item.id.clone(), answer: String::new(), candidates: Vec::new() };
    if scored {
        let request = ScoreRequest { prompt: prompt(item, chat), candidates: item.candidates.clone(), pictures: PictureLimits::default() };
        let scores = pollster::block_on(engine.score(&request, &images, &mut on_event))?;
        prediction.candidates = scores.unwrap_or_default().into_iter().map(|score| score.logprobs).collect();
    } else {
        let generation =
            GenerationOptions { max_new_tokens: Some(max_new_tokens), min_new_tokens, greedy: Some(true), ..GenerationOptions::default() };
        let request = Request { prompt: prompt(item, chat), generation, pictures: PictureLimits::default() };
        let answer = pollster::block_on(engine.ask(&request, &images, &mut on_event, None))?;
        prediction.answer = engine.tokenizer().decode(&answer.tokens, KeepSpecials::None).trim().to_owned();
    }
    Ok(prediction)
}

/// Opens a file of predictions in order to resume it, and reads its answers.
fn resume(path: &Path, header: &Header) -> Result<(HashMap<String, Prediction>, File)> {
    let what = || format!("reading `{}`", path.display());
    let mut known = HashMap::new();
    // What is kept: whole lines. The last one is cut short if the run before was ended while it was written.
    let mut kept = String::new();
    if path.exists() {
        let text = read(path)?;
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        for (index, line) in whole.lines().enumerate() {
            if index == 0 {
                let found: Header = serde_json::from_str(line).with_context(what)?;
                let path = path.display();
                ensure!(
                    found == *header,
                    "`{path}` has answers of another model, data file or prompt: delete it or give another `--predictions`"
                );
            } else {
                let prediction: Prediction = serde_json::from_str(line).with_context(what)?;
                known.insert(prediction.id.clone(), prediction);
            }
        }
        kept.push_str(whole);
    }
    if kept.is_empty() {
        kept = format!("{}\n", serde_json::to_string(header)?);
    }
    let written = || format!("writing `{}`", path.display());
    fs::write(path, kept).with_context(written)?;
    Ok((known, OpenOptions::new().append(true).open(path).with_context(written)?))
}

fn score(part: &Part, predictions: &[Prediction]) -> BTreeMap<String, Score> {
    let [original, corrected] = [Variant::Original, Variant::Corrected].map(|variant| item_scores(part, predictions, variant));
    let mut scores: BTreeMap<String, Score> = BTreeMap::new();
    let both = original.iter().zip(&corrected).zip(&part.items);
    for ((original, corrected), item) in both {
        let (Some(original), Some(corrected)) = (original, corrected) else { continue };
        for group in [Some(""), item.group.as_deref()].into_iter().flatten() {
            let score = scores.entry(group.to_owned()).or_default();
            score.count += 1;
            score.original += original;
            score.corrected += corrected;
        }
    }
    for score in scores.values_mut() {
        let count = score.count as f64;
        score.original /= count;
        score.corrected /= count;
    }
    if part.task == Task::Mme && !scores.is_empty() {
        // A category's score is the share of right questions plus the share of pictures whose questions are all right.
        let said = part.items.iter().zip(predictions).filter_map(|(item, prediction)| match &item.truth {
            Truth::Answers(answers) => Some((item.pictures[0].path.as_str(), yes_no(answers.first()?), yes_no(&prediction.answer))),
            _ => None,
        });
        let said: Vec<_> = said.collect();
        let plus = mme_scores(&said).accuracy_plus / 100.0;
        scores.insert("accuracy+".to_owned(), Score { count: said.len(), original: plus, corrected: plus });
    }
    scores
}

/// The score of each question, 0 to 1 (CIDEr: more); none where the true answer is not known.
fn item_scores(part: &Part, predictions: &[Prediction], variant: Variant) -> Vec<Option<f64>> {
    let truth = |right: bool| f64::from(u8::from(right));
    if part.task == Task::Caption {
        // A caption's score depends on all references.
        let known = part.items.iter().zip(predictions).filter_map(|(item, prediction)| match &item.truth {
            Truth::Answers(references) => {
                Some((caption_words(&prediction.answer), references.iter().map(|text| caption_words(text)).collect()))
            }
            _ => None,
        });
        let mut scores = cider_d(&known.collect::<Vec<_>>(), variant).into_iter();
        return part.items.iter().map(|item| matches!(item.truth, Truth::Answers(_)).then(|| scores.next()).flatten()).collect();
    }
    let score = |(item, prediction): (&Item, &Prediction)| {
        let answer = prediction.answer.as_str();
        Some(match &item.truth {
            Truth::Unknown => return None,
            Truth::Answers(answers) => match part.task {
                Task::Vqa => vqa_score(answer, answers, variant),
                Task::Anls => anls(answer, answers, variant),
                Task::Relaxed => truth(relaxed_match(answer, answers, variant)),
                Task::Gqa => truth(exact_match(&gqa_answer(answer, variant), answers)),
                Task::Mme => truth(answers.iter().any(|right| yes_no(right) == yes_no(answer))),
                _ => truth(exact_match(answer, answers)),
            },
            Truth::Box { corners, width, height } => truth(grounding_match(answer, *corners, *width, *height, variant)),
            Truth::Choice(right) => truth(best_choice(&prediction.candidates) == Some(*right)),
        })
    };
    part.items.iter().zip(predictions).map(score).collect()
}

fn print_table(parts: &[Part], columns: &[(String, Vec<BTreeMap<String, Score>>)]) -> Result<()> {
    print!("{:<28} {:<20} {:>6}", "task", "metric", "n");
    columns.iter().for_each(|(name, _)| print!(" {name:>16}"));
    println!();
    for (index, part) in parts.iter().enumerate() {
        let (metric, scale) = part.task.metric();
        let groups = &columns[0].1[index];
        if groups.is_empty() {
            println!("{:<28} no true answers in the file: predictions only", part.name);
        }
        // A single kind is all of it.
        for (group, score) in groups.iter().filter(|(group, _)| group.is_empty() || groups.len() > 2 || part.task == Task::Mme) {
            match group.as_str() {
                "" => print!("{:<28} {metric:<20}", part.name),
                group => print!("  {group:<26} {:<20}", ""),
            }
            print!(" {:>6}", score.count);
            for (_, scores) in columns {
                let Score { original, corrected, .. } = scores[index].get(group).copied().unwrap_or_default();
                let (original, corrected) = (format!("{:.1}", original * scale), format!("{:.1}", corrected * scale));
                match original == corrected {
                    true => print!(" {original:>16}"),
                    false => print!(" {:>16}", format!("{original} ({corrected})")),
                }
            }
            println!();
        }
    }
    Ok(())
}

fn print_json(parts: &[Part], columns: &[(String, Vec<BTreeMap<String, Score>>)]) -> Result<()> {
    let number =
        |scale: f64, score: &Score| json!({ "n": score.count, "original": score.original * scale, "corrected": score.corrected * scale });
    let mut models = serde_json::Map::new();
    for (name, scores) in columns {
        let mut tasks = serde_json::Map::new();
        for (part, groups) in parts.iter().zip(scores) {
            let (metric, scale) = part.task.metric();
            let all = groups.get("").copied().unwrap_or_default();
            let kinds: serde_json::Map<_, _> =
                groups.iter().filter(|(group, _)| !group.is_empty()).map(|(group, score)| (group.clone(), number(scale, score))).collect();
            let mut value = number(scale, &all);
            value["metric"] = json!(metric);
            value["kinds"] = json!(kinds);
            tasks.insert(part.name.clone(), value);
        }
        models.insert(name.clone(), json!(tasks));
    }
    println!("{}", json!({ "models": models }));
    Ok(())
}
