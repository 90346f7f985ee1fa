//! Leases: what keys live by, as long as somebody renews it.
//!
//! Owns the friendly shape of grants, renewals and revocations, and the keeper, which renews in the background and says when
//! the lease may be over. Never decides that a lease has ended: the managers do. Called by embedders, the command line, and
//! by locks and elections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::command::{LeaseOrder, LeaseOrderKind, Request};
use quorate_core::txn::{OpResultKind, TxnResult};
use quorate_transport::api::{self, request, response};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Client, unexpected};
use crate::error::{Error, Result};

/// A lease is renewed when so much of its time to live is over.
const RENEW_AT: u32 = 3;
/// Between two attempts to renew that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the revocation of a lease that was let go may take, in the background.
const FAREWELL: Duration = Duration::from_secs(5);

/// Leases of the cluster.
///
/// ```no_run
/// # use std::time::Duration;
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let lease = client.leases().grant(Duration::from_secs(10)).await?;
/// client.kv().put("services/web/1", "10.0.0.7:80").lease(lease.id()).await?;
/// let keeper = lease.keep(); // renews in the background
/// keeper.lost().await; // the key is gone, or may be soon: register anew
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Leases {
    client: Client,
}

/// A lease that was granted, or is known by its id.
///
/// It ends so long after its last renewal as it was granted for, and never before: also over changes of leader, pauses, and
/// clocks that are set. A little later is possible: a new leader begins every lease anew, since it does not know of the
/// renewals before it. With it go all keys that are attached to it, in one revision.
///
/// Dropping this does nothing: the lease runs out if nobody renews it.
#[derive(Debug, Clone)]
pub struct Lease {
    client: Client,
    id: u64,
    ttl: Duration,
    /// It holds at least until then.
    until: Instant,
}

/// A lease as the managers know it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseInfo {
    /// Its id; never given out twice.
    pub id: u64,
    /// It ends so long after its last renewal, and not before.
    pub ttl: Duration,
    /// How much of that is left by the leader's count.
    pub left: Duration,
    /// How many keys are attached to it.
    pub keys: u64,
    /// Bytes of these keys and of what is stored under them: what the limit `LEASE_BYTES_MAX` counts.
    pub bytes: u64,
}

impl From<api::LeaseInfo> for LeaseInfo {
    fn from(info: api::LeaseInfo) -> Self {
        let millis = Duration::from_millis;
        Self {
            id: info.lease,
            ttl: millis(info.ttl_ms),
            left: millis(info.left_ms),
            keys: info.keys,
            bytes: info.bytes,
        }
    }
}

impl Leases {
    pub(super) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Grants a lease that ends `ttl` after its last renewal; whole milliseconds, from a second to a year.
    ///
    /// Done once however often it must be sent.
    ///
    /// Cancel safe: when the future is dropped, or fails as [`Error::Unknown`], a lease may have been granted that nobody knows: it
    /// runs out by itself.
    ///
    /// # Errors
    /// `Limit` when `ttl` is out of range or there are too many leases; see [`Error`].
    pub async fn grant(&self, ttl: Duration) -> Result<Lease> {
        let sent = Instant::now();
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let result = self.order(LeaseOrderKind::Grant(ttl_ms)).await?;
        let ttl = Duration::from_millis(ttl_ms);
        Ok(Lease { client: self.client.clone(), id: result.lease, ttl, until: sent + ttl })
    }

    /// Renews a lease: it goes on for its whole time to live from now on. Answers that time.
    ///
    /// Cancel safe: when the future is dropped, or fails, the lease may have been renewed or not.
    ///
    /// # Errors
    /// `LeaseNotFound` when it has ended: it is never renewed after that. See [`Error`].
    pub async fn keep_alive(&self, lease: u64) -> Result<Duration> {
        let kind = request::Kind::LeaseKeepAlive(api::LeaseKeepAlive { lease });
        let response::Kind::LeaseKeepAlive(done) = self.client.ask(kind).await? else { return Err(unexpected()) };
        Ok(Duration::from_millis(done.ttl_ms))
    }

