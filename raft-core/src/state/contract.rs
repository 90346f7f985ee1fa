//! What the consensus machine hands to the applier, and what the applier reports back.
//!
//! Owns plain types only. Called by both, so that neither knows the other.

use std::sync::Arc;

use bytes::Bytes;

use crate::id::{LeaseId, Lineage, LogIndex, Revision, Term};
use crate::limits::{LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN, Met, unit};
use crate::log::Configuration;
use crate::succession::Succession;
use crate::txn::TxnResult;
use crate::watch::Unit;

/// One committed entry on its way to the applier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its index; entries arrive without gaps.
    pub index: LogIndex,
    /// Its term: what a fencing token is compared with.
    pub term: Term,
    /// What it does.
    pub payload: Payload,
}

/// What a committed entry does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// A leader's first entry of its term.
    Empty,
    /// An encoded [`crate::command::Batch`].
    Commands {
        /// The bytes.
        data: Bytes,
        /// Somebody on this node waits for the outcomes.
        wanted: bool,
    },
    /// A configuration entry. The consensus task has computed what results (design section 4, rule 5).
    Configuration {
        /// The configuration in force after this entry; `None` when the entry was void.
        result: Option<Configuration>,
        /// The configuration number after this entry.
        number: u64,
    },
}

/// What is to be deleted is counted no further than to the limit, and a file with data for an object is read no further.
fn at_least(limit: &str) -> &'static str {
    if limit.starts_with("DELETE_") || limit == "OBJECT_BYTES_MAX" { "at least " } else { "" }
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Applied.
    Done(TxnResult),
    /// Refused at apply; nothing changed.
    Refused(Refusal),
}

/// Why a request is refused; nothing was changed by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A limit of [`crate::limits`].
    #[error("{what} has {}{actual} {unit}, the limit `{limit}` is {max} {unit}; nothing was changed", at_least(.limit), unit = unit(.limit))]
    Limit {
        /// What is too large, in words.
        what: String,
        /// The limit's name.
        limit: &'static str,
        /// Its value.
        max: u64,
        /// What was given.
        actual: u64,
    },
    /// A key must have at least one byte.
    #[error("the key is empty; give a key of at least one byte. Nothing was changed")]
    EmptyKey,
    /// Two writes of one key in one branch of a transaction.
    #[error("the transaction writes the key {key} twice; split it in two. Nothing was changed")]
    DuplicateKey {
        /// The key, printable.
        key: String,
    },
    /// A range at a revision whose history is gone.
    #[error("revision {asked} is compacted, the oldest kept is {oldest}; read again at a newer revision")]
    Compacted {
        /// The revision asked for.
        asked: u64,
        /// The oldest that can be read.
        oldest: u64,
    },
    /// A range at a revision that is not yet.
    #[error("revision {asked} is in the future, the newest is {current}")]
    FutureRevision {
        /// The revision asked for.
        asked: u64,
        /// The newest.
        current: u64,
    },
    /// A range at a revision of before the cluster was recovered: what it was there is not told any more, and revisions
    /// above the one kept were made by managers that are lost.
    #[error(
        "the cluster was recovered: of the revisions before, those up to {kept_revision} were kept, and {asked} cannot be read any more; read again without a revision, or list anew"
    )]
    NewGeneration {
        /// The revision asked for.
        asked: u64,
        /// The newest revision that the recovery kept.
        kept_revision: u64,
    },
    /// The leadership that the write was bound to is over.
    #[error(
        "the fencing token {token} is not current, the entry carries term {term}; another leader may be at work. Nothing was changed"
    )]
    Fenced {
        /// The token the write came with.
        token: u64,
        /// The term of the entry that carried it.
        term: u64,
    },
    /// The client said before that it would not ask for this sequence again, or was silent too long.
    #[error(
        "request {sequence} is below the client's low-water mark {low_water}: its outcome is no longer kept; whether it was applied is unknown"
    )]
    RequestExpired {
        /// The sequence.
        sequence: u64,
        /// The mark.
        low_water: u64,
    },
    /// The client keeps too many outcomes open.
    #[error(
        "the client has {kept} outcomes open, at most `REPLAY_PER_CLIENT_MAX` = {max}; raise the low-water mark. Nothing was changed"
    )]
    ReplayFull {
        /// Kept now.
        kept: u64,
        /// The limit.
        max: u64,
    },
    /// The cluster's quota. Reading and deleting go on, and so does what managers write of themselves.
    #[error(
        "the store is full: it holds {used} bytes of the `STORE_QUOTA_BYTES` = {quota} that it may, this write needs {wanted} more. Nothing was changed, and reads and deletes go on; delete what is not needed (writes are taken again below nine tenths of the quota), or raise it: quorate policy set --store-quota"
    )]
    StoreFull {
        /// Held now, bytes: live records, and history that can still be read.
        used: u64,
        /// The quota, bytes.
        quota: u64,
        /// What the write would have added, bytes.
        wanted: u64,
    },
    /// The lease named does not exist: it was never granted, it was revoked, or its time was over.
    #[error(
        "there is no lease {lease}: it has run out, was revoked, or was never granted. Nothing was changed; keys that were attached to it are gone, grant a new one"
    )]
    LeaseNotFound {
        /// The lease.
        lease: u64,
    },
    /// A lease cannot be granted for so long, or so short.
    #[error(
        "a lease of {asked_ms} ms cannot be granted: it lasts from 1 s (`LEASE_TTL_MS_MIN`, {LEASE_TTL_MS_MIN} ms) to 365 days (`LEASE_TTL_MS_MAX`). Nothing was changed"
    )]
    LeaseTtl {
        /// What was asked for, milliseconds.
        asked_ms: u64,
    },
    /// A record was sealed with a key that the barrier does not have (any more).
    #[error(
        "it was sealed with barrier key {key}, which has been replaced meanwhile. Nothing was changed; it is to be sealed again"
    )]
    StaleKey {
        /// The key that it names.
        key: u32,
    },
    /// A secret or a config that items refer to cannot be removed.
    #[error("{what} is in use by {users}. Nothing was changed; take it out of these items first (`quorate assign`)")]
    InUse {
        /// What, in words.
        what: String,
        /// Which items of which nodes, some of them.
        users: String,
    },
    /// An item refers to a secret or a config that is not there.
    #[error("there is no {what} that an item could refer to. Nothing was changed; create it first")]
    NoSuchObject {
        /// What, in words.
        what: String,
    },
    /// The request cannot be read.
    #[error("malformed request: {what}. Nothing was changed")]
    Malformed {
        /// What is wrong.
        what: String,
    },
}

