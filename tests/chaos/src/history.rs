//! What clients did and what they were told: the record that every checker reads.
//!
//! Owns the form of a history, one operation a line of JSON, so that other checkers can read it too:
//!
//! ```json
//! {"process":3,"op":"cas","arg":["v1","v2"],"key":"k7","result":true,"revision":918,"node":2,"call_ns":10,"return_ns":25,"outcome":"ok"}
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | `process` | who asked; one process asks one thing at a time |
//! | `op`, `arg` | `put` (value), `get`, `cas` (expected value or null for absent, and new value), `delete` |
//! | `key` | a register; keys are independent of each other |
//! | `result` | of `get`: the value, or null for absent; of `cas`: whether it was swapped |
//! | `revision` | of a write: the one it was given; of a `get`, and of a `cas` that did not swap: the one it saw; null where it is not known |
//! | `node` | the manager that was asked last |
//! | `call_ns` | taken before the question was sent, nanoseconds on the one monotonic clock of all processes |
//! | `return_ns` | taken after the answer came; null when none did |
//! | `outcome` | `ok`: it was done; `fail`: it was certainly not done; `unknown`: it may have been, or may still be, done |
//!
//! Values that are written are unique within a key. Never judges. Called by the recorders of both tiers.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", content = "arg", rename_all = "snake_case")]
pub enum Action {
    /// Writes a value.
    Put(String),
    /// Reads.
    Get,
    /// Writes the second if the first is there; nothing expected is a key that is absent.
    Cas(Option<String>, String),
    /// Removes the key.
    Delete,
}

impl Action {
    /// Whether it can change anything.
    #[must_use]
    pub const fn is_write(&self) -> bool {
        !matches!(self, Self::Get)
    }
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// Of a `cas`: whether it was done.
    Swapped(bool),
    /// Of a `get`: the value, if there was one; of anything else nothing.
    Value(Option<String>),
}

/// What the asker knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Ok,
    /// It was certainly not done, and never will be.
    Fail,
    /// It may have been done, and may still be.
    Unknown,
}

/// One operation. The module says what the fields mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the table at the head of the module")]
pub struct Operation {
    pub process: u64,
    #[serde(flatten)]
    pub action: Action,
    pub key: String,
    #[serde(default = "nothing")]
    pub result: Answer,
    pub revision: Option<u64>,
    pub node: Option<u64>,
    pub call_ns: u64,
    pub return_ns: Option<u64>,
    pub outcome: Outcome,
}

const fn nothing() -> Answer {
    Answer::Value(None)
}

impl Operation {
    /// When it had an effect at the latest: for ever, when the answer never came.
    #[must_use]
    pub fn ends(&self) -> u64 {
        if self.outcome == Outcome::Unknown { u64::MAX } else { self.return_ns.unwrap_or(u64::MAX) }
    }

    /// Whether it changed something for certain.
    #[must_use]
    pub const fn wrote(&self) -> bool {
        matches!(self.outcome, Outcome::Ok)
            && match (&self.action, &self.result) {
                (Action::Get, _) | (Action::Cas(..), Answer::Swapped(false)) => false,
                (Action::Put(_) | Action::Delete | Action::Cas(..), _) => true,
            }
    }
}

/// A history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file cannot be read.
    #[error("the history cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// A line is no operation.
    #[error("line {line} of the history is no operation: {why}")]
    NoOperation {
        /// Counted from 1.
        line: usize,
        /// What the parser says.
        why: serde_json::Error,
    },
}

/// Reads a history, one operation a line; empty lines are skipped.
///
/// # Errors
/// [`HistoryError`], which names the line.
pub fn read(from: impl BufRead) -> Result<Vec<Operation>, HistoryError> {
    let mut history = Vec::new();
    for (number, line) in from.lines().enumerate() {
        let line = line?;
        if !line.trim().is_empty() {
            let parsed = serde_json::from_str(&line);
            history.push(parsed.map_err(|why| HistoryError::NoOperation { line: number + 1, why })?);
        }
    }
    Ok(history)
}

/// Writes one operation as a line.
///
/// # Errors
/// Those of the writer.
pub fn write(to: &mut impl Write, operation: &Operation) -> io::Result<()> {
    serde_json::to_writer(&mut *to, operation)?;
    to.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_read_as_it_was_written() {
        // Given one operation of each kind and outcome
        let of = |action, result, outcome| Operation {
            process: 3,
            action,
            key: "k7".into(),
            result,
            revision: Some(918),
            node: Some(2),
            call_ns: 10,
            return_ns: (outcome != Outcome::Unknown).then_some(25),
            outcome,
        };
        let history = vec![
            of(Action::Put("a".into()), nothing(), Outcome::Ok),
            of(Action::Get, Answer::Value(Some("a".into())), Outcome::Ok),
            of(Action::Cas(None, "b".into()), Answer::Swapped(false), Outcome::Ok),
            of(Action::Cas(Some("a".into()), "b".into()), nothing(), Outcome::Unknown),
            of(Action::Delete, nothing(), Outcome::Fail),
        ];
        // When they are written and read again
        let mut bytes = Vec::new();
        for operation in &history {
            write(&mut bytes, operation).unwrap();
        }
        // Then they are what they were, and a line is what the documentation says
        assert_eq!(read(&*bytes).unwrap(), history);
        let line = r#"{"process":3,"op":"cas","arg":["v1","v2"],"key":"k7","result":true,"revision":918,"node":2,"call_ns":10,"return_ns":25,"outcome":"ok"}"#;
        let one = read(line.as_bytes()).unwrap();
        assert_eq!(one[0].action, Action::Cas(Some("v1".into()), "v2".into()));
        assert_eq!(one[0].result, Answer::Swapped(true));
    }

    #[test]
    fn a_line_that_is_no_operation_is_named() {
        let text = "\n{\"process\":1}\n";
        assert!(read(text.as_bytes()).unwrap_err().to_string().contains("line 2"));
    }
}
