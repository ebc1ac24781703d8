//! Prompts: the base format, the chat template, and the positions of the pictures.

use crate::content::{Content, Message, Part, Role};
use crate::mention::label;
use crate::template::{Piece, Template, Turn};
use crate::{KeepSpecials, NumberedPicture, PictureGrid, PictureSize, Positions, ProcessorError, SpecialIds, SpecialTokens, Tokenizer};
use qwen_vl_format::Family;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::iter::repeat_n;

/// `max_window_size` of the published `generation_config.json`.
pub const DEFAULT_MAX_WINDOW_SIZE: usize = 6144;
/// Tokens before a picture that can hold its label, `Picture N: `.
const LABEL_TOKENS: usize = 16;

/// One picture in a prompt, or one step of a video.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpan {
    /// Its name: in the 2023 model the text between the tags, in later generations that of [`Part::Image`] or [`Part::Video`], or empty.
    pub path: String,
    /// Position of `<img>` or `<|vision_start|>`.
    #[serde(rename = "img_token_at")]
    pub start: usize,
    /// First position that takes a row of image features.
    pub features_from: usize,
    /// Position of `</img>` or `<|vision_end|>`; the features take the positions from `features_from` up to it.
    #[serde(rename = "end_token_at")]
    pub end: usize,
    /// Its patches; absent in the 2023 model, where every picture has the same number.
    #[serde(skip)]
    pub grid: Option<PictureGrid>,
}

/// Token ids and the pictures among them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Prompt {
    /// `[seq]`
    pub ids: Vec<u32>,
    /// The pictures, in order.
    pub images: Vec<ImageSpan>,
}

/// A conversation and its next question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Chat {
    /// System text, without pictures; absent for the default one of the template.
    pub system: Option<String>,
    /// Earlier turns: pairs of question and answer.
    pub history: Vec<(Content, Content)>,
    /// The question.
    pub query: Content,
    /// Beginning of the answer; absent for an answer from its start.
    pub prefix: Option<String>,
    /// Length limit of system text and history, tokens: the oldest turns are dropped.
    pub max_window_size: usize,
    /// Length limit of the prompt, tokens: more of the oldest turns are dropped. The question stays, whatever its length.
    pub context: Option<usize>,
}

impl Default for Chat {
    fn default() -> Self {
        Self {
            system: None,
            history: Vec::new(),
            query: Content::default(),
            prefix: None,
            max_window_size: DEFAULT_MAX_WINDOW_SIZE,
            context: None,
        }
    }
}

/// A list of messages, for all that the chat templates can write.
///
/// The template of Qwen3-VL leaves out system messages after the first message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Messages {
    /// The messages, in order.
    pub messages: Vec<Message>,
    /// Descriptions of tools, as JSON texts. Only Qwen3-VL takes them.
    pub tools: Vec<String>,
    /// True to ask for an answer.
    pub add_generation_prompt: bool,
    /// Beginning of the answer; absent for an answer from its start.
    pub prefix: Option<String>,
    /// True to number the pictures. Those of the 2023 model always have numbers.
    pub add_vision_id: bool,
    /// True if special tokens in texts act as such, as in the original code: a text `<|image_pad|>` stands for the next picture.
    pub live_specials: bool,
}

impl Default for Messages {
    fn default() -> Self {
        Self {
            messages: Vec::new(),
            tools: Vec::new(),
            add_generation_prompt: true,
            prefix: None,
            add_vision_id: false,
            live_specials: false,
        }
    }
}

/// The prompt of a [`Chat`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChatPrompt {
    /// Token ids and the pictures that are left.
    pub prompt: Prompt,
    /// Number of oldest turns that were dropped.
    pub dropped_turns: usize,
    /// Number of pictures and steps of videos in the dropped turns: the first ones of the conversation.
    pub dropped_images: usize,
}

