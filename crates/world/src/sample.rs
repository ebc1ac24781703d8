//! Samples: the sequences that a model is trained on, in the formats of the paper's appendix B.

use crate::{Question, Scene, Split, Task, World, random::Random};
use qwen_vl_processor::{DEFAULT_SYSTEM, ImageSpan, Picture, ProcessorError, Prompt, SpecialTokens, Tokenizer};
use serde::{Deserialize, Serialize};

/// Training stage of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Text only, for the decoder.
    Text,
    /// Pictures only, for the vision tower.
    Patches,
    /// Stage 1: captions.
    Pretrain,
    /// Stage 2: the seven tasks, in the base format.
    Multitask,
    /// Stage 3: dialogues in ChatML, with one picture, two or none.
    Chat,
}

/// A part of a sequence. The parts are tokenized separately, as a prompt and its answer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Text, including the tags of pictures and the special tokens.
    pub text: String,
    /// True if the model learns to write it.
    pub loss: bool,
    /// 0: visible to all later segments. Otherwise the number of a question that is asked as if it were the only one: the segments of
    /// other questions do not see it.
    pub thread: u32,
}

/// One sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The task of the first question.
    pub task: Task,
    /// The pictures, in the order of their tags.
    pub pictures: Vec<Picture>,
    /// The text.
    pub segments: Vec<Segment>,
    /// Its questions, in order.
    pub questions: Vec<Question>,
    /// The scenes of the pictures.
    pub scenes: Vec<Scene>,
    /// True if it shows a combination that training never shows.
    pub held_out: bool,
}

/// A sequence as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// `[seq]`
    pub ids: Vec<u32>,
    /// `[seq]`: true if the model learns to predict the id at this position.
    pub loss: Vec<bool>,
    /// `[seq]`: the [`Segment::thread`] of each id.
    pub threads: Vec<u32>,
    /// Positions of the pictures.
    pub images: Vec<ImageSpan>,
}

/// Paths in the image tags of the first and the second picture. They are short, because a path must fit into a picture's positions.
pub const PICTURE_NAMES: [&str; 2] = ["1.png", "2.png"];
/// Weights of the seven tasks in stage 2.
const TASKS: [(Task, f32); 7] = [
    (Task::Vqa, 0.5),
    (Task::Referring, 0.18),
    (Task::Caption, 0.06),
    (Task::GroundedCaption, 0.04),
    (Task::OcrVqa, 0.12),
    (Task::RegionCaption, 0.07),
    (Task::Ocr, 0.03),
];

impl Sample {
    fn new(task: Task) -> Self {
        Self { task, pictures: vec![], segments: vec![], questions: vec![], scenes: vec![], held_out: false }
    }

    fn push(&mut self, text: impl Into<String>, loss: bool) {
        self.segments.push(Segment { text: text.into(), loss, thread: 0 });
    }

    fn show(&mut self, (scene, picture): (Scene, Picture)) {
        self.held_out |= scene.objects.iter().any(|object| object.held_out);
        self.scenes.push(scene);
        self.pictures.push(picture);
    }

    /// The whole text.
    pub fn text(&self) -> String {
        self.segments.iter().map(|segment| segment.text.as_str()).collect()
    }

    /// Token ids, piece by piece.
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded, ProcessorError> {
        self.encode_within(tokenizer, usize::MAX)
    }

    /// Encodes as many questions as fit into `limit` token ids, and at least the first one.
    pub fn encode_within(&self, tokenizer: &Tokenizer, limit: usize) -> Result<Encoded, ProcessorError> {
        let (mut ids, mut loss, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        // The length up to the last answer that fits.
        let mut whole = 0;
        for segment in &self.segments {
            ids.extend(tokenizer.encode(&segment.text, SpecialTokens::All)?);
            loss.resize(ids.len(), segment.loss);
            threads.resize(ids.len(), segment.thread);
            // An answer ends a question.
            if segment.loss {
                if whole > 0 && ids.len() > limit {
                    break;
                }
                whole = ids.len();
            }
        }
        ids.truncate(whole);
        loss.truncate(whole);
        threads.truncate(whole);
        let Prompt { ids, images } = Prompt::from_ids(tokenizer, ids, &[])?;
        Ok(Encoded { ids, loss, threads, images })
    }
}

impl World {
    /// Returns the sample with a number. It depends on the arguments only, not on earlier calls.
    pub fn sample(&self, split: Split, stage: Stage, seed: u64, index: u64) -> Sample {
        let mut random = Random::new(&[seed, split as u64, stage as u64, index]);
        match stage {
            Stage::Text => self.text_sample(&mut random),
            Stage::Patches => self.picture_sample(split, &mut random),
            Stage::Pretrain => self.caption_sample(split, &mut random),
            Stage::Multitask => self.multitask_sample(split, &mut random),
            Stage::Chat => self.chat_sample(split, &mut random),
        }
    }

