//! The newcomer's side of joining, as manager or worker: the token says which, and the newcomer learns it with the answer.
//!
//! Owns the preparation of the directory, resumable at every step: ids and key are drawn and synced before anybody sees
//! them, so that a join that was cut off is asked again as the same node. One that was surely refused leaves nothing of
//! its own behind. Never runs a node.

use std::path::PathBuf;

use bytes::Bytes;
use quorate_core::id::{NodeId, StoreId};
use quorate_core::membership::upgrade::Support;
use quorate_transport::{JoinError, JoinRefused, JoinRequest, JoinToken, Joined, KeyPair};
use zeroize::Zeroizing;

use super::builder::{NodeBuilder, Prepared, off_thread, random, random_seed};
use super::departed::departed;
use super::dialback::ListenWhileJoining;
use super::directory::{check_address, resolve};
use super::facts::{Facts, KnownManager, Layout, Stage, wiped};
use super::files;
use super::state_file::{Settled, StateFile, settle};
use super::stop::StartError;
use crate::client::SOFTWARE;
use crate::status::NodeRole;

/// The cluster versions that this program supports as a manager; none: it cannot be one.
pub(super) const SUPPORT: Support =
    if cfg!(feature = "manager") { Support::THIS } else { Support { oldest: 0, newest: 0 } };

/// How far a directory is.
enum Begun {
    /// It holds a node.
    Known(Prepared),
    /// To be asked for.
    Join(Box<StateFile>, Made),
}

/// What a join has made before it asked anybody.
#[derive(Default)]
struct Made {
    file: bool,
    /// Outermost first.
    directories: Vec<PathBuf>,
}

