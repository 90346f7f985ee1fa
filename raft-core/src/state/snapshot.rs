//! A portable stream of a whole state, and its verification.
//!
//! Owns the format of the stream. Never sends, never installs. Called by the sender of a snapshot with a frozen view,
//! and by the receiver, which writes aside what has passed the checks and may install only what
//! [`SnapshotReader::finish`] has accepted.
//!
//! # Format 1
//! A byte stream, cut into chunks of at most [`SNAPSHOT_CHUNK_BYTES`] without regard to records; numbers are big-endian.
//! - header: `quorsnap`, u32 format, u32 cluster version of the state, u32 length, [`StateStatus`] as a message of that length;
//! - records in ascending order of keys: 0x01, u32 key length, u32 value length, key, value;
//! - trailer: 0x02, u64 records, u64 bytes of keys and values, 32 bytes blake3 of everything before these.
//!
//! Everything is checked before a snapshot is accepted: order, counts, digest, that nothing follows the trailer, that
//! the records say of themselves what the header says, and that they have the state hash which the sender kept up.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use crate::command::COMMAND_VERSION;
use crate::limits::SNAPSHOT_CHUNK_BYTES;
use crate::mutants::{Mutant, on};
use crate::ports::{StagedId, StagedSnapshot, StateRead, StoreError, StoreResult, Visit};
use crate::state::contract::StateStatus;
use crate::state::hash::Lanes;
use crate::state::layout;
use crate::state::read;
use crate::state::stored::StoredStatus;

/// The format of the stream that this build writes, and the newest it reads.
pub const SNAPSHOT_VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"quorsnap";
const RECORD: u8 = 1;
const TRAILER: u8 = 2;
const PREFIX_BYTES: usize = 8 + 4 + 4 + 4;
const FRAME_BYTES: usize = 1 + 4 + 4;
const TRAILER_BYTES: usize = 1 + 8 + 8 + 32;
/// The longest header a reader takes.
const HEADER_BYTES_MAX: usize = 1024 * 1024;
/// The longest stored key a reader takes: an escaped key with its table, end and revision, with room to spare.
const KEY_BYTES_MAX: usize = 16 * 1024;
/// The longest stored value a reader takes: what an entry full of the smallest requests with the longest answers leaves in
/// the replay table, with room to spare.
const VALUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why a received stream is no snapshot. Nothing was installed; the sender may start anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// It does not begin as a snapshot does.
    #[error("the stream is not a snapshot of quorate; nothing was installed")]
    NotASnapshot,
    /// A newer quorate wrote it.
    #[error(
        "the snapshot has format {found}, this binary reads up to {supported}; install the newer quorate here. Nothing was installed"
    )]
    TooNew {
        /// The format found.
        found: u32,
        /// The newest this build reads.
        supported: u32,
    },
    /// It is of a cluster version that this build does not know.
    #[error(
        "the snapshot is of a cluster at version {needed}, this binary knows versions up to {known}; install the newer quorate here. Nothing was installed"
    )]
    NeedsVersion {
        /// The cluster's.
        needed: u32,
        /// What this build knows.
        known: u32,
    },
    /// It ended too early.
    #[error(
        "the snapshot stream ended after {records} records without its trailer; nothing was installed, send it again"
    )]
    Short {
        /// Whole records received.
        records: u64,
    },
    /// It is not what was sent, or the sender's state is damaged.
    #[error("the snapshot stream is damaged: {detail}; nothing was installed, send it again")]
    Damaged {
        /// What does not fit.
        detail: String,
    },
    /// This node's store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn damaged(detail: impl Into<String>) -> SnapshotError {
    SnapshotError::Damaged { detail: detail.into() }
}

/// Turns a frozen view into chunks, in memory of about one chunk and one record.
pub struct SnapshotWriter {
    view: Arc<dyn StateRead>,
    status: StateStatus,
    ready: BytesMut,
    hasher: blake3::Hasher,
    /// The key after the last one taken; `None` when all are.
    next: Option<Bytes>,
    records: u64,
    bytes: u64,
    done: bool,
}

