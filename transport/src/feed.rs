//! A feed: one question, and answers for as long as the asker keeps its half of the stream open.
//!
//! Owns both ends, over QUIC, over the Unix socket and within a process. Nothing is queued here: a sender waits for the other
//! side to read, for so long and no longer. The asker's half stays open while the feed is wanted: its end, however it
//! comes, ends the feed. Never looks into a message. Called by clients (asking) and by the managers' handlers.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::codes;
use crate::frame::{self, FEED_BYTES_MAX, FrameKind, REQUEST_BYTES_MAX};
use crate::handler::{Caller, Down, Handler};
use crate::holds::{Hold, Holds};
use crate::lanes::{self, StreamKind};
use crate::request;

/// How long the other side may not read anything.
const STALL: Duration = Duration::from_secs(30);
/// How long a caller may take to ask what it has begun to ask.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// Bytes taken off a stream at once.
const READ_BYTES: usize = 64 * 1024;
/// Pieces below this size travel together.
const TOGETHER: usize = 2 * 1024;
/// Messages that wait within a process.
const HERE: usize = 8;

/// What comes out of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fed {
    /// The next message.
    Message(Bytes),
    /// The last word: nothing follows.
    End(Bytes),
}

/// The answering end.
#[derive(Debug)]
pub struct Feed {
    /// What goes out.
    pub sender: FeedSender,
    /// Says when the asker has gone.
    pub asker: Asker,
}

/// The outgoing half of the answering end. Dropping it ends the feed without a last word.
#[derive(Debug)]
pub struct FeedSender {
    out: Out,
    stall: Duration,
}

#[derive(Debug)]
enum Out {
    Quic { connection: quinn::Connection, send: quinn::SendStream, cut: bool, holds: Arc<Holds> },
    Local { send: OwnedWriteHalf, _slot: OwnedSemaphorePermit },
    Here(mpsc::Sender<Fed>),
}

/// The incoming half of the answering end: nothing comes on it but its end.
#[derive(Debug)]
pub struct Asker(In);

#[derive(Debug)]
enum In {
    Quic(quinn::RecvStream),
    Local(BufReader<OwnedReadHalf>),
    Here(mpsc::Sender<Fed>),
}

/// The asking end. Dropping it ends the feed.
#[derive(Debug)]
pub struct FeedReceiver {
    from: From,
    buffer: BytesMut,
}

#[derive(Debug)]
enum From {
    Quic { connection: quinn::Connection, receive: quinn::RecvStream, _wanted: quinn::SendStream },
    Local { receive: OwnedReadHalf, _wanted: OwnedWriteHalf },
    Here(mpsc::Receiver<Fed>),
}

impl Feed {
    /// Both ends within a process.
    pub fn here() -> (Self, FeedReceiver) {
        let (sender, receiver) = mpsc::channel(HERE);
        let asker = Asker(In::Here(sender.clone()));
        let feed = Self { sender: FeedSender { out: Out::Here(sender), stall: STALL }, asker };
        (feed, FeedReceiver { from: From::Here(receiver), buffer: BytesMut::new() })
    }

    pub(crate) fn local(send: OwnedWriteHalf, receive: BufReader<OwnedReadHalf>, slot: OwnedSemaphorePermit) -> Self {
        let sender = FeedSender { out: Out::Local { send, _slot: slot }, stall: STALL };
        Self { sender, asker: Asker(In::Local(receive)) }
    }
}

/// Serves one feed whose stream kind has been read.
pub(crate) async fn serve(
    handler: Arc<dyn Handler>,
    connection: quinn::Connection,
    holds: Arc<Holds>,
    caller: Caller,
    mut send: quinn::SendStream,
    mut receive: quinn::RecvStream,
) {
    let _ = send.set_priority(StreamKind::Feed.priority());
    let body = frame::read_kind(&mut receive, FrameKind::Feed, REQUEST_BYTES_MAX);
    let Ok(Ok(body)) = timeout(BODY_DEADLINE, body).await else {
        request::refuse(&mut send, &mut receive, codes::STREAM_PROTOCOL);
        return;
    };
    let sender = FeedSender { out: Out::Quic { connection, send, cut: false, holds }, stall: STALL };
    handler.feed(caller, body, Feed { sender, asker: Asker(In::Quic(receive)) });
}

