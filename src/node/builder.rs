//! How a node comes to life: found, join, open.
//!
//! Owns the settings and the choice between founding, joining and opening. A directory is prepared so that a half-made one
//! is finished rather than begun anew: [`super::founding`] and [`super::newcomer`] do it. Never runs a node: the supervisor
//! does.

use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_core::limits::NAME_BYTES_MAX;

use super::stop::StartError;
use super::worker::Times;
use super::{Node, supervisor};
use crate::config;
use crate::status::NodeRole;

/// What to do with the directory; the same line serves at every boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Run what was prepared; an empty directory is an error.
    Open,
    /// Found a cluster in an empty directory; run a known one; finish a half-made one.
    #[cfg(feature = "manager")]
    OpenOrInit,
    /// Join a cluster from an empty directory; run a known one; finish a half-made one.
    OpenOrJoin {
        /// The token of a role: it says whether the node joins as a manager or as a worker.
        token: String,
        /// Managers to ask, `host:port`.
        managers: Vec<String>,
    },
}

/// A directory that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prepared {
    /// The cluster, base32.
    pub cluster_id: String,
    /// The node, base32.
    pub node_id: String,
    /// Its name; its id when it has none.
    pub name: String,
    /// Where others reach it.
    pub advertise: String,
    /// What it is to be run as.
    pub role: NodeRole,
    /// Its number in the Raft configuration; 0 for a worker.
    pub raft_id: u64,
    /// The operator's identity file; only `init` writes one.
    pub operator_identity: Option<PathBuf>,
}

/// Settings of a node.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is started"]
pub struct NodeBuilder {
    pub(super) directory: PathBuf,
    pub(super) listen: Option<String>,
    pub(super) advertise: Option<String>,
    pub(super) name: String,
    pub(super) hints: Vec<String>,
    pub(super) tick: Duration,
    pub(super) log_window: u64,
    pub(super) history: u64,
    pub(super) stable: Duration,
    pub(super) times: Times,
}