impl Prompt {
    /// Tokenizes the base format: the text as it is. Pictures in it are `<img>path</img>` in the 2023 model and `<|image_pad|>` in later
    /// generations, where it becomes as many as the next of `grids` has tokens. `<|video_pad|>` stands for a video, in Qwen3-VL for one step.
    pub fn raw(tokenizer: &Tokenizer, text: &str, grids: &[PictureGrid]) -> Result<Self, ProcessorError> {
        let mut writer = Writer::new(tokenizer, SpecialTokens::All, false, grids);
        let mut sections = [writer.section(vec![Piece::Text(text.into())])?];
        writer.expand(&mut sections, grids)?;
        Self::from_sections(tokenizer, &sections, grids)
    }

    /// Applies the chat template of the tokenizer's family.
    ///
    /// `grids` are those of all pictures and steps of videos of the conversation in order; the 2023 model needs none. Special tokens in texts are text, except the
    /// tags of regions and, for the 2023 model, the picture tags in [`Content::Tagged`].
    ///
    /// The newest turns are kept while system text, kept turns and the turn in question are fewer than [`Chat::max_window_size`] tokens; the
    /// question does not count. Then turns are dropped until the prompt fits [`Chat::context`].
    pub fn chat(tokenizer: &Tokenizer, chat: &Chat, grids: &[PictureGrid]) -> Result<ChatPrompt, ProcessorError> {
        let system = chat.system.clone().map(Content::Tagged);
        let mut turns: Vec<_> = system.iter().map(|content| Turn::new(Role::System, content)).collect();
        for (query, answer) in &chat.history {
            turns.extend([Turn::new(Role::User, query), Turn::new(Role::Assistant, answer)]);
        }
        turns.push(Turn::new(Role::User, &chat.query));
        let mut writer = Writer::new(tokenizer, SpecialTokens::Grounding, false, grids);
        let mut sections = writer.sections(&turns, &[], true)?;
        if let Some(prefix) = &chat.prefix {
            sections.push(writer.section(vec![Piece::Text(prefix.into())])?);
        }
        writer.expand(&mut sections, grids)?;

        let size = |sections: &[Section]| sections.iter().map(|section| section.ids.len()).sum::<usize>();
        let (opening, rest) = sections.split_at(1 + usize::from(system.is_some()));
        let (history, question) = rest.split_at(2 * chat.history.len());
        let mut kept = 0;
        let mut used = size(opening);
        for turn in history.rchunks_exact(2) {
            let with_turn = used + size(turn);
            // The original's limit leaves the question out; the context's limit counts it.
            let fits = chat.context.is_none_or(|context| with_turn + size(question) <= context);
            if with_turn >= chat.max_window_size || !fits {
                break;
            }
            used = with_turn;
            kept += 1;
        }
        let dropped_turns = chat.history.len() - kept;
        let (dropped, kept) = history.split_at(2 * dropped_turns);
        let dropped_images = dropped.iter().map(|section| section.pictures.len()).sum();
        let grids = grids.get(dropped_images..).unwrap_or_default();
        let prompt = Self::from_sections(tokenizer, opening.iter().chain(kept).chain(question), grids)?;
        Ok(ChatPrompt { prompt, dropped_turns, dropped_images })
    }

    /// Applies the chat template of the tokenizer's family to a list of messages.
    ///
    /// `grids` are those of all pictures and steps of videos in order; the 2023 model needs none.
    pub fn messages(tokenizer: &Tokenizer, messages: &Messages, grids: &[PictureGrid]) -> Result<Self, ProcessorError> {
        let turns: Vec<_> = messages.messages.iter().map(Turn::of).collect();
        let typed = if messages.live_specials { SpecialTokens::All } else { SpecialTokens::Grounding };
        let mut writer = Writer::new(tokenizer, typed, messages.add_vision_id, grids);
        let mut sections = writer.sections(&turns, &messages.tools, messages.add_generation_prompt)?;
        if let Some(prefix) = &messages.prefix {
            sections.push(writer.section(vec![Piece::Text(prefix.into())])?);
        }
        writer.expand(&mut sections, grids)?;
        Self::from_sections(tokenizer, &sections, grids)
    }

