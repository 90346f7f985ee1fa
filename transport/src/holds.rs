//! Connections that are to go, and wait for what is under way on them.
//!
//! Owns the count of what holds a connection, and the word with which it is closed once nothing does. Only for those who are sent
//! away to come back: who is to be kept out is disconnected, whatever is under way. Called by the endpoint, and by feeds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::endpoint::Endpoint;
use crate::greet;
use crate::handler::Caller;
use crate::hello::Refused;

/// What holds a connection.
#[derive(Debug, Default)]
struct Of {
    count: usize,
    /// It is to go, and what it is told then.
    away: Option<Refused>,
}

/// Of one endpoint, by quinn's number of the connection; those that nothing holds are not in it.
#[derive(Debug, Default)]
pub(crate) struct Holds(Mutex<HashMap<usize, Of>>);

/// Holds a connection until it is dropped.
#[derive(Debug)]
#[must_use = "dropped, it holds nothing"]
pub struct Hold(Option<(Arc<Holds>, quinn::Connection)>);

impl Holds {
    fn held(&self) -> MutexGuard<'_, HashMap<usize, Of>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hold(this: &Arc<Self>, connection: &quinn::Connection) -> Hold {
        this.held().entry(connection.stable_id()).or_default().count += 1;
        Hold(Some((Arc::clone(this), connection.clone())))
    }

    /// Closes the connection, now or when nothing holds it any more.
    fn send_away(&self, connection: &quinn::Connection, reason: &Refused) {
        match self.held().get_mut(&connection.stable_id()) {
            Some(of) => of.away = Some(reason.clone()),
            None => greet::close(connection, reason),
        }
    }
}

impl Endpoint {
    /// As [`disconnect_where`](Self::disconnect_where), on the client plane alone, for those who may well stay and are only to come
    /// back: a connection that is held ([`FeedSender::hold`]) is closed when it no longer is.
    ///
    /// [`FeedSender::hold`]: crate::FeedSender::hold
    pub fn send_away(&self, concerns: impl Fn(&Caller) -> bool, reason: &Refused) {
        for connection in &self.callers(concerns) {
            self.shared.holds.send_away(connection, reason);
        }
    }
}

impl Hold {
    pub(crate) const fn of_nothing() -> Self {
        Self(None)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some((holds, connection)) = self.0.take() else { return };
        let mut held = holds.held();
        let Some(of) = held.get_mut(&connection.stable_id()) else { return };
        of.count -= 1;
        if of.count > 0 {
            return;
        }
        let away = held.remove(&connection.stable_id()).and_then(|of| of.away);
        drop(held);
        if let Some(reason) = away {
            greet::close(&connection, &reason);
        }
    }
}
