//! `qwenvl` with the later generations. Needs a GPU adapter; a software one does.

mod common;

use common::{fails, qwenvl, succeeds};
use quantize::{Options, SchemeName};
use qwen_vl_testkit::golden::fixtures;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::path::PathBuf;

/// A converted golden model in f32, in a folder that is deleted in the end.
fn model(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = root().join("checkpoints").join(name);
    quantize::convert(&Options::new(source, folder.path().join("web")).scheme(SchemeName::F32), &mut |_| ()).unwrap();
    folder
}

fn root() -> PathBuf {
    fixtures().join("family")
}

fn run(command: &str, model: &tempfile::TempDir, more: &[&str], stdin: &str) -> std::process::Output {
    let web = model.path().join("web");
    let args = [command, "--model", web.to_str().unwrap(), "--kernels", "cpu"];
    qwenvl(args.iter().chain(more), stdin.as_bytes())
}

#[test]
fn cases_give_tokens_positions_and_features_of_the_original() {
    for name in ["q2-a", "q25-a", "q3-a"] {
        let model = model(name);
        // `large` has another limit of its picture than the checkpoint.
        for case in ["large", "multi_turn", "picture_and_video"] {
            let path = root().join("golden").join(name).join(case).with_extension("json");
            let golden: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let dump = model.path().join("dump.safetensors");
            let more = ["--case", path.to_str().unwrap(), "--root", root().to_str().unwrap(), "--json", "--dump", dump.to_str().unwrap()]
                .map(str::to_owned);
            let more: Vec<&str> = more.iter().map(String::as_str).collect();
            let answer: Value = serde_json::from_str(&succeeds(run("ask", &model, &more, ""))).unwrap();
            assert_eq!(answer["tokens"], golden["decode"]["tokens"], "{name}/{case}");
            for key in ["rope_delta", "image_grid_thw"] {
                assert_eq!(answer[key], golden[key], "{name}/{case}: {key}");
            }
            let no_videos = json!([]);
            assert_eq!(answer["video_grid_thw"], *golden.get("video_grid_thw").unwrap_or(&no_videos), "{name}/{case}: videos");
            let positions = answer["position_ids"].as_array().unwrap();
            assert!(
                positions.len() == 3
                    && positions.iter().all(|axis| axis.as_array().unwrap().len() == golden["input_ids"].as_array().unwrap().len())
            );
            let bytes = std::fs::read(&dump).unwrap();
            let dump = SafeTensors::deserialize(&bytes).unwrap();
            let [_, rows, columns] = [0, 1, 2].map(|side| golden["image_grid_thw"][0][side].as_u64().unwrap() as usize);
            assert_eq!(dump.tensor("image_features.0").unwrap().shape()[0], rows * columns / 4, "{name}/{case}");
        }
    }
}

/// A question needs no file and no tags: it goes through the chat template, after its pictures.
#[test]
fn a_plain_question_is_a_chat() {
    let model = model("q3-a");
    let root = root();
    let image = root.join("images/p_cell.png");
    let question = ["--image", image.to_str().unwrap(), "--greedy", "--max-new-tokens", "5", "--json", "What is <|image_pad|>?"];
    let plain: Value = serde_json::from_str(&succeeds(run("ask", &model, &question, ""))).unwrap();
    let chat = model.path().join("chat.json");
    std::fs::write(&chat, json!({"query": [{"image": image}, {"text": "What is <|image_pad|>?"}]}).to_string()).unwrap();
    let file = ["--chat", chat.to_str().unwrap(), "--greedy", "--max-new-tokens", "5", "--json"];
    let written: Value = serde_json::from_str(&succeeds(run("ask", &model, &file, ""))).unwrap();
    assert_eq!((&plain["prompt_ids"], &plain["tokens"]), (&written["prompt_ids"], &written["tokens"]));
    // The template's tokens: a picture, a question and the beginning of an answer.
    let ids: Vec<u64> = plain["prompt_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    assert_eq!(
        (ids[0], ids[3], ids.iter().filter(|id| **id == 3112).count()),
        (
            3101,
            3109,
            plain["image_grid_thw"][0][1].as_u64().unwrap() as usize * plain["image_grid_thw"][0][2].as_u64().unwrap() as usize / 4
        )
    );

    // Fewer tokens for the picture.
    let small = [&["--max-picture-tokens", "70"], &question[..]].concat();
    let small: Value = serde_json::from_str(&succeeds(run("ask", &model, &small, ""))).unwrap();
    assert!(small["prompt_ids"].as_array().unwrap().len() < ids.len());
    let error = fails(run("ask", &model, &["--max-picture-tokens", "3", "?"], ""));
    assert!(error.contains("max picture tokens is 3"), "{error}");
}