    /// Ends a lease, and removes all keys attached to it in one revision; how many there were.
    ///
    /// Done once however often it must be sent.
    ///
    /// Cancel safe: when the future is dropped it may have been done or not.
    ///
    /// # Errors
    /// `LeaseNotFound` when it has ended already. See [`Error`].
    pub async fn revoke(&self, lease: u64) -> Result<u64> {
        let result = self.order(LeaseOrderKind::Revoke(lease)).await?;
        Ok(result.results.first().map_or(0, |result| match &result.kind {
            Some(OpResultKind::Delete(delete)) => delete.deleted,
            Some(OpResultKind::Put(_) | OpResultKind::Range(_)) | None => 0,
        }))
    }

    /// Every lease, in ascending order of ids. Read a page at a time: what is granted or ends meanwhile may be there or not.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list(&self) -> Result<Vec<LeaseInfo>> {
        let mut leases: Vec<LeaseInfo> = Vec::new();
        loop {
            let after = leases.last().map_or(0, |last| last.id);
            let kind = request::Kind::LeaseList(api::LeaseList { after, limit: 0 });
            let response::Kind::LeaseList(done) = self.client.ask(kind).await? else { return Err(unexpected()) };
            leases.extend(done.leases.into_iter().map(LeaseInfo::from));
            if !done.more {
                return Ok(leases);
            }
        }
    }

    /// One lease and the keys attached to it, in ascending order.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// `LeaseNotFound` when there is none with this id. See [`Error`].
    pub async fn show(&self, lease: u64) -> Result<(LeaseInfo, Vec<Bytes>)> {
        let mut keys: Vec<Bytes> = Vec::new();
        loop {
            let after = keys.last().cloned().unwrap_or_default();
            let kind = request::Kind::LeaseShow(api::LeaseShow { lease, after });
            let response::Kind::LeaseShow(done) = self.client.ask(kind).await? else { return Err(unexpected()) };
            keys.extend(done.keys);
            if !done.more {
                return Ok((done.lease.ok_or_else(unexpected)?.into(), keys));
            }
        }
    }

    async fn order(&self, kind: LeaseOrderKind) -> Result<TxnResult> {
        let fence = self.client.fence.map(|term| term.0);
        let answer = self.client.once(|open| {
            let request = Request {
                client: Bytes::copy_from_slice(open.id.client.as_bytes()),
                sequence: open.id.sequence,
                low_water: open.low_water,
                born: open.born,
                lease: Some(LeaseOrder { kind: Some(kind.clone()), fence }),
                ..Request::default()
            };
            request::Kind::LeaseWrite(api::LeaseWrite { request: request.encode_to_vec().into() })
        });
        let response::Kind::LeaseWrite(done) = answer.await? else { return Err(unexpected()) };
        TxnResult::decode(done.result).map_err(|error| Error::Internal(format!("the answer cannot be read: {error}")))
    }
}

impl Lease {
    /// What keys are attached to.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// It ends so long after its last renewal, and not before.
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Renews it once; see [`Leases::keep_alive`].
    ///
    /// Cancel safe: dropped before the answer, it may have been renewed or not.
    ///
    /// # Errors
    /// `LeaseNotFound` when it has ended. See [`Error`].
    pub async fn keep_alive(&mut self) -> Result<()> {
        let sent = Instant::now();
        self.ttl = self.client.leases().keep_alive(self.id).await?;
        self.until = sent + self.ttl;
        Ok(())
    }

    /// Ends it, with its keys; see [`Leases::revoke`].
    ///
    /// Cancel safe: dropped before the answer, it may have ended or not; what is left of it runs out.
    ///
    /// # Errors
    /// `LeaseNotFound` when it has ended already. See [`Error`].
    pub async fn revoke(self) -> Result<u64> {
        self.client.leases().revoke(self.id).await
    }

    /// Renews it in the background, each time a third of its time to live is over, until the keeper is dropped or the lease is
    /// lost. Runs on the tokio runtime that calls this; without one it is not renewed, and told as lost at once.
    #[must_use = "the lease is renewed only while the keeper lives"]
    pub fn keep(self) -> LeaseKeeper {
        let (id, ttl) = (self.id, self.ttl);
        let (sender, state) = watch::channel(State::Held(self.until));
        let (hand, released) = watch::channel(Release::No);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(keep(self, sender, released));
        }
        LeaseKeeper { id, ttl, state, hand: Arc::new(hand) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It holds at least until then.
    Held(Instant),
    /// It has ended, or may have.
    Lost,
}

/// What the task is to do when nobody holds the keeper any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    No,
    Revoke,
}

