//! `qwenvl ask`, held to its contract by the golden cases of the small checkpoints. Needs a GPU adapter; software is enough.

mod common;

use common::{fails, qwenvl, succeeds};
use quantize::{Options, SchemeName};
use qwen_vl_testkit::golden::fixtures;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::path::Path;

/// The converted `mini-b`, in f32, in a folder that is deleted in the end.
fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = fixtures().join("checkpoints/mini-b");
    quantize::convert(&Options::new(source, folder.path().join("web")).scheme(SchemeName::F32), &mut |_| ()).unwrap();
    folder
}

fn ask(model: &tempfile::TempDir, more: &[&str]) -> std::process::Output {
    let (web, root) = (model.path().join("web"), fixtures());
    let args = ["ask", "--model", web.to_str().unwrap(), "--root", root.to_str().unwrap()];
    qwenvl(args.iter().chain(more), b"")
}

fn ask_json(model: &tempfile::TempDir, more: &[&str]) -> Value {
    serde_json::from_str(&succeeds(ask(model, &[more, &["--json"]].concat()))).unwrap()
}

fn golden(name: &str) -> (String, Value) {
    let path = fixtures().join(format!("golden/mini-b/{name}.json"));
    let case = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    (path.to_str().unwrap().to_owned(), case)
}

#[test]
fn cases_give_the_tokens_of_the_original() {
    let model = model();
    // The runtime's tests go through all cases; `chat_stop` has a stop token on its way.
    for name in ["text_zh", "chat_stop"] {
        let (path, case) = golden(name);
        let answer = ask_json(&model, &["--case", &path]);
        assert_eq!(answer["tokens"], case["decode"]["tokens"], "{name}");
        assert_eq!(answer["prompt_ids"], case["input_ids"], "{name}");
        assert_eq!(answer["finish_reason"], "length", "{name}");
    }

    // The checkpoint's defaults change other answers, and no case.
    let file = model.path().join("web/manifest.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for (key, value) in [("repetition_penalty", json!(3.0)), ("presence_penalty", json!(2.0)), ("min_new_tokens", json!(24))] {
        manifest["generation"][key] = value;
    }
    std::fs::write(&file, manifest.to_string()).unwrap();
    for name in ["text_zh", "chat_stop"] {
        let (path, case) = golden(name);
        assert_eq!(ask_json(&model, &["--case", &path])["tokens"], case["decode"]["tokens"], "{name}");
    }
    let (_, case) = golden("text_zh");
    let steps = case["decode"]["tokens"].as_array().unwrap().len().to_string();
    let text = case["prompt"]["text"].as_str().unwrap();
    let answer = ask_json(&model, &["--prompt", text, "--greedy", "--max-new-tokens", &steps]);
    assert_ne!(answer["tokens"], case["decode"]["tokens"]);
}

/// The trained model's answer in halves, and with 8-bit activations, is the one without rounding.
#[test]
fn kernels_can_be_chosen() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let (model, picture) = (models.join("nano"), models.join("sample/images/00006.png"));
    let answer = |kernels: &str| -> Value {
        let args = ["ask", "--model", model.to_str().unwrap(), "--image", picture.to_str().unwrap(), "--kernels", kernels];
        let more = ["--prompt", "What is in the picture? Answer:", "--greedy", "--json"];
        serde_json::from_str(&succeeds(qwenvl(args.iter().chain(&more), b""))).unwrap()
    };
    let exact = answer("cpu");
    for (kernels, shown) in [("subgroups", "subgroups"), ("f16", "in halves"), ("packed", "8-bit activations")] {
        let answer = answer(kernels);
        assert_eq!(answer["text"], exact["text"], "{kernels}");
        let found = answer["adapter"]["kernels"].as_str().unwrap();
        assert!(found.contains(shown), "{kernels}: {found}");
    }
}

#[test]
fn a_prompt_and_a_chat_are_the_cases_written_out() {
    let model = model();
    let (_, case) = golden("img_vqa");
    let steps = case["decode"]["tokens"].as_array().unwrap().len().to_string();
    let options = ["--greedy", "--max-new-tokens", &steps];
    let answer = ask_json(&model, &[&["--prompt", case["prompt"]["text"].as_str().unwrap()], &options[..]].concat());
    assert_eq!(answer["prompt_ids"], case["input_ids"]);
    assert!(!answer["adapter"]["name"].as_str().unwrap().is_empty());
    assert!(answer["timings"]["prefill_ms"].as_f64().unwrap() > 0.0);

    // The same picture, given by an option.
    let text = case["prompt"]["text"].as_str().unwrap();
    let (tag, text) = text.split_once("</img>").unwrap();
    let image = tag.strip_prefix("<img>").unwrap();
    let by_option = ask_json(&model, &[&["--image", image, "--prompt", text], &options[..]].concat());
    assert_eq!(by_option["prompt_ids"], case["input_ids"]);
    assert_eq!(by_option["tokens"], answer["tokens"]);

    // `<|im_end|>` wins at a known step, and ends the answer there.
    let (_, case) = golden("chat_stop");
    let folder = tempfile::tempdir().unwrap();
    let chat = folder.path().join("chat.json");
    let prompt = &case["prompt"];
    let file = json!({"system": prompt["system"], "history": prompt["history"], "query": prompt["query"]});
    std::fs::write(&chat, file.to_string()).unwrap();
    let answer = ask_json(&model, &[&["--chat", chat.to_str().unwrap()], &options[..]].concat());
    assert_eq!(answer["prompt_ids"], case["input_ids"]);
    assert_eq!(answer["finish_reason"], "stop");
    let tokens = answer["tokens"].as_array().unwrap();
    assert_eq!(tokens[..], case["decode"]["tokens"].as_array().unwrap()[..tokens.len()]);
    assert_eq!(answer["text"], case["chat_response"].as_str().unwrap().trim());
}

