//! What can go wrong for a caller, by what the caller can do about it.
//!
//! Owns the public error of requests. Every message says what happened, what was not harmed, and what to do next.

use bytes::Bytes;
use quorate_core::limits::Met;
use quorate_core::state::contract::Refusal;
use quorate_transport::api;

use crate::membership::Rule;

/// Whether a failed request may have been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was not done, and it will not be.
    NotDone,
    /// It may have been done.
    Unknown,
}

/// A result of a request.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A limit that a request met: a row of the table of limits in the guide.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limit {
    /// Its name in that table: `KEY_BYTES_MAX`.
    pub name: String,
    /// The number there: the most that is taken or, where the name ends in `_MIN`, the least.
    pub bound: u64,
    /// What was given, or what there would be; in the unit of the name: bytes, milliseconds, seconds, characters, or how many.
    pub actual: u64,
}

impl From<Met> for Limit {
    fn from(met: Met) -> Self {
        Self { name: met.name.to_owned(), bound: met.bound, actual: met.actual }
    }
}

impl From<api::Limit> for Limit {
    fn from(limit: api::Limit) -> Self {
        Self { name: limit.name, bound: limit.bound, actual: limit.actual }
    }
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request itself is wrong: a key, a name, a revision that is not yet. Not done. Change the request.
    #[error("{0}")]
    Invalid(String),
    /// The request is over a limit. Not done. Make it smaller, or split it.
    #[error("{message}")]
    Limit {
        /// Which, and by how much.
        limit: Limit,
        /// For people; it has the limit's name, too.
        message: String,
    },
    /// A rule of the store or of membership says no. Not done. The message names the way out.
    #[error("{0}")]
    Refused(String),
    /// A rule of membership says no. Not done. The message names the way out.
    #[error("{message}")]
    Membership {
        /// Which rule.
        rule: Rule,
        /// The limit that was met, where the rule is one of how many or how much.
        limit: Option<Limit>,
        /// For people.
        message: String,
    },
    /// This identity may not do that. Not done.
    #[error("{0}")]
    Denied(String),
    /// No manager leads at the moment. Not done. Retryable.
    #[error("{0}")]
    NoLeader(String),
    /// Fewer than a majority of the voters are reachable: every manager that the client knows says so or cannot be reached,
    /// and at least one says so. Told at once. Not done. Retryable once managers are back.
    #[error("{message}")]
    QuorumLost {
        /// Names of the voters that the manager which said so last does not hear from.
        missing: Vec<String>,
        /// For people; it has the names, too.
        message: String,
    },
    /// Managers are low on disk space, so that no write would be replicated. Not done; reads go on. Retryable once there
    /// is space.
    #[error("{0}")]
    ReadOnly(String),
    /// No manager could be reached, or none answered in time. Not done. Retryable.
    #[error("{0}")]
    Unavailable(String),
    /// The managers have too much to do. Not done. Retryable a little later.
    #[error("{message}")]
    Overloaded {
        /// Which of their limits was met, where it was one.
        limit: Option<Limit>,
        /// For people.
        message: String,
    },
    /// The history at that revision is gone.
    #[error("{message}")]
    Compacted {
        /// The oldest revision that can still be read.
        oldest: u64,
        /// For people.
        message: String,
    },
    /// The revision is of before the cluster was recovered. Read again at the present, or list anew.
    #[error("{message}")]
    NewGeneration {
        /// The newest revision that the recovery kept.
        kept_revision: u64,
        /// For people.
        message: String,
    },
    /// The store holds as much as the policy lets it, or less by too little for this write. Not done; reads and deletes go on.
    #[error("{message}")]
    StoreFull {
        /// The quota, and what the store would hold.
        limit: Limit,
        /// For people.
        message: String,
    },
    /// The leadership that the write was bound to is over. Not done.
    #[error("{0}")]
    Fenced(String),
    /// The answer did not come in time: the write may or may not have been applied.
    #[error("{0}")]
    Unknown(String),
    /// An attempt may have been applied, and the managers no longer keep what came of it: no manager heard from this client for
    /// longer than they remember ([`CLIENT_SILENCE`](crate::config::CLIENT_SILENCE)), and forgot it. It is not applied from now
    /// on. Read what it was to change, and write it anew if it is not there.
    #[error("{0}")]
    Expired(String),
    /// The cluster version does not allow it yet. Not done.
    #[error("{0}")]
    Version(String),
    /// There is no such thing. Not done.
    #[error("{0}")]
    NotFound(String),
    /// The lease does not exist: it ran out, was revoked, or was never granted, and the keys that were attached to it are
    /// gone. Not done. Grant a new one.
    #[error("{message}")]
    LeaseNotFound {
        /// Which.
        lease: u64,
        /// For people.
        message: String,
    },
    /// A row is not as the write expects it: it is there already, was written meanwhile, or is gone; or another condition of the
    /// write does not hold. Not done. Read it again and decide anew.
    #[error("{message}")]
    Conflict {
        /// Which key.
        key: Bytes,
        /// For people.
        message: String,
    },
    /// The value of a key cannot be read as what its table holds. Nothing was done. Write it anew, or remove it.
    #[error("{message}")]
    Decode {
        /// Which key.
        key: Bytes,
        /// For people, with the codec's own reason.
        message: String,
    },
    /// A defect of quorate. Whether it was done is unknown.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// Whether the same request may succeed when it is sent again unchanged.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::NoLeader(_)
            | Self::QuorumLost { .. }
            | Self::ReadOnly(_)
            | Self::Unavailable(_)
            | Self::Overloaded { .. } => true,
            Self::Invalid(_)
            | Self::Limit { .. }
            | Self::Refused(_)
            | Self::Membership { .. }
            | Self::Denied(_)
            | Self::Compacted { .. }
            | Self::NewGeneration { .. }
            | Self::StoreFull { .. }
            | Self::Fenced(_)
            | Self::Unknown(_)
            | Self::Expired(_)
            | Self::Version(_)
            | Self::NotFound(_)
            | Self::LeaseNotFound { .. }
            | Self::Conflict { .. }
            | Self::Decode { .. }
            | Self::Internal(_) => false,
        }
    }

    /// The exit code of a command that met it: 1 refused, 3 unavailable (nothing was done, the same may succeed later), 4
    /// unknown outcome.
    pub const fn exit_code(&self) -> u8 {
        match self.outcome() {
            Outcome::Unknown => 4,
            Outcome::NotDone if self.is_retryable() => 3,
            Outcome::NotDone => 1,
        }
    }

    /// Its name in one word, as in the JSON of commands.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid",
            Self::Limit { .. } => "limit",
            Self::Refused(_) | Self::Membership { .. } => "refused",
            Self::Denied(_) => "denied",
            Self::NoLeader(_) => "no_leader",
            Self::QuorumLost { .. } => "quorum_lost",
            Self::ReadOnly(_) => "read_only",
            Self::Unavailable(_) => "unavailable",
            Self::Overloaded { .. } => "overloaded",
            Self::Compacted { .. } => "compacted",
            Self::NewGeneration { .. } => "new_generation",
            Self::StoreFull { .. } => "store_full",
            Self::Fenced(_) => "fenced",
            Self::Unknown(_) => "unknown",
            Self::Expired(_) => "expired",
            Self::Version(_) => "version",
            Self::NotFound(_) => "not_found",
            Self::LeaseNotFound { .. } => "lease_not_found",
            Self::Conflict { .. } => "conflict",
            Self::Decode { .. } => "decode",
            Self::Internal(_) => "internal",
        }
    }

    /// The limit that the request met, where that is why it failed.
    pub const fn limit(&self) -> Option<&Limit> {
        match self {
            Self::Limit { limit, .. } | Self::StoreFull { limit, .. } => Some(limit),
            Self::Overloaded { limit, .. } | Self::Membership { limit, .. } => limit.as_ref(),
            Self::Invalid(_)
            | Self::Refused(_)
            | Self::Denied(_)
            | Self::NoLeader(_)
            | Self::QuorumLost { .. }
            | Self::ReadOnly(_)
            | Self::Unavailable(_)
            | Self::Compacted { .. }
            | Self::NewGeneration { .. }
            | Self::Fenced(_)
            | Self::Unknown(_)
            | Self::Expired(_)
            | Self::Version(_)
            | Self::NotFound(_)
            | Self::LeaseNotFound { .. }
            | Self::Conflict { .. }
            | Self::Decode { .. }
            | Self::Internal(_) => None,
        }
    }

    /// Whether the request may have been done.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Unknown(_) | Self::Expired(_) | Self::Internal(_) => Outcome::Unknown,
            Self::Invalid(_)
            | Self::Limit { .. }
            | Self::Refused(_)
            | Self::Membership { .. }
            | Self::Denied(_)
            | Self::NoLeader(_)
            | Self::QuorumLost { .. }
            | Self::ReadOnly(_)
            | Self::Unavailable(_)
            | Self::Overloaded { .. }
            | Self::Compacted { .. }
            | Self::NewGeneration { .. }
            | Self::StoreFull { .. }
            | Self::Fenced(_)
            | Self::Version(_)
            | Self::LeaseNotFound { .. }
            | Self::Conflict { .. }
            | Self::Decode { .. }
            | Self::NotFound(_) => Outcome::NotDone,
        }
    }

    /// What the client itself refuses, as the managers would.
    pub(crate) fn before_sending(refusal: &Refusal) -> Self {
        let message = refusal.to_string();
        match refusal.limit() {
            Some(met) => Self::Limit { limit: met.into(), message },
            None => Self::Invalid(message),
        }
    }

    /// The managers have too much to do, and no limit of theirs has a name for it.
    pub(crate) fn overloaded(message: impl Into<String>) -> Self {
        Self::Overloaded { limit: None, message: message.into() }
    }

    /// The error that a manager put on the wire.
    pub(crate) fn from_wire(error: api::Error) -> Self {
        let message = error.message.clone();
        let limit = error.limit.clone().map(|limit| Limit::from(*limit));
        match error.code() {
            api::Code::Internal => Self::Internal(message),
            api::Code::Invalid => match limit {
                Some(limit) => Self::Limit { limit, message },
                None => Self::Invalid(message),
            },
            api::Code::Refused => match Rule::from_word(&error.rule) {
                Some(rule) => Self::Membership { rule, limit, message },
                None => Self::Refused(message),
            },
            api::Code::Denied => Self::Denied(message),
            api::Code::NoLeader | api::Code::NotLeader => Self::NoLeader(message),
            api::Code::QuorumLost => {
                let missing = error.missing.map(|missing| missing.names).unwrap_or_default();
                Self::QuorumLost { missing, message }
            }
            api::Code::Overloaded | api::Code::Conflict | api::Code::StaleKey => Self::Overloaded { limit, message },
            api::Code::ReadOnly => Self::ReadOnly(message),
            api::Code::Unknown => Self::Unknown(message),
            api::Code::Expired => Self::Expired(message),
            api::Code::Stopping | api::Code::Deadline | api::Code::Cut => Self::Unavailable(message),
            api::Code::Compacted => Self::Compacted { oldest: error.oldest, message },
            api::Code::NewGeneration => Self::NewGeneration { kept_revision: error.kept_revision, message },
            api::Code::StoreFull => match limit {
                Some(limit) => Self::StoreFull { limit, message },
                None => Self::Refused(message),
            },
            api::Code::Fenced => Self::Fenced(message),
            api::Code::Version => Self::Version(message),
            api::Code::NotFound => Self::NotFound(message),
            api::Code::LeaseNotFound => Self::LeaseNotFound { lease: error.lease, message },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (Error, &'static str, bool, Outcome, u8);

    /// One of each variant, with its word, whether it may be sent again unchanged, whether it may have been done, and the exit
    /// code of a command.
    fn table() -> Vec<Row> {
        use Outcome::{NotDone, Unknown};
        let (why, message) = (|| "x".to_owned(), || "x".to_owned());
        let limit = || Limit { name: "KEY_BYTES_MAX".into(), bound: 1, actual: 2 };
        let key = Bytes::new;
        vec![
            (Error::Invalid(why()), "invalid", false, NotDone, 1),
            (Error::Limit { limit: limit(), message: message() }, "limit", false, NotDone, 1),
            (Error::Refused(why()), "refused", false, NotDone, 1),
            (
                Error::Membership { rule: Rule::Ambiguous, limit: None, message: message() },
                "refused",
                false,
                NotDone,
                1,
            ),
            (Error::Denied(why()), "denied", false, NotDone, 1),
            (Error::NoLeader(why()), "no_leader", true, NotDone, 3),
            (Error::QuorumLost { missing: Vec::new(), message: message() }, "quorum_lost", true, NotDone, 3),
            (Error::ReadOnly(why()), "read_only", true, NotDone, 3),
            (Error::Unavailable(why()), "unavailable", true, NotDone, 3),
            (Error::Overloaded { limit: Some(limit()), message: message() }, "overloaded", true, NotDone, 3),
            (Error::Compacted { oldest: 1, message: message() }, "compacted", false, NotDone, 1),
            (Error::NewGeneration { kept_revision: 1, message: message() }, "new_generation", false, NotDone, 1),
            (Error::StoreFull { limit: limit(), message: message() }, "store_full", false, NotDone, 1),
            (Error::Fenced(why()), "fenced", false, NotDone, 1),
            (Error::Unknown(why()), "unknown", false, Unknown, 4),
            (Error::Version(why()), "version", false, NotDone, 1),
            (Error::NotFound(why()), "not_found", false, NotDone, 1),
            (Error::LeaseNotFound { lease: 1, message: message() }, "lease_not_found", false, NotDone, 1),
            (Error::Conflict { key: key(), message: message() }, "conflict", false, NotDone, 1),
            (Error::Decode { key: key(), message: message() }, "decode", false, NotDone, 1),
            (Error::Expired(why()), "expired", false, Unknown, 4),
            (Error::Internal(why()), "internal", false, Unknown, 4),
        ]
    }

    /// Where each variant stands in the table: one that is new has to be given a place, and with it a row.
    const fn place(error: &Error) -> usize {
        match error {
            Error::Invalid(_) => 0,
            Error::Limit { .. } => 1,
            Error::Refused(_) => 2,
            Error::Membership { .. } => 3,
            Error::Denied(_) => 4,
            Error::NoLeader(_) => 5,
            Error::QuorumLost { .. } => 6,
            Error::ReadOnly(_) => 7,
            Error::Unavailable(_) => 8,
            Error::Overloaded { .. } => 9,
            Error::Compacted { .. } => 10,
            Error::NewGeneration { .. } => 11,
            Error::StoreFull { .. } => 12,
            Error::Fenced(_) => 13,
            Error::Unknown(_) => 14,
            Error::Version(_) => 15,
            Error::NotFound(_) => 16,
            Error::LeaseNotFound { .. } => 17,
            Error::Conflict { .. } => 18,
            Error::Decode { .. } => 19,
            Error::Expired(_) => 20,
            Error::Internal(_) => LAST,
        }
    }
    const LAST: usize = 21;

    #[test]
    fn word_retry_outcome_and_exit_code_of_each_error_say_the_same() {
        let table = table();
        assert_eq!(table.len(), LAST + 1);
        for (at, (error, word, retryable, outcome, exit)) in table.into_iter().enumerate() {
            assert_eq!(place(&error), at, "{error:?}");
            assert_eq!((error.word(), error.is_retryable(), error.outcome()), (word, retryable, outcome), "{error:?}");
            assert_eq!(error.exit_code(), exit, "{error:?}");
            // What may have been done is never sent again as if it had not been.
            assert!(!(error.is_retryable() && error.outcome() == Outcome::Unknown), "{error:?}");
            assert_eq!(exit == 3, retryable, "{error:?}");
            assert_eq!(exit == 4, outcome == Outcome::Unknown, "{error:?}");
        }
    }
}
