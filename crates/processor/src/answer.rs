//! From generated token ids to clean text and objects.

use crate::{GroundingEvent, GroundingParser, KeepSpecials, NumberedPicture, StreamDecoder, Tokenizer};
use qwen_vl_format::Family;

/// Decodes an answer token by token: [`StreamDecoder`] and [`GroundingParser`] in a row.
#[derive(Debug, Clone)]
pub struct AnswerStream {
    decoder: StreamDecoder,
    parser: GroundingParser,
    raw: String,
    stops: Vec<String>,
    /// The beginning of a possible stop text.
    held: String,
    stopped: bool,
}

impl AnswerStream {
    /// Creates a stream at the start of an answer to a prompt with these pictures.
    pub fn new(family: Family, pictures: &[NumberedPicture]) -> Self {
        Self {
            decoder: StreamDecoder::new(KeepSpecials::Answer),
            parser: GroundingParser::new(family, pictures),
            raw: String::new(),
            stops: Vec::new(),
            held: String::new(),
            stopped: false,
        }
    }

    /// Takes the question into account, see [`GroundingParser::asked`].
    pub fn asked(mut self, question: &str) -> Self {
        self.parser = self.parser.asked(question);
        self
    }

    /// Lets the answer continue a prompt, see [`GroundingParser::continuing`].
    pub fn continuing(mut self, prompt: &str) -> Self {
        self.parser = self.parser.continuing(prompt);
        self
    }

    /// Ends the answer before the first of these texts. They are searched for in the text with markup; empty ones stop nothing.
    pub fn stopping_at(mut self, stops: &[String]) -> Self {
        self.stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        self
    }

    /// Takes the next token.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Vec<GroundingEvent> {
        let text = self.decoder.push(tokenizer, id);
        self.take(&text)
    }

    /// Ends the answer and emits the text that was held back.
    pub fn finish(&mut self) -> Vec<GroundingEvent> {
        let text = self.decoder.finish();
        let mut events = self.take(&text);
        if !self.stopped {
            let held = std::mem::take(&mut self.held);
            events.extend(self.pass_on(&held));
        }
        events.extend(self.parser.finish());
        events
    }

    /// The text so far with the markup of objects.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// True if a stop text occurred. Everything after it is ignored.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    fn take(&mut self, text: &str) -> Vec<GroundingEvent> {
        if self.stopped {
            return Vec::new();
        }
        let mut text = std::mem::take(&mut self.held) + text;
        if let Some(at) = self.stops.iter().filter_map(|stop| text.find(stop)).min() {
            self.stopped = true;
            text.truncate(at);
        } else {
            // Hold back the longest suffix of the text that is a prefix of a stop text.
            let may_begin = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&text[*at..]));
            let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
            let from = text.len().saturating_sub(longest);
            let held = text.char_indices().map(|(at, _)| at).filter(|at| *at >= from).find(may_begin).unwrap_or(text.len());
            self.held = text.split_off(held);
        }
        self.pass_on(&text)
    }

    fn pass_on(&mut self, text: &str) -> Vec<GroundingEvent> {
        self.raw.push_str(text);
        self.parser.push(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the text that each piece emits, the raw text at the end, and whether a stop text occurred.
    fn emitted(stops: &[&str], pieces: &[&str]) -> (Vec<String>, String, bool) {
        let stops: Vec<_> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut stream = AnswerStream::new(Family::QwenVl, &[]).stopping_at(&stops);
        let text = |events: Vec<GroundingEvent>| -> String {
            let texts = events.into_iter().map(|event| match event {
                GroundingEvent::Text(text) => text,
                GroundingEvent::Object(_) => String::new(),
            });
            texts.collect()
        };
        let mut all: Vec<_> = pieces.iter().map(|piece| text(stream.take(piece))).collect();
        all.push(text(stream.finish()));
        (all, stream.raw().to_owned(), stream.stopped())
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_stop_text_ends_the_answer_wherever_pieces_are_cut() {
        assert_eq!(emitted(&["END"], &["one E", "N", "D two"]), (strings(&["one ", "", "", ""]), "one ".to_owned(), true));
        assert_eq!(emitted(&["END"], &["one EN", "E", "ND"]), (strings(&["one ", "EN", "", ""]), "one EN".to_owned(), true));
        assert_eq!(emitted(&["b", "abc"], &["xabc"]), (strings(&["x", ""]), "x".to_owned(), true), "the earliest counts");
        assert_eq!(emitted(&["\n\n"], &["a\n", "b\n"]), (strings(&["a", "\nb", "\n"]), "a\nb\n".to_owned(), false));
        assert_eq!(emitted(&["é!"], &["né", "?"]), (strings(&["n", "é?", ""]), "né?".to_owned(), false));
        assert_eq!(emitted(&[""], &["a"]), (strings(&["a", ""]), "a".to_owned(), false), "an empty one stops nothing");
    }

    #[test]
    fn tags_can_be_stop_texts() {
        let (texts, raw, stopped) = emitted(&["</box>"], &["a <ref>b</ref><box>(1,2),(3,4)", "</box> c"]);
        assert_eq!((texts.concat(), raw.as_str(), stopped), ("a b".to_owned(), "a <ref>b</ref><box>(1,2),(3,4)", true));
    }
}
