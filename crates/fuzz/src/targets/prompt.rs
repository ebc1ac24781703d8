//! Conversations and videos of a page, which `qwen-vl-processor` makes prompts of.

use crate::Target;
use crate::mutate::json;
use qwen_vl_processor::{
    AddedToken, Chat, Content, Family, Message, Messages, Part, PictureGrid, PictureSizing, Prompt, SpecialIds, Tokenizer, VideoOptions,
    VideoSizing, VideoSource,
};
use serde::Deserialize;
use std::sync::LazyLock;

/// A list of messages, or a chat.
pub static PROMPT: Target = Target { name: "prompt", max_len: 2048, run: prompt, mutate: json::mutate, memory: [8 << 20, 4096] };

/// Facts about a video and the options of its reader.
pub static VIDEO: Target = Target { name: "video", max_len: 512, run: video, mutate: json::mutate, memory: [4 << 20, 256] };

const FAMILIES: [Family; 4] = [Family::QwenVl, Family::Qwen2Vl, Family::Qwen25Vl, Family::Qwen3Vl];

#[derive(Deserialize)]
struct Input {
    family: Family,
    messages: Option<Messages>,
    chat: Option<Chat>,
}

/// Tokenizers of all families, over the ranks of a small model.
static TOKENIZERS: LazyLock<[Tokenizer; 4]> = LazyLock::new(|| {
    const RANKS: &[u8] = include_bytes!("../../../../tests/fixtures/checkpoints/mini-a/qwen.tiktoken");
    const SPECIAL: [&str; 14] = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|box_start|>",
        "<|box_end|>",
        "<|quad_start|>",
        "<|quad_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ];
    let texts = SPECIAL.into_iter().map(|text| (text, true)).chain([("<tool_call>", false), ("</tool_call>", false)]);
    let added: Vec<AddedToken> =
        (320..).zip(texts).map(|(id, (text, special))| AddedToken { id, text: text.to_owned(), special }).collect();
    FAMILIES.map(|family| {
        let added = if family == Family::QwenVl { &[][..] } else { &added };
        Tokenizer::new(RANKS, family, added).expect("the vocabulary of the fixture")
    })
});

/// Texts of a conversation are texts: they open no message and add no picture, whatever special tokens they spell.
fn prompt(bytes: &[u8]) -> bool {
    let Ok(Input { family, messages, chat }) = serde_json::from_slice(bytes) else { return false };
    let tokenizer = FAMILIES.iter().position(|known| *known == family).map(|at| &TOKENIZERS[at]).expect("all families are listed");
    let mut accepted = false;
    if let Some(mut messages) = messages {
        let contents = messages.messages.iter_mut().map(|message| &mut message.content);
        let grids = prepared(contents.collect(), family);
        if let Ok(prompt) = Prompt::messages(tokenizer, &messages, &grids) {
            accepted = true;
            check(tokenizer, &prompt);
            if !messages.live_specials {
                let plain = Messages {
                    messages: messages.messages.iter().map(disarmed_message).collect(),
                    prefix: messages.prefix.as_deref().map(disarmed),
                    tools: messages.tools.iter().map(|tool| disarmed(tool)).collect(),
                    ..messages
                };
                let plain = Prompt::messages(tokenizer, &plain, &grids).expect("the same messages without special tokens are accepted");
                assert_eq!(controls(tokenizer, &prompt), controls(tokenizer, &plain), "a text acts as a special token");
            }
        }
    }
    if let Some(mut chat) = chat {
        let contents = chat.history.iter_mut().flat_map(|(query, answer)| [query, answer]);
        let mut contents: Vec<&mut Content> = contents.collect();
        contents.push(&mut chat.query);
        let grids = prepared(contents, family);
        // Lengths differ without the special tokens: no turn may be dropped.
        (chat.context, chat.max_window_size) = (None, usize::MAX);
        if let Ok(found) = Prompt::chat(tokenizer, &chat, &grids) {
            accepted = true;
            check(tokenizer, &found.prompt);
            let plain = Chat {
                system: chat.system.as_deref().map(disarmed),
                history: chat.history.iter().map(|(query, answer)| (disarmed_content(query), disarmed_content(answer))).collect(),
                query: disarmed_content(&chat.query),
                prefix: chat.prefix.as_deref().map(disarmed),
                ..chat
            };
            let plain = Prompt::chat(tokenizer, &plain, &grids).expect("the same chat without special tokens is accepted");
            assert_eq!(controls(tokenizer, &found.prompt), controls(tokenizer, &plain.prompt), "a text acts as a special token");
        }
    }
    accepted
}

