//! Mutators that keep the structure of an input. Each changes an input a little, and returns false if the input has not its structure.

pub(crate) mod archive;
pub(crate) mod json;
pub(crate) mod picture;
pub(crate) mod ranks;

use fastrand::Rng;

/// For inputs without a structure.
pub(crate) fn nothing(_: &mut Vec<u8>, _: &mut Rng) -> bool {
    false
}

/// Numbers at which sizes and counts tend to break.
const NUMBERS: [u64; 16] = [0, 1, 2, 3, 4, 7, 8, 255, 256, 0xffff, 0x1_0000, 0x7fff_ffff, 0xffff_ffff, 1 << 53, i64::MAX as u64, u64::MAX];

/// Returns a number near one at which sizes tend to break, or near `old`.
pub(crate) fn number(old: u64, random: &mut Rng) -> u64 {
    let base = match random.u8(0..4) {
        0 => old,
        1 => old.wrapping_mul(random.u64(2..5)),
        2 => old / 2,
        _ => NUMBERS[random.usize(..NUMBERS.len())],
    };
    match random.u8(0..4) {
        0 => base.wrapping_add(1),
        1 => base.wrapping_sub(1),
        _ => base,
    }
}

/// Flips, sets, cuts, inserts or doubles some bytes.
pub(crate) fn bytes(bytes: &mut Vec<u8>, random: &mut Rng) {
    if bytes.is_empty() {
        return bytes.push(random.u8(..));
    }
    let at = random.usize(..bytes.len());
    let end = (at + 1 + random.usize(..8)).min(bytes.len());
    match random.u8(0..6) {
        0 => bytes[at] ^= 1 << random.u8(..8),
        1 => bytes[at] = random.u8(..),
        2 => bytes[at..end].fill(if random.bool() { 0xff } else { 0 }),
        3 => drop(bytes.drain(at..end)),
        4 => bytes.insert(at, random.u8(..)),
        _ => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
    }
}