impl Refusal {
    /// Whether the replay table keeps this refusal, so that every copy of the request is answered with it. One that is
    /// not kept says only that *this* copy did nothing: another copy, still on its way, may yet be applied.
    pub fn is_kept(&self) -> bool {
        match self {
            Self::Limit { limit, .. } => {
                !matches!(*limit, "REPLAY_CLIENTS_MAX" | "REPLAY_BYTES_MAX" | "ENTRY_BYTES_MAX")
            }
            // Whoever proposed it seals it again, under the same request id.
            Self::RequestExpired { .. } | Self::ReplayFull { .. } | Self::StaleKey { .. } => false,
            Self::EmptyKey
            | Self::DuplicateKey { .. }
            | Self::Compacted { .. }
            | Self::FutureRevision { .. }
            | Self::NewGeneration { .. }
            | Self::Fenced { .. }
            | Self::StoreFull { .. }
            | Self::LeaseNotFound { .. }
            | Self::LeaseTtl { .. }
            | Self::InUse { .. }
            | Self::NoSuchObject { .. }
            | Self::Malformed { .. } => true,
        }
    }

    /// The limit that was met, where it is one.
    pub const fn limit(&self) -> Option<Met> {
        match self {
            Self::Limit { limit, max, actual, .. } => Some(Met { name: limit, bound: *max, actual: *actual }),
            Self::ReplayFull { kept, max } => {
                Some(Met { name: "REPLAY_PER_CLIENT_MAX", bound: *max, actual: kept.saturating_add(1) })
            }
            Self::StoreFull { used, quota, wanted } => {
                Some(Met { name: "STORE_QUOTA_BYTES", bound: *quota, actual: used.saturating_add(*wanted) })
            }
            Self::LeaseTtl { asked_ms } if *asked_ms < LEASE_TTL_MS_MIN => {
                Some(Met { name: "LEASE_TTL_MS_MIN", bound: LEASE_TTL_MS_MIN, actual: *asked_ms })
            }
            Self::LeaseTtl { asked_ms } => {
                Some(Met { name: "LEASE_TTL_MS_MAX", bound: LEASE_TTL_MS_MAX, actual: *asked_ms })
            }
            Self::EmptyKey
            | Self::DuplicateKey { .. }
            | Self::Compacted { .. }
            | Self::FutureRevision { .. }
            | Self::NewGeneration { .. }
            | Self::Fenced { .. }
            | Self::RequestExpired { .. }
            | Self::LeaseNotFound { .. }
            | Self::StaleKey { .. }
            | Self::InUse { .. }
            | Self::NoSuchObject { .. }
            | Self::Malformed { .. } => None,
        }
    }

