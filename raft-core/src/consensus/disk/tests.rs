//! What an idle disk is asked.

use raft::eraftpb::MessageType;

use super::super::config::Config;
use super::super::harness::{Member, from};
use super::super::io::Input;
use crate::id::{LogIndex, RaftId, Term};
use crate::log::HardState;
use crate::ports::LogBatch;

/// Ticks of a follower that hears its leader in each.
fn led(member: &mut Member, ticks: u64) {
    for _ in 0..ticks {
        let heartbeat = from(2, MessageType::MsgHeartbeat, |said| (said.term, said.commit) = (2, 1));
        member.ticks_after([heartbeat]);
    }
}

/// Ticks for which a disk may have nothing to do.
fn every() -> u64 {
    let config = Config::new(RaftId(1), 0);
    config.disk_probe_nanos / config.tick_nanos
}

#[test]
fn an_idle_disk_is_given_what_it_has_already_and_nothing_while_it_is_busy() {
    // Given a follower that has heard of a newer term
    let mut member = Member::started();
    led(&mut member, 1);
    let heard = HardState { term: Term(2), vote: RaftId(0), commit: LogIndex(1) };
    let [(number, batch)] = member.written.as_slice() else { panic!("{:?}", member.written) };
    let (number, batch) = (*number, batch.clone());
    assert_eq!(batch, LogBatch { hard_state: Some(heard), ..LogBatch::default() });
    // When there is nothing to write for some time, then its disk is given that once more,
    led(&mut member, every());
    assert_eq!(member.written[1..], [(number, batch.clone())]);
    // and not again before it has answered.
    member.disk_hangs = true;
    led(&mut member, 3 * every());
    assert_eq!(member.written[2..], [(number, batch)]);
    assert!(member.machine.disk_silent_ticks() > 0);
    // When it has something to write, then that is with it beside what it was asked
    let entry = raft::eraftpb::Entry { term: 2, index: 2, data: b"x".to_vec(), ..Default::default() };
    member.step([from(2, MessageType::MsgAppend, |said| {
        (said.term, said.index, said.log_term, said.commit) = (2, 1, 1, 1);
        said.entries = vec![entry];
    })]);
    assert_eq!(member.written.len(), 4);
    // and an answer to what it was asked is none to that.
    member.step([Input::Persisted { number }]);
    assert_eq!(member.machine.unpersisted.len(), 1);
}
