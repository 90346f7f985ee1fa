//! A node that its cluster has left behind comes back: with a fresh store and a token, under a new raft id.
//!
//! Owns the newcomer's side for managers that are lost, fenced, removed or wiped (design section 5), and for workers that
//! were removed: the node keeps its id and its key, its old store is moved aside and never deleted, and the join plane takes
//! it in as it takes a newcomer. A manager whose key is lost, and its own key with it, gets another one: a manager's token
//! is the word of somebody who may say so. A store in good standing is never moved: that is asked first, of a quorum. A node that was away
//! while the CA was replaced only gets a certificate of the new one, by proof of its key: the token says which CA that is. The
//! managers' side is the answer to that question; the rest of it is in [`super::joining`].

use bytes::Bytes;
use quorate_core::id::{Lineage, LineageOrder, NodeId, RaftId, StoreId};
use quorate_core::ports::StoreError;
use quorate_transport::{
    CertRole, Identity, JoinError, JoinRefused, JoinReply, JoinRequest, JoinToken, KeyPair, NodeStanding,
    StandingRecord,
};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::builder::{NodeBuilder, Prepared, off_thread, random, random_seed};
use super::departed;
use super::directory::{belongs, explained, look_into};
use super::enrolling::certify;
use super::facts::{Facts, Layout, Stage, wiped};
use super::fence::FenceRecord;
use super::founding::prepared;
use super::joining::words;
use super::newcomer::{As, NotTaken, finish_join, prepared_of};
use super::noted::Noted;
use super::own_identity::{self, Own};
use super::service::{Service, display_name};
use super::spent::Mark;
use super::state_file::StateFile;
use super::stop::StartError;
use crate::client::SOFTWARE;

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

impl Service {
    /// How the cluster counts on the node that asks, by everything that was acknowledged before. Writes nothing.
    pub(super) async fn how_it_stands(&self, request: &JoinRequest, until: Instant) -> Result<JoinReply, JoinRefused> {
        self.router.read_index(until).await.map_err(words)?;
        let seen = self.seen(request.node_id).await.map_err(words)?;
        let ca = seen.ca.as_ref().ok_or_else(|| JoinRefused::Other("the cluster has no CA".into()))?;
        let signed = certify(ca, &request.csr, request.node_id, (CertRole::Worker, None), self.certificates);
        let (_, digest) = signed.map_err(JoinRefused::Malformed)?;
        let record = match &seen.node {
            Some((record, _)) if record.key_digest != digest.as_slice() => {
                return Err(JoinRefused::AlreadyKnown(format!("{} is known with another key", display_name(record))));
            }
            Some((record, _)) => {
                let raft_id = record.raft().unwrap_or_default();
                Some(StandingRecord { raft_id, store_id: record.store(), lost: record.lost })
            }
            None => None,
        };
        Ok(JoinReply::Standing(NodeStanding { lineage: self.lineage(), record }))
    }
}

/// Whether the cluster has left behind what is sound in a directory; else why it is not moved, and what to do.
fn is_left_behind(facts: &Facts, ours: &Lineage, standing: &NodeStanding) -> Result<(), String> {
    let is_worker = facts.raft_id == 0;
    match ours.compare(&standing.lineage) {
        // A worker goes over to the newer incarnation by itself.
        LineageOrder::Older if is_worker => {}
        LineageOrder::Older => return Ok(()),
        LineageOrder::Newer => {
            return Err(format!(
                "of generation {}; the managers that were asked are of generation {}, which that one has ended: it is they who were left behind. Nothing was changed; run it with `quorate run`",
                ours.generation(),
                standing.lineage.generation()
            ));
        }
        LineageOrder::Equal | LineageOrder::Forked => {}
    }
    let Some(record) = standing.record else { return Ok(()) };
    if is_worker {
        return Err(
            "it is of the cluster, in good standing: there is nothing to replace. Nothing was changed; run it with `quorate run`".into(),
        );
    }
    if record.lost {
        return Ok(());
    }
    if record.raft_id == RaftId(0) {
        return Err(
            "the node is a worker now, or on its way to be a manager under another raft id: it gives its store up by itself. Nothing was changed; run it with `quorate run`".into(),
        );
    }
    let bound = record.store_id.is_none_or(|store| store == facts.store());
    if record.raft_id == facts.raft() && bound {
        return Err(format!(
            "the cluster counts on it as raft id {}: there is nothing to replace. Nothing was changed; run it with `quorate run`",
            facts.raft_id
        ));
    }
    Ok(())
}

