//! A manager quorum for orchestrators: Raft with an odd number of voters, membership, and a replicated store, over QUIC.
//!
//! Owns the node that wires core, storage and transport together, and the one type of client. See [`Node`] and
//! [`Client`]. No type of raft, prost, quinn, rustls or rocksdb is public.

#[cfg(feature = "manager")]
pub mod backup;
pub mod check;
mod client;
pub mod config;
mod error;
#[cfg(feature = "manager")]
pub mod keys;
pub mod membership;
#[cfg(feature = "manager")]
pub mod metrics;
#[cfg(feature = "worker")]
mod node;
pub mod objects;
#[cfg(feature = "manager")]
pub mod recovery;
pub mod status;
#[cfg(feature = "testing")]
pub mod testing;
pub mod upgrade;

pub use client::{
    AssignedItem, AssignmentApi, AssignmentOutcome, AssignmentTxn, Ca, Change, Changes, Client, Codec, CodecError,
    Configs, CreateObject, Election, Entry, GetBuilder, Identity, ItemReport, Json, Keyring, KeysChanged, Kv, Leader,
    Leading, Lease, LeaseInfo, LeaseKeeper, Leases, ListObjects, LockBuilder, LockGuard, Mirror, MirrorBuilder,
    ModifyBuilder, NewOperator, NodeChange, NodeKeys, NodeUpdate, Nodes, Observer, OperatorBuilder, Operators, Place,
    Policy, PolicyChange, RangeBuilder, RangePage, Recovered, Row, RowBuilder, RowChange, RowChanges, RowWriteBuilder,
    Rows, RowsBuilder, RowsWatched, ScopedClient, Secrets, Table, TableMirror, TableMirrorBuilder, TableWatch,
    TableWatchBuilder, TokenBuilder, Tokens, TxnBuilder, TxnOutcome, UpdateObject, Upgrade, Watch, WatchBuilder,
    Watched, WriteBuilder, compare, operation,
};
#[cfg(feature = "manager")]
pub use client::{Backup, BackupBuilder};
pub use error::{Error, Limit, Outcome, Result};
#[cfg(feature = "worker")]
pub use node::{
    AssignmentEvent, Assignments, Departed, Item, Node, NodeBuilder, Prepared, Start, StartError, StopReason, departed,
    runner,
};
#[cfg(feature = "manager")]
pub use node::{
    Configurations, DumpedRecord, Fenced, Inspection, Lead, Recover, Restore, RestoreReport, RolledBack, dump, fenced,
    fenced_with, inspect, inspect_configurations, inspect_configurations_with, inspect_with, restore, rolled_back,
    rolled_back_with,
};
pub use objects::SecretBytes;
pub use quorate_core::txn::{Compare, Op as Operation};

/// As the examples of the page about tests are.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../docs/testing.md")]
pub struct Testing;

/// The example of the README is compiled like any other.
#[cfg(all(doctest, feature = "manager"))]
#[doc = include_str!("../README.md")]
pub struct Readme;

/// The chapters of the guide are compiled, and most of their examples are run, on test clusters.
#[cfg(all(doctest, feature = "testing"))]
pub mod guide {
    #[doc = include_str!("../docs/guide/first-cluster.md")]
    pub struct FirstCluster;

    #[doc = include_str!("../docs/guide/keys-and-revisions.md")]
    pub struct KeysAndRevisions;

    #[doc = include_str!("../docs/guide/transactions-and-retries.md")]
    pub struct TransactionsAndRetries;

    #[doc = include_str!("../docs/guide/watch-and-mirror.md")]
    pub struct WatchAndMirror;

    #[doc = include_str!("../docs/guide/leases-locks-elections.md")]
    pub struct LeasesLocksElections;

    #[doc = include_str!("../docs/guide/leading.md")]
    pub struct Leading;

    #[doc = include_str!("../docs/guide/typed-tables.md")]
    pub struct TypedTables;

    #[doc = include_str!("../docs/guide/configs-and-secrets.md")]
    pub struct ConfigsAndSecrets;

    #[doc = include_str!("../docs/guide/embedding-a-node.md")]
    pub struct EmbeddingANode;

    #[doc = include_str!("../docs/guide/backups.md")]
    pub struct Backups;

    #[doc = include_str!("../docs/guide/testing-your-controller.md")]
    pub struct TestingYourController;
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    /// The pages of a directory below this one's, by their paths from here.
    fn pages(directory: &str) -> Vec<PathBuf> {
        let found = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)).unwrap();
        let names = found.map(|entry| Path::new(directory).join(entry.unwrap().file_name()));
        names.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
    }

    fn text(page: &Path) -> String {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap()
    }

    /// What the fences of a page say of what they hold: every other one begins something.
    fn languages(text: &str) -> impl Iterator<Item = &str> {
        text.lines().filter_map(|line| line.trim_start().strip_prefix("```")).step_by(2)
    }

    #[test]
    fn every_page_with_rust_is_compiled_and_every_chapter_of_the_guide_is_listed() {
        let here = include_str!("lib.rs");
        let contents = text(Path::new("docs/guide/README.md"));
        let mut compiled = 0;
        for page in [pages("docs/guide"), pages("docs"), vec!["README.md".into()]].concat() {
            let text = text(&page);
            let is_chapter = page.starts_with("docs/guide");
            let has_rust = languages(&text).any(|language| {
                // (What says nothing is Rust to who compiles it; elsewhere than in the guide it is what is typed or said.)
                language.starts_with("rust") || (is_chapter && language.is_empty())
            });
            if has_rust {
                compiled += 1;
                let included = format!("include_str!(\"../{}\")", page.display());
                assert!(
                    here.contains(&included),
                    "{} has Rust that nobody compiles: src/lib.rs has no {included}",
                    page.display()
                );
            }
            let name = page.file_name().unwrap().to_str().unwrap();
            assert!(
                !is_chapter || name == "README.md" || contents.contains(&format!("({name})")),
                "{name} is not listed"
            );
        }
        assert!(compiled > 10, "{compiled}");
    }
}
