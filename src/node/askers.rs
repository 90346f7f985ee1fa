//! Who asks.
//!
//! Owns what a connection makes of whoever is at its other end: by its plane, its certificate and the records. What it may do is
//! [`super::authorize`]'s. Called by the service, for each request.

use quorate_core::membership::record::NodeRecord;
use quorate_core::state::read;
use quorate_transport::api::{self, request};
use quorate_transport::{Caller, CertRole, Plane};
use tokio::time::Instant;

use super::gate::{Asker, Who};
use super::operators::PATIENCE;
use super::router::{Failure, fail};
use super::service::{Service, blocking, broken};

impl Service {
    /// Who asks on this node's own socket, or in its own process: an operator, but it is the node itself that leaves.
    pub(crate) fn local_asker(&self, kind: Option<&request::Kind>) -> Asker {
        let leaves = matches!(kind, Some(request::Kind::NodeLeave(_)));
        Asker::here(if leaves { Who::Node(self.facts.node()) } else { Who::Local })
    }

    /// Who has called, by the records.
    pub(super) async fn identify(
        &self,
        caller: &Caller,
        kind: &request::Kind,
        until: Instant,
    ) -> Result<Asker, Failure> {
        let who = match (caller.plane, caller.role) {
            (Plane::Local, _) => return Ok(self.local_asker(Some(kind))),
            (Plane::Peer, _) => {
                self.member(caller, kind, until).await?;
                Who::Manager
            }
            (Plane::Client, CertRole::Operator) => {
                let who = self.operator_asker(caller.node_id, &caller.key_digest, until).await?;
                self.heard_lately(kind)?;
                self.operator_shows(caller.node_id, caller.issuer);
                return Ok(Asker::here(who));
            }
            (Plane::Client, CertRole::Manager | CertRole::Worker) | (Plane::Join, _) => {
                // Its connections are closed when this is known here; a request may be faster.
                if self.records.borrow().nodes.get(caller.node_id).is_some_and(|record| record.compromised) {
                    return Err(no_member());
                }
                Who::Node(caller.node_id)
            }
        };
        Ok(Asker::here(who))
    }

    /// Whether who is on the plane of peers is a manager of this cluster by its record, as it is known here or as it was
    /// acknowledged anywhere: a connection outlives a removal, and a certificate does, too.
    async fn member(&self, caller: &Caller, kind: &request::Kind, until: Instant) -> Result<(), Failure> {
        let fits = |record: &NodeRecord| {
            !record.compromised
                && record.key_digest == caller.key_digest.as_slice()
                && record.raft().is_some()
                && record.raft() == caller.raft_id
        };
        {
            let records = self.records.borrow();
            if records.nodes.is_empty() {
                // A newcomer, who knows nobody yet, leads nothing: nobody who means well passes anything on to it.
                let acts = matches!(kind, request::Kind::Command(_) | request::Kind::PassedOn(_));
                return if acts { Err(no_member()) } else { Ok(()) };
            }
            if records.nodes.get(caller.node_id).is_some_and(fits) {
                return Ok(());
            }
        }
        self.router.read_index(until.min(Instant::now() + PATIENCE)).await?;
        let (reader, id) = (self.store()?.reader, caller.node_id);
        let found = blocking(move || read::node(&*reader.view(), id).map_err(|error| broken(&error))).await?;
        if found.as_ref().is_some_and(fits) { Ok(()) } else { Err(no_member()) }
    }
}

fn no_member() -> Failure {
    let why = "the cluster has no record of this node under this identity: it was removed or demoted, or somebody else may have its keys. Nothing was done";
    fail(api::Code::Denied, why)
}

#[cfg(test)]
#[path = "askers_tests.rs"]
mod tests;
