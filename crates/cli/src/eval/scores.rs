//! Scores of answers, and their tables.

use super::Part;
use super::predictions::Prediction;
use anyhow::Result;
use qwen_vl_eval::{
    Item, Task, Truth, Variant, anls, best_choice, box_match, caption_words, cider_d, exact_match, gqa_answer, grounding_match, mme_scores,
    relaxed_match, vqa_score, yes_no,
};
use serde_json::json;
use std::collections::BTreeMap;

/// A model's name and its scores of each part by kind of question, those of all kinds under the empty name.
pub(super) type Column = (String, Vec<BTreeMap<String, Score>>);

/// The scores of a part, or of one kind of its questions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Score {
    count: usize,
    original: f64,
    corrected: f64,
}

pub(super) fn score(part: &Part, predictions: &[Prediction]) -> BTreeMap<String, Score> {
    let [original, corrected] = [Variant::Original, Variant::Corrected].map(|variant| item_scores(part, predictions, variant));
    let mut scores: BTreeMap<String, Score> = BTreeMap::new();
    let both = original.iter().zip(&corrected).zip(&part.items);
    for ((original, corrected), item) in both {
        let (Some(original), Some(corrected)) = (original, corrected) else { continue };
        for group in [Some(""), item.group.as_deref()].into_iter().flatten() {
            let score = scores.entry(group.to_owned()).or_default();
            score.count += 1;
            score.original += original;
            score.corrected += corrected;
        }
    }
    for score in scores.values_mut() {
        let count = score.count as f64;
        score.original /= count;
        score.corrected /= count;
    }
    if part.task == Task::Mme && !scores.is_empty() {
        // A category's score is the share of right questions plus the share of pictures whose questions are all right.
        let said = part.items.iter().zip(predictions).filter_map(|(item, prediction)| match &item.truth {
            Truth::Answers(answers) => Some((item.pictures[0].path.as_str(), yes_no(answers.first()?), yes_no(&prediction.answer))),
            _ => None,
        });
        let said: Vec<_> = said.collect();
        let plus = mme_scores(&said).accuracy_plus / 100.0;
        scores.insert("accuracy+".to_owned(), Score { count: said.len(), original: plus, corrected: plus });
    }
    scores
}

/// The score of each question, 0 to 1 (CIDEr: more); none where the true answer is not known.
fn item_scores(part: &Part, predictions: &[Prediction], variant: Variant) -> Vec<Option<f64>> {
    let truth = |right: bool| f64::from(u8::from(right));
    if part.task == Task::Caption {
        // A caption's score depends on all references.
        let known = part.items.iter().zip(predictions).filter_map(|(item, prediction)| match &item.truth {
            Truth::Answers(references) => {
                Some((caption_words(&prediction.answer), references.iter().map(|text| caption_words(text)).collect()))
            }
            _ => None,
        });
        let mut scores = cider_d(&known.collect::<Vec<_>>(), variant).into_iter();
        return part.items.iter().map(|item| matches!(item.truth, Truth::Answers(_)).then(|| scores.next()).flatten()).collect();
    }
    let score = |(item, prediction): (&Item, &Prediction)| {
        let answer = prediction.answer.as_str();
        Some(match &item.truth {
            Truth::Unknown => return None,
            Truth::Answers(answers) => match part.task {
                Task::Vqa => vqa_score(answer, answers, variant),
                Task::Anls => anls(answer, answers, variant),
                Task::Relaxed => truth(relaxed_match(answer, answers, variant)),
                Task::Gqa => truth(exact_match(&gqa_answer(answer, variant), answers)),
                Task::Mme => truth(answers.iter().any(|right| yes_no(right) == yes_no(answer))),
                _ => truth(exact_match(answer, answers)),
            },
            Truth::Box { corners, width, height } => truth(match prediction.corners {
                Some(found) => box_match(found, *corners, *width, *height),
                None => grounding_match(answer, *corners, *width, *height, variant),
            }),
            Truth::Choice(right) => truth(best_choice(&prediction.candidates) == Some(*right)),
        })
    };
    part.items.iter().zip(predictions).map(score).collect()
}

pub(super) fn print_table(parts: &[Part], columns: &[Column]) -> Result<()> {
    print!("{:<28} {:<20} {:>6}", "task", "metric", "n");
    columns.iter().for_each(|(name, _)| print!(" {name:>16}"));
    println!();
    for (index, part) in parts.iter().enumerate() {
        let (metric, scale) = part.task.metric();
        let groups = &columns[0].1[index];
        if groups.is_empty() {
            println!("{:<28} no true answers in the file: predictions only", part.name);
        }
        // A single kind is all of it.
        for (group, score) in groups.iter().filter(|(group, _)| group.is_empty() || groups.len() > 2 || part.task == Task::Mme) {
            match group.as_str() {
                "" => print!("{:<28} {metric:<20}", part.name),
                group => print!("  {group:<26} {:<20}", ""),
            }
            print!(" {:>6}", score.count);
            for (_, scores) in columns {
                let Score { original, corrected, .. } = scores[index].get(group).copied().unwrap_or_default();
                let (original, corrected) = (format!("{:.1}", original * scale), format!("{:.1}", corrected * scale));
                match original == corrected {
                    true => print!(" {original:>16}"),
                    false => print!(" {:>16}", format!("{original} ({corrected})")),
                }
            }
            println!();
        }
    }
    Ok(())
}

pub(super) fn print_json(parts: &[Part], columns: &[Column]) -> Result<()> {
    let number =
        |scale: f64, score: &Score| json!({ "n": score.count, "original": score.original * scale, "corrected": score.corrected * scale });
    let mut models = serde_json::Map::new();
    for (name, scores) in columns {
        let mut tasks = serde_json::Map::new();
        for (part, groups) in parts.iter().zip(scores) {
            let (metric, scale) = part.task.metric();
            let all = groups.get("").copied().unwrap_or_default();
            let kinds: serde_json::Map<_, _> =
                groups.iter().filter(|(group, _)| !group.is_empty()).map(|(group, score)| (group.clone(), number(scale, score))).collect();
            let mut value = number(scale, &all);
            value["metric"] = json!(metric);
            value["kinds"] = json!(kinds);
            tasks.insert(part.name.clone(), value);
        }
        models.insert(name.clone(), json!(tasks));
    }
    println!("{}", json!({ "models": models }));
    Ok(())
}
