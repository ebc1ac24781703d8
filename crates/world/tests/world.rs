//! The world: the same for ever, what is held out stays out, and what is said is true.

use qwen_vl_processor::{Chat, Family, KeepSpecials, Prompt, SpecialTokens, parse_grounding};
use qwen_vl_world::{Split, Stage, Task, Thing, VOCABULARY, World, page_description, tokenizer};
use std::collections::BTreeSet;

const STAGES: [Stage; 4] = [Stage::Text, Stage::Pretrain, Stage::Multitask, Stage::Chat];
const QUERIES: usize = 16;

fn worlds() -> [World; 2] {
    [World::small(), World::full().with_side(112)]
}

#[test]
fn a_sample_is_the_same_whatever_was_asked_before() {
    for world in worlds() {
        for stage in STAGES {
            let in_a_row: Vec<_> = world.samples(Split::Train, stage, 3).take(20).collect();
            assert_eq!(world.sample(Split::Train, stage, 3, 17), in_a_row[17]);
            assert_ne!(world.sample(Split::Train, stage, 4, 17), in_a_row[17]);
            assert_ne!(world.sample(Split::Validation, stage, 3, 17), in_a_row[17]);
        }
    }
}

#[test]
fn training_never_shows_what_is_held_out() {
    for world in worlds() {
        for stage in STAGES {
            for split in [Split::Train, Split::Validation] {
                for sample in world.samples(split, stage, 1).take(300) {
                    assert!(!sample.held_out);
                    // Texts may name it.
                    if stage == Stage::Text {
                        continue;
                    }
                    for object in sample.scenes.iter().flat_map(|scene| &scene.objects) {
                        assert!(!world.held_out(&object.thing, object.place), "{object:?}");
                    }
                }
            }
        }
        let tested: Vec<_> = world.samples(Split::Test, Stage::Pretrain, 1).take(300).collect();
        let held_out = tested.iter().filter(|sample| sample.held_out).count();
        assert!((60..240).contains(&held_out), "{held_out} of 300");
    }
}

#[test]
fn every_thing_is_seen_somewhere_in_training() {
    let world = World::small();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for sample in world.samples(Split::Train, Stage::Pretrain, 1).take(6000) {
        seen.extend(sample.scenes[0].objects.iter().map(|object| object.thing.en()));
    }
    for kind in &world.kinds {
        assert!(seen.contains(&Thing::Pictogram(*kind).en()), "kind {kind}");
    }
    let words = world.words.iter().filter(|word| seen.contains(&format!("word {word}"))).count();
    assert_eq!(words, world.words.len());
    let shapes = seen.iter().filter(|name| name.contains(' ') && !name.starts_with("word") && !name.starts_with("number")).count();
    assert_eq!(shapes, world.shapes.len() * (world.colors.len() - 1), "one colour of each shape is held out");
}

#[test]
fn objects_are_where_their_boxes_say() {
    for world in worlds() {
        // On a plain background nothing but the objects differs from its colour.
        let world = World { backgrounds: vec![qwen_vl_world::Background::Plain], ..world };
        for sample in world.samples(Split::Test, Stage::Pretrain, 2).take(200) {
            let (scene, picture) = (&sample.scenes[0], &sample.pictures[0]);
            let side = scene.side;
            let color = qwen_vl_world::BACKGROUND_COLORS[scene.background.unwrap()].1;
            let differs = |x: usize, y: usize| {
                let pixel = &picture.rgb()[(y * side + x) * 3..][..3];
                pixel.iter().zip(color).any(|(value, plain)| value.abs_diff(plain) > 24)
            };
            let mut places = BTreeSet::new();
            for object in &scene.objects {
                let [left, top, right, bottom] = object.bounds.map(|value| value as usize);
                assert!(left < right && top < bottom && right <= side && bottom <= side, "{object:?}");
                assert!((left..right).any(|x| (top..bottom).any(|y| differs(x, y))), "nothing is drawn in {object:?}");
                assert!(places.insert(object.place), "two objects share a place");
            }
            let inside = |x: usize, y: usize| {
                // A pixel that is covered by less than the box asks for may stick out.
                scene.objects.iter().any(|object| {
                    let [left, top, right, bottom] = object.bounds.map(|value| value as usize);
                    (left.saturating_sub(2)..right + 2).contains(&x) && (top.saturating_sub(2)..bottom + 2).contains(&y)
                })
            };
            for y in 0..side {
                for x in 0..side {
                    assert!(inside(x, y) || !differs(x, y), "something is at ({x}, {y}) outside all boxes of {:?}", scene.objects);
                }
            }
        }
    }
}

