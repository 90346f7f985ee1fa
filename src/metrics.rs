//! What a manager measures: one table of names, and the handles that the code counts with.
//!
//! Owns every name: `docs/metrics.md`, the descriptions given to the exporter, `contrib/alerts.yml` and the tests are compared
//! with [`METRICS`]. Everything goes through the `metrics` facade, labelled by node, to whatever recorder the process has
//! installed *before* the node starts; without one it costs a branch. Nothing is registered or formatted per request. Never
//! decides anything: what is measured here, nobody reads.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Label, SharedString};

/// What one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at each start of the process.
    Counter,
    /// What is now.
    Gauge,
    /// How values are spread.
    Histogram,
}

/// What it is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things: requests, entries, managers; or 1 for yes and 0 for no.
    Count,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Days.
    Days,
}

impl Kind {
    /// The word in the docs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl Unit {
    /// The word in the docs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Count => "",
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
            Self::Days => "days",
        }
    }

    const fn facade(self) -> metrics::Unit {
        match self {
            // The facade knows no days; nothing of ours depends on it.
            Self::Count | Self::Days => metrics::Unit::Count,
            Self::Seconds => metrics::Unit::Seconds,
            Self::Bytes => metrics::Unit::Bytes,
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// The name, as it is scraped.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it is counted in.
    pub unit: Unit,
    /// Labels beside `node`, which every one has: the node's name, or its id when it has none.
    pub labels: &'static [&'static str],
    /// What it says, in words.
    pub help: &'static str,
}

/// Something that is registered once and counted with often.
trait Handle {
    fn register(name: &'static str, labels: Vec<Label>) -> Self;

    /// The node is no manager any more. What was counted stays; what is now is not known.
    fn end(&self) {}
}

impl Handle for Counter {
    fn register(name: &'static str, labels: Vec<Label>) -> Self {
        metrics::counter!(name, labels)
    }
}

impl Handle for Gauge {
    /// From 0: a manager that ran in this process before has left it without a value.
    fn register(name: &'static str, labels: Vec<Label>) -> Self {
        let gauge = metrics::gauge!(name, labels);
        gauge.set(0.0);
        gauge
    }

