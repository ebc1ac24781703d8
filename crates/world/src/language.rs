//! Texts about scenes: captions, questions and answers, worded as in the paper's data.

use crate::{
    World,
    catalogue::{BACKGROUND_COLORS, COLORS, PLACES, SHAPES},
    random::Random,
    scene::{Object, Scene, Thing, article, kind, plural},
};
use serde::{Deserialize, Serialize};

/// Questions of the chat stage that the demo page suggests too.
pub(crate) mod ask {
    pub(crate) const CAPTION: &str = "Describe the picture.";
    pub(crate) const CAPTION_ZH: &str = "描述这张图片。";
    pub(crate) const LIST: &str = "What is in the picture?";
    pub(crate) const MORE: &str = "Which picture has more objects?";
    pub(crate) const READ_ZH: &str = "写的是什么？";

    pub(crate) fn read(kind: &str) -> String {
        format!("What {kind} is written?")
    }

    pub(crate) fn find(name: &str) -> String {
        format!("Find {name}.")
    }

    pub(crate) fn find_zh(name: &str) -> String {
        format!("框出图中{name}的位置")
    }

    pub(crate) fn region(region: &str) -> String {
        format!("What is {region}?")
    }
}

/// The seven tasks of multi-task pre-training (box B.1 of the paper), pure text, and dialogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Image captioning.
    Caption,
    /// Visual question answering.
    Vqa,
    /// Questions about text in the picture.
    OcrVqa,
    /// Caption with grounding: every phrase with its box.
    GroundedCaption,
    /// Referring grounding: the box of a phrase.
    Referring,
    /// Grounded captioning: the content of a box.
    RegionCaption,
    /// OCR with grounding: texts with their corners.
    Ocr,
    /// No picture.
    Text,
    /// Two pictures.
    Compare,
}

/// A question and its correct answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its task.
    pub task: Task,
    /// A finer name: `what`, `color`, `count`, `where`, `exists`, `relation`, `size`, `list`, …
    pub kind: &'static str,
    /// Question in the pre-training data, without ` Answer:`.
    pub prompt: String,
    /// Answer in the pre-training data.
    pub answer: String,
    /// Question to the chat model.
    pub ask: String,
    /// Answer of the chat model.
    pub reply: String,
}

impl Question {
    /// Prompt after the picture in the base format, with ` Answer:` where the paper has it.
    pub fn base_prompt(&self) -> String {
        match self.task {
            Task::Vqa | Task::OcrVqa | Task::Text | Task::Compare => format!("{} Answer:", self.prompt),
            _ => self.prompt.clone(),
        }
    }

    /// Answer in the base format. It follows a blank, except after `<box>`.
    pub fn base_answer(&self) -> String {
        match self.task {
            Task::Referring => self.answer.clone(),
            _ => format!(" {}", self.answer),
        }
    }
}

fn vqa(kind: &'static str, prompt: impl Into<String>, answer: impl Into<String>, reply: impl Into<String>) -> Question {
    let prompt = prompt.into();
    Question { task: Task::Vqa, kind, ask: prompt.clone(), prompt, answer: answer.into(), reply: reply.into() }
}

fn yes_no(kind: &'static str, prompt: String, yes: bool) -> Question {
    let answer = if yes { "Yes" } else { "No" };
    vqa(kind, prompt, answer, format!("{answer}."))
}