/// Asks over QUIC.
pub(crate) async fn open(connection: &quinn::Connection, body: Bytes) -> Result<FeedReceiver, Down> {
    let (mut send, receive) = connection.open_bi().await.map_err(|error| lanes::down(&error))?;
    let header =
        frame::header(FrameKind::Feed, &body).ok_or_else(|| Down::Broken("the question is too long".into()))?;
    let mut chunks = [StreamKind::Feed.opening(), Bytes::copy_from_slice(&header), body];
    send.write_all_chunks(&mut chunks).await.map_err(|error| ended(connection, &error))?;
    let from = From::Quic { connection: connection.clone(), receive, _wanted: send };
    Ok(FeedReceiver { from, buffer: BytesMut::new() })
}

/// Asks over the Unix socket; the question is on its way.
pub(crate) fn opened(receive: OwnedReadHalf, wanted: OwnedWriteHalf) -> FeedReceiver {
    FeedReceiver { from: From::Local { receive, _wanted: wanted }, buffer: BytesMut::new() }
}

/// If the whole connection has ended, that is the reason worth telling.
fn ended(connection: &quinn::Connection, error: &dyn std::fmt::Display) -> Down {
    connection.close_reason().map_or_else(|| Down::Broken(error.to_string()), |reason| lanes::down(&reason))
}

/// Frames, large pieces as they are, small ones put together.
#[derive(Default)]
struct Frames {
    chunks: Vec<Bytes>,
    open: BytesMut,
}

impl Frames {
    fn add(&mut self, kind: FrameKind, pieces: Vec<Bytes>) -> Result<(), Down> {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let header = frame::header_of(kind, &pieces).filter(|_| length <= FEED_BYTES_MAX);
        let too_long = || Down::Broken(format!("a message of {length} bytes is over the limit of {FEED_BYTES_MAX}"));
        self.open.put_slice(&header.ok_or_else(too_long)?);
        for piece in pieces {
            if piece.len() < TOGETHER {
                self.open.put_slice(&piece);
            } else {
                self.chunks.push(self.open.split().freeze());
                self.chunks.push(piece);
            }
        }
        Ok(())
    }

    fn done(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.chunks.push(self.open.freeze());
        }
        self.chunks
    }
}

impl FeedSender {
    /// The same with another patience for a side that does not read; default 30 s.
    #[must_use]
    pub const fn with_stall(mut self, stall: Duration) -> Self {
        self.stall = stall;
        self
    }

    /// Keeps the connection from being sent away ([`Endpoint::send_away`]) until this is dropped: for what is of no use unless it
    /// comes to its end. Nothing else is kept off by it. Costs nothing within a process and over the Unix socket.
    ///
    /// [`Endpoint::send_away`]: crate::Endpoint::send_away
    pub fn hold(&self) -> Hold {
        match &self.out {
            Out::Quic { connection, holds, .. } => Holds::hold(holds, connection),
            Out::Local { .. } | Out::Here(_) => Hold::of_nothing(),
        }
    }

    /// Sends messages, each of them given in pieces; waits while the other side does not read.
    ///
    /// Not cancel safe: what was begun must be ended, so a future dropped half-way leaves a feed of no further use.
    ///
    /// # Errors
    /// The asker has gone, a message is too large, or nothing was read for the stall deadline.
    pub async fn send(&mut self, messages: Vec<Vec<Bytes>>) -> Result<(), Down> {
        if let Out::Here(sender) = &self.out {
            for pieces in messages {
                let message = match <[Bytes; 1]>::try_from(pieces) {
                    Ok([only]) => only,
                    Err(pieces) => pieces.concat().into(),
                };
                put(sender, Fed::Message(message), self.stall).await?;
            }
            return Ok(());
        }
        let mut frames = Frames::default();
        messages.into_iter().try_for_each(|pieces| frames.add(FrameKind::Message, pieces))?;
        self.write(frames.done()).await
    }

