//! The data files of the original's `eval_mm`.

use qwen_vl_eval::{EvalError, Item, Task, Truth, few_shot_prompts, read_items};
use qwen_vl_processor::{Content, Family, Part};
use serde_json::{Value, json};

const LATER: [Family; 3] = [Family::Qwen2Vl, Family::Qwen25Vl, Family::Qwen3Vl];

fn read(task: Task, text: &str) -> Vec<Item> {
    read_items(task, "data", text, None).unwrap()
}

fn answers(list: &[&str]) -> Truth {
    Truth::Answers(list.iter().map(|answer| (*answer).to_owned()).collect())
}

/// The question for the chat template of the 2023 model.
fn query(item: &Item) -> String {
    match item.chat(Family::QwenVl).1 {
        Content::Tagged(text) => text,
        Content::Parts(parts) => panic!("{parts:?}"),
    }
}

/// The question for the chat template of a later generation, as JSON.
fn parts(item: &Item, family: Family) -> Value {
    json!(item.chat(family).1)
}

#[test]
fn questions() {
    let text = "{\"image\": \"data/a.jpg\", \"question\": \"What is it?\", \"question_id\": 7, \"answer\": \"a cat\"}\n\n\
        {\"image\": \"b.png\", \"question\": \"Where?\", \"question_id\": \"x\", \"answer\": [\"left\", \"on the left\"]}\n\
        {\"image\": \"c.png\", \"question\": \"Why?\"}\n";
    let items = read(Task::Exact, text);
    assert_eq!(items[0].text(), "<img>1.png</img>What is it? Answer:");
    assert_eq!(query(&items[0]), "Picture 1: <img>1.png</img>\nWhat is it?");
    assert_eq!(items[0].pictures[0].path, "data/a.jpg");
    assert_eq!(items.iter().map(|item| item.id.as_str()).collect::<Vec<_>>(), ["7", "x", "3"]);
    assert_eq!(items[0].truth, answers(&["a cat"]));
    assert_eq!(items[1].truth, answers(&["left", "on the left"]));
    assert_eq!(items[2].truth, Truth::Unknown);
}

#[test]
fn annotations_of_vqa_and_documents() {
    let text = "{\"image\": \"a\", \"question\": \"?\", \"question_id\": 7, \"answer\": \"other\"}";
    let vqa = "{\"annotations\": [{\"question_id\": 7, \"answers\": [{\"answer\": \"cat\", \"answer_id\": 1}, {\"answer\": \"dog\"}]}]}";
    let documents = "{\"data\": [{\"questionId\": 7, \"answers\": [\"cat\", \"dog\"]}]}";
    for file in [vqa, documents] {
        let items = read_items(Task::Vqa, "data", text, Some(("truth", file))).unwrap();
        assert_eq!(items[0].truth, answers(&["cat", "dog"]));
    }
    let other = vqa.replace('7', "8");
    let error = read_items(Task::Vqa, "data", text, Some(("truth", &other))).unwrap_err();
    assert!(matches!(&error, EvalError::MissingAnnotation { question, .. } if question == "7"), "{error}");
    let error = read_items(Task::Vqa, "data", text, Some(("truth", "[]"))).unwrap_err();
    assert!(error.to_string().starts_with("truth: expected"), "{error}");
}

