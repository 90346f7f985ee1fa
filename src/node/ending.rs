//! How a running node ends, whoever ends it.
//!
//! Owns the first reason, the signal that stops the consensus task, and the containment of panics: a thread or a keeper
//! that fails must not leave half a node behind that still looks alive. Called by everything that the node starts.

use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::ground::{Drives, Ground, Part, Tasks};
use super::stop::{StartError, StopReason};

/// How long a stop waits for a disk that does not answer.
const FAREWELL: Duration = Duration::from_secs(30);

/// Ends the node. Cheap to clone; the first reason counts.
#[derive(Clone)]
pub(super) struct Ending(Arc<Inner>);

struct Inner {
    reason: OnceLock<StopReason>,
    signal: watch::Sender<bool>,
}

impl Ending {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner { reason: OnceLock::new(), signal: watch::Sender::new(false) }))
    }

    /// Stops the node. Never waits.
    pub(super) fn stop(&self, reason: StopReason) {
        if self.0.reason.set(reason).is_ok() {
            self.0.signal.send_replace(true);
        }
    }

    /// Why, once somebody has stopped it.
    pub(super) fn reason(&self) -> Option<StopReason> {
        self.0.reason.get().cloned()
    }

    /// Waits until somebody does.
    ///
    /// Cancel safe.
    pub(super) async fn asked(&self) {
        // The sender lives as long as `self`.
        let _ = self.0.signal.subscribe().wait_for(|stop| *stop).await;
    }

    /// Starts a task that is to run as long as the node does. Should it panic, the node stops.
    pub(super) fn keep(&self, runtime: &Tasks, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let (task, ending) = (runtime.spawn(work), self.clone());
        runtime.spawn(async move {
            if let Err(error) = task.await
                && let Ok(panic) = error.try_into_panic()
            {
                ending.stop(StopReason::Bug(format!("the task that {name} failed: {}", words(&*panic))));
            }
        });
    }
}

/// Stops what a start has begun, unless it came to its end.
pub(super) struct Unfinished(Option<Ending>);

impl Unfinished {
    pub(super) const fn new(ending: Ending) -> Self {
        Self(Some(ending))
    }

    pub(super) fn finished(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(ending) = self.0.take() {
            ending.stop(StopReason::Asked);
        }
    }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".into())
}

/// Does a part's work so that a panic becomes words instead of a silence.
pub(super) async fn contained<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let mut work = pin!(work);
    std::future::poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        polled.map_or_else(|panic| Poll::Ready(Err(words(&*panic))), |poll| poll.map(Ok))
    })
    .await
}

/// The parts of a node, beside that of the consensus task.
pub(super) struct Parts {
    ground: Ground,
    ending: Ending,
    farewell: Duration,
    parts: Vec<Part>,
    running: mpsc::Sender<Infallible>,
    ended: mpsc::Receiver<Infallible>,
}

impl Parts {
    pub(super) fn new(ground: &Ground, ending: Ending) -> Self {
        let (running, ended) = mpsc::channel(1);
        Self { ground: ground.clone(), ending, farewell: FAREWELL, parts: Vec::new(), running, ended }
    }

    /// Starts one. Should it panic, the node stops.
    pub(super) fn start(
        &mut self,
        name: &'static str,
        drives: Drives,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), StartError> {
        let (ending, running) = (self.ending.clone(), self.running.clone());
        let work = async move {
            if let Err(why) = contained(work).await {
                ending.stop(StopReason::Bug(format!("thread {name} failed: {why}")));
            }
        };
        self.parts.push(self.ground.start(name, drives, work, move |()| drop(running))?);
        Ok(())
    }

