//! Work that runs only while this node leads.
//!
//! Owns the embedder's side of the leadership lease (design section 4, rule 8): the work begins when everything
//! committed before is applied, and its future is dropped when the lease ends. Without pauses and clock faults no other
//! node leads meanwhile; with them only the fencing token is exclusive, and every write of the lead's client carries it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use quorate_core::consensus::io::{Lease, Status};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::Result;

/// One leadership.
#[derive(Debug, Clone)]
pub struct Lead {
    token: u64,
    client: Client,
}

impl Lead {
    /// The fencing token: the Raft term of this leadership, unique and ordered.
    pub const fn fencing_token(&self) -> u64 {
        self.token
    }

    /// A client whose writes are refused once another leadership has begun.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Hands this leadership over, to `to` (name, node id or raft id) or to the voter that is furthest; answers the name of
    /// who leads then. This work's future is dropped as soon as the lease has ended: call it last.
    ///
    /// Cancel safe: dropped before the answer, it may have been handed over or not.
    ///
    /// # Errors
    /// `Fenced` when this leadership is over already; `Refused` with the reason when it cannot be handed over: the leader
    /// stays, and so does this lease.
    pub async fn hand_over(&self, to: Option<&str>) -> Result<String> {
        self.client.transfer_leadership(to).await
    }
}

/// Watches the lease on the consensus task's own clock.
pub(super) struct LeaseWatch {
    pub(super) status: watch::Receiver<Arc<Status>>,
    /// The start of that clock.
    pub(super) began: Instant,
}

impl LeaseWatch {
    fn current(&mut self) -> Option<(Lease, Instant)> {
        // The clock is read while nobody can publish: a lease that is over here is over for whoever renews it, who then wakes
        // this watch (`Effect::Status` in `tasks`).
        let told = self.status.borrow_and_update();
        let lease = told.lease?;
        let until = self.began + Duration::from_nanos(lease.until.0);
        (until > Instant::now()).then_some((lease, until))
    }

    /// The term of the leadership that holds now.
    #[cfg(feature = "testing")]
    pub(super) fn term(mut self) -> Option<u64> {
        self.current().map(|(lease, _)| lease.term.0)
    }

    /// Waits for a leadership; `None` when the node has stopped.
    async fn begin(&mut self) -> Option<Lease> {
        loop {
            // The last word of a node that is gone may be a leadership that would hold for a while yet.
            self.status.has_changed().ok()?;
            if let Some((lease, _)) = self.current() {
                return Some(lease);
            }
            self.status.changed().await.ok()?;
        }
    }

    /// Waits until the leadership of this term is over.
    async fn end(&mut self, term: Lease) {
        while let Some((lease, until)) = self.current() {
            if lease.term != term.term {
                return;
            }
            tokio::select! {
                changed = self.status.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
}

/// Runs `work` in every leadership of this node, until it returns or the node stops.
pub(super) async fn lead<F, Fut, T>(mut watch: LeaseWatch, client: Client, mut work: F) -> Option<T>
where
    F: FnMut(Lead) -> Fut,
    Fut: Future<Output = T>,
{
    loop {
        let lease = watch.begin().await?;
        let lead = Lead { token: lease.term.0, client: client.with_fence(lease.term.0) };
        tokio::select! {
            biased;
            () = watch.end(lease) => {}
            done = work(lead) => return Some(done),
        }
    }
}
