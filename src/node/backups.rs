//! Backups, the manager's end: the whole state at one revision, told as a feed.
//!
//! Owns when a backup is told, and how many at once. What it holds, the core's own stream says; how it is sealed, the asker,
//! who alone has the key; the keyring goes as copies that only the backup's own key opens. A view is frozen and read chunk by chunk, off the async threads, as fast as the asker takes it:
//! consensus and the applier never wait for it. The manager stands with its own key for what it tells, so that its fellows believe a restore of
//! it. Called by whoever brings a feed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::keyring::SEALING_KEY_BYTES;
use quorate_core::limits::{BACKUPS_MAX, Met};
use quorate_core::ports::StoreResult;
use quorate_core::state::read;
use quorate_transport::api::{backup_part, request, response};
use quorate_transport::{CaHash, Down, Feed, FeedSender, api, word};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::gate::Asker;
use super::router::{Failure, fail, limited};
use super::service::{Service, blocking, broken};
use super::snapshots::{Chunks, Unread};
use super::tokens::unix_now;
use super::{asked, authorize, records, trace, watching};
use crate::client::SOFTWARE;
use crate::metrics::Ended;

/// How long the last word may take.
const LAST_WORD: Duration = Duration::from_secs(1);

pub(super) const fn at_once() -> Semaphore {
    Semaphore::const_new(BACKUPS_MAX)
}

/// Why no more is told.
enum Over {
    /// The asker has gone: nobody hears a last word.
    Gone(String),
    Said(Failure),
}

impl From<Failure> for Over {
    fn from(failure: Failure) -> Self {
        Self::Said(failure)
    }
}

impl From<Down> for Over {
    fn from(down: Down) -> Self {
        Self::Gone(down.to_string())
    }
}

fn part(part: backup_part::Part) -> Vec<Bytes> {
    vec![api::BackupPart { part: Some(part) }.encode_to_vec().into()]
}

impl Service {
    /// Answers a feed, until it ends.
    pub(super) async fn feed(&self, asker: Result<Asker, Failure>, request: api::Request, feed: Feed) {
        let began = Instant::now();
        let deadline = Duration::from_millis(request.deadline_ms).min(Duration::from_secs(600));
        let kind = request.kind.as_ref().and_then(|kind| authorize::KINDS.get(authorize::row(kind)).copied());
        let who = asker.as_ref().map_or(trace::NEWCOMER, |asker| asker.who.word());
        let span = trace::request(&self.facts.name, kind.unwrap_or_default(), who);
        let answering = async {
            match request.kind {
                Some(request::Kind::Backup(wish)) => self.serve_backup(asker, wish, began + deadline, feed).await,
                Some(_) | None => watching::serve(self, asker, request, feed).await,
            }
        };
        let ended = answering.instrument(span.clone()).await;
        trace::answered(&span, ended, began.elapsed());
    }

    async fn serve_backup(
        &self,
        asker: Result<Asker, Failure>,
        wish: api::Backup,
        until: Instant,
        feed: Feed,
    ) -> Ended {
        let Feed { mut sender, asker: mut listening } = feed;
        // A part of a backup is worth nothing: whoever is to come back under another CA does so when it has all of it.
        let hold = sender.hold();
        let began = Instant::now();
        let row = authorize::row(&request::Kind::Backup(api::Backup::default()));
        let by = asker.as_ref().map_or_else(|_unknown| "nobody that is known".to_owned(), ToString::to_string);
        let mut status = self.status.clone();
        let told = tokio::select! {
            told = self.tell_backup(asker, wish, until, &mut sender) => told,
            () = listening.gone() => Err(Over::Gone("the asker wants no more".to_owned())),
            // The store is given back with everything else.
            () = async { while status.changed().await.is_ok() {} } => {
                Err(fail(api::Code::Stopping, "this manager stops, and the backup with it; take it from another one").into())
            }
        };
        let ended = match &told {
            Ok(_) => Ended::Done,
            Err(Over::Gone(_)) => Ended::Unavailable,
            Err(Over::Said(error)) => asked::ended(error.code()),
        };
        self.meters.answered(row, authorize::KINDS, began.elapsed(), ended);
        let word = match told {
            Ok(done) => {
                tracing::info!(revision = done.1, by, "a backup was told");
                response::Kind::Backup(api::BackupDone { pieces: done.0 })
            }
            Err(Over::Said(error)) => {
                tracing::info!(by, why = error.message, "a backup was not told");
                response::Kind::Error(error)
            }
            Err(Over::Gone(why)) => {
                tracing::info!(by, why, "a backup was given up by who asked for it");
                return ended;
            }
        };
        let word = api::Response { kind: Some(word) }.encode_to_vec();
        let _ = tokio::time::timeout(LAST_WORD, sender.finish(word.into())).await;
        // It is told, and not heard yet: a connection that is closed takes that with it.
        let _ = tokio::time::timeout(LAST_WORD, listening.gone()).await;
        drop(hold);
        ended
    }