    /// Says the last word.
    ///
    /// # Errors
    /// As [`FeedSender::send`].
    pub async fn finish(mut self, word: Bytes) -> Result<(), Down> {
        if let Out::Here(sender) = &self.out {
            return put(sender, Fed::End(word), self.stall).await;
        }
        let mut frames = Frames::default();
        frames.add(FrameKind::Response, vec![word])?;
        self.write(frames.done()).await?;
        match &mut self.out {
            Out::Quic { send, .. } => drop(send.finish()),
            Out::Local { send, .. } => drop(send.shutdown().await),
            Out::Here(_) => {}
        }
        Ok(())
    }

    async fn write(&mut self, mut chunks: Vec<Bytes>) -> Result<(), Down> {
        let stall = self.stall;
        match &mut self.out {
            Out::Quic { connection, send, cut, .. } => {
                // Should this future be dropped: half a frame must not look finished.
                *cut = true;
                let mut rest = &mut chunks[..];
                while !rest.is_empty() {
                    let written = timeout(stall, send.write_chunks(rest)).await;
                    let written = written.map_err(|_elapsed| Down::Stalled)?;
                    let written = written.map_err(|error| ended(connection, &error))?.chunks;
                    rest = rest.get_mut(written..).unwrap_or_default();
                }
                *cut = false;
                Ok(())
            }
            Out::Local { send, .. } => {
                for chunk in &chunks {
                    for part in chunk.chunks(READ_BYTES) {
                        let written = timeout(stall, send.write_all(part)).await.map_err(|_elapsed| Down::Stalled)?;
                        written.map_err(|error| Down::Broken(error.to_string()))?;
                    }
                }
                Ok(())
            }
            Out::Here(_) => Ok(()),
        }
    }
}

impl Drop for FeedSender {
    fn drop(&mut self) {
        if let Out::Quic { send, cut: true, .. } = &mut self.out {
            let _ = send.reset(codes::STREAM_ABORTED);
        }
    }
}

async fn put(sender: &mpsc::Sender<Fed>, fed: Fed, stall: Duration) -> Result<(), Down> {
    match timeout(stall, sender.send(fed)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_closed)) => Err(Down::Closed("nobody listens any more".into())),
        Err(_elapsed) => Err(Down::Stalled),
    }
}

impl Asker {
    /// Waits until the asker wants no more, or is gone.
    ///
    /// Cancel safe.
    pub async fn gone(&mut self) {
        // Whatever comes on this half is as good as its end: an asker has said everything.
        match &mut self.0 {
            In::Quic(receive) => drop(receive.read_chunk(1, true).await),
            In::Local(receive) => drop(receive.read(&mut [0; 1]).await),
            In::Here(sender) => sender.closed().await,
        }
    }
}

impl FeedReceiver {
    /// The next message, or the last word.
    ///
    /// Cancel safe: nothing that was read is lost.
    ///
    /// # Errors
    /// The feed ended without a last word, or what came is no message.
    pub async fn next(&mut self) -> Result<Fed, Down> {
        if let From::Here(receiver) = &mut self.from {
            return receiver.recv().await.ok_or_else(|| Down::Closed("the feed ended".into()));
        }
        loop {
            let frame = frame::decode(&mut self.buffer, FEED_BYTES_MAX);
            #[expect(clippy::wildcard_enum_match_arm, reason = "every other kind is equally out of place here")]
            if let Some(frame) = frame.map_err(|error| Down::Broken(error.to_string()))? {
                return match frame.kind {
                    FrameKind::Message => Ok(Fed::Message(frame.payload)),
                    FrameKind::Response => Ok(Fed::End(frame.payload)),
                    _ => Err(Down::Broken(frame::FrameError::Unexpected.to_string())),
                };
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), Down> {
        let over = "the feed ended without a last word";
        match &mut self.from {
            From::Quic { connection, receive, .. } => match receive.read_chunk(READ_BYTES, true).await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk.bytes),
                Ok(None) => return Err(ended(connection, &over)),
                Err(error) => return Err(ended(connection, &error)),
            },
            From::Local { receive, .. } => {
                self.buffer.reserve(READ_BYTES);
                match receive.read_buf(&mut self.buffer).await {
                    Ok(0) => return Err(Down::Broken(over.into())),
                    Ok(_) => {}
                    Err(error) => return Err(Down::Broken(error.to_string())),
                }
            }
            From::Here(_) => {}
        }
        Ok(())
    }
}
