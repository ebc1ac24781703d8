//! Exact match (`evaluate_vqa.py`, `evaluate_exact_match_accuracy`), and the extraction of GQA's answers.

use crate::Variant;

/// True if a prediction equals one of the answers, without regard to case and to blanks around it.
pub fn exact_match(prediction: &str, answers: &[String]) -> bool {
    let plain = |text: &str| text.trim().to_lowercase();
    answers.iter().any(|answer| plain(answer) == plain(prediction))
}

/// Extracts the answer from a sentence as GQA expects it: the first clause, from after "is", "are" and an article up to "of".
///
/// The original searches for the letters anywhere and takes only the text between the first and the second occurrence: "banana split" becomes
/// "split", and "a cat is a pet" becomes "pet". Corrected: only whole words at the start of the remaining text count.
pub fn gqa_answer(sentence: &str, variant: Variant) -> String {
    let clause = sentence.trim().split(['.', ',', '!']).next().unwrap_or_default().to_lowercase();
    let mut answer = clause.as_str();
    match variant {
        Variant::Original => {
            for word in ["is ", "are ", "a ", "an ", "the "] {
                answer = answer.split(word).nth(1).unwrap_or(answer);
            }
        }
        Variant::Corrected => {
            for verb in [" is ", " are "] {
                answer = answer.split_once(verb).map_or(answer, |(_, after)| after);
            }
            for article in ["a ", "an ", "the "] {
                answer = answer.trim_start().strip_prefix(article).unwrap_or(answer);
            }
        }
    }
    answer.split(" of").next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_and_case_do_not_matter() {
        let answers = ["Top Left ".to_owned(), "corner".to_owned()];
        assert!(exact_match(" top left", &answers));
        assert!(exact_match("CORNER\n", &answers));
        assert!(!exact_match("top  left", &answers));
        assert!(!exact_match("", &[]));
    }

    #[test]
    fn cuts_answers_out() {
        for (sentence, original, corrected) in [
            ("The man is holding a cup of tea.", "cup", "holding a cup"),
            ("The color is the red, I think", "red", "red"),
            ("banana split", "split", "banana split"),
            ("An Orange!", "orange", "orange"),
            ("top", "top", "top"),
            ("", "", ""),
        ] {
            let found = [Variant::Original, Variant::Corrected].map(|variant| gqa_answer(sentence, variant));
            assert_eq!(found, [original, corrected], "{sentence}");
        }
    }
}
