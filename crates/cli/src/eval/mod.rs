//! `qwenvl eval`: the metrics of the paper over data files.

mod predictions;
mod scores;

use crate::checkpoint::Checkpoint;
use crate::gpu::GpuArgs;
use crate::preprocess::read_picture;
use crate::values::{count, tokens};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use predictions::{Header, Prediction, Shard, shard};
use qwen_vl_eval::{Item, Picture, Settings, Suite, SuiteEntry, Task, few_shot_prompts, first_box, read_items};
use qwen_vl_format::ShardHash;
use qwen_vl_processor::{DecodeOptions, Family, KeepSpecials, Tokenizer};
use qwen_vl_runtime::session::{Engine, GenerationOptions, ImageInput, Overflow, PictureLimits, PromptInput, Request, ScoreRequest};
use qwen_vl_runtime::{ModelOptions, Precision};
use scores::{Column, print_json, print_table, score};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Measure models on the data files of the original's `eval_mm`.
///
/// Prints, for each task and kind of question, the metric as the original scripts compute it, and corrected in brackets where that
/// differs. Qwen-VL (2023) gets the prompts of these scripts, later generations those of their published evaluation, VLMEvalKit.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct EvalArgs {
    #[command(subcommand)]
    command: Option<EvalCommand>,
    /// A web checkpoint, as NAME=DIR or DIR. Each repetition adds a column.
    #[arg(long = "model", value_name = "[NAME=]DIR", required = true)]
    models: Vec<String>,
    #[command(flatten)]
    data: Option<DataArgs>,
    /// Use the chat template. The original scripts use it only for MME, with chat models too. No effect on later generations, which always use it.
    #[arg(long)]
    chat: bool,
    /// Fewest tokens of a picture, where pictures have any size: smaller ones are enlarged [default: the checkpoint's].
    #[arg(long, value_name = "N", value_parser = tokens)]
    min_picture_tokens: Option<usize>,
    /// Most tokens of a picture, where pictures have any size: larger ones are reduced.
    #[arg(long, value_name = "N", value_parser = tokens, default_value_t = ModelOptions::default().max_picture_tokens)]
    max_picture_tokens: usize,
    /// Folder for the answers, one file for each model and task. Answers that it holds already are not computed again.
    #[arg(long, value_name = "DIR")]
    predictions: Option<PathBuf>,
    /// Answer one of N parts of the questions, and print no scores: `qwenvl eval merge` joins the parts. For jobs on several machines.
    #[arg(long, value_name = "K/N", value_parser = shard, requires = "predictions", conflicts_with = "json")]
    shard: Option<Shard>,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    gpu: GpuArgs,
}

#[derive(Subcommand)]
enum EvalCommand {
    /// Join the answers of all shards, and print the scores as a run over all questions does.
    Merge(MergeArgs),
}

