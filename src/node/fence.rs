//! Between incarnations of one cluster: the fence record of an old manager, and what is known of other recoveries.
//!
//! Owns design section 6, point 5, on this node. A lineage that continues ours, for which somebody stands who may
//! ([`quorate_core::succession`]), is first written down and synced; then the node stops, and no start from this directory ever runs
//! again. Its data stays. What only the CA's key stands for waits here until this node has been without a leader for long. Called
//! by the transport's handler, by the start, and by a recovery that finds the newer incarnation alive.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::consensus::io::Records;
use quorate_core::id::{Lineage, LineageOrder, NodeId};
use quorate_core::ports::{MetaStore, StoreError, StoreResult};
use quorate_core::succession::{Checked, Weight, step, weigh};
use quorate_transport::{Hello, word};
use tokio::time::Instant;

use super::directory::stopped;
use super::ending::Ending;
use super::ground::Tasks;
use super::service::Service;
use super::stop::{StartError, StopReason};
use crate::keys::Keys;
use crate::status::ForkStatus;

/// Under which name the record lies among the facts.
const NAME: &str = "fence";

/// That this directory is of an incarnation that was ended. Field numbers are for ever.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FenceRecord {
    /// The longer lineage that was shown.
    #[prost(bytes = "bytes", tag = "1")]
    lineage: Bytes,
    /// The manager that showed it.
    #[prost(bytes = "bytes", tag = "2")]
    by: Bytes,
    /// Where that one says that it is reached: its own word, that of anybody with a manager's certificate.
    #[prost(string, tag = "3")]
    address: String,
    /// Where it is by the records of the incarnation that was ended; empty: they do not know it.
    #[prost(string, tag = "4")]
    known: String,
}

impl FenceRecord {
    /// Under which name [`FenceRecord::read`]'s argument lies.
    pub(crate) const NAME: &'static str = NAME;

    /// Shown by this hello to who has these records.
    pub(super) fn of(hello: &Hello, records: &Records) -> Self {
        let known = records.nodes.get(hello.node_id).and_then(|node| node.addresses.first());
        Self {
            lineage: hello.lineage.to_bytes().into(),
            by: Bytes::copy_from_slice(hello.node_id.as_bytes()),
            address: hello.advertise.clone(),
            known: known.cloned().unwrap_or_default(),
        }
    }

    pub(crate) fn read(stored: Option<Bytes>) -> StoreResult<Option<Self>> {
        let Some(bytes) = stored else { return Ok(None) };
        let corrupt = |detail: String| StoreError::Corrupt { record: format!("meta {NAME}"), detail };
        Self::decode(bytes).map(Some).map_err(|error| corrupt(error.to_string()))
    }

    pub(super) fn save(&self, meta: &dyn MetaStore) -> StoreResult<()> {
        meta.put(&[(NAME, self.encode_to_vec().into())])
    }

    /// Where the manager that showed it is by the records.
    pub(super) fn known_address(&self) -> Option<&str> {
        Some(self.known.as_str()).filter(|known| !known.is_empty())
    }

    /// How many incarnations the cluster has had.
    pub(crate) fn generation(&self) -> u64 {
        Lineage::from_slice(&self.lineage).unwrap_or_default().generation()
    }

    /// What happened, what was not harmed, what to do.
    pub(super) fn words(&self, generation: u64, directory: &Path) -> String {
        let by = NodeId::from_slice(&self.by).unwrap_or_default();
        let directory = directory.display();
        let known = self.known_address();
        let at = known.map(|known| format!(" at {known}")).unwrap_or_default();
        // A token is shown to whoever is at the address: nobody is sent to one that only the other side claims.
        let manager = known.unwrap_or("HOST:PORT");
        let whose = match &self.address {
            claimed if claimed.is_empty() || Some(claimed.as_str()) == known => String::new(),
            claimed => format!(
                ". (That manager says, unproven, that it is reached at {claimed}; give the token only to one that you know.)"
            ),
        };
        format!(
            "the cluster was recovered elsewhere: manager {by}{at} is of generation {}, this directory of generation {generation}. It is fenced: it never votes or serves again. Nothing in it was changed, and what only it holds can still be read with `quorate inspect`. Next: come back to the cluster with a fresh store (this one is moved aside, not deleted): quorate join --replace --token TOKEN --manager {manager} --data-dir {directory}{whose}",
            self.generation()
        )
    }
}

