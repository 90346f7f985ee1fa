//! How a command fails: exit code, words for people, JSON for scripts.
//!
//! Owns the exit codes of commands. Never decides whether something failed. Called by every verb.

use quorate::backup::BackupError;
use quorate::{Error, Outcome, StartError};
use serde_json::{Value, json};

/// Exit codes of commands; `run` has its own, from the reason it stopped for, and `lock` those of its command.
pub(crate) mod exit {
    /// It was not done, and the message says why; of a transaction, that its conditions did not hold.
    pub(crate) const REFUSED: u8 = 1;
    /// The command line does not say what to do.
    pub(crate) const USAGE: u8 = 2;
    /// It was not done, because the managers cannot: try again.
    pub(crate) const UNAVAILABLE: u8 = 3;
    /// It may have been done, or was and the answer is lost: look before it is asked for again.
    pub(crate) const UNKNOWN: u8 = 4;
}

/// Whether it was done, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    NotDone,
    Done,
    Unknown,
}

impl Came {
    const fn word(self) -> &'static str {
        match self {
            Self::NotDone => "not_done",
            Self::Done => "done",
            Self::Unknown => "unknown",
        }
    }
}

impl From<Outcome> for Came {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::NotDone => Self::NotDone,
            Outcome::Unknown => Self::Unknown,
        }
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: u8,
    kind: &'static str,
    message: String,
    retryable: bool,
    outcome: Came,
    /// More for scripts, beside `error`.
    extra: Option<Value>,
}

impl Failure {
    fn not_done(exit: u8, kind: &'static str, message: impl Into<String>) -> Self {
        Self { exit, kind, message: message.into(), retryable: false, outcome: Came::NotDone, extra: None }
    }