impl NodeBuilder {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            listen: None,
            advertise: None,
            name: String::new(),
            hints: Vec::new(),
            tick: config::TICK_LAN,
            log_window: config::LOG_WINDOW_ENTRIES,
            history: config::HISTORY_REVISIONS,
            stable: config::STABLE,
            times: Times::default(),
        }
    }

    /// The UDP address to listen on, `host:port`. Default `[::]:4701`; port 0 takes a free one when the directory is
    /// prepared, and keeps it.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// The address that others reach this node at, `host:port`. Default: where it listens.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// A name for people, unique in the cluster. Default: the node id.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// A further address at which to look for managers.
    pub fn manager(mut self, address: impl Into<String>) -> Self {
        self.hints.push(address.into());
        self
    }

    /// The length of a tick. Default 20 ms (`lan`); the same on every manager. Longer ticks bear slower networks and
    /// make failover slower in proportion.
    pub const fn tick(mut self, tick: Duration) -> Self {
        self.tick = tick;
        self
    }

    /// Log entries kept for members that lag. Default 10,000. More costs disk and memory; less means snapshots more
    /// often.
    pub const fn log_window(mut self, entries: u64) -> Self {
        self.log_window = entries;
        self
    }

    /// Old revisions kept for reads of the past, at least. Default 100,000; the same on every manager. More costs disk.
    pub const fn history(mut self, revisions: u64) -> Self {
        self.history = revisions;
        self
    }

    /// How long a standby must be connected and caught up before it gets a seat. Default 2 s.
    pub const fn stable(mut self, stable: Duration) -> Self {
        self.stable = stable;
        self
    }

    /// Prepares and runs the node. It answers once a manager's endpoint listens, or a worker has begun to look for managers;
    /// [`Node::ready`] waits for a leader, or a session.
    ///
    /// Not cancel safe: dropped half-way, the directory can be started again with the same call.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(self, start: Start) -> Result<Node, StartError> {
        match start {
            Start::Open => {}
            #[cfg(feature = "manager")]
            Start::OpenOrInit => {
                self.clone().prepare_init().await?;
            }
            Start::OpenOrJoin { token, managers } => {
                self.clone().prepare_join(token, managers).await?;
            }
        }
        supervisor::start(self).await
    }

    /// Founds a cluster in the directory and returns; a directory that holds a founded node is refused.
    ///
    /// # Errors
    /// `Directory` when a node is there already.
    #[cfg(feature = "manager")]
    pub async fn init(self) -> Result<Prepared, StartError> {
        self.refuse_ready().await?;
        self.prepare_init().await
    }

    /// Joins a cluster with the token of a role and returns; a directory that holds a node is refused.
    ///
    /// # Errors
    /// `Refused` with the manager's reason; `Unavailable` when none could be reached; `Directory` when a node is there.
    pub async fn join(self, token: &str, managers: Vec<String>) -> Result<Prepared, StartError> {
        self.refuse_ready().await?;
        self.prepare_join(token.to_owned(), managers).await
    }

    pub(super) fn check_name(&self) -> Result<(), StartError> {
        if self.name.len() > NAME_BYTES_MAX || self.name.chars().any(char::is_control) {
            return Err(StartError::Invalid(format!(
                "the name must have at most {NAME_BYTES_MAX} bytes and no control characters"
            )));
        }
        Ok(())
    }

    /// Takes over what was said explicitly.
    pub(super) fn adopt(
        &self,
        name: &mut String,
        listen: &mut String,
        advertise: &mut String,
    ) -> Result<(), StartError> {
        if !self.name.is_empty() {
            name.clone_from(&self.name);
        }
        let free = |listen: &String| resolve(listen).is_ok_and(|address| address.port() == 0);
        if self.listen.as_ref().is_some_and(|listen| !free(listen)) {
            (*listen, *advertise) = self.addresses()?;
        } else if self.advertise.is_some() {
            *advertise = self.addresses()?.1;
        }
        Ok(())
    }

    /// Takes over an address that is not the one this node had: it has moved. Said with every start, the same address
    /// changes nothing, and neither does "any free port", which was taken when the directory was prepared.
    pub(super) fn moved(&self, listen: &mut String, advertise: &mut String) -> Result<bool, StartError> {
        let before = (listen.clone(), advertise.clone());
        if let Some(given) = &self.listen {
            let now = resolve(given)?;
            if now.port() != 0 && resolve(listen).ok() != Some(now) {
                *listen = now.to_string();
                if self.advertise.is_none() {
                    // Listening everywhere says nothing about where that is: the host stays, the port is the new one.
                    *advertise = match advertise.rsplit_once(':') {
                        Some((host, _)) if now.ip().is_unspecified() => format!("{host}:{}", now.port()),
                        Some(_) | None => listen.clone(),
                    };
                }
            }
        }
        if self.advertise.is_some() {
            *advertise = self.addresses()?.1;
        }
        Ok(before != (listen.clone(), advertise.clone()))
    }

    pub(super) fn addresses(&self) -> Result<(String, String), StartError> {
        let listen = self.listen.clone().unwrap_or_else(|| format!("[::]:{}", config::PORT));
        let mut address = resolve(&listen)?;
        if address.port() == 0 {
            let probe = UdpSocket::bind(address)
                .map_err(|error| StartError::Address(format!("cannot listen on {listen}: {error}")))?;
            address = probe.local_addr().map_err(|error| StartError::Address(error.to_string()))?;
        }
        let advertise = match &self.advertise {
            Some(advertise) if advertise.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) => {
                return Err(StartError::Invalid(format!("`{advertise}` is no host:port")));
            }
            Some(advertise) => advertise.clone(),
            None => address.to_string(),
        };
        Ok((address.to_string(), advertise))
    }
}

pub(super) fn random<T>(wrap: impl FnOnce([u8; 16]) -> T) -> Result<T, StartError> {
    config::random_id(wrap).map_err(|error| StartError::Internal(error.to_string()))
}

pub(super) fn resolve(address: &str) -> Result<SocketAddr, StartError> {
    address.to_socket_addrs().ok().and_then(|mut addresses| addresses.next()).ok_or_else(|| {
        StartError::Invalid(format!("`{address}` is no address to listen on; write host:port, for example [::]:4701"))
    })
}

/// Disk and name resolution stay off the caller's runtime.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(StartError::Internal(format!("a helper thread failed: {error}"))))
}
