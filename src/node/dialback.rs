//! The newcomer's ear: it listens where it will listen as a manager, for as long as it joins.
//!
//! Owns a part with a runtime of its own, so that the port is free for certain when the join is over, however it ended.
//! Called by the builder.

use std::net::SocketAddr;

use quorate_transport::{DialBack, KeyPair, Network};
use tokio::sync::oneshot;

use super::ground::{Drives, Ground, Part};
use super::stop::StartError;

/// Listens until it is dropped; the port is free for certain after [`end`](Self::end).
pub(super) struct ListenWhileJoining {
    stop: oneshot::Sender<()>,
    part: Part,
    ended: oneshot::Receiver<()>,
    failed: Option<String>,
}

impl ListenWhileJoining {
    /// Begins to listen. That it cannot is told by [`failed`](Self::failed): a worker is not dialled back, and what the
    /// node joins as is known to the managers only.
    pub(super) async fn begin(ground: &Ground, listen: SocketAddr, key: KeyPair) -> Result<Self, StartError> {
        let (stop, stopped) = oneshot::channel();
        let (told, begun) = oneshot::channel();
        let (ended_in, ended) = oneshot::channel();
        let work = listen_until(ground.network.clone(), listen, key, told, stopped);
        let part = ground.start("quorate-join", Drives::Network, work, move |()| {
            let _ = ended_in.send(());
        })?;
        let failed = begun.await.unwrap_or_else(|_died| Some("the listening thread ended at once".into()));
        Ok(Self { stop, part, ended, failed })
    }

    /// Why nobody can dial back; `None` when they can.
    pub(super) fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Stops, and waits until the port is free.
    pub(super) async fn end(self) {
        drop(self.stop);
        let _ = self.ended.await;
        self.part.join().await;
    }
}

async fn listen_until(
    network: Network,
    listen: SocketAddr,
    key: KeyPair,
    told: oneshot::Sender<Option<String>>,
    stopped: oneshot::Receiver<()>,
) {
    match DialBack::listen(listen, &key, &network) {
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
}
