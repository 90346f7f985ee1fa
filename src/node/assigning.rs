//! Assignments and reports, as an orchestrator's requests meet them.
//!
//! Owns what these requests mean on a manager. Items are given only to nodes that the cluster knows, in the same
//! transaction that writes them. Called by the service.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::command::{Command, CommandKind, Request};
use quorate_core::id::NodeId;
use quorate_core::membership::assign::{self, Given};
use quorate_core::membership::record::NodeRecord;
use quorate_core::membership::work::{AssignmentRecord, ReportRecord};
use quorate_core::ports::StateReader;
use quorate_core::state::check_txn;
use quorate_core::state::read::{self, ReadError};
use quorate_core::txn::{Compare, Operand, Range, Relation};
use quorate_transport::api;
use tokio::time::Instant;

use super::authorize;
use super::gate::Asker;
use super::router::{Failure, fail, refused};
use super::service::{Service, blocking, broken, requested};

fn node_of(id: &[u8]) -> Result<NodeId, Failure> {
    NodeId::from_slice(id).ok_or_else(|| fail(api::Code::Invalid, "a node id must have 16 bytes. Nothing was changed"))
}

impl Service {
    /// Writes items, and user keys with them.
    pub(super) async fn assign(
        &self,
        asker: &Asker,
        request: Bytes,
        until: Instant,
    ) -> Result<api::AssignmentsWriteDone, Failure> {
        let (request, mut txn) = requested(request)?;
        let given = assign::check(&txn).map_err(|refusal| refused(&refusal))?;
        self.check_given(&given, until).await?;
        for node in &given {
            // A node that is removed meanwhile gets nothing: the transaction does not succeed then.
            txn.compares.push(Compare::new(NodeRecord::key(*node), Relation::NotEqual, Operand::Version(0)));
        }
        let txn = authorize::within(asker, txn)?;
        check_txn(&txn).map_err(|refusal| refused(&refusal))?;
        let command = Command::from(CommandKind::Request(Request { txn: Some(txn.into_inner()), ..request }));
        let result = self.router.execute_for(asker, command, until).await?;
        Ok(api::AssignmentsWriteDone { result: result.encode_to_vec().into() })
    }

    /// Says early and in words what would otherwise only not succeed.
    async fn check_given(&self, given: &Given, until: Instant) -> Result<(), Failure> {
        if given.is_empty() {
            return Ok(());
        }
        // A node may have joined that this manager has not heard of.
        self.router.read_index(until).await?;
        let (reader, asked) = (self.store()?.reader, given.clone());
        let unknown = blocking(move || {
            let view = reader.view();
            for node in asked {
                if read::node(&*view, node).map_err(|error| broken(&error))?.is_none() {
                    return Ok(Some(node));
                }
            }
            Ok(None)
        });
        let Some(node) = unknown.await? else { return Ok(()) };
        let message = format!("the cluster has no node {node}; `quorate node ls` lists them. Nothing was changed");
        Err(fail(api::Code::NotFound, message))
    }

    /// One page of a node's items.
    pub(super) async fn assigned(
        &self,
        asker: &Asker,
        read: api::AssignmentsRead,
        until: Instant,
    ) -> Result<api::AssignmentsReadDone, Failure> {
        let node = node_of(&read.node_id)?;
        let (from, end) = AssignmentRecord::range(node);
        // The successor of an id is the id with a zero byte behind it.
        let key = if read.after.is_empty() { from } else { Bytes::from([&from[..], &read.after, &[0]].concat()) };
        let range = authorize::within(asker, Range { key, end, ..Range::default() })?;
        if !read.serializable {
            self.router.read_index(until).await?;
        }
        let reader = self.store()?.reader;
        blocking(move || {
            let page = page(&reader, &range)?;
            let mut items = Vec::with_capacity(page.entries.len());
            for entry in page.entries {
                let id = AssignmentRecord::parse(&entry.key).map(|(_, id)| id).unwrap_or_default();
                let record = AssignmentRecord::decode(entry.value)
                    .map_err(|error| fail(api::Code::Internal, format!("an item cannot be read: {error}")))?;
                items.push(api::AssignedItem {
                    id: String::from_utf8_lossy(&id).into_owned(),
                    revision: entry.mod_revision,
                    payload: record.payload,
                    secrets: record.secrets,
                    configs: record.configs,
                });
            }
            Ok(api::AssignmentsReadDone { items, more: page.more, revision: page.revision })
        })
        .await
    }

    /// What a node last said of its items.
    pub(super) async fn reported(
        &self,
        asker: &Asker,
        read: api::ReportRead,
        until: Instant,
    ) -> Result<api::ReportReadDone, Failure> {
        let node = node_of(&read.node_id)?;
        authorize::within(asker, Range { key: ReportRecord::key(node), ..Range::default() })?;
        if !read.serializable {
            self.router.read_index(until).await?;
        }
        let reader = self.store()?.reader;
        let report = blocking(move || read::report(&*reader.view(), node).map_err(|error| broken(&error))).await?;
        let Some((report, revision)) = report else { return Ok(api::ReportReadDone::default()) };
        let items = report.items.into_iter().map(|item| api::ItemStatus { id: item.id, status: item.status });
        Ok(api::ReportReadDone { items: items.collect(), revision })
    }
}

fn page(reader: &Arc<dyn StateReader>, range: &Range) -> Result<quorate_core::txn::RangeResult, Failure> {
    read::range(&*reader.view(), range).map_err(|error| match error {
        ReadError::Refused(refusal) => refused(&refusal),
        ReadError::Store(error) => broken(&error),
    })
}
