//! Objects in JSON, as Qwen2.5-VL and Qwen3-VL write them.
//!
//! A well-formed answer has an object or a list of objects, often in a Markdown fence (numbers are pixels of the picture in its size for the
//! model, or thousandths of its width and height):
//!
//! ````text
//! ```json
//! [{"bbox_2d": [x1, y1, x2, y2], "label": "a name"}, {"point_2d": [x, y], "text_content": "a text"}]
//! ```
//! ````

use crate::object::{Output, Shape};

const BOX: &str = "bbox_2d";
const POINT: &str = "point_2d";
const LABEL: &str = "label";
const TEXT: &str = "text_content";

/// Length limit of the part of a record before its coordinates, bytes. A longer record is text, so that a long answer in JSON streams.
const MAX_BEFORE_COORDINATES: usize = 4096;

/// Shortest beginning of a coordinates' key that counts as one where an answer is cut off, bytes.
const MIN_CUT_KEY: usize = 4;

/// Reads JSON in text.
///
/// A *record* is a JSON object at the top or in the list at the top. A record with valid coordinates is markup, and each of its boxes and
/// points is an object. The brackets of a list and the fence around it are markup if the first record is, and so are separators next to
/// records that are markup. Everything else is text, unchanged: JSON without coordinates, JSON inside other JSON, a record with a syntax
/// error, and fences of another language with their contents.
///
/// An answer may end inside a record. The record is markup if its list already is, if it has a key of coordinates (the first
/// [`MIN_CUT_KEY`] bytes of it are enough), or if all its keys are those of names. Otherwise it is text.
///
/// Accepts commas before a closing bracket, line breaks in strings and unknown escapes, which models write too.
#[derive(Debug, Clone, Default)]
pub(crate) struct JsonReader {
    state: State,
    /// Text that the output does not have yet, because it may be markup.
    held: String,
    /// Length of the part of `held` that belongs to the prompt, bytes.
    prompt: usize,
    fence: Option<Fence>,
    value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Text,
    /// After this number of backticks.
    Ticks(usize),
    /// In the language of a fence, which begins at this byte of `held`.
    Language(usize),
    /// In white space (and commas) at the start of a fence and after a value that is markup.
    Gap,
    /// In the value.
    Json,
}

/// A Markdown fence.
#[derive(Debug, Clone, Copy)]
struct Fence {
    ticks: usize,
    opening: Opening,
    /// True if its language is another one, so that it has no JSON of interest.
    foreign: bool,
}

/// State of an opening bracket or fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Opening {
    /// In `held`.
    #[default]
    Held,
    /// It was text.
    Text,
    /// It was markup.
    Markup,
}

/// A JSON value in progress.
#[derive(Debug, Clone, Default)]
struct Value {
    /// The brackets that are open.
    stack: Vec<char>,
    expect: Expect,
    scalar: Option<Scalar>,
    /// The first bracket.
    opening: Opening,
    /// True if the characters up to the end of the element are text.
    passing: bool,
    record: Option<Record>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Expect {
    /// A value.
    #[default]
    Value,
    /// A value or the end of the list.
    Item,
    /// A key or the end of the object.
    Key,
    Colon,
    /// A comma or a closing bracket.
    Next,
}

#[derive(Debug, Clone)]
enum Scalar {
    String { escaped: bool },
    Word(String),
}

/// A record in progress. `held` has all of it.
#[derive(Debug, Clone, Default)]
struct Record {
    /// Its first byte in `held`.
    start: usize,
    /// Number of open brackets around its members.
    depth: usize,
    key: String,
    /// First byte of the current key or value in `held`.
    mark: usize,
    /// True if it has a key of coordinates.
    located: bool,
    /// True if it has a key of coordinates whose value is something else.
    invalid: bool,
    /// True if it has a key of names.
    named: bool,
    /// True if it has another key.
    others: bool,
    shapes: Vec<Shape>,
    label: Option<String>,
    text: Option<String>,
}

impl JsonReader {
    pub(crate) fn push(&mut self, piece: &str, output: &mut Output) {
        let mut rest = piece;
        while !rest.is_empty() {
            if self.state == State::Text {
                let foreign = self.fence.is_some_and(|fence| fence.foreign);
                let begins = |c: char| c == '`' || !foreign && matches!(c, '[' | '{');
                let (text, after) = rest.split_at(rest.find(begins).unwrap_or(rest.len()));
                output.text(text);
                rest = after;
            }
            let Some(c) = rest.chars().next() else { return };
            if self.take(c, output) {
                rest = &rest[c.len_utf8()..];
            }
        }
    }

    /// Ends the prompt: the answer begins inside what is open.
    pub(crate) fn begin_answer(&mut self) {
        self.prompt = self.held.len();
    }

