//! Force-new-cluster: what one survivor's disk comes to, worked out completely before anything is written.
//!
//! Owns the one batch that ends an incarnation of the cluster and begins the next one (design section 6). Reads through
//! the ports, writes nothing, and refuses a disk that contradicts itself: the whole log is read, the state's hash is
//! computed anew, and everything that is not applied yet is applied to a copy first, so that a log that cannot be applied
//! is found out before and not after. Called by `recover`, by a start that was told to recover, and by the simulator.
//!
//! # What is written
//! - *state*: the configuration {self} under the next number, and the *recovery* record with the longer lineage. From
//!   then on every configuration entry of the older lineage is void, also those between the applied and the commit
//!   index. The cluster's own record still holds the old lineage, because entries of the tail may still write it.
//! - *log*: one entry behind the last one, `Recovered`, under a term that is at least 2^32 above the last. Nothing is dropped and
//!   nothing is rewritten: what lies above the commit index may have been acknowledged by the managers that are lost.
//! - *hard state*: that term, a vote for itself, and the commit index on the new entry.

mod rehearsal;
mod restore;

pub use restore::{Restoration, Restored, log_of, restore};

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::command::{Batch, Command, CommandKind, Recovered};
use crate::consensus::configurations::{self, ConfigurationEntry, Standing};
use crate::consensus::io::Records;
use crate::id::{Lineage, LineageId, LogIndex, RaftId, Revision, Term};
use crate::keyring::KeyringRecord;
use crate::log::{Configuration, EntryKind, HardState, LogEntry};
use crate::membership::record::NodeRecord;
use crate::mutants::{Mutant, on};
use crate::ports::{Boot, LogBatch, LogReader, RecoveryWrite, StateRead, StoreError};
use crate::state::contract::{ApplyError, StateStatus};
use crate::state::{Jump, beginning, found_record, read, scan_hash};
use crate::succession::Succession;

/// Bytes of log read at once.
const READ_BYTES: u64 = 16 << 20;

/// One stopped manager's disk, and what its files say of it.
#[derive(Clone)]
pub struct Survivor<'a> {
    /// What the store said when it was opened.
    pub boot: &'a Boot,
    /// Its state.
    pub state: Arc<dyn StateRead>,
    /// Its log.
    pub log: &'a dyn LogReader,
    /// Who it is: node id, raft id, store id, name and addresses; its own record when the state has none.
    pub node: NodeRecord,
    /// Where it is to be reached from now on; empty: as recorded.
    pub addresses: Vec<String>,
    /// What the caller has drawn for the new incarnation.
    pub incarnation: Incarnation,
}

/// What tells an incarnation from all others: nothing of it follows from the disk that it begins on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Incarnation {
    /// Its random id.
    pub id: LineageId,
    /// Where its counters begin, by the clock and by entropy.
    pub jump: Jump,
    /// Who began it, signed, for those who are left behind.
    pub succession: Succession,
}

/// Why a disk cannot be recovered from. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// A newcomer that never got the state.
    #[error("it holds no state yet: it joined, and the managers were lost before they had sent it one")]
    NoState,
    /// The disk contradicts itself.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// The cluster had removed this manager.
    #[error("the cluster had taken raft id {0} from this node: it was removed, or came back with another store")]
    Removed(RaftId),
    /// The cluster had thrown this node out: somebody else may have its keys.
    #[error(
        "the cluster had thrown this node out, because somebody else may have its keys: it has lost its copies of the keys that open secrets, and no generation that goes on from it would run"
    )]
    ThrownOut,
    /// The log holds what only a newer quorate understands.
    #[error("{0}")]
    NeedsVersion(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a disk holds, for people and for the choice among survivors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// The lineage in force.
    pub lineage: Lineage,
    /// Newest term seen.
    pub term: Term,
    /// Index of the last entry.
    pub last: LogIndex,
    /// Its term.
    pub last_term: Term,
    /// Newest entry known to be committed.
    pub commit: LogIndex,
    /// Newest entry applied.
    pub applied: LogIndex,
    /// The store's revision at `applied`.
    pub revision: Revision,
    /// The configuration in force at `applied`.
    pub configuration: Configuration,
    /// Its number.
    pub configuration_number: u64,
    /// Configuration entries above `applied`.
    pub pending: Vec<ConfigurationEntry>,
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Nothing: the configuration is this manager alone already, and the log changes nothing about that.
    Alone,
    /// Nothing: a recovery was written here already, and is finished by the next start.
    Begun,
    /// This, and then a start.
    Write(Box<Outcome>),
}