/// The refusal to start from a fenced directory; nothing when it is not fenced.
pub(super) fn check(stored: Option<Bytes>, generation: u64, directory: &Path) -> Result<(), StartError> {
    match FenceRecord::read(stored)? {
        Some(fence) => Err(StartError::Superseded(fence.words(generation, directory))),
        None => Ok(()),
    }
}

/// A stopped directory that is fenced, in words; none for any other directory, also one whose node runs. Blocks.
///
/// # Errors
/// As [`crate::inspect`].
pub fn fenced(directory: &Path) -> Result<Option<Fenced>, StartError> {
    fenced_with(directory, &Keys::default())
}

/// As [`fenced`], with the key that opens the store.
///
/// # Errors
/// As [`crate::inspect`].
pub fn fenced_with(directory: &Path, keys: &Keys) -> Result<Option<Fenced>, StartError> {
    let Some((store, facts)) = stopped(directory, keys)? else { return Ok(None) };
    let Some(fence) = FenceRecord::read(store.fact(NAME)?)? else { return Ok(None) };
    let generation = super::inspect::lineage(&facts, &*store.state)?.generation();
    Ok(Some(Fenced {
        cluster_id: facts.cluster().to_string(),
        name: facts.display_name(),
        generation,
        by_generation: fence.generation(),
        by_address: fence.address.clone(),
        message: fence.words(generation, directory),
    }))
}

/// What a fenced directory says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fenced {
    /// Base32.
    pub cluster_id: String,
    /// The node's name.
    pub name: String,
    /// The incarnation that the directory is of.
    pub generation: u64,
    /// The newer incarnation.
    pub by_generation: u64,
    /// Where the manager of it that was met says that it is reached; its own word, and may be empty.
    pub by_address: String,
    /// What happened and what to do.
    pub message: String,
}

/// What this node has met of other incarnations.
#[derive(Default)]
pub(super) struct Incarnations {
    newer: OnceLock<FenceRecord>,
    /// A newer one that was shown, and is not believed yet.
    claim: Mutex<Option<Claim>>,
    /// Generation, address, and when it was met last.
    forks: Mutex<BTreeMap<NodeId, (u64, String, Instant)>>,
}

/// What was shown of a newer incarnation, and what of it was signed.
#[derive(Clone)]
struct Claim {
    fence: FenceRecord,
    checked: Checked,
}

/// Between two looks at what is claimed.
const LOOK: Duration = Duration::from_millis(500);

/// As long as both run they meet again and again; one that was not met for so long is stopped or wiped.
const FORK_REMEMBERED: Duration = Duration::from_secs(600);

impl Incarnations {
    /// Whether a newer incarnation was met: nothing may be begun any more.
    pub(super) fn is_superseded(&self) -> bool {
        self.newer.get().is_some()
    }

    /// Another recovery of the same cluster was met, by a manager's certificate.
    pub(super) fn note_fork(&self, ours: &Lineage, node: NodeId, theirs: &Lineage, address: &str) {
        if ours.compare(theirs) != LineageOrder::Forked {
            return;
        }
        let mut forks = self.forks.lock().unwrap_or_else(PoisonError::into_inner);
        let told = forks.insert(node, (theirs.generation(), address.to_owned(), Instant::now()));
        if told.is_none() {
            tracing::error!(
                %node, address, ours = ours.generation(), theirs = theirs.generation(),
                "the cluster was recovered twice: the two incarnations do not talk to each other. Keep one of them and wipe the other"
            );
        }
    }