    pub(crate) fn finish(&mut self, output: &mut Output) {
        if let State::Ticks(ticks) = self.state {
            self.end_ticks(ticks, output);
        }
        let in_markup = match self.state {
            State::Json => self.value.opening == Opening::Markup || self.value.record.as_ref().is_some_and(|record| self.is_cut(record)),
            State::Gap => self.fence.is_some_and(|fence| fence.opening == Opening::Markup),
            State::Text | State::Ticks(_) | State::Language(_) => false,
        };
        if in_markup {
            self.drop_held();
        } else {
            self.release(output);
        }
        *self = Self::default();
    }

    /// Takes a character. Returns false if it has to be taken again, in the new state.
    fn take(&mut self, c: char, output: &mut Output) -> bool {
        match self.state {
            State::Ticks(ticks) if c == '`' => self.hold(c, State::Ticks(ticks + 1)),
            State::Text | State::Gap if c == '`' => self.hold(c, State::Ticks(1)),
            State::Text | State::Gap if matches!(c, '[' | '{') => self.begin(c, output),
            State::Gap if c.is_whitespace() || c == ',' => self.hold(c, State::Gap),
            State::Gap => self.leave(output),
            State::Text => {
                output.text(c.encode_utf8(&mut [0; 4]));
                true
            }
            State::Ticks(ticks) => {
                self.end_ticks(ticks, output);
                false
            }
            State::Language(from) => {
                let language = self.held[from..].to_ascii_lowercase();
                let known = language.is_empty() || language == "json";
                if c.is_whitespace() && known {
                    self.hold(c, State::Gap)
                } else if matches!(c, '[' | '{') && known {
                    self.begin(c, output)
                } else if "json".strip_prefix(&*language).is_some_and(|rest| rest.starts_with(c.to_ascii_lowercase())) {
                    self.hold(c, self.state)
                } else {
                    self.fence.iter_mut().for_each(|fence| fence.foreign = true);
                    self.leave(output)
                }
            }
            // Anything but JSON is text.
            State::Json => self.json(c, output) || self.leave(output),
        }
    }

    fn hold(&mut self, c: char, state: State) -> bool {
        self.held.push(c);
        self.state = state;
        true
    }

    /// Continues with text. What is held is text too.
    fn leave(&mut self, output: &mut Output) -> bool {
        self.release(output);
        self.state = State::Text;
        false
    }

    fn begin(&mut self, bracket: char, output: &mut Output) -> bool {
        self.value = Value::default();
        self.state = State::Json;
        self.json(bracket, output)
    }

    /// Ends a row of backticks, which may open or close a fence.
    fn end_ticks(&mut self, ticks: usize, output: &mut Output) {
        match self.fence {
            None if ticks >= 3 => {
                self.fence = Some(Fence { ticks, opening: Opening::Held, foreign: false });
                self.state = State::Language(self.held.len());
            }
            Some(fence) if ticks >= fence.ticks => {
                if fence.opening == Opening::Markup {
                    self.drop_held();
                }
                self.leave(output);
                self.fence = None;
            }
            _ => {
                self.leave(output);
            }
        }
    }

    /// Writes the held characters as text.
    fn release(&mut self, output: &mut Output) {
        output.text(&self.held[self.prompt..]);
        self.settle(Opening::Text);
    }

    /// Discards the held characters, which are markup.
    fn drop_held(&mut self) {
        self.settle(Opening::Markup);
    }

    fn settle(&mut self, settled: Opening) {
        self.held.clear();
        self.prompt = 0;
        let openings = self.fence.iter_mut().map(|fence| &mut fence.opening).chain([&mut self.value.opening]);
        openings.filter(|opening| **opening == Opening::Held).for_each(|opening| *opening = settled);
    }

    /// Takes a character of a value. Returns false if it is a syntax error.
    fn json(&mut self, c: char, output: &mut Output) -> bool {
        match &mut self.value.scalar {
            Some(Scalar::String { escaped }) => {
                let ends = c == '"' && !*escaped;
                *escaped = c == '\\' && !*escaped;
                self.put(c, output);
                if ends {
                    self.end_string();
                }
                return true;
            }
            Some(Scalar::Word(word)) if c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.') => {
                word.push(c);
                if !is_word_start(word) {
                    return false;
                }
                self.put(c, output);
                return true;
            }
            Some(Scalar::Word(word)) => {
                if !is_word(word) {
                    return false;
                }
                self.value.scalar = None;
                self.end_value();
            }
            None => {}
        }
        if c.is_whitespace() {
            self.put(c, output);
            return true;
        }
        match (self.value.expect, c) {
            (Expect::Value | Expect::Item, '[' | '{') => self.open(c, output),
            (Expect::Value | Expect::Item, '"' | '-' | '0'..='9' | 't' | 'f' | 'n') => self.begin_scalar(c, output),
            (Expect::Key, '"') => {
                self.mark();
                self.begin_scalar(c, output);
            }
            (Expect::Colon, ':') => {
                self.put(c, output);
                self.mark();
                self.value.expect = Expect::Value;
            }
            (Expect::Next, ',') => {
                self.put(c, output);
                self.value.expect = if self.value.stack.last() == Some(&'{') { Expect::Key } else { Expect::Item };
            }
            (Expect::Item | Expect::Next, ']') if self.value.stack.last() == Some(&'[') => self.close(c, output),
            (Expect::Key | Expect::Next, '}') if self.value.stack.last() == Some(&'{') => self.close(c, output),
            _ => return false,
        }
        true
    }

