//! How a request ended, for counting and for the log.
//!
//! Owns the classes of answers. Called by the service, once per request.

use quorate_transport::api;

use crate::metrics::Ended;

/// How it ended, by its answer.
pub(super) const fn ended(code: api::Code) -> Ended {
    match code {
        api::Code::Internal => Ended::Internal,
        api::Code::Unknown => Ended::Unknown,
        api::Code::NoLeader
        | api::Code::QuorumLost
        | api::Code::Overloaded
        | api::Code::Stopping
        | api::Code::NotLeader
        | api::Code::Deadline
        | api::Code::ReadOnly => Ended::Unavailable,
        api::Code::Invalid
        | api::Code::Refused
        | api::Code::Denied
        | api::Code::Expired
        | api::Code::Compacted
        | api::Code::Fenced
        | api::Code::Version
        | api::Code::NotFound
        | api::Code::Conflict
        | api::Code::NewGeneration
        | api::Code::LeaseNotFound
        | api::Code::StaleKey
        | api::Code::Cut
        | api::Code::StoreFull => Ended::Refused,
    }
}