    fn end(&self) {
        self.set(f64::NAN);
    }
}

impl Handle for Histogram {
    fn register(name: &'static str, labels: Vec<Label>) -> Self {
        metrics::histogram!(name, labels)
    }
}

/// The table, a handle for each row without labels of its own, and a constant for the name of each row with some.
macro_rules! table {
    (
        plain { $($field:ident: $kind:ident $unit:ident $name:literal $help:literal;)* }
        labelled { $($constant:ident: $lkind:ident $lunit:ident $lname:literal [$($label:literal),+] $lhelp:literal;)* }
    ) => {
        /// Every metric there is.
        pub const METRICS: &[Metric] = &[
            $(Metric { name: $name, kind: Kind::$kind, unit: Unit::$unit, labels: &[], help: $help },)*
            $(Metric { name: $lname, kind: Kind::$lkind, unit: Unit::$lunit, labels: &[$($label),+], help: $lhelp },)*
        ];

        $(const $constant: &str = $lname;)*

        /// The handles of one node.
        pub(crate) struct Meters {
            node: SharedString,
            $(pub(crate) $field: $kind,)*
            requests: Requests,
            peers: Mutex<BTreeMap<u64, Peer>>,
            checks: Mutex<BTreeMap<String, Gauge>>,
        }

        impl Meters {
            /// Registers everything that is not labelled further.
            pub(crate) fn new(node: &str) -> Self {
                describe();
                let node = SharedString::from(node.to_owned());
                Self {
                    $($field: Handle::register($name, vec![Label::new("node", node.clone())]),)*
                    requests: Requests::default(),
                    peers: Mutex::default(),
                    checks: Mutex::default(),
                    node,
                }
            }

            /// The node is no manager any more: no gauge of it says anything, so that no alert stays on.
            pub(crate) fn ended(&self) {
                $(self.$field.end();)*
                for (_, peer) in std::mem::take(&mut *self.peers.lock().unwrap_or_else(PoisonError::into_inner)) {
                    peer.ended();
                }
                for (_, check) in std::mem::take(&mut *self.checks.lock().unwrap_or_else(PoisonError::into_inner)) {
                    check.end();
                }
            }
        }
    };
}

table! {
    plain {
        log_fsync: Histogram Seconds "quorate_disk_log_fsync_duration_seconds"
            "Time of one synced write of the log: what every acknowledged write waits for on a majority of the voters.";
        log_bytes: Counter Bytes "quorate_disk_log_write_bytes_total"
            "Bytes of log entries written and synced.";
        log_entries: Counter Count "quorate_disk_log_entries_total"
            "Log entries written and synced; divided by the count of fsyncs: how many share one.";
        state_commit: Histogram Seconds "quorate_disk_state_commit_duration_seconds"
            "Time to apply one round of committed entries to the state, in one batch that is not synced (the log makes it reproducible).";
        disk_free: Gauge Bytes "quorate_disk_free_bytes"
            "Free bytes of the file system that the store lies on.";
        disk_silent: Gauge Seconds "quorate_disk_silent_seconds"
            "For how long the disk has left work unanswered, once that is too long: this manager neither leads nor votes. Else 0.";
        low_space: Gauge Count "quorate_disk_low_space"
            "1 while this manager takes no writes for lack of disk space.";
        db_size: Gauge Bytes "quorate_db_total_size_bytes"
            "Bytes of the store's files on disk: log, state, and what is not yet cleared away of both.";
        has_leader: Gauge Count "quorate_has_leader"
            "1 while this manager knows a leader.";
        is_leader: Gauge Count "quorate_is_leader"
            "1 while this manager leads.";
        is_voter: Gauge Count "quorate_is_voter"
            "1 while this manager has a seat; 0 on a standby.";
        leader_changes: Counter Count "quorate_leader_changes_seen_total"
            "Leaderships that this manager has seen begin.";
        term: Gauge Count "quorate_term"
            "The Raft term, which is the fencing token of its leadership.";
        generation: Gauge Count "quorate_generation"
            "Incarnations of the cluster so far: one more with every force-new-cluster.";
        voters: Gauge Count "quorate_voters"
            "Seats of the configuration in force.";
        quorum_margin: Gauge Count "quorate_quorum_margin"
            "Voters connected to this manager, itself included, less the majority needed: how many more may be lost. Negative: no quorum.";
        joint: Gauge Count "quorate_configuration_joint"
            "1 while two configurations are in force at once; it lasts as long as the change of seats.";
        single_copy: Gauge Count "quorate_single_copy"
            "On a leader that is the only voter: 1 while what it acknowledges may be on its own disk only.";
        commit_index: Gauge Count "quorate_commit_index"
            "Newest log index known to be committed.";
        applied_index: Gauge Count "quorate_applied_index"
            "Newest log index applied here.";
        apply_lag: Gauge Count "quorate_apply_lag_entries"
            "Committed entries that are not applied here yet.";
        state_age: Gauge Seconds "quorate_state_age_seconds"
            "How old this manager's state may be at most: every write acknowledged longer ago, anywhere, is in it. It grows on a manager that lost its quorum, and is NaN until a quorum has confirmed anything to this process.";
        revision: Gauge Count "quorate_store_revision"
            "The store's revision here.";
        store_used: Gauge Bytes "quorate_store_used_bytes"
            "What the store holds, as its quota counts it: live records, and history that can still be read.";
        store_quota: Gauge Bytes "quorate_store_quota_bytes"
            "What the store may hold.";
        store_full: Gauge Count "quorate_store_full"
            "1 while writes are refused because the store is full; deletes go on, and writes once nine tenths of the quota are left.";
        replay_clients: Gauge Count "quorate_replay_clients"
            "Clients in the replay table, which makes a retried write count once.";
        replay_bytes: Gauge Bytes "quorate_replay_bytes"
            "Cost of the replay table, as its limit counts it.";
        proposals_committed: Counter Count "quorate_proposals_committed_total"
            "Log entries that were committed here since the process began.";
        proposals_applied: Counter Count "quorate_proposals_applied_total"
            "Log entries that were applied here since the process began.";
        proposals_pending: Gauge Count "quorate_proposals_pending"
            "Writes asked of this manager that have no outcome yet.";
        proposals_failed: Counter Count "quorate_proposals_failed_total"
            "Writes asked of this manager that were not taken, or of which nobody knows whether they were: no leader, overload, no space, deadline. A refusal by the store itself (a condition, a limit) is none.";
        proposal_duration: Histogram Seconds "quorate_proposal_duration_seconds"
            "Time from a write's arrival at this manager to its outcome: forwarded, synced on a majority, applied.";
        slow_apply: Counter Count "quorate_slow_apply_total"
            "Rounds of committed entries that took longer than 100 ms to apply.";
        read_indexes_failed: Counter Count "quorate_read_indexes_failed_total"
            "Linearizable reads that no quorum confirmed.";
        slow_read_indexes: Counter Count "quorate_slow_read_indexes_total"
            "Linearizable reads that a quorum took longer than one election timeout to confirm.";
        snapshots_sent: Counter Count "quorate_snapshots_sent_total"
            "Snapshots sent to their end.";
        snapshots_failed: Counter Count "quorate_snapshots_failed_total"
            "Snapshots that failed on the way.";
        snapshots_installed: Counter Count "quorate_snapshots_installed_total"
            "Snapshots installed here: this manager was too far behind for the log.";
        snapshots_refused: Counter Count "quorate_snapshots_refused_total"
            "Snapshots received here and not wanted.";
        sessions: Gauge Count "quorate_sessions"
            "Workers that have their session with this manager.";
        watches: Gauge Count "quorate_watches"
            "Watches that this manager serves.";
        watches_cut: Counter Count "quorate_watches_cut_total"
            "Watches that were cut because they took what they were told too slowly; they go on from the store, and miss nothing.";
        requests_under_way: Gauge Count "quorate_requests_under_way"
            "Requests that this manager has not answered yet.";
        request_bytes: Gauge Bytes "quorate_request_bytes_under_way"
            "Bytes of the requests, of clients and of other managers, that this manager has read and not answered yet; such below 4 KiB count nothing. At most 64 MiB for each of the two.";
        requests_turned_away: Counter Count "quorate_requests_turned_away_total"
            "Requests that were not read because too many bytes were under way and waiting; who asked tries again a little later.";
        answer_bytes: Gauge Bytes "quorate_answer_bytes_waiting"
            "Bytes of the answers, to clients and to other managers, that this manager has made and that are not taken yet; such below 4 KiB count nothing. At most 64 MiB for each of the two, 16 MiB of it on one client's connection, and twice that again that waits for room.";
        answers_cut: Counter Count "quorate_answers_cut_total"
            "Callers that were cut because they did not take an answer within 30 s.";
        certificate: Gauge Days "quorate_certificate_days_left"
            "Days until this node's certificate runs out; it is renewed at half of its life, 90 days by default. Negative: it has run out.";
        ready: Gauge Count "quorate_ready"
            "1 while this manager is ready to serve, as /readyz says it.";
    }
    labelled {
        REQUESTS: Counter Count "quorate_requests_total" ["kind", "outcome"]
            "Requests answered, of clients, nodes and other managers; outcome is done, refused (it never will be), unavailable (try again), unknown (it may have been done) or internal.";
        REQUEST_DURATION: Histogram Seconds "quorate_request_duration_seconds" ["kind"]
            "Time from a request's arrival to its answer.";
        PEER_CONNECTED: Gauge Count "quorate_network_peer_connected" ["peer"]
            "1 while there is a connection to this manager; NaN for one that is no member any more.";
        PEER_ROUND_TRIP: Gauge Seconds "quorate_network_peer_round_trip_time_seconds" ["peer"]
            "Smoothed round-trip time to a manager; NaN while it is not connected.";
        PEER_SENT_FAILURES: Counter Count "quorate_network_peer_sent_failures_total" ["peer"]
            "Raft messages that could not be handed to the connection: there was none, or its queue was full.";
        REPLICATION_LAG: Gauge Count "quorate_replication_lag_entries" ["peer"]
            "On the leader: log entries that are not known to be on this manager's disk; NaN on the others.";
        READY_CHECK: Gauge Count "quorate_ready_check" ["check"]
            "1 where a check of /readyz holds.";
        BUILD: Gauge Count "quorate_build_info" ["version"]
            "1, and the software's version.";
    }
}

/// Tells the recorder in force what every metric says and is counted in. A node does it when it starts.
pub fn describe() {
    for metric in METRICS {
        let (name, unit, help) = (metric.name, metric.unit.facade(), metric.help);
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(name, unit, help),
            Kind::Gauge => metrics::describe_gauge!(name, unit, help),
            Kind::Histogram => metrics::describe_histogram!(name, unit, help),
        }
    }
}

