//! Random numbers that do not depend on versions of libraries, so that a seed stands for the same world forever.

use std::ops::RangeInclusive;

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Returns a separate stream for each list of numbers.
    pub fn new(key: &[u64]) -> Self {
        let mut random = Self(0);
        for value in key {
            random.0 ^= *value;
            random.0 = random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Returns an integer below `limit`, which is at least 1.
    pub fn below(&mut self, limit: usize) -> usize {
        (((self.next() >> 32) * limit as u64) >> 32) as usize
    }

    /// Returns an integer of a range.
    pub fn range(&mut self, range: &RangeInclusive<usize>) -> usize {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    /// Returns a number from `low` up to `high`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (self.next() >> 40) as f32 / (1 << 24) as f32 * (high - low)
    }

    /// Returns true with a probability.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.between(0.0, 1.0) < probability
    }

    /// Returns an item of a list, which is not empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// Returns an index with a probability in proportion to its weight; at least one weight is positive.
    pub fn weighted(&mut self, weights: &[f32]) -> usize {
        let mut at = self.between(0.0, weights.iter().sum());
        for (index, weight) in weights.iter().enumerate() {
            at -= weight;
            if at < 0.0 {
                return index;
            }
        }
        weights.iter().rposition(|weight| *weight > 0.0).unwrap_or(0)
    }

    /// Shuffles a list.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_for_ever() {
        let mut random = Random::new(&[1, 2]);
        let drawn: Vec<usize> = (0..8).map(|_| random.below(1000)).collect();
        // Drawn by an implementation in Python.
        assert_eq!(drawn, [900, 280, 7, 164, 960, 302, 492, 98]);
    }

    #[test]
    fn stays_in_its_ranges() {
        let mut random = Random::new(&[7]);
        let mut seen = [0; 5];
        for _ in 0..5000 {
            seen[random.range(&(1..=5)) - 1] += 1;
            assert!((2.0..=3.0).contains(&random.between(2.0, 3.0)));
            assert_eq!(random.weighted(&[0.0, 1.0, 0.0]), 1);
        }
        assert!(seen.iter().all(|count| (850..1150).contains(count)), "{seen:?}");
        let mut list: Vec<u32> = (0..9).collect();
        random.shuffle(&mut list);
        assert_ne!(list, (0..9).collect::<Vec<_>>());
        list.sort_unstable();
        assert_eq!(list, (0..9).collect::<Vec<_>>());
    }
}
