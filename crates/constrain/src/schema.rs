//! JSON schemas in the form that `llguidance` takes.

use serde_json::{Map, Value, json};

/// Space between two parts of JSON: one or two blanks, or a new line with its indentation. Without a limit, a small model can write nothing else.
const SPACE: &str = r"[ \t]{1,2}|\r?\n[ \t]{0,16}";
/// The formats that `llguidance` knows.
const FORMATS: [&str; 10] = ["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"];
/// Keywords whose value is a schema, a list of schemas, or schemas by name.
const OF_SCHEMA: [&str; 10] = [
    "additionalProperties",
    "contains",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];
const OF_LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
const OF_NAMED: [&str; 5] = ["$defs", "definitions", "dependentSchemas", "patternProperties", "properties"];

/// Parses a schema, leaves out what changes nothing, and limits the space in the JSON unless the schema has a setting for it.
pub(crate) fn parse(schema: &str) -> Result<Value, serde_json::Error> {
    let mut schema = serde_json::from_str(schema)?;
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    simplify(&mut schema);
    if let Value::Object(keys) = &mut schema
        && let Value::Object(settings) = keys.entry("x-guidance").or_insert_with(|| json!({}))
        && !["whitespace_flexible", "whitespace_pattern"].iter().any(|setting| settings.contains_key(*setting))
    {
        settings.insert("whitespace_pattern".to_owned(), SPACE.into());
    }
    Ok(schema)
}

/// Leaves out keywords that change nothing: names of properties that can be any string, and formats, which are annotations, where
/// `llguidance` does not know them or a pattern says more. Programs that write schemas add both.
fn simplify(schema: &mut Value) {
    let Value::Object(keys) = schema else { return };
    if keys.get("propertyNames").is_some_and(allows_any_string) {
        keys.remove("propertyNames");
    }
    simplify_format(keys);
    for (name, value) in keys {
        match value {
            Value::Array(schemas) if OF_LIST.contains(&name.as_str()) => schemas.iter_mut().for_each(simplify),
            Value::Object(schemas) if OF_NAMED.contains(&name.as_str()) => schemas.values_mut().for_each(simplify),
            value if OF_SCHEMA.contains(&name.as_str()) => simplify(value),
            _ => {}
        }
    }
}

/// Keeps a format or a pattern. A pattern with look-around, which `llguidance` does not support, is left to a format that it knows.
fn simplify_format(keys: &mut Map<String, Value>) {
    let Some(Value::String(format)) = keys.get("format") else { return };
    let is_known = FORMATS.contains(&format.as_str());
    let pattern = keys.get("pattern").and_then(Value::as_str);
    let looks_around = pattern.is_some_and(|pattern| ["(?=", "(?!", "(?<=", "(?<!"].iter().any(|form| pattern.contains(form)));
    if is_known && looks_around {
        keys.remove("pattern");
    } else if !is_known || pattern.is_some() {
        keys.remove("format");
    }
}

fn allows_any_string(schema: &Value) -> bool {
    match schema {
        Value::Bool(allows) => *allows,
        Value::Object(keys) => keys.iter().all(|(name, value)| name == "type" && value == "string"),
        _ => false,
    }
}
