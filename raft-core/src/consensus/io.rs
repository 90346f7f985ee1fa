//! The whole vocabulary in and out of the consensus machine.
//!
//! Owns plain types only: closed enums, matched in full by whoever drives the machine. Called by the node's consensus
//! task and by the simulator.

use std::sync::Arc;

use bytes::Bytes;

use crate::command::Command;
use crate::id::{LeaseId, Lineage, LogIndex, RaftId, Revision, Term};
use crate::keyring::KeyringRecord;
use crate::log::LogEntry;
use crate::membership::nodes::Nodes;
use crate::membership::operators::Operators;
use crate::membership::record::{ClusterRecord, NodeRecord};
use crate::membership::removed::Removed;
use crate::membership::trust::{TrustRecord, TrustTime};
use crate::ports::{LogBatch, LogReset, StagedId, StoreError};
use crate::state::contract::{ApplyError, Committed, LeaseChange, RecoveryStatus, StateStatus};

pub use super::rejection::Rejection;
pub use super::status::{Lease, Progress, RaftRole, SnapshotCounts, Status};

/// Monotonic time in nanoseconds since an arbitrary start, the same start for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Nanos(pub u64);

/// Names one waiting caller; the driver draws them from a counter and keeps who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Where a forwarded request may still go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Asked here: it may be forwarded to the leader.
    Here,
    /// Forwarded by another manager: it is answered `NotLeader` rather than sent on.
    Forwarded,
}

/// The replicated records that decisions need; read again by the applier whenever one changed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Records {
    /// The cluster's record.
    pub cluster: ClusterRecord,
    /// Every node.
    pub nodes: Nodes,
    /// Raft ids taken from their nodes for ever, and managers that were removed.
    pub removed: Removed,
    /// Who may administer the cluster, or look.
    pub operators: Operators,
    /// Which CA is trusted.
    pub trust: TrustRecord,
    /// How much of a rotation's time is over.
    pub trust_time: TrustTime,
    /// The last force-new-cluster.
    pub recovery: RecoveryStatus,
    /// The barrier's keyring: who can open what is sealed. How often its keys were used may be a moment old.
    pub keyring: Arc<KeyringRecord>,
    /// The store's revision that they were read at: they hold every change up to it.
    pub revision: Revision,
}

impl Records {
    /// The lineage in force; empty when the record is malformed or not there. That of a recovery counts from its
    /// beginning on, whatever the rest of the log still writes into the cluster's record.
    pub fn lineage(&self) -> Lineage {
        self.recovery.begun.clone().or_else(|| self.cluster.lineage_list()).unwrap_or_default()
    }

    /// The node that has `id` as its raft id.
    pub fn by_raft_id(&self, id: RaftId) -> Option<&NodeRecord> {
        self.nodes.members().find(|node| node.raft() == Some(id))
    }
}

/// Everything that can make the machine move.
#[derive(Debug, Clone)]
pub enum Input {
    /// This many ticks of the length in use ([`Consensus::tick_nanos`]) have passed; more than a few at once are capped.
    ///
    /// [`Consensus::tick_nanos`]: super::Consensus::tick_nanos
    Tick(u32),
    /// A message from a member, already bound to its identity.
    Message {
        /// The raft id bound to the connection.
        from: RaftId,
        /// An encoded raft message.
        body: Bytes,
    },
    /// A command to replicate.
    Propose {
        /// Who waits.
        ticket: Ticket,
        /// The command.
        command: Command,
        /// Whether it may be forwarded.
        origin: Origin,
    },
    /// Somebody wants to read linearizably.
    Read {
        /// Who waits.
        ticket: Ticket,
    },
    /// The holder of a lease wants it to go on.
    Renew {
        /// Who waits.
        ticket: Ticket,
        /// Which.
        lease: LeaseId,
        /// Whether it may be forwarded.
        origin: Origin,
    },
    /// Somebody wants to know how much time leases have left.
    LeaseTimes {
        /// Who waits.
        ticket: Ticket,
        /// Which.
        leases: Vec<LeaseId>,
    },
    /// Hand leadership over.
    Transfer {
        /// Who waits.
        ticket: Ticket,
        /// To whom; `None` picks the voter that is furthest.
        to: Option<RaftId>,
    },
    /// The log writer has everything up to this number on disk.
    Persisted {
        /// The number of [`Effect::Persist`].
        number: u64,
    },
    /// The applier has applied everything up to here.
    Applied {
        /// The index.
        index: LogIndex,
        /// The records, when one changed.
        records: Option<Arc<Records>>,
        /// Leases that were granted or have ended, in order.
        leases: Vec<LeaseChange>,
    },
    /// The applier has installed the staged snapshot.
    Installed {
        /// Where the state stands now.
        status: StateStatus,
        /// The records of the new state.
        records: Arc<Records>,
        /// Every lease of it with its time to live in milliseconds.
        leases: Vec<(LeaseId, u64)>,
    },
    /// A received snapshot is complete, verified and synced aside. One at a time: until it was discarded
    /// ([`Effect::Discard`]) or installed the driver takes no further stream (it reports them as not delivered), because
    /// a store keeps only one aside.
    Staged {
        /// The sender.
        from: RaftId,
        /// The raft message that announced it.
        message: Bytes,
        /// Its name.
        staged: StagedId,
    },
    /// A view for sending exists.
    SnapshotBuilt {
        /// What the view contains.
        status: StateStatus,
        /// Bytes that it holds, live records and history: about what sending it costs.
        bytes: u64,
        /// Names the view at the driver.
        view: u64,
    },
    /// A snapshot has reached its receiver's disk, or has not.
    SnapshotSent {
        /// The receiver.
        to: RaftId,
        /// Whether it has it.
        delivered: bool,
    },
    /// Old entries, as asked for by [`Effect::Fetch`].
    Fetched {
        /// The number of the request.
        number: u64,
        /// The entries; empty when they are gone.
        entries: Vec<LogEntry>,
    },
    /// A connection to this member stands.
    PeerUp(RaftId),
    /// There is no connection to this member any more.
    PeerDown(RaftId),
    /// Every manager that this one knows of has said its lineage, or cannot be reached: it may campaign.
    LineagesAsked,
    /// A message to this member was dropped.
    Unreachable(RaftId),
    /// What the driver's wall clock says, while a rotation of the CA is under way. It may be wrong by any amount: nothing but the
    /// ends of operators is measured by it.
    Clock {
        /// Seconds since 1970.
        unix_s: u64,
    },
    /// The driver has looked at the disk.
    Space {
        /// Bytes that can still be written to the file system of the store.
        free: u64,
    },
    /// A store said no: final.
    StoreFailed(StoreError),
    /// The applier stopped: final.
    ApplyFailed(ApplyError),
}

