//! Relaxed accuracy of charts (`evaluate_vqa.py`, `relaxed_correctness`; Methani et al. 2020).

use crate::Variant;

/// Relative tolerance of numbers.
const TOLERANCE: f64 = 0.05;

/// True if a prediction equals one of the answers: numbers within 5 %, other texts without regard to case.
///
/// The original calls the function with its arguments swapped, so that the 5 % are relative to the prediction, and a predicted 0 is compared
/// as text.
pub fn relaxed_match(prediction: &str, answers: &[String], variant: Variant) -> bool {
    let prediction = prediction.trim();
    answers.iter().any(|answer| match variant {
        Variant::Original => correct(prediction, answer),
        Variant::Corrected => correct(answer.trim(), prediction),
    })
}

fn correct(target: &str, prediction: &str) -> bool {
    match (number(target), number(prediction)) {
        (Some(target), Some(prediction)) if target != 0.0 => (prediction - target).abs() / target.abs() <= TOLERANCE,
        _ => prediction.to_lowercase() == target.to_lowercase(),
    }
}

/// Parses a number as Python's `float` does: with blanks around it and underscores between digits. With `%` at the end it is a hundredth.
fn number(text: &str) -> Option<f64> {
    let (text, scale) = match text.ends_with('%') {
        true => (text.trim_end_matches('%'), 100.0),
        false => (text, 1.0),
    };
    let text = text.trim();
    let between_digits = |at: usize| {
        let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
        at > 0 && digit(text.as_bytes().get(at - 1)) && digit(text.as_bytes().get(at + 1))
    };
    if !text.match_indices('_').all(|(at, _)| between_digits(at)) {
        return None;
    }
    text.replace('_', "").parse::<f64>().ok().map(|number| number / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_per_cent() {
        let both = |prediction: &str, answer: &str| {
            [Variant::Original, Variant::Corrected].map(|variant| relaxed_match(prediction, &[answer.to_owned()], variant))
        };
        assert_eq!(both("10.4", "10"), [true, true]);
        assert_eq!(both("11", "10"), [false, false]);
        // 5 % of 10.5 is more than 0.525 of 10.
        assert_eq!(both("10.52", "10"), [true, false]);
        assert_eq!(both("9.51", "10"), [false, true]);
        assert_eq!(both("50%", "0.5"), [true, true]);
        assert_eq!(both("0", "0.0"), [false, false]);
        assert_eq!(both("0", "3"), [false, false]);
        assert_eq!(both("Red", "red"), [true, true]);
        assert_eq!(both("1_000", " 1000 "), [true, true]);
        assert_eq!(both("red", "red "), [false, true]);
    }
}
