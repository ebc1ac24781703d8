//! Quality of answers: the metrics of the paper's table 9 and the data files that `eval_mm` of the original repository reads.
//!
//! Every metric is a function of texts or boxes, and nothing here computes a model. [`Question`] has the prompts of each generation of models.
//! Where the original scripts deviate from the definition, a [`Variant`] selects one of the two:
//!
//! | metric | function | deviation of the original |
//! | --- | --- | --- |
//! | VQA score | [`vqa_score`] | true answers are cleaned less than predictions; one `1,000` changes the removal of every mark |
//! | exact match | [`exact_match`] | – |
//! | exact match of GQA | [`gqa_answer`] | finds `a ` inside words too |
//! | ANLS | [`anls`] | divides by lengths before blanks are collapsed |
//! | relaxed accuracy | [`relaxed_match`] | the 5 % are relative to the prediction |
//! | CIDEr-D | [`cider_d`] | the length penalty counts pairs of words |
//! | grounding accuracy | [`grounding_match`], [`box_match`] | coordinates are divided by 999; later generations: – |
//! | scored choice | [`best_choice`], [`circular_strict`], [`circular_majority`] | – |
//! | MME | [`mme_scores`] | – |

// Files, pictures and answers are outside input, which returns an error.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod anls;
mod choice;
mod cider;
mod data;
mod error;
mod exact;
mod grounding;
mod question;
mod relaxed;
mod task;
mod vqa;

pub use anls::{ANLS_THRESHOLD, anls};
pub use choice::{MmeScores, YesNo, best_choice, circular_majority, circular_strict, mme_scores, yes_no};
pub use cider::{caption_words, cider_d};
pub use data::{Item, Picture, Suite, SuiteEntry, Truth, few_shot_prompts, read_items};
pub use error::EvalError;
pub use exact::{exact_match, gqa_answer};
pub use grounding::{box_match, first_box, grounding_match, iou, predicted_box};
pub use question::Question;
pub use relaxed::relaxed_match;
pub use task::{Settings, Task};
pub use vqa::{clean_prediction, vqa_score};

/// The version of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// As the original script computes it, for comparison with published numbers.
    Original,
    /// As the metric is defined.
    Corrected,
}
