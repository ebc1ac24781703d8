//! `qwenvl ask`: one question, one answer.

use crate::checkpoint::Checkpoint;
use crate::gpu::GpuArgs;
use crate::preprocess::{Pixels, check_is_path, decode_options, read_picture};
use crate::values::{probability, temperature, tokens};
use anyhow::{Context, Result};
use clap::Args;
use qwen_vl_processor::{Content, DecodeOptions};
use qwen_vl_runtime::session::{Answer, Engine, Event, GenerationOptions, ImageInput, Overflow, PromptInput, Request};
use qwen_vl_runtime::{Backend, KvFormat, ModelOptions, Trace};
use safetensors::{Dtype, tensor::TensorView};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Ask a model about pictures.
#[derive(Args)]
#[command(group(clap::ArgGroup::new("input").required(true).args(["prompt", "chat", "case"])))]
pub struct AskArgs {
    /// The web checkpoint.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// A text to continue (base format); `<img>path</img>` in it is a picture.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A picture before the prompt, relative to `--root`; may be repeated.
    #[arg(long, value_name = "FILE", requires = "prompt")]
    image: Vec<PathBuf>,
    /// A conversation: {"system": …, "history": [[query, answer], …], "query": …}. A query is a string, in which `<img>path</img>` is a
    /// picture, or a list of {"text": …}, {"image": path} and {"ref": name, "boxes": [[x1, y1, x2, y2], …]}, in which text is text.
    #[arg(long, value_name = "FILE")]
    chat: Option<PathBuf>,
    /// A golden case: its token ids with its pictures, read as the original reads them, and as many greedy steps as it has, past stop
    /// tokens.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["max_new_tokens", "temperature", "top_p", "top_k", "seed", "pixels"])]
    case: Option<PathBuf>,
    /// Folder that the paths of pictures in texts and cases are relative to.
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,
    /// Turn photos as their EXIF orientation says; the original ignores it.
    #[arg(long)]
    apply_orientation: bool,
    /// Colours of pictures: `display` as viewers show them (transparency on white, 16-bit gray scaled), `original` as the original code
    /// reads them (transparency dropped, 16-bit gray clipped at 255).
    #[arg(long, value_enum, default_value_t = Pixels::Display)]
    pixels: Pixels,
    /// Format of keys and values in the cache: f32, f16 or q8.
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    kv: KvFormat,
    #[command(flatten)]
    gpu: GpuArgs,
    /// Length limit of the answer, tokens [default: the checkpoint's].
    #[arg(long, value_name = "N", value_parser = tokens, allow_negative_numbers = true)]
    max_new_tokens: Option<usize>,
    /// Always take the most likely token.
    #[arg(long)]
    greedy: bool,
    /// Divisor of the logits [default: the checkpoint's, or 1]. Each of temperature, top-p and top-k means sampling, also where the
    /// checkpoint is greedy by default.
    #[arg(long, value_name = "T", conflicts_with = "greedy", value_parser = temperature, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Probability mass to sample from [default: the checkpoint's].
    #[arg(long, value_name = "P", conflicts_with = "greedy", value_parser = probability, allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Number of most likely tokens to sample from, 0 for all [default: the checkpoint's].
    #[arg(long, value_name = "K", conflicts_with = "greedy", allow_negative_numbers = true)]
    top_k: Option<usize>,
    /// Seed of the random numbers of sampling [default: from the clock].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
    /// Write logits, image features and pixels to a safetensors file.
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
}

/// The file of `--chat`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChatFile {
    system: Option<String>,
    #[serde(default)]
    history: Vec<(Content, Content)>,
    query: Content,
}

/// The part of a golden case that is run.
#[derive(Deserialize)]
struct CaseFile {
    input_ids: Vec<u32>,
    images: Vec<CaseImage>,
    decode: CaseDecode,
}

#[derive(Deserialize)]
struct CaseImage {
    path: PathBuf,
}

#[derive(Deserialize)]
struct CaseDecode {
    tokens: Vec<u32>,
}

