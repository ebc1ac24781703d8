//! The tasks of `eval_mm`: length of an answer, metric.

use qwen_vl_processor::Family;
use serde::{Deserialize, Serialize};

/// A kind of data file with its prompt and metric (part D of the paper's appendix; `eval_mm`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Flickr30K, NoCaps: captions, CIDEr-D.
    Caption,
    /// VQAv2, OKVQA, TextVQA, VizWiz: VQA score.
    Vqa,
    /// OCR-VQA, AI2D: exact match.
    Exact,
    /// GQA: exact match of the extracted answer.
    Gqa,
    /// DocVQA: ANLS.
    Anls,
    /// ChartQA: relaxed accuracy.
    Relaxed,
    /// RefCOCO: boxes.
    Grounding,
    /// ScienceQA: the most likely letter.
    Choice,
    /// SEED-Bench: the most likely of A to D, the prompt as in the file.
    Seed,
    /// MME: yes or no, asked as a chat.
    Mme,
    /// Whole conversations: every answer by exact match, given the true ones before it.
    Dialogue,
}

/// Settings of the generation of answers, which is always greedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Maximum length of an answer, tokens.
    pub max_new_tokens: usize,
    /// Minimum length of an answer, tokens.
    pub min_new_tokens: usize,
    /// True if the chat template is used.
    pub chat: bool,
    /// True if candidates are scored and nothing is generated.
    pub scored: bool,
}

impl Task {
    /// Returns the settings for a generation of models.
    ///
    /// Those of the 2023 model are of the original scripts. Where the data sets of a task differ, the longest answers are allowed: a model that
    /// stops is not affected. Later generations always have the chat template, and longer answers. VLMEvalKit lets them answer questions with
    /// choices and searches the answer for a letter; here the likelihood of the letters is compared, as for the 2023 model.
    pub fn settings(self, family: Family) -> Settings {
        let settings = |max_new_tokens, min_new_tokens| Settings { max_new_tokens, min_new_tokens, chat: false, scored: false };
        if family != Family::QwenVl {
            let of_task = match self {
                Self::Choice | Self::Seed => Settings { scored: true, ..settings(0, 0) },
                Self::Grounding => settings(512, 1),
                _ => settings(128, 1),
            };
            return Settings { chat: true, ..of_task };
        }
        match self {
            Self::Caption => settings(30, 8),
            Self::Vqa | Self::Gqa => settings(10, 1),
            Self::Exact | Self::Anls | Self::Relaxed => settings(100, 1),
            Self::Grounding => settings(28, 10),
            Self::Choice | Self::Seed => Settings { scored: true, ..settings(0, 0) },
            Self::Mme => Settings { chat: true, ..settings(512, 1) },
            Self::Dialogue => Settings { chat: true, ..settings(128, 1) },
        }
    }

    /// Returns the name of the metric and the factor of its values in tables.
    pub fn metric(self) -> (&'static str, f64) {
        match self {
            Self::Caption => ("CIDEr-D", 100.0),
            Self::Vqa => ("VQA score", 100.0),
            Self::Exact | Self::Gqa | Self::Dialogue => ("exact match", 100.0),
            Self::Anls => ("ANLS", 100.0),
            Self::Relaxed => ("relaxed accuracy", 100.0),
            Self::Grounding => ("accuracy at IoU 0.5", 100.0),
            Self::Choice | Self::Seed | Self::Mme => ("accuracy", 100.0),
        }
    }
}
