//! Where words go, and what the process ends with.
//!
//! Owns every write to stdout and stderr, and the exit codes. Called by every verb.

use std::io::{self, Write as _};
use std::process::ExitCode;

use serde_json::{Value, json};

/// What the process ends with. Only the first is green.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything holds.
    Pass = 0,
    /// A promise was broken.
    Violation = 1,
    /// It could not be judged.
    Inconclusive = 2,
    /// The harness failed, or was asked for what it does not know.
    Harness = 3,
    /// A fault or a mark that is required was never reached.
    Coverage = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// How to answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// A line of the answer. A reader that went away is not an error.
    pub(crate) fn line(self, text: &str) -> Result<(), String> {
        match writeln!(io::stdout().lock(), "{text}") {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(format!("the answer cannot be written to stdout: {error}")),
        }
    }

    /// The answer as one document.
    pub(crate) fn json(self, value: &Value) -> Result<(), String> {
        self.line(&value.to_string())
    }

    /// Why nothing came of it.
    pub(crate) fn failed(self, why: &str) {
        let mut to = io::stderr().lock();
        let _nobody_reads = if self.json {
            writeln!(io::stdout().lock(), "{}", json!({"error": {"kind": "harness", "message": why}}))
        } else {
            writeln!(to, "error: {why}")
        };
    }
}
