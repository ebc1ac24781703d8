//! Byte-pair encoding by ranks, as tiktoken does it: in a word, the neighbours whose bytes together have the lowest rank merge first.

use qwen_vl_format::Vocabulary;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Appends the tokens of a word.
///
/// Among neighbours of the same rank the leftmost merge first. A word that is a token as a whole becomes that token, even where no sequence
/// of merges leads to it. A heap holds the candidates, so that a word of n bytes takes n log n steps: a long run of letters is one word.
pub(crate) fn encode_word(vocabulary: &Vocabulary, word: &[u8], ids: &mut Vec<u32>) {
    if let Some(rank) = vocabulary.rank(word) {
        ids.push(rank);
        return;
    }
    // The parts of the word, linked: the end of the part that begins at a byte, 0 if none does, and the beginning of the part before it.
    let mut end: Vec<usize> = (1..=word.len()).collect();
    let mut before: Vec<usize> = (0..word.len()).map(|begin| begin.saturating_sub(1)).collect();
    let candidate = |begin: usize, end: usize| vocabulary.rank(&word[begin..end]).map(|rank| Reverse((rank, begin, end)));
    let mut candidates: BinaryHeap<_> = (2..=word.len()).filter_map(|end| candidate(end - 2, end)).collect();
    while let Some(Reverse((_, begin, merged_end))) = candidates.pop() {
        let middle = end[begin];
        // Skip a candidate one of whose parts merged with another neighbour.
        if middle == 0 || middle == word.len() || end[middle] != merged_end {
            continue;
        }
        end[begin] = merged_end;
        end[middle] = 0;
        if merged_end < word.len() {
            before[merged_end] = begin;
            candidates.extend(candidate(begin, end[merged_end]));
        }
        if begin > 0 {
            candidates.extend(candidate(before[begin], merged_end));
        }
    }
    let mut begin = 0;
    while begin < word.len() {
        // Every part is a token: it is a single byte or the range of a candidate.
        ids.extend(vocabulary.rank(&word[begin..end[begin]]));
        begin = end[begin];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(vocabulary: &Vocabulary, word: &[u8]) -> Vec<u32> {
        let mut ids = Vec::new();
        encode_word(vocabulary, word, &mut ids);
        ids
    }

    fn fixture() -> Vocabulary {
        Vocabulary::parse(include_bytes!("../../../tests/fixtures/tokenizer/qwen.tiktoken")).unwrap()
    }

    #[test]
    fn a_token_without_merges_is_a_whole_word_only() {
        // `abcd` is a token, and no pair of tokens leads to it.
        let file = String::from_utf8(fixture().to_bytes()).unwrap();
        let file: String = file.lines().take(256).map(|line| format!("{line}\n")).collect();
        let vocabulary = Vocabulary::parse((file + "YWJjZA== 256").as_bytes()).unwrap();
        let bytes = |word: &[u8]| -> Vec<u32> { word.iter().map(|byte| vocabulary.rank(&[*byte]).unwrap()).collect() };
        assert_eq!(encoded(&vocabulary, b"abcd"), [256]);
        assert_eq!(encoded(&vocabulary, b"abcde"), bytes(b"abcde"));
        assert!(encoded(&vocabulary, b"").is_empty());
    }

    #[test]
    fn a_long_word_takes_no_quadratic_time() {
        let vocabulary = fixture();
        let word = b"tokenisation".repeat(100_000);
        let ids = encoded(&vocabulary, &word);
        assert_eq!(ids.iter().flat_map(|id| vocabulary.token(*id).unwrap()).count(), word.len());
    }
}