fn upper(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn joined(parts: &[String]) -> String {
    match parts {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

impl Scene {
    /// `a cat at the top left and a red square at the right`.
    pub fn caption(&self) -> String {
        let part = |object: &Object| format!("{} at the {}", object.thing.en_with_article(), object.place_name().en);
        joined(&self.objects.iter().map(part).collect::<Vec<_>>())
    }

    /// `左上有一只猫，右边有一个红色正方形。`
    pub fn caption_zh(&self) -> String {
        let part = |object: &Object| format!("{}有{}", object.place_name().zh, object.thing.zh_with_measure());
        if self.objects.is_empty() {
            return "什么都没有。".to_owned();
        }
        format!("{}。", self.objects.iter().map(part).collect::<Vec<_>>().join("，"))
    }

    /// Caption with each phrase in `<ref>`, followed by its box.
    pub fn grounded_caption(&self) -> String {
        let part = |object: &Object| format!("<ref>{}</ref>{}", object.thing.en_with_article(), object.box_text(self.side));
        joined(&self.objects.iter().map(part).collect::<Vec<_>>())
    }

    fn count(&self, of: impl Fn(&Object) -> bool) -> usize {
        self.objects.iter().filter(|object| of(object)).count()
    }

    /// Phrase for one object: its name, or its name and place if several objects have that name.
    fn reference(&self, object: &Object) -> String {
        let same = self.count(|other| other.thing.en() == object.thing.en());
        match same {
            1 => format!("the {}", object.thing.en()),
            _ => format!("the {} at the {}", object.thing.en(), object.place_name().en),
        }
    }

    fn reference_zh(&self, object: &Object) -> String {
        match self.count(|other| other.thing == object.thing) {
            1 => object.thing.zh(),
            _ => format!("{}的{}", object.place_name().zh, object.thing.zh()),
        }
    }

    fn unique(&self) -> Vec<&Object> {
        self.objects.iter().filter(|object| self.count(|other| other.thing == object.thing) == 1).collect()
    }

    fn texts(&self) -> Vec<&Object> {
        self.objects.iter().filter(|object| object.thing.is_text()).collect()
    }
}

impl World {
    fn in_chinese(&self, random: &mut Random) -> bool {
        random.chance(self.chinese)
    }

    /// A caption.
    pub(crate) fn caption(&self, scene: &Scene, chinese: bool, random: &mut Random) -> Question {
        let english_prompts = ["Generate the caption in English:", "Describe the image in English:"];
        let (prompt, answer, ask, reply) = if chinese {
            ("Generate the caption in Chinese:", scene.caption_zh(), ask::CAPTION_ZH, scene.caption_zh())
        } else {
            let caption = scene.caption();
            let reply = format!("{}.", upper(&caption));
            (*random.pick(&english_prompts), caption, *random.pick(&[ask::CAPTION, "What do you see?"]), reply)
        };
        Question { task: Task::Caption, kind: "caption", prompt: prompt.into(), answer, ask: ask.into(), reply }
    }

    /// Returns a question of a task about a scene, or `None` if the scene has nothing to ask for.
    pub(crate) fn question(&self, task: Task, scene: &Scene, random: &mut Random) -> Option<Question> {
        match task {
            Task::Caption => {
                let chinese = self.in_chinese(random);
                Some(self.caption(scene, chinese, random))
            }
            Task::Vqa => self.vqa(scene, true, random),
            Task::OcrVqa => ocr_question(scene, self.in_chinese(random), random),
            Task::GroundedCaption => {
                let prompt = "Generate the caption in English with grounding:";
                let ask = *random.pick(&[prompt, "Describe the picture with boxes."]);
                let answer = scene.grounded_caption();
                let made =
                    Question { task, kind: "grounded_caption", prompt: prompt.into(), reply: answer.clone(), answer, ask: ask.into() };
                (!scene.objects.is_empty()).then_some(made)
            }
            Task::Referring => {
                let object = pick(random, &scene.objects)?;
                let place = object.box_text(scene.side);
                let (name, ask) = if self.in_chinese(random) {
                    let name = scene.reference_zh(object);
                    (name.clone(), ask::find_zh(&name))
                } else {
                    let name = scene.reference(object);
                    (name.clone(), ask::find(&name))
                };
                let prompt = format!("<ref>{name}</ref><box>");
                let answer = place["<box>".len()..].to_owned();
                Some(Question { task, kind: "referring", reply: format!("<ref>{name}</ref>{place}"), prompt, answer, ask })
            }
            Task::RegionCaption => {
                let object = pick(random, &scene.objects)?;
                let (place, name) = (object.box_text(scene.side), object.thing.en_with_article());
                let prompt = format!("<ref>This</ref>{place} is");
                let ask = ask::region(&format!("<ref>this</ref>{place}"));
                Some(Question { task, kind: "region", prompt, reply: format!("It is {name}."), answer: name, ask })
            }
            Task::Ocr => {
                let part = |object: &&Object| match &object.thing {
                    Thing::Text(text) => format!("<ref>{text}</ref>{}", object.quad_text(scene.side)),
                    _ => String::new(),
                };
                let texts = scene.texts();
                let answer: String = texts.iter().map(part).collect();
                let prompt = "OCR with grounding:".to_owned();
                (!texts.is_empty()).then(|| Question { task, kind: "ocr", ask: prompt.clone(), prompt, reply: answer.clone(), answer })
            }
            Task::Text => Some(self.fact(random)),
            Task::Compare => None,
        }
    }

    /// Returns a question with a short answer. `seen`: the question is about a picture; otherwise a caption must suffice for the answer.
    pub(crate) fn vqa(&self, scene: &Scene, seen: bool, random: &mut Random) -> Option<Question> {
        if self.in_chinese(random) {
            return self.vqa_zh(scene, random);
        }
        // In proportion to the number of facts to learn.
        let weights = [3.0, 2.5, 2.0, 2.5, 2.5, 4.0, if seen { 1.0 } else { 0.0 }, 1.5];
        for _ in 0..8 {
            let made = match random.weighted(&weights) {
                0 => pick(random, &scene.objects).map(|object| {
                    let name = object.thing.en();
                    let reply = format!("It is {}.", object.thing.en_with_article());
                    vqa("what", format!("What is at the {}?", object.place_name().en), name, reply)
                }),
                1 => self.color_question(scene, seen, random),
                2 => Some(self.count_question(scene, random)),
                3 => pick(random, &scene.unique()).map(|object| {
                    let place = object.place_name().en;
                    vqa("where", format!("Where is the {}?", object.thing.en()), place, format!("It is at the {place}."))
                }),
                4 => self.exists_question(scene, random),
                5 => relation_question(scene, seen, random),
                6 => size_question(scene, random),
                _ => {
                    let names: Vec<String> = scene.objects.iter().map(|object| object.thing.en()).collect();
                    let reply = joined(&scene.objects.iter().map(|object| object.thing.en_with_article()).collect::<Vec<_>>());
                    let answer = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
                    Some(vqa("list", ask::LIST, answer, format!("{}.", upper(&reply))))
                }
            };
            if made.is_some() {
                return made;
            }
        }
        None
    }

    fn vqa_zh(&self, scene: &Scene, random: &mut Random) -> Option<Question> {
        match random.below(4) {
            0 => pick(random, &scene.objects).map(|object| {
                let name = object.thing.zh();
                vqa("what", format!("{}是什么？", object.place_name().zh), name, format!("是{}。", object.thing.zh_with_measure()))
            }),
            1 => pick(random, &scene.unique()).map(|object| {
                let place = object.place_name().zh;
                vqa("where", format!("{}在哪里？", object.thing.zh()), place, format!("在{place}。"))
            }),
            2 => {
                let thing = self.asked_thing(scene, random)?;
                let there = scene.objects.iter().any(|object| object.thing == thing);
                let answer = if there { "有" } else { "没有" };
                Some(vqa("exists", format!("有{}吗？", thing.zh()), answer, format!("{answer}。")))
            }
            _ => {
                let objects = scene.objects.iter().filter(|object| matches!(object.thing, Thing::Shape { .. }));
                let objects: Vec<&Object> =
                    objects.filter(|object| scene.count(|other| other.thing.noun() == object.thing.noun()) == 1).collect();
                pick(random, &objects).and_then(|object| {
                    let Thing::Shape { color, .. } = object.thing else { return None };
                    let color = COLORS[color].0.zh;
                    Some(vqa("color", format!("{}是什么颜色？", object.thing.noun().zh), color, format!("是{color}。")))
                })
            }
        }
    }

    fn color_question(&self, scene: &Scene, seen: bool, random: &mut Random) -> Option<Question> {
        let shape = |object: &&Object| match object.thing {
            Thing::Shape { shape, color } if scene.count(|other| other.thing.noun() == object.thing.noun()) == 1 => Some((shape, color)),
            _ => None,
        };
        let shapes: Vec<(usize, usize)> = scene.objects.iter().filter_map(|object| shape(&object)).collect();
        let background = scene.background.filter(|_| seen && (shapes.is_empty() || random.chance(0.3)));
        let (what, color) = match (background, pick(random, &shapes)) {
            (Some(background), _) => ("background", BACKGROUND_COLORS[background].0.en),
            (None, Some((shape, color))) => (SHAPES[*shape].en, COLORS[*color].0.en),
            (None, None) => return None,
        };
        Some(vqa("color", format!("What color is the {what}?"), color, format!("It is {color}.")))
    }

    fn count_question(&self, scene: &Scene, random: &mut Random) -> Question {
        let reply = |count: usize| if count == 1 { "There is 1.".to_owned() } else { format!("There are {count}.") };
        if random.chance(0.3) {
            let count = scene.objects.len();
            return vqa("count", "How many objects are there?", count.to_string(), reply(count));
        }
        let noun = match pick(random, &scene.objects).filter(|_| random.chance(0.8)) {
            Some(object) => object.thing.noun(),
            None => self.random_thing(random).noun(),
        };
        let count = scene.count(|object| object.thing.noun() == noun);
        vqa("count", format!("How many {} are there?", plural(noun.en)), count.to_string(), reply(count))
    }

    fn random_thing(&self, random: &mut Random) -> Thing {
        match random.weighted(&[self.pictograms, self.shapes_share]) {
            0 => Thing::Pictogram(*random.pick(&self.kinds)),
            _ => Thing::Shape { shape: *random.pick(&self.shapes), color: *random.pick(&self.colors) },
        }
    }

    /// Returns, with equal probability, a thing of the scene or a thing that it does not show.
    fn asked_thing(&self, scene: &Scene, random: &mut Random) -> Option<Thing> {
        if random.chance(0.5) {
            return pick(random, &scene.objects.iter().filter(|object| !object.thing.is_text()).collect::<Vec<_>>())
                .map(|object| object.thing.clone());
        }
        (0..8).map(|_| self.random_thing(random)).find(|thing| scene.objects.iter().all(|object| object.thing != *thing))
    }

    fn exists_question(&self, scene: &Scene, random: &mut Random) -> Option<Question> {
        let thing = self.asked_thing(scene, random)?;
        let there = scene.objects.iter().any(|object| object.thing == thing);
        Some(yes_no("exists", format!("Is there {}?", thing.en_with_article()), there))
    }

    /// A question without a picture.
    pub(crate) fn fact(&self, random: &mut Random) -> Question {
        let groups = ["fruit", "animal", "plant", "vehicle", "tool"];
        let made = match random.below(8) {
            0 => {
                let kind = kind(*random.pick(&self.kinds));
                let group = if random.chance(0.5) { kind.group.as_str() } else { *random.pick(&groups) };
                let question = format!("Is {} {} {} {group}?", article(&kind.en), kind.en, article(group));
                yes_no("fact", question, kind.group == group)
            }
            1 => {
                let kind = kind(*random.pick(&self.kinds));
                let group = format!("{} {}", article(&kind.group), kind.group);
                vqa("fact", format!("What is {} {}?", article(&kind.en), kind.en), group.clone(), format!("It is {group}."))
            }
            2 | 3 => {
                let thing = self.random_thing(random);
                if random.chance(0.5) {
                    vqa("translate", format!("What is {} in English?", thing.zh()), thing.en(), format!("It is {}.", thing.en()))
                } else {
                    vqa("translate", format!("What is {} in Chinese?", thing.en()), thing.zh(), format!("{}。", thing.zh()))
                }
            }
            4 => {
                let (a, b) = (random.below(10), random.below(10));
                vqa("sum", format!("What is {a} plus {b}?"), (a + b).to_string(), format!("It is {}.", a + b))
            }
            5 => {
                let a = random.below(9);
                vqa("sum", format!("What comes after {a}?"), (a + 1).to_string(), format!("It is {}.", a + 1))
            }
            6 => {
                let text = random.pick(&self.words);
                let spelled = text.chars().map(String::from).collect::<Vec<_>>().join(" ");
                vqa("spell", format!("Spell {text}."), spelled.clone(), format!("{spelled}."))
            }
            _ => {
                let place = random.pick(&PLACES);
                if random.chance(0.5) {
                    vqa("translate", format!("What is {} in Chinese?", place.en), place.zh, format!("{}。", place.zh))
                } else {
                    vqa("translate", format!("What is {} in English?", place.zh), place.en, format!("It is {}.", place.en))
                }
            }
        };
        Question { task: Task::Text, ..made }
    }

    /// Returns small talk with the chat model.
    pub(crate) fn greeting(random: &mut Random) -> Question {
        const TALK: [(&str, &str); 8] = [
            ("Hello!", "Hello! Show me a picture and ask me about it."),
            ("Hi", "Hello! Show me a picture and ask me about it."),
            ("你好", "你好！给我看一张图片吧。"),
            ("Who are you?", "I am nano, a very small Qwen-VL."),
            ("你是谁？", "我是 nano，一个很小的 Qwen-VL。"),
            ("What can you do?", "I can describe a picture, find things in it, count them and read words."),
            ("Thank you!", "You are welcome."),
            ("谢谢！", "不客气。"),
        ];
        let (ask, reply) = *random.pick(&TALK);
        Question { task: Task::Text, kind: "talk", prompt: ask.into(), answer: reply.into(), ask: ask.into(), reply: reply.into() }
    }

    /// A question about two pictures.
    pub(crate) fn compare(&self, first: &Scene, second: &Scene, random: &mut Random) -> Question {
        let has = |scene: &Scene, thing: &Thing| scene.objects.iter().any(|object| object.thing == *thing);
        for _ in 0..4 {
            let made = match random.below(4) {
                0 => self.asked_thing(if random.chance(0.5) { first } else { second }, random).and_then(|thing| {
                    let answer = match (has(first, &thing), has(second, &thing)) {
                        (true, false) => "Picture 1",
                        (false, true) => "Picture 2",
                        (true, true) => "both",
                        (false, false) => return None,
                    };
                    let question = format!("Which picture has {}?", thing.en_with_article());
                    Some(vqa("which", question, answer, format!("{}.", upper(answer))))
                }),
                1 if first.objects.len() != second.objects.len() => {
                    let answer = if first.objects.len() > second.objects.len() { "Picture 1" } else { "Picture 2" };
                    Some(vqa("more", ask::MORE, answer, format!("{answer}.")))
                }
                2 => {
                    let number = 1 + random.below(2);
                    let scene = if number == 1 { first } else { second };
                    let question = format!("What is in picture {number}?");
                    Some(vqa("picture", question, scene.caption(), format!("{}.", upper(&scene.caption()))))
                }
                _ => self.asked_thing(first, random).map(|thing| {
                    let question = format!("Is there {} in both pictures?", thing.en_with_article());
                    yes_no("both", question, has(first, &thing) && has(second, &thing))
                }),
            };
            if let Some(made) = made {
                return Question { task: Task::Compare, ..made };
            }
        }
        let caption = second.caption();
        let reply = format!("{}.", upper(&caption));
        Question { task: Task::Compare, ..vqa("picture", "What is in picture 2?", caption, reply) }
    }
}

fn ocr_question(scene: &Scene, chinese: bool, random: &mut Random) -> Option<Question> {
    let texts = scene.texts();
    let object = *pick(random, &texts)?;
    let Thing::Text(text) = &object.thing else { return None };
    let question = match (texts.len(), chinese) {
        (1, false) => ask::read(object.thing.text_kind().en),
        (1, true) => ask::READ_ZH.to_owned(),
        (_, false) => format!("What is written at the {}?", object.place_name().en),
        (_, true) => format!("{}写的是什么？", object.place_name().zh),
    };
    let reply = if chinese { format!("写的是{text}。") } else { format!("It is {text}.") };
    Some(Question { task: Task::OcrVqa, ..vqa("ocr_question", question, text, reply) })
}

/// Asks about the relative position of two things. `seen`: they can be in the same third of the picture, where a caption does not
/// order them.
fn relation_question(scene: &Scene, seen: bool, random: &mut Random) -> Option<Question> {
    let mut objects = scene.unique();
    random.shuffle(&mut objects);
    let [a, b, ..] = objects[..] else { return None };
    let (axis, relations) = if random.chance(0.5) { (0, ["left of", "right of"]) } else { (1, ["above", "below"]) };
    let between = b.middle()[axis] - a.middle()[axis];
    let same_place = if axis == 0 { a.place % 3 == b.place % 3 } else { a.place / 3 == b.place / 3 };
    // Too close on this axis for a relation.
    if between.abs() < scene.side as f32 * 0.18 || !seen && same_place {
        return None;
    }
    let asked = random.below(2);
    let relation = relations[asked];
    let yes = (between > 0.0) == (asked == 0);
    let [first, second] = [a, b].map(|object| object.thing.en());
    if random.chance(0.5) {
        return Some(yes_no("relation", format!("Is the {first} {relation} the {second}?"), yes));
    }
    let question = format!("Which is {relation} the other, the {first} or the {second}?");
    let answer = if yes { first } else { second };
    let reply = format!("The {answer}.");
    Some(vqa("relation", question, answer, reply))
}

fn size_question(scene: &Scene, random: &mut Random) -> Option<Question> {
    let mut objects = scene.unique();
    objects.retain(|object| !object.thing.is_text());
    random.shuffle(&mut objects);
    let [a, b, ..] = objects[..] else { return None };
    let (small, large) = if a.area() < b.area() { (a, b) } else { (b, a) };
    if large.area() < small.area() * 1.6 {
        return None;
    }
    let question = format!("Which is larger, the {} or the {}?", a.thing.en(), b.thing.en());
    Some(vqa("size", question, large.thing.en(), format!("The {}.", large.thing.en())))
}

fn pick<'a, T>(random: &mut Random, list: &'a [T]) -> Option<&'a T> {
    if list.is_empty() { None } else { Some(random.pick(list)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Split;
    use serde_json::Value;

    /// The package's tasks and the evaluation build the same prompts: their tests read the same file.
    #[test]
    fn questions_of_tasks_have_their_prompts() {
        let templates: Value = serde_json::from_str(include_str!("../../../tests/fixtures/task-prompts.json")).unwrap();
        let fits = |prompt: &str, template: &Value| match template {
            Value::Object(languages) => languages.values().any(|template| template == prompt),
            template => match template.as_str().unwrap().split_once("{}") {
                Some((before, after)) => prompt.len() > before.len() + after.len() && prompt.starts_with(before) && prompt.ends_with(after),
                None => template == prompt,
            },
        };
        let tasks: [(Task, &[&str]); 8] = [
            (Task::Caption, &["caption", "pretrainingCaption"]),
            (Task::GroundedCaption, &["groundedCaption"]),
            (Task::Vqa, &["vqa"]),
            (Task::OcrVqa, &["vqa"]),
            (Task::Text, &["vqa"]),
            (Task::Referring, &["ground"]),
            (Task::RegionCaption, &["region"]),
            (Task::Ocr, &["read"]),
        ];
        let world = World::small();
        let mut random = Random::new(&[1]);
        let scenes: Vec<Scene> = (0..100).map(|_| world.scene(Split::Train, &mut random).0).collect();
        for (task, names) in tasks {
            let questions = scenes.iter().filter_map(|scene| world.question(task, scene, &mut random));
            let prompts: Vec<String> = questions.map(|question| question.base_prompt()).collect();
            assert!(prompts.len() > 10, "{task:?}: {} questions", prompts.len());
            for prompt in prompts {
                assert!(names.iter().any(|name| fits(&prompt, &templates[name])), "{task:?}: {prompt}");
            }
        }
    }
}
