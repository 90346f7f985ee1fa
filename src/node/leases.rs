//! Leases as managers are asked for them: granted, revoked, kept alive, looked at.
//!
//! Owns the way of these requests to the leader, from whichever manager was asked. Never counts time and never decides:
//! grants and revocations are commands, renewals and remaining times are the machine's ([`quorate_core::consensus`]). Called
//! by the service.

use bytes::Bytes;
use prost::Message as _;
use quorate_core::command::{Command, CommandKind, Request};
use quorate_core::consensus::io::{Answer, Origin};
use quorate_core::id::LeaseId;
use quorate_core::keyspace::Section;
use quorate_core::limits::LEASE_PAGE_MAX;
use quorate_core::state::contract::Refusal;
use quorate_core::state::{LeaseRecord, read};
use quorate_transport::api::{self, request, response};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::forwarding::Errand;
use super::gate::Asker;
use super::router::{Failure, Router, fail, refused};
use super::service::{Service, blocking, broken, whole};
use super::tasks::{Call, Reply};

/// One more renewal does no harm, so it is asked for as often as it takes.
struct Renewal {
    lease: LeaseId,
    asker: Asker,
}

const fn origin(asker: &Asker) -> Origin {
    if asker.passed_on { Origin::Forwarded } else { Origin::Here }
}

impl Errand for Renewal {
    /// The lease's time to live in milliseconds.
    type Done = u64;

    const WHAT: &'static str = "a renewal";

    fn repeatable(&self) -> bool {
        true
    }

    fn call(&self, reply: oneshot::Sender<Reply>) -> Call {
        Call::Renew { lease: self.lease, origin: origin(&self.asker), reply }
    }

    fn done_here(&self, reply: Reply) -> Option<Result<u64, Failure>> {
        match reply {
            Reply::Answer(Answer::Renewed { ttl_ms }) => Some(Ok(ttl_ms)),
            Reply::Answer(Answer::LeaseGone) => Some(Err(refused(&Refusal::LeaseNotFound { lease: self.lease.0 }))),
            Reply::Answer(_) | Reply::Outcome { .. } => None,
        }
    }

    fn request(&self) -> request::Kind {
        let kind = request::Kind::LeaseKeepAlive(api::LeaseKeepAlive { lease: self.lease.0 });
        // How long is waited is said by the request around it.
        self.asker.pass_on(kind, u64::MAX)
    }

    fn done_there(&self, answer: response::Kind) -> Option<Result<u64, Failure>> {
        let response::Kind::LeaseKeepAlive(done) = answer else { return None };
        Some(Ok(done.ttl_ms))
    }
}

impl Router {
    /// Lets a lease go on, here or at the leader; its time to live in milliseconds.
    async fn renew(&self, lease: LeaseId, asker: &Asker, until: Instant) -> Result<u64, Failure> {
        self.run(&Renewal { lease, asker: *asker }, origin(asker), until, &mut None).await.map_err(|error| {
            // Whether it was done changes nothing: the lease then lasts longer than its holder thinks.
            let unknown = matches!(error.code(), api::Code::Unknown);
            if unknown {
                fail(api::Code::Deadline, "no quorum confirmed the renewal within the deadline")
            } else {
                error
            }
        })
    }

    /// The milliseconds that each of these has left, by this manager's count: it must lead.
    async fn lease_times(&self, leases: Vec<LeaseId>, until: Instant) -> Result<Vec<Option<u64>>, Failure> {
        match self.ask(until, |reply| Call::LeaseTimes { leases, reply }).await? {
            Reply::Answer(Answer::LeaseTimes(left)) => Ok(left),
            Reply::Answer(Answer::Refused(rejection)) => Err(self.rejected(&rejection)),
            Reply::Answer(_) | Reply::Outcome { .. } => {
                Err(fail(api::Code::Internal, "a question about leases was answered as something else"))
            }
        }
    }
}

