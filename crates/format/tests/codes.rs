//! The default 4-bit code against llama.cpp's at the same size. The errors of theirs come from `quantize/tests/independent/compare_codes.py`,
//! which writes `codes.json`; the weights are made here again by the same formulas.

mod weights;

use qwen_vl_format::Scheme;
use qwen_vl_format::block::{decode_rows, encode_rows};
use serde_json::Value;
use weights::{gaussian, heavy_tailed};

const COUNT: u64 = 64 * 4096;

/// Root of the mean squared error over that of the mean squared weight.
fn relative_error(scheme: Scheme, kind: fn(u64) -> f64) -> f64 {
    let weights = weights::weights(kind, COUNT);
    let decoded = decode_rows(scheme, &encode_rows(scheme, &weights, 4096), 4096);
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
    let error = squares(&mut weights.iter().zip(&decoded).map(|(weight, decoded)| weight - decoded));
    (error / squares(&mut weights.iter().copied())).sqrt()
}

#[test]
fn the_default_beats_other_codes_of_its_size() {
    let theirs: Value = serde_json::from_str(include_str!("codes.json")).unwrap();
    let error = |name: &str, kind: usize| theirs[name][kind].as_f64().unwrap();
    let ours = Scheme::Q4Z { group_size: 32 };
    let (bell, heavy) = (relative_error(ours, gaussian), relative_error(ours, heavy_tailed));
    for name in ["Q4_0 (gguf)", "IQ4_NL, least squared error", "Q4_K"] {
        assert!(bell < error(name, 0), "{bell} is not below {name} on bell-shaped weights");
        assert!(heavy < error(name, 1), "{heavy} is not below {name} on heavy-tailed weights");
    }
}
