//! From generated token ids to clean text and objects.

use crate::{GroundingEvent, GroundingParser, KeepSpecials, PictureSize, StreamDecoder, Tokenizer};

/// Decodes an answer token by token: [`StreamDecoder`] and [`GroundingParser`] in a row.
#[derive(Debug, Clone)]
pub struct AnswerStream {
    decoder: StreamDecoder,
    parser: GroundingParser,
    raw: String,
}

impl AnswerStream {
    /// A stream at the start of an answer to a prompt with `pictures`.
    pub fn new(pictures: &[PictureSize]) -> Self {
        Self { decoder: StreamDecoder::new(KeepSpecials::Grounding), parser: GroundingParser::new(pictures), raw: String::new() }
    }

    /// Lets the answer continue a prompt, see [`GroundingParser::continuing`].
    pub fn continuing(mut self, prompt: &str) -> Self {
        self.parser = self.parser.continuing(prompt);
        self
    }

    /// Takes the next token.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Vec<GroundingEvent> {
        let text = self.decoder.push(tokenizer, id);
        self.raw.push_str(&text);
        self.parser.push(&text)
    }

    /// The answer is over: what was held back.
    pub fn finish(&mut self) -> Vec<GroundingEvent> {
        let text = self.decoder.finish();
        self.raw.push_str(&text);
        let mut events = self.parser.push(&text);
        events.extend(self.parser.finish());
        events
    }

    /// The text so far with its grounding tags.
    pub fn raw(&self) -> &str {
        &self.raw
    }
}
