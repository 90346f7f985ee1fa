//! What is asked of a manager, and what it answers.
//!
//! Owns the two lists. Called by the clients and by whoever else asks.

use quorate_core::command::Command;
use quorate_core::consensus::io::{Input, Origin, Rejection, Ticket};
use quorate_core::id::{LeaseId, LogIndex, RaftId, Term};
use quorate_core::state::contract::Outcome;

/// What a caller is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The command was applied, or refused at apply.
    Outcome(Outcome),
    /// A read may be served from this index on.
    ReadAt {
        /// The index.
        index: LogIndex,
        /// The leadership whose quorum says so: what a fenced read is compared with.
        term: Term,
    },
    /// A lease was renewed.
    Renewed {
        /// Its time to live.
        ttl_ms: u64,
    },
    /// There is no such lease.
    LeaseGone,
    /// What leases have left.
    LeaseTimes(Vec<Option<u64>>),
    /// Leadership went there.
    Transferred(RaftId),
    /// Not done, and never will be.
    Refused(Rejection),
    /// Not known.
    Unknown,
}

/// One attempt of one request.
pub(super) struct Ask {
    pub(super) what: What,
    /// The client and slot that wait; nobody for scenarios.
    pub(super) owner: Option<(u64, u64)>,
    pub(super) at: RaftId,
    pub(super) floor: u64,
    /// The newest leadership that anybody had been told of when it was asked.
    pub(super) term_floor: u64,
    /// Kept for scenarios.
    pub(super) reply: Option<Reply>,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    Write {
        client: u64,
        sequence: u64,
        command: Command,
    },
    Other {
        command: Command,
    },
    /// A holder's request about its lease, or a renewal; see `holders`.
    Hold {
        holder: u64,
        command: Command,
    },
    Renew {
        holder: Option<u64>,
        lease: LeaseId,
    },
    /// A process of the history; nothing to propose is a read.
    Register {
        index: usize,
        command: Option<Command>,
    },
    /// A controller's: the key to read, or what to propose.
    Controller {
        key: Option<String>,
        command: Option<Command>,
    },
    Read,
    Transfer,
}

impl What {
    /// The holder that asks.
    pub(super) const fn holder(&self) -> Option<u64> {
        match self {
            Self::Hold { holder, .. } => Some(*holder),
            Self::Renew { holder, .. } => *holder,
            Self::Write { .. }
            | Self::Other { .. }
            | Self::Register { .. }
            | Self::Controller { .. }
            | Self::Read
            | Self::Transfer => None,
        }
    }
}

impl Ask {
    /// What a manager is asked that this is forwarded to.
    pub(super) fn forwarded(&self, ticket: Ticket) -> Option<Input> {
        match &self.what {
            What::Write { command, .. }
            | What::Other { command }
            | What::Hold { command, .. }
            | What::Register { command: Some(command), .. }
            | What::Controller { command: Some(command), .. } => {
                Some(Input::Propose { ticket, command: command.clone(), origin: Origin::Forwarded })
            }
            What::Renew { lease, .. } => Some(Input::Renew { ticket, lease: *lease, origin: Origin::Forwarded }),
            What::Register { command: None, .. }
            | What::Controller { command: None, .. }
            | What::Read
            | What::Transfer => None,
        }
    }
}

pub(super) fn name(reply: &Reply) -> String {
    match reply {
        Reply::Outcome(Outcome::Done(done)) => {
            format!("done at revision {}{}", done.revision, if done.replayed { " (replayed)" } else { "" })
        }
        Reply::Outcome(Outcome::Refused(refusal)) => format!("refused at apply: {refusal}"),
        Reply::ReadAt { index, term } => format!("read at {index} of term {term}"),
        Reply::Renewed { ttl_ms } => format!("renewed for {ttl_ms} ms"),
        Reply::LeaseGone => "there is no such lease".to_owned(),
        Reply::LeaseTimes(left) => format!("{left:?} are left"),
        Reply::Transferred(to) => format!("transferred to {to}"),
        Reply::Refused(rejection) => format!("refused: {rejection}"),
        Reply::Unknown => "unknown".to_owned(),
    }
}