/// Frames are in the order of their numbers, and as many of them are read as the model is to see.
#[test]
fn a_folder_of_frames_is_a_video() {
    let model = model("q3-a");
    let folder = tempfile::tempdir().unwrap();
    let frame = |number: usize| std::fs::read(root().join(format!("images/p_clip_{}.png", number % 6))).unwrap();
    for number in 1..=12 {
        std::fs::write(folder.path().join(format!("frame{number}.png")), frame(number)).unwrap();
    }
    std::fs::write(folder.path().join("notes.txt"), "not a frame").unwrap();
    let path = folder.path().to_str().unwrap();
    let answer = |more: &[&str]| -> Value {
        let args = [&["--video", path, "--greedy", "--max-new-tokens", "2", "--json"], more, &["What moves?"]].concat();
        serde_json::from_str(&succeeds(run("ask", &model, &args, ""))).unwrap()
    };
    // Twelve frames are six seconds at two a second, and two at six: four frames of them.
    assert_eq!(answer(&[])["video_grid_thw"], json!([[6, 14, 14]]));
    let fast = answer(&["--frame-rate", "6"]);
    assert_eq!(fast["video_grid_thw"], json!([[2, 14, 14]]));
    // A chat names a folder, too. The frames chosen above are those of these numbers, at other times.
    let chosen = tempfile::tempdir().unwrap();
    for (index, number) in [1, 5, 8, 12].into_iter().enumerate() {
        std::fs::write(chosen.path().join(format!("{index}.png")), frame(number)).unwrap();
    }
    let chat = model.path().join("chat.json");
    std::fs::write(&chat, json!({"query": [{"video": chosen.path()}, {"text": "What moves?"}]}).to_string()).unwrap();
    let file = ["--chat", chat.to_str().unwrap(), "--greedy", "--max-new-tokens", "2", "--json"];
    let written: Value = serde_json::from_str(&succeeds(run("ask", &model, &file, ""))).unwrap();
    assert_eq!((&written["video_grid_thw"], &written["images"][0]["frames"]), (&fast["video_grid_thw"], &json!(4)));
    let prompt = |answer: &Value| answer["prompt_ids"].as_array().unwrap().len();
    assert_eq!(prompt(&written), prompt(&fast));
    assert!(answer(&["--max-video-tokens", "160"])["images"][0]["tokens"].as_u64().unwrap() <= 160);

    let refused = |args: &[&str]| fails(run("ask", &model, &[args, &["What?"]].concat(), ""));
    let (empty, first) = (tempfile::tempdir().unwrap(), folder.path().join("frame1.png"));
    assert!(refused(&["--video", empty.path().to_str().unwrap()]).contains("no picture files"));
    assert!(refused(&["--video", first.to_str().unwrap()]).contains("expected a folder of frames"));
    assert!(refused(&["--video", path, "--frame-rate", "0"]).contains("--frame-rate is 0, expected a number above 0"));
    assert!(refused(&["--video", path, "--max-video-tokens", "5"]).contains("the video may have 5 tokens"));
    std::fs::copy(root().join("images/p_cell.png"), folder.path().join("frame12.png")).unwrap();
    let error = refused(&["--video", path]);
    assert!(error.contains("frame12.png") && error.contains("the frames of a video have one size"), "{error}");
}

#[test]
fn a_conversation_in_the_terminal() {
    let model = model("q3-a");
    let image = root().join("images/p_cell.png");
    let options = ["--greedy", "--max-new-tokens", "4", "--context", "600"];
    let once = succeeds(run("chat", &model, &options, &format!("/image {}\nWhat is it?\n", image.display())));
    assert!(!once.trim().is_empty());
    // A question that is taken back leaves no trace.
    let input = format!("/image {}\nWhat is it?\n/undo\n/image {0}\nWhat is it?\nAnd why?\n", image.display());
    let twice = succeeds(run("chat", &model, &options, &input));
    assert!(twice.starts_with(&format!("{once}{once}")), "{twice}");
    assert!(twice.len() > 2 * once.len());

    // Errors do not end the conversation.
    let output = run("chat", &model, &options, "/image nothing.png\n/nonsense\nHello\n");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("nothing.png") && errors.contains("/nonsense"), "{errors}");
    assert!(!succeeds(output).trim().is_empty());
}