impl NodeBuilder {
    /// Brings a node back that its cluster has left behind: a manager that is lost or fenced by a recovery, or whose store is
    /// damaged or gone, and any node that was removed. Its old store is moved aside (never deleted), and the node joins with
    /// `token` under a new raft id, keeping its node id, name and address. One that was away while the CA was replaced, and is
    /// sound otherwise, keeps all that it has, and gets a certificate of the CA that the token names. `managers` are
    /// `host:port`.
    ///
    /// Not cancel safe: dropped half-way, the same call goes on where it stopped.
    ///
    /// # Errors
    /// `Directory` when there is no identity, or the node is in good standing; `Refused` or `Unavailable` from the managers,
    /// also when no quorum says how the node stands. Nothing was changed then.
    pub async fn replace(self, token: &str, managers: Vec<String>) -> Result<Prepared, StartError> {
        let token: JoinToken =
            token.trim().parse().map_err(|error| StartError::Invalid(format!("{error}. Nothing was changed")))?;
        if managers.is_empty() {
            return Err(StartError::Invalid("name at least one manager to join through, as host:port".into()));
        }
        let builder = self.clone();
        let (mut own, found) = off_thread(move || builder.find()).await?;
        if !own.shown().knows(token.ca_hash()) {
            let identity = match own {
                Own::Proven(identity) => identity,
                Own::Sealed(shown, _) => {
                    return Err(self.contradiction(
                        shown.subject(),
                        "; or, if its cluster's CA was replaced while it was away, its key, which is lost, would have to prove that it is of it: quorate node rm on a manager, and quorate join from an empty directory",
                    ));
                }
            };
            own = Own::Proven(self.under_new_ca(identity, &found, &token, &managers).await?);
            let as_it_was = match &found {
                Found::Sound(facts, _) => Some(prepared(facts, None)),
                Found::Worker(file) => Some(prepared_of(file)),
                // Its store is to be replaced all the same.
                Found::Begun(_) | Found::Spent(_) => None,
            };
            if let Some(prepared) = as_it_was {
                return Ok(Prepared { certificate_only: true, ..prepared });
            }
        }
        // (Of one that cannot prove who it is nothing is sound.)
        if let Own::Proven(identity) = &own {
            match &found {
                Found::Sound(facts, lineage) => {
                    self.check_left_behind(identity, facts, lineage, &token, &managers).await?;
                }
                Found::Worker(file) => {
                    let facts = &file.facts;
                    self.check_left_behind(identity, facts, &facts.lineage_list(), &token, &managers).await?;
                }
                Found::Begun(_) | Found::Spent(_) => {}
            }
        }
        let begun = matches!(found, Found::Begun(_));
        let before = if let Found::Worker(file) = &found { Some(file.clone()) } else { None };
        let asks_as = if matches!(own, Own::Proven(_)) { As::Itself } else { As::WithoutItsKey };
        let builder = self.clone();
        let file = off_thread(move || builder.begin_anew(&own, found)).await?;
        let joined = match self.ask_to_join(&file, &token, &managers, asks_as).await {
            Ok(joined) => joined,
            Err(NotTaken::Surely(error)) if !begun => {
                let layout = self.layout();
                off_thread(move || match before {
                    Some(before) => before.save(&layout),
                    None => StateFile::remove(&layout),
                })
                .await?;
                return Err(error);
            }
            Err(error) => return Err(error.into()),
        };
        off_thread(move || {
            let layout = self.layout();
            // Only now: until the cluster has taken the node in, everything is where it was.
            if layout.store().exists() {
                self.move_store_aside(&layout)?;
            }
            departed::forget(&layout);
            finish_join(&layout, file, joined)
        })
        .await
    }

