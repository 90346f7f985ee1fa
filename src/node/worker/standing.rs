//! Who a worker is to its cluster: its certificate, and the one question that settles every doubt.
//!
//! Owns the certificate of a worker while it runs: when it is renewed, and that a new one is on disk before it is shown. The
//! question goes to the join plane, proven by the node's key and answered from a linearizable read: it works with a
//! certificate that ran out, and for a role that has changed. Never reads or writes the session. Called by [`super::session`].

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quorate_core::id::{Lineage, StoreId};
use quorate_transport::{Clock, Identity, JoinError, JoinRefused, JoinRequest, Joined, KeyPair, Network, Refused};

use crate::client::SOFTWARE;
use crate::config::chance;
use crate::node::builder::off_thread;
use crate::node::facts::Layout;
use crate::node::newcomer::{SUPPORT, take_over};
use crate::node::own_identity;
use crate::node::renewal;
use crate::node::state_file::StateFile;

/// How long the question on the join plane may take.
const RENEW: Duration = Duration::from_secs(10);

/// The answer to whether this node is still of the cluster.
pub(super) enum Standing {
    /// It is; the certificate is a new one.
    Stands,
    /// It is, as a manager: the file says so.
    Manager,
    /// It was removed.
    Removed,
    /// Another disk is this node now.
    Replaced(String),
    /// Nobody could tell.
    Unknown(String),
}

/// What the managers said.
pub(super) type Answer = Result<Box<Joined>, JoinError>;

/// The certificate in use.
pub(super) struct Papers {
    layout: Layout,
    identity: Arc<Identity>,
    clock: Clock,
    network: Network,
    /// When it is renewed, or tried again.
    due: SystemTime,
    /// What the managers trust, where that is something else.
    told: Option<Told>,
}

/// What the managers have said that they trust.
struct Told {
    trust: Vec<u8>,
    spread: Duration,
    /// Since then it was asked: the answer is of no older state than what was told.
    asked: bool,
}

impl Papers {
    pub(super) fn new(layout: Layout, identity: Arc<Identity>, clock: Clock, network: Network) -> Self {
        let due = renewal::due_of_known(identity.subject());
        Self { layout, identity, clock, network, due, told: None }
    }

    pub(super) const fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    pub(super) const fn clock(&self) -> Clock {
        self.clock
    }

    pub(super) const fn network(&self) -> &Network {
        &self.network
    }

    /// The managers have said what is trusted now: who has something else renews, at a moment of its own within the spread.
    pub(super) fn compare_trust(&mut self, trust: &[u8], spread: Duration) {
        if trust.is_empty() || trust == self.identity.trust_id() {
            self.told = None;
            return;
        }
        self.wants(Told { trust: trust.to_vec(), spread, asked: false });
    }

    fn wants(&mut self, told: Told) {
        self.due = self.due.min(self.clock.now() + told.spread.mul_f64(chance()));
        self.told = Some(told);
    }

    pub(super) fn is_due(&self) -> bool {
        self.clock.now() >= self.due
    }

    /// Asks who this node is; the answer is for [`take`](Self::take). Until then it is not asked for because of the
    /// time, and after an answer that was none not at once.
    pub(super) fn question(&mut self, file: &StateFile, managers: Vec<String>) -> impl Future<Output = Answer> + use<> {
        let pause = match &mut self.told {
            Some(told) => {
                told.asked = true;
                renewal::pause_of_new_ca(told.spread)
            }
            None => renewal::pause(self.identity.subject()),
        };
        self.due = self.clock.now() + pause;
        let (identity, store, clock) = (Arc::clone(&self.identity), file.store(), self.clock);
        let (lineage, network) = (file.facts.lineage_list(), self.network.clone());
        async move { ask_standing(&identity, store, lineage, &managers, clock, &network).await }
    }