/// Turns tagged texts of the 2023 model, where picture tags act, into plain ones, and videos into pictures. Returns the grids of the pictures.
fn prepared(contents: Vec<&mut Content>, family: Family) -> Vec<PictureGrid> {
    let mut grids = Vec::new();
    for content in contents {
        match content {
            Content::Tagged(text) if family == Family::QwenVl => *content = Content::Parts(vec![Part::Text { text: std::mem::take(text) }]),
            Content::Tagged(_) => {}
            Content::Parts(parts) => {
                for part in parts {
                    if let Part::Video { video } = part {
                        *part = Part::Image { image: std::mem::take(video) };
                    }
                    if matches!(part, Part::Image { .. }) && family != Family::QwenVl {
                        grids.push(PictureGrid::still([2, 4], 2, 14));
                    }
                }
            }
        }
    }
    grids
}

/// The spans of the pictures are in the prompt, in order.
fn check(tokenizer: &Tokenizer, prompt: &Prompt) {
    let mut from = 0;
    for image in &prompt.images {
        assert!(from <= image.start && image.start <= image.features_from && image.features_from < image.end, "{image:?}");
        assert!(image.end <= prompt.ids.len(), "{image:?} of {}", prompt.ids.len());
        from = image.end;
    }
    assert!(prompt.ids.iter().all(|id| (*id as usize) < tokenizer.len()));
    assert_eq!(prompt.positions().ids.len(), prompt.ids.len());
}

/// Counts the tokens of each kind that structure a prompt.
fn controls(tokenizer: &Tokenizer, prompt: &Prompt) -> Vec<usize> {
    let SpecialIds { endoftext, im_start, im_end, img_start, img_end, imgpad, video_pad, .. } = tokenizer.special();
    let kinds = [Some(endoftext), Some(im_start), Some(im_end), Some(img_start), Some(img_end), Some(imgpad), video_pad];
    kinds.iter().flatten().map(|kind| prompt.ids.iter().filter(|id| *id == kind).count()).collect()
}

/// Replaces what special tokens begin with by another character of one byte.
fn disarmed(text: &str) -> String {
    text.replace('<', "(")
}

fn disarmed_content(content: &Content) -> Content {
    let part = |part: &Part| match part {
        Part::Text { text } => Part::Text { text: disarmed(text) },
        Part::Region { name, boxes } => Part::Region { name: disarmed(name), boxes: boxes.clone() },
        Part::Image { image } => Part::Image { image: image.clone() },
        Part::Video { video } => Part::Video { video: video.clone() },
    };
    match content {
        Content::Tagged(text) => Content::Tagged(disarmed(text)),
        Content::Parts(parts) => Content::Parts(parts.iter().map(part).collect()),
    }
}

fn disarmed_message(message: &Message) -> Message {
    let mut plain = Message { content: disarmed_content(&message.content), ..message.clone() };
    for call in &mut plain.tool_calls {
        (call.name, call.arguments) = (disarmed(&call.name), disarmed(&call.arguments));
    }
    plain
}

#[derive(Deserialize)]
struct VideoInput {
    family: Family,
    source: VideoSource,
    #[serde(default)]
    options: VideoOptions,
    /// Limit of tokens, as the session always sets one.
    max_tokens: usize,
}

/// The frames of a video are in it, in order, and fit the limit of tokens.
fn video(bytes: &[u8]) -> bool {
    let Ok(VideoInput { family, source, options, max_tokens }) = serde_json::from_slice(bytes) else { return false };
    // No context is longer.
    let max_tokens = max_tokens.min(1 << 18);
    let options = VideoOptions { max_tokens: Some(max_tokens), ..options };
    let pictures = PictureSizing { patch_size: 14, merge: 2, min_pixels: 3136, max_pixels: 12_845_056, window: None };
    let Ok(plan) = (VideoSizing { family, pictures }).plan(&source, &options) else { return false };
    assert!(!plan.frames.is_empty() && plan.tokens > 0 && plan.tokens <= max_tokens, "{plan:?} within {max_tokens}");
    assert!(plan.frames.is_sorted() && plan.frames.iter().all(|place| place.is_finite() && *place >= 0.0), "{plan:?}");
    let last = plan.frames.last().copied().unwrap_or_default();
    match (source.frames, source.duration) {
        (Some(count), _) => assert!(last <= (count - 1) as f64, "{plan:?} of {count}"),
        (None, Some(duration)) => assert!(last <= duration, "{plan:?} of {duration} s"),
        (None, None) => panic!("a video without frames is accepted"),
    }
    assert!(plan.width > 0 && plan.height > 0 && plan.width % 28 == 0 && plan.height % 28 == 0, "{plan:?}");
    true
}
