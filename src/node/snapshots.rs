//! Snapshots between nodes: the state's own stream over the transport's.
//!
//! Owns the two pumps. Reading and writing the disk happens on blocking threads, in bounded memory. Never decides
//! whether a snapshot is wanted: the machine does, after it is complete, verified and synced aside.

use std::sync::Arc;

use bytes::Bytes;
use quorate_core::consensus::io::Input;
use quorate_core::id::RaftId;
use quorate_core::ports::{StagedId, Staging, StateRead};
use quorate_core::state::{SnapshotError, SnapshotReader, SnapshotWriter};
use quorate_transport::{IncomingSnapshot, Peers, SnapshotPiece};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::tasks::Call;

/// Chunks between the disk and the network.
const IN_FLIGHT: usize = 4;

/// Streams a view to a peer; true once the receiver has it on disk.
pub(super) async fn send(peers: &Peers, to: RaftId, message: Bytes, view: Arc<dyn StateRead>) -> bool {
    let (pieces, receiver) = mpsc::channel(IN_FLIGHT);
    let reading = tokio::task::spawn_blocking(move || {
        let mut writer = SnapshotWriter::new(view)?;
        while let Some(chunk) = writer.next_chunk()? {
            if pieces.blocking_send(SnapshotPiece::Data(chunk)).is_err() {
                return Ok(());
            }
        }
        let _ = pieces.blocking_send(SnapshotPiece::End);
        Ok::<(), quorate_core::ports::StoreError>(())
    });
    let sent = peers.send_snapshot(to, message, receiver).await;
    if let Ok(Err(error)) = reading.await {
        tracing::error!(%to, %error, "snapshot could not be read; nothing was harmed, it will be tried again");
    }
    match sent {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%to, %error, "snapshot was not delivered; it will be tried again");
            false
        }
    }
}

/// Writes an incoming snapshot aside and hands it to the machine. The slot goes with it: a store keeps one snapshot aside,
/// and no further one is taken until this one is installed or discarded.
pub(super) async fn receive(
    from: RaftId,
    incoming: IncomingSnapshot,
    staging: Arc<dyn Staging>,
    inbox: mpsc::Sender<Call>,
    slot: OwnedSemaphorePermit,
) {
    let IncomingSnapshot { header, mut chunks, done } = incoming;
    let written = tokio::task::spawn_blocking(move || -> Result<StagedId, SnapshotError> {
        let mut reader = SnapshotReader::new(staging.begin()?);
        loop {
            match chunks.blocking_recv() {
                Some(SnapshotPiece::Data(chunk)) => reader.chunk(&chunk)?,
                Some(SnapshotPiece::End) => return reader.finish().map(|(_, staged)| staged),
                // Given up by the sender: what has come so far is no snapshot.
                None => return reader.finish().and(Err(SnapshotError::Short { records: 0 })),
            }
        }
    })
    .await;
    match written {
        Ok(Ok(staged)) => {
            let _ = done.send(Ok(()));
            let _ = inbox.send(Call::Staged { from, message: header, staged, slot }).await;
        }
        Ok(Err(SnapshotError::Store(error))) => {
            let _ = done.send(Err(error.to_string()));
            let _ = inbox.send(Call::Input(Input::StoreFailed(error))).await;
        }
        Ok(Err(error)) => {
            tracing::warn!(%from, %error, "snapshot was not accepted");
            let _ = done.send(Err(error.to_string()));
        }
        Err(error) => {
            tracing::error!(%from, %error, "the thread that received a snapshot failed");
            let _ = done.send(Err(error.to_string()));
        }
    }
}
