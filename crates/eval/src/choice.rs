//! Multiple choice: by the likelihood of the letters, over rotated copies (MMBench), and by yes or no (MME).

use std::collections::BTreeMap;

/// Returns the choice with the least mean cross-entropy of its tokens, the first one if several are equal (`evaluate_multiple_choice.py`).
/// `logprobs` holds the log-probabilities of the tokens of each choice.
pub fn best_choice(logprobs: &[Vec<f64>]) -> Option<usize> {
    let mean = |tokens: &Vec<f64>| tokens.iter().sum::<f64>() / tokens.len() as f64;
    let mut best: Option<(usize, f64)> = None;
    for (index, score) in logprobs.iter().map(mean).enumerate() {
        if best.is_none_or(|(_, highest)| score > highest) {
            best = Some((index, score));
        }
    }
    best.map(|(index, _)| index)
}

/// Returns the share of questions whose copies are all right (`mmbench_evaluation.py`). Copies of one question with rotated choices have the
/// same index modulo a million. `right` holds the index of a copy, and true if its answer was right.
pub fn circular_strict(right: &[(u64, bool)]) -> f64 {
    let mut questions: BTreeMap<u64, bool> = BTreeMap::new();
    for (index, right) in right {
        *questions.entry(index % 1_000_000).or_insert(true) &= right;
    }
    part(questions.values().copied())
}

/// Returns the share of questions whose most frequent choice over the copies is right. On a tie the first chosen counts;
/// `mmbench_evaluation_tricky.py` draws at random. `chosen` holds the index of a copy, the text of the chosen option and that of the
/// right one.
pub fn circular_majority(chosen: &[(u64, &str, &str)]) -> f64 {
    let mut questions: BTreeMap<u64, Vec<(&str, &str)>> = BTreeMap::new();
    for (index, text, truth) in chosen {
        questions.entry(index % 1_000_000).or_default().push((text, truth));
    }
    part(questions.values().map(|copies| {
        let votes = |text: &str| copies.iter().filter(|(chosen, _)| *chosen == text).count();
        // `max_by_key` returns the last maximum; iterating in reverse makes it the first.
        let winner = copies.iter().rev().max_by_key(|(text, _)| votes(text));
        winner.is_some_and(|(text, truth)| text == truth)
    }))
}

fn part(right: impl Iterator<Item = bool>) -> f64 {
    let (count, all) = right.fold((0, 0), |(count, all), right| (count + usize::from(right), all + 1));
    if all == 0 { 0.0 } else { f64::from(count as u32) / f64::from(all as u32) }
}

/// An answer to a question of MME.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum YesNo {
    /// Yes.
    Yes,
    /// No.
    No,
    /// Neither.
    Other,
}

/// Reads an answer as MME's `calculation.py` does: the word itself, or its letters among the first four.
pub fn yes_no(answer: &str) -> YesNo {
    let answer = answer.trim().to_lowercase();
    let start: String = answer.chars().take(4).collect();
    match () {
        () if start.contains("yes") => YesNo::Yes,
        () if start.contains("no") => YesNo::No,
        () => YesNo::Other,
    }
}

/// The two scores of a category of MME, percent. A category's score is their sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MmeScores {
    /// Share of questions with a right answer.
    pub accuracy: f64,
    /// Share of pictures with right answers to both questions.
    pub accuracy_plus: f64,
}

/// `answers` holds the picture, the right answer, and the answer of the model.
pub fn mme_scores(answers: &[(&str, YesNo, YesNo)]) -> MmeScores {
    let mut pictures: BTreeMap<&str, bool> = BTreeMap::new();
    for (picture, truth, said) in answers {
        *pictures.entry(picture).or_insert(true) &= truth == said;
    }
    MmeScores {
        accuracy: 100.0 * part(answers.iter().map(|(_, truth, said)| truth == said)),
        accuracy_plus: 100.0 * part(pictures.values().copied()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_letter() {
        assert_eq!(best_choice(&[vec![-2.0], vec![-1.0], vec![-1.0]]), Some(1));
        // The mean, not the sum: a long choice is not at a disadvantage.
        assert_eq!(best_choice(&[vec![-1.5], vec![-1.0, -1.0, -1.0]]), Some(1));
        assert_eq!(best_choice(&[]), None);
    }

    #[test]
    fn copies_of_a_question() {
        let right = [(7, true), (1_000_007, true), (8, true), (1_000_008, false)];
        assert_eq!(circular_strict(&right), 0.5);
        let chosen =
            [(7, "cat", "cat"), (1_000_007, "dog", "cat"), (2_000_007, "cat", "cat"), (8, "dog", "cat"), (1_000_008, "cat", "cat")];
        assert_eq!(circular_majority(&chosen), 0.5);
        assert_eq!(circular_strict(&[]), 0.0);
    }

    #[test]
    fn yes_and_no() {
        for (answer, expected) in [("Yes", YesNo::Yes), (" yes, it is", YesNo::Yes), ("No.", YesNo::No), ("I do not know", YesNo::Other)] {
            assert_eq!(yes_no(answer), expected, "{answer}");
        }
        let answers =
            [("a", YesNo::Yes, YesNo::Yes), ("a", YesNo::No, YesNo::No), ("b", YesNo::Yes, YesNo::Other), ("b", YesNo::No, YesNo::No)];
        assert_eq!(mme_scores(&answers), MmeScores { accuracy: 75.0, accuracy_plus: 50.0 });
    }
}
