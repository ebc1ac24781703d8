//! `quantize SOURCE... OUT`: the command line over the library.

use anyhow::{Context, Result, ensure};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use quantize::{Event, Input, Options, Rule, SchemeName, Summary};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Convert a checkpoint of Qwen-VL, Qwen2-VL, Qwen2.5-VL or Qwen3-VL into a web checkpoint.
#[derive(Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Exit codes: 0 done, 1 failed (or `verify` found something), 2 wrong arguments.\n\
                  An interrupted or failed run leaves OUT.partial behind and nothing under OUT; --resume continues there."
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    convert: Option<Convert>,
}

#[derive(Args)]
struct Convert {
    /// The source: a Hugging Face folder, or its files one by one: config.json, the tokenizer (qwen.tiktoken; for the later generations
    /// tokenizer.json, or vocab.json and merges.txt, and tokenizer_config.json), and weights as safetensors (GPTQ Int4 too) or
    /// pytorch_model*.bin; if they exist, their index, generation_config.json, preprocessor_config.json or processor_config.json,
    /// chat_template.json or .jinja, quantize_config.json, LICENSE, NOTICE, README.md. Or a repository of the Hugging Face Hub as
    /// hf:OWNER/NAME[@REVISION]: the files that are needed are downloaded into its cache (HF_HOME, HF_TOKEN and HF_ENDPOINT count).
    /// The last path is the folder to make; it appears when it is whole
    #[arg(required = true, value_name = "SOURCE... OUT")]
    paths: Vec<PathBuf>,
    /// Scheme of the matrices. In q4, the vision part of later generations is stored in q8, and so is an embedding that is the head too,
    /// unless --vision or --keep says otherwise
    #[arg(long, value_enum, default_value = "q4")]
    scheme: SchemeName,
    /// Number of weights that share a scale in q4 and q8: 32, 64 or 128
    #[arg(long, default_value_t = 32)]
    group_size: u32,
    /// Store the vision tower, and its mergers, in another scheme; short for `--keep vision=SCHEME`
    #[arg(long, value_enum, value_name = "SCHEME")]
    vision: Option<SchemeName>,
    /// Store a module in another scheme, for example `lm_head=q8`; may be repeated, the last that applies counts
    #[arg(long, value_name = "MODULE=SCHEME", value_parser = |text: &str| Rule::parse(text))]
    keep: Vec<Rule>,
    /// Store NaN and infinite weights as zero instead of refusing them
    #[arg(long)]
    allow_nonfinite: bool,
    /// Read a repository's files by ranges and keep nothing of them on the disk
    #[arg(long)]
    stream: bool,
    /// Check everything, every weight too, and print the sizes of the result, but write nothing
    #[arg(long)]
    dry_run: bool,
    /// Resume an interrupted run with the same options
    #[arg(long)]
    resume: bool,
    /// Replace OUT if it holds a web checkpoint and nothing else
    #[arg(long)]
    force: bool,
    /// Close a shard at this size
    #[arg(long, value_name = "MIB", default_value_t = 64.0)]
    shard_size: f64,
    /// Use this many cores [default: all]
    #[arg(long)]
    threads: Option<usize>,
    /// Print the summary as one JSON object on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Show the contents of a web checkpoint
    Inspect {
        /// The folder
        dir: PathBuf,
        /// Print one JSON object on stdout
        #[arg(long)]
        json: bool,
    },
    /// Check every byte of a web checkpoint
    Verify {
        /// The folder
        dir: PathBuf,
        /// Print one JSON array of problems on stdout
        #[arg(long)]
        json: bool,
    },
    /// Compare the weights of a web checkpoint with those of its source
    Report {
        /// The source, as for a conversion, and then the web checkpoint made from it
        #[arg(required = true, value_name = "SOURCE... DIR")]
        paths: Vec<PathBuf>,
        /// Read a repository's files by ranges and keep nothing of them on the disk
        #[arg(long)]
        stream: bool,
        /// Print one JSON object on stdout
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    // As other programs: a reader that ends, as `head` does, ends this one too, without a panic of `println!`.
    sigpipe::reset();
    let arguments = Arguments::parse();
    let result = match (arguments.command, arguments.convert) {
        (Some(command), _) => run(command),
        (None, Some(convert)) => run_convert(convert),
        (None, None) => unreachable!("clap asks for a command or for the folders"),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Splits the sources from the folder after them. (As two arguments, options between the paths would end the first.)
fn split_paths(paths: &[PathBuf]) -> (&[PathBuf], &Path) {
    match paths {
        [source @ .., last] if !source.is_empty() => (source, last),
        _ => Arguments::command().error(ErrorKind::TooFewValues, "a source and a folder are needed").exit(),
    }
}

/// The source of these paths.
fn source_of(paths: &[PathBuf], stream: bool) -> Result<Input> {
    let mut input = Input::from_paths(paths)?;
    match &mut input {
        Input::Hub(source) => source.stream = stream,
        _ => ensure!(!stream, "`--stream` reads a repository of the Hub: the source is {input}, expected hf:OWNER/NAME"),
    }
    Ok(input)
}

/// Prints notes on stderr, and draws progress bars there if it is a terminal.
fn progress() -> impl FnMut(Event) {
    let style = |template| ProgressStyle::with_template(template).expect("a constant template");
    let fetching = style("{wide_bar} {percent}% {binary_bytes}/{binary_total_bytes} downloaded, {binary_bytes_per_sec}, {eta} left");
    let converting = style("{wide_bar} {percent}% {human_pos}/{human_len} weights, {per_sec}, {eta} left {msg}");
    let begin = move |bar: &ProgressBar, style: &ProgressStyle, length| {
        bar.set_style(style.clone());
        bar.reset();
        bar.set_length(length);
    };
    let bar = ProgressBar::new(0);
    move |event| match event {
        Event::Note(note) => bar.suspend(|| eprintln!("note: {note}")),
        Event::Fetch { bytes } => begin(&bar, &fetching, bytes),
        Event::Start { weights } => begin(&bar, &converting, weights),
        Event::Fetched(count) | Event::Weights(count) => {
            bar.inc(count);
            if bar.length() == Some(bar.position()) {
                bar.finish_and_clear();
            }
        }
        Event::Shard { file, .. } => bar.set_message(file),
        _ => {}
    }
}

fn run_convert(arguments: Convert) -> Result<ExitCode> {
    let (source, out) = split_paths(&arguments.paths);
    let mut options = Options::of(source_of(source, arguments.stream)?, out).scheme(arguments.scheme).group_size(arguments.group_size)?;
    options.rules.extend(arguments.vision.map(|scheme| Rule { module: "vision".to_owned(), scheme }));
    options.rules.extend(arguments.keep);
    options.dry_run = arguments.dry_run;
    options.write.allow_nonfinite = arguments.allow_nonfinite;
    options.write.force = arguments.force;
    options.write.resume = arguments.resume;
    options.write.threads = arguments.threads;
    ensure!(
        arguments.shard_size > 0.0 && arguments.shard_size <= 64.0,
        "`--shard-size` is {}, expected a number above 0 and at most 64",
        arguments.shard_size
    );
    ensure!(arguments.threads != Some(0), "`--threads` is 0, expected 1 or more");
    options.write.shard_bytes = Some((arguments.shard_size * f64::from(1 << 20)) as u64);

    let (mut progress, mut writing) = (progress(), false);
    let mut events = |event: Event| {
        writing |= matches!(event, Event::Start { .. }) && !arguments.dry_run;
        progress(event);
    };
    let result = quantize::convert(&options, &mut events);
    let summary = result.inspect_err(|error| {
        let partial = quantize::partial_path(out).ok().filter(|partial| writing && partial.exists());
        let Some(partial) = partial else { return };
        // A second run can succeed after a failure of the system, but not with the same wrong source.
        if error.chain().any(|cause| cause.is::<std::io::Error>()) {
            eprintln!("note: the finished shards are in {}: --resume with the same options continues there", partial.display());
        } else {
            eprintln!("note: {} holds the unfinished result, which the next run replaces", partial.display());
        }
    })?;
    if arguments.json {
        println!("{}", serde_json::to_string(&summary).context("could not write JSON")?);
    } else {
        print_summary(&summary, &options);
    }
    Ok(ExitCode::SUCCESS)
}

fn print_summary(summary: &Summary, options: &Options) {
    for total in &summary.schemes {
        let error = total.error_text().map(|error| format!("  relative error {error:>9}")).unwrap_or_default();
        println!("{:>20}  {:>5} tensors  {:>13} weights  {:>13} bytes{error}", total.scheme, total.tensors, total.weights, total.bytes);
    }
    let (out, verb) = (options.out.display(), if options.dry_run { "would be" } else { "are" });
    let shards = if summary.shards == 1 { "1 shard".to_owned() } else { format!("{} shards", summary.shards) };
    println!("{} bytes in {shards}, {:.2} bits a weight, {verb} in {out}", summary.shard_bytes, summary.bits_per_weight);
    if !summary.unused_tensors.is_empty() {
        println!("not part of the model, left out: {}", summary.unused_tensors.join(", "));
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Inspect { dir, json } => {
            let contents = quantize::inspect(&dir)?;
            if json {
                println!("{}", serde_json::to_string(&contents).context("could not write JSON")?);
                return Ok(ExitCode::SUCCESS);
            }
            println!("{} by {}\n{}\n", contents.source, contents.converter, contents.modifications);
            println!("{:<28} {:<20} {:>7} {:>14} {:>14} {:>8}", "module", "scheme", "tensors", "weights", "bytes", "bits");
            for module in &contents.modules {
                println!(
                    "{:<28} {:<20} {:>7} {:>14} {:>14} {:>8.3}",
                    module.module,
                    module.scheme,
                    module.tensors,
                    module.weights,
                    module.bytes,
                    module.bits_per_weight()
                );
            }
            println!(
                "\n{} weights in {} shards of {} bytes in all: {:.3} bits a weight",
                contents.weights, contents.shards, contents.shard_bytes, contents.bits_per_weight
            );
        }
        Command::Verify { dir, json } => {
            let problems = quantize::verify(&dir, &mut progress())?;
            if json {
                println!("{}", serde_json::to_string(&problems).context("could not write JSON")?);
            } else {
                problems.iter().for_each(|problem| println!("{}: {}", problem.file, problem.problem));
                println!("{}: {}", dir.display(), if problems.is_empty() { "every byte is right" } else { "damaged" });
            }
            return Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Report { paths, stream, json } => {
            let (source, dir) = split_paths(&paths);
            let report = quantize::report(&source_of(source, stream)?, dir, &mut progress())?;
            if json {
                println!("{}", serde_json::to_string(&report).context("could not write JSON")?);
                return Ok(ExitCode::SUCCESS);
            }
            println!("{:<40} {:<20} {:>10} {:>10}", "tensor", "scheme", "relative", "largest");
            for tensor in &report.tensors {
                println!("{:<40} {:<20} {:>10.6} {:>10.6}", tensor.name, tensor.scheme, tensor.relative, tensor.largest);
            }
            println!("\n{:<40} {:>31}", "module", "relative");
            report.modules.iter().for_each(|module| println!("{:<40} {:>31.6}", module.module, module.relative));
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "quantize", &mut std::io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
}
