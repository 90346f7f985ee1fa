//! When the others are told what is committed.
//!
//! Owns that moment. Entries that leave say what is committed before them, so whoever writes one after the other has told
//! everybody with the next one; a message of its own, and the answer to it, would cost as much as the entries do. After a lull
//! it is told by itself. It is told at once where a watch waits for it: such a member says so with every answer to a heartbeat,
//! in a field that raft leaves unused there. And where a read waits for it: the heartbeats of its round tell it, or a message
//! does, to a member that has not acknowledged that much. Without a watch followers apply, and so answer reads without
//! a quorum, that much later; nothing that is promised rests on it. Called by the machine.

use std::collections::BTreeSet;

use raft::eraftpb::{self, MessageType};

use super::Consensus;
use super::io::Nanos;
use crate::id::RaftId;

/// How long what is committed waits for entries to go with, nanoseconds: longer than a client needs from an answer to its next
/// request, where that is quick. A driver whose timers have milliseconds makes one of it on average.
pub(super) const LULL_NANOS: u64 = 500_000;
/// Stands in the priority of a heartbeat answer, where raft itself writes and reads nothing: somebody watches here.
const WATCHED: i64 = 1;

/// What has been told.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// Everybody who takes messages was sent this commit index,
    told: u64,
    /// and this one was whoever has a watch.
    told_to_watched: u64,
    /// When the one that is newer is told by itself.
    due: Option<Nanos>,
    /// Somebody watches here.
    watched: bool,
    /// On the leader: who said that somebody watches there.
    others_watched: BTreeSet<RaftId>,
}

impl Commits {
    /// Another leader, or none: whoever has a watch tells the next one.
    pub(super) fn leadership_changed(&mut self) {
        self.others_watched.clear();
    }
}

impl Consensus {
    /// When this machine is to be stepped at the latest, though nothing has come in by then.
    pub const fn due(&self) -> Option<Nanos> {
        self.commits.due
    }

    /// Somebody watches here, or nobody does any more.
    pub(super) const fn on_watched(&mut self, watched: bool) {
        self.commits.watched = watched;
    }

    /// Says on the way out, and hears on the way in, where somebody watches.
    pub(super) fn stamp_watched(&self, message: &mut eraftpb::Message) {
        let says = message.msg_type() == MessageType::MsgHeartbeatResponse && self.commits.watched;
        // (Who is low on space says that. It takes no entries, and so has nothing to tell.)
        if says && message.priority == 0 {
            message.priority = WATCHED;
        }
    }

    /// See [`stamp_watched`](Self::stamp_watched).
    pub(super) fn hear_of_watches(&mut self, from: RaftId, message: &eraftpb::Message) {
        if message.msg_type() != MessageType::MsgHeartbeatResponse || !self.is_leader() {
            return;
        }
        if message.priority != WATCHED {
            self.commits.others_watched.remove(&from);
        } else if self.commits.others_watched.insert(from) {
            self.commits.told_to_watched = self.commits.told;
        }
    }

    /// Entries have been sent to everybody, and with them what is committed.
    pub(super) fn commit_went_with_entries(&mut self) {
        self.commits.told = self.raw.raft.raft_log.committed;
        self.commits.told_to_watched = self.commits.told;
        self.commits.due = None;
    }

    /// Tells it to whom it is due, and sees to it that the time comes for the others.
    pub(super) fn tell_commit_in_time(&mut self) {
        let committed = self.raw.raft.raft_log.committed;
        if !self.is_leader() || committed <= self.commits.told {
            self.commits.due = None;
            return;
        }
        let own = self.config.id.0;
        let others = self.raw.raft.prs().iter().map(|(id, _)| *id).filter(|id| *id != own);
        let (watched, unwatched): (Vec<u64>, Vec<u64>) =
            others.partition(|id| self.commits.others_watched.contains(&RaftId(*id)));
        let mut told = false;
        if committed > self.commits.told_to_watched {
            self.commits.told_to_watched = committed;
            told = self.tell_commit_to(&watched);
        }
        let lull_ends = Nanos(self.now.0.saturating_add(LULL_NANOS));
        if unwatched.is_empty() || *self.commits.due.get_or_insert(lull_ends) <= self.now {
            told |= self.tell_commit_to(&unwatched);
            self.commits.told = committed;
            self.commits.due = None;
        }
        if told {
            self.drive();
        }
    }

    /// Whoever waits to read elsewhere can do so once it has applied what is committed now. The heartbeats of its round say so much
    /// of it as it has acknowledged.
    pub(super) fn tell_commit_to_readers(&mut self) {
        let committed = self.raw.raft.raft_log.committed;
        if committed > self.commits.told {
            let progress = self.raw.raft.prs();
            let lags = |id: &u64| progress.get(*id).is_some_and(|progress| progress.matched < committed);
            let lagging: Vec<u64> = self.reads.others().map(|id| id.0).filter(lags).collect();
            self.tell_commit_to(&lagging);
        }
    }

