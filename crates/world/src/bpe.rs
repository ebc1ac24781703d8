//! Trains a byte-level BPE and writes it in the rank format of `qwen.tiktoken`.

use std::collections::HashMap;

/// Learns up to `size` tokens: the 256 bytes, then merges, the most frequent pair first. Of equally frequent pairs the earlier one wins.
/// `words` are the words of Qwen's splitter, within which tokens merge, with their frequencies.
pub fn train(words: &HashMap<String, u64>, size: usize) -> Vec<Vec<u8>> {
    let mut tokens: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
    let mut words: Vec<(Vec<u32>, u64)> = words.iter().map(|(word, count)| (word.bytes().map(u32::from).collect(), *count)).collect();
    // The order of a hash map varies.
    words.sort_unstable();
    while tokens.len() < size {
        let mut pairs: HashMap<(u32, u32), u64> = HashMap::new();
        for (ids, count) in &words {
            for pair in ids.windows(2) {
                *pairs.entry((pair[0], pair[1])).or_default() += count;
            }
        }
        let best = pairs.into_iter().filter(|(_, count)| *count > 1).max_by_key(|(pair, count)| (*count, std::cmp::Reverse(*pair)));
        let Some(((left, right), _)) = best else { break };
        let merged = tokens.len() as u32;
        let token = [tokens[left as usize].as_slice(), &tokens[right as usize]].concat();
        // Two merges can produce the same bytes. They become one token, the first one.
        let merged = tokens.iter().position(|known| *known == token).map_or(merged, |known| known as u32);
        if merged as usize == tokens.len() {
            tokens.push(token);
        }
        for (ids, _) in &mut words {
            let mut at = 0;
            while at + 1 < ids.len() {
                if ids[at] == left && ids[at + 1] == right {
                    ids[at] = merged;
                    ids.remove(at + 1);
                }
                at += 1;
            }
        }
    }
    tokens
}

/// One line for each token: base64 of its bytes, a blank, its rank.
pub fn to_tiktoken(tokens: &[Vec<u8>]) -> String {
    tokens.iter().enumerate().map(|(rank, token)| format!("{} {rank}\n", base64(token))).collect()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for position in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * position) & 63) as usize];
            text.push(if position <= group.len() { letter as char } else { '=' });
        }
    }
    text
}
