//! Parsers of option values that check their range.

/// Maximum number of tokens in an option: no model has a longer context, and sums of such numbers do not overflow.
const MAX_TOKENS: usize = 1 << 24;

/// Parses a number of tokens.
pub fn tokens(text: &str) -> Result<usize, String> {
    let value = text.parse().ok().filter(|value| (1..=MAX_TOKENS).contains(value));
    value.ok_or_else(|| format!("expected a whole number from 1 to {MAX_TOKENS}"))
}

/// Parses a number of things.
pub fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|value| *value > 0).ok_or_else(|| "expected a whole number above 0".to_owned())
}

/// Parses a number of things that may be 0.
pub fn whole(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("expected a whole number from 0 to {}", usize::MAX))
}

/// Parses a temperature; 0 is greedy.
pub fn temperature(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|value: &f32| *value >= 0.0 && value.is_finite()).ok_or_else(|| "expected a number of at least 0".to_owned())
}

/// Parses a presence penalty.
pub fn penalty(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|value: &f32| (-2.0..=2.0).contains(value)).ok_or_else(|| "expected a number from -2 to 2".to_owned())
}

/// Parses a probability mass.
pub fn probability(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|value: &f32| (0.0..=1.0).contains(value)).ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_values_out_of_range() {
        assert_eq!((tokens("1"), tokens("16777216")), (Ok(1), Ok(1 << 24)));
        for wrong in ["0", "-1", "16777217", "18446744073709551615", "18446744073709551616", "1.5", "", "x"] {
            assert!(tokens(wrong).is_err(), "{wrong}");
        }
        assert_eq!(count("3"), Ok(3));
        assert!(count("0").is_err() && count("-3").is_err());
        assert_eq!(whole("0"), Ok(0));
        assert!(whole("-1").unwrap_err().contains("from 0 to"));
        for wrong in ["-0.5", "NaN", "inf", "-inf", "1e39", "x"] {
            assert!(temperature(wrong).is_err(), "{wrong}");
            assert!(probability(wrong).is_err(), "{wrong}");
        }
        assert_eq!((temperature("0.2"), probability("1")), (Ok(0.2), Ok(1.0)));
        assert_eq!((temperature("0"), probability("0")), (Ok(0.0), Ok(0.0)));
        assert!(probability("1.01").is_err());
    }
}