    /// Tells it to these. Who takes no message at the moment hears of it with the next one, or with a heartbeat.
    fn tell_commit_to(&mut self, members: &[u64]) -> bool {
        for id in members {
            self.raw.raft.send_append(*id);
        }
        !members.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{Member, from};
    use super::super::io::Input;
    use super::*;

    /// The appends that were sent since, and whether each brings entries.
    fn appends(member: &mut Member) -> Vec<(u64, u64, bool)> {
        let sent = std::mem::take(&mut member.sent);
        let appends = sent.iter().filter(|message| message.msg_type() == MessageType::MsgAppend);
        appends.map(|message| (message.to, message.commit, !message.entries.is_empty())).collect()
    }

    #[test]
    fn what_is_committed_goes_with_the_next_entries() {
        // Given a leader that has told everything
        let mut member = Member::leading();
        member.passes(LULL_NANOS);
        member.sent.clear();
        // When two writes come one after the other within the lull
        let first = member.writes(1);
        assert_eq!(member.machine.raw.raft.raft_log.committed, first);
        let second = member.writes(2);
        // Then the second one tells of the first, and nothing else does.
        let expected: Vec<_> =
            [first - 1, first].iter().flat_map(|commit| [2, 3].map(|to| (to, *commit, true))).collect();
        let mut sent = appends(&mut member);
        sent.sort_by_key(|(to, commit, _)| (*commit, *to));
        assert_eq!(sent, expected);
        // When nothing more comes, then it is told by itself once the lull is over, and once.
        member.passes(LULL_NANOS - 1);
        assert_eq!(appends(&mut member), []);
        member.passes(1);
        let mut sent = appends(&mut member);
        sent.sort_unstable();
        assert_eq!(sent, [2, 3].map(|to| (to, second, false)));
        assert_eq!(member.machine.due(), None);
        member.passes(10 * LULL_NANOS);
        assert_eq!(appends(&mut member), []);
    }

    #[test]
    fn a_member_that_wants_to_read_is_told_at_once_what_is_committed() {
        let asks = |who| {
            from(who, MessageType::MsgReadIndex, |asks| {
                asks.entries = vec![eraftpb::Entry { data: b"context".to_vec(), ..eraftpb::Entry::default() }];
            })
        };
        // Given a leader with something committed that nobody was told of, and one member that has not acknowledged it
        let mut member = Member::leading();
        member.passes(LULL_NANOS);
        member.lagging.insert(2);
        let written = member.writes(1);
        member.sent.clear();
        // When the other one asks it to confirm a read, then the heartbeat of the round says what is to be applied for it.
        member.step([asks(3)]);
        let heartbeats = |sent: &[eraftpb::Message]| {
            let heartbeats = sent.iter().filter(|message| message.msg_type() == MessageType::MsgHeartbeat);
            heartbeats.map(|message| (message.to, message.commit)).collect::<BTreeSet<_>>()
        };
        assert_eq!(heartbeats(&member.sent), BTreeSet::from([(2, written - 1), (3, written)]));
        // (Raft sends the one that lags what it has not acknowledged, when it answers the heartbeat.)
        assert!(appends(&mut member).iter().all(|(to, _, _)| *to == 2));
        // When the one that lags asks, then it is told by a message that leaves before the heartbeats.
        member.step([asks(2)]);
        let first = member.sent.first().map(|message| (message.msg_type(), message.to, message.commit));
        assert_eq!(first, Some((MessageType::MsgAppend, 2, written)));
    }

    #[test]
    fn a_member_with_a_watch_is_told_at_once_what_is_committed() {
        let heartbeat = |says: &Member, watched: i64| {
            let term = says.machine.raw.raft.term;
            from(2, MessageType::MsgHeartbeatResponse, |said| (said.term, said.priority) = (term, watched))
        };
        // Given a leader, and one member of three at which somebody watches
        let mut member = Member::leading();
        member.passes(LULL_NANOS);
        member.step([heartbeat(&member, WATCHED)]);
        member.sent.clear();
        // When something is committed, then that one is told at once, and the other one after the lull.
        let written = member.writes(1);
        let mut sent = appends(&mut member);
        sent.sort_unstable();
        assert_eq!(sent, [(2, written - 1, true), (2, written, false), (3, written - 1, true)]);
        member.passes(LULL_NANOS);
        assert_eq!(appends(&mut member), [(3, written, false)]);
        // When somebody begins to watch in the lull, then nothing is waited for there.
        member.step([heartbeat(&member, 0)]);
        let written = member.writes(2);
        member.sent.clear();
        member.step([heartbeat(&member, WATCHED)]);
        assert_eq!(appends(&mut member), [(2, written, false)]);
        // When nobody does any more, then it may wait.
        member.passes(LULL_NANOS);
        member.step([heartbeat(&member, 0)]);
        member.sent.clear();
        let written = member.writes(3);
        assert!(appends(&mut member).iter().all(|(_, commit, _)| *commit < written));
    }

    #[test]
    fn a_member_tells_its_leader_whether_somebody_watches_there() {
        let mut member = Member::started();
        for (watched, says) in [(true, WATCHED), (false, 0)] {
            // Given a member at which somebody watches, or nobody does any more
            member.step([Input::Watched(watched)]);
            member.sent.clear();
            // When its leader sends a heartbeat, then the answer says it.
            member.step([from(2, MessageType::MsgHeartbeat, |said| said.term = 2)]);
            assert_eq!(member.sent.iter().map(|said| said.priority).collect::<Vec<_>>(), [says]);
        }
    }

    #[test]
    fn who_leads_no_more_tells_nothing() {
        // Given a leader that waits for the lull
        let mut member = Member::leading();
        member.passes(LULL_NANOS);
        member.writes(1);
        assert!(member.machine.due().is_some());
        // When another one leads, then there is nothing to be woken for.
        member.step([from(2, MessageType::MsgHeartbeat, |says| says.term = 9)]);
        assert_eq!((member.machine.leader(), member.machine.due()), (Some(RaftId(2)), None));
        member.sent.clear();
        member.passes(LULL_NANOS);
        member.step([Input::Tick(0)]);
        assert_eq!(appends(&mut member), []);
    }
}
