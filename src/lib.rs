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
    Configurations, DumpedRecord, Fenced, Inspection, Lead, Recover, Restore, RestoreReport, Spent, dump, fenced,
    fenced_with, inspect, inspect_configurations, inspect_configurations_with, inspect_with, restore, spent,
    spent_with,
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
    use std::collections::BTreeSet;
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

    /// Every file of the library, with what is in it.
    fn sources(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            // (The binary's parts are nobody's API.)
            if path.is_dir() && path.file_name().unwrap() != "bin" {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }

    #[test]
    fn every_limit_is_met_by_a_test() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = Vec::new();
        for directory in ["src", "raft-core/src", "raft-core/tests", "tests/scenarios"] {
            sources(&root.join(directory), &mut found);
        }
        // (Where the guide's table is compared all of them stand.)
        found.retain(|(path, _)| !path.ends_with("src/config.rs"));
        let tests = found.iter().filter_map(|(path, source)| {
            let named_so = path.ends_with("tests.rs") || path.to_str().unwrap().contains("/tests/");
            if named_so { Some(&source[..]) } else { source.split_once("#[cfg(test)]").map(|(_, tests)| tests) }
        });
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let met: BTreeSet<&str> = tests.flat_map(|source| source.split(move |c| !word(c))).collect();
        let unmet: Vec<&str> = quorate_core::limits::NAMES.into_iter().filter(|name| !met.contains(name)).collect();
        assert!(unmet.is_empty(), "no test goes to the edge of {unmet:?}");
    }

    #[test]
    fn every_public_future_says_what_becomes_of_it_when_it_is_dropped() {
        let mut found = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        let (mut told, mut silent) = (0, Vec::new());
        for (path, source) in found {
            let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
            for (at, line) in lines.iter().enumerate() {
                let Some(name) = line.strip_prefix("pub async fn ") else { continue };
                let above =
                    lines[..at].iter().rev().take_while(|line| line.starts_with("///") || line.starts_with("#["));
                let above: Vec<&str> = above.copied().collect();
                // (What is for tests of this repository is hidden, and no part of the API.)
                if above.iter().any(|line| line.contains("ancel safe")) || above.contains(&"#[doc(hidden)]") {
                    told += 1;
                } else {
                    silent.push(format!("{}: {name}", path.display()));
                }
            }
        }
        assert!(silent.is_empty(), "no word of cancel safety: {silent:#?}");
        assert!(told > 90, "{told}");
    }
}
