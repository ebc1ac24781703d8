//! `qwenvl eval` on a small checkpoint. Needs a GPU adapter; a software one does.

mod common;

use common::{fails, qwenvl, succeeds};
use quantize::{Options, SchemeName};
use qwen_vl_testkit::golden::fixtures;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A folder with the converted `mini-b` and a suite of three files.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = fixtures().join("checkpoints/mini-b");
    quantize::convert(&Options::new(source, folder.path().join("web")).scheme(SchemeName::F32), &mut |_| ()).unwrap();
    let picture =
        fs::read_dir(fixtures().join("images")).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some());
    let image = picture.unwrap().display().to_string();
    let questions = [
        json!({ "image": image, "question": "What is it?", "question_id": 1, "answer": "a cat", "group": "what" }),
        json!({ "image": image, "question": "Where is it?", "question_id": 2, "answer": "left", "group": "where" }),
    ];
    let choice = json!({ "image": image, "hint": "", "question": "Which?", "choices": ["cat", "dog", "bird"], "answer": 1 });
    let dialogue = json!({ "id": 0, "turns": [{ "images": [image], "ask": "Hi", "answer": "Hello", "scored": false },
        { "ask": "And?", "answer": "Bye" }] });
    let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
    write("questions.jsonl", questions.iter().map(|line| format!("{line}\n")).collect());
    write("choice.jsonl", choice.to_string());
    write("dialogue.jsonl", dialogue.to_string());
    let suite = json!({ "tasks": [
        { "name": "questions", "task": "exact", "data": "questions.jsonl" },
        { "name": "choice", "task": "choice", "data": "choice.jsonl" },
        { "name": "dialogue", "task": "dialogue", "data": "dialogue.jsonl" },
    ] });
    write("suite.json", suite.to_string());
    folder
}

fn eval(folder: &Path, more: &[&str]) -> std::process::Output {
    let model = format!("mini={}", folder.join("web").display());
    let args = ["eval".to_owned(), "--model".to_owned(), model];
    qwenvl(args.into_iter().chain(more.iter().map(|arg| (*arg).to_owned())), b"")
}

