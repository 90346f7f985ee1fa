//! A backup as who takes it sees it: the bytes of a sealed file.
//!
//! Owns the question, the choice of manager until one answers, and the check of what it tells while it is sealed. A backup
//! that was interrupted is begun anew by whoever wants it: a part of one is worth nothing. Called by embedders and the command line.

use std::collections::BTreeSet;
use std::future::{Future, IntoFuture};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use prost::Message as _;
use quorate_core::state::{Extract, SnapshotReader};
use quorate_storage::SealingPair;
use quorate_transport::Fed;
use quorate_transport::api::{self, backup_part::Part};
use quorate_transport::word::BackupPair;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::round::Round;
use super::{Client, Feeding, unexpected};
use crate::backup::{BackupError, BackupInfo, BackupSeal, Draft, PartWriter, Sealer};
use crate::config;
use crate::error::{Error, Result};

/// Between two attempts: at first, and at most.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A backup being put together; await it to begin.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use quorate::backup::BackupSeal;
///
/// let seal = BackupSeal::recipients(["age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq"])?;
/// // To a file, which has its name once it is whole:
/// client.backup(&seal).await?.save("/backup/monday.quorate", false).await?;
/// // Or to wherever its bytes go:
/// let mut backup = client.backup(&seal).await?;
/// while let Some(bytes) = backup.next().await? {
///     println!("{} more bytes of revision {}", bytes.len(), backup.info().revision);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is read until it is awaited"]
pub struct BackupBuilder {
    client: Client,
    seal: BackupSeal,
    serializable: bool,
}

impl BackupBuilder {
    pub(super) const fn new(client: Client, seal: BackupSeal) -> Self {
        Self { client, seal, serializable: false }
    }

    /// Take what the asked manager has, also without a quorum: [`BackupInfo::age_ms`] says how old that may be. Otherwise everything
    /// is in it that was acknowledged before it began.
    pub const fn serializable(mut self) -> Self {
        self.serializable = true;
        self
    }

    /// How long it looks for a manager, instead of the client's deadline.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.client.deadline = deadline;
        self
    }
}

impl IntoFuture for BackupBuilder {
    type Output = Result<Backup>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Backup>> + Send>>;

    /// Resolves once a manager has begun to tell. Cancel safe.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let seal = self.seal.clone();
            // A passphrase is stretched for a second.
            let sealer = tokio::task::spawn_blocking(move || Sealer::new(&seal)).await;
            let sealer = sealer.map_err(|error| Error::Internal(error.to_string()))?;
            let sealer = sealer.map_err(|error| Error::Invalid(error.to_string()))?;
            // The keyring comes sealed to a key of this backup's own, which is nowhere but in the sealed file.
            let mut seed = Zeroizing::new([0; 32]);
            getrandom::fill(seed.as_mut_slice())
                .map_err(|error| Error::Internal(format!("the system gives no entropy: {error}")))?;
            let sealing_key = Bytes::copy_from_slice(SealingPair::from_seed(&seed).public());
            let signs = BackupPair::from_seed(&seed).map_err(|error| Error::Internal(error.to_string()))?;
            let signing_key = Bytes::copy_from_slice(signs.public());
            let asked = api::Backup { serializable: self.serializable, sealing_key, signing_key };
            let (feeding, head) = begin(&self.client, &asked).await?;
            let info = BackupInfo::of(head.clone()).ok_or_else(unexpected)?;
            let mut writer = PartWriter::new(sealer).map_err(|error| unsealed(&error))?;
            let mut ready = Vec::new();
            for part in [Part::Head(head), Part::Opener(Bytes::copy_from_slice(seed.as_slice()))] {
                ready.extend_from_slice(&writer.part(part).map_err(|error| unsealed(&error))?);
            }
            let ready = Bytes::from(ready);
            let reader = SnapshotReader::new(Extract::new().stage());
            let open = Open { feeding, writer, reader, pieces: 0 };
            Ok(Backup { info, ready: Some(ready), open: Some(open), bytes: 0 })
        })
    }
}

