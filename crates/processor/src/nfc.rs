//! Unicode's normalization form C (NFC).
//!
//! In the wasm the function of the JavaScript engine does it: the tables of the Rust crate take 110 kB, a tenth of the module. The results
//! are equal, because Unicode guarantees that the normal form of an assigned character never changes. A browser leaves characters as they
//! are that are younger than its version of Unicode.

use std::borrow::Cow;

/// Returns the NFC of a text; borrows it if it is known to be in NFC.
pub(crate) fn nfc(text: &str) -> Cow<'_, str> {
    if text.is_ascii() { text.into() } else { normalize(text) }
}

#[cfg(not(target_arch = "wasm32"))]
fn normalize(text: &str) -> Cow<'_, str> {
    use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => text.into(),
        _ => text.nfc().collect::<String>().into(),
    }
}

#[cfg(target_arch = "wasm32")]
fn normalize(text: &str) -> Cow<'_, str> {
    String::from(js_sys::JsString::from(text).normalize("NFC")).into()
}
