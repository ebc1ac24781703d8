//! Average normalized Levenshtein similarity (`eval_mm/infographicsvqa_eval.py`; Biten et al. 2019).

use crate::Variant;

/// A similarity below this counts as 0.
pub const ANLS_THRESHOLD: f64 = 0.5;

/// Returns the similarity of a prediction to the nearest answer, 0 to 1. The score of a data set is the mean.
///
/// Case is ignored and blanks are collapsed. The original then divides the distance by the length of the longer *raw* text (in upper case,
/// where `ß` is two letters), so that extra blanks raise the score. Corrected: it divides by the length of the texts that it compares.
pub fn anls(prediction: &str, answers: &[String], variant: Variant) -> f64 {
    let plain = |text: &str| text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    let length = |text: &str| match variant {
        Variant::Original => text.chars().flat_map(char::to_uppercase).count(),
        Variant::Corrected => plain(text).chars().count(),
    };
    let similarity = |answer: &String| {
        let longer = length(answer).max(length(prediction));
        let distance = levenshtein(&plain(answer), &plain(prediction));
        1.0 - if longer == 0 { 0.0 } else { distance as f64 / longer as f64 }
    };
    let best = answers.iter().map(similarity).fold(0.0, f64::max);
    if best < ANLS_THRESHOLD { 0.0 } else { best }
}

fn levenshtein(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, c) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, d) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(c != *d);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, distance) in [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("猫在", "猫", 1)] {
            assert_eq!(levenshtein(a, b), distance, "{a} {b}");
            assert_eq!(levenshtein(b, a), distance, "{b} {a}");
        }
    }

    #[test]
    fn blanks_to_spare_help_only_in_the_original() {
        let answers = ["abcd".to_owned()];
        assert_eq!(anls("abxy", &answers, Variant::Corrected), 0.5);
        assert_eq!(anls("  abxy  ", &answers, Variant::Corrected), 0.5);
        assert_eq!(anls("  abxy  ", &answers, Variant::Original), 0.75);
        assert_eq!(anls("axyz", &answers, Variant::Original), 0.0);
        assert_eq!(anls("ABCD", &["none".to_owned(), "abcd".to_owned()], Variant::Original), 1.0);
        assert_eq!(anls("x", &[], Variant::Original), 0.0);
    }
}
