//! The end of a rotation of the CA, and the time until then.
//!
//! Owns the leader's count: of the seconds in which it has led while the rotation was under way, in the machine's own ticks, so that
//! what it slept through, and what any wall clock says, is no time. What was counted is written down step by step, and a leader that
//! takes over goes on from there. When it is over is decided by [`crate::membership::trust`]; it is looked at when records have
//! changed, and once in a second. Each write is void unless the records still are what they were, so that two leaders, or a late one, do
//! no harm. Never begins a rotation: that takes keys. Called by the machine with each tick.

use std::sync::Arc;

use bytes::Bytes;

use super::Consensus;
use super::io::Records;
use crate::id::LogIndex;
use crate::membership::trust::{Moment, TrustRecord, TrustTime};
use crate::txn::{Compare, Delete, Op, Operand, Put, Relation, Txn};

const SECOND: u64 = 1_000_000_000;

/// What is counted of one rotation, in one term, from what was written down last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Of {
    term: u64,
    serial: u64,
    noted_s: u64,
}

/// The leader's count. Empty where this member does not lead, or no rotation is under way.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    counting: Option<Counting>,
    /// What the driver's wall clock said last; until it has said anything nobody's time is over.
    unix_s: u64,
    /// Records have changed, or a write waits.
    look: bool,
    /// This leadership has written this last: until it is applied nothing else is. (What an earlier one wrote may be in no log any
    /// more, and the log never grow to there while nobody writes.)
    written: LogIndex,
}

#[derive(Debug)]
struct Counting {
    of: Of,
    /// What the ticks had added up to when the count began, nanoseconds.
    since: u64,
    /// Seconds after which it was looked at last.
    looked_s: u64,
}

impl Rotation {
    pub(super) const fn clock(&mut self, unix_s: u64) {
        self.unix_s = unix_s;
    }

    pub(super) const fn look_again(&mut self) {
        self.look = true;
    }

    /// Seconds counted since what was written down, where it is time to look at it.
    fn due(&mut self, of: Of, running_nanos: u64) -> Option<u64> {
        let counting = match &mut self.counting {
            Some(counting) if counting.of == of => counting,
            other => other.insert(Counting { of, since: running_nanos, looked_s: 0 }),
        };
        let counted_s = running_nanos.saturating_sub(counting.since) / SECOND;
        let due = std::mem::take(&mut self.look) || counted_s != counting.looked_s;
        counting.looked_s = counted_s;
        due.then_some(counted_s)
    }
}

impl Consensus {
    pub(super) fn tick_rotation(&mut self) {
        if !self.is_leader() {
            (self.rotation.counting, self.rotation.written) = (None, LogIndex(0));
            return;
        }
        if !self.records.trust.is_rotating() {
            self.rotation.counting = None;
            return;
        }
        let records = Arc::clone(&self.records);
        let (trust, time) = (&records.trust, &records.trust_time);
        let of = Of { term: self.raw.raft.term, serial: trust.serial, noted_s: trust.passed_s(time) };
        let Some(counted_s) = self.rotation.due(of, self.running_nanos) else { return };
        if !self.is_settled() || self.applied < self.rotation.written {
            self.rotation.look = true;
            return;
        }
        let at = Moment { passed_s: of.noted_s.saturating_add(counted_s), unix_s: self.rotation.unix_s };
        let operators = records.operators.iter().map(|(_, operator)| operator);
        let txn = match trust.ended(records.nodes.iter(), operators, &self.configuration, at) {
            Some(ended) => end(&records, &ended),
            None if counted_s >= trust.step_s() => note(&records, at.passed_s),
            None => return,
        };
        match self.append_own([txn]) {
            Some(written) => self.rotation.written = written,
            // Too much is uncommitted: later.
            None => self.rotation.look = true,
        }
    }
}

fn is(key: Bytes, value: Bytes) -> Compare {
    Compare::new(key, Relation::Equal, Operand::Value(value))
}

fn put(key: Bytes, value: Bytes) -> Op {
    Put { key, value, ..Put::default() }.into()
}

/// Only the root that signs is trusted, and no time passes any more.
fn end(records: &Records, ended: &TrustRecord) -> Txn {
    tracing::info!(serial = ended.serial, "the cluster's CA was replaced: the older one is trusted no more");
    Txn {
        compares: vec![is(TrustRecord::key(), records.trust.to_bytes())],
        then: vec![
            put(TrustRecord::key(), ended.to_bytes()),
            Delete { key: TrustTime::key(), ..Delete::default() }.into(),
        ],
        ..Txn::default()
    }
}

