//! `qwenvl chat`: a conversation in the terminal.

use crate::ask::print_objects;
use crate::checkpoint::Checkpoint;
use crate::gpu::GpuArgs;
use crate::preprocess::{Pixels, check_is_path, decode_options, read_picture};
use crate::sampling::SamplingArgs;
use crate::values::tokens;
use anyhow::{Context, Result, ensure};
use clap::Args;
use qwen_vl_processor::{Content, DecodeOptions, Part};
use qwen_vl_runtime::session::{Engine, Event, GenerationOptions, ImageInput, Overflow, PictureLimits, PromptInput, Request};
use qwen_vl_runtime::{KvFormat, ModelOptions};
use std::io::{BufRead, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// The commands of a conversation, as `/help` prints them.
const HELP: &str = "\
/image FILE    add a picture to the next question
/system TEXT   set the system text, and begin anew
/undo          forget the last question and its answer
/clear         begin anew
/quit          end (so does the end of the input)";

/// Talk to a chat model in the terminal.
#[derive(Args)]
pub struct ChatArgs {
    /// The web checkpoint.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// A picture of the first question; may be repeated. `/image FILE` adds one to a later question.
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// System text [default: that of the chat template].
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Length limit of the conversation, tokens; the oldest turns are dropped.
    #[arg(long, value_name = "N", value_parser = tokens, default_value_t = 4096)]
    context: usize,
    /// Fewest tokens of a picture, where pictures have any size: smaller ones are enlarged [default: the checkpoint's].
    #[arg(long, value_name = "N", value_parser = tokens)]
    min_picture_tokens: Option<usize>,
    /// Most tokens of a picture, where pictures have any size: larger ones are reduced.
    #[arg(long, value_name = "N", value_parser = tokens, default_value_t = ModelOptions::default().max_picture_tokens)]
    max_picture_tokens: usize,
    /// Format of keys and values in the cache: f32, f16 or q8.
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    kv: KvFormat,
    #[command(flatten)]
    gpu: GpuArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// A conversation and its settings.
struct Conversation {
    engine: Engine,
    generation: GenerationOptions,
    limits: PictureLimits,
    system: Option<String>,
    history: Vec<(Content, Content)>,
    /// Pictures of the history, then those of the next question, each with its path.
    pictures: Vec<(String, ImageInput)>,
    /// Number of pictures of the next question.
    added: usize,
}

pub fn run(args: &ChatArgs) -> Result<()> {
    let checkpoint = Checkpoint::open(&args.model)?;
    ensure!(
        checkpoint.manifest().generation.chat_format == "chatml",
        "`{}` is a base model, which has no chat template: use `qwenvl ask --prompt`",
        args.model.display()
    );
    let vocabulary = checkpoint.vocabulary()?;
    let options =
        ModelOptions { context_length: args.context, kv: args.kv, max_picture_tokens: args.max_picture_tokens, ..Default::default() };
    let engine = Engine::new(checkpoint.load(args.gpu.request(false)?, options)?, &vocabulary)?;
    let mut conversation = Conversation {
        engine,
        generation: args.sampling.options(),
        limits: PictureLimits { min_tokens: args.min_picture_tokens, max_tokens: None },
        system: args.system.clone(),
        history: Vec::new(),
        pictures: Vec::new(),
        added: 0,
    };
    for path in &args.image {
        conversation.add(path)?;
    }
    let stdin = std::io::stdin();
    let is_terminal = stdin.is_terminal();
    if is_terminal {
        eprintln!("{HELP}");
    }
    for line in prompted(stdin.lock(), is_terminal) {
        let line = line.context("could not read the question")?;
        match conversation.take(line.trim()) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => break,
            // A wrong path or a question that is too long does not end the conversation.
            Err(error) => eprintln!("error: {error:#}"),
        }
    }
    Ok(())
}

/// Iterates over lines, and asks for each on a terminal.
fn prompted(input: impl BufRead, is_terminal: bool) -> impl Iterator<Item = std::io::Result<String>> {
    let mut lines = input.lines();
    std::iter::from_fn(move || {
        if is_terminal {
            eprint!("> ");
        }
        lines.next()
    })
}

impl Conversation {
    /// Obeys a command or answers a question.
    fn take(&mut self, line: &str) -> Result<ControlFlow<()>> {
        let (command, argument) = line.split_once(' ').map_or((line, ""), |(command, argument)| (command, argument.trim()));
        match command {
            "" => {}
            "/quit" | "/exit" => return Ok(ControlFlow::Break(())),
            "/help" => eprintln!("{HELP}"),
            "/image" => {
                ensure!(!argument.is_empty(), "/image needs the path of a picture");
                self.add(Path::new(argument))?;
            }
            "/system" => {
                self.clear();
                self.system = Some(argument.to_owned());
            }
            "/clear" => self.clear(),
            "/undo" => self.undo(),
            _ if command.starts_with('/') && !command[1..].contains('/') => eprintln!("error: unknown command {command}\n{HELP}"),
            _ => self.ask(line)?,
        }
        Ok(ControlFlow::Continue(()))
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        check_is_path(path)?;
        let options: DecodeOptions = decode_options(true, Pixels::Display);
        let (bytes, _) = read_picture(path, options)?;
        self.pictures.push((path.display().to_string(), ImageInput::Encoded { bytes, options }));
        self.added += 1;
        Ok(())
    }

    fn clear(&mut self) {
        self.history.clear();
        self.pictures.clear();
        self.added = 0;
    }

    fn undo(&mut self) {
        let Some((question, _)) = self.history.pop() else { return };
        let pictures = match &question {
            Content::Parts(parts) => parts.iter().filter(|part| matches!(part, Part::Image { .. })).count(),
            Content::Tagged(_) => 0,
        };
        // Those of the next question stay.
        let end = self.pictures.len() - self.added;
        self.pictures.drain(end - pictures..end);
    }

    fn ask(&mut self, question: &str) -> Result<()> {
        let new = &self.pictures[self.pictures.len() - self.added..];
        let longest = self.engine.tokenizer().queries();
        let name = |path: &String| crate::ask::short_name(Path::new(path), longest);
        let mut parts: Vec<_> = new.iter().map(|(path, _)| Part::Image { image: name(path) }).collect();
        parts.push(Part::Text { text: question.to_owned() });
        let query = Content::Parts(parts);
        let (system, history) = (self.system.clone(), self.history.clone());
        let prompt = PromptInput::Chat { system, history, query: query.clone(), prefix: None, overflow: Overflow::DropOldest };
        let request = Request { prompt, generation: self.generation.clone(), pictures: self.limits };
        let images: Vec<ImageInput> = self.pictures.iter().map(|(_, image)| image.clone()).collect();
        // All of the conversation, so that no question needs a picture again.
        self.engine.keep_images(images.len());
        let mut on_event = |event| {
            let Event::Text { delta, .. } = event else { return ControlFlow::Continue(()) };
            let mut stdout = std::io::stdout();
            // A reader that closed the pipe wants no more.
            match stdout.write_all(delta.as_bytes()).and_then(|()| stdout.flush()).is_ok() {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let answer = pollster::block_on(self.engine.ask(&request, &images, &mut on_event, None))?;
        println!();
        print_objects(&answer)?;
        if answer.dropped_turns > 0 {
            eprintln!("{} of the oldest turns did not fit and were left out of the prompt", answer.dropped_turns);
        }
        // The features of these pictures are kept, and so need not be decoded again.
        let kept = self.pictures.len() - answer.images.len();
        for ((_, image), info) in self.pictures[kept..].iter_mut().zip(&answer.images) {
            if self.engine.keeps_image(&info.id) {
                *image = ImageInput::Kept { id: info.id.clone() };
            }
        }
        self.history.push((query, Content::Tagged(answer.raw)));
        self.added = 0;
        Ok(())
    }
}
