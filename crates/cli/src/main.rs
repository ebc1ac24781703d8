//! `qwenvl`: Qwen-VL from the command line, for use without a browser and for comparison with the original.

mod ask;
mod bench;
mod chat;
mod checkpoint;
mod eval;
mod form;
mod gpu;
mod preprocess;
mod sampling;
mod tokenize;
mod values;
mod video;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Qwen-VL on the command line.
#[derive(Parser)]
#[command(name = "qwenvl", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Ask(Box<ask::AskArgs>),
    Bench(bench::BenchArgs),
    Chat(Box<chat::ChatArgs>),
    Eval(Box<eval::EvalArgs>),
    Preprocess(preprocess::PreprocessArgs),
    Tokenize(tokenize::TokenizeArgs),
}

fn main() -> ExitCode {
    // As other programs: a reader that ends, as `head` does, ends this one too, without a panic of `println!`.
    sigpipe::reset();
    let result = match Cli::parse().command {
        Command::Ask(args) => ask::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Preprocess(args) => preprocess::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
    };
    // Without a stack trace, also where the environment asks for one: the errors are about input.
    result.map_or_else(
        |error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}