/// Rounds of the applier from this length on are counted as slow.
const SLOW_APPLY: Duration = Duration::from_millis(100);

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Ended {
    Done,
    Refused,
    Unavailable,
    Unknown,
    Internal,
}

impl Ended {
    const COUNT: usize = 5;

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
            Self::Internal => "internal",
        }
    }
}

/// Registered when a kind of request is first met.
#[derive(Default)]
struct Requests(OnceLock<Box<[PerKind]>>);

#[derive(Default)]
struct PerKind {
    duration: OnceLock<Histogram>,
    ended: [OnceLock<Counter>; Ended::COUNT],
}

/// The handles for one other manager.
struct Peer {
    name: String,
    connected: Gauge,
    round_trip: Gauge,
    lag: Gauge,
    sent_failures: Counter,
}

impl Peer {
    fn ended(&self) {
        [&self.connected, &self.round_trip, &self.lag].into_iter().for_each(Handle::end);
    }
}

/// What is known of one other manager.
pub(crate) struct PeerFigures<'a> {
    pub(crate) id: u64,
    pub(crate) name: &'a str,
    /// Of a connected one.
    pub(crate) round_trip: Option<Duration>,
    /// On the leader.
    pub(crate) lag: Option<u64>,
}

impl Meters {
    fn labels(&self, more: &[(&'static str, &str)]) -> Vec<Label> {
        let node = Label::new("node", self.node.clone());
        std::iter::once(node).chain(more.iter().map(|(key, value)| Label::new(*key, (*value).to_owned()))).collect()
    }

    /// A round of the applier.
    pub(crate) fn applied(&self, took: Duration, entries: usize, revision: u64) {
        self.state_commit.record(took);
        if took > SLOW_APPLY {
            self.slow_apply.increment(1);
        }
        self.proposals_applied.increment(entries as u64);
        self.revision.set(revision as f64);
    }

    /// A request was answered. `row` and `kinds` number the kinds of requests.
    pub(crate) fn answered(&self, row: usize, kinds: &[&'static str], took: Duration, ended: Ended) {
        let rows = self.requests.0.get_or_init(|| kinds.iter().map(|_kind| PerKind::default()).collect());
        let (Some(handles), Some(kind)) = (rows.get(row), kinds.get(row)) else { return };
        let duration = || Handle::register(REQUEST_DURATION, self.labels(&[("kind", kind)]));
        handles.duration.get_or_init(duration).record(took);
        if let Some(counter) = handles.ended.get(ended as usize) {
            let labels = || self.labels(&[("kind", kind), ("outcome", ended.word())]);
            counter.get_or_init(|| Handle::register(REQUESTS, labels())).increment(1);
        }
    }

    /// Messages to this manager were dropped.
    pub(crate) fn unsent(&self, peer: u64, count: u64) {
        // Before anything is known of it nothing can have been sent to it either.
        if let Some(peer) = self.peers.lock().unwrap_or_else(PoisonError::into_inner).get(&peer) {
            peer.sent_failures.increment(count);
        }
    }

    /// All other managers as they are now.
    pub(crate) fn peers<'a>(&self, figures: impl Iterator<Item = PeerFigures<'a>>) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut met = Vec::new();
        for peer in figures {
            met.push(peer.id);
            if peers.get(&peer.id).is_none_or(|known| known.name != peer.name) {
                peers.insert(peer.id, self.peer(peer.name));
            }
            let Some(handles) = peers.get(&peer.id) else { continue };
            handles.connected.set(f64::from(u8::from(peer.round_trip.is_some())));
            handles.round_trip.set(peer.round_trip.map_or(f64::NAN, |time| time.as_secs_f64()));
            handles.lag.set(peer.lag.map_or(f64::NAN, |lag| lag as f64));
        }
        // A gauge cannot be taken back; what is no number trips no alert.
        peers.retain(|id, gone| {
            let member = met.contains(id);
            if !member {
                gone.ended();
            }
            member
        });
    }

    fn peer(&self, name: &str) -> Peer {
        let labels = || self.labels(&[("peer", name)]);
        Peer {
            name: name.to_owned(),
            connected: Handle::register(PEER_CONNECTED, labels()),
            round_trip: Handle::register(PEER_ROUND_TRIP, labels()),
            lag: Handle::register(REPLICATION_LAG, labels()),
            sent_failures: Handle::register(PEER_SENT_FAILURES, labels()),
        }
    }

    /// What a check of readiness says.
    pub(crate) fn check(&self, name: &str, holds: bool) {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        let value = f64::from(u8::from(holds));
        if let Some(known) = checks.get(name) {
            known.set(value);
        } else {
            let gauge: Gauge = Handle::register(READY_CHECK, self.labels(&[("check", name)]));
            gauge.set(value);
            checks.insert(name.to_owned(), gauge);
        }
    }

    /// Which software this is.
    pub(crate) fn build(&self, version: &str) {
        let gauge: Gauge = Handle::register(BUILD, self.labels(&[("version", version)]));
        gauge.set(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_end_as_their_kind_and_unit_say() {
        let mut names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
        for Metric { name, kind, unit, help, .. } in METRICS {
            assert!(name.starts_with("quorate_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert_eq!(name.contains("_seconds"), *unit == Unit::Seconds, "{name}");
            assert_eq!(name.contains("_bytes"), *unit == Unit::Bytes, "{name}");
            assert!(help.ends_with('.'), "{name}");
        }
    }
}