#[test]
fn the_dump_has_the_stages_of_the_contract() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dump.safetensors");
    let (path, case) = golden("chat_two_images");
    let answer = ask_json(&model, &["--case", &path, "--dump", file.to_str().unwrap()]);
    assert_eq!(answer["tokens"], case["decode"]["tokens"]);
    let bytes = std::fs::read(&file).unwrap();
    let dump = SafeTensors::deserialize(&bytes).unwrap();
    let (prompt, steps) = (case["input_ids"].as_array().unwrap().len(), case["decode"]["tokens"].as_array().unwrap().len());
    let expected = [
        ("decode_logits", vec![steps, 1024]),
        ("image_features.0", vec![256, 256]),
        ("image_features.1", vec![256, 256]),
        ("logits", vec![prompt, 1024]),
        ("pixels.0", vec![3, 448, 448]),
        ("pixels.1", vec![3, 448, 448]),
    ];
    let mut found: Vec<_> = dump.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec())).collect();
    found.sort();
    assert_eq!(found, expected.map(|(name, shape)| (name.to_owned(), shape)));
    // Step 0 of decoding is the last position of the prompt.
    let rows = |name| dump.tensor(name).unwrap().data().chunks_exact(4096).map(<[u8]>::to_vec).collect::<Vec<_>>();
    assert_eq!(rows("logits").last(), rows("decode_logits").first());
}

