//! What can be told to be wrong before anything is made or run.
//!
//! Owns the judgement of settings (a name, addresses) and of a directory (can this user use it, and does it hold the
//! node that was asked for). Changes nothing. Called by the builder before it touches a directory.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::Path;

use quorate_core::membership::naming::check_name;
#[cfg(feature = "manager")]
use quorate_core::ports::{OpenStore, StoreError};
use quorate_transport::{Identity, JoinToken, Subject};

use super::builder::NodeBuilder;
use super::facts::{Facts, Layout};
use super::own_identity;
use super::stop::StartError;
use crate::config;
#[cfg(feature = "manager")]
use crate::keys::Keys;

impl NodeBuilder {
    /// Settings that make no sense are refused before anything is made.
    pub(super) fn validate(&self) -> Result<(), StartError> {
        check_name(&self.name).map_err(|why| StartError::Invalid(format!("{why}. Nothing was changed")))?;
        if self.listen.is_some() {
            self.addresses()?;
        }
        for address in self.advertise.iter().chain(&self.hints) {
            check_address(address)?;
        }
        Ok(())
    }

    /// Where to listen, from the settings.
    pub(super) fn listens(&self) -> Result<SocketAddr, StartError> {
        match &self.listen {
            Some(listen) => resolve(listen),
            None => resolve(&format!("[::]:{}", config::PORT)),
        }
    }

    /// Where to listen and where to be reached, from the settings; a free port is drawn now.
    pub(super) fn addresses(&self) -> Result<(String, String), StartError> {
        let mut address = self.listens()?;
        if address.port() == 0 {
            let probe = UdpSocket::bind(address).map_err(|error| {
                StartError::Address(format!("cannot listen on {address}: {error}; is it an address of this machine?"))
            })?;
            address = probe.local_addr().map_err(|error| StartError::Address(error.to_string()))?;
        }
        let advertise = self.advertise.clone().unwrap_or_else(|| address.to_string());
        Ok((address.to_string(), advertise))
    }

    /// Takes over what was said explicitly, before anybody else knows the node.
    pub(super) fn adopt(
        &self,
        name: &mut String,
        listen: &mut String,
        advertise: &mut String,
    ) -> Result<(), StartError> {
        if !self.name.is_empty() {
            name.clone_from(&self.name);
        }
        // A free port was taken when the directory was prepared; on another host it is another one.
        let kept = resolve(listen).ok();
        let keeps = |asked: &String| {
            resolve(asked).is_ok_and(|asked| asked.port() == 0 && kept.is_some_and(|kept| kept.ip() == asked.ip()))
        };
        if self.listen.as_ref().is_some_and(|asked| !keeps(asked)) {
            (*listen, *advertise) = self.addresses()?;
        } else if self.advertise.is_some() {
            *advertise = self.addresses()?.1;
        }
        Ok(())
    }

    /// Takes over an address that is not the one this node had, when it is opened with one: it has moved. Said with every
    /// start, the same address changes nothing, and neither does "any free port", which was taken when the directory was
    /// prepared. Whether anything changed.
    pub(super) fn moved(&self, listen: &mut String, advertise: &mut String) -> Result<bool, StartError> {
        if !self.moves {
            return Ok(false);
        }
        let before = (listen.clone(), advertise.clone());
        if let Some(given) = &self.listen {
            let now = resolve(given)?;
            if now.port() != 0 && resolve(listen).ok() != Some(now) {
                *listen = now.to_string();
                // Listening everywhere says nothing about where that is: the host stays, the port is the new one.
                *advertise = match advertise.rsplit_once(':') {
                    Some((host, _)) if now.ip().is_unspecified() => format!("{host}:{}", now.port()),
                    Some(_) | None => listen.clone(),
                };
            }
        }
        if let Some(given) = &self.advertise {
            advertise.clone_from(given);
        }
        Ok(before != (listen.clone(), advertise.clone()))
    }

