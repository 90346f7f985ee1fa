//! What may enter the log, and how it is written there.
//!
//! Owns the log's format: a batch of commands per entry, with the format version that the batch needs. Field numbers
//! are for ever. Never applies anything: [`crate::state`] does. Called by the consensus machine, which batches, and by
//! the state machine, which reads.
//!
//! # Format versions
//! 1: first format: requests (transactions and orders for leases), system transactions, compaction, expiry of clients and of
//! leases, the end of a force-new-cluster, orders for the barrier's keyring.
//! 2: not released, and in no build but those for tests of the upgrade (feature `next-version`): a note on the cluster.
//!
//! What a new version brings (a command, a field of one, a field of a record) gets its version in [`Command::version`], and is
//! written by nobody before the cluster's record has that version: a member that does not know a field drops it.

use bytes::Bytes;
use prost::Message;

use crate::id::{ClientId, RequestId};
use crate::keyring::KeyringOrder;
use crate::txn::{Op, OpKind, Txn};

/// The newest command format that this build reads, and the newest cluster version that it supports (design section 4,
/// rule 12).
pub const COMMAND_VERSION: u32 = if cfg!(feature = "next-version") { 2 } else { 1 };

/// The oldest cluster version that this build supports: in a cluster below it this build may not take part.
pub const COMMAND_VERSION_MIN: u32 = 1;

/// Why what was sent is not taken for what it says it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// It is none of it.
    #[error("it cannot be read: {0}")]
    Malformed(String),
    /// It says more than this build knows.
    #[error("it holds what this quorate does not know: whoever sent it runs a newer one")]
    Newer,
}

/// Reads what is to go into the log from whoever sent it, whole or not at all: a field that this build does not know would be
/// dropped in silence on its way there, and something else be done than was asked for.
///
/// # Errors
/// It cannot be read, or not all of it.
pub fn whole<M: Message + Default>(bytes: Bytes) -> Result<M, Unread> {
    let length = bytes.len();
    let read = M::decode(bytes).map_err(|error| Unread::Malformed(error.to_string()))?;
    // Every build writes a field once and in the same way: what is known comes to the same length, at every depth.
    if read.encoded_len() == length { Ok(read) } else { Err(Unread::Newer) }
}

/// One entry's payload.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Batch {
    /// What a member must understand to apply any of it.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// Applied in order, each one by itself.
    #[prost(message, repeated, tag = "2")]
    pub commands: Vec<Command>,
}

/// One command.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// Which one; a kind that this build does not know is absent here, and stops the member (`NeedsVersion`).
    #[prost(oneof = "CommandKind", tags = "1, 2, 3, 4, 5, 8, 130")]
    pub kind: Option<CommandKind>,
}

/// The commands there are.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum CommandKind {
    /// A client's transaction, applied once however often it arrives.
    #[prost(message, tag = "1")]
    Request(Request),
    /// A transaction of the managers themselves; repeats are harmless by its own conditions.
    #[prost(message, tag = "2")]
    System(Txn),
    /// Move the compact revision.
    #[prost(message, tag = "3")]
    Compact(Compact),
    /// Forget silent clients.
    #[prost(message, tag = "4")]
    ExpireClients(ExpireClients),
    /// A force-new-cluster is done: everything before this entry belonged to the incarnation that it ends.
    #[prost(message, tag = "5")]
    Recovered(Recovered),
    /// Leases that nobody renewed end, with their keys.
    #[prost(message, tag = "8")]
    ExpireLeases(ExpireLeases),
    /// The barrier's keyring changes, or records are sealed anew; repeats are void by their own conditions.
    #[prost(message, tag = "130")]
    Keyring(KeyringOrder),
}

/// What a client asks for: a transaction, or an order for a lease.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// 16 bytes: who asks.
    #[prost(bytes = "bytes", tag = "1")]
    pub client: Bytes,
    /// The client's count of this request, from 1.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// The client has its answers to everything up to and including this sequence and will never ask for them again;
    /// 0 at first. A retry carries the mark of the moment it is sent, not that of the first attempt.
    #[prost(uint64, tag = "3")]
    pub low_water: u64,
    /// What to do.
    #[prost(message, optional, tag = "4")]
    pub txn: Option<Txn>,
    /// A log index that some manager had applied before the client id was made; 0 when the client was not told one.
    /// With it a client that was expired and comes back is always recognised (see [`crate::state`]).
    #[prost(uint64, tag = "5")]
    pub born: u64,
    /// In place of a transaction.
    #[prost(message, optional, tag = "8")]
    pub lease: Option<LeaseOrder>,
    /// In place of a transaction, since version 2: what is to stand as the note on the cluster.
    #[cfg(any(feature = "next-version", feature = "testing"))]
    #[prost(string, optional, tag = "110")]
    pub note: Option<String>,
}

