//! The merges of a vocabulary, which the BPE model of the `tokenizers` crate asks for.

use qwen_vl_format::Vocabulary;
use std::collections::HashMap;

/// The pair of tokens that merges into each token, in rank order.
///
/// tiktoken knows no merges: in a word, it joins the neighbours whose bytes together have the lowest rank. A token of rank r then
/// arises from one pair only, the one left over when its bytes alone are encoded with the ranks below r: whatever stands around
/// it, no join across its borders can have happened before it, and inside the order is the same. So merges built this way,
/// in rank order, give tiktoken's tokens exactly. A token whose bytes leave more than two parts arises only as a whole word.
pub(crate) fn merges(vocabulary: &Vocabulary) -> Vec<(u32, u32)> {
    let mut byte_ids = [0; 256];
    for id in 0..vocabulary.len() as u32 {
        if let Some([byte]) = vocabulary.token(id) {
            byte_ids[*byte as usize] = id;
        }
    }
    let mut merges = Vec::with_capacity(vocabulary.len());
    let mut merged: HashMap<(u32, u32), u32, PairHash> = HashMap::with_capacity_and_hasher(vocabulary.len(), PairHash::default());
    let mut parts = Vec::new();
    for id in 0..vocabulary.len() as u32 {
        let token = vocabulary.token(id).unwrap_or_default();
        if token.len() < 2 {
            continue;
        }
        parts.clear();
        parts.extend(token.iter().map(|byte| byte_ids[*byte as usize]));
        while parts.len() > 2 {
            let lowest = parts.windows(2).enumerate().filter_map(|(at, pair)| Some((*merged.get(&(pair[0], pair[1]))?, at))).min();
            let Some((joined, at)) = lowest else { break };
            parts[at] = joined;
            parts.remove(at + 1);
        }
        if let [left, right] = parts[..] {
            merged.insert((left, right), id);
            merges.push((left, right));
        }
    }
    merges
}

/// Two ids in one multiplication: SipHash takes most of the time otherwise.
#[derive(Default, Clone, Copy)]
struct PairHasher(u64);
type PairHash = std::hash::BuildHasherDefault<PairHasher>;

impl std::hash::Hasher for PairHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, value: u32) {
        self.0 = (self.0.rotate_left(32) ^ u64::from(value)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}
