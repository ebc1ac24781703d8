//! Forms of answers, which `qwen-vl-constrain` compiles, and data files of `qwen-vl-eval`.

use crate::Target;
use crate::mutate::json;
use fastrand::Rng;
use qwen_vl_constrain::{Constrainer, Form, Token};
use qwen_vl_eval::{Task, Truth, Variant, caption_words, read_items};
use qwen_vl_processor::Family;
use serde::Deserialize;
use serde_json::Value;
use std::cell::RefCell;

/// A JSON schema, a regular expression or a grammar, with a prefix.
pub static FORM: Target = Target { name: "form", max_len: 512, run: form, mutate: json::mutate, memory: [192 << 20, 4096] };

/// A data file of an evaluation: a byte for the task, and the file.
pub static EVAL: Target = Target { name: "eval", max_len: 2048, run: eval, mutate: mutate_eval, memory: [1 << 20, 512] };

#[derive(Deserialize)]
struct Input {
    schema: Option<Value>,
    regex: Option<String>,
    #[serde(default)]
    flags: String,
    lark: Option<String>,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    seed: u64,
}

/// The token that ends a text, behind one for each byte.
const STOP: u32 = 256;
/// Tokens of an answer.
const STEPS: usize = 12;

thread_local! {
    static CONSTRAINER: RefCell<Constrainer> = {
        let bytes: Vec<[u8; 1]> = (0..=u8::MAX).map(|byte| [byte]).collect();
        let tokens = bytes.iter().map(|bytes| Token { bytes, special: false }).chain([Token { bytes: b"<|im_end|>", special: true }]);
        RefCell::new(Constrainer::new(tokens, &[STOP]).expect("a vocabulary with a stop token"))
    };
}

/// A form that is accepted allows a token at each step, and takes each token that it allows.
fn form(bytes: &[u8]) -> bool {
    let Ok(Input { schema, regex, flags, lark, prefix, seed }) = serde_json::from_slice(bytes) else { return false };
    let form = match (schema, regex, lark) {
        (Some(schema), ..) => Form::JsonSchema(schema.to_string()),
        (_, Some(pattern), _) => Form::Regex { pattern, flags },
        (.., Some(grammar)) => Form::Lark(grammar),
        (None, None, None) => return false,
    };
    let Ok(mut constrained) = CONSTRAINER.with_borrow_mut(|constrainer| constrainer.open(&form, &prefix)) else { return false };
    let mut random = Rng::with_seed(seed);
    for _ in 0..STEPS {
        // A form can be too costly at any step.
        let Ok(words) = constrained.allowed() else { return false };
        let allowed: Vec<u32> = (0..=STOP).filter(|token| words[*token as usize / 32] >> (token % 32) & 1 == 1).collect();
        assert!(!allowed.is_empty(), "no token may come next");
        let token = allowed[random.usize(..allowed.len())];
        constrained.accept(token).expect("an allowed token is accepted");
        if token == STOP {
            break;
        }
    }
    true
}

const TASKS: [Task; 11] = [
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

fn mutate_eval(input: &mut Vec<u8>, random: &mut Rng) -> bool {
    let Some((task, file)) = input.split_first() else { return false };
    let (task, mut file) = (*task, file.to_vec());
    let mutated = json::mutate_lines(&mut file, random);
    *input = [&[task][..], &file].concat();
    mutated
}

/// Questions have their prompts, and every metric of an answer is a number from 0 to its best.
fn eval(bytes: &[u8]) -> bool {
    let Some((task, file)) = bytes.split_first() else { return false };
    let task = TASKS[usize::from(*task) % TASKS.len()];
    let Ok(items) = read_items(task, "data.jsonl", &String::from_utf8_lossy(file), None) else { return false };
    for item in items.iter().take(8) {
        for family in [Family::QwenVl, Family::Qwen3Vl] {
            let _ = (item.text(), item.chat(family), item.candidates(family));
        }
        let answer = item.question.text();
        for variant in [Variant::Original, Variant::Corrected] {
            match &item.truth {
                Truth::Answers(answers) => metrics(&answer, answers, variant),
                Truth::Box { corners, width, height } => {
                    let found = qwen_vl_eval::predicted_box(&answer).unwrap_or([0.0; 4]);
                    let overlap = qwen_vl_eval::iou(found, *corners);
                    // Numbers near the largest have areas that are infinite.
                    assert!(overlap.is_nan() || overlap <= 1.0 || corners.iter().any(|at| at.abs() > 1e100), "{found:?} {corners:?}");
                    qwen_vl_eval::grounding_match(&answer, *corners, *width, *height, variant);
                }
                Truth::Choice(_) | Truth::Unknown => {}
            }
        }
    }
    !items.is_empty()
}

fn metrics(answer: &str, answers: &[String], variant: Variant) {
    let anls = qwen_vl_eval::anls(answer, answers, variant);
    let vqa = qwen_vl_eval::vqa_score(answer, answers, variant);
    assert!((0.0..=1.0).contains(&anls) && (0.0..=1.0).contains(&vqa), "ANLS {anls}, VQA {vqa}");
    qwen_vl_eval::relaxed_match(answer, answers, variant);
    qwen_vl_eval::exact_match(&qwen_vl_eval::gqa_answer(answer, variant), answers);
    qwen_vl_eval::yes_no(answer);
    let captions = [(caption_words(answer), answers.iter().map(|answer| caption_words(answer)).collect())];
    let scores = qwen_vl_eval::cider_d(&captions, variant);
    assert!(scores.iter().all(|score| (0.0..=10.0 + 1e-6).contains(score)), "CIDEr-D {scores:?}");
}
