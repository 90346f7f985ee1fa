//! What the leader clears away: old history, and clients that have been silent for long.
//!
//! Owns when. What goes is decided by replicated commands, each void when it is no longer true at apply, so that two
//! leaders, or a late one, do no harm. Runs on every manager, acts only on the one that holds the lease.
//!
//! Age is told by notes that each process takes of which revision was the newest when: one that has just started knows of
//! no age yet, and keeps history for longer, never for less.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use quorate_core::command::{Command, CommandKind, Compact, ExpireClients};
use quorate_core::id::{LogIndex, Revision};
use quorate_core::state::contract::StateStatus;
use quorate_core::state::read;
use tokio::time::Instant;

use super::policy::{self, History};
use super::router::Failure;
use super::service::{Service, blocking, broken};
use crate::config;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);
/// Notes over the longest time that is told: one a minute for an hour.
const NOTES: u32 = 60;
/// Clients forgotten at once.
const CLIENTS_AT_ONCE: usize = 256;
const PATIENCE: Duration = Duration::from_secs(5);

/// What was current when, over the last `kept`.
struct Notes<T> {
    taken: VecDeque<(Instant, T)>,
    kept: Duration,
}

impl<T: Copy> Notes<T> {
    const fn over(kept: Duration) -> Self {
        Self { taken: VecDeque::new(), kept }
    }

    /// Notes what is current now, if it is time to; the newest of the notes that are older than all this keeps.
    fn take(&mut self, now: Instant, current: T) -> Option<T> {
        let step = self.kept / NOTES;
        if self.taken.back().is_none_or(|(at, _)| now.duration_since(*at) >= step) {
            self.taken.push_back((now, current));
        }
        let mut old = None;
        while let Some((_, noted)) = self.taken.front().filter(|(at, _)| now.duration_since(*at) >= self.kept) {
            old = Some(*noted);
            self.taken.pop_front();
        }
        old
    }
}

/// Runs until the node stops.
pub(super) async fn run(service: Arc<Service>) {
    let mut clients = Notes::over(config::CLIENT_SILENCE);
    let mut revisions = Notes::over(config::HISTORY_AGE);
    let (mut silent_until, mut aged) = (LogIndex(0), Revision(0));
    let newest = service.workers.changes.revision();
    loop {
        tokio::time::sleep(EVERY).await;
        let now = Instant::now();
        let status = service.status.borrow().clone();
        let history = policy::history_in_force(&service.records.borrow().cluster);
        // The notes that are there serve a shorter time at once, and a longer one as they come.
        revisions.kept = history.age;
        silent_until = clients.take(now, status.applied).unwrap_or(silent_until);
        aged = revisions.take(now, *newest.borrow()).unwrap_or(aged);
        if status.lease.is_none() {
            continue;
        }
        match clear(&service, &history, aged, silent_until).await {
            // More may be silent: the next look goes on.
            Ok(CLIENTS_AT_ONCE..) => {}
            Ok(_) => silent_until = LogIndex(0),
            Err(error) => tracing::debug!(error = error.message, "clearing away is put off"),
        }
    }
}

/// Up to where history may go; `None` when there is not enough of it to be worth an entry of the log.
fn compact_to(status: &StateStatus, history: &History, aged: Revision, full: bool) -> Option<u64> {
    let (newest, oldest) = (status.revision.0, status.compact_revision.0);
    if full {
        // What is of the past takes room from what is of the present.
        return (newest > oldest).then_some(newest);
    }
    // A tenth more than is kept, so that the log does not get an entry for every revision.
    let many = newest - oldest > history.revisions.saturating_add(history.revisions / 10);
    let by_count = if many { newest - history.revisions } else { 0 };
    // Of another incarnation, or of a state that was replaced since: nothing is known of its age.
    let by_age = if aged.0 <= newest { aged.0 } else { 0 };
    Some(by_count.max(by_age)).filter(|to| *to > oldest)
}

/// How many silent clients it found.
async fn clear(service: &Service, history: &History, aged: Revision, silent_until: LogIndex) -> Result<usize, Failure> {
    let reader = service.store()?.reader;
    let (status, usage, clients) = blocking(move || {
        let view = reader.view();
        let seen = || {
            let nobody = silent_until == LogIndex(0);
            let clients =
                if nobody { Vec::new() } else { read::silent_clients(&*view, silent_until, CLIENTS_AT_ONCE)? };
            Ok((read::status(&*view)?, read::usage(&*view)?, clients))
        };
        seen().map_err(|error| broken(&error))
    })
    .await?;
    if let Some(revision) = compact_to(&status, history, aged, usage.full) {
        propose(service, CommandKind::Compact(Compact { revision })).await?;
    }
    let silent = clients.len();
    if silent > 0 {
        propose(service, CommandKind::ExpireClients(ExpireClients { clients })).await?;
    }
    Ok(silent)
}

async fn propose(service: &Service, kind: CommandKind) -> Result<(), Failure> {
    service.router.execute(Command::from(kind), Instant::now() + PATIENCE).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_told_once_it_is_older_than_what_is_kept() {
        let (start, minute) = (Instant::now(), Duration::from_secs(60));
        let mut notes = Notes::over(60 * minute);
        // Given a note a minute, and looks between them.
        for second in 0..3_600 {
            assert_eq!(notes.take(start + Duration::from_secs(second), second), None, "{second}");
        }
        assert_eq!(notes.taken.len(), 60);
        // When an hour has passed, then the first is told, and a minute later the second.
        assert_eq!(notes.take(start + 60 * minute, 3_600), Some(0));
        assert_eq!(notes.take(start + 60 * minute + minute / 2, 3_630), None);
        assert_eq!(notes.take(start + 61 * minute, 3_660), Some(60));
        // When much less is kept from now on, the newest of all that are too old is told.
        notes.kept = minute;
        assert_eq!(notes.take(start + 62 * minute, 3_720), Some(3_660));
    }

    #[test]
    fn history_goes_by_count_or_by_age_whichever_is_more_and_all_of_it_when_the_store_is_full() {
        let history = History { revisions: 100, age: Duration::from_secs(3_600) };
        let at = |revision, compact| StateStatus {
            revision: Revision(revision),
            compact_revision: Revision(compact),
            ..StateStatus::default()
        };
        let to = |status: &StateStatus, aged| compact_to(status, &history, Revision(aged), false);
        assert_eq!(to(&at(1_110, 1_000), 0), None, "a tenth more is let be");
        assert_eq!(to(&at(1_111, 1_000), 0), Some(1_011));
        assert_eq!(to(&at(1_111, 1_000), 1_050), Some(1_050), "what is older than an hour goes, too");
        assert_eq!(to(&at(1_110, 1_000), 1_000), None, "that is gone already");
        assert_eq!(to(&at(1_110, 1_000), 9_000), None, "a note of another state");
        assert_eq!(compact_to(&at(1_110, 1_000), &history, Revision(0), true), Some(1_110));
        assert_eq!(compact_to(&at(1_110, 1_110), &history, Revision(0), true), None);
        // A record of "keep everything" must stop nobody.
        let all = History { revisions: u64::MAX, age: Duration::MAX };
        assert_eq!(compact_to(&at(u64::MAX, 0), &all, Revision(0), false), None);
    }
}
