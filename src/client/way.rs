//! The way to the managers, as requests see it.
//!
//! Owns what a way has to answer, whichever it is: in this process, over the local socket, or over the network. Never
//! retries: who asks does.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use quorate_transport::{FeedReceiver, Identity, api};
use tokio::sync::watch;

pub(super) type Reply<'a> = Pin<Box<dyn Future<Output = Result<Answered, CallError>> + Send + 'a>>;

pub(super) type Fed<'a> = Pin<Box<dyn Future<Output = Result<Feeding, CallError>> + Send + 'a>>;

/// A feed that was asked for.
pub(crate) struct Feeding {
    /// The number of the manager that was asked.
    pub(crate) by: usize,
    pub(crate) receiver: FeedReceiver,
    /// What it travels on, kept open for as long as it lasts.
    pub(crate) _over: Option<Arc<dyn std::any::Any + Send + Sync>>,
}

/// What a single attempt was answered.
#[derive(Debug)]
pub(crate) struct Answered {
    /// The number of the manager that answered.
    pub(crate) by: usize,
    pub(crate) response: api::Response,
}

/// What a single attempt without an answer has left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// No manager has taken the request.
    NotTaken,
    /// The same, and only because the manager has too much under way.
    Busy,
    /// The same, and only because the caller's time ended: what attempts before were told says more.
    OutOfTime,
    /// The same, and none will: each of them says that the caller's identity was taken back.
    Revoked,
    /// A manager may have it.
    Unknown,
}

/// Why a single attempt has no answer.
#[derive(Debug, Clone)]
pub(crate) struct CallError {
    pub(crate) left: Unanswered,
    pub(crate) message: String,
    /// The managers, by their numbers, to which no connection came about.
    pub(crate) unreachable: Vec<usize>,
}

impl CallError {
    pub(crate) fn new(left: Unanswered, message: impl Into<String>) -> Self {
        Self { left, message: message.into(), unreachable: Vec::new() }
    }

    /// A manager, or the way to it, did not take the request: nothing was done.
    pub(crate) fn not_taken(message: impl Into<String>) -> Self {
        Self::new(Unanswered::NotTaken, message)
    }

    /// The manager has too much under way: nothing was done.
    pub(crate) fn busy() -> Self {
        let message = "the manager has too much under way. Nothing was done; try again a little later";
        Self::new(Unanswered::Busy, message)
    }

    /// It was asked, and did not answer.
    pub(crate) fn unanswered(message: impl Into<String>) -> Self {
        Self::new(Unanswered::Unknown, message)
    }
}

#[cfg(feature = "worker")]
impl CallError {
    /// The only manager that there is could not be asked.
    pub(crate) fn not_sent(message: impl Into<String>) -> Self {
        Self { unreachable: vec![0], ..Self::not_taken(message) }
    }
}

/// How a request gets to a manager.
pub(crate) trait Way: Send + Sync + 'static {
    /// How many managers it knows, at least one. They are numbered from 0.
    fn managers(&self) -> usize;

    /// One attempt, with at most `patience` for the answer, at a manager that is not in `without` (fewer than all).
    /// Another attempt may go to another manager.
    fn call<'a>(&'a self, request: api::Request, patience: Duration, without: &'a BTreeSet<usize>) -> Reply<'a>;

    /// Asks for a feed, with at most `patience` for it to be on its way, of a manager that is not in `without` (fewer than all).
    fn feed<'a>(&'a self, request: api::Request, patience: Duration, without: &'a BTreeSet<usize>) -> Fed<'a>;

    /// How long an attempt may take before another manager is tried; none in process.
    fn attempt(&self) -> Option<Duration>;

    /// Whether the node behind this way was removed from its cluster, and has stopped.
    fn has_left(&self) -> bool {
        false
    }

    /// The generation of the cluster that was last met, where the way itself chooses among managers.
    fn generation(&self) -> Option<watch::Receiver<u64>>;

    /// The identity that is shown, where one is.
    fn identity(&self) -> Option<Arc<Identity>> {
        None
    }
}