/// Grant a lease, or end one.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LeaseOrder {
    /// Which; absent is refused.
    #[prost(oneof = "LeaseOrderKind", tags = "1, 2")]
    pub kind: Option<LeaseOrderKind>,
    /// Fencing token: when set, refused unless the log entry that carries it has this term.
    #[prost(uint64, optional, tag = "4")]
    pub fence: Option<u64>,
}

/// The orders there are.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum LeaseOrderKind {
    /// Grant one for so many milliseconds after its last renewal; its id comes from the replicated counter.
    #[prost(uint64, tag = "1")]
    Grant(u64),
    /// End this one, with its keys.
    #[prost(uint64, tag = "2")]
    Revoke(u64),
}

/// End leases whose time is over, each with its keys in one revision: void unless the entry that carries it has the term of
/// the leadership that counted the time. Of the leases named as many end as have no more than
/// [`crate::limits::LEASE_KEYS_MAX`] keys, and [`crate::limits::LEASE_BYTES_MAX`] bytes of them, together, at least one; whoever proposed it looks which are left.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExpireLeases {
    /// The term that counted.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// Which.
    #[prost(uint64, repeated, tag = "2")]
    pub leases: Vec<u64>,
}

/// Where the note on the cluster lies, as text.
#[cfg(any(feature = "next-version", feature = "testing"))]
pub fn note_key() -> Bytes {
    crate::keyspace::Section::Cluster.key(b"note")
}

impl Request {
    /// The transaction that a build of version 2 applies in place of the one that is missing; earlier ones know of none.
    pub(crate) fn beyond_version_1(&self) -> Option<Txn> {
        #[cfg(any(feature = "next-version", feature = "testing"))]
        if let Some(note) = &self.note {
            let put = crate::txn::Put { key: note_key(), value: note.clone().into(), ..crate::txn::Put::default() };
            return Some(Txn::of(put));
        }
        None
    }

    /// The request id; `None` when the client is not 16 bytes.
    pub fn id(&self) -> Option<RequestId> {
        let client = ClientId::from_slice(&self.client)?;
        Some(RequestId { client, sequence: self.sequence })
    }
}

/// Move the compact revision: history at and below it may go. Lower than the present one changes nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Compact {
    /// The new compact revision.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
}

/// Forget clients from the replay table, each only if it is still as silent as it was when this was proposed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExpireClients {
    /// Whom.
    #[prost(message, repeated, tag = "1")]
    pub clients: Vec<SilentClient>,
}

/// A client and the log index of its last request, as the proposer saw it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SilentClient {
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub client: Bytes,
    /// The index; if the client has written since, it stays.
    #[prost(uint64, tag = "2")]
    pub last_index: u64,
}

/// The last act of a force-new-cluster (design section 6): appended by it behind everything that the survivor's log
/// holds, never proposed. Void in a state that has not begun exactly this recovery.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Recovered {
    /// [`crate::id::Lineage::to_bytes`] of the new incarnation.
    #[prost(bytes = "bytes", tag = "1")]
    pub lineage: Bytes,
    /// The survivor's raft id: the only one that is not burnt.
    #[prost(uint64, tag = "2")]
    pub raft_id: u64,
    /// The survivor's node record as it was found, encoded; put back when the log removes it.
    #[prost(bytes = "bytes", tag = "3")]
    pub node: Bytes,
    /// Where the survivor is reached from now on; empty: as recorded.
    #[prost(string, repeated, tag = "4")]
    pub addresses: Vec<String>,
    /// Raft ids that only configurations of the old incarnation name, to be burnt with those of the node records.
    #[prost(uint64, repeated, tag = "5")]
    pub burnt: Vec<u64>,
    /// No counter of the new incarnation begins below, see [`crate::state::Jump`].
    #[prost(uint64, tag = "6")]
    pub floor: u64,
    /// What is added to where each begins.
    #[prost(uint64, tag = "7")]
    pub scatter: u64,
}

impl From<CommandKind> for Command {
    fn from(kind: CommandKind) -> Self {
        Self { kind: Some(kind) }
    }
}

