//! `qwenvl eval` on small checkpoints. Needs a GPU adapter; a software one does.

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
    assert!(error.contains("mini-questions.jsonl` has answers of another model, data file, prompt or limit of pictures"), "{error}");
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
    assert!(error.contains("has answers of another model, data file, prompt or limit of pictures"), "{error}");
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

const TASKS: [&str; 11] = ["caption", "vqa", "exact", "gqa", "anls", "relaxed", "grounding", "choice", "seed", "mme", "dialogue"];

/// A folder with a converted model of a later generation and a suite of tasks.
fn later_folder(name: &str, tasks: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let family = fixtures().join("family");
    let source = family.join("checkpoints").join(name);
    quantize::convert(&Options::new(source, folder.path().join("web")).scheme(SchemeName::F32), &mut |_| ()).unwrap();
    // Pictures of several sizes.
    let [cell, tiny, wide] =
        ["p_cell.png", "p_tiny_9x7.png", "p_wide.png"].map(|name| family.join("images").join(name).display().to_string());
    let question = json!({ "image": cell, "question": "What is it?", "answer": "a cell" });
    let lines = |lines: &[Value]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let questions = lines(&[question.clone(), json!({ "image": tiny, "question": "Where?", "answer": "left" })]);
    let question = lines(&[question]);
    let phrase = json!({ "image": cell, "sent": "the left", "bbox": [0, 0, 118, 141], "width": 236, "height": 141 });
    let choice = json!({ "image": wide, "hint": "It is wide.", "question": "Which?", "choices": ["cat", "dog", "bird"], "answer": 1 });
    let seed = json!({ "question_id": 1, "prompt": format!("<img>{tiny}</img>\n<img>{cell}</img>\nWhich?\nAnswer:"), "answer": "C" });
    let caption = json!({ "images": [{ "id": 1, "image": cell }], "annotations": [{ "image_id": 1, "caption": "A cell." }] });
    let dialogue = json!({ "id": 0, "turns": [
        { "images": [tiny], "ask": "Hi", "answer": "Hello" },
        { "images": [cell, wide], "ask": "And these?", "answer": "Bye" },
    ] });
    let text = |task: &str| match task {
        "caption" => caption.to_string(),
        "vqa" => questions.clone(),
        "grounding" => phrase.to_string(),
        "choice" => choice.to_string(),
        "seed" => seed.to_string(),
        "mme" => format!("{cell}\tIs it? Please answer yes or no.\tYes\n{cell}\tIs it not? Please answer yes or no.\tNo\n"),
        "dialogue" => dialogue.to_string(),
        _ => question.clone(),
    };
    tasks.iter().for_each(|task| fs::write(folder.path().join(task), text(task)).unwrap());
    let tasks: Vec<Value> = tasks.iter().map(|task| json!({ "name": task, "task": task, "data": task })).collect();
    fs::write(folder.path().join("suite.json"), json!({ "tasks": tasks }).to_string()).unwrap();
    folder
}

