//! Mentions of pictures in texts: "Picture 2", "图片 2".

use std::cmp::Reverse;

/// The words before a number. The longest one at a place counts.
const WORDS: [&str; 6] = ["pictures", "picture", "images", "image", "图片", "图"];
/// Text between the numbers of one mention.
const CONNECTORS: [&str; 12] = [",", "&", "-", "–", "and", "or", "to", "、", "和", "与", "或", "及"];

/// Returns the numbers of pictures that a text names, mention by mention: `[[2], [1, 3]]` for "Picture 2 … pictures 1 and 3".
///
/// The label of a picture, `Picture 2: <img>` or `Picture 2: <|vision_start|>`, is not a mention. Upper and lower case of ASCII letters
/// count as the same.
pub(crate) fn mentions(text: &str) -> Vec<Vec<usize>> {
    let text = text.to_ascii_lowercase();
    let mut found = Vec::new();
    let mut from = 0;
    while let Some((at, word)) = next_word(&text, from) {
        let after = &text[at + word.len()..];
        let (numbers, rest) = numbers(after);
        let begins_word = !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        if begins_word && !numbers.is_empty() && !is_label(rest) {
            found.push(numbers);
        }
        from = text.len() - rest.len();
    }
    found
}

/// Returns the number in the label that ends a text: 2 for "… Picture 2: ".
pub(crate) fn label(text: &str) -> Option<usize> {
    let text = text.trim_end().strip_suffix([':', '：'])?.trim_end();
    let before = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let word = before.trim_end().to_ascii_lowercase();
    if !WORDS.iter().any(|name| word.ends_with(name)) {
        return None;
    }
    text[before.len()..].parse().ok()
}

fn next_word(text: &str, from: usize) -> Option<(usize, &'static str)> {
    let places = WORDS.iter().filter_map(|word| Some((from + text[from..].find(word)?, *word)));
    places.min_by_key(|(at, word)| (*at, Reverse(word.len())))
}

/// Reads the numbers at the start of a text. Returns the rest too. Numbers that are too large are 0, which is the number of no picture.
fn numbers(text: &str) -> (Vec<usize>, &str) {
    let mut numbers = Vec::new();
    let (mut next, mut rest) = (text.trim_start(), text);
    loop {
        let after = next.trim_start_matches(|c: char| c.is_ascii_digit());
        let digits = &next[..next.len() - after.len()];
        if digits.is_empty() {
            return (numbers, rest);
        }
        numbers.push(digits.parse().unwrap_or(0));
        rest = after;
        let after = after.trim_start();
        match CONNECTORS.iter().find_map(|connector| after.strip_prefix(connector)) {
            Some(after) => next = after.trim_start(),
            None => return (numbers, rest),
        }
    }
}

fn is_label(rest: &str) -> bool {
    let Some(labelled) = rest.trim_start().strip_prefix([':', '：']) else { return false };
    ["<img>", "<|vision_start|>"].iter().any(|tag| labelled.trim_start().starts_with(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_text_names() {
        for (text, expected) in [
            ("", &[][..]),
            ("the picture", &[]),
            ("Where is it in Picture 2?", &[&[2][..]]),
            ("picture2, PICTURE 1 and image 10.", &[&[2], &[1], &[10]]),
            ("Compare pictures 1 and 3, then Picture 1-2", &[&[1, 3], &[1, 2]]),
            ("Picture 1: <img>a.png</img>\nPicture 2：<img>b</img> What is in Picture 1: a cat?", &[&[1]]),
            ("Picture 1: <|vision_start|><|image_pad|><|vision_end|>Picture 2: a dog", &[&[2]]),
            ("图2里有什么？图片 3、4", &[&[2], &[3, 4]]),
            ("epicture 1", &[]),
            ("picture 99999999999999999999999", &[&[0]]),
            ("picture and 2", &[]),
        ] {
            assert_eq!(mentions(text), expected, "{text}");
        }
    }

    #[test]
    fn reads_labels() {
        for (text, expected) in [
            ("Picture 2: ", Some(2)),
            ("and picture 12:", Some(12)),
            ("图片3：", Some(3)),
            ("Picture : ", None),
            ("2: ", None),
            ("Picture 2", None),
            ("", None),
        ] {
            assert_eq!(label(text), expected, "{text}");
        }
    }
}
