//! Leadership that is handed over, and is not.

use raft::eraftpb::MessageType;

use super::super::config::ELECTION_TICKS;
use super::super::harness::{Member, from};
use super::super::io::{Answer, Input, Rejection, Ticket};
use crate::id::RaftId;

fn calls(member: &Member) -> usize {
    member.sent.iter().filter(|message| message.msg_type() == MessageType::MsgTimeoutNow).count()
}

#[test]
fn a_call_to_take_over_that_comes_up_when_leadership_is_kept_does_not_leave_and_the_lease_goes_on() {
    // Given a leader that hands leadership to a member which lags, and waits for it
    let mut member = Member::leading();
    member.lagging.insert(2);
    let last = member.writes(1);
    let term = member.machine.raw.raft.term;
    member.step([Input::Transfer { ticket: Ticket(2), to: Some(RaftId(2)) }]);
    member.ticks(ELECTION_TICKS - 1);
    assert!(member.machine.is_transferring() && member.machine.lease().is_none());
    // When it has caught up in the very step in which it is given up
    let caught_up = from(2, MessageType::MsgAppendResponse, |said| (said.term, said.index) = (term, last));
    member.ticks_after([caught_up]);
    // Then it is not called any more, as whoever asked for it is told,
    assert!(!member.machine.is_transferring());
    assert!(matches!(member.told.as_slice(), [(2, Answer::Refused(Rejection::Transfer(_)))]), "{:?}", member.told);
    assert_eq!(calls(&member), 0);
    // and the leader leads on with a lease.
    member.ticks(ELECTION_TICKS);
    assert!(member.machine.lease().is_some() && member.machine.raw.raft.term == term);
}

#[test]
fn a_leader_whose_successor_was_called_and_does_not_come_leads_no_more() {
    // Given a leader that has called a member to take over
    let mut member = Member::leading();
    member.step([Input::Transfer { ticket: Ticket(1), to: Some(RaftId(2)) }]);
    assert_eq!(calls(&member), 1);
    // When nothing comes of it, then there is no lease in the meantime,
    for _ in 1..ELECTION_TICKS {
        member.ticks(1);
        assert!(member.machine.is_leader() && member.machine.lease().is_none());
    }
    assert_eq!(member.told, []);
    // and no leadership after it: the call may still arrive.
    member.ticks(1);
    assert!(!member.machine.is_leader());
    assert_eq!(member.told, [(1, Answer::Unknown)]);
}
