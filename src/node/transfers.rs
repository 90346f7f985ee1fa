//! Leadership that somebody asks to be handed over.
//!
//! Owns the request: to whom, whose leadership is meant, and that the leader is asked where this manager is none. Called by the
//! service; what happens then is the consensus task's.

use prost::Message as _;
use quorate_core::consensus::io::RaftRole;
use quorate_core::id::RaftId;
use quorate_transport::api::{self, request, response};
use tokio::time::Instant;

use super::gate::Asker;
use super::router::{Failure, fail};
use super::service::Service;

impl Service {
    pub(super) async fn transfer(
        &self,
        asker: &Asker,
        asked: api::Transfer,
        until: Instant,
    ) -> Result<api::TransferDone, Failure> {
        let target = if asked.to.is_empty() { None } else { Some(self.manager_named(&asked.to)?) };
        let status = self.status.borrow().clone();
        if asked.term != 0 && asked.term < status.term.0 {
            return Err(fail(
                api::Code::Fenced,
                format!(
                    "the leadership of term {} is over, term {} has begun. Nothing was changed",
                    asked.term, status.term
                ),
            ));
        }
        if asked.term > status.term.0 && status.role == Some(RaftRole::Leader) {
            return Err(fail(
                api::Code::NoLeader,
                "this manager has not heard of that leadership yet. Nothing was changed",
            ));
        }
        let leader = match self.router.transfer(target, until).await {
            Ok(leader) => leader,
            Err(error) if matches!(error.code(), api::Code::NotLeader) && error.leader != 0 && !asker.passed_on => {
                return self.transfer_elsewhere(asker, RaftId(error.leader), asked, until).await;
            }
            Err(error) if matches!(error.code(), api::Code::NotLeader) => {
                return Err(fail(
                    api::Code::NoLeader,
                    "no manager leads right now: there is no leadership to hand over. Nothing was changed; `quorate status` says what is missing",
                ));
            }
            Err(mut error) => {
                // People know a manager by its name.
                if let Some(id) = target {
                    error.message = error.message.replace(&format!("manager {id} "), &format!("{} ", self.name_of(id)));
                }
                return Err(error);
            }
        };
        tracing::info!(by = %asker, to = self.name_of(leader), "leadership was handed over");
        Ok(api::TransferDone { leader: leader.0, name: self.name_of(leader) })
    }

    async fn transfer_elsewhere(
        &self,
        asker: &Asker,
        leader: RaftId,
        asked: api::Transfer,
        until: Instant,
    ) -> Result<api::TransferDone, Failure> {
        let patience = until.saturating_duration_since(Instant::now());
        let deadline_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let kind = asker.pass_on(request::Kind::Transfer(asked), deadline_ms);
        let body = api::Request { deadline_ms, kind: Some(kind) }.encode_to_vec().into();
        let unknown = |why: String| fail(api::Code::Unknown, format!("{why}; ask `status` who leads"));
        let answer = self.peers.request(leader, body, patience).await.map_err(|error| unknown(error.to_string()))?;
        match api::Response::decode(answer).map(|response| response.kind) {
            Ok(Some(response::Kind::Transfer(done))) => Ok(done),
            Ok(Some(response::Kind::Error(error))) => Err(error),
            Ok(_) => Err(fail(api::Code::Internal, "the leader answered something else than was asked")),
            Err(error) => Err(unknown(error.to_string())),
        }
    }
}
