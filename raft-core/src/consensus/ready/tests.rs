//! What waits for a disk or an applier that hangs, and how much of it there may be.

use super::super::harness::{Member, from};
use super::super::io::Input;
use super::*;

fn message(kind: MessageType, to: u64, context: &[u8]) -> eraftpb::Message {
    let mut message = eraftpb::Message { to, context: context.to_vec(), ..eraftpb::Message::default() };
    message.set_msg_type(kind);
    message
}

#[test]
fn what_a_disk_that_hangs_holds_back_is_bounded_and_the_newest_answers_are_kept() {
    // Given a vote and an acknowledgement that wait for the disk
    let mut held = Vec::new();
    hold_back(&mut held, message(MessageType::MsgRequestVoteResponse, 2, b""));
    hold_back(&mut held, message(MessageType::MsgAppendResponse, 3, b""));
    // When two that take each other for the leader send heartbeats for an hour
    for round in 0..45_000_u32 {
        for from in [2, 3] {
            hold_back(&mut held, message(MessageType::MsgHeartbeatResponse, from, b""));
            hold_back(&mut held, message(MessageType::MsgHeartbeatResponse, from, &round.to_be_bytes()));
        }
    }
    // Then vote and acknowledgement are still the first to leave, and of the answers the newest are there
    assert_eq!(held.len(), 2 + 2 * (1 + CONFIRMATIONS_MAX));
    assert_eq!(held[0].msg_type(), MessageType::MsgRequestVoteResponse);
    assert_eq!(held[1].msg_type(), MessageType::MsgAppendResponse);
    for from in [2, 3] {
        let of = |message: &&eraftpb::Message| message.to == from && message.context.len() == 4;
        let rounds: Vec<&[u8]> = held.iter().filter(of).map(|message| &message.context[..]).collect();
        assert_eq!(rounds.first(), Some(&&(45_000 - u32::try_from(CONFIRMATIONS_MAX).unwrap()).to_be_bytes()[..]));
        assert_eq!(rounds.last(), Some(&&44_999_u32.to_be_bytes()[..]));
    }
    // Whatever else comes is bounded, too
    for _ in 0..2 * HELD_BACK_MAX {
        hold_back(&mut held, message(MessageType::MsgAppendResponse, 3, b""));
    }
    assert_eq!(held.len(), HELD_BACK_MAX);
}

#[test]
fn an_applier_that_stands_still_has_a_bounded_number_of_rounds_and_gets_the_rest_in_few_when_it_goes_on() {
    // Given a follower with far more entries than the applier has rounds at once, none of them committed
    let mut member = Member::started();
    let last = 3 * ROUNDS_HANDED_MAX as u64;
    let entry = |index| eraftpb::Entry { term: 2, index, data: b"x".to_vec(), ..eraftpb::Entry::default() };
    member.step([from(2, MessageType::MsgAppend, |said| {
        (said.term, said.index, said.log_term, said.commit) = (2, 1, 1, 1);
        said.entries = (2..=last).map(entry).collect();
    })]);
    assert_eq!(member.machine.raw.raft.raft_log.last_index(), last);
    // When its applier stands still, and they are committed one after the other
    member.applier_hangs = true;
    for commit in 2..=last {
        member.step([from(2, MessageType::MsgHeartbeat, |said| (said.term, said.commit) = (2, commit))]);
    }
    // Then the applier has so many rounds and no more
    assert_eq!(member.machine.raw.raft.raft_log.committed, last);
    assert_eq!(member.rounds.len(), ROUNDS_HANDED_MAX);
    // When it goes on, then it gets all of them, in order, and what had to wait in one round
    let before = member.rounds.len();
    let applied = member.rounds.pop_front().unwrap();
    member.step([Input::Applied { index: applied, records: None, leases: Vec::new() }]);
    assert_eq!(member.rounds.len(), before);
    assert_eq!(member.handed, (2..=last).collect::<Vec<_>>());
}

#[test]
fn a_disk_that_stands_still_has_a_bounded_number_of_writes_however_often_the_term_rises() {
    // Given a member whose disk stands still
    let mut member = Member::started();
    member.disk_hangs = true;
    // When leaders come and go
    let heartbeat = |term| from(2, MessageType::MsgHeartbeat, |said| (said.term, said.commit) = (term, 1));
    let newest = 2 + 2 * WRITES_HANDED_MAX as u64;
    for term in 2..=newest {
        member.step([heartbeat(term)]);
    }
    // Then the log writer has so many writes and no more
    assert_eq!(member.writes.len(), WRITES_HANDED_MAX);
    // When it goes on, then the newest leader is followed
    member.disk_hangs = false;
    member.step([Input::Persisted { number: *member.writes.back().unwrap() }]);
    member.step([heartbeat(newest)]);
    assert_eq!((member.machine.raw.raft.term, member.machine.leader()), (newest, Some(RaftId(2))));
}
