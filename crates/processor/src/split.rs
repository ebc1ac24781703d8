//! Splits a text into the words within which tokens merge.
//!
//! The original's pattern, one alternative after the other, first match wins:
//!
//! ```text
//! (?i:'s|'t|'re|'ve|'m|'ll|'d) | [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N} |  ?[^\s\p{L}\p{N}]+[\r\n]* | \s*[\r\n]+ | \s+(?!\S) | \s+
//! ```
//!
//! It is written by hand: a regex engine with look-ahead and Unicode tables adds about 250 KB of compressed wasm, ten times as much, and
//! fails on long runs of blanks. A test compares it with the pattern.

use unicode_normalization::char::is_combining_mark;

/// Splits a text into the words within which tokens merge. A vocabulary is trained on them.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let length = word_length(rest)?;
        let (word, tail) = rest.split_at(length);
        rest = tail;
        Some(word)
    })
}

/// Returns the length of the first word in bytes; `None` at the end.
fn word_length(text: &str) -> Option<usize> {
    let first = text.chars().next()?;
    let after_first = &text[first.len_utf8()..];

    if first == '\''
        && let Some(length) = contraction(after_first)
    {
        return Some(1 + length);
    }
    if is_letter(first) {
        return Some(run(text, is_letter));
    }
    if !matches!(first, '\r' | '\n') && !first.is_numeric() {
        let letters = run(after_first, is_letter);
        if letters > 0 {
            return Some(first.len_utf8() + letters);
        }
    }
    if first.is_numeric() {
        return Some(first.len_utf8());
    }

    let blank = usize::from(first == ' ');
    let marks = run(&text[blank..], is_mark);
    if marks > 0 {
        let marks = blank + marks;
        return Some(marks + run(&text[marks..], |c| matches!(c, '\r' | '\n')));
    }

    // White space: up to its last line end, otherwise all but the last character, which belongs to the next word.
    let spaces = run(text, char::is_whitespace);
    if let Some(line_end) = text[..spaces].rfind(['\r', '\n']) {
        return Some(line_end + 1);
    }
    let last = text[..spaces].chars().next_back().map_or(0, char::len_utf8);
    Some(if spaces == text.len() || spaces == last { spaces } else { spaces - last })
}

/// Returns the length of a contraction after its apostrophe. Case-insensitive by Unicode's rules: the long s counts as an s.
fn contraction(text: &str) -> Option<usize> {
    let mut chars = text.chars();
    let first = chars.next()?;
    let second = chars.next().map(|c| c.to_ascii_lowercase());
    match (first.to_ascii_lowercase(), second) {
        ('s' | 't' | 'm' | 'd' | 'ſ', _) => Some(first.len_utf8()),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => Some(2),
        _ => None,
    }
}

/// Returns the length in bytes of the run of characters of a kind at the start.
fn run(text: &str, of: impl Fn(char) -> bool) -> usize {
    text.find(|c| !of(c)).unwrap_or(text.len())
}

/// `\p{L}`: the alphabetic characters except numbers (`\p{Nl}`), marks, and the circled and squared letters, which are symbols.
fn is_letter(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphabetic();
    }
    c.is_alphabetic()
        && !c.is_numeric()
        && !is_combining_mark(c)
        && !matches!(c, '\u{24B6}'..='\u{24E9}' | '\u{1F130}'..='\u{1F149}' | '\u{1F150}'..='\u{1F169}' | '\u{1F170}'..='\u{1F189}')
}

/// `[^\s\p{L}\p{N}]`.
fn is_mark(c: char) -> bool {
    !c.is_whitespace() && !c.is_numeric() && !is_letter(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fancy_regex::Regex;

    /// `pattern` of `special_tokens.json`.
    fn pattern() -> Regex {
        let file = include_str!("../../../tests/fixtures/tokenizer/special_tokens.json");
        let file: serde_json::Value = serde_json::from_str(file).unwrap();
        Regex::new(file["pattern"].as_str().unwrap()).unwrap()
    }

    fn check(pattern: &Regex, text: &str) {
        let expected: Vec<&str> = pattern.find_iter(text).map(|word| word.unwrap().as_str()).collect();
        assert_eq!(words(text).collect::<Vec<_>>(), expected, "{text:?}");
    }

    #[test]
    fn classes_are_those_of_the_pattern() {
        // The regex engine's Unicode tables may be older than the standard library's.
        let classes = [(r"^\p{L}$", is_letter as fn(char) -> bool), (r"^\p{N}$", char::is_numeric), (r"^\s$", char::is_whitespace)];
        let unassigned = Regex::new(r"^\p{Cn}$").unwrap();
        for (class, ours) in classes {
            let class = Regex::new(class).unwrap();
            let mut buffer = [0; 4];
            for c in '\0'..=char::MAX {
                let text: &str = c.encode_utf8(&mut buffer);
                if class.is_match(text).unwrap() != ours(c) {
                    assert!(unassigned.is_match(text).unwrap(), "U+{:04X} is in {class} or in ours, not both", c as u32);
                }
            }
        }
    }

    #[test]
    fn splits_like_the_pattern() {
        let pattern = pattern();
        for text in ["", "'S'ſ'T'Re'vE'LL'd'M'l'r're", "it's'", "a\u{301}'s", "x \r\n \n y", "  ", " \u{a0}x", "\u{3000}\u{3000}\t!"] {
            check(&pattern, text);
        }
        let parts = [
            " ", "  ", "\t", "\n", "\r\n", "\u{a0}", "\u{3000}", "'s", "'LL", "'ſ", "'", "re", "A", "é", "e\u{301}", "ß", "你", "안", "ش",
            "ก็", "１", "7", "Ⅳ", "²", ".", "!?", "<", "😀", "🅰", "ⓐ", "\u{200d}", "\u{0}", "\u{feff}", "\u{fffd}", "_", "-",
        ];
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let length = random.usize(1..=12);
            let text: String = (0..length).map(|_| parts[random.usize(..parts.len())]).collect();
            check(&pattern, &text);
        }
    }

    #[test]
    fn long_runs_of_blanks_are_words_too() {
        let text = " ".repeat(1 << 20) + "x";
        assert_eq!(words(&text).map(str::len).collect::<Vec<_>>(), [(1 << 20) - 1, 2]);
    }
}