impl Command {
    /// Whether it may remove far more than it carries: a range of keys, or leases with all of theirs.
    pub fn removes_many(&self) -> bool {
        let ranges = |txn: &Txn| {
            let range = |op: &Op| matches!(&op.kind, Some(OpKind::Delete(delete)) if !delete.end.is_empty());
            txn.then.iter().chain(&txn.or_else).any(range)
        };
        match &self.kind {
            Some(CommandKind::Request(request)) => {
                let revokes =
                    request.lease.as_ref().is_some_and(|order| matches!(order.kind, Some(LeaseOrderKind::Revoke(_))));
                revokes || request.txn.as_ref().is_some_and(ranges)
            }
            Some(CommandKind::System(txn)) => ranges(txn),
            Some(CommandKind::ExpireLeases(_)) => true,
            Some(
                CommandKind::Compact(_)
                | CommandKind::ExpireClients(_)
                | CommandKind::Recovered(_)
                | CommandKind::Keyring(_),
            )
            | None => false,
        }
    }

    /// The format version that a member needs to apply this command.
    pub fn version(&self) -> u32 {
        match &self.kind {
            Some(CommandKind::Request(request)) if request.beyond_version_1().is_some() => 2,
            Some(
                CommandKind::Request(_)
                | CommandKind::System(_)
                | CommandKind::Compact(_)
                | CommandKind::ExpireClients(_)
                | CommandKind::Recovered(_)
                | CommandKind::ExpireLeases(_)
                | CommandKind::Keyring(_),
            )
            | None => 1,
        }
    }
}

impl Batch {
    /// A batch that says itself what it needs.
    pub fn new(commands: Vec<Command>) -> Self {
        let version = commands.iter().map(Command::version).max().unwrap_or(1);
        Self { version, commands }
    }

    /// The format version that a member needs to apply it, as one sees it that understands formats up to `knows`: of a
    /// command that it cannot read it only knows that it is of a later one.
    pub fn needs(&self, knows: u32) -> u32 {
        let each = |command: &Command| if command.kind.is_none() { knows + 1 } else { command.version() };
        self.commands.iter().map(each).fold(self.version, u32::max)
    }

    /// The payload of a log entry.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::txn::{Compare, Delete, Put, Range};

    /// A put of a later build, with a field more.
    #[derive(Clone, PartialEq, Message)]
    struct LaterPut {
        #[prost(bytes = "bytes", tag = "1")]
        key: Bytes,
        #[prost(bytes = "bytes", tag = "2")]
        value: Bytes,
        #[prost(uint64, tag = "200")]
        later: u64,
    }

    fn command(put: Vec<u8>) -> Vec<u8> {
        // Put in operation in transaction in request in command, each with the tag that it has.
        let inside = |tag: u8, body: Vec<u8>| {
            let mut field = vec![tag << 3 | 2];
            prost::encoding::encode_varint(body.len() as u64, &mut field);
            [field, body].concat()
        };
        [1, 2, 4, 1].into_iter().fold(put, |body, tag| inside(tag, body))
    }

    #[test]
    fn what_is_known_is_read_whole_and_what_says_more_is_not_read_in_part() {
        let every = Txn {
            compares: vec![Compare::absent("k"), Compare::mod_revision("k", 300)],
            then: vec![
                Put { key: "k".into(), lease: 7, previous: true, ..Put::default() }.into(),
                Delete { key: "a".into(), end: "b".into(), ..Delete::default() }.into(),
                Range { key: "k".into(), count_only: true, ..Range::default() }.into(),
            ],
            fence: Some(0),
            ..Txn::default()
        };
        let request =
            Request { client: vec![1; 16].into(), sequence: 1, txn: Some(every.clone()), ..Request::default() };
        let expired = ExpireLeases { term: 2, leases: vec![1, 200, 40_000] };
        for kind in [CommandKind::Request(request), CommandKind::System(every), CommandKind::ExpireLeases(expired)] {
            let command = Command::from(kind);
            assert_eq!(whole(command.encode_to_vec().into()), Ok(command));
        }
        // Given a put with a field that this build does not know, deep inside
        let later = |later| LaterPut { key: "k".into(), value: "v".into(), later }.encode_to_vec();
        let known = whole::<Command>(command(later(0)).into()).unwrap();
        assert!(matches!(known.kind, Some(CommandKind::Request(_))));
        // Then it is not what a decoder makes of it.
        let bytes = Bytes::from(command(later(9)));
        assert_eq!(Command::decode(bytes.clone()), Ok(known));
        assert_eq!(whole::<Command>(bytes), Err(Unread::Newer));
        // Nor is a command of an unknown kind one of none.
        let unknown = Bytes::from_static(&[0x8a, 0x7d, 1, 0]);
        assert_eq!(whole::<Command>(unknown), Err(Unread::Newer));
        assert!(matches!(whole::<Command>(Bytes::from_static(b"\xff")), Err(Unread::Malformed(_))));
    }
}
