//! Forms over a vocabulary of all bytes, some words and two stop tokens.

use qwen_vl_constrain::{ConstrainError, Constrained, Constrainer, Form, Token};

const WORDS: [&str; 8] = ["true", "false", "\": ", "{\"", "abc", "12", "\u{e9}t", "猫"];
/// Ids of the special tokens: two that end a text, and a tag.
const STOP: u32 = 264;
const OTHER_STOP: u32 = 265;
const TAG: u32 = 266;

fn constrainer() -> Constrainer {
    let bytes: Vec<[u8; 1]> = (0..=255).map(|byte| [byte]).collect();
    let texts = bytes.iter().map(|byte| &byte[..]).chain(WORDS.iter().map(|word| word.as_bytes()));
    let tokens = texts.map(|bytes| Token { bytes, special: false });
    let special = ["<|end|>", "<|stop|>", "<tag>", ""].map(|text| Token { bytes: text.as_bytes(), special: true });
    Constrainer::new(tokens.chain(special), &[STOP, OTHER_STOP]).unwrap()
}

fn allowed(state: &mut Constrained) -> Vec<u32> {
    let words = state.allowed().unwrap();
    (0..words.len() as u32 * 32).filter(|token| words[*token as usize / 32] >> (token % 32) & 1 == 1).collect()
}

/// Takes a text byte by byte. Returns false if a byte of it is not allowed.
fn takes(state: &mut Constrained, text: &str) -> bool {
    text.bytes().all(|byte| allowed(state).contains(&u32::from(byte)) && state.accept(u32::from(byte)).is_ok())
}

/// True if a form has this text: every byte is allowed, and then the stop tokens are.
fn has(form: &Form, text: &str) -> bool {
    let mut state = constrainer().open(form, "").unwrap();
    takes(&mut state, text) && [STOP, OTHER_STOP].iter().all(|stop| allowed(&mut state).contains(stop))
}

fn regex(pattern: &str, flags: &str) -> Form {
    Form::Regex { pattern: pattern.to_owned(), flags: flags.to_owned() }
}

fn schema(schema: &str) -> Form {
    Form::JsonSchema(schema.to_owned())
}