    /// True when "refused" does not say whether an earlier attempt was applied.
    pub const fn is_unknown(&self) -> bool {
        matches!(self, Self::RequestExpired { .. })
    }
}

/// Why the applier stops. The applied index has not moved past the last good entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// A command newer than this build. The entry did nothing here.
    #[error(
        "entry {index} of the log needs version {needed}, this binary knows versions up to {known}. It was not applied, and what this node holds is unharmed: install the newer quorate here and start it again, it goes on from this entry"
    )]
    NeedsVersion {
        /// The entry.
        index: LogIndex,
        /// What it needs.
        needed: u32,
        /// What this build knows.
        known: u32,
    },
    /// The upgrade of the cluster was finished, and this build does not know the version that it is at since.
    #[error(
        "the cluster is at version {needed} since `quorate upgrade finish`, this binary knows versions up to {known}. What this node holds is unharmed: install the newer quorate here and start it again, it goes on from where it is"
    )]
    ClusterNeedsVersion {
        /// The cluster's.
        needed: u32,
        /// What this build knows.
        known: u32,
    },
    /// An entry does not follow the last applied one, or cannot be read: a bug or a damaged log.
    #[error("entry {index} cannot be applied: {detail}")]
    Broken {
        /// The entry.
        index: LogIndex,
        /// What is wrong.
        detail: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::ports::StoreError),
}

/// What one round of applying came to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Applied {
    /// Everything up to here is in the state.
    pub index: LogIndex,
    /// The store's revision now.
    pub revision: Revision,
    /// The outcomes of the entries somebody waits for, in the order of their commands.
    pub outcomes: Vec<(LogIndex, Vec<Outcome>)>,
    /// Records that decisions are made from (cluster, nodes, raft ids taken for ever), or the configuration, changed.
    pub records_changed: bool,
    /// The full keys outside the user section that changed, in the order of their changes; a key may be there twice.
    pub changed: Vec<Bytes>,
    /// Leases that were granted or have ended, in order.
    pub leases: Vec<LeaseChange>,
    /// What each revision did to user keys, ascending, for watches; empty unless the machine was asked to gather it.
    pub units: Vec<Arc<Unit>>,
    /// A recovery let the revision jump, and ended the history before it.
    pub recovered: bool,
}

/// What became of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseChange {
    /// Which.
    pub lease: LeaseId,
    /// What.
    pub event: LeaseEvent,
}

/// What can become of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEvent {
    /// It was granted.
    Granted {
        /// For so long after its last renewal, milliseconds.
        ttl_ms: u64,
    },
    /// Its holder, or an operator, ended it.
    Revoked,
    /// Its time was over.
    Expired,
}

/// Where a state stands; read from a view, so it belongs to what the same view answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StateStatus {
    /// Index of the last applied entry.
    pub applied: LogIndex,
    /// Its term.
    pub applied_term: Term,
    /// The configuration in force at `applied`.
    pub configuration: Configuration,
    /// How many configuration entries took effect.
    pub configuration_number: u64,
    /// The store's revision.
    pub revision: Revision,
    /// History at and below it may be gone.
    pub compact_revision: Revision,
    /// Digest over live records, system records and compact revision, kept up in O(change).
    pub hash: [u8; 32],
}

/// How much the store holds; the same on every member at one applied index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreUsage {
    /// Bytes of live records.
    pub live: u64,
    /// Bytes of history above the compact revision.
    pub history: u64,
    /// What the two together may come to.
    pub quota: u64,
    /// The alarm: writes of users are refused until nine tenths of the quota are left.
    pub full: bool,
}

impl StoreUsage {
    /// What the quota is compared with, bytes.
    pub const fn used(&self) -> u64 {
        self.live.saturating_add(self.history)
    }
}

/// The last force-new-cluster that a state has seen; all zero when there was none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecoveryStatus {
    /// The lineage of one that was begun and whose last act is not applied yet: it is in force already.
    pub begun: Option<Lineage>,
    /// Of the last one that is done: the newest revision that it kept.
    pub kept_revision: Revision,
    /// The first revision of the incarnation that it made.
    pub first_revision: Revision,
    /// The log index of its last act: no log of this incarnation begins before it.
    pub index: LogIndex,
    /// The number of the configuration that the last one, begun or done, put in force without an entry.
    pub configuration_number: u64,
    /// Who began each of the newest incarnations, for those who are of an older one.
    pub successions: Vec<Succession>,
}
