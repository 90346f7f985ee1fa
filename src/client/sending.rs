//! What changes something is sent so that it counts once.
//!
//! Owns the request id of each write and each wish over all of its copies, and when one goes again under a fresh id. How an
//! answer is waited for is [`super::asking`]'s. Called by everything of the client that asks for more than a look.

use bytes::Bytes;
use prost::Message as _;
use quorate_core::command::Request;
use quorate_core::state::check_txn;
use quorate_core::txn::{Op, OpKind, Txn, TxnResult};
use quorate_core::user;
use quorate_transport::api;
use tokio::time::Instant;

use super::asking::Failed;
use super::sequence::OpenRequest;
use super::{Client, unexpected};
use crate::error::{Error, Result};

impl Client {
    /// Sends a transaction with user keys; applied once, however often it must be sent.
    pub(crate) async fn transact(&self, mut txn: Txn) -> Result<TxnResult> {
        txn.fence = txn.fence.or(self.fence.map(|term| term.0));
        self.scope.enter_txn(&mut txn)?;
        let mut full = txn.clone();
        user::qualify(&mut full);
        check_txn(&full).map_err(|refusal| Error::before_sending(&refusal))?;
        let reads = full.then.iter().chain(&full.or_else).any(answers_with_what_was_there);
        let mut result = self.write(txn, |request| api::request::Kind::Write(api::Write { request, reads })).await?;
        self.scope.leave_result(&mut result)?;
        Ok(result)
    }

    /// Sends a transaction over assignments, its keys with their sections; applied once, however often it must be sent.
    pub(crate) async fn transact_work(&self, mut txn: Txn) -> Result<TxnResult> {
        txn.fence = txn.fence.or(self.fence.map(|term| term.0));
        let refused = |refusal: quorate_core::state::contract::Refusal| Error::before_sending(&refusal);
        quorate_core::membership::assign::check(&txn).map_err(refused)?;
        check_txn(&txn).map_err(refused)?;
        self.write(txn, |request| api::request::Kind::AssignmentsWrite(api::AssignmentsWrite { request })).await
    }

    async fn write(&self, txn: Txn, wrap: impl Fn(Bytes) -> api::request::Kind) -> Result<TxnResult> {
        let request = |open: &OpenRequest| {
            let request = Request {
                client: Bytes::copy_from_slice(open.id.client.as_bytes()),
                sequence: open.id.sequence,
                low_water: open.low_water,
                txn: Some(txn.clone()),
                born: open.born,
                ..Request::default()
            };
            wrap(request.encode_to_vec().into())
        };
        let answer = self.once(request).await?;
        let result = if let api::response::Kind::Write(done) = answer {
            done.result
        } else if let api::response::Kind::AssignmentsWrite(done) = answer {
            done.result
        } else {
            return Err(unexpected());
        };
        TxnResult::decode(result).map_err(|error| Error::Internal(format!("the answer cannot be read: {error}")))
    }

    /// Sends a wish about nodes, tokens or policy; applied once, however often it must be sent.
    pub(super) async fn wish(
        &self,
        wrap: impl Fn(Option<api::Once>) -> api::request::Kind,
    ) -> Result<api::response::Kind> {
        let fence = self.fence.map(|term| term.0);
        self.once(move |open| {
            wrap(Some(api::Once {
                client: Bytes::copy_from_slice(open.id.client.as_bytes()),
                sequence: open.id.sequence,
                low_water: open.low_water,
                born: open.born,
                fence,
            }))
        })
        .await
    }

    /// Asks under a request id, the same one for every copy.
    pub(super) async fn once(&self, wrap: impl Fn(&OpenRequest) -> api::request::Kind) -> Result<api::response::Kind> {
        let until = Instant::now() + self.deadline;
        let mut forgotten = false;
        loop {
            self.settle(until).await?;
            let opened = tokio::time::timeout_at(until, self.shared.sequences.open()).await;
            let open = opened.map_err(|_elapsed| {
                Error::overloaded(
                    "this client has too many requests open: the oldest of them is not answered. Nothing was sent; try again, or use a second client",
                )
            })?;
            match self.ask_noting(wrap(&open), until).await {
                Ok(answer) => return Ok(answer),
                // The managers had forgotten this client, and no earlier copy of this request is on its way: nothing was
                // done, and it goes again under a fresh id. Once.
                Err(Failed::Forgotten(_)) if !std::mem::replace(&mut forgotten, true) => {
                    self.shared.sequences.forget(open.id.client);
                }
                // Somebody else was faster: it was not done, and no copy of it will be.
                Err(Failed::Overtaken(_)) if Instant::now() < until => {}
                Err(failed) => return Err(failed.into_error()),
            }
        }
    }

    pub(crate) async fn ask(&self, kind: api::request::Kind) -> Result<api::response::Kind> {
        self.ask_noting(kind, Instant::now() + self.deadline).await.map_err(Failed::into_error)
    }
}

/// Whether the answer of an operation may be long.
fn answers_with_what_was_there(op: &Op) -> bool {
    match &op.kind {
        Some(OpKind::Put(put)) => put.previous,
        Some(OpKind::Delete(delete)) => delete.previous,
        Some(OpKind::Range(range)) => !range.count_only,
        None => false,
    }
}
