//! The metrics against what public implementations say (`scripts/make_fixtures.py`): every score the same.

use qwen_vl_eval::{Variant, anls, caption_words, cider_d, clean_prediction, gqa_answer, grounding_match, relaxed_match, vqa_score};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixtures {
    vqa: Vec<Vqa>,
    anls: Vec<Anls>,
    relaxed: Vec<Relaxed>,
    gqa: Vec<Gqa>,
    grounding: Vec<Grounding>,
    cider: Cider,
}

#[derive(Deserialize)]
struct Vqa {
    prediction: String,
    answers: Vec<String>,
    cleaned: String,
    score: f64,
}

#[derive(Deserialize)]
struct Anls {
    prediction: String,
    answers: Vec<String>,
    score: f64,
}

#[derive(Deserialize)]
struct Relaxed {
    prediction: String,
    answers: Vec<String>,
    correct: bool,
}

#[derive(Deserialize)]
struct Gqa {
    sentence: String,
    answer: String,
}

#[derive(Deserialize)]
struct Grounding {
    answer: String,
    truth: [f64; 4],
    width: f64,
    height: f64,
    correct: bool,
}

#[derive(Deserialize)]
struct Cider {
    mean: f64,
    sets: Vec<CiderSet>,
}

#[derive(Deserialize)]
struct CiderSet {
    caption: String,
    references: Vec<String>,
    caption_words: String,
    reference_words: Vec<String>,
    score: f64,
}

fn fixtures() -> Fixtures {
    serde_json::from_str(include_str!("fixtures/metrics.json")).unwrap()
}

/// Scores are ratios of small numbers, rounded by the original to twelve places at most.
#[track_caller]
fn assert_same(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() < 1e-9, "{what}: {found}, expected {expected}");
}

#[test]
fn vqa_scores() {
    let cases = fixtures().vqa;
    assert!(cases.iter().any(|case| case.score == 1.0) && cases.iter().any(|case| case.score > 0.0 && case.score < 1.0));
    for case in cases {
        assert_eq!(clean_prediction(&case.prediction, Variant::Original), case.cleaned, "{:?}", case.prediction);
        assert_same(vqa_score(&case.prediction, &case.answers, Variant::Original), case.score, &case.prediction);
    }
}

#[test]
fn anls_scores() {
    for case in fixtures().anls {
        assert_same(anls(&case.prediction, &case.answers, Variant::Original), case.score, &case.prediction);
    }
}

#[test]
fn relaxed_accuracy() {
    for case in fixtures().relaxed {
        let found = relaxed_match(&case.prediction, &case.answers, Variant::Original);
        assert_eq!(found, case.correct, "{:?} for {:?}", case.prediction, case.answers);
    }
}

#[test]
fn gqa_answers() {
    for case in fixtures().gqa {
        assert_eq!(gqa_answer(&case.sentence, Variant::Original), case.answer, "{:?}", case.sentence);
    }
}

#[test]
fn grounding_accuracy() {
    let cases = fixtures().grounding;
    assert!(cases.iter().any(|case| case.correct) && cases.iter().any(|case| !case.correct));
    for case in cases {
        let found = grounding_match(&case.answer, case.truth, case.width, case.height, Variant::Original);
        assert_eq!(found, case.correct, "{:?} for {:?}", case.answer, case.truth);
    }
}

#[test]
fn cider_scores() {
    let Cider { mean, sets } = fixtures().cider;
    let split = |text: &String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let captions: Vec<_> =
        sets.iter().map(|set| (split(&set.caption_words), set.reference_words.iter().map(split).collect::<Vec<_>>())).collect();
    let scores = cider_d(&captions, Variant::Original);
    for (score, set) in scores.iter().zip(&sets) {
        assert_same(*score, set.score, &set.caption);
    }
    assert_same(scores.iter().sum::<f64>() / scores.len() as f64, mean, "mean");
}

#[test]
fn words_of_captions() {
    for set in fixtures().cider.sets {
        for (text, words) in [(&set.caption, &set.caption_words)].into_iter().chain(set.references.iter().zip(&set.reference_words)) {
            assert_eq!(caption_words(text).join(" "), *words, "{text:?}");
        }
    }
}