/// So much of its time is over.
fn note(records: &Records, passed_s: u64) -> Txn {
    let (trust, was) = (&records.trust, &records.trust_time);
    // What was never written is not there.
    let same = match *was == TrustTime::default() {
        true => Compare::absent(TrustTime::key()),
        false => is(TrustTime::key(), was.to_bytes()),
    };
    let time = TrustTime { serial: trust.serial, passed_s };
    Txn {
        compares: vec![is(TrustRecord::key(), trust.to_bytes()), same],
        then: vec![put(TrustTime::key(), time.to_bytes())],
        ..Txn::default()
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb;

    use super::super::harness::{Member, from};
    use super::*;

    fn begun() -> Records {
        let root = |n: u8| Bytes::copy_from_slice(&[n; 8]);
        let trust = TrustRecord::first(root(1), root(1)).rotated((root(2), root(2)), root(3), 1, 1, 100).unwrap();
        Records { trust, ..Records::default() }
    }

    #[test]
    fn a_write_holds_only_while_the_records_are_what_it_was_worked_out_from() {
        // Given a rotation of which nothing is written down yet, and one of which something is
        let fresh = begun();
        let noted = Records { trust_time: TrustTime { serial: 1, passed_s: 7 }, ..begun() };
        let same = is(TrustRecord::key(), fresh.trust.to_bytes());
        // Then a leader that is late overtakes neither another one's count, nor a rotation that began, or ended, meanwhile.
        let absent = Compare::absent(TrustTime::key());
        assert_eq!(note(&fresh, 3).compares, [same.clone(), absent]);
        assert_eq!(note(&noted, 9).compares, [same.clone(), is(TrustTime::key(), noted.trust_time.to_bytes())]);
        assert_eq!(end(&noted, &TrustRecord::default()).compares, [same]);
    }

    #[test]
    fn an_end_that_another_leaders_entries_have_replaced_is_written_again_by_the_next_leadership_also_where_nobody_writes()
     {
        // Given a leader whose writes reach nobody, and the end of a rotation among them
        let mut member = Member::leading();
        let term = member.machine.raw.raft.term;
        member.lagging.extend([2, 3]);
        let first = member.writes(1);
        member.writes(2);
        let records = Records { trust: begun().trust, ..(*member.machine.records).clone() };
        member.machine.records = Arc::new(records);
        member.machine.note_records();
        member.ticks(1);
        let last = |member: &Member| member.machine.raw.raft.raft_log.last_index();
        let written = last(&member);
        assert_eq!(written, first + 2);
        // When another one leads, and has one entry in the place of all these
        let noop = eraftpb::Entry { term: term + 1, index: first, ..eraftpb::Entry::default() };
        member.step([from(2, eraftpb::MessageType::MsgAppend, |said| {
            (said.term, said.index, said.log_term) = (term + 1, first - 1, term);
            said.entries = vec![noop];
        })]);
        assert_eq!(last(&member), first);
        // Then this one, once it leads again, does not wait for the log to grow back
        member.lagging.clear();
        member.leads();
        let before = last(&member);
        assert!(before < written);
        member.ticks(100);
        assert!(last(&member) > before);
    }

    #[test]
    fn what_is_counted_begins_anew_with_each_term_rotation_and_note() {
        let mut rotation = Rotation::default();
        let of = Of { term: 1, serial: 1, noted_s: 0 };
        // It is looked at when it begins, when a second is over, and when records have changed.
        rotation.look_again();
        assert_eq!(rotation.due(of, 5 * SECOND), Some(0));
        assert_eq!(rotation.due(of, 5 * SECOND + 1), None);
        assert_eq!(rotation.due(of, 8 * SECOND), Some(3));
        assert_eq!(rotation.due(of, 8 * SECOND), None);
        rotation.look_again();
        assert_eq!(rotation.due(of, 8 * SECOND), Some(3));
        for other in [Of { term: 2, ..of }, Of { serial: 2, ..of }, Of { noted_s: 3, ..of }] {
            rotation.look_again();
            assert_eq!(rotation.due(other, 9 * SECOND), Some(0), "{other:?}");
            assert_eq!(rotation.due(other, 10 * SECOND), Some(1));
            assert_eq!(rotation.due(of, 10 * SECOND), None, "and what was counted before is over");
        }
    }
}