    pub(super) fn forks(&self) -> Vec<ForkStatus> {
        self.forks_at(Instant::now())
    }

    fn forks_at(&self, now: Instant) -> Vec<ForkStatus> {
        let forks = self.forks.lock().unwrap_or_else(PoisonError::into_inner);
        forks
            .iter()
            .filter(|(_, (_, _, met))| now.saturating_duration_since(*met) < FORK_REMEMBERED)
            .map(|(node, (generation, address, _))| ForkStatus {
                id: node.to_string(),
                name: node.to_string(),
                address: address.clone(),
                generation: *generation,
            })
            .collect()
    }
}

/// What of the words that come with a hello speaks of the incarnation after `ours`, and which of its signatures hold.
pub(super) fn checked(ours: &Lineage, hello: &Hello, identity: &quorate_transport::Identity) -> Option<Checked> {
    let word = step(ours, &hello.lineage, &hello.successions)?;
    Some(word::check(word, identity))
}

/// What it takes to stop for a newer incarnation.
#[derive(Clone)]
pub(super) struct Fencing {
    pub(super) incarnations: Arc<Incarnations>,
    pub(super) meta: Arc<dyn MetaStore>,
    pub(super) ending: Ending,
    pub(super) directory: PathBuf,
}

impl Fencing {
    /// Somebody has shown a longer lineage. A word that is believed ends this node at once; one that may come to be is kept.
    pub(super) fn shown(&self, service: &Service, hello: &Hello, runtime: &Tasks) {
        let ours = service.lineage();
        let (by, theirs) = (hello.node_id, hello.lineage.generation());
        let checked = checked(&ours, hello, &service.identity());
        let weight = checked.map_or(Weight::Unfounded, |checked| service.weigh(&checked));
        let fence = FenceRecord::of(hello, &service.records.borrow());
        match (weight, checked) {
            (Weight::Proven, _) => self.superseded(&ours, fence, runtime),
            (Weight::Claimed, Some(checked)) => {
                let mut claim = self.incarnations.claim.lock().unwrap_or_else(PoisonError::into_inner);
                if claim.replace(Claim { fence, checked }).is_none() {
                    tracing::error!(
                        node = %by, theirs, member = %checked.member,
                        "a newer incarnation of this cluster is claimed: the cluster's CA has signed it, but no manager that is known here stands for it. This manager goes on while it has a leader, and steps aside if it has none for long"
                    );
                }
            }
            (Weight::Claimed | Weight::Unfounded, _) => tracing::warn!(
                node = %by, theirs,
                "a newer incarnation of this cluster was shown for which nobody stands: it is not believed. If the cluster was recovered elsewhere, this manager hears of it from there; if not, that node lies"
            ),
        }
    }

    /// What is claimed is weighed again: the records may have come that prove it, and without a leader for long it is believed.
    pub(super) async fn keep_claims(self, service: Arc<Service>, runtime: Tasks) {
        loop {
            tokio::time::sleep(LOOK).await;
            if service.is_closed() {
                return;
            }
            let claim = self.incarnations.claim.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let Some(Claim { fence, checked }) = claim else { continue };
            let leaderless = service.status.borrow().leaderless_ticks;
            if service.weigh(&checked).fences(leaderless) {
                self.superseded(&service.lineage(), fence, &runtime);
                return;
            }
        }
    }

