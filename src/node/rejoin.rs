//! A manager whose store was damaged or lost comes back: with a fresh store, under a new raft id.
//!
//! Owns both sides. Nothing is ever refilled under an old raft id (design section 4, rule 4): the old one is burnt in
//! the same transaction that gives out the new one, and the planner moves its seat in one joint change once the
//! newcomer has caught up. Proven by the node's own key, so no token is needed; that key is sealed, and whoever cannot open it
//! needs one ([`super::replace`]). Old data is moved aside, never
//! deleted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::command::{Command, CommandKind};
use quorate_core::consensus::io::Records;
use quorate_core::id::{Lineage, NodeId, RaftId, StoreId};
use quorate_core::membership::nodes::Nodes;
use quorate_core::membership::record::{ClusterRecord, NodeRecord};
use quorate_core::membership::upgrade::Support;
use quorate_core::ports::StoreError;
use quorate_core::txn::Txn;
use quorate_storage::takes_copies;
use quorate_transport::{Connector, Hello, Identity, RequestError, api};
use tokio::time::Instant;

use super::builder::{NodeBuilder, Prepared, off_thread, random, random_seed};
use super::departed::departed;
use super::directory::{belongs, check_address, explained, look_into, open_store, open_store_with, options};
use super::facts::{Facts, KnownManager, Layout, Stage};
use super::fence::{self, FenceRecord};
use super::founding::prepared;
use super::joining::UNUSABLE;
use super::lock::lock;
use super::noted::Noted;
use super::own_identity::{self, Own};
use super::raft_ids::{self, Attempts};
use super::records;
use super::router::{Failure, fail};
use super::service::{Service, blocking, broken, display_name};
use super::spent::Mark;
use super::state_file::StateFile;
use super::stop::StartError;
use crate::client::SOFTWARE;
use crate::error::Error;

/// For so long a connection may outlast the process at its other end.
const LINGERS: Duration = Duration::from_secs(6);