    /// A directory that was prepared to the end keeps what it was prepared with: settings that say otherwise are refused
    /// rather than ignored. Only a node that is opened with another address than before has moved.
    pub(super) fn contradicts(&self, name: &str, listen: &str, advertise: &str) -> Result<(), StartError> {
        let refuse = |what: &str, asked: &str, has: &str| {
            Err(StartError::Contradiction(format!(
                "{} holds a node whose {what} is {has}, and {asked} was asked for: that is fixed when a directory is prepared. Nothing was changed; leave the option out, or prepare another directory",
                self.directory.display()
            )))
        };
        if !self.name.is_empty() && self.name != name {
            return refuse("name", &self.name, if name.is_empty() { "its node id" } else { name });
        }
        if self.moves {
            return Ok(());
        }
        if let Some(asked) = &self.listen
            && !may_be_same(asked, listen)
        {
            return refuse("listen address", asked, listen);
        }
        match &self.advertise {
            Some(asked) if !may_be_same(asked, advertise) => refuse("advertised address", asked, advertise),
            Some(_) | None => Ok(()),
        }
    }

    /// A token of another cluster than the one that the directory's node is in, as far as the node knows its cluster's CAs.
    pub(super) fn contradicts_token(&self, token: &JoinToken) -> Result<(), StartError> {
        // An identity that cannot be read is told when the node starts.
        let Ok(shown) = own_identity::shown(&self.layout()) else { return Ok(()) };
        if shown.knows(token.ca_hash()) {
            return Ok(());
        }
        Err(self.contradiction(shown.subject(), "; or, if its cluster's CA was replaced while it was away, bring it back with `quorate join --replace --token TOKEN`"))
    }

    pub(super) fn contradiction(&self, own: &Subject, besides: &str) -> StartError {
        StartError::Contradiction(format!(
            "{} holds a node of cluster {}, and the token is of another one. Nothing was changed; run it without a token (`quorate run`), or choose another directory for the other cluster{besides}",
            self.directory.display(),
            own.cluster
        ))
    }
}

/// Whether an address that was asked for can be the one that is kept. A port 0 is any port, an unspecified host any host;
/// a host name is looked up, and one that cannot be is taken at its word.
fn may_be_same(asked: &str, kept: &str) -> bool {
    if asked == kept {
        return true;
    }
    let (Ok(asked), Ok(kept)) = (asked.to_socket_addrs(), kept.to_socket_addrs()) else { return false };
    let kept: Vec<SocketAddr> = kept.collect();
    let same_host = |asked: IpAddr, kept: IpAddr| asked.is_unspecified() || asked.to_canonical() == kept.to_canonical();
    asked.into_iter().any(|asked| {
        let same_port = |kept: &SocketAddr| asked.port() == 0 || asked.port() == kept.port();
        kept.iter().any(|kept| same_port(kept) && same_host(asked.ip(), kept.ip()))
    })
}

/// `host:port` in a setting.
pub(super) fn check_address(address: &str) -> Result<(), StartError> {
    config::check_address(address).map_err(|why| StartError::Invalid(format!("{why}. Nothing was changed")))
}

pub(super) fn resolve(address: &str) -> Result<SocketAddr, StartError> {
    address.to_socket_addrs().ok().and_then(|mut addresses| addresses.next()).ok_or_else(|| {
        StartError::Invalid(format!(
            "`{address}` is no address to listen on; write HOST:PORT with a host of this machine, for example [::]:4701. Nothing was changed"
        ))
    })
}

