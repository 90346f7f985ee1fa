//! When the others are told what is committed.
//!
//! Owns that moment. Entries that leave say what is committed before them, so whoever writes one after the other has told
//! everybody with the next one; a message of its own, and the answer to it, would cost as much as the entries do. After a lull
//! it is told by itself, and at once where another member waits for it. Followers apply, and so tell watchers and answer reads
//! without a quorum, that much later; nothing that is promised rests on it. Called by the machine.

use super::Consensus;
use super::io::Nanos;

/// How long what is committed waits for entries to go with, nanoseconds: longer than a client needs from an answer to its next
/// request, where that is quick. A driver whose timers have milliseconds makes one of it on average.
pub(super) const LULL_NANOS: u64 = 500_000;

/// What has been told.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// Everybody who takes messages was sent this commit index.
    told: u64,
    /// When the one that is newer is told by itself.
    due: Option<Nanos>,
}

impl Consensus {
    /// When this machine is to be stepped at the latest, though nothing has come in by then.
    pub const fn due(&self) -> Option<Nanos> {
        self.commits.due
    }

    /// Entries have been sent to everybody, and with them what is committed.
    pub(super) fn commit_went_with_entries(&mut self) {
        self.commits.told = self.raw.raft.raft_log.committed;
        self.commits.due = None;
    }

    /// Tells it when its time has come, and sees to it that the time comes.
    pub(super) fn tell_commit_in_time(&mut self) {
        let others = || self.raw.raft.prs().iter().any(|(id, _)| *id != self.config.id.0);
        if !self.is_leader() || self.raw.raft.raft_log.committed <= self.commits.told || !others() {
            self.commits.due = None;
            return;
        }
        let lull_ends = Nanos(self.now.0.saturating_add(LULL_NANOS));
        if *self.commits.due.get_or_insert(lull_ends) <= self.now {
            self.tell_commit();
            self.drive();
        }
    }

    /// Tells it now. Who takes no message at the moment hears of it with the next one, or with a heartbeat.
    pub(super) fn tell_commit(&mut self) {
        if self.is_leader() && self.raw.raft.raft_log.committed > self.commits.told {
            self.raw.raft.bcast_append();
            self.commit_went_with_entries();
        }
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::MessageType;

    use super::super::harness::Member;
    use super::super::io::Input;
    use super::*;
    use crate::id::RaftId;

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
        // Given a leader with something committed that nobody was told of
        let mut member = Member::leading();
        member.passes(LULL_NANOS);
        let written = member.writes(1);
        member.sent.clear();
        // When another member asks it to confirm a read
        member.step([super::super::harness::from(2, MessageType::MsgReadIndex, |asks| {
            asks.entries = vec![raft::eraftpb::Entry { data: b"context".to_vec(), ..Default::default() }];
        })]);
        // Then what it is to read can be applied there without waiting for the lull.
        let mut sent = appends(&mut member);
        sent.sort_unstable();
        assert_eq!(sent, [2, 3].map(|to| (to, written, false)));
        assert_eq!(member.machine.due(), None);
    }

    #[test]
    fn who_leads_no_more_tells_nothing() {
        // Given a leader that waits for the lull
        let mut member = Member::leading();
        member.passes(LULL_NANOS);
        member.writes(1);
        assert!(member.machine.due().is_some());
        // When another one leads, then there is nothing to be woken for.
        member.step([super::super::harness::from(2, MessageType::MsgHeartbeat, |says| says.term = 9)]);
        assert_eq!((member.machine.leader(), member.machine.due()), (Some(RaftId(2)), None));
        member.sent.clear();
        member.passes(LULL_NANOS);
        member.step([Input::Tick(0)]);
        assert_eq!(appends(&mut member), []);
    }
}
