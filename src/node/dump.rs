//! Every live record of a stopped manager's store, as it lies behind the seal of its disk.
//!
//! Owns `quorate inspect --dump`: what whoever has the disk and its key can read. What the barrier has sealed stays sealed. Changes
//! nothing, and refuses a directory whose node runs.

use std::path::Path;

use bytes::Bytes;
use quorate_core::keyspace::Section;
use quorate_core::state::read;

use super::directory::{ToRead, explained, look_into, to_read};
use super::stop::StartError;
use crate::keys::Keys;

/// One live record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DumpedRecord {
    /// Of which kind: "user", "config", "secret", "node" and so on.
    pub section: &'static str,
    /// Its key within its section.
    pub key: Bytes,
    /// The revision that last wrote it.
    pub revision: u64,
    /// Its value, as it is stored.
    pub value: Bytes,
}

/// The word for each section, in the order in which they lie.
const SECTIONS: [(Section, &str); 11] = [
    (Section::Assignment, "assignment"),
    (Section::Cluster, "cluster"),
    (Section::Reference, "reference"),
    (Section::Config, "config"),
    (Section::Identity, "identity"),
    (Section::Liveness, "liveness"),
    (Section::Node, "node"),
    (Section::Removed, "removed"),
    (Section::Secret, "secret"),
    (Section::User, "user"),
    (Section::Report, "report"),
];

/// Visits every live record of the manager that is stopped in `directory`, while the visitor wants more. Blocks.
///
/// # Errors
/// As [`inspect`](crate::inspect()).
pub fn dump(directory: &Path, keys: &Keys, visit: &mut dyn FnMut(DumpedRecord) -> bool) -> Result<(), StartError> {
    let ToRead { layout, store, .. } = to_read(directory, keys)?;
    if !quorate_storage::exists(&store) {
        let shown = directory.display();
        return Err(StartError::Directory(format!("{shown} holds no manager: only a manager's store can be dumped")));
    }
    let store = look_into(&layout, &store).map_err(|error| explained(&layout, error))?;
    let mut more = true;
    for (section, word) in SECTIONS {
        if !more {
            break;
        }
        read::live_records(&*store.state, section, &mut |record| {
            let key = section.strip(&record.key).unwrap_or_default();
            more = visit(DumpedRecord { section: word, key, revision: record.mod_revision, value: record.value });
            more
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_has_a_word() {
        for (section, _) in SECTIONS {
            // One that is new does not compile here, and then belongs above.
            match section {
                Section::Assignment
                | Section::Cluster
                | Section::Reference
                | Section::Config
                | Section::Identity
                | Section::Liveness
                | Section::Node
                | Section::Removed
                | Section::Secret
                | Section::User
                | Section::Report => {}
            }
        }
        let mut order: Vec<u8> = SECTIONS.iter().map(|(section, _)| *section as u8).collect();
        order.sort_unstable();
        order.dedup();
        assert_eq!(order.len(), SECTIONS.len());
    }
}
