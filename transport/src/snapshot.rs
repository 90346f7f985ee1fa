//! Snapshots on the wire: one bidirectional stream each, lowest priority.
//!
//! ```text
//! sender   -> SnapshotHeader, SnapshotChunk ..., SnapshotEnd (length, digest)
//! receiver -> SnapshotVerdict    empty: everything is on disk; else why not
//! ```
//!
//! Owns both ends. A snapshot that is cut anywhere is a failure on both sides, never a shorter snapshot. Memory is bounded by
//! the queue of pieces and the stream's window, and time by what either end waits for the other: a sender holds a view of its state
//! for as long as it sends, and whoever is sent one gets no entries. Called by peers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use quorate_core::id::RaftId;
use tokio::sync::{mpsc, oneshot};

use crate::codes;
use crate::frame::{self, CHUNK_BYTES_MAX, FrameKind, SNAPSHOT_HEADER_BYTES_MAX};
use crate::handler::{Handler, IncomingSnapshot, SnapshotPiece};
use crate::lanes::StreamKind;

/// Pieces that wait for a slow receiver; the stream's window is what else it can make us hold.
const PIECES_QUEUED: usize = 2;
/// How long the next frame of a snapshot may take to arrive, and to be taken.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Syncing all of it takes longer than taking a frame.
const VERDICT_TIMES: u32 = 10;

/// Why a snapshot did not arrive. The receiver keeps nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotSendError {
    /// No connection to this peer right now.
    #[error("the peer is not connected; nothing of the snapshot was sent")]
    NotConnected,
    /// The pieces stopped before [`SnapshotPiece::End`].
    #[error("reading the snapshot stopped before its end; the receiver dropped what it had")]
    Aborted,
    /// The connection or the stream was cut.
    #[error("the snapshot was cut on the way: {0}; it has to be sent again")]
    Cut(String),
    /// The receiver could not take it.
    #[error("the receiver did not take the snapshot: {0}")]
    Rejected(String),
    /// The header is over 1 MiB.
    #[error("the snapshot's header has {0} bytes, at most 1 MiB is taken")]
    HeaderTooLarge(usize),
}

/// Sends; resolves when the receiver has said that everything is on disk. Dropped half-way, the receiver drops what it has.
pub(crate) async fn send(
    connection: &quinn::Connection,
    header: Bytes,
    mut pieces: mpsc::Receiver<SnapshotPiece>,
    patience: Duration,
) -> Result<(), SnapshotSendError> {
    if header.len() > SNAPSHOT_HEADER_BYTES_MAX {
        return Err(SnapshotSendError::HeaderTooLarge(header.len()));
    }
    let cut = |error: &dyn std::fmt::Display| SnapshotSendError::Cut(error.to_string());
    let (mut send, mut receive) = tokio::time::timeout(patience, connection.open_bi())
        .await
        .map_err(|_elapsed| cut(&"no stream became free"))?
        .map_err(|error| cut(&error))?;
    let _ = send.set_priority(StreamKind::Snapshot.priority());
    let result = send_pieces(&mut send, header, &mut pieces, patience).await;
    match result {
        Ok(()) => {}
        // Finished is what a dropped stream looks like; a reset says that this was not the end.
        Err(SendPieces::Aborted) => {
            let _ = send.reset(codes::STREAM_ABORTED);
            return Err(SnapshotSendError::Aborted);
        }
        Err(SendPieces::Write(quinn::WriteError::ConnectionLost(error))) => return Err(cut(&error)),
        Err(SendPieces::Unread) => {
            let _ = send.reset(codes::STREAM_ABORTED);
            return Err(cut(&format_args!("the receiver took nothing of it for {} s", patience.as_secs_f32())));
        }
        // The receiver stops reading when it has failed; its verdict says why.
        Err(SendPieces::Write(_)) => {
            let _ = send.reset(codes::STREAM_ABORTED);
        }
    }
    let verdict = frame::read_kind(&mut receive, FrameKind::SnapshotVerdict, CHUNK_BYTES_MAX);
    let verdict = tokio::time::timeout(patience * VERDICT_TIMES, verdict)
        .await
        .map_err(|_elapsed| cut(&"the receiver has not said whether it is on disk"))?
        .map_err(|error| cut(&connection.close_reason().map_or(error.to_string(), |reason| reason.to_string())))?;
    if verdict.is_empty() {
        return Ok(());
    }
    Err(SnapshotSendError::Rejected(String::from_utf8_lossy(&verdict).into_owned()))
}

enum SendPieces {
    Aborted,
    Unread,
    Write(quinn::WriteError),
}

/// What the receiver is to take, in time.
async fn taken<T>(
    patience: Duration,
    write: impl Future<Output = Result<T, quinn::WriteError>>,
) -> Result<(), SendPieces> {
    let written = tokio::time::timeout(patience, write).await.map_err(|_elapsed| SendPieces::Unread)?;
    written.map(|_| ()).map_err(SendPieces::Write)
}

