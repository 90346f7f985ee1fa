//! What others may see of a member.
//!
//! Owns the published picture, and the rule by which those who wait for a change of it are woken. Plain types. Called by the
//! consensus machine, which makes it, and by whoever drives that.

use super::io::Nanos;
use crate::id::{LogIndex, RaftId, Term};
use crate::log::Configuration;

/// What a member is, as Raft sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaftRole {
    /// Follows, or waits for a leader.
    Follower,
    /// Asks for votes (also a pre-candidate).
    Candidate,
    /// Leads.
    Leader,
}

/// A leadership that the embedder may act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The term: the fencing token.
    pub term: Term,
    /// Until when, on this process's monotonic clock, unless a quorum round extends it.
    pub until: Nanos,
}

/// A member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Who.
    pub id: RaftId,
    /// The highest index known to be on its disk.
    pub matched: LogIndex,
    /// It was heard of within one election timeout.
    pub heard: bool,
    /// It has nearly all of the log.
    pub caught_up: bool,
    /// Ticks since it was heard of in this leadership.
    pub silent_ticks: u64,
    /// Ticks for which it has been caught up and heard without a break.
    pub stable_ticks: u64,
    /// Ticks for which it has been on its way to be a ready standby.
    pub waiting_ticks: u64,
}

/// What others may see of this member. Published when anything but counters of time changed, and on every tick.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// This member.
    pub id: RaftId,
    /// Its term.
    pub term: Term,
    /// Follower, candidate, leader.
    pub role: Option<RaftRole>,
    /// Who leads, if known.
    pub leader: Option<RaftId>,
    /// Newest committed index known.
    pub commit: LogIndex,
    /// Newest applied index reported.
    pub applied: LogIndex,
    /// Last index of the log.
    pub last: LogIndex,
    /// The term of that entry.
    pub last_term: Term,
    /// The configuration handed to the applier.
    pub configuration: Configuration,
    /// Its number.
    pub configuration_number: u64,
    /// A configuration entry is in the log and not yet applied.
    pub changing: bool,
    /// On a leader that is the only voter, or was it a moment ago: something that it acknowledged may be on its own disk
    /// only. False while a standby has everything on disk before it is acknowledged, and on everybody else.
    pub single_copy: bool,
    /// The leadership that may be acted on.
    pub lease: Option<Lease>,
    /// Everything acknowledged anywhere before this moment is applied here; `None` while this process knows of no such
    /// moment. On this process's monotonic clock.
    pub as_of: Option<Nanos>,
    /// Ticks without a known leader.
    pub leaderless_ticks: u64,
    /// The length of a tick in use.
    pub tick: Nanos,
    /// Members this one is connected to, ascending.
    pub connected: Vec<RaftId>,
    /// On the leader: the others.
    pub progress: Vec<Progress>,
    /// Snapshots: built for sending, installed, refused.
    pub snapshots: SnapshotCounts,
    /// Ticks for which this member's disk has not answered, once that is too long: it neither leads nor votes. Else 0.
    pub disk_silent_ticks: u64,
    /// Free bytes, while they are too few: this member appends nothing and neither leads nor votes.
    pub low_space: Option<u64>,
    /// On the leader: so many voters are low on space that nothing can be written.
    pub read_only: bool,
}

impl Status {
    /// Whether `id` is this member, or connected to it.
    pub fn hears_from(&self, id: RaftId) -> bool {
        id == self.id || self.connected.contains(&id)
    }

    /// Voters, of both halves of a joint configuration, that this member is not connected to, ascending.
    pub fn missing(&self) -> Vec<RaftId> {
        self.configuration.all_voters().into_iter().filter(|id| !self.hears_from(*id)).collect()
    }
}

/// How often snapshots happened in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotCounts {
    /// Sent to their end.
    pub sent: u64,
    /// Failed on the way.
    pub failed: u64,
    /// Installed here.
    pub installed: u64,
    /// Received here and not wanted.
    pub refused: u64,
}

impl Status {
    /// Whether something has turned since `old`, rather than only gone on: entries that were committed and applied, and
    /// rounds that confirmed who leads, are no turn, and most of what is published is that. A lease that was over at `now`
    /// and holds again is one, since whoever looked in between saw none.
    pub fn is_a_turn_from(&self, old: &Self, now: Nanos) -> bool {
        let Self {
            id,
            term,
            role,
            leader,
            commit: _,
            applied: _,
            last: _,
            last_term: _,
            configuration,
            configuration_number,
            changing,
            single_copy,
            lease,
            as_of: _,
            leaderless_ticks,
            tick,
            connected,
            progress: _,
            snapshots,
            disk_silent_ticks,
            low_space,
            read_only,
        } = self;
        let holds_on = match (lease, &old.lease) {
            (Some(new), Some(old)) => new.term == old.term && old.until > now,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let stands = holds_on
            && (id, term, role, leader) == (&old.id, &old.term, &old.role, &old.leader)
            && (configuration_number, changing) == (&old.configuration_number, &old.changing)
            && (single_copy, read_only, low_space) == (&old.single_copy, &old.read_only, &old.low_space)
            && (leaderless_ticks, disk_silent_ticks) == (&old.leaderless_ticks, &old.disk_silent_ticks)
            && (tick, snapshots) == (&old.tick, &old.snapshots)
            && (configuration, connected) == (&old.configuration, &old.connected);
        !stands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A leader whose lease holds until 100.
    fn leads() -> Status {
        Status { lease: Some(Lease { term: Term(3), until: Nanos(100) }), leader: Some(RaftId(1)), ..Status::default() }
    }

    #[test]
    fn going_on_is_no_turn() {
        let on = Status {
            commit: LogIndex(9),
            applied: LogIndex(8),
            last: LogIndex(10),
            as_of: Some(Nanos(50)),
            lease: Some(Lease { term: Term(3), until: Nanos(200) }),
            ..leads()
        };
        assert!(!on.is_a_turn_from(&leads(), Nanos(60)));
        // Of a lease that was over when it was renewed somebody may have seen the end.
        assert!(on.is_a_turn_from(&leads(), Nanos(100)));
    }

    #[test]
    fn whatever_somebody_waits_for_is_a_turn() {
        let turns: [fn(&mut Status); 9] = [
            |status| status.leader = Some(RaftId(2)),
            |status| status.term = Term(4),
            |status| status.lease = None,
            |status| status.lease = Some(Lease { term: Term(4), until: Nanos(100) }),
            |status| status.connected.push(RaftId(2)),
            |status| status.configuration.voters.push(RaftId(2)),
            |status| status.leaderless_ticks = 1,
            |status| status.disk_silent_ticks = 1,
            |status| status.low_space = Some(1),
        ];
        for turn in turns {
            let mut turned = leads();
            turn(&mut turned);
            assert!(turned.is_a_turn_from(&leads(), Nanos(60)), "{turned:?}");
        }
    }
}
