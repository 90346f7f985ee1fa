//! Founding a cluster: the directory of its first manager.
//!
//! Owns the preparation, resumable at every step: ids are drawn and synced first, so that a half-made directory is finished
//! rather than begun anew. Blocks where it says so. Never runs a node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::command::{COMMAND_VERSION, COMMAND_VERSION_MIN};
use quorate_core::id::{ClusterId, Enrolled, Lineage, LineageId, NodeId, RaftId, StoreId};
use quorate_core::membership::operators::OperatorRecord;
use quorate_core::membership::record::{ClusterRecord, NodeRecord, Role};
use quorate_core::membership::trust::TrustRecord;
use quorate_core::ports::OpenStore;
use quorate_core::state::{Founding, found};
use quorate_transport::{CertRole, CertSubject, ClusterCa, Identity, KeyPair};
use zeroize::Zeroizing;

use super::barrier::Barrier;
use super::builder::{NodeBuilder, Prepared, off_thread, random, random_seed};
use super::directory::{open_store_with, options};
use super::facts::{Facts, Stage};
use super::newcomer::prepared_of;
use super::own_identity;
use super::records::{ca_key, first_trust, token_key};
use super::renewal::Terms;
use super::state_file::StateFile;
use super::stop::StartError;
use crate::client::SOFTWARE;
use crate::config;
use crate::status::NodeRole;

/// The name of the operator that founding makes, as that of any other it may be taken back.
const FIRST_OPERATOR: &str = "operator";
/// After so long an address that was taken is looked at once more.
const MOMENT: Duration = Duration::from_millis(100);

impl NodeBuilder {
    pub(super) async fn prepare_init(self) -> Result<Prepared, StartError> {
        off_thread(move || self.init_blocking()).await
    }

    /// Ids and addresses, synced before anything is founded or asked.
    fn begin(&self, store: &OpenStore) -> Result<Facts, StartError> {
        if let Some(mut facts) = Facts::load(&*store.meta)? {
            // Until somebody else knows the node, what is asked for now counts: a taken name or a bad address is mended
            // by the next attempt.
            let before = facts.clone();
            if !facts.is_ready() && facts.raft_id == 0 {
                self.adopt(&mut facts.name, &mut facts.listen, &mut facts.advertise)?;
            }
            if facts != before {
                facts.save(&*store.meta)?;
            }
            return Ok(facts);
        }
        let (listen, advertise) = self.addresses()?;
        let facts = Facts {
            stage: Stage::Begun.into(),
            node_id: Bytes::copy_from_slice(random(NodeId::from_bytes)?.as_bytes()),
            store_id: Bytes::copy_from_slice(random(StoreId::from_bytes)?.as_bytes()),
            name: self.name.clone(),
            listen,
            advertise,
            seed: random_seed()?,
            sealing: random_seed()?,
            ..Facts::default()
        };
        facts.save(&*store.meta)?;
        Ok(facts)
    }

    /// A directory that belongs to an existing cluster must never become a new, empty one: what is written there would
    /// be acknowledged by nobody else, and the certificate that could bring the node back would be gone.
    fn refuse_to_found(&self, facts: &Facts) -> Result<(), StartError> {
        if !facts.cluster_id.is_empty() && facts.raft_id == 0 {
            return Err(self.store_is_gone());
        }
        Ok(())
    }

    pub(super) fn store_is_gone(&self) -> StartError {
        let directory = self.directory.display();
        StartError::Directory(format!(
            "{directory} holds the identity of a node, but its store is gone. Nothing was changed; bring the store back, or let the node come back with a fresh one: quorate join --replace --data-dir {directory} --manager HOST:PORT"
        ))
    }

    /// Before anything is written: a cluster that is founded where somebody else listens cannot run, and its first manager is known by
    /// that address.
    fn refuse_taken(&self) -> Result<(), StartError> {
        let address = self.listens()?;
        // Whoever looked in the same moment, as this does, is gone in the next one.
        let is_taken = || self.ground.network.is_taken(address);
        if address.port() == 0 || !is_taken() {
            return Ok(());
        }
        std::thread::sleep(MOMENT);
        if !is_taken() {
            return Ok(());
        }
        Err(StartError::Address(format!(
            "UDP port {address} is in use: another process listens there. Nothing was written. Stop that process, or found the cluster at another address: quorate init --data-dir {} --listen HOST:PORT",
            self.directory.display()
        )))
    }

