//! From a question about pictures to an answer: the processor and the model together.
//!
//! [`Request`], [`Event`] and [`Answer`] are what the command line and the browser exchange with the [`Engine`], as JSON.

mod chooser;
mod constraint;
mod engine;
mod pictures;
mod request;

pub use chooser::stop_tokens;
pub use constraint::{AllowedTokens, Constraint};
pub use engine::Engine;
pub use request::{
    Answer, Event, FinishReason, GenerationOptions, ImageInput, Overflow, PictureInfo, PictureLimits, PromptInput, Request, Score,
    ScoreRequest, Timings, TokenLogprob, TokenLogprobs, plan_video,
};