impl Service {
    /// A node that asks for a fresh store does not run: if somebody does under its raft id, the directory that asks is a copy. Why it
    /// gets none then.
    pub(super) async fn runs_elsewhere(&self, node: &NodeRecord, until: Instant) -> Option<String> {
        let id = node.raft().unwrap_or_default();
        let until = until.min(Instant::now() + LINGERS);
        while self.peers.connected().contains(&id) {
            if Instant::now() >= until {
                let name = display_name(node);
                return Some(format!(
                    "{name} (raft id {id}) runs at this moment, and is connected here: the directory that asks is a copy of its own, and gets no raft id. Nothing was changed in the cluster; remove the copy. If {name} was stopped only a moment ago, ask again in a few seconds"
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        None
    }

    /// Gives the node that asks a new raft id for its fresh store. Asked twice for one store, it answers twice the same.
    pub(super) async fn rejoin(
        &self,
        node: NodeId,
        rejoin: api::Rejoin,
        until: Instant,
    ) -> Result<api::RejoinDone, Failure> {
        let Some(store) = StoreId::from_slice(&rejoin.store_id) else {
            return Err(fail(api::Code::Invalid, "the store id must be 16 bytes. Nothing was changed"));
        };
        if !takes_copies(&rejoin.sealing_key).unwrap_or(false) {
            return Err(fail(api::Code::Invalid, format!("{UNUSABLE}. Nothing was changed")));
        }
        let mut attempts = Attempts::until(until);
        while attempts.another().await {
            self.router.read_index(until).await?;
            let reader = self.store()?.reader;
            let (all, cluster_revision, node_revision) = blocking(move || {
                let view = reader.view();
                let seen = || -> quorate_core::ports::StoreResult<_> {
                    let cluster = records::value(&*view, ClusterRecord::key())?.map_or(0, |(_, revision)| revision);
                    let own = records::value(&*view, NodeRecord::key(node))?.map_or(0, |(_, revision)| revision);
                    Ok((Records::read(&*view)?, cluster, own))
                };
                seen().map_err(|error| broken(&error))
            })
            .await?;
            let Some(record) = all.nodes.get(node) else {
                return Err(fail(api::Code::NotFound, "the cluster has no record of this node; join with a token"));
            };
            let Some(old) = record.raft() else {
                return Err(fail(api::Code::Refused, "the node is no manager; there is no store to replace"));
            };
            let support = Support { oldest: rejoin.command_version_min, newest: rejoin.command_version };
            support
                .check(all.cluster.version)
                .map_err(|unfit| fail(api::Code::Version, format!("{unfit}. Nothing was changed")))?;
            if record.store() == Some(store) {
                return Ok(answer(&all.nodes, record, all.cluster.lineage.clone()));
            }
            if let Some(why) = self.runs_elsewhere(record, until).await {
                return Err(fail(api::Code::Refused, why));
            }
            let seated = self.status.borrow().configuration.clone();
            // A raft id that never got the seat hands its claim on.
            let inherited = RaftId(record.replaces);
            let replaces = if !seated.is_voter(old) && seated.is_voter(inherited) { inherited } else { old };
            let mut txn = Txn::default();
            let fresh = raft_ids::draw(&mut txn, &all, cluster_revision);
            let mut updated = record.clone();
            updated.raft_id = fresh.0;
            updated.replaces = replaces.0;
            updated.store_id = rejoin.store_id.clone();
            updated.sealing_key = rejoin.sealing_key.clone();
            (updated.command_version_min, updated.command_version) = (support.oldest, support.newest);
            updated.software.clone_from(&rejoin.software);
            if !rejoin.advertise.is_empty() {
                updated.addresses = vec![rejoin.advertise.clone()];
            }
            raft_ids::write(&mut txn, node, &updated, node_revision);
            raft_ids::burn(&mut txn, old);
            let done = self.router.execute(Command::from(CommandKind::System(txn)), until).await?;
            if done.succeeded {
                tracing::info!(%node, %old, %fresh, "a manager came back with a fresh store");
                return Ok(answer(&all.nodes, &updated, all.cluster.lineage.clone()));
            }
        }
        Err(fail(api::Code::Overloaded, "too many membership changes at the same time. Nothing was changed; try again"))
    }
}

fn answer(nodes: &Nodes, record: &NodeRecord, lineage: Bytes) -> api::RejoinDone {
    let known = |node: &NodeRecord| api::Known {
        raft_id: node.raft_id,
        node_id: node.id.clone(),
        addresses: node.addresses.clone(),
    };
    api::RejoinDone {
        raft_id: record.raft_id,
        lineage,
        name: record.name.clone(),
        advertise: record.addresses.first().cloned().unwrap_or_default(),
        managers: nodes.members().filter(|node| node.raft_id != 0 && node.id != record.id).map(known).collect(),
    }
}

fn unavailable(error: &dyn std::fmt::Display) -> StartError {
    StartError::Unavailable(format!("{error}. Run the same command again, that is safe"))
}

/// What a manager's refusal means for the command.
fn refused(error: api::Error) -> StartError {
    let error = Error::from_wire(error);
    if let Error::Unknown(why) = &error {
        StartError::Unknown(format!("{why}. Run the same command again, that is safe"))
    } else if error.is_retryable() {
        unavailable(&error)
    } else {
        StartError::Refused(error.to_string())
    }
}

/// What lies where the fresh store is to be.
enum Old {
    /// A fresh one, whose making was stopped.
    Begun(Box<Facts>),
    /// Nothing.
    Gone,
    /// One that is of no use any more.
    Spent,
}

impl NodeBuilder {
    /// Gives a manager whose store is damaged or gone a fresh one: the old store is moved aside (never deleted), and the
    /// node comes back under a new raft id by its own certificate. `managers` are `host:port` of the others.
    ///
    /// Not cancel safe: dropped half-way, the same call goes on where it stopped.
    ///
    /// # Errors
    /// `Directory` when the store is sound; `InUse` when the node runs; `Refused` or `Unavailable` from the managers.
    pub async fn rejoin(self, managers: Vec<String>) -> Result<Prepared, StartError> {
        if managers.is_empty() {
            return Err(StartError::Invalid("name at least one other manager, as host:port".into()));
        }
        for manager in &managers {
            check_address(manager)?;
        }
        self.check().await?;
        let builder = self.clone();
        let (identity, old) = off_thread(move || builder.store_to_replace()).await?;
        let identity = Arc::new(identity);
        let subject = identity.subject();
        let hello = Hello::client(subject.cluster, subject.node_id, Lineage::default(), SOFTWARE);
        let connection =
            Connector::connect(&managers, Arc::clone(&identity), hello, self.patience).await.map_err(|error| {
                // Until a manager of the cluster has answered, everything is where it was.
                if error.is_retryable() { unavailable(&error) } else { StartError::Refused(error.to_string()) }
            })?;
        let (builder, own) = (self.clone(), Arc::clone(&identity));
        let facts = off_thread(move || builder.fresh_store(&own, old)).await?;
        let kind = api::request::Kind::Rejoin(api::Rejoin {
            store_id: facts.store_id.clone(),
            advertise: self.advertise.clone().unwrap_or_default(),
            command_version: Support::THIS.newest,
            command_version_min: Support::THIS.oldest,
            software: SOFTWARE.to_owned(),
            sealing_key: facts.sealing_key(),
        });
        let deadline_ms = u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX);
        let body = api::Request { deadline_ms, kind: Some(kind) }.encode_to_vec().into();
        let reply = connection.request(body, self.patience).await.map_err(|error| match error {
            error @ (RequestError::NotSent(_) | RequestError::Busy) => unavailable(&error),
            why @ (RequestError::Unknown(_) | RequestError::Unread) => StartError::Unknown(format!(
                "no answer ({why}): the cluster may have given this node a new raft id. Run the same command again, that is safe"
            )),
        })?;
        connection.close().await;
        let done = match api::Response::decode(reply).map(|response| response.kind) {
            Ok(Some(api::response::Kind::Rejoin(done))) => done,
            Ok(Some(api::response::Kind::Error(error))) => return Err(refused(error)),
            Ok(_) | Err(_) => return Err(StartError::Internal("the manager's answer cannot be read".into())),
        };
        off_thread(move || self.finish_rejoin(facts, done)).await
    }

    /// What there is to replace, under which identity. Changes nothing.
    fn store_to_replace(&self) -> Result<(Identity, Old), StartError> {
        let layout = self.layout();
        if let Some(file) = StateFile::load(&layout)? {
            let what = if file.facts.is_ready() { "is a worker's" } else { "was prepared only half" };
            return Err(self.not_by_certificate(&format!("{what}: there is no store to replace")));
        }
        let own = Own::load(&layout, "the node cannot come back: join with a token")?;
        let sound = match quorate_storage::exists(&layout.store()) {
            false if layout.store().exists() => Err(()),
            false => Ok(None),
            true => match look_into(&layout, &layout.store()) {
                Ok(store) => {
                    let facts = Facts::read(store.fact(Facts::NAME)?).map_err(|_damaged| ());
                    let mut spent = false;
                    if let Ok(Some(facts)) = &facts {
                        if facts.is_ready() {
                            belongs(&layout, own.shown().subject(), facts)?;
                        }
                        // An opening does not notice every damage.
                        let lineage = match super::inspect::lineage(facts, &*store.state) {
                            Err(StoreError::Corrupt { .. }) => None,
                            read => Some(read?),
                        };
                        let generation =
                            lineage.as_ref().map_or_else(|| facts.lineage_list().generation(), Lineage::generation);
                        fence::check(store.fact(FenceRecord::NAME)?, generation, &self.directory)?;
                        spent = lineage.is_none() || Mark::read(|name| store.fact(name), facts)?.is_some();
                    }
                    if spent { Err(()) } else { facts }
                }
                Err(StoreError::Corrupt { .. } | StoreError::NotFound { .. }) => Err(()),
                Err(StoreError::KeyWanted { .. }) if self.key_lost => {
                    self.nobody_waits_for_the_key()?;
                    Err(())
                }
                // Not damage: a newer format, a missing right, a full disk. The raft id must not be burnt for that.
                Err(error) => return Err(explained(&layout, error)),
            },
        };
        let identity = match own {
            Own::Sealed(_, StartError::Locked(why)) if self.key_lost => {
                return Err(StartError::Locked(format!(
                    "{why}. Without that key this node cannot prove that it is the one that it was: come back with a manager's token, --token TOKEN (`quorate token show manager` on a manager)"
                )));
            }
            own @ (Own::Proven(_) | Own::Sealed(..)) => own.proven()?,
        };
        match sound {
            Ok(Some(facts)) if facts.is_ready() => {
                Err(self
                    .not_by_certificate("holds a sound store: there is nothing to replace by its certificate alone"))
            }
            Ok(Some(facts)) if facts.node() == identity.subject().node_id && facts.raft_id == 0 => {
                Ok((identity, Old::Begun(Box::new(facts))))
            }
            Ok(None) => Ok((identity, Old::Gone)),
            // Damaged, or a preparation of something else.
            Ok(Some(_)) | Err(()) => Ok((identity, Old::Spent)),
        }
    }

    /// Moves a store that is of no use aside, and begins a fresh one with a store id of its own.
    fn fresh_store(&self, identity: &Identity, old: Old) -> Result<Facts, StartError> {
        let layout = self.layout();
        match old {
            Old::Begun(facts) => return Ok(*facts),
            Old::Gone => {}
            Old::Spent => {
                // Time has passed since it was looked at.
                self.nobody_waits_for_the_key()?;
                self.move_store_aside(&layout)?;
            }
        }
        self.begin_fresh(&layout, identity)
    }

    /// A store that nobody can open is moved aside, as a damaged one is; but not from under a manager that waits to be unlocked.
    pub(super) fn nobody_waits_for_the_key(&self) -> Result<(), StartError> {
        lock(&self.layout()).map(drop)
    }

    /// The refusal to give a directory a fresh store by the node's certificate: what it is, and what to do instead.
    fn not_by_certificate(&self, what: &str) -> StartError {
        let directory = self.directory.display();
        let next = match departed(&self.directory) {
            Some(mark) => mark.message(&self.directory),
            None => format!(
                "run it with `quorate run --data-dir {directory}`; if the cluster has removed it or left it behind, that says so, and it comes back with a token: quorate join --replace --token TOKEN --manager HOST:PORT --data-dir {directory}"
            ),
        };
        StartError::Directory(format!("{directory} {what}. Nothing was changed; {next}"))
    }

    /// The old store stays, under a name that says so.
    pub(super) fn move_store_aside(&self, layout: &Layout) -> Result<(), StartError> {
        let aside = self.free_name();
        std::fs::rename(layout.store(), &aside)
            .and_then(|()| std::fs::File::open(&self.directory)?.sync_all())
            .map_err(|error| StartError::Disk(format!("the old store cannot be moved aside: {error}")))?;
        tracing::warn!(to = %aside.display(), "the old store was moved aside");
        Ok(())
    }

    fn aside(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{}{number}", Layout::ASIDE))
    }

    /// How many stores lie aside.
    fn count_aside(&self) -> u64 {
        (1..).take_while(|number| self.aside(*number).exists()).count() as u64
    }

    fn free_name(&self) -> PathBuf {
        self.aside(self.count_aside() + 1)
    }

    /// The store that was moved aside last.
    pub(super) fn newest_aside(&self) -> Option<PathBuf> {
        let count = self.count_aside();
        (count > 0).then(|| self.aside(count))
    }

    fn begin_fresh(&self, layout: &Layout, identity: &Identity) -> Result<Facts, StartError> {
        let (store, keys) = open_store_with(layout, options(layout))?;
        // By what opens the fresh store from now on.
        own_identity::write_sealed(layout, identity, keys.as_ref())?;
        let subject = identity.subject();
        let facts = Facts {
            stage: Stage::Begun.into(),
            cluster_id: Bytes::copy_from_slice(subject.cluster.as_bytes()),
            node_id: Bytes::copy_from_slice(subject.node_id.as_bytes()),
            store_id: Bytes::copy_from_slice(random(StoreId::from_bytes)?.as_bytes()),
            seed: random_seed()?,
            sealing: random_seed()?,
            ..Facts::default()
        };
        facts.save(&*store.meta)?;
        Ok(facts)
    }

    fn finish_rejoin(&self, mut facts: Facts, done: api::RejoinDone) -> Result<Prepared, StartError> {
        let store = open_store(&self.layout())?;
        facts.raft_id = done.raft_id;
        facts.lineage = done.lineage;
        facts.name = done.name;
        facts.listen = if self.listen.is_some() {
            self.addresses()?.0
        } else {
            // As before, unless it has moved.
            let before = Noted::read(&self.layout()).filter(|_| self.advertise.is_none());
            before.map_or_else(|| done.advertise.clone(), |noted| noted.listen)
        };
        facts.advertise = done.advertise;
        facts.managers = done
            .managers
            .into_iter()
            .map(|known| KnownManager { raft_id: known.raft_id, node_id: known.node_id, addresses: known.addresses })
            .collect();
        facts.stage = Stage::Ready.into();
        facts.save(&*store.meta)?;
        Ok(prepared(&facts, None))
    }
}
