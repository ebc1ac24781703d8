//! The data files of the original's `eval_mm`.

use qwen_vl_eval::{EvalError, Item, Task, Truth, few_shot_prompts, read_items};

fn read(task: Task, text: &str) -> Vec<Item> {
    read_items(task, "data", text, None).unwrap()
}

fn answers(list: &[&str]) -> Truth {
    Truth::Answers(list.iter().map(|answer| (*answer).to_owned()).collect())
}

#[test]
fn questions() {
    let text = "{\"image\": \"data/a.jpg\", \"question\": \"What is it?\", \"question_id\": 7, \"answer\": \"a cat\"}\n\n\
        {\"image\": \"b.png\", \"question\": \"Where?\", \"question_id\": \"x\", \"answer\": [\"left\", \"on the left\"]}\n\
        {\"image\": \"c.png\", \"question\": \"Why?\"}\n";
    let items = read(Task::Exact, text);
    assert_eq!(items[0].prompt, "<img>1.png</img>What is it? Answer:");
    assert_eq!(items[0].query, "Picture 1: <img>1.png</img>\nWhat is it?");
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
    assert_eq!(items[0].prompt, "<img>1.png</img><ref>the cat</ref><box>");
    assert_eq!(items[0].truth, Truth::Box { corners: [1.5, 2.0, 3.0, 4.0], width: 20.0, height: 10.0 });

    let text = "{\"images\": [{\"id\": 3, \"image\": \"a\"}], \"annotations\": [{\"image_id\": 3, \"caption\": \"A cat.\", \"image\": \"a\"}, \
        {\"image_id\": 3, \"caption\": \"A pet.\"}]}";
    let items = read(Task::Caption, text);
    assert_eq!(items[0].prompt, "<img>1.png</img>Describe the image in English:");
    assert_eq!(items[0].truth, answers(&["A cat.", "A pet."]));

    let text = "{\"image\": \"a\", \"hint\": \"\", \"question\": \"Which?\", \"choices\": [\"cat\", \"dog\"], \"answer\": 1}";
    let items = read(Task::Choice, text);
    assert_eq!(items[0].prompt, "<img>1.png</img>Context: N/A\nQuestion: Which?\nOptions: A. cat\nB. dog\nAnswer:");
    assert_eq!(items[0].candidates, [" A", " B"]);
    assert_eq!(items[0].truth, Truth::Choice(1));

    let text = "{\"question_id\": \"v1\", \"prompt\": \"<img>f/1.png</img>\\n<img>f/2.png</img>\\nQuestion: ?\", \"answer\": \"C\"}";
    let items = read(Task::Seed, text);
    assert_eq!(items[0].prompt, "<img>1.png</img>\n<img>2.png</img>\nQuestion: ?");
    assert_eq!(items[0].pictures.iter().map(|picture| picture.path.as_str()).collect::<Vec<_>>(), ["f/1.png", "f/2.png"]);
    assert_eq!(items[0].truth, Truth::Choice(2));
}

#[test]
fn tabs_and_dialogues() {
    let items = read(Task::Mme, "a.jpg\tIs it? Please answer yes or no.\tYes\n");
    assert_eq!(items[0].query, "<img>1.png</img>\nIs it? Please answer yes or no.");
    assert_eq!(items[0].truth, answers(&["Yes"]));
    let error = read_items(Task::Mme, "data", "a.jpg Is it? Yes", None).unwrap_err();
    assert_eq!(error.to_string(), "data, line 1: expected picture, question and answer with tabs between them, found 1 fields");

    let text = "{\"id\": 4, \"turns\": [{\"images\": [\"a\"], \"ask\": \"What?\", \"answer\": \"A cat.\"}, \
        {\"ask\": \"Find it.\", \"answer\": \"box\", \"scored\": false}, {\"images\": [\"b\"], \"ask\": \"And here?\", \"answer\": \"A dog.\"}]}";
    let items = read(Task::Dialogue, text);
    assert_eq!(items.iter().map(|item| item.id.as_str()).collect::<Vec<_>>(), ["4.0", "4.2"]);
    assert_eq!(items[1].query, "Picture 2: <img>2.png</img>\nAnd here?");
    assert_eq!(items[1].history[0], ("Picture 1: <img>1.png</img>\nWhat?".to_owned(), "A cat.".to_owned()));
    assert_eq!(items[1].history.len(), 2);
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
    assert!(items[0].prompt.ends_with("<img>1.png</img>q9 Answer:"));
    assert_eq!(items[0].prompt.matches("<img>").count(), 4);
    assert_eq!(items[0].pictures[3].path, "9");
    for (number, picture) in items[0].pictures[..3].iter().enumerate() {
        let part = format!("q{} Answer: a{}", picture.path, picture.path);
        let places: Vec<usize> = (0..3).filter_map(|other| items[0].prompt.find(&format!("q{other} "))).collect();
        let place = items[0].prompt.find(&part).unwrap();
        assert_eq!(places.iter().filter(|other| **other < place).count(), number, "the pictures are in the order of the examples");
    }
    let error = few_shot_prompts(&mut items, &examples, 4, 1).unwrap_err();
    assert_eq!(error.to_string(), "3 examples to take 4 from: give a larger `--train` file or a smaller `--few-shot`");
}

/// The package's tasks and the small world build the same prompts: their tests read the same file.
#[test]
fn prompts_are_those_of_the_tasks() {
    let templates: serde_json::Value = serde_json::from_str(include_str!("../../../tests/fixtures/task-prompts.json")).unwrap();
    let filled = |template: &serde_json::Value, value: &str| format!("<img>1.png</img>{}", template.as_str().unwrap().replace("{}", value));
    let prompt = |task: Task, text: &str| read(task, text)[0].prompt.clone();

    let question = r#"{"image": "a", "question": "What is it?"}"#;
    for task in [Task::Vqa, Task::Exact, Task::Gqa, Task::Anls, Task::Relaxed] {
        assert_eq!(prompt(task, question), filled(&templates["vqa"], "What is it?"));
    }
    let phrase = r#"{"image": "a", "sent": "the cat", "bbox": [1, 2, 3, 4], "height": 10, "width": 20}"#;
    assert_eq!(prompt(Task::Grounding, phrase), filled(&templates["ground"], "the cat"));
    assert_eq!(prompt(Task::Caption, r#"{"images": [{"id": 3, "image": "a"}]}"#), filled(&templates["caption"]["en"], ""));
}
