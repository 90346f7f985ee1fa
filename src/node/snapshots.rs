//! Snapshots between nodes: the state's own stream over the transport's.
//!
//! Owns the two pumps. Reading and writing the disk happens on blocking threads, in bounded memory. Never decides
//! whether a snapshot is wanted: the machine does, after it is complete, verified and synced aside.

use std::sync::Arc;

use bytes::Bytes;
use quorate_core::consensus::io::Input;
use quorate_core::id::RaftId;
use quorate_core::ports::{StagedId, Staging, StateRead, StoreError, StoreResult};
use quorate_core::state::contract::StateStatus;
use quorate_core::state::{SnapshotError, SnapshotReader, SnapshotWriter};
use quorate_transport::{IncomingSnapshot, Peers, SnapshotPiece};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::tasks::Call;

/// Chunks between the disk and the network.
const IN_FLIGHT: usize = 4;

/// Why a view was not read to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    /// The store failed, which is final.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Anything else: another attempt may go well.
    #[error("{0}")]
    Other(String),
}

/// Streams a view to a peer; true once the receiver has it on disk.
///
/// # Errors
/// The store's own: a manager whose state cannot be read must not go on leading with it.
pub(super) async fn send(peers: &Peers, to: RaftId, message: Bytes, view: Arc<dyn StateRead>) -> StoreResult<bool> {
    let (pieces, receiver) = mpsc::channel(IN_FLIGHT);
    let (sent, read) = tokio::join!(peers.send_snapshot(to, message, receiver), read_into(pieces, view));
    match read {
        Ok(()) => {}
        Err(Unread::Store(error)) => return Err(error),
        Err(Unread::Other(error)) => {
            tracing::error!(%to, %error, "snapshot could not be read; nothing was harmed, it will be tried again");
        }
    }
    if let Err(error) = &sent {
        tracing::warn!(%to, %error, "snapshot was not delivered; it will be tried again");
    }
    Ok(sent.is_ok())
}

/// A view, chunk by chunk. No thread is held while the network takes its time.
pub(super) struct Chunks(Option<SnapshotWriter>);

impl Chunks {
    /// Of this view, which is held until they end.
    pub(super) async fn of(view: Arc<dyn StateRead>) -> Result<Self, Unread> {
        let opened = blocking(move || SnapshotWriter::new(view)).await.map_err(Unread::Other)?;
        Ok(Self(Some(opened?)))
    }

    /// What they are of.
    pub(super) fn status(&self) -> Option<&StateStatus> {
        self.0.as_ref().map(SnapshotWriter::status)
    }

    /// The next one; `None` after the last. Not cancel safe: dropped half-way, they are over.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Unread> {
        let Some(mut writer) = self.0.take() else { return Ok(None) };
        let (read, writer) = blocking(move || (writer.next_chunk(), writer)).await.map_err(Unread::Other)?;
        self.0 = Some(writer);
        Ok(read?)
    }
}

async fn read_into(pieces: mpsc::Sender<SnapshotPiece>, view: Arc<dyn StateRead>) -> Result<(), Unread> {
    let mut chunks = Chunks::of(view).await?;
    loop {
        let piece = match chunks.next().await? {
            Some(chunk) => SnapshotPiece::Data(chunk),
            None => SnapshotPiece::End,
        };
        let last = matches!(piece, SnapshotPiece::End);
        if pieces.send(piece).await.is_err() || last {
            return Ok(());
        }
    }
}

/// Writes the chunks of a snapshot aside as they come; no thread is held while the next one is awaited.
async fn write_aside(
    staging: Arc<dyn Staging>,
    mut chunks: mpsc::Receiver<SnapshotPiece>,
) -> Result<Result<StagedId, SnapshotError>, String> {
    let begun = blocking(move || staging.begin().map(SnapshotReader::new)).await?;
    let mut reader = match begun {
        Ok(reader) => reader,
        Err(error) => return Ok(Err(error.into())),
    };
    loop {
        match chunks.recv().await {
            Some(SnapshotPiece::Data(chunk)) => {
                let (taken, back) = blocking(move || (reader.chunk(&chunk), reader)).await?;
                if let Err(error) = taken {
                    return Ok(Err(error));
                }
                reader = back;
            }
            Some(SnapshotPiece::End) => return blocking(move || reader.finish().map(|(_, staged)| staged)).await,
            // Given up by the sender: what has come so far is no snapshot.
            None => return blocking(move || reader.finish().and(Err(SnapshotError::Short { records: 0 }))).await,
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
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
    let IncomingSnapshot { header, chunks, done } = incoming;
    let written = write_aside(staging, chunks).await;
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
            let _ = done.send(Err(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::ports::Visit;

    use super::*;

    /// A state with a record that is not what was written.
    struct Rotten;

    impl StateRead for Rotten {
        fn get(&self, _: &[u8]) -> StoreResult<Option<Bytes>> {
            Err(StoreError::Corrupt { record: "a key".to_owned(), detail: "a bit has turned".to_owned() })
        }

        fn scan(&self, from: &[u8], _: &[u8], _: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> StoreResult<()> {
            self.get(from).map(|_| ())
        }
    }

    #[tokio::test]
    async fn a_state_that_is_damaged_is_no_attempt_that_failed_but_the_end_of_the_store() {
        let opened = Chunks::of(Arc::new(Rotten)).await;
        assert!(matches!(opened, Err(Unread::Store(StoreError::Corrupt { .. }))));
    }
}
