//! CIDEr-D (Vedantam et al. 2015) as `pycocoevalcap` computes it under the name CIDEr.

use crate::Variant;
use std::collections::{BTreeSet, HashMap};

/// Length of the longest n-gram.
const LONGEST: usize = 4;
/// Width of the penalty for a different length.
const SIGMA: f64 = 6.0;
/// Tokens that the tokenizer of `pycocoevalcap` drops.
const DROPPED: &str = ".?!,:;-`'\"()[]{}";

/// Returns the scores of captions, each given by its words and those of its references. The score of a data set is the mean (times 100 in
/// tables).
///
/// The rarity of an n-gram is counted over the references of this list, so every score depends on the whole list. The penalty is defined by
/// the length of the caption; `pycocoevalcap` counts pairs of words instead, one fewer, which differs for captions of at most one word.
pub fn cider_d(captions: &[(Vec<String>, Vec<Vec<String>>)], variant: Variant) -> Vec<f64> {
    let mut frequency: HashMap<&[String], f64> = HashMap::new();
    for (_, references) in captions {
        let seen: BTreeSet<&[String]> = references.iter().flat_map(|words| ngrams(words)).collect();
        seen.into_iter().for_each(|ngram| *frequency.entry(ngram).or_default() += 1.0);
    }
    let documents = (captions.len() as f64).ln();
    let rarity = |ngram: &[String]| documents - frequency.get(ngram).copied().unwrap_or(0.0).max(1.0).ln();
    let score = |(caption, references): &(Vec<String>, Vec<Vec<String>>)| {
        let caption = Vector::new(caption, variant, rarity);
        let similarities = references.iter().map(|reference| caption.similarity(&Vector::new(reference, variant, rarity)));
        if references.is_empty() { 0.0 } else { 10.0 * similarities.sum::<f64>() / references.len() as f64 }
    };
    captions.iter().map(score).collect()
}

fn ngrams(words: &[String]) -> impl Iterator<Item = &[String]> {
    (1..=LONGEST).flat_map(move |length| words.windows(length))
}

/// Weights of the n-grams of a caption.
struct Vector<'a> {
    weights: HashMap<&'a [String], f64>,
    norms: [f64; LONGEST],
    length: f64,
}

impl<'a> Vector<'a> {
    fn new(words: &'a [String], variant: Variant, rarity: impl Fn(&[String]) -> f64) -> Self {
        let mut weights: HashMap<&[String], f64> = HashMap::new();
        ngrams(words).for_each(|ngram| *weights.entry(ngram).or_default() += 1.0);
        let mut norms = [0.0; LONGEST];
        for (ngram, weight) in &mut weights {
            *weight *= rarity(ngram);
            norms[ngram.len() - 1] += *weight * *weight;
        }
        let length = match variant {
            Variant::Original => words.len().saturating_sub(1),
            Variant::Corrected => words.len(),
        };
        Self { weights, norms: norms.map(f64::sqrt), length: length as f64 }
    }

    /// Returns the mean over the lengths of n-grams of the clipped cosine, times the penalty for a different length.
    fn similarity(&self, reference: &Self) -> f64 {
        let mut sums = [0.0; LONGEST];
        for (ngram, weight) in &self.weights {
            if let Some(other) = reference.weights.get(ngram) {
                sums[ngram.len() - 1] += weight.min(*other) * other;
            }
        }
        let cosine = |n: usize| match self.norms[n] * reference.norms[n] {
            0.0 => sums[n],
            norms => sums[n] / norms,
        };
        let difference = self.length - reference.length;
        (0..LONGEST).map(cosine).sum::<f64>() / LONGEST as f64 * (-difference * difference / (2.0 * SIGMA * SIGMA)).exp()
    }
}

/// Returns the words of a caption: lower case, without marks, with `'s` and `n't` split off. For plain English they are those of the Penn
/// Treebank tokenizer, which `pycocoevalcap` runs as a Java program.
pub fn caption_words(caption: &str) -> Vec<String> {
    let mut words = Vec::new();
    for word in caption.to_lowercase().split_whitespace() {
        // Marks inside a word stay with it but for those that end a clause: "well-lit", "3.5".
        let word = word.trim_matches(|c| DROPPED.contains(c));
        for word in word.split([',', ';', '?', '!', ':', '"', '(', ')', '[', ']']).filter(|part| !part.is_empty()) {
            let clitic = ["n't", "'s", "'re", "'ve", "'ll", "'m", "'d"].into_iter().find(|clitic| word.ends_with(clitic));
            match clitic.map(|clitic| word.split_at(word.len() - clitic.len())) {
                Some((stem, clitic)) if !stem.is_empty() => words.extend([stem.to_owned(), clitic.to_owned()]),
                _ => words.push(word.to_owned()),
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_captions() {
        let words = |caption| caption_words(caption).join(" ");
        assert_eq!(words("A man's hat, well-lit; he isn't here."), "a man 's hat well-lit he is n't here");
        assert_eq!(words("\"Two\" dogs -- and 3.5 cats!"), "two dogs and 3.5 cats");
        assert_eq!(words("  ...  "), "");
    }

    #[test]
    fn the_same_words_score_ten() {
        let caption = |text: &str| caption_words(text);
        let sets = [
            (caption("a red cat on the mat"), vec![caption("a red cat on the mat")]),
            (caption("two dogs in a park"), vec![caption("two dogs in a park")]),
            (caption("nothing of this"), vec![caption("a blue car parked here")]),
        ];
        let scores = cider_d(&sets, Variant::Original);
        assert!((scores[0] - 10.0).abs() < 1e-9 && (scores[1] - 10.0).abs() < 1e-9, "{scores:?}");
        assert_eq!(scores[2], 0.0);
        assert_eq!(cider_d(&[], Variant::Original), Vec::<f64>::new());
    }
}
