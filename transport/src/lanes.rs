//! The lanes of a peer: bounded queues in front of long-lived streams.
//!
//! Owns queue, writer and reader of the control and the append lane. The queue never waits: what does not fit is given
//! back to the caller, who tells raft. One task owns one stream; whatever waits leaves in one write. Called by peers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::BufReader;
use tokio::sync::Notify;

use crate::codes;
use crate::frame::{self, APPEND_BYTES_MAX, CONTROL_BYTES_MAX, FrameError, FrameKind};
use crate::handler::{Down, Lane};

/// First byte of a stream: what it is. No two meanings share a number, whatever the direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum StreamKind {
    Control = 0x11,
    Append = 0x12,
    Snapshot = 0x13,
    Request = 0x14,
    Session = 0x15,
    Calls = 0x16,
    Feed = 0x17,
}

impl StreamKind {
    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0x11 => Some(Self::Control),
            0x12 => Some(Self::Append),
            0x13 => Some(Self::Snapshot),
            0x14 => Some(Self::Request),
            0x15 => Some(Self::Session),
            0x16 => Some(Self::Calls),
            0x17 => Some(Self::Feed),
            _ => None,
        }
    }

    pub(crate) const fn priority(self) -> i32 {
        match self {
            Self::Control => 10,
            Self::Append => 0,
            Self::Snapshot => -10,
            Self::Request | Self::Calls => 5,
            // Before requests: what a node is to run must not wait behind what it asks.
            Self::Session => 6,
            // After requests: somebody waits for an answer, and a feed has a queue.
            Self::Feed => 3,
        }
    }

    /// The stream's first bytes.
    pub(crate) const fn opening(self) -> Bytes {
        Bytes::from_static(match self {
            Self::Control => &[Self::Control as u8],
            Self::Append => &[Self::Append as u8],
            Self::Snapshot => &[Self::Snapshot as u8],
            Self::Request => &[Self::Request as u8],
            Self::Session => &[Self::Session as u8],
            Self::Calls => &[Self::Calls as u8],
            Self::Feed => &[Self::Feed as u8],
        })
    }
}

impl Lane {
    pub(crate) const fn stream(self) -> StreamKind {
        match self {
            Self::Control => StreamKind::Control,
            Self::Append => StreamKind::Append,
        }
    }

    /// The largest message of this lane, bytes.
    pub const fn message_bytes_max(self) -> usize {
        match self {
            Self::Control => CONTROL_BYTES_MAX,
            Self::Append => APPEND_BYTES_MAX,
        }
    }
}

/// What a queue may hold, written but unacknowledged bytes not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimit {
    /// Messages.
    pub messages: usize,
    /// Bytes of all messages together. A single message larger than this passes when the queue is empty.
    pub bytes: usize,
}

/// Why a message was not taken. Raft is to be told that the peer is unreachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No connection to this peer right now.
    #[error("the peer is not connected")]
    NotConnected,
    /// The peer takes messages more slowly than they come.
    #[error("the queue to the peer is full")]
    Full,
    /// Larger than any message of this lane may be.
    #[error("the message has {bytes} bytes, this lane takes {limit}")]
    TooLarge {
        /// Of the message.
        bytes: usize,
        /// Of the lane.
        limit: usize,
    },
}

/// Messages that wait for their stream.
pub(crate) struct LaneQueue {
    lane: Lane,
    limit: QueueLimit,
    state: Mutex<QueueState>,
    wake: Notify,
    dropped: AtomicU64,
}

#[derive(Default)]
struct QueueState {
    waiting: VecDeque<Bytes>,
    /// Waiting, and handed to the writer but not yet taken by QUIC.
    messages: usize,
    bytes: usize,
    closed: bool,
}

