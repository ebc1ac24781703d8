//! JSON: a value is changed, moved, doubled or left out, and the text stays JSON.

use super::number;
use fastrand::Rng;
use serde_json::{Map, Value};

/// Mutates a JSON text.
pub(crate) fn mutate(input: &mut Vec<u8>, random: &mut Rng) -> bool {
    let Ok(mut root) = serde_json::from_slice::<Value>(input) else { return false };
    for _ in 0..=random.u8(0..3) {
        value(&mut root, random);
    }
    *input = root.to_string().into_bytes();
    true
}

/// Mutates the lines of a file of JSON lines.
pub(crate) fn mutate_lines(input: &mut Vec<u8>, random: &mut Rng) -> bool {
    let mut lines: Vec<Vec<u8>> = input.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let at = random.usize(..lines.len());
    match random.u8(0..6) {
        0 => lines.insert(at, lines[at].clone()),
        1 => drop(lines.remove(at)),
        _ if !mutate(&mut lines[at], random) => return false,
        _ => {}
    }
    *input = lines.join(&b'\n');
    true
}

/// Changes one value somewhere in a tree.
pub(crate) fn value(root: &mut Value, random: &mut Rng) {
    let nodes = count(root);
    // Often a part of another place is wanted: taken before the tree is borrowed.
    let other = nth(root, &mut random.usize(..nodes)).cloned().unwrap_or(Value::Null);
    let other_key = key(root, random);
    let Some(node) = nth(root, &mut random.usize(..nodes)) else { return };
    match node {
        _ if random.u8(0..8) == 0 => *node = other,
        _ if random.u8(0..12) == 0 => *node = scalar(random),
        Value::Array(items) => list(items, other, random),
        Value::Object(entries) => object(entries, other, other_key, random),
        Value::Number(found) => {
            *node = match (found.as_u64(), found.as_i64(), found.as_f64()) {
                (Some(old), ..) if random.u8(0..4) > 0 => number(old, random).into(),
                (_, Some(old), _) => old.wrapping_neg().into(),
                (.., Some(old)) => (old * [-1.0, 0.5, 2.0, 1e-3, 1e30, 0.0][random.usize(..6)]).into(),
                _ => scalar(random),
            };
        }
        Value::String(text) => string(text, random),
        Value::Bool(flag) => *flag = !*flag,
        Value::Null => *node = scalar(random),
    }
}

fn list(items: &mut Vec<Value>, other: Value, random: &mut Rng) {
    let at = random.usize(..=items.len());
    let last = items.len().saturating_sub(1);
    match random.u8(0..6) {
        0 => items.insert(at, other),
        1 if !items.is_empty() => drop(items.remove(at.min(last))),
        2 if !items.is_empty() => items.insert(at, items[at.min(last)].clone()),
        3 if !items.is_empty() => items.swap(at.min(last), 0),
        4 => items.truncate(at),
        _ => items.insert(at, scalar(random)),
    }
}

fn object(entries: &mut Map<String, Value>, other: Value, other_key: Option<String>, random: &mut Rng) {
    let own = entries.keys().nth(random.usize(..entries.len().max(1))).cloned();
    match (random.u8(0..5), own, other_key) {
        (0, Some(own), _) => drop(entries.remove(&own)),
        (1, Some(own), Some(key)) => {
            let value = entries.remove(&own).unwrap_or_default();
            entries.insert(key, value);
        }
        (2, _, Some(key)) => drop(entries.insert(key, other)),
        (3, Some(mut own), _) => {
            let value = entries[&own].clone();
            string(&mut own, random);
            entries.insert(own, value);
        }
        (_, Some(own), _) => drop(entries.insert(own, other)),
        (_, None, key) => drop(entries.insert(key.unwrap_or_default(), other)),
    }
}

/// Changes a text, which stays UTF-8.
pub(crate) fn string(text: &mut String, random: &mut Rng) {
    const PARTS: [&str; 12] = ["", "a", "0", " ", "\n", "é", "字", "😀", "\u{0}", "../", "\u{feff}", "\u{301}"];
    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let mut place = || places[random.usize(..places.len())];
    let (a, b) = (place(), place());
    let (from, to) = (a.min(b), a.max(b));
    match random.u8(0..6) {
        0 => text.insert_str(from, PARTS[random.usize(..PARTS.len())]),
        1 => drop(text.drain(from..to)),
        2 => {
            let doubled = text[from..to].to_owned();
            text.insert_str(from, &doubled);
        }
        3 => text.truncate(from),
        4 => {
            let mut bytes = std::mem::take(text).into_bytes();
            super::bytes(&mut bytes, random);
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
        _ => *text = text.replacen(|c: char| c.is_ascii_digit(), PARTS[random.usize(..PARTS.len())], 1),
    }
}

fn scalar(random: &mut Rng) -> Value {
    match random.u8(0..8) {
        0 => Value::Null,
        1 => random.bool().into(),
        2 => number(1, random).into(),
        3 => (-(random.u16(..) as i64)).into(),
        4 => [0.5, -0.5, 1e308, -1e308, 5e-324, 1e-7][random.usize(..6)].into(),
        5 => "".into(),
        6 => Value::Array(Vec::new()),
        _ => Value::Object(Map::new()),
    }
}

/// Returns the number of values in a tree.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(entries) => entries.values().map(count).sum(),
        _ => 0,
    }
}

/// Returns the value of this number, in the order of the text.
fn nth<'a>(value: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| nth(item, left)),
        Value::Object(entries) => entries.values_mut().find_map(|entry| nth(entry, left)),
        _ => None,
    }
}

/// Returns a key of one of the objects in a tree.
fn key(root: &Value, random: &mut Rng) -> Option<String> {
    fn keys<'a>(value: &'a Value, found: &mut Vec<&'a String>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
            Value::Object(entries) => entries.iter().for_each(|(key, entry)| {
                found.push(key);
                keys(entry, found);
            }),
            _ => {}
        }
    }
    let mut found = Vec::new();
    keys(root, &mut found);
    (!found.is_empty()).then(|| found[random.usize(..found.len())].clone())
}
