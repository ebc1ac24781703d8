//! The chat template of a checkpoint. The runtime has the published templates and no other, so a different one is only reported.

use crate::source::Files;
use crate::source::json::Json;
use anyhow::{Result, bail};
use qwen_vl_format::{Family, ShardHash};
use serde_json::Value;

/// SHA-256 of the published templates without white space at their ends: `chat_template.json` of the checkpoints.
const PUBLISHED: [(Family, &str, &str); 3] = [
    (Family::Qwen2Vl, "Qwen2-VL", "a0bc6f6fc7a29a80017a433e8f03a1cc1236e838a944a2d034295a60c4f2fddb"),
    (Family::Qwen25Vl, "Qwen2.5-VL", "a0bc6f6fc7a29a80017a433e8f03a1cc1236e838a944a2d034295a60c4f2fddb"),
    (Family::Qwen3Vl, "Qwen3-VL", "9d879ef91075acbfb2df7e441fd79d60bacfca989cf6d511d2af45c681e94f10"),
];

/// Reads the chat template. Adds a note if it is missing or not the published one.
///
/// # Errors
/// If it is that of a model that thinks before it answers.
pub(crate) fn check(input: &Files, family: Family, notes: &mut Vec<String>) -> Result<()> {
    let Some((_, name, expected)) = PUBLISHED.into_iter().find(|(published, ..)| *published == family) else { return Ok(()) };
    let Some((file, text)) = read(input)? else {
        if named_thinking(input) {
            bail!("{input} is a Thinking model by its name: supported are Instruct models");
        }
        notes.push(format!("the folder has no chat template: prompts use the published template of {name}"));
        return Ok(());
    };
    let hash = ShardHash::of(text.replace("\r\n", "\n").trim_end().as_bytes());
    if hash == expected {
        return Ok(());
    }
    if thinks(&text) {
        bail!("{file}: the chat template begins answers with `<think>`, which Thinking models do: supported are Instruct models");
    }
    let other = PUBLISHED.into_iter().find(|(.., published)| *published == hash);
    let found = other.map_or_else(|| "not the published one".to_owned(), |(_, name, _)| format!("that of {name}"));
    notes.push(format!("{file}: the chat template is {found}; prompts use the published template of {name}"));
    Ok(())
}

/// The template and the name of its file. Of several files the first counts, as in transformers.
fn read(input: &Files) -> Result<Option<(&str, String)>> {
    if let Some(file) = input.find("chat_template.jinja") {
        return Ok(Some((file.name(), file.read_text()?)));
    }
    for name in ["chat_template.json", "processor_config.json", "tokenizer_config.json"] {
        let Some(file) = input.find(name) else { continue };
        let template = match &Json::read(file)?.value["chat_template"] {
            Value::String(text) => Some(text.clone()),
            // Several templates by name.
            Value::Array(list) => {
                list.iter().find(|entry| entry["name"] == "default").and_then(|entry| entry["template"].as_str()).map(str::to_owned)
            }
            _ => None,
        };
        if let Some(text) = template {
            return Ok(Some((name, text)));
        }
    }
    Ok(None)
}

/// True if the template's generation prompt opens a thought.
fn thinks(template: &str) -> bool {
    let prompt = template.rfind("add_generation_prompt").map_or("", |at| &template[at..]);
    ["assistant\\n<think>", "assistant\n<think>"].iter().any(|opening| prompt.contains(opening))
}

/// True if the checkpoint's name has the word "Thinking".
fn named_thinking(input: &Files) -> bool {
    input.name().split(['-', '_', '.', '/']).any(|word| word.eq_ignore_ascii_case("thinking"))
}