/// Whether this user can use the directory; one that is not there may be made.
pub(super) fn check_access(directory: &Path) -> Result<(), StartError> {
    let Err(error) = std::fs::read_dir(directory) else { return Ok(()) };
    let shown = directory.display();
    let kind = error.kind();
    let refused = if kind == std::io::ErrorKind::NotFound {
        return Ok(());
    } else if kind == std::io::ErrorKind::PermissionDenied {
        format!("{shown} cannot be read by this user ({error}); use the node's own user, or root. Nothing was changed")
    } else if kind == std::io::ErrorKind::NotADirectory {
        format!(
            "{shown} is not a directory, or its path leads through a file. Nothing was changed; give another --data-dir"
        )
    } else {
        format!("{shown} cannot be used: {error}. Nothing was changed")
    };
    Err(StartError::Directory(refused))
}

/// The identity file of a directory, which must be that of the node that these facts are about.
pub(super) fn identity_of(layout: &Layout, facts: &Facts) -> Result<Identity, StartError> {
    check_identity(layout, facts)?;
    own_identity::load(layout)
}

/// Refuses a directory without an identity, or with that of another node; needs no key.
pub(super) fn check_identity(layout: &Layout, facts: &Facts) -> Result<(), StartError> {
    let shown = own_identity::shown(layout).map_err(|error| {
        StartError::Directory(format!(
            "{error}. Without it the cluster does not take this node. Nothing was changed; bring the file back, readable by this user"
        ))
    })?;
    belongs(layout, shown.subject(), facts)
}

/// Refuses an identity that another node, or a node of another cluster, has: it would speak for that one with what lies here.
pub(super) fn belongs(layout: &Layout, shown: &Subject, facts: &Facts) -> Result<(), StartError> {
    if (shown.cluster, shown.node_id) == (facts.cluster(), facts.node()) {
        return Ok(());
    }
    Err(StartError::Identity(format!(
        "{} is the identity of node {} of cluster {}, and what lies beside it is of node {} of cluster {}: the file of another directory was put there. Nothing was changed, and no manager was asked. Next: bring this node's own node.id back. Where it is lost, the node comes back as another one: quorate node rm {} --force on a manager, and quorate join from an empty directory",
        layout.identity().display(),
        shown.node_id,
        shown.cluster,
        facts.node(),
        facts.cluster(),
        facts.display_name()
    )))
}

/// Opens the store of a directory, or makes it.
#[cfg(feature = "manager")]
pub(super) fn open_store(layout: &Layout) -> Result<OpenStore, StartError> {
    open_store_with(layout, options(layout)).map(|(store, _)| store)
}

/// The usual settings of a store, with what opens it.
#[cfg(feature = "manager")]
pub(super) fn options(layout: &Layout) -> quorate_storage::Options {
    quorate_storage::Options::new(std::sync::Arc::new(layout.keys()))
}

/// As [`open_store`], with the store's own settings; and the hand on its keys, where it has some.
#[cfg(feature = "manager")]
pub(super) fn open_store_with(
    layout: &Layout,
    options: quorate_storage::Options,
) -> Result<(OpenStore, Option<quorate_storage::KeyKeeper>), StartError> {
    super::restore::cut_off(layout)?;
    let known = layout.holds_store();
    layout.open_store(options).map_err(|error| {
        if known || !matches!(error, StoreError::Io { .. }) {
            return explained(layout, error);
        }
        // Nothing was there that could have failed: it is the place that does not serve.
        StartError::Directory(format!(
            "{} cannot be prepared: {error}. Choose a --data-dir that this user can make and write to",
            layout.root().display()
        ))
    })
}

/// What is to be read of a stopped node: a store, and the directory that it belongs to.
#[cfg(feature = "manager")]
pub(super) struct ToRead {
    pub(super) layout: Layout,
    pub(super) store: std::path::PathBuf,
    /// It is not the one that the node would run on: one that was moved aside, for example.
    pub(super) aside: bool,
}

