//! What nodes are to run, as an orchestrator writes it, and what they say of it.
//!
//! Owns the friendly shape of it. A transaction over items may hold user keys, too: what an orchestrator keeps and what it
//! tells its workers then change together. Never retries and never decides: the client does the first, the managers the
//! second.

use std::collections::BTreeMap;
use std::future::{Future, IntoFuture};
use std::pin::Pin;

use bytes::Bytes;
use quorate_core::id::NodeId;
use quorate_core::keyspace::Section;
use quorate_core::membership::work::AssignmentRecord;
use quorate_core::txn::{Compare, Delete, Op, OpResult, OpResultKind, Put, Txn};
use quorate_core::user;
use quorate_transport::api;

use super::{Client, unexpected};
use crate::error::{Error, Result};

type Sent<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// Assignments and reports. A node is named by its id, or by its name (which is looked up first).
#[derive(Debug, Clone)]
pub struct AssignmentApi {
    client: Client,
}

/// One item, as the state has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AssignedItem {
    /// What names it within its node.
    pub id: String,
    /// The revision of its last write: what [`AssignmentTxn::when_revision`] compares with.
    pub revision: u64,
    /// As it was written.
    pub payload: Bytes,
    /// Secrets it refers to, by name.
    pub secrets: Vec<String>,
    /// Configs it refers to, by name.
    pub configs: Vec<String>,
}

/// What a node last said of its items.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ItemReport {
    /// By the item's id.
    pub statuses: BTreeMap<String, Bytes>,
    /// The revision at which it was written; 0: the node has said nothing.
    pub revision: u64,
}

/// What a transaction over assignments came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AssignmentOutcome {
    /// Whether all comparisons held, and every node that was given an item is still of the cluster; else nothing was done.
    pub succeeded: bool,
    /// The store's revision after it.
    pub revision: u64,
    /// How many records were removed by it.
    pub removed: u64,
    /// An earlier copy of this request had been applied; this is its outcome.
    pub replayed: bool,
}

impl AssignmentApi {
    pub(super) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// A transaction over any number of nodes, up to 128 operations and comparisons.
    pub fn txn(&self) -> AssignmentTxn {
        AssignmentTxn { client: self.client.clone(), steps: Vec::new() }
    }

    /// Gives a node an item, or writes the one it has anew.
    pub fn set(&self, node: impl Into<String>, item: impl Into<String>, payload: impl Into<Bytes>) -> AssignmentTxn {
        self.txn().set(node, item, payload)
    }

    /// Takes an item from a node; one that is not there is no error.
    pub fn remove(&self, node: impl Into<String>, item: impl Into<String>) -> AssignmentTxn {
        self.txn().remove(node, item)
    }

    /// Takes everything from a node.
    pub fn clear(&self, node: impl Into<String>) -> AssignmentTxn {
        self.txn().clear(node)
    }

    /// Every item of a node, ascending by id. Linearizable; of many items each page is.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// `NotFound` when the node's name is not known. A node id that is not known has no items.
    pub async fn get(&self, node: &str) -> Result<Vec<AssignedItem>> {
        let id = resolve(&self.client, node, &mut BTreeMap::new()).await?;
        let mut items: Vec<AssignedItem> = Vec::new();
        loop {
            let after = items.last().map(|last| Bytes::copy_from_slice(last.id.as_bytes())).unwrap_or_default();
            let read =
                api::AssignmentsRead { node_id: Bytes::copy_from_slice(id.as_bytes()), after, serializable: false };
            let api::response::Kind::AssignmentsRead(done) =
                self.client.ask(api::request::Kind::AssignmentsRead(read)).await?
            else {
                return Err(unexpected());
            };
            items.extend(done.items.into_iter().map(|item| AssignedItem {
                id: item.id,
                revision: item.revision,
                payload: item.payload,
                secrets: item.secrets,
                configs: item.configs,
            }));
            if !done.more {
                return Ok(items);
            }
        }
    }

    /// What a node last said of its items. Linearizable.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// `NotFound` when the node's name is not known. A node id that is not known has said nothing.
    pub async fn reports(&self, node: &str) -> Result<ItemReport> {
        let id = resolve(&self.client, node, &mut BTreeMap::new()).await?;
        let read = api::ReportRead { node_id: Bytes::copy_from_slice(id.as_bytes()), serializable: false };
        let api::response::Kind::ReportRead(done) = self.client.ask(api::request::Kind::ReportRead(read)).await? else {
            return Err(unexpected());
        };
        let statuses = done.items.into_iter().map(|item| (item.id, item.status)).collect();
        Ok(ItemReport { statuses, revision: done.revision })
    }
}

