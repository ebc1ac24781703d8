//! Answers that are held to a form.

use anyhow::{Context, Result};
use clap::Args;
use qwen_vl_constrain::{Constrained, Constrainer, Form, Token};
use qwen_vl_format::manifest::GenerationConfig;
use qwen_vl_processor::Tokenizer;
use qwen_vl_runtime::RuntimeError;
use qwen_vl_runtime::session::{AllowedTokens, Constraint, stop_tokens};
use std::path::PathBuf;

#[derive(Args)]
pub struct FormArgs {
    /// Hold the answer to a JSON schema (draft 2020-12).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["case", "dump", "regex", "grammar"])]
    json_schema: Option<PathBuf>,
    /// Hold the answer to a regular expression, which matches it as a whole.
    #[arg(long, value_name = "PATTERN", conflicts_with_all = ["case", "dump", "grammar"])]
    regex: Option<String>,
    /// Hold the answer to a grammar in Lark's notation.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["case", "dump"])]
    grammar: Option<PathBuf>,
}

impl FormArgs {
    /// Compiles the form for an answer of a checkpoint; `None` if there is none.
    pub fn constraint(&self, tokenizer: &Tokenizer, generation: &GenerationConfig) -> Result<Option<FormConstraint>> {
        let read = |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("could not read `{}`", path.display()));
        let form = match self {
            Self { json_schema: Some(path), .. } => Form::JsonSchema(read(path)?),
            Self { regex: Some(pattern), .. } => Form::Regex { pattern: pattern.clone(), flags: String::new() },
            Self { grammar: Some(path), .. } => Form::Lark(read(path)?),
            _ => return Ok(None),
        };
        let tokens = tokenizer.tokens().map(|(bytes, special)| Token { bytes, special });
        let stops: Vec<u32> = stop_tokens(generation, tokenizer.special()).collect();
        let text = Constrainer::new(tokens, &stops).and_then(|mut constrainer| constrainer.open(&form, ""))?;
        Ok(Some(FormConstraint { text }))
    }
}

/// A form, computed on the thread of the answer.
pub struct FormConstraint {
    text: Constrained,
}

impl Constraint for FormConstraint {
    fn next(&mut self, token: Option<u32>) -> AllowedTokens<'_> {
        let accepted = token.map_or(Ok(()), |token| self.text.accept(token));
        let allowed = accepted.and_then(|()| self.text.allowed());
        Box::pin(std::future::ready(allowed.map_err(|error| RuntimeError::Constraint { problem: error.to_string() })))
    }
}
