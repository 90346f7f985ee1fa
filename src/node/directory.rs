//! What can be told to be wrong before anything is made or run.
//!
//! Owns the judgement of settings (a name, addresses) and of a directory (can this user use it, and does it hold the
//! node that was asked for). Changes nothing. Called by the builder before it touches a directory.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::Path;

use quorate_core::limits::NAME_BYTES_MAX;
use quorate_core::ports::{OpenStore, StoreError};
use quorate_transport::{Identity, JoinToken};

use super::builder::NodeBuilder;
use super::facts::{Facts, Layout};
use super::stop::StartError;
use crate::config;

impl NodeBuilder {
    /// Settings that make no sense are refused before anything is made.
    pub(super) fn validate(&self) -> Result<(), StartError> {
        if self.name.len() > NAME_BYTES_MAX || self.name.chars().any(char::is_control) {
            return Err(StartError::Invalid(format!(
                "the name must have at most {NAME_BYTES_MAX} bytes and no control characters. Nothing was changed"
            )));
        }
        if self.listen.is_some() {
            self.addresses()?;
        }
        for address in self.advertise.iter().chain(&self.hints) {
            check_address(address)?;
        }
        Ok(())
    }

    /// Where to listen and where to be reached, from the settings; a free port is drawn now.
    pub(super) fn addresses(&self) -> Result<(String, String), StartError> {
        let listen = self.listen.clone().unwrap_or_else(|| format!("[::]:{}", config::PORT));
        let mut address = resolve(&listen)?;
        if address.port() == 0 {
            let probe = UdpSocket::bind(address).map_err(|error| {
                StartError::Address(format!("cannot listen on {listen}: {error}; is it an address of this machine?"))
            })?;
            address = probe.local_addr().map_err(|error| StartError::Address(error.to_string()))?;
        }
        let advertise = self.advertise.clone().unwrap_or_else(|| address.to_string());
        Ok((address.to_string(), advertise))
    }

    /// Takes over what was said explicitly; whether that changed anything.
    pub(super) fn adopt(&self, facts: &mut Facts) -> Result<bool, StartError> {
        let before = facts.clone();
        if !self.name.is_empty() {
            facts.name.clone_from(&self.name);
        }
        let free = |listen: &String| resolve(listen).is_ok_and(|address| address.port() == 0);
        if self.listen.as_ref().is_some_and(|listen| !free(listen)) {
            (facts.listen, facts.advertise) = self.addresses()?;
        } else if self.advertise.is_some() {
            facts.advertise = self.addresses()?.1;
        }
        Ok(*facts != before)
    }

    /// A directory that was prepared to the end keeps what it was prepared with: settings that say otherwise are refused
    /// rather than ignored.
    pub(super) fn contradicts(&self, facts: &Facts) -> Result<(), StartError> {
        let refuse = |what: &str, asked: &str, has: &str| {
            Err(StartError::Contradiction(format!(
                "{} holds a node whose {what} is {has}, and {asked} was asked for: that is fixed when a directory is prepared. Nothing was changed; leave the option out, or prepare another directory",
                self.directory.display()
            )))
        };
        if !self.name.is_empty() && self.name != facts.name {
            let has = if facts.name.is_empty() { "its node id" } else { &facts.name };
            return refuse("name", &self.name, has);
        }
        if let Some(listen) = &self.listen
            && !may_be_same(listen, &facts.listen)
        {
            return refuse("listen address", listen, &facts.listen);
        }
        match &self.advertise {
            Some(advertise) if !may_be_same(advertise, &facts.advertise) => {
                refuse("advertised address", advertise, &facts.advertise)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A token of another cluster than the one that the directory's node is in.
    pub(super) fn contradicts_token(&self, token: &JoinToken) -> Result<(), StartError> {
        // An identity that cannot be read is told when the node starts.
        let Ok(identity) = Identity::load(&Layout::new(&self.directory).identity()) else { return Ok(()) };
        if identity.ca_hash() == *token.ca_hash() {
            return Ok(());
        }
        Err(StartError::Contradiction(format!(
            "{} holds a node of cluster {}, and the token is of another one. Nothing was changed; run it without a token (`quorate run`), or choose another directory for the other cluster",
            self.directory.display(),
            identity.subject().cluster
        )))
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
#[expect(clippy::wildcard_enum_match_arm, reason = "io's kinds are open-ended")]
pub(super) fn check_access(directory: &Path) -> Result<(), StartError> {
    let Err(error) = std::fs::read_dir(directory) else { return Ok(()) };
    let shown = directory.display();
    let refused = match error.kind() {
        std::io::ErrorKind::NotFound => return Ok(()),
        std::io::ErrorKind::PermissionDenied => format!(
            "{shown} cannot be read by this user ({error}); use the node's own user, or root. Nothing was changed"
        ),
        std::io::ErrorKind::NotADirectory => {
            format!(
                "{shown} is not a directory, or its path leads through a file. Nothing was changed; give another --data-dir"
            )
        }
        _ => format!("{shown} cannot be used: {error}. Nothing was changed"),
    };
    Err(StartError::Directory(refused))
}

/// Opens the store of a directory, or makes it.
pub(super) fn open_store(layout: &Layout) -> Result<OpenStore, StartError> {
    let known = quorate_storage::exists(&layout.store());
    quorate_storage::open(&layout.store(), quorate_storage::Options::default()).map_err(|error| {
        if !known && matches!(error, StoreError::Io { .. }) {
            // Nothing was there that could have failed: it is the place that does not serve.
            let shown = layout.root().display();
            let place = "Choose a --data-dir that this user can make and write to";
            return StartError::Directory(format!("{shown} cannot be prepared: {error}. {place}"));
        }
        explained(layout, error)
    })
}

/// What is wrong with the store of a directory, with the directory's name.
pub(super) fn explained(layout: &Layout, error: StoreError) -> StartError {
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
        error @ (StoreError::Corrupt { .. } | StoreError::NotFound { .. } | StoreError::FormatTooNew { .. }) => {
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
