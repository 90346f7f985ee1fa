//! The rolling upgrade, as an operator sees it.
//!
//! Owns the two questions only; when the cluster's version may rise is the managers' decision. Called by embedders and the
//! command line.

use quorate_transport::api::{self, request};

use super::Client;
use crate::error::Result;
use crate::upgrade::UpgradeStatus;

/// How far an upgrade is, and that it is finished.
#[derive(Debug, Clone)]
pub struct Upgrade {
    client: Client,
}

impl Upgrade {
    pub(super) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// The cluster's version, every manager's, and what is left to do; answered without a quorum.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    pub async fn status(&self) -> Result<UpgradeStatus> {
        self.client.document(request::Kind::UpgradeStatus(api::UpgradeStatus {})).await
    }

    /// Says that every manager has the newer program, and keeps it: the cluster's version rises to the newest that all of
    /// them support. What it brings can be used from then on, and no manager can go back to the older program. Answers
    /// how it is then; where there is nothing to finish, nothing happens.
    ///
    /// Cancel safe: dropped, it may still be done; asking again does no harm.
    ///
    /// # Errors
    /// [`Rule::UpgradeHeldBack`](crate::membership::Rule::UpgradeHeldBack) while a manager, also an absent one, has not
    /// reported that it supports that version: the message names them. See [`Error`](crate::Error).
    pub async fn finish(&self) -> Result<UpgradeStatus> {
        self.client.wished(|once| request::Kind::UpgradeFinish(api::UpgradeFinish { once })).await
    }

    /// Leaves a note on the cluster, in place of the one that is there: what version 2 brings.
    ///
    /// Cancel safe: dropped, it may still be done.
    ///
    /// # Errors
    /// [`Error::Version`](crate::Error::Version) before the upgrade to version 2 is finished. See [`Error`](crate::Error).
    #[cfg(feature = "next-version")]
    pub async fn note(&self, text: &str) -> Result<()> {
        use prost::Message as _;
        use quorate_core::command::Request;
        let answer = self.client.once(|open| {
            let request = Request {
                client: bytes::Bytes::copy_from_slice(open.id.client.as_bytes()),
                sequence: open.id.sequence,
                low_water: open.low_water,
                born: open.born,
                note: Some(text.to_owned()),
                ..Request::default()
            };
            request::Kind::Write(api::Write { request: request.encode_to_vec().into(), reads: false })
        });
        answer.await.map(|_written| ())
    }
}
