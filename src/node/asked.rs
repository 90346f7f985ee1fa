//! Kinds of requests, for counting and for the log: one row each.
//!
//! Owns the words. A request without a row does not compile. Called by the service, once per request.

use quorate_transport::api::{self, request};

use crate::metrics::Ended;

/// A row, the word and the number of each kind.
macro_rules! kinds {
    ($($variant:ident => $word:literal,)*) => {
        #[derive(Debug, Clone, Copy)]
        #[repr(usize)]
        enum Row { $($variant),* }

        /// The words, in the order of the rows.
        pub(super) const KINDS: &[&str] = &[$($word),*];

        /// Which row this request has.
        pub(super) const fn row(kind: &request::Kind) -> usize {
            let row = match kind { $(request::Kind::$variant(_) => Row::$variant),* };
            row as usize
        }
    };
}

kinds! {
    Write => "write",
    Read => "read",
    Status => "status",
    MemberStatus => "member_status",
    TokenShow => "token_show",
    Transfer => "transfer",
    Command => "command",
    Rejoin => "rejoin",
    NodeList => "node_list",
    NodeInspect => "node_inspect",
    NodeRole => "node_role",
    NodeUpdate => "node_update",
    NodeRemove => "node_remove",
    NodeLeave => "node_leave",
    TokenRotate => "token_rotate",
    TokenCreate => "token_create",
    TokenList => "token_list",
    TokenRevoke => "token_revoke",
    PolicyShow => "policy_show",
    PolicySet => "policy_set",
    Enrol => "enrol",
    NodeReport => "node_report",
    AssignmentsWrite => "assignments_write",
    AssignmentsRead => "assignments_read",
    ReportRead => "report_read",
    Sessions => "sessions",
    Addresses => "addresses",
    Standing => "standing",
    Check => "check",
    LeaseWrite => "lease_write",
    LeaseKeepAlive => "lease_keep_alive",
    LeaseList => "lease_list",
    LeaseShow => "lease_show",
    UpgradeStatus => "upgrade_status",
    UpgradeFinish => "upgrade_finish",
    Watch => "watch",
    KeyOrder => "key_order",
    Unlock => "unlock",
    KeyringShow => "keyring_show",
    KeyringRotate => "keyring_rotate",
    ObjectCreate => "object_create",
    ObjectList => "object_list",
    ObjectInspect => "object_inspect",
    ObjectUpdate => "object_update",
    ObjectRemove => "object_remove",
    SecretReveal => "secret_reveal",
    ConfigRead => "config_read",
    Backup => "backup",
}

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