#[test]
fn boxes_captions_choices() {
    let text = "{\"image\": \"a\", \"sent\": \"the cat\", \"bbox\": [1.5, 2, 3, 4], \"height\": 10, \"width\": 20}";
    let items = read(Task::Grounding, text);
    assert_eq!(items[0].text(), "<img>1.png</img><ref>the cat</ref><box>");
    assert_eq!(items[0].truth, Truth::Box { corners: [1.5, 2.0, 3.0, 4.0], width: 20.0, height: 10.0 });

    let text = "{\"images\": [{\"id\": 3, \"image\": \"a\"}], \"annotations\": [{\"image_id\": 3, \"caption\": \"A cat.\", \"image\": \"a\"}, \
        {\"image_id\": 3, \"caption\": \"A pet.\"}]}";
    let items = read(Task::Caption, text);
    assert_eq!(items[0].text(), "<img>1.png</img>Describe the image in English:");
    assert_eq!(items[0].truth, answers(&["A cat.", "A pet."]));

    let text = "{\"image\": \"a\", \"hint\": \"\", \"question\": \"Which?\", \"choices\": [\"cat\", \"dog\"], \"answer\": 1}";
    let items = read(Task::Choice, text);
    assert_eq!(items[0].text(), "<img>1.png</img>Context: N/A\nQuestion: Which?\nOptions: A. cat\nB. dog\nAnswer:");
    assert_eq!(query(&items[0]), "Picture 1: <img>1.png</img>\nContext: N/A\nQuestion: Which?\nOptions: A. cat\nB. dog\nAnswer:");
    assert_eq!(items[0].candidates(Family::QwenVl), [" A", " B"]);
    assert_eq!(items[0].truth, Truth::Choice(1));

    let text = "{\"question_id\": \"v1\", \"prompt\": \"<img>f/1.png</img>\\n<img>f/2.png</img>\\nQuestion: ?\", \"answer\": \"C\"}";
    let items = read(Task::Seed, text);
    assert_eq!(items[0].text(), "<img>1.png</img>\n<img>2.png</img>\nQuestion: ?");
    assert_eq!(items[0].pictures.iter().map(|picture| picture.path.as_str()).collect::<Vec<_>>(), ["f/1.png", "f/2.png"]);
    assert_eq!(items[0].truth, Truth::Choice(2));
}

#[test]
fn tabs_and_dialogues() {
    let items = read(Task::Mme, "a.jpg\tIs it? Please answer yes or no.\tYes\n");
    assert_eq!(query(&items[0]), "<img>1.png</img>\nIs it? Please answer yes or no.");
    assert_eq!(items[0].truth, answers(&["Yes"]));
    let error = read_items(Task::Mme, "data", "a.jpg Is it? Yes", None).unwrap_err();
    assert_eq!(error.to_string(), "data, line 1: expected picture, question and answer with tabs between them, found 1 fields");

    let text = "{\"id\": 4, \"turns\": [{\"images\": [\"a\"], \"ask\": \"What?\", \"answer\": \"A cat.\"}, \
        {\"ask\": \"Find it.\", \"answer\": \"box\", \"scored\": false}, {\"images\": [\"b\"], \"ask\": \"And here?\", \"answer\": \"A dog.\"}]}";
    let items = read(Task::Dialogue, text);
    assert_eq!(items.iter().map(|item| item.id.as_str()).collect::<Vec<_>>(), ["4.0", "4.2"]);
    assert_eq!(query(&items[1]), "Picture 2: <img>2.png</img>\nAnd here?");
    let (history, _) = items[1].chat(Family::QwenVl);
    assert_eq!(history, [("Picture 1: <img>1.png</img>\nWhat?".into(), "A cat.".into()), ("Find it.".into(), "box".into())]);
    assert_eq!(items[1].pictures.len(), 2);
}

#[test]
fn names_the_bad_line() {
    let error = read_items(Task::Exact, "data/x.jsonl", "{\"image\": \"a\", \"question\": \"?\"}\n{\"image\": 3}", None).unwrap_err();
    assert!(error.to_string().starts_with("data/x.jsonl, line 2: invalid type"), "{error}");
}

#[test]
fn examples_stand_before_the_question() {
    let line = |number: usize| format!("{{\"image\": \"{number}\", \"question\": \"q{number}\", \"answer\": \"a{number}\"}}\n");
    let examples = read(Task::Exact, &(0..3).map(line).collect::<String>());
    let mut items = read(Task::Exact, &line(9));
    few_shot_prompts(&mut items, &examples, 3, 1).unwrap();
    let prompt = items[0].text();
    assert!(prompt.ends_with("<img>1.png</img>q9 Answer:"));
    assert_eq!(prompt.matches("<img>").count(), 4);
    assert_eq!(items[0].pictures[3].path, "9");
    for (number, picture) in items[0].pictures[..3].iter().enumerate() {
        let part = format!("q{} Answer: a{}", picture.path, picture.path);
        let places: Vec<usize> = (0..3).filter_map(|other| prompt.find(&format!("q{other} "))).collect();
        let place = prompt.find(&part).unwrap();
        assert_eq!(places.iter().filter(|other| **other < place).count(), number, "the pictures are in the order of the examples");
    }
    let error = few_shot_prompts(&mut items, &examples, 4, 1).unwrap_err();
    assert_eq!(error.to_string(), "3 examples to take 4 from: give a larger `--train` file or a smaller `--few-shot`");
}

