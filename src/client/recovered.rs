//! That the cluster was recovered while a client used it.
//!
//! Owns what a client is told of it; the fresh id under which it goes on is [`super::birth`]'s. Never decides which generation is
//! the newer: the way to the managers does.

use super::Client;

/// The cluster was recovered (force-new-cluster) while a client used it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// The generation that the client knew.
    pub from: u64,
    /// The generation that it has met since, and does not go back from.
    pub to: u64,
}

impl Client {
    /// The generation of the cluster that this client has met last, from 1; `None` for a client in process or over the local
    /// socket, which belongs to its one node. A client keeps to the newest generation: it refuses managers of an older one.
    pub fn generation(&self) -> Option<u64> {
        self.shared.way.generation().map(|generation| *generation.borrow())
    }

    /// Waits until this client meets a newer generation of the cluster: it was recovered. What was read before may be of
    /// revisions that are gone, and a write whose outcome was unknown may be, too: list anew.
    ///
    /// Cancel safe. Never resolves for a client in process or over the local socket.
    pub async fn recovered(&self) -> Recovered {
        let Some(mut generation) = self.shared.way.generation() else { return std::future::pending().await };
        let from = *generation.borrow_and_update();
        let met = generation.wait_for(|to| *to > from).await.map(|to| *to);
        match met {
            Ok(to) => Recovered { from, to },
            Err(_closed) => std::future::pending().await,
        }
    }
}