/// The id of a node, given its id or its name.
async fn resolve(client: &Client, node: &str, known: &mut BTreeMap<String, NodeId>) -> Result<NodeId> {
    if let Ok(id) = node.parse() {
        return Ok(id);
    }
    if known.is_empty() {
        let status = client.status().await?;
        let managers = status.managers.into_iter().map(|manager| (manager.name, manager.id));
        let workers = status.workers.into_iter().map(|worker| (worker.name, worker.id));
        known.extend(managers.chain(workers).filter_map(|(name, id)| Some((name, id.parse().ok()?))));
    }
    let missing = || {
        Error::NotFound(format!("the cluster has no node `{node}`; `quorate node ls` lists them. Nothing was changed"))
    };
    known.get(node).copied().ok_or_else(missing)
}

#[derive(Debug, Clone)]
enum Step {
    Set { node: String, item: String, record: AssignmentRecord },
    Remove { node: String, item: String },
    Clear { node: String },
    WhenRevision { node: String, item: String, revision: u64 },
    When(Compare),
    Then(Op),
}

/// A transaction over assignments being put together; await it to send it.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct AssignmentTxn {
    client: Client,
    steps: Vec<Step>,
}

impl AssignmentTxn {
    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Gives a node an item, or writes the one it has anew.
    pub fn set(self, node: impl Into<String>, item: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        let record = AssignmentRecord { payload: payload.into(), ..AssignmentRecord::default() };
        self.step(Step::Set { node: node.into(), item: item.into(), record })
    }

    /// The item that was set last refers to this secret.
    pub fn secret(mut self, name: impl Into<String>) -> Self {
        if let Some(Step::Set { record, .. }) = self.steps.last_mut() {
            record.secrets.push(name.into());
        }
        self
    }

    /// The item that was set last refers to this config.
    pub fn config(mut self, name: impl Into<String>) -> Self {
        if let Some(Step::Set { record, .. }) = self.steps.last_mut() {
            record.configs.push(name.into());
        }
        self
    }

    /// Takes an item from a node.
    pub fn remove(self, node: impl Into<String>, item: impl Into<String>) -> Self {
        self.step(Step::Remove { node: node.into(), item: item.into() })
    }

    /// Takes everything from a node.
    pub fn clear(self, node: impl Into<String>) -> Self {
        self.step(Step::Clear { node: node.into() })
    }

    /// Only if the item was last written at this revision (0: if the node has no such item).
    pub fn when_revision(self, node: impl Into<String>, item: impl Into<String>, revision: u64) -> Self {
        self.step(Step::WhenRevision { node: node.into(), item: item.into(), revision })
    }

    /// Only if this holds of a user key.
    pub fn when(self, compare: Compare) -> Self {
        self.step(Step::When(compare))
    }

    /// One more operation on user keys.
    pub fn then(self, op: Op) -> Self {
        self.step(Step::Then(op))
    }

    async fn build(&self) -> Result<Txn> {
        let (mut users, mut items) = (Txn::default(), Txn::default());
        let mut known = BTreeMap::new();
        for step in &self.steps {
            match step {
                Step::Set { node, item, record } => {
                    let key = AssignmentRecord::key(resolve(&self.client, node, &mut known).await?, item);
                    items.then.push(Put { key, value: record.to_bytes(), ..Put::default() }.into());
                }
                Step::Remove { node, item } => {
                    let key = AssignmentRecord::key(resolve(&self.client, node, &mut known).await?, item);
                    items.then.push(Delete { key, ..Delete::default() }.into());
                }
                Step::Clear { node } => {
                    let (key, end) = AssignmentRecord::range(resolve(&self.client, node, &mut known).await?);
                    items.then.push(Delete { key, end, previous: false }.into());
                }
                Step::WhenRevision { node, item, revision } => {
                    let key = AssignmentRecord::key(resolve(&self.client, node, &mut known).await?, item);
                    items.compares.push(Compare::mod_revision(key, *revision));
                }
                Step::When(compare) => users.compares.push(compare.clone()),
                Step::Then(op) => users.then.push(op.clone()),
            }
        }
        // User keys come without their section, as everywhere in the public API.
        user::qualify(&mut users);
        debug_assert!(users.compares.iter().all(|compare| compare.key.first() == Some(&(Section::User as u8))));
        items.compares.append(&mut users.compares);
        items.then.append(&mut users.then);
        Ok(items)
    }
}

impl IntoFuture for AssignmentTxn {
    type Output = Result<AssignmentOutcome>;
    type IntoFuture = Sent<AssignmentOutcome>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let txn = self.build().await?;
            let result = self.client.transact_work(txn).await?;
            let deleted = |result: &OpResult| match &result.kind {
                Some(OpResultKind::Delete(delete)) => delete.deleted,
                _ => 0,
            };
            Ok(AssignmentOutcome {
                succeeded: result.succeeded,
                revision: result.revision,
                removed: result.results.iter().map(deleted).sum(),
                replayed: result.replayed,
            })
        })
    }
}
