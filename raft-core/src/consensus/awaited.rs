//! Whether anything waits for the log writer or the applier.
//!
//! Owns one judgement: which of their reports make a difference now. All others may come with whatever comes next, a tick at
//! the latest: nobody is to be woken for them. Whoever is wrong here makes somebody wait for a tick, and nothing else.
//! Called by the driver after each step, and by whoever reports.

use super::Consensus;
use super::io::Input;

/// What the machine waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Awaited {
    /// That something is on disk.
    pub disk: bool,
    /// That something is applied.
    pub applier: bool,
}

impl Awaited {
    /// Whether this report is to be brought to the machine at once.
    pub const fn is_for(self, report: &Input) -> bool {
        if let Input::Persisted { .. } = report {
            return self.disk;
        }
        if let Input::Applied { records: None, leases, .. } = report {
            return self.applier || !leases.is_empty();
        }
        true
    }
}

impl Consensus {
    /// What it waits for, after the last step.
    pub fn awaits(&self) -> Awaited {
        let either = !self.may_write() || self.installing.is_some() || self.raw.snap().is_some();
        let (writes, applies) = (!self.unpersisted.is_empty(), !self.backlog.is_empty());
        Awaited {
            disk: writes && (either || self.awaits_disk()),
            applier: applies && (either || self.awaits_applier()),
        }
    }

    fn awaits_disk(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        // With this member's own copy there may be a majority.
        let counts = || {
            let mut others = self.raw.raft.prs().iter().filter(|(id, _)| **id != self.config.id.0).peekable();
            others.peek().is_none()
                || self.configuration.all_voters() == [self.config.id]
                || others.any(|(_, progress)| progress.matched > log.committed)
        };
        let speaks = self.unpersisted.iter().any(|write| !write.messages.is_empty());
        let proposes = self.is_leader() && (!self.queue.is_empty() || counts());
        speaks || proposes || log.committed > log.persisted || self.writer_is_behind()
    }

    fn awaits_applier(&self) -> bool {
        let takes_over = self.is_leader() && self.applied < self.leadership.first_index();
        takes_over
            || self.reads.wait_for_the_applier()
            || self.freshness.waits_for_the_applier()
            || self.leases.wait_for_the_applier()
            || self.raw.raft.has_pending_conf()
            || self.backlog_is_full()
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::{self, MessageType};

    use super::super::commits::LULL_NANOS;
    use super::super::harness::{Member, from};
    use super::super::io::Ticket;
    use super::*;
    use crate::id::{LeaseId, LogIndex};
    use crate::state::contract::{LeaseChange, LeaseEvent};

    fn disk(disk: bool) -> Awaited {
        Awaited { disk, applier: false }
    }

    #[test]
    fn a_follower_waits_for_its_disk_only_where_something_may_be_applied_then() {
        // Given a follower that writes an entry
        let mut member = Member::started();
        member.disk_hangs = true;
        let append = |index, commit| {
            from(2, MessageType::MsgAppend, |said| {
                (said.term, said.index, said.log_term, said.commit) =
                    (2, index - 1, if index == 2 { 1 } else { 2 }, commit);
                said.entries =
                    vec![eraftpb::Entry { term: 2, index, data: b"x".to_vec(), ..eraftpb::Entry::default() }];
            })
        };
        member.step([append(2, 1)]);
        // Then it is the log writer that acknowledges it, and nothing waits here.
        assert_eq!(member.machine.awaits(), disk(false));
        assert!(!member.machine.awaits().is_for(&Input::Persisted { number: 1 }));
        // When it is committed elsewhere before it is on disk here, then it may be applied once it is.
        member.step([append(3, 2)]);
        assert_eq!(member.machine.awaits(), disk(true));
    }

    #[test]
    fn a_leader_waits_for_its_disk_where_its_own_copy_makes_a_majority() {
        // Given a leader whose disk is slow, and whose followers have not answered
        let mut member = Member::leading();
        member.passes(LULL_NANOS);
        member.disk_hangs = true;
        member.lagging.extend([2, 3]);
        let written = member.writes(1);
        assert_eq!(member.machine.awaits(), disk(false));
        // When one of them has the entry, then the leader's own copy is what is missing.
        let term = member.machine.raw.raft.term;
        member.step([from(2, MessageType::MsgAppendResponse, |said| (said.term, said.index) = (term, written))]);
        assert_eq!(member.machine.awaits(), disk(true));
    }

    #[test]
    fn the_applier_is_waited_for_by_who_reads() {
        // Given a leader whose applier is slow, with something to apply
        let mut member = Member::leading();
        member.applier_hangs = true;
        let written = member.writes(1);
        assert_eq!(member.rounds, [LogIndex(written)]);
        let report = |leases| Input::Applied { index: LogIndex(written), records: None, leases };
        assert!(!member.machine.awaits().is_for(&report(Vec::new())));
        // (What the report brings may concern anybody.)
        let ended = LeaseChange { lease: LeaseId(1), event: LeaseEvent::Granted { ttl_ms: 1 } };
        assert!(member.machine.awaits().is_for(&report(vec![ended])));
        // When somebody wants to read, then the report is waited for.
        member.step([Input::Read { ticket: Ticket(9) }]);
        assert!(member.machine.awaits().is_for(&report(Vec::new())));
    }
}