fn unsealed(error: &std::io::Error) -> Error {
    Error::Internal(format!("the backup cannot be sealed: {error}"))
}

fn interrupted(why: impl std::fmt::Display) -> Error {
    Error::Unavailable(format!("the backup was interrupted: {why}. A part of one is worth nothing: take it anew"))
}

/// Asks managers until one tells the head, a reason is final, or the deadline has passed.
async fn begin(client: &Client, asked: &api::Backup) -> Result<(Feeding, api::BackupHead)> {
    let way = &client.shared.way;
    let until = Instant::now() + client.deadline;
    let (mut avoid, mut round, mut pause) = (BTreeSet::new(), Round::default(), PAUSE);
    let mut last = Error::Unavailable("no manager began to tell in time. Nothing was done".to_owned());
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(last);
        }
        if avoid.len() >= way.managers() {
            avoid.clear();
        }
        let patience = left.min(config::ATTEMPT * 4);
        let deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let kind = Some(api::request::Kind::Backup(asked.clone()));
        match way.feed(api::Request { deadline_ms, kind }, patience, &avoid).await {
            Ok(mut feeding) => match timeout_at(until, feeding.receiver.next()).await {
                Ok(Ok(Fed::Message(body))) => {
                    let part = api::BackupPart::decode(body).ok().and_then(|part| part.part);
                    let Some(Part::Head(head)) = part else { return Err(unexpected()) };
                    return Ok((feeding, head));
                }
                Ok(Ok(Fed::End(word))) => {
                    let error = refusal(word);
                    if !error.is_retryable() {
                        return Err(error);
                    }
                    if matches!(error, Error::QuorumLost { .. }) {
                        round.lost(feeding.by, error.clone());
                    } else {
                        round.restart();
                    }
                    avoid.insert(feeding.by);
                    last = error;
                }
                Ok(Err(down)) => {
                    avoid.insert(feeding.by);
                    last = Error::Unavailable(format!("the manager went away: {down}. Nothing was done"));
                }
                Err(_elapsed) => return Err(last),
            },
            Err(error) => {
                round.unreachable(&error.unreachable);
                avoid.extend(error.unreachable);
                last = Error::Unavailable(error.message);
            }
        }
        if let Some(lost) = round.end(way.managers()) {
            return Err(lost);
        }
        tokio::time::sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// What a manager says instead of a backup.
fn refusal(word: Bytes) -> Error {
    match api::Response::decode(word).ok().and_then(|response| response.kind) {
        Some(api::response::Kind::Error(error)) => Error::from_wire(error),
        Some(_) | None => unexpected(),
    }
}

struct Open {
    feeding: Feeding,
    writer: PartWriter,
    /// What is sealed is looked at first: what is no sound state is no backup.
    reader: SnapshotReader,
    pieces: u64,
}

/// A backup that a manager tells: the bytes of a sealed file, in order. Dropping it ends it.
///
/// The manager keeps the state as it was for as long as this lasts, and gives up where nothing is read for 30 s.
pub struct Backup {
    info: BackupInfo,
    ready: Option<Bytes>,
    open: Option<Open>,
    bytes: u64,
}