/// A request with an order for a lease.
fn ordered(request: Bytes) -> Result<Request, Failure> {
    let invalid = |what: &str| fail(api::Code::Invalid, format!("{what}. Nothing was changed"));
    let request: Request = whole(request, "the order for a lease")?;
    if request.id().is_none() || request.sequence == 0 {
        return Err(invalid("the order for a lease carries no request id"));
    }
    if request.txn.is_some() || request.lease.is_none() {
        return Err(invalid("the request carries no order for a lease"));
    }
    Ok(request)
}

fn info(lease: LeaseId, record: LeaseRecord, left_ms: Option<u64>) -> api::LeaseInfo {
    // A lease granted a moment ago may not have come to the count yet.
    let left_ms = left_ms.unwrap_or(record.ttl_ms);
    api::LeaseInfo { lease: lease.0, ttl_ms: record.ttl_ms, left_ms, keys: record.keys, bytes: record.bytes }
}

impl Service {
    pub(super) async fn lease_write(
        &self,
        asker: &Asker,
        request: Bytes,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let command = Command::from(CommandKind::Request(ordered(request)?));
        let result = self.router.execute_for(asker, command, until).await?.encode_to_vec().into();
        Ok(response::Kind::LeaseWrite(api::LeaseWriteDone { result }))
    }

    pub(super) async fn lease_keep_alive(
        &self,
        asker: &Asker,
        lease: u64,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let ttl_ms = self.router.renew(LeaseId(lease), asker, until).await?;
        Ok(response::Kind::LeaseKeepAlive(api::LeaseKeepAliveDone { ttl_ms }))
    }

    pub(super) async fn lease_list(
        &self,
        asker: &Asker,
        asked: api::LeaseList,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        if let Some(answer) = self.by_the_leader(asker, &request::Kind::LeaseList(asked), until).await? {
            return Ok(answer);
        }
        let most = usize::try_from(asked.limit).unwrap_or(usize::MAX);
        let limit = if most == 0 { LEASE_PAGE_MAX } else { most.min(LEASE_PAGE_MAX) };
        let reader = self.store()?.reader;
        let mut leases = blocking(move || {
            read::leases(&*reader.view(), LeaseId(asked.after), limit + 1).map_err(|error| broken(&error))
        })
        .await?;
        let more = leases.len() > limit;
        leases.truncate(limit);
        let left = self.router.lease_times(leases.iter().map(|(lease, _)| *lease).collect(), until).await?;
        let leases = leases.into_iter().zip(left).map(|((lease, record), left)| info(lease, record, left)).collect();
        Ok(response::Kind::LeaseList(api::LeaseListDone { leases, more }))
    }

    pub(super) async fn lease_show(
        &self,
        asker: &Asker,
        asked: api::LeaseShow,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let lease = LeaseId(asked.lease);
        let after = if asked.after.is_empty() { Bytes::new() } else { Section::User.key(&asked.after) };
        if let Some(answer) = self.by_the_leader(asker, &request::Kind::LeaseShow(asked), until).await? {
            return Ok(answer);
        }
        let reader = self.store()?.reader;
        let found = blocking(move || {
            let view = reader.view();
            let read = || match read::lease(&*view, lease)? {
                Some(record) => Ok(Some((record, read::lease_keys(&*view, lease, &after, LEASE_PAGE_MAX + 1)?))),
                None => Ok(None),
            };
            read().map_err(|error| broken(&error))
        })
        .await?;
        let Some((record, mut keys)) = found else {
            return Err(refused(&Refusal::LeaseNotFound { lease: lease.0 }));
        };
        let more = keys.len() > LEASE_PAGE_MAX;
        keys.truncate(LEASE_PAGE_MAX);
        let left = self.router.lease_times(vec![lease], until).await?.pop().flatten();
        let keys = keys.iter().filter_map(|key| Section::User.strip(key)).collect();
        Ok(response::Kind::LeaseShow(api::LeaseShowDone { lease: Some(info(lease, record, left)), keys, more }))
    }
}
