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
use crate::node::renewal;
use crate::node::state_file::StateFile;
use crate::node::stop::StartError;

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
}

impl Papers {
    pub(super) fn new(layout: Layout, identity: Arc<Identity>, clock: Clock, network: Network) -> Self {
        let due = renewal::due_of_known(identity.subject());
        Self { layout, identity, clock, network, due }
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
            return;
        }
        self.due = self.due.min(self.clock.now() + spread.mul_f64(chance()));
    }

    pub(super) fn is_due(&self) -> bool {
        self.clock.now() >= self.due
    }

    /// Asks who this node is; the answer is for [`take`](Self::take). Until then it is not asked for because of the
    /// time, and after an answer that was none not at once.
    pub(super) fn question(&mut self, file: &StateFile, managers: Vec<String>) -> impl Future<Output = Answer> + use<> {
        self.due = self.clock.now() + renewal::pause(self.identity.subject());
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
        let (path, written) = (self.layout.identity(), Arc::clone(&renewed));
        let kept = off_thread(move || written.write(&path).map_err(|error| StartError::Disk(error.to_string()))).await;
        if let Err(error) = kept {
            return Standing::Unknown(format!("the renewed certificate could not be kept: {error}"));
        }
        self.due = renewal::due_of_new(renewed.subject(), self.clock);
        self.identity = renewed;
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
    quorate_transport::renew(managers, identity.ca_hash(), request, RENEW, clock, network).await.map(Box::new)
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