impl std::fmt::Debug for Backup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backup").field("info", &self.info).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Backup {
    /// Whose it is, and as of when.
    pub const fn info(&self) -> &BackupInfo {
        &self.info
    }

    /// Bytes of the file that [`next`](Self::next) has given.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next bytes of the file; `None` behind the last. Only with them it is a backup, and can be opened.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// `Unavailable` where the manager went away meanwhile: take it anew. Every later call answers `None`.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(ready) = self.ready.take().filter(|ready| !ready.is_empty()) {
                self.bytes += ready.len() as u64;
                return Ok(Some(ready));
            }
            let Some(open) = &mut self.open else { return Ok(None) };
            let fed = open.feeding.receiver.next().await;
            match fed.map_err(interrupted).and_then(|fed| open.take(fed)) {
                Ok(Some(sealed)) => self.ready = Some(sealed),
                Ok(None) => {
                    let Some(open) = self.open.take() else { return Ok(None) };
                    self.ready = Some(open.finish()?);
                }
                Err(error) => {
                    self.open = None;
                    return Err(error);
                }
            }
        }
    }

    /// The same as a stream; it ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send + Unpin {
        Told(Some(turn(self)))
    }

    /// Writes it to a file of this machine: under another name (`.part`) until it is whole and on disk, for its owner only. With
    /// `replace` a file of that name is replaced, else left and refused.
    ///
    /// Not cancel safe: dropped, there is no backup, and what was begun is removed.
    ///
    /// # Errors
    /// `File`; `Cluster` where the manager went away.
    pub async fn save(self, path: impl AsRef<Path>, replace: bool) -> Result<BackupInfo, BackupError> {
        self.save_telling(path, replace, |_bytes| {}).await
    }

    /// As [`save`](Self::save); `told` hears of the bytes that are written by then.
    ///
    /// Not cancel safe, as [`save`](Self::save) is not.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub async fn save_telling(
        mut self,
        path: impl AsRef<Path>,
        replace: bool,
        told: impl Fn(u64) + Send,
    ) -> Result<BackupInfo, BackupError> {
        let path = path.as_ref().to_owned();
        let mut draft = off_thread(move || Draft::begin(&path, replace)).await?;
        while let Some(bytes) = self.next().await? {
            let mut begun = draft;
            draft = off_thread(move || begun.write(&bytes).map(|()| begun)).await?;
            told(self.bytes);
        }
        off_thread(move || draft.finish()).await?;
        Ok(self.info)
    }
}

/// A backup that waits for what is next, and gives itself back with it.
type Turn = Pin<Box<dyn Future<Output = (Backup, Result<Option<Bytes>>)> + Send>>;

fn turn(mut backup: Backup) -> Turn {
    Box::pin(async move {
        let next = backup.next().await;
        (backup, next)
    })
}

struct Told(Option<Turn>);

impl Stream for Told {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(waiting) = &mut self.0 else { return Poll::Ready(None) };
        let (backup, next) = ready!(waiting.as_mut().poll(context));
        self.0 = matches!(next, Ok(Some(_))).then(|| turn(backup));
        Poll::Ready(next.transpose())
    }
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(BackupError::File(format!("a helper thread failed: {error}"))))
}

impl Open {
    /// What is sealed of it; `None` when the manager has told all.
    fn take(&mut self, fed: Fed) -> Result<Option<Bytes>> {
        match fed {
            Fed::Message(body) => {
                let part = api::BackupPart::decode(body).ok().and_then(|part| part.part);
                if let Some(part @ Part::Keyring(_)) = part {
                    return self.writer.part(part).map(Some).map_err(|error| unsealed(&error));
                }
                let Some(Part::State(piece)) = part else { return Err(unexpected()) };
                self.reader.chunk(&piece).map_err(unsound)?;
                self.pieces += 1;
                self.writer.part(Part::State(piece)).map(Some).map_err(|error| unsealed(&error))
            }
            Fed::End(word) => match api::Response::decode(word).ok().and_then(|response| response.kind) {
                Some(api::response::Kind::Backup(done)) if done.pieces == self.pieces => Ok(None),
                Some(api::response::Kind::Error(error)) => Err(interrupted(error.message)),
                Some(_) | None => Err(unexpected()),
            },
        }
    }

    fn finish(self) -> Result<Bytes> {
        self.reader.finish().map_err(unsound)?;
        self.writer.end().map_err(|error| unsealed(&error))
    }
}

fn unsound(error: quorate_core::state::SnapshotError) -> Error {
    Error::Internal(format!(
        "the state that the manager told is not sound: {error}. There is no backup; take it from another manager"
    ))
}