impl Made {
    /// Nobody has heard of the node: nothing of it is left. What somebody else put there meanwhile stays.
    fn undo(&self, layout: &Layout) -> Result<(), StartError> {
        if self.file {
            StateFile::remove(layout)?;
        }
        for directory in self.directories.iter().rev() {
            if std::fs::remove_dir(directory).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// As whom a node asks to join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum As {
    /// A newcomer; or one that comes back, by its own key.
    Itself,
    /// The worker whose name it has, and whose disk is gone.
    InPlace,
    /// The manager that it was, whose own key is lost.
    #[cfg(feature = "manager")]
    WithoutItsKey,
}

/// A join that came to nothing.
pub(super) enum NotTaken {
    /// The cluster has not heard of the node, or has refused it.
    Surely(StartError),
    /// The cluster may have taken it: the same join again is safe, and needs what was kept.
    Perhaps(StartError),
}

impl From<NotTaken> for StartError {
    fn from(not_taken: NotTaken) -> Self {
        match not_taken {
            NotTaken::Surely(error) | NotTaken::Perhaps(error) => error,
        }
    }
}

pub(super) fn prepared_of(file: &StateFile) -> Prepared {
    Prepared {
        cluster_id: file.facts.cluster().to_string(),
        node_id: file.facts.node().to_string(),
        name: file.facts.display_name(),
        advertise: file.facts.advertise.clone(),
        role: if file.facts.raft_id == 0 { NodeRole::Worker } else { NodeRole::Manager },
        raft_id: file.facts.raft_id,
        operator_identity: None,
        certificate_only: false,
    }
}

impl NodeBuilder {
    pub(super) async fn refuse_ready(&self) -> Result<(), StartError> {
        let builder = self.clone();
        let known = off_thread(move || builder.known(&builder.layout())).await?;
        let Some(known) = known else { return Ok(()) };
        let directory = self.directory.display();
        let next = match departed(&self.directory) {
            Some(mark) => mark.message(&self.directory),
            None => format!("run it with `quorate run --data-dir {directory}`, or choose another directory"),
        };
        Err(StartError::Directory(format!(
            "{directory} already holds a node of cluster {}. Nothing was changed; {next}",
            known.cluster_id
        )))
    }

    /// The node that the directory holds, if it was prepared to the end.
    fn known(&self, layout: &Layout) -> Result<Option<Prepared>, StartError> {
        if let Some(file) = StateFile::load(layout)? {
            return Ok(file.facts.is_ready().then(|| prepared_of(&file)));
        }
        self.known_store(layout)
    }

    #[cfg(feature = "manager")]
    fn known_store(&self, layout: &Layout) -> Result<Option<Prepared>, StartError> {
        use super::directory::open_store;
        use super::founding::prepared;

        if !layout.holds_store() {
            return Ok(None);
        }
        let store = open_store(layout)?;
        match Facts::load(&*store.meta)? {
            Some(facts) if facts.is_ready() => Ok(Some(prepared(&facts, None))),
            _ if store.boot.start.index.0 != 0 => Err(StartError::Directory(format!(
                "{} was prepared half to found a cluster. Nothing was changed; run the same init again, or choose another directory",
                self.directory.display()
            ))),
            _ => Ok(None),
        }
    }

    #[cfg(not(feature = "manager"))]
    fn known_store(&self, layout: &Layout) -> Result<Option<Prepared>, StartError> {
        if !layout.store().exists() {
            return Ok(None);
        }
        Err(super::state_file::not_a_manager(layout))
    }

    /// Prepares an empty directory for the worker of this builder's name, whose own disk is gone for good, and returns: the
    /// node keeps its id, its labels, its assignments and what was reported of them, and gets a key of its own. Who comes
    /// back with the old disk is refused from then on. `token` is a worker's.
    ///
    /// Not cancel safe: dropped half-way, the same call goes on where it stopped.
    ///
    /// # Errors
    /// `Refused` while the old one runs, or when there is no worker of that name; else as for [`join`](Self::join).
    pub async fn join_in_place(self, token: &str, managers: Vec<String>) -> Result<Prepared, StartError> {
        self.check().await?;
        if self.name.is_empty() {
            return Err(StartError::Invalid(
                "name the worker whose place this node takes (--name NAME). Nothing was changed".into(),
            ));
        }
        self.refuse_ready().await?;
        self.prepare(token, managers, As::InPlace).await
    }

    pub(super) async fn prepare_join(self, token: String, managers: Vec<String>) -> Result<Prepared, StartError> {
        self.prepare(&token, managers, As::Itself).await
    }

    async fn prepare(self, token: &str, managers: Vec<String>, asks_as: As) -> Result<Prepared, StartError> {
        let token: JoinToken =
            token.trim().parse().map_err(|error| StartError::Invalid(format!("{error}. Nothing was changed")))?;
        if managers.is_empty() {
            return Err(StartError::Invalid("name at least one manager to join through, as host:port".into()));
        }
        for manager in &managers {
            check_address(manager)?;
        }
        let builder = self.clone();
        let (file, made) = match off_thread(move || builder.begin_join(&builder.layout())).await? {
            Begun::Known(prepared) => {
                self.contradicts_token(&token)?;
                return Ok(prepared);
            }
            Begun::Join(file, made) => (file, made),
        };
        let joined = match self.ask_to_join(&file, &token, &managers, asks_as).await {
            Ok(joined) => joined,
            Err(NotTaken::Surely(error)) => {
                off_thread(move || made.undo(&self.layout())).await?;
                return Err(error);
            }
            Err(NotTaken::Perhaps(error)) => return Err(error),
        };
        off_thread(move || finish_join(&self.layout(), *file, joined)).await
    }

    fn begin_join(&self, layout: &Layout) -> Result<Begun, StartError> {
        if let Some(known) = self.known(layout)? {
            return Ok(Begun::Known(known));
        }
        // The cluster knows this node: as a newcomer it would be there twice, and nobody could be it any more.
        #[cfg(feature = "manager")]
        if layout.identity().exists() && !layout.has_store() && StateFile::load(layout)?.is_none() {
            return Err(self.store_is_gone());
        }
        let mut made = Made::default();
        let file = if let Some(mut file) = StateFile::load(layout)? {
            // Until somebody else knows the node, what is asked for now counts: a taken name or a bad address is mended by
            // the next attempt.
            self.adopt(&mut file.facts.name, &mut file.facts.listen, &mut file.facts.advertise)?;
            file
        } else {
            made.file = true;
            let (listen, advertise) = self.addresses()?;
            let key = KeyPair::generate().map_err(|error| StartError::Internal(error.to_string()))?;
            let (store_id, sealing) = if SUPPORT.newest == 0 {
                (Bytes::new(), Bytes::new())
            } else {
                (Bytes::copy_from_slice(random(StoreId::from_bytes)?.as_bytes()), random_seed()?)
            };
            let facts = Facts {
                stage: Stage::Begun.into(),
                node_id: Bytes::copy_from_slice(random(NodeId::from_bytes)?.as_bytes()),
                store_id,
                name: self.name.clone(),
                listen,
                advertise,
                seed: random_seed()?,
                sealing,
                ..Facts::default()
            };
            StateFile { facts, joining_key: wiped(Zeroizing::new(key.pkcs8_der().to_vec())), ..StateFile::default() }
        };
        made.directories = files::make_directory(layout.root())
            .map_err(|error| StartError::Disk(format!("{}: {error}", layout.root().display())))?;
        // Kept before it is shown to anybody.
        file.save(layout)?;
        Ok(Begun::Join(Box::new(file), made))
    }
}

impl NodeBuilder {
    /// Asks to be taken in, and listens meanwhile where the node will listen as a manager: the managers dial back.
    pub(super) async fn ask_to_join(
        &self,
        file: &StateFile,
        token: &JoinToken,
        managers: &[String],
        asks_as: As,
    ) -> Result<Joined, NotTaken> {
        let csr = file.joining_key().and_then(|key| key.csr().map_err(|error| StartError::Internal(error.to_string())));
        let csr = csr.map_err(NotTaken::Surely)?;
        let mut request = JoinRequest::new(token, csr, file.facts.node(), self.certificates.clock);
        request.name.clone_from(&file.facts.name);
        request.advertise.clone_from(&file.facts.advertise);
        request.store_id = file.store();
        request.sealing_key = file.facts.sealing_key();
        request.support = SUPPORT;
        request.software = SOFTWARE.to_owned();
        request.in_place = asks_as == As::InPlace;
        #[cfg(feature = "manager")]
        {
            request.key_lost = asks_as == As::WithoutItsKey;
        }
        if SUPPORT.newest == 0 {
            return self.ask(request, token, managers, None).await;
        }
        let ears =
            async { ListenWhileJoining::begin(&self.ground, resolve(&file.facts.listen)?, file.joining_key()?).await };
        let listening = ears.await.map_err(NotTaken::Surely)?;
        let joined = self.ask(request, token, managers, listening.failed()).await;
        // The port is free again before anybody runs the node on it.
        listening.end().await;
        joined
    }

    async fn ask(
        &self,
        request: JoinRequest,
        token: &JoinToken,
        managers: &[String],
        deaf: Option<&str>,
    ) -> Result<Joined, NotTaken> {
        let (clock, network) = (self.certificates.clock, &self.ground.network);
        let asked = quorate_transport::join(managers, token, request, self.patience, clock, network).await;
        asked.map_err(|error| explained(error, deaf))
    }
}

/// Why a node was not taken in; `deaf` is why nobody could dial it back.
fn explained(error: JoinError, deaf: Option<&str>) -> NotTaken {
    NotTaken::Surely(match error {
        JoinError::Refused(refused @ (JoinRefused::NoLeader | JoinRefused::RateLimited | JoinRefused::Locked)) => {
            StartError::Unavailable(refused.to_string())
        }
        JoinError::Refused(refused @ JoinRefused::Unreachable(_)) => match deaf {
            Some(why) => StartError::Address(format!("{why}; and so {refused}")),
            None => StartError::Refused(refused.to_string()),
        },
        JoinError::Refused(refused) => StartError::Refused(refused.to_string()),
        // Whoever was reached and is not of the token's cluster stays so, however often it is asked.
        JoinError::Connect(error) if !error.is_retryable() => StartError::Refused(error.to_string()),
        JoinError::Connect(error) => StartError::Unavailable(error.to_string()),
        JoinError::Unknown(_) => return NotTaken::Perhaps(StartError::Unknown(error.to_string())),
        JoinError::BadReply(_) => return NotTaken::Perhaps(StartError::Refused(error.to_string())),
    })
}

/// Takes over what a manager said of the node: certificate, role, the other managers. To be settled then.
pub(super) fn take_over(file: &mut StateFile, joined: Joined) {
    file.facts.stage = Stage::Ready.into();
    file.certificate = joined.certificate.into();
    file.ca = joined.ca_certificate.into();
    file.authorities = joined.authorities.into_iter().map(Bytes::from).collect();
    file.facts.cluster_id = Bytes::copy_from_slice(joined.cluster_id.as_bytes());
    // Its own, or that of the node whose place it has taken.
    file.facts.node_id = Bytes::copy_from_slice(joined.node_id.as_bytes());
    file.facts.lineage = joined.lineage.to_bytes().into();
    file.facts.raft_id = joined.raft_id.0;
    if let Ok(address) = std::str::from_utf8(&joined.extra)
        && !address.is_empty()
    {
        address.clone_into(&mut file.facts.advertise);
    }
    file.facts.managers = joined
        .managers
        .into_iter()
        .map(|manager| KnownManager {
            raft_id: manager.raft_id.0,
            node_id: Bytes::copy_from_slice(manager.node_id.as_bytes()),
            addresses: manager.addresses,
        })
        .collect();
}

pub(super) fn finish_join(layout: &Layout, mut file: StateFile, joined: Joined) -> Result<Prepared, StartError> {
    take_over(&mut file, joined);
    if file.facts.raft_id == 0 {
        // The store that was drawn was never made: a worker that is asked to be a manager draws another.
        file.facts.store_id = Bytes::new();
        file.facts.sealing = Bytes::new();
    }
    file.save(layout)?;
    let prepared = prepared_of(&file);
    match settle(layout)? {
        Settled::Store | Settled::Worker(_) => Ok(prepared),
        Settled::HalfJoined => Err(StartError::Internal("the join was not kept".into())),
    }
}