    /// A newer incarnation there is: the record first, then the stop. Once.
    fn superseded(&self, ours: &Lineage, fence: FenceRecord, runtime: &Tasks) {
        if self.incarnations.newer.set(fence.clone()).is_err() {
            return;
        }
        tracing::error!(
            theirs = fence.generation(),
            "a manager of a newer incarnation of this cluster was met: this one has been recovered elsewhere"
        );
        let (meta, ending) = (Arc::clone(&self.meta), self.ending.clone());
        let words = fence.words(ours.generation(), &self.directory);
        runtime.spawn(async move {
            let written = tokio::task::spawn_blocking(move || fence.save(&*meta)).await;
            let reason = match written {
                Ok(Ok(())) => StopReason::Superseded(words),
                Ok(Err(error)) => StopReason::DiskFailed(error.to_string()),
                Err(error) => StopReason::Bug(error.to_string()),
            };
            ending.stop(reason);
        });
    }
}

impl Service {
    fn weigh(&self, checked: &Checked) -> Weight {
        let records = self.records.borrow();
        weigh(&records.nodes, &records.removed, checked)
    }
}

#[cfg(test)]
#[path = "fence_tests.rs"]
mod on_real_nodes;

#[cfg(test)]
mod tests {
    use quorate_core::id::{LineageId, RaftId};
    use quorate_core::membership::record::{NodeRecord, Role};

    use super::*;

    #[test]
    fn a_fence_sends_nobody_to_an_address_that_only_the_other_side_claims() {
        let (known, stranger) = (NodeId::from_bytes([2; 16]), NodeId::from_bytes([3; 16]));
        let record = NodeRecord {
            id: Bytes::copy_from_slice(known.as_bytes()),
            role: Role::Manager.into(),
            raft_id: 2,
            addresses: vec!["10.0.0.2:4701".to_owned()],
            ..NodeRecord::default()
        };
        let records = Records { nodes: [record].into_iter().collect(), ..Records::default() };
        let words = |by: NodeId, claimed: &str| {
            let hello = Hello::client(Default::default(), by, Lineage::default(), "test");
            let hello = Hello { raft_id: RaftId(9), advertise: claimed.to_owned(), ..hello };
            FenceRecord::of(&hello, &records).words(1, Path::new("/data"))
        };
        let command = |at: &str| format!("--token TOKEN --manager {at} --data-dir /data");
        // One that the records know is where they say, whatever it says itself, and that is marked as what it is;
        for (claimed, marked) in [("", false), ("10.0.0.2:4701", false), ("6.6.6.6:4701", true)] {
            let words = words(known, claimed);
            assert!(words.contains(&command("10.0.0.2:4701")), "{words}");
            assert_eq!(words.contains("says, unproven, that it is reached at 6.6.6.6:4701"), marked, "{words}");
        }
        // of one that they do not know nothing is known.
        for (claimed, marked) in [("", false), ("6.6.6.6:4701", true)] {
            let words = words(stranger, claimed);
            assert!(words.contains(&command("HOST:PORT")), "{words}");
            assert_eq!(words.contains("says, unproven, that it is reached at 6.6.6.6:4701"), marked, "{words}");
        }
    }

    #[test]
    fn another_recovery_is_told_until_it_was_not_met_for_a_while() {
        let lineage = |ids: &[u8]| Lineage(ids.iter().map(|id| LineageId::from_bytes([*id; 16])).collect());
        let met = Incarnations::default();
        let node = NodeId::from_bytes([7; 16]);
        // What is of this incarnation, or of an older one, is no fork.
        for theirs in [&[1, 2][..], &[1]] {
            met.note_fork(&lineage(&[1, 2]), node, &lineage(theirs), "10.0.0.3:4701");
        }
        assert_eq!(met.forks().len(), 0);
        met.note_fork(&lineage(&[1, 2]), node, &lineage(&[1, 3]), "10.0.0.3:4701");
        let told = met.forks();
        assert_eq!((told.len(), told[0].generation, told[0].address.as_str()), (1, 2, "10.0.0.3:4701"));
        assert_eq!(met.forks_at(Instant::now() + FORK_REMEMBERED / 2).len(), 1);
        assert_eq!(met.forks_at(Instant::now() + 2 * FORK_REMEMBERED).len(), 0);
    }
}