    fn init_blocking(self) -> Result<Prepared, StartError> {
        let layout = self.layout();
        // Of a newcomer the managers see where it is; of the first one nobody does.
        let nowhere = |advertise: &String| advertise.parse::<SocketAddr>().is_ok_and(|at| at.ip().is_unspecified());
        if let Some(advertise) = self.advertise.as_ref().filter(|advertise| nowhere(advertise)) {
            return Err(StartError::Invalid(format!(
                "nobody can reach a node at {advertise}: advertise an address that the other managers can use. Nothing was changed"
            )));
        }
        match StateFile::load(&layout)? {
            // Another kind of node, and known: it is run as what it is.
            Some(file) if file.facts.is_ready() => return Ok(prepared_of(&file)),
            Some(_) => {
                return Err(StartError::Directory(format!(
                    "{} was prepared half to join a cluster. Nothing was changed; run the same join again, or choose another directory",
                    self.directory.display()
                )));
            }
            None => {}
        }
        if layout.identity().exists() && !layout.holds_store() {
            return Err(self.store_is_gone());
        }
        if !layout.holds_store() {
            self.refuse_taken()?;
        }
        let (mut store, keys) = open_store_with(&layout, options(&layout))?;
        let mut facts = self.begin(&store)?;
        if facts.is_ready() {
            return Ok(prepared(&facts, None));
        }
        if store.boot.start.index.0 == 0 {
            self.refuse_to_found(&facts)?;
            let internal = |error: &dyn std::fmt::Display| StartError::Internal(error.to_string());
            let cluster = random(ClusterId::from_bytes)?;
            let terms = self.certificates;
            let operators = Terms { life: config::CERTIFICATE, ..terms };
            let ca = ClusterCa::create(cluster, terms.clock.now()).map_err(|error| internal(&error))?;
            let first = random(LineageId::from_bytes)?;
            let enrolled = Enrolled { raft_id: RaftId(1), store_id: facts.store(), lineage: first };
            let identity = issue(&ca, facts.node(), (CertRole::Manager, Some(enrolled)), terms)?;
            let operator = issue(&ca, random(NodeId::from_bytes)?, (CertRole::Operator, None), operators)?;
            // Files first: they are nobody's until the store says so, and are written anew by the next attempt.
            own_identity::write_sealed(&layout, &identity, keys.as_ref())?;
            operator.write(&layout.operator()).map_err(|error| StartError::Disk(error.to_string()))?;
            let lineage = Lineage(vec![first]);
            facts.cluster_id = Bytes::copy_from_slice(cluster.as_bytes());
            facts.lineage = lineage.to_bytes().into();
            facts.raft_id = enrolled.raft_id.0;
            facts.save(&*store.meta)?;
            let founding = founding(&facts, &ca, &identity, &operator, self.tick)?;
            let founded = found(&founding).map_err(|refusal| StartError::Invalid(refusal.to_string()))?;
            store.state.found(founded.writes, founded.reset)?;
        }
        facts.stage = Stage::Ready.into();
        facts.save(&*store.meta)?;
        Ok(prepared(&facts, Some(layout.operator())))
    }
}

pub(super) fn issue(
    ca: &ClusterCa,
    node_id: NodeId,
    (role, enrolled): (CertRole, Option<Enrolled>),
    terms: Terms,
) -> Result<Identity, StartError> {
    let internal = |error: String| StartError::Internal(error);
    let key = KeyPair::generate().map_err(|error| internal(error.to_string()))?;
    let csr = key.csr().map_err(|error| internal(error.to_string()))?;
    let subject = CertSubject { cluster: ca.cluster_id(), node_id, role, enrolled };
    let certificate =
        ca.issue(&csr, &subject, terms.life, terms.clock.now()).map_err(|error| internal(error.to_string()))?;
    Identity::new(ca.certificate().clone(), certificate, key).map_err(|error| internal(error.to_string()))
}

fn founding(
    facts: &Facts,
    ca: &ClusterCa,
    identity: &Identity,
    operator: &Identity,
    tick: Duration,
) -> Result<Founding, StartError> {
    let (barrier, keyring) = Barrier::found(facts)?;
    // Sealed before they are in any record, also here.
    let sealed = |key: Bytes, clear: Vec<u8>, secret: &[u8]| -> Result<(Bytes, Bytes), StartError> {
        let value = barrier.seal_with(&keyring, &key, clear.into(), secret)?;
        Ok((key, value))
    };
    let (certificate, key) = ca.to_parts();
    let token = |role: Role| sealed(token_key(role), Vec::new(), &Zeroizing::new(random(|bytes| bytes)?)[..]);
    let trust = first_trust(&certificate);
    let records = vec![
        token(Role::Manager)?,
        token(Role::Worker)?,
        sealed(ca_key(), certificate, &key)?,
        (TrustRecord::key(), trust.to_bytes()),
        (OperatorRecord::key(operator.subject().node_id), first_operator(operator).to_bytes()),
    ];
    Ok(Founding {
        cluster: ClusterRecord {
            cluster_id: facts.cluster_id.clone(),
            lineage: facts.lineage.clone(),
            next_raft_id: 2,
            version: COMMAND_VERSION,
            max_voters: config::MAX_VOTERS,
            tick_micros: u64::try_from(tick.as_micros()).unwrap_or(u64::MAX).clamp(1_000, 10_000_000),
            ..ClusterRecord::default()
        },
        node: NodeRecord {
            id: facts.node_id.clone(),
            name: facts.name.clone(),
            role: Role::Manager.into(),
            addresses: vec![facts.advertise.clone()],
            raft_id: RaftId(1).0,
            store_id: facts.store_id.clone(),
            sealing_key: facts.sealing_key(),
            command_version: COMMAND_VERSION,
            command_version_min: COMMAND_VERSION_MIN,
            software: SOFTWARE.to_owned(),
            key_digest: Bytes::copy_from_slice(&identity.subject().key_digest),
            ..NodeRecord::default()
        },
        records,
        keyring,
    })
}

/// The record of the identity that founding writes.
fn first_operator(operator: &Identity) -> OperatorRecord {
    let subject = operator.subject();
    let issued = subject.issued().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    OperatorRecord {
        id: Bytes::copy_from_slice(subject.node_id.as_bytes()),
        name: FIRST_OPERATOR.to_owned(),
        key_digest: Bytes::copy_from_slice(&subject.key_digest),
        created: issued,
        certificate_ends: subject.not_after,
        ..OperatorRecord::default()
    }
}

pub(super) fn prepared(facts: &Facts, operator_identity: Option<PathBuf>) -> Prepared {
    Prepared {
        cluster_id: facts.cluster().to_string(),
        name: facts.display_name(),
        node_id: facts.node().to_string(),
        advertise: facts.advertise.clone(),
        role: NodeRole::Manager,
        raft_id: facts.raft_id,
        operator_identity,
        certificate_only: false,
    }
}
