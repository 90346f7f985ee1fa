//! The cluster's CA as an operator sees it.
//!
//! Owns nothing but the questions. Called by embedders and the command line.

use std::time::Duration;

use quorate_transport::api::{self, request};

use super::Client;
use crate::error::Result;
use crate::membership::CaInfo;

/// The root that signs the certificates of nodes and operators, and its replacement by another.
#[derive(Debug, Clone)]
pub struct Ca {
    client: Client,
}

impl Ca {
    pub(super) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Replaces the root, unless it is being replaced already: then nothing is begun, that rotation goes on with its own deadline, and
    /// the answer is how far it is ([`CaInfo::begun`] is false). The new one signs from now on; both are trusted until every node and operator has shown a certificate of
    /// it, at most until `deadline` (whole seconds, in which the cluster has a leader) is over: a node that was away all that time
    /// then comes back with a token ([`crate::NodeBuilder::replace`]), an operator with a new identity. Answers how far it is, at
    /// once. Applied once, however often it has to be sent.
    ///
    /// Cancel safe: dropped before the answer, it may have begun.
    ///
    /// # Errors
    /// `Limit` with `ROTATION_S_MIN` for a deadline before which nodes could not renew, and the least that is taken; `Invalid` for one
    /// above 365 days. Nothing was changed.
    pub async fn rotate(&self, deadline: Duration) -> Result<CaInfo> {
        self.rotated(deadline, false).await
    }

    /// Replaces the root also while it is being replaced: for a root whose key is in other hands before its own rotation is over. What
    /// was trusted stays so until this one ends, which both do by this deadline.
    ///
    /// Cancel safe: dropped before the answer, it may have begun.
    ///
    /// # Errors
    /// As of [`rotate`](Self::rotate); `Membership` with [`Rule::TooManyRotations`] when four are under way within each other.
    ///
    /// [`Rule::TooManyRotations`]: crate::membership::Rule::TooManyRotations
    pub async fn rotate_anew(&self, deadline: Duration) -> Result<CaInfo> {
        self.rotated(deadline, true).await
    }

    async fn rotated(&self, deadline: Duration, another: bool) -> Result<CaInfo> {
        let deadline_s = deadline.as_secs();
        let wrap = |once| request::Kind::CaRotate(api::CaRotate { deadline_s, another, once });
        self.client.wished(wrap).await
    }

    /// Which root signs, and how far a rotation is. Cancel safe.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    pub async fn status(&self) -> Result<CaInfo> {
        self.client.document(request::Kind::CaStatus(api::CaStatus {})).await
    }
}