async fn send_pieces(
    send: &mut quinn::SendStream,
    header: Bytes,
    pieces: &mut mpsc::Receiver<SnapshotPiece>,
    patience: Duration,
) -> Result<(), SendPieces> {
    let framed = |kind: FrameKind, body: Bytes| {
        let header = frame::header(kind, &body).unwrap_or_default();
        [Bytes::copy_from_slice(&header), body]
    };
    taken(patience, send.write_chunk(StreamKind::Snapshot.opening())).await?;
    taken(patience, send.write_all_chunks(&mut framed(FrameKind::SnapshotHeader, header))).await?;
    let mut digest = blake3::Hasher::new();
    let mut length: u64 = 0;
    loop {
        match pieces.recv().await {
            None => return Err(SendPieces::Aborted),
            Some(SnapshotPiece::Data(mut data)) => {
                while data.has_remaining() {
                    let piece = data.split_to(data.len().min(CHUNK_BYTES_MAX));
                    digest.update(&piece);
                    length += piece.len() as u64;
                    taken(patience, send.write_all_chunks(&mut framed(FrameKind::SnapshotChunk, piece))).await?;
                }
            }
            Some(SnapshotPiece::End) => {
                let mut end = length.to_be_bytes().to_vec();
                end.extend_from_slice(digest.finalize().as_bytes());
                taken(patience, send.write_all_chunks(&mut framed(FrameKind::SnapshotEnd, end.into()))).await?;
                // Every byte is out; finishing cannot fail unless the receiver stopped, and then its verdict says so.
                let _ = send.finish();
                return Ok(());
            }
        }
    }
}

/// Receives one snapshot whose stream kind has been read, and answers with a verdict.
pub(crate) async fn receive(
    handler: Arc<dyn Handler>,
    from: RaftId,
    mut send: quinn::SendStream,
    mut receive: quinn::RecvStream,
) {
    let verdict = match receive_pieces(handler, from, &mut receive).await {
        Ok(()) => Bytes::new(),
        Err(why) => {
            let _ = receive.stop(codes::STREAM_ABORTED);
            let why = if why.is_empty() { "no reason was given".to_owned() } else { why };
            why.chars().take(1_000).collect::<String>().into_bytes().into()
        }
    };
    if let Some(frame) = frame::encode(FrameKind::SnapshotVerdict, &verdict)
        && send.write_chunk(frame).await.is_ok()
    {
        let _ = send.finish();
    }
}

async fn receive_pieces(
    handler: Arc<dyn Handler>,
    from: RaftId,
    receive: &mut quinn::RecvStream,
) -> Result<(), String> {
    let silent = || format!("nothing came for {} s", SILENCE_MAX.as_secs());
    let header = tokio::time::timeout(
        SILENCE_MAX,
        frame::read_kind(receive, FrameKind::SnapshotHeader, SNAPSHOT_HEADER_BYTES_MAX),
    )
    .await
    .map_err(|_elapsed| silent())?
    .map_err(|error| error.to_string())?;
    let (pieces, chunks) = mpsc::channel(PIECES_QUEUED);
    let (done, verdict) = oneshot::channel();
    handler.snapshot(from, IncomingSnapshot { header, chunks, done });
    let mut digest = blake3::Hasher::new();
    let mut length: u64 = 0;
    loop {
        let next = tokio::time::timeout(SILENCE_MAX, frame::read(receive, CHUNK_BYTES_MAX))
            .await
            .map_err(|_elapsed| silent())?
            .map_err(|error| error.to_string())?
            .ok_or_else(|| "the stream ended before the snapshot did".to_owned())?;
        #[expect(clippy::wildcard_enum_match_arm, reason = "every other kind is equally out of place here")]
        match next.kind {
            FrameKind::SnapshotChunk => {
                digest.update(&next.payload);
                length += next.payload.len() as u64;
                if pieces.send(SnapshotPiece::Data(next.payload)).await.is_err() {
                    return verdict_of(verdict, "the receiver gave the snapshot up").await;
                }
            }
            FrameKind::SnapshotEnd => {
                let mut expected = length.to_be_bytes().to_vec();
                expected.extend_from_slice(digest.finalize().as_bytes());
                if next.payload != expected {
                    return Err("length or digest do not match what was received".to_owned());
                }
                if pieces.send(SnapshotPiece::End).await.is_err() {
                    return verdict_of(verdict, "the receiver gave the snapshot up").await;
                }
                // The receiver may wait for the end of the channel as well as for the end piece.
                drop(pieces);
                return verdict_of(verdict, "the receiver gave no verdict").await;
            }
            _ => return Err("a frame that is no part of a snapshot came".to_owned()),
        }
    }
}

async fn verdict_of(verdict: oneshot::Receiver<Result<(), String>>, otherwise: &str) -> Result<(), String> {
    verdict.await.unwrap_or_else(|_dropped| Err(otherwise.to_owned()))
}
