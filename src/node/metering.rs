//! What is measured by looking: once a second, and leaderships as they come.
//!
//! Owns no figure: it reads what others publish and sets the gauges. Called by nobody; it runs beside the requests for as
//! long as the node does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quorate_core::consensus::io::{RaftRole, Status};
use quorate_core::id::RaftId;
use quorate_core::membership::quorum::Quorum;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::service::{Service, display_name};
use crate::client::SOFTWARE;
use crate::metrics::PeerFigures;

const EVERY: Duration = Duration::from_secs(1);
const DAY: f64 = 86_400.0;

/// Runs until the node stops.
pub(super) async fn run(service: Arc<Service>, mut status: watch::Receiver<Arc<Status>>) {
    let mut led = None;
    let mut due = Instant::now();
    let mut seen = status.borrow().clone();
    service.meters.build(SOFTWARE);
    loop {
        let current = status.borrow_and_update().clone();
        // Nothing was published for a second: whether that is too long, readiness and liveness say.
        if !Arc::ptr_eq(&seen, &current) {
            service.pulse.beat();
            seen = Arc::clone(&current);
        }
        let leading = current.leader.map(|leader| (leader, current.term));
        if leading.is_some() && leading != led {
            led = leading;
            service.meters.leader_changes.increment(1);
        }
        if Instant::now() >= due {
            look(&service, &current);
            due = Instant::now() + EVERY;
        }
        if let Ok(Err(_stopped)) = timeout_at(due, status.changed()).await {
            return;
        }
    }
}

fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn look(service: &Service, status: &Status) {
    let meters = &service.meters;
    let configuration = &status.configuration;
    let leads = status.role == Some(RaftRole::Leader);
    meters.has_leader.set(flag(status.leader.is_some()));
    meters.is_leader.set(flag(leads));
    meters.is_voter.set(flag(configuration.voters.contains(&status.id)));
    meters.term.set(status.term.0 as f64);
    meters.generation.set(service.lineage().generation() as f64);
    meters.voters.set(configuration.voters.len() as f64);
    let seen = |id: RaftId| id == status.id || status.connected.contains(&id);
    meters.quorum_margin.set(Quorum::of(configuration).fault_tolerance(seen) as f64);
    meters.joint.set(flag(!configuration.voters_outgoing.is_empty()));
    meters.single_copy.set(flag(status.single_copy));
    meters.commit_index.set(status.commit.0 as f64);
    meters.applied_index.set(status.applied.0 as f64);
    meters.apply_lag.set(status.commit.0.saturating_sub(status.applied.0) as f64);
    meters.state_age.set(service.age_ms().map_or(f64::NAN, |age| Duration::from_millis(age).as_secs_f64()));
    meters.disk_silent.set(Duration::from_millis(service.milliseconds(status.disk_silent_ticks)).as_secs_f64());
    meters.low_space.set(flag(status.low_space.is_some()));
    meters.snapshots_sent.absolute(status.snapshots.sent);
    meters.snapshots_failed.absolute(status.snapshots.failed);
    meters.snapshots_installed.absolute(status.snapshots.installed);
    meters.snapshots_refused.absolute(status.snapshots.refused);
    meters.watches.set(service.watches.count() as f64);
    meters.watches_cut.absolute(service.watches.cuts());
    meters.sessions.set(service.workers.table.count() as f64);
    meters.requests_under_way.set(service.requests_under_way() as f64);
    meters.request_bytes.set(service.peers.request_bytes() as f64);
    meters.requests_turned_away.absolute(service.peers.requests_turned_away());
    meters.answer_bytes.set(service.peers.answer_bytes() as f64);
    meters.answers_cut.absolute(service.peers.answers_cut());
    meters.certificate.set(service.certificate_seconds() / DAY);
    let readiness = service.readiness();
    meters.ready.set(flag(readiness.ready));
    for check in &readiness.checks {
        meters.check(&check.name, check.ok);
    }
    peers(service, status, leads);
}

fn peers(service: &Service, status: &Status, leads: bool) {
    let connected = service.peers.round_trips();
    let records = service.records.borrow().clone();
    let others: Vec<(RaftId, String)> = records
        .nodes
        .members()
        .filter_map(|node| Some((node.raft()?, display_name(node))))
        .filter(|(id, _)| *id != status.id)
        .collect();
    service.meters.peers(others.iter().map(|(id, name)| {
        PeerFigures {
            id: id.0,
            name,
            round_trip: connected.iter().find(|(connected, _)| connected == id).map(|(_, round_trip)| *round_trip),
            lag: status
                .progress
                .iter()
                .find(|progress| leads && progress.id == *id)
                .map(|progress| status.last.0.saturating_sub(progress.matched.0)),
        }
    }));
}

/// Bytes of all files below a directory; what vanishes meanwhile counts nothing. Blocks.
pub(crate) fn size(directory: &Path) -> u64 {
    let mut bytes = 0;
    let mut left: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => left.push(entry.path()),
                Ok(found) => bytes += found.len(),
                Err(_gone) => {}
            }
        }
    }
    bytes
}
