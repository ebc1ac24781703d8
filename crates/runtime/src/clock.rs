//! Wall-clock times and rates.

use web_time::Instant;

/// Milliseconds since an instant.
pub(crate) fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Rate of `count` in `millis`, per second; 0 if the clock did not advance, because JSON has no infinity.
pub(crate) fn per_second(count: usize, millis: f64) -> f64 {
    if millis > 0.0 { count as f64 * 1e3 / millis } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_finite_on_a_clock_that_stands_still() {
        assert_eq!([per_second(5, 0.0), per_second(0, 0.0), per_second(3, 1.5)], [0.0, 0.0, 2000.0]);
    }
}