    /// How many pieces were told, and of which revision.
    async fn tell_backup(
        &self,
        asker: Result<Asker, Failure>,
        wish: api::Backup,
        until: Instant,
        sender: &mut FeedSender,
    ) -> Result<(u64, u64), Over> {
        let (serializable, to, signing) = (wish.serializable, wish.sealing_key.clone(), wish.signing_key.clone());
        let kind = request::Kind::Backup(wish);
        let asker = asker?;
        authorize::check(&asker, &kind)?;
        let Ok(_turn) = self.backups.try_acquire() else {
            let why = format!(
                "this manager tells {BACKUPS_MAX} backups already, the limit `BACKUPS_MAX`. Nothing was done; ask another one, or later"
            );
            let max = BACKUPS_MAX as u64;
            let met = Met { name: "BACKUPS_MAX", bound: max, actual: max + 1 };
            return Err(limited(api::Code::Overloaded, met, why).into());
        };
        if to.len() != SEALING_KEY_BYTES {
            let why = "the backup is asked for without a key for the keyring: the client is of another version. Nothing was done";
            return Err(fail(api::Code::Invalid, why).into());
        }
        let identity = self.identity();
        let witness = word::vouch(&identity, &signing).map_err(|error| {
            fail(api::Code::Invalid, format!("this manager cannot stand for the backup: {error}. Nothing was done"))
        })?;
        if !serializable {
            self.router.read_index(until).await?;
        }
        // Before the view is taken: what comes in between only makes it younger.
        let age_ms = if serializable { self.age_ms() } else { Some(0) };
        let (reader, barrier) = (self.store()?.reader, Arc::clone(&self.barrier));
        let (view, cluster, usage, keyring, ca) = blocking(move || {
            let view = reader.view();
            let read = || -> StoreResult<_> {
                let keyring = read::keyring(&*view)?;
                let Some(copies) = barrier.copies_for(&keyring, &to)? else { return Ok(None) };
                let copies = copies.into_iter().map(|(key, sealed)| api::BackupKeyCopy { key, sealed }).collect();
                let keyring = api::BackupKeyring { active: keyring.active, copies };
                // The one whose key is in it, also while it is being replaced.
                let ca = CaHash::of(&records::ca_certificate(&*view)?.unwrap_or_default().to_vec().into());
                Ok(Some((read::cluster(&*view)?.unwrap_or_default(), read::usage(&*view)?, keyring, ca)))
            };
            let Some((cluster, usage, keyring, ca)) = read().map_err(|error| broken(&error))? else {
                let why = "nothing can be sealed to the key that the backup is asked for with. Nothing was done";
                return Err(fail(api::Code::Invalid, why));
            };
            Ok((view, cluster, usage, keyring, ca))
        })
        .await?;
        let unreadable =
            |why: Unread| fail(api::Code::Internal, format!("the state of this manager cannot be read: {why}"));
        let mut chunks = Chunks::of(view).await.map_err(unreadable)?;
        let status = chunks.status().cloned().unwrap_or_default();
        if status.applied.0 == 0 {
            let why = "this manager holds no state yet: it has just joined. Nothing was done; ask another one";
            return Err(fail(api::Code::Refused, why).into());
        }
        let head = api::BackupHead {
            cluster_id: Bytes::copy_from_slice(self.facts.cluster().as_bytes()),
            lineage: self.lineage().to_bytes().into(),
            revision: status.revision.0,
            applied: status.applied.0,
            cluster_version: cluster.version,
            taken: unix_now(),
            manager: self.facts.display_name(),
            software: SOFTWARE.to_owned(),
            about_bytes: usage.used(),
            age_ms,
            witness: Some(api::BackupWitness {
                member: Bytes::copy_from_slice(witness.member.as_bytes()),
                member_key: witness.member_key,
                voucher: witness.voucher,
            }),
            ca: Bytes::copy_from_slice(ca.as_bytes()),
        };
        sender.send(vec![part(backup_part::Part::Head(head)), part(backup_part::Part::Keyring(keyring))]).await?;
        let mut pieces = 0;
        while let Some(chunk) = chunks.next().await.map_err(unreadable)? {
            sender.send(vec![part(backup_part::Part::State(chunk))]).await?;
            pieces += 1;
        }
        Ok((pieces, status.revision.0))
    }
}
