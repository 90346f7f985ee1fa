//! Snapshots between nodes: the state's own stream over the transport's.
//!
//! Owns the two pumps. Reading and writing the disk happens on blocking threads, in bounded memory. Never decides
//! whether a snapshot is wanted: the machine does, after it is complete, verified and synced aside.

use std::sync::Arc;

use bytes::Bytes;
use quorate_core::consensus::io::Input;
use quorate_core::id::RaftId;
use quorate_core::ports::{Staging, StateRead};
use quorate_core::state::{SnapshotReader, SnapshotWriter};
use quorate_transport::{IncomingSnapshot, Peers, SnapshotPiece};
use tokio::sync::mpsc;

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

/// Writes an incoming snapshot aside and hands it to the machine.
pub(super) async fn receive(
    from: RaftId,
    incoming: IncomingSnapshot,
    staging: Arc<dyn Staging>,
    inbox: mpsc::Sender<Call>,
) {
    let IncomingSnapshot { header, mut chunks, done } = incoming;
    let written = tokio::task::spawn_blocking(move || {
        let mut reader = SnapshotReader::new(staging.begin().map_err(|error| error.to_string())?);
        loop {
            match chunks.blocking_recv() {
                Some(SnapshotPiece::Data(chunk)) => reader.chunk(&chunk).map_err(|error| error.to_string())?,
                Some(SnapshotPiece::End) => return reader.finish().map_err(|error| error.to_string()),
                None => return Err("the stream ended in the middle".to_owned()),
            }
        }
    })
    .await
    .unwrap_or_else(|error| Err(error.to_string()));
    match written {
        Ok((_, staged)) => {
            let _ = done.send(Ok(()));
            let _ = inbox.send(Call::Input(Input::Staged { from, message: header, staged })).await;
        }
        Err(why) => {
            tracing::warn!(%from, why, "snapshot was not accepted");
            let _ = done.send(Err(why));
        }
    }
}