    /// Makes the answer true: on disk first, then for every connection from now on. Those that exist stay.
    pub(super) async fn take(&mut self, file: &StateFile, answer: Answer) -> Standing {
        let joined = match answer {
            Ok(joined) => joined,
            Err(JoinError::Refused(JoinRefused::NotAMember)) => return Standing::Removed,
            Err(JoinError::Refused(refused @ JoinRefused::AlreadyKnown(_))) => {
                return Standing::Replaced(refused.to_string());
            }
            Err(error) => return Standing::Unknown(error.to_string()),
        };
        if joined.raft_id.0 != 0 {
            let (mut file, layout) = (file.clone(), self.layout.clone());
            take_over(&mut file, *joined);
            return match off_thread(move || file.save(&layout)).await {
                Ok(()) => Standing::Manager,
                Err(error) => Standing::Unknown(error.to_string()),
            };
        }
        let authorities = std::iter::once(joined.ca_certificate).chain(joined.authorities).map(Into::into).collect();
        let renewed = match self.identity.renewed_under(joined.certificate.into(), authorities) {
            Ok(identity) => Arc::new(identity),
            Err(error) => return Standing::Unknown(error.to_string()),
        };
        let (layout, written) = (self.layout.clone(), Arc::clone(&renewed));
        let kept = off_thread(move || own_identity::write(&layout, &written)).await;
        if let Err(error) = kept {
            return Standing::Unknown(format!("the renewed certificate could not be kept: {error}"));
        }
        self.due = renewal::due_of_new(renewed.subject(), self.clock);
        self.identity = renewed;
        // What was told while the question was under way may be newer than the answer: then it is asked again.
        if let Some(told) = self.told.take().filter(|told| !told.asked && told.trust != self.identity.trust_id()) {
            self.wants(told);
        }
        tracing::info!("the certificate was renewed");
        Standing::Stands
    }
}

/// What the managers say of the node whose key this is; `store` is the one it has or will have as a manager. Those of an incarnation
/// of the cluster that `lineage` has ended say nothing: they do not know who has joined since, and may not even know the node.
pub(in crate::node) async fn ask_standing(
    identity: &Identity,
    store: Option<StoreId>,
    lineage: Lineage,
    managers: &[String],
    clock: Clock,
    network: &Network,
) -> Answer {
    let bad = |why: String| JoinError::BadReply(why);
    let key = KeyPair::from_pkcs8(identity.key().pkcs8_der()).map_err(|error| bad(error.to_string()))?;
    let csr = key.csr().map_err(|error| bad(error.to_string()))?;
    let mut request = JoinRequest::renewal(csr, identity.subject().node_id, clock);
    request.store_id = store;
    request.support = SUPPORT;
    request.software = SOFTWARE.to_owned();
    request.lineage = lineage;
    quorate_transport::renew(managers, &identity.trusted(), request, RENEW, clock, network).await.map(Box::new)
}

