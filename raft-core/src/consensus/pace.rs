//! How long a tick is, so that changing it neither causes an election nor lets a lease outlive what it rests on.
//!
//! Owns the length in use. One length is asked for, in the cluster's record ([`ClusterRecord::tick_micros`]), and members
//! learn of a new one at different moments. Heartbeats therefore carry the leader's length, and their answers the length
//! that the follower has taken up:
//!
//! - A follower counts in ticks at least as long as its leader says, whatever its own record says. So the leader's lease,
//!   counted in the ticks that the heartbeats of its round carried, rests on members that count alike (design section 4,
//!   rule 8), and nobody gives up a leader whose heartbeats are only further apart.
//! - A leader says the longer length at once, and slows down only when every voter that is heard has taken it up.
//! - A longer length is taken up at once, a shorter one only after one base election timeout in the longer ticks: what
//!   rested on those has ended by then.
//!
//! Two gaps are known, both of members that forget the longer ticks in a restart: one that is restarted within that one
//! timeout after its cluster was made faster, and one that answered a heartbeat with longer ticks and crashes before the
//! record that asks for them was applied. Either grants no vote for one base election timeout after its start all the same,
//! but counts that one in the shorter ticks, while a lease may rest on it for one in the longer.
//!
//! [`ClusterRecord::tick_micros`]: crate::membership::record::ClusterRecord::tick_micros

use std::collections::BTreeMap;

use raft::eraftpb::{self, MessageType};

use super::Consensus;
use super::config::ELECTION_TICKS;
use crate::id::RaftId;

/// Shortest tick, nanoseconds: shorter ones are a wrong setting.
pub const TICK_NANOS_MIN: u64 = 1_000_000;
/// Longest tick, nanoseconds.
pub const TICK_NANOS_MAX: u64 = 10_000_000_000;

/// The length of this member's ticks.
#[derive(Debug)]
pub(super) struct Pace {
    /// While the cluster's record says nothing, or is not known.
    default: u64,
    /// In use.
    used: u64,
    /// What it is to be; never above `used`, and said in answers to heartbeats.
    wanted: u64,
    /// The tick since which no more than `wanted` has been wanted.
    wanted_since: u64,
    /// What the last heartbeat said, and whose it was; it counts while that one leads.
    leader: Option<(RaftId, u64)>,
    /// On the leader: what each voter last said, and in which tick.
    said: BTreeMap<RaftId, (u64, u64)>,
}

impl Pace {
    /// `micros` is what the cluster's record says, 0 when it says nothing.
    pub(super) fn new(default: u64, micros: u64) -> Self {
        let default = default.clamp(TICK_NANOS_MIN, TICK_NANOS_MAX);
        let tick = asked(default, micros);
        Self { default, used: tick, wanted: tick, wanted_since: 0, leader: None, said: BTreeMap::new() }
    }

    /// In use.
    pub(super) const fn used(&self) -> u64 {
        self.used
    }

    /// Leadership begins or ends: what was said to another leader counts no more. What a leader said stays: a new one is
    /// noticed only after its first heartbeat was heard, and the answer to that one counts for its lease already.
    pub(super) fn restart(&mut self) {
        self.said.clear();
    }

    fn want(&mut self, wanted: u64, tick: u64) {
        if wanted < self.wanted {
            self.wanted_since = tick;
        }
        self.wanted = wanted;
        let kept = tick.saturating_sub(self.wanted_since) >= u64::from(ELECTION_TICKS);
        if wanted > self.used || kept {
            self.used = wanted;
        }
    }
}

/// The length of a tick has changed: what was counted in ticks of the old length, and means a time, is turned into ticks of
/// the new one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rescale {
    /// Now.
    pub(super) tick: u64,
    pub(super) before: u64,
    pub(super) used: u64,
}

impl Rescale {
    fn ticks(self, ticks: u64) -> u64 {
        let scaled = u128::from(ticks) * u128::from(self.before) / u128::from(self.used.max(1));
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }

    /// A tick in the past. What began before the first tick there could be has begun with it: it counts as shorter, never
    /// as longer than it was.
    pub(super) fn past(self, at: u64) -> u64 {
        self.tick.saturating_sub(self.ticks(self.tick.saturating_sub(at)))
    }

    /// A tick to come.
    pub(super) fn future(self, at: u64) -> u64 {
        if at <= self.tick { at } else { self.tick.saturating_add(self.ticks(at - self.tick)).saturating_add(1) }
    }
}

fn asked(default: u64, micros: u64) -> u64 {
    if micros == 0 { default } else { micros.saturating_mul(1_000).clamp(TICK_NANOS_MIN, TICK_NANOS_MAX) }
}

/// As it stands in a message; `None` for what no sound member says.
const fn from_wire(micros: u64) -> Option<u64> {
    let nanos = micros.saturating_mul(1_000);
    if nanos >= TICK_NANOS_MIN && nanos <= TICK_NANOS_MAX { Some(nanos) } else { None }
}

