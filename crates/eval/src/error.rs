//! What can be wrong with data files.

/// An error of a data file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A line is no JSON, or lacks what its task needs.
    #[error("{file}, line {line}: {reason}")]
    Line {
        /// The file.
        file: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A file that is one JSON value is none, or lacks what its task needs.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A question has no true answers in the file of annotations.
    #[error("{file}: no annotation for question `{question}` of the data file; are the two of the same split?")]
    MissingAnnotation {
        /// The file of annotations.
        file: String,
        /// The question's id.
        question: String,
    },
    /// Fewer examples than a few-shot prompt is to have.
    #[error("{found} examples to take {needed} from: give a larger `--train` file or a smaller `--few-shot`")]
    TooFewExamples {
        /// Examples there are.
        found: usize,
        /// Examples asked for.
        needed: usize,
    },
}