/// A request and its pictures, checked as far as that is possible without the weights.
struct Question {
    request: Request,
    images: Vec<ImageInput>,
    /// Length of the prompt and of the longest answer, in tokens.
    context_length: usize,
}

pub fn run(args: &AskArgs) -> Result<()> {
    let checkpoint = Checkpoint::open(&args.model)?;
    let vocabulary = checkpoint.vocabulary()?;
    let question = question(args, &checkpoint)?;
    let options = ModelOptions { context_length: question.context_length, kv: args.kv, ..ModelOptions::default() };

    let started = Instant::now();
    let gpu = args.gpu.request(false)?;
    let mut engine = Engine::new(checkpoint.load(gpu, options)?, &vocabulary)?;
    let load_ms = started.elapsed().as_secs_f64() * 1e3;

    let mut trace = args.dump.as_ref().map(|_| Trace::new());
    let mut on_event = |event| {
        let Event::Text { delta, .. } = event else { return ControlFlow::Continue(()) };
        let mut stdout = std::io::stdout();
        // A reader that closed the pipe wants no more.
        match args.json || stdout.write_all(delta.as_bytes()).and_then(|()| stdout.flush()).is_ok() {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    };
    let answer = pollster::block_on(engine.ask(&question.request, &question.images, &mut on_event, trace.as_mut()))?;
    if args.json {
        print_json(&answer, &engine, load_ms)?;
    } else {
        print_rest(&answer, load_ms)?;
    }
    if let (Some(path), Some(trace)) = (&args.dump, &trace) {
        dump(path, trace, &engine).with_context(|| format!("could not write `{}`", path.display()))?;
    }
    Ok(())
}

fn question(args: &AskArgs, checkpoint: &Checkpoint) -> Result<Question> {
    let tokenizer = checkpoint.tokenizer()?;
    let defaults = &checkpoint.manifest().generation;
    let mut generation = GenerationOptions {
        max_new_tokens: args.max_new_tokens,
        greedy: args.greedy.then_some(true),
        temperature: args.temperature,
        top_p: args.top_p,
        top_k: args.top_k,
        seed: args.seed,
        ..GenerationOptions::default()
    };
    let mut paths = None;
    let input = if let Some(path) = &args.case {
        let case: CaseFile = read_json(path)?;
        paths = Some(case.images.into_iter().map(|image| image.path).collect());
        generation.greedy = Some(true);
        generation.ignore_stop = true;
        generation.max_new_tokens = Some(case.decode.tokens.len());
        PromptInput::Ids { ids: case.input_ids }
    } else if let Some(path) = &args.chat {
        let ChatFile { system, history, query } = read_json(path)?;
        PromptInput::Chat { system, history, query, overflow: Overflow::DropOldest }
    } else {
        let name = |path| name_in_prompt(path, tokenizer.queries());
        let mut text: String = args.image.iter().map(|path| format!("<img>{}</img>", name(path))).collect();
        text.push_str(args.prompt.as_deref().unwrap_or_default());
        PromptInput::Raw { text }
    };

    // The engine makes the same prompt again; here it names its pictures before anything large is loaded.
    let prompt = input.encode(&tokenizer, defaults.max_window_size, None)?.prompt;
    // Pictures of `--image` are the first of the prompt; their names in it may differ from their paths.
    let named = prompt.images.iter().skip(args.image.len()).map(|image| PathBuf::from(&image.path));
    let paths: Vec<PathBuf> = paths.unwrap_or_else(|| args.image.iter().cloned().chain(named).collect());
    let pixels = if args.case.is_some() { Pixels::Original } else { args.pixels };
    let options = decode_options(args.apply_orientation, pixels);
    let images = paths.iter().map(|path| picture(&args.root, path, options)).collect::<Result<_>>()?;
    let prompt_tokens = prompt.ids.len();
    let context_length = prompt_tokens + generation.longest_answer(prompt_tokens, defaults);
    Ok(Question { request: Request { prompt: input, generation }, images, context_length })
}

/// Returns the name of a picture of `--image` in the prompt: its path, or only the file's name if the path is too long. The features of the
/// picture replace it, so that it does not affect the answer.
fn name_in_prompt(path: &Path, queries: usize) -> String {
    let whole = path.display().to_string();
    match path.file_name() {
        Some(name) if whole.len() > queries => name.to_string_lossy().into_owned(),
        _ => whole,
    }
}

fn picture(root: &Path, path: &Path, options: DecodeOptions) -> Result<ImageInput> {
    check_is_path(path)?;
    // Decoded here only so that an error names the file.
    let (bytes, _) = read_picture(&root.join(path), options)?;
    Ok(ImageInput::Encoded { bytes, options })
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let json = std::fs::read_to_string(path).with_context(|| format!("could not read `{}`", path.display()))?;
    // Editors on Windows write a byte order mark.
    let json = json.strip_prefix('\u{feff}').unwrap_or(&json);
    serde_json::from_str(json).with_context(|| format!("could not read `{}`", path.display()))
}

fn print_json(answer: &Answer, engine: &Engine, load_ms: f64) -> Result<()> {
    let gpu = engine.model().gpu();
    let info = gpu.info();
    let mut object = serde_json::to_value(answer)?;
    object["timings"]["load_ms"] = json!(load_ms);
    object["adapter"] = json!({
        "name": info.name,
        "backend": info.backend.to_string(),
        "device_type": format!("{:?}", info.device_type),
        "driver": info.driver,
        "driver_info": info.driver_info,
        "kernels": gpu.kernels().to_string(),
        "allocated_bytes": gpu.allocated_bytes(),
    });
    println!("{object}");
    Ok(())
}

/// Prints what follows the streamed text: the objects, and to the standard error dropped turns and times.
fn print_rest(answer: &Answer, load_ms: f64) -> Result<()> {
    println!();
    for object in &answer.objects {
        // Without a known picture there are only thousandths.
        let shape = object.pixels.as_ref().unwrap_or(&object.norm);
        let unit = if object.pixels.is_some() { "" } else { " (thousandths of an unknown picture)" };
        let shape = serde_json::to_string(shape)?;
        let kind = serde_json::to_value(object.kind).ok();
        let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or_default();
        println!("{kind} {shape}{unit} {}", object.reference.as_deref().unwrap_or_default());
    }
    if answer.dropped_turns > 0 {
        eprintln!("{} of the oldest turns did not fit and were left out of the prompt", answer.dropped_turns);
    }
    let timings = &answer.timings;
    eprintln!(
        "loaded in {:.1} s, pictures {:.0} ms, prompt of {} tokens {:.0} ms, {} tokens at {:.1}/s",
        load_ms / 1e3,
        timings.encode_ms,
        answer.prompt_ids.len(),
        timings.prefill_ms,
        answer.tokens.len(),
        timings.decode_tokens_per_second
    );
    Ok(())
}

/// Writes the traced stages as f32, without padding.
fn dump(path: &Path, trace: &Trace, engine: &Engine) -> Result<()> {
    let config = &engine.model().manifest().config;
    let side = config.visual.image_size;
    let mut views = Vec::new();
    for (name, values) in trace {
        let shape = match name.split('.').next() {
            Some("logits" | "decode_logits") => vec![values.len() / config.vocab_size, config.vocab_size],
            Some("image_features") => vec![config.visual.n_queries, config.hidden_size],
            Some("pixels") => vec![3, side, side],
            _ => continue,
        };
        // The format is little-endian, and so is every supported machine.
        views.push((name.as_str(), TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values))?));
    }
    safetensors::serialize_to_file(views, None, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_too_long_becomes_the_file_name() {
        let path = Path::new("some/folder/cat.png");
        assert_eq!(name_in_prompt(path, 19), "some/folder/cat.png");
        assert_eq!(name_in_prompt(path, 18), "cat.png");
    }
}
