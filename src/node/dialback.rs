//! The newcomer's ear: it listens where it will listen as a manager, for as long as it joins.
//!
//! Owns a thread with a runtime of its own, so that the port is free for certain when the join is over, however it ended.
//! Called by the builder.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use quorate_transport::{DialBack, KeyPair};
use tokio::sync::oneshot;

use super::stop::StartError;

/// Listens until it is dropped; the port is free for certain after [`end`](Self::end).
pub(super) struct ListenWhileJoining {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    failed: Option<String>,
}

impl ListenWhileJoining {
    /// Begins to listen. That it cannot is told by [`failed`](Self::failed): a worker is not dialled back, and what the
    /// node joins as is known to the managers only.
    pub(super) async fn begin(listen: SocketAddr, key: KeyPair) -> Result<Self, StartError> {
        let (stop, stopped) = oneshot::channel();
        let (told, begun) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("quorate-join".into())
            .spawn(move || listen_until(listen, &key, told, stopped))
            .map_err(|error| StartError::Internal(format!("cannot start a thread: {error}")))?;
        let failed = begun.await.unwrap_or_else(|_died| Some("the listening thread ended at once".into()));
        Ok(Self { stop, thread, failed })
    }

    /// Why nobody can dial back; `None` when they can.
    pub(super) fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Stops, and waits until the port is free.
    pub(super) async fn end(self) {
        drop(self.stop);
        let thread = self.thread;
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

fn listen_until(
    listen: SocketAddr,
    key: &KeyPair,
    told: oneshot::Sender<Option<String>>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = told.send(Some(format!("cannot start a runtime: {error}")));
            return;
        }
    };
    runtime.block_on(async {
        match DialBack::listen(listen, key) {
            Ok(listening) => {
                let _ = told.send(None);
                tokio::select! {
                    () = listening.serve() => {}
                    _ = stopped => {}
                }
            }
            Err(error) => {
                let _ = told.send(Some(error.to_string()));
            }
        }
    });
}
