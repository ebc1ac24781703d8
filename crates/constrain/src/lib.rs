//! Answers that have a form: which tokens may come next, so that a text is JSON of a schema, matches a regular expression, or belongs to a
//! grammar. The work is done by `llguidance`; this crate joins it with the vocabulary of a model.

mod regex;
mod schema;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// Compiled forms that are kept.
const KEPT: usize = 8;

/// A form of a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// JSON that is valid under a JSON schema of draft 2020-12. This is the schema, as JSON.
    JsonSchema(String),
    /// A text that a regular expression matches as a whole. The syntax is the part of JavaScript's that Rust's `regex` has too.
    Regex {
        /// The pattern.
        pattern: String,
        /// JavaScript's flags; `i` and `s` count.
        flags: String,
    },
    /// A text of a grammar in the notation of Lark, as `llguidance` reads it.
    Lark(String),
}

impl Form {
    fn kind(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) => "JSON schema",
            Self::Regex { .. } => "regular expression",
            Self::Lark(_) => "grammar",
        }
    }
}

/// An error of a form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstrainError {
    /// The form is not a form, or uses what is not supported.
    #[error("the {kind} cannot be used: {problem}")]
    Form {
        /// Its kind.
        kind: &'static str,
        /// The reason.
        problem: String,
    },
    /// No text of the form begins like this.
    #[error("the prefix {prefix:?} does not fit the {kind}: {kept} of its bytes do")]
    Prefix {
        /// Kind of the form.
        kind: &'static str,
        /// The prefix.
        prefix: String,
        /// Bytes of it that fit.
        kept: usize,
    },
    /// The vocabulary has no stop tokens, or they are not in it.
    #[error("the vocabulary of {tokens} tokens has none of the stop tokens {stops:?}")]
    Vocabulary {
        /// Number of tokens.
        tokens: usize,
        /// Ids of the stop tokens.
        stops: Vec<u32>,
    },
    /// A token came that the form does not allow.
    #[error("token {token} cannot come next: {problem}")]
    Token {
        /// Its id.
        token: u32,
        /// The reason.
        problem: String,
    },
    /// The form needs more computation for one token than is allowed.
    #[error("the form is too costly to follow: {problem}")]
    Mask {
        /// The reason.
        problem: String,
    },
}

/// A token of a vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// Its bytes; empty for an id without a token.
    pub bytes: &'a [u8],
    /// True if it is not part of a text. Only a grammar that names it allows it.
    pub special: bool,
}

/// A vocabulary, prepared for forms.
pub struct Constrainer {
    factory: ParserFactory,
    /// Compiled forms, the latest last.
    recent: VecDeque<(Form, Matcher)>,
}

impl Constrainer {
    /// Prepares the tokens of a vocabulary, by id. `stops` are the ids of the tokens that end a text.
    pub fn new<'a>(tokens: impl IntoIterator<Item = Token<'a>>, stops: &[u32]) -> Result<Self, ConstrainError> {
        let marked = |token: Token| {
            let marker: &[u8] = if token.special { &[TokTrie::SPECIAL_TOKEN_MARKER] } else { &[] };
            [marker, token.bytes].concat()
        };
        let words: Vec<Vec<u8>> = tokens.into_iter().map(marked).collect();
        let known: Vec<u32> = stops.iter().copied().filter(|stop| words.get(*stop as usize).is_some_and(|word| !word.is_empty())).collect();
        let Some(first) = known.first() else {
            return Err(ConstrainError::Vocabulary { tokens: words.len(), stops: stops.to_vec() });
        };
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, *first), &words).with_eos_tokens(&known);
        let environment: llguidance::toktrie::TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices);
        let mut factory = factory.map_err(|error| ConstrainError::Mask { problem: readable(&error.to_string()) })?;
        factory.quiet().limits_mut().verbose_errors = false;
        Ok(Self { factory, recent: VecDeque::new() })
    }

    /// Compiles a form, unless it is one of the latest, for a text that begins with `prefix`.
    pub fn open(&mut self, form: &Form, prefix: &str) -> Result<Constrained, ConstrainError> {
        let mut matcher = match self.recent.iter().find(|(known, _)| known == form) {
            Some((_, matcher)) => matcher.deep_clone(),
            None => {
                let matcher = self.compile(form)?;
                if self.recent.len() == KEPT {
                    self.recent.pop_front();
                }
                self.recent.push_back((form.clone(), matcher.deep_clone()));
                matcher
            }
        };
        let tokens = self.factory.tok_env().tok_trie().greedy_tokenize(prefix.as_bytes());
        let taken = matcher.try_consume_tokens(&tokens).map_err(|error| ConstrainError::Mask { problem: readable(&error.to_string()) })?;
        if taken < tokens.len() {
            let kept: usize = tokens[..taken].iter().map(|token| self.factory.tok_env().tok_trie().token_len(*token)).sum();
            return Err(ConstrainError::Prefix { kind: form.kind(), prefix: prefix.to_owned(), kept });
        }
        Ok(Constrained { matcher })
    }

    fn compile(&self, form: &Form) -> Result<Matcher, ConstrainError> {
        let kind = form.kind();
        let refused = |problem: String| ConstrainError::Form { kind, problem };
        let grammar = match form {
            Form::JsonSchema(schema) => {
                TopLevelGrammar::from_json_schema(schema::parse(schema).map_err(|error| refused(format!("it is not JSON: {error}")))?)
            }
            Form::Regex { pattern, flags } => TopLevelGrammar::from_lark(regex::grammar(pattern, flags).map_err(refused)?),
            Form::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        };
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            Some(problem) => Err(refused(readable(&problem))),
            // A form without any text is found at the first token.
            None => matcher.compute_mask_or_eos().map(|_| matcher).map_err(|error| refused(readable(&error.to_string()))),
        }
    }
}

/// The state of one text.
pub struct Constrained {
    matcher: Matcher,
}

impl Constrained {
    /// Takes the next token of the text. After a stop token nothing changes any more.
    pub fn accept(&mut self, token: u32) -> Result<(), ConstrainError> {
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(|error| ConstrainError::Token { token, problem: readable(&error.to_string()) })
    }

    /// Returns the tokens that may come next, a bit each: the lowest bit of the first word is that of token 0. Stop tokens are among them if the
    /// text is complete.
    pub fn allowed(&mut self) -> Result<Vec<u32>, ConstrainError> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|error| ConstrainError::Mask { problem: readable(&error.to_string()) })?;
        Ok(mask.into())
    }
}

/// Returns an error of `llguidance` without the words for its own developers.
fn readable(problem: &str) -> String {
    let problem = problem.replace("<non-verbose/>", "");
    let problem = problem.trim();
    if problem.starts_with("NoExtension") { "no text has this form".to_owned() } else { problem.to_owned() }
}
