//! What the last act of a force-new-cluster does to the state (design section 6, points 2 and 3).
//!
//! Owns who is lost, which raft ids are burnt, and how far the counters jump. Never decides whether the act counts: the
//! machine knows which recovery was begun ([`super::beginning`]). Called by the machine at apply.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use crate::command::Recovered;
use crate::id::{NodeId, RaftId};
use crate::keyspace::Section;
use crate::membership::record::{ClusterRecord, NodeRecord, Role};
use crate::membership::removed::{self, Gone};
use crate::ports::{StoreResult, Visit};
use crate::state::check::malformed;
use crate::state::contract::Refusal;
use crate::state::execute::{Change, Pending, Present};
use crate::state::layout;
use crate::state::read::removed_key;
use crate::state::stored::decode;

/// How far the revision jumps at least: further than any lost manager can have written.
pub const REVISION_JUMP: u64 = 1_000_000_000_000;
/// How far terms, raft ids and lease ids jump at least.
pub const COUNTER_JUMP: u64 = 1 << 32;
/// So many numbers belong to each second of the clock.
const PER_SECOND_BITS: u32 = 20;
/// Within so many, the entropy says where.
const SCATTER: u64 = 1 << 24;
/// A clock beyond this, in the year 2242, counts as it: the numbers stay below 2^53, which every JSON reader can hold.
const SECONDS_MAX: u64 = (1 << 33) - (1 << 14);

/// Where the counters of an incarnation begin. Two that were made of one backup begin with the same numbers behind them: the
/// clock, and entropy, keep apart what they hand out. The later one begins above all that the earlier one can have come to, at up to a
/// million numbers in each second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Jump {
    /// No counter begins below.
    floor: u64,
    /// What is added on top.
    scatter: u64,
}

impl Jump {
    /// By a clock, in seconds since 1970, and random bits.
    pub fn drawn(unix_seconds: u64, entropy: u64) -> Self {
        Self { floor: unix_seconds.min(SECONDS_MAX) << PER_SECOND_BITS, scatter: entropy % SCATTER }
    }

    /// As the log entry carries it.
    pub(crate) const fn of(command: &Recovered) -> Self {
        Self { floor: command.floor, scatter: command.scatter }
    }

    #[cfg(feature = "consensus")]
    pub(crate) const fn parts(self) -> (u64, u64) {
        (self.floor, self.scatter)
    }

    fn beyond(self, now: u64, least: u64) -> u64 {
        now.saturating_add(least).max(self.floor).saturating_add(self.scatter)
    }

    /// Where a term, a raft id or a lease id goes on that is at `now`.
    pub fn counter(self, now: u64) -> u64 {
        self.beyond(now, COUNTER_JUMP)
    }

    /// Where the revision does.
    pub fn revision(self, now: u64) -> u64 {
        self.beyond(now, REVISION_JUMP)
    }
}

/// Every node as it is now, by its full key.
fn nodes(present: Present<'_>) -> StoreResult<BTreeMap<Bytes, NodeRecord>> {
    let (from, to) = (Section::Node.key(b""), Section::Node.end());
    let mut found = Vec::new();
    present.scan(&layout::current_key(&from), &layout::current_key(&to), &Pending::new(), &mut |stored, record| {
        let key = Bytes::copy_from_slice(stored.get(1..).unwrap_or_default());
        found.push(decode::<NodeRecord>(stored, record.value).map(|node| (key, node)));
        Visit::More
    })?;
    found.into_iter().collect()
}

/// The survivor's own record: as it is, or as it was found when the log has removed it since. With another key it is another
/// disk that takes the record of a node of then, from a backup.
fn survivor(now: Option<&NodeRecord>, found: NodeRecord, command: &Recovered) -> NodeRecord {
    let same_disk = now.filter(|now| now.key_digest == found.key_digest);
    let mut own = same_disk.cloned().unwrap_or_else(|| found.clone());
    if let (Some(before), None) = (now, same_disk) {
        own.left_at.clone_from(&before.addresses);
    }
    own.raft_id = command.raft_id;
    own.store_id = found.store_id;
    own.role = Role::Manager.into();
    own.replaces = 0;
    own.removing = false;
    own.forced = false;
    own.stands_in = false;
    own.lost = false;
    if !command.addresses.is_empty() {
        own.addresses.clone_from(&command.addresses);
    }
    own
}

/// A manager that is left behind. What people said of it stays.
fn left_behind(node: &NodeRecord) -> NodeRecord {
    NodeRecord { lost: true, ..node.without_raft_id() }
}

/// The changes of the one revision that `command` makes; `Err` inside when it cannot be read.
pub(crate) fn changes(
    present: Present<'_>,
    command: &Recovered,
    revision: u64,
) -> StoreResult<Result<Vec<Change>, Refusal>> {
    let found = NodeRecord::decode(command.node.clone()).ok();
    let Some((found, own_id)) = found.and_then(|node| Some((node.clone(), node.node_id()?))) else {
        return Ok(Err(malformed("recovery without the survivor's node record")));
    };
    let cluster_key = ClusterRecord::key();
    let Some(record) = present.get(&layout::current_key(&cluster_key))? else {
        return Ok(Err(malformed("recovery of a state without a cluster")));
    };
    let mut cluster: ClusterRecord = decode(&cluster_key, record.view().value)?;
    cluster.lineage.clone_from(&command.lineage);
    cluster.next_raft_id = Jump::of(command).counter(cluster.next_raft_id.max(command.raft_id + 1));

    let own_key = NodeRecord::key(own_id);
    let all = nodes(present)?;
    let mut burnt: BTreeMap<u64, Option<NodeId>> = command.burnt.iter().map(|id| (*id, None)).collect();
    let mut records: BTreeMap<Bytes, Option<Bytes>> = BTreeMap::new();
    records.insert(cluster_key, Some(cluster.to_bytes()));
    for (key, node) in &all {
        burnt.extend([node.raft_id, node.replaces].map(|id| (id, node.node_id())));
        if *key != own_key && node.raft_id != 0 {
            records.insert(key.clone(), Some(left_behind(node).to_bytes()));
        }
    }
    let own = survivor(all.get(&own_key), found, command);
    if all.get(&own_key) != Some(&own) {
        records.insert(own_key, Some(own.to_bytes()));
    }
    for (id, node) in burnt.into_iter().filter(|(id, _)| *id != 0 && *id != command.raft_id) {
        let key = removed_key(RaftId(id));
        if present.get(&layout::current_key(&key))?.is_none() {
            let mark = node.map_or(Bytes::from_static(b"lost"), |node| removed::mark(Gone::Lost, node));
            records.insert(key, Some(mark));
        }
    }
    // The log may have burnt the survivor's own id; it is the same store, and nobody else has the id.
    let own_mark = removed_key(RaftId(command.raft_id));
    if present.get(&layout::current_key(&own_mark))?.is_some() {
        records.insert(own_mark, None);
    }
    records
        .into_iter()
        .map(|(key, value)| present.change(key, value.as_deref(), revision))
        .collect::<StoreResult<_>>()
        .map(Ok)
}
