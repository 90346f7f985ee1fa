//! Operators' identities as an operator sees them.
//!
//! Owns the key of a new one: it is drawn here and never leaves this process but in the identity that is given back. Called by
//! embedders and the command line.

use std::future::IntoFuture;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quorate_transport::api::{self, request, response};
use quorate_transport::{Identity, KeyPair};

use super::{Client, unexpected, whole_seconds};
use crate::config;
use crate::error::{Error, Result};
use crate::membership::{OperatorInfo, RevokedOperator};

/// Identities for people and programs outside: an operator's, or one that may only look.
#[derive(Debug, Clone)]
pub struct Operators {
    client: Client,
}

/// An operator that was just made.
#[derive(Debug)]
pub struct NewOperator {
    /// What proves it: write it to a file of its own, see [`Identity::write`]. The managers do not have its key.
    pub identity: Identity,
    /// Everything else about it.
    pub info: OperatorInfo,
}

impl Operators {
    pub(super) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Makes an identity with this name: an operator's that stands until it is taken back, unless said otherwise.
    pub fn issue(&self, name: impl Into<String>) -> OperatorBuilder {
        OperatorBuilder { client: self.client.clone(), name: name.into(), read_only: false, ttl: None }
    }

    /// Takes an identity back, by its name or id. It counts nowhere any more; its connections are closed on every manager. It may be
    /// the one that this client shows: then this was its last request. Where the answer to that was lost, as with a manager that stopped
    /// leading meanwhile, that no manager takes this identity any more is the answer; when it was taken back is this machine's clock's then.
    ///
    /// Cancel safe: dropped before the answer, it may have been done, once, or not at all.
    ///
    /// # Errors
    /// `NotFound` when none that stands is called so.
    pub async fn revoke(&self, name: &str) -> Result<RevokedOperator> {
        // Asked before: afterwards it is told nothing any more.
        let oneself = self.oneself(name).await;
        let wrap = |once| request::Kind::OperatorRevoke(api::OperatorRevoke { name: name.to_owned(), once });
        match (self.client.wished(wrap).await, oneself) {
            (Err(Error::Unknown(_)), Some(gone)) if matches!(self.list().await, Err(Error::Denied(_))) => Ok(gone),
            (answer, _) => answer,
        }
    }

    /// What there is to say once the identity of this client is taken back, where that is the one that `name` names.
    async fn oneself(&self, name: &str) -> Option<RevokedOperator> {
        let id = self.client.identity()?.subject().node_id.to_string();
        let (own, others): (Vec<_>, Vec<_>) = self.list().await.ok()?.into_iter().partition(|one| one.id == id);
        let own = own.into_iter().find(|own| own.stands && (own.name == name || own.id == name))?;
        let left = others.iter().filter(|other| other.stands && !other.read_only).count() as u64;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Some(RevokedOperator { operator: OperatorInfo { stands: false, revoked_unix: now, ..own }, own: true, left })
    }

    /// All of them, those that were taken back or have ended among them, the oldest first.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list(&self) -> Result<Vec<OperatorInfo>> {
        self.client.document(request::Kind::OperatorList(api::OperatorList {})).await
    }
}

/// An operator being put together; await it to make it.
#[derive(Debug, Clone)]
#[must_use = "nothing is sent until it is awaited"]
pub struct OperatorBuilder {
    client: Client,
    name: String,
    read_only: bool,
    ttl: Option<Duration>,
}

impl OperatorBuilder {
    /// It may look at everything but tokens and secrets, and change nothing.
    pub const fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// It ends after this time, by the clocks of the managers; whole seconds. Without it, it stands until it is taken back.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

impl IntoFuture for OperatorBuilder {
    type Output = Result<NewOperator>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let ttl_s = whole_seconds(self.ttl, "an operator lasts for a second at least. Nothing was changed")?;
            let internal = |error: String| Error::Internal(error);
            let key = KeyPair::generate().map_err(|error| internal(error.to_string()))?;
            let csr = Bytes::from(key.csr().map_err(|error| internal(error.to_string()))?);
            let id = config::random_id(|bytes: [u8; 16]| Bytes::copy_from_slice(&bytes))?;
            let issue = api::OperatorIssue { id, name: self.name, read_only: self.read_only, ttl_s, csr, once: None };
            let wrap = |once| request::Kind::OperatorIssue(api::OperatorIssue { once, ..issue.clone() });
            let response::Kind::OperatorIssue(done) = self.client.wish(wrap).await? else { return Err(unexpected()) };
            let info = serde_json::from_slice(&done.json)
                .map_err(|error| internal(format!("the answer cannot be read: {error}")))?;
            let identity = Identity::new(done.ca.to_vec().into(), done.certificate.to_vec().into(), key);
            let identity = identity.map_err(|error| internal(error.to_string()))?;
            let others = done.authorities.iter().map(|authority| authority.to_vec().into()).collect();
            Ok(NewOperator { identity: identity.with_others(others), info })
        })
    }
}