#[derive(Args)]
struct MergeArgs {
    /// A folder with answers of shards.
    #[arg(long, value_name = "DIR", required = true)]
    predictions: Vec<PathBuf>,
    /// Name of a model, a column [default: all that are found].
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    #[command(flatten)]
    data: DataArgs,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

/// The questions.
#[derive(Args)]
#[command(group(clap::ArgGroup::new("input").required(true).args(["suite", "data"])))]
struct DataArgs {
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
    /// Examples before each question, for base models of Qwen-VL (2023).
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

pub fn run(args: &EvalArgs) -> Result<()> {
    if let Some(EvalCommand::Merge(args)) = &args.command {
        return merge(args);
    }
    let parts = parts(args.data.as_ref())?;
    // All models are opened before the first one runs, so that an error of the last one comes at once.
    let mut models = Vec::new();
    for model in &args.models {
        let (name, folder) = model.split_once('=').unwrap_or_else(|| {
            let name = Path::new(model).file_name().and_then(|name| name.to_str());
            (name.unwrap_or(model), model)
        });
        let checkpoint = Checkpoint::open(Path::new(folder))?;
        let has_examples = args.data.as_ref().is_some_and(|data| data.few_shot > 0);
        ensure!(
            !has_examples || checkpoint.manifest().config.family == Family::QwenVl,
            "`{folder}` is a chat model of a later generation, and `--few-shot` is for base models of Qwen-VL (2023): leave it out"
        );
        models.push((name, checkpoint));
    }
    let mut sizes = Sizes::default();
    let mut columns = Vec::new();
    for (name, checkpoint) in models {
        let answers = answers(args, name, checkpoint, &parts, &mut sizes)?;
        match args.shard {
            // Scores of a part of the questions would be taken for those of all.
            Some(shard) => println!("shard {shard} of {name}: {} answers", answers.iter().map(Vec::len).sum::<usize>()),
            None => columns.push((name.to_owned(), parts.iter().zip(&answers).map(|(part, answers)| score(part, answers)).collect())),
        }
    }
    if args.shard.is_some() { Ok(()) } else { print(args.json, &parts, &columns) }
}

/// Prints the scores of answers that runs with `--shard` have written.
fn merge(args: &MergeArgs) -> Result<()> {
    let parts = parts(Some(&args.data))?;
    let mut models = args.models.clone();
    if models.is_empty() {
        let found = parts.iter().map(|part| predictions::models(&args.predictions, part)).collect::<Result<Vec<_>>>()?;
        models = found.into_iter().flatten().collect::<BTreeSet<_>>().into_iter().collect();
        ensure!(!models.is_empty(), "no folder of `--predictions` has answers of shards of these questions");
    }
    let column = |model: String| {
        let merged = |part| Ok(score(part, &predictions::merge(&args.predictions, &model, part)?));
        let scores = parts.iter().map(merged).collect::<Result<Vec<_>>>()?;
        Ok((model, scores))
    };
    let columns = models.into_iter().map(column).collect::<Result<Vec<Column>>>()?;
    print(args.json, &parts, &columns)
}

fn print(json: bool, parts: &[Part], columns: &[Column]) -> Result<()> {
    if json { print_json(parts, columns) } else { print_table(parts, columns) }
}

fn parts(args: Option<&DataArgs>) -> Result<Vec<Part>> {
    let args = args.context("`--suite` or `--task` and `--data` is needed")?;
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

fn part(args: &DataArgs, entry: &SuiteEntry, folder: &Path) -> Result<Part> {
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

/// Sizes of pictures, which are read once for all models.
#[derive(Default)]
struct Sizes(HashMap<PathBuf, [u32; 2]>);

impl Sizes {
    /// Returns width and height of a picture, pixels.
    fn of(&mut self, path: PathBuf) -> Result<[u32; 2]> {
        if let Some(size) = self.0.get(&path) {
            return Ok(*size);
        }
        let (_, picture) = read_picture(&path, DecodeOptions::ORIGINAL)?;
        let size = [picture.width(), picture.height()];
        self.0.insert(path, size);
        Ok(size)
    }
}

/// The way in which a model is asked.
#[derive(Clone, Copy)]
struct Style {
    family: Family,
    /// True if the chat template is used for all tasks.
    chat: bool,
    pictures: PictureLimits,
    /// The limit that the model is loaded with.
    max_picture_tokens: usize,
}

impl Style {
    fn settings(self, part: &Part) -> Settings {
        let settings = part.task.settings(self.family);
        Settings { chat: settings.chat || self.chat, ..settings }
    }

    fn prompt(self, part: &Part, item: &Item) -> PromptInput {
        if !self.settings(part).chat {
            return PromptInput::Raw { text: item.text() };
        }
        let (history, query) = item.chat(self.family);
        PromptInput::Chat { system: None, history, query, prefix: None, overflow: Overflow::Error }
    }
}

/// Asks one model all questions, or those of the shard. Returns the answers of each part.
fn answers(args: &EvalArgs, name: &str, checkpoint: Checkpoint, parts: &[Part], sizes: &mut Sizes) -> Result<Vec<Vec<Prediction>>> {
    let vocabulary = checkpoint.vocabulary()?;
    let tokenizer = checkpoint.tokenizer()?;
    let family = tokenizer.family();
    let pictures = PictureLimits { min_tokens: args.min_picture_tokens, max_tokens: None };
    let style = Style { family, chat: args.chat, pictures, max_picture_tokens: args.max_picture_tokens };
    let gpu = args.gpu.request(false)?;
    let mut answers_as = serde_json::to_vec(checkpoint.manifest())?;
    // Kernels that round change answers.
    if gpu.kernels().precision != Precision::F32 {
        answers_as.extend(format!("{:?}", gpu.kernels().precision).bytes());
    }
    let model_hash = |part: &Part| -> Result<String> {
        let mut answers_as = answers_as.clone();
        // The limits of pictures and the words of the prompts change answers. All prompts of a part have the same words.
        if family != Family::QwenVl {
            let Settings { max_new_tokens, min_new_tokens, .. } = style.settings(part);
            let limits = (pictures, style.max_picture_tokens, max_new_tokens, min_new_tokens);
            answers_as.extend(serde_json::to_vec(&(limits, style.prompt(part, &part.items[0])))?);
        }
        Ok(ShardHash::of(&answers_as).to_string())
    };

    let context_length = context_length(&checkpoint, &tokenizer, style, parts, sizes)?;
    let options = ModelOptions { context_length, max_picture_tokens: args.max_picture_tokens, ..ModelOptions::default() };
    let mut engine = Engine::new(checkpoint.load(gpu, options)?, &vocabulary)?;

    let mut answers = Vec::new();
    for part in parts {
        let header = Header { model: model_hash(part)?, data: part.hash.clone(), chat: style.settings(part).chat, shard: args.shard };
        let (mut known, mut file) = match &args.predictions {
            Some(folder) => {
                fs::create_dir_all(folder).with_context(|| format!("making `{}`", folder.display()))?;
                let path = predictions::file(folder, name, part, args.shard);
                let (known, file) = predictions::resume(&path, &header)?;
                (known, Some((path, file)))
            }
            None => (HashMap::new(), None),
        };
        let of_shard = |(index, _): &(usize, &Item)| args.shard.is_none_or(|shard| shard.has(*index));
        let items: Vec<&Item> = part.items.iter().enumerate().filter(of_shard).map(|(_, item)| item).collect();
        let progress = progress(items.len(), format!("{name}: {}", part.name))?;
        let mut predictions = Vec::with_capacity(items.len());
        for item in items {
            let prediction = match known.remove(&item.id) {
                Some(prediction) => prediction,
                None => {
                    let made = predict(&mut engine, item, part, style).with_context(|| format!("{}: question `{}`", part.name, item.id))?;
                    if let Some((path, file)) = &mut file {
                        predictions::append(path, file, &made)?;
                    }
                    made
                }
            };
            predictions.push(prediction);
            progress.inc(1);
        }
        progress.finish_and_clear();
        answers.push(predictions);
    }
    Ok(answers)
}

/// Returns the tokens of the longest question with its answer, which the context has to hold.
fn context_length(checkpoint: &Checkpoint, tokenizer: &Tokenizer, style: Style, parts: &[Part], sizes: &mut Sizes) -> Result<usize> {
    let mut longest = 0;
    for part in parts {
        let Settings { max_new_tokens, .. } = style.settings(part);
        let progress = progress(part.items.len(), format!("measuring {}", part.name))?;
        for item in &part.items {
            let what = || format!("{}: question `{}`", part.name, item.id);
            let mut grids = Vec::new();
            // The pictures of the 2023 model all have one size.
            let sized = if style.family == Family::QwenVl { &[][..] } else { &item.pictures };
            for picture in sized {
                let [width, height] = sizes.of(part.root.join(&picture.path)).with_context(what)?;
                let grid = style.pictures.grid(checkpoint.manifest(), style.max_picture_tokens, width, height);
                grids.push(grid.with_context(|| format!("{}: picture `{}`", what(), picture.path))?);
            }
            let prompt = style.prompt(part, item).encode(tokenizer, &grids, usize::MAX, None).with_context(what)?.prompt;
            let candidates = item.candidates(style.family).iter().map(String::len).max().unwrap_or(0);
            longest = longest.max(prompt.ids.len() + max_new_tokens.max(candidates) + 1);
            progress.inc(1);
        }
        progress.finish_and_clear();
    }
    Ok(longest)
}

fn progress(count: usize, what: String) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} {per_sec}, {eta} left")?;
    Ok(ProgressBar::new(count as u64).with_style(style).with_message(what))
}

fn predict(engine: &mut Engine, item: &Item, part: &Part, style: Style) -> Result<Prediction> {
    let image = |picture: &Picture| -> Result<ImageInput> {
        let (bytes, _) = read_picture(&part.root.join(&picture.path), DecodeOptions::ORIGINAL)?;
        Ok(ImageInput::Encoded { bytes, options: DecodeOptions::ORIGINAL })
    };
    let images = item.pictures.iter().map(image).collect::<Result<Vec<_>>>()?;
    let Style { family, pictures, .. } = style;
    let Settings { max_new_tokens, min_new_tokens, scored, .. } = style.settings(part);
    let prompt = style.prompt(part, item);
    let mut on_event = |_| ControlFlow::Continue(());
    let mut prediction = Prediction { id: item.id.clone(), ..Prediction::default() };
    if scored {
        let request = ScoreRequest { prompt, candidates: item.candidates(family), pictures };
        let scores = pollster::block_on(engine.score(&request, &images, &mut on_event))?;
        prediction.candidates = scores.unwrap_or_default().into_iter().map(|score| score.logprobs).collect();
    } else {
        // Checkpoints of later generations have penalties as defaults. VLMEvalKit evaluates without them.
        let (repetition_penalty, presence_penalty) = if family == Family::QwenVl { (None, None) } else { (Some(1.0), Some(0.0)) };
        let generation = GenerationOptions {
            max_new_tokens: Some(max_new_tokens),
            min_new_tokens,
            greedy: Some(true),
            repetition_penalty,
            presence_penalty,
            ..GenerationOptions::default()
        };
        let request = Request { prompt, generation, pictures };
        let answer = pollster::block_on(engine.ask(&request, &images, &mut on_event, None))?;
        prediction.answer = engine.tokenizer().decode(&answer.tokens, KeepSpecials::None).trim().to_owned();
        if part.task == Task::Grounding && family != Family::QwenVl {
            prediction.corners = Some(first_box(&answer.objects));
        }
    }
    Ok(prediction)
}
