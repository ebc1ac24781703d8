//! Prompts and the list format against the original's.

mod common;

use common::{data_folders, read, read_json};
use qwen_vl_processor::{
    Chat, ImageSpan, KeepSpecials, ListItem, ListSegment, ProcessorError, Prompt, Tokenizer, from_list_format, to_list_format,
};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

fn tokenizer(path: &Path) -> Tokenizer {
    Tokenizer::from_tiktoken(&read(path)).unwrap()
}

#[test]
fn chat_prompts_are_the_original_s() {
    #[derive(Deserialize)]
    struct Case {
        #[serde(flatten)]
        chat: Chat,
        raw_text: String,
        ids: Vec<u32>,
    }
    for folder in data_folders() {
        let tokenizer = tokenizer(&folder.join("tokenizer/qwen.tiktoken"));
        let file: Value = read_json(&folder.join("tokenizer/chat_context.json"));
        let cases: Vec<Case> = serde_json::from_value(file["cases"].clone()).unwrap();
        assert!(cases.len() >= 4);
        for case in cases {
            let prompt = Prompt::chat(&tokenizer, &case.chat).unwrap();
            assert_eq!(prompt.ids, case.ids, "{:?}", case.chat);
            assert_eq!(tokenizer.decode(&prompt.ids, KeepSpecials::All), case.raw_text);
        }
    }
}

#[test]
fn prompts_of_the_golden_cases() {
    #[derive(Deserialize)]
    struct Case {
        config: String,
        kind: String,
        prompt: Value,
        images: Vec<ImageSpan>,
        input_ids: Vec<u32>,
    }
    let mut count = 0;
    for folder in data_folders() {
        let models = std::fs::read_dir(folder.join("golden")).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        for model in models {
            for path in std::fs::read_dir(model).unwrap().map(|entry| entry.unwrap().path()) {
                if path.extension().is_none_or(|extension| extension != "json") || path.ends_with("summary.json") {
                    continue;
                }
                let case: Case = read_json(&path);
                let tokenizer = tokenizer(&folder.join("checkpoints").join(&case.config).join("qwen.tiktoken"));
                let prompt = match case.kind.as_str() {
                    "raw" => Prompt::raw(&tokenizer, case.prompt["text"].as_str().unwrap()).unwrap(),
                    "chatml" => Prompt::chat(&tokenizer, &serde_json::from_value(case.prompt).unwrap()).unwrap(),
                    // A text cut to a number of tokens.
                    "ids" => Prompt::from_ids(&tokenizer, case.input_ids.clone()).unwrap(),
                    kind => panic!("{}: kind {kind}", path.display()),
                };
                assert_eq!(prompt.ids, case.input_ids, "{}", path.display());
                assert_eq!(prompt.images, case.images, "{}", path.display());
                count += 1;
            }
        }
    }
    assert!(count >= 10, "{count} cases");
}

#[test]
fn old_turns_are_dropped_at_the_limit_exactly() {
    let tokenizer = tokenizer(&data_folders()[0].join("tokenizer/qwen.tiktoken"));
    let mut chat = Chat { history: vec![("a".into(), "b".into())], query: "q".into(), ..Chat::default() };
    let without = Prompt::chat(&tokenizer, &Chat { history: vec![], ..chat.clone() }).unwrap().ids.len();
    let with = Prompt::chat(&tokenizer, &chat).unwrap().ids.len();
    // System and turn: everything but the question, which is as long as `\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n`.
    let system = Prompt::raw(&tokenizer, "<|im_start|>system\nYou are a helpful assistant.<|im_end|>").unwrap().ids.len();
    let size = system + with - without;
    chat.max_window_size = size + 1;
    assert_eq!(Prompt::chat(&tokenizer, &chat).unwrap().ids.len(), with);
    chat.max_window_size = size;
    assert_eq!(Prompt::chat(&tokenizer, &chat).unwrap().ids.len(), without);
}

#[test]
fn image_spans_that_are_none_are_refused() {
    let tokenizer = tokenizer(&data_folders()[0].join("tokenizer/qwen.tiktoken")).with_queries(4);
    let special = tokenizer.special();
    let span = [special.img_start, 97, 98, special.imgpad, special.imgpad, special.img_end];
    let prompt = Prompt::from_ids(&tokenizer, [&[1], span.as_slice(), &[2], &span].concat()).unwrap();
    let places: Vec<_> = prompt.images.iter().map(|image| (image.path.as_str(), image.start, image.features_from, image.end)).collect();
    assert_eq!(places, [("ab", 1, 2, 6), ("ab", 8, 9, 13)]);
    for bad in [&span[..5], &span[..1], &[special.img_start, 97, 98, 300, special.imgpad, special.img_end]] {
        let error = Prompt::from_ids(&tokenizer, bad.to_vec()).unwrap_err();
        assert!(matches!(error, ProcessorError::ImageSpan { at: 0, expected: 5 }), "{error}");
    }
}

#[test]
fn writes_and_reads_the_list_format() {
    let items = [
        ListItem::Image { image: "a.png".into() },
        ListItem::Text { text: "x".into() },
        ListItem::Region { reference: "dog".into(), boxes: vec![[1, 2, 3, 4], [5, 6, 7, 8]] },
    ];
    let text = from_list_format(&items, 3);
    assert_eq!(text, "Picture 3: <img>a.png</img>\nx<ref>dog</ref><box>(1,2),(3,4)</box><box>(5,6),(7,8)</box>");
    let segments = to_list_format(&(text + "<quad>q</quad></ref><ref>open"));
    let expected = [
        ListSegment::Text("Picture 3: ".into()),
        ListSegment::Image("a.png".into()),
        ListSegment::Text("\nx".into()),
        ListSegment::Ref("dog".into()),
        ListSegment::Box("(1,2),(3,4)".into()),
        ListSegment::Box("(5,6),(7,8)".into()),
        ListSegment::Quad("q".into()),
        ListSegment::Text("</ref><ref>open".into()),
    ];
    assert_eq!(segments, expected);
}

#[test]
fn list_format_is_the_original_s() {
    for folder in data_folders() {
        // Not part of the small set.
        let path = folder.join("tokenizer/list_format.json");
        if !path.exists() {
            continue;
        }
        let file: Value = read_json(&path);
        for case in file["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            match case.get("boxes") {
                None => {
                    let items: Vec<ListItem> = serde_json::from_value(case["items"].clone()).unwrap();
                    assert_eq!(from_list_format(&items, 1), text);
                }
                Some(boxes) => {
                    assert_eq!(serde_json::to_value(to_list_format(text)).unwrap(), case["items"], "{text}");
                    let size = qwen_vl_processor::PictureSize { width: 1000, height: 1000 };
                    let objects = qwen_vl_processor::parse_grounding(text, &[size]).objects;
                    let found: Vec<Value> =
                        objects.iter().map(|object| serde_json::json!({"box": object.norm, "ref": object.reference})).collect();
                    assert_eq!(Value::from(found), *boxes, "{text}");
                }
            }
        }
    }
}
