//! The settings of the whole cluster, as an operator sees them.
//!
//! Owns the builder only; what may be set is the managers' decision. Called by embedders and the command line.

use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use quorate_transport::api::{self, request};

use super::Client;
use crate::error::Result;
use crate::membership::{PolicyInfo, Timing};

/// The policy: one for the whole cluster, changed by one replicated write.
#[derive(Debug, Clone)]
pub struct Policy {
    client: Client,
}

impl Policy {
    pub(super) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// What is in force.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    pub async fn show(&self) -> Result<PolicyInfo> {
        self.client.document(request::Kind::PolicyShow(api::PolicyShow {})).await
    }

    /// Changes some of it; what is not named stays. Answers what is in force then.
    pub fn set(&self) -> PolicyChange {
        PolicyChange { client: self.client.clone(), set: api::PolicySet::default() }
    }
}

fn millis(time: Duration) -> Option<u64> {
    Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// A change of the policy, being put together; await it to send it.
#[derive(Debug, Clone)]
#[must_use = "nothing is sent until it is awaited"]
pub struct PolicyChange {
    client: Client,
    set: api::PolicySet,
}

impl PolicyChange {
    /// Most voters: 3, 5, 7 or 9; anything else is refused as `EvenMaxVoters`.
    pub const fn max_voters(mut self, max: u32) -> Self {
        self.set.max_voters = Some(max);
        self
    }

    /// Silence after which a voter is replaced; at least ten base election timeouts.
    pub fn lost_after(mut self, time: Duration) -> Self {
        self.set.lost_after_ms = millis(time);
        self
    }

    /// Time without a standby after which an eligible worker is promoted.
    pub fn promote_after(mut self, time: Duration) -> Self {
        self.set.promote_after_ms = millis(time);
        self
    }

    /// How long a standby must be connected and caught up before it gets a seat.
    pub fn stable(mut self, time: Duration) -> Self {
        self.set.stable_ms = millis(time);
        self
    }

    /// Whether lost voters are replaced.
    pub const fn auto_replace(mut self, on: bool) -> Self {
        self.set.auto_replace = Some(on);
        self
    }

    /// What the store may hold, bytes: live records, and history that can still be read. Over it, writes are refused as
    /// [`Error::StoreFull`](crate::Error::StoreFull) and deletes go on; at least 16 MiB.
    pub const fn store_quota(mut self, bytes: u64) -> Self {
        self.set.store_quota_bytes = Some(bytes);
        self
    }

    /// How many revisions can still be read, and watched from, when they are no longer the newest; at least one.
    pub const fn history_revisions(mut self, revisions: u64) -> Self {
        self.set.history_revisions = Some(revisions);
        self
    }

    /// For how long they can. Whichever of the two comes first.
    pub fn history_age(mut self, age: Duration) -> Self {
        self.set.history_ms = millis(age);
        self
    }

    /// How long a tick is, on every manager. Taken up without an election.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.set.tick_micros = Some(u64::try_from(timing.tick().as_micros()).unwrap_or(u64::MAX));
        self
    }
}

impl IntoFuture for PolicyChange {
    type Output = Result<PolicyInfo>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let wrap = |once| request::Kind::PolicySet(api::PolicySet { once, ..self.set.clone() });
            self.client.wished(wrap).await
        })
    }
}