#[test]
fn answers_are_kept_and_scored() {
    let folder = folder();
    let (suite, kept) = (folder.path().to_str().unwrap(), folder.path().join("predictions"));
    let args = ["--suite", suite, "--predictions", kept.to_str().unwrap(), "--json"];
    let first: Value = serde_json::from_str(&succeeds(eval(folder.path(), &args))).unwrap();
    let questions = &first["models"]["mini"]["questions"];
    assert_eq!((&questions["metric"], &questions["n"], &questions["original"]), (&json!("exact match"), &json!(2), &json!(0.0)));
    assert_eq!(first["models"]["mini"]["dialogue"]["n"], 1);

    let scored = fs::read_to_string(kept.join("mini-choice.jsonl")).unwrap();
    let scored: Value = serde_json::from_str(scored.lines().nth(1).unwrap()).unwrap();
    assert_eq!(scored["candidates"].as_array().unwrap().len(), 3);
    assert!(scored["candidates"].as_array().unwrap().iter().flat_map(|one| one.as_array().unwrap()).all(|one| one.as_f64().unwrap() < 0.0));

    // Put a right answer into the file, cut the other one short: the first is taken as it is, the second asked for again.
    let path = kept.join("mini-questions.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let right = json!({ "id": "1", "answer": "A cat " });
    fs::write(&path, format!("{}\n{right}\n{}", lines[0], &lines[2][..lines[2].len() / 2])).unwrap();
    let second: Value = serde_json::from_str(&succeeds(eval(folder.path(), &args))).unwrap();
    let questions = &second["models"]["mini"]["questions"];
    assert_eq!(questions["original"], 50.0);
    assert_eq!(questions["kinds"]["what"]["original"], 100.0);
    assert_eq!(fs::read_to_string(&path).unwrap().lines().nth(2).unwrap(), lines[2], "the same answer again");

    // Another file of questions under the same name.
    let questions = folder.path().join("questions.jsonl");
    fs::write(&questions, fs::read_to_string(&questions).unwrap().replace("Where", "When")).unwrap();
    let error = fails(eval(folder.path(), &args));
    assert!(error.contains("mini-questions.jsonl` has answers of another model, data file or prompt"), "{error}");
}

/// A suite of a file with 10 questions and one with 3.
fn larger_suite(folder: &Path) {
    let questions = fs::read_to_string(folder.join("questions.jsonl")).unwrap();
    let question: Value = serde_json::from_str(questions.lines().next().unwrap()).unwrap();
    let lines = (1..=10).map(|id| {
        let mut question = question.clone();
        question["question_id"] = json!(id);
        question["question"] = json!(format!("What is number {id}?"));
        question["group"] = json!(if id % 3 == 0 { "third" } else { "other" });
        format!("{question}\n")
    });
    fs::write(folder.join("questions.jsonl"), lines.collect::<String>()).unwrap();
    let choice = fs::read_to_string(folder.join("choice.jsonl")).unwrap();
    let lines = ["Which?", "Who?", "What?"].map(|word| format!("{}\n", choice.trim().replace("Which?", word)));
    fs::write(folder.join("choice.jsonl"), lines.concat()).unwrap();
}

#[test]
fn shards_give_the_table_of_one_run() {
    let folder = folder();
    larger_suite(folder.path());
    let suite = folder.path().to_str().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let merge = |more: &[&str]| {
        let args = ["eval", "merge", "--suite", suite];
        qwenvl(args.iter().chain(more).map(|arg| (*arg).to_owned()), b"")
    };
    let whole = succeeds(eval(folder.path(), &["--suite", suite]));
    // More shards than the second file has questions, in two folders and another order.
    for number in [7, 2, 5, 1, 3, 6, 4] {
        let (out, shard) = (place(if number % 2 == 0 { "even" } else { "odd" }), format!("{number}/7"));
        let printed = succeeds(eval(folder.path(), &["--suite", suite, "--predictions", &out, "--shard", &shard]));
        assert!(printed.starts_with(&format!("shard {number}/7 of mini: ")) && !printed.contains("exact match"), "{printed}");
    }
    let (even, odd) = (place("even"), place("odd"));
    assert_eq!(succeeds(merge(&["--predictions", &even, "--predictions", &odd])), whole);
    assert_eq!(succeeds(merge(&["--predictions", &odd, "--predictions", &even, "--model", "mini"])), whole);
    let json: Value = serde_json::from_str(&succeeds(merge(&["--predictions", &odd, "--predictions", &even, "--json"]))).unwrap();
    assert_eq!(json["models"]["mini"]["questions"]["n"], 10);

    let error = fails(merge(&["--predictions", &odd]));
    assert!(error.contains("mini, questions: missing are the shards 2/7, 4/7, 6/7"), "{error}");
    let error = fails(merge(&["--predictions", &odd, "--predictions", &even, "--predictions", &even]));
    assert!(error.contains("shard 2/7 is there twice") || error.contains("shard 4/7 is there twice"), "{error}");
    let error = fails(merge(&["--predictions", &odd, "--model", "other"]));
    assert!(error.contains("other, questions: no folder has a file `other-questions.shard-K-of-N.jsonl`"), "{error}");
    let error = fails(merge(&["--predictions", suite]));
    assert!(error.contains("no folder of `--predictions` has answers of shards"), "{error}");

    // A shard that was interrupted, cut inside a line or between two.
    let path = folder.path().join("odd/mini-questions.shard-3-of-7.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    for end in [text.len() - 3, text.trim_end().rfind('\n').unwrap() + 1] {
        fs::write(&path, &text[..end]).unwrap();
        let error = fails(merge(&["--predictions", &odd, "--predictions", &even]));
        assert!(error.contains("mini-questions.shard-3-of-7.jsonl") && error.contains("run `--shard 3/7` again"), "{error}");
        succeeds(eval(folder.path(), &["--suite", suite, "--predictions", &odd, "--shard", "3/7"]));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    // Answers of another model.
    fs::write(&path, text.replacen("\"model\":\"", "\"model\":\"0", 1)).unwrap();
    let error = fails(merge(&["--predictions", &odd, "--predictions", &even]));
    assert!(error.contains("has answers of another model, data file or prompt"), "{error}");
    fs::write(&path, &text).unwrap();
    // Answers to other questions, and a question of another shard.
    let questions = folder.path().join("questions.jsonl");
    let original = fs::read_to_string(&questions).unwrap();
    fs::write(&questions, original.replace("number 9", "number nine")).unwrap();
    let error = fails(merge(&["--predictions", &odd, "--predictions", &even]));
    assert!(error.contains("has answers to other questions than those of the data that is given"), "{error}");
    fs::write(&questions, original).unwrap();
    fs::write(&path, text.replace("\"id\":\"3\"", "\"id\":\"4\"")).unwrap();
    let error = fails(merge(&["--predictions", &odd, "--predictions", &even]));
    assert!(error.contains("has an answer to `4`, which is not a question of its shard"), "{error}");
}

#[test]
fn shards_are_checked_before_anything_runs() {
    let folder = folder();
    let suite = folder.path().to_str().unwrap();
    for (args, part) in [
        (&["--shard", "0/3", "--predictions", suite][..], "`0/3` is not a shard: expected K/N"),
        (&["--shard", "1/3"], "--predictions"),
        (&["--shard", "1/3", "--predictions", suite, "--json"], "--json"),
    ] {
        let error = fails(eval(folder.path(), &[&["--suite", suite][..], args].concat()));
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_table_of_one_file() {
    let folder = folder();
    let data = folder.path().join("questions.jsonl");
    let table = succeeds(eval(folder.path(), &["--task", "exact", "--data", data.to_str().unwrap(), "--limit", "1"]));
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words, [vec!["task", "metric", "n", "mini"], vec!["questions", "exact", "match", "1", "0.0"]], "{table}");
}

#[test]
fn says_what_is_wrong() {
    let folder = folder();
    let data = folder.path().join("questions.jsonl");
    let data = data.to_str().unwrap();
    let error = fails(eval(folder.path(), &["--task", "grounding", "--data", data]));
    assert!(error.contains("questions.jsonl, line 1: missing field `sent`"), "{error}");
    let error = fails(eval(folder.path(), &["--task", "exact", "--data", data, "--few-shot", "3", "--train", data]));
    assert!(error.contains("2 examples to take 3 from"), "{error}");
    fs::write(data, fs::read_to_string(data).unwrap().replace(".png", ".nothing").replace(".jpg", ".nothing")).unwrap();
    let error = fails(eval(folder.path(), &["--task", "exact", "--data", data]));
    assert!(error.contains("questions: question `1`") && error.contains(".nothing"), "{error}");
}
