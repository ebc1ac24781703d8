//! Encodes and decodes weights: `roundtrip SCHEME GROUP_SIZE COLS < f32 values > f32 values`, for comparisons with other codes.

use qwen_vl_format::Scheme;
use qwen_vl_format::block::{decode_rows, encode_rows};
use std::io::{Read, Write};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scheme, group_size, cols] = arguments.as_slice() else { return Err("usage: roundtrip SCHEME GROUP_SIZE COLS".into()) };
    let (group_size, cols) = (group_size.parse()?, cols.parse()?);
    let scheme = match scheme.as_str() {
        "f32" => Scheme::F32,
        "f16" => Scheme::F16,
        "q8" => Scheme::Q8 { group_size },
        "q4" => Scheme::Q4 { group_size },
        "q4z" => Scheme::Q4Z { group_size },
        "int4" => Scheme::Int4 { group_size },
        other => return Err(format!("no scheme {other}").into()),
    };
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    let weights: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let decoded = decode_rows(scheme, &encode_rows(scheme, &weights, cols), cols);
    let bytes: Vec<u8> = decoded.iter().flat_map(|weight| weight.to_le_bytes()).collect();
    Ok(std::io::stdout().write_all(&bytes)?)
}