/// Renews a lease in the background; clones are of the same one. When the last is dropped the lease is no longer renewed,
/// and runs out.
///
/// It counts conservatively: the lease is taken for lost once its whole time to live is over since the last renewal that
/// succeeded was *sent*, by this machine's monotonic clock. The managers end it later than that, never before.
#[derive(Debug, Clone)]
pub struct LeaseKeeper {
    id: u64,
    ttl: Duration,
    state: watch::Receiver<State>,
    hand: Arc<watch::Sender<Release>>,
}

impl LeaseKeeper {
    /// The lease.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Its time to live.
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// How long the lease holds at least from now on; zero once it is lost.
    pub fn remaining(&self) -> Duration {
        match *self.state.borrow() {
            State::Held(until) => until.saturating_duration_since(Instant::now()),
            State::Lost => Duration::ZERO,
        }
    }

    /// Whether the lease holds now. A moment later it may not: what must not be done without it needs a condition on the
    /// write itself.
    pub fn is_held(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Waits until the lease is lost: it has ended, or its time may be over because it could not be renewed.
    ///
    /// Cancel safe.
    pub async fn lost(&self) {
        let mut state = self.state.clone();
        loop {
            let State::Held(until) = *state.borrow_and_update() else { return };
            tokio::select! {
                changed = state.changed() => {
                    if changed.is_err() {
                        // Nobody renews it any more: it is held until its time is over, as `remaining` says.
                        return sleep_until(until).await;
                    }
                }
                // Also when the task that renews does not get to run.
                () = sleep_until(until) => {
                    let now = Instant::now();
                    if matches!(*state.borrow(), State::Held(until) if until <= now) {
                        return;
                    }
                }
            }
        }
    }

    /// There is nothing left to revoke.
    pub(super) fn has_ended(&self) {
        self.hand.send_replace(Release::No);
    }

    /// When the last clone is dropped the lease is revoked, in the background, instead of running out.
    pub(super) fn revoke_when_dropped(&self) {
        self.hand.send_replace(Release::Revoke);
    }
}

/// Renews until the lease is lost or nobody holds a keeper.
async fn keep(lease: Lease, state: watch::Sender<State>, mut released: watch::Receiver<Release>) {
    let Lease { client, id, mut ttl, mut until } = lease;
    let mut next = until.checked_sub(ttl - ttl / RENEW_AT).unwrap_or_else(Instant::now);
    loop {
        tokio::select! {
            () = all_let_go(&mut released) => break,
            () = sleep_until(next) => {}
        }
        let sent = Instant::now();
        // A fresh question now and then: what counts is when the one that succeeds was sent.
        let patience = (ttl / RENEW_AT).min(until.saturating_duration_since(sent));
        let renewing = client.with_deadline(patience).leases();
        let renewed = tokio::select! {
            () = all_let_go(&mut released) => break,
            renewed = timeout_at(until, renewing.keep_alive(id)) => renewed,
        };
        match renewed {
            Ok(Ok(still)) => {
                (ttl, until) = (still, sent + still);
                next = sent + ttl / RENEW_AT;
                state.send_replace(State::Held(until));
            }
            Ok(Err(Error::LeaseNotFound { .. })) => {
                state.send_replace(State::Lost);
                return;
            }
            Ok(Err(error)) => {
                tracing::debug!(lease = id, %error, "a lease is renewed later");
                next = Instant::now() + PAUSE;
            }
            Err(_elapsed) => next = until,
        }
        if Instant::now() >= until {
            tracing::warn!(lease = id, "a lease could not be renewed in time and is taken for lost");
            state.send_replace(State::Lost);
            return;
        }
    }
    if *released.borrow() == Release::Revoke {
        // Best effort: otherwise it runs out.
        let _ = client.with_deadline(FAREWELL).leases().revoke(id).await;
    }
}

/// Waits until the last keeper is dropped.
async fn all_let_go(released: &mut watch::Receiver<Release>) {
    while released.changed().await.is_ok() {}
}