    /// Returns an endless iterator of samples.
    pub fn samples(&self, split: Split, stage: Stage, seed: u64) -> impl Iterator<Item = Sample> + '_ {
        (0..).map(move |index| self.sample(split, stage, seed, index))
    }

    /// Descriptions of scenes with questions about them, grounded captions, and facts; all of it to be learned.
    /// They name what no picture of training shows: the test split asks whether it is seen, not whether there are words for it.
    fn text_sample(&self, random: &mut Random) -> Sample {
        let mut sample = Sample::new(Task::Text);
        let end = "<|endoftext|>";
        // The picture is not used, and a small one is drawn quickly.
        let (scene, _) = self.clone().with_side(32).scene(Split::Test, random);
        match random.below(4) {
            0 => {
                for _ in 0..4 {
                    let fact = self.fact(random);
                    sample.push(format!("{}{}{end}", fact.base_prompt(), fact.base_answer()), true);
                    sample.questions.push(fact);
                }
            }
            1 => {
                let task = *random.pick(&[Task::GroundedCaption, Task::Referring, Task::Ocr, Task::Caption, Task::RegionCaption]);
                let question = self.question(task, &scene, random).unwrap_or_else(|| self.caption(&scene, false, random));
                sample.push(format!("{}{}{end}", question.base_prompt(), question.base_answer()), true);
                sample.questions.push(question);
            }
            _ => {
                let chinese = random.chance(self.chinese);
                let caption = self.caption(&scene, chinese, random);
                sample.push(format!("{}{} ", caption.base_prompt(), caption.base_answer()), true);
                for _ in 0..3 {
                    let Some(question) = self.vqa(&scene, false, random) else { break };
                    sample.push(format!("{}{}{end}", question.base_prompt(), question.base_answer()), true);
                    sample.questions.push(question);
                }
            }
        }
        sample.scenes.push(scene);
        sample
    }

    /// A picture without text.
    fn picture_sample(&self, split: Split, random: &mut Random) -> Sample {
        let mut sample = Sample::new(Task::Caption);
        sample.push(format!("<img>{}</img>", PICTURE_NAMES[0]), true);
        sample.show(self.scene(split, random));
        sample
    }

    fn base_question(sample: &mut Sample, question: Question) {
        sample.push(question.base_prompt(), false);
        sample.push(format!("{}<|endoftext|>", question.base_answer()), true);
        sample.questions.push(question);
    }

    /// A picture and its caption, sometimes in both languages.
    fn caption_sample(&self, split: Split, random: &mut Random) -> Sample {
        let mut sample = Sample::new(Task::Caption);
        let (scene, picture) = self.scene(split, random);
        sample.push(format!("<img>{}</img>", PICTURE_NAMES[0]), false);
        let chinese = random.chance(self.chinese);
        let caption = self.caption(&scene, chinese, random);
        Self::base_question(&mut sample, caption);
        if random.chance(self.chinese) {
            let caption = self.caption(&scene, !chinese, random);
            Self::base_question(&mut sample, caption);
        }
        sample.show((scene, picture));
        sample
    }

    /// A picture and questions of the seven tasks about it, each as if it were the only one: the picture is encoded once for all of
    /// them, and no answer can be copied from another.
    fn multitask_sample(&self, split: Split, random: &mut Random) -> Sample {
        let (scene, picture) = self.scene(split, random);
        let mut sample = Sample::new(Task::Caption);
        sample.push(format!("<img>{}</img>", PICTURE_NAMES[0]), false);
        let count = random.range(&self.questions_per_picture);
        for (number, question) in self.questions(&scene, count, random).into_iter().enumerate() {
            let first = sample.segments.len();
            Self::base_question(&mut sample, question);
            sample.segments[first..].iter_mut().for_each(|segment| segment.thread = number as u32 + 1);
        }
        sample.task = sample.questions[0].task;
        sample.show((scene, picture));
        sample
    }