impl LaneQueue {
    pub(crate) fn new(lane: Lane, limit: QueueLimit) -> Self {
        Self { lane, limit, state: Mutex::default(), wake: Notify::new(), dropped: AtomicU64::new(0) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never waits.
    pub(crate) fn push(&self, body: Bytes) -> Result<(), SendError> {
        let limit = self.lane.message_bytes_max();
        if body.len() > limit {
            return Err(SendError::TooLarge { bytes: body.len(), limit });
        }
        let mut state = self.state();
        if state.closed {
            return Err(SendError::NotConnected);
        }
        let fits = state.messages < self.limit.messages
            && (state.messages == 0 || state.bytes + body.len() <= self.limit.bytes);
        if !fits {
            drop(state);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return Err(SendError::Full);
        }
        state.messages += 1;
        state.bytes += body.len();
        state.waiting.push_back(body);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Nothing is taken any more, and what waits is gone.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.waiting.clear();
        drop(state);
        self.wake.notify_one();
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn take(&self) -> VecDeque<Bytes> {
        std::mem::take(&mut self.state().waiting)
    }

    fn written(&self, messages: usize, bytes: usize) {
        let mut state = self.state();
        state.messages = state.messages.saturating_sub(messages);
        state.bytes = state.bytes.saturating_sub(bytes);
    }
}

/// Owns one outgoing lane until the connection ends, and says why it ended.
pub(crate) async fn write_lane(
    connection: quinn::Connection,
    queue: std::sync::Arc<LaneQueue>,
    ping: Duration,
    stall: Duration,
) -> Down {
    let kind = queue.lane.stream();
    let mut send = match tokio::time::timeout(stall, connection.open_uni()).await {
        Ok(Ok(send)) => send,
        Ok(Err(error)) => return down(&error),
        Err(_elapsed) => return Down::Stalled,
    };
    let _ = send.set_priority(kind.priority());
    let mut chunks = vec![kind.opening()];
    // The batch that is being written counts in the queue until QUIC has taken it.
    let mut in_hand = (0, 0);
    loop {
        // Written whole or the connection is given up: a half-written frame cannot be continued.
        if let Err(reason) = write_out(&connection, &mut send, &mut chunks, stall).await {
            return reason;
        }
        chunks.clear();
        queue.written(in_hand.0, in_hand.1);
        let mut batch = queue.take();
        if batch.is_empty() {
            // Waiting holds nothing, so this may be cut short.
            tokio::select! {
                () = queue.wake.notified() => {}
                () = tokio::time::sleep(ping) => chunks.extend(frame::encode(FrameKind::Ping, &[])),
                error = connection.closed() => return down(&error),
            }
            batch = queue.take();
        }
        let (messages, bytes) = (batch.len(), batch.iter().map(Bytes::len).sum());
        for body in batch {
            if let Some(header) = frame::header(FrameKind::Message, &body) {
                chunks.push(Bytes::copy_from_slice(&header));
                chunks.push(body);
            }
        }
        in_hand = (messages, bytes);
    }
}

/// Writes all chunks. The deadline is for standing still, not for the whole: a slow link may take its time.
async fn write_out(
    connection: &quinn::Connection,
    send: &mut quinn::SendStream,
    mut chunks: &mut [Bytes],
    stall: Duration,
) -> Result<(), Down> {
    while !chunks.is_empty() {
        match tokio::time::timeout(stall, send.write_chunks(chunks)).await {
            Ok(Ok(written)) => chunks = chunks.get_mut(written.chunks..).unwrap_or_default(),
            Ok(Err(quinn::WriteError::ConnectionLost(error))) => return Err(down(&error)),
            Ok(Err(error)) => return Err(Down::Broken(error.to_string())),
            Err(_elapsed) => {
                let _ = send.reset(codes::STREAM_ABORTED);
                connection.close(codes::STALLED.into(), b"this side stopped reading");
                return Err(Down::Stalled);
            }
        }
    }
    Ok(())
}

/// Owns one incoming lane. `heard` is told of every frame, a sign of life included. Ends with the error that makes the
/// connection useless.
pub(crate) async fn read_lane(
    receive: quinn::RecvStream,
    lane: Lane,
    heard: impl Fn(),
    mut deliver: impl FnMut(Bytes),
) -> FrameError {
    let mut receive = BufReader::with_capacity(64 * 1024, receive);
    loop {
        // A lane that is never empty must not keep the others of this thread waiting.
        tokio::task::coop::consume_budget().await;
        match frame::read(&mut receive, lane.message_bytes_max()).await {
            Ok(Some(frame)) => match frame.kind {
                FrameKind::Message => {
                    heard();
                    deliver(frame.payload);
                }
                FrameKind::Ping => heard(),
                FrameKind::Hello
                | FrameKind::HelloReply
                | FrameKind::HelloConfirm
                | FrameKind::Request
                | FrameKind::Response
                | FrameKind::SnapshotHeader
                | FrameKind::SnapshotChunk
                | FrameKind::SnapshotEnd
                | FrameKind::SnapshotVerdict
                | FrameKind::Join
                | FrameKind::JoinReply
                | FrameKind::Call
                | FrameKind::Answer
                | FrameKind::NoAnswer
                | FrameKind::Feed => return FrameError::Unexpected,
            },
            Ok(None) => return FrameError::Truncated,
            Err(error) => return error,
        }
    }
}

/// Why a connection ended, in the peer's terms.
pub(crate) fn down(error: &quinn::ConnectionError) -> Down {
    use quinn::ConnectionError as Quic;
    if let Some(refused) = crate::dial::refusal(error) {
        return Down::Refused(refused);
    }
    match error {
        Quic::Reset => Down::Reset,
        Quic::TimedOut => Down::TimedOut,
        Quic::LocallyClosed => Down::Ours("the endpoint closed it".to_owned()),
        Quic::ApplicationClosed(close) if close.error_code == codes::REPLACED.into() => Down::Replaced,
        Quic::ApplicationClosed(close) => Down::Closed(String::from_utf8_lossy(&close.reason).into_owned()),
        Quic::VersionMismatch | Quic::TransportError(_) | Quic::ConnectionClosed(_) | Quic::CidsExhausted => {
            Down::Broken(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(messages: usize, bytes: usize) -> LaneQueue {
        LaneQueue::new(Lane::Control, QueueLimit { messages, bytes })
    }

    #[test]
    fn a_queue_is_bounded_by_count() {
        let queue = queue(2, 1_000);
        assert_eq!(queue.push(Bytes::from_static(b"1")), Ok(()));
        assert_eq!(queue.push(Bytes::from_static(b"2")), Ok(()));
        assert_eq!(queue.push(Bytes::from_static(b"3")), Err(SendError::Full));
        assert_eq!(queue.dropped(), 1);
        let taken = queue.take().len();
        assert_eq!(queue.push(Bytes::from_static(b"3")), Err(SendError::Full), "the writer has not written them yet");
        queue.written(taken, 2);
        assert_eq!(queue.push(Bytes::from_static(b"3")), Ok(()));
    }

    #[test]
    fn a_queue_is_bounded_by_bytes_but_one_message_always_passes() {
        let queue = queue(100, 10);
        assert_eq!(queue.push(Bytes::from(vec![0; 11])), Ok(()));
        assert_eq!(queue.push(Bytes::from_static(b"1")), Err(SendError::Full));
    }

    #[test]
    fn a_message_over_the_lane_is_refused_by_its_size() {
        let too_large = CONTROL_BYTES_MAX + 1;
        assert_eq!(
            queue(9, usize::MAX).push(vec![0; too_large].into()),
            Err(SendError::TooLarge { bytes: too_large, limit: CONTROL_BYTES_MAX })
        );
    }

    #[test]
    fn a_closed_queue_takes_nothing() {
        let queue = queue(9, 9);
        queue.close();
        assert_eq!(queue.push(Bytes::new()), Err(SendError::NotConnected));
    }
}
