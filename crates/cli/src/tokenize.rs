//! `qwenvl tokenize`: the token ids of a text.

use crate::checkpoint::Checkpoint;
use anyhow::{Context, Result};
use clap::Args;
use qwen_vl_processor::SpecialTokens;
use std::io::Read;
use std::path::PathBuf;

/// Print the token ids of the text on the standard input, as a JSON array.
#[derive(Args)]
pub struct TokenizeArgs {
    /// A web checkpoint, or the folder of an original checkpoint.
    #[arg(long)]
    model: PathBuf,
    /// Read the text as the content of a chat message: only the image and grounding tags are special.
    #[arg(long)]
    chat_content: bool,
}

pub fn run(args: &TokenizeArgs) -> Result<()> {
    let tokenizer = Checkpoint::tokenizer_of(&args.model)?;
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("reading the text from the standard input")?;
    let text = String::from_utf8(bytes).context("the text on the standard input is not UTF-8")?;
    let allowed = if args.chat_content { SpecialTokens::ImageAndGrounding } else { SpecialTokens::All };
    println!("{}", serde_json::to_string(&tokenizer.encode(&text, allowed)?)?);
    Ok(())
}