    /// A scene with one question of each task that can be scored separately: an English caption, two short questions, a text to read,
    /// and the box of an object.
    pub fn test_questions(&self, split: Split, seed: u64, index: u64) -> (Scene, Picture, Vec<Question>) {
        const EXPORT: u64 = 0xE7A1;
        let mut random = Random::new(&[seed, split as u64, EXPORT, index]);
        let (scene, picture) = self.scene(split, &mut random);
        let mut questions = vec![self.caption(&scene, false, &mut random)];
        for task in [Task::Vqa, Task::Vqa, Task::OcrVqa, Task::Referring] {
            let question = self.question(task, &scene, &mut random);
            questions.extend(question.filter(|question| questions.iter().all(|other| other.prompt != question.prompt)));
        }
        (scene, picture, questions)
    }

    /// Different questions about a scene, at least one.
    fn questions(&self, scene: &Scene, count: usize, random: &mut Random) -> Vec<Question> {
        let weights = TASKS.map(|(_, weight)| weight);
        let mut questions: Vec<Question> = Vec::with_capacity(count);
        for _ in 0..count * 4 {
            let task = TASKS[random.weighted(&weights)].0;
            if let Some(question) = self.question(task, scene, random)
                && questions.iter().all(|other| other.prompt != question.prompt)
            {
                questions.push(question);
            }
            if questions.len() == count {
                break;
            }
        }
        if questions.is_empty() {
            questions.push(self.caption(scene, false, random));
        }
        questions
    }

    /// A dialogue: mostly about a picture, sometimes about two, sometimes without.
    fn chat_sample(&self, split: Split, random: &mut Random) -> Sample {
        let mut sample = Sample::new(Task::Vqa);
        let mut turns: Vec<(String, Question)> = Vec::new();
        let picture = |number: usize| format!("Picture {}: <img>{}</img>\n", number + 1, PICTURE_NAMES[number]);
        match random.weighted(&[0.76, 0.12, 0.12]) {
            0 => {
                let (scene, drawn) = self.scene(split, random);
                let count = random.range(&self.turns);
                for (turn, question) in self.questions(&scene, count, random).into_iter().enumerate() {
                    turns.push((if turn == 0 { picture(0) } else { String::new() }, question));
                }
                if random.chance(0.15) {
                    turns.push((String::new(), self.fact(random)));
                }
                sample.show((scene, drawn));
            }
            1 => {
                let first = self.scene(split, random);
                let second = self.scene(split, random);
                if random.chance(0.5) {
                    let count = 1 + random.below(3);
                    for turn in 0..count {
                        let pictures = if turn == 0 { picture(0) + &picture(1) } else { String::new() };
                        turns.push((pictures, self.compare(&first.0, &second.0, random)));
                    }
                } else {
                    // The second picture comes later.
                    for (number, (scene, _)) in [&first, &second].into_iter().enumerate() {
                        for (turn, question) in self.questions(scene, 1 + random.below(2), random).into_iter().enumerate() {
                            turns.push((if turn == 0 { picture(number) } else { String::new() }, question));
                        }
                    }
                    turns.push((String::new(), self.compare(&first.0, &second.0, random)));
                }
                sample.show(first);
                sample.show(second);
            }
            _ => {
                for _ in 0..2 + random.below(3) {
                    let question = if random.chance(0.3) { Self::greeting(random) } else { self.fact(random) };
                    turns.push((String::new(), question));
                }
            }
        }

        sample.task = turns[0].1.task;
        sample.push(format!("<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>"), false);
        for (pictures, question) in turns {
            // A turn up to its answer is not learned. It is one segment, as in the chat template.
            for text in ["\n<|im_start|>user\n".to_owned(), pictures + &question.ask, "<|im_end|>\n<|im_start|>assistant\n".to_owned()] {
                sample.push(text, false);
            }
            sample.push(format!("{}<|im_end|>", question.reply), true);
            sample.questions.push(question);
        }
        sample
    }
}
