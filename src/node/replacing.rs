//! A worker whose disk is gone comes back under its old name: another disk takes over the node's record.
//!
//! Owns when that is allowed and what it changes: in the one transaction of the join the record gets the newcomer's key, and
//! loses the label `quorate.manager`: an operator said of the old one, and not of whoever holds a worker's token, that it may
//! be a manager. Nothing else changes. The other labels, availability, assignments and the statuses of items go by the record, and so stay with the name;
//! whoever comes with the old disk has a key that is nobody's any more. Managers never come back this way: a raft id is
//! bound to one store. The newcomer's side is in [`super::newcomer`]. Called by joining.

use bytes::Bytes;
use quorate_core::id::RaftId;
use quorate_core::membership::record::{LABEL_MANAGER, NodeRecord, Role};
use quorate_core::membership::work::{LivenessRecord, Presence};
use quorate_core::txn::Txn;
use quorate_transport::{CertRole, JoinRefused, JoinReply, JoinRequest};
use tokio::time::Instant;

use super::enrolling::certify;
use super::joining::words;
use super::raft_ids::{self, Attempts};
use super::service::{Service, display_name};
use super::tokens;
use crate::config;

impl Service {
    /// Gives the newcomer the place of the worker whose name it has, or says why not. Asked twice it answers twice the same.
    /// `open`: something was proposed of which nobody can say what became of it.
    pub(super) async fn join_in_place(
        &self,
        request: &JoinRequest,
        address: &str,
        until: Instant,
        open: &mut bool,
    ) -> Result<JoinReply, JoinRefused> {
        let mut attempts = Attempts::until(until);
        while attempts.another().await {
            self.router.read_index(until).await.map_err(words)?;
            let seen = self.seen(request.node_id).await.map_err(words)?;
            // Before anything is said of names: that the bearer has a token at all.
            seen.tokens.pass(&request.secret, true, tokens::unix_now())?;
            let namesake = seen.records.nodes.iter().find(|node| !node.name.is_empty() && node.name == request.name);
            let Some(id) = namesake.and_then(NodeRecord::node_id) else {
                return Err(JoinRefused::Other(format!(
                    "there is no node `{}` whose place could be taken; join without --replace. Nothing was changed",
                    request.name
                )));
            };
            let seen = self.seen(id).await.map_err(words)?;
            let Some((record, revision)) = &seen.node else { continue };
            let ca = seen.ca.as_ref().ok_or_else(|| JoinRefused::Other("the cluster has no CA".into()))?;
            let (certificate, digest) = certify(ca, &request.csr, id, (CertRole::Worker, None), self.certificates)
                .map_err(JoinRefused::Malformed)?;
            let again = record.key_digest == digest.as_slice();
            let pass = seen.tokens.pass(&request.secret, again, tokens::unix_now())?;
            self.may_replace(record, pass.role)?;
            if again {
                return Ok(self.joined(&seen, (id, RaftId(0)), &certificate, address));
            }
            self.is_gone(record)?;
            let mut txn = Txn { compares: pass.compares, then: pass.then, ..Txn::default() };
            txn.compares.push(seen.same_ca());
            let mut node = NodeRecord {
                key_digest: Bytes::copy_from_slice(&digest),
                addresses: vec![address.to_owned()],
                command_version: request.support.newest,
                command_version_min: request.support.oldest,
                software: request.software.clone(),
                ..record.clone()
            };
            // An operator gave it to the node with the other key.
            node.set_label(LABEL_MANAGER.0, None);
            raft_ids::write(&mut txn, id, &node, *revision);
            if self.let_in(txn, until, open).await? {
                tracing::info!(node = display_name(record), "a worker came back with another disk");
                return Ok(self.joined(&seen, (id, RaftId(0)), &certificate, address));
            }
        }
        Err(JoinRefused::Other("too many nodes join at the same time; try again".into()))
    }

    /// Whether what has this name is a worker, and the token one of workers.
    fn may_replace(&self, old: &NodeRecord, role: Role) -> Result<(), JoinRefused> {
        let name = display_name(old);
        if old.raft_id != 0 || old.lost || old.role == i32::from(Role::Manager) {
            return Err(JoinRefused::Other(format!(
                "{name} is a manager, or is to be one, and a worker cannot take its place: if its disk is gone, take it off with `quorate node rm {name}`, and join anew. Nothing was changed"
            )));
        }
        if old.removing {
            return Err(JoinRefused::Other(format!(
                "{name} is being removed; once it is gone, join without --replace. Nothing was changed"
            )));
        }
        if role != Role::Worker {
            return Err(JoinRefused::Other(format!(
                "{name} is a worker, and the token is one of managers; use a worker's (`quorate token show worker`). Nothing was changed"
            )));
        }
        Ok(())
    }

    /// Whether the node is there no more: two must not be one.
    fn is_gone(&self, old: &NodeRecord) -> Result<(), JoinRefused> {
        let presence = self.workers.changes.presence().borrow().clone();
        let recorded = old.node_id().and_then(|id| presence.get(id)).and_then(LivenessRecord::state);
        if recorded != Some(Presence::Ready) {
            return Ok(());
        }
        Err(JoinRefused::Other(format!(
            "{} is running, or was a moment ago: stop it, and join again in {} s. Nothing was changed",
            display_name(old),
            config::WORKER_IDLE.as_secs()
        )))
    }
}