/// Where the store is that `directory` stands for: a node's own, or, where `directory` is a store itself (`DIR/store.old-1`), that one.
#[cfg(feature = "manager")]
pub(super) fn to_read(directory: &Path, keys: &Keys) -> Result<ToRead, StartError> {
    check_access(directory)?;
    if quorate_storage::exists(directory) {
        // A path as `.` has no parent by its words.
        let whole = std::fs::canonicalize(directory).unwrap_or_else(|_gone| directory.to_owned());
        let layout = Layout::with_keys(whole.parent().unwrap_or(&whole), keys);
        return Ok(ToRead { layout, store: directory.to_owned(), aside: true });
    }
    let layout = Layout::with_keys(directory, keys);
    super::restore::cut_off(&layout)?;
    Ok(ToRead { store: layout.store(), layout, aside: false })
}

/// Opens the store of a stopped node without changing anything in it.
#[cfg(feature = "manager")]
pub(super) fn look_into(
    layout: &Layout,
    store: &Path,
) -> quorate_core::ports::StoreResult<quorate_storage::Inspection> {
    quorate_storage::open_read_only(store, &layout.keys())
}

/// The store of a stopped node and what it is, without changing anything; none where there is no store, or a half-made one.
///
/// # Errors
/// Those of the store.
#[cfg(feature = "manager")]
pub(super) fn stopped(
    directory: &Path,
    keys: &Keys,
) -> quorate_core::ports::StoreResult<Option<(quorate_storage::Inspection, Facts)>> {
    let layout = Layout::with_keys(directory, keys);
    if !quorate_storage::exists(&layout.store()) {
        return Ok(None);
    }
    let store = look_into(&layout, &layout.store())?;
    let facts = Facts::read(store.fact(Facts::NAME)?)?;
    Ok(facts.map(|facts| (store, facts)))
}

/// What is wrong with the store of a directory, with the directory's name.
#[cfg(feature = "manager")]
pub(crate) fn explained(layout: &Layout, error: StoreError) -> StartError {
    let shown = layout.root().display();
    match error {
        error @ (StoreError::Io { .. } | StoreError::Full { .. } | StoreError::Poisoned(_)) => {
            StartError::Disk(format!("{shown}: {error}. What is on it was not changed; check disk and space"))
        }
        StoreError::Locked { holder } => {
            let by = holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            StartError::InUse(format!(
                "{shown} is in use by another process{by}. Nothing was changed; stop the running node first, or talk to it with --data-dir"
            ))
        }
        StoreError::NeedsVersion { needed, supported } => StartError::NeedsVersion(format!(
            "{shown} needs version {needed} since the upgrade of its cluster was finished, and this quorate knows versions up to {supported}. Nothing was changed; start it with the newer quorate"
        )),
        StoreError::FormatTooNew { found, supported } => StartError::NeedsVersion(format!(
            "{shown} has a store of format {found}, and this quorate reads formats up to {supported}. Nothing was changed; start it with the newer quorate"
        )),
        error @ StoreError::KeyWanted { .. } => {
            StartError::Locked(format!("{shown}: {error}. Nothing was changed; {}", crate::keys::lost(layout.root())))
        }
        error @ (StoreError::Corrupt { .. } | StoreError::NotFound { .. } | StoreError::FormatTooOld { .. }) => {
            StartError::from(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_contradicts_only_what_it_names() {
        for (asked, kept, same) in [
            ("127.0.0.1:4701", "127.0.0.1:4701", true),
            ("127.0.0.1:0", "127.0.0.1:4701", true),
            ("[::ffff:127.0.0.1]:4701", "127.0.0.1:4701", true),
            ("[::]:4701", "127.0.0.1:4701", true),
            ("[0:0::1]:4701", "[::1]:4701", true),
            ("n1.invalid:4701", "n1.invalid:4701", true),
            ("127.0.0.1:4702", "127.0.0.1:4701", false),
            ("127.0.0.2:4701", "127.0.0.1:4701", false),
            ("127.0.0.2:0", "127.0.0.1:4701", false),
            ("n1.invalid:4701", "127.0.0.1:4701", false),
        ] {
            assert_eq!(may_be_same(asked, kept), same, "{asked} {kept}");
        }
    }
}