/// What a recovery writes, and what it comes to once everything is applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The batch; the caller adds its facts.
    pub write: RecoveryWrite,
    /// The new lineage.
    pub lineage: Lineage,
    /// The newest revision that is kept.
    pub kept_revision: Revision,
    /// The first revision of the new incarnation.
    pub first_revision: Revision,
    /// The records after it.
    pub records: Records,
}

/// A disk judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovery {
    /// What it holds.
    pub findings: Findings,
    /// The records as they are now.
    pub records: Records,
    /// What there is to do.
    pub verdict: Verdict,
}

fn damaged<T>(detail: impl Into<String>) -> Result<T, RecoveryError> {
    Err(RecoveryError::Damaged(detail.into()))
}

/// Reads `from..to` whole, or says what is wrong with it.
fn read_log(log: &dyn LogReader, boot: &Boot) -> Result<Vec<LogEntry>, RecoveryError> {
    let mut entries: Vec<LogEntry> = Vec::new();
    let mut next = boot.start.index.next();
    let mut term = boot.start.term;
    while next <= boot.last {
        let part = match log.entries(next, boot.last.next(), READ_BYTES) {
            Err(StoreError::NotFound { index }) => return damaged(format!("log entry {index} is missing")),
            read => read?,
        };
        for entry in part {
            if entry.index != next || entry.term < term {
                let (found, of) = (entry.index, entry.term);
                return damaged(format!(
                    "entry {found} of term {of} stands where entry {next} of term {term} or later belongs"
                ));
            }
            next = next.next();
            term = entry.term;
            entries.push(entry);
        }
    }
    Ok(entries)
}

fn check(boot: &Boot, status: &StateStatus, last_term: Term) -> Result<(), RecoveryError> {
    if status.applied < boot.start.index || status.applied > boot.last {
        return damaged(format!(
            "the state stands at entry {}, the log holds those after {} up to {}",
            status.applied, boot.start.index, boot.last
        ));
    }
    let HardState { term, commit, .. } = boot.hard_state;
    if term < last_term || commit > boot.last {
        return damaged(format!(
            "its hard state, term {term} and commit {commit}, does not go with a log that ends at entry {} of term {last_term}",
            boot.last
        ));
    }
    Ok(())
}

/// Judges a survivor's disk, and works out what a recovery writes.
///
/// # Errors
/// Why it cannot be recovered from; nothing was changed.
pub fn plan(survivor: &Survivor<'_>) -> Result<Recovery, RecoveryError> {
    let Survivor { boot, state, log, node, .. } = survivor;
    let status = read::status(&**state)?;
    if status.applied == LogIndex(0) {
        return Err(RecoveryError::NoState);
    }
    let entries = read_log(*log, boot)?;
    let last_term = entries.last().map_or(boot.start.term, |entry| entry.term);
    check(boot, &status, last_term)?;
    if scan_hash(&**state)? != status.hash {
        return damaged("the state does not have the hash that it says of itself");
    }
    let records = Records::read(&**state)?;
    let lineage = records.lineage();
    let own = RaftId(node.raft_id);
    let id = node.node_id().unwrap_or_default();
    let recorded = records.nodes.iter().find(|record| record.node_id() == Some(id));
    let moved_on = recorded.is_some_and(|record| record.raft_id != 0 && record.raft_id != own.0);
    if records.removed.contains(&own) || moved_on {
        return Err(RecoveryError::Removed(own));
    }
    if recorded.is_some_and(|record| record.compromised) {
        return Err(RecoveryError::ThrownOut);
    }
    let listed = configurations::list(&status, &records.recovery, &lineage, &entries);
    let pending: Vec<_> = listed.into_iter().filter(|entry| entry.index > status.applied).collect();
    let findings = Findings {
        lineage: lineage.clone(),
        term: boot.hard_state.term,
        last: boot.last,
        last_term,
        commit: boot.hard_state.commit.max(status.applied),
        applied: status.applied,
        revision: status.revision,
        configuration: status.configuration.clone(),
        configuration_number: status.configuration_number,
        pending,
    };
    let alone = Configuration { voters: vec![own], ..Configuration::default() };
    let verdict = if records.recovery.begun.is_some() {
        Verdict::Begun
    } else if status.configuration == alone && findings.pending.iter().all(|entry| entry.standing == Standing::Void) {
        Verdict::Alone
    } else {
        let tail = entries.into_iter().filter(|entry| entry.index > status.applied).collect();
        Verdict::Write(Box::new(work_out(survivor, &status, recorded, lineage, tail)?))
    };
    Ok(Recovery { findings, records, verdict })
}

