//! Vocabularies: lines of a token in base64 and its rank.

use super::bytes;
use fastrand::Rng;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Mutates a vocabulary: lines are swapped, doubled or left out, ranks and tokens are changed, and tokens are joined as a merge does.
pub(crate) fn mutate(input: &mut Vec<u8>, random: &mut Rng) -> bool {
    let mut lines: Vec<Vec<u8>> = input.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let (at, other) = (random.usize(..lines.len()), random.usize(..lines.len()));
    let Some((token, rank)) = parsed(&lines[at]) else { return false };
    match random.u8(0..7) {
        0 => lines.swap(at, other),
        1 => lines.insert(other, lines[at].clone()),
        2 => drop(lines.remove(at)),
        3 => lines[at] = line(&token, super::number(rank, random)),
        4 => {
            let mut token = token;
            bytes(&mut token, random);
            lines[at] = line(&token, rank);
        }
        5 => {
            let joined = [token, parsed(&lines[other]).map(|(token, _)| token).unwrap_or_default()].concat();
            let next = lines.iter().filter(|line| !line.is_empty()).count() as u64;
            let end = lines.len() - usize::from(lines.last().is_some_and(Vec::is_empty));
            lines.insert(end, line(&joined, next));
        }
        _ => {
            // The file is renumbered.
            let tokens: Vec<_> = lines.iter().filter_map(|line| parsed(line)).collect();
            lines = (0..).zip(&tokens).map(|(rank, (token, _))| line(token, rank)).collect();
        }
    }
    *input = lines.join(&b'\n');
    true
}

fn parsed(line: &[u8]) -> Option<(Vec<u8>, u64)> {
    let (token, rank) = std::str::from_utf8(line).ok()?.trim_end().split_once(' ')?;
    let mut bits = 0u32;
    let mut bytes = Vec::new();
    for (index, digit) in token.bytes().take_while(|byte| *byte != b'=').enumerate() {
        bits = bits << 6 | ALPHABET.iter().position(|letter| *letter == digit)? as u32;
        if index % 4 > 0 {
            bytes.push((bits >> (6 - index % 4 * 2)) as u8);
        }
    }
    Some((bytes, rank.parse().ok()?))
}

fn line(token: &[u8], rank: u64) -> Vec<u8> {
    let mut line = Vec::new();
    for chunk in token.chunks(3) {
        let bits = chunk.iter().enumerate().fold(0, |bits, (index, byte)| bits | u32::from(*byte) << (16 - 8 * index));
        let digit = |index: usize| if index <= chunk.len() { ALPHABET[(bits >> (18 - 6 * index) & 63) as usize] } else { b'=' };
        line.extend((0..4).map(digit));
    }
    line.extend(format!(" {rank}").bytes());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_are_written() {
        for token in [&b"a"[..], b"ab", b"abc", b"abcd", b"\xff\x00\xfe\x01"] {
            assert_eq!(parsed(&line(token, 7)), Some((token.to_vec(), 7)));
        }
        assert_eq!(line(b"ab", 5), b"YWI= 5");
    }
}