#[test]
fn answers_are_true_and_both_ways_asked() {
    let world = World::small();
    let (mut yes, mut no) = (0, 0);
    let mut kinds: BTreeSet<&str> = BTreeSet::new();
    let mut tasks: BTreeSet<Task> = BTreeSet::new();
    for sample in world.samples(Split::Train, Stage::Multitask, 1).take(3000) {
        let scene = &sample.scenes[0];
        for question in &sample.questions {
            kinds.insert(question.kind);
            tasks.insert(question.task);
            let there = |name: &str| {
                let same = |thing: &Thing| thing.en() == name || thing.zh() == name;
                scene.objects.iter().filter(|object| same(&object.thing)).collect::<Vec<_>>()
            };
            match question.kind {
                "what" => assert!(!there(&question.answer).is_empty(), "{question:?}"),
                "exists" if question.prompt.starts_with("Is") => {
                    let name = question.prompt.trim_start_matches("Is there ").trim_start_matches("an ").trim_start_matches("a ");
                    assert_eq!(!there(name.trim_end_matches('?')).is_empty(), question.answer == "Yes", "{question:?}");
                    *if question.answer == "Yes" { &mut yes } else { &mut no } += 1;
                }
                "where" if question.prompt.starts_with("Where") => {
                    let name = question.prompt.trim_start_matches("Where is the ").trim_end_matches('?');
                    let places: Vec<_> = there(name).iter().map(|object| object.place_name().en).collect();
                    assert_eq!(places, [question.answer.as_str()], "{question:?}");
                }
                _ => {}
            }
            if question.task == Task::GroundedCaption {
                assert_eq!(parse_grounding(Family::QwenVl, &question.answer, &[], "").objects.len(), scene.objects.len());
            }
        }
    }
    let balance = f64::from(yes) / f64::from(yes + no);
    assert!((0.4..0.6).contains(&balance), "{balance}");
    for kind in ["what", "color", "count", "where", "exists", "relation", "size", "list", "ocr_question"] {
        assert!(kinds.contains(kind), "{kind} is never asked");
    }
    let all = [Task::Caption, Task::Vqa, Task::OcrVqa, Task::GroundedCaption, Task::Referring, Task::RegionCaption, Task::Ocr];
    assert_eq!(tasks, all.into());
}

#[test]
fn a_chat_is_encoded_as_the_chat_template_does() {
    let tokenizer = tokenizer(QUERIES).unwrap();
    let world = World::small();
    let mut pictures = BTreeSet::new();
    for sample in world.samples(Split::Train, Stage::Chat, 1).take(100) {
        let encoded = sample.encode(&tokenizer).unwrap();
        assert_eq!(encoded.ids.len(), encoded.loss.len());
        assert_eq!(encoded.images.len(), sample.pictures.len());
        pictures.insert(sample.pictures.len());

        // The questions as a user of the model would ask them, the answers as the history.
        let asked: Vec<&str> = sample.segments.iter().skip(2).step_by(4).map(|segment| segment.text.as_str()).collect();
        let replies: Vec<&str> = sample.questions.iter().map(|question| question.reply.as_str()).collect();
        let (last, before) = asked.split_last().unwrap();
        let history = before.iter().zip(&replies).map(|(ask, reply)| ((*ask).into(), (*reply).into())).collect();
        let prompt = Prompt::chat(&tokenizer, &Chat { history, query: (*last).into(), ..Chat::default() }, &[]).unwrap().prompt;
        let reply = tokenizer.encode(replies.last().unwrap(), SpecialTokens::ImageAndGrounding).unwrap();
        let end = tokenizer.special().im_end;
        assert_eq!(encoded.ids, [prompt.ids, reply.clone(), vec![end]].concat());
        assert!(encoded.loss[encoded.ids.len() - reply.len() - 1..].iter().all(|learned| *learned));
        let learned = encoded.ids.iter().zip(&encoded.loss).filter(|(_, learned)| **learned).map(|(id, _)| *id).collect::<Vec<_>>();
        assert_eq!(tokenizer.decode(&learned, KeepSpecials::Grounding), replies.concat());
    }
    assert_eq!(pictures, [0, 1, 2].into());
}

#[test]
fn a_limit_leaves_whole_questions() {
    let tokenizer = tokenizer(QUERIES).unwrap();
    let end = tokenizer.special().endoftext;
    let world = World { questions_per_picture: 3..=6, ..World::small() };
    for sample in world.samples(Split::Train, Stage::Multitask, 1).take(200) {
        let whole = sample.encode(&tokenizer).unwrap();
        let cut = sample.encode_within(&tokenizer, 80).unwrap();
        assert_eq!(cut.ids[..], whole.ids[..cut.ids.len()]);
        assert_eq!(cut.ids.last(), Some(&end));
        let questions = cut.ids.iter().filter(|id| **id == end).count();
        assert!(cut.ids.len() <= 80 || questions == 1);
        assert!(cut.ids.len() == whole.ids.len() || questions < sample.questions.len());
    }
}

#[test]
fn the_vocabulary_is_one_of_qwen_s_kind() {
    let tokenizer = tokenizer(QUERIES).unwrap();
    assert_eq!(VOCABULARY.iter().filter(|byte| **byte == b'\n').count(), 1024);
    assert_eq!(tokenizer.special().endoftext, 1024);
    let count = |text: &str| tokenizer.encode(text, SpecialTokens::All).unwrap().len();
    for (text, tokens) in
        [(" cat", 1), (" sunflower", 1), ("猫", 1), ("正方形", 1), (" top", 1), ("12", 2), ("<box>(12,3),(456,789)</box>", 16)]
    {
        assert_eq!(count(text), tokens, "{text}");
    }
    for text in ["any text at all: ÄÖ 日本語 🦀\n\t", "<ref>the cat</ref><box>(1,2),(3,4)</box>"] {
        let ids = tokenizer.encode(text, SpecialTokens::All).unwrap();
        assert_eq!(tokenizer.decode(&ids, KeepSpecials::All), text);
    }
}

#[test]
fn the_page_is_built_with_this_world() {
    let stale = "assets/small.json is stale: run `cargo run -p qwen-vl-world -- page crates/world/assets/small.json`";
    let built_with: serde_json::Value = serde_json::from_str(include_str!("../assets/small.json")).expect(stale);
    assert!(built_with == page_description(), "{stale}");
}
