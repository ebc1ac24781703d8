//! Fuzzing of the parsers of outside input: a [`Target`] for each, and mutators that keep inputs well-formed where a random byte would stop at
//! the first check.
//!
//! A target takes any bytes. It must return, keep to its memory, and hold its properties, whatever the bytes are. The tests of this crate replay
//! the corpora with some thousand seeded mutations; `cargo xtask fuzz` runs the same targets under libFuzzer (`libfuzzer/`).

mod memory;
mod mutate;
mod targets;

use fastrand::Rng;
use memory::Bounded;

pub use targets::*;

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

/// A parser of outside input with its properties.
pub struct Target {
    /// Name of its corpus, its dictionary and its program.
    pub name: &'static str,
    /// Longest input that the fuzzer makes, bytes.
    pub max_len: usize,
    /// Parses an input and asserts the properties of the result. Returns true if the input was accepted.
    pub run: fn(&[u8]) -> bool,
    /// Changes an input so that it stays well-formed. Returns false if the input has no structure to keep.
    pub mutate: fn(&mut Vec<u8>, &mut Rng) -> bool,
    /// Most memory of an input, bytes: a fixed part, and a part for each byte of the input.
    pub memory: [usize; 2],
}

impl Target {
    /// Runs an input within the memory of the target. Returns true if the input was accepted.
    pub fn check(&self, input: &[u8]) -> bool {
        let [fixed, each] = self.memory;
        memory::within(fixed + each * input.len(), || (self.run)(input))
    }

    /// Mutates the first `size` bytes of `data` for libFuzzer. Returns the new size, or `None` if its own mutations are to be used: for inputs
    /// without structure, and for every fourth of the others.
    pub fn mutated(&self, data: &mut [u8], size: usize, max_size: usize, seed: u32) -> Option<usize> {
        let mut random = Rng::with_seed(seed.into());
        let mut input = data[..size].to_vec();
        if random.u8(0..4) == 0 || !(self.mutate)(&mut input, &mut random) || input.len() > max_size.min(data.len()) {
            return None;
        }
        data[..input.len()].copy_from_slice(&input);
        Some(input.len())
    }
}

#[cfg(test)]
mod tests;
