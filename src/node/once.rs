//! A wish of an operator, applied once however often it arrives.
//!
//! Owns the request id of wishes on their way through the replay table. What a wish comes to is worked out from the state
//! as it is, so a copy of it that arrives late would undo what somebody else wished meanwhile: therefore its
//! transaction carries the client's request id as every write does, and the first copy that is applied settles it. A
//! copy that has nothing to write, or is refused, settles it too, as not done, before that is said to anybody: no
//! earlier copy can be applied after the answer. Called by the requests about nodes, tokens and policy.

use bytes::Bytes;
use quorate_core::command::{Command, CommandKind, Request};
use quorate_core::membership::record::ClusterRecord;
use quorate_core::txn::{Compare, KeyValue, OpResult, OpResultKind, Put, Range, Txn};
use quorate_transport::api;
use tokio::time::Instant;

use super::gate::Asker;
use super::router::{Failure, fail, settled};
use super::service::Service;

/// What a wish came to.
#[derive(Debug)]
pub(super) enum Wished {
    /// It is done, by this copy or by an earlier one: what its operations answered then. An earlier copy's answers are
    /// kept only up to a size.
    Done(Vec<OpResult>),
    /// Nothing was to be changed.
    Nothing,
}

impl Wished {
    pub(super) const fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }

    /// The record that it wrote, as it wrote it; see [`write`].
    pub(super) fn written(&self) -> Option<&KeyValue> {
        let Self::Done(results) = self else { return None };
        results.iter().find_map(|result| match &result.kind {
            Some(OpResultKind::Range(range)) => range.entries.first(),
            Some(OpResultKind::Put(_) | OpResultKind::Delete(_)) | None => None,
        })
    }
}

/// Writes one record, and answers with it: so a copy of the wish is told what the first one wrote. Of a record that may
/// be large only the key.
pub(super) fn write(key: Bytes, value: Bytes, keys_only: bool) -> Txn {
    let read = Range { key: key.clone(), keys_only, ..Range::default() };
    Txn { then: vec![Put { key, value, ..Put::default() }.into(), read.into()], ..Txn::default() }
}

/// Does nothing, and says so: the cluster's record is always there, and never of that revision.
fn nothing() -> Txn {
    Txn { compares: vec![Compare::mod_revision(ClusterRecord::key(), u64::MAX)], ..Txn::default() }
}

/// What went wrong once the wish had been settled: it stands, so that nobody may be told that nothing was done. A copy of it
/// that is sent now is answered out of the replay table.
pub(super) fn already_settled(error: Failure) -> Failure {
    tracing::debug!(error = error.message, "a wish is settled, and what came of it cannot be told");
    fail(
        api::Code::Unknown,
        "the wish is recorded, and this manager cannot say what came of it; look at what it was about with `quorate node ls`, `policy show`, `token ls`, `config ls`, `secret ls` or `keyring show`",
    )
}

impl Service {
    /// Settles the wish with this request id: writes what was `planned` for it (`Ok(None)`: there is nothing to write),
    /// unless an earlier copy of it was faster.
    pub(super) async fn once(
        &self,
        asker: &Asker,
        id: Option<api::Once>,
        planned: Result<Option<Txn>, Failure>,
        until: Instant,
    ) -> Result<Wished, Failure> {
        let id = id.ok_or_else(|| fail(api::Code::Invalid, "the wish carries no request id. Nothing was changed"))?;
        let (txn, otherwise) = match planned {
            Ok(Some(txn)) => {
                let overtaken = "what it was to change has changed meanwhile. Nothing was changed; try again";
                (txn, Err(fail(api::Code::Conflict, overtaken)))
            }
            Ok(None) => (nothing(), Ok(Wished::Nothing)),
            Err(refused) => (nothing(), Err(refused)),
        };
        let request = Request {
            client: id.client,
            sequence: id.sequence,
            low_water: id.low_water,
            txn: Some(Txn { fence: id.fence, ..txn }),
            born: id.born,
            ..Request::default()
        };
        if request.id().is_none() || request.sequence == 0 {
            return Err(fail(api::Code::Invalid, "the wish's request id cannot be read. Nothing was changed"));
        }
        let command = Command::from(CommandKind::Request(request));
        let done = self.router.execute_for(asker, command, until).await?;
        if done.succeeded { Ok(Wished::Done(done.results)) } else { otherwise.map_err(settled) }
    }
}