/// Whether a refusal may mean that this node is of the cluster no more, or not with this certificate.
pub(super) fn is_doubt(refused: &Refused) -> bool {
    match refused {
        Refused::Removed
        | Refused::NotAMember
        | Refused::WrongNode(_)
        | Refused::NoCertificate
        | Refused::WrongRole { .. } => true,
        Refused::WrongCluster { .. }
        | Refused::Superseded { .. }
        | Refused::Forked { .. }
        | Refused::StoreReplaced
        | Refused::Revoked
        | Refused::VersionTooOld { .. }
        | Refused::VersionTooNew { .. }
        | Refused::ClusterVersion(_)
        | Refused::Locked
        | Refused::Fenced
        | Refused::Duplicate
        | Refused::Busy(_)
        | Refused::Malformed
        | Refused::Other(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::id::{ClusterId, NodeId, RaftId};
    use quorate_transport::{CertRole, CertSubject, ClusterCa, trust_id};

    use super::*;

    const LIFE: Duration = Duration::from_secs(90 * 86_400);
    const SPREAD: Duration = Duration::from_secs(1);

    /// A worker, its directory, and the roots of its cluster, of which the first has signed its certificate.
    struct Given {
        roots: Vec<ClusterCa>,
        papers: Papers,
        file: StateFile,
        _directory: tempfile::TempDir,
    }

    impl Given {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let root = || ClusterCa::create(ClusterId::from_bytes([1; 16]), SystemTime::now()).unwrap();
            let roots = vec![root(), root(), root()];
            let key = KeyPair::generate().unwrap();
            let certificate = Self::issued(&roots[0], &key.csr().unwrap());
            let identity = Identity::new(roots[0].certificate().clone(), certificate.into(), key).unwrap();
            let (layout, file) = (Layout::new(directory.path()), StateFile::default());
            let mut papers = Papers::new(layout, Arc::new(identity), Clock::default(), Network::default());
            papers.due = SystemTime::now() + LIFE;
            Self { roots, papers, file, _directory: directory }
        }

        fn issued(root: &ClusterCa, csr: &[u8]) -> Vec<u8> {
            let (cluster, node_id) = (ClusterId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]));
            let subject = CertSubject { cluster, node_id, role: CertRole::Worker, enrolled: None };
            root.issue(csr, &subject, LIFE, SystemTime::now()).unwrap().to_vec()
        }

        fn told(&mut self, root: usize) {
            let trust = trust_id(std::iter::once(&self.roots[root].certificate()[..]));
            self.papers.compare_trust(&trust, SPREAD);
        }

        fn asks(&mut self) {
            // What comes of it is for each test to say.
            drop(self.papers.question(&self.file, Vec::new()));
        }

        async fn answered_by(&mut self, root: usize) -> Standing {
            let root = &self.roots[root];
            let joined = Joined {
                certificate: Self::issued(root, &self.papers.identity.key().csr().unwrap()),
                ca_certificate: root.certificate().to_vec(),
                authorities: Vec::new(),
                cluster_id: ClusterId::from_bytes([1; 16]),
                lineage: Lineage::default(),
                node_id: NodeId::from_bytes([2; 16]),
                raft_id: RaftId(0),
                managers: Vec::new(),
                extra: bytes::Bytes::new(),
            };
            self.papers.take(&self.file, Ok(Box::new(joined))).await
        }

        /// In how long it asks.
        fn due(&self) -> Duration {
            self.papers.due.duration_since(SystemTime::now()).unwrap_or_default()
        }
    }

    #[tokio::test]
    async fn a_rotation_that_is_told_while_a_renewal_is_under_way_is_not_forgotten_over_its_answer() {
        // Given a worker whose certificate is renewed because it is half over
        let mut worker = Given::new();
        worker.asks();
        // When the managers say that the CA is being replaced, before an answer of the old one comes
        worker.told(1);
        assert!(matches!(worker.answered_by(0).await, Standing::Stands));
        // Then it is asked for a certificate of the new one at once, and not after half of the life of that one.
        assert!(worker.due() <= SPREAD, "{:?}", worker.due());
        worker.asks();
        assert!(matches!(worker.answered_by(1).await, Standing::Stands));
        assert!(worker.due() >= LIFE / 3, "{:?}", worker.due());
    }

    #[tokio::test]
    async fn an_answer_that_is_newer_than_what_a_manager_told_is_enough() {
        // Given a manager that is behind: it tells of the second root, and the third one signs already
        let mut worker = Given::new();
        worker.told(1);
        assert!(worker.due() <= SPREAD);
        worker.asks();
        assert!(matches!(worker.answered_by(2).await, Standing::Stands));
        // Then nothing is asked again until that manager says something else.
        assert!(worker.due() >= LIFE / 3, "{:?}", worker.due());
        worker.told(2);
        assert!(worker.due() >= LIFE / 3, "{:?}", worker.due());
    }

    #[tokio::test]
    async fn a_renewal_that_a_rotation_waits_for_is_tried_again_soon_and_any_other_later() {
        let mut worker = Given::new();
        let failed = || Err(JoinError::BadReply("nobody was there".into()));
        worker.asks();
        assert!(matches!(worker.papers.take(&worker.file, failed()).await, Standing::Unknown(_)));
        assert!(worker.due() > Duration::from_secs(200), "{:?}", worker.due());
        worker.told(1);
        worker.asks();
        assert!(matches!(worker.papers.take(&worker.file, failed()).await, Standing::Unknown(_)));
        assert!(worker.due() <= Duration::from_secs(2), "{:?}", worker.due());
    }
}
