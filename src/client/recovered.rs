//! That the cluster was recovered while a client used it.
//!
//! Owns what a client is told of it, and the fresh id under which it goes on. Never decides which generation is the newer: the
//! way to the managers does.

use std::sync::atomic::Ordering;

use quorate_core::id::ClientId;

use super::{Client, born};
use crate::config;
use crate::error::Result;

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

    /// After a recovery a client goes on under a fresh id: log indexes are counted anew from the survivor's, and with its
    /// old birth it could not be told from a client that was forgotten.
    pub(super) async fn renew_after_recovery(&self) -> Result<()> {
        let met = self.shared.way.generation().map_or(0, |generation| *generation.borrow());
        let before = self.shared.generation.load(Ordering::Acquire);
        if before != 0 && met > before {
            let born = born(&*self.shared.way).await;
            self.shared.sequences.renew(config::random_id(ClientId::from_bytes)?, born);
        }
        // Only now: who is dropped on the way has renewed nothing, and who asks meanwhile must not go on under the old id.
        self.shared.generation.fetch_max(met, Ordering::AcqRel);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use quorate_transport::api;
    use tokio::sync::watch;

    use super::*;
    use crate::client::{Answered, Fed, Reply, Way};

    /// Tells an index once it may, and nothing else.
    struct Slow {
        generation: watch::Receiver<u64>,
        tells: watch::Receiver<bool>,
    }

    impl Way for Slow {
        fn managers(&self) -> usize {
            1
        }

        fn call<'a>(&'a self, _request: api::Request, _patience: Duration, _without: &'a BTreeSet<usize>) -> Reply<'a> {
            let mut tells = self.tells.clone();
            Box::pin(async move {
                tells.wait_for(|tells| *tells).await.unwrap();
                let done = api::ReadDone { applied: 4_010, ..api::ReadDone::default() };
                Ok(Answered { by: 0, response: api::Response { kind: Some(api::response::Kind::Read(done)) } })
            })
        }

        fn feed<'a>(&'a self, _request: api::Request, _patience: Duration, _without: &'a BTreeSet<usize>) -> Fed<'a> {
            unreachable!("nobody watches here")
        }

        fn attempt(&self) -> Option<Duration> {
            None
        }

        fn generation(&self) -> Option<watch::Receiver<u64>> {
            Some(self.generation.clone())
        }
    }

    #[tokio::test]
    async fn a_renewal_that_is_given_up_is_done_by_the_next_request_and_no_request_goes_before_it() {
        // Given a client that was born late in a log of which the survivor had less
        let (generation, met) = watch::channel(1);
        let (tell, tells) = watch::channel(false);
        let old = ClientId::from_bytes([1; 16]);
        let client = Client::over(Box::new(Slow { generation: met, tells }), old, 5_000);
        client.renew_after_recovery().await.unwrap();
        assert_eq!(client.shared.sequences.open().await.id.client, old);
        generation.send_replace(2);
        // when the first request after the recovery is dropped before the managers have told an index,
        let dropped = tokio::time::timeout(Duration::from_millis(20), client.renew_after_recovery()).await;
        assert!(dropped.is_err());
        // then the next ones wait for it as well, however many there are,
        let both = async { tokio::try_join!(client.renew_after_recovery(), client.renew_after_recovery()) };
        let mut both = std::pin::pin!(both);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut both).await.is_err());
        tell.send_replace(true);
        both.await.unwrap();
        // and go on under another id, which stays.
        let open = client.shared.sequences.open().await;
        assert_ne!(open.id.client, old);
        assert_eq!(open.born, 4_010);
        client.renew_after_recovery().await.unwrap();
        assert_eq!(client.shared.sequences.open().await.id.client, open.id.client);
    }
}
