//! The tokenizer against the results of the original's.

mod common;

use common::{data_folders, read, read_json};
use qwen_vl_format::AddedToken;
use qwen_vl_processor::{
    AnswerStream, Family, Grounded, GroundingEvent, KeepSpecials, NumberedPicture, PictureSize, ProcessorError, SpecialTokens,
    StreamDecoder, Tokenizer, parse_grounding,
};
use serde::Deserialize;
use std::{collections::HashMap, path::Path};

#[derive(Deserialize)]
struct Cases<T> {
    cases: Vec<T>,
}

/// The result of the original, or its error.
#[derive(Deserialize, Debug)]
#[serde(untagged)]
enum Outcome<T> {
    Value(T),
    Error { error: String, message: String },
}

#[derive(Deserialize)]
struct Encoding {
    text: String,
    ids: Outcome<Vec<u32>>,
    ids_chat: Option<Outcome<Vec<u32>>>,
    ids_plain: Option<Outcome<Vec<u32>>>,
    decoded: Option<Outcome<String>>,
    decoded_skip_special: Option<String>,
    decoded_skip_special_keep_grounding: Option<String>,
}

#[derive(Deserialize)]
struct Decoding {
    ids: Vec<u32>,
    decoded: String,
}

fn tokenizer(folder: &Path) -> Tokenizer {
    Tokenizer::from_tiktoken(&read(&folder.join("tokenizer/qwen.tiktoken"))).unwrap()
}

fn check_ids(tokenizer: &Tokenizer, text: &str, allowed: SpecialTokens, expected: &Outcome<Vec<u32>>) {
    let found = tokenizer.encode(text, allowed);
    match (found, expected) {
        (Ok(found), Outcome::Value(expected)) => assert_eq!(&found, expected, "{text:?} {allowed:?}"),
        (Err(found), Outcome::Error { message, .. }) => {
            let same = match found {
                ProcessorError::UnclosedImage { .. } => message.contains("Unclosed"),
                ProcessorError::ImagePathTooLong { .. } => message.contains("too long"),
                ProcessorError::SpecialTokenInImage { .. } => message.contains("expected a bytes-like object"),
                _ => false,
            };
            assert!(same, "{text:?} {allowed:?}: {found}, the original says {message}");
        }
        (found, expected) => panic!("{text:?} {allowed:?}: {found:?}, expected {expected:?}"),
    }
}

#[test]
fn encodes_like_the_original() {
    for folder in data_folders() {
        let tokenizer = tokenizer(&folder);
        let Cases { cases } = read_json::<Cases<Encoding>>(&folder.join("tokenizer/encode.json"));
        assert!(cases.len() >= 135, "{} cases in {}", cases.len(), folder.display());
        for case in &cases {
            check_ids(&tokenizer, &case.text, SpecialTokens::All, &case.ids);
            check_ids(&tokenizer, &case.text, SpecialTokens::ImageAndGrounding, case.ids_chat.as_ref().unwrap_or(&case.ids));
            check_ids(&tokenizer, &case.text, SpecialTokens::None, case.ids_plain.as_ref().unwrap_or(&case.ids));
        }
    }
}

#[test]
fn decodes_what_it_encodes_like_the_original() {
    for folder in data_folders() {
        let tokenizer = tokenizer(&folder);
        let mut count = 0;
        for case in read_json::<Cases<Encoding>>(&folder.join("tokenizer/encode.json")).cases {
            let (Outcome::Value(ids), Some(decoded)) = (&case.ids, &case.decoded) else { continue };
            count += 1;
            let found = tokenizer.decode(ids, KeepSpecials::All);
            match decoded {
                Outcome::Value(expected) => assert_eq!(&found, expected),
                // A path that fills all positions: the original fails without padding.
                Outcome::Error { error, .. } => {
                    assert_eq!(error, "ValueError");
                    assert_eq!(found, case.text);
                    continue;
                }
            }
            let skipped = case.decoded_skip_special.as_ref().unwrap_or(&found);
            assert_eq!(&tokenizer.decode(ids, KeepSpecials::None), skipped, "{:?}", case.text);
            let grounding = case.decoded_skip_special_keep_grounding.as_ref().unwrap_or(skipped);
            assert_eq!(&tokenizer.decode(ids, KeepSpecials::Grounding), grounding, "{:?}", case.text);
        }
        assert!(count >= 100, "{count} cases in {}", folder.display());
    }
}

