//! `qwenvl ask`: one question, one answer.

use crate::checkpoint::Checkpoint;
use crate::form::FormArgs;
use crate::gpu::GpuArgs;
use crate::preprocess::{Pixels, check_is_path, decode_options, read_picture};
use crate::sampling::SamplingArgs;
use crate::values::tokens;
use crate::video::{VideoArgs, read_fitting, read_video};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use qwen_vl_processor::{Content, DecodeOptions, Family, Part, Picture, PictureGrid, ProcessorError, Prompt, Tokenizer};
use qwen_vl_runtime::session::{Answer, Engine, Event, ImageInput, Overflow, PictureLimits, PromptInput, Request};
use qwen_vl_runtime::{Backend, KvFormat, ModelOptions, Trace};
use safetensors::{Dtype, tensor::TensorView};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::json;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Ask a model about pictures.
#[derive(Args)]
#[command(group(clap::ArgGroup::new("input").required(true).args(["question", "prompt", "chat", "case"])))]
pub struct AskArgs {
    /// The web checkpoint.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// A question. A chat model gets it in its chat template, a base model as a text to continue.
    question: Option<String>,
    /// A text to continue (base format); in the 2023 model `<img>path</img>` in it is a picture.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A picture before the question or the prompt, relative to `--root`; may be repeated.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["chat", "case"])]
    image: Vec<PathBuf>,
    /// A conversation: {"system": …, "history": [[query, answer], …], "query": …}. A query is a string, in which `<img>path</img>` is a
    /// picture, or a list of {"text": …}, {"image": path}, {"video": folder} and {"ref": name, "boxes": [[x1, y1, x2, y2], …]}, in which text
    /// is text.
    #[arg(long, value_name = "FILE")]
    chat: Option<PathBuf>,
    /// A golden case: its token ids with its pictures, read as the original reads them, and as many greedy steps as it has, past stop
    /// tokens.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["max_new_tokens", "temperature", "top_p", "top_k", "seed", "presence_penalty", "pixels"])]
    case: Option<PathBuf>,
    #[command(flatten)]
    videos: VideoArgs,
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
    /// Fewest tokens of a picture, where pictures have any size: smaller ones are enlarged [default: the checkpoint's].
    #[arg(long, value_name = "N", value_parser = tokens, conflicts_with = "case")]
    min_picture_tokens: Option<usize>,
    /// Most tokens of a picture, where pictures have any size: larger ones are reduced.
    #[arg(long, value_name = "N", value_parser = tokens, default_value_t = ModelOptions::default().max_picture_tokens, conflicts_with = "case")]
    max_picture_tokens: usize,
    /// Format of keys and values in the cache: f32, f16 or q8.
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    kv: KvFormat,
    #[command(flatten)]
    gpu: GpuArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    form: FormArgs,
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

/// The part of a golden case that is run. Cases of the 2023 model list their pictures, those of later generations have them in messages.
#[derive(Deserialize)]
struct CaseFile {
    input_ids: Vec<u32>,
    #[serde(default)]
    images: Vec<CaseImage>,
    #[serde(default)]
    messages: Vec<CaseMessage>,
    image_size_limits: Option<SizeLimits>,
    decode: CaseDecode,
}

#[derive(Deserialize)]
struct CaseImage {
    path: PathBuf,
}

#[derive(Deserialize)]
struct CaseMessage {
    content: CaseContent,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CaseContent {
    Parts(Vec<CasePart>),
    Text(IgnoredAny),
}

/// A part of a message as `transformers` takes it: a video is a list of frames.
#[derive(Deserialize)]
struct CasePart {
    image: Option<PathBuf>,
    video: Option<Vec<String>>,
    fps: Option<f64>,
}

/// A picture or a video of a prompt.
enum Seen {
    Picture(PathBuf),
    /// A folder of frames.
    Folder(PathBuf),
    /// Frames in their size for the model.
    Frames {
        names: Vec<String>,
        fps: f64,
    },
}

/// Limits of the size of a picture, pixels in all.
#[derive(Deserialize)]
struct SizeLimits {
    shortest_edge: u64,
    longest_edge: u64,
}

impl CaseFile {
    fn seen(self) -> Vec<Seen> {
        let parts = self.messages.into_iter().filter_map(|message| match message.content {
            CaseContent::Parts(parts) => Some(parts),
            CaseContent::Text(_) => None,
        });
        let seen = |part: CasePart| match part {
            CasePart { image: Some(path), .. } => Some(Seen::Picture(path)),
            CasePart { video: Some(names), fps, .. } => Some(Seen::Frames { names, fps: fps.unwrap_or(2.0) }),
            _ => None,
        };
        self.images.into_iter().map(|image| Seen::Picture(image.path)).chain(parts.flatten().filter_map(seen)).collect()
    }
}

/// Returns the pictures and videos among the parts of a content.
fn seen_in(content: &Content) -> Vec<Seen> {
    let Content::Parts(parts) = content else { return Vec::new() };
    let seen = |part: &Part| match part {
        Part::Image { image } => Some(Seen::Picture(image.into())),
        Part::Video { video } => Some(Seen::Folder(video.into())),
        Part::Text { .. } | Part::Region { .. } => None,
    };
    parts.iter().filter_map(seen).collect()
}

#[derive(Deserialize)]
struct CaseDecode {
    tokens: Vec<u32>,
}

/// A request and its pictures, checked as far as that is possible without the weights.
struct Question {
    request: Request,
    images: Vec<ImageInput>,
    prompt: Prompt,
    /// Length of the prompt and of the longest answer, in tokens.
    context_length: usize,
    max_picture_tokens: usize,
}

pub fn run(args: &AskArgs) -> Result<()> {
    let mut checkpoint = Checkpoint::open(&args.model)?;
    let vocabulary = checkpoint.vocabulary()?;
    let question = question(args, &mut checkpoint)?;
    let Question { context_length, max_picture_tokens, .. } = question;
    let options = ModelOptions { context_length, kv: args.kv, max_picture_tokens, ..ModelOptions::default() };

    let started = Instant::now();
    let constraint = args.form.constraint(&checkpoint.tokenizer()?, &checkpoint.manifest().generation)?;
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
    let Question { request, images, .. } = &question;
    let answer = match constraint {
        Some(mut constraint) => pollster::block_on(engine.ask_constrained(request, images, &mut on_event, &mut constraint)),
        None => pollster::block_on(engine.ask(request, images, &mut on_event, trace.as_mut())),
    }?;
    if args.json {
        print_json(&answer, &question.prompt, &engine, load_ms)?;
    } else {
        print_rest(&answer, load_ms)?;
    }
    if let (Some(path), Some(trace)) = (&args.dump, &trace) {
        dump(path, trace, &engine).with_context(|| format!("could not write `{}`", path.display()))?;
    }
    Ok(())
}

fn question(args: &AskArgs, checkpoint: &mut Checkpoint) -> Result<Question> {
    let tokenizer = checkpoint.tokenizer()?;
    let chat_model = checkpoint.manifest().generation.chat_format == "chatml";
    let mut generation = args.sampling.options();
    let mut max_picture_tokens = args.max_picture_tokens;
    let folders = || args.videos.video.iter().cloned().map(Seen::Folder);
    let mut seen: Vec<Seen> = args.image.iter().cloned().map(Seen::Picture).chain(folders()).collect();
    let input = if let Some(path) = &args.case {
        let case: CaseFile = read_json(path)?;
        if let Some(limits) = &case.image_size_limits {
            checkpoint.limit_pictures(limits.shortest_edge, limits.longest_edge);
        }
        // As large as the checkpoint allows, as in the original.
        max_picture_tokens = checkpoint.largest_picture_tokens().unwrap_or(max_picture_tokens);
        // The golden data are made without a penalty, whatever the checkpoint's defaults.
        generation.greedy = Some(true);
        generation.ignore_stop = true;
        generation.repetition_penalty = Some(1.0);
        generation.presence_penalty = Some(0.0);
        generation.max_new_tokens = Some(case.decode.tokens.len());
        let ids = case.input_ids.clone();
        seen = case.seen();
        PromptInput::Ids { ids }
    } else if let Some(path) = &args.chat {
        let ChatFile { system, history, query } = read_json(path)?;
        let contents = history.iter().flat_map(|(query, answer)| [query, answer]).chain([&query]);
        seen = contents.flat_map(seen_in).collect();
        PromptInput::Chat { system, history, query, prefix: None, overflow: Overflow::DropOldest }
    } else if let (Some(question), true) = (&args.question, chat_model) {
        let name = |path: &PathBuf| Part::Image { image: name_in_prompt(path, &tokenizer) };
        let videos = args.videos.video.iter().map(|folder| Part::Video { video: folder.display().to_string() });
        let mut parts: Vec<Part> = args.image.iter().map(name).chain(videos).collect();
        parts.push(Part::Text { text: question.clone() });
        PromptInput::Chat { system: None, history: Vec::new(), query: Content::Parts(parts), prefix: None, overflow: Overflow::DropOldest }
    } else {
        let picture = |path: &PathBuf| match tokenizer.family() {
            Family::QwenVl => format!("<img>{}</img>", name_in_prompt(path, &tokenizer)),
            Family::Qwen2Vl | Family::Qwen25Vl | Family::Qwen3Vl => "<|vision_start|><|image_pad|><|vision_end|>".to_owned(),
        };
        ensure!(args.videos.video.is_empty(), "a text to continue takes no videos: ask a question of a chat model");
        let mut text: String = args.image.iter().map(picture).collect();
        text.push_str(args.prompt.as_ref().or(args.question.as_ref()).map_or("", String::as_str));
        PromptInput::Raw { text }
    };

    let pixels = if args.case.is_some() { Pixels::Original } else { args.pixels };
    let options = decode_options(args.apply_orientation, pixels);
    let pictures = PictureLimits { min_tokens: args.min_picture_tokens, max_tokens: None };
    let manifest = checkpoint.manifest();
    // The engine makes the same prompt again; here it names its pictures, and what is wrong with them, before anything large is loaded.
    let (images, prompt) = if tokenizer.family() == Family::QwenVl {
        let prompt = input.encode(&tokenizer, &[], manifest.generation.max_window_size, None)?.prompt;
        if args.case.is_none() {
            // Pictures of `--image` are the first of the prompt; their names in it may differ from their paths.
            let named = prompt.images.iter().skip(args.image.len()).map(|image| Seen::Picture(PathBuf::from(&image.path)));
            seen = args.image.iter().cloned().map(Seen::Picture).chain(named).collect();
        }
        let images = seen.iter().map(|seen| match seen {
            Seen::Picture(path) => Ok(picture(&args.root, path, options)?.0),
            Seen::Folder(_) | Seen::Frames { .. } => bail!(ProcessorError::Video),
        });
        (images.collect::<Result<_>>()?, prompt)
    } else {
        let (mut images, mut grids) = (Vec::new(), Vec::new());
        for seen in &seen {
            let (image, steps) = match seen {
                Seen::Picture(path) => {
                    let (image, decoded) = picture(&args.root, path, options)?;
                    let grid = pictures.grid(manifest, max_picture_tokens, decoded.width(), decoded.height());
                    (image, vec![grid.with_context(|| format!("picture `{}`", path.display()))?])
                }
                Seen::Folder(path) => read_video(&args.root.join(path), &args.videos, manifest, max_picture_tokens, options)?,
                Seen::Frames { names, fps } => read_fitting(&args.root, names, *fps, manifest, options)?,
            };
            images.push(image);
            grids.extend(steps);
        }
        if args.case.is_some() {
            // Memory for these pictures, not for the largest. Only one near the limit can have been reduced to it, and needs the limit itself.
            let needed = grids.iter().map(PictureGrid::tokens).max().unwrap_or_default().max(4);
            max_picture_tokens = if 2 * needed > max_picture_tokens { max_picture_tokens.max(needed) } else { needed };
        }
        let prompt = input.encode(&tokenizer, &grids, manifest.generation.max_window_size, None)?.prompt;
        (images, prompt)
    };
    let prompt_tokens = prompt.ids.len();
    let context_length = prompt_tokens + generation.longest_answer(prompt_tokens, &manifest.generation);
    Ok(Question { request: Request { prompt: input, generation, pictures }, images, prompt, context_length, max_picture_tokens })
}

/// Returns the name of a picture of `--image` in the prompt: its path, or only the file's name if the path is too long. The features of the
/// picture replace it, so that it does not affect the answer.
fn name_in_prompt(path: &Path, tokenizer: &Tokenizer) -> String {
    short_name(path, tokenizer.queries())
}

/// Returns a path, or only its file name if the path has more than `longest` bytes.
pub fn short_name(path: &Path, longest: usize) -> String {
    let whole = path.display().to_string();
    match path.file_name() {
        Some(name) if whole.len() > longest => name.to_string_lossy().into_owned(),
        _ => whole,
    }
}

/// Reads a picture and decodes it, so that an error names the file and its size is known.
fn picture(root: &Path, path: &Path, options: DecodeOptions) -> Result<(ImageInput, Picture)> {
    check_is_path(path)?;
    let (bytes, picture) = read_picture(&root.join(path), options)?;
    Ok((ImageInput::Encoded { bytes, options }, picture))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let json = std::fs::read_to_string(path).with_context(|| format!("could not read `{}`", path.display()))?;
    // Editors on Windows write a byte order mark.
    let json = json.strip_prefix('\u{feff}').unwrap_or(&json);
    serde_json::from_str(json).with_context(|| format!("could not read `{}`", path.display()))
}

fn print_json(answer: &Answer, prompt: &Prompt, engine: &Engine, load_ms: f64) -> Result<()> {
    let gpu = engine.model().gpu();
    let info = gpu.info();
    let mut object = serde_json::to_value(answer)?;
    object["timings"]["load_ms"] = json!(load_ms);
    if engine.tokenizer().family() != Family::QwenVl {
        let positions = prompt.positions();
        // One row for each axis, as `transformers` has them.
        let axis = |axis: usize| positions.ids.iter().map(|position| position[axis]).collect::<Vec<_>>();
        object["position_ids"] = json!([axis(0), axis(1), axis(2)]);
        object["rope_delta"] = json!(positions.rope_delta());
        let (mut images, mut videos) = (Vec::new(), Vec::<[usize; 3]>::new());
        for grid in prompt.images.iter().filter_map(|image| image.grid) {
            match videos.last_mut().filter(|_| grid.continues()) {
                Some(video) => video[0] += 1,
                None => if grid.step.is_some() { &mut videos } else { &mut images }.push([1, grid.rows, grid.columns]),
            }
        }
        (object["image_grid_thw"], object["video_grid_thw"]) = (json!(images), json!(videos));
    }
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
    print_objects(answer)?;
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

/// Prints the objects of an answer, one a line.
pub fn print_objects(answer: &Answer) -> Result<()> {
    for object in &answer.objects {
        // Without a known picture there are only thousandths.
        let shape = object.pixels.as_ref().unwrap_or(&object.norm);
        let unit = if object.pixels.is_some() { "" } else { " (thousandths of an unknown picture)" };
        let shape = serde_json::to_string(shape)?;
        let kind = serde_json::to_value(object.kind).ok();
        let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or_default();
        println!("{kind} {shape}{unit} {}", object.reference.as_deref().unwrap_or_default());
    }
    Ok(())
}

/// Writes the traced stages as f32, without padding.
fn dump(path: &Path, trace: &Trace, engine: &Engine) -> Result<()> {
    let config = &engine.model().manifest().config;
    let side = config.vision.image_size.unwrap_or_default();
    let mut views = Vec::new();
    for (name, values) in trace {
        let shape = match name.split('.').next() {
            Some("logits" | "decode_logits") => vec![values.len() / config.decoder.vocab_size, config.decoder.vocab_size],
            Some("image_features" | "image_deepstack") => vec![values.len() / config.decoder.width, config.decoder.width],
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
        assert_eq!(short_name(path, 19), "some/folder/cat.png");
        assert_eq!(short_name(path, 18), "cat.png");
    }
}
