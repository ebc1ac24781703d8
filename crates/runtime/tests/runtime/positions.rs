//! Rotary and log-n tables against the original's (`facts/rotary_and_logn.json`).

use qwen_vl_processor::Rotary;
use qwen_vl_runtime::{logn_factor, ntk_alpha, ntk_base};
use qwen_vl_testkit::golden::fixtures;
use serde_json::Value;

fn facts() -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixtures().join("facts/rotary_and_logn.json")).unwrap()).unwrap()
}

fn rows(table: &Value) -> impl Iterator<Item = &Vec<Value>> {
    table["rows"].as_array().unwrap().iter().map(|row| row.as_array().unwrap())
}

#[test]
fn alpha_at_the_limits() {
    let facts = facts();
    for row in rows(&facts["ntk_alpha"]) {
        let [seq_length, tokens, alpha] = [0, 1, 2].map(|i| row[i].as_u64().unwrap() as usize);
        assert_eq!(ntk_alpha(tokens, seq_length) as usize, alpha, "{tokens} tokens, window {seq_length}");
    }
}

#[test]
fn frequencies_of_every_alpha() {
    let facts = facts();
    let tables = facts["inverse_frequencies_base_10000"].as_object().unwrap();
    assert!(!tables.is_empty());
    for (name, want) in tables {
        let (dim, alpha) = name.strip_prefix("dim").unwrap().split_once("_alpha").unwrap();
        let dim = dim.parse().unwrap();
        let got: Vec<f32> = Rotary::new(ntk_base(10_000.0, alpha.parse().unwrap(), dim), dim, None, false).frequencies().collect();
        let want: Vec<f32> = want.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect();
        assert_eq!(got.len(), want.len(), "{name}");
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            // The original's f32 power and ours may round the last bit differently, and the table has nine digits.
            assert!((got - want).abs() <= 2.0 * f32::EPSILON * want, "{name}[{i}]: {got:e}, expected {want:e}");
        }
    }
}

#[test]
fn logn_starts_after_the_window() {
    let facts = facts();
    for row in rows(&facts["logn_seq_length_2048"]) {
        let (position, want) = (row[0].as_u64().unwrap() as usize, row[1].as_f64().unwrap() as f32);
        assert!((logn_factor(position, 2048) - want).abs() <= 1e-7, "position {position}");
    }
}