    fn from_sections<'a>(
        tokenizer: &Tokenizer,
        sections: impl IntoIterator<Item = &'a Section<'a>>,
        grids: &[PictureGrid],
    ) -> Result<Self, ProcessorError> {
        let (mut ids, mut names) = (Vec::new(), Vec::new());
        for section in sections {
            ids.extend_from_slice(&section.ids);
            names.extend_from_slice(&section.pictures);
        }
        let mut prompt = Self::from_ids(tokenizer, ids, grids)?;
        if tokenizer.family() != Family::QwenVl {
            prompt.images.iter_mut().zip(names).for_each(|(image, name)| name.clone_into(&mut image.path));
        }
        Ok(prompt)
    }

    /// Finds the pictures in token ids. 2023 model: `<img>`, the positions of a picture, `</img>`. Later generations: as many `<|image_pad|>`, or
    /// `<|video_pad|>` for a step of a video, in a row as each of `grids` has tokens.
    pub fn from_ids(tokenizer: &Tokenizer, ids: Vec<u32>, grids: &[PictureGrid]) -> Result<Self, ProcessorError> {
        let find = if tokenizer.family() == Family::QwenVl { find_tagged } else { find_pads };
        Ok(Self { images: find(tokenizer, &ids, grids)?, ids })
    }

    /// Returns the positions of the tokens.
    pub fn positions(&self) -> Positions {
        let pictures = self.images.iter().filter_map(|image| Some((image.features_from, image.grid?)));
        Positions::new(self.ids.len(), pictures)
    }

    /// Returns the numbers by which texts name the pictures of the prompt: those of their labels (`Picture N: `), or, if no picture has a
    /// label, their places in the conversation, of which the first `dropped` are not in the prompt. A video counts as one picture.
    pub fn numbered(&self, tokenizer: &Tokenizer, sizes: &[PictureSize], dropped: usize) -> Vec<NumberedPicture> {
        let label = |image: &ImageSpan| {
            let before = &self.ids[image.start.saturating_sub(LABEL_TOKENS)..image.start];
            label(&tokenizer.decode(before, KeepSpecials::All))
        };
        let images: Vec<_> = self.images.iter().filter(|image| !image.grid.is_some_and(|grid| grid.continues())).collect();
        let labels: Vec<Option<usize>> = images.iter().copied().map(label).collect();
        let any_label = labels.iter().any(Option::is_some);
        let pictures = labels.into_iter().zip(sizes).enumerate();
        pictures
            .map(|(index, (label, size))| {
                // 0 is the number of no picture.
                let number = if any_label { label.unwrap_or(0) } else { dropped + index + 1 };
                let seen = images[index].grid.map_or(*size, |grid| grid.size());
                NumberedPicture { number, size: *size, seen }
            })
            .collect()
    }
}

fn find_tagged(tokenizer: &Tokenizer, ids: &[u32], _: &[PictureGrid]) -> Result<Vec<ImageSpan>, ProcessorError> {
    let mut images = Vec::new();
    let mut at = 0;
    while at < ids.len() {
        if ids[at] == tokenizer.special().img_start {
            let Some(path) = tokenizer.image_path(&ids[at + 1..]) else {
                return Err(ProcessorError::ImageSpan { at, expected: tokenizer.queries() + 1 });
            };
            let (path, end) = (String::from_utf8_lossy(&path).into_owned(), at + 1 + tokenizer.queries());
            images.push(ImageSpan { path, start: at, features_from: at + 1, end, grid: None });
            at = end;
        }
        at += 1;
    }
    Ok(images)
}