    /// The command line is wrong; nothing was tried.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::not_done(exit::USAGE, "usage", message)
    }

    /// Something of this machine (a file, stdout) does not serve.
    pub(crate) fn local(message: impl Into<String>) -> Self {
        Self::not_done(exit::REFUSED, "local", message)
    }

    /// What was asked for is done, and the answer cannot be written.
    pub(crate) fn unprinted(error: &std::io::Error) -> Self {
        let message = format!(
            "what was asked for is done, but the answer cannot be written to stdout ({error}): make room for it, and read what \
             there is instead of asking for the change again"
        );
        Self::not_done(exit::REFUSED, "unprinted", message).all_the_same()
    }

    /// What was only read cannot be shown.
    pub(crate) fn unshown(error: &std::io::Error) -> Self {
        Self::not_done(exit::REFUSED, "unprinted", format!("the answer cannot be written to stdout: {error}"))
    }

    /// What the command is for could not be handed over: nobody has it, or a part of it.
    pub(crate) fn lost(what: &str, error: &std::io::Error) -> Self {
        let message = format!("{what} could not be written to stdout ({error}): nobody has it whole");
        Self::not_done(exit::REFUSED, "unprinted", message)
    }

    /// Nobody would have what the command is for.
    pub(crate) fn nowhere(what: &str) -> Self {
        let message = format!(
            "stdout is closed, or is /dev/null, and nobody would see {what}. Nothing was done: give the command again, where its \
             answer can be read"
        );
        Self::not_done(exit::REFUSED, "unprinted", message)
    }

    /// It failed, and what was asked for was done all the same.
    pub(crate) fn all_the_same(self) -> Self {
        Self { exit: exit::UNKNOWN, outcome: Came::Done, ..self }
    }

    /// A rule says no, by this name.
    pub(crate) fn refused(kind: &'static str, message: impl Into<String>) -> Self {
        Self::not_done(exit::REFUSED, kind, message)
    }

    /// There is no such thing.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::not_done(exit::REFUSED, "not_found", message)
    }

    /// A condition did not hold; `extra` says what is instead, `wrote` whether something was written for that case.
    pub(crate) fn mismatch(message: impl Into<String>, extra: Value, wrote: bool) -> Self {
        let outcome = if wrote { Came::Done } else { Came::NotDone };
        Self { extra: Some(extra), outcome, ..Self::not_done(exit::REFUSED, "mismatch", message) }
    }

    /// No manager answered in time.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self { retryable: true, ..Self::not_done(exit::UNAVAILABLE, "unavailable", message) }
    }

    /// A node stopped for another reason than being asked.
    pub(crate) fn stopped(exit: u8, message: impl Into<String>) -> Self {
        Self::not_done(exit, "stopped", message)
    }

    /// A node did not start: as any failure, with the exit codes of `run`.
    pub(crate) fn start(error: StartError) -> Self {
        Self { exit: error.exit_code(), ..Self::from(error) }
    }

    /// Of many requests some failed, the worst of them with this exit code.
    pub(crate) fn requests_failed(exit: u8, message: impl Into<String>) -> Self {
        let outcome = if exit == exit::UNKNOWN { Came::Unknown } else { Came::NotDone };
        Self { outcome, ..Self::not_done(exit, "requests_failed", message) }
    }

    /// Several as one: the worst exit code, all messages. `None` for none.
    pub(crate) fn all(failures: Vec<Self>) -> Option<Self> {
        let messages = failures.iter().map(|failure| failure.message.as_str()).collect::<Vec<_>>().join("\n");
        let worst = failures.into_iter().max_by_key(|failure| failure.exit)?;
        Some(Self { message: messages, ..worst })
    }

    /// Of this file, or this node.
    pub(crate) fn about(mut self, what: impl std::fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// With a further sentence: what was done until then, or what to do now.
    pub(crate) fn after(mut self, sentence: &str) -> Self {
        if self.message.contains(sentence) {
            // It says so itself.
            return self;
        }
        self.message = format!("{}. {sentence}", self.message.trim_end_matches('.'));
        self
    }

    /// With more for scripts beside `error`.
    pub(crate) fn with(mut self, more: Value) -> Self {
        match (&mut self.extra, more) {
            (Some(Value::Object(fields)), Value::Object(more)) => fields.extend(more),
            (extra, more) => *extra = Some(more),
        }
        self
    }

    /// As the document for scripts.
    pub(crate) fn json(&self) -> Value {
        let error = json!({
            "kind": self.kind, "message": self.message, "retryable": self.retryable, "outcome": self.outcome.word(),
        });
        let mut document = match &self.extra {
            Some(Value::Object(fields)) => fields.clone(),
            _ => serde_json::Map::new(),
        };
        document.insert("error".into(), error);
        Value::Object(document)
    }

    /// In one word.
    pub(crate) const fn kind(&self) -> &'static str {
        self.kind
    }

    /// As a sentence for people.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let limit = error
            .limit()
            .map(|limit| json!({ "limit": { "name": limit.name, "bound": limit.bound, "actual": limit.actual } }));
        let extra = if let Error::Compacted { oldest, .. } = &error {
            Some(json!({ "oldest": oldest }))
        } else if let Error::QuorumLost { missing, .. } = &error {
            Some(json!({ "missing": missing }))
        } else if let Error::Membership { rule, .. } = &error {
            Some(json!({ "rule": rule.word() }))
        } else if let Error::LeaseNotFound { lease, .. } = &error {
            Some(json!({ "lease": lease }))
        } else if let Error::NewGeneration { kept_revision, .. } = &error {
            Some(json!({ "kept_revision": kept_revision }))
        } else {
            None
        };
        let failure = Self {
            exit: error.exit_code(),
            kind: error.word(),
            message: error.to_string(),
            retryable: error.is_retryable(),
            outcome: error.outcome().into(),
            extra,
        };
        match limit {
            Some(limit) => failure.with(limit),
            None => failure,
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        // As with `Error`: what is not known here is a plain refusal.
        let kind = match &error {
            StartError::Invalid(_) => "usage",
            StartError::Directory(_) => "directory",
            StartError::Contradiction(_) => "contradiction",
            StartError::InUse(_) => "in_use",
            StartError::Damaged(_) => "damaged",
            StartError::Locked(_) => "locked",
            StartError::NeedsVersion(_) => "needs_version",
            StartError::Disk(_) => "disk",
            StartError::Address(_) => "address",
            StartError::Unavailable(_) => "unavailable",
            StartError::Unknown(_) => "unknown",
            StartError::Internal(_) => "internal",
            StartError::ClusterAlive(_) => "cluster_alive",
            StartError::Superseded(_) => "superseded",
            StartError::RolledBack(_) => "rolled_back",
            StartError::Identity(_) => "identity",
            StartError::Forked(_) => "forked",
            StartError::Backup(_) => "backup",
            StartError::Refused(_) | _ => "refused",
        };
        let exit = error.command_exit_code();
        Self {
            retryable: matches!(exit, exit::UNAVAILABLE | exit::UNKNOWN),
            outcome: if exit == exit::UNKNOWN { Came::Unknown } else { Came::NotDone },
            ..Self::not_done(exit, kind, error.to_string())
        }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let kind = match &error {
            BackupError::Cluster(error) => return error.clone().into(),
            BackupError::NeedsVersion(_) => "needs_version",
            BackupError::File(_) => "local",
            BackupError::Key(_) => return Self::usage(error.to_string()),
            BackupError::NotABackup(_)
            | BackupError::WrongKey(_)
            | BackupError::OtherCa { .. }
            | BackupError::Short { .. }
            | BackupError::Damaged(_)
            | _ => "backup",
        };
        Self::refused(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use quorate::StopReason;

    use super::*;

    #[test]
    fn an_error_of_the_library_is_told_as_it_says_itself() {
        for (error, exit, outcome) in [
            (Error::Invalid("x".into()), 1, "not_done"),
            (Error::Unavailable("x".into()), 3, "not_done"),
            (Error::Unknown("x".into()), 4, "unknown"),
        ] {
            let failure = Failure::from(error.clone());
            assert_eq!((failure.exit, failure.kind), (exit, error.word()));
            assert_eq!(failure.json()["error"]["retryable"], exit == 3, "{error:?}");
            assert_eq!(failure.json()["error"]["outcome"], outcome, "{error:?}");
        }
    }

    #[test]
    fn what_was_done_is_never_said_not_to_be() {
        let full = std::io::Error::other("full");
        let told = |failure: Failure| (failure.exit, failure.json()["error"]["outcome"].as_str().map(str::to_owned));
        assert_eq!(told(Failure::unprinted(&full)), (4, Some("done".into())));
        assert_eq!(told(Failure::unshown(&full)), (1, Some("not_done".into())));
        assert_eq!(told(Failure::lost("the key", &full)), (1, Some("not_done".into())));
        assert_eq!(told(Failure::lost("the token", &full).all_the_same()), (4, Some("done".into())));
        // The exit code says that the conditions did not hold, the outcome whether something was written.
        assert_eq!(told(Failure::mismatch("x", json!({}), false)), (1, Some("not_done".into())));
        assert_eq!(told(Failure::mismatch("x", json!({}), true)), (1, Some("done".into())));
    }

    /// Where people read what an exit code means.
    const TOLD: [(&str, &str); 3] = [
        ("README.md", include_str!("../../../README.md")),
        ("docs/guide/operating.md", include_str!("../../../docs/guide/operating.md")),
        ("quorate --help", crate::args::EXIT),
    ];

    #[test]
    fn every_exit_code_is_told_wherever_exit_codes_are() {
        // Those of commands; of `run`; of a defect; and of what was ended by a signal, of which 130 is Ctrl-C's.
        let codes =
            [0, exit::REFUSED, exit::USAGE, exit::UNAVAILABLE, exit::UNKNOWN, 10, 11, 12, 13, 14, 101, 130, 143];
        let of_run = [
            StopReason::Asked,
            StopReason::Removed,
            StopReason::Superseded(String::new()),
            StopReason::Damaged(String::new()),
            StopReason::NeedsVersion(String::new()),
            StopReason::Bug(String::new()),
            StopReason::DiskFailed(String::new()),
            StopReason::RolledBack(String::new()),
            StopReason::IdentityRefused(String::new()),
        ];
        assert!(of_run.iter().all(|reason| codes.contains(&reason.exit_code())));
        for (place, text) in TOLD {
            // Where they are listed; a code may be spoken of before.
            let (_, told) = text.split_once("| exit code |").or_else(|| text.split_once("Exit codes:")).unwrap();
            let told: String = told.chars().take(2_000).collect();
            let numbers: Vec<u8> =
                told.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
            for code in codes {
                assert!(numbers.contains(&code), "{place} does not say what exit code {code} means");
            }
        }
    }

    #[test]
    fn only_a_node_that_runs_has_the_exit_codes_of_run() {
        let disk = || StartError::Disk("x".into());
        let damaged = || StartError::Damaged("x".into());
        assert_eq!((Failure::from(disk()).exit, Failure::start(disk()).exit), (1, 13));
        assert_eq!((Failure::from(damaged()).exit, Failure::start(damaged()).exit), (1, 12));
        for (error, exit) in [
            (StartError::Invalid("x".into()), 2),
            (StartError::Directory("x".into()), 1),
            (StartError::Contradiction("x".into()), 1),
            (StartError::Unavailable("x".into()), 3),
            (StartError::Unknown("x".into()), 4),
        ] {
            let failure = Failure::from(error);
            assert_eq!(failure.exit, exit, "{}", failure.kind);
            assert_eq!(failure.json()["error"]["outcome"], if exit == 4 { "unknown" } else { "not_done" });
        }
    }
}
