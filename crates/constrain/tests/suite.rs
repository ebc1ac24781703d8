//! The public JSON Schema Test Suite: no form has an instance that its schema refuses.

use qwen_vl_constrain::{Constrainer, Form, Token};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Case {
    name: String,
    schema: Box<RawValue>,
    valid: Vec<serde_json::Value>,
    invalid: Vec<serde_json::Value>,
}

const STOP: u32 = 256;
/// Instances that a form has and a validator refuses, by file. `llguidance` reads the patterns of a schema as Rust does, where U+FEFF is not a
/// space, and checks the characters of formats: not leap years, the hours that can have leap seconds, and the codes in host names.
const KNOWN: [(&str, usize); 5] = [
    ("optional/ecmascript-regex", 1),
    ("optional/format/date", 3),
    ("optional/format/date-time", 2),
    ("optional/format/hostname", 24),
    ("optional/format/time", 10),
];

/// Formats that a text is held to.
const CHECKED: [&str; 10] = ["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"];

#[test]
fn no_form_has_an_instance_that_its_schema_refuses() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/json-schema/draft2020-12.json");
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let bytes: Vec<[u8; 1]> = (0..=255).map(|byte| [byte]).collect();
    let texts = bytes.iter().map(|byte| Token { bytes: byte, special: false });
    let mut constrainer = Constrainer::new(texts.chain([Token { bytes: b"<|end|>", special: true }]), &[STOP]).unwrap();
    let (mut compiled, mut missing, mut valid) = (0, 0, 0);
    let mut wrong: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for case in &cases {
        let form = Form::JsonSchema(case.schema.get().to_owned());
        let Ok(_) = constrainer.open(&form, "") else { continue };
        compiled += 1;
        let mut has = |instance: &serde_json::Value| {
            let mut text = constrainer.open(&form, "").unwrap();
            let mut tokens = instance.to_string().into_bytes().into_iter().map(u32::from).chain([STOP]);
            tokens.all(|token| {
                let allowed = text.allowed().unwrap();
                allowed[token as usize / 32] >> (token % 32) & 1 == 1 && text.accept(token).is_ok()
            })
        };
        valid += case.valid.len();
        missing += case.valid.iter().filter(|instance| !has(instance)).count();
        let (file, _) = case.name.split_once(": ").unwrap();
        // Other formats are annotations.
        if file.strip_prefix("optional/format/").is_some_and(|format| !CHECKED.contains(&format)) {
            continue;
        }
        for instance in case.invalid.iter().filter(|instance| has(instance)) {
            wrong.entry(file).or_default().push(format!("{}: {instance}", case.name));
        }
    }
    println!("{compiled} of {} schemas compile; {missing} of {valid} valid instances are not in their forms", cases.len());
    let counts: Vec<_> = wrong.iter().map(|(file, instances)| (*file, instances.len())).collect();
    assert_eq!(counts, KNOWN, "{wrong:#?}");
    assert!(compiled >= 200, "{compiled}");
}