fn find_pads(tokenizer: &Tokenizer, ids: &[u32], grids: &[PictureGrid]) -> Result<Vec<ImageSpan>, ProcessorError> {
    let special = tokenizer.special();
    let is_pad = |id: &u32| *id == special.imgpad || Some(*id) == special.video_pad;
    let (pads, features) = (ids.iter().filter(|id| is_pad(id)).count(), grids.iter().map(PictureGrid::tokens).sum());
    if pads != features {
        return Err(ProcessorError::PadCount { pads, features, pictures: grids.len() });
    }
    let mut images = Vec::with_capacity(grids.len());
    let mut at = 0;
    for grid in grids {
        at += ids[at..].iter().position(is_pad).unwrap_or(0);
        check_kind(&special, ids[at], grid)?;
        let end = at + grid.tokens();
        let run = ids[at..].iter().take_while(|id| **id == ids[at]).count();
        if run < grid.tokens() {
            return Err(ProcessorError::PadRun { at, pads: run, features: grid.tokens() });
        }
        let has_tag = at > 0 && ids[at - 1] == special.img_start;
        images.push(ImageSpan { path: String::new(), start: at - usize::from(has_tag), features_from: at, end, grid: Some(*grid) });
        at = end;
    }
    Ok(images)
}

/// Refuses a picture at the placeholder of a video, and the reverse.
fn check_kind(special: &SpecialIds, pad: u32, grid: &PictureGrid) -> Result<(), ProcessorError> {
    let kind = |is_video| if is_video { "video" } else { "picture" };
    let (named, given) = (Some(pad) == special.video_pad, grid.step.is_some());
    if named != given {
        return Err(ProcessorError::VisionOrder { named: kind(named), given: kind(given) });
    }
    Ok(())
}

/// Token ids of a part of a prompt, such as a message.
#[derive(Default)]
struct Section<'a> {
    ids: Vec<u32>,
    /// Names of its pictures and steps of videos; empty where the ids hold the name.
    pictures: Vec<&'a str>,
}

/// Tokenizes the messages of a conversation.
struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    template: Template,
    /// The special tokens that texts may contain.
    typed: SpecialTokens,
    /// Those of the pictures and steps of videos that are not written yet.
    grids: VecDeque<PictureGrid>,
}

impl<'a> Writer<'a> {
    /// `grids` are those of the pictures and steps of videos of the conversation in order.
    fn new(tokenizer: &'a Tokenizer, typed: SpecialTokens, add_vision_id: bool, grids: &[PictureGrid]) -> Self {
        let sizes = grids.iter().filter(|grid| !grid.continues()).map(PictureGrid::size).collect();
        Self { tokenizer, template: Template::new(tokenizer.family(), add_vision_id, sizes), typed, grids: grids.iter().copied().collect() }
    }

    /// Takes the steps of the next video.
    fn next_video(&mut self) -> Vec<PictureGrid> {
        let count = usize::from(!self.grids.is_empty()) + self.grids.iter().skip(1).take_while(|grid| grid.continues()).count();
        self.grids.drain(..count).collect()
    }

    /// Returns the part before the first message, each message, and, if there is to be an answer, its beginning. Pictures of later generations
    /// have one `<|image_pad|>`, videos one `<|video_pad|>`, in Qwen3-VL one for each step.
    fn sections(&mut self, turns: &[Turn<'a>], tools: &'a [String], answer: bool) -> Result<Vec<Section<'a>>, ProcessorError> {
        let unsupported = |what| Err(ProcessorError::Unsupported { what });
        if self.template.family != Family::Qwen3Vl && (!tools.is_empty() || turns.iter().any(|turn| !turn.tool_calls.is_empty())) {
            return unsupported("tools");
        }
        let is_picture = |part: &Part| matches!(part, Part::Image { .. } | Part::Video { .. });
        let left_out = |turn: &Turn| matches!(turn.content, Content::Parts(parts) if parts.iter().any(is_picture));
        if turns.iter().any(|turn| !self.template.takes_pictures(turn.role) && left_out(turn)) {
            return unsupported("pictures in system messages and answers");
        }
        let head = self.template.head(turns, tools);
        let mut sections = vec![self.section(head)?];
        for index in 0..turns.len() {
            let pieces = self.template.message(turns, index);
            sections.push(self.section(pieces)?);
        }
        if answer {
            sections.push(self.section(self.template.generation_prompt())?);
        }
        Ok(sections)
    }

