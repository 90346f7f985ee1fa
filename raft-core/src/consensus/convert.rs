//! Between tikv raft's types and ours.
//!
//! Owns the only place where the two meet besides the machine itself. Raft's messages are generated for prost 0.11;
//! they are opaque bytes to everybody else.

use bytes::Bytes;
use prost011::Message as _;
use raft::eraftpb;

use crate::id::{LogIndex, RaftId, Term};
use crate::log::{Configuration, EntryKind, HardState, LogEntry};

pub(super) fn hard_state(from: &eraftpb::HardState) -> HardState {
    HardState { term: Term(from.term), vote: RaftId(from.vote), commit: LogIndex(from.commit) }
}

pub(super) fn raft_hard_state(from: HardState) -> eraftpb::HardState {
    eraftpb::HardState { term: from.term.0, vote: from.vote.0, commit: from.commit.0 }
}

fn ids(from: &[u64]) -> Vec<RaftId> {
    from.iter().copied().map(RaftId).collect()
}

fn raw(from: &[RaftId]) -> Vec<u64> {
    from.iter().map(|id| id.0).collect()
}

pub(super) fn configuration(from: &eraftpb::ConfState) -> Configuration {
    Configuration {
        voters: ids(&from.voters),
        voters_outgoing: ids(&from.voters_outgoing),
        learners: ids(&from.learners),
        learners_next: ids(&from.learners_next),
    }
    .sorted()
}

pub(super) fn conf_state(from: &Configuration) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: raw(&from.voters),
        voters_outgoing: raw(&from.voters_outgoing),
        learners: raw(&from.learners),
        learners_next: raw(&from.learners_next),
        // We leave joint configurations ourselves (design section 4, rule 7).
        auto_leave: false,
    }
}

/// `None` for the old kind of configuration entry, which nobody of ours writes.
pub(super) fn entry(from: eraftpb::Entry) -> Option<LogEntry> {
    let kind = match from.entry_type() {
        eraftpb::EntryType::EntryNormal => EntryKind::Normal,
        eraftpb::EntryType::EntryConfChangeV2 => EntryKind::Config,
        eraftpb::EntryType::EntryConfChange => return None,
    };
    Some(LogEntry {
        index: LogIndex(from.index),
        term: Term(from.term),
        kind,
        data: from.data.into(),
        context: from.context.into(),
    })
}

pub(super) fn raft_entry(from: LogEntry) -> eraftpb::Entry {
    let kind = match from.kind {
        EntryKind::Normal => eraftpb::EntryType::EntryNormal,
        EntryKind::Config => eraftpb::EntryType::EntryConfChangeV2,
    };
    eraftpb::Entry {
        entry_type: kind.into(),
        term: from.term.0,
        index: from.index.0,
        data: from.data.into(),
        context: from.context.into(),
        ..eraftpb::Entry::default()
    }
}

pub(super) fn message_bytes(message: &eraftpb::Message) -> Bytes {
    message.encode_to_vec().into()
}

pub(super) fn message(body: &[u8]) -> Option<eraftpb::Message> {
    eraftpb::Message::decode(body).ok()
}

pub(super) fn conf_change(data: &[u8]) -> Option<eraftpb::ConfChangeV2> {
    eraftpb::ConfChangeV2::decode(data).ok()
}