impl SnapshotWriter {
    /// Begins a stream of `view`, which is held until the stream ends.
    ///
    /// # Errors
    /// Those of the store.
    pub fn new(view: Arc<dyn StateRead>) -> StoreResult<Self> {
        let status = read::status(&*view)?;
        let header = StoredStatus::new(&status).encode_to_vec();
        let mut ready = BytesMut::with_capacity(2 * SNAPSHOT_CHUNK_BYTES);
        ready.put_slice(MAGIC);
        ready.put_u32(SNAPSHOT_VERSION);
        ready.put_u32(read::cluster(&*view)?.unwrap_or_default().version);
        ready.put_u32(length(header.len(), b"header")?);
        ready.put_slice(&header);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&ready);
        Ok(Self { view, status, ready, hasher, next: Some(Bytes::new()), records: 0, bytes: 0, done: false })
    }

    /// What the snapshot is of.
    pub const fn status(&self) -> &StateStatus {
        &self.status
    }

    /// The next chunk, never empty; `None` after the last.
    ///
    /// # Errors
    /// Those of the store; the stream cannot go on.
    pub fn next_chunk(&mut self) -> StoreResult<Option<Bytes>> {
        while self.ready.len() < SNAPSHOT_CHUNK_BYTES
            && let Some(from) = self.next.take()
        {
            self.fill(&from)?;
        }
        if self.next.is_none() && !self.done {
            self.done = true;
            let start = self.ready.len();
            self.ready.put_u8(TRAILER);
            self.ready.put_u64(self.records);
            self.ready.put_u64(self.bytes);
            self.hasher.update(self.ready.get(start..).unwrap_or_default());
            self.ready.put_slice(self.hasher.finalize().as_bytes());
        }
        let take = self.ready.len().min(SNAPSHOT_CHUNK_BYTES);
        Ok((take > 0).then(|| self.ready.split_to(take).freeze()))
    }

    fn fill(&mut self, from: &[u8]) -> StoreResult<()> {
        let Self { view, ready, hasher, next, records, bytes, .. } = self;
        let mut failed = None;
        view.scan(from, &[], &mut |key, value| {
            let lengths = length(key.len(), key).and_then(|k| Ok((k, length(value.len(), key)?)));
            let (key_length, value_length) = match lengths {
                Ok(lengths) => lengths,
                Err(error) => {
                    failed = Some(error);
                    return Visit::Enough;
                }
            };
            let start = ready.len();
            ready.put_u8(RECORD);
            ready.put_u32(key_length);
            ready.put_u32(value_length);
            ready.put_slice(key);
            ready.put_slice(value);
            hasher.update(ready.get(start..).unwrap_or_default());
            *records += 1;
            *bytes += (key.len() + value.len()) as u64;
            if ready.len() < SNAPSHOT_CHUNK_BYTES {
                return Visit::More;
            }
            *next = Some(layout::successor(key));
            Visit::Enough
        })?;
        failed.map_or(Ok(()), Err)
    }
}

fn length(length: usize, key: &[u8]) -> StoreResult<u32> {
    u32::try_from(length).map_err(|error| layout::corrupt(key, format!("record of {length} bytes: {error}")))
}

/// Where a reader is in the stream.
enum Stage {
    Header,
    Records,
    Ended,
}

/// Verifies a received stream and writes its records aside.
pub struct SnapshotReader {
    staged: Box<dyn StagedSnapshot>,
    pending: BytesMut,
    stage: Stage,
    status: StateStatus,
    hasher: blake3::Hasher,
    lanes: Lanes,
    last: Bytes,
    records: u64,
    bytes: u64,
    /// The records in which the state says where it stands.
    own: Own,
    /// The newest cluster version that is understood here.
    knows: u32,
    failed: Option<SnapshotError>,
}