impl Consensus {
    /// The length of a tick in use, nanoseconds: how often the driver is to say [`Input::Tick`].
    ///
    /// [`Input::Tick`]: super::io::Input::Tick
    pub const fn tick_nanos(&self) -> u64 {
        self.pace.used()
    }

    /// What the cluster's record asks for.
    fn tick_asked(&self) -> u64 {
        asked(self.pace.default, self.records.cluster.tick_micros)
    }

    /// What a heartbeat says: also the longer length that its followers are to take up before this leader does.
    pub(super) fn tick_offered(&self) -> u64 {
        self.pace.used.max(self.tick_asked())
    }

    pub(super) fn tick_pace(&mut self) {
        let before = self.pace.used;
        let asked = self.tick_asked();
        let wanted = if self.is_leader() {
            let voters = self.configuration.all_voters();
            let tick = self.tick;
            self.pace.said.retain(|id, (at, _)| voters.contains(id) && tick - *at <= u64::from(ELECTION_TICKS));
            self.pace.said.values().map(|(_, said)| *said).min().map_or(asked, |least| asked.min(least))
        } else {
            let leader = self.leader();
            let said = self.pace.leader.filter(|(id, _)| Some(*id) == leader);
            said.map_or(asked, |(_, pace)| asked.max(pace))
        };
        self.pace.want(wanted, self.tick);
        self.config.tick_nanos = self.pace.used;
        if self.pace.used != before {
            let to = Rescale { tick: self.tick, before, used: self.pace.used };
            self.members.rescale(to);
            self.disk.rescale(to);
        }
        if self.pace.used > before {
            // The lease in force was counted in shorter ticks: it must not wait for the next heartbeat.
            self.renew_lease();
        }
    }

    /// Writes what this member says about its ticks into a message that leaves. Raft has no use for the field in these two.
    pub(super) fn stamp_pace(&self, message: &mut eraftpb::Message) {
        let kind = message.msg_type();
        if kind == MessageType::MsgHeartbeat {
            message.reject_hint = self.tick_offered() / 1_000;
        } else if kind == MessageType::MsgHeartbeatResponse {
            message.reject_hint = self.pace.wanted / 1_000;
        }
    }

    /// A message that raft has taken said something about its sender's ticks.
    pub(super) fn note_pace(&mut self, from: RaftId, kind: MessageType, micros: u64) {
        let Some(said) = from_wire(micros) else { return };
        if kind == MessageType::MsgHeartbeat && self.raw.raft.leader_id == from.0 {
            self.pace.leader = Some((from, said));
        } else if kind == MessageType::MsgHeartbeatResponse && self.is_leader() && self.configuration.is_voter(from) {
            self.pace.said.insert(from, (self.tick, said));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAN: u64 = 20_000_000;
    const WAN: u64 = 150_000_000;

    #[test]
    fn a_longer_tick_is_used_at_once_and_a_shorter_one_after_a_timeout_in_the_longer_one() {
        let mut pace = Pace::new(LAN, 0);
        pace.want(WAN, 100);
        assert_eq!((pace.used, pace.wanted), (WAN, WAN));
        // The shorter one is told at once, and used one base election timeout later.
        pace.want(LAN, 200);
        assert_eq!((pace.used, pace.wanted), (WAN, LAN));
        pace.want(LAN, 219);
        assert_eq!(pace.used, WAN);
        pace.want(LAN, 220);
        assert_eq!((pace.used, pace.wanted), (LAN, LAN));
    }

    #[test]
    fn a_longer_one_in_between_begins_the_wait_anew() {
        let mut pace = Pace::new(LAN, WAN / 1_000);
        pace.want(LAN, 100);
        pace.want(WAN, 110);
        pace.want(LAN, 115);
        pace.want(LAN, 125);
        assert_eq!(pace.used, WAN);
        pace.want(LAN, 135);
        assert_eq!(pace.used, LAN);
    }

    #[test]
    fn a_time_counted_in_ticks_stays_the_same_time_in_ticks_of_another_length() {
        let slower = Rescale { tick: 10_000, before: LAN, used: WAN };
        // 15 s ago, and 30 s ahead.
        assert_eq!(slower.past(10_000 - 750), 10_000 - 100);
        assert_eq!(slower.future(10_000 + 1_500), 10_000 + 200 + 1);
        assert_eq!(slower.future(9_000), 9_000);
        let faster = Rescale { tick: 1_000, before: WAN, used: LAN };
        assert_eq!(faster.past(900), 250);
        assert_eq!(faster.future(1_200), 1_000 + 1_500 + 1);
        // There are no ticks before the first.
        assert_eq!(faster.past(100), 0);
    }

    #[test]
    fn a_length_that_no_member_has_is_not_taken_from_the_wire() {
        assert_eq!(from_wire(20_000), Some(LAN));
        for wrong in [0, 999, 10_000_001, u64::MAX] {
            assert_eq!(from_wire(wrong), None, "{wrong}");
        }
    }
}
