//! `world`: shows the world, exports it, and trains its vocabulary.

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use image::{Rgb, RgbImage};
use qwen_vl_processor::{Picture, words};
use qwen_vl_world::{COLORS, PLACES, Question, SHAPES, Split, Stage, Task, WORDS, World, to_tiktoken, train_bpe};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    io::{BufWriter, Write},
    path::PathBuf,
};

/// A small world for training vision.
#[derive(Parser)]
#[command(name = "world", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Export(ExportArgs),
    Page(PageArgs),
    Samples(SamplesArgs),
    Sheet(SheetArgs),
    Text(TextArgs),
    Tokenizer(TokenizerArgs),
}

/// Which world.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum WorldName {
    Small,
    Full,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SplitName {
    Train,
    Validation,
    Test,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StageName {
    Text,
    Pretrain,
    Multitask,
    Chat,
}

#[derive(Args)]
struct Selection {
    /// Which world.
    #[arg(long, value_enum, default_value = "small")]
    world: WorldName,
    /// Pixels of a side; by default those of the world.
    #[arg(long)]
    side: Option<usize>,
    /// Which split.
    #[arg(long, value_enum, default_value = "train")]
    split: SplitName,
    /// Seed of the scenes.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Writes scenes with questions in the file formats of the original's `eval_mm`, for `qwenvl eval --suite DIR`.
#[derive(Args)]
struct ExportArgs {
    #[command(flatten)]
    selection: Selection,
    /// Number of scenes.
    #[arg(long, default_value_t = 500)]
    count: u64,
    /// Number of dialogues.
    #[arg(long, default_value_t = 200)]
    dialogues: u64,
    /// The folder to write.
    #[arg(long)]
    out: PathBuf,
}

/// Writes the description of the small world that the demo page is built with: `crates/world/assets/small.json`.
#[derive(Args)]
struct PageArgs {
    /// The file to write.
    out: PathBuf,
}

/// Draws a sheet of pictures with the boxes of their objects, and prints their texts.
#[derive(Args)]
struct SheetArgs {
    #[command(flatten)]
    selection: Selection,
    /// Pictures per row and per column.
    #[arg(long, default_value_t = 5)]
    columns: usize,
    /// Omits the boxes.
    #[arg(long)]
    plain: bool,
    /// Which samples.
    #[arg(long, value_enum, default_value = "multitask")]
    stage: StageName,
    /// The picture to write.
    out: PathBuf,
}

/// Prints the texts of samples.
#[derive(Args)]
struct TextArgs {
    #[command(flatten)]
    selection: Selection,
    /// Which samples.
    #[arg(long, value_enum, default_value = "chat")]
    stage: StageName,
    /// Number of samples.
    #[arg(long, default_value_t = 10)]
    count: usize,
}

/// Writes encoded samples to the standard output, for a trainer in another language.
///
/// Each sample, all little-endian: `u32` number of ids, the ids as `u32`, one byte for each id (1: to be predicted), `u32` number of
/// pictures, and for each picture `u32` the position of its first feature and its pixels as bytes, `[side, side, 3]`.
#[derive(Args)]
struct SamplesArgs {
    #[command(flatten)]
    selection: Selection,
    /// Which samples.
    #[arg(long, value_enum, default_value = "multitask")]
    stage: StageName,
    /// Positions per picture.
    #[arg(long, default_value_t = 16)]
    queries: usize,
    /// Most ids of a sample; further questions are left out.
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    /// Number of the first sample.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Number of samples.
    #[arg(long)]
    count: u64,
}

/// Trains the vocabulary on the texts of both worlds.
#[derive(Args)]
struct TokenizerArgs {
    /// Number of samples of each world and stage.
    #[arg(long, default_value_t = 10_000)]
    samples: usize,
    /// Number of tokens, including the 256 bytes.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// The file to write.
    out: PathBuf,
}

impl Selection {
    fn world(&self) -> World {
        let world = self.world.world();
        match self.side {
            Some(side) => world.with_side(side),
            None => world,
        }
    }

    fn split(&self) -> Split {
        match self.split {
            SplitName::Train => Split::Train,
            SplitName::Validation => Split::Validation,
            SplitName::Test => Split::Test,
        }
    }
}

impl WorldName {
    fn world(self) -> World {
        match self {
            Self::Small => World::small(),
            Self::Full => World::full(),
        }
    }
}

impl From<StageName> for Stage {
    fn from(name: StageName) -> Self {
        match name {
            StageName::Text => Self::Text,
            StageName::Pretrain => Self::Pretrain,
            StageName::Multitask => Self::Multitask,
            StageName::Chat => Self::Chat,
        }
    }
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Export(args) => export(&args),
        Command::Page(PageArgs { out }) => std::fs::write(&out, format!("{:#}\n", qwen_vl_world::page_description()))
            .with_context(|| format!("could not write {}", out.display())),
        Command::Samples(args) => samples(&args),
        Command::Sheet(args) => sheet(&args),
        Command::Text(args) => text(&args),
        Command::Tokenizer(args) => tokenizer(&args),
    }
}

fn samples(args: &SamplesArgs) -> Result<()> {
    let world = args.selection.world();
    let tokenizer = qwen_vl_world::tokenizer(args.queries)?;
    let mut out = BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
    for index in args.start..args.start.saturating_add(args.count) {
        let sample = world.sample(args.selection.split(), args.stage.into(), args.selection.seed, index);
        let encoded = sample.encode_within(&tokenizer, args.tokens).with_context(|| format!("encoding sample {index}"))?;
        let number = |value: usize| (value as u32).to_le_bytes();
        let write = |out: &mut dyn Write| {
            out.write_all(&number(encoded.ids.len()))?;
            encoded.ids.iter().try_for_each(|id| out.write_all(&id.to_le_bytes()))?;
            encoded.loss.iter().try_for_each(|learned| out.write_all(&[u8::from(*learned)]))?;
            out.write_all(&number(encoded.images.len()))?;
            encoded.images.iter().zip(&sample.pictures).try_for_each(|(span, picture)| {
                out.write_all(&number(span.features_from))?;
                out.write_all(picture.rgb())
            })
        };
        match write(&mut out) {
            // The reader closed the pipe.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            result => result.context("writing samples")?,
        }
    }
    out.flush().context("writing samples")
}

fn export(args: &ExportArgs) -> Result<()> {
    let (world, split, seed) = (args.selection.world(), args.selection.split(), args.selection.seed);
    let folder = args.out.join("images");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let save = |picture: &Picture, name: &str| {
        let path = args.out.join(name);
        let pixels = RgbImage::from_raw(picture.width(), picture.height(), picture.rgb().to_vec()).context("a picture of RGB")?;
        pixels.save(&path).with_context(|| format!("writing {}", path.display()))
    };
    let group = |question: &Question, held_out: bool| format!("{}{}", question.kind, if held_out { " (held out)" } else { "" });

    let (mut vqa, mut ocr, mut boxes, mut dialogues) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut images, mut captions) = (Vec::new(), Vec::new());
    for index in 0..args.count {
        let (scene, picture, questions) = world.test_questions(split, seed, index);
        let image = format!("images/{index:05}.png");
        save(&picture, &image)?;
        let held_out = scene.objects.iter().any(|object| object.held_out);
        for (number, question) in questions.iter().enumerate() {
            let group = group(question, held_out);
            let line = json!({ "image": image, "question": question.prompt, "question_id": index * 10 + number as u64,
                "answer": question.answer, "group": group });
            match question.task {
                Task::Caption => {
                    images.push(json!({ "id": index, "image": image, "group": group }));
                    captions.push(json!({ "id": index, "image_id": index, "image": image, "caption": question.answer }));
                }
                Task::Vqa => vqa.push(line),
                Task::OcrVqa => ocr.push(line),
                Task::Referring => {
                    let sent = question.prompt.trim_start_matches("<ref>").trim_end_matches("</ref><box>");
                    let object = scene.objects.iter().find(|object| object.box_text(scene.side).ends_with(&question.answer));
                    let bounds = object.context("an object of the scene")?.bounds;
                    boxes.push(json!({ "image": image, "sent": sent, "bbox": bounds, "width": scene.side, "height": scene.side,
                        "group": group }));
                }
                _ => {}
            }
        }
    }
    for index in 0..args.dialogues {
        let sample = world.sample(split, Stage::Chat, seed, index);
        let names: Vec<String> = (0..sample.pictures.len()).map(|number| format!("images/d{index:05}-{number}.png")).collect();
        for (picture, name) in sample.pictures.iter().zip(&names) {
            save(picture, name)?;
        }
        // The pictures go where their tags are in the user's text.
        let asked = sample.segments.iter().filter(|segment| segment.text.contains("<img>") || !segment.text.starts_with(['<', '\n']));
        let asked = asked.filter(|segment| !segment.loss).map(|segment| segment.text.matches("<img>").count());
        let mut names = names.into_iter();
        let turns = sample.questions.iter().zip(asked).map(|(question, pictures)| {
            let scored = !matches!(question.task, Task::Referring | Task::GroundedCaption | Task::Ocr);
            json!({ "images": names.by_ref().take(pictures).collect::<Vec<_>>(), "ask": question.ask, "answer": question.reply,
                "group": group(question, sample.held_out), "scored": scored })
        });
        dialogues.push(json!({ "id": index, "turns": turns.collect::<Vec<_>>() }));
    }

    let write = |name: &str, text: String| {
        let path = args.out.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    let files = [
        ("vqa", "exact", "vqa.jsonl", lines(&vqa)),
        ("ocr", "exact", "ocr.jsonl", lines(&ocr)),
        ("grounding", "grounding", "grounding.jsonl", lines(&boxes)),
        ("caption", "caption", "caption.json", json!({ "images": images, "annotations": captions }).to_string()),
        ("dialogue", "dialogue", "dialogue.jsonl", lines(&dialogues)),
    ];
    let tasks = files.iter().map(|(name, task, file, _)| json!({ "name": name, "task": task, "data": file })).collect::<Vec<_>>();
    for (_, _, file, text) in files {
        write(file, text)?;
    }
    write("suite.json", serde_json::to_string_pretty(&json!({ "tasks": tasks }))?)
}

fn lines(values: &[Value]) -> String {
    values.iter().map(|value| format!("{value}\n")).collect()
}

fn sheet(args: &SheetArgs) -> Result<()> {
    let world = args.selection.world();
    let (side, gap) = (world.side, 4);
    let whole = (args.columns * (side + gap) + gap) as u32;
    let mut sheet = RgbImage::from_pixel(whole, whole, Rgb([255; 3]));
    let shown = world.samples(args.selection.split(), args.stage.into(), args.selection.seed).filter(|sample| !sample.pictures.is_empty());
    for (cell, sample) in shown.take(args.columns * args.columns).enumerate() {
        println!("{cell}: {}{}", sample.text().replace('\n', "⏎"), if sample.held_out { "  [held out]" } else { "" });
        let (left, top) = (gap + cell % args.columns * (side + gap), gap + cell / args.columns * (side + gap));
        for (at, pixel) in sample.pictures[0].rgb().chunks(3).enumerate() {
            sheet.put_pixel((left + at % side) as u32, (top + at / side) as u32, Rgb([pixel[0], pixel[1], pixel[2]]));
        }
        if args.plain {
            continue;
        }
        for object in &sample.scenes[0].objects {
            let [x1, y1, x2, y2] = object.bounds.map(|value| value as usize);
            let edge = (x1..x2).flat_map(|x| [(x, y1), (x, y2 - 1)]).chain((y1..y2).flat_map(|y| [(x1, y), (x2 - 1, y)]));
            for (x, y) in edge {
                sheet.put_pixel((left + x) as u32, (top + y) as u32, Rgb([255, 0, 255]));
            }
        }
    }
    sheet.save(&args.out).with_context(|| format!("writing {}", args.out.display()))
}

fn text(args: &TextArgs) -> Result<()> {
    let world = args.selection.world();
    for sample in world.samples(args.selection.split(), args.stage.into(), args.selection.seed).take(args.count) {
        println!("{}\n", sample.text());
    }
    Ok(())
}

fn tokenizer(args: &TokenizerArgs) -> Result<()> {
    let lexicon = chinese_words();
    let mut counts: HashMap<String, u64> = HashMap::new();
    // The texts do not depend on the size of the pictures, and small pictures are drawn quickly.
    for world in [World::small().with_side(64), World::full().with_side(64)] {
        for stage in [Stage::Text, Stage::Pretrain, Stage::Multitask, Stage::Chat] {
            for sample in world.samples(Split::Train, stage, 0).take(args.samples) {
                for text in sample.segments.iter().map(|segment| &segment.text) {
                    for word in plain_texts(text).flat_map(words).flat_map(|word| pieces(word, &lexicon)) {
                        // Words in pictures are spelled in letters, so that a model learns to read them.
                        if !WORDS.contains(&word.trim()) {
                            *counts.entry(word.to_owned()).or_default() += 1;
                        }
                    }
                }
            }
        }
    }
    let tokens = train_bpe(&counts, args.size);
    println!("{} words, {} tokens", counts.len(), tokens.len());
    std::fs::write(&args.out, to_tiktoken(&tokens)).with_context(|| format!("writing {}", args.out.display()))
}

/// A text without its special tokens and picture names.
fn plain_texts(text: &str) -> impl Iterator<Item = &str> {
    text.split('<').map(|part| match part.split_once('>') {
        Some(("img", _)) => "",
        Some((_, after)) => after,
        None => part,
    })
}

/// Chinese words, within which tokens merge. Chinese has no blanks, so Qwen's splitter returns whole clauses.
fn chinese_words() -> Vec<String> {
    let world = World::full();
    let kinds = world.kinds.iter().map(|kind| qwen_vl_world::Thing::Pictogram(*kind).zh());
    let names = COLORS.iter().map(|(name, _)| *name).chain(SHAPES).chain(PLACES).map(|name| name.zh.to_owned());
    let other = ["没有", "是什么", "在哪里", "颜色", "数字", "单词", "一个", "一只", "位置", "图中", "这张图片", "描述", "写的是"];
    let mut words: Vec<String> = kinds.chain(names).chain(other.map(str::to_owned)).collect();
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    words
}

/// Splits a Chinese word into those of the lexicon and single characters.
fn pieces<'a>(word: &'a str, lexicon: &[String]) -> Vec<&'a str> {
    if word.is_ascii() {
        return vec![word];
    }
    let mut pieces = Vec::new();
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let length = lexicon.iter().find(|known| rest.starts_with(known.as_str())).map_or(first.len_utf8(), String::len);
        let (piece, tail) = rest.split_at(length);
        pieces.push(piece);
        rest = tail;
    }
    pieces
}
