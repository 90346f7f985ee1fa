//! How a command fails: exit code, words for people, JSON for scripts.
//!
//! Owns the exit codes of commands. Never decides whether something failed. Called by every verb.

use quorate::backup::BackupError;
use quorate::{Error, Outcome, StartError};
use serde_json::{Value, json};

/// Exit codes of commands; `run` has its own, from the reason it stopped for.
pub(crate) mod exit {
    /// It was not done, and the message says why.
    pub(crate) const REFUSED: u8 = 1;
    /// The command line does not say what to do.
    pub(crate) const USAGE: u8 = 2;
    /// It was not done, because the managers cannot: try again.
    pub(crate) const UNAVAILABLE: u8 = 3;
    /// It may have been done.
    pub(crate) const UNKNOWN: u8 = 4;
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: u8,
    kind: &'static str,
    message: String,
    retryable: bool,
    outcome: Outcome,
    /// More for scripts, beside `error`.
    extra: Option<Value>,
}

impl Failure {
    fn not_done(exit: u8, kind: &'static str, message: impl Into<String>) -> Self {
        Self { exit, kind, message: message.into(), retryable: false, outcome: Outcome::NotDone, extra: None }
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
        Self { outcome: Outcome::Unknown, ..Self::not_done(exit::UNKNOWN, "unprinted", message) }
    }

    /// A key that people must keep could not be shown to them, and so nothing came of it.
    pub(crate) fn unshown(error: &std::io::Error) -> Self {
        let message = format!(
            "the new key cannot be written to stdout ({error}), and so does not count: the key before still opens the store. Give \
             the command again, where its answer can be read"
        );
        Self::not_done(exit::REFUSED, "unprinted", message)
    }

    /// A rule says no, by this name.
    pub(crate) fn refused(kind: &'static str, message: impl Into<String>) -> Self {
        Self::not_done(exit::REFUSED, kind, message)
    }

    /// There is no such thing.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::not_done(exit::REFUSED, "not_found", message)
    }

    /// A condition did not hold; `extra` says what is instead.
    pub(crate) fn mismatch(message: impl Into<String>, extra: Value) -> Self {
        Self { extra: Some(extra), ..Self::not_done(exit::REFUSED, "mismatch", message) }
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
        let outcome = if exit == exit::UNKNOWN { Outcome::Unknown } else { Outcome::NotDone };
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
        let outcome = match self.outcome {
            Outcome::NotDone => "not_done",
            Outcome::Unknown => "unknown",
        };
        let error =
            json!({ "kind": self.kind, "message": self.message, "retryable": self.retryable, "outcome": outcome });
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
        // `Error` grows with the library; what is not known here is a plain refusal unless it says otherwise.
        let kind = match &error {
            Error::Invalid(_) => "invalid",
            Error::Limit { .. } => "limit",
            Error::Denied(_) => "denied",
            Error::NoLeader(_) => "no_leader",
            Error::QuorumLost { .. } => "quorum_lost",
            Error::ReadOnly(_) => "read_only",
            Error::Unavailable(_) => "unavailable",
            Error::Overloaded { .. } => "overloaded",
            Error::Compacted { .. } => "compacted",
            Error::NewGeneration { .. } => "new_generation",
            Error::StoreFull { .. } => "store_full",
            Error::Fenced(_) => "fenced",
            Error::Unknown(_) => "unknown",
            Error::Version(_) => "version",
            Error::NotFound(_) => "not_found",
            Error::LeaseNotFound { .. } => "lease_not_found",
            Error::Conflict { .. } => "conflict",
            Error::Decode { .. } => "decode",
            Error::Internal(_) => "internal",
            Error::Refused(_) | Error::Membership { .. } | _ => "refused",
        };
        let exit = match error.outcome() {
            Outcome::Unknown => exit::UNKNOWN,
            Outcome::NotDone if error.is_retryable() => exit::UNAVAILABLE,
            Outcome::NotDone => exit::REFUSED,
        };
        let extra = if let Some(limit) = error.limit() {
            Some(json!({ "limit": { "name": limit.name, "bound": limit.bound, "actual": limit.actual } }))
        } else if let Error::Compacted { oldest, .. } = &error {
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
        Self {
            exit,
            kind,
            message: error.to_string(),
            retryable: error.is_retryable(),
            outcome: error.outcome(),
            extra,
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
            outcome: if exit == exit::UNKNOWN { Outcome::Unknown } else { Outcome::NotDone },
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
    use super::*;

    #[test]
    fn each_error_has_the_exit_code_of_what_to_do_next() {
        for (error, exit) in [
            (Error::Invalid("x".into()), 1),
            (Error::Refused("x".into()), 1),
            (Error::Denied("x".into()), 1),
            (Error::NoLeader("x".into()), 3),
            (Error::QuorumLost { missing: vec!["n2".into()], message: "x".into() }, 3),
            (Error::Unavailable("x".into()), 3),
            (Error::Unknown("x".into()), 4),
        ] {
            let failure = Failure::from(error.clone());
            assert_eq!(failure.exit, exit, "{error:?}");
            assert_eq!(failure.json()["error"]["retryable"], exit == 3, "{error:?}");
            assert_eq!(failure.json()["error"]["outcome"], if exit == 4 { "unknown" } else { "not_done" });
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
