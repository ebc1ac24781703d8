//! Names of schemes.

use qwen_vl_format::Scheme;

/// A scheme in words: `q4z in groups of 32`.
pub(crate) fn describe_scheme(scheme: Scheme) -> String {
    match scheme {
        Scheme::F32 => "f32".to_owned(),
        Scheme::F16 => "f16".to_owned(),
        Scheme::Q8 { group_size } => format!("q8 in groups of {group_size}"),
        Scheme::Q4 { group_size } => format!("q4 in groups of {group_size}"),
        Scheme::Q4Z { group_size } => format!("q4z in groups of {group_size}"),
        Scheme::Int4 { group_size } => format!("int4 in groups of {group_size}"),
    }
}
