//! How a node begins and ends: also when whoever starts it changes his mind half-way.

use std::future::{Future, poll_fn};
use std::task::Poll;

use quorate::{Node, Start, StopReason};

use crate::support::eventually;

/// What `future` comes to when it is polled at most this often, and dropped then.
async fn polled<F: Future>(future: F, mut polls: usize) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if polls == 0 => Poll::Ready(None),
        Poll::Pending => {
            polls -= 1;
            Poll::Pending
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_dropped_anywhere_leaves_nothing_running() {
    let directory = tempfile::tempdir().unwrap();
    let builder = || Node::builder(directory.path()).listen("127.0.0.1:0");
    // Given starts that are dropped at each place where they wait, on an empty directory and on one that is ready
    for polls in 0.. {
        let start = builder().start(Start::OpenOrInit);
        let came = Box::pin(polled(start, polls)).await;
        let whole = came.is_some();
        if let Some(node) = came {
            assert_eq!(node.unwrap().shutdown().await, StopReason::Asked);
        }
        // Then the directory and the port are free again, and the next start is a whole one
        let node =
            eventually("the node starts again", || async { builder().start(Start::OpenOrInit).await.ok() }).await;
        node.ready().await.unwrap();
        assert_eq!(node.shutdown().await, StopReason::Asked);
        if whole && polls > 2 {
            return;
        }
    }
}
