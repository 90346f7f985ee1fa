//! A node that its cluster has left behind comes back: with a fresh store and a token, under a new raft id.
//!
//! Owns the newcomer's side for managers that are lost, fenced, removed or wiped (design section 5), and for workers that
//! were removed: the node keeps its id and its key, its old store is moved aside and never deleted, and the join plane takes
//! it in as it takes a newcomer. A store in good standing is never moved. The managers' side is in [`super::joining`].

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::id::{Lineage, LineageOrder, NodeId, StoreId};
use quorate_core::ports::StoreError;
use quorate_transport::{ConnectError, Connector, Hello, Identity, JoinToken, Refused, api};

use super::builder::{NodeBuilder, Prepared, off_thread, random};
use super::departed;
use super::facts::{Facts, Layout, Stage};
use super::fence::FenceRecord;
use super::newcomer::finish_join;
use super::state_file::StateFile;
use super::stop::StartError;
use crate::client::SOFTWARE;
use crate::config;
use crate::status::ClusterStatus;

/// What lies in the directory.
enum Found {
    /// The node has begun to come back before: it goes on from there.
    Begun(Box<StateFile>),
    /// A store that is to be replaced whatever the managers say, with what could be read of it.
    Spent(Option<Facts>),
    /// A sound store: the managers decide.
    Sound(Facts, Lineage),
    /// A worker's: the managers decide.
    Worker(Box<StateFile>),
}

impl NodeBuilder {
    /// Brings a node back that its cluster has left behind: a manager that is lost or fenced by a recovery, or whose store is
    /// damaged or gone, and any node that was removed. Its old store is moved aside (never deleted), and the node joins with
    /// `token` under a new raft id, keeping its node id, name and address. `managers` are `host:port`.
    ///
    /// Not cancel safe: dropped half-way, the same call goes on where it stopped.
    ///
    /// # Errors
    /// `Directory` when there is no identity, or the node is in good standing; `Refused` or `Unavailable` from the
    /// managers.
    pub async fn replace(self, token: &str, managers: Vec<String>) -> Result<Prepared, StartError> {
        let token: JoinToken =
            token.trim().parse().map_err(|error| StartError::Invalid(format!("{error}. Nothing was changed")))?;
        if managers.is_empty() {
            return Err(StartError::Invalid("name at least one manager to join through, as host:port".into()));
        }
        let builder = self.clone();
        let (identity, found) = off_thread(move || builder.find()).await?;
        match &found {
            Found::Sound(facts, lineage) => {
                let known = Known { node: facts.node(), raft_id: facts.raft_id };
                self.check_left_behind(&identity, known, lineage, &managers).await?;
            }
            Found::Worker(file) => {
                let known = Known { node: file.facts.node(), raft_id: 0 };
                self.check_left_behind(&identity, known, &file.facts.lineage_list(), &managers).await?;
            }
            Found::Begun(_) | Found::Spent(_) => {}
        }
        let builder = self.clone();
        let file = off_thread(move || builder.begin_anew(&identity, found)).await?;
        let joined = self.ask_to_join(&file, &token, &managers, false).await?;
        off_thread(move || finish_join(&Layout::new(&self.directory), file, joined)).await
    }

    fn find(&self) -> Result<(Identity, Found), StartError> {
        let layout = Layout::new(&self.directory);
        let identity = Identity::load(&layout.identity()).map_err(|error| {
            StartError::Directory(format!(
                "{error}. Without its identity file the node cannot come back as itself: join anew with `quorate join` from an empty directory, under another name, or, if it was a worker, under its own with `quorate join --replace --name NAME --token TOKEN`"
            ))
        })?;
        if let Some(file) = StateFile::load(&layout)? {
            let ours =
                file.facts.node() == identity.subject().node_id && file.joining_key == identity.key().pkcs8_der();
            return match file.facts.is_ready() {
                false if ours => Ok((identity, Found::Begun(Box::new(file)))),
                true if file.facts.raft_id == 0 => Ok((identity, Found::Worker(Box::new(file)))),
                _ => Err(StartError::Directory(format!(
                    "{} is between two states. Nothing was changed; finish the join that was begun, or `quorate run` it, which goes on from there",
                    self.directory.display()
                ))),
            };
        }
        let store = layout.store();
        if !quorate_storage::exists(&store) {
            // Gone, or an earlier call was stopped right after it had moved it: what it said of the node still counts.
            return Ok((identity, Found::Spent(self.facts_aside())));
        }
        let store = match quorate_storage::open_read_only(&store) {
            Ok(store) => store,
            Err(StoreError::Corrupt { .. } | StoreError::NotFound { .. }) => return Ok((identity, Found::Spent(None))),
            // Not damage: a newer format, a missing right, a node that runs.
            Err(error) => return Err(error.into()),
        };
        let Ok(Some(facts)) = store.fact(Facts::NAME).and_then(Facts::read) else {
            return Ok((identity, Found::Spent(None)));
        };
        if !facts.is_ready() {
            return Ok((identity, Found::Spent(Some(facts))));
        }
        if FenceRecord::read(store.fact(FenceRecord::NAME)?)?.is_some() {
            return Ok((identity, Found::Spent(Some(facts))));
        }
        let lineage = super::inspect::lineage(&facts, &*store.state)?;
        Ok((identity, Found::Sound(facts, lineage)))
    }

