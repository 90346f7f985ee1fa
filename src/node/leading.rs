//! Requests that need the leader's view: done here when this manager leads, else by the manager that does.
//!
//! Owns the passing on. Only for requests that may be made twice: whoever asked sends them again when their outcome is
//! unknown. Called by the requests about nodes and policy, and for
//! births.

use std::time::Duration;

use prost::Message as _;
use quorate_core::consensus::io::{RaftRole, Status};
use quorate_core::id::RaftId;
use quorate_core::membership::plan::{SeatPolicy, SeatView};
use quorate_transport::api;
use tokio::time::Instant;

use super::forwarding::read;
use super::gate::Asker;
use super::router::{Failure, fail};
use super::service::Service;

/// Between two attempts while leadership moves.
const PAUSE: Duration = Duration::from_millis(20);

impl Service {
    /// `None`: everything that was acknowledged before is applied here, and this manager leads. Else the leader's answer.
    pub(super) async fn by_the_leader(
        &self,
        asker: &Asker,
        kind: &api::request::Kind,
        until: Instant,
    ) -> Result<Option<api::response::Kind>, Failure> {
        loop {
            self.router.read_index(until).await?;
            let status = self.status.borrow().clone();
            if status.role == Some(RaftRole::Leader) {
                return Ok(None);
            }
            let leader = status.leader.map_or(0, |leader| leader.0);
            let elsewhere = api::Error { leader, ..fail(api::Code::NotLeader, "this manager does not lead") };
            if asker.passed_on {
                return Err(elsewhere);
            }
            let again = match status.leader {
                Some(leader) => match self.ask_manager(asker, leader, kind.clone(), until).await {
                    Err(error) if matches!(error.code(), api::Code::NotLeader | api::Code::Stopping) => error,
                    answered => return answered.map(Some),
                },
                None => elsewhere,
            };
            if Instant::now() + PAUSE >= until {
                return Err(again);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks this manager, for whoever asked here.
    pub(super) async fn ask_manager(
        &self,
        asker: &Asker,
        manager: RaftId,
        kind: api::request::Kind,
        until: Instant,
    ) -> Result<api::response::Kind, Failure> {
        let patience = until.saturating_duration_since(Instant::now());
        let deadline_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let kind = Some(asker.pass_on(kind, deadline_ms));
        let body = api::Request { deadline_ms, kind }.encode_to_vec().into();
        let answered = self.peers.request(manager, body, patience).await;
        read(answered, &format!("{}, which leads,", self.name_of(manager)))
    }

    /// The seats as this manager, which leads, sees them.
    pub(super) fn seat_view(&self, status: &Status, policy: &SeatPolicy) -> SeatView {
        status.seat_view(&self.records.borrow(), policy)
    }

    /// The policy that seats follow.
    pub(super) fn seat_policy(&self) -> Result<SeatPolicy, Failure> {
        let tick_nanos = self.status.borrow().tick.0;
        SeatPolicy::of(&self.records.borrow().cluster, &self.seat_times, tick_nanos)
            .map_err(|error| fail(api::Code::Internal, format!("the cluster's record cannot be used: {error}")))
    }
}