fn work_out(
    survivor: &Survivor<'_>,
    status: &StateStatus,
    recorded: Option<&NodeRecord>,
    lineage: Lineage,
    tail: Vec<LogEntry>,
) -> Result<Outcome, RecoveryError> {
    let Survivor { boot, state, node, addresses, incarnation, .. } = survivor;
    let id = node.node_id().unwrap_or_default();
    Ending {
        state,
        status,
        own: RaftId(node.raft_id),
        node: found_record(recorded, id, node),
        addresses,
        lineage,
        incarnation,
        term: boot.hard_state.term,
        last: boot.last,
        tail,
        keyring: None,
    }
    .work_out()
}

/// An incarnation that is to end on one disk.
struct Ending<'a> {
    state: &'a Arc<dyn StateRead>,
    status: &'a StateStatus,
    /// Who goes on.
    own: RaftId,
    node: NodeRecord,
    addresses: &'a [String],
    /// The lineage that ends, and the id that is added to it.
    lineage: Lineage,
    incarnation: &'a Incarnation,
    /// The newest term, and the last entry.
    term: Term,
    last: LogIndex,
    /// Entries above the applied index.
    tail: Vec<LogEntry>,
    /// In place of the keyring that is there.
    keyring: Option<KeyringRecord>,
}

impl Ending<'_> {
    fn work_out(self) -> Result<Outcome, RecoveryError> {
        let Self { state, status, own, node, addresses, mut lineage, incarnation, term, last, mut tail, keyring } =
            self;
        lineage.0.push(incarnation.id);
        let (floor, scatter) = incarnation.jump.parts();
        let mut burnt: BTreeSet<RaftId> = status.configuration.members().into_iter().collect();
        burnt.extend(tail.iter().flat_map(configurations::raft_ids));
        burnt.remove(&own);
        let command = Recovered {
            lineage: lineage.to_bytes().into(),
            raft_id: own.0,
            node: node.to_bytes(),
            addresses: addresses.to_vec(),
            burnt: burnt.into_iter().map(|id| id.0).collect(),
            floor,
            scatter,
        };
        let term = Term(incarnation.jump.counter(term.0));
        let last = if on(Mutant::RecoveryDropsTail) {
            tail.clear();
            status.applied
        } else {
            last
        };
        let index = last.next();
        let entry = LogEntry {
            index,
            term,
            kind: EntryKind::Normal,
            data: Batch::new(vec![Command::from(CommandKind::Recovered(command))]).to_bytes(),
            context: Bytes::new(),
        };
        let writes = beginning(&**state, own, &lineage, &incarnation.succession, keyring.as_ref())?;
        tail.push(entry.clone());
        let done = rehearsal::rehearse(Arc::clone(state), writes.clone(), &tail)?;
        let alone = Configuration { voters: vec![own], ..Configuration::default() };
        if done.status.configuration != alone || done.records.recovery.begun.is_some() || done.status.applied != index {
            return damaged("applied to a copy, its log does not lead to this manager alone");
        }
        // Its log may say so above what is applied, and nothing of that is dropped.
        if done.records.by_raft_id(own).is_some_and(|own| own.compromised) {
            return Err(RecoveryError::ThrownOut);
        }
        Ok(Outcome {
            write: RecoveryWrite {
                state: writes,
                log: LogBatch {
                    entries: vec![entry],
                    hard_state: Some(HardState { term, vote: own, commit: index }),
                    cut: None,
                },
                facts: Vec::new(),
            },
            lineage,
            kept_revision: done.records.recovery.kept_revision,
            first_revision: done.status.revision,
            records: done.records,
        })
    }
}

impl From<ApplyError> for RecoveryError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Store(error) => Self::Store(error),
            ApplyError::NeedsVersion { .. } | ApplyError::ClusterNeedsVersion { .. } => {
                Self::NeedsVersion(error.to_string())
            }
            ApplyError::Broken { .. } => Self::Damaged(error.to_string()),
        }
    }
}

/// How survivors of one lineage rank: last term, then last index. Voter or standby does not matter, the log does.
impl Findings {
    /// Whether a log with this end is fresher than the one found here.
    pub fn is_behind(&self, last_term: Term, last: LogIndex) -> bool {
        (last_term, last) > (self.last_term, self.last)
    }
}