    /// What the store that was moved aside last says of the node, if it can be read.
    fn facts_aside(&self) -> Option<Facts> {
        let aside = self.newest_aside()?;
        let store = quorate_storage::open_read_only(&aside).ok()?;
        Facts::read(store.fact(Facts::NAME).ok()?).ok()?
    }

    /// What is sound is replaced only when the cluster itself has left it behind.
    async fn check_left_behind(
        &self,
        identity: &Identity,
        known: Known,
        lineage: &Lineage,
        managers: &[String],
    ) -> Result<(), StartError> {
        let internal = |error: String| StartError::Internal(error);
        if identity.subject().check_time(self.certificates.clock.now()).is_err() {
            // Nobody would talk to it as itself; the token alone decides.
            return Ok(());
        }
        let pem = identity.to_pem();
        let identity =
            Identity::from_pem(pem.as_bytes(), &self.directory).map_err(|error| internal(error.to_string()))?;
        let subject = identity.subject();
        let hello = Hello::client(subject.cluster, subject.node_id, Lineage::default(), SOFTWARE);
        let connected = Connector::connect(managers, Arc::new(identity), hello, config::REQUEST_DEADLINE).await;
        let connection = match connected {
            Ok(connection) => connection,
            Err(error) => {
                let refused = matches!(
                    error.root(),
                    ConnectError::Refused {
                        refused: Refused::Removed | Refused::NotAMember | Refused::StoreReplaced,
                        ..
                    }
                );
                return if refused { Ok(()) } else { Err(StartError::Unavailable(error.to_string())) };
            }
        };
        // A worker goes over to the newer incarnation by itself.
        if known.raft_id != 0 && lineage.compare(&connection.remote_hello().lineage) == LineageOrder::Older {
            return Ok(());
        }
        let kind = Some(api::request::Kind::Status(api::Status {}));
        let deadline_ms = u64::try_from(config::REQUEST_DEADLINE.as_millis()).unwrap_or(u64::MAX);
        let body = api::Request { deadline_ms, kind }.encode_to_vec().into();
        let reply = connection
            .request(body, config::REQUEST_DEADLINE)
            .await
            .map_err(|error| StartError::Unavailable(error.to_string()))?;
        let status: ClusterStatus = match api::Response::decode(reply).map(|response| response.kind) {
            Ok(Some(api::response::Kind::Status(done))) => {
                serde_json::from_slice(&done.json).map_err(|error| internal(error.to_string()))?
            }
            Ok(Some(api::response::Kind::Error(error))) => return Err(StartError::Refused(error.message)),
            Ok(_) | Err(_) => return Err(internal("the manager's answer cannot be read".into())),
        };
        let id = known.node.to_string();
        let directory = self.directory.display();
        let manager = status.managers.iter().find(|manager| manager.id == id && manager.seat != "lost");
        let counts = match manager {
            Some(manager) if manager.raft_id == known.raft_id => {
                format!("the store in {directory} is sound, and the cluster counts on it as raft id {}", known.raft_id)
            }
            _ if known.raft_id == 0 && (manager.is_some() || status.workers.iter().any(|worker| worker.id == id)) => {
                format!("the node in {directory} is of the cluster, and in good standing")
            }
            Some(_) | None => return Ok(()),
        };
        Err(StartError::Directory(format!(
            "{counts}: there is nothing to replace. Nothing was changed; run it with `quorate run --data-dir {directory}`"
        )))
    }

    /// Moves what was there aside and begins anew, under the node's own id and key.
    fn begin_anew(&self, identity: &Identity, found: Found) -> Result<StateFile, StartError> {
        let old = match found {
            Found::Begun(file) => return Ok(*file),
            Found::Spent(facts) => facts,
            Found::Sound(facts, _) => Some(facts),
            Found::Worker(file) => Some(file.facts),
        };
        let layout = Layout::new(&self.directory);
        if layout.store().exists() {
            self.move_store_aside(&layout)?;
        }
        let (listen, advertise) = match &old {
            Some(old) if self.listen.is_none() && self.advertise.is_none() => {
                (old.listen.clone(), old.advertise.clone())
            }
            Some(old) if self.listen.is_none() => (old.listen.clone(), self.addresses()?.1),
            _ => self.addresses()?,
        };
        let facts = Facts {
            stage: Stage::Begun.into(),
            node_id: Bytes::copy_from_slice(NodeId::as_bytes(&identity.subject().node_id)),
            store_id: Bytes::copy_from_slice(random(StoreId::from_bytes)?.as_bytes()),
            name: old.map(|old| old.name).unwrap_or_default(),
            listen,
            advertise,
            seed: [random(|bytes| bytes)?, random(|bytes| bytes)?].concat().into(),
            ..Facts::default()
        };
        let file = StateFile {
            facts,
            joining_key: Bytes::copy_from_slice(identity.key().pkcs8_der()),
            ..StateFile::default()
        };
        file.save(&layout)?;
        departed::forget(&layout);
        Ok(file)
    }
}

/// The node as its own directory knows it.
#[derive(Clone, Copy)]
struct Known {
    node: NodeId,
    /// 0 of a worker.
    raft_id: u64,
}