#[test]
fn json_of_a_schema() {
    let form = schema(r#"{"type":"object","properties":{"a":{"type":"integer","minimum":3},"b":{"enum":["x",null]}},"required":["a"]}"#);
    for (text, expected) in [
        (r#"{"a":3}"#, true),
        ("{\n  \"a\": 12,\n  \"b\": null\n}", true),
        (r#"{"a":2}"#, false),
        (r#"{"b":"x"}"#, false),
        (r#"{"a":3,"b":"y"}"#, false),
        (r#"{"a":3"#, false),
    ] {
        assert_eq!(has(&form, text), expected, "{text}");
    }
    for (space, expected) in [("", true), ("  ", true), ("   ", false), ("\n", true), ("\n\n", false), ("\r\n\t\t", true)] {
        assert_eq!(has(&form, &format!("{{{space}\"a\":3}}")), expected, "space is limited: {space:?}");
    }
    assert!(has(&schema("true"), r#"[1, {"é": "猫"}]"#), "any JSON");
    for any in ["true", "{}", r#"{"x-guidance":{"coerce_one_of":true}}"#] {
        assert!(!has(&schema(any), "[1,   2]"), "space is limited: {any}");
    }
    assert!(has(&schema(r#"{"x-guidance":{"whitespace_flexible":true}}"#), "[1,   2]"), "the schema's own setting");
}

#[test]
fn tokens_of_several_bytes() {
    let mut state =
        constrainer().open(&schema(r#"{"type":"object","properties":{"abc":{"type":"boolean"}},"required":["abc"]}"#), "").unwrap();
    for (token, text) in [(259, "{\""), (260, "abc"), (258, "\": "), (256, "true"), (u32::from(b'}'), "}")] {
        assert!(allowed(&mut state).contains(&token), "{text}");
        assert!(!allowed(&mut state).contains(&STOP));
        state.accept(token).unwrap();
    }
    assert_eq!(allowed(&mut state), [STOP, OTHER_STOP], "the text is complete, and nothing can follow it");
    state.accept(OTHER_STOP).unwrap();
    assert_eq!(allowed(&mut state), [STOP, OTHER_STOP]);
}

#[test]
fn regular_expressions_match_the_whole_text() {
    for (pattern, flags, right, wrong) in [
        ("yes|no", "", &["yes", "no"][..], &["ye", "yess", "maybe", "a yes"][..]),
        ("^(?:yes|no)$", "", &["yes", "no"], &["noo", ""]),
        ("^yes$|^no$", "", &["yes", "no"], &["yesno"]),
        ("^(a|b)+$", "i", &["a", "ABab"], &["", "c"]),
        (r"\d{2}-\w", "", &["12-a", "00-_"], &["1-a", "12-é", "\u{0661}\u{0662}-a"]),
        (r"[\d.]+\/猫", "", &["1.5/猫"], &["1.5/"]),
        ("a.b", "", &["axb", "aéb"], &["a\nb", "a\rb", "a\u{2028}b", "ab"]),
        ("a.b", "s", &["a\nb", "a\rb"], &["ab"]),
        (r"\s[\s,]", "", &[" \u{feff}", "\u{a0},"], &[" \u{85}", "ab"]),
        (r"\S[^\S,]", "", &["a ", "\u{85}\u{feff}"], &["\u{feff} ", "a,"]),
        (r"\D\W", "", &["\u{661}é"], &["1é", "aa"]),
        (r"(?<name>[A-Z])\u0041", "gu", &["XA"], &["XB"]),
        (r"\p{Lu}\u{41}", "u", &["ÉA"], &["éA"]),
        ("[[a-c]--[b]]", "v", &["a"], &["b"]),
        (r"[\x41-\x43\-\]]", "", &["B", "-", "]"], &["D"]),
        ("a*?b", "", &["b", "aab"], &["a"]),
        ("", "", &[""], &["a"]),
    ] {
        for text in right {
            assert!(has(&regex(pattern, flags), text), "{pattern}: {text:?}");
        }
        for text in wrong {
            assert!(!has(&regex(pattern, flags), text), "{pattern}: {text:?}");
        }
    }
}

#[test]
fn grammars() {
    let form = Form::Lark("start: item (\", \" item)*\nitem: \"cat\" | \"dog\" | <tag>\n".to_owned());
    assert!(has(&form, "cat, dog") && !has(&form, "cat,") && !has(&form, "cow"));
    let mut state = constrainer().open(&form, "").unwrap();
    assert!(allowed(&mut state).contains(&TAG), "a grammar can name a special token");
    let mut state = constrainer().open(&regex("<tag>", ""), "").unwrap();
    assert!(!allowed(&mut state).contains(&TAG), "its text is not the token");
}

#[test]
fn wrong_forms_are_refused() {
    for (form, problem) in [
        (schema("{"), "the JSON schema cannot be used: it is not JSON"),
        (schema(r#"{"type":"objekt"}"#), "objekt"),
        (schema(r#"{"not":{"type":"string"}}"#), "Unimplemented keys: [\"not\"]"),
        (schema("false"), "the JSON schema cannot be used"),
        (schema(r#"{"type":"integer","minimum":4,"maximum":3}"#), "the JSON schema cannot be used"),
        (schema(r#"{"$ref":"https://example.org/schema.json"}"#), "https://example.org/schema.json"),
        (regex("a(b", ""), "the regular expression cannot be used: regex parse error"),
        (regex("a(?=b)", ""), "look-around"),
        (regex(r"a\bc", ""), r"`\b` at byte 1 is not supported"),
        (regex("a^b", ""), "`^` at byte 1 is not supported"),
        (regex(r"a\b", ""), r"`\b` at byte 1"),
        (regex("[[a]b]", ""), "`[a]` at byte 1 has another meaning in JavaScript"),
        (regex("[a-z&&[^a]]", ""), "has another meaning"),
        (regex("[[:alpha:]]", "v"), "has another meaning"),
        (regex("[]a]", ""), "`[]a]` at byte 0 has another meaning"),
        (regex("[^]a]", ""), "has another meaning"),
        (regex(r"\p{L}", ""), "has another meaning"),
        (regex(r"\u{41}", ""), "has another meaning"),
        (regex(r"[\u{41}]", ""), "has another meaning"),
        (regex(r"\x{41}", "u"), "has another meaning"),
        (regex(r"\U00000041", "u"), "has another meaning"),
        (regex(r"\a", ""), r"`\a` at byte 0 has another meaning"),
        (regex("a*+", ""), "has another meaning"),
        (regex("(?P<n>a)", ""), "has another meaning"),
        (regex("(?i)a", ""), "has another meaning"),
        (regex("(?x: a)", ""), "has another meaning"),
        (regex(r"[^\s\S]", ""), "the regular expression cannot be used: no text has this form"),
        (schema(r##"{"$ref":"#"}"##), "no text has this form"),
        (Form::Lark("start: item\n".to_owned()), "item"),
        (Form::Lark("nothing".to_owned()), "the grammar cannot be used"),
    ] {
        let error = constrainer().open(&form, "").err().unwrap_or_else(|| panic!("{form:?} was accepted")).to_string();
        assert!(error.contains(problem), "{form:?}: {error}");
    }
}

#[test]
fn a_token_that_is_not_allowed_is_refused() {
    let mut state = constrainer().open(&regex("yes", ""), "").unwrap();
    let error = state.accept(u32::from(b'n')).unwrap_err();
    assert!(matches!(error, ConstrainError::Token { token: 110, .. }), "{error}");
}

#[test]
fn a_form_that_was_compiled_begins_anew() {
    let mut constrainer = constrainer();
    let forms: Vec<Form> = (0..20).map(|number| regex(&format!("a{number}b"), "")).collect();
    for form in forms.iter().chain(forms.iter().rev()) {
        let Form::Regex { pattern, .. } = form else { unreachable!() };
        let mut state = constrainer.open(form, "").unwrap();
        assert!(takes(&mut state, pattern));
        assert_eq!(allowed(&mut state), [STOP, OTHER_STOP]);
    }
}

#[test]
fn a_vocabulary_needs_a_stop_token() {
    let tokens = || [Token { bytes: b"a", special: false }, Token { bytes: b"", special: false }];
    for stops in [&[][..], &[1], &[2]] {
        assert!(matches!(Constrainer::new(tokens(), stops), Err(ConstrainError::Vocabulary { tokens: 2, .. })));
    }
    let mut constrainer = Constrainer::new(tokens(), &[7, 0]).unwrap();
    assert!(constrainer.open(&regex("", ""), "").is_ok());
}

#[test]
fn a_prefix_is_part_of_the_text() {
    let form = regex("yes, (cat|dog)", "");
    let mut state = constrainer().open(&form, "yes, c").unwrap();
    assert!(takes(&mut state, "at") && allowed(&mut state) == [STOP, OTHER_STOP]);
    assert_eq!(allowed(&mut constrainer().open(&form, "yes, cat").unwrap()), [STOP, OTHER_STOP]);
    let json = schema(r#"{"type":"object","properties":{"abc":{"type":"boolean"}},"required":["abc"]}"#);
    assert!(takes(&mut constrainer().open(&json, "{\"abc\":").unwrap(), "true}"));
    for prefix in ["no", "yes, cats"] {
        let error = constrainer().open(&form, prefix).err().unwrap().to_string();
        assert!(error.contains(&format!("the prefix {prefix:?} does not fit the regular expression")), "{error}");
    }
}

/// Programs that write schemas add what changes nothing, and patterns next to formats.
#[test]
fn formats_and_names_that_change_nothing_are_left_out() {
    for (form, right, wrong) in [
        (r#"{"type":"object","propertyNames":{"type":"string"},"additionalProperties":{"type":"integer"}}"#, r#"{"a":1}"#, r#"{"a":"b"}"#),
        (r#"{"type":"string","format":"nanoid"}"#, r#""a""#, "1"),
        (r#"{"type":"string","format":"time","pattern":"^[0-9]{2}:[0-9]{2}$"}"#, r#""12:34""#, r#""12:34:56Z""#),
        (r#"{"type":"string","format":"email","pattern":"^(?!\\.)a.*$"}"#, r#""a@b.cc""#, r#""ab""#),
        (r#"{"type":"array","items":{"anyOf":[{"type":"string","format":"jwt"},{"type":"null"}]}}"#, r#"["a",null]"#, "[1]"),
        (
            r#"{"type":"object","properties":{"format":{"const":"jwt"},"propertyNames":{"enum":[1]}},"additionalProperties":false}"#,
            r#"{"format":"jwt","propertyNames":1}"#,
            r#"{"format":"x"}"#,
        ),
    ] {
        assert!(has(&schema(form), right), "{form}: {right}");
        assert!(!has(&schema(form), wrong), "{form}: {wrong}");
    }
    for refused in [
        r#"{"type":"object","propertyNames":{"enum":["a"]}}"#,
        r#"{"type":"string","pattern":"^(?!a)b$"}"#,
        r#"{"type":"string","format":"nanoid","pattern":"^(?!a)b$"}"#,
    ] {
        assert!(constrainer().open(&schema(refused), "").is_err(), "{refused}");
    }
}
