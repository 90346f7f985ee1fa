//! The first state of a cluster.
//!
//! Owns what a founding store holds: one manager, itself the only voter, at log position 1 of term 1. Never founds a
//! store: [`StateStore::found`] does, in one synced batch. Called by `init`, once in the life of a cluster.
//!
//! [`StateStore::found`]: crate::ports::StateStore::found

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use crate::id::{LogIndex, RaftId, Term};
use crate::keyring::{KeyringRecord, named_key};
use crate::log::{Configuration, HardState, LogStart};
use crate::membership::record::{ClusterRecord, NodeRecord, Role};
use crate::ports::{LogReset, WriteSet};
use crate::state::check::{check_txn, malformed};
use crate::state::contract::Refusal;
use crate::state::hash::Lanes;
use crate::state::layout::{self, Record, RecordView};
use crate::state::stored::{Event, EventChange, Progress, StoredConfiguration};
use crate::state::usage::Usage;
use crate::txn::{Put, Txn};

/// Where the log of a new cluster begins: every later member starts from a snapshot at or above it.
pub const FOUNDED: LogStart = LogStart { index: LogIndex(1), term: Term(1) };

/// The revision that the founding records have.
const FIRST_REVISION: u64 = 1;

/// A cluster to be founded.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Founding {
    /// The cluster.
    pub cluster: ClusterRecord,
    /// Its first manager, with its raft id.
    pub node: NodeRecord,
    /// Further records by full key: tokens, the cluster CA.
    pub records: Vec<(Bytes, Bytes)>,
    /// The barrier's keyring, with its first key; which records name it is counted here.
    pub keyring: KeyringRecord,
}

/// Both halves of a founded store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founded {
    /// The first state.
    pub writes: WriteSet,
    /// The first log: empty, after [`FOUNDED`].
    pub reset: LogReset,
}

/// Works out the first state of a cluster.
///
/// # Errors
/// `Malformed` when the records contradict each other, or a limit; nothing is written by this.
pub fn found(founding: &Founding) -> Result<Founded, Refusal> {
    let Founding { cluster, node, records, keyring } = founding;
    let Some(node_id) = node.node_id() else { return Err(malformed("first node without a node id")) };
    let Some(raft_id) = node.raft() else { return Err(malformed("first node without a raft id")) };
    if node.role != i32::from(Role::Manager) {
        return Err(malformed("first node that is no manager"));
    }
    if cluster.cluster().is_none() || cluster.lineage_list().is_none_or(|lineage| lineage.generation() == 0) {
        return Err(malformed("cluster record without cluster id or lineage"));
    }
    if cluster.next_raft_id <= raft_id.0 {
        return Err(malformed(format!("next raft id {} that is not above {raft_id}", cluster.next_raft_id)));
    }
    let own = [(ClusterRecord::key(), cluster.to_bytes()), (NodeRecord::key(node_id), node.to_bytes())];
    let all = || own.iter().chain(records);
    // The same limits and the same rule of one write per key as for every transaction.
    let puts = all().map(|(key, value)| Put { key: key.clone(), value: value.clone(), ..Put::default() }.into());
    check_txn(&Txn { then: puts.collect(), ..Txn::default() })?;
    let mut keyring = keyring.clone();
    for (key, value) in all() {
        let Some(id) = named_key(key, value).map_err(malformed)? else { continue };
        let used = keyring.key_mut(id).ok_or(Refusal::StaleKey { key: id })?;
        (used.uses, used.records) = (used.uses + 1, used.records + 1);
    }
    Ok(write(all().map(|(key, value)| (key.clone(), value)).collect(), raft_id, &keyring))
}

fn write(records: BTreeMap<Bytes, &Bytes>, raft_id: RaftId, keyring: &KeyringRecord) -> Founded {
    let mut writes = WriteSet::default();
    let mut lanes = Lanes::default();
    let mut put_hashed = |writes: &mut WriteSet, key: Bytes, value: Bytes| {
        lanes.add(Lanes::of(&key, &value));
        writes.put(key, value);
    };
    let (mut event, mut usage) = (Event::default(), Usage::default());
    for (key, value) in records {
        let record = RecordView { created: FIRST_REVISION, modified: FIRST_REVISION, version: 1, lease: 0, value };
        let record = Record::new(record);
        put_hashed(&mut writes, layout::current_key(&key), record.raw().clone());
        usage.change(&key, None, Some(&record));
        event.changes.push(EventChange { key, deleted: false, old: Bytes::new() });
    }
    let configuration = Configuration { voters: vec![raft_id], ..Configuration::default() };
    let configuration = StoredConfiguration::new(&configuration, 0).encode_to_vec();
    put_hashed(&mut writes, Bytes::from_static(layout::SYSTEM_CONFIGURATION), configuration.into());
    put_hashed(&mut writes, Bytes::from_static(layout::SYSTEM_USAGE), usage.stored().0);
    if !keyring.is_none() {
        put_hashed(&mut writes, Bytes::from_static(layout::SYSTEM_KEYRING), keyring.encode_to_vec().into());
    }
    event.write(FIRST_REVISION, &mut writes);
    let hash = Bytes::copy_from_slice(&lanes.digest());
    let progress = Progress {
        applied: FOUNDED.index.0,
        applied_term: FOUNDED.term.0,
        revision: FIRST_REVISION,
        hash: hash.clone(),
        revision_hash: hash,
    };
    writes.put(layout::META_PROGRESS, progress.encode_to_vec());
    let hard_state = HardState { term: FOUNDED.term, vote: RaftId(0), commit: FOUNDED.index };
    Founded { writes, reset: LogReset { start: FOUNDED, hard_state } }
}
