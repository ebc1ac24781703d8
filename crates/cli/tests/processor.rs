//! `qwenvl preprocess` and `qwenvl tokenize`, as a script would use them.

mod common;

use common::{fails, qwenvl, succeeds};
use qwen_vl_processor::{DecodeOptions, Picture};
use qwen_vl_testkit::golden::fixtures;
use serde_json::Value;
use std::ffi::OsString;
use std::path::Path;

fn preprocess(image: &Path, more: &[&OsString]) -> std::process::Output {
    let args = [&OsString::from("preprocess"), &image.as_os_str().to_owned()];
    qwenvl(args.iter().chain(more), b"")
}

fn tokenize(model: &Path, more: &[&str], text: &str) -> std::process::Output {
    let args = ["tokenize", "--model", model.to_str().unwrap()];
    qwenvl(args.iter().chain(more), text.as_bytes())
}

fn decode(path: &Path) -> Picture {
    Picture::decode(&std::fs::read(path).unwrap(), DecodeOptions::ORIGINAL).unwrap()
}

#[test]
fn preprocess_writes_the_picture_that_pillow_makes() {
    let folder = tempfile::tempdir().unwrap();
    let (option, output) = (OsString::from("-o"), folder.path().join("out.png"));
    for name in ["gray16", "gray_alpha", "palette", "tall", "tiny_5x3"] {
        let image = fixtures().join(format!("images/{name}.png"));
        let printed = succeeds(preprocess(&image, &[&option, &output.clone().into()]));
        assert_eq!(printed, "");
        assert_eq!(decode(&output), decode(&fixtures().join(format!("preprocess/{name}.448.png"))), "{name}");
    }
    // The picture as viewers show it.
    for name in ["gray16", "gray_alpha"] {
        let image = fixtures().join(format!("images/{name}.png"));
        let args: Vec<OsString> = ["--pixels", "display"].map(OsString::from).to_vec();
        succeeds(preprocess(&image, &[&args[0], &args[1], &option, &output.clone().into()]));
        let shown = Picture::decode(&std::fs::read(&image).unwrap(), DecodeOptions::DISPLAY).unwrap().resize(448, 448);
        assert_eq!(decode(&output), shown, "{name}");
        assert_ne!(decode(&output), decode(&fixtures().join(format!("preprocess/{name}.448.png"))), "{name}");
    }
    let error = fails(preprocess(Path::new("https://example.org/a.png"), &[&option, &output.clone().into()]));
    assert!(error.contains("is an address, expected a path"), "{error}");
    let image = fixtures().join("images/tall.png");
    succeeds(preprocess(&image, &[&"--size".into(), &"28".into(), &option, &output.clone().into()]));
    assert_eq!((decode(&output).width(), decode(&output).height()), (28, 28));
}

#[test]
fn preprocess_names_an_unreadable_picture() {
    let folder = tempfile::tempdir().unwrap();
    let (option, output) = (OsString::from("-o"), folder.path().join("out.png").into_os_string());
    let png = std::fs::read(fixtures().join("images/tall.png")).unwrap();
    for (name, bytes, expected) in [
        ("missing.png", None, "No such file"),
        ("empty.png", Some(&[][..]), "cannot read the picture: the file is empty"),
        ("text.jpg", Some(b"plain text"), "it is of an unknown format, expected PNG, JPEG, WebP, GIF or BMP"),
        ("cut.png", Some(&png[..png.len() / 2]), "cannot read the picture"),
    ] {
        let path = folder.path().join(name);
        if let Some(bytes) = bytes {
            std::fs::write(&path, bytes).unwrap();
        }
        let error = fails(preprocess(&path, &[&option, &output]));
        assert!(error.contains(&format!("picture `{}`", path.display())) && error.contains(expected), "{name}: {error}");
        assert!(!Path::new(&output).exists(), "{name}");
    }
}

#[test]
fn tokenize_prints_the_ids_of_an_original_checkpoint() {
    let model = fixtures().join("checkpoints/mini-b");
    for path in ["golden/mini-b/text_zh.json", "golden/mini-b/img_vqa.json"] {
        let case: Value = serde_json::from_slice(&std::fs::read(fixtures().join(path)).unwrap()).unwrap();
        let printed = succeeds(tokenize(&model, &[], case["prompt"]["text"].as_str().unwrap()));
        assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), case["input_ids"], "{path}");
    }
}

#[test]
fn chat_content_keeps_typed_control_tokens_as_text() {
    let model = fixtures().join("checkpoints/mini-b");
    let ids = |more: &[&str]| -> Vec<u32> { serde_json::from_str(&succeeds(tokenize(&model, more, "a<|im_end|><ref>\n"))).unwrap() };
    let (all, content) = (ids(&[]), ids(&["--chat-content"]));
    // 768 ranks: `<|im_end|>` is 770, `<ref>` 976.
    assert!(all.contains(&770) && all.contains(&976), "{all:?}");
    assert!(!content.contains(&770) && content.contains(&976), "{content:?}");
}

#[test]
fn tokenize_says_what_is_wrong_and_where() {
    let model = fixtures().join("checkpoints/mini-b");
    let long = format!("你<img>{}</img>", "p".repeat(300));
    for (text, expected) in [
        (long.as_str(), "the path in `<img>` at character 1 takes 300 bytes of UTF-8, expected at most 256"),
        ("x <img>a.png", "`<img>` at character 2 has no `</img>`"),
        ("<img>a<box>b</img>", "special token `<box>` at character 6 is inside `<img>…</img>`"),
    ] {
        let error = fails(tokenize(&model, &[], text));
        assert!(error.contains(expected), "{text}: {error}");
    }
    let error = fails(qwenvl(["tokenize", "--model", model.to_str().unwrap()], b"a\xff"));
    assert!(error.contains("not UTF-8"), "{error}");
}

#[test]
fn tokenize_refuses_folders_that_do_not_fit() {
    let model = fixtures().join("checkpoints/mini-b");
    let folder = tempfile::tempdir().unwrap();
    let error = fails(tokenize(folder.path(), &[], "x"));
    assert!(error.contains("neither `manifest.json` nor a readable `config.json`"), "{error}");

    std::fs::copy(model.join("config.json"), folder.path().join("config.json")).unwrap();
    let error = fails(tokenize(folder.path(), &[], "x"));
    assert!(error.contains("qwen.tiktoken"), "{error}");

    // Cut off at the end of a line: only the id of `<img>` shows it.
    let vocabulary = std::fs::read_to_string(model.join("qwen.tiktoken")).unwrap();
    let cut: Vec<&str> = vocabulary.lines().take(700).collect();
    std::fs::write(folder.path().join("qwen.tiktoken"), cut.join("\n")).unwrap();
    let error = fails(tokenize(folder.path(), &[], "x"));
    assert!(error.contains("it has 700 tokens, which makes 914 the id of `<img>`, expected `visual.image_start_id` = 982"), "{error}");

    std::fs::write(folder.path().join("qwen.tiktoken"), &vocabulary[..1000]).unwrap();
    let error = fails(tokenize(folder.path(), &[], "x"));
    assert!(error.contains("vocabulary (qwen.tiktoken)"), "{error}");
}
