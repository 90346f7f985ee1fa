//! A worker's session: one long-lived stream with one manager, messages both ways.
//!
//! Owns both ends of the stream and its bounds. Nothing is queued here: a sender waits for the other side to read, for so
//! long and no longer, and a receiver reads only when it is asked to. Never looks into a message. Called by the worker
//! (which opens) and by the managers' handlers.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::codes;
use crate::frame::{self, FrameKind, SESSION_BYTES_MAX};
use crate::greet;
use crate::handler::Down;
use crate::hello::Refused;
use crate::lanes::{self, StreamKind};

/// How long the other side may not read.
const STALL: Duration = Duration::from_secs(10);
/// Bytes taken off the stream at once.
const READ_BYTES: usize = 64 * 1024;

/// One end of a session. Dropping both halves ends it.
pub struct Session {
    /// What goes out.
    pub sender: SessionSender,
    /// What comes in.
    pub receiver: SessionReceiver,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("with", &self.sender.connection.remote_address()).finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn new(
        connection: quinn::Connection,
        send: quinn::SendStream,
        receive: quinn::RecvStream,
        stall: Duration,
    ) -> Self {
        let _ = send.set_priority(StreamKind::Session.priority());
        let receiver = SessionReceiver { connection: connection.clone(), receive, buffer: BytesMut::new() };
        Self { sender: SessionSender { connection, send, stall }, receiver }
    }
}

/// The worker's end.
pub(crate) async fn open(connection: &quinn::Connection) -> Result<Session, Down> {
    let (mut send, receive) = connection.open_bi().await.map_err(|error| lanes::down(&error))?;
    let opened = send.write_chunk(StreamKind::Session.opening()).await;
    opened.map_err(|error| ended(connection, &error))?;
    Ok(Session::new(connection.clone(), send, receive, STALL))
}

/// If the whole connection has ended, that is the reason worth telling.
fn ended(connection: &quinn::Connection, error: &dyn std::fmt::Display) -> Down {
    connection.close_reason().map_or_else(|| Down::Broken(error.to_string()), |reason| lanes::down(&reason))
}

/// The outgoing half.
#[derive(Debug)]
pub struct SessionSender {
    connection: quinn::Connection,
    send: quinn::SendStream,
    stall: Duration,
}

impl SessionSender {
    /// Sends one message; waits while the other side does not read.
    ///
    /// Not cancel safe: what was begun must be ended, so a future dropped half-way leaves a session of no further use.
    ///
    /// # Errors
    /// The session has ended, the message is too large, or the other side did not read for the stall deadline.
    pub async fn send(&mut self, body: Bytes) -> Result<(), Down> {
        let header = frame::header(FrameKind::Message, &body).filter(|_| body.len() <= SESSION_BYTES_MAX);
        let Some(header) = header else {
            let why = format!("a message of {} bytes is over the limit of {SESSION_BYTES_MAX}", body.len());
            return Err(Down::Broken(why));
        };
        let mut chunks = [Bytes::copy_from_slice(&header), body];
        match tokio::time::timeout(self.stall, self.send.write_all_chunks(&mut chunks)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(ended(&self.connection, &error)),
            Err(_elapsed) => {
                let _ = self.send.reset(codes::STREAM_ABORTED);
                self.connection.close(codes::STALLED.into(), b"this side stopped reading");
                Err(Down::Stalled)
            }
        }
    }

    /// Closes the whole connection, with the reason.
    pub fn refuse(&self, reason: &Refused) {
        greet::close(&self.connection, reason);
    }
}

/// The incoming half.
#[derive(Debug)]
pub struct SessionReceiver {
    connection: quinn::Connection,
    receive: quinn::RecvStream,
    buffer: BytesMut,
}

impl SessionReceiver {
    /// The next message.
    ///
    /// Cancel safe: nothing that was read is lost.
    ///
    /// # Errors
    /// The session has ended, or what came is no message.
    pub async fn next(&mut self) -> Result<Bytes, Down> {
        loop {
            match frame::decode(&mut self.buffer, SESSION_BYTES_MAX) {
                Ok(Some(frame)) if frame.kind == FrameKind::Message => return Ok(frame.payload),
                Ok(Some(frame)) if frame.kind == FrameKind::Ping => continue,
                Ok(Some(_)) => return Err(self.broken(&frame::FrameError::Unexpected)),
                Ok(None) => {}
                Err(error) => return Err(self.broken(&error)),
            }
            match self.receive.read_chunk(READ_BYTES, true).await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk.bytes),
                Ok(None) => return Err(ended(&self.connection, &"the other side ended the session")),
                Err(error) => return Err(ended(&self.connection, &error)),
            }
        }
    }

    fn broken(&self, error: &frame::FrameError) -> Down {
        self.connection.close(codes::PROTOCOL.into(), b"no message of a session");
        Down::Broken(error.to_string())
    }
}
