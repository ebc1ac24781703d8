//! The one reader of a checkpoint's JSON files.
//!
//! Python writes `NaN` and `Infinity`, and Windows editors write a byte order mark. JSON has neither, so both are handled here.

use super::file::InputFile;
use super::recognise::recognise;
use anyhow::{Result, anyhow, ensure};
use serde_json::Value;

/// Begins the string that stands for a number that JSON cannot express. No file has such a string: JSON escapes U+0000.
const SENTINEL: char = '\0';

/// A JSON file.
#[derive(Debug)]
pub(crate) struct Json {
    /// The contents. `NaN` and infinite numbers are null.
    pub value: Value,
    /// The keys with such a number, with dots, and the number.
    pub not_finite: Vec<(String, String)>,
}

impl Json {
    /// Reads a file.
    pub(crate) fn read(file: &InputFile) -> Result<Self> {
        let bytes = file.read_all()?;
        let explain = |problem: String| match recognise(&bytes, bytes.len() as u64) {
            Some(kind) => anyhow!("{} {kind}", file.place()),
            None => anyhow!("{} is not JSON: {problem}", file.place()),
        };
        let text = std::str::from_utf8(&bytes).map_err(|error| explain(format!("it is not UTF-8 from byte {} on", error.valid_up_to())))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        ensure!(!text.contains(SENTINEL), explain("it has a zero byte".to_owned()));
        let mut value = serde_json::from_str(&quote_non_finite(text)).map_err(|error| explain(error.to_string()))?;
        let mut not_finite = Vec::new();
        take_non_finite(&mut value, &mut String::new(), &mut not_finite);
        Ok(Self { value, not_finite })
    }
}

/// Turns `NaN`, `Infinity` and `-Infinity` outside strings into strings that begin with [`SENTINEL`].
fn quote_non_finite(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut in_string) = (text, false);
    while let Some(first) = rest.chars().next() {
        let mut len = first.len_utf8();
        if in_string {
            if first == '\\' {
                len += rest[len..].chars().next().map_or(0, char::len_utf8);
            }
            in_string = first != '"';
        } else {
            in_string = first == '"';
            if let Some(number) = ["NaN", "Infinity", "-Infinity"].into_iter().find(|number| rest.starts_with(number)) {
                out += &format!("\"\\u0000{number}\"");
                rest = &rest[number.len()..];
                continue;
            }
        }
        out += &rest[..len];
        rest = &rest[len..];
    }
    out
}

/// Replaces the strings of [`quote_non_finite`] by null and collects their keys.
fn take_non_finite(value: &mut Value, path: &mut String, found: &mut Vec<(String, String)>) {
    let len = path.len();
    let dot = if path.is_empty() { "" } else { "." };
    match value {
        Value::String(text) if text.starts_with(SENTINEL) => {
            found.push((path.clone(), text[1..].to_owned()));
            *value = Value::Null;
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                *path += &format!("[{index}]");
                take_non_finite(item, path, found);
                path.truncate(len);
            }
        }
        Value::Object(entries) => {
            for (key, entry) in entries {
                *path += &format!("{dot}{key}");
                take_non_finite(entry, path, found);
                path.truncate(len);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Files;

    fn read(bytes: &[u8]) -> Result<Json> {
        Json::read(Files::in_memory([("a.json", bytes)]).find("a.json").unwrap())
    }

    #[test]
    fn numbers_of_python_are_null() {
        let json = read(br#"{"a": NaN, "b": {"c": [1.5, -Infinity]}, "d": "NaN \" Infinity \\", "e": Infinity}"#).unwrap();
        assert_eq!(json.value, serde_json::json!({"a": null, "b": {"c": [1.5, null]}, "d": "NaN \" Infinity \\", "e": null}));
        let found = [("a", "NaN"), ("b.c[1]", "-Infinity"), ("e", "Infinity")].map(|(key, number)| (key.to_owned(), number.to_owned()));
        assert_eq!(json.not_finite, found);
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        assert_eq!(read("\u{feff}{\"a\": 1}\r\n".as_bytes()).unwrap().value["a"], 1);
    }

    #[test]
    fn what_is_not_json_is_named() {
        let utf16: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (bytes, part) in [
            (&utf16[..], "UTF-16"),
            (b"{", "is not JSON: EOF"),
            (b"{\"a\": Nan}", "line 1 column 7"),
            (b"{\xff}", "not UTF-8 from byte 1 on"),
            (b"{\"a\": \"\0\"}", "a zero byte"),
            (b"", "is empty"),
            (b"<!DOCTYPE html>", "is a web page"),
        ] {
            let error = format!("{:#}", read(bytes).unwrap_err());
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
}
