//! The consensus machine's settings, all limits set: raft's own defaults bite (several are "unlimited").
//!
//! Owns the tick counts that all timing presets share (design section 4, rule 11) and their relations, checked when
//! the crate is compiled. Called by whoever makes a machine.

use crate::id::RaftId;
use crate::limits::{WAITING_BYTES_MAX, WAITING_MAX};
use crate::membership::plan::{LOST_AFTER_TICKS_MIN, SeatTimes};

/// Ticks between heartbeats.
pub const HEARTBEAT_TICKS: u32 = 4;
/// The base election timeout, ticks.
pub const ELECTION_TICKS: u32 = 20;
/// Shortest drawn election timeout, ticks.
pub const ELECTION_TICKS_MIN: u32 = 22;
/// Longest drawn election timeout, ticks.
pub const ELECTION_TICKS_MAX: u32 = 30;
/// Ticks delivered at once after a stall, so that a slow round does not become an election.
pub const TICKS_AT_ONCE_MAX: u32 = ELECTION_TICKS - 5;
/// Share of the base election timeout that a lease lasts, in per cent: 10 % is left for what clocks do.
pub const LEASE_PERCENT: u64 = 90;
/// Least patience with a disk that does not answer, ticks: an election that a stall caused is over by then.
pub const DISK_PATIENCE_TICKS_MIN: u64 = 2 * ELECTION_TICKS as u64;

/// Rounds ([`Effect::Apply`](super::io::Effect::Apply)) that are with the applier at once. What is committed beyond them is kept
/// here: a driver that queues more than so many never waits for its applier.
pub const ROUNDS_HANDED_MAX: usize = 256;
/// Writes ([`Effect::Persist`](super::io::Effect::Persist)) that are with the log writer at once, but for a few that finish what has
/// begun: above it nothing is taken in that would have to be written.
pub const WRITES_HANDED_MAX: usize = 512;

const _: () = assert!(HEARTBEAT_TICKS * 3 < ELECTION_TICKS);
const _: () = assert!(ELECTION_TICKS < ELECTION_TICKS_MIN && ELECTION_TICKS_MIN < ELECTION_TICKS_MAX);
const _: () = assert!(LEASE_PERCENT < 100);
const _: () = assert!(crate::succession::CLAIM_TICKS == 50 * ELECTION_TICKS as u64);
const _: () = assert!(LOST_AFTER_TICKS_MIN == 10 * ELECTION_TICKS as u64);
const _: () = assert!(DISK_PATIENCE_TICKS_MIN > ELECTION_TICKS_MAX as u64);

/// Settings of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This member.
    pub id: RaftId,
    /// Drawn by the driver at every start; read contexts and election timeouts come from it.
    pub entropy: u64,
    /// Length of a tick, nanoseconds: to begin with, until the cluster's record says another one, and then that in use.
    pub tick_nanos: u64,
    /// Entries kept in the log for followers that lag.
    pub log_window_entries: u64,
    /// Bytes kept in the log for followers that lag.
    pub log_window_bytes: u64,
    /// Bytes of applied entries kept in memory for sending.
    pub cache_bytes: u64,
    /// Bytes per append message.
    pub message_bytes_max: u64,
    /// Append messages in flight per follower.
    pub inflight_messages_max: usize,
    /// Bytes proposed and not committed; beyond it requests wait in the queue.
    pub uncommitted_bytes_max: u64,
    /// Bytes handed to the applier at once.
    pub apply_bytes_max: u64,
    /// Requests waiting for the log, or for a quorum round; beyond it they are refused as `Overloaded`.
    pub waiting_max: usize,
    /// Bytes of commands waiting for the log; beyond it they are refused as `OverloadedBytes`. One that is larger waits
    /// alone.
    pub waiting_bytes_max: usize,
    /// Bytes of commands in one entry.
    pub entry_bytes_max: usize,
    /// Entries proposed and not yet on the leader's disk: above it requests gather in the next entry.
    pub unpersisted_max: usize,
    /// The times of the odd rule where the cluster's record says nothing: lost after 30 s, a worker promoted after 5 min,
    /// a standby stable after 2 s.
    pub seat_times: SeatTimes,
    /// Entries that a standby may be behind and still count as caught up.
    pub caught_up_entries: u64,
    /// Time after its start, nanoseconds, for which a member neither campaigns nor votes unless every manager it knows was asked for
    /// its lineage before: an old incarnation must not elect itself beside the new one.
    pub ask_nanos: u64,
    /// Time for which the disk may leave work unanswered, nanoseconds, [`DISK_PATIENCE_TICKS_MIN`] at least; after it this
    /// member neither leads nor votes until the disk answers.
    pub disk_patience_nanos: u64,
    /// Time for which the log writer has had nothing to do, nanoseconds, after which it is given the hard state once more, to see
    /// whether the disk is there.
    pub disk_probe_nanos: u64,
    /// Free bytes below which this member appends nothing and neither leads nor votes; 0 is no such mark.
    pub space_low: u64,
    /// Free bytes from which it goes on.
    pub space_enough: u64,
}

impl Config {
    /// The defaults for this member, with a tick of 20 ms (`lan`).
    pub const fn new(id: RaftId, entropy: u64) -> Self {
        Self {
            id,
            entropy,
            tick_nanos: 20_000_000,
            log_window_entries: 10_000,
            log_window_bytes: 256 << 20,
            cache_bytes: 8 << 20,
            message_bytes_max: 512 << 10,
            inflight_messages_max: 256,
            uncommitted_bytes_max: 32 << 20,
            apply_bytes_max: 8 << 20,
            waiting_max: WAITING_MAX,
            waiting_bytes_max: WAITING_BYTES_MAX,
            entry_bytes_max: 1 << 20,
            unpersisted_max: 2,
            seat_times: SeatTimes::DEFAULT,
            caught_up_entries: 256,
            ask_nanos: 2_000_000_000,
            disk_patience_nanos: 3_000_000_000,
            disk_probe_nanos: 2_000_000_000,
            space_low: 0,
            space_enough: 0,
        }
    }
}

/// The base election timeout at this length of a tick, nanoseconds.
pub const fn election_nanos(tick_nanos: u64) -> u64 {
    tick_nanos * ELECTION_TICKS as u64
}

/// How long a quorum round extends the lease after it was sent, when those who answered count in ticks of this length,
/// nanoseconds.
pub const fn lease_nanos(tick_nanos: u64) -> u64 {
    election_nanos(tick_nanos) / 100 * LEASE_PERCENT
}
