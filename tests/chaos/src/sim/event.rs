//! What happens at a moment of virtual time, and to whom.
//!
//! Owns the list of events; what each of them does is in `drive`, `disk` and where its cause is. Called by the world.

use bytes::Bytes;

use super::asks::Reply;
use quorate_core::consensus::io::Ticket;
use quorate_core::id::RaftId;
use quorate_core::log::LogEntry;
use quorate_core::membership::liveness::Report;
use quorate_core::ports::StagedId;

/// Something that happens at a moment. `boot` names the process it was scheduled for.
pub(super) enum Event {
    Tick { id: RaftId, boot: u64 },
    Deliver { from: RaftId, to: RaftId, body: Bytes, incarnation: usize },
    Snapshot { from: RaftId, to: RaftId, boot: u64, message: Bytes, chunks: Vec<Bytes>, breaks: bool },
    Staged { from: RaftId, to: RaftId, boot: u64, message: Bytes, staged: StagedId },
    SnapshotReport { at: RaftId, boot: u64, to: RaftId, delivered: bool },
    Synced { id: RaftId, boot: u64 },
    Applied { id: RaftId, boot: u64 },
    Fetched { id: RaftId, boot: u64, number: u64, entries: Vec<LogEntry> },
    Connections { id: RaftId, boot: u64 },
    Unreachable { id: RaftId, boot: u64, to: RaftId },
    Restart { id: RaftId },
    Forwarded { from: RaftId, to: RaftId, ticket: Ticket },
    Reply { from: RaftId, to: RaftId, ticket: Ticket, reply: Reply },
    Timeout { ticket: Ticket },
    Client { client: u64, slot: u64 },
    Holder { holder: u64 },
    Register { index: usize },
    Agent { index: usize },
    Tells { id: RaftId, boot: u64 },
    Told { from: RaftId, to: RaftId, boot: u64, report: Box<Report> },
    Noted { id: RaftId, boot: u64, serial: u64, noted: bool },
    Judges { id: RaftId, boot: u64 },
    Door { id: RaftId, boot: u64 },
    Asks { id: RaftId, boot: u64 },
    Liar,
    Nemesis,
    DiskTrouble,
    Rot,
    DiskWell { id: RaftId },
    Churn,
    Workers,
    Watcher { index: usize },
    Scribble,
    Controllers,
    Care,
    Seal,
    Upgrade,
    Bend,
    Disaster,
    Scripted { index: usize },
    Heal { links: Vec<(RaftId, RaftId)> },
    Slow { id: RaftId, factor: u64 },
}

impl Event {
    /// The member that must be awake for it.
    pub(super) const fn target(&self) -> Option<RaftId> {
        match self {
            Self::Tick { id, .. }
            | Self::Synced { id, .. }
            | Self::Applied { id, .. }
            | Self::Fetched { id, .. }
            | Self::Connections { id, .. }
            | Self::DiskWell { id }
            | Self::Tells { id, .. }
            | Self::Noted { id, .. }
            | Self::Judges { id, .. }
            | Self::Door { id, .. }
            | Self::Unreachable { id, .. } => Some(*id),
            Self::Deliver { to, .. }
            | Self::Snapshot { to, .. }
            | Self::Staged { to, .. }
            | Self::Forwarded { to, .. }
            | Self::Told { to, .. }
            | Self::Reply { to, .. } => Some(*to),
            Self::SnapshotReport { at, .. } => Some(*at),
            Self::Restart { .. }
            | Self::Timeout { .. }
            | Self::Client { .. }
            | Self::Holder { .. }
            | Self::Register { .. }
            | Self::Agent { .. }
            | Self::Nemesis
            | Self::DiskTrouble
            | Self::Rot
            | Self::Asks { .. }
            | Self::Liar
            | Self::Churn
            | Self::Workers
            | Self::Watcher { .. }
            | Self::Scribble
            | Self::Controllers
            | Self::Care
            | Self::Seal
            | Self::Upgrade
            | Self::Bend
            | Self::Disaster
            | Self::Scripted { .. }
            | Self::Heal { .. }
            | Self::Slow { .. } => None,
        }
    }
}