    /// Of a token whose CA the node has never heard of: either another cluster's, which has no record of the node and no say about
    /// its store, or its own cluster's, whose CA was replaced while it was away. That one knows it by its key, and gives it a
    /// certificate for what it is.
    async fn under_new_ca(
        &self,
        identity: Identity,
        found: &Found,
        token: &JoinToken,
        managers: &[String],
    ) -> Result<Identity, StartError> {
        let csr = identity.key().csr().map_err(|error| StartError::Internal(error.to_string()))?;
        let (clock, network) = (self.certificates.clock, &self.ground.network);
        let mut request = JoinRequest::renewal(csr, identity.subject().node_id, clock);
        SOFTWARE.clone_into(&mut request.software);
        request.store_id = match found {
            Found::Sound(facts, _) | Found::Spent(Some(facts)) => Some(facts.store()),
            Found::Spent(None) | Found::Begun(_) | Found::Worker(_) => None,
        };
        let asked =
            quorate_transport::renew(managers, &[*token.ca_hash()], request, self.patience, clock, network).await;
        let joined = match asked {
            Ok(joined) if joined.cluster_id == identity.subject().cluster => joined,
            Ok(_) | Err(JoinError::Refused(JoinRefused::NotAMember)) => {
                return Err(self.contradiction(
                    identity.subject(),
                    "; a node that was removed before its cluster's CA was replaced joins anew from an empty directory",
                ));
            }
            Err(error) => return Err(self.not_answered(&error)),
        };
        let authorities = std::iter::once(joined.ca_certificate).chain(joined.authorities).map(Into::into).collect();
        let renewed = identity.renewed_under(joined.certificate.into(), authorities);
        let renewed = renewed.map_err(|error| StartError::Internal(error.to_string()))?;
        let layout = self.layout();
        off_thread(move || {
            own_identity::write(&layout, &renewed)?;
            tracing::info!("the node has a certificate of its cluster's new CA");
            Ok(renewed)
        })
        .await
    }

    /// Who this is, and what there is to replace. One whose own key cannot be opened has nothing that is sound.
    fn find(&self) -> Result<(Own, Found), StartError> {
        let layout = self.layout();
        let own = Own::load(
            &layout,
            "the node cannot come back as itself: join anew with `quorate join` from an empty directory, under another name, or, if it was a worker, under its own with `quorate join --replace --name NAME --token TOKEN`",
        )?;
        let found = self.found(&layout, &own)?;
        match (own, found) {
            (Own::Sealed(_, why), _) if !self.key_lost => Err(why),
            (own @ Own::Sealed(..), Found::Sound(facts, _)) => {
                self.nobody_waits_for_the_key()?;
                Ok((own, Found::Spent(Some(facts))))
            }
            (own, found) => Ok((own, found)),
        }
    }

    fn found(&self, layout: &Layout, own: &Own) -> Result<Found, StartError> {
        if let Some(file) = StateFile::load(layout)? {
            let ours = file.facts.node() == own.shown().subject().node_id
                && match own {
                    Own::Proven(identity) => file.joining_key == identity.key().pkcs8_der(),
                    Own::Sealed(..) => true,
                };
            return match file.facts.is_ready() {
                false if ours => Ok(Found::Begun(Box::new(file))),
                true if file.facts.raft_id == 0 && matches!(own, Own::Proven(_)) => Ok(Found::Worker(Box::new(file))),
                _ => Err(StartError::Directory(format!(
                    "{} is between two states. Nothing was changed; finish the join that was begun, or `quorate run` it, which goes on from there",
                    self.directory.display()
                ))),
            };
        }
        let store = layout.store();
        if !quorate_storage::exists(&store) {
            // Gone, or an earlier call was stopped right after it had moved it: what it said of the node still counts.
            return Ok(Found::Spent(self.facts_aside()));
        }
        let store = match look_into(layout, &store) {
            Ok(store) => store,
            Err(StoreError::Corrupt { .. } | StoreError::NotFound { .. }) => return Ok(Found::Spent(None)),
            Err(StoreError::KeyWanted { .. }) if self.key_lost => {
                self.nobody_waits_for_the_key()?;
                return Ok(Found::Spent(None));
            }
            // Not damage: a newer format, a missing right, a node that runs.
            Err(error) => return Err(explained(layout, error)),
        };
        let Ok(Some(facts)) = store.fact(Facts::NAME).and_then(Facts::read) else {
            return Ok(Found::Spent(None));
        };
        if !facts.is_ready() {
            return Ok(Found::Spent(Some(facts)));
        }
        belongs(layout, own.shown().subject(), &facts)?;
        let fenced = FenceRecord::read(store.fact(FenceRecord::NAME)?)?.is_some();
        if fenced || Mark::read(|name| store.fact(name), &facts)?.is_some() {
            return Ok(Found::Spent(Some(facts)));
        }
        match super::inspect::lineage(&facts, &*store.state) {
            Ok(lineage) => Ok(Found::Sound(facts, lineage)),
            // An opening does not notice every damage.
            Err(StoreError::Corrupt { .. }) => Ok(Found::Spent(Some(facts))),
            Err(error) => Err(error.into()),
        }
    }

    /// What the store that was moved aside last says of the node, if it can be read.
    fn facts_aside(&self) -> Option<Facts> {
        let aside = self.newest_aside()?;
        let store = look_into(&self.layout(), &aside).ok()?;
        Facts::read(store.fact(Facts::NAME).ok()?).ok()?
    }