#[test]
fn dropped_turns_are_reported() {
    let model = model();
    let path = model.path().join("web/manifest.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["generation"]["max_window_size"] = json!(60);
    std::fs::write(&path, manifest.to_string()).unwrap();
    let chat = model.path().join("chat.json");
    let old = "old ".repeat(40);
    std::fs::write(&chat, json!({"history": [[old, "x"], [old, "y"], ["new", "z"]], "query": "q"}).to_string()).unwrap();
    let output = ask(&model, &["--chat", chat.to_str().unwrap(), "--greedy", "--max-new-tokens", "2"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.contains("2 of the oldest turns did not fit"), "{errors}");
}

/// The checkpoint allows longer answers than any GPU has memory for: the context holds no more than its `max_length`.
#[test]
fn the_context_is_no_longer_than_the_checkpoint_allows() {
    let model = model();
    let path = model.path().join("web/manifest.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let prompt = ask_json(&model, &["--prompt", "A", "--greedy", "--max-new-tokens", "1"])["prompt_ids"].as_array().unwrap().len();
    manifest["generation"]["max_new_tokens"] = json!(1_000_000_000);
    manifest["generation"]["max_length"] = json!(prompt + 2);
    std::fs::write(&path, manifest.to_string()).unwrap();
    let answer = ask_json(&model, &["--prompt", "A", "--greedy"]);
    assert_eq!(answer["tokens"].as_array().unwrap().len(), 2, "{answer}");
}

#[test]
fn text_is_streamed_without_json() {
    let model = model();
    let options = ["--prompt", "Hello", "--greedy", "--max-new-tokens", "4"];
    let answer = ask_json(&model, &options);
    let printed = succeeds(ask(&model, &options));
    assert_eq!(printed.trim(), answer["text"].as_str().unwrap());
}

#[test]
fn answers_are_held_to_a_form() {
    let model = model();
    let file = model.path().join("form");
    let answer = |content: &str, option: &str| {
        std::fs::write(&file, content).unwrap();
        let value = if option == "--regex" { content } else { file.to_str().unwrap() };
        let answer = ask_json(&model, &["--prompt", "A", "--greedy", "--max-new-tokens", "60", option, value]);
        assert_eq!(answer["finish_reason"], "stop", "{answer}");
        answer["text"].as_str().unwrap().to_owned()
    };
    let text = answer(r#"{"type":"array","items":{"enum":["cat","猫"]},"minItems":2,"maxItems":2}"#, "--json-schema");
    let items: Vec<String> = serde_json::from_str(&text).unwrap();
    assert!(items.len() == 2 && items.iter().all(|item| item == "cat" || item == "猫"), "{text}");
    let text = answer("[0-9]{3}-[a-c]", "--regex");
    assert!(text.len() == 5 && text[..3].parse::<u32>().is_ok() && text[3..].starts_with('-'), "{text}");
    let text = answer("start: \"yes\" | \"no\"\n", "--grammar");
    assert!(text == "yes" || text == "no", "{text}");
}

#[test]
fn bad_questions_are_named_before_the_weights_are_loaded() {
    let model = model();
    // A shard is missing, so every other error comes from before loading.
    std::fs::remove_file(model.path().join("web/shard-00000.safetensors")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let long = format!("<img>{}</img>", "p".repeat(300));
    let (not_json, typo) = (file("a.json", "{"), file("b.json", r#"{"query": "x", "histroy": []}"#));
    let broken = file("broken.png", "no picture");
    // A byte order mark before, and `<img>` that a person typed.
    let typed = file("typed.json", "\u{feff}{\"query\": [{\"text\": \"what does <img> mean?\"}]}");
    let bad_part = file("bad-part.json", r#"{"query": [{"txt": "x"}]}"#);
    for (args, expected) in [
        (&["--prompt", &long][..], "takes 300 bytes of UTF-8, expected at most 256"),
        (&["--prompt", "<img>x"], "`<img>` at character 0 has no `</img>`"),
        (&["--prompt", "<img>images/none.png</img>"], "images/none.png"),
        (&["--prompt", "x", "--image", &broken], "broken.png`: cannot read the picture"),
        (&["--chat", &not_json], "a.json"),
        (&["--chat", &typo], "unknown field `histroy`"),
        (&["--case", "nowhere.json"], "nowhere.json"),
        (&["--prompt", "x"], "shard-00000.safetensors"),
        (&["--prompt", "x", "--chat", "y"], "cannot be used with"),
        (&["--prompt", "x", "--top-p", "1.5"], "expected a number from 0 to 1"),
        (&["--prompt", "x", "--max-new-tokens", "0"], "expected a whole number from 1"),
        (&["--prompt", "x", "--max-new-tokens", "-1"], "expected a whole number from 1"),
        (&["--prompt", "x", "--max-new-tokens", "18446744073709551615"], "expected a whole number from 1"),
        (&["--prompt", "x", "--temperature", "NaN"], "expected a number of at least 0"),
        (&["--prompt", "x", "--temperature", "-1"], "expected a number of at least 0"),
        (&["--prompt", "x", "--top-p", "-0.1"], "expected a number from 0 to 1"),
        (&["--prompt", "x", "--top-p", "NaN"], "expected a number from 0 to 1"),
        (&["--prompt", "x", "--top-k", "-1"], "expected a whole number from 0 to"),
        (&["--prompt", "x", "--pixels", "raw"], "possible values: display, original"),
        (&["--prompt", "x", "--image", "https://example.org/a.png"], "is an address, expected a path: qwenvl fetches nothing; download"),
        (&["--prompt", "<img>http://example.org/a.png</img>"], "is an address, expected a path"),
        (&["--chat", &typed], "shard-00000.safetensors"),
        (&["--chat", &bad_part], "bad-part.json"),
        (&["--prompt", "x", "--json-schema", &not_json], "the JSON schema cannot be used: it is not JSON"),
        (&["--prompt", "x", "--json-schema", "nowhere.json"], "nowhere.json"),
        (&["--prompt", "x", "--regex", "a(b"], "the regular expression cannot be used"),
        (&["--prompt", "x", "--grammar", &bad_part], "the grammar cannot be used"),
        (&["--prompt", "x", "--regex", "a", "--json-schema", &not_json], "cannot be used with"),
        (&["--prompt", "x", "--kernels", "fast"], "unknown kernel set `fast`, expected one of plain, cpu, subgroups, f16, packed"),
        (&["--prompt", "x", "--precision", "f8"], "unknown precision `f8`, expected f32, f16 or q8"),
    ] {
        let error = fails(ask(&model, args));
        // `Caused by` is on separate lines.
        assert!(error.replace("\n\nCaused by:\n    ", ": ").contains(expected), "{args:?}: {error}");
    }
}

#[test]
fn damaged_checkpoints_are_named() {
    let model = model();
    let web = model.path().join("web");
    let shard = web.join("shard-00000.safetensors");
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() - 7]).unwrap();
    let error = fails(ask(&model, &["--prompt", "x"]));
    assert!(error.contains("shard `shard-00000.safetensors` has"), "{error}");
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(&shard, &flipped).unwrap();
    let error = fails(ask(&model, &["--prompt", "x"]));
    assert!(error.contains("shard `shard-00000.safetensors` has SHA-256"), "{error}");
    std::fs::write(&shard, &bytes).unwrap();

    let vocabulary = web.join("qwen.tiktoken");
    let text = std::fs::read(&vocabulary).unwrap();
    std::fs::write(&vocabulary, &text[..text.len() - 20]).unwrap();
    let error = fails(ask(&model, &["--prompt", "x"]));
    assert!(error.contains("qwen.tiktoken") && error.contains("the manifest says"), "{error}");

    let error = fails(qwenvl(["ask", "--prompt", "x", "--model", Path::new("/nonexistent").to_str().unwrap()], b""));
    assert!(error.contains("is not a web checkpoint"), "{error}");
}
