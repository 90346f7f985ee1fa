//! What a recovery finds and does: the documented JSON of `quorate recover --json`.
//!
//! Owns the one definition that the library and scripts share. Fields are only ever added.

use serde::{Deserialize, Serialize};

/// One survivor's directory, and what a recovery from it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Base32.
    pub cluster_id: String,
    /// Base32.
    pub node_id: String,
    /// The survivor's name.
    pub name: String,
    /// Its number in the Raft configuration.
    pub raft_id: u64,
    /// Where it is reached after the recovery.
    pub address: String,
    /// The generation that the directory is of.
    pub generation: u64,
    /// Its incarnations, oldest first, base32.
    pub lineage: Vec<String>,
    /// Newest term seen.
    pub term: u64,
    /// Term of the last log entry: the first thing that ranks survivors.
    pub last_term: u64,
    /// Index of the last log entry: the second thing that ranks survivors.
    pub last_index: u64,
    /// Newest entry known to be committed.
    pub commit: u64,
    /// Newest entry applied.
    pub applied: u64,
    /// The store's revision at `applied`.
    pub revision: u64,
    /// Entries above `applied`: kept, applied by the recovery.
    pub unapplied: u64,
    /// Of these, entries above `commit`: kept as well, they may have been acknowledged by managers that are lost.
    pub uncommitted: u64,
    /// Voters at `applied`.
    pub voters: Vec<u64>,
    /// The outgoing half of a joint configuration; empty unless joint.
    pub voters_outgoing: Vec<u64>,
    /// Standbys at `applied`.
    pub learners: Vec<u64>,
    /// Configuration entries above `applied`, by index: they will not take effect.
    pub void_configurations: Vec<u64>,
    /// The other managers, and what they answered.
    pub managers: Vec<AskedManager>,
    /// `recover`: there is something to do; `alone`: this manager is the only member already; `begun`: a recovery was written
    /// and is finished by the next start.
    pub verdict: String,
    /// The generation after the recovery.
    pub new_generation: u64,
    /// The newest revision that is kept, counted by applying everything to a copy.
    pub kept_revision: Option<u64>,
    /// The first revision of the new generation.
    pub first_revision: Option<u64>,
    /// The directory was put back to an older state, and this is the last entry that is known to have been in it before. Another
    /// manager may hold it.
    pub rolled_back: Option<u64>,
    /// A manager that ran from the directory found this damage in it. What a recovery keeps is whole by now: it has been checked.
    pub damaged: Option<String>,
    /// Why a recovery is (or would be) refused.
    pub refusal: Option<String>,
    /// Whether it was written.
    pub written: bool,
}

impl RecoveryReport {
    /// The report of a start that was told to recover.
    pub(crate) fn log(&self) {
        if self.written {
            tracing::warn!(
                generation = self.new_generation,
                kept_revision = self.kept_revision,
                "recovered: this manager goes on alone with everything that is on its disk; what only the lost managers had acknowledged is gone, and nobody can count that"
            );
        } else {
            tracing::warn!(generation = self.generation, verdict = self.verdict, "nothing to recover; remove the flag");
        }
    }
}

/// One other manager.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AskedManager {
    /// Node id, base32.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it was asked.
    pub address: String,
    /// Its number in the Raft configuration.
    pub raft_id: u64,
    /// "voter" or "standby".
    pub seat: String,
    /// Whether it runs and answered.
    pub answers: bool,
    /// What it said, or why it did not, in words.
    pub answer: String,
    /// Term of its last log entry, when it said.
    pub last_term: Option<u64>,
    /// Index of its last log entry, when it said.
    pub last_index: Option<u64>,
}