#[test]
fn a_later_generation_answers_all_tasks() {
    let folder = later_folder("q25-a", &TASKS);
    let suite = folder.path().to_str().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let run = |more: &[&str]| eval(folder.path(), &[&["--suite", suite, "--kernels", "cpu"], more].concat());
    let (kept, parts) = (place("kept"), place("parts"));
    let whole = succeeds(run(&["--predictions", &kept]));
    for number in [3, 7, 1, 6, 2, 5, 4] {
        succeeds(run(&["--predictions", &parts, "--shard", &format!("{number}/7")]));
    }
    let merge = || qwenvl(["eval", "merge", "--suite", suite, "--predictions", &parts], b"");
    assert_eq!(succeeds(merge()), whole);
    for task in TASKS {
        assert!(whole.lines().any(|line| line.starts_with(&format!("{task} "))), "{task}: {whole}");
    }
    // The answers themselves, not only their scores.
    let answers = |path: &str| fs::read_to_string(path).unwrap().lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    let shard = |number: usize| answers(&format!("{parts}/mini-dialogue.shard-{number}-of-7.jsonl"));
    assert_eq!(answers(&format!("{kept}/mini-dialogue.jsonl")), [shard(1), shard(2)].concat());

    // The template is that of a chat in any case.
    assert_eq!(succeeds(run(&["--predictions", &kept, "--chat"])), whole);

    // The box is scored, not the text.
    let path = format!("{kept}/mini-grounding.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"box\":[0,0,0,0]"), "{text}");
    fs::write(&path, text.replace("\"box\":[0,0,0,0]", "\"box\":[0,0,500,1000]")).unwrap();
    let scores: Value = serde_json::from_str(&succeeds(run(&["--predictions", &kept, "--json"]))).unwrap();
    let grounding = &scores["models"]["mini"]["grounding"];
    assert_eq!((&grounding["n"], &grounding["original"], &grounding["corrected"]), (&json!(1), &json!(100.0), &json!(100.0)));

    // Other sizes of pictures are other questions.
    for limit in [["--max-picture-tokens", "30"], ["--min-picture-tokens", "50"]] {
        let error = fails(run(&[&["--predictions", &kept][..], &limit].concat()));
        assert!(error.contains("mini-caption.jsonl` has answers of another model, data file, prompt or limit of pictures"), "{error}");
    }
    let (caption, other, shard) = (place("caption"), place("other"), "mini-caption.shard-2-of-7.jsonl");
    let args = ["--task", "caption", "--data", &caption, "--predictions", &other, "--shard", "2/7", "--max-picture-tokens", "30"];
    succeeds(eval(folder.path(), &[&args[..], &["--kernels", "cpu"]].concat()));
    fs::copy(format!("{other}/{shard}"), format!("{parts}/{shard}")).unwrap();
    let error = fails(merge());
    assert!(error.contains(&format!("{shard}` has answers of another model")) && error.contains("shard-1-of-7"), "{error}");
}

#[test]
fn answers_of_the_other_later_generations() {
    for name in ["q2-a", "q3-a"] {
        let folder = later_folder(name, &["exact", "grounding", "choice"]);
        let (suite, kept) = (folder.path().to_str().unwrap(), folder.path().join("kept"));
        let args = ["--suite", suite, "--kernels", "cpu", "--max-picture-tokens", "70", "--predictions", kept.to_str().unwrap()];
        succeeds(eval(folder.path(), &args));
        let answer = |task: &str| -> Value {
            let text = fs::read_to_string(kept.join(format!("mini-{task}.jsonl"))).unwrap();
            serde_json::from_str(text.lines().nth(1).unwrap()).unwrap()
        };
        assert!(answer("exact")["answer"].is_string() && answer("exact")["box"].is_null(), "{name}");
        assert_eq!(answer("grounding")["box"].as_array().unwrap().len(), 4, "{name}");
        assert_eq!(answer("choice")["candidates"].as_array().unwrap().len(), 3, "{name}");
    }
}

#[test]
fn says_what_is_wrong_with_a_later_generation() {
    let folder = later_folder("q3-a", &["exact"]);
    let data = folder.path().join("exact");
    let data = data.to_str().unwrap();
    let ask = |more: &[&str]| eval(folder.path(), &[&["--task", "exact", "--data", data, "--kernels", "cpu"], more].concat());
    let error = fails(ask(&["--few-shot", "1", "--train", data]));
    assert!(error.contains("is a chat model of a later generation, and `--few-shot` is for base models"), "{error}");
    let error = fails(ask(&["--max-picture-tokens", "3"]));
    assert!(error.contains("max picture tokens is 3"), "{error}");
    let error = fails(ask(&["--min-picture-tokens", "9", "--max-picture-tokens", "8"]));
    assert!(error.contains("exact: question `0`: picture `") && error.contains("picture tokens: minimum 9, maximum 8"), "{error}");
    fs::write(data, fs::read_to_string(data).unwrap().replace("p_cell", "p_nothing")).unwrap();
    let error = fails(ask(&[]));
    assert!(error.contains("exact: question `0`") && error.contains("p_nothing"), "{error}");
}
