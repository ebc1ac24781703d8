//! Errors of data files.

/// An error of a data file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A line is not JSON, or lacks a value that its task needs.
    #[error("{file}, line {line}: {reason}")]
    Line {
        /// The file.
        file: String,
        /// Counted from 1.
        line: usize,
        /// The problem.
        reason: String,
    },
    /// A file is not one JSON value, or lacks a value that its task needs.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// The problem.
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
    /// There are fewer examples than a few-shot prompt needs.
    #[error("{found} examples to take {needed} from: give a larger `--train` file or a smaller `--few-shot`")]
    TooFewExamples {
        /// Number of examples.
        found: usize,
        /// Number of requested examples.
        needed: usize,
    },
}