    /// What is sound is replaced only when the cluster itself has left it behind. What one manager knows is no answer: it may
    /// lag. A quorum confirms what is answered here, and no certificate is needed to ask.
    async fn check_left_behind(
        &self,
        identity: &Identity,
        facts: &Facts,
        lineage: &Lineage,
        token: &JoinToken,
        managers: &[String],
    ) -> Result<(), StartError> {
        let csr = identity.key().csr().map_err(|error| StartError::Internal(error.to_string()))?;
        let node = identity.subject().node_id;
        let (ca, clock, network) = (*token.ca_hash(), self.certificates.clock, &self.ground.network);
        let asked = quorate_transport::standing(managers, ca, csr, node, self.patience, clock, network).await;
        let standing = asked.map_err(|error| self.not_answered(&error))?;
        let what = if facts.raft_id == 0 { "worker" } else { "store" };
        is_left_behind(facts, lineage, &standing).map_err(|why| {
            StartError::Directory(format!("the {what} in {} is sound, and {why}", self.directory.display()))
        })
    }

    /// Without an answer that a quorum stands behind nothing is moved.
    fn not_answered(&self, error: &JoinError) -> StartError {
        let sound = format!("what is in {} is sound, and nothing was changed", self.directory.display());
        let why = match error {
            JoinError::Refused(refused @ JoinRefused::AlreadyKnown(_)) => {
                return StartError::Refused(format!("{refused}; {sound}"));
            }
            JoinError::Connect(error) if !error.is_retryable() => {
                return StartError::Refused(format!("{error}; {sound}"));
            }
            JoinError::Refused(refused) => refused.to_string(),
            JoinError::Unknown(why) => format!("no answer ({why})"),
            JoinError::Connect(_) | JoinError::BadReply(_) => error.to_string(),
        };
        StartError::Unavailable(format!(
            "{why}. Whether the cluster has left this node behind is not known: {sound}. Ask again when the cluster has a leader, or name other managers"
        ))
    }

    /// Begins anew beside what is there, under the node's own id and key; under another key where that one is lost.
    fn begin_anew(&self, own: &Own, found: Found) -> Result<StateFile, StartError> {
        let old = match found {
            Found::Begun(file) => return Ok(*file),
            Found::Spent(facts) => facts,
            Found::Sound(facts, _) => Some(facts),
            Found::Worker(file) => Some(file.facts),
        };
        let layout = self.layout();
        let node = own.shown().subject().node_id;
        // Of a store that cannot be opened only what lies beside it in clear is known.
        // And one that was begun by certificate, and never came to its end, has none of it yet.
        let of_store = old.as_ref().map(Noted::of).filter(|old| !old.listen.is_empty());
        let old = of_store.or_else(|| Noted::read(&layout));
        let (listen, advertise) = match &old {
            Some(old) if self.listen.is_none() && self.advertise.is_none() => {
                (old.listen.clone(), old.advertise.clone())
            }
            Some(old) if self.listen.is_none() => (old.listen.clone(), self.addresses()?.1),
            None if self.listen.is_none() => {
                return Err(StartError::Invalid(format!(
                    "where this node listens is not known any more: its store cannot be read, and {} is not there. Nothing was changed; say it with --listen HOST:PORT",
                    layout.listen().display()
                )));
            }
            Some(_) | None => self.addresses()?,
        };
        // A removal takes the name out of the records: then only its own directory knows it.
        let told = || departed(layout.root()).map(|mark| mark.name).unwrap_or_default();
        let is_name = |name: &String| !name.is_empty() && *name != node.to_string();
        let name = old.map(|old| old.name).filter(is_name).or_else(|| Some(told()).filter(is_name));
        let facts = Facts {
            stage: Stage::Begun.into(),
            node_id: Bytes::copy_from_slice(NodeId::as_bytes(&node)),
            store_id: Bytes::copy_from_slice(random(StoreId::from_bytes)?.as_bytes()),
            name: name.unwrap_or_default(),
            listen,
            advertise,
            seed: random_seed()?,
            sealing: random_seed()?,
            ..Facts::default()
        };
        let key = match own {
            Own::Proven(identity) => Zeroizing::new(identity.key().pkcs8_der().to_vec()),
            Own::Sealed(..) => {
                let fresh = KeyPair::generate().map_err(|error| StartError::Internal(error.to_string()))?;
                Zeroizing::new(fresh.pkcs8_der().to_vec())
            }
        };
        let file = StateFile { facts, joining_key: wiped(key), ..StateFile::default() };
        file.save(&layout)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests;
