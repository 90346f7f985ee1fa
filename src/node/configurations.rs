//! Every configuration that a stopped directory tells of: `quorate inspect --configurations`.
//!
//! Owns the words of the report. What took effect is judged by the core; nothing is changed, and a directory whose node
//! runs is refused.

use std::path::Path;

use quorate_core::consensus::configurations::{self, ConfigurationEntry, Standing};
use quorate_core::consensus::io::Records;
use quorate_core::id::RaftId;
use quorate_core::membership::plan::SeatStep;
use quorate_core::state::read;
use serde::Serialize;

use super::directory::{ToRead, explained, look_into, to_read};
use super::facts::Facts;
use super::state_file::StateFile;
use super::stop::StartError;
use crate::keys::Keys;

/// The configurations of one directory, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Configurations {
    /// The node's name.
    pub name: String,
    /// Its number in the Raft configuration.
    pub raft_id: u64,
    /// How many incarnations the cluster has had.
    pub generation: u64,
    /// First index of the log.
    pub first_index: u64,
    /// The configuration entries in the log.
    pub entries: Vec<ConfigurationRow>,
    /// What is in force at the applied index: in the state, and in every snapshot made of it.
    pub in_force: ConfigurationRow,
}

/// One configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct ConfigurationRow {
    /// The index of its entry; of the one in force: the applied index.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// The incarnation that it belongs to, from 1; 0 when it is not known here.
    pub generation: u64,
    /// Its number: how many configurations took effect up to and including it.
    pub number: u64,
    /// What changes, such as `+4 -2`, `learner 5`, `leave`.
    pub change: String,
    /// The voters; in a joint configuration the incoming half.
    pub voters: Vec<u64>,
    /// The outgoing half; empty unless joint.
    pub voters_outgoing: Vec<u64>,
    /// The standbys, where they are known: in the one in force.
    pub learners: Option<Vec<u64>>,
    /// `past`, `in force`, `void`, `pending`.
    pub standing: String,
}

impl ConfigurationRow {
    /// Whether both halves have an odd number of voters.
    pub fn is_odd(&self) -> bool {
        self.voters.len() % 2 == 1 && (self.voters_outgoing.is_empty() || self.voters_outgoing.len() % 2 == 1)
    }
}

fn ids(ids: &[RaftId]) -> Vec<u64> {
    ids.iter().map(|id| id.0).collect()
}

fn words(steps: &[SeatStep]) -> String {
    if steps.is_empty() {
        return "leave".to_owned();
    }
    let word = |step: &SeatStep| match step {
        SeatStep::AddVoter(id) => format!("+{id}"),
        SeatStep::AddLearner(id) => format!("learner {id}"),
        SeatStep::Remove(id) => format!("-{id}"),
    };
    steps.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn row(entry: &ConfigurationEntry) -> ConfigurationRow {
    ConfigurationRow {
        index: entry.index.0,
        term: entry.term.0,
        generation: entry.generation,
        number: entry.number + 1,
        change: words(&entry.steps),
        voters: ids(&entry.voters),
        voters_outgoing: ids(&entry.voters_outgoing),
        learners: None,
        standing: match entry.standing {
            Standing::Took => "past",
            Standing::Void => "void",
            Standing::Pending => "pending",
        }
        .to_owned(),
    }
}

/// Reads every configuration of a stopped directory. Blocks.
///
/// # Errors
/// As [`crate::inspect`].
pub fn inspect_configurations(directory: &Path) -> Result<Configurations, StartError> {
    inspect_configurations_with(directory, &Keys::default())
}

/// As [`inspect_configurations`], with the key that opens the store.
///
/// # Errors
/// As [`crate::inspect`].
pub fn inspect_configurations_with(directory: &Path, keys: &Keys) -> Result<Configurations, StartError> {
    let ToRead { layout, store, .. } = to_read(directory, keys)?;
    if !quorate_storage::exists(&store) {
        let what = if StateFile::load(&layout)?.is_some() {
            "is a worker's: it holds no log, and so no configurations"
        } else {
            "holds no node"
        };
        return Err(StartError::Directory(format!("{} {what}. Give the --data-dir of a manager", directory.display())));
    }
    let store = look_into(&layout, &store).map_err(|error| explained(&layout, error))?;
    let facts = Facts::read(store.fact(Facts::NAME)?)?
        .ok_or_else(|| StartError::Directory(format!("{} was never prepared", directory.display())))?;
    let status = read::status(&*store.state)?;
    let records = Records::read(&*store.state)?;
    let lineage = super::inspect::lineage(&facts, &*store.state)?;
    let from = store.boot.start.index.0 + 1;
    let log = super::running::read_entries(&*store.log, from, store.boot.last.0 + 1)?;
    let listed = configurations::list(&status, &records.recovery, &lineage, &log);
    Ok(Configurations {
        name: facts.display_name(),
        raft_id: facts.raft_id,
        generation: lineage.generation(),
        first_index: store.boot.start.index.0 + 1,
        entries: listed.iter().map(row).collect(),
        in_force: ConfigurationRow {
            index: status.applied.0,
            term: status.applied_term.0,
            generation: lineage.generation(),
            number: status.configuration_number,
            change: String::new(),
            voters: ids(&status.configuration.voters),
            voters_outgoing: ids(&status.configuration.voters_outgoing),
            learners: Some(ids(&status.configuration.learners)),
            standing: "in force".to_owned(),
        },
    })
}