/// Which stream a message takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Votes, heartbeats, answers: small and urgent.
    Control,
    /// Log entries.
    Append,
}

/// Everything the machine wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send now. Lost is allowed.
    Send {
        /// To whom.
        to: RaftId,
        /// On which stream.
        lane: Lane,
        /// An encoded raft message.
        body: Bytes,
    },
    /// Write, in the order of the numbers; report [`Input::Persisted`] once durable. One sync serves all that wait. Once
    /// more with the number that was reported last, it only asks whether the disk is there: what is written is there already.
    Persist {
        /// Ascending.
        number: u64,
        /// What to write.
        batch: LogBatch,
    },
    /// Apply in order; report [`Input::Applied`], and answer the waiters.
    Apply {
        /// The entries.
        entries: Vec<Committed>,
        /// Who waits for which command of which entry, by position in the entry.
        waiters: Vec<(LogIndex, Vec<Ticket>)>,
    },
    /// Everything written and applied so far is done: replace state and log; report [`Input::Installed`].
    Install {
        /// What was staged.
        staged: StagedId,
        /// The log after it.
        reset: LogReset,
    },
    /// A staged snapshot is not wanted.
    Discard(StagedId),
    /// Make a view for sending, no older than `at_least`; report [`Input::SnapshotBuilt`].
    BuildSnapshot {
        /// The lowest index that helps.
        at_least: LogIndex,
    },
    /// Stream the view; report [`Input::SnapshotSent`] in every case.
    SendSnapshot {
        /// To whom.
        to: RaftId,
        /// The raft message to put in front.
        message: Bytes,
        /// Which view.
        view: u64,
    },
    /// The view is not needed any more.
    DropSnapshot {
        /// Which.
        view: u64,
    },
    /// Read old entries; report [`Input::Fetched`].
    Fetch {
        /// Names the request.
        number: u64,
        /// First index.
        from: LogIndex,
        /// End, excluded.
        to: LogIndex,
        /// About how many bytes at most.
        max_bytes: u64,
    },
    /// An answer for a waiting caller; the ticket is used up, except by `Forward`.
    Answer {
        /// Who.
        ticket: Ticket,
        /// What.
        answer: Answer,
    },
    /// What others may see of this member has changed.
    Status(Arc<Status>),
    /// The end: nothing follows.
    Stop(StopCause),
}

/// What a caller is told by the machine itself (outcomes of commands come from the applier).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Send the request to this manager.
    Forward(RaftId),
    /// Read from a state that has at least this index; it is applied here already.
    ReadAt {
        /// The index.
        index: LogIndex,
        /// The term of the leadership whose quorum has confirmed the read; what a fencing token is compared with.
        term: Term,
    },
    /// The lease goes on for its whole time to live from when this was asked, at least; milliseconds.
    Renewed {
        /// Its time to live.
        ttl_ms: u64,
    },
    /// There is no such lease: nothing acknowledged before the question has granted it, or it has ended.
    LeaseGone,
    /// The time that each lease asked for has left, milliseconds, in the order of the question; `None` where there is none.
    LeaseTimes(Vec<Option<u64>>),
    /// The new leader.
    Transferred(RaftId),
    /// Not done, and it never will be: nothing was appended.
    Refused(Rejection),
    /// It may have been done; a retry with the same request id tells.
    Unknown,
}

/// Why the machine stopped for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopCause {
    /// The store failed; it is final.
    #[error("{0}")]
    Store(StoreError),
    /// The applier failed; it is final.
    #[error("{0}")]
    Apply(ApplyError),
    /// The leader counts on an entry that this member acknowledged, and the log ends before it: the directory was put back to an
    /// older state, or is a copy of one that is used elsewhere.
    #[error("entry {asked} was acknowledged by this member, and its log ends at {last}: its directory was rolled back")]
    RolledBack {
        /// What the leader has on record.
        asked: LogIndex,
        /// Where the log ends.
        last: LogIndex,
    },
    /// A leader replaces an entry that is committed here: it won with a directory, its own or that of a member that voted for
    /// it, that was put back to an older state.
    #[error("entry {index} is committed here, and leader {leader} sends another one of term {term} in its place")]
    Overruled {
        /// Who leads.
        leader: RaftId,
        /// Which entry.
        index: LogIndex,
        /// The term of the other one.
        term: Term,
    },
    /// An invariant does not hold: halting beats diverging.
    #[error(
        "invariant `{name}` broken: {detail}. The member stops before it can do harm; its data is as it was. Please report this"
    )]
    Invariant {
        /// The invariant's name, as in ARCHITECTURE.md.
        name: &'static str,
        /// The numbers.
        detail: String,
    },
}