    fn section(&mut self, pieces: Vec<Piece<'a>>) -> Result<Section<'a>, ProcessorError> {
        let special = self.tokenizer.special();
        let has_spans = self.template.family == Family::QwenVl;
        let mut section = Section::default();
        let mut text = String::new();
        // The last break ends the last text.
        for piece in pieces.into_iter().chain([Piece::Break]) {
            if let Piece::Text(more) = &piece {
                text.push_str(more);
                continue;
            }
            if let (Piece::Video(name), Family::Qwen3Vl, Some(video_pad)) = (&piece, self.template.family, special.video_pad) {
                // The time of a step is one text with what is before it.
                let steps = self.next_video();
                // Without steps the count of pictures is reported.
                section.pictures.extend(steps.is_empty().then_some(*name));
                for grid in steps {
                    text.extend(grid.step.map(|step| step.label()));
                    self.text(&std::mem::take(&mut text), self.typed, &mut section)?;
                    section.pictures.push(name);
                    section.ids.extend([special.img_start, video_pad, special.img_end]);
                }
                continue;
            }
            self.text(&std::mem::take(&mut text), self.typed, &mut section)?;
            match piece {
                Piece::Text(_) | Piece::Break => {}
                Piece::Tagged(text) => self.text(text, SpecialTokens::ImageAndGrounding, &mut section)?,
                Piece::Start => section.ids.push(special.im_start),
                Piece::End => section.ids.push(special.im_end),
                Piece::Picture(name) => {
                    section.pictures.push(name);
                    if has_spans {
                        self.tokenizer.encode_image(name, &mut section.ids)?;
                    } else {
                        self.grids.pop_front();
                        section.ids.extend([special.img_start, special.imgpad, special.img_end]);
                    }
                }
                Piece::Video(name) => {
                    let Some(video_pad) = special.video_pad.filter(|_| !has_spans) else { return Err(ProcessorError::Video) };
                    section.pictures.extend(repeat_n(name, self.next_video().len().max(1)));
                    section.ids.extend([special.img_start, video_pad, special.img_end]);
                }
            }
        }
        Ok(section)
    }

    /// Appends a text and counts the pictures that special tokens in it stand for.
    fn text(&mut self, text: &str, allowed: SpecialTokens, section: &mut Section<'a>) -> Result<(), ProcessorError> {
        let special = self.tokenizer.special();
        let ids = self.tokenizer.encode(text, allowed)?;
        let mut pictures = 0;
        if self.template.family == Family::QwenVl {
            pictures = ids.iter().filter(|id| **id == special.img_start).count();
            self.template.pictures += pictures;
        } else {
            for id in &ids {
                if *id == special.imgpad || (Some(*id) == special.video_pad && self.template.family == Family::Qwen3Vl) {
                    self.grids.pop_front();
                    pictures += 1;
                } else if Some(*id) == special.video_pad {
                    pictures += self.next_video().len().max(1);
                }
            }
        }
        section.pictures.extend(repeat_n("", pictures));
        section.ids.extend(ids);
        Ok(())
    }

    /// Repeats the placeholders of later generations.
    fn expand(&self, sections: &mut [Section], grids: &[PictureGrid]) -> Result<(), ProcessorError> {
        if self.template.family == Family::QwenVl {
            return Ok(());
        }
        let pictures = sections.iter().map(|section| section.pictures.len()).sum();
        if pictures != grids.len() {
            return Err(ProcessorError::PictureCount { pictures, grids: grids.len() });
        }
        let special = self.tokenizer.special();
        let mut grids = grids.iter().peekable();
        for section in sections.iter_mut().filter(|section| !section.pictures.is_empty()) {
            let ids = std::mem::take(&mut section.ids);
            for id in ids {
                let mut count = 1;
                if id == special.imgpad || Some(id) == special.video_pad {
                    count = grids.next().map_or(0, PictureGrid::tokens);
                    // The steps of a video are in a row, except in Qwen3-VL, where each has its own placeholder.
                    while Some(id) == special.video_pad && self.template.family != Family::Qwen3Vl {
                        let Some(grid) = grids.next_if(|grid| grid.continues()) else { break };
                        count += grid.tokens();
                    }
                }
                section.ids.extend(repeat_n(id, count));
            }
        }
        Ok(())
    }
}