impl SnapshotReader {
    /// Begins to receive into `staged`. Dropping the reader forgets what was received.
    pub fn new(staged: Box<dyn StagedSnapshot>) -> Self {
        Self {
            staged,
            pending: BytesMut::new(),
            stage: Stage::Header,
            status: StateStatus::default(),
            hasher: blake3::Hasher::new(),
            lanes: Lanes::default(),
            last: Bytes::new(),
            records: 0,
            bytes: 0,
            own: Own::default(),
            knows: COMMAND_VERSION,
            failed: None,
        }
    }

    /// For a member that understands formats up to `knows` only, see [`Machine::open_knowing`](super::Machine::open_knowing).
    #[must_use]
    pub const fn knowing(mut self, knows: u32) -> Self {
        self.knows = knows;
        self
    }

    /// What the header says the snapshot is of; `None` before the header has arrived. To be believed only after
    /// [`SnapshotReader::finish`].
    pub const fn status(&self) -> Option<&StateStatus> {
        match self.stage {
            Stage::Header => None,
            Stage::Records | Stage::Ended => Some(&self.status),
        }
    }

    /// Takes the next chunk, of any size.
    ///
    /// # Errors
    /// What is wrong with the stream; every later call answers the same.
    pub fn chunk(&mut self, chunk: &[u8]) -> Result<(), SnapshotError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.pending.extend_from_slice(chunk);
        let taken = self.take();
        if let Err(error) = &taken {
            self.failed = Some(error.clone());
        }
        taken
    }

    /// Accepts the snapshot: complete, unaltered and consistent in itself. It is durable and may be installed.
    ///
    /// # Errors
    /// What is wrong with the stream; what was received is forgotten.
    pub fn finish(self) -> Result<(StateStatus, StagedId), SnapshotError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if !matches!(self.stage, Stage::Ended) {
            return Err(SnapshotError::Short { records: self.records });
        }
        if self.lanes.digest() != self.status.hash {
            return Err(damaged(
                "its records do not have the state hash of its header: the sender's state is not sound",
            ));
        }
        if read::status(&self.own)? != self.status {
            return Err(damaged("its records do not stand where its header says"));
        }
        Ok((self.status, self.staged.finish()?))
    }

    fn take(&mut self) -> Result<(), SnapshotError> {
        if matches!(self.stage, Stage::Header) && !self.take_header()? {
            return Ok(());
        }
        let mut whole = Vec::new();
        let mut taken = Ok(());
        while matches!(self.stage, Stage::Records) {
            match self.take_frame(&mut whole) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    taken = Err(error);
                    break;
                }
            }
        }
        taken?;
        if on(Mutant::SnapshotWithoutReplay) {
            whole.retain(|(key, _): &(Bytes, Bytes)| !matches!(key.first(), Some(&(layout::CLIENT | layout::REPLAY))));
        }
        if on(Mutant::SnapshotWithoutConfiguration) {
            whole.retain(|(key, _): &(Bytes, Bytes)| *key != layout::SYSTEM_CONFIGURATION);
        }
        if !whole.is_empty() {
            self.staged.write(&whole)?;
        }
        if matches!(self.stage, Stage::Ended) && !self.pending.is_empty() {
            return Err(damaged("bytes follow its trailer"));
        }
        Ok(())
    }

    fn take_header(&mut self) -> Result<bool, SnapshotError> {
        let seen = self.pending.len().min(MAGIC.len());
        if self.pending.get(..seen) != MAGIC.get(..seen) {
            return Err(SnapshotError::NotASnapshot);
        }
        let mut prefix = self.pending.get(MAGIC.len()..PREFIX_BYTES).unwrap_or_default();
        let Ok(found) = prefix.try_get_u32() else { return Ok(false) };
        if found != SNAPSHOT_VERSION {
            return Err(SnapshotError::TooNew { found, supported: SNAPSHOT_VERSION });
        }
        let (Ok(needed), Ok(length)) = (prefix.try_get_u32(), prefix.try_get_u32()) else { return Ok(false) };
        if needed > self.knows {
            return Err(SnapshotError::NeedsVersion { needed, known: self.knows });
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > HEADER_BYTES_MAX {
            return Err(damaged(format!("its header has {length} bytes")));
        }
        if self.pending.len() < PREFIX_BYTES + length {
            return Ok(false);
        }
        let mut header = self.pending.split_to(PREFIX_BYTES + length);
        self.hasher.update(&header);
        header.advance(PREFIX_BYTES);
        let status = StoredStatus::decode(header).ok().and_then(|stored| stored.status());
        self.status = status.ok_or_else(|| damaged("its header cannot be read"))?;
        self.stage = Stage::Records;
        Ok(true)
    }

    /// Takes one record or the trailer; false when more bytes are needed.
    fn take_frame(&mut self, whole: &mut Vec<(Bytes, Bytes)>) -> Result<bool, SnapshotError> {
        match self.pending.first() {
            None => return Ok(false),
            Some(&TRAILER) => return self.take_trailer(),
            Some(&RECORD) => {}
            Some(other) => return Err(damaged(format!("byte {other} where a record or the trailer begins"))),
        }
        let mut frame = self.pending.get(1..).unwrap_or_default();
        let (Ok(key), Ok(value)) = (frame.try_get_u32(), frame.try_get_u32()) else { return Ok(false) };
        let key_length = usize::try_from(key).unwrap_or(usize::MAX);
        let value_length = usize::try_from(value).unwrap_or(usize::MAX);
        if key_length == 0 || key_length > KEY_BYTES_MAX || value_length > VALUE_BYTES_MAX {
            return Err(damaged(format!("record {} has a key of {key} and a value of {value} bytes", self.records)));
        }
        let total = FRAME_BYTES + key_length + value_length;
        if self.pending.len() < total {
            return Ok(false);
        }
        let mut frame = self.pending.split_to(total).freeze();
        self.hasher.update(&frame);
        frame.advance(FRAME_BYTES);
        let key = frame.split_to(key_length);
        if key <= self.last {
            return Err(damaged(format!("record {} is not in order", self.records)));
        }
        if layout::is_hashed(&key) {
            self.lanes.add(Lanes::of(&key, &frame));
        }
        self.own.note(&key, &frame);
        self.records += 1;
        self.bytes += (key.len() + frame.len()) as u64;
        self.last = Bytes::copy_from_slice(&key);
        whole.push((key, frame));
        Ok(true)
    }

    fn take_trailer(&mut self) -> Result<bool, SnapshotError> {
        if self.pending.len() < TRAILER_BYTES {
            return Ok(false);
        }
        let mut trailer = self.pending.split_to(TRAILER_BYTES).freeze();
        self.hasher.update(trailer.get(..1 + 8 + 8).unwrap_or_default());
        trailer.advance(1);
        let counts = (trailer.try_get_u64().unwrap_or_default(), trailer.try_get_u64().unwrap_or_default());
        if counts != (self.records, self.bytes) {
            return Err(damaged(format!(
                "its trailer counts {} records of {} bytes, {} of {} arrived",
                counts.0, counts.1, self.records, self.bytes
            )));
        }
        if self.hasher.finalize().as_bytes()[..] != trailer[..] {
            return Err(damaged("its digest does not fit"));
        }
        self.stage = Stage::Ended;
        Ok(true)
    }
}

/// The few records of a stream that [`read::status`] reads.
#[derive(Default)]
struct Own(BTreeMap<&'static [u8], Bytes>);

impl Own {
    fn note(&mut self, key: &[u8], value: &Bytes) {
        let known = [layout::META_PROGRESS, layout::SYSTEM_CONFIGURATION, layout::SYSTEM_COMPACT];
        if let Some(name) = known.into_iter().find(|name| *name == key) {
            // Copied: a slice would hold the whole chunk in memory.
            self.0.insert(name, Bytes::copy_from_slice(value));
        }
    }
}

impl StateRead for Own {
    fn get(&self, key: &[u8]) -> StoreResult<Option<Bytes>> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> StoreResult<()> {
        for (key, value) in &self.0 {
            if *key >= from && (to.is_empty() || *key < to) && visit(key, value) == Visit::Enough {
                break;
            }
        }
        Ok(())
    }
}
