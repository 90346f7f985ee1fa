//! What the leader clears away: old history, and clients that have been silent for long.
//!
//! Owns when. What goes is decided by replicated commands, each void when it is no longer true at apply, so that two
//! leaders, or a late one, do no harm. Runs on every manager, acts only on the one that holds the lease.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use quorate_core::command::{Command, CommandKind, Compact, ExpireClients};
use quorate_core::consensus::io::Origin;
use quorate_core::id::LogIndex;
use quorate_core::state::read;
use tokio::time::Instant;

use super::router::Failure;
use super::service::{Service, blocking, broken};
use crate::config;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);
/// How often the applied index is noted, to know later which one was current an hour ago.
const SAMPLE: Duration = Duration::from_secs(60);
/// Clients forgotten at once.
const CLIENTS_AT_ONCE: usize = 256;
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs until the node stops.
pub(super) async fn run(service: Arc<Service>, history: u64) {
    let mut samples: VecDeque<(Instant, LogIndex)> = VecDeque::new();
    let mut silent_until = LogIndex(0);
    loop {
        tokio::time::sleep(EVERY).await;
        let status = service.status.borrow().clone();
        if samples.back().is_none_or(|(at, _)| at.elapsed() >= SAMPLE) {
            samples.push_back((Instant::now(), status.applied));
        }
        while let Some((_, index)) = samples.front().filter(|(at, _)| at.elapsed() >= config::CLIENT_SILENCE) {
            silent_until = *index;
            samples.pop_front();
        }
        if status.lease.is_none() {
            continue;
        }
        match clear(&service, history, silent_until).await {
            // More may be silent: the next look goes on.
            Ok(CLIENTS_AT_ONCE..) => {}
            Ok(_) => silent_until = LogIndex(0),
            Err(error) => tracing::debug!(error = error.message, "clearing away is put off"),
        }
    }
}

/// How many silent clients it found.
async fn clear(service: &Service, history: u64, silent_until: LogIndex) -> Result<usize, Failure> {
    let reader = service.store()?.reader;
    let (status, clients) = blocking(move || {
        let view = reader.view();
        let seen = || {
            let nobody = silent_until == LogIndex(0);
            let clients =
                if nobody { Vec::new() } else { read::silent_clients(&*view, silent_until, CLIENTS_AT_ONCE)? };
            Ok((read::status(&*view)?, clients))
        };
        seen().map_err(|error| broken(&error))
    })
    .await?;
    // A tenth more than is kept, so that the log does not get an entry for every revision.
    if status.revision.0 - status.compact_revision.0 > history + history / 10 {
        let revision = status.revision.0 - history;
        propose(service, CommandKind::Compact(Compact { revision })).await?;
    }
    let silent = clients.len();
    if silent > 0 {
        propose(service, CommandKind::ExpireClients(ExpireClients { clients })).await?;
    }
    Ok(silent)
}

async fn propose(service: &Service, kind: CommandKind) -> Result<(), Failure> {
    service.router.execute(Command::from(kind), Origin::Here, Instant::now() + PATIENCE).await.map(|_| ())
}
