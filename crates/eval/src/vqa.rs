//! The VQA score (`eval_mm/vqa_eval.py`; Antol et al. 2015).

use crate::Variant;

const MARKS: &str = ";/[]\"{}()=+\\_-><@`,?!";
const NUMBERS: [&str; 11] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
const ARTICLES: [&str; 3] = ["a", "an", "the"];
/// Contractions. A word that lacks only an apostrophe is taken for the contraction.
const CONTRACTIONS: &str = "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd \
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock \
    oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've \
    someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll \
    they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've \
    who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're \
    you've";
/// Maximum number of dots that the original removes: it passes a flag in place of the count (`re.UNICODE` is 32).
const ORIGINAL_DOTS: usize = 32;

/// Returns the score of a prediction, 0 to 1, given the answers of several people (ten in the data sets): the mean, over the people, of the
/// number of others who agree with the prediction, in thirds and at most 1.
///
/// The original removes marks from the true answers only if the people disagree, and changes neither their case nor their numbers, articles
/// and contractions. Corrected: both sides are cleaned in the same way.
pub fn vqa_score(prediction: &str, answers: &[String], variant: Variant) -> f64 {
    if answers.is_empty() {
        return 0.0;
    }
    let prediction = clean_prediction(prediction, variant);
    let disagree = answers.iter().any(|answer| *answer != answers[0]);
    let truth = |answer: &String| match variant {
        Variant::Corrected => clean_prediction(answer, variant),
        Variant::Original if disagree => without_marks(answer, variant),
        Variant::Original => answer.clone(),
    };
    let same = answers.iter().map(|answer| truth(answer) == prediction).collect::<Vec<_>>();
    let all = same.iter().filter(|same| **same).count();
    // Everyone is left out once: of those that agree, one fewer is left.
    let scores = same.iter().map(|same| ((all - usize::from(*same)) as f64 / 3.0).min(1.0));
    scores.sum::<f64>() / answers.len() as f64
}

/// Normalizes a prediction for comparison: line ends, marks, case, numbers, articles and contractions.
pub fn clean_prediction(prediction: &str, variant: Variant) -> String {
    let text = prediction.replace(['\n', '\t'], " ");
    let text = without_marks(text.trim(), variant).to_lowercase();
    let words = text.split_whitespace().filter_map(|word| {
        let word = match word {
            "none" => "0",
            _ => NUMBERS.iter().position(|number| *number == word).map_or(word, |number| DIGITS[number]),
        };
        (!ARTICLES.contains(&word)).then(|| contraction(word, variant).unwrap_or(word))
    });
    words.collect::<Vec<_>>().join(" ")
}

const DIGITS: [&str; 11] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"];

fn contraction(word: &str, variant: Variant) -> Option<&'static str> {
    // The original has one entry the wrong way round.
    if word == "somebody'd" && variant == Variant::Original {
        return Some("somebodyd");
    }
    CONTRACTIONS.split_whitespace().find(|whole| {
        word.len() + 1 == whole.len()
            && whole.match_indices('\'').any(|(at, _)| word.starts_with(&whole[..at]) && word.ends_with(&whole[at + 1..]))
    })
}

/// Removes marks. The original deletes a mark that touches a blank somewhere in the text, and all marks if the text has a comma between digits;
/// other marks become a blank. Corrected: a comma between digits is deleted, and other marks become blanks.
fn without_marks(text: &str, variant: Variant) -> String {
    let chars: Vec<char> = text.chars().collect();
    let digit = |at: Option<&char>| at.is_some_and(|c| c.is_numeric());
    let thousands = |at: usize| chars[at] == ',' && at > 0 && digit(chars.get(at - 1)) && digit(chars.get(at + 1));
    let touches_blank = |mark: char| chars.windows(2).any(|pair| pair == [mark, ' '] || pair == [' ', mark]);
    let any_thousands = (0..chars.len()).any(thousands);
    let mut out = Vec::with_capacity(chars.len());
    for (at, c) in chars.iter().enumerate() {
        let deleted = match variant {
            Variant::Original => any_thousands || touches_blank(*c),
            Variant::Corrected => thousands(at),
        };
        match MARKS.contains(*c) {
            true if deleted => {}
            true => out.push(' '),
            false => out.push(*c),
        }
    }
    let mut dots = match variant {
        Variant::Original => ORIGINAL_DOTS,
        Variant::Corrected => usize::MAX,
    };
    let mut text = String::with_capacity(out.len());
    for (at, c) in out.iter().enumerate() {
        if *c == '.' && !digit(out.get(at + 1)) && dots > 0 {
            dots -= 1;
        } else {
            text.push(*c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ten(answers: &[(&str, usize)]) -> Vec<String> {
        answers.iter().flat_map(|(answer, count)| std::iter::repeat_n((*answer).to_owned(), *count)).collect()
    }

    #[test]
    fn three_of_ten_are_enough_but_for_those_left_out() {
        let answers = ten(&[("cat", 3), ("dog", 7)]);
        // Each of the three is compared with two others that agree, each of the seven with three.
        let expected = (3.0 * 2.0 / 3.0 + 7.0) / 10.0;
        for variant in [Variant::Original, Variant::Corrected] {
            assert!((vqa_score(" Cat.\n", &answers, variant) - expected).abs() < 1e-12);
            assert_eq!(vqa_score("dog", &answers, variant), 1.0);
            assert_eq!(vqa_score("bird", &answers, variant), 0.0);
        }
    }

    #[test]
    fn only_the_corrected_form_cleans_what_is_true() {
        for answers in [ten(&[("Two", 10)]), ten(&[("the yellow", 10)])] {
            let prediction = answers[0].clone();
            assert!(vqa_score(&prediction, &answers, Variant::Original) < 1.0, "{prediction}");
            assert_eq!(vqa_score(&prediction, &answers, Variant::Corrected), 1.0);
        }
    }

    #[test]
    fn cleans_predictions() {
        let both = |text: &str| [Variant::Original, Variant::Corrected].map(|variant| clean_prediction(text, variant));
        assert_eq!(both("A dog, the cat!"), ["dog cat", "dog cat"]);
        assert_eq!(both("dont  THEYRE ten"), ["don't they're 10", "don't they're 10"]);
        assert_eq!(both("black/white"), ["black white", "black white"]);
        assert_eq!(both("1,000 black/white"), ["1000 blackwhite", "1000 black white"]);
        assert_eq!(both("a/b c/ d"), ["ab c d", "b c d"]);
        assert_eq!(both("3.5 p.m."), ["3.5 pm", "3.5 pm"]);
        assert_eq!(both(&".".repeat(40)), [".".repeat(8), String::new()]);
    }
}