    /// Adds a character of the value to what is held, or to the text.
    fn put(&mut self, c: char, output: &mut Output) {
        if self.value.passing {
            output.text(c.encode_utf8(&mut [0; 4]));
            return;
        }
        self.held.push(c);
        let too_long = |record: &Record| !record.located && self.held.len() - record.start > MAX_BEFORE_COORDINATES;
        if self.value.record.as_ref().is_some_and(too_long) {
            self.pass(output);
        }
    }

    /// The rest of the element is text.
    fn pass(&mut self, output: &mut Output) {
        self.release(output);
        self.value.record = None;
        self.value.passing = true;
    }

    /// Marks the start of a key or value of the record.
    fn mark(&mut self) {
        if let Some(record) = self.value.record.as_mut().filter(|record| record.depth == self.value.stack.len()) {
            record.mark = self.held.len();
        }
    }

    fn begin_scalar(&mut self, c: char, output: &mut Output) {
        if self.value.stack == ['['] {
            self.pass(output);
        }
        self.value.scalar = Some(if c == '"' { Scalar::String { escaped: false } } else { Scalar::Word(c.into()) });
        self.put(c, output);
    }

    fn open(&mut self, bracket: char, output: &mut Output) {
        let begins_record = bracket == '{' && matches!(self.value.stack[..], [] | ['[']);
        // Coordinates below a record are not those of an object.
        let is_other = match &self.value.record {
            Some(record) => bracket == '{' && !record.located,
            None => !self.value.stack.is_empty(),
        };
        if begins_record {
            let (start, depth) = (self.held.len(), self.value.stack.len() + 1);
            self.value.record = Some(Record { start, depth, ..Record::default() });
        } else if is_other && !self.value.passing {
            self.pass(output);
        }
        self.put(bracket, output);
        self.value.stack.push(bracket);
        self.value.expect = if bracket == '{' { Expect::Key } else { Expect::Item };
    }

    fn close(&mut self, bracket: char, output: &mut Output) {
        let depth = self.value.stack.len();
        let record = self.value.record.take_if(|record| record.depth == depth);
        self.put(bracket, output);
        self.value.stack.pop();
        match record.map(Record::into_objects) {
            Some((shapes, name)) if !shapes.is_empty() => {
                let place = [output.length(); 2];
                shapes.into_iter().for_each(|shape| output.object(shape, name.as_deref(), place));
                self.drop_held();
            }
            Some(_) => self.release(output),
            None => {}
        }
        if !self.value.stack.is_empty() {
            self.end_value();
        } else if self.value.opening == Opening::Markup {
            self.drop_held();
            self.state = State::Gap;
        } else {
            self.leave(output);
        }
    }

    fn end_string(&mut self) {
        self.value.scalar = None;
        if self.value.expect != Expect::Key {
            return self.end_value();
        }
        self.value.expect = Expect::Colon;
        let depth = self.value.stack.len();
        if let Some(record) = self.value.record.as_mut().filter(|record| record.depth == depth) {
            record.begin_member(&self.held[record.mark + 1..self.held.len() - 1]);
        }
    }

    fn end_value(&mut self) {
        self.value.expect = Expect::Next;
        if self.value.stack == ['['] {
            self.value.passing = false;
        }
        let depth = self.value.stack.len();
        if let Some(record) = self.value.record.as_mut().filter(|record| record.depth == depth) {
            record.end_member(self.held[record.mark..].trim());
        }
    }

    /// True if the answer ends inside a record that is markup.
    fn is_cut(&self, record: &Record) -> bool {
        let Value { stack, expect, scalar, .. } = &self.value;
        let in_key = *expect == Expect::Key && scalar.is_some() && stack.len() == record.depth;
        let key = in_key.then(|| &self.held[record.mark + 1..]);
        let locates = |key: &str| BOX.starts_with(key) || POINT.starts_with(key);
        let names = |key: &str| LABEL.starts_with(key) || TEXT.starts_with(key);
        record.located
            || key.is_some_and(|key| key.len() >= MIN_CUT_KEY && locates(key))
            || record.named && !record.others && key.is_none_or(|key| locates(key) || names(key))
    }
}

