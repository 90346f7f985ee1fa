//! Repro files: a run as its knobs and the list of what was done, apart from any random number that chose it.
//!
//! Owns the form of the file (TOML, made to be read and edited) and how it is run. Called by `chaos run` and `chaos shrink`, and
//! by the tests, which run every file in `tests/chaos/repros` first.

use serde::{Deserialize, Serialize};

use crate::sim::{Report, Run, SimConfig, Timed, Violation, run_config};

/// A run that can be repeated from a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repro {
    /// What it breaks, or broke once.
    pub invariant: String,
    /// What it said then.
    pub detail: String,
    /// The knobs.
    pub config: SimConfig,
    /// What is done, in order.
    #[serde(default)]
    pub acts: Vec<Timed>,
}

impl Repro {
    /// Of a run that broke something.
    #[must_use]
    pub fn of(violation: &Violation) -> Self {
        Self {
            invariant: violation.invariant.to_owned(),
            detail: violation.detail.clone(),
            config: SimConfig { script: None, ..violation.config.clone() },
            acts: violation.acts.clone(),
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// What it breaks.
    pub fn run(&self) -> Run<Report> {
        run_config(SimConfig { script: Some(self.acts.clone()), drawn: None, ..self.config.clone() })
    }

    /// Whether it still breaks what it says.
    #[must_use]
    pub fn still_fails(&self) -> Option<Box<Violation>> {
        self.run().err().filter(|violation| violation.invariant == self.invariant)
    }

    /// As a file.
    ///
    /// # Errors
    /// When it has no form as TOML.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// From a file.
    ///
    /// # Errors
    /// What is wrong with it, with the line.
    pub fn from_toml(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}
