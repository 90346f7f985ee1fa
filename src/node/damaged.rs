//! A manager whose state is damaged: it was found out while it ran, when the state was read as a whole and compared with its hash.
//!
//! Owns the mark of it and the words. Nothing tells an opening of such a store: without the mark the next start would vote and serve
//! from it until the same look had come as far again, and `join --replace` would take it for sound. Damage that an opening refuses needs
//! no mark. Called by [`super::spent`], which keeps the mark, and where a manager stops.

use std::path::Path;

use quorate_core::log::Configuration;

use super::facts::Facts;
use super::spent::{MarkRecord, another};

/// That the state in this store is not what was written. Field numbers are for ever.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DamageRecord {
    /// What was found.
    #[prost(string, tag = "1")]
    pub(super) what: String,
    /// How many incarnations the cluster had had.
    #[prost(uint64, tag = "2")]
    pub(super) generation: u64,
    /// No other manager was a voter: nobody goes on.
    #[prost(bool, tag = "3")]
    pub(super) alone: bool,
}

impl MarkRecord for DamageRecord {
    const NAME: &'static str = "damaged";

    fn generation(&self) -> u64 {
        self.generation
    }
}

impl DamageRecord {
    /// What was found by the manager that these facts are about, under this configuration.
    pub(super) fn of(what: String, facts: &Facts, configuration: &Configuration) -> Self {
        let voters = configuration.all_voters();
        let alone = !voters.is_empty() && voters.iter().all(|voter| *voter == facts.raft());
        Self { what, generation: facts.lineage_list().generation(), alone }
    }

    /// What happened, what was not harmed, what to do.
    pub(super) fn words(&self, facts: &Facts, directory: &Path) -> String {
        let (name, directory, what) = (facts.display_name(), directory.display(), &self.what);
        let begin = format!(
            "the state in {directory} is damaged: {what}. {name} has stopped, and never votes or serves from this store again; nothing in it was changed."
        );
        if !self.alone {
            return format!(
                "{begin} The other managers go on, and hold the data. Next: {name} comes back with a fresh store, under a new raft id (this one is moved aside, not deleted): quorate join --replace --data-dir {directory} --manager {}, then quorate run --data-dir {directory}",
                another(facts)
            );
        }
        let standby = if facts.managers.is_empty() {
            ""
        } else {
            "a standby may have a whole copy: quorate recover --dry-run says so on its machine, and quorate recover goes on from there. Else "
        };
        format!(
            "{begin} {name} is the only voter, so that no manager goes on without it, and `quorate recover` takes no state that is not what its hash says. Next: {standby}bring the cluster back from its newest backup, into another directory: quorate restore FILE --backup-key KEYFILE --data-dir DIR. What this directory holds besides secrets is shown by quorate inspect --dump --data-dir {directory}"
        )
    }
}
