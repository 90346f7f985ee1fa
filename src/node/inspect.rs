//! What lies in a stopped directory, read only.
//!
//! Owns `quorate inspect`. Changes nothing, and refuses a directory whose node runs.

use std::path::Path;

use quorate_core::consensus::io::Records;
use quorate_core::id::Lineage;
use quorate_core::ports::{StateRead, StoreResult};
use quorate_core::state::{read, scan_hash};
use serde::Serialize;

use super::directory::{ToRead, explained, look_into, to_read};
use super::facts::Facts;
use super::fence::FenceRecord;
use super::founding::prepared;
use super::newcomer::prepared_of;
use super::spent::Mark;
use super::state_file::StateFile;
use super::stop::StartError;
use crate::keys::Keys;
use crate::status::NodeRole;

/// A stopped directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// Base32; empty before it was founded or joined.
    pub cluster_id: String,
    /// Base32.
    pub node_id: String,
    /// The name; the node id when there is none.
    pub name: String,
    /// "manager" or "worker"; of a join that was cut off, what is known so far.
    pub role: NodeRole,
    /// Its number in the Raft configuration; 0 of a worker.
    pub raft_id: u64,
    /// Base32.
    pub store_id: String,
    /// Length of the lineage.
    pub generation: u64,
    /// Incarnations, oldest first, base32.
    pub lineage: Vec<String>,
    /// The generation that has fenced this directory; none when it may be run.
    pub fenced: Option<u64>,
    /// The last entry that is known to have been on this disk and is not any more; none when the directory was not put back.
    pub rolled_back: Option<u64>,
    /// What a manager that ran from it found damaged; none when nothing was found, or a recovery from it went on since.
    pub damaged: Option<String>,
    /// Where it listens.
    pub listen: String,
    /// Where others reach it.
    pub advertise: String,
    /// First index of the log.
    pub first_index: u64,
    /// Last index of the log.
    pub last_index: u64,
    /// Term of the last entry.
    pub last_term: u64,
    /// Newest term seen.
    pub term: u64,
    /// Whom it voted for in that term; 0 is nobody.
    pub vote: u64,
    /// Newest commit on disk.
    pub commit: u64,
    /// Newest applied index.
    pub applied: u64,
    /// The store's revision.
    pub revision: u64,
    /// Seats in force at `applied`.
    pub voters: Vec<u64>,
    /// The outgoing half of a joint configuration; empty unless joint.
    pub voters_outgoing: Vec<u64>,
    /// Standbys in force at `applied`.
    pub learners: Vec<u64>,
    /// How many configurations took effect.
    pub configuration_number: u64,
    /// Digest of the applied state, hex, from a full scan.
    pub state_hash: String,
    /// The digest that the state itself carries; the same unless the state is damaged.
    pub recorded_hash: String,
    /// Whether it was prepared to the end.
    pub ready: bool,
    /// What opening it would mend.
    pub repaired: Option<String>,
}

/// The lineage of a directory: that of its state, or of its files before it has one.
pub(super) fn lineage(facts: &Facts, state: &dyn StateRead) -> StoreResult<Lineage> {
    let lineage = Records::read(state)?.lineage();
    Ok(if lineage.generation() == 0 { facts.lineage_list() } else { lineage })
}

/// Reads a stopped directory, or a store in it: one that was moved aside, for example (`DIR/store.old-1`). Blocks.
///
/// # Errors
/// `Directory` when there is no node; `InUse` when it runs; `Damaged` when it cannot be read.
pub fn inspect(directory: &Path) -> Result<Inspection, StartError> {
    inspect_with(directory, &Keys::default())
}

/// As [`inspect`], with the key that opens the store.
///
/// # Errors
/// As [`crate::inspect`].
pub fn inspect_with(directory: &Path, keys: &Keys) -> Result<Inspection, StartError> {
    let ToRead { layout, store, aside } = to_read(directory, keys)?;
    if !aside && let Some(file) = StateFile::load(&layout)? {
        return Ok(without_store(&file));
    }
    if !quorate_storage::exists(&store) {
        return Err(StartError::Directory(format!(
            "{} holds no node; give the --data-dir of one",
            directory.display()
        )));
    }
    let store = look_into(&layout, &store).map_err(|error| explained(&layout, error))?;
    let facts = Facts::read(store.fact(Facts::NAME)?)?
        .ok_or_else(|| StartError::Directory(format!("{} was never prepared", directory.display())))?;
    let status = read::status(&*store.state)?;
    let lineage = lineage(&facts, &*store.state)?;
    let mark = Mark::read(|name| store.fact(name), &facts)?;
    let scanned = scan_hash(&*store.state)?;
    let prepared = prepared(&facts, None);
    let ids = |ids: &[quorate_core::id::RaftId]| ids.iter().map(|id| id.0).collect();
    let hex = |hash: &[u8; 32]| data_encoding::HEXLOWER.encode(hash);
    Ok(Inspection {
        cluster_id: if facts.cluster_id.is_empty() { String::new() } else { prepared.cluster_id },
        node_id: prepared.node_id,
        name: prepared.name,
        role: NodeRole::Manager,
        raft_id: facts.raft_id,
        store_id: facts.store().to_string(),
        generation: lineage.generation(),
        lineage: lineage.0.iter().map(ToString::to_string).collect(),
        fenced: FenceRecord::read(store.fact(FenceRecord::NAME)?)?.map(|fence| fence.generation()),
        rolled_back: mark.as_ref().and_then(Mark::acknowledged),
        damaged: mark.as_ref().and_then(Mark::damage).map(str::to_owned),
        listen: facts.listen.clone(),
        advertise: facts.advertise.clone(),
        first_index: store.boot.start.index.0 + 1,
        last_index: store.boot.last.0,
        last_term: store.boot.terms.last().map_or(store.boot.start.term.0, |(_, term)| term.0),
        term: store.boot.hard_state.term.0,
        vote: store.boot.hard_state.vote.0,
        commit: store.boot.hard_state.commit.0,
        applied: status.applied.0,
        revision: status.revision.0,
        voters: ids(&status.configuration.voters),
        voters_outgoing: ids(&status.configuration.voters_outgoing),
        learners: ids(&status.configuration.learners),
        configuration_number: status.configuration_number,
        state_hash: hex(&scanned),
        recorded_hash: hex(&status.hash),
        ready: facts.is_ready(),
        repaired: store.boot.repaired.clone(),
    })
}

/// A worker's directory, or one of a join that was cut off: there is no log and no state.
fn without_store(file: &StateFile) -> Inspection {
    let prepared = prepared_of(file);
    Inspection {
        cluster_id: if file.facts.cluster_id.is_empty() { String::new() } else { prepared.cluster_id },
        node_id: prepared.node_id,
        name: prepared.name,
        role: prepared.role,
        raft_id: file.facts.raft_id,
        store_id: file.store().map(|id| id.to_string()).unwrap_or_default(),
        generation: file.facts.lineage_list().generation(),
        lineage: file.facts.lineage_list().0.iter().map(ToString::to_string).collect(),
        listen: file.facts.listen.clone(),
        advertise: file.facts.advertise.clone(),
        ready: file.facts.is_ready(),
        ..Inspection::default()
    }
}