    /// As [`ended`](Self::ended), with one thing more, which is done beside them and may not come back from the disk either: what it
    /// came to.
    ///
    /// # Errors
    /// Why it came to nothing, in words.
    pub(super) async fn ended_with<T: Send + 'static>(
        mut self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let (out, mut came) = oneshot::channel();
        let work = async move {
            let _ = out.send(work());
        };
        let started = self.start(name, Drives::Nothing, work);
        let ended = self.ended().await;
        match (started, came.try_recv(), ended) {
            (Err(error), ..) => Err(error.to_string()),
            (Ok(()), Ok(came), _) => Ok(came),
            (Ok(()), Err(_), Err(left)) => Err(left),
            (Ok(()), Err(_), Ok(())) => Err(format!("thread {name} failed")),
        }
    }

    /// Waits for all of them, which end with their inboxes; a disk that does not answer is not waited for for ever.
    ///
    /// # Errors
    /// What still runs, in words.
    pub(super) async fn ended(self) -> Result<(), String> {
        let Self { farewell, parts, running, mut ended, .. } = self;
        drop(running);
        let late = tokio::time::timeout(farewell, ended.recv()).await.is_err();
        let mut left = Vec::new();
        for part in parts {
            if late && !part.is_finished() {
                left.push(part.name());
            } else {
                part.join().await;
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        Err(format!("{} did not come back from it within {} s", left.join(" and "), farewell.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Node, Runtime, Start};
    use super::*;

    fn words_of(ending: &Ending) -> String {
        match ending.reason() {
            Some(StopReason::Bug(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_part_that_panics_ends_the_node_with_its_words() {
        let ending = Ending::new();
        let mut parts = Parts::new(&Ground::default(), ending.clone());
        parts.start("quorate-test", Drives::Nothing, async { panic!("on purpose") }).unwrap();
        parts.ended().await.unwrap();
        assert_eq!(words_of(&ending), "thread quorate-test failed: on purpose");
        // The first reason counts.
        ending.stop(StopReason::Asked);
        words_of(&ending);
    }

    #[tokio::test]
    async fn a_part_that_does_not_come_back_is_named_and_not_waited_for_for_ever() {
        // Given a thread that waits for something that does not come, as in a sync
        let ending = Ending::new();
        let mut parts = Parts { farewell: Duration::from_millis(50), ..Parts::new(&Ground::default(), ending) };
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        parts.start("quorate-done", Drives::Nothing, async {}).unwrap();
        parts
            .start("quorate-hung", Drives::Nothing, async move {
                let _ = hangs.recv();
            })
            .unwrap();
        // When the node stops
        let left = parts.ended().await.unwrap_err();
        // Then it does
        assert!(left.starts_with("quorate-hung did not come back"), "{left}");
        drop(release);
    }

    #[tokio::test]
    async fn what_is_done_last_is_waited_for_and_not_for_ever_either() {
        let parts = || Parts::new(&Ground::default(), Ending::new());
        assert_eq!(parts().ended_with("quorate-last", || 7).await, Ok(7));
        // When it waits for a disk that does not answer
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        let impatient = Parts { farewell: Duration::from_millis(50), ..parts() };
        let left = impatient.ended_with("quorate-last", move || hangs.recv().is_ok()).await.unwrap_err();
        // Then that is said, and it is left behind
        assert!(left.starts_with("quorate-last did not come back"), "{left}");
        drop(release);
        let failed: Result<(), String> = parts().ended_with("quorate-last", || panic!("on purpose")).await;
        assert_eq!(failed, Err("thread quorate-last failed".to_owned()));
    }

    #[tokio::test]
    async fn a_keeper_that_panics_stops_its_node_which_can_be_started_again() {
        // Given a node that runs
        let directory = tempfile::tempdir().unwrap();
        let builder = || Node::builder(directory.path()).listen("127.0.0.1:0");
        let node = builder().start(Start::OpenOrInit).await.unwrap();
        node.ready().await.unwrap();
        // When one of its keepers fails
        let fails = async { panic!("on purpose") };
        let Some(Runtime::Manager(manager)) = node.inner.current.borrow().clone() else { panic!("it is a manager") };
        manager.ending.keep(&manager.runtime, "does this", fails);
        // Then the node stops with a reason, instead of going on without it
        let reason = node.stopped().await;
        assert_eq!(reason, StopReason::Bug("the task that does this failed: on purpose".into()));
        drop(node);
        let again = builder().start(Start::Open).await.unwrap();
        again.ready().await.unwrap();
        assert_eq!(again.shutdown().await, StopReason::Asked);
    }
}