impl Record {
    fn begin_member(&mut self, key: &str) {
        match key {
            BOX | POINT => self.located = true,
            LABEL | TEXT => self.named = true,
            _ => self.others = true,
        }
        key.clone_into(&mut self.key);
    }

    fn end_member(&mut self, value: &str) {
        match &*self.key {
            BOX => self.shapes(value, Shape::Box),
            POINT => self.shapes(value, Shape::Point),
            LABEL => self.label = name(value),
            TEXT => self.text = name(value),
            _ => {}
        }
    }

    /// Reads the coordinates of a shape, or a list of them.
    fn shapes<const N: usize>(&mut self, value: &str, shape: fn([u32; N]) -> Shape) {
        if value == "null" {
            return;
        }
        match coordinates(value) {
            Some(found) if !found.is_empty() => self.shapes.extend(found.into_iter().map(shape)),
            _ => self.invalid = true,
        }
    }

    /// Returns the shapes and their name.
    fn into_objects(self) -> (Vec<Shape>, Option<String>) {
        let shapes = if self.invalid { Vec::new() } else { self.shapes };
        (shapes, self.label.or(self.text))
    }
}

/// True for the beginning of a number or literal.
fn is_word_start(word: &str) -> bool {
    if word.starts_with(|c: char| c.is_ascii_lowercase()) {
        return ["true", "false", "null"].iter().any(|literal| literal.starts_with(word));
    }
    word.ends_with(|c: char| matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'))
}

/// True for a number or literal that is complete.
fn is_word(word: &str) -> bool {
    matches!(word, "true" | "false" | "null") || word.ends_with(|c: char| c.is_ascii_digit())
}

/// Reads `[x, …]` or `[[x, …], …]` of N numbers.
fn coordinates<const N: usize>(value: &str) -> Option<Vec<[u32; N]>> {
    let one = |list: &str| -> Option<[u32; N]> {
        let list = list.trim_end();
        let list = list.strip_suffix(',').unwrap_or(list);
        let numbers: Option<Vec<u32>> = list.split(',').map(|number| whole(number.trim())).collect();
        numbers?.try_into().ok()
    };
    let inner = value.strip_prefix('[')?.strip_suffix(']')?;
    if !inner.contains('[') {
        return Some(vec![one(inner)?]);
    }
    let lists =
        inner.split(']').map(|list| list.trim_start_matches(|c: char| c == ',' || c.is_whitespace())).filter(|list| !list.is_empty());
    lists.map(|list| one(list.strip_prefix('[')?)).collect()
}

/// Rounds a number to a coordinate. Those below 0 become 0.
fn whole(number: &str) -> Option<u32> {
    let (decimal, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let exponent: i32 = exponent.parse().ok()?;
    let (sign, digits) = decimal.strip_prefix('-').map_or((1.0, decimal), |digits| (-1.0, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    // `str::parse` would add its tables of powers to the wasm.
    let mut value = 0.0;
    for digit in whole.chars().chain(fraction.chars()) {
        value = value * 10.0 + f64::from(digit.to_digit(10)?);
    }
    let scale = exponent.saturating_sub(i32::try_from(fraction.len()).ok()?);
    (!whole.is_empty()).then(|| (sign * value * 10f64.powi(scale)).round().clamp(0.0, f64::from(u32::MAX)) as u32)
}

/// Reads a name: a string, or a number or literal as it is.
fn name(value: &str) -> Option<String> {
    match value.chars().next()? {
        '"' => string(value),
        '[' | '{' => None,
        _ => (value != "null").then(|| value.to_owned()),
    }
}

/// Reads a string. Unknown escapes stay as they are, and half a surrogate pair becomes U+FFFD.
fn string(value: &str) -> Option<String> {
    let mut units = Vec::with_capacity(value.len());
    let mut chars = value.strip_prefix('"')?.strip_suffix('"')?.chars();
    while let Some(c) = chars.next() {
        let mut plain = |c: char| units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
        if c != '\\' {
            plain(c);
            continue;
        }
        match chars.next()? {
            c @ ('"' | '\\' | '/') => plain(c),
            'b' => plain('\u{8}'),
            'f' => plain('\u{c}'),
            'n' => plain('\n'),
            'r' => plain('\r'),
            't' => plain('\t'),
            c => {
                let code = chars.as_str().get(..4).filter(|digits| c == 'u' && digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
                match code.and_then(|digits| u16::from_str_radix(digits, 16).ok()) {
                    Some(unit) => {
                        units.push(unit);
                        chars.nth(3);
                    }
                    None => ['\\', c].into_iter().for_each(plain),
                }
            }
        }
    }
    Some(String::from_utf16_lossy(&units))
}