#[test]
fn decodes_ids_like_the_original() {
    for folder in data_folders() {
        let tokenizer = tokenizer(&folder);
        let Cases { cases } = read_json::<Cases<Decoding>>(&folder.join("tokenizer/decode.json"));
        assert!(cases.len() > 10, "{} cases in {}", cases.len(), folder.display());
        for Decoding { ids, decoded } in cases {
            assert_eq!(tokenizer.decode(&ids, KeepSpecials::All), decoded, "{ids:?}");
        }
    }
}

#[test]
fn lone_surrogates_are_replacement_characters() {
    #[derive(Deserialize)]
    struct Surrogates {
        utf16: Vec<u16>,
        ids: Vec<u32>,
    }
    for folder in data_folders() {
        // Not part of the small set.
        let path = folder.join("tokenizer/surrogates.json");
        if !path.exists() {
            continue;
        }
        let tokenizer = tokenizer(&folder);
        for Surrogates { utf16, ids } in read_json::<Cases<Surrogates>>(&path).cases {
            let text = String::from_utf16_lossy(&utf16);
            assert_eq!(tokenizer.encode(&text, SpecialTokens::All).unwrap(), ids, "{utf16:?}");
        }
    }
}

#[test]
fn special_ids_follow_the_ranks() {
    for folder in data_folders() {
        let tokenizer = tokenizer(&folder);
        let file: serde_json::Value = read_json(&folder.join("tokenizer/special_tokens.json"));
        let ids = file["ids"].as_object().unwrap();
        assert_eq!(ids.len(), 217);
        for (text, id) in ids {
            let id = id.as_u64().unwrap() as u32;
            assert_eq!(tokenizer.decode(&[id], KeepSpecials::All), *text);
            if text != "<img>" {
                assert_eq!(tokenizer.encode(text, SpecialTokens::All).unwrap(), [id], "{text}");
            }
        }
        let special = tokenizer.special();
        for (name, id) in [
            ("<|endoftext|>", special.endoftext),
            ("<|im_start|>", special.im_start),
            ("<|im_end|>", special.im_end),
            ("<ref>", special.ref_start),
            ("</ref>", special.ref_end),
            ("<box>", special.box_start),
            ("</box>", special.box_end),
            ("<quad>", special.quad_start),
            ("</quad>", special.quad_end),
            ("<img>", special.img_start),
            ("</img>", special.img_end),
            ("<imgpad>", special.imgpad),
        ] {
            assert_eq!(ids[name], id, "{name}");
        }
        assert_eq!(tokenizer.len(), special.imgpad as usize + 1);
        assert!(tokenizer.check_image_token(special.img_start).is_ok());
        let error = tokenizer.check_image_token(7).unwrap_err().to_string();
        assert!(error.contains("`visual.image_start_id` = 7"), "{error}");
    }
}

#[test]
fn names_that_only_look_special_are_text() {
    let tokenizer = tokenizer(&data_folders()[0]);
    for text in ["<|extra_205|>", "<|extra_05|>", "<|extra_+5|>", "<|extra_|>", "<IMG>", "<img >", "<|im_end|", "<<|im_end|", "<é>"] {
        assert_eq!(tokenizer.encode(text, SpecialTokens::All).unwrap(), tokenizer.encode(text, SpecialTokens::None).unwrap(), "{text}");
    }
    let ids = tokenizer.encode("<<|im_end|>>", SpecialTokens::All).unwrap();
    assert_eq!(ids[1], tokenizer.special().im_end);
}

