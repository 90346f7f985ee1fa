//! Numbers that close connections and streams. Codes from 0x100 are refusals (see `hello.rs`).

use quinn::VarInt;

/// The endpoint stops.
pub(crate) const SHUTDOWN: u32 = 1;
/// Another connection between the two took over.
pub(crate) const REPLACED: u32 = 2;
/// The peer left the set.
pub(crate) const LEFT: u32 = 3;
/// Bytes that are no message of the protocol.
pub(crate) const PROTOCOL: u32 = 4;
/// The other side did not read for too long.
pub(crate) const STALLED: u32 = 5;
/// A manager's address changed under a connection.
pub(crate) const MOVED: u32 = 6;
/// Nothing more to say.
pub(crate) const DONE: u32 = 7;
/// The endpoint stops, and its manager does not come back from its store as it is: see `parting.rs`.
pub(crate) const ROLLED_BACK: u32 = 8;
/// The same, of one that the leader contradicts.
pub(crate) const OVERRULED: u32 = 9;
/// The same, of one whose store is damaged.
pub(crate) const DAMAGED: u32 = 10;

/// Stream: bytes that are no message of the protocol.
pub(crate) const STREAM_PROTOCOL: VarInt = VarInt::from_u32(1);
/// Stream: the request was not looked at.
pub(crate) const STREAM_BUSY: VarInt = VarInt::from_u32(2);
/// Stream: the handler gave no answer.
pub(crate) const STREAM_UNANSWERED: VarInt = VarInt::from_u32(3);
/// Stream: the sender gave up.
pub(crate) const STREAM_ABORTED: VarInt = VarInt::from_u32(4);
/// Stream: the answer was not read in time.
pub(crate) const STREAM_UNREAD: VarInt = VarInt::from_u32(5);
