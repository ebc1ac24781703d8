//! The form that an answer is held to.

use crate::RuntimeError;
use std::pin::Pin;

/// A future with the tokens that may come next, a bit each: the lowest bit of the first word is that of token 0.
pub type AllowedTokens<'a> = Pin<Box<dyn Future<Output = Result<Vec<u32>, RuntimeError>> + 'a>>;

/// Decides which tokens an answer may have, so that its text has a form. The runtime knows neither forms nor grammars.
pub trait Constraint {
    /// Takes the latest token of the answer, `None` before the first, and returns the tokens that may follow it. After a complete text these
    /// include stop tokens, and no others if nothing can follow the text. The GPU runs the latest token meanwhile.
    fn next(&mut self, token: Option<u32>) -> AllowedTokens<'_>;
}