#[test]
fn image_errors_name_the_place() {
    let tokenizer = tokenizer(&data_folders()[0]).with_queries(16);
    for (text, expected) in [
        ("é <img>unclosed", "`<img>` at character 2 has no `</img>`"),
        ("<img>a/very/long/path.png</img>", "the path in `<img>` at character 0 takes 20 bytes of UTF-8, expected at most 16"),
        ("x<img>a<box>b</img>", "special token `<box>` at character 7 is inside `<img>…</img>`"),
        ("<img>a</img><img>b<|im_end|>", "special token `<|im_end|>` at character 18"),
    ] {
        let error = tokenizer.encode(text, SpecialTokens::All).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let full = "<img>16-bytes-of-path</img>";
    let ids = tokenizer.encode(full, SpecialTokens::All).unwrap();
    assert_eq!(ids.len(), 18);
    assert_eq!(tokenizer.decode(&ids, KeepSpecials::All), full);
}

#[test]
fn streaming_gives_the_same_text() {
    for folder in data_folders() {
        let tokenizer = tokenizer(&folder);
        let encoded = read_json::<Cases<Encoding>>(&folder.join("tokenizer/encode.json")).cases;
        let encoded = encoded.into_iter().filter_map(|case| if let Outcome::Value(ids) = case.ids { Some(ids) } else { None });
        let decoded = read_json::<Cases<Decoding>>(&folder.join("tokenizer/decode.json")).cases.into_iter().map(|case| case.ids);
        let without_images = |ids: &Vec<u32>| !ids.contains(&tokenizer.special().img_start);
        let all: Vec<_> = encoded.chain(decoded).filter(without_images).collect();
        assert!(all.len() >= 100, "{} sequences in {}", all.len(), folder.display());
        for ids in all {
            for keep in [KeepSpecials::All, KeepSpecials::Grounding, KeepSpecials::Answer, KeepSpecials::None] {
                let mut decoder = StreamDecoder::new(keep);
                let mut text: String = ids.iter().map(|id| decoder.push(&tokenizer, *id)).collect();
                text += &decoder.finish();
                assert_eq!(text, tokenizer.decode(&ids, keep), "{ids:?}");
            }
        }
    }
}

#[test]
fn answers_from_ids_are_those_from_text() {
    let picture =
        NumberedPicture { number: 1, size: PictureSize { width: 640, height: 480 }, seen: PictureSize { width: 640, height: 480 } };
    for folder in data_folders() {
        let tokenizer = tokenizer(&folder);
        let mut objects = 0;
        for case in read_json::<Cases<Encoding>>(&folder.join("tokenizer/encode.json")).cases {
            let Outcome::Value(ids) = case.ids else { continue };
            if ids.contains(&tokenizer.special().img_start) {
                continue;
            }
            let mut stream = AnswerStream::new(Family::QwenVl, &[picture]);
            let mut found = Grounded::default();
            let mut events: Vec<GroundingEvent> = ids.iter().flat_map(|id| stream.push(&tokenizer, *id)).collect();
            events.extend(stream.finish());
            for event in events {
                match event {
                    GroundingEvent::Text(text) => found.text.push_str(&text),
                    GroundingEvent::Object(object) => found.objects.push(object),
                }
            }
            let raw = tokenizer.decode(&ids, KeepSpecials::Answer);
            assert_eq!(stream.raw(), raw);
            assert_eq!(found, parse_grounding(Family::QwenVl, &raw, &[picture], ""), "{raw}");
            objects += found.objects.len();
        }
        assert!(objects >= 4, "{objects} objects in {}", folder.display());
    }
}

#[test]
fn streaming_holds_back_incomplete_characters() {
    let tokenizer = tokenizer(&data_folders()[0]);
    // Ids of the bytes F0 9F 98 80, 😀.
    let bytes: Vec<u32> = [0xF0, 0x9F, 0x98, 0x80].map(|byte| byte_id(&tokenizer, byte)).to_vec();
    let mut decoder = StreamDecoder::new(KeepSpecials::All);
    let pieces: Vec<String> = bytes.iter().map(|id| decoder.push(&tokenizer, *id)).collect();
    assert_eq!(pieces, ["", "", "", "😀"]);
    assert_eq!(decoder.finish(), "");
    decoder.push(&tokenizer, bytes[0]);
    assert_eq!(decoder.push(&tokenizer, byte_id(&tokenizer, b'a')), "\u{fffd}a");
    decoder.push(&tokenizer, bytes[0]);
    assert_eq!(decoder.finish(), "\u{fffd}");
    // Rows of the embedding beyond the last special token.
    assert_eq!(decoder.push(&tokenizer, tokenizer.len() as u32), "");
}

/// `<|extra_N|>` is text in answers, as the original's chat shows it (case 20 of `decode.json`).
#[test]
fn extra_tokens_are_text_of_answers() {
    let tokenizer = tokenizer(&data_folders()[0]);
    let extra = tokenizer.special().im_end + 5;
    let ids = [200, 72, 233, extra, 72, tokenizer.special().im_end, tokenizer.special().imgpad];
    assert_eq!(tokenizer.decode(&ids, KeepSpecials::Answer), "\u{c}i\u{fffd}<|extra_4|>i");
    let mut stream = AnswerStream::new(Family::QwenVl, &[]);
    let mut events: Vec<_> = ids.iter().flat_map(|id| stream.push(&tokenizer, *id)).collect();
    events.extend(stream.finish());
    let texts = events.iter().map(|event| match event {
        GroundingEvent::Text(text) => text.as_str(),
        GroundingEvent::Object(_) => "",
    });
    assert_eq!(texts.collect::<String>(), "\u{c}i\u{fffd}<|extra_4|>i");
    assert_eq!(stream.raw(), "\u{c}i\u{fffd}<|extra_4|>i");
}

/// A fine-tune of the 2023 model adds tokens after the published ones. They are text, and so are those that it calls special in answers.
#[test]
fn added_tokens_of_the_2023_model() {
    let file = read(&data_folders()[0].join("tokenizer/qwen.tiktoken"));
    let first = tokenizer(&data_folders()[0]).len() as u32;
    let added = |id, text: &str, special| AddedToken { id, text: text.to_owned(), special };
    let listed = [added(first, "<loc_1>", false), added(first + 1, "<seg>", true)];
    let tokenizer = Tokenizer::new(&file, Family::QwenVl, &listed).unwrap();
    let ids = [first, byte_id(&tokenizer, b'a'), first + 1];
    assert_eq!(tokenizer.decode(&ids, KeepSpecials::Answer), "<loc_1>a<seg>");
    assert_eq!(tokenizer.encode("<loc_1>a<seg>", SpecialTokens::All).unwrap(), ids);
    // Typed in a message: the special one is text.
    let typed = tokenizer.encode("<loc_1>a<seg>", SpecialTokens::Grounding).unwrap();
    assert!(typed[0] == first && !typed.contains(&(first + 1)), "{typed:?}");
    let refused = Tokenizer::new(&file, Family::QwenVl, &[added(first, "<ref>", false)]).unwrap_err().to_string();
    assert!(refused.contains("`<ref>`") && refused.contains("each id and text once"), "{refused}");
}

/// Returns the id of a byte: the first 256 ranks are printable ASCII first, then the rest of the alphabet of byte-level BPE.
fn byte_id(tokenizer: &Tokenizer, byte: u8) -> u32 {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let order: Vec<u8> = (0..=255).filter(printable).chain((0..=255).filter(|byte| !printable(byte))).collect();
    let id = order.iter().position(|candidate| *candidate == byte).unwrap() as u32;
    assert!(byte >= 0x80 || tokenizer.decode(&[id], KeepSpecials::All).as_bytes() == [byte]);
    id
}

#[test]
fn line_ends_of_the_vocabulary_do_not_matter() {
    let file = read(&data_folders()[0].join("tokenizer/qwen.tiktoken"));
    let crlf = String::from_utf8(file.clone()).unwrap().replace('\n', "\r\n");
    let text = "The quick brown fox 框出图中 12 345";
    let ids = |file: &[u8]| Tokenizer::from_tiktoken(file).unwrap().encode(text, SpecialTokens::All).unwrap();
    assert_eq!(ids(&file), ids(crlf.as_bytes()));
}

/// The definition of tiktoken: in a word, repeatedly join the neighbours whose bytes together have the lowest rank.
fn tiktoken(ranks: &HashMap<Vec<u8>, u32>, word: &[u8]) -> Vec<u32> {
    if let Some(rank) = ranks.get(word) {
        return vec![*rank];
    }
    let mut parts: Vec<Vec<u8>> = word.iter().map(|byte| vec![*byte]).collect();
    loop {
        let joined = parts.windows(2).enumerate().filter_map(|(at, pair)| Some((*ranks.get(&pair.concat())?, at)));
        let Some((_, at)) = joined.min() else { break };
        let right = parts.remove(at + 1);
        parts[at].extend(right);
    }
    parts.iter().map(|part| ranks[part]).collect()
}

#[test]
fn words_merge_by_the_definition() {
    for folder in data_folders() {
        let file = read(&folder.join("tokenizer/qwen.tiktoken"));
        let tokenizer = Tokenizer::from_tiktoken(&file).unwrap();
        let ranks: HashMap<Vec<u8>, u32> =
            (0..tokenizer.special().endoftext).map(|id| (tokenizer.token_bytes(id).unwrap().to_vec(), id)).collect();
        let mut random = fastrand::Rng::with_seed(7);
        let letters: Vec<char> = "aeioustnrlcdAEé的是一不了か안шשن".chars().collect();
        for round in 0..20_000 {
            // Few letters make overlapping merges likely.
            let alphabet = 1 + random.usize(..letters.len());
            let word: String = (0..1 + random.usize(..24)).map(|_| letters[random.usize(..alphabet)]).collect();
            assert_eq!(tokenizer.encode(&word, SpecialTokens::None).unwrap(), tiktoken(&ranks, word.as_bytes()), "{round}: {word}");
        }
        // The text of every token that is one word.
        for (token, id) in &ranks {
            let Ok(text) = std::str::from_utf8(token) else { continue };
            if text.chars().all(|c| c.is_ascii_alphabetic()) {
                assert_eq!(tokenizer.encode(text, SpecialTokens::None).unwrap(), [*id], "{text}");
            }
        }
    }
}