/// The package's tasks and the small world build the same prompts: their tests read the same file.
#[test]
fn prompts_are_those_of_the_tasks() {
    let templates: Value = serde_json::from_str(include_str!("../../../tests/fixtures/task-prompts.json")).unwrap();
    let filled = |template: &Value, value: &str| format!("<img>1.png</img>{}", template.as_str().unwrap().replace("{}", value));
    // A text is one part; other prompts are lists of parts.
    let filled_parts = |template: &Value, value: &str| {
        let parts = if template.is_string() { json!([{ "text": template }]) } else { template.clone() };
        let parts: Vec<Part> = serde_json::from_str(&parts.to_string().replace("{}", value)).unwrap();
        let picture = Part::Image { image: "1.png".to_owned() };
        Content::Parts([picture].into_iter().chain(parts).collect())
    };
    let check = |task: Task, line: &str, name: &str, value: &str| {
        let item = &read(task, line)[0];
        let of = |family: &Value| match name {
            "caption" => family[name]["en"].clone(),
            _ => family[name].clone(),
        };
        assert_eq!(item.text(), filled(&of(&templates), value), "{task:?}");
        for family in LATER {
            let key = serde_json::to_value(family).unwrap();
            assert_eq!(item.chat(family).1, filled_parts(&of(&templates[key.as_str().unwrap()]), value), "{task:?}: {family:?}");
        }
    };

    let question = r#"{"image": "a", "question": "What is it?"}"#;
    for task in [Task::Vqa, Task::Exact, Task::Gqa, Task::Anls, Task::Relaxed] {
        check(task, question, "vqa", "What is it?");
    }
    let phrase = r#"{"image": "a", "sent": "the cat", "bbox": [1, 2, 3, 4], "height": 10, "width": 20}"#;
    check(Task::Grounding, phrase, "ground", "the cat");
    check(Task::Caption, r#"{"images": [{"id": 3, "image": "a"}]}"#, "caption", "");
}

#[test]
fn prompts_of_later_generations() {
    let question = &read(Task::Exact, r#"{"image": "a", "question": "What is <img>?"}"#)[0];
    let caption = &read(Task::Caption, r#"{"images": [{"id": 3, "image": "a"}]}"#)[0];
    let mme = &read(Task::Mme, "a.jpg\tIs it? Please answer yes or no.\tYes\n")[0];
    for family in LATER {
        let asked = match family {
            Family::Qwen3Vl => "What is <img>?\nPlease answer concisely with short words or phrases when possible.",
            _ => "What is <img>?\nPlease try to answer the question with short words or phrases if possible.",
        };
        assert_eq!(parts(question, family), json!([{ "image": "1.png" }, { "text": asked }]));
        assert_eq!(parts(caption, family), json!([{ "image": "1.png" }, { "text": "Describe this image in English." }]));
        assert_eq!(parts(mme, family), json!([{ "image": "1.png" }, { "text": "Is it? Please answer yes or no." }]));
    }
    let phrase = &read(Task::Grounding, r#"{"image": "a", "sent": "the \"cat\"", "bbox": [1, 2, 3, 4], "height": 10, "width": 20}"#)[0];
    for (family, asked) in [
        (Family::Qwen2Vl, vec![json!({ "text": "Find " }), json!({ "ref": "the \"cat\"", "boxes": [] })]),
        (Family::Qwen25Vl, vec![json!({ "text": "Locate the \"cat\", output its bbox coordinates using JSON format." })]),
        (
            Family::Qwen3Vl,
            vec![
                json!({ "text": "Locate every instance that belongs to the following categories: \"the \"cat\"\". Report bbox coordinates in \
                JSON format." }),
            ],
        ),
    ] {
        assert_eq!(parts(phrase, family), json!([&[json!({ "image": "1.png" })][..], &asked].concat()));
    }
}

#[test]
fn choices_of_later_generations() {
    let asked = |hint: &str, question: &str, choices: &[&str]| {
        let line = json!({ "image": "a", "hint": hint, "question": question, "choices": choices, "answer": 0 });
        let item = &read(Task::Choice, &line.to_string())[0];
        assert_eq!(item.candidates(Family::Qwen2Vl), &["A", "B"][..choices.len()]);
        let [first, second, third] = LATER.map(|family| parts(item, family));
        assert_eq!(first, second);
        // Qwen3-VL is asked in other words, in English alone.
        let third = third[1]["text"].as_str().unwrap();
        assert_eq!(third.ends_with("Answer with the option letter only."), !choices.is_empty());
        assert_eq!(first[0], json!({ "image": "1.png" }));
        first[1]["text"].as_str().unwrap().to_owned()
    };
    let english = "Question: Which?\nOptions:\nA. cat\nB. dog\nPlease select the correct answer from the options above.";
    assert_eq!(asked("", "Which?", &["cat", "dog"]), english);
    assert_eq!(asked("It barks.", "Which?", &["cat", "dog"]), format!("Hint: It barks.\n{english}"));
    assert_eq!(asked("", "Which?", &["猫", "dog"]), "Question: Which?\nOptions:\nA. 猫\nB. dog\n请直接回答选项字母。");
    // Chinese punctuation alone is not Chinese.
    assert!(asked("", "Which？", &["cat", "dog"]).ends_with("from the options above."));
    assert_eq!(asked("", "Which? ", &[]), "Question: Which?");
}

#[test]
fn pictures_in_texts_become_parts() {
    let text = "{\"question_id\": \"v1\", \"prompt\": \"<img>f/1.png</img>\\nFirst.\\n<img>f/2.png</img>\\nSecond?\\n<img>f/3.png</img>\", \
        \"answer\": \"C\"}";
    let item = &read(Task::Seed, text)[0];
    assert_eq!(item.candidates(Family::Qwen3Vl), ["A", "B", "C", "D"]);
    for family in LATER {
        let expected =
            json!([{ "image": "1.png" }, { "text": "First.\n" }, { "image": "2.png" }, { "text": "Second?\n" }, { "image": "3.png" }]);
        assert_eq!(parts(item, family), expected);
    }

    let dialogue = json!({ "id": 4, "turns": [
        { "images": ["a", "b"], "ask": "What?", "answer": "A cat." },
        { "ask": "And <img>c</img>?", "answer": "<img>" },
        { "images": ["d"], "ask": "Here?", "answer": "A dog." },
    ] });
    let items = read(Task::Dialogue, &dialogue.to_string());
    let paths: Vec<&str> = items[2].pictures.iter().map(|picture| picture.path.as_str()).collect();
    assert_eq!(paths, ["a", "b", "c", "d"]);
    assert_eq!(query(&items[1]), "And <img>3.png</img>?");
    assert_eq!(query(&items[2]), "Picture 4: <img>4.png</img>\nHere?");
    for family in LATER {
        let (history, query) = items[2].chat(family);
        let first = json!([{ "image": "1.png" }, { "image": "2.png" }, { "text": "What?" }]);
        let second = json!([{ "text": "And " }, { "image": "3.png" }, { "text": "?" }]);
        assert_eq!(json!(history), json!([[first, "A cat."], [second, "<img>"]]));
        assert_eq!(json!(query), json!([{ "image": "4.png" }, { "text": "Here?" }]));
    }
}

#[test]
fn later_generations_always_chat() {
    let all = [
        Task::Caption,
        Task::Vqa,
        Task::Exact,
        Task::Gqa,
        Task::Anls,
        Task::Relaxed,
        Task::Grounding,
        Task::Choice,
        Task::Seed,
        Task::Mme,
        Task::Dialogue,
    ];
    for task in all {
        let of_2023 = task.settings(Family::QwenVl);
        assert_eq!(of_2023.chat, matches!(task, Task::Mme | Task::Dialogue));
        for family in LATER {
            let settings = task.settings(family);
            assert!(settings.chat && settings.scored == of_2023.scored, "{task:?}");
            let tokens = match task {
                Task::Choice | Task::Seed => [0, 0],
                Task::Grounding => [1, 512],
                _ => [1, 128],
            };
            assert_eq!([settings.min_new_tokens, settings.max_new_tokens], tokens, "{task:?}");
        }
    }
}
